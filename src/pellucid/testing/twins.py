"""Honest methods, plain and short, from which liars are made. They never enter the catalogue.

A class enters the catalogue when its body has a card; here the card is put on afterwards, by `carded`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Examples, Method
from pellucid.contract.errors import NeedError
from pellucid.engine import Ask, Subject, gradient, score, seed
from pellucid.engine.data import as_rows

AnyMethod = TypeVar("AnyMethod", bound=type[Method])


def carded(card: Card) -> Callable[[AnyMethod], AnyMethod]:
    """Put a card on a class without entering it in the catalogue."""

    def put(cls: AnyMethod) -> AnyMethod:
        cls.card = card
        return cls

    return put


PATH = Card(
    name="honest-path",
    title="Honest path",
    question="How much does each input contribute on the way from zero?",
    form="attribution",
    scope="local",
    citation="sundararajan2017axiomatic",
    needs=("gradient",),
    claims=(
        "rowwise",
        "deterministic",
        "complete",
        "linear",
        "dummy",
        "symmetric",
        "implementation invariant",
        "spelling invariant",
        "score scale",
    ),
    trial={"steps": 24},
    cost="32 forwards and backwards",
    supports=("testing",),
    limits=("anything else",),
)


@carded(PATH)
@dataclass(frozen=True, kw_only=True)
class HonestPath(Method):
    """How much does each input contribute on the way from zero?

    The midpoint rule along the straight path from zero: ``values = x · mean of dS/dx``.

    Source: the definition of integrated gradients.

    Example:
        >>> HonestPath(steps=4).steps
        4
    """

    steps: int = 32

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        """Sum gradients at the middles of equal pieces of the path."""
        if ask.layer is None:
            end = ask.inputs.floats
        else:
            end = gradient.once(ask).values
        base = tuple(torch.zeros_like(x) for x in end)
        ends = score.at(ask, end), score.at(ask, base)
        total = tuple(torch.zeros_like(x) for x in end)

        def points(row: Tensor, step: Tensor) -> tuple[Tensor, ...]:
            at = (step.double() + 0.5) / self.steps
            return tuple(x[row] * at.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)) for x in end)

        def fold(row: Tensor, step: Tensor, found: Any) -> None:
            for t, x, g in zip(total, end, found.grads, strict=True):
                t.index_add_(0, row, x[row] * g / self.steps)

        gradient.sweep(ask, self.steps, points, fold)
        change = (ends[0] - ends[1]).double()
        missing = (sum(t.flatten(1).double().sum(1) for t in total) - change).abs()
        facts = {"score": ends[0], "baseline_score": ends[1], "completeness_gap": missing}
        values: Any = total[0] if ask.layer is not None else ask.inputs.wrap(total)
        return Attribution(values=values, facts=facts)


NOISE = Card(
    name="honest-noise",
    title="Honest noise",
    question="Which inputs matter in the neighbourhood?",
    form="attribution",
    scope="local",
    citation="sundararajan2017axiomatic",
    needs=("gradient",),
    claims=("rowwise", "seeded"),
    cost="8 forwards and backwards",
    supports=("testing",),
    limits=("anything else",),
)


@carded(NOISE)
@dataclass(frozen=True, kw_only=True)
class HonestNoise(Method):
    """Which inputs matter in the neighbourhood?

    The mean gradient at eight points drawn around the input, or the layer.

    Source: the definition of SmoothGrad.

    Example:
        >>> HonestNoise().samples
        8
    """

    samples: int = 8

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        """Average gradients at noisy points; the noise belongs to the row and the draw."""
        end = ask.inputs.floats if ask.layer is None else gradient.once(ask).values
        total = tuple(torch.zeros_like(x) for x in end)

        def points(row: Tensor, step: Tensor) -> tuple[Tensor, ...]:
            keys = [ask.keys[r] for r in row.tolist()]
            draws = [seed.normal(ask.seed, keys, step.tolist(), tuple(x.shape[1:]), x) for x in end]
            return tuple(x[row] + 0.1 * d for x, d in zip(end, draws, strict=True))

        def fold(row: Tensor, step: Tensor, found: Any) -> None:
            for t, g in zip(total, found.grads, strict=True):
                t.index_add_(0, row, g / self.samples)

        gradient.sweep(ask, self.samples, points, fold)
        return Attribution(values=total[0] if ask.layer is not None else ask.inputs.wrap(total))


NEIGHBOURS = Card(
    name="honest-neighbours",
    title="Honest neighbours",
    question="Which examples get the most similar scores?",
    form="examples",
    scope="local",
    citation="sundararajan2017axiomatic",
    needs=("predictions", "labels"),
    claims=("rowwise", "deterministic"),
    cost="1 forward per row",
    supports=("testing",),
    limits=("anything else",),
)


@carded(NEIGHBOURS)
@dataclass(frozen=True, kw_only=True)
class HonestNeighbours(Method):
    """Which examples get the most similar scores?

    The three rows of the data whose scores are nearest.

    Source: nearest neighbours.

    Example:
        >>> HonestNeighbours().count
        3
    """

    count: int = 3

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        """Compare the scores of rows and data."""
        from pellucid.engine import predict

        if ask.layer is not None:
            raise NeedError("The 'layer' must be None", got=str(ask.layer))
        rows = as_rows(ask.data, labels=True)
        known = predict(subject, rows.inputs, ask.memory).flatten(1)
        assert ask.target is not None
        assert ask.output is not None
        apart = (ask.output.flatten(1)[:, None] - known[None]).norm(dim=2)
        found = apart.topk(self.count, largest=False)
        assert rows.labels is not None
        return Examples(items=found.indices, weights=-found.values, labels=rows.labels[found.indices])
