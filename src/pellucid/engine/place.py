"""Places inside a model by name, and one forward pass that reads, edits, cuts or stops at them.

`"layer4.1.conv2"` is a module's output; `":in"` its first input; `"relu#2"` the second call of a reused module;
`":out[1]"` the second tensor of a tuple. Hooks are added for one pass and taken away again.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.contract.errors import LayerError

Edit = Callable[[Tensor], Tensor]
_NAME = re.compile(r"(?P<module>[^#:]*)(?:#(?P<call>[1-9]\d*))?(?::(?P<side>in|out)(?:\[(?P<part>\d+)\])?)?")


@dataclass(frozen=True)
class Place:
    """One tensor inside the model: the output or input of the k-th call of a module."""

    module: str
    call: int | None = None
    side: str = "out"
    part: int = 0

    def __str__(self) -> str:
        call = "" if self.call is None else f"#{self.call}"
        tail = f":{self.side}[{self.part}]" if self.part else ":in" if self.side == "in" else ""
        return f"{self.module}{call}{tail}"


def parse(name: str, model: nn.Module) -> Place:
    """The place behind a name; an unknown module lists the nearest ones."""
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    known = dict(model.named_modules())
    if match is None or match["module"] not in known or not match["module"]:
        names = [n for n in known if n]
        wanted = match["module"] if match else str(name)
        near = difflib.get_close_matches(wanted, names, 4, 0.3) or names[:4]
        hint = f"one of {', '.join(map(repr, near))}" if near else "layer=None: the model has no submodules"
        raise LayerError("The 'layer' must name a module of the model", got=repr(name), hint=hint)
    call = int(match["call"]) if match["call"] else None
    return Place(match["module"], call, match["side"] or "out", int(match["part"] or 0))


class _Stop(Exception):
    """Raised by the last hook that is needed; never leaves this file."""


class _Plain(TorchFunctionMode):
    """Does nothing, but its presence keeps attention modules off their fused inference path, which calls no hooks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@dataclass
class Visit:
    """What one forward pass saw: values at the places read, and the output unless it stopped before."""

    seen: dict[Place, Tensor] = field(default_factory=dict)
    output: Any = None


def visit(
    run: Callable[[], Any],
    model: nn.Module,
    read: Sequence[Place] = (),
    edit: Mapping[Place, Edit] | None = None,
    *,
    cut: Place | None = None,
    leaf: Tensor | None = None,
    stop: bool = False,
) -> Visit:
    """One forward pass.

    `read` keeps values; `edit` replaces them; `cut` makes the place the leaf of a new graph: what comes before runs
    without one, so backward passes end there; `leaf` gives it other values. With `stop`, the pass ends once everything
    in `read` was seen.
    """
    watch, result = _Watch(read, edit or {}, cut, leaf, stop), Visit()
    with watch.on(model):
        outer = torch.is_grad_enabled()
        try:
            with (
                torch.inference_mode(False),
                torch.set_grad_enabled(outer and cut is None),
            ):  # the former alone turns it on
                result.output = run()
        except _Stop:
            pass
        finally:
            torch.set_grad_enabled(outer)
    result.seen = watch.seen
    for place in {*read, *(edit or {}), *([cut] if cut else [])}:
        watch.check(place, known=result.output is not None)
    return result


def embeddings(run: Callable[[], Any], model: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """For each input the call of an `nn.Embedding` that it enters as it is, by name, or "" where there is none."""
    names: dict[nn.Module, str] = {}
    calls: list[tuple[nn.Module, Tensor]] = []
    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                names[module] = name
                handles.append(module.register_forward_hook(lambda m, args, out: calls.append((m, args[0]))))
        run()
    finally:
        for handle in handles:
            handle.remove()
    counted: dict[nn.Module, int] = {}
    free = []
    for module, ids in calls:
        counted[module] = counted.get(module, 0) + 1
        free.append((f"{names[module]}#{counted[module]}", ids))
    found = []
    for x in inputs:
        fits = next((call for call in free if call[1].dtype == x.dtype and torch.equal(call[1], x)), None)
        found.append("" if fits is None else fits[0])
        free = [call for call in free if call is not fits]
    return found


def embedding(model: nn.Module | None) -> str | None:
    """Where rows of tokens are explained: the model's one embedding, as their numbers can't be changed a little."""
    if model is None:
        return None
    named: Any = getattr(model, "get_input_embeddings", None)
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
    if callable(named):
        chosen = named()
        found = [(name, part) for name, part in model.named_modules() if part is chosen]
    return found[0][0] if len(found) == 1 else None


class _Watch:
    """The hooks of one pass: they count calls and act at the places asked for."""

    def __init__(
        self, read: Sequence[Place], edit: Mapping[Place, Edit], cut: Place | None, leaf: Tensor | None, stop: bool
    ) -> None:
        self.read, self.edit, self.cut, self.leaf = set(read), dict(edit), cut, leaf
        # A place without "#k" is only known to be called once when the pass has run to its end.
        self.stop = stop and all(p.call is not None for p in [*self.read, *self.edit])
        self.counts: dict[tuple[str, str], int] = {}
        self.seen: dict[Place, Tensor] = {}

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        handles = []
        wanted = {(p.module, p.side) for p in [*self.read, *self.edit, *([self.cut] if self.cut else [])]}
        modules = dict(model.named_modules())
        attention = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
        plain = any(isinstance(m, attention) for m in modules.values())
        try:
            for name, side in wanted:
                if side == "out":
                    handles.append(modules[name].register_forward_hook(self._after(name)))
                else:
                    handles.append(modules[name].register_forward_pre_hook(self._before(name)))
            with _Plain() if plain else contextlib.nullcontext():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, name: str) -> Callable[..., Any]:
        return lambda module, args, out: self._act(name, "out", out)

    def _before(self, name: str) -> Callable[..., Any]:
        return lambda module, args: self._act(name, "in", args)

    def _act(self, name: str, side: str, value: Any) -> Any:
        self.counts[name, side] = count = self.counts.get((name, side), 0) + 1
        changed = value
        for place in self._here(name, side, count):
            tensor = _part(changed, place)
            if place in self.edit:
                tensor = self.edit[place](tensor)
            if place == self.cut:
                torch.set_grad_enabled(True)
                leaf = (tensor if self.leaf is None else self.leaf).detach().requires_grad_()
                self.seen[place] = leaf
                tensor = leaf.clone()  # so that a later in-place operation does not write to the leaf
            elif place in self.read:
                self.seen[place] = tensor
                tensor = tensor.clone()
            changed = _put(changed, place, tensor)
        if self.stop and self.read <= self.seen.keys() and (self.cut is None or self.cut in self.seen):
            raise _Stop
        return changed

    def _here(self, name: str, side: str, count: int) -> list[Place]:
        places = {*self.read, *self.edit, *([self.cut] if self.cut else [])}
        return [p for p in places if (p.module, p.side) == (name, side) and p.call in (None, count)]

    def check(self, place: Place, known: bool) -> None:
        count = self.counts.get((place.module, place.side), 0)
        if count == 0 or (place.call or 1) > count:
            calls = f"{count} call" + "s" * (count != 1)
            hint = "a module that the forward pass calls; modules whose weights alone are read have no place"
            raise LayerError(f"The 'layer' {str(place)!r} must be reached by the forward pass", got=calls, hint=hint)
        if place.call is None and count > 1 and known:
            choices = ", ".join(f"'{place.module}#{k}'" for k in range(1, min(count, 4) + 1))
            raise LayerError(f"The 'layer' {place.module!r} must name one call", got=f"{count} calls", hint=choices)


def _part(value: Any, place: Place) -> Tensor:
    if isinstance(value, Tensor) and place.part == 0:
        return value
    found = [v for v in value if isinstance(v, Tensor)] if isinstance(value, tuple | list) else []
    if place.part >= len(found):
        raise LayerError(
            f"The 'layer' {str(place)!r} must be a tensor",
            got=f"{type(value).__name__} with {len(found)} tensors",
            hint="':out[0]', or a module inside it",
        )
    return found[place.part]


def _put(value: Any, place: Place, tensor: Tensor) -> Any:
    if isinstance(value, Tensor):
        return tensor
    seen, parts = -1, list(value)
    for i, v in enumerate(parts):
        seen += isinstance(v, Tensor)
        if isinstance(v, Tensor) and seen == place.part:
            parts[i] = tensor
            break
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
