"""What does a network make of an uncertain input? Means and variances carried through its operations, one by one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine.incremental.recorded import rows_first
from pellucid.engine.plan.fuse import between, lower, normalise
from pellucid.engine.plan.ops import Affine
from pellucid.engine.plan.trace import Refused, Traced, copy_of, trace, variants
from pellucid.engine.plan.watch import obstacle

__all__: list[str] = []

# How each operation carries a mean and a variance on. Modules by type, functions by themselves, methods by name.
RULES: dict[str, tuple[Any, ...]] = {
    "rectify": (nn.ReLU, torch.relu, F.relu, "relu"),
    "smooth": (
        *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, torch.tanh, torch.sigmoid, F.tanh, F.sigmoid, F.gelu),
        *(F.silu, F.softplus, "tanh", "sigmoid"),
    ),
    "maximum": (nn.MaxPool1d, nn.MaxPool2d, F.max_pool1d, F.max_pool2d),
    "scale": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, F.batch_norm),
    "average": (nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d),
    "even average": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, "mean"),
    "shape": (
        *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.permute),
        *(torch.transpose, operator.getitem, "flatten", "reshape", "view", "squeeze", "unsqueeze", "permute"),
        *("transpose", "contiguous", "clone", "expand"),
    ),
    "sum": (torch.sum, "sum"),
    "join": (torch.cat,),
    "add": (operator.add, torch.add, "add"),
    "subtract": (operator.sub, torch.sub, "sub"),
    "product": (operator.matmul, torch.matmul, "matmul"),
    "multiply": (operator.mul, torch.mul, "mul"),
    "divide": (operator.truediv, torch.div, "div"),
}
RULES["even average"] += (torch.mean,)
NAMES = {operation: name for name, operations in RULES.items() for operation in operations}
# These are affine: what they do to every coalition's value follows from what they do to each feature's alone.
AFFINE = (
    "affine",
    "scale",
    "average",
    "even average",
    "shape",
    "sum",
    "join",
    "add",
    "subtract",
    "product",
    "multiply",
    "divide",
)
NODES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """Independent normal values."""

    mean: Tensor
    variance: Tensor

    def both(self, function: Callable[[Tensor], Tensor]) -> Normal:
        """The same function of mean and variance."""
        return Normal(function(self.mean), function(self.variance))


class _Rows:
    """The number of rows, which differs between the points at which features are switched on and the coalitions."""


ROWS = _Rows()


def rectified(value: Normal) -> Normal:
    """Mean and variance of max(0, z) for normal z."""
    m, s = value.mean, value.variance.clamp(min=0).sqrt()
    z = torch.where(s > 0, m / s.where(s > 0, torch.ones_like(s)), torch.where(m > 0, torch.inf, -torch.inf))
    above, density = torch.special.ndtr(z), torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    mean = m * above + s * density
    square = (m**2 + s**2) * above + m * s * density
    return Normal(mean, (square - mean**2).clamp(min=0))


def larger(one: Normal, other: Normal) -> Normal:
    """Mean and variance of the larger of two independent normals (Clark 1961)."""
    spread = (one.variance + other.variance).clamp(min=0).sqrt()
    gap = one.mean - other.mean
    z = torch.where(spread > 0, gap / spread.where(spread > 0, torch.ones_like(spread)), torch.sign(gap) * torch.inf)
    z = torch.where((spread == 0) & (gap == 0), torch.zeros_like(z), z)
    first, second = torch.special.ndtr(z), torch.special.ndtr(-z)
    density = spread * torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    mean = one.mean * first + other.mean * second + density
    square = (one.mean**2 + one.variance) * first + (other.mean**2 + other.variance) * second
    square = square + (one.mean + other.mean) * density
    return Normal(mean, (square - mean**2).clamp(min=0))


def smoothed(value: Normal, function: Callable[[Tensor], Tensor]) -> Normal:
    """Mean and variance of a smooth function of a normal, by Gauss–Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    s, mean, square = value.variance.clamp(min=0).sqrt(), torch.zeros_like(value.mean), torch.zeros_like(value.mean)
    for point, weight in zip(points, weights / weights.sum(), strict=True):
        found = function(value.mean + float(point) * s)
        mean, square = mean + float(weight) * found, square + float(weight) * found**2
    return Normal(mean, (square - mean**2).clamp(min=0))


def pooled(value: Normal, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Normal:
    """The largest of each window, its values taken as independent, by a tournament of pairs."""
    flat = value.mean.dim() == 3
    sides = 1 if flat else 2

    def pair(setting: Any, fill: int) -> tuple[int, int]:
        given = tuple(setting) if isinstance(setting, tuple | list) else (setting,) * sides
        return (fill, given[0]) if flat else (given[0], given[1])

    size, step, pad, gap = pair(kernel, 1), pair(stride, 1), pair(padding, 0), pair(dilation, 1)
    whole = value.both(lambda v: v[:, :, None]) if flat else value
    # So low that no value in the window is lower: padding never wins.
    low = float((whole.mean - 40 * whole.variance.clamp(min=0).sqrt()).min()) - 1.0
    edge = (pad[1], pad[1], pad[0], pad[0])
    padded = Normal(F.pad(whole.mean, edge, value=low), F.pad(whole.variance, edge))
    rows, channels, *length = padded.mean.shape
    out = [(n - g * (k - 1) - 1) // s + 1 for n, g, k, s in zip(length, gap, size, step, strict=True)]

    def window(v: Tensor) -> Tensor:
        cut = F.unfold(v, size, dilation=gap, stride=step)
        return cut.reshape(rows, channels, size[0] * size[1], *out)

    found = padded.both(window)
    while (count := found.mean.shape[2]) > 1:
        half = count // 2
        won = larger(found.both(lambda v: v[:, :, :half]), found.both(lambda v: v[:, :, half : 2 * half]))  # noqa: B023
        odd = found.both(lambda v: v[:, :, 2 * half :])  # noqa: B023
        found = Normal(torch.cat([won.mean, odd.mean], 2), torch.cat([won.variance, odd.variance], 2))
    return found.both(lambda v: v[:, :, 0, 0] if flat else v[:, :, 0])


class Network:
    """The recorded operations of a model, in order, each with the rule by which it carries uncertainty on.

    Raises `UnsupportedOperation` with all operations that have none. `exact` are the values that are affine in the
    features, for which a coalition's mean and variance need no approximation.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        try:
            with torch.inference_mode(False):
                plain = _without_hooks(copy_of(model))
                reason = obstacle(plain)
                if reason is None:
                    traced = trace(plain, tuple(x.detach() for x in inputs))
                    reason = None if normalise(traced) else "it writes into values that are still needed"
                    self.traced: Traced = between(traced)
                    lower(self.traced, quick=False)
        except Refused as refusal:
            reason = str(refusal)
        except Exception as error:  # tracing runs the user's code on stand-ins, which may raise anything
            reason = f"it cannot be recorded ({type(error).__name__}: {error})"
        if reason is not None:
            raise UnsupportedOperation("The model's operations can't be followed one by one", got=reason)
        self.nodes = list(self.traced.graph.nodes)
        self.output: Any = self.nodes[-1].args[0]
        self.moving: set[fx.Node] = set()
        self.exact: set[fx.Node] = set()
        self.rules: dict[fx.Node, str] = {}
        self._read()

    def _read(self) -> None:
        missing = []
        for node in self.nodes[:-1]:
            sources = [s for s in node.all_input_nodes if s in self.moving]
            if node.op == "placeholder":
                self.moving.add(node)
                self.exact.add(node)
            elif sources and not _asks_size(node):
                self.moving.add(node)
                rule = self._rule(node, sources)
                if rule is None:
                    missing.append(_told(node, self.traced))
                    continue
                self.rules[node] = rule
                if rule in AFFINE and all(s in self.exact for s in sources):
                    self.exact.add(node)
        if missing:
            raise UnsupportedOperation(
                "Every operation between the input and the output must have a rule for means and variances",
                got=", ".join(dict.fromkeys(missing)),
                hint="'shapley-sampling' or 'kernel-shap', which need predictions alone",
            )

    def _rule(self, node: fx.Node, sources: list[fx.Node]) -> str | None:
        if not rows_first(node):  # coalitions lie along the first axis, and must stay apart
            return None
        if isinstance(node.target, Affine):
            return "affine"
        key = type(self.traced.modules[str(node.target)]) if node.op == "call_module" else node.target
        found = NAMES.get(key)
        products = found in ("multiply", "divide", "product") and (len(sources) > 1 or sources[0] is not node.args[0])
        if found == "multiply" and len(sources) == 1:
            products = False
        settings = _settings(node, self.traced) if found in ("average", "maximum") else {}
        odd = settings.get("ceil_mode") or settings.get("return_indices") or settings.get("divisor_override")
        odd = odd or (
            settings.get("padding", 0) not in (0, (0, 0), (0,)) and settings.get("count_include_pad") is False
        )
        uneven = found == "even average" and _per_row(sources[0]) % max(1, _per_row(node))
        batch = found == "scale" and _trains(node, self.traced)
        alpha = found in ("add", "subtract") and "alpha" in node.kwargs
        return None if products or odd or uneven or batch or alpha else found

    def points(self, inputs: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
        """All values that need no approximation, at these inputs, and what does not depend on them."""
        found: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for node in self.nodes[:-1]:
            if node.op == "placeholder":
                found[node] = next(given)
            elif node.op == "get_attr":
                found[node] = self.traced.constants[str(node.target)]
            elif _asks_size(node) and any(s in self.moving for s in node.all_input_nodes):
                found[node] = ROWS
            elif node not in self.moving or node in self.exact:
                found[node] = self._call(node, found, len(inputs[0]))
        return found

    def carry(self, known: dict[fx.Node, Any], settle: Callable[[Tensor], Normal], rows: int) -> Any:
        """The mean of the output for `rows` coalitions; `settle` makes their normals of values at points."""
        values = {node: value for node, value in known.items() if node not in self.moving}
        settled: dict[fx.Node, Normal] = {}

        def value_of(node: fx.Node) -> Any:
            if node in self.exact:
                if node not in settled:
                    settled[node] = settle(known[node])
                return settled[node]
            return values[node]

        for node in self.nodes[:-1]:
            if node in self.moving and node not in self.exact:
                args, kwargs = map_arg((node.args, node.kwargs), value_of)
                values[node] = self._step(node, args, kwargs, rows)
        return map_arg(self.output, lambda node: found.mean if isinstance(found := value_of(node), Normal) else found)

    def _call(self, node: fx.Node, values: dict[fx.Node, Any], rows: int) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: rows if values[each] is ROWS else values[each])
        return self._apply(node, args, kwargs)

    def _apply(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            return self.traced.modules[str(node.target)].forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _step(self, node: fx.Node, args: Any, kwargs: Any, rows: int) -> Normal:
        """One operation on normals."""
        rule = self.rules[node]

        def with_values(pick: Callable[[Normal], Tensor]) -> Any:
            def put(item: Any) -> Any:
                if isinstance(item, Normal):
                    return pick(item)
                if item is ROWS:
                    return rows
                return type(item)(put(each) for each in item) if isinstance(item, tuple | list) else item

            return self._apply(node, tuple(map(put, args)), {k: put(v) for k, v in kwargs.items()})

        first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Normal)), None)
        if rule in ("shape", "sum", "join"):
            return Normal(with_values(lambda n: n.mean), with_values(lambda n: n.variance))
        assert first is not None
        if rule == "affine":
            step: Any = node.target
            return Normal(step.map(first.mean), step.changed(weight=step.weight**2, bias=None).map(first.variance))
        if rule == "product":
            return Normal(first.mean @ args[1], first.variance @ args[1] ** 2)
        if rule == "rectify":
            return rectified(first)
        if rule == "smooth":
            return smoothed(first, lambda v: with_values(lambda n: v))
        if rule == "maximum":
            s = _settings(node, self.traced)
            return pooled(first, s["kernel_size"], s["stride"] or s["kernel_size"], s["padding"], s["dilation"])
        mean = with_values(lambda n: n.mean)
        if rule in ("add", "subtract"):
            parts = [a.variance for a in args if isinstance(a, Normal)]
            return Normal(mean, (parts[0] if len(parts) == 1 else parts[0] + parts[1]).expand_as(mean))
        if rule == "scale":
            slope = with_values(lambda n: torch.ones_like(n.mean[:1])) - with_values(
                lambda n: torch.zeros_like(n.mean[:1])
            )
            return Normal(mean, first.variance * slope**2)
        if rule in ("multiply", "divide"):
            slope = with_values(lambda n: torch.ones_like(n.mean))
            return Normal(mean, first.variance * slope**2)
        return Normal(mean, with_values(lambda n: n.variance) / self._window(node, first.mean, mean))

    def _window(self, node: fx.Node, before: Tensor, after: Tensor) -> float:
        """How many values an average is of."""
        if self.rules[node] == "even average":
            return before.numel() / after.numel()
        size = _settings(node, self.traced)["kernel_size"]
        given = size if isinstance(size, tuple | list) else (size,) * (before.dim() - 2)
        return float(math.prod(given))


def _without_hooks(copy: nn.Module) -> nn.Module:
    """A copy of a model that calls none of the user's hooks; where one changes the scores, comparing them tells."""
    for module in copy.modules():
        for name, held in vars(module).items():
            if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and isinstance(held, dict):
                held.clear()
    return copy


def _asks_size(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "size"


def _per_row(node: fx.Node) -> int:
    return int(variants(node)[0].numel())


def _trains(node: fx.Node, traced: Traced) -> bool:
    if node.op == "call_module":
        return traced.modules[str(node.target)].running_mean is None
    training = node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False)
    return bool(training)


def _settings(node: fx.Node, traced: Traced) -> dict[str, Any]:
    """Of a pooling operation, by name."""
    names = {
        "average": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
        "maximum": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    }
    if node.op == "call_module":
        module = traced.modules[str(node.target)]
        kind = NAMES[type(module)]
        return {name: getattr(module, name, None) for name in names[kind]}
    kind = NAMES[node.target]
    defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "count_include_pad": True}
    return defaults | dict(zip(names[kind], node.args[1:], strict=False)) | node.kwargs


def _told(node: fx.Node, traced: Traced) -> str:
    if node.op == "call_module":
        return f"{type(traced.modules[str(node.target)]).__name__} ({node.target})"
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
