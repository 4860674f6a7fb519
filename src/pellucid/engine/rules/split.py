"""How does a split of the input go on through each operation? The forward rules of contextual decomposition.

A value is carried as parts that sum to it: what is due to the group, what is due to the rest of the input, and, before
it is shared out, what is due to constants alone. A fourth part, the owner, is no share of the value: it says, from 0 to 1,
how much of the input that is read here belongs to the group, as long as that is known.

Source: Murdoch, Liu & Yu 2018, §3.2 (LSTM); Singh, Murdoch & Yu 2019, §3 (linear, rectifier, max-pooling).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.onward import Parts
from pellucid.engine.rules.operations import BATCH_NORM, CURVED, LINEAR, MASKABLE, ROUTING, rectified, words
from pellucid.engine.rules.piecewise import ALONG, ORDERED, PAIRS
from pellucid.engine.rules.record import Op, unflatten
from pellucid.engine.rules.walk import WEIGHTED, Rule, Table

POOLS = words(
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d"
)
GATES = words("sigmoid tanh")
SUMS = words("add sub rsub neg mean sum")
MOVING = ROUTING - POOLS - ALONG - PAIRS - ORDERED - words("embedding")
# Nonlinearities with a finite value at zero, from which the share of each part is measured.
BENT = CURVED - words("pow sqrt rsqrt log log1p reciprocal rrelu_with_noise")
AT_ZERO = words(
    "tanh relu gelu silu leaky_relu elu selu celu square hardswish mish erf abs sin expm1 prelu _prelu_kernel"
)
Given = Mapping[int, Parts]


def contextual(whole: bool, output_bias: str) -> Table:
    """Contextual decomposition. `whole`: the group is the whole input. `output_bias`: "apart" or "share"."""
    apart: dict[Op, str] = {}
    cells: set[Op] = set()

    def prepare(ops: list[Op]) -> None:
        apart.update(_apart(ops, output_bias))
        cells.update(op for op in ops if _cell(op))

    def choose(op: Op) -> Rule | None:
        if rectified(op) is not None or op.name in ("leaky_relu", "prelu", "_prelu_kernel"):
            return Rule("rectifier", lambda op, given: [_rectify(op, given, whole)])  # type: ignore[arg-type, return-value]
        if op.name in POOLS | ALONG | PAIRS:
            return Rule("winner", lambda op, given: [_winner(op, given)])  # type: ignore[arg-type, return-value]
        if op.name == "mul" and len(op.edges) == 2:
            return Rule("product", lambda op, given: [_product(op, given, whole, cells)])  # type: ignore[arg-type, return-value]
        if op.name in BENT and set(op.edges) == {0}:
            return Rule("average of two orders", lambda op, given: [_bend(op, given)])  # type: ignore[arg-type, return-value]
        if _linear(op):
            return Rule("linear", lambda op, given: _map(op, given, apart.get(op, ""), whole))  # type: ignore[arg-type, return-value]
        return None

    return Table("contextual decomposition", choose=choose, prepare=prepare)


def _linear(op: Op) -> bool:
    if op.name in MASKABLE and op.gated is not None:
        return False
    if op.name in WEIGHTED:
        return len(set(op.edges) & _factors(op)) <= 1 and not (op.name == "convolution" and {1, 2} & set(op.edges))
    if op.name in BATCH_NORM:
        return set(op.edges) == {0} and (op.name == "_native_batch_norm_legit_no_training" or not op.leaves[5])
    if op.name in ("mul", "div"):
        return len(op.edges) == 1 and not (op.name == "div" and 1 in op.edges)
    return op.name in MOVING | LINEAR


def _factors(op: Op) -> set[int]:
    return {1, 2} if op.name in ("addmm", "baddbmm") else {0, 1}


def _apart(ops: list[Op], output_bias: str) -> dict[Op, str]:
    """The operations whose bias stays a part of its own: before a "gate", and, where asked, before the "score"."""
    readers: defaultdict[Op, list[Op]] = defaultdict(list)
    for op in ops:
        for i in op.edges:
            before = op.producers.get(i)
            if before is not None:
                readers[before].append(op)
    ends: dict[Op, set[str]] = {}
    for op in reversed(ops):
        found = {"score"} if not readers[op] else set()
        for reader in readers[op]:
            scaled = reader.name in ("mul", "div") and len(reader.edges) == 1
            passing = (reader.name in MOVING | SUMS or scaled) and reader.gated is None
            found |= ends[reader] if passing else {"gate" if reader.name in GATES else "other"}
        ends[op] = found
    kept = [{"gate"}, *([{"score"}] if output_bias == "apart" else [])]
    return {op: next(iter(ends[op])) for op in ops if ends[op] in kept}


def _source(op: Op, leaf: int) -> Op | None:
    """The operation behind a leaf, past those that only move values."""
    before = op.producers.get(leaf)
    while before is not None and before.name in MOVING and len(before.edges) == 1:
        before = before.producers[next(iter(before.edges))]
    return before


def _cell(op: Op) -> bool:
    """Is this the tanh of a memory cell: of a sum of products alone?"""
    if op.name != "tanh":
        return False
    before = _source(op, 0)
    if before is None or before.name != "add":
        return False
    terms = [_source(before, i) for i in before.edges]
    return all(t is not None and t.name == "mul" for t in terms)


# --- parts ---


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _share(beta: Tensor, gamma: Tensor, whole: bool) -> Tensor:
    """The group's share of a constant: by the sizes of the parts; 0/0 is the group's where it is the whole input."""
    size = beta.abs() + gamma.abs()
    return torch.where(size == 0, float(whole), beta.abs() / size)


def _fold(beta: Tensor, gamma: Tensor, rest: Tensor | None, whole: bool) -> tuple[Tensor, Tensor]:
    if rest is None:
        return beta, gamma
    share = _share(beta, gamma, whole)
    return beta + share * rest, gamma + (1 - share) * rest


def _at(op: Op, values: Mapping[int, Tensor | None]) -> list[Any]:
    """The operation's arguments with these leaves instead; None stands for zero."""
    leaves = list(op.leaves)
    for i in op.edges:
        value = values.get(i)
        leaves[i] = torch.zeros_like(op.leaves[i]) if value is None else value
    return leaves


# --- rules ---


def _map(op: Op, given: Given, apart: str, whole: bool) -> list[Parts | None]:
    """Linear operations map each part; their constant is shared where values are mixed, else kept apart."""
    fixed = any(isinstance(x, Tensor) or op.name in ("add", "sub", "rsub", "constant_pad_nd")
                for i, x in enumerate(op.leaves) if i not in op.edges)  # fmt: skip
    constant = [c.expand(o.shape) for c, o in zip(op.call(_at(op, {})), op.outs, strict=False)] if fixed else None
    if constant is not None and not any(bool(c.any()) for c in constant if c.is_floating_point()):
        constant = None
    found: list[Any] = []
    for k in range(3):
        values = {i: parts[k] for i, parts in given.items()}
        if all(v is None for v in values.values()):
            found.append(constant if k == 2 else None)
            continue
        outs = op.call(_at(op, values))
        if constant is not None and k < 2:
            outs = [o - c for o, c in zip(outs, constant, strict=True)]
        found.append(outs)
    owners = _owners(op, given)
    beta, gamma, rest = found
    mixing = op.name in WEIGHTED or op.name in BATCH_NORM
    results: list[Parts | None] = []
    for k in range(len(op.outs) if op.name not in BATCH_NORM else 1):
        b, g, r = beta[k], gamma[k], None if rest is None else rest[k]
        if mixing and apart != "gate":
            last = constant[k] if constant is not None and apart == "score" else None
            b, g = _fold(b, g, r if last is None or r is None else r - last, whole)
            r = last
        results.append((b, g, r, None if owners is None else owners[k]))
    return results


def _owners(op: Op, given: Given) -> list[Tensor] | None:
    """How much of what is read here belongs to the group: moved along, and averaged where inputs are mixed."""
    owners = {i: parts[3] for i, parts in given.items() if parts[3] is not None}
    if not owners:
        return None
    if op.name in MOVING:
        if len(owners) < len(given):
            return None
        return op.call(_at(op, owners))
    if op.name in ("mm", "addmm", "bmm", "baddbmm"):
        i = {"addmm": 1, "baddbmm": 1}.get(op.name, 0)
        if i in owners:
            mean = owners[i].mean(-1, keepdim=True)
            return [mean.expand(op.outs[0].shape)]
        return None
    if op.name in SUMS and op.name not in ("mean", "sum"):
        both = [o.expand(op.outs[0].shape) for o in owners.values() if o is not None]
        return [sum(both[1:], both[0]) / len(both)]
    return None


def _rectify(op: Op, given: Given, whole: bool) -> Parts:
    """The group's part alone through the rectifier; the rest of the input gets what it changes."""
    i = rectified(op)
    leaf = i if i is not None else 0
    beta, gamma, rest, _ = given[leaf]
    beta, gamma = _fold(beta, gamma, rest, whole)

    def bend(x: Tensor) -> Tensor:
        return x.clamp_min(0) if i is not None else op.call([x, *op.leaves[1:]])[0]

    first = bend(beta)
    return first, bend(beta + gamma) - first, None, None


def _bend(op: Op, given: Given) -> Parts:
    """Nonlinearities: each part's change of the value, averaged over the two orders, after the constants' own."""
    beta, gamma, rest, owner = given[0]
    base = torch.zeros_like(beta) if rest is None else rest

    def bend(x: Tensor) -> Tensor:
        return op.call([x, *op.leaves[1:]])[0]

    none, both, one, other = bend(base), bend(base + beta + gamma), bend(base + beta), bend(base + gamma)
    due, left = (one - none + both - other) / 2, (other - none + both - one) / 2
    return due, left, None if rest is None and op.name in AT_ZERO else none, owner


def _product(op: Op, given: Given, whole: bool, cells: set[Op]) -> Parts:
    """A gate times a signal: the terms that hold nothing of the rest of the input are the group's.

    The output gate of a memory cell counts as a whole. A product of two constants is the group's where the step's own
    input is.
    """
    (i, first), (j, second) = given.items()
    for gate, signal in ((i, j), (j, i)):
        source, before = _source(op, signal), _source(op, gate)
        if source in cells and before is not None and before.name == "sigmoid":
            beta, gamma, rest, _ = given[signal]
            o = op.leaves[gate]
            return beta * o, gamma * o, None if rest is None else rest * o, None
    (b1, g1, r1, own1), (b2, g2, r2, own2) = first, second
    n1, n2 = _add(b1, r1), _add(b2, r2)
    beta = b1 * n2 if r1 is None else b1 * n2 + r1 * b2
    gamma = g1 * (n2 + g2) + n1 * g2
    if r1 is None or r2 is None:
        return beta, gamma, None, None
    owners = [o for o in (own1, own2) if o is not None]
    share = sum(owners[1:], owners[0]) / len(owners) if owners else _share(beta, gamma, whole)
    constant = r1 * r2
    return beta + share * constant, gamma + (1 - share) * constant, None, None


def _winner(op: Op, given: Given) -> Parts:
    """Maxima: the parts of the value that won."""
    if op.name in PAIRS:
        a, b = (op.leaves[k] for k in (0, 1))
        first = a <= b if op.name in ("minimum", "fmin") else a >= b
        found = []
        for k in range(3):
            sides = [given[i][k] if i in given else (x if k == 2 else None) for i, x in ((0, a), (1, b))]
            zeros = [torch.zeros_like(x) if s is None else s for s, x in zip(sides, (a, b), strict=True)]
            found.append(None if all(s is None for s in sides) else torch.where(first, *zeros))
        return found[0], found[1], found[2], None
    pick = _picker(op)
    beta, gamma, rest, _ = (None if p is None else pick(p) for p in given[0])
    return beta, gamma, rest, None


def _picker(op: Op) -> Any:
    x, out = op.leaves[0], op.outs[0]
    if op.name in POOLS:
        dims, at = (3 if "3d" in op.name else 2), op.outs[1]
        return lambda part: part.flatten(-dims).gather(-1, at.flatten(-dims)).reshape(at.shape)
    arguments, named = unflatten(op.leaves, op.spec)
    axes = arguments[1] if len(arguments) > 1 else named.get("dim")
    axes = [a % x.dim() for a in (axes if isinstance(axes, list) else [axes] if axes is not None else [])]
    axes = axes or list(range(x.dim()))
    rest = [a for a in range(x.dim()) if a not in axes]

    def lines(part: Tensor) -> Tensor:
        return part.permute(*rest, *axes).flatten(len(rest)) if rest else part.permute(*axes).flatten()

    flat = lines(x)
    at = flat.argmin(-1, keepdim=True) if op.name in ("min", "amin") else flat.argmax(-1, keepdim=True)
    return lambda part: lines(part).gather(-1, at).reshape(out.shape)
