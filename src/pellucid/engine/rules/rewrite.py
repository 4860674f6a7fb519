"""Fused kernels spelled out before they run, so that each of their steps can have a rule.

The mode is local to the thread. Its presence also turns the fast paths of multi-head attention off, which check
for overrides, without touching torch's global flag.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions
from torch.nn import functional
from torch.overrides import TorchFunctionMode

EMBEDDINGS: dict[Any, int] = {functional.embedding: 1, torch.embedding: 0}  # where the weight stands
RECURRENT: dict[Any, tuple[Any, Any]] = {  # padded batches, packed sequences
    torch.lstm: (decompositions.lstm_impl, decompositions.lstm_data_impl),
    torch.gru: (decompositions.gru_impl, decompositions.gru_impl_data),
    torch.rnn_tanh: (decompositions.rnn_tanh_input, decompositions.rnn_tanh_data),
    torch.rnn_relu: (decompositions.rnn_relu_input, decompositions.rnn_relu_data),
}


class Rewrite(TorchFunctionMode):
    """Attention and recurrent kernels as elementary operations; frozen embeddings still start a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with self:  # a Python composite: run its own source with this mode still on
                return unchecked(func)(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            self.used = True
            return attention(*args, **kwargs)
        if func in RECURRENT:
            self.used = True
            packed = isinstance(args[1 if func is torch.lstm else 2], Tensor)  # where batch sizes push a list away
            return RECURRENT[func][packed](*args, **kwargs)
        if func in EMBEDDINGS:
            args, kwargs = _anchored(args, kwargs, EMBEDDINGS[func])
        return func(*args, **kwargs)


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Scaled dot-product attention by torch's own plain kernel, which expects boolean masks as numbers to add."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = query.new_zeros(attn_mask.shape).masked_fill(~attn_mask, -torch.inf)
    kernel = torch.ops.aten._scaled_dot_product_attention_math
    return kernel(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


def _anchored(args: Any, kwargs: Any, at: int) -> tuple[Any, Any]:
    """A frozen embedding's output carries no gradient and could not be a place to stop at: use a fresh leaf."""
    weight = kwargs.get("weight", args[at] if len(args) > at else None)
    if not isinstance(weight, Tensor) or weight.requires_grad or not torch.is_grad_enabled():
        return args, kwargs
    leaf = weight.detach().requires_grad_()
    if "weight" in kwargs:
        return args, {**kwargs, "weight": leaf}
    return (*args[:at], leaf, *args[at + 1 :]), kwargs


@cache
def unchecked(func: Any) -> Any:
    """The same Python source without the check that would hand the call straight back to the mode."""
    never = {name: lambda *_: False for name in func.__globals__ if name.startswith("has_torch_function")}
    return FunctionType(func.__code__, {**func.__globals__, **never}, func.__name__, func.__defaults__)
