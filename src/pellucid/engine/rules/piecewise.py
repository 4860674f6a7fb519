"""Which operations are straight lines on each side of a border, and where are their borders?

A network made of these alone is linear on each of the regions into which the borders cut its inputs. Affine operations
have none; a rectifier has one per unit, where its argument meets a threshold; a maximum has one for every value that did
not win. A border is a function ``s`` of the operation's arguments, zero on the border, given as a combination of leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.engine.rules.operations import (
    BATCH_NORM,
    LINEAR,
    MASKABLE,
    MATRIX_PRODUCTS,
    PRODUCTS,
    ROUTING,
    words,
)
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.walk import Rule, Table, own

KINKED = words("relu leaky_relu _prelu_kernel prelu hardtanh clamp clamp_min clamp_max threshold abs")
POOLS = words("max_pool2d_with_indices adaptive_max_pool2d")
ALONG = words("max amax min amin")
PAIRS = words("maximum minimum fmax fmin")
ORDERED = words(
    "sort topk kthvalue median aminmax cummax cummin fractional_max_pool2d max_pool3d_with_indices nan_to_num "
    "adaptive_max_pool3d"
)
WEIGHTS = {  # which leaf is input, weight and bias
    "convolution": (0, 1, 2),
    "addmm": (1, 2, 0),
    "mm": (0, 1, None),
    "bmm": (0, 1, None),
    "baddbmm": (1, 2, 0),
}
AFFINE = (ROUTING | LINEAR | BATCH_NORM | PRODUCTS | MATRIX_PRODUCTS) - KINKED - POOLS - ALONG - PAIRS - ORDERED
NEVER = -1


@dataclass(frozen=True, eq=False)
class Borders:
    """The borders of one operation on one row.

    Border k is ``s_k = sum_j sign[k, j] * leaf[k, j] - threshold[k]`` with flat positions `at` (borders, terms) in the
    leaves `leaf` (terms,). `value` is ``s_k`` here; the row stays on its side while ``s_k`` keeps its sign.
    """

    leaf: tuple[int, ...]
    at: Tensor
    sign: tuple[float, ...]
    value: Tensor


def piecewise() -> Table:
    """Every operation that is linear on each side of its borders; anything else is refused."""
    return Table("piecewise linear", choose=lambda op: _LINEAR if kind(op) else None)


_LINEAR = Rule("piecewise linear", own.apply, linear=True)


def kind(op: Op) -> str:
    """ "affine", "kinked", "pool", "along", "pair", or "" for what is curved or has borders that are not known."""
    if op.name in MASKABLE and op.gated is not None:
        return "kinked"
    if op.name in MASKABLE and op.name != "mul":
        return ""  # the mask may have been made from an activation, by a comparison that is not on record
    if op.name in KINKED:
        return "kinked" if set(op.edges) == {0} else ""
    if op.name in POOLS:
        return "pool"
    if op.name in ALONG:
        return "along" if len(op.leaves) > 1 and op.leaves[1] is not None else ""
    if op.name in PAIRS:
        return "pair"
    return "affine" if op.name in AFFINE and _affine(op) else ""


def weighted(op: Op) -> bool:
    """Do fixed weights act on the one leaf that leads to what is asked?"""
    return op.name in WEIGHTS and set(op.edges) == {WEIGHTS[op.name][0]}


def _affine(op: Op) -> bool:
    if op.name in PRODUCTS | MATRIX_PRODUCTS:
        summed = {0} if op.name in ("addmm", "baddbmm", "addmv") else set()
        return len(set(op.edges) - summed) <= 1 and not (op.name == "div" and 1 in op.edges)
    if op.name == "convolution":
        return not {1, 2} & set(op.edges)
    if op.name in BATCH_NORM:
        return set(op.edges) == {0} and (op.name == "_native_batch_norm_legit_no_training" or not op.leaves[5])
    return True


def borders(op: Op) -> list[Borders]:
    """Where an operation stops being the straight line that it is here, for a record of one row."""
    found = kind(op)
    if found == "kinked":
        i = 0 if op.gated is None else op.gated
        x = op.leaves[i].detach()
        at = torch.arange(x.numel(), device=x.device)[:, None]
        return [Borders((i,), at, (1.0,), x.flatten() - t) for t in _thresholds(op)]
    if found == "pair":
        a, b = torch.broadcast_tensors(op.leaves[0].detach(), op.leaves[1].detach())
        places = [torch.arange(x.numel(), device=x.device).reshape(x.shape) for x in op.leaves[:2]]
        at = torch.stack([p.broadcast_to(a.shape).flatten() for p in places], 1)
        return [Borders((0, 1), at, (1.0, -1.0), (a - b).flatten())]
    if found in ("pool", "along"):
        x = op.leaves[0].detach()
        members = _windows(op) if found == "pool" else _lines(op)
        sign = -1.0 if op.name in ("min", "amin") else 1.0
        values = torch.where(members == NEVER, -torch.inf, sign * x.flatten()[members.clamp(min=0)])
        best = members.gather(1, values.argmax(1, keepdim=True)).expand(members.shape)
        others = (members != best) & (members != NEVER)
        at = torch.stack([best[others], members[others]], 1)
        flat = x.flatten()
        return [Borders((0, 0), at, (sign, -sign), sign * (flat[at[:, 0]] - flat[at[:, 1]]))]
    return []


def _thresholds(op: Op) -> list[Any]:
    """The values of the argument at which the slope changes."""
    settings = op.leaves[1:]
    if op.name in ("hardtanh", "clamp"):
        low, high = (-1.0, 1.0) if op.name == "hardtanh" else (None, None)
        low = settings[0] if settings else low
        high = settings[1] if len(settings) > 1 else high
        return [_flat(t, op) for t in (low, high) if t is not None and not _endless(t)]
    if op.name in ("clamp_min", "clamp_max", "threshold"):
        return [_flat(settings[0], op)]
    return [0.0]


def _endless(bound: Any) -> bool:
    return not isinstance(bound, Tensor) and abs(bound) == float("inf")


def _flat(bound: Any, op: Op) -> Any:
    return bound.expand(op.outs[0].shape).flatten() if isinstance(bound, Tensor) else bound


def _lines(op: Op) -> Tensor:
    """The flat positions that each maximum along one axis, or several, was taken over."""
    x, (arguments, named) = op.leaves[0], unflatten(op.leaves, op.spec)
    axes = arguments[1] if len(arguments) > 1 else named.get("dim")
    axes = [a % x.dim() for a in (axes if isinstance(axes, list) else [axes])] or list(range(x.dim()))
    place = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    rest = [a for a in range(x.dim()) if a not in axes]
    return place.permute(*rest, *axes).reshape(-1, max(1, x.numel() // _size(x, rest)))


def _size(x: Tensor, axes: list[int]) -> int:
    return int(torch.tensor([x.shape[a] for a in axes] or [1]).prod())


def _windows(op: Op) -> Tensor:
    """The flat positions in each window of a pooling, `NEVER` where it hangs over the edge: (windows, positions)."""
    x, out, (arguments, named) = op.leaves[0], op.outs[0], unflatten(op.leaves, op.spec)
    (height, width), (rows, columns) = x.shape[-2:], out.shape[-2:]
    if op.name == "adaptive_max_pool2d":
        down, across = _adaptive(height, rows), _adaptive(width, columns)
    else:
        names = ("kernel_size", "stride", "padding", "dilation")
        given = {**dict(zip(names, arguments[1:], strict=False)), **named}
        pairs = {n: _pair(given.get(n) or {"padding": 0, "dilation": 1}.get(n)) for n in names[:1] + names[2:]}
        stride = _pair(given.get("stride") or given["kernel_size"])
        steps = zip(pairs["kernel_size"], stride, pairs["padding"], pairs["dilation"], strict=True)
        (k, s, p, d), (k2, s2, p2, d2) = steps
        down, across = _strided(height, rows, k, s, p, d), _strided(width, columns, k2, s2, p2, d2)
    place = down[:, None, :, None] * width + across[None, :, None, :]
    outside = (down == NEVER)[:, None, :, None] | (across == NEVER)[None, :, None, :]
    place = place.masked_fill(outside, NEVER).reshape(rows * columns, -1)
    planes = torch.arange(x.numel() // (height * width))[:, None, None] * (height * width)
    return torch.where(place == NEVER, NEVER, place + planes).reshape(-1, place.shape[1]).to(x.device)


def _pair(value: Any) -> tuple[int, int]:
    listed = value if isinstance(value, list | tuple) else [value]
    return (listed[0], listed[-1])


def _strided(length: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    place = torch.arange(count)[:, None] * stride - padding + torch.arange(kernel)[None] * dilation
    return torch.where((place >= 0) & (place < length), place, NEVER)


def _adaptive(length: int, count: int) -> Tensor:
    spans = [torch.arange(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
    longest = max(map(len, spans))
    return torch.stack([functional.pad(s, (0, longest - len(s)), value=NEVER) for s in spans])
