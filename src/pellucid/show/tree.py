"""A decision tree laid out to be read: root at the left, one line for each leaf, small branches folded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.show.answer import class_name
from pellucid.show.words import clean, counted, number

NEEDED = ("feature", "threshold", "left", "right", "value", "rows")


@dataclass(eq=False)
class Branch:
    """A node as drawn. `says` is the answer there, `share` the part of its rows that give it; `folded` leaves below."""

    node: int
    depth: int
    rows: int
    says: str
    share: float | None
    index: int | None
    test: str = ""
    bound: str = ""
    folded: int = 0
    marked: bool = False
    line: float = 0.0
    children: tuple[Branch, ...] = field(default=(), repr=False)

    def walk(self) -> Iterator[Branch]:
        """This branch and all below, left to right."""
        yield self
        for child in self.children:
            yield from child.walk()


def is_tree(structure: Any) -> bool:
    """Whether a structure is a tree of thresholds that this can lay out."""
    return all(isinstance(getattr(structure, name, None), Tensor) for name in NEEDED)


def lay_out(
    structure: Any, features: Sequence[str], classes: Sequence[str], most: int, row: Tensor | None = None
) -> Branch:
    """The tree with at most about `most` leaves: nodes with the most rows are opened first, and the way of `row` always."""
    way = path(structure, row) if row is not None else set()
    root = _branch(structure, 0, 0, features, classes, way)
    queue, leaves = [(-root.rows, root.node, root)], 1
    while queue:
        _, node, branch = heapq.heappop(queue)
        if int(structure.feature[node]) < 0 or (leaves >= most and not branch.marked):
            continue
        branch.test, branch.bound = _test(structure, node, features)
        sides = [int(structure.left[node]), int(structure.right[node])]
        branch.children = tuple(_branch(structure, s, branch.depth + 1, features, classes, way) for s in sides)
        branch.folded, leaves = 0, leaves + 1
        for child in branch.children:
            heapq.heappush(queue, (-child.rows - (10**9 if child.marked else 0), child.node, child))
    for line, leaf in enumerate(b for b in root.walk() if not b.children):
        leaf.line = line
    _centre(root)
    return root


def path(structure: Any, row: Tensor) -> set[int]:
    """The nodes that a row of the inputs' shape visits."""
    columns, node = row.detach().cpu().double().flatten(), 0
    visited = {0}
    while int(structure.feature[node]) >= 0:
        goes_left = float(columns[int(structure.feature[node])]) <= float(structure.threshold[node])
        node = int((structure.left if goes_left else structure.right)[node])
        visited.add(node)
    return visited


def tested(structure: Any) -> Tensor:
    """How many of the training rows each column's tests part, (columns,): which inputs the tree looks at."""
    seen = torch.zeros(
        int(np.prod(getattr(structure, "shape", (int(structure.feature.max()) + 1,)))), dtype=torch.float64
    )
    inner = structure.feature >= 0
    return seen.index_add_(0, structure.feature[inner].long(), structure.rows[inner].double())


def leaves_below(structure: Any, node: int) -> int:
    """How many leaves a node has below it."""
    todo, found = [node], 0
    while todo:
        at = todo.pop()
        if int(structure.feature[at]) < 0:
            found += 1
        else:
            todo += [int(structure.left[at]), int(structure.right[at])]
    return found


def _branch(
    structure: Any, node: int, depth: int, features: Sequence[str], classes: Sequence[str], way: set[int]
) -> Branch:
    value, rows = structure.value[node].detach().cpu().double(), int(structure.rows[node])
    if getattr(structure, "regression", False) or value.numel() == 1:
        says, share, index = number(float(value.flatten()[0])), None, None
    else:
        names = classes or getattr(structure, "class_names", ())
        index = int(value.argmax())
        says, share = class_name(index, names), float(value[index] / value.sum().clamp(min=1e-30))
    folded = leaves_below(structure, node) if int(structure.feature[node]) >= 0 else 0
    return Branch(node, depth, rows, says, share, index, folded=folded, marked=node in way)


def _test(structure: Any, node: int, features: Sequence[str]) -> tuple[str, str]:
    column, bound = int(structure.feature[node]), float(structure.threshold[node])
    scale, offset = getattr(structure, "scale", None), getattr(structure, "offset", None)
    if scale is not None and offset is not None:
        bound = bound * float(scale.flatten()[column]) + float(offset.flatten()[column])
    return column_name(structure, column, features), number(bound)


def column_name(structure: Any, column: int, features: Sequence[str]) -> str:
    """What a column is called."""
    shape = tuple(getattr(structure, "shape", ()))
    for names in (features, getattr(structure, "names", ())):
        if column < len(names) and (not shape or len(names) == int(np.prod(shape))):
            return clean(names[column])
    if len(shape) == 3:
        channel, line, across = (int(i) for i in np.unravel_index(column, shape))
        return f"pixel {line},{across}" + (f" (channel {channel})" if shape[0] > 1 else "")
    return f"input {column}"


def _centre(branch: Branch) -> float:
    if branch.children:
        branch.line = sum(map(_centre, branch.children)) / len(branch.children)
    return branch.line


def leaf_words(branch: Branch) -> str:
    """A leaf in a few words."""
    share = "" if branch.share is None else f" ({round(branch.share * branch.rows):,} of {branch.rows:,})"
    folded = f" … {counted(branch.folded, 'leaf')} folded" if branch.folded else ""
    return f"{branch.says}{share or f' ({branch.rows:,})'}{folded}"
