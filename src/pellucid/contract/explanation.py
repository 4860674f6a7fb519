"""The six forms a result can take. Each carries measured `facts` and its `source`, and can be shown, described, saved."""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

Values = Tensor | tuple[Tensor | None, ...] | Mapping[str, Tensor]

_FORMS: dict[str, type[Explanation]] = {}
_STRUCTURES: dict[str, type[RuleStructure]] = {}


def _view() -> Any:
    """The drawing code, imported when a result is first drawn: the one upward link, so that results can show themselves."""
    return importlib.import_module("pellucid.show")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a viewer needs beside the values. Lives in memory; inputs are saved only on request."""

    inputs: Any = None
    output: Tensor | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation(ABC):
    """Base of the six forms.

    `facts`: name → figure per row, measured, such as `completeness_gap`. `source`: method and settings, seed, versions,
    hashes of model and input, seconds. `context`: inputs, outputs and names, for viewers.
    """

    form: ClassVar[str]
    facts: dict[str, Tensor] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    context: Context = field(default_factory=Context, repr=False)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "form" in cls.__dict__:
            _FORMS[cls.form] = cls

    def show(self, **options: Any) -> Any:
        """A Matplotlib figure."""
        return _view().figure(self, **options)

    def html(self, **options: Any) -> str:
        """A self-contained piece of HTML: no outside request, all text escaped."""
        return _view().html(self, **options)

    def describe(self, audience: str = "layperson") -> str:
        """The result in words, for a "layperson" or an "engineer"."""
        return _view().describe(self, audience)

    def _repr_html_(self) -> str:
        return self.html()

    def save(self, path: str | Path, *, inputs: bool = False, overwrite: bool = False) -> Path:
        """Write one safetensors file with a JSON header. Inputs are left out unless `inputs=True`."""
        from pellucid.contract import storage

        return storage.save(self, path, inputs=inputs, overwrite=overwrite)

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution(Explanation):
    """How much did each part matter? `values` has the shape of the explained place (an input or a layer).

    `error`, where a method samples, is the standard error of each value. `parts`, where values were put together from
    others, holds these by name.
    """

    form: ClassVar[str] = "attribution"
    values: Any
    target: Tensor | None = None
    baseline: Any = None
    error: Any = None
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Semantics(Explanation):
    """What do hidden parts mean? Units or directions with scores, labels and images that excite them."""

    form: ClassVar[str] = "semantics"
    units: tuple[int, ...] = ()
    directions: Tensor | None = None
    scores: Tensor | None = None
    labels: tuple[str, ...] = ()
    images: Tensor | None = None


class RuleStructure(ABC):
    """A tree, rule set, automaton, graph or formula: a frozen dataclass of tensors and plain data that can predict."""

    kind: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _STRUCTURES[cls.kind] = cls

    @abstractmethod
    def predict(self, inputs: Tensor) -> Tensor:
        """Class indices (N,) or values (N,) for rows (N, columns)."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """How large it is: rules, leaves, depth."""

    @abstractmethod
    def text(self, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        """One sentence per rule."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rules(Explanation):
    """Which logic imitates the network? `structure` predicts; `fidelity` is its measured agreement with the model."""

    form: ClassVar[str] = "rules"
    structure: RuleStructure
    fidelity: float

    def predict(self, inputs: Tensor) -> Tensor:
        """What the rules say for rows (N, columns)."""
        return self.structure.predict(inputs)

    @property
    def size(self) -> dict[str, int]:
        """Number of rules, leaves, depth."""
        return self.structure.size()

    @property
    def text(self) -> list[str]:
        """One sentence per rule, with the features' and classes' names."""
        return self.structure.text(self.context.features, self.context.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples(Explanation):
    """Which cases explain it? `items` (N, k) are indices into the data, or synthesised rows.

    `rows` holds the data behind indices, for viewers; like inputs, it is saved only on request.
    """

    form: ClassVar[str] = "examples"
    items: Tensor
    weights: Tensor | None = None
    role: str = "similar"
    labels: Tensor | None = None
    rows: Any = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Text(Explanation):
    """Say it in words: sentences, each with the evidence it rests on."""

    form: ClassVar[str] = "text"
    sentences: tuple[str, ...] = ()
    evidence: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure(Explanation):
    """A measurement of a network, of data or of another method. `better` is "higher", "lower" or "neither".

    `parts`, where values were put together from others, such as a curve, holds these by name.
    """

    form: ClassVar[str] = "measure"
    values: Tensor
    better: str = "neither"
    unit: str = ""
    parts: dict[str, Tensor] = field(default_factory=dict)


def forms() -> Mapping[str, type[Explanation]]:
    """The result classes by form."""
    return _FORMS


def structures() -> Mapping[str, type[RuleStructure]]:
    """The rule structures by kind."""
    return _STRUCTURES


def tensors(values: Values) -> list[Tensor]:
    """The tensors of `values`, whether it is one, a tuple or a dict."""
    if isinstance(values, Tensor):
        return [values]
    parts = values.values() if isinstance(values, Mapping) else values
    return [v for v in parts if isinstance(v, torch.Tensor)]
