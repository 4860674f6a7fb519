"""Binary decision trees on columns of numbers: grown by Gini, variance or gain ratio; pruned by cost or expected errors."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CHUNK = 1 << 22  # numbers in one cumulative sum: 32 MiB
ROUNDING = 1e-10  # gains below this, per row, are rounding


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How to grow: `measure` is "gini", "gain-ratio" (class numbers below `classes`) or "variance" (values)."""

    measure: str
    classes: int = 1
    max_depth: int | None = None
    max_leaves: int | None = None
    min_rows: int = 1


@dataclass(eq=False)
class Node:
    """Some training rows: what they say, and the test that parts them, where there is one (`left` if at most `threshold`).

    `slack` is half the distance between the two training values that the threshold lies between.
    """

    depth: int
    rows: int
    value: Array
    impurity: float
    feature: int = -1
    threshold: float = 0.0
    slack: float = 0.0
    children: tuple[Node, ...] = field(default=(), repr=False)

    def leaves(self) -> Iterator[Node]:
        """The leaves below, left to right."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True)
class Split:
    """The best test of a node: `gain` is the fall of the impurity, times the node's rows."""

    gain: float
    feature: int
    position: int


def grow(columns: Array, answers: Array, how: Growth) -> Node:
    """The tree for rows (M, D), best split first, ties to the lowest column and threshold.

    Columns are sorted once; a node's children inherit the order, so a level costs about M × D × classes steps.
    """
    order = np.ascontiguousarray(np.argsort(columns, axis=0, kind="stable").T.astype(np.int32))
    root = _node(answers, how, 0)
    frontier: list[tuple[float, int, Node, Split, Array]] = []
    count, leaves = itertools.count(), 1

    def offer(node: Node, order: Array) -> None:
        split = _best(columns, answers, order, node, how)
        if split is not None:
            heapq.heappush(frontier, (-split.gain, next(count), node, split, order))

    offer(root, order)
    while frontier and (how.max_leaves is None or leaves < how.max_leaves):
        _, _, node, split, order = heapq.heappop(frontier)
        ordered = order[split.feature]
        below, above = (float(columns[ordered[split.position + i], split.feature]) for i in (0, 1))
        middle = below / 2 + above / 2
        node.feature, node.slack = split.feature, (above - below) / 2
        node.threshold = below if middle >= above else middle
        goes_left = np.zeros(len(columns), dtype=bool)
        goes_left[ordered[: split.position + 1]] = True
        sides = goes_left[order]
        orders = [order[side].reshape(len(order), -1) for side in (sides, ~sides)]
        node.children = tuple(_node(answers[part[0]], how, node.depth + 1) for part in orders)
        leaves += 1
        for child, part in zip(node.children, orders, strict=True):
            offer(child, part)
    return root


def _node(answers: Array, how: Growth, depth: int) -> Node:
    if how.measure == "variance":
        return Node(depth, len(answers), np.array([answers.mean()]), float(answers.var()))
    share = np.bincount(answers, minlength=how.classes) / len(answers)
    if how.measure == "gini":
        return Node(depth, len(answers), share, float(1 - (share**2).sum()))
    seen = share[share > 0]
    return Node(depth, len(answers), share, float(-(seen * np.log2(seen)).sum()))


def _best(columns: Array, answers: Array, order: Array, node: Node, how: Growth) -> Split | None:
    """The split to make, or none where the node is pure, too deep, too small or has no two different rows."""
    if (how.max_depth is not None and node.depth >= how.max_depth) or node.rows < 2 * how.min_rows:
        return None
    if node.impurity <= 1e-24 * float((node.value**2).max()):
        return None
    step = max(1, CHUNK // node.rows)
    chunks = [slice(i, i + step) for i in range(0, len(order), step)]
    found = [_gains(columns, answers, order[chunk], chunk.start, how) for chunk in chunks]
    gains, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if not np.isfinite(gains).any():
        return None
    if how.measure == "gain-ratio":
        feature = by_ratio(gains, positions, node.rows)
        if feature is None:
            return None
    else:
        feature = int(gains.argmax())
    return Split(float(gains[feature]), feature, int(positions[feature]))


def by_ratio(gains: Array, positions: Array, rows: int) -> int | None:
    """The column with the largest gain ratio among those whose gain is at least the mean gain (Quinlan 1993, §2.2)."""
    useful = gains > ROUNDING * rows
    if not useful.any():
        return None
    left = (positions + 1) / rows
    information = -(left * np.log2(left) + (1 - left) * np.log2(np.where(left < 1, 1 - left, 1)))
    allowed = useful & (gains >= gains[useful].mean() - ROUNDING * rows)
    ratios = np.full(len(gains), -np.inf)
    ratios[allowed] = gains[allowed] / information[allowed]
    return int(ratios.argmax())


def _gains(columns: Array, answers: Array, order: Array, start: int, how: Growth) -> tuple[Array, Array]:
    """For each of these columns the largest gain and the last sorted position of the left side."""
    rows = order.shape[1]
    values = np.take_along_axis(columns.T[start : start + len(order)], order, axis=1)
    sizes = np.arange(1, rows)
    allowed = (values[:, 1:] > values[:, :-1]) & (sizes >= how.min_rows) & (rows - sizes >= how.min_rows)
    purity = _purity(answers, order, how)
    purity[~allowed] = -np.inf
    positions = purity.argmax(axis=1)
    return purity[np.arange(len(order)), positions], positions


def _purity(answers: Array, order: Array, how: Growth) -> Array:
    """rows × (impurity before - impurity after) for a cut after each sorted position but the last, (columns, rows - 1)."""
    rows = order.shape[1]
    here = answers[order[0]]
    left_rows, right_rows = np.arange(1, rows), np.arange(rows - 1, 0, -1)
    total = np.zeros((len(order), rows - 1))
    if how.measure == "variance":
        centred = answers - here.mean()  # the sums then are those of deviations: nothing large is subtracted
        left = centred[order].cumsum(axis=1)[:, :-1]
        return left**2 / left_rows + (centred[order[0]].sum() - left) ** 2 / right_rows
    whole = 0.0
    for label in np.unique(here):
        left = (answers[order] == label).cumsum(axis=1)[:, :-1].astype(np.float64)
        right = float((here == label).sum()) - left
        if how.measure == "gini":
            total += left**2 / left_rows + right**2 / right_rows
            whole += float((here == label).sum()) ** 2 / rows
        else:
            total += _xlogx(left) + _xlogx(right)
            whole += float(_xlogx((here == label).sum(keepdims=True))[0])
    if how.measure == "gini":
        return total - whole
    return total - _xlogx(left_rows) - _xlogx(right_rows) + float(_xlogx(np.array([rows]))[0]) - whole


def _xlogx(x: Array) -> Array:
    return x * np.log2(np.maximum(x, 1))


def prune_by_cost(root: Node, alpha: float) -> None:
    """The smallest subtree with the least impurity + alpha × leaves (Breiman et al. 1984, §3.3), in one pass upwards."""
    rows = root.rows

    def visit(node: Node) -> tuple[float, int]:
        alone = node.impurity * node.rows / rows
        if not node.children:
            return alone, 1
        below, leaves = (sum(part) for part in zip(*map(visit, node.children), strict=True))
        if alone + alpha <= below + alpha * leaves:
            _cut(node)
            return alone, 1
        return below, int(leaves)

    visit(root)


def prune_by_errors(root: Node, confidence: float) -> None:
    """Put a leaf for a subtree where that is expected to make no more errors (Quinlan 1993, §4.2; subtree replacement)."""

    def visit(node: Node) -> float:
        wrong = round(node.rows * (1 - float(node.value.max())))
        alone = node.rows * error_bound(wrong, node.rows, confidence)
        if not node.children:
            return alone
        below = sum(map(visit, node.children))
        if alone <= below:
            _cut(node)
            return alone
        return below

    visit(root)


def error_bound(errors: int, rows: int, confidence: float) -> float:
    """The error rate under which so few errors in `rows` draws have probability `confidence`: the exact binomial limit."""
    from scipy.special import betaincinv

    return 1.0 if errors >= rows else float(betaincinv(errors + 1, rows - errors, 1 - confidence))


def _cut(node: Node) -> None:
    node.children, node.feature, node.threshold, node.slack = (), -1, 0.0, 0.0
