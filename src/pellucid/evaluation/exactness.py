"""How exact is an explanation: by how much does it miss what it estimates, and is that a quantity at all?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Explanation, Measure, Method, tensors
from pellucid.contract.errors import MethodError, PellucidError
from pellucid.contract.method import by_name
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged, overall
from pellucid.engine.settings import whole
from pellucid.evaluation.completeness import Completeness
from pellucid.evaluation.infidelity import Infidelity

__all__ = ["Exactness"]

REFERENCES = ("exact", "completeness", "fit", "infidelity")
SHAPLEY = ("shapley-value", "kernel-shap", "shapley-sampling", "dasp", "deep-shap")
FITS = ("r_squared", "fidelity")
DRAWS = ("samples", "walks")


@dataclass(frozen=True, kw_only=True)
class Exactness(Evaluation):
    """By how much does the explanation miss what it estimates, and is that a quantity at all?

    ``values`` is an error, 0 for an exact explanation, against the first of these that there is (or the ``reference``):

    - "exact": the method's own quantity without sampling: Shapley values by enumeration, expected gradients integrated
      for every baseline, LIME's line through all presences. ``values = |A - A*| / |A*|``, of Euclidean norms;
    - "completeness": |Σ A - (S(x) - S(x'))| as a share of the change, for methods that claim to be complete;
    - "fit": 1 - R² of a surrogate at the points that it was fitted to, as it reports;
    - "infidelity": the share of the score's change under small noise that the values do not foretell, after the best
      scaling, read as slopes or as contributions, whichever is better.

    Facts: the error by each that applies, by these names; ``quantitative``, 1 where one of the first three does, so that
    the figures mean something by themselves, 0 where only their proportions do. With ``sizes``, ``rate``, the slope of
    log error over log draws, -0.5 where the error falls as 1 / √draws, and `parts`: ``curve`` (rows, sizes), the root
    mean square error over ``repeats`` seeds, and ``sizes``. ``source`` has the ``reference``, why others do not apply,
    and the mean with its interval.

    Args:
        of: the explanation that is measured: a method or its name.
        reference: one of the four; "auto" takes the first that there is.
        sizes: numbers of draws at which a method that samples is measured, by its setting "samples" or "walks".
        repeats: seeds for each of them.
        samples: small changes asked about for infidelity.

    Cost: that of ``of``; 2^features forwards for Shapley values, refused above 22 features; ``samples`` forwards for
    infidelity; with ``sizes``, ``repeats`` explanations for each.
    Known failure: an exact value of the wrong quantity is still wrong: exactness is about the arithmetic. Errors by
    different references are different questions and should not be ranked against each other.
    Source: Fan, Xiong, Li & Wang 2021, §I-C (exactness: how accurate, and whether quantitative); the references are ours,
    after Yeh et al. 2019 for infidelity.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).double().eval()
        >>> found = px.explain(net, torch.ones(1, 4).double(), px.evaluation.Exactness(of="kernel-shap"))
        >>> bool(found.values < 1e-9), found.source["reference"], found.facts["quantitative"].item()
        (True, 'exact', 1.0)
    """

    reference: str = "auto"
    sizes: tuple[int, ...] = ()
    repeats: int = 4
    samples: int = 100

    card: ClassVar[Card] = Card(
        name="exactness-quality",
        title="Exactness of an explanation",
        question="By how much does the explanation miss what it estimates, and is that a quantity at all?",
        form="measure",
        scope="local",
        citation="fan2021interpretability",
        needs=("predictions",),
        taxonomy={"002": "evaluation/exactness"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 6},
        cost="that of the explanation, and of the exact value where it can be had",
        supports=("how far the figures are from what they stand for, where an exact value can be had",),
        limits=("whether what is estimated is what one wants to know",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.reference not in ("auto", *REFERENCES):
            raise MethodError(f"The 'reference' must be one of {('auto', *REFERENCES)}", got=repr(self.reference))
        whole(repeats=(self.repeats, 1), samples=(self.samples, 2))
        if not isinstance(self.sizes, tuple) or len(self.sizes) == 1:
            raise MethodError("The 'sizes' must be a tuple of two ints or more", got=repr(self.sizes))
        for size in self.sizes:
            whole(sizes=(size, 1))
        held = self.held()
        if self.sizes and (_draws(held) is None or twin(held) is None):
            got = repr(held.card.name)
            raise MethodError(
                "The 'sizes' need a method that samples what has an exact value", got=got, hint="sizes=()"
            )

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        found: dict[str, Tensor] = {}
        absent: dict[str, str] = {}
        wanted = REFERENCES if self.reference == "auto" else (self.reference,)
        exact: Tensor | None = None
        for name in wanted:
            if found and name == "infidelity":
                break  # what is a quantity has its own exact value
            try:
                if name == "exact":
                    exact = self.exact(subject, judged)
                    found[name] = relative(flat(judged.result), exact)
                else:
                    found[name] = getattr(self, name)(subject, judged)
            except PellucidError as error:
                absent[name] = str(error).split("\n", 1)[0]
        if not found:
            raise MethodError(
                f"The 'reference' must fit the method {judged.method.card.name!r}", got="; ".join(absent.values())
            )
        first = next(iter(found))
        facts = {**found, "quantitative": torch.full_like(found[first], float(first != "infidelity"))}
        parts = {}
        if self.sizes and exact is not None:
            parts = {"curve": self.curve(subject, judged, exact), "sizes": torch.tensor(self.sizes)}
            facts["rate"] = slope(parts["curve"], self.sizes)
        told = {"reference": first, "absent": absent, "overall": overall(found[first])}
        return Measure(values=found[first], better="lower", unit="share missed", facts=facts, parts=parts, source=told)

    def exact(self, subject: Subject, judged: Judged) -> Tensor:
        """What the method would say without sampling."""
        other = twin(judged.method)
        if other is None:
            raise MethodError(
                "An exact value is known for Shapley values, expected gradients and LIME", got=judged.method.card.name
            )
        return flat(other.explain(subject, judged.ask, other.prepare(subject, judged.ask)))

    def completeness(self, subject: Subject, judged: Judged) -> Tensor:
        """The share of the score's change that the values miss; 0 where neither changes."""
        if "complete" not in judged.method.claims and "completeness_gap" not in judged.result.facts:
            raise MethodError("The method does not claim to add up", got=judged.method.card.name)
        said = Completeness(of=self.of).measure(subject, judged.ask, judged)
        same = (said.values.isnan()) & (said.facts["passes"] == 1)
        return torch.where(same, 0.0, said.values)

    def fit(self, subject: Subject, judged: Judged) -> Tensor:
        """1 - R², as the surrogate reports it."""
        for name in FITS:
            if name in judged.result.facts:
                return 1 - judged.result.facts[name].double().cpu()
        raise MethodError("The method reports no fit", got=judged.method.card.name)

    def infidelity(self, subject: Subject, judged: Judged) -> Tensor:
        """The share of the changes under small noise that the values can't foretell."""
        shares = []
        for reading in ("contribution", "slope"):
            said = Infidelity(of=self.of, reading=reading, samples=self.samples).measure(subject, judged.ask, judged)
            null = said.facts["null"]
            shares.append(torch.where(null > 0, said.facts["scaled"] / null.clamp(min=1e-300), 0.0))
        return torch.stack(shares).amin(0)

    def curve(self, subject: Subject, judged: Judged, exact: Tensor) -> Tensor:
        """The error (rows, sizes), root mean square over seeds."""
        columns, name = [], _draws(judged.method)
        assert name is not None
        for size in self.sizes:
            changes = {name: size} | ({"tolerance": None} if _has(judged.method, "tolerance") else {})
            method = replace(judged.method, **changes)  # type: ignore[type-var]
            square = torch.zeros(len(exact), dtype=torch.float64)
            for k in range(self.repeats):
                asked = replace(judged.ask, seed=judged.ask.seed + k)
                square += relative(flat(method.explain(subject, asked, method.prepare(subject, asked))), exact) ** 2
            columns.append((square / self.repeats).sqrt())
        return torch.stack(columns, 1)


def twin(method: Method) -> Method | None:
    """The method that gives exactly what this one estimates."""
    name = method.card.name
    if name in SHAPLEY:
        kept = {k: getattr(method, k) for k in ("features", "cells", "baseline") if _has(method, k)}
        return by_name("shapley-value")(**({"features": "element"} | kept))
    if name == "expected-gradients":
        return replace(method, exact=True, steps=64, tolerance=None)  # type: ignore[type-var]
    if name == "lime" and getattr(method, "depth", None) is None:
        return replace(method, exact=True, samples=1 << 16, tolerance=None)  # type: ignore[type-var]
    return None


def _has(method: Method, setting: str) -> bool:
    return setting in {f.name for f in fields(method)}  # type: ignore[arg-type]


def _draws(method: Method) -> str | None:
    return next((name for name in DRAWS if _has(method, name)), None)


def flat(result: Explanation) -> Tensor:
    """An attribution's values side by side."""
    assert isinstance(result, Attribution)
    return torch.cat([v.detach().double().cpu().flatten(1) for v in tensors(result.values)], 1)


def relative(values: Tensor, exact: Tensor) -> Tensor:
    """The distance of each row's values from the exact ones, by these ones' size; 0 where both are nothing."""
    if values.shape != exact.shape:
        raise MethodError("The exact values must have the shape of the values", got=f"{tuple(exact.shape)}")
    size = exact.norm(dim=1)
    return (values - exact).norm(dim=1) / torch.where(size > 0, size, 1.0)


def slope(curve: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Of log error over log draws, by least squares; NaN where an error is 0."""
    x = torch.tensor([math.log(s) for s in sizes], dtype=torch.float64)
    x = x - x.mean()
    y = torch.where(curve > 0, curve, torch.nan).log()
    return (y * x).sum(1) / (x * x).sum()
