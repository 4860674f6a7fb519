"""Are these four methods one? Gradients in which each nonlinearity's derivative is replaced by another slope g."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.path import column, nodes
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, backward, difference, gradient, rules, score
from pellucid.engine.decomposition import at_place, gaps, start, wrap
from pellucid.engine.gradient import Floats, Gradient
from pellucid.engine.rules.contrast import proportional
from pellucid.engine.settings import whole

__all__ = ["ModifiedGradient"]

ROWS = ("gradient", "gradient-x-input", "epsilon-lrp", "deeplift", "integrated-gradients")


@dataclass(frozen=True, kw_only=True)
class ModifiedGradient(Method):
    """Which of the methods that modify the gradient says what, when all else is kept the same?

    Every one of them is ``values[i] = (x_i - x'_i) ∂ᵍS/∂x_i``: the chain rule with each nonlinearity's derivative σ'(z)
    replaced by a slope g. ``of`` chooses the row of the table:

    ======================  ==========================================  ==============
    of                      g                                           times
    ======================  ==========================================  ==============
    "gradient"              σ'(z)                                       1
    "gradient-x-input"      σ'(z)                                       x - x'
    "epsilon-lrp"           σ(z) / z                                    x
    "deeplift"              (σ(z) - σ(z')) / (z - z')                   x - x'
    "integrated-gradients"  σ'(z), averaged over the line from x' to x  x - x'
    ======================  ==========================================  ==============

    In score units (per input unit for "gradient"); positive raises the score. The facts ``completeness_gap`` and
    ``relative_gap`` compare the sum of a row with S(x) - S(x') (with S(x) for "epsilon-lrp"; the rest is what biases took).

    Args:
        of: the row of the table.
        baseline: x': a number, or "zero", "mean", "blur", "min", "max"; ``data=`` gives it itself.
        steps: Gauss-Legendre nodes of the average over the line.
        stabiliser: what keeps z from zero in σ(z) / z.

    Cost: one forward and one backward, and a forward for the baseline; "deeplift" one forward more; "integrated-gradients"
    ``steps`` of each.
    Known failures: those of each row. The form of ε-LRP holds for linear operations and nonlinearities of one number each:
    products, norms and softmax are refused by name there.
    Source: Ancona, Ceolini, Öztireli & Gross 2018, table 1 and propositions 1-2.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.ReLU(), torch.nn.Linear(4, 2, bias=False))
        >>> net, x, method = net.double().eval(), torch.ones(1, 3).double(), px.attribution.ModifiedGradient
        >>> found = [px.explain(net, x, method(of=row)).values for row in ("epsilon-lrp", "deeplift", "gradient-x-input")]
        >>> all(torch.allclose(values, found[0]) for values in found)
        True
    """

    of: str = "deeplift"
    baseline: float | str = 0.0
    steps: int = 32
    stabiliser: float = 1e-9

    card: ClassVar[Card] = Card(
        name="gradient-attribution-unification",
        title="Modified gradients",
        question="Which of the methods that modify the gradient says what, when all else is kept the same?",
        form="attribution",
        scope="semi-local",
        citation="ancona2018towards",
        needs=("gradient", "backward rules"),
        taxonomy={
            "000": "behavioural/decision/deeplift",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=(
            "rowwise",
            "deterministic",
            "complete",
            "linear",
            "dummy",
            "symmetric",
            "spelling invariant",
            "score scale",
        ),
        cost="1 to 2 forwards, 1 backward; 'integrated-gradients' many",
        supports=("whether methods differ on a network, and by which slope alone",),
        limits=("shares of the score where the gap is large",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.of not in ROWS:
            raise MethodError(f"The 'of' must be one of {ROWS}", got=repr(self.of))
        whole(steps=(self.steps, 1))
        if not self.stabiliser > 0:
            raise MethodError("The 'stabiliser' must be positive", got=repr(self.stabiliser))
        if self.of == "epsilon-lrp":
            return self._proportional(ask)
        base = start(ask, self.baseline)
        if self.of == "deeplift":
            found = difference.shares(ask, 1, lambda rows, _: tuple(b[rows] for b in base), label=self.card.title)
            facts = gaps(found.values, found.score, found.reference_score)
            return Attribution(values=wrap(ask, found.values), baseline=wrap(ask, base), facts=facts)
        if self.of == "integrated-gradients":
            end = at_place(ask, ask.inputs.floats)
            here, slopes = score.at(ask, end), self._averaged(ask, base, end)
        else:
            once = backward.once(ask, rules.gradient, self.card.title)
            here, end, slopes = once.score, once.values, once.grads
        if self.of == "gradient":
            return Attribution(values=wrap(ask, slopes), facts={"score": here})
        values = tuple((e - b) * g for e, b, g in zip(end, base, slopes, strict=True))
        facts = gaps(values, here, score.at(ask, base))
        return Attribution(values=wrap(ask, values), baseline=wrap(ask, base), facts=facts)

    def _proportional(self, ask: Ask) -> Attribution:
        def table() -> rules.Table:
            return proportional(self.stabiliser)

        found = backward.once(ask, table, self.card.title)
        values = tuple(v * g for v, g in zip(found.values, found.grads, strict=True))
        return Attribution(values=wrap(ask, values), facts=gaps(values, found.score, torch.zeros_like(found.score)))

    def _averaged(self, ask: Ask, base: Floats, end: Floats) -> Floats:
        at, weights = (torch.tensor(v, dtype=torch.float64) for v in nodes("gauss-legendre", self.steps))
        total = tuple(torch.zeros_like(e) for e in end)

        def points(row: Tensor, step: Tensor) -> Floats:
            return tuple(torch.lerp(b[row], e[row], column(at[step], e)) for b, e in zip(base, end, strict=True))

        def fold(row: Tensor, step: Tensor, found: Gradient) -> None:
            for t, g in zip(total, found.grads, strict=True):
                t.index_add_(0, row.to(t.device), g * column(weights[step], g))

        gradient.sweep(ask, self.steps, points, fold, label=self.card.title)
        return total
