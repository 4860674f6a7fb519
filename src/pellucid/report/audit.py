"""The evidence that an auditor asks for: what each map is worth here, whether they agree, what shakes the answer.

All of it is computed with the page, kept on record and computed again when the record is replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.errors import PellucidError
from pellucid.contract.method import from_config
from pellucid.engine import explain
from pellucid.evaluation.similarity import compare
from pellucid.report.case import Case
from pellucid.report.erase import erasure, shares_of
from pellucid.show import attribution
from pellucid.show.facts import GOOD, NEUTRAL, title_of
from pellucid.show.words import counted, number, percent

if TYPE_CHECKING:
    from pellucid.report.dossier import Dossier

SIZES, DRAWS = (0.01, 0.05, 0.1, 0.2), 50
ORDINARY, AGREEING = 0.05, 0.3
LARGEST = 1_000_000  # weights of a network that is drawn anew layer by layer to see whether maps depend on them


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that was tried, and whether it held; `None` where it could not be tried."""

    what: str
    held: bool | None
    how: str


def audit(dossier: Dossier) -> None:
    """Add to every case what an auditor asks for, under "checks"."""
    maps = {
        k: r
        for k, r in enumerate(dossier.found.results)
        if isinstance(r, Attribution) and isinstance(r.values, Tensor) and r.values.shape[0] == len(dossier.cases)
    }
    agreement, sanity = _agreement(maps), _sanity(dossier, maps)
    for place, case in enumerate(dossier.cases):
        told: dict[str, Any] = {
            "agreement": [[a, b, float(c[place])] for (a, b), c in agreement.items()],
            "sanity": {str(k): [float(v[place]) for v in pair] for k, pair in sanity.items()},
        }
        rows, index = dossier.question.inputs, case.answer.index
        if isinstance(rows, Tensor) and rows.is_floating_point() and index is not None:
            row = rows[place : place + 1]
            told["erasing"] = {
                str(k): _erasing(dossier, row, r.values[place : place + 1], index) for k, r in maps.items()
            }
            told["noise"] = noise(dossier, row, index)
        told["checks"] = [vars(c) for c in checks(case, told, maps, place)]
        case.more["checks"] = told


def _agreement(maps: Mapping[int, Attribution]) -> dict[tuple[int, int], Tensor]:
    """Spearman's rank correlation of every two maps of the same places, row by row."""
    found = {}
    for (a, one), (b, other) in combinations(maps.items(), 2):
        same = one.values.dim() == other.values.dim() and one.values.shape[-2:] == other.values.shape[-2:]
        if same and one.values[0].numel() > 2:
            found[a, b] = compare(one.values, other.values)["rank_signed"]
    return found


def _sanity(dossier: Dossier, maps: Mapping[int, Attribution]) -> dict[int, tuple[Tensor, Tensor]]:
    """How alike each map stays while the network's weights are drawn anew, and whether that is too much."""
    module, put = dossier.subject.module, dossier.question
    if module is None or sum(p.numel() for p in module.parameters()) > LARGEST:
        return {}
    found = {}
    for k, made in maps.items():
        try:
            of = from_config({"method": made.source["method"], **made.source["settings"]})
        except (PellucidError, TypeError):
            continue  # a method of the caller's own whose settings are no plain data
        test = from_config({"method": "model-randomization-test", "of": of})
        try:
            learns = {"data", "labels"} & set(of.card.needs)
            result = explain(
                dossier.subject,
                put.inputs,
                test,
                target=put.target,
                layer=made.source["layer"],
                data={"explanation": put.data} if learns else None,
                seed=put.seed,
            )
        except PellucidError:
            continue  # it can't be tried on this method or model, and the page says so
        found[k] = (result.values.detach().cpu().double(), result.facts["fails"].double())
    return found


def _erasing(dossier: Dossier, row: Tensor, values: Tensor, index: int) -> dict[str, Any] | None:
    """After how many parts, erased in this map's order, the answer changes; and in random orders."""
    if values.shape != row.shape and values.shape[-2:] != row.shape[-2:]:
        return None
    check = erasure(dossier.subject, row, values, index, dossier.question.seed)
    if check is None:
        return None
    return {"part": check.part, "count": check.count, "of": check.inked, "by_chance": check.by_chance}


def noise(dossier: Dossier, row: Tensor, index: int) -> list[list[float]]:
    """The share of random draws in which the answer stays, for noise of growing size.

    A size is a share of the picture's range of values, or of each column's spread in the data where there are any.
    """
    draw = torch.Generator().manual_seed(dossier.question.seed)
    here, known = row.detach().cpu(), dossier.known
    scale = here.amax() - here.amin()
    if here.dim() == 2 and known is not None:
        scale = known.inputs.floats[0].detach().cpu().std(0, unbiased=False).to(here.dtype)
    found = []
    for size in SIZES:
        moved = here + size * scale * torch.randn(DRAWS, *here.shape[1:], generator=draw).to(here.dtype)
        found.append([size, float((shares_of(dossier.subject, moved).argmax(1) == index).double().mean())])
    return found


def checks(case: Case, told: Mapping[str, Any], maps: Mapping[int, Attribution], place: int) -> list[Check]:
    """Everything that was tried of one case, in a list."""
    found = []
    for k, made in maps.items():
        title = title_of(made)
        for verdict in attribution.row_verdicts(made, place):
            held = None if verdict.level == NEUTRAL else verdict.level == GOOD
            found.append(Check(what=title, held=held, how=verdict.short))
        found.append(_erased(title, told.get("erasing", {}).get(str(k))))
        found.append(_sane(title, told["sanity"].get(str(k))))
    pairs = [p for p in told["agreement"] if math.isfinite(p[2])]  # a map without any order agrees with none
    found.append(Check(what="Maps against each other", held=_agrees(pairs), how=_least(pairs)))
    for size, kept in told.get("noise", ()):
        if size == ORDINARY:
            how = f"the answer stays in {percent(kept)} of {DRAWS} draws with noise of {percent(size)}"
            found.append(Check(what="The answer", held=kept == 1, how=how))
    for change in case.more.get("changes", ()):
        how = f"the model was asked again about the input changed by {change['by']}: another answer"
        found.append(Check(what="The counterfactual", held=bool(change["valid"]), how=how))
    for verdict in case.near_verdicts:
        held = None if verdict.level == NEUTRAL else verdict.level == GOOD
        found.append(Check(what="The nearest cases", held=held, how=verdict.short))
    return found


def _erased(title: str, told: Mapping[str, Any] | None) -> Check:
    if told is None:
        return Check(what=title, held=None, how="can't be checked by erasing parts of the input")
    chance = f"{number(told['by_chance'], 2)} in random order"
    if told["count"] is None:
        return Check(what=title, held=False, how=f"erasing all that it points to changes nothing ({chance})")
    parts = counted(told["count"], told["part"])
    return Check(what=title, held=told["count"] < told["by_chance"], how=f"{parts} erased change the answer ({chance})")


def _sane(title: str, told: Sequence[float] | None) -> Check:
    if told is None:
        return Check(what=title, held=None, how="not tried on networks with weights drawn anew")
    how = f"with weights drawn anew, its rank correlation with itself is {number(told[0], 2)}"
    return Check(what=title, held=told[1] == 0, how=how)


def _agrees(pairs: Sequence[Sequence[float]]) -> bool | None:
    return min(p[2] for p in pairs) >= AGREEING if pairs else None


def _least(pairs: Sequence[Sequence[float]]) -> str:
    if not pairs:
        return "there are no two maps that put the same places in an order"
    return f"the lowest rank correlation of two is {number(min(p[2] for p in pairs), 2)}"
