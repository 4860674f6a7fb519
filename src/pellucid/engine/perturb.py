"""What are the scores with parts of the values replaced? The sweep of methods that hide one part at a time.

Where the network can be recorded and the parts are small, only what each of them changes is computed again
(`engine.incremental`, `ask.path` "incremental"); else every part costs a forward pass. Both give the same scores, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.engine import batch, fill, score
from pellucid.engine.ask import Ask
from pellucid.engine.incremental import WORTH, Clean, Grouping, Network, Patch, grouping, network_of
from pellucid.engine.incremental.reach import Places
from pellucid.engine.inputs import Inputs
from pellucid.engine.plan import Plan
from pellucid.engine.quick import plan_for

# `masks(rows, parts)`: for each pair, where the part lies, one boolean mask per explained tensor, which broadcasts.
Masks = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Fold = Callable[[Tensor, Tensor, Tensor], None]

# Masks held at once while their boxes are measured.
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Parts:
    """`count` parts of each row and what replaces them: job j of a row has part j % count and fill j // count."""

    held: Inputs
    masks: Masks
    count: int
    fills: list[tuple[Tensor, ...]]

    @property
    def jobs(self) -> int:
        """How many ways there are to change a row."""
        return self.count * len(self.fills)


def sweep(ask: Ask, parts: Parts, fold: Fold, *, label: str = "") -> None:
    """The score of every row under every job, and, as one job more, as it is; `fold(rows, jobs, scores)` takes them.

    `parts.masks` is also asked for part number `count`, which lies nowhere.
    """
    plan = plan_for(ask, (parts.jobs + 1) * parts.held.rows, "forward")
    inside = None if plan is None else _Inside.of(ask, parts, plan)
    left = list(range(parts.held.rows))
    if inside is not None:
        with ask.progress.bar((parts.jobs + 1) * parts.held.rows, label) as tell:
            left = [row for row in left if not inside.row(row, fold, tell)]
    if left:
        _plain(ask, parts, fold, label, left)
    if len(left) < parts.held.rows:
        ask.path = "incremental"


def _plain(ask: Ask, parts: Parts, fold: Fold, label: str, rows: list[int]) -> None:
    """Every job as a whole pass. The row as it is goes along, so that rounding is the same on both sides."""
    held, jobs, count, fills = parts.held, parts.jobs, parts.count, parts.fills
    stacked = [torch.stack(b) for b in zip(*fills, strict=True)] if len(fills) > 1 else []

    def points(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        inside = parts.masks(rows, torch.where(which < jobs, which % count, count))
        if len(fills) == 1:
            return tuple(fill.put(x, b, rows, m) for x, b, m in zip(held.floats, fills[0], inside, strict=True))
        filled = (which // count).clamp(max=len(fills) - 1)
        return tuple(
            torch.where(m, b[filled.to(x.device), rows.to(x.device)], x[rows.to(x.device)])
            for x, b, m in zip(held.floats, stacked, inside, strict=True)
        )

    score.sweep(ask, jobs + 1, points, fold, label=label, rows=rows)


@dataclass(frozen=True, eq=False)
class _Inside:
    """The way through the network that computes changes alone."""

    ask: Ask
    parts: Parts
    plan: Plan
    network: Network
    memory: int

    @classmethod
    def of(cls, ask: Ask, parts: Parts, plan: Plan) -> _Inside | None:
        """None where the explained values are no single map, or one row's values do not fit the memory."""
        if len(parts.held.floats) != 1 or parts.held.floats[0].dim() != 4 or not parts.jobs:
            return None
        network = network_of(plan, 0 if ask.layer is not None else ask.inputs.explained[0])
        if network is None:
            return None
        memory = int(ask.memory * 2 * batch.USABLE) - 2 * network.bytes_of_clean()
        return cls(ask, parts, plan, network, memory) if memory > 0 else None

    def row(self, row: int, fold: Fold, tell: Callable[[int], Any]) -> bool:
        """All jobs of one row; False, with nothing done, where whole passes are as good."""
        self.plan.check()
        low, high = self._boxes(row)
        moved = (high > low).all(0)
        jobs = np.flatnonzero(moved)
        spans = self.network.survey(low, high)
        found = grouping(self.network, spans, jobs) if len(jobs) else Grouping([], np.inf)
        sizes = [self.network.job_bytes(spans, group) for group in found.groups]
        if found.gain < WORTH or any(size > self.memory for size, _ in sizes):
            return False
        with torch.inference_mode():
            clean = self.network.clean(self._inputs(row))
            self._unchanged(row, np.append(np.flatnonzero(~moved), self.parts.jobs), clean, fold, tell)
            for group, size in zip(found.groups, sizes, strict=True):
                self._group(row, group, clean, spans, size, fold, tell)
        return True

    def _inputs(self, row: int) -> tuple[Tensor, ...]:
        tensors = self.ask.inputs.take(torch.tensor([row])).tensors
        if self.ask.layer is None:
            return tensors
        return (self.parts.held.floats[0][row : row + 1], *(() if self.plan.closed else tensors))

    def _boxes(self, row: int) -> tuple[Places, Places]:
        """The smallest box that holds the values that each job changes, (2, jobs) twice."""
        parts, x = self.parts, self.parts.held.floats[0][row]
        differs = [(fills[0][row] != x) for fills in parts.fills]
        size = max(1, _BLOCK // x.numel())
        low, high = [], []
        for moves in differs:
            for start in range(0, parts.count, size):
                which = torch.arange(start, min(start + size, parts.count))
                (mask,) = parts.masks(torch.full_like(which, row), which)
                inside = mask & moves if mask.shape[1] > 1 else mask[:, 0] & moves.any(0)
                inside = inside.expand(len(which), *inside.shape[1:])
                first, last = _box(inside.any(1) if inside.dim() == 4 else inside)
                low.append(first)
                high.append(last)
        return np.concatenate(low, 1), np.concatenate(high, 1)

    def _unchanged(self, row: int, jobs: Places, clean: Clean, fold: Fold, tell: Callable[[int], Any]) -> None:
        """The jobs that change nothing, and the row as it is."""
        output = self.network.output(clean.values)
        rows = torch.full((len(jobs),), row)
        found = self._score(output, rows[:1])
        fold(rows, torch.from_numpy(jobs), found.expand(len(jobs), *found.shape[1:]))
        tell(len(jobs))

    def _group(
        self, row: int, group: Places, clean: Clean, spans: Any, size: tuple[int, int], fold: Fold, tell: Any
    ) -> None:
        rows = torch.full((len(group),), row)

        def work(start: int, stop: int) -> Tensor:
            jobs = group[start:stop]
            with torch.inference_mode():
                output = self.network.run(clean, spans, jobs, self._patch(row, jobs, spans))
                return self._score(output, rows[start:stop])

        def done(start: int, stop: int, found: Tensor) -> None:
            fold(rows[start:stop], torch.from_numpy(group[start:stop]), found)
            tell(stop - start)

        cost = (None, ())
        batch.run(len(group), work, done, memory=self.memory, cost=cost, device=rows.device, size=size)

    def _patch(self, row: int, jobs: Places, spans: Any) -> Patch:
        """The changed part of the input for these jobs, of one size."""
        parts, x = self.parts, self.parts.held.floats[0][row]
        low, high = (each[:, jobs] for each in spans[self.network.changed])
        size = (high - low).max(1)
        first = np.minimum(low, np.array(x.shape[1:])[:, None] - size[:, None])
        (masks,) = parts.masks(torch.full((len(jobs),), row), torch.from_numpy(jobs % parts.count))
        masks = masks.expand(len(jobs), *masks.shape[1:-2], *x.shape[1:])
        (height, width), chosen = size.tolist(), (jobs // parts.count).tolist()
        values = []
        for job, (top, left) in enumerate(first.T.tolist()):
            place = (slice(None), slice(top, top + height), slice(left, left + width))
            values.append(torch.where(masks[job][place], parts.fills[chosen[job]][0][row][place], x[place]))
        return Patch(torch.stack(values), first)

    def _score(self, output: Any, rows: Tensor) -> Tensor:
        return self.ask.target.score(self.ask.subject.select(output, self.ask.inputs.take(rows)), rows)


def _box(inside: Tensor) -> tuple[Places, Places]:
    """The bounds of the true places of (jobs, height, width) masks; an empty box where there are none."""
    low, high = [], []
    for axis in (2, 1):
        line = inside.any(axis).to(torch.uint8)
        length = line.shape[1]
        found = inside.flatten(1).any(1)
        low.append(torch.where(found, line.argmax(1), 0))
        high.append(torch.where(found, length - line.flip(1).argmax(1), 0))
    return torch.stack(low).cpu().numpy(), torch.stack(high).cpu().numpy()
