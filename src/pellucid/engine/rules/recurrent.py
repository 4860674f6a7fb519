"""How does relevance pass gates and steps? Everything to the signal, and what biases would keep back to the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.operations import gate_rank, kept, ratio, words
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.relevance import Layer, weighted
from pellucid.engine.rules.tables import epsilon_lrp
from pellucid.engine.rules.walk import Rule, Table

SUMS = words("add sub rsub")
GATE = 2  # a factor of this rank is a gate: sigmoid or softmax


def bias_sharing(stabiliser: float, factor: float) -> Rule:
    """The epsilon rule, where `factor` of what bias and stabiliser would keep goes to all inputs in equal parts."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        layer, relevance = Layer(op), grads[0]
        s = ratio(relevance, layer.out, stabiliser)
        found = layer.x * layer.back(s, layer.weight)
        bias = layer.bias
        if bias is not None and op.name == "convolution":
            bias = bias.view(-1, *[1] * (layer.out.dim() - 2))
        left = kept(relevance, s, layer.out, stabiliser)
        if factor:
            found = found + factor * layer.spread(left if bias is None else left + s * bias)
        return {layer.at: found, "stabiliser": (1 - factor) * left}

    return Rule(f"epsilon, bias × {factor:g}", apply, absorbs="bias")


def parts_of(op: Op) -> dict[int, Tensor]:
    """The summands of an elementwise sum or difference, by leaf."""
    first, second = op.leaves[:2]
    scale = op.leaves[2] if len(op.leaves) > 2 else 1
    if op.name == "rsub":
        return {0: -scale * first, 1: second}
    return {0: first, 1: (scale if op.name == "add" else -scale) * second}


def sum_sharing(stabiliser: float, factor: float) -> Rule:
    """Summands by their part; `factor` of what constants and stabiliser would keep goes to the summands by their size."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        relevance, z, parts = grads[0], op.outs[0], moving_parts(op)
        s = ratio(relevance, z, stabiliser)
        left = relevance - s * sum(parts.values())
        size = sum(part.abs() for part in parts.values()).expand_as(z)  # type: ignore[union-attr]
        found: dict[Any, Any] = {}
        for i, part in parts.items():
            extra = torch.where(size == 0, 1 / len(parts), part.abs() / size)
            found[i] = (part * s + factor * left * extra).sum_to_size(part.shape)
        found["stabiliser"] = (1 - factor) * kept(relevance, s, z, stabiliser)
        return found

    return Rule(f"parts, bias × {factor:g}", apply, absorbs="bias")


def moving_parts(op: Op) -> dict[int, Tensor]:
    """The summands that relevance can go to: all but constants, gated ones included."""
    parts = {i: v for i, v in parts_of(op).items() if i in op.edges}
    return {i: part for i, part in parts.items() if not _gated_constant(op.producers.get(i))} or parts


def _gated_constant(op: Op | None) -> bool:
    """Does a gate let a constant through, such as the state before the first step? Nothing behind it is a signal."""
    return op is not None and op.name == "mul" and len(op.edges) == 1 and gate_rank(op, *op.edges) >= GATE


def _gate(op: Op, grads: list[Any]) -> dict[Any, Any]:
    relevance = grads[0]
    ranks = {i: gate_rank(op, i) for i in op.edges}
    signals = [i for i in ranks if ranks[i] == min(ranks.values())]
    if op.name == "div":
        signals = [i for i in op.edges if i == 0]
    elif len(ranks) == 1 and ranks[signals[0]] >= GATE:
        signals = []  # the signal is a constant, and keeps what is its own
    if not signals:
        return {"gate": relevance}
    return {i: (relevance / len(signals)).sum_to_size(op.leaves[i].shape) for i in signals}


gate = Rule("all to the signal", _gate, absorbs="gate")


def recurrent(stabiliser: float, factor: float) -> Table:
    """Gates times signals all to the signal; linear operations and sums with the bias factor; the rest as in epsilon."""
    base = epsilon_lrp(min(stabiliser, 1e-9))
    linear, sums = bias_sharing(stabiliser, factor), sum_sharing(stabiliser, factor)
    choose: Callable[[Op], Rule | None] = lambda op: linear if weighted(op) else None  # noqa: E731
    rules = base.rules | dict.fromkeys(SUMS, sums) | dict.fromkeys(words("mul div"), gate)
    return replace(base, name="recurrent", rules=rules).choosing(choose)


def among_present(stabiliser: float, factor: float) -> Rule:
    """The same as `bias_sharing`, but only what is there, inputs other than zero, gets a part of the bias."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        layer = Layer(op)
        s = ratio(grads[0], layer.out, stabiliser)
        left = kept(grads[0], s, layer.out, stabiliser)
        whole = left if layer.bias is None else left + s * layer.bias
        there = (layer.x != 0).to(s)
        count = there.sum(-1, keepdim=True)
        each = torch.where(count == 0, 0.0, whole.sum(-1, keepdim=True) / count)
        found = layer.x * layer.back(s, layer.weight) + factor * there * each
        return {layer.at: found, "stabiliser": (1 - factor) * left}

    return Rule(f"epsilon, bias × {factor:g} to what is there", apply, absorbs="bias")


def documents(stabiliser: float, factor: float, bag: bool) -> Table:
    """The same for readers of documents; at the first layer of a bag of words, absent words get nothing."""
    table, first = recurrent(stabiliser, factor), among_present(stabiliser, factor)
    if not bag:
        return table
    rows = {"mm": {0}, "addmm": {1}}  # where a bag stands
    return table.choosing(lambda op: first if op.depth == 1 and rows.get(op.name) == set(op.edges) else None)
