"""How can an operation with weights share out relevance? The rules of layer-wise relevance propagation.

Each rule gives an input its part of one denominator per output: ``R_i = x_i Σ_j w_ij s_j`` with ``s_j = R_j / z_j``,
where weights, inputs and denominators are split by sign. Of a convolution, the part of a denominator that inhibits is
the recorded output less the part that excites, so each rule needs one more forward pass of it, and none for what
nothing feeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, MethodError
from pellucid.engine.rules.ledger import Said
from pellucid.engine.rules.operations import kept, ratio
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.walk import Rule

Bounds = float | Tensor

# The two factors and the bias of each operation that weights can stand in; products alone have one where it was folded.
ROLES = {"convolution": (0, 1, 2), "addmm": (1, 2, 0), "mm": (0, 1, 2), "bmm": (0, 1, 2), "baddbmm": (1, 2, 0)}


def weighted(op: Op) -> bool:
    """Do fixed weights act on the one factor that relevance goes to? Only then can they be split by sign."""
    if op.name not in ROLES or len(op.edges) != 1:
        return False
    factors = ROLES[op.name][:2]
    plain = len(op.leaves) == 3 or op.name not in ("addmm", "baddbmm")  # not scaled by alpha or beta
    return next(iter(op.edges)) in (factors[:1] if op.name == "convolution" else factors) and plain


class Layer:
    """A weighted operation by its parts: the input x, the weight, the bias and the recorded output."""

    def __init__(self, op: Op) -> None:
        (self.at,) = op.edges
        first, second, third = ROLES[op.name]
        self.op, self.weight_at, self.bias_at = op, second if self.at == first else first, third
        self.x, self.weight, self.out = op.leaves[self.at], op.leaves[self.weight_at], op.outs[0]
        self.bias: Tensor | None = None if third is None or third >= len(op.leaves) else op.leaves[third]
        self.signed = bool(self.x.numel()) and bool(self.x.min() < 0)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The operation at other values."""
        leaves = list(self.op.leaves)
        leaves[self.at], leaves[self.weight_at] = x, weight
        if self.op.name == "convolution":
            leaves[2] = bias
            return self.op.call(leaves)[0]
        if self.op.name in ("addmm", "baddbmm"):
            leaves[0] = weight.new_zeros(()) if bias is None else bias
            return self.op.call(leaves)[0]
        out = self.op.call(leaves)[0]
        return out if bias is None else out + bias

    def back(self, s: Tensor, weight: Tensor) -> Tensor:
        """Σ_j w_ij s_j for each input."""
        leaves = list(self.op.leaves)
        leaves[self.weight_at] = weight
        return self.op.vjp([s], [self.at], leaves)[self.at]

    def excites(self, up: Tensor, down: Tensor | None) -> Tensor:
        """The part of the output that is positive: x⁺w⁺ + x⁻w⁻ + b⁺, with up = w⁺ and, for inputs below zero, down = w⁻."""
        bias = None if self.bias is None else self.bias.clamp(min=0)
        if down is None or not self.signed:
            return self.forward(self.x, up, bias)
        return self.forward(self.x.clamp(min=0), up, bias) + self.forward(self.x.clamp(max=0), down)

    def inhibits(self, up: Tensor, down: Tensor, excites: Tensor) -> Tensor:
        """The part that is negative: for convolutions the rest of the output, which rounding blurs but little."""
        if self.op.name == "convolution":
            return (self.out - excites).clamp(max=0)
        bias = None if self.bias is None else self.bias.clamp(max=0)
        if not self.signed:
            return self.forward(self.x, down, bias)
        return self.forward(self.x.clamp(min=0), down, bias) + self.forward(self.x.clamp(max=0), up)

    def spread(self, amount: Tensor, stabiliser: float = 0.0) -> Tensor:
        """Each output's amount in equal parts over the inputs in its window."""
        if self.op.name == "convolution":
            *_, transposed, _, groups = unflatten(self.op.leaves, self.op.spec)[0]
            if groups == 1 and not transposed:
                return self._spread_alike(amount, stabiliser)
        ones = torch.ones_like(self.weight)
        count = self.forward(torch.ones_like(self.x), ones)
        return self.back(ratio(amount, count, stabiliser), ones)

    def _spread_alike(self, amount: Tensor, stabiliser: float) -> Tensor:
        """All output channels have the same window over all input channels: one channel stands for them."""
        x, weight = self.x[:1, :1], self.weight[:1, :1]
        leaves: list[Any] = [torch.ones_like(x), torch.ones_like(weight), None, *self.op.leaves[3:]]
        count = self.op.call(leaves)[0] * self.x.shape[1]
        leaves[0] = self.x[:, :1]
        alone = self.op.vjp([ratio(amount.sum(1, keepdim=True), count, stabiliser)], [0], leaves)[0]
        return alone.expand_as(self.x)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative part."""
    return x.clamp(min=0), x.clamp(max=0)


def _rule(name: str, share: Callable[[Layer, Tensor], tuple[Tensor, Said | None]]) -> Rule:
    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        layer = Layer(op)
        found, left = share(layer, grads[0])
        return {layer.at: found} if left is None else {layer.at: found, "rule": left}

    return Rule(name, apply, absorbs="bias")


def z_plus(stabiliser: float = 1e-6, positive: bool = False) -> Rule:
    """What excites alone: ``z_ij⁺ / Σ z_ij⁺``; for inputs of both signs that is x⁺w⁺ and x⁻w⁻, or refused (`positive`)."""

    def share(layer: Layer, relevance: Tensor) -> tuple[Tensor, Said]:
        if positive and layer.signed:
            raise InputError(
                "The z⁺ rule of the domain 'positive' needs values that are not below zero",
                got=f"values from {float(layer.x.min()):.4g} at {layer.op!r}",
                hint="domain='real', or 'box' with the bounds low= and high=",
            )
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0) if layer.signed else None
        s, left = _over(relevance, layer.excites(up, down), stabiliser)
        found = layer.x * layer.back(s, up)
        if down is not None:
            found = torch.where(layer.x < 0, layer.x * layer.back(s, down), found)
        return found, left

    return _rule("z⁺", share)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, stabiliser: float = 1e-6) -> Rule:
    """``α z_ij⁺/Σz⁺ - β z_ij⁻/Σz⁻`` with α - β = 1. An output that nothing inhibits passes on α times its relevance."""
    if alpha < 1 or beta < 0 or abs(alpha - beta - 1) > 1e-9:
        raise MethodError(
            "'alpha' and 'beta' must be at least 1 and 0, with alpha - beta = 1",
            got=f"alpha={alpha}, beta={beta}",
            hint="alpha=2, beta=1 (where a source writes alpha + beta = 1, its beta is the negative of this one)",
        )
    if not beta:
        return z_plus(stabiliser)

    def share(layer: Layer, relevance: Tensor) -> tuple[Tensor, Said]:
        up, down = split(layer.weight)
        above = layer.excites(up, down)
        below = layer.inhibits(up, down, above)
        (s, lost), (t, made) = _over(relevance, above, stabiliser), _over(relevance, below.neg_(), stabiliser)
        found = layer.back(s, up).mul_(alpha).add_(layer.back(t, down), alpha=beta)
        if layer.signed:
            other = layer.back(s, down).mul_(alpha).add_(layer.back(t, up), alpha=beta)
            found = torch.where(layer.x < 0, other, found)
        return found.mul_(layer.x), [(lost[0][0], alpha * lost[0][1]), (made[0][0], -beta * made[0][1])]

    return _rule(f"α{alpha:g} β{beta:g}", share)


def _over(relevance: Tensor, z: Tensor, stabiliser: float) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """relevance / z, and what the stabiliser keeps, for z that is not below zero but by rounding; z is overwritten."""
    z.clamp_(min=0)
    if not stabiliser:
        return ratio(relevance, z, 0.0), [(torch.where(z == 0, relevance, 0.0), 1.0)]
    s = torch.div(relevance, z.add_(stabiliser), out=z)
    return s, [(s, stabiliser)]


def gamma(factor: float = 0.25, stabiliser: float = 1e-6) -> Rule:
    """Positive contributions count (1 + γ)-fold where the output is positive, negative ones where it is negative."""
    if not 0 <= factor < float("inf"):
        raise MethodError("'gamma' must not be negative", got=str(factor), hint="0.25")

    def share(layer: Layer, relevance: Tensor) -> tuple[Tensor, Tensor]:
        up, down = split(layer.weight)
        more, less = layer.weight + factor * up, layer.weight + factor * down
        excites = layer.excites(up, down)
        above, below = layer.out > 0, layer.out < 0
        parts = [(relevance * above, layer.out + factor * excites, more, less)]
        if bool((relevance * below).any()):
            inhibits = layer.inhibits(up, down, excites)
            parts.append((relevance * below, layer.out + factor * inhibits, less, more))
        found, left = torch.zeros_like(layer.x), relevance.clone()
        for part, z, positive, negative in parts:
            s = ratio(part, z, stabiliser)
            back = layer.back(s, positive)
            if layer.signed:
                back = torch.where(layer.x < 0, layer.back(s, negative), back)
            found.addcmul_(layer.x, back)
            left.addcmul_(s, z, value=-1)
        return found, left

    return _rule(f"γ={factor:g}", share)


def flat(stabiliser: float = 1e-6) -> Rule:
    """Every input of a window gets the same share, whatever its value and weight."""
    return _rule("flat", lambda layer, relevance: (layer.spread(relevance, stabiliser), None))


def w_square(stabiliser: float = 1e-6, biases: bool = True) -> Rule:
    """Shares by the square of the weight, whatever the input's value; with `biases`, they keep theirs by the same."""

    def share(layer: Layer, relevance: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = layer.weight.square(), layer.bias.square() if layer.bias is not None and biases else None
        z = layer.forward(torch.ones_like(layer.x), weight, bias)
        s = ratio(relevance, z, stabiliser)
        return layer.back(s, weight), kept(relevance, s, z, stabiliser)

    return _rule("w²", share)


def z_box(low: Bounds, high: Bounds, stabiliser: float = 1e-6) -> Rule:
    """For inputs between `low` and `high`: shares by ``x w - low w⁺ - high w⁻``."""

    def share(layer: Layer, relevance: Tensor) -> tuple[Tensor, Tensor]:
        x = layer.x
        lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (low, high))
        if bool((x < lower).any()) or bool((x > upper).any()):
            raise InputError(
                "The z-box rule needs inputs between 'low' and 'high'",
                got=f"values from {float(x.min()):.4g} to {float(x.max()):.4g} at {layer.op!r}",
                hint="the smallest and largest value that a pixel can take after normalisation",
            )
        up, down = split(layer.weight)
        whole = x[:1] if layer.op.name == "convolution" else x
        z = layer.out - layer.forward(lower.expand_as(whole), up, layer.bias)  # without the bias, which has no share
        z = z - layer.forward(upper.expand_as(whole), down)
        s = ratio(relevance, z, stabiliser)
        found = x * layer.back(s, layer.weight) - lower * layer.back(s, up) - upper * layer.back(s, down)
        return found, kept(relevance, s, z, stabiliser)

    return _rule("z-box", share)
