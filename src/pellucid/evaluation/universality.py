"""On which kinds of model does a method work? Every pair is run; what is refused is told with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pellucid.contract import Card, Explanation, Measure, Method, as_method, registered, tensors
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.engine import Ask, Subject, explain
from pellucid.engine.batch import Progress
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.zoo.architectures import ARCHITECTURES, KINDS, Architecture

__all__ = ["Universality", "universality"]

FORMS = ("attribution", "semantics", "rules", "examples", "text")
ROWS, LEARNT = 3, 18
CLOSE = 1e-3  # of the largest value: what a row alone may differ from itself in a batch
NORMAL = 1.959963984540054
PATH = re.compile(r" at \S*?[^\s/\\\\]+\.py:\d+")  # where code lies is nothing that a table should tell


@dataclass(frozen=True, kw_only=True)
class Universality(Evaluation):
    """On what share of the kinds of model does the method work?

    The method explains three rows of one small model of each kind: networks for tables, pictures, sequences, words,
    graphs and two inputs at once, capsules, radial basis functions, a decision tree, and a function of which nothing is
    known but its answers. It works where it answers in its form, all its values are finite, and, if it claims so, a row
    alone gets what it gets among others. Data, layer and labels are given as the method's card asks for them.
    ``values``, of shape (1,), is the share of the kinds on which it works; the rest is refused, with the reason, or fails.

    `parts`: ``works`` (kinds,), 1 or 0, and NaN where it is refused. Facts (1,): ``low`` and ``high``, Wilson's 95 %
    interval of the share; ``refused`` and ``failed``, how many. ``source["cells"]`` has what came of each.

    Args:
        of: the method that is measured: a value or its name.
        architectures: some of the kinds; () for all.

    Cost: two explanations for each kind; the caller's own model is explained once, and is not counted.
    Known failure: small models with random weights: that a method works on one does not say that what it says is right.
    Source: Fan, Xiong, Li & Wang 2021, §I-C (universality).

    Example:
        >>> import torch, pellucid as px
        >>> method = px.evaluation.Universality(of="vanilla-gradient", architectures=("perceptron", "decision tree"))
        >>> found = px.explain(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3), method)
        >>> found.values.item(), found.source["cells"]["perceptron"]
        (0.5, 'works')
    """

    architectures: tuple[str, ...] = ()

    wants: ClassVar[tuple[str, ...]] = FORMS
    card: ClassVar[Card] = Card(
        name="universality-quality",
        title="Universality of a method",
        question="On what share of the kinds of model does the method work?",
        form="measure",
        scope="global",
        citation="fan2021interpretability",
        needs=("predictions",),
        taxonomy={"002": "evaluation/universality"},
        claims=("deterministic",),
        trial={"of": "feature-ablation", "architectures": ("perceptron",)},
        cost="two explanations for each of 14 small models",
        supports=("for which kinds of model the method can be asked at all, and why not for the others",),
        limits=("whether it is right there", "models of other kinds"),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return self.card.claims

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        chosen(self.architectures)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        kinds = chosen(self.architectures)
        cells = {a.name: cell(judged.method, a) for a in kinds}
        works = torch.tensor([score(c) for c in cells.values()], dtype=torch.float64)
        share = works.nan_to_num(0).mean()
        low, high = wilson(float(share), len(kinds))
        facts = {"low": low, "high": high, "refused": float(works.isnan().sum()), "failed": float((works == 0).sum())}
        return Measure(
            values=share[None],
            better="higher",
            unit="share of kinds",
            facts={k: torch.tensor([v], dtype=torch.float64) for k, v in facts.items()},
            parts={"works": works},
            source={"cells": cells},
        )


def universality(
    methods: Any = "all",
    architectures: Sequence[str] | Mapping[str, tuple[Any, Any]] = (),
    *,
    seed: int = 0,
    progress: Any = False,
) -> Measure:
    """Which methods work on which kinds of model, each pair run?

    Args:
        methods: names or values; "all": every method of the catalogue that explains, with its cheap trial settings.
        architectures: names of some kinds; () for all. A dict from names to (model, inputs) asks about these instead:
            which methods can explain my model?
        seed: of the methods' draws.
        progress: `True` shows a bar in a terminal.

    Returns:
        A measure. ``values`` (methods,) are shares of the kinds on which a method works; `parts` hold ``works`` (methods,
        kinds), 1 where it does, 0 where it fails, NaN where it is refused, and ``low`` and ``high``, Wilson's intervals.
        ``source["universality"]`` names methods, kinds and data types, and says what came of each pair: no cell is
        empty.

    Example:
        >>> found = universality(["vanilla-gradient", "feature-ablation"], ["perceptron", "function"])
        >>> found.parts["works"].nan_to_num(-1).tolist()
        [[1.0, -1.0], [1.0, 1.0]]
    """
    wanted = _methods(methods)
    kinds = _given(architectures) if isinstance(architectures, Mapping) else chosen(tuple(architectures))
    cells: dict[str, dict[str, str]] = {}
    with Progress(progress).bar(len(wanted), "universality") as tell:
        for label, method in wanted.items():
            cells[label] = {a.name: cell(method, a, seed) for a in kinds}
            tell(1)
    works = torch.tensor([[score(c) for c in row.values()] for row in cells.values()], dtype=torch.float64)
    shares = works.nan_to_num(0).mean(1)
    bounds = torch.tensor([wilson(float(s), len(kinds)) for s in shares], dtype=torch.float64)
    told = {
        "methods": list(wanted),
        "architectures": [a.name for a in kinds],
        "kinds": [a.kind for a in kinds],
        "cells": cells,
    }
    return Measure(
        values=shares,
        better="higher",
        unit="share of kinds",
        parts={"works": works, "low": bounds[:, 0], "high": bounds[:, 1]},
        source={"method": "universality-quality", "settings": {}, "seed": seed, "universality": told},
    )


def cell(method: Method, architecture: Architecture, seed: int = 0) -> str:
    """ "works", "refused: …" or "fails: …", found by asking."""
    model, rows = architecture.build(), architecture.rows(ROWS)
    settings = arguments(method, architecture)
    try:
        found = explain(model, rows, method, seed=seed, **settings)
        if fault := broken(found):
            return f"fails: {fault}"
        if "rowwise" in method.claims and found.form == "attribution":
            alone = explain(model, first(rows), method, seed=seed, **{**settings, "target": _target(found)})
            if (gap := apart(found, alone)) > CLOSE:
                return f"fails: a row alone gets other values, by {gap:.2g} of the largest"
    except PellucidError as error:
        return f"refused: {_line(error)}"
    except Exception as error:
        return f"fails: {type(error).__name__}: {_line(error)}"
    return "works"


def arguments(method: Method, architecture: Architecture) -> dict[str, Any]:
    """What the card asks for besides model and rows."""
    asks = method.card.needs
    found: dict[str, Any] = {}
    layer = architecture.layer
    if "spatial layer" in asks:
        layer = architecture.spatial
    elif "layers" in asks:
        layer = architecture.hidden
    if layer is not None:
        found["layer"] = layer
    if {"data", "labels"} & set(asks):
        rows = architecture.rows(LEARNT + ROWS)
        learnt = tuple(x[ROWS:] for x in rows) if isinstance(rows, tuple) else rows[ROWS:]
        found["data"] = (learnt, torch.arange(LEARNT) % 3) if "labels" in asks else learnt
    return found


def broken(found: Any) -> str:
    """What is wrong with an answer as such."""
    if not isinstance(found, Explanation):
        return f"no explanation, but {type(found).__name__}"
    values = tensors(found.values) if found.form == "attribution" else []  # type: ignore[attr-defined]
    if found.form == "attribution" and not values:
        return "no values"
    if any(not bool(v.isfinite().all()) for v in values):
        return "values that are not finite"
    return ""


def apart(found: Any, alone: Any) -> float:
    """By how much the first row's values differ from those that it gets alone, as a share of the largest."""
    pairs = list(zip(tensors(found.values), tensors(alone.values), strict=True))
    if any(a.shape[1:] != b.shape[1:] for a, b in pairs):
        return math.inf
    most = max(float(a[:1].abs().max()) for a, _ in pairs)
    return max(float((a[:1] - b[:1]).abs().max()) for a, b in pairs) / (most or 1.0)


def first(rows: Any) -> Any:
    """The first row."""
    return tuple(x[:1] for x in rows) if isinstance(rows, tuple) else rows[:1]


def _target(found: Any) -> Any:
    return None if found.target is None else found.target[:1]


def score(state: str) -> float:
    """1, 0 or NaN."""
    return {"works": 1.0, "fails": 0.0}.get(state.split(":")[0], math.nan)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many."""
    middle = (share + NORMAL**2 / (2 * count)) / (1 + NORMAL**2 / count)
    half = NORMAL / (1 + NORMAL**2 / count) * math.sqrt(share * (1 - share) / count + NORMAL**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def chosen(names: Iterable[str]) -> list[Architecture]:
    """The kinds of these names; all for none."""
    known = {a.name: a for a in ARCHITECTURES}
    if isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise MethodError("The 'architectures' must be a tuple of names", got=repr(names))
    if unknown := [n for n in names if n not in known]:
        raise MethodError(f"The 'architectures' must be among {tuple(known)}", got=repr(unknown[0]))
    return [known[n] for n in names] or list(ARCHITECTURES)


def _given(models: Mapping[str, tuple[Any, Any]]) -> list[Architecture]:
    found = []
    for name, pair in models.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError("The 'architectures' must be a dict from names to (model, inputs)", got=repr(name))
        model, inputs = pair

        def rows(count: int, inputs: Any = inputs) -> Any:
            return tuple(x[:count] for x in inputs) if isinstance(inputs, tuple) else inputs[:count]

        found.append(Architecture(name=str(name), kind="the caller's", build=lambda model=model: model, rows=rows))  # type: ignore[misc]
    if not found:
        raise InputError("The 'architectures' must name at least one", got="none")
    return found


def _methods(given: Any) -> dict[str, Method]:
    if isinstance(given, str) and given == "all":
        known = sorted(registered().items())
        return {name: cls(**dict(cls.card.trial)) for name, cls in known if cls.card.form in FORMS}
    values = [given] if isinstance(given, str | Method) else list(given)
    found = {m.card.name: m for m in map(as_method, values)}
    if not found:
        raise InputError("The 'methods' must name at least one", got="none")
    for name, method in found.items():
        if method.card.form not in FORMS:
            raise MethodError("The 'methods' must explain", got=f"{name!r}, which gives {method.card.form}")
    return found


def _line(error: Exception) -> str:
    text = str(error).split("\n", 1)[0] or type(error).__name__
    return PATH.sub("", text)[:200]


def by_type(cells: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, list[float]]:
    """Works and all, by data type."""
    found = {k: [0.0, 0.0] for k in KINDS if k in kinds.values()}
    for name, state in cells.items():
        found[kinds[name]][1] += 1
        found[kinds[name]][0] += state == "works"
    return found
