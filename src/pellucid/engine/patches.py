"""What could stand in a window, given what surrounds it? Patches of images as one Gaussian, estimated from data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import seed

# Patches that the mean and the covariance are estimated from.
MOST = 20000
LARGEST_PATCH = 2048


@dataclass(eq=False)
class PatchGaussian:
    """A Gaussian over (channels, height, width) patches, wherever they lie; `low` and `high` bound each channel."""

    size: tuple[int, int, int]
    mean: Tensor
    covariance: Tensor
    low: Tensor
    high: Tensor
    _known: dict[tuple[int, ...], Conditional] = field(default_factory=dict)

    def given_surroundings(self, top: int, left: int, height: int, width: int) -> Conditional:
        """The Gaussian of the window at this place of the patch, given the rest of the patch."""
        key = (top, left, height, width)
        if key not in self._known:
            inside = torch.zeros(self.size, dtype=torch.bool)
            inside[:, top : top + height, left : left + width] = True
            self._known[key] = condition(self.mean, self.covariance, inside.flatten())
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Conditional:
    """x_w | x_s ~ N(mean + gain (x_s - rest), root rootᵀ): the window w given its surroundings s in the patch."""

    inside: Tensor
    mean: Tensor
    rest: Tensor
    gain: Tensor
    root: Tensor

    def draw(self, patch: Tensor, noise: Tensor) -> Tensor:
        """Windows (draws, size of the window) for a flat patch and standard normal noise of that shape."""
        centre = self.mean + self.gain @ (patch[~self.inside] - self.rest)
        return centre + noise @ self.root.mT


def condition(mean: Tensor, covariance: Tensor, inside: Tensor) -> Conditional:
    """The Gaussian of the entries `inside`, given the others."""
    cross, around = covariance[inside][:, ~inside], covariance[~inside][:, ~inside]
    gain = cross @ torch.linalg.pinv(around, hermitian=True) if around.numel() else cross
    left = covariance[inside][:, inside] - gain @ cross.mT
    value, vector = torch.linalg.eigh((left + left.mT) / 2)
    return Conditional(inside, mean[inside], mean[~inside], gain, vector * value.clamp(min=0).sqrt())


def gaussian(images: Tensor, height: int, width: int, number: int) -> PatchGaussian:
    """The Gaussian of the patches of this size in the images, all of them or `MOST` drawn by the seed `number`."""
    rows, channels, tall, wide = images.shape
    size = channels * height * width
    if size > LARGEST_PATCH:
        raise InputError(
            f"The patch must have at most {LARGEST_PATCH} values, whose covariance is estimated",
            got=f"{channels} × {height} × {width} = {size}",
            hint="a smaller 'window' or 'surround', or sampler='marginal'",
        )
    places = rows * (tall - height + 1) * (wide - width + 1)
    if places < 2:
        raise InputError("The 'data' must hold at least two patches", got=str(places))
    chosen = np.arange(places)
    if places > MOST:
        chosen = np.sort(seed.generator(number, b"patches", 0).choice(places, MOST, replace=False))
    spots = torch.from_numpy(chosen).to(images.device)
    across, down = wide - width + 1, tall - height + 1
    row, top, left = spots // (down * across), spots // across % down, spots % across
    view = images.unfold(2, height, 1).unfold(3, width, 1)
    patches = view[row, :, top, left].flatten(1).double().cpu()
    low, high = (f(images.movedim(1, 0).flatten(1), dim=1).double().cpu() for f in (torch.amin, torch.amax))
    return PatchGaussian(
        (channels, height, width), patches.mean(0), torch.cov(patches.mT).reshape(size, size), low, high
    )
