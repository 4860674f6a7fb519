"""What will a step's result look like? Shapes and dtypes without computing values.

torch answers on the meta device, but for many common steps it loads its compiler to do so, which takes a second the
first time; those steps are answered here.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ALIKE = (
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Dropout,
    nn.Sigmoid,
)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ALIKE_FUNCTIONS = (F.relu, torch.relu, F.gelu, F.silu, F.dropout)
_ALIKE_METHODS = ("relu", "contiguous")
_ELEMENTWISE = (operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul)
_ELEMENTWISE_IN_PLACE = (operator.iadd, operator.isub, operator.imul)


def outline(kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a step on meta tensors, as meta tensors."""
    first = args[0] if args else None
    if kind == "call_module":
        found = _of_module(target, first) if len(args) == 1 and not kwargs and isinstance(first, Tensor) else None
        return target(*args, **kwargs) if found is None else found
    if kind == "call_method":
        if target in _ALIKE_METHODS and not kwargs and isinstance(first, Tensor):
            return first
        return getattr(first, target)(*args[1:], **kwargs)
    if target in _ALIKE_FUNCTIONS and isinstance(first, Tensor):
        return first
    if target in _ELEMENTWISE_IN_PLACE and isinstance(first, Tensor):
        return first
    if target in _ELEMENTWISE and len(args) == 2 and not kwargs and isinstance(first, Tensor):
        shape = args[1].shape if isinstance(args[1], Tensor) else ()
        if shape in (first.shape, ()) and isinstance(args[1], (Tensor, int, float)):
            return torch.empty(first.shape, dtype=torch.result_type(first, args[1]), device="meta")
    return target(*args, **kwargs)


def _of_module(module: nn.Module, x: Tensor) -> Tensor | None:
    if isinstance(module, _ALIKE):
        return x
    settings: Any = module
    if type(module) is nn.Linear:
        return _empty((*x.shape[:-1], settings.out_features), x)
    if isinstance(module, _POOLS) and x.dim() == 4 and not getattr(module, "return_indices", False):
        return _empty((*x.shape[:2], *module(torch.zeros(1, 1, *x.shape[2:])).shape[2:]), x)
    if type(module) in _CONVOLUTIONS and x.dim() == settings.weight.dim() and not isinstance(settings.padding, str):
        reach = [step * (size - 1) + 1 for step, size in zip(settings.dilation, settings.kernel_size, strict=True)]
        spaces = zip(x.shape[2:], settings.padding, reach, settings.stride, strict=True)
        sizes = [(size + 2 * pad - span) // step + 1 for size, pad, span, step in spaces]
        return _empty((len(x), settings.out_channels, *sizes), x)
    return None


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")
