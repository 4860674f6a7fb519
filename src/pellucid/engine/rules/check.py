"""Can this model be explained by this table? One row per operation, with its rule or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pellucid.contract.errors import NeedError
from pellucid.engine.rules.record import Edge
from pellucid.engine.rules.trace import Inputs, Trace
from pellucid.engine.rules.walk import Plan, Row, Table, assigned, refusals


def check(
    model: nn.Module, inputs: Inputs, table: Table, *, at: str | None = None, forward: Callable[..., Any] | None = None
) -> list[Row]:
    """Which rule would each operation of one forward pass get under `table`? In the order they ran; refuses nothing.

    Token models, whose inputs carry no gradient, are checked down to a place: `at="embedding"`.
    """
    trace = Trace(model, inputs, forward, places=[] if at is None else [at])
    targets = target_edges(trace, at)
    plan = Plan(trace, [x.grad_fn for x in _floating(trace.output)], targets)
    try:
        if table.prepare:
            table.prepare([op for op in trace.ops if op.edges])
        return assigned(plan, table, refusals(trace, plan, table))
    finally:
        trace.restore()


def target_edges(trace: Trace, at: str | tuple[str, ...] | list[str] | None) -> list[Edge]:
    """Where a walk ends: the floating inputs, or places. What carries no gradient is refused."""
    if at is None:
        edges = [edge for edge in trace.edges if edge is not None]
        if not edges:
            raise NeedError(
                "The inputs carry no gradient",
                got=f"{[str(x.dtype) if isinstance(x, Tensor) else type(x).__name__ for x in trace.values]}",
                hint="a place behind the embedding: layer='embedding', or at='embedding' for a table of rules",
            )
        return edges
    found = [(name, trace.places[name].edge) for name in ([at] if isinstance(at, str) else at)]
    if bare := [name for name, edge in found if edge is None]:
        raise NeedError("Nothing at the place carries a gradient", got=f"{bare}", hint="a place that the inputs reach")
    return [edge for _, edge in found if edge is not None]


def _floating(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.grad_fn is not None else []
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [x for part in parts for x in _floating(part)]
