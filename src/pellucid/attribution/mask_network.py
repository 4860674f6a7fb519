"""A small network that draws masks: its weights, its forward pass, and the descent that trains it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.engine import seed

__all__: list[str] = []

Weights = dict[str, Tensor]
DECAY, SECOND, TINY = 0.9, 0.999, 1e-8  # of Adam
NOTHING = 1e-30  # against a division of zero by zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Masker:
    """A trained masker: weights by name, mean and deviation of the data's channels, and how the training went."""

    weights: Weights
    centre: Tensor
    spread: Tensor
    depth: int
    rows: int
    losses: tuple[float, float]

    def masks(self, images: Tensor, classes: Tensor) -> Tensor:
        """(N, 1, H, W) for images (N, C, H, W) and classes (N,)."""
        return draw((images - self.centre) / self.spread, classes, self.weights, self.depth)


def draw(images: Tensor, classes: Tensor, weights: Weights, depth: int) -> Tensor:
    """The masker: down through `depth` halvings, a filter by the class, and up again beside what was seen on the way."""

    def stage(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return functional.relu(functional.conv2d(x, weights[name], weights[name + ".bias"], stride, padding=1))

    seen = [stage("enter", images)]
    for level in range(depth):
        seen.append(stage(f"down{level}", seen[-1], 2))
    deep = seen[-1]
    agreement = (deep * weights["class"][classes][:, :, None, None]).sum(1, keepdim=True)
    x = deep * agreement.sigmoid()
    for level in reversed(range(depth)):
        wide = functional.interpolate(x, size=seen[level].shape[2:], mode="nearest")
        x = stage(f"up{level}", torch.cat([wide, seen[level]], 1))
    # The source's share of two parts: unlike a sigmoid it has a slope wherever it stands, so no mask gets stuck at 0 or 1.
    inside, outside = functional.conv2d(x, weights["leave"], weights["leave.bias"]).abs().split(1, 1)
    return inside / (inside + outside + NOTHING)


def drawn_weights(channels: int, classes: int, width: int, depth: int, number: int, like: Tensor) -> Weights:
    """Weights to begin with, from the seed alone: normal, scaled to keep the size of what passes."""
    wide = [width, *[2 * width] * depth]
    shapes: dict[str, tuple[int, ...]] = {"enter": (wide[0], channels, 3, 3), "class": (classes, wide[-1])}
    for level in range(depth):
        shapes[f"down{level}"] = (wide[level + 1], wide[level], 3, 3)
        shapes[f"up{level}"] = (wide[level], wide[level + 1] + wide[level], 3, 3)
    shapes["leave"] = (2, wide[0], 1, 1)
    found: Weights = {}
    for name, shape in shapes.items():
        scale = math.sqrt(2 / math.prod(shape[1:]))
        found[name] = scale * seed.normal(number, [f"masker {name}".encode()], [0], shape, like)[0]
        if name != "class":
            # A mask that begins high shows the model the image, so that there is a score to keep.
            found[name + ".bias"] = like.new_tensor([2.0, 1.0] if name == "leave" else [0.0] * shape[0])
    return found


class Adam:
    """Adam on a dictionary of weights, in place; torch's own would be imported with its compiler."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.count = weights, 0
        self.mean = {k: torch.zeros_like(v) for k, v in weights.items()}
        self.square = {k: torch.zeros_like(v) for k, v in weights.items()}

    def move(self, slopes: Mapping[str, Tensor], rate: float) -> None:
        """One step against the slopes."""
        self.count += 1
        for name, slope in slopes.items():
            mean, square = self.mean[name], self.square[name]
            mean.lerp_(slope, 1 - DECAY)
            square.lerp_(slope.square(), 1 - SECOND)
            size = (square / (1 - SECOND**self.count)).sqrt() + TINY
            self.weights[name].sub_(rate * mean / (1 - DECAY**self.count) / size)
