"""Where do a transformer's tokens lie in what is explained? Words of a sentence, or patches of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

MOST_EXTRA = 8


@dataclass(frozen=True)
class Layout:
    """Tokens over a place: `extra` tokens of the model's own come first (a class token), then words or patches.

    `grid` is the number of patches along height and width, or None where a token is a step of a sequence.
    """

    shape: tuple[int, ...]
    extra: int
    grid: tuple[int, int] | None = None

    def spread(self, tokens: Tensor) -> Tensor:
        """Figures of tokens (N, tokens) laid over the place, its last axis or its channels kept with length 1."""
        own = tokens[:, self.extra :]
        if self.grid is None:
            return own.reshape(*own.shape, *[1] * (len(self.shape) - 1))
        _, height, width = self.shape
        high, wide = self.grid
        image = own.reshape(-1, 1, high, wide)
        return image.repeat_interleave(height // high, 2).repeat_interleave(width // wide, 3)

    def sizes(self, values: Tensor) -> Tensor:
        """The norm of the values that each of the place's tokens holds, (N, tokens - extra)."""
        if self.grid is None:
            return values.reshape(*values.shape[:2], -1).norm(dim=2)
        high, wide = self.grid
        _, height, width = self.shape
        cells = values.square().sum(1).reshape(-1, high, height // high, wide, width // wide)
        return cells.sum((2, 4)).sqrt().flatten(1)


def lay(tokens: int, place: Tensor) -> Layout | None:
    """How `tokens` tokens lie over a place (N, steps, ...) or (N, channels, height, width); None where they do not."""
    shape = tuple(place.shape[1:])
    for extra in range(min(tokens, MOST_EXTRA + 1)):
        left = tokens - extra
        if len(shape) in (1, 2) and left == shape[0]:
            return Layout(shape, extra)
        if len(shape) == 3 and (grid := _grid(left, *shape[1:])) is not None:
            return Layout(shape, extra, grid)
    return None


def _grid(patches: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of square patches that cover an image."""
    side = math.isqrt(height * width // patches) if patches else 0
    if side and height % side == 0 and width % side == 0 and (height // side) * (width // side) == patches:
        return height // side, width // side
    return None
