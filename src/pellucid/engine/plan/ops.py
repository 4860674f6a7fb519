"""The affine steps of a plan: a convolution or linear map, with the sum and ReLU that follow it, in one go.

The weights are tensors of the plan's own that ask for no gradient, so that a backward pass goes to the inputs alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pellucid.engine.plan.kernels import Joined, Packed
from pellucid.engine.plan.trace import Traced, variants

_FUNCTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Affine:
    """x -> weight . x + bias [+ other] [, then ReLU], on fresh memory."""

    kind: str  # "linear" or "convolution"
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    transposed: bool = False
    groups: int = 1
    relu: bool = False
    channels_last: bool = False

    @property
    def __name__(self) -> str:
        return self.kind

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        out = self.map(x)
        if self.kind == "linear" and x.dim() != 2:  # the product is a view, which autograd copies when it is written to
            out = out if other is None else out + other
            return out.relu() if self.relu else out
        # The product is fresh memory that no backward pass reads, so the sum and the ReLU may overwrite it.
        if other is not None:
            out = out.add_(other)
        return out.relu_() if self.relu else out

    def map(self, x: Tensor) -> Tensor:
        """The affine map alone."""
        if self.kind == "linear":
            return F.linear(x, self.weight, self.bias)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return torch.convolution(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def scaled(self, scale: Tensor, shift: Tensor) -> Affine:
        """Followed by `scale * y + shift` for each output channel; computed in float64, then rounded once."""
        weight = self.weight.double()
        if self.transposed:
            outputs = weight.shape[1]
            grouped = scale.reshape(self.groups, 1, outputs, *[1] * (weight.dim() - 2))
            product = (weight.reshape(self.groups, -1, *weight.shape[1:]) * grouped).reshape(weight.shape)
        else:
            product = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        product = product.to(self.weight.dtype)
        if self.channels_last:
            product = product.contiguous(memory_format=torch.channels_last)
        return dataclasses.replace(self, weight=product, bias=bias.to(self.weight.dtype))

    def changed(self, **settings: Any) -> Affine:
        """The same step with other settings."""
        return dataclasses.replace(self, **settings)

    def compiled(self, shape: tuple[int, ...], *, gradient: bool) -> Any:
        """The same step by the kernels made for it, where there are any; `shape` is what it will mostly see."""
        if not self.channels_last or self.transposed:
            return self
        return Joined(self, shape) if gradient else Packed(self, shape)


def affine_of(node: fx.Node, traced: Traced, *, quick: bool) -> tuple[fx.Node, Affine] | None:
    """The source and step of a convolution or linear map in any spelling; None for anything else."""
    if node.op == "call_module":
        found = _from_module(traced.modules[str(node.target)])
        source = node.args[0] if node.args else node.kwargs.get("input")
        if len(node.args) + len(node.kwargs) != 1:
            return None
    elif node.op == "call_function":
        source, found = _from_function(node, traced)
    else:
        return None
    if found is None or not isinstance(source, fx.Node):
        return None
    value = variants(source)[0]
    if found.kind == "convolution" and value.dim() != found.weight.dim():
        return None
    if quick and found.kind == "convolution" and value.dim() == 4 and value.dtype is torch.float32:
        weight = found.weight.contiguous(memory_format=torch.channels_last)
        found = dataclasses.replace(found, weight=weight, channels_last=True)
    return source, found


def _from_module(module: Any) -> Affine | None:
    if type(module) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return Affine(kind="linear", weight=module.weight.detach(), bias=_detached(module.bias))
    plain = type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = type(module) in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if not (plain or transposed) or module.padding_mode != "zeros":
        return None
    padding = _padding(module.padding, module.weight, module.dilation)
    if padding is None:
        return None
    return Affine(
        kind="convolution",
        weight=module.weight.detach(),
        bias=_detached(module.bias),
        stride=tuple(module.stride),
        padding=padding,
        dilation=tuple(module.dilation),
        output_padding=tuple(module.output_padding),
        transposed=transposed,
        groups=int(module.groups),
    )


def _from_function(node: fx.Node, traced: Traced) -> tuple[Any, Affine | None]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    weight, bias = given.get("weight"), given.get("bias")
    known = node.target is F.linear or node.target in _FUNCTIONS
    if not known or not _constant(weight) or not (bias is None or _constant(bias)):
        return None, None
    matrix = traced.constants[weight.target]  # type: ignore[union-attr,index]
    offset = None if bias is None else traced.constants[bias.target]  # type: ignore[union-attr,index]
    if node.target is F.linear:
        return given["input"], Affine(kind="linear", weight=matrix, bias=offset)
    rank = _FUNCTIONS[node.target]  # type: ignore[index]
    stride, dilation = (_spread(given.get(name, 1), rank) for name in ("stride", "dilation"))
    groups, spread = given.get("groups", 1), given.get("padding", 0)
    padding = _padding(spread if isinstance(spread, str) else _spread(spread, rank), matrix, dilation)
    settings = (*stride, *dilation, groups, *(padding or ()))
    if padding is None or not all(isinstance(item, int) for item in settings):
        return None, None
    return given["input"], Affine(
        kind="convolution",
        weight=matrix,
        bias=offset,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=(0,) * rank,
        groups=groups,  # type: ignore[arg-type]
    )


def _padding(padding: Any, weight: Tensor, dilation: tuple[int, ...]) -> tuple[int, ...] | None:
    """Padding in numbers; None where the two sides differ."""
    if padding == "valid":
        return (0,) * len(dilation)
    if padding == "same":
        reach = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
        return None if any(each % 2 for each in reach) else tuple(each // 2 for each in reach)
    return tuple(padding)


def _spread(value: Any, rank: int) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        return (value,) * rank
    return tuple(value) * (rank if len(value) == 1 else 1)


def _constant(item: object) -> bool:
    return isinstance(item, fx.Node) and item.op == "get_attr"


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
