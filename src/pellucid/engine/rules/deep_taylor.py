"""How does a rectifier network share out a score that is positive, so that every share is too?"""

from __future__ import annotations

from typing import Any

import torch

from pellucid.engine.rules.fold import fold, uses_batch_statistics
from pellucid.engine.rules.operations import AVERAGING, BATCH_NORM, ROUTING, kept, passing, ratio, rectified
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.recurrent import SUMS, parts_of
from pellucid.engine.rules.relevance import weighted, z_plus
from pellucid.engine.rules.walk import Rule, Table, own


def positive_parts(stabiliser: float = 1e-6) -> Rule:
    """Summands share by their positive part."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        parts = {i: v.clamp(min=0) for i, v in parts_of(op).items() if isinstance(v, torch.Tensor)}
        z = sum(parts.values()).expand_as(op.outs[0])  # type: ignore[union-attr]
        s = ratio(grads[0], z, stabiliser)
        found: dict[Any, Any] = {i: (parts[i] * s).sum_to_size(op.leaves[i].shape) for i in op.edges}
        return found | {"rule": kept(grads[0], s, z, stabiliser)}

    return Rule("positive parts", apply, absorbs="bias")


def positive_average(stabiliser: float = 1e-6) -> Rule:
    """Averages share by the positive part of what they average."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        (i,) = op.edges
        leaves = list(op.leaves)
        leaves[i] = leaves[i].clamp(min=0)
        z = op.call(leaves)[0]
        s = ratio(grads[0], z, stabiliser)
        return {i: leaves[i] * op.vjp([s], [i], leaves)[i], "rule": kept(grads[0], s, z, stabiliser)}

    return Rule("positive average", apply, absorbs="rule")


def deep_taylor(first: Rule, stabiliser: float = 1e-6) -> Table:
    """z⁺ for weights, `first` for the weights next to the explained values; what is no rectifier has no rule."""
    hidden, average = z_plus(stabiliser), positive_average(stabiliser)
    rules = dict.fromkeys(ROUTING, own) | dict.fromkeys(SUMS, positive_parts(stabiliser))

    def choose(op: Op) -> Rule | None:
        if weighted(op):
            return first if op.depth == 1 else hidden
        if op.name in AVERAGING and len(op.edges) == 1:
            return average
        if rectified(op) is not None or (op.name in BATCH_NORM and not uses_batch_statistics(op)):
            return passing
        if op.name in ("mul", "div") and set(op.edges) == {0} and _positive(op.leaves[1]):
            return passing
        return None

    return Table("deep-taylor", rules, choose=choose, prepare=fold, seed="score", conserves=True)


def _positive(factor: Any) -> bool:
    return bool((torch.as_tensor(factor) > 0).all())
