"""Baselines: what stands for the absence of information, for each row and in the input's own shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract.errors import InputError
from pellucid.engine.data import as_rows
from pellucid.engine.inputs import Inputs

NAMES = ("zero", "mean", "blur", "min", "max")


def baseline(spec: float | str, inputs: Inputs, data: Any = None) -> tuple[Tensor, ...]:
    """One baseline per row and floating tensor.

    A number fills; "zero", "min", "max" and "mean" are taken per row ("mean" per channel for images); "blur" is a
    Gaussian blur with a tenth of the image's side. `data`, where given, holds the baseline itself: one row for all, or
    one per row.
    """
    if data is not None:
        given = as_rows(data).inputs.floats
        return tuple(_given(b, x) for b, x in zip(_same_count(given, inputs), inputs.floats, strict=True))
    if isinstance(spec, bool) or not isinstance(spec, int | float | str):
        raise InputError(
            f"The 'baseline' must be a number or one of {NAMES}", got=repr(spec), hint="data= for a tensor"
        )
    if isinstance(spec, int | float):
        return tuple(torch.full_like(x, spec) for x in inputs.floats)
    return tuple(_named(spec, x) for x in inputs.floats)


def _same_count(given: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    if len(given) != len(inputs.floats):
        raise InputError(
            f"The baseline given as 'data' must hold {len(inputs.floats)} floating tensors", got=str(len(given))
        )
    return given


def _given(value: Tensor, x: Tensor) -> Tensor:
    if value.shape[1:] != x.shape[1:] or value.shape[0] not in (1, x.shape[0]):
        raise InputError(
            f"The baseline given as 'data' must have shape {(1, *x.shape[1:])} or {tuple(x.shape)}",
            got=str(tuple(value.shape)),
            hint="'expected-gradients' for a set of baselines",
        )
    return value.to(device=x.device, dtype=x.dtype).expand(x.shape)


def _named(name: str, x: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim())) if x.dim() == 4 else tuple(range(1, x.dim()))
    if name == "zero":
        return torch.zeros_like(x)
    if name == "mean":
        return x.mean(axes, keepdim=True).expand(x.shape) if axes else x.clone()
    if name in ("min", "max"):
        flat = x.flatten(1)
        edge = flat.amin(1) if name == "min" else flat.amax(1)
        return edge.reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape)
    if name == "blur":
        return blur(x, max(1.0, min(x.shape[-2:]) / 10))
    raise InputError(f"The 'baseline' must be a number or one of {NAMES}", got=repr(name))


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of images (N, C, H, W), with reflected edges; the mean of a flat image stays as it is."""
    if x.dim() != 4:
        raise InputError("The baseline 'blur' needs images (rows, channels, height, width)", got=str(tuple(x.shape)))
    for axis in (2, 3):
        radius = min(int(3 * sigma + 0.5), x.shape[axis] - 1)
        at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = functional.pad(x, pad, mode="reflect") if radius else x
        x = functional.conv2d(padded, kernel.expand(x.shape[1], 1, *kernel.shape[2:]), groups=x.shape[1])
    return x
