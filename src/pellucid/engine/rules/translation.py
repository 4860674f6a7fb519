"""How does relevance pass an encoder-decoder with attention? By the ratio of each part to the sum of the parts.

A linear sum's parts ``w u`` share by ``w u / Σ w' u'``, where biases are no parts; weights of attention count as such
weights, maxima go to the winner, and bent functions pass relevance on. Gates are weights too, or share with their signal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pellucid.engine.rules.operations import gate_rank, kept, ratio, stabilised, words
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.recurrent import GATE, SUMS, gate, moving_parts, parts_of
from pellucid.engine.rules.relevance import Layer, weighted
from pellucid.engine.rules.tables import epsilon_lrp
from pellucid.engine.rules.walk import Rule, Table

ATTENTION = 3  # a factor of this rank is a weight of attention


def proportional(stabiliser: float) -> Rule:
    """``R_i = Σ_j x_i w_ij / (Σ_i x_i w_ij) R_j``: the epsilon rule without the bias in the denominator."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        layer, z = Layer(op), op.outs[0]
        if layer.bias is not None:
            z = z - (layer.bias.view(-1, *[1] * (z.dim() - 2)) if op.name == "convolution" else layer.bias)
        s = ratio(grads[0], z, stabiliser)
        return {layer.at: layer.x * layer.back(s, layer.weight), "stabiliser": kept(grads[0], s, z, stabiliser)}

    return Rule("parts, no bias", apply, absorbs="bias")


def proportional_sum(stabiliser: float, gated: bool) -> Rule:
    """Summands by their part of what the summands that are not constant come to; `gated` constants are some."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        moving = {i: parts_of(op)[i] for i in op.edges} if gated else moving_parts(op)
        parts = {i: part.expand_as(op.outs[0]) for i, part in moving.items()}
        z = sum(parts.values())
        s = ratio(grads[0], z, stabiliser)  # type: ignore[arg-type]
        found: dict[Any, Any] = {i: (part * s).sum_to_size(op.leaves[i].shape) for i, part in parts.items()}
        found["stabiliser"] = kept(grads[0], s, z, stabiliser)  # type: ignore[arg-type]
        return found

    return Rule("parts", apply, absorbs="bias")


def shared_gate(values: bool, stabiliser: float) -> Rule:
    """A gate times a signal: half each, or by their values, ``u / (u + u')``; a constant keeps its share.

    Other products, those with weights of attention among them, give all to the signal.
    """

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        ranks = {i: gate_rank(op, i) for i in op.edges}
        if op.name != "mul" or GATE not in ranks.values() or max(ranks.values()) >= ATTENTION:
            return gate.apply(op, grads)
        share: dict[int, Any] = dict.fromkeys((0, 1), 0.5)
        if values:
            total = stabilised(op.leaves[0] + op.leaves[1], stabiliser)
            share = {i: torch.where(total == 0, 0.0, op.leaves[i] / total) for i in share}
        found: dict[Any, Any] = {i: (share[i] * grads[0]).sum_to_size(op.leaves[i].shape) for i in op.edges}
        if values:
            found["stabiliser"] = (1 - share[0] - share[1]) * grads[0]
        return found

    return Rule("gate by value" if values else "gate and signal half each", apply, absorbs="gate")


def translation(stabiliser: float, gates: str, biases: str) -> Table:
    """`gates`: "constant", "half" or "values". `biases`: "shared" by the parts of a sum, or "kept" and told."""
    base = epsilon_lrp(stabiliser)
    products = gate if gates == "constant" else shared_gate(gates == "values", stabiliser)
    rules = base.rules | dict.fromkeys(words("mul div"), products)
    if biases == "kept":
        return replace(base, name="translation", rules=rules)
    linear, sums = proportional(stabiliser), proportional_sum(stabiliser, gates != "constant")
    table = replace(base, name="translation", rules=rules | dict.fromkeys(SUMS, sums))
    return table.choosing(lambda op: linear if weighted(op) else None)
