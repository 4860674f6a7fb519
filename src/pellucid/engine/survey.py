"""Which operations lie between the inputs and the score, and how many of them bend what passes, one after the other?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine.ask import Ask
from pellucid.engine.gradient import needs_module
from pellucid.engine.rules import piecewise
from pellucid.engine.rules.check import target_edges
from pellucid.engine.rules.operations import rectified
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.selftest import available
from pellucid.engine.rules.trace import Trace
from pellucid.engine.rules.walk import VIEWS, Plan


@dataclass(frozen=True, eq=False)
class Survey:
    """Of the first row's way from the inputs to the score: the operations, and those that are unknown.

    `bends` is the largest number of operations on one way that are not affine.
    """

    ops: tuple[Op, ...]
    unknown: tuple[str, ...]
    bends: int

    def curved(self) -> list[Op]:
        """Those that are not affine in what comes from the inputs."""
        return [op for op in self.ops if piecewise.kind(op) != "affine"]

    def rectifiers(self) -> list[Op]:
        """Those that are max(0, x), however they are written."""
        return [op for op in self.ops if rectified(op) is not None]

    def uneven(self) -> list[Op]:
        """Those that are not affine, and whose value over argument is not their slope: all but units bent at 0 alone."""
        return [op for op in self.curved() if not _bent_at_zero(op)]

    def joining(self) -> list[Op]:
        """Those that are not affine, and that take more than one number to give one."""
        return [op for op in self.curved() if len(op.edges) != 1 or op.outs[0].shape != _argument(op).shape]

    def constants(self) -> list[Op]:
        """Those that gave something although their arguments were nothing."""
        return [op for op in self.ops if any(bool(o.any()) for o in op.outs if o.is_floating_point())]


def survey(ask: Ask, inputs: tuple[Tensor, ...] | None = None) -> Survey:
    """One forward pass of the first row, at other values of its floating tensors where `inputs` has them."""
    module = needs_module(ask.subject, "backward rules")
    if not (outcome := available()):
        raise UnsupportedOperation("Operations can't be seen with this torch", got=outcome.reason)
    row = ask.inputs.take(torch.zeros(1, dtype=torch.long))
    row = row if inputs is None else row.with_floats([x[:1] for x in inputs])

    def forward(*tensors: Tensor) -> Any:
        return ask.subject.scores(replace(row, tensors=tensors))

    score = ask.target.score
    first = torch.zeros(1, dtype=torch.long)
    trace = Trace(module, row.tensors, forward, score=lambda output: score(output, first))
    assert trace.score is not None
    plan = Plan(trace, [trace.score.grad_fn], target_edges(trace, None))
    unknown = [
        node.name() for node, op in plan.labels.items() if op is None and plan.leads[node] and node.name() not in VIEWS
    ]
    depth: dict[Any, int] = {}
    for node in reversed(plan.order):
        below = [depth[f] for f, _ in plan.next[node] if f in depth]
        op = plan.labels.get(node)
        depth[node] = max(below, default=0) + (op is not None and piecewise.kind(op) != "affine")
    ops = tuple(op for node, op in plan.labels.items() if op is not None and plan.leads[node])
    return Survey(ops, tuple(dict.fromkeys(unknown)), max(depth.values(), default=0))


def _argument(op: Op) -> Tensor:
    found: Tensor = op.leaves[next(iter(op.edges))]
    return found


def _bent_at_zero(op: Op) -> bool:
    """Is it linear on both sides of zero, or a choice of the largest? Seen by giving it twice its argument."""
    kind = piecewise.kind(op)
    if kind in ("pool", "along", "pair"):
        return True
    if kind != "kinked" or len(op.edges) != 1:
        return False
    at = next(iter(op.edges)) if op.gated is None else op.gated
    if op.gated is not None:
        return rectified(op) is not None
    leaves = list(op.leaves)
    leaves[at] = 2 * leaves[at].detach()
    return bool(((op.call(leaves)[0] - 2 * op.outs[0]).abs() <= 1e-6 * (1e-12 + op.outs[0].abs())).all())
