"""Why this answer rather than that one? A map of the difference of two scores, checked by erasing what it points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.method import from_config
from pellucid.engine import Subject, explain, predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import as_inputs
from pellucid.engine.target import margin
from pellucid.show.answer import Answer, class_name, confidence
from pellucid.show.words import counted, number, percent

ORDERS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Erasure:
    """What happened when parts were set to zero, the ones that speak most for the answer first.

    `count` parts change the decision to `answer` (`None`: all `candidates` that speak for it don't), `by_chance` is the
    mean over random orders of the `inked` parts, of which a share `never` did not change it at all.
    """

    count: int | None
    candidates: int
    inked: int
    answer: int
    share: float
    erased: Tensor
    mask: Tensor
    by_chance: float
    never: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Why:
    """Why `towards` rather than `against`: the map of the difference of their scores, and its check by erasing."""

    towards: int
    against: int
    result: Attribution
    erasure: Erasure | None

    def sentences(self, classes: Sequence[str], part: str) -> list[str]:
        """The check in words; `part` is what one erased thing is called, such as "pixel"."""
        check = self.erasure
        if check is None:
            return []
        name = class_name(self.towards, classes)
        if check.count is None:
            return [
                f"Erasing all {counted(check.candidates, part)} that speak for “{name}” does not change the answer, so the "
                "map alone does not account for this decision."
            ]
        new = class_name(check.answer, classes)
        which = f"{part} that speaks" if check.count == 1 else f"{counted(check.count, part)} that speak"
        said = f"Erase only the {which} most for “{name}”, and the network answers “{new}” ({percent(check.share)})."
        if check.never < 1:
            least = "at least " if check.never > 0 else ""
            said += f" Erased in random order, it takes {least}{number(check.by_chance, 2)} {part}s on average."
        else:
            said += f" Erased in random order, none of {ORDERS} orders changes the answer before the picture is empty."
        return [said]


def why(subject: Subject, row: Tensor, answer: Answer, against: int | None, seed: int) -> Why | None:
    """The map and its check for one row (1, ...); `None` where the network gives no derivatives or no classes."""
    if subject.module is None or answer.index is None or against is None or against == answer.index:
        return None
    method = from_config({"method": "integrated-gradients", "tolerance": 0.01})
    result = explain(subject, row, method, target=margin(answer.index, against), seed=seed)
    classes = torch.tensor([answer.index])
    return Why(
        towards=answer.index,
        against=against,
        result=result.replace(target=classes),
        erasure=erasure(subject, row, result.values, answer.index, seed),
    )


def erasure(subject: Subject, row: Tensor, values: Tensor, index: int, seed: int) -> Erasure | None:
    """Set parts of a row (1, channels, height, width) or (1, columns) to zero one after the other, and watch the answer."""
    heat = values[0].sum(0) if values.dim() == 4 else values[0]
    ink = (row[0] != 0).any(0) if row.dim() == 4 else row[0] != 0
    if row.dim() not in (2, 4) or heat.shape != ink.shape or not bool(ink.any()):
        return None
    flat, filled = heat.flatten(), ink.flatten()
    order = flat.argsort(descending=True, stable=True)
    speaking = order[(flat[order] > 0) & filled[order]]
    states = _states(row, speaking)
    shares = _shares(subject, states)
    count, answer = _first_change(shares, index)
    used = len(speaking) if count is None else count
    mask = torch.zeros_like(filled)
    mask[speaking[:used]] = True
    inked = filled.nonzero()[:, 0]
    chance = _by_chance(subject, row, inked, index, seed)
    return Erasure(
        count=count,
        candidates=len(speaking),
        inked=len(inked),
        answer=answer,
        share=float(shares[used, answer]),
        erased=states[used : used + 1],
        mask=mask.reshape(ink.shape),
        by_chance=float(np.mean([len(inked) if c is None else c for c in chance])),
        never=float(np.mean([c is None for c in chance])),
    )


def _states(row: Tensor, order: Tensor) -> Tensor:
    """The row with the first 0, 1, 2 … parts of the order set to zero."""
    count, size = len(order), (row[0, 0] if row.dim() == 4 else row[0]).numel()
    rank = torch.full((size,), count, dtype=torch.long)
    rank[order] = torch.arange(count)
    kept = rank[None, :] >= torch.arange(count + 1)[:, None]
    shape = (count + 1, 1, *row.shape[2:]) if row.dim() == 4 else (count + 1, row.shape[1])
    return row.detach().cpu() * kept.reshape(shape).to(row.dtype)


def _by_chance(subject: Subject, row: Tensor, inked: Tensor, index: int, seed: int) -> list[int | None]:
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(ORDERS):
        order = inked[torch.from_numpy(draws.permutation(len(inked)))]
        found.append(_first_change(_shares(subject, _states(row, order)), index)[0])
    return found


def _first_change(shares: Tensor, index: int) -> tuple[int | None, int]:
    """After how many steps the answer is another one, and which; the last state's answer where it never is."""
    answers = shares.argmax(1)
    other = (answers != index).nonzero()[:, 0]
    return (None, int(answers[-1])) if not len(other) else (int(other[0]), int(answers[other[0]]))


def _shares(subject: Subject, rows: Tensor) -> Tensor:
    with untouched(subject.module):
        output = predict(subject, as_inputs(rows.to(_device(subject))), DEFAULT_CPU)
    return torch.stack([confidence(scores) for scores in output.detach().cpu().double()])


def _device(subject: Subject) -> Any:
    first = next(iter(subject.module.parameters()), None) if subject.module is not None else None
    return "cpu" if first is None else first.device
