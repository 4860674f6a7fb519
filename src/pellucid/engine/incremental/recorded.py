"""What is known of a recorded value before it is computed? Its tensors, and how they depend on the number of rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_aggregate

from pellucid.engine.plan.trace import variants


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_aggregate(value, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
    return found


def whole_bytes(node: fx.Node) -> int:
    """What the value takes for one row."""
    return sum(value.numel() * value.element_size() for value in tensors(variants(node)[0]))


def regular(node: fx.Node) -> bool:
    """Whether the value has one row for each row of the batch, or does not depend on the batch."""
    return rows_first(node) or _same(*variants(node))


def rows_first(node: fx.Node) -> bool:
    one, several = (tensors(value) for value in variants(node))
    rows = bool(one) and all(
        a.dim() == b.dim() > 0 and len(a) == 1 < len(b) and a.shape[1:] == b.shape[1:]
        for a, b in zip(one, several, strict=True)
    )
    return rows and _only_tensors(variants(node)[0])


def _only_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and all(map(_only_tensors, value)))


def _same(one: Any, several: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(several, Tensor) and one.shape == several.shape
    if isinstance(one, list | tuple):
        return len(one) == len(several) and all(map(_same, one, several))
    return bool(one == several)
