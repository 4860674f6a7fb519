"""Which operations work place by place? The reads and the small computation of those that do.

An operation is local where each place of its result depends on few places of the maps it reads, by kernel, stride,
padding and dilation. Given crops of those maps, padding included, it is computed for a part of its result alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pellucid.engine.incremental.reach import SAME, Reach
from pellucid.engine.plan.kernels import Packed
from pellucid.engine.plan.ops import Affine
from pellucid.engine.plan.trace import Traced, variants

Crops = Callable[[list[Tensor]], Tensor]
Pair = tuple[int, int]

# Each place of the result depends on that place alone, whatever the channels do among each other.
_POINT_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
    *(nn.Softsign, nn.LogSigmoid, nn.Threshold, nn.Softmax2d, nn.BatchNorm2d),
)
_POINT_FUNCTIONS = frozenset(
    {
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
        *(operator.gt, operator.lt, operator.ge, operator.le, operator.eq, operator.ne),
        *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.maximum, torch.minimum),
        *(torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.log, torch.sqrt, torch.abs, torch.square),
        *(torch.sin, torch.cos, torch.erf, torch.clamp, torch.clamp_min, torch.clamp_max, torch.where, torch.sign),
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardtanh),
        *(F.hardswish, F.hardsigmoid, F.hardshrink, F.softshrink, F.tanhshrink, F.softsign, F.logsigmoid),
        *(F.sigmoid, F.tanh, F.threshold),
    }
)
_POINT_METHODS = frozenset(
    {
        *("add", "sub", "mul", "div", "neg", "pow", "exp", "log", "sqrt", "square", "abs", "relu", "sigmoid", "tanh"),
        *("clamp", "clamp_min", "clamp_max", "maximum", "minimum", "sign", "sin", "cos", "erf", "contiguous", "clone"),
        *("gt", "lt", "ge", "le", "where"),
    }
)
_MAX_POOLS, _AVERAGE_POOLS = (F.max_pool2d, torch.max_pool2d), (F.avg_pool2d,)
_MAX_NAMES = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE_NAMES = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A map that a local step reads: the value of a node, or a map of constants; `fill` is its padding."""

    source: fx.Node | Tensor
    reach: Reach = SAME
    fill: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """What a local step reads, and its result from crops of that, in the same order; `work` per place of the result.

    Without `crops` the step's own arguments are replaced: it is the same at every place.
    """

    reads: tuple[Read, ...]
    crops: Crops | None
    work: float


def local_of(node: fx.Node, traced: Traced) -> Local | None:
    """How this step is computed place by place; None where that is not known."""
    if not is_map(node):
        return None
    if isinstance(node.target, Affine | Packed):
        return _convolution(node)
    module = traced.modules[str(node.target)] if node.op == "call_module" else None
    settings = _pool(node, module)
    if settings is not None:
        return settings
    if node.op == "call_function" and node.target is torch.cat:
        return _cat(node)
    if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d) or node.target is F.pad:
        return _pad(node, module)
    point = isinstance(module, _POINT_MODULES) if node.op == "call_module" else _point(node)
    return _pointwise(node, traced) if point else None


def is_map(node: fx.Node) -> bool:
    """Whether the value is (rows, channels, height, width), rows first."""
    one, several = variants(node)
    maps = isinstance(one, Tensor) and isinstance(several, Tensor) and one.dim() == several.dim() == 4
    return maps and one.shape[0] == 1 < several.shape[0] and one.shape[1:] == several.shape[1:] and one.numel() > 0


def shape_of(node: fx.Node) -> tuple[int, int, int]:
    """Channels, height and width of a map."""
    _, channels, height, width = variants(node)[0].shape
    return channels, height, width


def _point(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _POINT_FUNCTIONS and not node.kwargs.get("out")
    return node.op == "call_method" and node.target in _POINT_METHODS


def _convolution(node: fx.Node) -> Local | None:
    step: Any = node.target
    source, others = node.args[0], node.args[1:]
    if isinstance(step, Affine):
        if step.kind != "convolution" or step.transposed or step.weight.dim() != 4:
            return None
        kernel, work, unpadded = step.weight.shape[2:], step.weight.numel(), step.changed(padding=(0, 0))
    else:
        kernel, work, unpadded = step.kernel, step.work, step.unpadded()
    if not isinstance(source, fx.Node) or not is_map(source) or not all(_alike(each, node) for each in others):
        return None
    reach = Reach((kernel[0], kernel[1]), step.stride, step.padding, step.dilation)
    reads = (Read(source, reach), *(Read(each) for each in others if isinstance(each, fx.Node)))
    return Local(reads, lambda crops: unpadded(*crops), float(work))


def _alike(value: object, node: fx.Node) -> bool:
    """Whether a value is a map of the same height and width."""
    return isinstance(value, fx.Node) and is_map(value) and shape_of(value)[1:] == shape_of(node)[1:]


def _pool(node: fx.Node, module: nn.Module | None) -> Local | None:
    """Pooling by maxima or averages, adaptive averages that are plain ones included."""
    names: tuple[str, ...] = ()
    if type(module) is nn.MaxPool2d or node.target in _MAX_POOLS:
        names = _MAX_NAMES
    elif type(module) is nn.AvgPool2d or node.target in _AVERAGE_POOLS:
        names = _AVERAGE_NAMES
    elif isinstance(module, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d:
        return _adaptive(node)
    if not names:
        return None
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    if module is not None:
        given |= {name: getattr(module, name) for name in names[1:]}
    source, kernel = given["input"], _pair(given["kernel_size"])
    stride, padding = _pair(given.get("stride")) or kernel, _pair(given.get("padding", 0))
    dilation, ceil = _pair(given.get("dilation", 1)), given.get("ceil_mode", False)
    if kernel is None or padding is None or dilation is None or given.get("return_indices") or not _is_node(source):
        return None
    assert stride is not None
    reach = Reach(kernel, stride, padding, dilation)
    if names is _MAX_NAMES:
        read = Read(source, reach, -torch.inf)
        return Local((read,), lambda crops: F.max_pool2d(crops[0], kernel, stride, 0, dilation), 0.0)
    divisor, inside = given.get("divisor_override"), given.get("count_include_pad", True)
    read = Read(source, reach)
    if divisor is not None or not any(padding) + ceil or (inside and not ceil):
        return Local((read,), lambda crops: F.avg_pool2d(crops[0], kernel, stride, divisor_override=divisor), 0.0)
    # Windows over the border count fewer places: the sum is divided by what each of them counts.
    ones = torch.ones(1, 1, *shape_of(source)[1:], dtype=variants(node)[0].dtype)
    share = F.avg_pool2d(ones, kernel, stride, padding, ceil, inside)
    total = F.avg_pool2d(ones, kernel, stride, padding, ceil, inside, divisor_override=1)
    weight = share / total

    def average(crops: list[Tensor]) -> Tensor:
        return F.avg_pool2d(crops[0], kernel, stride, divisor_override=1) * crops[1].to(crops[0].device)

    return Local((read, Read(weight)), average, 0.0)


def _adaptive(node: fx.Node) -> Local | None:
    source: Any = node.args[0] if node.args else node.kwargs.get("input")
    if not _is_node(source):
        return None
    (_, height, width), (_, rows, columns) = shape_of(source), shape_of(node)
    if height % rows or width % columns or (rows, columns) == (1, 1) != (height, width):
        return None
    kernel = height // rows, width // columns
    return Local((Read(source, Reach(kernel, kernel)),), lambda crops: F.avg_pool2d(crops[0], kernel), 0.0)


def _cat(node: fx.Node) -> Local | None:
    parts: Any = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if axis not in (1, -3) or not isinstance(parts, list | tuple) or not all(_alike(part, node) for part in parts):
        return None
    return Local(tuple(Read(part) for part in parts), lambda crops: torch.cat(crops, 1), 0.0)


def _pad(node: fx.Node, module: Any) -> Local | None:
    given: dict[str, Any] = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    if module is not None:
        given |= {"pad": module.padding, "value": module.value}
    source, sides, value = given["input"], given.get("pad", ()), given.get("value") or 0.0
    if given.get("mode", "constant") != "constant" or len(sides) not in (2, 4) or not _is_node(source):
        return None
    sides = (*sides, 0, 0)[:4]
    if not all(isinstance(side, int) and side >= 0 for side in sides) or not isinstance(value, int | float):
        return None
    reach = Reach(padding=(sides[2], sides[0]))
    return Local((Read(source, reach, float(value)),), lambda crops: crops[0], 0.0)


def _pointwise(node: fx.Node, traced: Traced) -> Local | None:
    """Maps of the same size are read at the result's places; anything else must be the same at all places."""
    reads: list[Read] = []
    for source in node.all_input_nodes:
        if _alike(source, node) or (source.op == "get_attr" and _constant_map(source, node, traced)):
            reads.append(Read(source))
        elif source.op == "get_attr" and _flat(traced.constants[str(source.target)]):
            continue
        else:
            return None
    return Local(tuple(reads), None, 0.0) if reads else None


def _constant_map(source: fx.Node, node: fx.Node, traced: Traced) -> bool:
    constant = traced.constants[str(source.target)]
    return constant.dim() == 4 and len(constant) == 1 and tuple(constant.shape[2:]) == shape_of(node)[1:]


def _flat(constant: Tensor) -> bool:
    """Whether a constant broadcasts to maps with one value for all places of a channel."""
    return constant.dim() == 0 or (2 <= constant.dim() <= 4 and tuple(constant.shape[-2:]) == (1, 1))


def _is_node(source: object) -> bool:
    return isinstance(source, fx.Node) and is_map(source)


def _pair(value: Any) -> Pair | None:
    """Two ints from one or two; None where they are something else."""
    if isinstance(value, int):
        return value, value
    values = tuple(value) if isinstance(value, list | tuple) else ()
    values = values * 2 if len(values) == 1 else values
    return values if len(values) == 2 and all(isinstance(each, int) for each in values) else None
