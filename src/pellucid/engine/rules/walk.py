"""What does each operation send back? Our own reverse walk over the labelled autograd graph, under a rule table.

Before the walk, every operation on the way is resolved, so that all missing rules are refused at once. The order is
topological over the nodes themselves; sequence numbers, which belong to a thread, are not trusted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine.rules.ledger import Books, Ledger, Parts, Said
from pellucid.engine.rules.record import Edge, Node, Op, input_vjp
from pellucid.engine.rules.rewrite import Rewrite
from pellucid.engine.rules.trace import Trace

WEIGHTED = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm"})
REDUCING = frozenset({"mean", "sum", "cumsum"})  # they may change where the rows lie
VIEWS = frozenset(
    f"{name}Backward{k}"
    for name in (
        *("AsStrided", "View", "UnsafeView", "ReshapeAlias", "Slice", "Select", "Diagonal", "Unfold", "Expand"),
        *("Transpose", "Permute", "T", "Unsqueeze", "Squeeze", "Unbind", "Split", "SplitWithSizes", "Alias", "Clone"),
    )
    for k in range(3)
) | {"BackwardHookFunctionBackward"}  # torch's own identity around modules with full backward hooks
REENTRANT = "CheckpointFunctionBackward"


Cotangent = Any  # Tensor or Parts
Apply = Callable[[Op, list[Any]], dict[Any, Any]]


@dataclass(frozen=True, eq=False)
class Rule:
    """What an operation sends back: `apply(op, grads) -> {leaf: cotangent}` for the leaves in `op.edges`.

    A `linear` rule maps each part of a cotangent alike; one that takes `parts` is given them; any other refuses
    them. `absorbs` says what relevance stays behind here for, in the ledger; where part of it stays behind for another
    reason, `apply` adds that amount, elementwise or in terms with factors, under the reason's name.
    """

    name: str
    apply: Apply
    linear: bool = False
    parts: bool = False
    absorbs: str = ""


def _own(op: Op, grads: list[Any]) -> dict[int, Any]:
    return op.vjp(grads, list(op.edges))


own = Rule("own", _own, linear=True)


@dataclass(frozen=True, eq=False)
class Table:
    """Which rule each operation gets: `prepare`'s, else `choose(op)`'s, else by name, else the default.

    Only plain gradient may have a default: an open default would pass what nobody has thought about. `keep` names
    the operations whose values the rules read (None: all). `seed` is what the walk starts from: ones, or the score
    itself for tables that redistribute it.
    """

    name: str
    rules: dict[str, Rule] = field(default_factory=dict)
    default: Rule | None = None
    choose: Callable[[Op], Rule | None] | None = None
    prepare: Callable[[list[Op]], None] | None = None
    keep: frozenset[str] | None = None
    seed: str = "ones"
    conserves: bool = False

    def pick(self, op: Op) -> Rule | None:
        """The rule for an operation, or None."""
        return op.rule or (self.choose(op) if self.choose else None) or self.rules.get(op.name, self.default)

    def keeps(self, name: str) -> bool:
        """Do the rules read the values of such operations?"""
        return self.keep is None or name in self.keep

    def choosing(self, first: Callable[[Op], Rule | None]) -> Table:
        """The same table with a choice that comes before its own."""
        then = self.choose
        return replace(self, choose=lambda op: first(op) or (then(op) if then else None))


@dataclass(frozen=True)
class Row:
    """One operation on the way from the inputs to the output. `rule` is empty where `problem` says why."""

    operation: str
    module: str
    line: str
    rule: str
    problem: str = ""


class Plan:
    """The nodes between seeds and targets in the order of the walk, and which of them lead further."""

    def __init__(self, trace: Trace, roots: Iterable[Node], targets: Iterable[Edge]) -> None:
        self.targets = set(targets)
        self.ends = {node for node, _ in self.targets}
        self.leads: dict[Node, bool] = {}
        self.next: dict[Node, Any] = {}
        self.order: list[Node] = []
        self._survey(roots)
        self.labels = {node: trace.record.of(node) for node in self.order if self.leads[node]}
        for op in trace.ops:
            op.edges, op.producers = {}, {}
        for node in self.order:  # children come before parents here
            label = self.labels.get(node)
            if label is not None:
                self._connect(label)
        self.order.reverse()

    def wants(self, edge: Edge) -> bool:
        """Does a cotangent at this edge matter?"""
        return self.leads.get(edge[0], False) or edge in self.targets

    def _survey(self, roots: Iterable[Node]) -> None:
        stack = [(root, False) for root in roots if root is not None]
        while stack:
            node, done = stack.pop()
            if done:
                self.leads[node] = any(self.leads[f] or f in self.ends for f, _ in self.next[node] if f is not None)
                if self.leads[node] or node in self.ends:
                    self.order.append(node)
            elif node not in self.next:
                self.next[node] = node.next_functions
                stack.append((node, True))
                stack.extend((f, False) for f, _ in self.next[node] if f is not None and f not in self.next)

    def _connect(self, op: Op) -> None:
        op.edges = {i: e for i, e in op.links.items() if self.wants(e)}
        op.producers = {i: self.labels.get(node) for i, (node, _) in op.links.items()}
        before = [p.depth for i, p in op.producers.items() if p is not None and i in op.edges]
        op.depth = max(before, default=0) + (op.name in WEIGHTED)


def refusals(trace: Trace, plan: Plan, table: Table) -> dict[Node, str]:
    """Every node of the walk that the table cannot explain, with the reason."""
    problems = {}
    for node, op in plan.labels.items():
        name = node.name()
        if op is not None and table.pick(op) is None:
            problems[node] = f"aten.{op.name}" if "::" not in op.name else op.name
            problems[node] += f" in module '{op.module}' at {op.line}"
        elif op is None and name == REENTRANT:
            problems[node] = f"reentrant checkpoint {trace.record.where(node)} (use_reentrant=False works)"
        elif op is None and table.default is None and name not in VIEWS:
            problems[node] = f"{name.removesuffix('Backward')} (custom or unlabelled) {trace.record.where(node)}"
    return problems


def assigned(plan: Plan, table: Table, problems: dict[Node, str] | None = None) -> list[Row]:
    """Which rule each operation of the walk gets, in the order they ran."""
    rows = []
    for node in reversed(plan.order):
        if not plan.leads[node]:
            continue
        op, problem = plan.labels[node], (problems or {}).get(node, "")
        rule = None if problem else (table.pick(op) if op is not None else table.default)
        name = "" if problem else rule.name if rule is not None else "own"
        operation, module, line = (node.name(), "", "") if op is None else (f"aten.{op.name}", op.module, op.line)
        rows.append(Row(operation, module, line, name, problem))
    return rows


def walk(trace: Trace, seeds: Sequence[tuple[Edge, Any]], targets: Sequence[Edge], table: Table) -> Walk:
    """Send the seeds' cotangents back to the targets; refuse first, all at once, what the table cannot explain."""
    plan = Plan(trace, [edge[0] for edge, _ in seeds], targets)
    try:
        if table.prepare:
            table.prepare([op for op in trace.ops if op.edges])
        if problems := refusals(trace, plan, table):
            count = "1 operation has" if len(problems) == 1 else f"{len(problems)} operations have"
            raise UnsupportedOperation(
                f"{count} no rule in the table '{table.name}'",
                got="; ".join(dict.fromkeys(problems.values())),
                hint="a gradient method, or a rule for them in the table",
            )
        with torch.inference_mode(False), torch.no_grad(), Rewrite() if trace.rewrites else nullcontext():
            found = Walk(plan, table).run(seeds, targets)
        found.rules = assigned(plan, table) if table.conserves else []
        return found
    finally:
        trace.restore()


class Walk:
    """One reverse pass; afterwards `values` holds the cotangent of each target (None: nothing arrived)."""

    def __init__(self, plan: Plan, table: Table) -> None:
        self.plan, self.table = plan, table
        self.waiting: dict[Node, dict[int, Any]] = {}
        self.values: list[Any] = []
        self.ledger: Ledger | None = None
        self.rules: list[Row] = []
        self.books: Books | None = None
        self._sent: list[tuple[Edge, Any]] = []
        self._said: dict[str, Said] = {}

    def run(self, seeds: Sequence[tuple[Edge, Any]], targets: Sequence[Edge]) -> Walk:
        """Visit every node once, after all nodes that feed it."""
        arrived: dict[Edge, Any] = {}
        if self.table.conserves:
            self.books = Books(max((len(value) for _, value in seeds if value.dim()), default=1))
        for edge, value in seeds:
            self._send(edge, value)
            if self.books is not None:
                self.books.send(edge, value)
        for node in self.plan.order:
            got = self.waiting.pop(node, None)
            if got is None:
                continue
            arrived.update({(node, i): g for i, g in got.items() if (node, i) in self.plan.targets})
            if self.plan.leads[node]:
                self._sent.clear()
                self._said.clear()
                self._visit(node, [got.get(i) for i in range(len(node._input_metadata))])
                if self.books is not None:
                    self._account(self.books, node, got)
        self.values = [arrived.get(edge) for edge in targets]
        if any(isinstance(value, Parts) for value in self.values):
            raise UnsupportedOperation(
                "A cotangent in parts arrived unmerged", got=self.table.name, hint="a place before the rule that merges"
            )
        if self.books is not None:
            self.ledger = self.books.close(seeds, list(arrived.items()))
        return self

    def _send(self, edge: Edge, value: Any) -> None:
        node, output = edge
        if value is None or not self.plan.wants(edge):
            return
        slot = self.waiting.setdefault(node, {})
        slot[output] = slot[output] + value if output in slot else value
        if self.books is not None:
            self._sent.append((edge, value))

    def _visit(self, node: Node, grads: list[Any]) -> None:
        op = self.plan.labels[node]
        rule = own if op is None else self.table.pick(op) or own
        parts = next((g for g in grads if isinstance(g, Parts)), None)
        if parts is None or rule.parts:
            return self._once(node, op, rule, grads)
        if not rule.linear:
            raise UnsupportedOperation(
                f"The rule '{rule.name}' cannot take a cotangent in parts", got=repr(op), hint="another table"
            )
        gather: list[dict[Edge, Tensor]] = []
        for k in range(len(parts.parts)):
            catch: dict[Edge, Tensor] = {}
            alone = [g.parts[k] if isinstance(g, Parts) else g for g in grads]
            self._once(node, op, rule, alone, lambda e, v, into=catch: _add(into, e, v))
            gather.append(catch)
        for edge in gather[0]:
            self._send(edge, Parts(*(catch[edge] for catch in gather)))
        return None

    def _once(self, node: Node, op: Op | None, rule: Rule, grads: list[Any], send: Any = None) -> None:
        send = send or self._send
        if op is None or rule is own:
            quick = None if op is None or op.region else input_vjp(op, grads, list(op.edges), op.leaves)
            if op is None or quick is None:
                return _through(node, grads, self.plan, send)
            back = quick
        elif op.region is not None:
            return _inside(node, op, rule, grads[0], send)
        else:
            back = rule.apply(op, grads)
        for i, g in back.items():
            if i in op.edges:
                send(op.edges[i], g)
            elif isinstance(i, str) and self.books is not None:
                self._said[i] = g
        return None

    def _account(self, books: Books, node: Node, got: dict[int, Any]) -> None:
        op = self.plan.labels[node]
        rule = None if op is None else self.table.pick(op)
        kind = (rule.absorbs if rule is not None else "") or "elsewhere"
        moves = op is None or rule is None or rule.linear or op.name in REDUCING
        where = (node.name(), "", "") if op is None else (f"aten.{op.name}", op.module, op.line)
        books.account(where, kind, moves, [((node, i), g) for i, g in got.items()], self._sent, self._said)


def _add(into: dict[Edge, Tensor], edge: Edge, value: Any) -> None:
    if value is not None:
        into[edge] = into[edge] + value if edge in into else value


def _through(node: Node, grads: list[Any], plan: Plan, send: Callable[[Edge, Any], None]) -> None:
    """Autograd's own backward of one node.

    A node leaves it to torch's engine to sum over what was broadcast and to cast; so it is done here.
    """
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return _through_function(node, grads, plan, send)
    back = node(*grads)
    for edge, g in zip(node.next_functions, back if isinstance(back, tuple) else (back,), strict=True):
        if g is not None and plan.wants(edge):
            expected = edge[0]._input_metadata[edge[1]]
            if g.shape != expected.shape:
                g = g.sum_to_size(expected.shape)
            send(edge, g if g.dtype == expected.dtype else g.to(expected.dtype))
    return None


def _through_function(node: Node, grads: list[Any], plan: Plan, send: Callable[[Edge, Any], None]) -> None:
    """A user's autograd.Function: torch's engine aligns its results with the tensors among its arguments."""
    into = [edge for edge in dict.fromkeys(node.next_functions) if plan.wants(edge)]
    outs = [(GradientEdge(node, i), g) for i, g in enumerate(grads) if g is not None]
    got = torch.autograd.grad(
        [edge for edge, _ in outs],
        [GradientEdge(*edge) for edge in into],
        [g for _, g in outs],
        retain_graph=True,
        allow_unused=True,
    )
    for edge, g in zip(into, got, strict=True):
        send(edge, g)


def _inside(node: Node, op: Op, rule: Rule, grad: Tensor, send: Callable[[Edge, Any], None]) -> None:
    """In-place on a view: the rule acts on the region written, the rest of the base passes through."""
    assert op.region is not None
    size, stride, view_size, view_stride, offset = op.region
    base = grad.new_empty_strided(size, stride).copy_(grad)
    region = base.as_strided(view_size, view_stride, offset)
    back = rule.apply(op, [region.clone()])
    region.zero_()
    if 0 in back:
        region.copy_(back.pop(0))
    send(node.next_functions[0], base)
    for i, g in back.items():
        if i in op.edges:
            send(op.edges[i], g)
