"""What made the difference between two runs? One run of the model is walked back beside another.

`rescale` is the table of DeepLIFT's Linear and Rescale rules for whole networks; `compare` runs the model twice, refuses
runs that take different ways, and sends multipliers back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import NeedError, UnsupportedOperation
from pellucid.engine.rules import differences as d
from pellucid.engine.rules.check import target_edges
from pellucid.engine.rules.operations import (
    BATCH_NORM,
    CURVED,
    LINEAR,
    MATRIX_PRODUCTS,
    NORMS,
    ROUTING,
    SOFTMAX,
    STATISTICS,
    rectified,
    words,
)
from pellucid.engine.rules.record import Edge, Op
from pellucid.engine.rules.selftest import available
from pellucid.engine.rules.trace import Trace, pair
from pellucid.engine.rules.walk import Rule, Table, own, walk

MAXIMA = words(
    "maximum fmax max amax max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d "
    "fractional_max_pool2d"
)
MINIMA = words("minimum fmin min amin")
ORDERED = words("sort topk kthvalue median cummax cummin aminmax")
BILINEAR = MATRIX_PRODUCTS | words("mul convolution addcmul lerp addr addbmm")
CURVES = CURVED | words("sign exp2 log2 log10")
MANY = NORMS | SOFTMAX | STATISTICS | words("addcdiv glu hypot _trilinear")
LEFT = words("grid_sampler_2d")  # linear in the image alone


@dataclass(frozen=True)
class Lost:
    """A part of the score's change that no operand can account for: how much, where, and why."""

    operation: str
    module: str
    line: str
    amount: float
    kind: str


MakeTable = Callable[[list[Edge], list[Lost]], Table]


def rescale(targets: list[Edge], lost: list[Lost]) -> Table:
    """DeepLIFT's Linear and Rescale rules (Shrikumar et al., 2017, §3.5), and exact ones for what the paper leaves open."""
    return comparing("deeplift-rescale", d.modified("rescale", d.secant), lost)


def comparing(name: str, curve: Rule, lost: list[Lost], then: Callable[[list[Op]], None] | None = None) -> Table:
    """A table for two runs, with this rule at nonlinearities; `then` may give operations rules of their own."""
    rules = dict.fromkeys((ROUTING | LINEAR | BATCH_NORM | BILINEAR | {"div"}) - ORDERED - LEFT, own)
    rules |= dict.fromkeys(MAXIMA, d.maximum) | dict.fromkeys(MINIMA, d.minimum)
    rules |= dict.fromkeys(CURVES, curve) | dict.fromkeys(MANY, d.on_the_line)
    rules |= {"_fused_rms_norm": d.root_mean_square, "_embedding_bag": own}

    def choose(op: Op) -> Rule | None:
        several = len(op.edges) > 1
        if rectified(op) is not None:
            return curve
        if op.name in BILINEAR:
            return d.halfway if several else None
        if op.name == "div":
            return d.quotient if 1 in op.edges else None
        if op.name in CURVES:
            return d.on_the_line if several or op.leaves[d.sole(op)].shape != op.outs[0].shape else None
        if op.name in BATCH_NORM:
            return d.on_the_line if set(op.edges) != {0} or d.by_batch(op) else None
        if op.name in ORDERED:
            return own if torch.equal(op.outs[1], d.twin(op).outs[1]) else None
        return own if op.name in LEFT and set(op.edges) == {0} else None

    def prepare(ops: list[Op]) -> None:
        settle(ops, lambda op: choose(op) or rules.get(op.name), lost)
        if then is not None:
            then(ops)

    return Table(name, rules, choose=choose, prepare=prepare)


def settle(ops: list[Op], pick: Callable[[Op], Rule | None], lost: list[Lost]) -> None:
    """Look at what is no operand on the way but differs between the runs: masks, indices, detached values.

    A choice that differs is followed to the operand it was made from, or refused; a number that differs takes a share of
    the change with it, which is booked in `lost`.
    """
    problems = []
    for op in ops:
        if any(a.shape != b.shape for a, b in zip(op.outs, d.twin(op).outs, strict=False)):
            problems.append(op)
            continue
        if rectified(op) is not None:
            continue
        changed = [i for i, x in enumerate(op.leaves) if i not in op.edges and _differs(x, d.twin(op).leaves[i])]
        if not changed:
            continue
        if op.gated in op.edges and all(op.leaves[i].shape == op.outs[0].shape for i in op.edges):
            op.rule = Rule("choice by a mask", d.by_mask)
        elif any(not op.leaves[i].is_floating_point() for i in changed):
            problems.append(op)
        elif (rule := pick(op)) is not None:
            op.rule = _booked(d.halfway if op.name in BILINEAR else d.quotient if op.name == "div" else rule, lost)
    if problems:
        raise UnsupportedOperation(
            "The input and its reference choose differently",
            got="; ".join(dict.fromkeys(map(repr, problems))),
            hint="another reference, or a method without one",
        )


def _differs(here: Any, there: Any) -> bool:
    if here is there or not isinstance(here, Tensor):
        return False
    if here.shape != there.shape:
        return True
    if (here.data_ptr(), here.stride(), here.dtype) == (there.data_ptr(), there.stride(), there.dtype):
        return False  # a parameter, seen by both runs
    return not bool(((here == there) | ((here != here) & (there != there))).all())


def _booked(rule: Rule, lost: list[Lost]) -> Rule:
    def apply(op: Op, grads: list[Any]) -> dict[int, Any]:
        back, other = rule.apply(op, grads), d.twin(op)
        came = [
            (g * d.change(a, b)).sum() for g, a, b in zip(grads, op.outs, other.outs, strict=False) if g is not None
        ]
        went = [(g * d.change(op.leaves[i], other.leaves[i])).sum() for i, g in back.items()]
        amount = float(sum(came) - sum(went))
        lost.append(Lost(f"aten.{op.name}", op.module, op.line, amount, "a constant that changes"))
        return back

    return Rule(f"{rule.name}, with a constant that changes", apply)


def proportional(stabiliser: float = 1e-9) -> Table:
    """Gradients in which each nonlinearity's derivative is output over input: ε-LRP (Ancona et al., 2018, Prop. 1).

    For networks of linear operations and nonlinearities of one number each; products, norms and softmax are refused.
    """
    rule = d.modified("output / input", d.proportion(stabiliser))
    rules = dict.fromkeys((ROUTING | LINEAR | BATCH_NORM) - MATRIX_PRODUCTS - {"convolution"}, own)
    rules |= dict.fromkeys(CURVES, rule)

    def choose(op: Op) -> Rule | None:
        if rectified(op) is not None:
            return rule
        linear = (op.name in BILINEAR and len(op.edges) == 1) or (op.name == "div" and set(op.edges) == {0})
        return own if linear else None

    return Table("proportional", rules, choose=choose)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Multipliers of the inputs, or of a place, and the scores of both runs. `lost`: what no operand can account for."""

    multipliers: tuple[Tensor | None, ...]
    points: tuple[Tensor, ...]
    score: Tensor
    reference_score: Tensor
    lost: tuple[Lost, ...]


Run = tuple[Callable[..., Any], Mapping[str, Any] | tuple[Any, ...]]


def compare(
    here: Run,
    there: Run,
    score: Callable[[Any], Tensor],
    table: MakeTable = rescale,
    *,
    model: torch.nn.Module | None = None,
    at: str | None = None,
    start: str | None = None,
) -> Comparison:
    """The multipliers with which the change of inputs, or of the place `at`, makes the change of the score.

    Each run is a function with its inputs. Cost: two forward passes and one backward.
    """
    if not (outcome := available()):
        raise UnsupportedOperation(
            f"Backward rules do not work with torch {torch.__version__}", got=outcome.reason, hint="a gradient method"
        )
    places = [] if at is None else [at]
    trace = Trace(model, here[1], here[0], places=places, score=score, start=start)
    other = Trace(model, there[1], there[0], score=score, start=start)
    assert trace.score is not None
    assert other.score is not None
    pair(trace, other)
    targets, lost = target_edges(trace, at), list[Lost]()
    if trace.score.grad_fn is None:
        raise NeedError("The score carries no gradient", got="a constant", hint="a forward without no_grad or detach")
    root = (trace.score.grad_fn, trace.score.output_nr)
    found = walk(trace, [(root, torch.ones_like(trace.score))], targets, table(targets, lost))
    if not found.plan.wants(root):
        raise NeedError("Nothing arrives where it was asked for", got="no path from the score", hint="another place")
    arrived = dict(zip(targets, found.values, strict=True))
    points = list(trace.values) if at is None else [trace.places[at].value.detach()]
    edges = trace.edges if at is None else targets
    values = (
        None if e is None else torch.zeros_like(x) if arrived[e] is None else arrived[e]
        for e, x in zip(edges, points, strict=True)
    )  # fmt: skip
    return Comparison(tuple(values), tuple(points), trace.score.detach(), other.score.detach(), tuple(lost))
