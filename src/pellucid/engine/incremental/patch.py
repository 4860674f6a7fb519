"""How is a small changed part set into the map around it? Crops of what is known, with the part pasted in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pellucid.engine.incremental.reach import Places


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Values (jobs, channels, height, width) of parts of equal size, each from its own `first` place on."""

    values: Tensor
    first: Places

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[2], self.values.shape[3]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """One unchanged map as (height, width, channels) with a margin of padding before and after it."""

    values: Tensor
    margin: tuple[int, int]

    @classmethod
    def of(cls, clean: Tensor, before: tuple[int, int], after: tuple[int, int], fill: float) -> Canvas:
        """The canvas of (1, channels, height, width)."""
        inner = clean[0].permute(1, 2, 0)
        if not any(before) and not any(after):
            return cls(inner.contiguous(), before)
        height, width, channels = inner.shape
        outer = inner.new_full((before[0] + height + after[0], before[1] + width + after[1], channels), fill)
        outer[before[0] : before[0] + height, before[1] : before[1] + width] = inner
        return cls(outer, before)

    def crop(self, first: Places, size: tuple[int, int]) -> Tensor:
        """The parts from these places on, (jobs, height, width, channels), on fresh memory.

        Rows of places are copied whole, as long runs of memory: faster than place by place.
        """
        rows, width, channels = self.values.shape
        start = (first[0] + self.margin[0]) * width + first[1] + self.margin[1]
        index = (start[:, None] + np.arange(size[0]) * width).reshape(-1)
        runs = self.values.as_strided((rows * width - size[1] + 1, size[1] * channels), (channels, 1))
        chosen = runs.index_select(0, torch.from_numpy(index).to(runs.device))
        return chosen.view(first.shape[1], *size, channels)


def crop(canvas: Canvas, patch: Patch | None, first: Places, size: tuple[int, int]) -> Tensor:
    """The parts (jobs, channels, height, width) of a map that is `patch` where that lies, and the canvas elsewhere."""
    if patch is None:
        return canvas.crop(first, size).permute(0, 3, 1, 2)
    down, right = patch.first - first
    height, width = patch.size
    same = bool((down == down[0]).all() and (right == right[0]).all())
    covered = (down <= 0) & (right <= 0) & (down + height >= size[0]) & (right + width >= size[1])
    if same and covered[0]:
        return patch.values[:, :, -down[0] : size[0] - down[0], -right[0] : size[1] - right[0]]
    if covered.all():
        found = patch.values.new_empty((len(down), *size, patch.values.shape[1]))
    else:
        found = canvas.crop(first, size)
    part = patch.values.permute(0, 2, 3, 1)
    for a, b in _runs(down, right):
        y, x = int(down[a]), int(right[a])
        rows, columns = slice(max(y, 0), min(y + height, size[0])), slice(max(x, 0), min(x + width, size[1]))
        if rows.start < rows.stop and columns.start < columns.stop:
            inner = part[a:b, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            found[a:b, rows, columns] = inner
    return found.permute(0, 3, 1, 2)


def _runs(down: Places, right: Places) -> list[tuple[int, int]]:
    """Neighbouring jobs whose patches lie alike in their crops."""
    cuts = np.flatnonzero((np.diff(down) != 0) | (np.diff(right) != 0)) + 1
    edges = [0, *cuts.tolist(), len(down)]
    return list(itertools.pairwise(edges))
