"""How is a simplified graph run? As a straight list of calls, each value dropped after its last use."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from pellucid.engine.plan.trace import Traced

Call = Callable[[list[Any]], Any]


class Program:
    """A graph as calls on numbered slots. Holds weights and functions; one run shares nothing with another."""

    __slots__ = ("constants", "inputs", "output", "size", "steps")

    def __init__(self, traced: Traced) -> None:
        nodes = list(traced.graph.nodes)
        slots = {node: index for index, node in enumerate(nodes)}
        last = {source: node for node in nodes for source in node.all_input_nodes}
        self.size = len(nodes)
        self.inputs = [slots[node] for node in nodes if node.op == "placeholder"]
        self.constants = [(slots[node], traced.constants[node.target]) for node in nodes if node.op == "get_attr"]
        self.output: Call = gather(nodes[-1].args[0], slots)
        self.steps: list[tuple[Call, int, list[int]]] = []
        for node in nodes:
            if node.op in ("call_function", "call_method", "call_module"):
                dead = [slots[source] for source in node.all_input_nodes if last[source] is node]
                dead += [] if node.users else [slots[node]]
                self.steps.append((call_of(node, traced, slots), slots[node], dead))

    def __call__(self, *inputs: Tensor) -> Any:
        values: list[Any] = [None] * self.size
        for slot, value in zip(self.inputs, inputs, strict=True):
            values[slot] = value
        for slot, constant in self.constants:
            values[slot] = constant
        del inputs
        for call, slot, dead in self.steps:
            values[slot] = call(values)
            for index in dead:
                values[index] = None
        return self.output(values)


def call_of(node: fx.Node, traced: Traced, slots: dict[fx.Node, int]) -> Call:
    """One step: fetch the arguments, apply."""
    function: Callable[..., Any]
    if node.op == "call_module":
        # `forward` itself: hooks the user sets for all modules of the process are not for these.
        function = traced.modules[str(node.target)].forward
    elif node.op == "call_method":
        function = _method(str(node.target))
    else:
        function = node.target  # type: ignore[assignment]
    if not node.kwargs and all(isinstance(item, fx.Node) for item in node.args):
        positions = [slots[item] for item in node.args]  # type: ignore[index]
        if len(positions) == 1:
            only = positions[0]
            return lambda values: function(values[only])
        return lambda values: function(*[values[index] for index in positions])
    arguments = gather((node.args, node.kwargs), slots)

    def apply(values: list[Any]) -> Any:
        args, kwargs = arguments(values)
        return function(*args, **kwargs)

    return apply


def _method(name: str) -> Callable[..., Any]:
    return lambda value, *args, **kwargs: operator.methodcaller(name, *args, **kwargs)(value)


def gather(pattern: Any, slots: dict[fx.Node, int]) -> Call:
    """The pattern of values, with the slots filled in."""
    if isinstance(pattern, fx.Node):
        slot = slots[pattern]
        return lambda values: values[slot]
    if type(pattern) is slice:
        parts = [gather(item, slots) for item in (pattern.start, pattern.stop, pattern.step)]
        return lambda values: slice(*[part(values) for part in parts])
    if isinstance(pattern, (tuple, list)) and not hasattr(pattern, "_fields"):
        items = [gather(item, slots) for item in pattern]
        kind = tuple if isinstance(pattern, tuple) else list
        return lambda values: kind([item(values) for item in items])
    if isinstance(pattern, dict):
        entries = [(key, gather(item, slots)) for key, item in pattern.items()]
        return lambda values: {key: item(values) for key, item in entries}
    if _constant(pattern):
        return lambda values: pattern
    return lambda values: map_arg(pattern, lambda node: values[slots[node]])


def _constant(pattern: Any) -> bool:
    found: list[fx.Node] = []
    map_arg(pattern, lambda node: found.append(node))
    return not found
