"""How many sums would a person do by hand? Products, additions, comparisons and looked-up values of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.contract.errors import UnsupportedOperation

KINDS = ("multiplications", "additions", "comparisons", "lookups")

Counts = dict[str, int]
Rule = Callable[[tuple[Any, ...], Any], Counts]

_FREE = """
    view reshape _unsafe_view _reshape_alias t transpose transpose_ permute movedim expand expand_as contiguous clone detach
    alias select slice unsqueeze unsqueeze_ squeeze squeeze_ unbind split unsafe_split split_with_sizes chunk cat stack
    flatten unfold as_strided narrow diagonal copy_ to _to_copy empty empty_like zeros zeros_like new_zeros new_empty
    new_full new_ones ones ones_like full full_like arange lift_fresh constant_pad_nd zero_ fill_ scalar_tensor gather index
    index_select roll flip repeat dropout native_dropout masked_fill masked_fill_ where _local_scalar_dense item
"""
_ONE_EACH = {
    "additions": "add add_ sub sub_ rsub",
    "multiplications": "mul mul_ div div_ neg reciprocal square",
    "comparisons": """
        relu relu_ leaky_relu leaky_relu_ threshold clamp clamp_ clamp_min clamp_max hardtanh hardtanh_ maximum minimum
        eq ne lt gt le ge abs sign heaviside bitwise_and bitwise_or bitwise_not logical_and logical_or logical_not
    """,
    "lookups": """
        tanh tanh_ sigmoid sigmoid_ exp exp_ log log1p expm1 log2 sqrt rsqrt pow sin cos erf gelu silu silu_ elu elu_
        softplus mish hardsigmoid hardswish log_sigmoid_forward
    """,
}


def _sums(pairs: int, results: int, bias: bool) -> Counts:
    """Weighted sums: each of the results adds up `pairs` products, and a bias where there is one."""
    return {"multiplications": results * pairs, "additions": results * (pairs - 1 + bias)}


def _linear(args: tuple[Any, ...], out: Any) -> Counts:
    return _sums(args[1].shape[1], out.numel(), len(args) > 2 and args[2] is not None)


def _addmm(args: tuple[Any, ...], out: Any) -> Counts:
    return _sums(args[1].shape[-1], out.numel(), True)


def _product(args: tuple[Any, ...], out: Any) -> Counts:
    return _sums(args[0].shape[-1], out.numel(), False)


def _convolution(args: tuple[Any, ...], out: Any) -> Counts:
    return _sums(args[1][0].numel(), out.numel(), args[2] is not None)


def _scaled(args: tuple[Any, ...], out: Any) -> Counts:
    """Batch norm in evaluation: each value times a number plus a number, both worked out beforehand."""
    return {"multiplications": args[0].numel(), "additions": args[0].numel()}


def _normed(args: tuple[Any, ...], out: Any) -> Counts:
    """Layer norm: a mean, a variance and a root for each group, then each value scaled and shifted, twice."""
    values = args[0].numel()
    groups = values // math.prod(args[1])
    return {"multiplications": 3 * values + 2 * groups, "additions": 4 * values - 2 * groups, "lookups": groups}


def _shares(args: tuple[Any, ...], out: Any) -> Counts:
    """Softmax: an exponential each, their sum, a division each."""
    groups = out.numel() // out.shape[args[1]]
    return {"lookups": out.numel(), "additions": out.numel() - groups, "multiplications": out.numel()}


def _log_shares(args: tuple[Any, ...], out: Any) -> Counts:
    groups = out.numel() // out.shape[args[1]]
    return {"lookups": out.numel() + groups, "additions": 2 * out.numel() - groups}


def _total(args: tuple[Any, ...], out: Any) -> Counts:
    return {"additions": args[0].numel() - out.numel()}


def _mean(args: tuple[Any, ...], out: Any) -> Counts:
    return {"additions": args[0].numel() - out.numel(), "multiplications": out.numel()}


def _largest(args: tuple[Any, ...], out: Any) -> Counts:
    first = out[0] if isinstance(out, tuple | list) else out
    return {"comparisons": args[0].numel() - first.numel()}


def _window(args: tuple[Any, ...]) -> int:
    size = args[1]
    axes = 1 if "1d" in str(size) else 2
    return math.prod(size) if isinstance(size, tuple | list) and len(size) > 1 else size[0] ** axes


def _largest_near(args: tuple[Any, ...], out: Any) -> Counts:
    first = out[0] if isinstance(out, tuple | list) else out
    return {"comparisons": first.numel() * (_window(args) - 1)}


def _mean_near(args: tuple[Any, ...], out: Any) -> Counts:
    return {"additions": out.numel() * (_window(args) - 1), "multiplications": out.numel()}


def _mean_of_cells(args: tuple[Any, ...], out: Any) -> Counts:
    return {"additions": max(0, args[0].numel() - out.numel()), "multiplications": out.numel()}


def _found(args: tuple[Any, ...], out: Any) -> Counts:
    return {"lookups": args[1].numel()}


def _attention(args: tuple[Any, ...], out: Any) -> Counts:
    """Scaled products of all pairs, their softmax, and weighted sums."""
    queries, keys, width = args[0], args[1].shape[-2], args[0].shape[-1]
    lines = queries.numel() // width
    pairs = lines * keys
    return {
        "multiplications": pairs * width + pairs + pairs + lines * width * keys,
        "additions": pairs * (width - 1) + pairs - lines + lines * width * (keys - 1),
        "lookups": pairs,
    }


def _recurrent(args: tuple[Any, ...], out: Any) -> Counts:
    """A fused layer of long short-term memory: for each step four gates, then the cell and what it shows."""
    steps, width, units = args[0].numel() // args[0].shape[-1], args[0].shape[-1], args[2].shape[1]
    gates = {"multiplications": 4 * units * (width + units), "additions": 4 * units * (width + units + 1)}
    cell = {"multiplications": 3 * units, "additions": units, "lookups": 5 * units}
    return {kind: steps * (gates.get(kind, 0) + cell[kind]) for kind in cell}


_RULES: dict[str, Rule] = {
    "mkldnn_rnn_layer": _recurrent,
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "mm": _product,
    "bmm": _product,
    "mv": _product,
    "dot": lambda args, out: _sums(args[0].numel(), 1, False),
    "convolution": _convolution,
    "native_batch_norm": _scaled,
    "_native_batch_norm_legit_no_training": _scaled,
    "native_layer_norm": _normed,
    "_softmax": _shares,
    "_log_softmax": _log_shares,
    "sum": _total,
    "cumsum": lambda args, out: {"additions": out.numel()},
    "mean": _mean,
    "amax": _largest,
    "amin": _largest,
    "max": _largest,
    "min": _largest,
    "argmax": _largest,
    "max_pool2d_with_indices": _largest_near,
    "avg_pool2d": _mean_near,
    "_adaptive_avg_pool2d": _mean_of_cells,
    "embedding": _found,
    "_scaled_dot_product_flash_attention_for_cpu": lambda args, out: _attention(args, out),
}
_RULES |= {name: lambda args, out: {} for name in _FREE.split()}


def _each(kind: str) -> Rule:
    return lambda args, out: {kind: out.numel()}


_INTEGERS = _ONE_EACH["additions"].split() + _ONE_EACH["multiplications"].split()
for _kind, _names in _ONE_EACH.items():
    _RULES |= {name: _each(_kind) for name in _names.split()}


class Counter(TorchDispatchMode):
    """Counts what torch computes inside `with counter:`; `unknown` are operations that it can't count, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counts = dict.fromkeys(KINDS, 0)
        self.unknown: set[str] = set()
        self.seen = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seen += 1
        if name not in _RULES:
            self.unknown.add(name)
            return out
        whole = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, Tensor)]
        if name in _INTEGERS and whole and not whole[0].is_floating_point():
            return out  # counting and numbering places is no part of the sums
        for kind, count in _RULES[name](args, out).items():
            self.counts[kind] += count
        return out


def counted(run: Callable[[], Any]) -> tuple[Counts, Any]:
    """What `run` computes, by kind, and what it returns; operations without a rule are refused, all of them by name."""
    counter = Counter()
    # Without gradients torch may fuse a whole transformer layer, which would hide its operations.
    with torch.enable_grad(), counter:
        out = run()
    if counter.unknown:
        raise UnsupportedOperation(
            "The operations of the network must be among those that can be counted",
            got=", ".join(sorted(counter.unknown)),
        )
    return counter.counts, out
