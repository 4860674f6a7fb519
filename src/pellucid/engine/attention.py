"""Where does the network attend? The attention maps of a forward pass, in any spelling, with the score's gradient there.

Maps are found among the recorded operations: a softmax whose result weighs values in a matrix product (or, in additive
attention, in an elementwise product). Fused kernels and attention modules are spelt out while they are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import NeedError
from pellucid.engine import recording, rules
from pellucid.engine.ask import Ask
from pellucid.engine.rules.operations import MATRIX_PRODUCTS, ROUTING, SOFTMAX, SUMMED
from pellucid.engine.rules.record import Edge, Op
from pellucid.engine.rules.walk import WEIGHTED, Plan
from pellucid.engine.softmaxes import Calls

KEPT = WEIGHTED | SOFTMAX | MATRIX_PRODUCTS | {"mul"}
SCALED = frozenset({"mul", "div"})
Floats = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Map:
    """One layer's attention: weights (N, heads, queries, keys), and the score's derivative at each.

    `values` (N, heads, keys, width) is what the weights mix, where it can be told apart by row; `own` says whether
    queries and keys belong to the same tokens (self-attention). Where maps were read to be replaced, `call` is the number
    of the softmax that made this one, None where it can't be reached, and `axis` the axis that its weights lie along.
    """

    module: str
    weights: Tensor
    grads: Tensor
    values: Tensor | None
    own: bool
    call: int | None = None
    axis: int = -1

    @property
    def queries(self) -> int:
        """How many tokens ask."""
        return self.weights.shape[2]

    @property
    def keys(self) -> int:
        """How many tokens are looked at."""
        return self.weights.shape[3]

    def asked(self) -> Tensor:
        """The share of each query in what the score reads, (N, queries): equal among those with a gradient.

        A token that the score reads through this layer has a derivative here, one that it does not read has none. Where
        nothing has one, all count alike.
        """
        read = (self.grads != 0).flatten(3).any(3).any(1)
        read = torch.where(read.any(1, keepdim=True), read, True).to(self.weights.dtype)
        return read / read.sum(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Seen:
    """One chunk's pass: maps in the order in which they ran, values and gradients at the explained place, scores."""

    maps: list[Map]
    values: Floats
    grads: Floats
    score: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class _Chunk:
    """One chunk's pass without the maps' memory, and what was made of it."""

    seen: Seen
    made: Floats
    output: Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """What `act` made of all rows, tensor by tensor, with each row's score; `layers` describes the maps as plain data."""

    parts: Floats
    score: Tensor
    layers: list[dict[str, Any]] = field(default_factory=list)


def read(ask: Ask, act: Callable[[Seen], Floats], label: str = "", *, located: bool = False) -> Found:
    """What does `act` make of the attention maps between the explained place and the score?

    One forward and one backward pass, chunked to the memory budget. Models without attention are refused. With `located`,
    maps know their place, so that `attention_swap` can replace them.
    """

    def work(start: int, stop: int) -> _Chunk:
        seen = look(ask, start, stop, located=located)
        return _Chunk(replace(seen, maps=[_described(m) for m in seen.maps]), act(seen), seen.output)

    parts = recording.in_chunks(ask, work, ("attention", label), label)
    first = parts[0].seen
    layers = [
        {"module": m.module, "heads": m.weights.shape[1], "queries": m.queries, "keys": m.keys, "self": m.own}
        for m in first.maps
    ]
    joined = tuple(map(torch.cat, zip(*(part.made for part in parts), strict=True)))
    return Found(joined, torch.cat([part.seen.score for part in parts]), layers)


def _described(found: Map) -> Map:
    """The map without its memory: one row's worth of nothing, for its shape."""
    empty = found.weights.new_empty(0, *found.weights.shape[1:])
    return replace(found, weights=empty, grads=empty, values=None)


def look(ask: Ask, start: int, stop: int, *, located: bool = False) -> Seen:
    """Record one pass over some rows and send the score back to the place and to every map."""
    calls = Calls() if located else None
    seen = recording.record(ask, start, stop, keep=lambda name: name in KEPT, within=calls)
    trace, targets, root = seen.trace, seen.targets, seen.root
    found = _find(trace, Plan(trace, [root[0]], targets), stop - start)
    edges = [f.edge for f in found]
    back = rules.walk(trace, [(root, torch.ones_like(seen.score))], [*targets, *edges], rules.gradient()).values
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(seen.values, back, strict=False)]
    maps = [f.map(g, stop - start) for f, g in zip(found, back[len(targets) :], strict=True)]
    if calls is not None:
        maps = [replace(m, call=calls.number(f.edge[0])) for m, f in zip(maps, found, strict=True)]
    values = tuple(x.detach() for x in seen.values)
    return Seen(maps, values, tuple(grads), seen.score.detach(), seen.output)


@dataclass(frozen=True, eq=False)
class _Use:
    """A softmax and the product that its result enters, as recorded."""

    softmax: Op
    product: Op
    leaf: int
    edge: Edge
    own: bool

    def map(self, grad: Tensor | None, rows: int) -> Map:
        weights = self.softmax.outs[0].detach()
        axis = self.softmax.leaves[1]
        self._refuse_windows(weights.movedim(axis, -1), rows)
        laid = by_head(weights, axis, rows)
        back = torch.zeros_like(laid) if grad is None else by_head(grad, axis, rows)
        own = self.own and laid.shape[2] == laid.shape[3]
        return Map(self.softmax.module, laid, back, self._mixed(laid), own, axis=axis)

    def _refuse_windows(self, weights: Tensor, rows: int) -> None:
        """Windows share the first axis with the rows, as heads may do; with windows there are more keys than in one map."""
        if weights.shape[0] == rows or weights.dim() < 3:
            return
        keys = _projected(self.softmax)
        if weights.dim() > 3 or keys > rows * weights.shape[-1]:
            raise NeedError(
                "The attention must be over all tokens of a row at once: attention in windows has no map of them",
                got=f"{weights.shape[-2]} × {weights.shape[-1]} in '{self.softmax.module}'",
                hint="a gradient method",
            )

    def _mixed(self, weights: Tensor) -> Tensor | None:
        """The other operand of the product, as (N, heads, keys, width)."""
        rows, heads, _, keys = weights.shape
        first = 1 if self.product.name in SUMMED else 0
        other = first + 1 if self.leaf == first else first
        x = self.product.leaves[other]
        if not isinstance(x, Tensor) or x.dim() < 2:
            return None
        if self.product.name in MATRIX_PRODUCTS and other == first:  # the product of the transposed matrices
            x = x.transpose(-1, -2)
        if x.shape[-2] != keys or x.numel() % (rows * heads * keys):
            return None
        return x.detach().reshape(rows, heads, keys, -1)


def by_head(weights: Tensor, axis: int, rows: int) -> Tensor:
    """Weights over `axis` as (N, heads, queries, keys). Rows come first, alone or together with the heads."""
    weights = weights.movedim(axis, -1)
    if weights.dim() == 2:
        weights = weights[:, None]
    if weights.shape[0] != rows and weights.shape[0] % rows == 0:
        weights = weights.unflatten(0, (rows, -1))
    if weights.shape[0] != rows:
        raise NeedError(
            f"The attention must hold one entry per row along its first axis, {rows}",
            got=f"shape {tuple(weights.shape)}",
            hint="a model with the rows first",
        )
    return weights[:, None] if weights.dim() == 3 else weights.flatten(1, -3)


def _scores(softmax: Op) -> Op | None:
    """The product of queries and keys that a softmax takes, where it is one of two sides that are both on the way."""
    op: Op | None = softmax
    while op is not None and (op is softmax or op.name not in MATRIX_PRODUCTS):
        if not op.edges:
            return None
        op = op.producers.get(next(iter(op.edges)))
    return op if op is not None and len(op.edges) > 1 else None


def _projected(softmax: Op) -> int:
    """How many key vectors the projection before the scores made, over all rows; 0 where there is none."""
    scores = _scores(softmax)
    op = None if scores is None else scores.producers.get(list(scores.edges)[-1])
    while op is not None and op.name not in WEIGHTED and op.edges:
        op = op.producers.get(next(iter(op.edges)))
    if op is None or op.name not in WEIGHTED:
        return 0
    out = op.outs[0]
    return out.numel() // out.shape[1 if op.name == "convolution" else -1]


def _find(trace: rules.Trace, plan: Plan, rows: int) -> list[_Use]:
    """Every softmax on the way whose result weighs values, in the order they ran."""
    nodes = {op: node for node, op in plan.labels.items() if op is not None}
    ends = _Ends(plan)
    found: dict[Op, _Use] = {}
    gates: dict[Op, _Use] = {}
    for op in trace.ops:
        if op not in nodes or (op.name not in MATRIX_PRODUCTS and op.name != "mul"):
            continue
        for leaf in op.edges:
            softmax = _behind(op.producers.get(leaf))
            if softmax is None or (op.name == "mul" and len(op.edges) < 2):
                continue
            into = gates if op.name == "mul" else found
            own = op.name != "mul" and ends.same(softmax)
            into.setdefault(softmax, _Use(softmax, op, leaf, (nodes[softmax], 0), own))
    uses = list((found or gates).values())
    if not uses:
        raise NeedError(
            "The model must have attention between what is explained and the score",
            got="no softmax whose result weighs values",
            hint="a gradient method; or layer= a place before the attention",
        )
    order = {op: i for i, op in enumerate(trace.ops)}
    return sorted(uses, key=lambda use: order[use.softmax])


def _behind(op: Op | None) -> Op | None:
    """The softmax whose result this is, but for its layout, dropout or a constant factor."""
    while op is not None and op.name not in SOFTMAX:
        if op.name not in ROUTING | SCALED or len(op.edges) != 1:
            return None
        op = op.producers.get(next(iter(op.edges)))
    return op


class _Ends:
    """Do queries and keys come from the same tokens? They do where the same maps and inputs lie behind both."""

    def __init__(self, plan: Plan) -> None:
        self.targets = plan.targets

    def same(self, softmax: Op) -> bool:
        """Self-attention: the scores are a product of two sides with one origin."""
        op = _scores(softmax)
        if op is None:
            return False
        first, second = list(op.edges)[-2:]
        return self._of(op, first) == self._of(op, second)

    def _of(self, op: Op, leaf: int) -> set[Any]:
        found: set[Any] = set()
        seen: set[int] = set()
        stack: list[tuple[Edge, Op | None]] = [(op.edges[leaf], op.producers.get(leaf))]
        while stack:
            edge, source = stack.pop()
            if edge in self.targets:
                found.add(edge)
            if source is None or id(source) in seen:
                continue
            seen.add(id(source))
            if source.name in SOFTMAX:
                found.add(id(source))
            else:
                stack.extend((e, source.producers.get(i)) for i, e in source.edges.items())
        return found
