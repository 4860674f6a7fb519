"""Is this still the network that was seen? A cheap comparison, so that nothing remembered outlives a change.

It sees replaced, added and removed modules, weights, buffers and plain attributes; switched modes; in-place edits, by
torch's version counters; and edits that go round those counters (`weight.data`, shared NumPy memory), by comparing
sampled values: every row and every column of each weight is met at least once. An edit of a single entry of a matrix
through `.data` can go unseen, and so can a change inside an arbitrary Python object that a module holds.

Nothing of the model is kept alive.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = frozenset({"_parameters", "_buffers", "_modules"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
# Containers do the same in either mode.
_MODELESS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Watch:
    """What a model was when this was made. `same()` asks whether it still is."""

    __slots__ = ("modules", "root", "samples", "tensors")

    def __init__(self, model: nn.Module) -> None:
        self.root = weakref.ref(model)
        self.modules = [_ModuleRecord(module) for module in model.modules()]
        self.tensors = [_TensorRecord(tensor) for tensor in _tensors(model)]
        self.samples = _sample(model)

    def same(self, *, values: bool = True) -> bool:
        """Whether the model is unchanged. Without `values`, edits behind torch's version counters go unseen."""
        model = self.root()
        if model is None or _globally_hooked():
            return False
        if not all(record.same() for record in self.modules) or not all(record.same() for record in self.tensors):
            return False
        return not values or all(torch.equal(old, new) for old, new in zip(self.samples, _sample(model), strict=True))


class _ModuleRecord:
    """One module: its class, children, tensors by name, mode, and plain attributes."""

    __slots__ = ("children", "empty", "forward", "kind", "module", "others", "plain", "simple", "size")

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        self.kind, self.forward = type(module), id(type(module).forward)
        self.size = len(module.__dict__)
        self.children = _named_references(module)
        simple, empty, self.others = ["training"], [], []
        for name, value in module.__dict__.items():
            if name in _CONTAINERS or isinstance(value, Tensor):
                continue
            if _is_simple(value):
                simple.append(name)
            elif isinstance(value, (dict, list, set)) and not value:
                empty.append(name)  # mostly the dozen places for hooks
            else:
                self.others.append((name, _frozen(value)))
        # One call for many attributes: this runs for every module at every use of a plan.
        self.simple: Callable[[Any], Any] = operator.itemgetter(*simple)
        self.empty: Callable[[Any], Any] = operator.itemgetter("_modules", "_modules", *empty)  # two: a tuple, always
        self.plain = self.simple(module.__dict__)

    def same(self) -> bool:
        module = self.module()
        if module is None or type(module) is not self.kind or len(module.__dict__) != self.size:
            return False
        state = module.__dict__
        try:
            if self.simple(state) != self.plain or any(self.empty(state)[2:]) or id(self.kind.forward) != self.forward:
                return False
            if any(_frozen(state[name]) != value for name, value in self.others):
                return False
        except KeyError:
            return False
        index = 0
        for container in (module._parameters, module._buffers, module._modules):
            for name, value in container.items():
                if index >= len(self.children) or self.children[index][0] != name:
                    return False
                reference = self.children[index][1]
                if (reference() if reference is not None else None) is not value:
                    return False
                index += 1
        return index == len(self.children)


class _TensorRecord:
    """One weight or buffer: where its numbers are, and how often they were written to."""

    __slots__ = ("layout", "pointer", "tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.pointer, self.version = tensor.data_ptr(), tensor._version
        self.layout = tensor.shape, tensor.dtype, tensor.device

    def same(self) -> bool:
        tensor = self.tensor()
        return (
            tensor is not None
            and tensor._version == self.version
            and tensor.data_ptr() == self.pointer
            and (tensor.shape, tensor.dtype, tensor.device) == self.layout
        )


def obstacle(model: nn.Module) -> str | None:
    """Why a copy of this model would not do what it does; None where nothing speaks against it."""
    if _globally_hooked():
        return "hooks are set for all modules of the process"
    for name, module in model.named_modules():
        reason = _module_obstacle(module)
        if reason:
            return f"{f'module {name!r}' if name else 'the model'} {reason}"
    devices = set()
    for tensor in _tensors(model):
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout is not torch.strided:
            return f"it holds a {type(tensor).__name__} in {tensor.layout} layout"
        if nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_quantized:
            return "its weights have no plain values yet"
        if tensor.is_inference():
            return "its weights were made in inference mode, so edits of them cannot be seen"
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return f"in {tensor.dtype} rounding hides whether two ways of computing agree"
        devices.add(tensor.device)
    return "it lies on several devices" if len(devices) > 1 else None


def _module_obstacle(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted or traced by torch.jit"
    if module.__dict__.get("_compiled_call_impl") is not None or "_orig_mod" in module._modules:
        return "is compiled"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "is wrapped for parallel running"
    if type(module).__module__.startswith("torch.ao"):
        return "is quantised"
    if module.training and type(module) not in _MODELESS:
        return "is in training mode"
    if any(module.__dict__.get(hooks) for hooks in _HOOKS):
        return "has hooks"
    return None


def _globally_hooked() -> bool:
    return any(getattr(nn.modules.module, name, None) for name in _GLOBAL_HOOKS)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and tensors kept as plain attributes."""
    found = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    for module in model.modules():
        found |= {id(value): value for value in module.__dict__.values() if isinstance(value, Tensor)}
    return list(found.values())


def _sample(model: nn.Module) -> list[Tensor]:
    """Small tensors whole; of large ones, at least one value in each row and each column."""
    taken: dict[torch.dtype, list[Tensor]] = {}
    for tensor in _tensors(model):
        tensor = tensor.detach()
        if tensor.dim() < 2 or tensor.numel() <= 256:
            pieces = [tensor if tensor.dim() == 1 else tensor.reshape(-1)]
        else:
            matrix = tensor if tensor.dim() == 2 else tensor.flatten(2).select(2, tensor[0, 0].numel() // 2)
            pieces = _diagonals(matrix if len(matrix) >= matrix.shape[1] else matrix.t())
        taken.setdefault(tensor.dtype, []).extend(pieces)
    return [torch.cat(pieces) for pieces in taken.values()]


def _diagonals(matrix: Tensor) -> list[Tensor]:
    """One value of each row of a tall matrix, the diagonals of its square blocks, so that each column is met too."""
    rows, columns = matrix.shape
    down, across = matrix.stride()
    start = matrix.storage_offset()
    whole = matrix.as_strided((rows // columns, columns), (columns * down, down + across), start).reshape(-1)
    left = rows % columns
    return [whole, matrix[rows - left :].diagonal()] if left else [whole]


def _named_references(module: nn.Module) -> list[tuple[str, Any]]:
    containers = (module._parameters, module._buffers, module._modules)
    items = [item for container in containers for item in container.items()]
    return [(name, None if value is None else weakref.ref(value)) for name, value in items]


def _is_simple(value: object) -> bool:
    return isinstance(value, _SIMPLE) or (isinstance(value, tuple) and all(_is_simple(item) for item in value))


def _frozen(value: Any, depth: int = 3) -> Any:
    """Something to compare later that holds no reference to anything mutable."""
    if _is_simple(value):
        return value
    if depth and isinstance(value, (list, tuple, set, frozenset)) and len(value) < 1000:
        return type(value).__name__, [_frozen(item, depth - 1) for item in value]
    if depth and isinstance(value, dict) and len(value) < 1000:
        return "dict", [(str(key), _frozen(item, depth - 1)) for key, item in value.items()]
    if isinstance(value, Tensor):
        return id(value), value.data_ptr(), value._version
    return id(value)
