"""Rule tables: what every operation does under plain gradient, guided backpropagation, deconvnet and epsilon-LRP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from pellucid.engine.rules.operations import (
    BATCH_NORM,
    COMPOSED,
    CURVED,
    LINEAR,
    MATRIX_PRODUCTS,
    NORMS,
    PRODUCTS,
    RECTIFIERS,
    ROUTING,
    SOFTMAX,
    STATISTICS,
    blocked,
    epsilon,
    folded,
    passing,
    product,
    rectified,
)
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.walk import WEIGHTED, Rule, Table, own

SMOOTH = CURVED | NORMS | SOFTMAX | BATCH_NORM | PRODUCTS | MATRIX_PRODUCTS | STATISTICS | COMPOSED


def gradient() -> Table:
    """Autograd's own answer, by our walk. The only table with a default: it needs no rule to be right."""
    return Table("gradient", default=own, keep=WEIGHTED)


def guided() -> Table:
    """Guided backpropagation (Springenberg et al., 2015, section 3.4): ReLUs pass positive gradient of active units."""

    def apply(op: Op, grads: list[Any]) -> dict[int, Tensor]:
        return {_leaf(op): grads[0].clamp_min(0) * (op.outs[0] > 0)}

    return _rectifier_table("guided", apply)


def deconvnet() -> Table:
    """Deconvnet (Zeiler and Fergus, 2014, section 2.1): at a ReLU, only positive gradient, active or not."""
    return _rectifier_table("deconvnet", lambda op, grads: {_leaf(op): grads[0].clamp_min(0)})


def _leaf(op: Op) -> int:
    return next(iter(op.edges))


def _rectifier_table(name: str, apply: Callable[[Op, list[Any]], dict[int, Tensor]]) -> Table:
    rule = Rule(name, apply)
    return Table(
        name,
        rules=dict.fromkeys(ROUTING | LINEAR | SMOOTH, own),
        choose=lambda op: rule if rectified(op) is not None else None,
        keep=RECTIFIERS | WEIGHTED,
    )


def epsilon_lrp(stabiliser: float = 1e-6) -> Table:
    """Layer-wise relevance propagation with the epsilon rule (Bach et al., 2015, equation 58) on every operation.

    Evaluation batch norm is folded into the convolution before it, on the record alone. Nonlinearities and layer
    norms pass relevance on; softmax and gates count as constant; the ledger says what biases and gates absorbed.
    """
    linear, both = epsilon(stabiliser), product(stabiliser)
    rules = dict.fromkeys(ROUTING, own) | dict.fromkeys(LINEAR, linear) | dict.fromkeys(BATCH_NORM, linear)
    rules |= dict.fromkeys(CURVED | NORMS, passing) | dict.fromkeys(PRODUCTS | MATRIX_PRODUCTS, both)
    rules |= dict.fromkeys(SOFTMAX, blocked)

    def choose(op: Op) -> Rule | None:
        if rectified(op) is not None or (op.name in BATCH_NORM and uses_batch_statistics(op)):
            return passing
        return None

    return Table("epsilon-lrp", rules, choose=choose, prepare=fold_batch_norm, seed="score", conserves=True)


def by_place(patterns: Mapping[str, Rule], names: frozenset[str] = WEIGHTED) -> Callable[[Op], Rule | None]:
    """A choice by module path for the operations `names`; the first glob pattern that fits wins."""

    def choose(op: Op) -> Rule | None:
        fits = (rule for pattern, rule in patterns.items() if fnmatchcase(op.module, pattern))
        return next(fits, None) if op.name in names else None

    return choose


def uses_batch_statistics(op: Op) -> bool:
    """Does this batch norm normalise by the batch (training mode, instance norm) and not by running statistics?"""
    return op.name != "_native_batch_norm_legit_no_training" and bool(op.leaves[5])


def fold_batch_norm(ops: list[Op]) -> None:
    """Evaluation batch norm right after a convolution becomes part of it: exact, epsilon included, on the record only.

    A convolution whose output has another reader keeps its own values.
    """
    readers = Counter(edge for op in ops for edge in op.edges.values())
    for op in ops:
        if op.name not in BATCH_NORM or 0 not in op.edges or readers[op.edges[0]] > 1 or uses_batch_statistics(op):
            continue
        before = op.producers.get(0)
        if before is None or before.name != "convolution" or before.region is not None or set(before.edges) != {0}:
            continue
        arguments, _ = unflatten(before.leaves, before.spec)
        if arguments[6]:  # a transposed convolution keeps its output channels elsewhere
            continue
        _, scale, shift, mean, variance, *_, smallest = op.leaves
        factor = (variance + smallest).rsqrt() * (1 if scale is None else scale)
        _, weight, bias, *settings = before.leaves
        weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
        bias = ((0 if bias is None else bias) - mean) * factor + (0 if shift is None else shift)
        before.replace([before.leaves[0], weight, bias, *settings], [op.outs[0]])
        op.rule = folded
