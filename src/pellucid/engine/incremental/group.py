"""Which jobs are run together, and does it pay? Parts of like size share a batch, so that little is computed in vain.

All parts in a batch have the size of the largest, at every step. So the jobs are sorted into a few classes along each
axis, by how large their parts become on the way through the network (at a border they are cut off, and a stride may
catch one place more), and each pair of classes is a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.engine.incremental.network import NEARLY_ALL, Network
from pellucid.engine.incremental.reach import Places

# Measured on a CPU, in multiplications: moving a number (a weight into the cache too), starting a step, making a part.
_MOVE, _START, _PART = 32.0, 4e6, 3e6
_CLASSES = 6
# The least predicted gain for which parts are worth their bookkeeping.
WORTH = 1.5

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Jobs in groups, and how many times less work that is than a whole pass for each."""

    groups: list[Places]
    gain: float


class Costs:
    """What the local steps of a network cost, for parts of given sizes."""

    def __init__(self, network: Network, spans: dict[int, tuple[Places, Places]]) -> None:
        local = [step for step in network.steps if step.local is not None and step.slot in spans]
        self.limit = np.array([step.size for step in local], dtype=np.int64).reshape(-1, 2).T[..., None]
        reads = [[(reach, network.channels(slot)) for slot, reach, _ in step.reads] for step in local]
        # A crop of h x w results reads about (stride x h + span - stride) places along each axis of each map.
        self.each = np.array([step.work + _MOVE * step.channels for step in local], dtype=float)
        self.crops = [(np.array([r.stride for r, _ in row]), np.array([r.span for r, _ in row])) for row in reads]
        self.widths = [np.array([channels for _, channels in row], dtype=float) for row in reads]
        self.rest = sum(s.work + _MOVE * s.channels for s in network.steps if s.local is None or s.slot not in spans)
        self.rest += sum(
            s.values * (s.work / max(s.channels, 1) + _MOVE)
            for s in network.steps
            if s.local is not None and s.slot not in spans
        )
        self.starts = sum(_START + _MOVE * step.work for step in network.head)
        spread = [spans[step.slot][1] - spans[step.slot][0] for step in local]
        self.size = np.stack(spread, 1)  # (2, steps, jobs)

    @property
    def whole(self) -> float:
        """The cost of one whole pass."""
        return float((self.each * self.limit[..., 0].prod(0)).sum() + self.rest)

    def of(self, group: Places) -> float:
        """The cost of one group."""
        size = self.size[:, :, group].max(2)
        full = (size >= NEARLY_ALL * self.limit[..., 0]).all(0)
        size = np.where(full, self.limit[..., 0], size)
        total = float((self.each * size.prod(0)).sum() + self.rest)
        for step, ((stride, span), channels) in enumerate(zip(self.crops, self.widths, strict=True)):
            if not full[step] and size[:, step].all():
                places = ((size[:, step] - 1) * stride + span).prod(1)
                total += _MOVE * float((places * channels).sum())
        return len(group) * (total + _PART) + self.starts


def grouping(network: Network, spans: dict[int, tuple[Places, Places]], jobs: Places) -> Grouping:
    """The cheapest of several groupings of these jobs."""
    if not len(jobs) or not any(step.slot in spans for step in network.steps):
        return Grouping([jobs], 0.0)
    costs = Costs(network, spans)
    scale = costs.each[:, None] * costs.size[:, :, jobs].mean(2)[::-1].T  # work per place along the other axis
    axes = [_classes(costs.size[axis][:, jobs], scale[:, axis]) for axis in (0, 1)]
    best: tuple[float, list[Places]] | None = None
    for count in range(1, _CLASSES + 1):
        pair = axes[0][min(count, len(axes[0])) - 1] * (_CLASSES + 1) + axes[1][min(count, len(axes[1])) - 1]
        groups = [jobs[pair == name] for name in np.unique(pair)]
        total = sum(costs.of(group) for group in groups)
        if best is None or total < best[0]:
            best = total, groups
    assert best is not None
    return Grouping(best[1], len(jobs) * costs.whole / best[0])


def _classes(size: Places, weight: Numbers) -> list[Places]:
    """For 1, 2, ... classes, the class of each job: neighbours in total size merge where that adds least work."""
    distinct, inverse, counts = np.unique(size, axis=1, return_inverse=True, return_counts=True)
    order = np.argsort((distinct * weight[:, None]).sum(0), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    members = [[int(each)] for each in range(len(order))]
    tops = [distinct[:, each].astype(float) for each in order]
    numbers = [int(counts[each]) for each in order]
    found: list[Places] = []
    while True:
        if len(members) <= _CLASSES:
            label = np.empty(len(order), dtype=np.int64)
            for name, group in enumerate(members):
                label[group] = name
            found.append(label[rank[inverse.reshape(-1)]])
        if len(members) == 1:
            return found[::-1]
        added = []
        for a in range(len(members) - 1):
            top = np.maximum(tops[a], tops[a + 1])
            added.append(float((weight * (numbers[a] * (top - tops[a]) + numbers[a + 1] * (top - tops[a + 1]))).sum()))
        a = int(np.argmin(added))
        members[a] += members.pop(a + 1)
        tops[a] = np.maximum(tops[a], tops.pop(a + 1))
        numbers[a] += numbers.pop(a + 1)
