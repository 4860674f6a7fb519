"""How much of a difference between two runs went through each operand? Rules that compare an operation with its twin.

A cotangent m at a value v says that m · (v - v') of the score's change passed there, where v' is the value in the reference
run. A rule is exact when ``Σ_out m_out · Δout = Σ_in m_in · Δin``; all here are, up to rounding:

- one nonlinearity per element: the slope of the secant (DeepLIFT's Rescale rule);
- products and quotients: each factor with the other at the mean of its two values (two players' Shapley values);
- maxima: what rose goes to the winner of this run, what fell to the winner of the reference (for minima, the reverse);
- softmax, norms and other smooth operations of many inputs: the mean derivative on the line between the two runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.operations import rectified, stabilised
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.walk import Rule

# Eight Gauss-Legendre nodes on [-1, 1] and their weights: exact for polynomials up to degree 15.
NODES = ((0.1834346424956498, 0.3626837833783620), (0.5255324099163290, 0.3137066458778873),
         (0.7966664774136267, 0.2223810344533745), (0.9602898564975363, 0.1012285362903763))  # fmt: skip
DEPTH = 40  # halvings of the line before an integral counts as not found


def sole(op: Op) -> int:
    """The one leaf that leads further."""
    (leaf,) = op.edges
    return leaf


def twin(op: Op) -> Op:
    """The same operation in the reference run."""
    assert op.twin is not None, "the two runs were not paired"
    return op.twin


def change(here: Any, there: Any) -> Tensor:
    """here - there, and zero where both are equal, infinities included."""
    return (here - there).masked_fill_(here == there, 0.0)


def ratio(part: Tensor, whole: Tensor, otherwise: Tensor) -> Tensor:
    """part / whole, and `otherwise` where the whole is zero."""
    return torch.where(whole == 0, otherwise, part / whole)


def slope(op: Op, leaf: int) -> Tensor:
    """The derivative of an operation with one nonlinearity per element."""
    return op.vjp([torch.ones_like(op.outs[0])], [leaf]).get(leaf, torch.zeros_like(op.outs[0]))


Ends = tuple[Tensor, Tensor]


def chord(x: Ends, y: Ends, slopes: Callable[[], Ends]) -> Tensor:
    """Change of output over change of input between two points of a curve, element by element.

    Where the inputs are so near to each other that rounding would spoil the quotient, and the curve is smooth there, the
    mean of the slopes at both ends is closer to it.
    """
    dx, dy = change(*x), change(*y)
    small = torch.finfo(dx.dtype).eps ** (1 / 3)
    near = dx.abs() <= small * torch.minimum(x[0].abs(), x[1].abs()).clamp(max=1)
    if not bool(near.any()):
        return dy / dx
    here, there = slopes()
    smooth = (here - there).abs() <= small * (here.abs() + there.abs())
    mean = (here + there) / 2
    return torch.where(near & (smooth | (dx == 0)), mean, ratio(dy, dx, mean))


def secant(op: Op, leaf: int) -> Tensor:
    """The slope of a nonlinearity between the two runs, element by element."""
    other = twin(op)
    if rectified(op) is not None:  # straight on either side of zero: there is no rounding to fear
        x = op.leaves[leaf]
        return ratio(change(op.outs[0], other.outs[0]), change(x, other.leaves[leaf]), (x > 0).to(x.dtype))
    return chord(
        (op.leaves[leaf], other.leaves[leaf]),
        (op.outs[0], other.outs[0]),
        lambda: (slope(op, leaf), slope(other, leaf)),
    )


def proportion(stabiliser: float = 0.0) -> Callable[[Op, int], Tensor]:
    """Output over input, element by element: the factor that turns a modified gradient into ε-LRP's multipliers."""
    return lambda op, leaf: op.outs[0] / stabilised(op.leaves[leaf], stabiliser)


Factor = Callable[[Op, int], Tensor]  # what stands in a nonlinearity's derivative's stead


def modified(name: str, factor: Factor) -> Rule:
    """A nonlinearity whose derivative is replaced by `factor` in the chain rule."""

    def apply(op: Op, grads: list[Any]) -> dict[int, Any]:
        leaf = sole(op)
        return {leaf: grads[0] * factor(op, leaf)}

    return Rule(name, apply, absorbs="nonlinearity")


def by_batch(op: Op) -> bool:
    """Does this batch norm use the batch's own mean and variance, so that it is no linear operation?"""
    return op.name != "_native_batch_norm_legit_no_training" and bool(op.leaves[5])


# --- products ---


def _halfway(op: Op, grads: list[Any]) -> dict[int, Any]:
    here, there = op.leaves, twin(op).leaves
    means = [_mean(a, b) if isinstance(a, Tensor) and a is not b else a for a, b in zip(here, there, strict=True)]
    return op.vjp(grads, list(op.edges), means)


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == b, a, (a + b) / 2) if a.is_floating_point() else a


def _quotient(op: Op, grads: list[Any]) -> dict[int, Any]:
    (a, b), (a0, b0) = ((x.leaves[0], x.leaves[1]) for x in (op, twin(op)))
    a, a0 = torch.as_tensor(a), torch.as_tensor(a0)
    back = {0: grads[0] * (1 / b + 1 / b0) / 2, 1: -grads[0] * _mean(a, a0) / (b * b0)}
    return {i: g.sum_to_size(op.leaves[i].shape) for i, g in back.items() if i in op.edges}


halfway = Rule("product: factors at their means", _halfway)
quotient = Rule("quotient: factors at their means", _quotient)


# --- maxima and minima ---


def _chosen(largest: bool) -> Callable[[Op, list[Any]], dict[int, Any]]:
    def apply(op: Op, grads: list[Any]) -> dict[int, Any]:
        y, y0, wanted = op.outs[0], twin(op).outs[0], list(op.edges)
        edge = torch.maximum(y, y0) if largest else torch.minimum(y, y0)
        here = op.vjp([grads[0] * change(edge, y0)], wanted)
        there = twin(op).vjp([grads[0] * change(y, edge)], wanted)
        plain, back = op.vjp(grads[:1], wanted), {}
        for i in wanted:
            dx = change(op.leaves[i], twin(op).leaves[i])
            shared = [part[i] for part in (here, there) if i in part]
            if shared:
                back[i] = ratio(sum(shared[1:], shared[0]), dx, plain.get(i, torch.zeros_like(dx)))
        return back

    return apply


maximum = Rule("maximum: rise to this winner, fall to the other", _chosen(True))
minimum = Rule("minimum: fall to this winner, rise to the other", _chosen(False))


def by_mask(op: Op, grads: list[Any]) -> dict[int, Any]:
    """A choice by a mask made from one of the operands: the others get their share of each side, that one the rest."""
    gated = op.gated
    assert gated is not None
    here, there = (x.vjp(grads, list(op.edges)) for x in (op, twin(op)))
    zero = torch.zeros_like(op.outs[0])
    back = {i: (here.get(i, zero) + there.get(i, zero)) / 2 for i in op.edges}
    rest = grads[0] * change(op.outs[0], twin(op).outs[0])
    for i in back.keys() - {gated}:
        rest = rest - back[i] * change(op.leaves[i], twin(op).leaves[i])
    back[gated] = ratio(rest, change(op.leaves[gated], twin(op).leaves[gated]), back[gated])
    return back


# --- smooth operations of many inputs ---


def straight(op: Op, grads: list[Any]) -> dict[int, Any]:
    """The mean derivative on the line between the two runs, by adaptive quadrature.

    A piece of the line is halved until, in each slice along the first axis by itself, what the derivatives carry equals
    what the outputs changed by; so the result for one slice does not depend on the others.
    """
    line = _Line(op, grads)
    line.add(0.0, 1.0, line.every, line.outputs(0.0), line.outputs(1.0), 0)
    return line.total


class _Line:
    """The operation along the straight line of its operands from the reference (0) to this run (1)."""

    def __init__(self, op: Op, grads: Sequence[Any]) -> None:
        self.op, self.wanted, count = op, list(op.edges), len(op.outs)
        self.grads = [grads[k] if k < len(grads) else None for k in range(count)]
        self.delta = {i: change(op.leaves[i], twin(op).leaves[i]) for i in self.wanted}
        self.total = {i: torch.zeros_like(d) for i, d in self.delta.items()}
        shown = [*self.delta.values(), *(g for g in self.grads if g is not None)]
        self.apart = _apart(op) and len({x.shape[:1] for x in shown}) == 1
        first = shown[0]
        self.every = torch.ones(first.shape[0] if self.apart else 1, dtype=torch.bool, device=first.device)
        eps = torch.finfo(first.dtype).eps
        self.share, self.rounding = max(1e-12, 4 * eps), 4 * eps

    def leaves(self, t: float) -> list[Any]:
        values = list(self.op.leaves)
        for i in self.wanted:
            here, there = values[i], twin(self.op).leaves[i]
            values[i] = torch.where(here == there, here, torch.lerp(there, here, t))
        return values

    def outputs(self, t: float) -> list[Tensor]:
        return self.op.outs if t == 1.0 else twin(self.op).outs if t == 0.0 else self.op.call(self.leaves(t))

    def slices(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1) if self.apart else x.sum().reshape(1)

    def only(self, x: Tensor | None, which: Tensor) -> Tensor | None:
        if x is None or not self.apart:
            return x
        return torch.where(which.reshape(-1, *[1] * (x.dim() - 1)), x, torch.zeros_like(x))

    def add(self, low: float, high: float, which: Tensor, start: list[Tensor], end: list[Tensor], depth: int) -> None:
        """Add the integral over [low, high] for these slices."""
        grads, found = [self.only(g, which) for g in self.grads], dict[int, Tensor]()
        for node, weight in ((s * x, w) for x, w in NODES for s in (-1, 1)):
            at = low + (high - low) * (1 + node) / 2
            for i, g in self.op.vjp(grads, self.wanted, self.leaves(at)).items():
                found[i] = found.get(i, 0) + g * (weight * (high - low) / 2)
        carried = sum((self.slices(g * self.delta[i]) for i, g in found.items()), self.every * 0.0)
        changed, scale = self.every * 0.0, self.every * 0.0
        for g, a, b, whole in zip(grads, start, end, self.ends, strict=True):
            if g is not None:
                changed = changed + self.slices(g * change(b, a))
                scale = scale + self.slices(g.abs() * (self.share * whole + self.rounding * (a.abs() + b.abs())))
        open_ = which & ((carried - changed).abs() > scale)  # NaN counts as closed
        if depth == DEPTH or not bool(open_.any()):
            open_ = torch.zeros_like(which)
        for i, g in found.items():
            kept = self.only(g, which & ~open_)
            if kept is not None and (self.apart or not bool(open_.any())):
                self.total[i] = self.total[i] + kept
        if bool(open_.any()):
            middle = (low + high) / 2
            between = self.outputs(middle)
            self.add(low, middle, open_, start, between, depth + 1)
            self.add(middle, high, open_, between, end, depth + 1)

    @property
    def ends(self) -> list[Tensor]:
        return [change(a, b).abs() for a, b in zip(self.op.outs, twin(self.op).outs, strict=True)]


def _apart(op: Op) -> bool:
    """Do entries along the first axis keep to themselves?"""
    arguments, _ = unflatten(op.leaves, op.spec)
    x = arguments[0]
    if op.name == "native_group_norm":
        return True
    if op.name == "native_layer_norm":
        return len(arguments[1]) < x.dim()
    return "softmax" in op.name and x.dim() > 1 and arguments[1] % x.dim() > 0


on_the_line = Rule("mean derivative on the line", straight)


def _root_mean_square(op: Op, grads: list[Any]) -> dict[int, Any]:
    """x / √(mean x² + ε) · weight, step by step as where torch has no fused kernel for it: square, mean, root, product."""
    (x, shape, weight, least), _ = unflatten(op.leaves, op.spec)
    x0, axes = twin(op).leaves[0], tuple(range(-len(shape), 0))
    least = torch.finfo(x.dtype).eps if least is None else least
    v, v0 = (z.square().mean(axes, keepdim=True) + least for z in (x, x0))
    r, r0 = v.rsqrt(), v0.rsqrt()
    g = grads[0] if weight is None else grads[0] * weight
    to_root = (g * (x + x0) / 2).sum(axes, keepdim=True) * ratio(change(r, r0), change(v, v0), -0.5 * r / v)
    return {0: g * (r + r0) / 2 + to_root * (x + x0) / (x.numel() / v.numel())}


root_mean_square = Rule("root mean square, step by step", _root_mean_square)
