"""What are the scores with parts of the values replaced? The sweep of methods that hide one part at a time.

Where the network can be recorded and the parts are small, only what each of them changes is computed again
(`engine.incremental`, `ask.path` "incremental"); else every part costs a forward pass. Both give the same scores, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from pellucid.engine.target import Target

# `masks(rows, parts)`: for each pair, where the part lies, one boolean mask per explained tensor, which broadcasts.
Masks = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Fold = Callable[[Tensor, Tensor, Tensor], None]
Tell = Callable[[int], Any]
Watch = Callable[[Target], Target]
Spans = dict[int, tuple[Places, Places]]
Pair = tuple[int, int]

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


def sweep(ask: Ask, parts: Parts, fold: Fold, *, label: str = "", watch: Watch | None = None) -> None:
    """The score of every row under every job, and, as one job more, as it is; `fold(rows, jobs, scores)` takes them.

    `parts.masks` is also asked for part number `count`, which lies nowhere. `watch` makes the target that scores are
    taken with from the one asked about.
    """
    plan = plan_for(ask, (parts.jobs + 1) * parts.held.rows, "forward")
    inside = None if plan is None else _Inside.of(ask, parts, plan)
    if inside is not None:
        inside.foresee()
    path, asked = ask.path, ask if watch is None else replace(ask, _target=watch(ask.target))
    left = list(range(parts.held.rows))
    if inside is not None:
        with ask.progress.bar((parts.jobs + 1) * parts.held.rows, label) as tell:
            left = [row for row in left if not inside.row(asked, row, fold, tell)]
    if left:
        _plain(asked, parts, fold, label, left)
        path = asked.path
    ask.path = path if len(left) == parts.held.rows else "incremental"


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


class _Changes:
    """What the jobs of one row change: the smallest box around it, and the values there."""

    def __init__(self, parts: Parts, row: int, memory: int) -> None:
        self.parts, self.row, self.x = parts, row, parts.held.floats[0][row]
        self._kept: Tensor | None = None
        differs = [fills[0][row] != self.x for fills in parts.fills]
        size = max(1, min(_BLOCK, memory // 16) // self._masks(np.zeros(1, dtype=np.int64)).numel())
        boxes = [self._boxes(moves, size) for moves in differs]
        self.low, self.high = (np.concatenate(each, 1) for each in zip(*boxes, strict=True))

    def _boxes(self, moves: Tensor, size: int) -> tuple[Places, Places]:
        """For each part, the box of the values that change, (2, parts) twice."""
        found = []
        for start in range(0, self.parts.count, size):
            mask = self._masks(np.arange(start, min(start + size, self.parts.count)))
            inside = (mask & moves).any(1) if mask.shape[1] > 1 else mask[:, 0] & moves.any(0)
            found.append(_box(inside.expand(len(mask), *self.x.shape[1:])))
            if size >= self.parts.count and mask.shape[1] == 1:
                self._kept = mask
        low, high = (np.concatenate(each, 1) for each in zip(*found, strict=True))
        return low, high

    def _masks(self, which: Places) -> Tensor:
        numbers = torch.from_numpy(which)
        if self._kept is not None:
            return self._kept[numbers.to(self._kept.device)]
        (mask,) = self.parts.masks(torch.full_like(numbers, self.row), numbers)
        return mask

    def patch(self, jobs: Places) -> Patch:
        """The changed part of the input for these jobs, of one size."""
        x, low, high = self.x, self.low[:, jobs], self.high[:, jobs]
        size = (high - low).max(1)
        first = np.minimum(low, np.array(x.shape[1:])[:, None] - size[:, None])
        masks = self._masks(jobs % self.parts.count)
        masks = masks.expand(len(jobs), *masks.shape[1:-2], *x.shape[1:])
        (height, width), chosen = size.tolist(), (jobs // self.parts.count).tolist()
        values = []
        for job, (top, left) in enumerate(first.T.tolist()):
            place = (slice(None), slice(top, top + height), slice(left, left + width))
            fill = self.parts.fills[chosen[job]][0][self.row]
            values.append(torch.where(masks[job][place], fill[place], x[place]))
        return Patch(torch.stack(values), first)


@dataclass(frozen=True, eq=False)
class _Inside:
    """The way through the network that computes changes alone."""

    ask: Ask
    parts: Parts
    plan: Plan
    network: Network
    memory: int
    room: int
    kept: dict[int, Clean] = field(default_factory=dict)
    layouts: dict[bytes, tuple[Spans, Grouping, list[Pair]]] = field(default_factory=dict)

    @classmethod
    def of(cls, ask: Ask, parts: Parts, plan: Plan) -> _Inside | None:
        """None where the explained values are no single map, or one row's values do not fit the memory.

        On an accelerator many small steps cost more than few large ones: there whole passes are left as they are.
        """
        floats = parts.held.floats
        if len(floats) != 1 or floats[0].dim() != 4 or floats[0].device.type != "cpu" or not parts.jobs:
            return None
        network = network_of(plan, 0 if ask.layer is not None else ask.inputs.explained[0])
        if network is None:
            return None
        room = min(batch.LARGEST_TENSOR, ask.memory // 16)
        memory = int(ask.memory * 2 * batch.USABLE) - 2 * network.bytes_of_clean() - 2 * room
        return cls(ask, parts, plan, network, memory, room) if memory > network.tail_bytes[0] else None

    def foresee(self) -> None:
        """Settle the target of a single row on what the network gives for it here, instead of one pass more."""
        ask = self.ask
        if ask._target is None and ask.layer is None and self.parts.held.rows == 1:
            clean = self._clean(0)
            output = ask.subject.select(self.network.output(clean.values), ask.inputs).clone()
            ask.record(output)
            ask.remember(output)

    def _clean(self, row: int) -> Clean:
        """The unchanged values of a row; those of the last row asked for are kept."""
        if row not in self.kept:
            self.kept.clear()
            with torch.inference_mode():
                self.kept[row] = self.network.clean(self._inputs(row))
        return self.kept[row]

    def row(self, ask: Ask, row: int, fold: Fold, tell: Tell) -> bool:
        """All jobs of one row; False, with nothing done, where whole passes are as good."""
        self.plan.check()
        changes = _Changes(self.parts, row, self.ask.memory)
        moved = (changes.high > changes.low).all(0)
        jobs = np.flatnonzero(moved)
        spans, found, sizes = self._layout(changes, jobs)
        if found.gain < WORTH or any(size > self.memory for size, _ in sizes):
            return False
        answers = _Answers(self, ask, row, self._clean(row), fold, tell)
        answers.unchanged(np.append(np.flatnonzero(~moved), self.parts.jobs))
        for group, size in zip(found.groups, sizes, strict=True):
            self._group(changes, group, spans, size, answers)
        answers.settle()
        return True

    def _inputs(self, row: int) -> tuple[Tensor, ...]:
        tensors = self.ask.inputs.take(torch.tensor([row])).tensors
        if self.ask.layer is None:
            return tensors
        return (self.parts.held.floats[0][row : row + 1], *(() if self.plan.closed else tensors))

    def _layout(self, changes: _Changes, jobs: Places) -> tuple[Spans, Grouping, list[Pair]]:
        """What the jobs change in the network, their groups, and what a job of each takes; mostly the same for all rows."""
        key = changes.low.tobytes() + changes.high.tobytes()
        if key not in self.layouts:
            self.layouts.clear()
            spans = self.network.survey(changes.low, changes.high)
            found = grouping(self.network, spans, jobs) if len(jobs) else Grouping([], np.inf)
            self.layouts[key] = spans, found, [self.network.job_bytes(spans, group) for group in found.groups]
        return self.layouts[key]

    def _group(self, changes: _Changes, group: Places, spans: Spans, size: Pair, answers: _Answers) -> None:
        def work(start: int, stop: int) -> Any:
            jobs = group[start:stop]
            with torch.inference_mode():
                return self.network.run(answers.clean, spans, jobs, changes.patch(jobs))

        def done(start: int, stop: int, found: Any) -> None:
            answers.take(group[start:stop], found)

        self.run(len(group), work, done, size)

    def run(
        self, jobs: int, work: Callable[[int, int], Any], fold: Callable[[int, int, Any], None], size: Pair
    ) -> None:
        """Jobs of this size, in chunks."""
        device = self.ask.inputs.device
        batch.run(jobs, work, fold, memory=self.memory, cost=(None, ()), device=device, size=size)


class _Answers:
    """The scores of one row's jobs. The end of the network runs for many groups at once: its weights are read once.

    The row as it is goes first, in the same call, and stands for all jobs that change nothing.
    """

    def __init__(self, inside: _Inside, ask: Ask, row: int, clean: Clean, fold: Fold, tell: Tell) -> None:
        self.inside, self.ask, self.row, self.clean, self.fold, self.tell = inside, ask, row, clean, fold, tell
        self.waiting: list[tuple[Places, Tensor]] = []
        self.held = 0

    def unchanged(self, jobs: Places) -> None:
        """Answer these with the row as it is."""
        network, values = self.inside.network, self.clean.values
        self.take(jobs, network.output(values) if network.cut is None else values[network.cut])

    def take(self, jobs: Places, found: Any) -> None:
        """The values at the cut, or the output where there is none, of these jobs, or one row for all of them."""
        if self.inside.network.cut is None:
            self._answer(jobs, self._score(found, len(jobs)))
            return
        self.waiting.append((jobs, found))
        self.held += found.untyped_storage().nbytes()
        if self.held > self.inside.room:
            self.settle()

    def settle(self) -> None:
        """Answer all that wait."""
        waiting, self.waiting, self.held = self.waiting, [], 0
        if not waiting:
            return
        inside, values, scores = self.inside, torch.cat([each for _, each in waiting]), []

        def work(start: int, stop: int) -> Tensor:
            with torch.inference_mode():
                output = inside.network.finish(self.clean, values[start:stop])
            return self._score(output, stop - start)

        size = inside.network.tail_bytes
        inside.run(len(values), work, lambda start, stop, found: scores.append(found), size)
        sizes = [len(each) for _, each in waiting]
        for (jobs, _), found in zip(waiting, torch.cat(scores).split(sizes), strict=True):
            self._answer(jobs, found)

    def _score(self, output: Any, count: int) -> Tensor:
        # The changed inputs themselves are never made: whoever looks sees the row as it is, without copies.
        inputs, row = self.ask.inputs, slice(self.row, self.row + 1)
        seen = replace(inputs, tensors=tuple(x[row].expand(count, *x.shape[1:]) for x in inputs.tensors))
        with torch.inference_mode():
            return self.ask.target.score(self.ask.subject.select(output, seen), torch.full((count,), self.row))

    def _answer(self, jobs: Places, scores: Tensor) -> None:
        rows = torch.full((len(jobs),), self.row)
        self.fold(rows, torch.from_numpy(jobs), scores.expand(len(jobs), *scores.shape[1:]))
        self.tell(len(jobs))


def _box(inside: Tensor) -> tuple[Places, Places]:
    """The bounds of the true places of (jobs, height, width) masks; an empty box where there are none."""
    masks = inside.cpu().numpy()
    low, high = [], []
    for axis in (2, 1):
        line = np.logical_or.reduce(masks, axis)
        found = line.any(1)
        low.append(np.where(found, line.argmax(1), 0))
        high.append(np.where(found, line.shape[1] - line[:, ::-1].argmax(1), 0))
    return np.stack(low), np.stack(high)
