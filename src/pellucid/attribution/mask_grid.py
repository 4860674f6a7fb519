"""A coarse mask over an image: its cells, its way to the pixels and back, and where it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, MethodError

__all__: list[str] = []

LEAST_CELLS, CELL = 8, 8
DISCS = (0.25, 0.5, 0.75, 1.0, 1.25)  # radii of the first masks tried, in halves of the side
LEVELS = (0.5, 1.0)  # and even ones
BLUR_OF_CELL = 5 / 8  # width of the Gaussian that enlarges a mask, in cells


@dataclass(frozen=True, eq=False)
class Enlarge:
    """A coarse mask to an image and back: `rows` (H, h) and `columns` (W, w), each row with weights that sum to 1."""

    rows: Tensor
    columns: Tensor

    def up(self, coarse: Tensor) -> Tensor:
        """(…, h, w) to (…, H, W)."""
        return self.rows @ coarse @ self.columns.T

    def back(self, fine: Tensor) -> Tensor:
        """The derivative by the coarse mask, (…, h, w), from that by the enlarged one."""
        return self.rows.T @ fine @ self.columns


def cells(grid: Any, x: Tensor) -> tuple[int, int]:
    """Cells along height and width."""
    sides = (x.shape[2], x.shape[3])
    if grid is None:
        return (min(sides[0], max(LEAST_CELLS, sides[0] // CELL)), min(sides[1], max(LEAST_CELLS, sides[1] // CELL)))
    pair = tuple(grid) if isinstance(grid, tuple | list) else (grid, grid)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise MethodError("The 'grid' must be an int of at least 1, or two of them", got=repr(grid))
    if pair[0] > sides[0] or pair[1] > sides[1]:
        raise InputError(f"The 'grid' must not have more cells than the image has pixels, {sides}", got=repr(grid))
    return (pair[0], pair[1])


def enlarge(counts: tuple[int, int], x: Tensor) -> Enlarge:
    """The way from so many cells to the pixels of these images."""
    return Enlarge(weights(x.shape[2], counts[0], x), weights(x.shape[3], counts[1], x))


def weights(side: int, cells: int, like: Tensor) -> Tensor:
    """How much of each cell a pixel gets: a Gaussian around the cell, or the cell itself where they are as many."""
    if side == cells:
        return torch.eye(side, device=like.device, dtype=torch.float64)
    places = (torch.arange(side, device=like.device, dtype=torch.float64) + 0.5) * cells / side - 0.5
    away = places[:, None] - torch.arange(cells, device=like.device, dtype=torch.float64)
    return (-0.5 * (away / BLUR_OF_CELL) ** 2).softmax(1)


def moved(x: Tensor, shift: Tensor) -> Tensor:
    """Images moved by whole pixels, each by its own, with the border repeated."""
    for axis in (2, 3):
        side = x.shape[axis]
        at = (torch.arange(side) - shift[:, axis - 2, None]).clamp(0, side - 1).to(x.device)
        x = x.gather(axis, at[:, None, :, None].expand_as(x) if axis == 2 else at[:, None, None, :].expand_as(x))
    return x


def starts(counts: tuple[int, int], like: Tensor) -> Tensor:
    """Regions to begin with, (k, h, w): even ones, and discs in the middle."""
    y, x = (((torch.arange(n, device=like.device, dtype=torch.float64) + 0.5) * 2 / n - 1) for n in counts)
    radius = (y[:, None] ** 2 + x**2).sqrt()
    return torch.stack(
        [*(torch.full_like(radius, level) for level in LEVELS), *((radius <= r).double() for r in DISCS)]
    )
