"""Is the map right? Parts of an input are erased, the ones that speak most for the answer first, until it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.engine import Subject, predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import as_inputs
from pellucid.show.answer import confidence

FINEST, COARSE = 16, 8  # images up to 16 × 16 are erased pixel by pixel, larger ones in 8 × 8 patches
ORDERS, FEW = 50, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Erasure:
    """What happened when parts were set to zero, the ones that speak most for the answer first.

    `count` parts change the decision to `answer` (`None`: all `candidates` that speak for it don't). `by_chance` is the
    mean over random `orders` of the `inked` parts, those that aren't zero already; a share `never` of the orders did not
    change the decision at all and counts with all parts. `part` is what one of them is called.
    """

    part: str
    count: int | None
    candidates: int
    inked: int
    answer: int
    share: float
    erased: Tensor
    mask: Tensor
    orders: int
    by_chance: float
    never: float


def erasure(subject: Subject, row: Tensor, values: Tensor, index: int, seed: int) -> Erasure | None:
    """Erase parts of a row (1, channels, height, width) or (1, columns), and watch whether the answer stays `index`."""
    heat = values[0].sum(0) if values.dim() == 4 else values[0]
    ink = (row[0] != 0).any(0) if row.dim() == 4 else row[0] != 0
    if row.dim() not in (2, 4) or heat.shape != ink.shape or not bool(ink.any()):
        return None
    part, groups = _groups(ink)
    total = int(groups.max()) + 1
    weight = torch.zeros(total, dtype=torch.float64).index_add_(0, groups, heat.detach().cpu().double().flatten())
    inked = torch.zeros(total).index_add_(0, groups, ink.cpu().float().flatten()).nonzero()[:, 0]
    order = inked[weight[inked].argsort(descending=True, stable=True)]
    speaking = order[weight[order] > 0]
    states = _states(row, groups, speaking)
    shares = shares_of(subject, states)
    count, answer = _first_change(shares, index)
    used = len(speaking) if count is None else count
    chance = _by_chance(subject, row, groups, inked, index, seed, ORDERS if part != "patch" else FEW)
    return Erasure(
        part=part,
        count=count,
        candidates=len(speaking),
        inked=len(inked),
        answer=answer,
        share=float(shares[used, answer]),
        erased=states[used : used + 1],
        mask=torch.isin(groups, speaking[:used]).reshape(ink.shape),
        orders=len(chance),
        by_chance=float(np.mean([len(inked) if c is None else c for c in chance])),
        never=float(np.mean([c is None for c in chance])),
    )


def _groups(ink: Tensor) -> tuple[str, Tensor]:
    """What is erased at once: its name, and for each cell the number of the part it belongs to."""
    if ink.dim() == 1:
        return "feature", torch.arange(len(ink))
    height, width = ink.shape
    if max(height, width) <= FINEST:
        return "pixel", torch.arange(ink.numel())
    lines = torch.arange(height) * COARSE // height
    columns = torch.arange(width) * COARSE // width
    return "patch", (lines[:, None] * COARSE + columns[None, :]).flatten()


def _states(row: Tensor, groups: Tensor, order: Tensor) -> Tensor:
    """The row with the first 0, 1, 2 … parts of the order set to zero."""
    count = len(order)
    rank = torch.full((int(groups.max()) + 1,), count, dtype=torch.long)
    rank[order] = torch.arange(count)
    kept = rank[groups][None, :] >= torch.arange(count + 1)[:, None]
    shape = (count + 1, 1, *row.shape[2:]) if row.dim() == 4 else (count + 1, row.shape[1])
    return row.detach().cpu() * kept.reshape(shape).to(row.dtype)


def _by_chance(
    subject: Subject, row: Tensor, groups: Tensor, inked: Tensor, index: int, seed: int, orders: int
) -> list[int | None]:
    """After how many parts the answer changes, for each of some random orders."""
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(orders):
        order = inked[torch.from_numpy(draws.permutation(len(inked)))]
        found.append(_first_change(shares_of(subject, _states(row, groups, order)), index)[0])
    return found


def _first_change(shares: Tensor, index: int) -> tuple[int | None, int]:
    """After how many steps the answer is another one, and which; the last state's answer where it never is."""
    answers = shares.argmax(1)
    other = (answers != index).nonzero()[:, 0]
    return (None, int(answers[-1])) if not len(other) else (int(other[0]), int(answers[other[0]]))


def shares_of(subject: Subject, rows: Tensor) -> Tensor:
    """Each row's shares of the network's confidence."""
    with untouched(subject.module):
        output = predict(subject, as_inputs(rows.to(_device(subject))), DEFAULT_CPU)
    return confidence(output.detach().cpu().double())


def _device(subject: Subject) -> Any:
    first = next(iter(subject.module.parameters()), None) if subject.module is not None else None
    return "cpu" if first is None else first.device
