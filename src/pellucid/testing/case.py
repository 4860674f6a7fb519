"""One method on one fixture: the calls that checks make, and how results are compared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.contract import Card, Explanation, Method, RuleStructure, tensors
from pellucid.contract.errors import (
    InputError,
    LayerError,
    MethodError,
    NeedError,
    PellucidError,
    TargetError,
    UnsupportedOperation,
)
from pellucid.engine import Subject, explain
from pellucid.testing.awkward import Fixture

Verb = Callable[..., Any]
SINGLE, DOUBLE = torch.float32, torch.float64
DATA_ROWS = 18


class CheckFailed(AssertionError):
    """A check found the method wrong; the message says what and by how much."""


class Refused(Exception):
    """The method refused the fixture by a typed error, as it may."""

    def __init__(self, error: PellucidError) -> None:
        super().__init__(str(error))
        self.error = error


def demand(condition: Any, reason: str) -> None:
    """Fail the check for this reason unless the condition holds."""
    if not bool(condition):
        raise CheckFailed(reason)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method value, a fixture and the verb that is called: `pellucid.explain`, or a lying one to test a check."""

    method: Method
    fixture: Fixture
    verb: Verb = explain

    @property
    def card(self) -> Card:
        """What the method says about itself."""
        return dataclasses.replace(self.method.card, claims=self.method.claims)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The floating type in which the fixture comes."""
        found = [x.dtype for x in leaves(self.fixture.inputs(1, SINGLE)) if x.is_floating_point()]
        return found[0] if found else SINGLE

    @property
    def layer(self) -> str | None:
        """The place that the method explains on this fixture, or the input."""
        if "spatial layer" in self.card.needs:
            return self.fixture.spatial
        return self.fixture.hidden if "layers" in self.card.needs else self.fixture.layer

    def model(self, dtype: torch.dtype | None = None) -> Any:
        """A fresh model."""
        return self.fixture.model(dtype or self.dtype)

    def inputs(self, rows: int = 4, dtype: torch.dtype | None = None) -> Any:
        """Rows for it."""
        return self.fixture.inputs(rows, dtype or self.dtype)

    def arguments(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """The further arguments that the method needs on this fixture."""
        found: dict[str, Any] = {"layer": self.layer} if self.layer is not None else {}
        if "labels" in self.card.needs or "data" in self.card.needs:
            rows, labels = self.fixture.data(DATA_ROWS, dtype or self.dtype)
            found["data"] = (rows, labels) if "labels" in self.card.needs else rows
        if "masks" in self.card.needs:
            found["data"] = {"masks": half(self.fixture.inputs(1, SINGLE))}
        return found

    def explain(
        self, model: Any, inputs: Any, *, method: Method | None = None, dtype: torch.dtype | None = None, **changes: Any
    ) -> Any:
        """One call, with `changes` to the arguments."""
        return self.verb(model, inputs, method or self.method, **{**self.arguments(dtype), **changes})

    def passes(self, rows: int) -> int:
        """The most rows that may go through the model before it is clear what the classes are.

        Twice the inputs and once the data, if any, and one row of each whose cost is measured.
        """
        data = self.arguments().get("data")
        given = data[0] if isinstance(data, tuple) and "labels" in self.card.needs else data
        return 2 * rows + 1 + (leaves(given)[0].shape[0] + 1 if given is not None else 0)

    def allowed(self) -> tuple[type[Exception], ...]:
        """The errors by which the method may refuse this fixture; empty where it must work."""
        card, fixture = self.card, self.fixture
        found: set[type[Exception]] = set()
        if isinstance(fixture.expect, type):
            found.add(fixture.expect)
        if "backward rules" in card.needs:
            found |= {UnsupportedOperation, NeedError}
        if {"pooled head", "separate head", "Fisher vectors"} & set(card.needs):
            found.add(NeedError)
        if fixture.classes == 1:
            found |= {NeedError, TargetError}
        if self.misfit():
            found |= {InputError, LayerError, MethodError, NeedError}
        return tuple(found)

    def misfit(self) -> str:
        """Why the method can't be asked about this fixture, where it can't."""
        card, fixture = self.card, self.fixture
        for word in ("image", "table"):
            if word in card.needs and fixture.kind != word:
                return f"needs {word}s"
        if "spatial layer" in card.needs and fixture.spatial is None:
            return "needs a spatial layer"
        if "layers" in card.needs and fixture.hidden is None:
            return "needs a layer"
        if "any" not in card.data_types and fixture.kind not in card.data_types:
            return f"is for {', '.join(card.data_types)}"
        if fixture.kind == "tokens" and not {"gradient", "layers"} & set(card.needs):
            return "explains floating inputs"
        if fixture.kind in ("tokens", "mixed", "sequence") and {"data", "labels"} & set(card.needs):
            return "learns from single floating inputs"
        return ""


def half(inputs: Any) -> Tensor:
    """A mask (1, places) of the first half of the places; an image's channels share theirs, as does a step's width."""
    first = leaves(inputs)[0]
    places = first[:, 0] if first.dim() == 4 else first[..., 0] if first.dim() == 3 else first
    return (torch.arange(places.numel()) < places.numel() / 2).reshape(places.shape)


def leaves(value: Any) -> list[Tensor]:
    """The tensors of an input, a tuple or a dict of them."""
    return tensors(value)


def take(value: Any, rows: Any) -> Any:
    """Some rows of an input, in its structure."""
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {k: v[rows] for k, v in value.items()}
    return tuple(v[rows] for v in value)


def change(value: Any, act: Callable[[Tensor], Tensor]) -> Any:
    """The floating tensors of an input changed, in its structure."""
    if isinstance(value, Tensor):
        return act(value) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {k: change(v, act) for k, v in value.items()}
    return tuple(change(v, act) for v in value)


def module_of(model: Any) -> nn.Module:
    """The module inside a Subject or a data-parallel wrapper."""
    found = model.model if isinstance(model, Subject) else model
    return found.module if isinstance(found, nn.DataParallel) else found


@dataclass
class Watch:
    """How often the model ran, on how many rows in all."""

    calls: int = 0
    rows: int = 0


@contextlib.contextmanager
def counted(model: Any, act: Callable[[int], None] | None = None) -> Iterator[Watch]:
    """Count the forward passes of the model by a user's hook; `act` gets the number of the pass once its end is near."""
    watch, module = Watch(), module_of(model)
    if isinstance(module, torch.jit.ScriptModule):
        yield watch
        return
    last = [m for m in module.modules() if not list(m.children())][-1]

    def begin(part: nn.Module, args: Any, kwargs: Any) -> None:
        watch.calls += 1
        first = next((x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)), None)
        watch.rows += 0 if first is None else first.shape[0]

    def end(part: nn.Module, args: Any, output: Any) -> None:
        if act is not None:
            act(watch.calls)

    handles = [module.register_forward_pre_hook(begin, with_kwargs=True), last.register_forward_hook(end)]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


# --- comparing results ----------------------------------------------------------------------------------------------

ROWWISE = {
    "attribution": ("values", "error", "target", "parts"),
    "examples": ("items", "weights", "labels"),
    "measure": ("values",),
    "semantics": (),
    "rules": (),
    "text": ("sentences",),
}


def contents(value: Any, name: str = "") -> dict[str, Any]:
    """Everything a result holds apart from its source and context: name → tensor or plain value."""
    if isinstance(value, Explanation | RuleStructure):
        names = [f.name for f in dataclasses.fields(value)]  # type: ignore[arg-type]
        parts = {k: getattr(value, k) for k in names if k not in ("source", "context")}
    elif isinstance(value, Mapping):
        parts = {str(k): v for k, v in value.items()}
    elif isinstance(value, tuple | list):
        parts = {str(i): v for i, v in enumerate(value)}
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for k, v in parts.items():
        found |= contents(v, f"{name}.{k}" if name else k)
    return found


def per_row(result: Any) -> dict[str, Tensor]:
    """The parts of a result that have one entry per row."""
    found: dict[str, Any] = {}
    for name in ROWWISE[result.form]:
        found |= contents(getattr(result, name), name)
    found |= contents(result.facts, "facts")
    return {k: v for k, v in found.items() if isinstance(v, Tensor)}


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value; infinite where shapes or non-finite entries differ."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return float("inf")
    scale = float(torch.maximum(a.abs(), b.abs()).nan_to_num(0, 0, 0).max())
    return float((a - b).abs().nan_to_num(0, 0, 0).max()) / (scale or 1.0)


def agree(a: dict[str, Any], b: dict[str, Any], limit: float, what: str) -> None:
    """Fail unless two results' parts are equal up to a share of their largest value."""
    demand(a.keys() == b.keys(), f"{what}: parts {sorted(a)} against {sorted(b)}")
    for name, x in a.items():
        y = b[name]
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            side = name.split(".")[0] in (
                "facts",
                "error",
            )  # differences and spreads: small against what they come from
            off = (
                min(gap(x, y), float((x.double() - y.double()).abs().max()))
                if side and x.shape == y.shape
                else gap(x, y)
            )
            limit = max(limit, 1e-6) if side and limit else limit
            demand(off <= limit, f"{what}: {name} differs by {off:.1e} of its largest value (at most {limit:.0e})")
        else:
            demand(type(x) is type(y) and x == y, f"{what}: {name} is {x!r} against {y!r}")


def identical(a: Any, b: Any) -> bool:
    """Whether two results hold the same bits."""
    first, second = contents(a), contents(b)
    if first.keys() != second.keys():
        return False
    for k, x in first.items():
        y = second[k]
        if isinstance(x, Tensor):
            if not isinstance(y, Tensor) or x.dtype != y.dtype or gap(x, y) != 0.0:
                return False
        elif x != y:
            return False
    return True
