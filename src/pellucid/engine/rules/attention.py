"""How does relevance pass attention and normalisation? Rules that hold weights constant, and rules that share with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.operations import (
    MATRIX_PRODUCTS,
    SOFTMAX,
    SUMMED,
    blocked,
    epsilon,
    kept,
    ratio,
    words,
)
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.tables import epsilon_lrp
from pellucid.engine.rules.walk import Rule, Table


def centred(stabiliser: float) -> Rule:
    """A norm whose deviation counts as constant is linear: it centres, scales and shifts; the epsilon rule for that."""

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        x, out = op.leaves[0], op.outs[0]
        factor = ratio(grads[0], out, stabiliser)
        back = _layer_norm(op, factor) if op.name != "native_group_norm" else _group_norm(op, factor)
        return {0: x * back, "stabiliser": kept(grads[0], factor, out, stabiliser)}

    return Rule("deviation constant", apply, absorbs="bias")


def _layer_norm(op: Op, factor: Tensor) -> Tensor:
    x, shape, weight, *_ = unflatten(op.leaves, op.spec)[0]
    back = (factor if weight is None else factor * weight) * op.outs[-1].view(
        *x.shape[: -len(shape)], *[1] * len(shape)
    )
    if op.name == "_fused_rms_norm":
        return back
    return back - back.mean(tuple(range(-len(shape), 0)), keepdim=True)


def _group_norm(op: Op, factor: Tensor) -> Tensor:
    x, weight, *_, groups, _ = unflatten(op.leaves, op.spec)[0]
    if weight is not None:
        factor = factor * weight.view(-1, *[1] * (x.dim() - 2))
    back = factor.reshape(len(x), groups, -1) * op.outs[-1].view(len(x), groups, 1)
    return (back - back.mean(2, keepdim=True)).view_as(x)


def _share_softmax(op: Op, grads: list[Any]) -> dict[int, Any]:
    s, dim = op.outs[0], op.leaves[1]
    scores = torch.where(s == 0, 0.0, op.leaves[0])  # hidden by a mask: minus infinity
    return {0: scores * (grads[0] - s * grads[0].sum(dim, keepdim=True))}


def _constant(op: Op, grads: list[Any]) -> dict[Any, Any]:
    return {"gate": grads[0]}


softmax = Rule("softmax", _share_softmax, absorbs="rule")


def shared_product(stabiliser: float) -> Rule:
    """Half to each of two factors, by the epsilon rule; all to one, where the other is no part of the way."""
    whole, half = epsilon(stabiliser), epsilon(stabiliser, 0.5)

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        if len(op.edges) == 1:
            return _constant(op, grads) if op.name == "div" and 1 in op.edges else whole.apply(op, grads)
        if op.name == "div":  # the divisor's derivative has the other sign, and counts as constant
            factor = ratio(grads[0], op.outs[0], stabiliser)
            back = op.vjp([factor], [0])[0]
            return {0: op.leaves[0] * back, "stabiliser": kept(grads[0], factor, op.outs[0], stabiliser)}
        found = half.apply(op, grads)
        if op.name in SUMMED and 0 in found:
            found[0] = 2 * found[0]  # the operand that is added is no factor
        return found

    return Rule("half each", apply, absorbs="bias")


def conservative(stabiliser: float) -> Table:
    """Ali et al. (2022): attention weights and the deviation of norms count as constants."""
    table, norm = epsilon_lrp(stabiliser), centred(stabiliser)
    names = words("native_layer_norm native_group_norm _fused_rms_norm")
    return replace(
        table, name="conservative", rules=table.rules | dict.fromkeys(names, norm) | dict.fromkeys(SOFTMAX, blocked)
    )


def attnlrp(stabiliser: float) -> Table:
    """Achtibat et al. (2024): softmax by its Taylor expansion, products half and half, norms and activations identity."""
    table, product = epsilon_lrp(stabiliser), shared_product(stabiliser)
    rules = table.rules | dict.fromkeys(MATRIX_PRODUCTS | words("mul div"), product) | dict.fromkeys(SOFTMAX, softmax)
    return replace(table, name="attnlrp", rules=rules)
