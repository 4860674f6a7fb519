"""Three criteria of one explanation: is it true to the network, does it hold for new rows, does it agree with people?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Rules
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, coalition
from pellucid.engine.ask import predict
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.evaluation import Evaluation, Judged, along, overall, players, ranking, wilson
from pellucid.evaluation.complexity_rules import side_by_side
from pellucid.evaluation.marked import maps, marks, places
from pellucid.evaluation.parsimony import Same, answers

__all__ = ["ThreeCriteria"]

CRITERIA = ("fidelity", "generalizability", "persuasibility")
Told = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ThreeCriteria(Evaluation):
    """Is the explanation true to the network, does what it teaches hold for new rows, and would people agree?

    - fidelity, on the rows explained: the share whose answer stays when only the most relevant ``share`` of the features
      is kept, the others filled; of rules, how often they say what the network says. Fact ``removed``: the share whose
      answer turns when these features are filled instead.
    - generalizability, on ``data={"held_out": X}``: what was learnt is "these features matter", those with the largest mean
      size over the rows explained; the share of held-out rows whose answer stays with these alone. Of rules, how often
      they say what the network says on held-out rows; with labels, ``data={"held_out": (X, y)}``, fact ``accuracy`` is
      how often they are right.
    - persuasibility, where people were asked: with ``data={"masks": m}``, what they marked in each row, the mean overlap
      |A ∩ B| / |A ∪ B| of the mask and as many places of largest value; fact ``pointing``, the share of rows whose place of
      largest value is marked. With ``data={"ratings": r}``, (rows,) or (people, rows), fact ``rating`` is their mean, which
      is the criterion where there are no masks.

    ``values`` (1,) is the one that ``criterion`` names; facts (1,) are all that could be measured, and
    ``source["criteria"]`` has each with its 95 % interval (Wilson's for shares, Student's t for means) and its rows. Held
    method's data go under "explanation".

    Args:
        of: the explanation that is measured: attributions or rules.
        criterion: "fidelity", "generalizability" or "persuasibility".
        share: which part of the features counts as the most relevant.
        features: what counts as one feature, as for occlusion; the same for all rows.
        baseline: what takes the place of the others.

    Cost: that of ``of``, three forwards per row and two per held-out row.
    Known failure: the three pull apart: a map that people like need not be true, so no sum of them is told. Features that
    matter elsewhere in every picture have no mean place: there generalizability says little.
    Source: Yang, Du & Hu 2019, §3 to §5: the criteria; how they are measured on attributions is ours.

    Example:
        >>> import torch, pellucid as px
        >>> net, x = torch.nn.Linear(6, 2).eval(), torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
        >>> found = px.explain(net, x[:10], "fidelity-persuasibility-generalizability", data={"held_out": x[10:]})
        >>> sorted(found.facts)
        ['fidelity', 'generalizability', 'removed']
    """

    criterion: str = "fidelity"
    share: float = 0.5
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0

    wants: ClassVar[tuple[str, ...]] = ("attribution", "rules")
    own: ClassVar[tuple[str, ...]] = ("held_out", "masks", "ratings")
    card: ClassVar[Card] = Card(
        name="fidelity-persuasibility-generalizability",
        title="Fidelity, generalizability, persuasibility",
        question="Is the explanation true to the network, does it hold for new rows, and would people agree?",
        form="measure",
        scope="global",
        citation="yang2019evaluating",
        needs=("predictions",),
        data_types=("image", "table", "sequence"),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/criteria"},
        claims=("deterministic",),
        trial={"of": "feature-ablation"},
        cost="that of the explanation, three forwards per row and two per held-out row",
        supports=("each criterion by itself, with its interval, on rows like these",),
        limits=("which criterion matters more", "what people would say who were not asked"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.criterion not in CRITERIA:
            raise MethodError(f"The 'criterion' must be one of {CRITERIA}", got=repr(self.criterion))
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise MethodError("The 'share' must be a number between 0 and 1", got=repr(self.share))
        if self.criterion == "generalizability" and own.get("held_out") is None:
            raise NeedError("Generalizability needs rows held out", got="none", hint='data={"held_out": X}')
        if own.get("masks") is not None:
            if self.held().card.form == "rules":
                raise MethodError("The 'masks' need an attribution, which has values at places", got="rules")
            marks(ask, own)
        if own.get("ratings") is not None:
            _ratings(own, ask.inputs.rows)
        if self.criterion == "persuasibility" and own.get("masks") is None and own.get("ratings") is None:
            raise NeedError(
                "Persuasibility needs what people said", got="none", hint='data={"masks": ...} or "ratings"'
            )
        if own.get("held_out") is not None:
            rows_like(own["held_out"], ask.inputs)
            if ask.layer is not None:
                raise MethodError("Generalizability is measured at the inputs", got=f"layer {str(ask.layer)!r}")

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        own, _ = self.split(ask.data)
        held_out = None if own.get("held_out") is None else rows_like(own["held_out"], ask.inputs)
        by_rules = isinstance(judged.result, Rules)
        found = self.of_rules(judged, held_out) if by_rules else self.of_features(judged, held_out)
        if own.get("masks") is not None:
            found |= self.of_masks(ask, judged, own)
        if own.get("ratings") is not None:
            found["rating"] = _mean(_ratings(own, ask.inputs.rows))
            found.setdefault("persuasibility", found["rating"])
        return Measure(
            values=torch.tensor([found[self.criterion]["value"]], dtype=torch.float64),
            better="higher",
            unit="rating" if found[self.criterion] is found.get("rating") else "share",
            facts={name: torch.tensor([told["value"]], dtype=torch.float64) for name, told in found.items()},
            source={"criteria": found},
        )

    def of_features(self, judged: Judged, held_out: Rows | None) -> dict[str, Told]:
        """Answers with the most relevant features alone and without them; and with those of all rows, on new ones."""
        judged.ask.target  # noqa: B018
        assert judged.ask.output is not None
        game, figures = players(judged, self.features, self.baseline)
        count = torch.tensor([math.ceil(self.share * game.players)])
        same = replace(game, ask=replace(game.ask, _target=Same(index=answers(judged.ask.output))))
        order, label = ranking(figures.abs()), self.card.title
        kept = along(same, order, count, gone=False, label=label)[:, 0]
        left = along(same, order, count, label=label)[:, 0]
        found = {"fidelity": _share(kept), "removed": _share(1 - left)}
        if held_out is not None:
            if any(len(labels) > 1 for labels in game.features.labels):
                raise MethodError(
                    "The 'features' must be the same for all rows to hold for new ones", got=repr(self.features)
                )
            asked = replace(judged.ask, inputs=held_out.inputs, data=None, wanted=None, output=None, _target=None)
            asked.target  # noqa: B018
            assert asked.output is not None
            asked._target = Same(index=answers(asked.output))
            learnt = ranking(figures.abs().mean(0, keepdim=True))[0, : int(count)]
            present = torch.zeros(1, game.players, dtype=torch.bool)
            present[0, learnt] = True
            new = coalition.game(asked, self.features, self.baseline)
            found["generalizability"] = _share(new.worth(present, label=label)[:, 0])
        return found

    def of_rules(self, judged: Judged, held_out: Rows | None) -> dict[str, Told]:
        """How often rules say what the network says, here and on new rows, and how often they are right there."""
        assert isinstance(judged.result, Rules)
        found = {}
        rows = {"fidelity": judged.ask.inputs} | ({} if held_out is None else {"generalizability": held_out.inputs})
        for name, held in rows.items():
            said = judged.result.predict(side_by_side(held.floats)).cpu()
            if said.is_floating_point():
                raise MethodError("The rules must tell classes", got="numbers", hint="'proxy-fidelity'")
            found[name] = _share(said == answers(predict(judged.subject, held, judged.ask.memory)).cpu())
            if held_out is not None and held is held_out.inputs and held_out.labels is not None:
                found["accuracy"] = _share(said == held_out.labels.cpu())
        return found

    def of_masks(self, ask: Ask, judged: Judged, own: Mapping[str, Any]) -> dict[str, Told]:
        """Overlap with what people marked, and whether the largest value is inside."""
        mask = marks(ask, own).expand(ask.inputs.rows, *places(ask)).flatten(1)
        values = maps(judged, places(ask), "sum").flatten(1)
        rank = ranking(values).argsort(1)
        chosen = rank < mask.sum(1, keepdim=True)
        both, either = (chosen & mask).sum(1).double(), (chosen | mask).sum(1).double()
        overlap = torch.where(
            either > 0, both / either.clamp(min=1), torch.nan
        )  # nothing marked: nothing to compare with
        return {
            "persuasibility": _mean(overlap),
            "pointing": _share(mask.gather(1, values.argmax(1, keepdim=True))[:, 0]),
        }


def _share(met: Tensor) -> Told:
    """A share of rows with Wilson's interval."""
    hits = met.double().sum()
    low, high = wilson(hits, len(met))
    return {"value": float(hits) / len(met), "low": float(low), "high": float(high), "rows": len(met)}


def _mean(values: Tensor) -> Told:
    """A mean over rows with its interval, where there are several."""
    told = overall(values)
    if told["mean"] is None:
        raise InputError("The 'masks' must mark at least one place of some row", got="none")
    return {"value": told["mean"], "low": told.get("low"), "high": told.get("high"), "rows": told["rows"]}


def _ratings(own: Mapping[str, Any], rows: int) -> Tensor:
    """The mean rating of each row, (rows,)."""
    found = torch.as_tensor(own["ratings"]).detach().cpu().double()
    if found.dim() not in (1, 2) or found.shape[-1] != rows or not bool(torch.isfinite(found).all()):
        raise InputError(f"The 'ratings' must be finite numbers, (people, {rows})", got=f"shape {tuple(found.shape)}")
    return found if found.dim() == 1 else found.mean(0)
