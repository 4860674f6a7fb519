"""No trace: model, gradients, hooks, modes, buffers and random generators are put back as they came, also on error."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
_TABLES = ("_parameters", "_buffers", "_modules")


def lock(model: nn.Module) -> Any:
    """The model's re-entrant lock: calls on one model take turns, calls on different models do not wait."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


@contextlib.contextmanager
def untouched(model: nn.Module | None) -> Iterator[None]:
    """Hold the model's lock, and leave model and generators exactly as they came."""
    if model is None:
        with generators():
            yield
        return
    with lock(model):
        saved = [_State(m) for m in model.modules()]
        try:
            with generators():
                yield
        finally:
            for state in saved:
                state.restore()


@contextlib.contextmanager
def generators() -> Iterator[None]:
    """Put the global random generators back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _State:
    """Everything a forward or backward pass could change on one module. Tensors are copied only where small: buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.dicts = {k: v.copy() for k, v in self.attributes.items() if isinstance(v, dict)}
        self.buffers = [(b, b._version, b.detach().clone()) for b in module._buffers.values() if b is not None]
        self.parameters = [(p, p.requires_grad, p.grad) for p in module._parameters.values() if p is not None]
        self.gradients = [(g, g._version, g.detach().clone()) for _, _, g in self.parameters if g is not None]

    def restore(self) -> None:
        now = self.module.__dict__
        for name in [k for k in now if k not in self.attributes]:
            del now[name]
        for name, value in self.attributes.items():
            if now.get(name, self) is not value:
                now[name] = value
        for name, items in self.dicts.items():
            table = self.attributes[name]
            if len(table) != len(items) or any(table.get(k, self) is not v for k, v in items.items()):
                table.clear()
                table.update(items)
        for tensor, version, copy in [*self.buffers, *self.gradients]:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(copy)
        for parameter, needs, gradient in self.parameters:
            if parameter.requires_grad != needs:
                parameter.requires_grad_(needs)
            if parameter.grad is not gradient:
                parameter.grad = gradient
