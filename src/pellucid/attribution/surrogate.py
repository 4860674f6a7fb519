"""Which simple model says the same as the network around this input? A weighted line through its answers (LIME)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, coalition, regression
from pellucid.engine.neighbourhood import Binned, Questions, Switched
from pellucid.engine.regression import Fit
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["Lime"]

DISTANCES = ("auto", "cosine", "euclidean")
# The widths of the authors' program: its weights are sqrt(exp(-D² / w²)), so that σ = √2 w.
COSINE_WIDTH, EUCLIDEAN_WIDTH = 0.25 * math.sqrt(2), 0.75 * math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class Lime(Method):
    """Which features' presence pushes the answer, according to the line that best imitates the network nearby?

    Features are switched off at random, the network is asked each time, and the line ``g(z) = b₀ + Σ b_j z_j`` (z_j = 1
    where feature j is present) that minimises ``Σ π(z) (S(z) - g(z))² + ridge |b|²`` is fitted, with weights ``π(z) =
    exp(-D(z)² / width²)`` for the distance D from the whole input. ``values`` holds b_j at every value of feature j, in
    score units: positive means that its presence raises the score. `error` is b_j's standard error over the draws
    (sandwich estimator); where all 2^features questions are asked once, there is none.

    A table with ``data=`` is explained as in the paper's program: every column is drawn from the data, independently,
    and z_j says whether it falls into the same of ``bins`` equally filled bins as the row's own value.

    Facts: ``score``; ``r_squared``, the weighted R² of the line; ``surrogate_score``, what it says of the input itself;
    ``samples``; ``effective_samples``, (Σπ)² / Σπ²: few mean that the width lets almost nothing count; ``converged``
    with a ``tolerance``. ``unanswered`` counts answers that were not finite; such rows have no values.

    Args:
        features: what is switched: "auto" (columns of tables, the second axis of sequences, a grid of 8 × 8 for
            images), "element", "column", "token", "channel", "pixel", ("grid", k), ("patch", k), ("superpixels", k), or
            groups of columns. ``data={"groups": integer masks}`` gives your own.
        samples: questions per row.
        exact: ask every question once where that takes no more than ``samples``.
        select: keep at most so many features: the last so many on the path of the lasso (K-LASSO), refitted.
        ridge: the penalty on the squares of b; the authors' program uses 1.
        distance: "cosine" or "euclidean", between z and the whole input; "auto": euclidean for tables with data.
        width: σ of the weights; by default 0.35 (cosine) or 1.06 √features (euclidean), those of the authors' program.
        baseline: what stands where a feature is off: a number, or "zero", "mean", "blur", "min", "max";
            ``data=`` gives rows whose scores are averaged instead (not for tables, see above).
        bins: for tables with ``data=``; 0 switches columns off to the background instead.
        depth: fit a tree of at most this depth instead of the line; ``values`` are then the changes of its mean along
            the path to the input, feature by feature, without standard errors.
        tolerance: double the questions until the standard errors' size over the values' is at most this.
        max_samples: most questions per row.

    Cost: ``samples`` forwards (times the rows of a background), and one.
    Known failures: the draws are inputs that never occur, and the line imitates the network there; width and features
    change the answer; with few samples another seed gives another explanation: see `error`.
    Source: Ribeiro, Singh & Guestrin 2016, §3.1-3.4 (eq. 1-2, algorithm 1).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "lime", target=0)
        >>> torch.allclose(result.values[0], net.weight[0], atol=1e-5)
        True
    """

    features: str | tuple[Any, ...] = "auto"
    samples: int = 1000
    exact: bool = True
    select: int | None = None
    ridge: float = 0.0
    distance: str = "auto"
    width: float | None = None
    baseline: float | str = 0.0
    bins: int = 4
    depth: int | None = None
    tolerance: float | None = None
    max_samples: int = 16000

    card: ClassVar[Card] = Card(
        name="lime",
        title="LIME",
        question="Which features push the answer, according to the line that best imitates the network nearby?",
        form="attribution",
        scope="local",
        citation="ribeiro2016should",
        covers=("slic-superpixels",),
        needs=("predictions",),
        data_types=("any",),
        taxonomy={
            "000": "behavioural/functional/perturbation/lime",
            "001": "visualization/perturbation/lime",
            "002": "post-hoc/local approximation/lime",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "linear", "implementation invariant", "spelling invariant", "score scale"),
        trial={"samples": 80, "exact": False},
        cost="1000 forwards, and 1",
        supports=("how a feature's presence moves the score, on average over what else is switched off nearby",),
        limits=(
            "inputs beyond the neighbourhood that was asked about",
            "how features act together: the line has no products",
            "anything, where r_squared is low: the line does not imitate the network there",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        bent = {"linear"} if self.select or self.depth or self.tolerance is not None else set()
        return tuple(c for c in self.card.claims if c not in bent)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        questions = self._questions(ask)
        if self.samples < questions.players + 2 and not questions.exact:
            raise InputError(
                f"The 'samples' must be more than the {questions.players} features and the intercept",
                got=str(self.samples),
                hint=f"samples={max(1000, 4 * questions.players)}, or fewer features",
            )
        found = _Found(ask.inputs.rows, questions.players)
        todo, answers = torch.arange(ask.inputs.rows), torch.zeros(ask.inputs.rows, 0, dtype=torch.float64)
        while len(todo):
            start = answers.shape[1]
            count = 1 << questions.players if questions.exact else start or self.samples
            answers = torch.cat([answers, questions.ask(start, count, todo, self.card.title)], 1)
            ratio = found.keep(todo, answers, *self._fit(questions, answers, todo), exact=questions.exact)
            if self.tolerance is None or questions.exact or 2 * answers.shape[1] > self.max_samples:
                break
            left = ~(ratio <= self.tolerance) & answers.isfinite().all(1)
            todo, answers = todo[left], answers[left]
        facts = {"score": ask.score, **found.facts}
        if not bool(facts["unanswered"].any()):
            del facts["unanswered"]
        if self.tolerance is not None:
            facts["converged"] = (found.ratio <= self.tolerance).double()
        error = None if self.depth else questions.spread(found.errors)
        baseline = questions.game.baseline if isinstance(questions, Switched) else None
        return Attribution(values=questions.spread(found.slopes), error=error, baseline=baseline, facts=facts)

    def _questions(self, ask: Ask) -> Questions:
        """What the network is asked, from the features or from the bins of a table."""
        x = ask.inputs.tensors[0]
        table = ask.layer is None and ask.inputs.single and x.dim() == 2 and x.is_floating_point()
        grouped = isinstance(ask.data, Mapping)
        if self.bins and table and ask.data is not None and not grouped and self.features in ("auto", "column"):
            return Binned(ask, self.bins)
        return Switched(coalition.game(ask, self.features, self.baseline), self.samples if self.exact else 0)

    def _fit(self, questions: Questions, answers: Tensor, rows: Tensor) -> tuple[Fit, Tensor, Tensor]:
        """The fit, its say on the whole input, and how many questions really count."""
        present = questions.present(answers.shape[1], rows)
        weights = self._weights(present, isinstance(questions, Binned))
        answered = answers.isfinite().all(1)
        known = answers.where(answered[:, None], 0.0)
        if self.depth:
            fit = _trees(present, weights, known, self.depth)
        elif self.select is not None and self.select < questions.players:
            fit = _sparse(present, weights, known, self.select, self.ridge)
        else:
            fit = regression.weighted(present, weights, known, self.ridge)
        effective = weights.sum(-1) ** 2 / (weights**2).sum(-1)
        return fit, fit.intercept + fit.slopes.sum(1), effective.expand(len(rows))

    def _weights(self, present: Tensor, binned: bool) -> Tensor:
        """exp(-D² / width²) for each question's distance from the whole input."""
        players, here = present.shape[-1], present.sum(-1).double()
        if self.distance == "euclidean" or (self.distance == "auto" and binned):
            distance, usual = (players - here).sqrt(), EUCLIDEAN_WIDTH * math.sqrt(players)
        else:
            distance, usual = 1 - (here / players).sqrt(), COSINE_WIDTH
        weights = torch.exp(-((distance / (usual if self.width is None else self.width)) ** 2))
        if not bool((weights.sum(-1) > 0).all()):
            raise MethodError(
                "The 'width' must let some questions count", got=repr(self.width), hint=f"width={usual:.2g}, the usual"
            )
        return weights

    def _check(self) -> None:
        whole(samples=(self.samples, 2), bins=(self.bins, 0), max_samples=(self.max_samples, 2))
        whole_or_none(select=(self.select, 1), depth=(self.depth, 1))
        if self.bins == 1:
            raise MethodError("The 'bins' must be 0 or at least 2", got="1: every value falls into the same")
        if self.distance not in DISTANCES:
            raise MethodError(f"The 'distance' must be one of {DISTANCES}", got=repr(self.distance))
        if not self.ridge >= 0:
            raise MethodError("The 'ridge' must be at least 0", got=repr(self.ridge))
        for name, given in (("width", self.width), ("tolerance", self.tolerance)):
            if given is not None and not given > 0:
                raise MethodError(f"The '{name}' must be positive", got=repr(given))
        if self.depth and (self.tolerance is not None or self.select):
            raise MethodError("A tree has neither 'tolerance' nor 'select'", got=f"depth={self.depth} with them")


class _Found:
    """Slopes and facts of all rows, filled in as rows are done."""

    def __init__(self, rows: int, players: int) -> None:
        self.slopes, self.errors = torch.full((2, rows, players), torch.nan, dtype=torch.float64)
        self.ratio = torch.full((rows,), torch.nan, dtype=torch.float64)
        names = ("r_squared", "surrogate_score", "samples", "effective_samples", "unanswered")
        self.facts = {name: torch.full((rows,), torch.nan, dtype=torch.float64) for name in names}

    def keep(self, rows: Tensor, answers: Tensor, fit: Fit, says: Tensor, effective: Tensor, *, exact: bool) -> Tensor:
        """Take these rows' fit; where an answer was not finite there is none. Gives each row's relative error."""
        answered = answers.isfinite().all(1)
        hidden = torch.where(answered, 1.0, torch.nan)
        self.slopes[rows] = fit.slopes * hidden[:, None]
        self.errors[rows] = (torch.zeros_like(fit.error) if exact else fit.error) * hidden[:, None]
        figures = (
            fit.r2 * hidden,
            says * hidden,
            torch.full((len(rows),), float(answers.shape[1])).double(),
            effective,
            (~answers.isfinite()).sum(1).double(),
        )
        for fact, figure in zip(self.facts.values(), figures, strict=True):
            fact[rows] = figure
        ratio = self.errors[rows].norm(dim=1) / self.slopes[rows].norm(dim=1).clamp(min=1e-300)
        self.ratio[rows] = ratio
        return ratio


def _each(present: Tensor, weights: Tensor, answers: Tensor) -> Any:
    """(design, weights, answers) of one row after the other."""
    for row, own in enumerate(answers):
        yield (
            present if present.dim() == 2 else present[row],
            weights if weights.dim() == 1 else weights[row],
            own,
        )


def _sparse(present: Tensor, weights: Tensor, answers: Tensor, count: int, ridge: float) -> Fit:
    """The line through the columns that the lasso keeps, row by row; the others get zero."""
    found = []
    for design, weight, own in _each(present, weights, answers):
        kept = regression.lasso_order(design, weight, own, count)
        fit = regression.weighted(design[:, kept], weight, own[None], ridge)
        slopes, error = torch.zeros(2, 1, design.shape[1], dtype=torch.float64)
        slopes[:, kept], error[:, kept] = fit.slopes, fit.error
        found.append(Fit(fit.intercept, slopes, error, fit.r2))
    return _joined(found)


def _trees(present: Tensor, weights: Tensor, answers: Tensor, depth: int) -> Fit:
    """A tree for each row; a feature's figure is the change of the mean where the input's path asks about it."""
    from sklearn.tree import DecisionTreeRegressor

    found = []
    for design, weight, own in _each(present, weights, answers):
        tree = DecisionTreeRegressor(max_depth=depth, random_state=0)
        tree.fit(design.numpy(), own.numpy(), sample_weight=weight.numpy())
        inner, node = tree.tree_, 0
        slopes = torch.zeros(1, design.shape[1], dtype=torch.float64)
        while inner.children_left[node] >= 0:
            below = inner.children_right[node]  # the input itself has every feature
            slopes[0, inner.feature[node]] += inner.value[below, 0, 0] - inner.value[node, 0, 0]
            node = below
        residual = own - torch.from_numpy(tree.predict(design.numpy()))
        share = weight / weight.sum()
        r2 = regression.explained(own[None], (share * own).sum()[None], residual[None], share)
        found.append(Fit(torch.tensor([float(inner.value[0, 0, 0])]).double(), slopes, torch.zeros_like(slopes), r2))
    return _joined(found)


def _joined(fits: list[Fit]) -> Fit:
    return Fit(*(torch.cat([getattr(f, name) for f in fits]) for name in ("intercept", "slopes", "error", "r2")))
