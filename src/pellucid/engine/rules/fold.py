"""Which operations are one, however they are spelled? Biases and evaluation batch norm become part of what they follow.

Only the record of the forward pass is rewritten, and only until the walk ends; the sums are exact, epsilon included. An
operation whose output has another reader keeps its own values.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from pellucid.engine.rules.operations import BATCH_NORM, folded
from pellucid.engine.rules.record import Edge, Op, unflatten

RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})


def fold(ops: list[Op]) -> None:
    """Biases first, then batch norms."""
    readers = Counter(edge for op in ops for edge in op.edges.values())
    for op in ops:
        if op.name == "add":
            _fold_bias(op, readers)
    for op in ops:
        if op.name in BATCH_NORM and 0 in op.edges and not uses_batch_statistics(op):
            _fold_batch_norm(op, readers)


def uses_batch_statistics(op: Op) -> bool:
    """Does this batch norm normalise by the batch (training mode, instance norm) and not by running statistics?"""
    return op.name != "_native_batch_norm_legit_no_training" and bool(op.leaves[5])


def _before(op: Op, leaf: int, readers: Counter[Edge]) -> Op | None:
    """The operation that made a leaf, where nothing else reads it and it may be rewritten."""
    before = op.producers.get(leaf)
    alone = before is not None and readers[op.edges[leaf]] == 1 and before.region is None and op.region is None
    return before if alone else None


def _fold_bias(op: Op, readers: Counter[Edge]) -> None:
    """A vector added to a matrix product is its bias: torch spells it so where rows do not lie next to each other.

    For frozen weights it takes a product of batches, all with the same weights.
    """
    if len(op.edges) != 1 or len(op.leaves) != 2:
        return
    (signal,) = op.edges
    bias, before = op.leaves[1 - signal], _before(op, signal, readers)
    while before is not None and before.name in RESHAPES and len(before.edges) == 1:
        before = _before(before, 0, readers)
    if before is None or before.name not in ("mm", "bmm") or set(before.edges) != {0} or before.original is not None:
        return
    if isinstance(bias, Tensor) and bias.shape == before.outs[0].shape[-1:] == op.outs[0].shape[-1:]:
        before.replace([*before.leaves[:2], bias], [op.outs[0].reshape(before.outs[0].shape)])
        op.rule = folded


def _fold_batch_norm(op: Op, readers: Counter[Edge]) -> None:
    before = _before(op, 0, readers)
    if before is None or before.original is not None:
        return
    _, scale, shift, mean, variance, *_, smallest = op.leaves
    factor = (variance + smallest).rsqrt() * (1 if scale is None else scale)
    if before.name == "convolution" and set(before.edges) == {0}:
        x, weight, bias, *settings = before.leaves
        *_, transposed, _, groups = unflatten(before.leaves, before.spec)[0]
        if transposed and groups > 1:  # their output channels are spread over two axes
            return
        axes = [1] * weight.dim()
        axes[1 if transposed else 0] = -1
        weight = weight * factor.view(axes)
        leaves = [x, weight, _shifted(bias, mean, factor, shift), *settings]
    elif before.name == "addmm" and set(before.edges) == {1} and len(before.leaves) == 3:
        bias, x, weight = before.leaves
        leaves = [_shifted(bias, mean, factor, shift), x, weight * factor]
    else:
        return
    before.replace(leaves, [op.outs[0]])
    op.rule = folded


def _shifted(bias: Tensor | None, mean: Tensor, factor: Tensor, shift: Tensor | None) -> Tensor:
    return ((0 if bias is None else bias) - mean) * factor + (0 if shift is None else shift)
