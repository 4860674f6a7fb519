"""How much of a change flows through each hidden unit? Gradients at a layer along a path, times the layer's change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.path import TREES, check_settings, column
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject, gradient, reference, score
from pellucid.engine.decomposition import gaps
from pellucid.engine.gradient import Floats, Gradient

__all__ = ["Conductance"]


@dataclass(frozen=True, kw_only=True)
class Conductance(Method):
    """How much of the score's change flows through each unit of a layer?

    For the units y of ``layer=`` and the straight path from baseline to input,
    ``values[j] = ∫₀¹ dS/dy_j · dy_j/da da``, in score units; positive raises the score. The values of a row sum to
    S(x) - S(x') in every layer that all information passes through; the gap is measured. The integral is a sum of
    dS/dy at the middle of each piece of the path times the change of y over the piece, so it also holds at kinks.

    Args:
        baseline: of the input: a number, or "zero", "mean", "blur", "min", "max"; ``data=`` gives the baseline itself.
        tolerance: largest relative gap to accept; pieces are doubled for each row by itself until it is met.
        steps: a fixed number of pieces instead.
        max_steps: most pieces before giving up.

    Cost: ``steps`` forwards and backwards above the layer, ``steps`` + 1 forwards below it.
    Known failure: a layer beside which information passes (a skip connection) can't sum to the change.
    Source: Dhamdhere, Sundararajan & Yan 2018, eq. 3; Shrikumar, Su & Kundaje 2018, eq. 6 (the sum over pieces).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "conductance", layer="1")
        >>> result.values.shape
        torch.Size([1, 4])
    """

    baseline: float | str = 0.0
    tolerance: float = 0.01
    steps: int | None = None
    max_steps: int = 512

    card: ClassVar[Card] = Card(
        name="conductance",
        title="Conductance",
        question="How much of the score's change flows through each unit of a layer?",
        form="attribution",
        scope="semi-local",
        citation="dhamdhere2018how",
        needs=("gradient", "layers"),
        data_types=("image", "table", "sequence", "mixed"),
        taxonomy=TREES,
        claims=("rowwise", "deterministic", "spelling invariant", "score scale"),
        trial={"tolerance": 0.05, "max_steps": 64},
        cost="8 or more forwards and backwards",
        supports=("which hidden units carry the difference to the baseline",),
        limits=("what a unit stands for", "units beside which a skip connection carries the same information"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings("midpoint", self.steps, self.tolerance, self.max_steps)
        if not ask.inputs.floats:
            kinds = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError(
                "The 'inputs' must have a floating tensor, to lay a path to it",
                got=kinds,
                hint="the embeddings as inputs",
            )
        base = reference.baseline(self.baseline, ask.inputs, ask.data)
        ends = score.at_input(ask, ask.inputs.floats), score.at_input(ask, base)
        todo, steps = list(range(ask.inputs.rows)), self.steps or min(8, self.max_steps)
        values: list[Tensor | None] = [None] * ask.inputs.rows
        used = torch.zeros(ask.inputs.rows, dtype=torch.long)
        while todo:
            for i, found in zip(todo, self._pieces(ask, base, steps, todo), strict=True):
                values[i] = found
            used[todo] += 2 * steps + 1
            total = torch.stack([v for v in values if v is not None])
            facts = gaps((total,), *ends)
            steps *= 2
            if self.steps is not None or steps > self.max_steps:
                break
            todo = [i for i in todo if not facts["relative_gap"][i] <= self.tolerance]
        facts |= {"steps": used, "converged": (facts["relative_gap"] <= self.tolerance).double()}
        return Attribution(values=total, baseline=ask.inputs.wrap(base), facts=facts)

    def _pieces(self, ask: Ask, base: Floats, steps: int, rows: list[int]) -> Tensor:
        """Sum over the pieces of gradient at the middle times change of the layer over the piece."""
        total: dict[int, Tensor] = {}
        before: dict[int, Tensor] = {}
        pending: dict[int, Tensor] = {}

        def points(row: Tensor, step: Tensor) -> Floats:
            at = step.double() / (2 * steps)  # even nodes end pieces, odd ones are their middles
            return tuple(
                torch.lerp(b[row], e[row], column(at, e)) for b, e in zip(base, ask.inputs.floats, strict=True)
            )

        def fold(row: Tensor, step: Tensor, found: Gradient) -> None:
            for k, (r, s) in enumerate(zip(row.tolist(), step.tolist(), strict=True)):
                value, slope = found.values[0][k], found.grads[0][k]
                if s % 2:
                    pending[r] = slope
                    continue
                if s:
                    total[r] = total.get(r, 0) + pending.pop(r) * (value - before[r])
                before[r] = value

        gradient.sweep(ask, 2 * steps + 1, points, fold, label=self.card.title, rows=rows, at_input=True)
        return torch.stack([total[r] for r in rows])
