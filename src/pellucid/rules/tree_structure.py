"""A tree of thresholds that predicts, counts itself and says its rules in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import RuleStructure
from pellucid.contract.errors import InputError

__all__ = ["Tree"]


@dataclass(frozen=True)
class Rule:
    """One way to a leaf: each column named must lie above the first bound and at most at the second."""

    bounds: dict[int, tuple[float, float]]
    leaf: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree(RuleStructure):
    """A binary tree of thresholds, one entry per node, node 0 the root, parents before children.

    A row goes left where ``row[feature] <= threshold``; -1 as `feature` marks a leaf. `value` (nodes, classes) holds the
    share of each class among the node's training rows, or (nodes, 1) the mean answer where `regression`. `rows` counts
    them, `impurity` is Gini, entropy in bits, or variance. `slack` is half the gap between the training values on
    both sides of a threshold, `depth` the number of tests above a node. `shape` is a row's own shape; `names` are the
    columns'; `offset` and `scale`, where known, give a column's original units as ``column * scale + offset``.
    """

    kind: ClassVar[str] = "threshold-tree"
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    rows: Tensor
    impurity: Tensor
    slack: Tensor
    depth: Tensor
    regression: bool
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    offset: Tensor | None = None
    scale: Tensor | None = None

    def leaf(self, inputs: Tensor) -> Tensor:
        """The node number of the leaf that each row reaches, (N,)."""
        columns = inputs.detach().flatten(1).double().cpu()
        if columns.shape[1] != int(np.prod(self.shape)):
            raise InputError(f"The tree reads rows of shape {self.shape}", got=f"shape {tuple(inputs.shape[1:])}")
        at = torch.zeros(len(columns), dtype=torch.long)
        for _ in range(int(self.depth.max())):
            feature = self.feature[at]
            value = columns.gather(1, feature.clamp(min=0)[:, None])[:, 0]
            onwards = torch.where(value <= self.threshold[at], self.left[at], self.right[at])
            at = torch.where(feature < 0, at, onwards)
        return at

    def predict(self, inputs: Tensor) -> Tensor:
        """The class of each row (N,), or its value (N,) in float64, as the network would answer if it were this tree."""
        return self._answers()[self.leaf(inputs)]

    def _answers(self) -> Tensor:
        return self.value[:, 0] if self.regression else self.value.argmax(1)

    def size(self) -> dict[str, int]:
        """Rules (leaves), depth, and thresholds in all the rules together."""
        rules = self.rules()
        conditions = sum(np.isfinite(b).sum() for rule in rules for b in rule.bounds.values())
        return {
            "rules": len(rules),
            "leaves": len(rules),
            "depth": int(self.depth.max()),
            "conditions": int(conditions),
        }

    def rules(self) -> list[Rule]:
        """The tree flattened: one rule per leaf, left to right; repeated tests of a column are merged into one interval."""
        found: list[Rule] = []
        todo: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
        while todo:
            node, bounds = todo.pop()
            column, threshold = int(self.feature[node]), float(self.threshold[node])
            if column < 0:
                found.append(Rule(bounds, node))
                continue
            low, high = bounds.get(column, (-np.inf, np.inf))  # a test further down lies between those above it
            todo.append((int(self.right[node]), {**bounds, column: (threshold, high)}))
            todo.append((int(self.left[node]), {**bounds, column: (low, threshold)}))
        return found

    def importance(self) -> Tensor:
        """How much each column's tests lower the impurity, as shares of one, (columns,); zeros for a tree without tests."""
        total = torch.zeros(int(np.prod(self.shape)), dtype=torch.float64)
        weighted = self.impurity * self.rows
        inner = (self.feature >= 0).nonzero()[:, 0]
        fall = weighted[inner] - weighted[self.left[inner]] - weighted[self.right[inner]]
        total.index_add_(0, self.feature[inner], fall)
        return total / total.sum() if total.sum() > 0 else total

    def text(self, features: Sequence[str] = (), classes: Sequence[str] = ()) -> list[str]:
        """One sentence per leaf. Thresholds are rounded, to at least three figures, so that training rows stay on their
        side, and are in original units where these are known."""
        sentences = []
        for rule in self.rules():
            tests = [self._test(column, *bounds, features) for column, bounds in rule.bounds.items()]
            says = self._says(rule.leaf, classes)
            sentences.append(f"If {' and '.join(tests)}, {says}." if tests else f"In every case, {says}.")
        return sentences

    def decision_path(self, row: Tensor, features: Sequence[str] = (), classes: Sequence[str] = ()) -> str:
        """The tests that one row (of the inputs' shape, without the row axis) passes, as a sentence."""
        leaf = int(self.leaf(row[None])[0])
        bounds = next(rule.bounds for rule in self.rules() if rule.leaf == leaf)
        columns, tests = row.detach().flatten().double().cpu(), []
        for column, (low, high) in bounds.items():
            value = float(columns[column])
            test = self._test(column, low, high, features)
            name = self._name(column, features)
            shown = _figures(self._units(column, value), 0.0, most=4)
            tests.append(f"{name} is {shown}, {test.removeprefix(name + ' is ')}")
        says = self._says(leaf, classes)
        return f"{'; '.join(tests)}; so {says}." if tests else f"In every case, {says}."

    def _test(self, column: int, low: float, high: float, features: Sequence[str]) -> str:
        words = []
        for word, bound in (("above", low), ("at most", high)):
            if np.isfinite(bound):
                same = (self.feature == column) & (self.threshold == bound)
                slack = float(self.slack[same].min()) * (1.0 if self.scale is None else float(self.scale[column]))
                words.append(f"{word} {_figures(self._units(column, bound), slack)}")
        return f"{self._name(column, features)} is {' but '.join(words)}"

    def _units(self, column: int, value: float) -> float:
        if self.scale is None or self.offset is None:
            return value
        return value * float(self.scale[column]) + float(self.offset[column])

    def _name(self, column: int, features: Sequence[str]) -> str:
        for names in (features, self.names):
            if len(names) == int(np.prod(self.shape)):
                return str(names[column])
        place = list(map(int, np.unravel_index(column, self.shape)))
        if len(place) != 3:
            return f"column {column}" if len(place) == 1 else f"input ({','.join(map(str, place))})"
        channel, row, across = place
        pixel = f"pixel ({row},{across})"
        if self.shape[0] == 1:
            return pixel
        return f"{features[channel]} of {pixel}" if len(features) == self.shape[0] else f"channel {channel} of {pixel}"

    def _says(self, leaf: int, classes: Sequence[str]) -> str:
        rows = int(self.rows[leaf])
        if self.regression:
            spread = float(self.impurity[leaf]) ** 0.5
            mean = _figures(float(self.value[leaf, 0]), 0.0)
            return f"the network answers about {mean} ± {spread:.2g} ({rows} rows)"
        best = int(self.value[leaf].argmax())
        names = classes or self.class_names
        name = names[best] if best < len(names) else f"class {best}"
        return f"the network says {name} ({round(float(self.value[leaf, best]) * rows)} of {rows} rows)"


def _figures(value: float, slack: float, most: int = 6) -> str:
    """The number in three figures, or as many more as bring it within `slack` of its value; no exponent where short."""
    for digits in range(3, most + 1):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) < slack or (slack == 0 and digits >= min(most, 4)):
            break
    return f"{rounded + 0.0:.12g}"
