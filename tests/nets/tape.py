"""The walk again, written to be obviously right: a flat functional program, differentiated step by step in reverse.

Nothing here knows autograd graphs, sequence numbers or aliasing. The forward is traced under no_grad into a straight
list of functional aten calls (in-place writes and views gone); each step is differentiated alone, and a ReLU is
found by looking at the program text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

CONSTANT = ("aten::new_", "aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::empty_like")


def tape(forward: Callable[[Tensor], Tensor], x: Tensor, relu: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
    """Cotangent of x for forward(x).sum(); at each ReLU, `relu(output, cotangent)` instead of its derivative."""
    with torch.no_grad():
        program = make_fx(functionalize(forward))(x).graph
    values: dict[Any, Any] = {}
    nodes = list(program.nodes)
    owner = program.owning_module
    reached = {n for n in nodes if n.op == "placeholder"}
    for node in nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "get_attr":
            values[node] = _attribute(owner, node.target).detach()
        elif node.op == "call_function":
            if reached.intersection(node.all_input_nodes) and not _name(node).startswith(CONSTANT):
                reached.add(node)
            with torch.no_grad():
                values[node] = _run(node, values, node in reached)
    (result,) = (n.args[0] for n in nodes if n.op == "output")
    cotangents: dict[Any, Any] = {result: torch.ones_like(values[result])}
    for node in reversed(nodes):
        if node.op == "call_function" and node in cotangents:
            for source, g in _back(node, values, cotangents[node], relu, reached).items():
                cotangents[source] = _plus(cotangents.get(source), g)
    (start,) = (n for n in nodes if n.op == "placeholder")
    return cotangents[start]


def _attribute(owner: Any, path: str) -> Tensor:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


def _name(node: Any) -> str:
    return node.target._schema.name if hasattr(node.target, "_schema") else str(node.target)


def _run(node: Any, values: dict[Any, Any], active: bool) -> Any:
    """One step. What is left of in-place writes, inside recurrent kernels, goes to a copy: later steps read that."""
    args = _fill(node.args, values)
    if active and _name(node).endswith("_"):
        args = (args[0].clone(), *args[1:])
    return node.target(*args, **_fill(node.kwargs, values))


def _fill(args: Any, values: dict[Any, Any]) -> Any:
    return torch.fx.node.map_arg(args, lambda n: values[n])


def _plus(a: Any, b: Any) -> Any:
    if isinstance(b, dict):  # cotangents of some parts of a tuple
        return {**(a or {}), **{k: v if k not in (a or {}) else a[k] + v for k, v in b.items()}}
    return b if a is None else a + b


def _back(node: Any, values: dict[Any, Any], grad: Any, relu: Any, reached: set[Any]) -> dict[Any, Any]:
    if getattr(node.target, "__name__", "") == "getitem":
        return {node.args[0]: {node.args[1]: grad}}
    if relu is not None and (x := _rectified(node, values)) is not None:
        return {x: relu(values[node], grad)}
    sources = [n for n in node.all_input_nodes if n in reached and values[n].is_floating_point()]
    if _name(node) == "aten::copy":  # torch has no derivative for its functional form
        return {node.args[1]: grad.sum_to_size(values[node.args[1]].shape)} if node.args[1] in reached else {}
    with torch.enable_grad():
        fresh = {n: values[n].detach().clone().requires_grad_() for n in sources}
        out = _run(node, {**values, **fresh}, True)
        pairs = [(out[i], g) for i, g in grad.items()] if isinstance(grad, dict) else [(out, grad)]
        pairs = [(o, g) for o, g in pairs if isinstance(o, Tensor) and o.requires_grad]
        if not pairs or not sources:
            return {}
        found = torch.autograd.grad([o for o, _ in pairs], list(fresh.values()), [g for _, g in pairs],
                                    allow_unused=True)  # fmt: skip
    return {n: g for n, g in zip(fresh, found, strict=True) if g is not None}


def _rectified(node: Any, values: dict[Any, Any]) -> Any:
    """The node x where this node is relu(x), read off the program."""
    name, args = _name(node), node.args
    zero = [(isinstance(a, (int, float)) and a == 0) or _all_zero(values.get(a) if _is_node(a) else None) for a in args]
    if name == "aten::relu":
        return args[0]
    if name in ("aten::clamp_min", "aten::clamp", "aten::leaky_relu") and zero[1] and len(args) == 2:
        return args[0]
    if name == "aten::threshold" and zero[1] and zero[2]:
        return args[0]
    if name in ("aten::maximum", "aten::fmax") and (zero[0] or zero[1]):
        return args[1] if zero[0] else args[0]
    for x in node.all_input_nodes:
        made = [m for m in node.all_input_nodes if m is not x and _compares(m, x)]
        if made and torch.equal(values[node], values[x].clamp(min=0)):
            return x
    return None


def _is_node(a: Any) -> bool:
    return isinstance(a, torch.fx.Node)


def _all_zero(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.any()


def _compares(mask: Any, x: Any) -> bool:
    """Is this node a comparison of x with zero, perhaps cast or negated?"""
    name = _name(mask)
    if name in ("aten::gt", "aten::ge", "aten::lt", "aten::le"):
        return mask.args[1] == 0 and _same(mask.args[0], x)
    return len(mask.all_input_nodes) == 1 and _compares(mask.all_input_nodes[0], x)


def _same(a: Any, x: Any) -> bool:
    while a is not x and _name(a) in ("aten::detach", "aten::alias"):
        a = a.args[0]
    return a is x
