"""How a layer's values lie: as maps with channels first or last, or as tokens that stand for a grid of places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pellucid.contract.errors import InputError

__all__: list[str] = []

MOST_EXTRA = 16
Grid = tuple[int, int] | None

_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FIRST_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d)
_POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d)


@dataclass(frozen=True)
class Layout:
    """Where the channels are, and for tokens the grid they stand for behind `extra` leading ones."""

    kind: str
    grid: tuple[int, int] = (0, 0)
    extra: int = 0

    def maps(self, values: Tensor) -> Tensor:
        """The values as maps (N, channels, ...)."""
        if self.kind == "channels first":
            return values
        if self.kind == "channels last":
            return values.movedim(-1, 1)
        return values[:, self.extra :].mT.unflatten(2, self.grid)


class Unclear(Exception):
    """The values can't be told to be maps: `got` says why and `hint` what would tell."""

    def __init__(self, got: str, hint: str) -> None:
        super().__init__(got)
        self.got, self.hint = got, hint


def check_grid(grid: Any) -> None:
    """Refuse a grid that is no pair of positive whole numbers."""
    if grid is None:
        return
    pair = isinstance(grid, tuple | list) and len(grid) == 2
    if not pair or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in grid):
        raise InputError("The 'grid' must be a pair (rows, columns) of positive whole numbers", got=repr(grid))


def layout_of(
    shape: tuple[int, ...], module: nn.Module, side: str, image: tuple[int, int] | None, grid: Grid
) -> Layout:
    """The layout of values of a shape (with rows) at a module's output or input, for images of a height and width."""
    if len(shape) == 5 and grid is None:
        return Layout("channels first")
    if len(shape) == 4:
        return _spatial(shape, module, side, image, grid)
    if len(shape) == 3:
        return _tokens(shape, module, side, image, grid)
    raise Unclear(f"shape {shape}", "")


def _spatial(shape: tuple[int, ...], module: nn.Module, side: str, image: Any, grid: Grid) -> Layout:
    first, last = _evidence(module, side, shape)
    if grid is not None:
        fits_first, fits_last = shape[2:] == tuple(grid), shape[1:3] == tuple(grid)
        if not fits_first and not fits_last:
            raise Unclear(f"shape {shape} with grid={tuple(grid)}", "grid=None, or the layer's own height and width")
        return Layout("channels last" if fits_last and (not fits_first or (last and not first)) else "channels first")
    if first != last:
        return Layout("channels last" if last else "channels first")
    like_first, like_last = _like(shape[2:4], image), _like(shape[1:3], image)
    if like_first == like_last and not first:
        return Layout("channels first")  # nothing speaks against the usual order
    if first and like_first != like_last:
        return Layout("channels last" if like_last else "channels first")
    if like_first and not last:
        return Layout("channels first")
    raise Unclear(
        f"shape {shape}, whose channels may come first or last",
        f"grid={tuple(shape[1:3])} for channels last, grid={tuple(shape[2:4])} for channels first",
    )


def _tokens(shape: tuple[int, ...], module: nn.Module, side: str, image: Any, grid: Grid) -> Layout:
    count = shape[1]
    if grid is not None:
        extra = count - grid[0] * grid[1]
        if not 0 <= extra <= MOST_EXTRA:
            raise Unclear(
                f"{count} tokens for {grid[0]} × {grid[1]} places",
                f"a grid of {count} places, or of a few less where class tokens come first",
            )
        return Layout("tokens", (int(grid[0]), int(grid[1])), extra)
    first, last = _evidence(module, side, shape)
    sides = [(extra, math.isqrt(count - extra)) for extra in (0, 1) if count - extra > 1]
    square = [(extra, side) for extra, side in sides if side * side == count - extra]
    if image is None or image[0] != image[1] or not square or first or not last:
        raise Unclear(
            f"shape {shape}, which may be tokens (rows, tokens, channels) on a grid",
            "grid=(rows, columns) if they are; leading tokens over that, such as a class token, are left out",
        )
    extra, length = square[0]
    return Layout("tokens", (length, length), extra)


def _like(sides: tuple[int, ...], image: tuple[int, int] | None) -> bool:
    """Whether the sides stand to each other as the image's do."""
    return image is not None and sides[0] * image[1] == sides[1] * image[0]


def _evidence(module: nn.Module, side: str, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether a part of the module makes (or takes) this many channels on the first axis, and on the last."""
    first, last, given = isinstance(module, _POOLS), False, side == "in"
    for part in module.modules():
        if isinstance(part, _FIRST):
            first |= (part.in_channels if given else part.out_channels) == shape[1]
        elif isinstance(part, _FIRST_NORMS):
            first |= part.num_features == shape[1]
        elif isinstance(part, nn.GroupNorm):
            first |= part.num_channels == shape[1]
        elif isinstance(part, nn.Linear):
            last |= (part.in_features if given else part.out_features) == shape[-1]
        elif isinstance(part, nn.LayerNorm):
            last |= tuple(part.normalized_shape) == shape[-1:]
    return first, last
