"""Where in the model? Values and autograd edges at module inputs and outputs, seen without hooks.

A place is `"layer4.1.conv2"` (what the module returned), `"layer4.1.conv2:in"` (its first tensor argument),
`"relu#2"` (the second call of a module that is used again) or `""` (the model itself); `"lstm:out[1]"` is the second
of several floating tensors, the first stands without a number.

The thread's own profile function sees calls of `Module._call_impl` start and return; it is set during the forward
pass alone and the caller's is put back. That leaves the model untouched and other threads alone, as hooks would not.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pellucid.contract.errors import LayerError
from pellucid.engine.rules.record import CALL, Edge

_NAME = re.compile(r"(?P<module>[^#:]*)(?:#(?P<call>[1-9]\d*))?(?::(?P<side>in|out)(?:\[(?P<part>\d+)\])?)?")


@dataclass(frozen=True)
class Address:
    """A place's name taken apart: which module, its input or output, which call (None: the only one), which tensor."""

    name: str
    module: nn.Module
    entering: bool
    call: int | None
    part: int

    @classmethod
    def parse(cls, name: str, model: nn.Module) -> Address:
        """Look a name up in the model; an unknown one lists the nearest."""
        match = _NAME.fullmatch(name)
        modules = dict(model.named_modules(remove_duplicate=False))
        if match is None:
            raise LayerError(
                "A place is a module's name, then #call and :in or :out[part] where needed",
                got=f"'{name}'",
                hint="'relu#2' or 'encoder:in'",
            )
        if match["module"] not in modules:
            near = difflib.get_close_matches(match["module"], modules, n=3, cutoff=0.4)
            hint = f"one of {near}" if near else "a name from model.named_modules()"
            raise LayerError(f"The model has no module named '{match['module']}'", got=f"place '{name}'", hint=hint)
        call = int(match["call"]) if match["call"] else None
        return cls(name, modules[match["module"]], match["side"] == "in", call, int(match["part"] or 0))


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
            if hit and len(found := _tensors(value)) > address.part:
                x = found[address.part]
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


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [x for part in parts for x in _tensors(part)]
