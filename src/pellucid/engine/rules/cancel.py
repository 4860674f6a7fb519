"""DeepLIFT's RevealCancel rule: what raised and what lowered a nonlinearity's input pass it apart.

At a nonlinearity y = f(x) whose input changed by Δx = Δ⁺ + Δ⁻, the sums of its positive and negative contributions, the
change of y is shared as if Δ⁺ came first or second, in the mean:

    Δy⁺ = ½ (f(x' + Δ⁺) - f(x')) + ½ (f(x) - f(x' + Δ⁻)),    Δy⁻ = ½ (f(x' + Δ⁻) - f(x')) + ½ (f(x) - f(x' + Δ⁺)).

The multipliers Δy⁺/Δ⁺ and Δy⁻/Δ⁻ go back as a cotangent in two parts. It passes what only moves, scales or adds values, so
that a bias, a batch norm or a reshaping in between changes nothing, and is merged where contributions arise: at weights,
means, and what no linear operation made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules import differences as d
from pellucid.engine.rules.contrast import Lost, comparing
from pellucid.engine.rules.ledger import Parts
from pellucid.engine.rules.operations import BATCH_NORM, rectified, words
from pellucid.engine.rules.record import Edge, Op
from pellucid.engine.rules.walk import WEIGHTED, Rule, Table

MOVING = words(
    "view _unsafe_view reshape _reshape_alias t transpose permute slice select expand clone alias unsqueeze squeeze cat "
    "stack split split_with_sizes unsafe_split unsafe_split_with_sizes unbind unsafe_chunk _to_copy flip repeat contiguous"
)
SCALING = words("add sub rsub neg mul div") | BATCH_NORM
POSITIVE = words("mean sum avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d")
FACTORS = {"convolution": (0, 1, 2), "addmm": (1, 2, 0), "mm": (0, 1, None), "bmm": (0, 1, None), "baddbmm": (1, 2, 0)}
BROUGHT = ("add", "sub", "rsub")  # their operands bring contributions of their own

Pair = tuple[Tensor, Tensor]


def reveal_cancel(targets: list[Edge], lost: list[Lost]) -> Table:
    """DeepLIFT's Linear and RevealCancel rules (Shrikumar et al., 2017, §3.5.3); the rest as `contrast.rescale`.

    A nonlinearity written in place into a part of a tensor gets the Rescale rule: its contributions are not told apart.
    """
    bearing = _Bearing(set(targets))

    def split(op: Op, grads: list[Any]) -> dict[int, Any]:
        leaf = d.sole(op)
        raised_lowered = bearing.into(op, leaf) if op.region is None else None
        if raised_lowered is None:
            return {leaf: grads[0] * d.secant(op, leaf)}
        plus, minus = _multipliers(op, leaf, *raised_lowered)
        return {leaf: Parts(grads[0] * plus, grads[0] * minus)}

    def then(ops: list[Op]) -> None:
        for op in ops:
            if op.rule is None and bearing.takes(op):
                op.rule = bearing.rule(op)

    return comparing("deeplift-revealcancel", Rule("RevealCancel", split), lost, then)


def _multipliers(op: Op, leaf: int, plus: Tensor, minus: Tensor) -> Pair:
    """Δy⁺/Δ⁺ and Δy⁻/Δ⁻: each the mean of two chords, from the reference on, and up to the input."""

    def between(start: Tensor, end: Tensor) -> Tensor:
        return d.chord((end, start), (curve(end), curve(start)), lambda: (slope(end), slope(start)))

    def curve(x: Tensor) -> Tensor:
        return x.clamp(min=0) if relu else op.call(_at(op, leaf, x))[0]

    def slope(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype) if relu else op.vjp([torch.ones_like(x)], [leaf], _at(op, leaf, x))[leaf]

    relu = rectified(op) is not None
    start, end = d.twin(op).leaves[leaf], op.leaves[leaf]
    raised = (between(start, start + plus) + between(start + minus, end)) / 2
    lowered = (between(start, start + minus) + between(start + plus, end)) / 2
    return raised, lowered


def _at(op: Op, leaf: int, x: Tensor) -> list[Any]:
    return [x if i == leaf else v for i, v in enumerate(op.leaves)]


def _by_sign(contribution: Tensor, parts: Parts) -> Tensor:
    """The part that a contribution belongs to; what contributes nothing gets the mean of both."""
    plus, minus = parts.parts
    return torch.where(contribution > 0, plus, torch.where(contribution < 0, minus, (plus + minus) / 2))


def _signs(value: Tensor) -> Pair:
    return value.clamp(min=0), value.clamp(max=0)


def delta(op: Op, leaf: int) -> Tensor:
    """By how much an operand differs from the reference run."""
    return d.change(op.leaves[leaf], d.twin(op).leaves[leaf])


class _Bearing:
    """Which operations bear contributions of both signs, what these are, and how their parts go back."""

    def __init__(self, targets: set[Edge]) -> None:
        self.targets = targets
        self._takes: dict[Op, bool] = {}

    def takes(self, op: Op) -> bool:
        """Can this operation's output be given a cotangent in parts?"""
        if op not in self._takes:
            self._takes[op] = _whole(op) and op.rule is None and self._decide(op)
        return self._takes[op]

    def _decide(self, op: Op) -> bool:
        one = len(op.edges) == 1
        if op.name in WEIGHTED:
            return one and d.sole(op) in FACTORS[op.name][:2]
        if op.name in POSITIVE:
            return one
        if op.name in BROUGHT and not one:
            return _even(op)
        if op.name in SCALING:
            plain = one and _even(op) and not (op.name == "div" and 1 in op.edges)
            statistics = op.name in BATCH_NORM and (set(op.edges) != {0} or d.by_batch(op))
            return plain and not statistics and self.bears(op, d.sole(op))
        return op.name in MOVING and any(self.bears(op, i) for i in op.edges)

    def bears(self, op: Op, leaf: int) -> bool:
        """Was this operand made by such an operation, and is it no place where the walk ends?"""
        source = op.producers.get(leaf)
        return source is not None and op.links[leaf] not in self.targets and self.takes(source)

    # --- forwards: the positive and negative contributions to a value ---

    def into(self, op: Op, leaf: int) -> Pair | None:
        """The contributions to an operand, or None where no linear operation made it."""
        if not self.bears(op, leaf):
            return None
        source = op.producers[leaf]
        assert source is not None
        pair = self.made(source)[op.links[leaf][1]]
        return pair if pair[0].shape == op.leaves[leaf].shape else None

    def made(self, op: Op) -> list[Pair]:
        """The contributions to each output."""
        if op.name in WEIGHTED:
            return [_weighted(op)]
        if op.name in POSITIVE:
            leaf, pair = d.sole(op), _signs(delta(op, d.sole(op)))
            up, down = (op.call(_at(op, leaf, part))[0] for part in pair)
            return [(up, down)]
        brought = {i: self.into(op, i) or _signs(delta(op, i)) for i in op.edges}
        if op.name in MOVING:
            sides = [op.call([brought[i][k] if i in brought else _nothing(v) for i, v in enumerate(op.leaves)])
                     for k in (0, 1)]  # fmt: skip
            return list(zip(*sides, strict=True))
        up = down = torch.zeros_like(op.outs[0])
        for i, (plus, minus) in brought.items():
            scale = d.slope(op, i)
            up = up + scale * torch.where(scale > 0, plus, minus)
            down = down + scale * torch.where(scale > 0, minus, plus)
        return [(up, down)]

    # --- backwards: the parts of a cotangent ---

    def rule(self, op: Op) -> Rule | None:
        """How parts go back through such an operation."""
        if op.name in WEIGHTED:
            return Rule("linear, merging parts", _merging(_through_weights), parts=True)
        if op.name in POSITIVE:
            return Rule("linear, merging parts", _merging(_through_means), parts=True)
        if op.name in MOVING and all(self.bears(op, i) for i in op.edges):
            return None  # moves each part alike
        return Rule("linear, in parts", _merging(self._onward), parts=True)

    def _onward(self, op: Op, grads: list[Any]) -> dict[int, Any]:
        (g, *_), back = grads, dict[int, Any]()
        if op.name in MOVING:
            both = [op.vjp([part], list(op.edges)) for part in g.parts]
            for i in op.edges:
                parts = Parts(*(side[i] for side in both))
                back[i] = parts if self.bears(op, i) else _by_sign(delta(op, i), parts)
            return back
        for i in op.edges:
            scale = d.slope(op, i)
            plus, minus = (scale * part for part in g.parts)
            parts = Parts(torch.where(scale > 0, plus, minus), torch.where(scale > 0, minus, plus))
            back[i] = parts if self.bears(op, i) else _by_sign(delta(op, i), parts)
        return back


Apply = Callable[[Op, list[Any]], dict[int, Any]]


def _merging(apply: Apply) -> Apply:
    """For a plain cotangent, the operation's own vjp."""

    def either(op: Op, grads: list[Any]) -> dict[int, Any]:
        return apply(op, grads) if isinstance(grads[0], Parts) else op.vjp(grads, list(op.edges))

    return either


def _whole(op: Op) -> bool:
    """Neither written into a part of a tensor, nor a nonlinearity in the guise of a product or a sum."""
    return op.region is None and rectified(op) is None


def _even(op: Op) -> bool:
    return all(op.leaves[i].shape == op.outs[0].shape for i in op.edges)


def _nothing(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def _with(op: Op, value: Tensor, weight: Tensor) -> list[Any]:
    """The operation's arguments with these factors and no bias."""
    leaves, leaf = list(op.leaves), d.sole(op)
    first, second, bias = FACTORS[op.name]
    leaves[leaf], leaves[second if leaf == first else first] = value, weight
    if bias is not None and leaves[bias] is not None:
        leaves[bias] = torch.zeros_like(leaves[bias])
    return leaves


def _weight(op: Op) -> Tensor:
    first, second, _ = FACTORS[op.name]
    weight: Tensor = op.leaves[second if d.sole(op) == first else first]
    return weight


def _weighted(op: Op) -> Pair:
    (up, down), (above, below) = _signs(delta(op, d.sole(op))), _signs(_weight(op))
    plus = op.call(_with(op, up, above))[0] + op.call(_with(op, down, below))[0]
    minus = op.call(_with(op, up, below))[0] + op.call(_with(op, down, above))[0]
    return plus, minus


def _through_weights(op: Op, grads: list[Any]) -> dict[int, Any]:
    leaf, (plus, minus) = d.sole(op), grads[0].parts
    value = op.leaves[leaf]
    above, below = (_with(op, value, w) for w in _signs(_weight(op)))
    rose = op.vjp([plus], [leaf], above)[leaf] + op.vjp([minus], [leaf], below)[leaf]
    fell = op.vjp([minus], [leaf], above)[leaf] + op.vjp([plus], [leaf], below)[leaf]
    return {leaf: _by_sign(delta(op, leaf), Parts(rose, fell))}


def _through_means(op: Op, grads: list[Any]) -> dict[int, Any]:
    leaf = d.sole(op)
    both = Parts(*(op.vjp([part], [leaf])[leaf] for part in grads[0].parts))
    return {leaf: _by_sign(delta(op, leaf), both)}
