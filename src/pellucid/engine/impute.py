"""Filling holes in pictures from around them, so that what is removed leaves no shape behind to be read.

Every missing value is the weighted mean of its eight neighbours (1/6 beside, 1/12 across; renormalised at the border),
known or missing, plus a little noise: one sparse linear system per picture (Rong et al. 2022, §4.1 and appendix).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import seed
from pellucid.engine.coalition import Game

NAME = "imputed"
NOISE = 0.01  # of the row's standard deviation
DRAW = 500  # the draw's number: below it random orders, beyond it noise fills
LEAF = 24
_BESIDE, _ACROSS = 1 / 6, 1 / 12
_STEPS = tuple(
    ((down, right), _BESIDE if 0 in (down, right) else _ACROSS)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
)

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Imputed(Game):
    """A game of pictures in which absent features are imputed from what is present around them."""

    noise: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, game: Game) -> Imputed:
        """The same game; refused where what is explained are no pictures."""
        if any(x.dim() != 4 for x in game.held.floats):
            raise InputError(
                f"The fill {NAME!r} needs pictures (rows, channels, height, width)",
                got=", ".join(f"shape {tuple(x.shape)}" for x in game.held.floats),
                hint="a number, or 'mean'",
            )
        ask, noise = game.ask, []
        for number, x in enumerate(game.held.floats):
            spread = x.flatten(1).std(1, unbiased=False).reshape(-1, 1, 1, 1)
            drawn = seed.normal(ask.seed, ask.keys, [DRAW + number] * len(x), tuple(x.shape[1:]), x)
            noise.append(NOISE * spread * drawn)
        fills = tuple(torch.zeros_like(x[:, None]) for x in game.held.floats)
        return cls(ask, game.held, game.features, fills, tuple(noise))

    def _crossed(self, row: Tensor, present: Tensor, first: int, jobs: int) -> tuple[Tensor, ...]:
        return self._mixed(row.expand(jobs), present[first : first + jobs], torch.zeros(jobs, dtype=torch.long))

    def _pieces(self, row: Tensor, job: Tensor, present: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        return self._mixed(row, present[number[row], job], torch.zeros_like(job))

    def _mixed(self, rows: Tensor, present: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        parts = []
        for x, noise, kept in zip(self.held.floats, self.noise, self.features.among(rows, present), strict=True):
            row = rows.to(x.device)
            gone = ~kept.expand(len(rows), *kept.shape[1:]).cpu()
            parts.append(torch.where(gone.to(x.device), imputed(x[row], gone) + noise[row], x[row]))
        return tuple(parts)


def imputed(pictures: Tensor, gone: Tensor) -> Tensor:
    """Pictures (N, C, H, W) with the places in `gone`, (N, 1 or C, H, W), solved for; without noise.

    Where all of a picture is gone, its mean by channel is what is left to say.
    """
    given, masks = pictures.detach().cpu().double().numpy(), gone.cpu().numpy()
    found = np.empty_like(given)
    for one, mask, out in zip(given, masks, found, strict=True):
        shared = len(mask) == 1
        for channels, hole in (
            [(slice(None), mask[0])] if shared else [(slice(c, c + 1), m) for c, m in enumerate(mask)]
        ):
            out[channels] = _solved(one[channels], hole)
    return torch.from_numpy(found).to(pictures)


def _solved(picture: Array, gone: Array) -> Array:
    """One picture (C, H, W) with one hole (H, W) filled."""
    if gone.all():
        return np.broadcast_to(picture.mean((1, 2), keepdims=True), picture.shape)
    if not gone.any():
        return picture
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    height, width = gone.shape
    order = _dissected(height, width)
    places = order[gone.reshape(-1)[order]]
    count, wide = len(places), width + 2
    at = (places // width + 1) * wide + places % width + 1  # in a picture with a border of one place
    number = np.full((height + 2) * wide, -1)
    number[at] = np.arange(count)
    inside = np.zeros((height + 2, wide))
    inside[1:-1, 1:-1] = 1
    known = np.zeros((len(picture), height + 2, wide))
    known[:, 1:-1, 1:-1] = np.where(gone, 0, picture)
    known, inside = known.reshape(len(picture), -1), inside.reshape(-1)
    total, right = np.zeros(count), np.zeros((len(picture), count))
    entries, rows, columns = [], [], []
    for (down, across), weight in _STEPS:
        beside = at + down * wide + across
        total += weight * inside[beside]
        right += weight * known[:, beside]
        column = number[beside]
        row = np.flatnonzero(column >= 0)
        rows.append(row)
        columns.append(column[row])
        entries.append(np.full(len(row), -weight))
    each = np.arange(count)
    table = np.concatenate([*entries, total]), (np.concatenate([*rows, each]), np.concatenate([*columns, each]))
    # The order is good for all holes, and the matrix symmetric with a heavy diagonal: nothing has to be searched for.
    solver = splu(
        csc_matrix(table, shape=(count, count)),
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    found = picture.copy()
    found.reshape(len(picture), -1)[:, places] = solver.solve(np.ascontiguousarray(right.T)).T
    return found


@lru_cache(maxsize=16)
def _dissected(height: int, width: int) -> Array:
    """The places of a picture by nested dissection: halves first, and then the line between them, all the way down.

    Systems of neighbours in such an order fill up least as they are solved (George 1973).
    """
    parts: list[Array] = []

    def cut(top: int, left: int, tall: int, broad: int) -> None:
        if tall <= 0 or broad <= 0:
            return
        if tall * broad <= LEAF or min(tall, broad) == 1:
            down, right = np.mgrid[top : top + tall, left : left + broad]
            parts.append((down * width + right).reshape(-1))
        elif tall >= broad:
            half = tall // 2
            cut(top, left, half, broad)
            cut(top + half + 1, left, tall - half - 1, broad)
            cut(top + half, left, 1, broad)
        else:
            half = broad // 2
            cut(top, left, tall, half)
            cut(top, left + half + 1, tall, broad - half - 1)
            cut(top, left + half, tall, 1)

    cut(0, 0, height, width)
    return np.concatenate(parts)
