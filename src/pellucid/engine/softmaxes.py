"""Every softmax of a forward pass, seen on its way: those of attention modules and of fused kernels too.

A function mode of this thread spells attention modules and kernels out, so that their weights exist and have an autograd
node. It needs no hooks and leaves nothing on the model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pellucid.engine.rules.rewrite import unchecked

SOFTMAXES = frozenset({torch.softmax, torch.special.softmax, Tensor.softmax, functional.softmax})


class Softmaxes(TorchFunctionMode):
    """Sees every softmax of a forward pass, those of attention modules and fused kernels too; `meet` may replace it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:  # a Python composite: its own source, with this mode still on
                return unchecked(func)(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        out = func(*args, **kwargs)
        return self._counted(out) if func in SOFTMAXES else out

    def meet(self, call: int, weights: Tensor) -> Tensor:
        """What stands for the result of the softmax with this number."""
        return weights

    def _counted(self, weights: Tensor) -> Tensor:
        self.count += 1
        return self.meet(self.count - 1, weights)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """Scaled dot-product attention by its formula; a query that may look at nothing gets zeros, as in torch's."""
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
        weights = self._counted(torch.ops.aten._safe_softmax(scores, -1))
        return functional.dropout(weights, dropout_p) @ value


class Calls(Softmaxes):
    """Keeps the autograd node of each softmax, in the order in which they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Any] = []

    def meet(self, call: int, weights: Tensor) -> Tensor:
        """Note it, and leave it."""
        self.nodes.append(weights.grad_fn)
        return weights

    def number(self, node: Any) -> int | None:
        """Which call made this node; None where it was no softmax that can be reached."""
        return next((i for i, known in enumerate(self.nodes) if known is node), None)
