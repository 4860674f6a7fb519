"""What does a network compute, step by step? A graph of its operations, recorded on a copy.

Nothing outside the copy is touched, not even for an instant: instead of replacing `nn.Module.__call__` for the whole
process, as `torch.fx.symbolic_trace` does, each module of the copy gets a `forward` of its own, so other threads may
run, build or trace what they like meanwhile. Every value is followed at two batch sizes on the meta device. A size
that is the same at both is a plain number, so branches and loops over the shape take the way they take in the model;
a size that differs stays symbolic, and a branch on it is refused.

Cost: one copy of the weights and about 0.1 ms an operation. No forward pass.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn.utils import parametrize

from pellucid.engine.plan.outline import outline

# One row behaves unlike several (it broadcasts, it squeezes away), so one of the two followed sizes is one; the other
# is a prime, which no product of small factors imitates.
BATCHES = (1, 7)

# Queries whose answer a followed value does not know, or that would freeze one row's answer into the graph.
_UNKNOWABLE = frozenset(
    {
        *("requires_grad", "requires_grad_", "grad", "grad_fn", "is_leaf", "backward", "register_hook", "retain_grad"),
        *("data_ptr", "storage", "untyped_storage", "stride", "storage_offset", "is_contiguous", "is_inference"),
        *("item", "tolist", "numpy", "cpu", "cuda", "set_", "resize_", "resize_as_", "apply_", "map_", "_version"),
        *("share_memory_", "__array__", "__cuda_array_interface__", "__dlpack__"),
    }
)
_PLAIN_METHODS = frozenset(("dim", "ndimension", "is_floating_point", "is_complex", "is_signed", "element_size"))


class Refused(Exception):
    """The network has no plan; the message says why."""


@dataclass(slots=True)
class Traced:
    """The operations of a network, with the modules and tensors of the copy that they use."""

    graph: fx.Graph
    modules: dict[str, nn.Module]
    constants: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, list[fx.Node | None]] = field(default_factory=dict)


def tensors_in(value: object) -> list[Tensor]:
    """The tensors anywhere in nested tuples, lists and dicts."""
    return _of_type(value, Tensor)


def _of_type(value: Any, kind: type) -> list[Any]:
    found: list[Any] = []
    map_aggregate(value, lambda leaf: found.append(leaf) if isinstance(leaf, kind) else None)
    return found


def variants(node: fx.Node) -> tuple[Any, ...]:
    """The node's value at each followed batch size: meta tensors, numbers, or tuples of them."""
    values: tuple[Any, ...] = node.meta["variants"]
    return values


class _Value(fx.Proxy):
    """A tensor, or a number that depends on the batch, whose operations are recorded."""

    tracer: _Tracer

    def __getattr__(self, name: str) -> Any:
        return self.tracer.attribute(self, name)

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, index) for index in range(len(self))])

    def __len__(self) -> int:
        lengths = {len(value) for value in variants(self.node)}
        if len(lengths) > 1:
            raise Refused("its forward counts or loops over the rows of the batch")
        return lengths.pop()

    def __bool__(self) -> bool:
        raise Refused("its forward branches on a value or on the number of rows")

    def __index__(self) -> int:
        raise Refused("its forward uses a value, or the number of rows, as a plain number")

    def __int__(self) -> int:
        return self.__index__()

    def __float__(self) -> float:
        return float(self.__index__())

    def __contains__(self, item: object) -> bool:
        return bool(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """`x += y` as what it is; a plain proxy has no such operators, and Python would then record `x + y`."""
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "iand", "ior", "ixor"):
    setattr(_Value, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.proxy.TracerBase):
    """Records the operations on `_Value`s, and what their results look like."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.graph = fx.Graph()
        self.result = Traced(self.graph, dict(model.named_modules()))
        self.names = {id(tensor): name for name, tensor in _named_tensors(model)}
        self.parameters = {id(parameter) for parameter in model.parameters()}
        twins = {id(tensor): _meta_twin(tensor) for _, tensor in _named_tensors(model)}
        self.twins = dict(copy.deepcopy(model, twins).named_modules())
        self.switches = _switches(device)

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> fx.Node:
        if _switches(self.device) != self.switches:
            raise Refused("its forward switches gradients or mixed precision on or off")
        values = [self._evaluate(kind, target, args, kwargs, which) for which in range(len(BATCHES))]
        name = name or (target if isinstance(target, str) else getattr(target, "__name__", "step"))
        node = self.graph.create_node(kind, target, args, kwargs, name, type_expr)
        node.meta["variants"] = tuple(values)
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, _Value):
            return a.node
        if isinstance(a, Tensor):
            return self.constant(a).node
        return super().create_arg(a)

    def constant(self, tensor: Tensor) -> _Value:
        """A tensor that does not depend on the inputs, kept as a copy that asks for no gradient."""
        if isinstance(tensor, nn.Parameter) and id(tensor) not in self.names:
            raise Refused("it uses a parameter that is not registered in it")
        name = self.names.get(id(tensor), f"constant {len(self.result.constants)}")
        if name not in self.result.constants:
            self.result.constants[name] = tensor.detach() if id(tensor) in self.names else tensor.detach().clone()
        node = self.graph.create_node("get_attr", name, name="constant")
        node.meta["variants"] = (_meta_twin(tensor),) * len(BATCHES)
        return self.proxy(node)

    def placeholder(self, example: Tensor, index: int) -> _Value:
        node = self.graph.placeholder(f"input_{index}")
        node.meta["variants"] = tuple(
            torch.empty((batch, *example.shape[1:]), dtype=example.dtype, device="meta") for batch in BATCHES
        )
        return self.proxy(node)

    def attribute(self, value: _Value, name: str) -> Any:
        """What `value.name` is: a recorded operation, or a plain answer where every batch gives the same one."""
        if name in _UNKNOWABLE:
            raise Refused(f"its forward asks for .{name}")
        values = variants(value.node)
        if isinstance(values[0], Tensor):
            if name == "device":
                return self.device
            if name in ("is_cuda", "is_cpu", "is_meta"):
                return name == f"is_{self.device.type}"
            if name == "shape":
                return self.sizes(value)
        found = [getattr(each, name) for each in values]
        if callable(found[0]):
            return functools.partial(self.method, value, name)
        if isinstance(found[0], (Tensor, tuple, list)):
            return self.create_proxy("call_function", getattr, (value, name), {})
        if any(each != found[0] for each in found):
            raise Refused(f"its forward asks for .{name}, which depends on the number of rows")
        return found[0]

    def method(self, value: _Value, name: str, *args: Any, **kwargs: Any) -> Any:
        if isinstance(variants(value.node)[0], Tensor):
            if name == "size":
                index = args[0] if args else kwargs.get("dim")
                return self.sizes(value) if index is None else self.sizes(value)[index]
            if name in _PLAIN_METHODS:
                return getattr(variants(value.node)[0], name)(*args, **kwargs)
        return self.create_proxy("call_method", name, (value, *args), kwargs)

    def sizes(self, value: _Value) -> tuple[Any, ...]:
        """The shape: plain numbers, and a recorded query for each size that depends on the batch."""
        shapes = [each.shape for each in variants(value.node)]
        if len({len(shape) for shape in shapes}) > 1:
            raise Refused("the number of dimensions inside it depends on the number of rows")
        sizes: list[Any] = [
            same[0] if len(set(same)) == 1 else self.create_proxy("call_method", "size", (value, index), {})
            for index, same in enumerate(zip(*shapes, strict=True))
        ]
        return torch.Size(sizes) if all(isinstance(size, int) for size in sizes) else tuple(sizes)

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any, which: int) -> Any:
        """The operation's result at one followed batch size."""
        args, kwargs = map_arg((args, kwargs), lambda node: variants(node)[which])
        args, kwargs = map_aggregate(
            (args, kwargs), lambda leaf: torch.device("meta") if isinstance(leaf, torch.device) else leaf
        )
        with torch.no_grad():
            if kind in ("call_module", "call_method", "call_function"):
                return outline(kind, self.twins[target] if kind == "call_module" else target, args, kwargs)
        return args[0] if args else None


def trace(model: nn.Module, examples: tuple[Tensor, ...]) -> Traced:
    """Record what `model` computes from inputs like the examples. Raises `Refused` where that cannot be known."""
    subject = copy_of(model)
    tracer = _Tracer(subject, examples[0].device)
    with torch.enable_grad():
        tracer.switches = _switches(tracer.device)
        inputs = [tracer.placeholder(example, index) for index, example in enumerate(examples)]
        restore = _listen(subject, tracer)
        try:
            output = subject(*inputs)
        finally:
            restore()
        tracer.create_node("output", "output", (tracer.create_arg(output),), {})
    return tracer.result


def copy_of(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the model and asks for no gradients; parametrizations become plain weights."""
    memo: dict[int, Any] = {}
    for _, tensor in _named_tensors(model):
        twin = tensor.detach().clone()
        memo[id(tensor)] = nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin
    try:
        duplicate = copy.deepcopy(model, memo)
    except Exception as error:
        raise Refused(f"it cannot be copied ({type(error).__name__}: {error})") from error
    for module in list(duplicate.modules()):
        if parametrize.is_parametrized(module):
            _settle(module)
    return duplicate


def _settle(module: nn.Module) -> None:
    """Replace a parametrization by its present value, in this module alone.

    torch's own remover edits the module's class, which the copy shares with the user's module.
    """
    names = list(module.parametrizations.keys())  # type: ignore[operator,union-attr]
    values = {name: getattr(module, name).detach().clone() for name in names}
    module.__class__ = type(module).__mro__[1]
    del module._modules["parametrizations"]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _listen(model: nn.Module, tracer: _Tracer) -> Callable[[], None]:
    """Make the copy's modules record: known ones as one step, the others by what they do inside."""
    stored: list[tuple[nn.Module, dict[str, nn.Parameter | None]]] = []
    proxies: dict[int, _Value] = {}
    for name, module in model.named_modules():
        leaf = _is_leaf(module) and name != ""
        stored.append((module, dict(module._parameters)))
        module.__dict__["forward"] = functools.partial(_heard, tracer, name, module.forward, leaf)
        for key, parameter in module._parameters.items():
            if parameter is not None and not leaf:
                proxies[id(parameter)] = proxies.get(id(parameter)) or tracer.constant(parameter)
                module._parameters[key] = proxies[id(parameter)]

    def restore() -> None:
        for module, parameters in stored:
            module.__dict__.pop("forward", None)
            module._parameters.update(parameters)

    return restore


def _heard(tracer: _Tracer, name: str, forward: Callable[..., Any], leaf: bool, *args: Any, **kwargs: Any) -> Any:
    """The `forward` of a module of the copy while it is recorded."""
    if leaf and _of_type((args, kwargs), _Value):
        result: Any = tracer.create_proxy("call_module", name, args, kwargs)
    else:
        result = forward(*args, **kwargs)
    tracer.result.places.setdefault(name, []).append(result.node if isinstance(result, _Value) else None)
    return result


def _is_leaf(module: nn.Module) -> bool:
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return type(module).__module__.startswith("torch.nn.modules") and not isinstance(module, containers)


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _meta_twin(tensor: Tensor) -> Tensor:
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin


def _switches(device: torch.device) -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device.type)
