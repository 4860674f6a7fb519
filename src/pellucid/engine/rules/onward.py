"""What does each operation make of a value in parts? A forward walk over the labelled autograd graph, under a table.

The backward walk asks where a cotangent goes; this one asks what becomes of a split of the input. The table's rules are
called as `apply(op, given) -> parts of each output`, where `given` maps each leaf that carries parts to its parts: a
tuple of tensors, of which some may be None. Operations without a rule are refused before the walk, all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine.rules.record import Edge, Node, Op
from pellucid.engine.rules.rewrite import Rewrite
from pellucid.engine.rules.trace import Trace
from pellucid.engine.rules.walk import Plan, Table, refusals

Parts = tuple[Any, ...]  # tensors, or None for a part that is nothing


def onward(
    trace: Trace,
    seeds: Mapping[Edge, Parts],
    root: Edge,
    table: Table,
    see: Callable[[Op, Sequence[Parts | None]], None] | None = None,
) -> Parts:
    """The parts of the value at `root`, when the values at the edges `seeds` are split in parts.

    `see(op, outs)` is shown the parts that each operation gave.
    """
    plan = Plan(trace, [root[0]], list(seeds))
    try:
        if table.prepare:
            table.prepare([op for op in trace.ops if op.edges])
        _refuse(trace, plan, table)
        with torch.inference_mode(False), torch.no_grad(), Rewrite() if trace.rewrites else nullcontext():
            return _run(plan, seeds, root, table, see)
    finally:
        trace.restore()


def _refuse(trace: Trace, plan: Plan, table: Table) -> None:
    problems = list(refusals(trace, plan, table).values())
    if problems:
        count = "1 operation has" if len(problems) == 1 else f"{len(problems)} operations have"
        raise UnsupportedOperation(
            f"{count} no rule in the table '{table.name}'",
            got="; ".join(dict.fromkeys(problems)),
            hint="a gradient method, or a layer behind them",
        )


def _run(plan: Plan, seeds: Mapping[Edge, Parts], root: Edge, table: Table, see: Any) -> Parts:
    order = [node for node in reversed(plan.order) if plan.leads[node]]
    readers = Counter(edge for node in order for edge in set(node.next_functions))
    carried: dict[Edge, Parts] = dict(seeds)
    for node in order:
        op = plan.labels[node]
        into = [edge for edge in dict.fromkeys(node.next_functions) if edge in carried]
        outs = [_through_view(node, carried[into[0]])] if op is None else _through(op, carried, table)
        for k, parts in enumerate(outs):
            if parts is not None and (node, k) not in seeds:
                carried[node, k] = parts
        if op is not None and see is not None:
            see(op, outs)
        for edge in into:
            readers[edge] -= 1
            if not readers[edge] and edge != root:
                del carried[edge]
    return carried[root]


def _through(op: Op, carried: Mapping[Edge, Parts], table: Table) -> list[Parts | None]:
    given = {i: carried[edge] for i, edge in op.edges.items() if edge in carried}
    rule = table.pick(op)
    assert rule is not None
    if op.region is None:
        return rule.apply(op, given)  # type: ignore[arg-type, return-value]
    size, stride, view_size, view_stride, offset = op.region
    empty = torch.zeros_like(op.outs[0]).new_zeros(size)  # what else a constant holds is not on record: taken as zero
    whole = given.get(0) or tuple(None if p is None else empty for p in next(iter(given.values())))
    bases = [None if p is None else p.new_empty_strided(size, stride).copy_(p) for p in whole]
    given[0] = tuple(None if b is None else b.as_strided(view_size, view_stride, offset).clone() for b in bases)
    written: Any = rule.apply(op, given)[0]  # type: ignore[arg-type]
    for k, part in enumerate(written):
        if part is not None and bases[k] is None:
            like = next(b for b in bases if b is not None)
            bases[k] = torch.zeros_like(like)
        if bases[k] is not None:
            region = bases[k].as_strided(view_size, view_stride, offset)  # type: ignore[union-attr]
            region.copy_(part) if part is not None else region.zero_()
    return [tuple(bases)]


def _through_view(node: Node, parts: Parts) -> Parts:
    """A view that torch made anew, without a label: the transpose of what its own backward does."""
    return tuple(None if p is None else _transpose(node, p) for p in parts)


def _transpose(node: Node, value: Tensor) -> Tensor:
    shape = node._input_metadata[0].shape
    with torch.enable_grad():
        probe = torch.zeros(shape, dtype=value.dtype, device=value.device, requires_grad=True)
        back = node(probe)
        back = back[0] if isinstance(back, tuple) else back
        return torch.autograd.grad(back, probe, value)[0]
