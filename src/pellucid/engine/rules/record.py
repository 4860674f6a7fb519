"""What did the forward pass do? Each autograd node is labelled with the operation that made it.

The forward runs once, unchanged, with autograd on. A dispatch mode sees every aten operation below autograd, when
the node that will differentiate it has just been made; both carry autograd's sequence number. Labels are therefore
independent of how the network is spelled (modules, functions, operators, in-place), need no hooks and put no state
on the model: modes are local to the thread.

A sequence number alone is only a hint: in-place operations and regenerated views shift it by a few, and operations
without a node see a stale one. `Record.of` accepts a label only when the node's name and its incoming edges agree.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Node = Any  # torch.autograd.graph.Node; its private parts are used here
Edge = tuple[Node, int]  # an autograd node and which of its outputs

TORCH = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)
CALL = torch.nn.Module._call_impl.__code__
COMPARISONS = frozenset({"gt", "ge", "lt", "le"})
NODES = {"log_sigmoid_forward": "logsigmoid", "_cdist_forward": "cdist"}  # nodes that are named otherwise
SHIFT = 6  # how far a label may stand from its node: in-place clones and regenerated views make nodes in between

_torch_file: dict[str, bool] = {}


class Op:
    """One recorded operation: its values, where its cotangents go and where it stands in the source.

    `leaves` are the arguments with lists flattened; `links` maps a leaf to the edge it came from; `edges` are the
    links that lead to what is asked (set for each walk); `region` is the geometry of an in-place write to a view.
    """

    __slots__ = (
        "depth", "edges", "func", "gated", "leaves", "line", "links", "module", "name", "original", "outs",
        "producers", "region", "rule", "spec", "twin",
    )  # fmt: skip

    def __init__(self, func: Any, leaves: list[Any], spec: Spec, links: dict[int, Edge], where: tuple[str, str]):
        self.func, self.leaves, self.spec, self.links = func, leaves, spec, links
        self.name = operation_name(func)
        self.module, self.line = where
        self.outs: list[Tensor] = []
        self.region: tuple[Any, ...] | None = None
        self.gated: int | None = None  # the leaf that a mask made by comparing that same leaf with zero multiplies
        self.edges: dict[int, Edge] = {}
        self.producers: dict[int, Op | None] = {}
        self.depth = 0
        self.rule: Any = None  # set by a table's `prepare`; wins over the table
        self.original: tuple[list[Any], list[Tensor]] | None = None
        self.twin: Op | None = None

    def __repr__(self) -> str:
        return f"aten.{self.name} in module '{self.module}' at {self.line}"

    def call(self, leaves: Sequence[Any]) -> list[Tensor]:
        """The operation at other values. In-place operations are replayed on a copy."""
        args, kwargs = unflatten(leaves, self.spec)
        if writes(self.func):
            args = [args[0].clone(), *args[1:]]
        out = self.func(*args, **kwargs)
        return tensors_in(out)

    def vjp(self, grads: Sequence[Tensor | None], wrt: Sequence[int], leaves: Sequence[Any] | None = None) -> Any:
        """Own vector-Jacobian product for the leaves `wrt`, at other values if `leaves` is given."""
        values = self.leaves if leaves is None else leaves
        if (quick := input_vjp(self, grads, wrt, values)) is not None:
            return quick
        with torch.enable_grad():
            values = [x.detach().requires_grad_(i in wrt) if isinstance(x, Tensor) and i in wrt else x
                      for i, x in enumerate(values)]  # fmt: skip
            pairs = [(o, g) for o, g in zip(self.call(values), grads, strict=False) if g is not None]
            pairs = [(o, g) for o, g in pairs if o.requires_grad]
            got = torch.autograd.grad(
                [o for o, _ in pairs], [values[i] for i in wrt], [g for _, g in pairs], allow_unused=True
            )
        return {i: g for i, g in zip(wrt, got, strict=True) if g is not None}

    def replace(self, leaves: list[Any], outs: list[Tensor]) -> None:
        """Other values on the record, until `restore`: for tables that merge operations."""
        self.original = self.original or (self.leaves, self.outs)
        self.leaves, self.outs = leaves, outs

    def restore(self) -> None:
        """Undo what a table wrote on the record."""
        self.rule = None
        if self.original is not None:
            (self.leaves, self.outs), self.original = self.original, None


def input_vjp(op: Op, grads: Sequence[Any], wrt: Sequence[int], v: Sequence[Any]) -> dict[int, Tensor] | None:
    """The vjp of a weighted operation for its input alone: the nodes themselves would compute weight gradients too."""
    if len(wrt) != 1 or grads[0] is None:
        return None
    if op.name == "convolution" and wrt[0] == 0:
        (x, weight, _, *rest), _ = unflatten(v, op.spec)
        mask = [True, False, False]
        return {0: torch.ops.aten.convolution_backward(grads[0], x, weight, None, *rest, mask)[0]}
    if op.name == "addmm" and len(v) == 3 and wrt[0] in (1, 2):
        return {1: grads[0] @ v[2].mT} if wrt[0] == 1 else {2: v[1].mT @ grads[0]}
    if op.name in ("mm", "bmm"):
        return {0: grads[0] @ v[1].mT} if wrt[0] == 0 else {1: v[0].mT @ grads[0]}
    return None


# --- arguments of aten operations: flat, but for one level of lists ---

Spec = tuple[list[int], list[tuple[str, int]]]


def flatten(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], Spec]:
    """Leaves in order, and what is needed to put them back: -1 for a plain argument, else the length of a list."""
    leaves: list[Any] = []
    return leaves, ([_put(leaves, a) for a in args], [(k, _put(leaves, a)) for k, a in kwargs.items()])


def _put(leaves: list[Any], argument: Any) -> int:
    if isinstance(argument, (list, tuple)):
        leaves.extend(argument)
        return len(argument)
    leaves.append(argument)
    return -1


def unflatten(leaves: Sequence[Any], spec: Spec) -> tuple[list[Any], dict[str, Any]]:
    """The arguments and keywords that `flatten` took apart."""
    at = 0

    def take(length: int) -> Any:
        nonlocal at
        start, at = at, at + (1 if length < 0 else length)
        return leaves[start] if length < 0 else list(leaves[start:at])

    return [take(n) for n in spec[0]], {k: take(n) for k, n in spec[1]}


def tensors_in(out: Any) -> list[Tensor]:
    """The tensors of an operation's result, in order."""
    if isinstance(out, Tensor):
        return [out]
    return [o for part in out for o in tensors_in(part)] if isinstance(out, (list, tuple)) else []


_names: dict[Any, tuple[str, bool]] = {}


def _schema(func: Any) -> tuple[str, bool]:
    if func not in _names:
        space, name = func._schema.name.split("::")
        stem = name.rstrip("_") or name
        first = func._schema.arguments[:1]
        in_place = bool(first and first[0].alias_info is not None and first[0].alias_info.is_write)
        _names[func] = stem if space == "aten" else f"{space}::{stem}", in_place
    return _names[func]


def operation_name(func: Any) -> str:
    """`relu` for aten.relu and aten.relu_; operations of other libraries keep their library's name."""
    return _schema(func)[0]


def writes(func: Any) -> bool:
    """Does the operation overwrite its first argument?"""
    return _schema(func)[1]


# --- where an operation stands ---


def position(names: dict[int, str]) -> tuple[str, str]:
    """(module path, file:line) of the running operation, read from the Python stack: no hooks."""
    frame: Any = sys._getframe(1)
    path: str | None = None
    line: str | None = None
    while frame is not None and (path is None or line is None):
        file = frame.f_code.co_filename
        inside = _torch_file.get(file)
        if inside is None:
            inside = _torch_file[file] = file.startswith((TORCH, HERE))
        if inside:
            if path is None and frame.f_code is CALL:
                path = names.get(id(frame.f_locals["self"]))
        elif line is None:
            line = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return path or "", line or "?"


def storage(x: Tensor) -> int:
    """What a tensor shares with its views; tensors without a plain storage share with nobody."""
    try:
        return x.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -id(x)


def _identity(x: Tensor) -> tuple[int, int, int, int]:
    """The same values: same memory, same extent, not overwritten in between."""
    version = 0 if x.is_inference() else x._version
    return storage(x), int(x.storage_offset()), x.numel(), version


def _any(x: Any) -> bool:
    return bool(x.any()) if isinstance(x, Tensor) else bool(x)


class Recorder(TorchDispatchMode):
    """Labels autograd nodes with the operations that make them."""

    def __init__(self, names: dict[int, str], keep: Callable[[str], bool], locate: bool) -> None:
        super().__init__()
        self.names, self.keep, self.locate = names, keep, locate
        self.ops: list[Op] = []
        self.at: dict[int, list[Op]] = {}
        self.foreign: dict[int, tuple[str, str]] = {}
        self.readers: defaultdict[int, list[tuple[Any, Any]]] = defaultdict(list)
        self.masks: dict[int, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        self.halt: Callable[[], None] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.halt is not None:
            self.halt()
        number = torch.autograd._get_sequence_nr() - 1
        leaves, spec = flatten(args, kwargs)
        tensors = [(i, x) for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        if writes(func):
            self._save(args[0])
        op = None
        if torch.is_grad_enabled():
            if any(x.requires_grad for _, x in tensors):
                op = self._label(func, leaves, spec, tensors)
        elif number not in self.at and number not in self.foreign:  # inside a user's autograd.Function, perhaps
            self.foreign[number] = position(self.names) if self.locate else ("", "?")
        out = func(*args, **kwargs)
        outs = tensors_in(out)
        if op is None or not any(o.is_floating_point() or o.is_complex() for o in outs):
            self._note_mask(func, leaves, tensors, outs)
            return out
        self.ops.append(op)
        self.at.setdefault(number, []).append(op)
        if self.keep(op.name):
            op.outs = outs
            self._remember(op, tensors)
        else:
            op.leaves = [None if isinstance(x, Tensor) else x for x in op.leaves]
        return out

    def _label(self, func: Any, leaves: list[Any], spec: Spec, tensors: list[tuple[int, Tensor]]) -> Op:
        links = {i: (x.grad_fn, x.output_nr) for i, x in tensors if x.grad_fn is not None}
        op = Op(func, list(leaves), spec, links, position(self.names) if self.locate else ("", "?"))
        if writes(func):
            x = leaves[0]
            if x._is_view():
                base = x._base
                offset = x.storage_offset() - base.storage_offset()
                op.region = (base.size(), base.stride(), x.size(), x.stride(), offset)
            if self.keep(op.name):
                op.leaves[0] = x.clone()
        if self.masks:
            self._note_gate(op, tensors)
        return op

    def _note_gate(self, op: Op, tensors: list[tuple[int, Tensor]]) -> None:
        compared = {self.masks[storage(x)][2] for _, x in tensors if storage(x) in self.masks}
        if compared:
            op.gated = next((i for i, x in tensors if i in op.links and _identity(x) in compared), None)

    def _note_mask(self, func: Any, leaves: list[Any], tensors: list[tuple[int, Tensor]], outs: list[Tensor]) -> None:
        """Remember which tensor a mask was made from. The tensors are kept, so no address is used twice."""
        if not outs or not tensors:
            return
        x = tensors[0][1]
        if operation_name(func) in COMPARISONS and not _any(leaves[1]):
            self.masks[storage(outs[0])] = (outs[0], x, _identity(x))
        elif len(tensors) == 1 and storage(x) in self.masks:  # cast, negated, reshaped
            self.masks[storage(outs[0])] = (outs[0], *self.masks[storage(x)][1:])

    def _remember(self, op: Op, tensors: list[tuple[int, Tensor]]) -> None:
        for i, x in tensors:
            if not (i == 0 and writes(op.func)):
                self.readers[storage(x)].append((op.leaves, i))
        for i, o in enumerate(op.outs):
            self.readers[storage(o)].append((op.outs, i))

    def watch(self, holder: Any, key: Any, value: Tensor) -> None:
        """Keep `holder[key]` at its present value, whatever the model writes to its memory later."""
        self.readers[storage(value)].append((holder, key))

    def _save(self, target: Tensor) -> None:
        """Copy the recorded values that share memory with what is about to be overwritten."""
        copies: dict[tuple[Any, ...], Tensor] = {}
        for holder, key in self.readers.pop(storage(target), ()):
            x = holder[key]
            same = (x.storage_offset(), x.size(), x.stride(), x.dtype)
            if same not in copies:
                copies[same] = x.detach().clone()
            holder[key] = copies[same]


class Record:
    """The recorded operations, found by the autograd node that each one made."""

    def __init__(self, recorder: Recorder) -> None:
        self.ops, self._at, self._foreign = recorder.ops, recorder.at, recorder.foreign
        self._known: dict[Node, Op | None] = {}
        self._claimed: set[Op] = set()

    def of(self, node: Node) -> Op | None:
        """The operation that made a node, or None where no label agrees with it in name and edges."""
        if node not in self._known:
            op = self._find(node)
            self._known[node] = op
            if op is not None:
                self._claimed.add(op)
        return self._known[node]

    def _find(self, node: Node) -> Op | None:
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return None  # a user's autograd.Function
        number, name = node._sequence_nr(), node.name()
        into = set(node.next_functions)
        if name.endswith("CopySlices"):  # in-place on a view: the operation's own node came a little before
            for op in self._near(range(number - 1, number - SHIFT, -1)):
                if op.region is not None and all(e in into for i, e in op.links.items() if i):
                    base = node.next_functions[0]
                    op.links = {**{i: e for i, e in op.links.items() if i}, **({0: base} if base[0] else {})}
                    return op
            return None
        stem = _stem(name)
        for op in self._near(range(number, number + SHIFT)):
            name = NODES.get(op.name, op.name).replace("_", "")
            if op.region is None and name == stem and into.issuperset(op.links.values()):
                return op
        return None

    def _near(self, numbers: Iterable[int]) -> Iterable[Op]:
        return (op for n in numbers for op in self._at.get(n, ()) if op not in self._claimed)

    def where(self, node: Node) -> str:
        """Where an unlabelled node comes from, as well as that is known."""
        module, line = self._foreign.get(node._sequence_nr(), ("", ""))
        return f"in module '{module}' at {line}" if line else "at an unknown place"


def _stem(name: str) -> str:
    found = re.fullmatch(r"(?:.*::)?(.+?)Backwards?\d*", name)
    return found.group(1).lower().replace("_", "") if found else name.lower()
