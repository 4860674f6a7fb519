"""Everything an explanation could leave behind on a model, its inputs or the process, to compare before and after."""

from __future__ import annotations

import hashlib
import pickle
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from pellucid.engine import Subject

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_forward_hooks_always_called",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
    "_global_buffer_registration_hooks",
)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of a model, of tensors and of the process at one moment: name → value that can be compared.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
        >>> before = Snapshot.of(net, x)
        >>> handle = net.register_forward_hook(lambda *args: None)
        >>> [name for name, _, _ in before.changes(Snapshot.of(net, x))]
        ['the model: _forward_hooks']
    """

    state: dict[str, Any]

    @classmethod
    def of(cls, model: Any, *tensors: Any) -> Snapshot:
        """The state now; `model` is a module, a Subject or a plain callable, `tensors` may be tuples or dicts of them."""
        found = _process()
        module = model.model if isinstance(model, Subject) else model
        if isinstance(module, nn.Module):
            found |= _model(module)
        for i, x in enumerate(tensors):
            found |= _inputs(f"input {i}" if len(tensors) > 1 else "the input", x)
        return cls(found)

    def changes(self, later: Snapshot) -> list[tuple[str, Any, Any]]:
        """(name, before, after) of everything that differs."""
        names = [*self.state, *(k for k in later.state if k not in self.state)]
        pairs = [(k, self.state.get(k, "absent"), later.state.get(k, "absent")) for k in names]
        return [(k, a, b) for k, a, b in pairs if a != b]

    def difference(self, later: Snapshot) -> str:
        """What changed, one line each; empty where nothing did."""
        return "\n".join(f"{name}: {_short(a)} became {_short(b)}" for name, a, b in self.changes(later))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and not self.changes(other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


def digest(x: Tensor) -> str:
    """A short hash of a tensor's type, shape, strides and bytes."""
    x = x.detach()
    if x.device.type == "meta":
        return f"{x.dtype} {tuple(x.shape)} meta"
    data = x.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{x.dtype} {tuple(x.shape)} {tuple(x.stride())} {hashlib.blake2b(data, digest_size=6).hexdigest()}"


def _process() -> dict[str, Any]:
    """What belongs to no model: generators, switches, global hooks."""
    cudnn, cuda = torch.backends.cudnn, torch.cuda.is_initialized()
    return {
        "Python's generator": hash(random.getstate()),
        "NumPy's generator": hashlib.blake2b(pickle.dumps(np.random.get_state()), digest_size=6).hexdigest(),
        "PyTorch's generator": digest(torch.get_rng_state()),
        "CUDA's generators": tuple(map(digest, torch.cuda.get_rng_state_all())) if cuda else (),
        "the default type": str(torch.get_default_dtype()),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "cuDNN's switches": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "number of threads": torch.get_num_threads(),
        **{f"global {k.strip('_')}": _ids(getattr(global_hooks, k, None)) for k in GLOBAL_HOOKS},
    }


def _ids(table: Any) -> Any:
    """Which hooks a table holds, in order, by identity."""
    return tuple((k, id(v)) for k, v in table.items()) if isinstance(table, dict) else None


def _model(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in model.named_modules(remove_duplicate=False):
        where = name or "the model"
        found[f"{where}: training"] = part.training
        found[f"{where}: attributes"] = tuple(sorted(part.__dict__))
        for key, value in part.__dict__.items():
            if isinstance(value, Tensor):
                found[f"{where}: {key}"] = digest(value)
            elif key in HOOKS:
                found[f"{where}: {key}"] = _ids(value)
            elif isinstance(value, bool | int | float | str | type(None)):
                found[f"{where}: {key}"] = value
    for name, x in model.state_dict(keep_vars=True).items():
        if isinstance(x, Tensor):
            found[f"{name}: values"] = digest(x)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        found[f"{name}: values"] = digest(x)
        found[f"{name}: identity"] = id(x)
        found[f"{name}: requires_grad"] = x.requires_grad
        found[f"{name}: grad"] = None if x.grad is None else digest(x.grad)
        found[f"{name}: tensor hooks"] = _ids(x._backward_hooks)
    return found


def _inputs(label: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        version = None if value.is_inference() else value._version
        return {
            f"{label}: values": digest(value),
            f"{label}: version": version,
            f"{label}: requires_grad": value.requires_grad,
            f"{label}: grad": digest(value.grad) if value.is_leaf and value.grad is not None else None,
            f"{label}: tensor hooks": _ids(value._backward_hooks),
        }
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
    found: dict[str, Any] = {}
    for k, v in items:
        found |= _inputs(f"{label}[{k!r}]", v)
    return found
