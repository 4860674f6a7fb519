"""What is gained on the way from a baseline to the input? Gradients integrated along a path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, gradient, score, seed
from pellucid.engine.data import as_rows
from pellucid.engine.decomposition import at_place, gaps, start, wrap
from pellucid.engine.gradient import Floats, Gradient
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["ExpectedGradients", "IntegratedGradients"]

RULES = ("gauss-legendre", "trapezoid", "midpoint", "left", "right")
TREES = {
    "000": "behavioural/functional/gradients",
    "001": "visualization/back-propagation",
    "002": "post-hoc/saliency/gradients",
    "003": "passive/attribution/semi-local",
}


@cache
def nodes(rule: str, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes in [0, 1] and weights that sum to one."""
    if rule == "gauss-legendre":
        at, weight = np.polynomial.legendre.leggauss(steps) if steps <= 64 else _many(steps)
        return tuple((1 + at) / 2), tuple(weight / 2)
    if rule == "trapezoid":
        weight = np.full(steps, 1 / max(1, steps - 1))
        weight[[0, -1]] /= 2
        return tuple(np.linspace(0, 1, steps)), tuple(weight)
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return tuple((np.arange(steps) + shift) / steps), (1 / steps,) * steps


def _many(steps: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import roots_legendre  # needs memory in proportion to the nodes, not to their square

    at, weight = roots_legendre(steps)
    return at, weight


def check_settings(rule: str, steps: int | None, tolerance: float, max_steps: int) -> None:
    if rule not in RULES:
        raise MethodError(f"The 'rule' must be one of {RULES}", got=repr(rule))
    least = 2 if rule == "trapezoid" else 1
    whole_or_none(steps=(steps, least))
    whole(max_steps=(max_steps, least))
    if not isinstance(tolerance, int | float) or not tolerance > 0:
        raise MethodError("The 'tolerance' must be positive", got=repr(tolerance), hint="0.01")


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Method):
    """How much does each input contribute on the way from a baseline to this input?

    ``values[i] = (x_i - x'_i) ∫₀¹ dS/dx_i(x' + a (x - x')) da`` in score units; positive raises the score. The values of
    a row sum to S(x) - S(x'); the fact ``completeness_gap`` is the measured absolute difference, ``relative_gap`` its
    share of |S(x) - S(x')|. Without ``steps``, the number of nodes is doubled for each row by itself until the relative
    gap is within ``tolerance``; ``steps`` tells how many gradients each row took, ``converged`` whether that sufficed.

    Args:
        baseline: a number, or "zero", "mean", "blur", "min", "max"; ``data=`` gives the baseline itself.
        tolerance: largest relative gap to accept.
        steps: a fixed number of nodes instead.
        max_steps: most nodes in one rule before giving up.
        rule: "gauss-legendre", "trapezoid", "midpoint", "left" or "right".
        interior: average the gradients alone, without the factor (x - x'): interior gradients.

    Cost: ``steps`` forwards and backwards a row (from 8), and two forwards.
    Known failures: the baseline's choice shows in the map (what equals the baseline gets zero); a small gap does not
    prove that each value is right, only that their sum is.
    Source: Sundararajan, Taly & Yan 2017, eqs. 1-3; interior gradients: the same authors, 2016, §3.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).eval()
        >>> result = px.explain(net, torch.ones(1, 3), px.attribution.IntegratedGradients(tolerance=1e-4))
        >>> bool(result.facts["relative_gap"] <= 1e-4)
        True
    """

    baseline: float | str = 0.0
    tolerance: float = 0.01
    steps: int | None = None
    max_steps: int = 512
    rule: str = "gauss-legendre"
    interior: bool = False

    card: ClassVar[Card] = Card(
        name="integrated-gradients",
        title="Integrated gradients",
        question="How much does each input contribute on the way from a baseline to this input?",
        form="attribution",
        scope="semi-local",
        citation="sundararajan2017axiomatic",
        covers=("interior-gradients",),
        needs=("gradient",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "deterministic",
            "complete",
            "dummy",
            "symmetric",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"tolerance": 0.05, "max_steps": 64},
        cost="8 or more forwards and backwards, 2 forwards",
        supports=("each input's share of the difference to the baseline", "which inputs speak against the answer"),
        limits=(
            "inputs that equal the baseline: they get zero whatever they mean",
            "interactions: a share that two inputs earn together is split between them",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple(c for c in self.card.claims if c != "complete" or not self.interior)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings(self.rule, self.steps, self.tolerance, self.max_steps)
        base = start(ask, self.baseline)
        end = at_place(ask, ask.inputs.floats)
        ends = score.at(ask, end), score.at(ask, base)
        total = tuple(torch.zeros_like(x) for x in end)
        used = torch.zeros(ask.inputs.rows, dtype=torch.long)
        todo, steps = list(range(ask.inputs.rows)), self.steps or min(8, self.max_steps)
        while todo:
            self._integrate(ask, base, end, total, steps, todo)
            used[todo] += steps
            values = tuple((e - b) * t for e, b, t in zip(end, base, total, strict=True))
            facts = gaps(values, *ends)
            steps *= 2
            if self.steps is not None or steps > self.max_steps:
                break
            todo = [i for i in todo if not facts["relative_gap"][i] <= self.tolerance]
        facts |= {"steps": used, "converged": (facts["relative_gap"] <= self.tolerance).double()}
        shown = values
        if self.interior:  # the gap is that of the values times (x - x')
            facts["integral_gap"] = facts.pop("completeness_gap")
            shown = total
        return Attribution(values=wrap(ask, shown), baseline=wrap(ask, base), facts=facts)

    def _integrate(self, ask: Ask, base: Floats, end: Floats, total: Floats, steps: int, rows: list[int]) -> None:
        """Mean gradient along the path for these rows, written into `total`."""
        at, weights = (torch.tensor(v, dtype=torch.float64) for v in nodes(self.rule, steps))
        for t in total:
            t[rows] = 0

        def points(row: Tensor, step: Tensor) -> Floats:
            return tuple(torch.lerp(b[row], e[row], column(at[step], e)) for b, e in zip(base, end, strict=True))

        def fold(row: Tensor, step: Tensor, found: Gradient) -> None:
            for t, g in zip(total, found.grads, strict=True):
                t.index_add_(0, row.to(t.device), g * column(weights[step], g))

        gradient.sweep(ask, steps, points, fold, label=self.card.title, rows=rows)


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(device=like.device, dtype=like.dtype).reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class ExpectedGradients(Method):
    """How much does each input contribute, compared with typical inputs instead of one baseline?

    ``values[i]`` is the mean over baselines x' from ``data=`` and a uniform in [0, 1] of
    ``(x_i - x'_i) dS/dx_i(x' + a (x - x'))``, in score units; positive raises the score above its mean over the
    background. Sampled: `error` is the standard error of each value and ``standard_error`` its root mean square over the
    row. ``exact`` integrates every baseline by quadrature instead. ``completeness_gap`` compares the sum with S(x) minus
    the mean score of the background.

    Args:
        samples: draws per row. Draws are stratified in a, and without replacement over the background while it lasts.
        tolerance: go on doubling the draws until the standard error is below this share of the values' size.
        max_samples: most draws per row.
        exact: use every baseline with ``steps`` Gauss-Legendre nodes each.
        steps: nodes per baseline where ``exact``.

    Cost: ``samples`` forwards and backwards a row, or baselines × ``steps``; a forward per baseline.
    Known failure: a background that differs from the data the question is about answers another question.
    Source: Erion, Janizek, Sturmfels, Lundberg & Lee 2021, eq. 4.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).eval()
        >>> method = px.attribution.ExpectedGradients(exact=True)
        >>> result = px.explain(net, torch.ones(1, 3), method, data=torch.zeros(5, 3))
        >>> torch.allclose(result.values, net.weight)
        True
    """

    samples: int = 64
    tolerance: float | None = None
    max_samples: int = 4096
    exact: bool = False
    steps: int = 16

    card: ClassVar[Card] = Card(
        name="expected-gradients",
        title="Expected gradients",
        question="How much does each input contribute, compared with typical inputs?",
        form="attribution",
        scope="semi-local",
        citation="erion2021improving",
        needs=("gradient", "data"),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "seeded",
            "complete",
            "dummy",
            "spelling invariant",
            "implementation invariant",
            "score scale",
        ),
        trial={"samples": 8},
        cost="64 forwards and backwards, 1 forward per background row",
        supports=("each input's share of the difference to the background's mean score",),
        limits=("inputs outside the background's range", "interactions: they are split between their inputs"),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple("deterministic" if c == "seeded" and self.exact else c for c in self.card.claims)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings("gauss-legendre", self.steps, 1.0, max(1, self.samples))
        background = _background(ask)
        end = at_place(ask, ask.inputs.floats)
        mean = _mean_score(ask, background)
        value_error = self._exact(ask, end, background) if self.exact else self._sampled(ask, end, background)
        values, error, used = value_error
        facts = gaps(values, score.at(ask, end), mean) | {"samples": used}
        if error is not None:
            squares = torch.cat([e.flatten(1).double() ** 2 for e in error], 1)
            facts["standard_error"] = squares.mean(1).sqrt()
        return Attribution(values=wrap(ask, values), error=None if error is None else wrap(ask, error), facts=facts)

    def _exact(self, ask: Ask, end: Floats, background: Floats) -> tuple[Floats, None, Tensor]:
        at, weights = (torch.tensor(v, dtype=torch.float64) for v in nodes("gauss-legendre", self.steps))
        count, total = background[0].shape[0], tuple(torch.zeros_like(x) for x in end)

        def points(row: Tensor, job: Tensor) -> Floats:
            pairs = zip(background, end, strict=True)
            return tuple(torch.lerp(b[job // self.steps], e[row], column(at[job % self.steps], e)) for b, e in pairs)

        def fold(row: Tensor, job: Tensor, found: Gradient) -> None:
            for t, e, b, g in zip(total, end, background, found.grads, strict=True):
                share = column(weights[job % self.steps] / count, g)
                t.index_add_(0, row.to(t.device), (e[row] - b[job // self.steps]) * g * share)

        gradient.sweep(ask, count * self.steps, points, fold, label=self.card.title)
        return total, None, torch.full((ask.inputs.rows,), count * self.steps)

    def _sampled(self, ask: Ask, end: Floats, background: Floats) -> tuple[Floats, Floats, Tensor]:
        total = tuple(torch.zeros_like(x, dtype=torch.float64) for x in end)
        square = tuple(torch.zeros_like(t) for t in total)
        used = torch.zeros(ask.inputs.rows, dtype=torch.long)
        todo, draws = list(range(ask.inputs.rows)), self.samples
        while todo:
            self._draw(ask, end, background, total, square, (int(used[todo[0]]), draws), todo)
            used[todo] += draws
            mean, error = _moments(total, square, used)
            draws = int(used[todo[0]])
            if self.tolerance is None or 2 * draws > self.max_samples:
                break
            size = [torch.cat([m[i].flatten() for m in mean]).norm() for i in todo]
            noise = [torch.cat([s[i].flatten() for s in error]).norm() for i in todo]
            todo = [i for i, s, n in zip(todo, size, noise, strict=True) if n > self.tolerance * s]
        return (
            tuple(m.to(e.dtype) for m, e in zip(mean, end, strict=True)),
            tuple(s.to(e.dtype) for s, e in zip(error, end, strict=True)),
            used,
        )

    def _draw(
        self,
        ask: Ask,
        end: Floats,
        background: Floats,
        total: Floats,
        square: Floats,
        span: tuple[int, int],
        rows: list[int],
    ) -> None:
        first, draws = span
        count = background[0].shape[0]
        order = {r: seed.generator(ask.seed, ask.keys[r], 0).permutation(count) for r in rows}
        jitter = {r: seed.generator(ask.seed, ask.keys[r], 1 + first).random(draws) for r in rows}
        strata = {r: seed.generator(ask.seed, ask.keys[r], 1 + first).permutation(draws) for r in rows}

        def pick(row: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            pairs = list(zip(row.tolist(), step.tolist(), strict=True))
            which = torch.tensor([int(order[r][(first + s) % count]) for r, s in pairs])
            at = torch.tensor([(strata[r][s] + jitter[r][s]) / draws for r, s in pairs], dtype=torch.float64)
            return which, at

        def points(row: Tensor, step: Tensor) -> Floats:
            which, at = pick(row, step)
            return tuple(torch.lerp(b[which], e[row], column(at, e)) for b, e in zip(background, end, strict=True))

        def fold(row: Tensor, step: Tensor, found: Gradient) -> None:
            which, _ = pick(row, step)
            for t, q, e, b, g in zip(total, square, end, background, found.grads, strict=True):
                share = ((e[row] - b[which]) * g).double()
                t.index_add_(0, row.to(t.device), share)
                q.index_add_(0, row.to(q.device), share**2)

        gradient.sweep(ask, draws, points, fold, label=self.card.title, rows=rows)


def _moments(total: Floats, square: Floats, used: Tensor) -> tuple[Floats, Floats]:
    mean = tuple(t / column(used, t) for t in total)
    spread = tuple((q / column(used, q) - m**2).clamp(min=0) for q, m in zip(square, mean, strict=True))
    return mean, tuple((v / column((used - 1).clamp(min=1), v)).sqrt() for v in spread)


def _background(ask: Ask) -> Floats:
    rows = as_rows(ask.data).inputs
    floats = rows.floats
    if [b.shape[1:] for b in floats] != [x.shape[1:] for x in ask.inputs.floats]:
        raise InputError(
            "The background given as 'data' must have rows shaped like the inputs'",
            got=", ".join(str(tuple(b.shape)) for b in floats),
            hint="data= rows made and preprocessed as the inputs were",
        )
    moved = tuple(b.to(device=x.device, dtype=x.dtype) for b, x in zip(floats, ask.inputs.floats, strict=True))
    if ask.layer is None:
        return moved
    if len(ask.inputs.tensors) != len(ask.inputs.floats):
        raise InputError("With a 'layer', the background can't carry further integer inputs", got="integer inputs")
    return at_place(ask, moved)


def _mean_score(ask: Ask, background: Floats) -> Tensor:
    """For each row, its score averaged over the background (the target differs from row to row)."""
    count, total = background[0].shape[0], torch.zeros(ask.inputs.rows, dtype=torch.float64)

    def fold(row: Tensor, step: Tensor, found: Tensor) -> None:
        total.index_add_(0, row, found.double().cpu())

    score.sweep(ask, count, lambda row, step: tuple(b[step] for b in background), fold)
    return total / count
