"""Where in the model? Values and autograd edges at module inputs and outputs, seen without hooks.

A place is `"layer4.1.conv2"` (what the module returned), `"layer4.1.conv2:in"` (its first tensor argument),
`"relu#2"` (the second call of a module that is used again) or `""` (the model itself). A module that returns
several tensors stands for the first. The thread's own profile function sees calls of `Module._call_impl` start and
return; it is set during the forward pass alone and the caller's is put back.
"""

from __future__ import annotations

import difflib
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pellucid.contract.errors import LayerError
from pellucid.engine.rules.record import CALL, Edge


@dataclass(frozen=True)
class Address:
    """A place's name taken apart: which module, its input or output, and which call (None: the only one)."""

    name: str
    module: nn.Module
    entering: bool
    call: int | None

    @classmethod
    def parse(cls, name: str, model: nn.Module) -> Address:
        """Look a name up in the model; an unknown one lists the nearest."""
        path, entering = (name[:-3], True) if name.endswith(":in") else (name, False)
        path, _, call = path.partition("#")
        modules = dict(model.named_modules(remove_duplicate=False))
        if path not in modules:
            near = difflib.get_close_matches(path, modules, n=3, cutoff=0.4)
            hint = f"one of {near}" if near else "a name from model.named_modules()"
            raise LayerError(f"The model has no module named '{path}'", got=f"place '{name}'", hint=hint)
        if call and not (call.isdigit() and int(call) > 0):
            raise LayerError("The call of a reused module must be a number from 1", got=f"place '{name}'", hint="'#2'")
        return cls(name, modules[path], entering, int(call) if call else None)


@dataclass(eq=False)
class Place:
    """What was seen at an address: the value there and the edge its gradient arrives at."""

    value: Tensor
    edge: Edge | None


class Watcher:
    """Captures places while the model runs. Use as a context around the forward pass."""

    def __init__(self, addresses: Sequence[Address], watch: Callable[[Any, Any, Tensor], None]) -> None:
        self.addresses, self._watch = addresses, watch
        self.wanted: defaultdict[int, list[Address]] = defaultdict(list)
        for address in addresses:
            self.wanted[id(address.module)].append(address)
        self.found: dict[str, Place] = {}
        self.calls: defaultdict[int, int] = defaultdict(int)
        self._open: list[tuple[Any, int]] = []
        self._before: Any = None

    def __enter__(self) -> Watcher:
        if self.addresses:
            self._before = sys.getprofile()
            sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        if self.addresses:
            sys.setprofile(self._before)

    @property
    def complete(self) -> bool:
        """Every place has been seen once."""
        return len(self.found) == len(self.addresses)

    def _profile(self, frame: Any, event: str, result: Any) -> None:
        if frame.f_code is not CALL or event not in ("call", "return"):
            return
        variables = frame.f_locals
        module = variables["self"]
        if id(module) not in self.wanted:
            return
        if event == "call":
            self.calls[id(module)] += 1
            self._open.append((frame, self.calls[id(module)]))
            self._capture(module, True, self.calls[id(module)], (variables["args"], variables["kwargs"]))
        elif self._open and self._open[-1][0] is frame:
            self._capture(module, False, self._open.pop()[1], result)

    def _capture(self, module: nn.Module, entering: bool, call: int, value: Any) -> None:
        for address in self.wanted[id(module)]:
            hit = address.entering == entering and address.call in (None, call) and address.name not in self.found
            if hit and (x := _first_tensor(value)) is not None:
                edge = (x.grad_fn, x.output_nr) if x.grad_fn is not None else None
                self.found[address.name] = place = Place(x, edge)
                self._watch(vars(place), "value", x)

    def check(self) -> None:
        """After a whole forward pass: every place was called, and unless numbered, once."""
        for address in self.addresses:
            calls = self.calls[id(address.module)]
            if address.name not in self.found:
                got = f"'{address.name}' after {calls} calls"
                raise LayerError("The place was never reached in the forward pass", got=got, hint="another place")
            if address.call is None and calls > 1:
                plain, _, _ = address.name.partition(":")
                suffix = ":in" if address.entering else ""
                hint = f"'{plain}#1{suffix}' to '{plain}#{calls}{suffix}'"
                raise LayerError("The place is called more than once", got=f"'{address.name}'", hint=hint)


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((x for part in parts if (x := _first_tensor(part)) is not None), None)
