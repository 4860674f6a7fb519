"""Averages and sums over whole maps: a changed part changes them by its own sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pellucid.engine.incremental.local import is_map, shape_of
from pellucid.engine.plan.trace import Traced


@dataclass(frozen=True, slots=True)
class Mean:
    """A sum over both axes of a map, times a factor."""

    factor: float
    keep: bool


def mean_of(node: fx.Node, traced: Traced) -> Mean | None:
    """Averages and sums over both axes of a map, in any spelling."""
    module: Any = traced.modules[str(node.target)] if node.op == "call_module" else None
    source: Any = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, fx.Node) or not is_map(source) or len(node.all_input_nodes) > 1:
        return None
    _, height, width = shape_of(source)
    if isinstance(module, nn.AdaptiveAvgPool2d) or node.target is F.adaptive_avg_pool2d:
        return Mean(1 / (height * width), True) if is_map(node) and shape_of(node)[1:] == (1, 1) else None
    named = (
        (torch.mean, torch.sum) if node.op == "call_function" else ("mean", "sum") if node.op == "call_method" else ()
    )
    if node.target not in named:
        return None
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    axes = given.get("dim")
    both = isinstance(axes, list | tuple) and all(isinstance(a, int) for a in axes) and {a % 4 for a in axes} == {2, 3}
    if not both or not set(given) <= {"input", "dim", "keepdim"}:
        return None
    factor = 1 / (height * width) if "mean" in str(node.target) else 1.0
    return Mean(factor, bool(given.get("keepdim", False)))
