"""Rule tables: what every operation does under plain gradient, guided backpropagation, deconvnet and epsilon-LRP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from pellucid.engine.rules.fold import fold, uses_batch_statistics
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
    passing,
    product,
    rectified,
)
from pellucid.engine.rules.record import Op
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


def epsilon_lrp(stabiliser: float = 1e-6, least: bool = False) -> Table:
    """Layer-wise relevance propagation with the epsilon rule (Bach et al., 2015, equation 58) on every operation.

    Evaluation batch norm is folded into the operation before it, on the record alone. Nonlinearities and layer norms
    pass relevance on; softmax and gates count as constant; the ledger says what biases and gates absorbed, and with
    `least` how small denominators became.
    """
    linear, both = epsilon(stabiliser, least=least), product(stabiliser, least)
    rules = dict.fromkeys(ROUTING, own) | dict.fromkeys(LINEAR, linear) | dict.fromkeys(BATCH_NORM, linear)
    rules |= dict.fromkeys(CURVED | NORMS, passing) | dict.fromkeys(PRODUCTS | MATRIX_PRODUCTS, both)
    rules |= dict.fromkeys(SOFTMAX, blocked)

    def choose(op: Op) -> Rule | None:
        if rectified(op) is not None or (op.name in BATCH_NORM and uses_batch_statistics(op)):
            return passing
        return None

    return Table("epsilon-lrp", rules, choose=choose, prepare=fold, seed="score", conserves=True)


def by_place(patterns: Mapping[str, Rule], names: frozenset[str] = WEIGHTED) -> Callable[[Op], Rule | None]:
    """A choice by module path for the operations `names`; the first glob pattern that fits wins."""

    def choose(op: Op) -> Rule | None:
        fits = (rule for pattern, rule in patterns.items() if fnmatchcase(op.module, pattern))
        return next(fits, None) if op.name in names else None

    return choose
