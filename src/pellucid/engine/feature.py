"""What counts as one feature? Groups of input values that are changed together and share one figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine.inputs import Inputs

NAMES = ("auto", "element", "column", "token", "channel", "pixel")
SIZED = ("grid", "patch", "superpixels")
AUTO_GRID = 8
NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Features:
    """Which feature each value belongs to.

    `labels` has one integer tensor per floating tensor, of shape (1 or rows, ...) that broadcasts to it; features are
    numbered 0 to `count` - 1 over all tensors together, and `NOWHERE` marks values that belong to none. A row may have
    fewer features than another.
    """

    labels: tuple[Tensor, ...]
    count: int

    def inside(self, rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        """For each job, where the feature `which[job]` of the row `rows[job]` lies, one boolean mask per tensor."""
        masks = []
        for labels in self.labels:
            chosen = labels if labels.shape[0] == 1 else labels[rows.to(labels.device)]
            number = which.to(device=labels.device, dtype=labels.dtype)
            masks.append(chosen == number.reshape(-1, *[1] * (labels.dim() - 1)))
        return tuple(masks)

    def among(self, rows: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        """For each job, which values belong to a feature in `present[job]` (jobs, count), or to none; one mask a tensor."""
        if len(self.labels) == 1 and self._each_its_own(self.labels[0]):
            return (present.to(self.labels[0].device).reshape(-1, *self.labels[0].shape[1:]),)
        padded = torch.cat([present, present.new_ones(present.shape[0], 1)], 1)
        masks = []
        for labels in self.labels:
            number = torch.where(labels == NOWHERE, self.count, labels)
            here = padded.to(labels.device)
            if labels.shape[0] == 1:
                masks.append(here.index_select(1, number.flatten()).reshape(-1, *labels.shape[1:]))
            else:
                number = number[rows.to(labels.device)].flatten(1)
                masks.append(here.gather(1, number).reshape(-1, *labels.shape[1:]))
        return tuple(masks)

    def _each_its_own(self, labels: Tensor) -> bool:
        """Whether the features are the places themselves, in order, as the columns of a table are."""
        own = labels.shape[0] == 1 and labels.numel() == self.count
        return own and torch.equal(labels.flatten(), torch.arange(self.count, device=labels.device))

    def gather(self, values: tuple[Tensor, ...]) -> Tensor:
        """The sum of each feature's values, (rows, count) in float64; the values that belong to none are left out."""
        total = torch.zeros(values[0].shape[0], self.count + 1, dtype=torch.float64)
        for labels, v in zip(self.labels, values, strict=True):
            number = torch.where(labels == NOWHERE, self.count, labels).expand(v.shape).flatten(1)
            total.scatter_add_(1, number.cpu(), v.detach().flatten(1).cpu().double())
        return total[:, : self.count]

    def spread(self, figures: Tensor, inputs: Inputs) -> tuple[Tensor, ...]:
        """Every value's share of (rows, count) figures: its feature's figure, and zero where it belongs to none."""
        padded = torch.cat([figures, figures.new_zeros(figures.shape[0], 1)], 1)
        found = []
        for labels, x in zip(self.labels, inputs.floats, strict=True):
            number = torch.where(labels == NOWHERE, self.count, labels).expand(x.shape[0], *labels.shape[1:])
            value = padded.to(labels.device).gather(1, number.flatten(1)).reshape(number.shape)
            found.append(value.to(x.dtype).expand(x.shape).contiguous())
        return tuple(found)


def features(spec: str | tuple[Any, ...], inputs: Inputs, cells: int = AUTO_GRID) -> Features:
    """The features that `spec` describes.

    "element": every number. "column": the columns of a table. "token": the steps of (rows, steps, width). "channel":
    the second axis. "pixel": one position with all its channels. ("grid", k): k × k cells. ("patch", k): cells with a
    side of k. ("superpixels", k): about k regions of like colour, per image, by SLIC. ((0, 1), (2,)): groups of
    columns. "auto": columns of tables, the second axis of sequences, a grid of `cells` × `cells` for images.
    """
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 1:
        raise InputError("The 'cells' must be an int of at least 1", got=repr(cells))
    if isinstance(spec, tuple | list) and spec and all(isinstance(group, tuple | list) for group in spec):
        return _columns(tuple(map(tuple, spec)), inputs)
    labels, count = [], 0
    for x in inputs.floats:
        own = _labels(spec, x, cells)
        labels.append(torch.where(own == NOWHERE, own, own + count))
        count += int(own.max()) + 1
    return Features(tuple(labels), count)


def groups(mask: Any, inputs: Inputs) -> Features:
    """The features of integer masks in the structure of the inputs; equal numbers belong together, also across tensors.

    A mask has the shape of its tensor, with or without the row axis, or 1 along any axis; negative numbers mark values
    that belong to no feature.
    """
    parts: list[Any] = list(mask.values()) if isinstance(mask, Mapping) else [mask]
    parts = list(mask) if isinstance(mask, tuple | list) else parts
    if isinstance(mask, Mapping) and inputs.names:
        parts = [mask.get(inputs.names[i]) for i in inputs.explained]
    if len(parts) != len(inputs.floats):
        raise InputError(f"The 'groups' must have {len(inputs.floats)} masks, one per tensor", got=str(len(parts)))
    given = [_mask(part, x) for part, x in zip(parts, inputs.floats, strict=True)]
    numbers = torch.unique(torch.cat([m.flatten() for m in given]))
    numbers = numbers[numbers >= 0]
    if not len(numbers):
        raise InputError("The 'groups' must have at least one number that is not negative", got="none")
    labels = [torch.where(m < 0, NOWHERE, torch.searchsorted(numbers, m.clamp(min=0).contiguous())) for m in given]
    return Features(tuple(labels), len(numbers))


def _mask(part: Any, x: Tensor) -> Tensor:
    part = torch.as_tensor(part) if part is not None and not isinstance(part, Tensor) else part
    if not isinstance(part, Tensor) or part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
        got = type(part).__name__ if not isinstance(part, Tensor) else str(part.dtype)
        raise InputError("The 'groups' must be masks of integers, one number per feature", got=got, hint="mask.long()")
    whole = part[None] if part.dim() == x.dim() - 1 else part
    if whole.dim() != x.dim() or any(n not in (1, m) for n, m in zip(whole.shape, x.shape, strict=True)):
        raise InputError(
            f"The mask in 'groups' must have shape {tuple(x.shape[1:])}, or 1 along any axis, with or without rows",
            got=str(tuple(part.shape)),
        )
    return whole.to(device=x.device, dtype=torch.long)


def _labels(spec: Any, x: Tensor, cells: int) -> Tensor:
    """Feature numbers from 0 for one tensor, of a shape that broadcasts to it."""
    shape = tuple(x.shape[1:])
    if spec == "auto":
        spec = ("grid", min(cells, *shape[1:])) if len(shape) > 2 else "channel" if len(shape) == 2 else "element"
    if spec == "element":
        return _number(shape, range(len(shape)), x)
    if isinstance(spec, str) and spec in NAMES:
        lengths = {"column": (1,), "token": (2,), "channel": (2, 3, 4), "pixel": (2, 3, 4)}[spec]
        if len(shape) not in lengths:
            raise _misfit(spec, x)
        return _number(shape, range(1, len(shape)) if spec == "pixel" else (0,), x)
    if not isinstance(spec, tuple | list) or len(spec) != 2 or spec[0] not in SIZED:
        raise InputError(
            f"The 'features' must be one of {NAMES}, a pair such as ('grid', 8), or groups of columns",
            got=repr(spec),
            hint=f"one of {SIZED} with a size; data={{'groups': mask}} for your own",
        )
    name, size = spec
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"The size of {name!r} must be an int of at least 1", got=repr(size))
    if len(shape) < 2 or (name == "superpixels" and len(shape) != 3):
        raise _misfit(name, x)
    return superpixels(x, size) if name == "superpixels" else _cells(name, size, x)


def _number(shape: tuple[int, ...], axes: Any, x: Tensor) -> Tensor:
    """Consecutive numbers over these axes, the same along the others."""
    kept = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    return torch.arange(math.prod(kept), device=x.device).reshape(1, *kept)


def _cells(name: str, size: int, x: Tensor) -> Tensor:
    """Rectangular cells over the axes after the channels: `size` of them per axis, or with a side of `size`."""
    sides = x.shape[2:]
    if name == "grid" and size > min(sides):
        raise InputError(f"The cells of 'grid' must not outnumber the {min(sides)} positions of an axis", got=str(size))
    number = torch.zeros((1,) * x.dim(), dtype=torch.long, device=x.device)
    for axis, side in enumerate(sides, 2):
        place = torch.arange(side, device=x.device)
        cell = place * size // side if name == "grid" else place // size
        number = number * (int(cell[-1]) + 1) + cell.reshape(*[-1 if a == axis else 1 for a in range(x.dim())])
    return number


def superpixels(images: Tensor, count: int) -> Tensor:
    """About `count` connected regions of like colour per image (N, C, H, W), numbered from 0: (N, 1, H, W).

    SLIC of Achanta et al. 2012 as in scikit-image, on values scaled to 0…1 per image; without randomness. Three
    channels are compared as colours, in Lab, whose lightness runs to 100; others as they are, so that the same weight of
    position against colour is a hundredth there.
    """
    from skimage.segmentation import slic

    compactness = 10.0 if images.shape[1] == 3 else 0.1
    found = []
    for image in images.detach().cpu().double():
        low, high = image.min(), image.max()
        scaled = ((image - low) / (high - low if high > low else 1)).movedim(0, -1).numpy()
        cut = slic(scaled, n_segments=count, compactness=compactness, start_label=0, channel_axis=-1)
        regions = torch.from_numpy(cut).long()
        found.append(torch.unique(regions, return_inverse=True)[1].reshape(regions.shape))
    return torch.stack(found)[:, None].to(images.device)


def _columns(chosen: tuple[tuple[Any, ...], ...], inputs: Inputs) -> Features:
    """Groups of a table's columns; columns in none are left alone."""
    x = inputs.floats[0]
    if len(inputs.floats) != 1 or x.dim() != 2:
        raise _misfit("groups of columns", x)
    labels = torch.full((1, x.shape[1]), NOWHERE, dtype=torch.long, device=x.device)
    for number, columns in enumerate(chosen):
        for column in columns:
            if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < x.shape[1]:
                raise InputError(f"The columns in 'features' must be from 0 to {x.shape[1] - 1}", got=repr(column))
            if labels[0, column] != NOWHERE:
                raise InputError("The groups in 'features' must not share a column", got=f"column {column} twice")
            labels[0, column] = number
    return Features((labels,), len(chosen))


def _misfit(name: str, x: Tensor) -> InputError:
    wants = {
        "column": "a table (rows, columns)",
        "groups of columns": "one table (rows, columns)",
        "token": "sequences (rows, steps, width)",
        "superpixels": "images (rows, channels, height, width)",
    }.get(name, "inputs with channels and positions, such as images")
    return InputError(
        f"The 'features' {name!r} need {wants}", got=f"shape {tuple(x.shape)}", hint="features='auto' or 'element'"
    )
