"""Backward rules by operation: on any spelling of a network, with what has no rule refused by name and place.

`backward` runs the model once and walks its labelled autograd graph back under a rule table; `check` shows which
rule each operation would get; `available` says whether this torch still supports the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.contract.errors import NeedError, UnsupportedOperation
from pellucid.engine.rules import operations, tables
from pellucid.engine.rules.check import check, target_edges
from pellucid.engine.rules.ledger import Absorbed, Ledger, Parts
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.selftest import Outcome, available
from pellucid.engine.rules.tables import by_place, deconvnet, epsilon_lrp, gradient, guided
from pellucid.engine.rules.trace import Inputs, Trace, pair
from pellucid.engine.rules.walk import Row, Rule, Table, own, walk

__all__ = [
    "Absorbed",
    "Backward",
    "Ledger",
    "Op",
    "Outcome",
    "Parts",
    "Row",
    "Rule",
    "Table",
    "Trace",
    "available",
    "backward",
    "by_place",
    "check",
    "deconvnet",
    "epsilon_lrp",
    "gradient",
    "guided",
    "operations",
    "own",
    "pair",
    "tables",
    "walk",
]


@dataclass(frozen=True)
class Backward:
    """What one walk found.

    `values`: the cotangent of each input in order (None for inputs that carry no gradient), or of each place.
    `points`: the values there in the forward pass. `score`: what was explained, (N,). `ledger`: where relevance
    went, and `rules`: which rule each operation got, for tables that redistribute the score.
    """

    values: list[Tensor | None]
    points: list[Any]
    score: Tensor
    ledger: Ledger | None
    rules: list[Row]


def backward(
    forward: Callable[..., Any] | None,
    inputs: Inputs,
    score: Callable[[Any], Tensor],
    table: Table,
    at: str | Sequence[str] | None = None,
    model: nn.Module | None = None,
    start: str | None = None,
) -> Backward:
    """What arrives at the inputs, or at the places `at`, when the score is sent back under a rule table?

    `forward(*inputs)` or `forward(**inputs)`; None calls the model. `score` turns the output into one number per
    row; with `start`, it is given the value at that place instead. Cost: one forward and one backward.

    A target that nothing arrives at gets zeros; if none has a path to the score, the call is refused.
    """
    if not (outcome := available()):
        raise UnsupportedOperation(
            f"Backward rules do not work with torch {torch.__version__}", got=outcome.reason, hint="a gradient method"
        )
    names = [] if at is None else [at] if isinstance(at, str) else list(at)
    trace = Trace(
        model, inputs, forward, places=names, score=score, start=start, keep=table.keeps, locate=table.default is None
    )
    assert trace.score is not None
    targets = target_edges(trace, None if at is None else names)
    if trace.score.grad_fn is None:
        raise NeedError("The score carries no gradient", got="a constant", hint="a forward without no_grad or detach")
    seed = trace.score.detach() if table.seed == "score" else torch.ones_like(trace.score)
    root = (trace.score.grad_fn, trace.score.output_nr)
    found = walk(trace, [(root, seed)], targets, table)
    if not found.plan.wants(root):
        got = "no path from the score" if at is None else f"no path from the score to {names}"
        raise NeedError("Nothing arrives where it was asked for", got=got, hint="a place on the way to the score")
    points = list(trace.values) if at is None else [trace.places[name].value.detach() for name in names]
    edges = trace.edges if at is None else targets
    arrived = dict(zip(targets, found.values, strict=True))
    values = [
        None if edge is None else torch.zeros_like(x) if arrived[edge] is None else arrived[edge]
        for edge, x in zip(edges, points, strict=True)
    ]
    return Backward(values, points, trace.score.detach(), found.ledger, found.rules)
