"""Does a map of a scan in three dimensions focus on the nodule? Measured against its mask, and asked of readers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract import Attribution, Measure
from pellucid.contract.errors import InputError
from pellucid.evaluation.human import Panel, Question, Stimulus, Study
from pellucid.evaluation.human_analysis import agreement, analyse, share
from pellucid.evaluation.human_answers import Answers
from pellucid.evaluation.human_statistics import cohen_kappa

__all__ = ["analyse_readers", "volume_focus", "volume_reader_study", "volume_slices"]

Array = NDArray[Any]
AXES = ("Axial", "Coronal", "Sagittal")
AGREE = ("strongly disagree", "disagree", "neither", "agree", "strongly agree")
ELSEWHERE = ("Nowhere else", "On vessels", "On other tissue", "Outside the body")
AGREES = 4  # from here on a rating counts as "agree"


def volume_focus(result: Attribution, nodules: Any, *, scan: int = 0) -> Measure:
    """How much of what raises the risk lies in the nodule?

    ``values`` (rows,) are the shares of the positive values of one scan that lie in the mask; NaN where none is positive
    or there is no nodule. Facts: ``volume``, the nodule's share of all voxels, what chance would give; ``peak``, 1 where
    the largest value lies in it; ``scan_share``, how much of all positive values is in this scan; and, where the method
    tells it, ``completeness_gap`` and ``relative_gap``: whether the values add up to what the model's score changed by.

    Args:
        result: an attribution (rows, scans, depth, height, width), such as "integrated-gradients" gives with air
            (``baseline=0.0``) or the mean volume (``data=``) as its baseline.
        nodules: (rows, depth, height, width), true where the nodule is in that scan.
        scan: which of the scans.
    """
    values, masks = _volumes(result), torch.as_tensor(nodules).bool()
    if masks.shape != values[:, 0].shape or not 0 <= scan < values.shape[1]:
        raise InputError(
            f"The 'nodules' must be of shape {tuple(values[:, 0].shape)}, and 'scan' one of {values.shape[1]}",
            got=f"{tuple(masks.shape)}, {scan}",
        )
    positive, inside = values.clamp(min=0), masks.flatten(1)
    own = positive[:, scan].flatten(1)
    some = inside.any(1)
    found = torch.where(some, (own * inside).sum(1) / own.sum(1), torch.nan)
    peak = inside.gather(1, own.argmax(1, keepdim=True))[:, 0].double()
    gaps = ("completeness_gap", "relative_gap")
    kept: dict[str, Tensor] = {k: v for k, v in result.facts.items() if k in gaps}
    return Measure(
        values=found,
        better="higher",
        unit="share in the nodule",
        facts={
            "volume": inside.double().mean(1),
            "peak": torch.where(some, peak, torch.nan),
            "scan_share": own.sum(1) / positive.flatten(1).sum(1),
            **kept,
        },
    )


def volume_slices(result: Attribution, volumes: Any, candidates: Any, row: int) -> tuple[Panel, ...]:
    """The three slices through the place that raises one row's risk the most, each with its map, and the candidate boxed.

    All scans are drawn, the current one above; full colour is the largest value of this row, the same in all slices. A box
    stands where the slice passes through the candidate.
    """
    values, scans, masks = _volumes(result), torch.as_tensor(volumes), torch.as_tensor(candidates).bool()
    if scans.shape != values.shape or masks.shape != values[:, 0].shape or not 0 <= row < len(values):
        raise InputError(
            "The 'volumes' must be those that were explained, and the 'candidates' one mask for each row",
            got=f"{tuple(scans.shape)}, {tuple(masks.shape)}, row {row}",
        )
    heat, seen, mask = values[row].float(), scans[row].float(), masks[row]
    peak = np.unravel_index(int(heat.amax(0).argmax()), heat.shape[1:])
    limit = float(heat.abs().max()) or 1.0
    viewer, panels = importlib.import_module("pellucid.show.questionnaire"), []
    for axis, name in enumerate(AXES):
        at = int(peak[axis])
        box = _box(mask.select(axis, at).numpy())
        pairs = [(seen[c].select(axis, at), heat[c].select(axis, at), box) for c in range(len(heat))]
        told = "The candidate nodule is in the box." if box else "The candidate nodule is not in this slice."
        below = "Above the current scan, below the one before. " if len(pairs) == 2 else ""
        panels.append(
            Panel(
                heading=f"{name} slice {at + 1}",
                lines=(f"{below}{told}",),
                image=viewer.slices(pairs, limit),
                alt=f"{name} slice through the strongest place of the map: the scan, and the map laid over it. {told}",
            )
        )
    return tuple(panels)


def volume_reader_study(
    maps: Mapping[str, Attribution],
    volumes: Any,
    candidates: Any,
    *,
    participants: int,
    rows: Any = None,
    title: str = "Does the map focus on the nodule?",
    design: str = "crossed",
    seed: int = 0,
) -> Study:
    """Do readers agree that a map focuses on the nodule?

    Each reader sees three slices through the map's strongest place, the candidate boxed, and says from 1 to 5 whether the
    map focuses on it, and where else it does.

    Args:
        maps: method → its attribution of the volumes; names stay sealed. Add `sham`'s, to see whether readers look.
        volumes: (rows, scans, depth, height, width), as the model takes them: without a patient's data in them.
        candidates: (rows, depth, height, width), the nodule that is asked about.
        rows: which rows; None: all.
        participants, title, design, seed: as of `Study`.

    Known failure: the box draws the eye, and slices are chosen by the map; readers judge where it looks, not why.
    Source: Ardila et al. 2019, extended data fig. 7: readers rate integrated gradients of a risk model; of cases without
    cancer, they found many to focus on vessels.
    """
    chosen = range(len(torch.as_tensor(volumes))) if rows is None else [int(r) for r in rows]
    asked = (
        Question(
            name="focus",
            text="The map focuses on the nodule in the box.",
            options=tuple(f"{i} – {word}" for i, word in enumerate(AGREE, 1)),
            kind="scale",
        ),
        Question(name="elsewhere", text="Where else does the map focus?", options=ELSEWHERE),
    )
    stimuli = [
        Stimulus(
            case=f"case {number + 1}",
            condition=name,
            panels=volume_slices(result, volumes, candidates, row),
            questions=asked,
            about={"row": row},
        )
        for number, row in enumerate(chosen)
        for name, result in maps.items()
    ]
    made = Study(
        title=title,
        intro=(
            "Red raises the risk that the network sees, blue lowers it. Each slice goes through the reddest place.",
        ),
        conditions=tuple(maps),
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
    )
    made.check()
    return made


def analyse_readers(study: Study, answers: Answers) -> Measure:
    """Of how many cases do readers agree that the map focuses on the nodule, and how far do they agree with each other?

    Returns:
        ``values`` (maps,): the share of ratings of "agree" or "strongly agree", with ``low`` and ``high``; fact ``cases``,
        the share of cases of which most readers say so. `parts`: ``kappa`` (maps, readers, readers), Cohen's with quadratic
        weights of each two readers, over the cases that both rated; ``kappa_mean`` (maps,); ``agreement`` (maps, 3),
        Fleiss' kappa of agreeing or not, with its interval. ``source["study"]["readers"]`` are the readers' numbers.
    """
    base = analyse(study, answers, "focus")
    readers = answers.participants
    pairs = torch.full((len(study.conditions), len(readers), len(readers)), torch.nan, dtype=torch.float64)
    told: dict[str, list[Any]] = {"value": [], "low": [], "high": [], "cases": [], "fleiss": []}
    for way, name in enumerate(study.conditions):
        given: dict[int, dict[int, int]] = {}
        for a in answers.answers:
            if study.stimuli[a.stimulus].condition == name:
                given.setdefault(a.stimulus, {})[a.participant] = a.given["focus"]
        flat = [(p, float(v >= AGREES)) for own in given.values() for p, v in own.items()]
        by = share(np.array([v for _, v in flat]), np.array([p for p, _ in flat]))
        most = [np.mean([v >= AGREES for v in own.values()]) > 0.5 for own in given.values()]
        said = {s: {p: int(v >= AGREES) for p, v in own.items()} for s, own in given.items()}
        fleiss = agreement(said, "choice", 2)
        for key, value in (("value", by.value), ("low", by.low), ("high", by.high)):
            told[key].append(value)
        told["cases"].append(float(np.mean(most)) if most else math.nan)
        told["fleiss"].append([fleiss.value, fleiss.low, fleiss.high])
        for i, one in enumerate(readers):
            for j, other in enumerate(readers[:i]):
                both = [(own[one], own[other]) for own in given.values() if one in own and other in own]
                if both:
                    x, y = np.array(both).T
                    pairs[way, i, j] = pairs[way, j, i] = cohen_kappa(x, y, weights="quadratic").value
    made = {k: torch.tensor(v, dtype=torch.float64) for k, v in told.items()}
    kept = {k: v for k, v in base.facts.items() if k.startswith("seconds") or k in ("answers", "participants")}
    return base.replace(
        values=made["value"],
        better="higher",
        unit="share that agree",
        facts={"low": made["low"], "high": made["high"], "cases": made["cases"], **kept},
        parts={"kappa": pairs, "kappa_mean": pairs.flatten(1).nanmean(1), "agreement": made["fleiss"]},
        source={"study": {**base.source["study"], "readers": list(readers)}},
    )


def _volumes(result: Any) -> Tensor:
    values = getattr(result, "values", None)
    if not isinstance(result, Attribution) or not isinstance(values, Tensor) or values.dim() != 5:
        raise InputError(
            "The 'result' must be an attribution (rows, scans, depth, height, width)",
            got=type(result).__name__ if not isinstance(values, Tensor) else f"shape {tuple(values.shape)}",
        )
    return values.detach().cpu().double()


def _box(mask: Array) -> tuple[int, int, int, int] | None:
    """First and last row and column of what is true."""
    if not mask.any():
        return None
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(down[0]), int(down[-1]), int(across[0]), int(across[-1])
