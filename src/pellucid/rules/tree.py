"""Which thresholds imitate the network? A decision tree fitted to its answers, as a tree and as plain rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Card, Method, Rules
from pellucid.contract.errors import InputError, LayerError, MethodError, TargetError
from pellucid.engine import Ask, Subject, predict
from pellucid.engine import seed as noise
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.target import settle
from pellucid.rules import grow
from pellucid.rules.tree_structure import Tree

__all__ = ["CartSurrogate"]

CRITERIA = ("gini", "gain-ratio")
FEWEST = 4  # rows of data: some to grow on, some to measure fidelity on


@dataclass(frozen=True, kw_only=True)
class CartSurrogate(Method):
    """Which few thresholds on the inputs reproduce the network's answers?

    A binary tree, fitted to the network's answers on ``data=`` (its labels are not read): to the predicted classes, or,
    where the network has one output or ``target=`` names a score, to that number. "gini" is CART: each test is the one
    that most lowers the Gini index (for numbers the variance), and afterwards the smallest subtree with the least
    ``impurity + alpha × leaves`` is kept. "gain-ratio" is C4.5: in each column the threshold of largest information
    gain, then, among columns with at least the mean gain, the largest gain / split information, and then subtrees are
    replaced by leaves while the binomial upper limit of their errors does not rise.

    ``fidelity`` is measured on held-out rows that the tree has not seen: the share of equal classes, or for numbers R²
    (1 is perfect; 0 is no better than a constant). ``source`` adds `fidelity_constant` (of always giving the commonest
    class), `fidelity_training`, `fidelity_by_class` (-1 where no held-out row has the class) and the row counts. Facts of
    each row of ``inputs``: `agrees` (1 where tree and network say the same), or `gap` (tree minus network) for numbers;
    `path_length` (tests passed).

    Args:
        criterion: "gini" (variance for numbers) or "gain-ratio" (classes alone).
        max_depth: at most so many tests in a row; ``None`` for no limit.
        max_leaves: at most so many leaves, split where impurity falls most; ``None`` for no limit.
        min_rows: at least so many training rows in a leaf.
        alpha: cost of a leaf for "gini", in impurity per training row (variance: in squared score units).
        confidence: of the error limit for "gain-ratio"; lower prunes more.
        held_out: share of the data that fidelity is measured on, drawn from the seed and each row's content.

    Cost: one prediction per row of data; growing takes rows × columns × classes × depth steps.
    Known failure: deep for a slanted boundary, and unreadable on pixels; small changes of the data can change every test.
    Source: Breiman et al. 1984, §2.4 and §3.3; Quinlan 1993, §2.2 and §4.2. Departs from C4.5: columns of numbers and
    two-way tests alone, thresholds half-way between values, exact binomial limits, no subtree raising.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
        >>> model = lambda v: torch.stack([0.5 - v[:, 0], v[:, 0] - 0.5], dim=1)
        >>> rules = px.explain(model, x[:3], "cart-c45-surrogate", data=x)
        >>> rules.size["depth"], rules.text[0].startswith("If column 0 is at most 0.")
        (1, True)
    """

    criterion: str = "gini"
    max_depth: int | None = 5
    max_leaves: int | None = None
    min_rows: int = 2
    alpha: float = 0.0
    confidence: float = 0.25
    held_out: float = 0.25

    card: ClassVar[Card] = Card(
        name="cart-c45-surrogate",
        title="Decision tree surrogate (CART, C4.5)",
        question="Which few thresholds on the inputs reproduce the network's answers?",
        form="rules",
        scope="global",
        citation="breiman1984classification",
        needs=("predictions", "data"),
        data_types=("table", "image"),
        taxonomy={
            "001": "distillation/model translation/tree",
            "002": "post-hoc/proxy/direct extraction/trees",
            "003": "passive/rule/global",
        },
        claims=("rowwise", "seeded"),
        trial={"max_depth": 2},
        cost="1 forward per row of data",
        supports=(
            "what the network does over the data as a whole, to the extent that the fidelity says",
            "the tests that one row passes on the way to its answer, where tree and network agree on it",
        ),
        limits=(
            "how the network computes: only its answers are imitated, and another tree may imitate them as well",
            "rows unlike the data: fidelity was measured on rows like it",
            "effects of inputs that move together: the tree tests one of them and drops the others",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> _Fitted:
        self._check(ask)
        rows = rows_like(ask.data, ask.inputs).inputs
        if rows.rows < FEWEST:
            raise InputError(f"The 'data' must hold at least {FEWEST} rows", got=str(rows.rows))
        answers, classes = _answers(subject, rows, ask)
        if classes == 0 and self.criterion == "gain-ratio":
            raise MethodError(
                "The criterion 'gain-ratio' needs classes", got="a numerical score", hint="criterion='gini'"
            )
        columns = _columns(rows)
        held = held_out_rows(rows, self.held_out, ask.seed)
        tree = self._fit(columns[~held], answers[~held], classes)
        structure = as_tree(tree, rows, classes == 0, ask.data)
        found = [structure.predict(columns[side]) for side in (held, ~held)]
        notes: dict[str, Any] = {
            "fidelity_training": agreement(found[1], answers[~held], classes),
            "fidelity_constant": 0.0,
            "rows_training": int((~held).sum()),
            "rows_held_out": int(held.sum()),
        }
        if classes:
            commonest = torch.full_like(answers[held], int(answers[~held].bincount().argmax()))
            notes["fidelity_constant"] = agreement(commonest, answers[held], classes)
            hits = [(found[0] == c)[answers[held] == c].double() for c in range(classes)]
            notes["fidelity_by_class"] = [float(hit.mean()) if len(hit) else -1.0 for hit in hits]
        return _Fitted(structure, agreement(found[0], answers[held], classes), classes, notes)

    def explain(self, subject: Subject, ask: Ask, state: _Fitted) -> Rules:
        answers, _ = _answers(subject, ask.inputs, ask)
        columns = _columns(ask.inputs)
        said = state.tree.predict(columns)
        facts = {"path_length": state.tree.depth[state.tree.leaf(columns)].double()}
        if state.classes:
            facts["agrees"] = (said == answers).double()
        else:
            facts["gap"] = said - answers
        return Rules(structure=state.tree, fidelity=state.fidelity, facts=facts, source=state.notes)

    def _check(self, ask: Ask) -> None:
        if self.criterion not in CRITERIA:
            raise MethodError(f"The 'criterion' must be one of {CRITERIA}", got=repr(self.criterion))
        limits = {"max_depth": (self.max_depth, 1), "max_leaves": (self.max_leaves, 2), "min_rows": (self.min_rows, 1)}
        for name, (value, least) in limits.items():
            if value is not None and (not isinstance(value, int) or value < least):
                raise MethodError(f"The '{name}' must be an int of at least {least}", got=repr(value))
        if self.alpha < 0 or (self.alpha > 0 and self.criterion == "gain-ratio"):
            raise MethodError(
                "The 'alpha' must be 0 or more, and belongs to 'gini'", got=repr(self.alpha), hint="confidence="
            )
        for name, share in (("held_out", self.held_out), ("confidence", self.confidence)):
            if not 0 < share < 1:
                raise MethodError(f"The '{name}' must lie between 0 and 1", got=repr(share))
        if ask.layer is not None:
            raise LayerError("The 'layer' must be None: the tree reads inputs", got=repr(str(ask.layer)))
        if not ask.inputs.explained:
            raise InputError("The 'inputs' must hold a floating tensor", got="integers alone", hint="x.float()")

    def _fit(self, columns: Tensor, answers: Tensor, classes: int) -> grow.Node:
        measure = self.criterion if classes else "variance"
        how = grow.Growth(
            measure=measure,
            classes=max(1, classes),
            max_depth=self.max_depth,
            max_leaves=self.max_leaves,
            min_rows=self.min_rows,
        )
        root = grow.grow(columns.numpy(), answers.numpy(), how)
        if measure == "gain-ratio":
            grow.prune_by_errors(root, self.confidence)
        elif self.alpha > 0:
            grow.prune_by_cost(root, self.alpha)
        return root


@dataclass(frozen=True, eq=False)
class _Fitted:
    tree: Tree
    fidelity: float
    classes: int
    notes: dict[str, Any]


def _columns(inputs: Inputs) -> Tensor:
    """All floating inputs side by side, (N, columns), exactly as they are."""
    flat = [x.detach().flatten(1).cpu() for x in inputs.floats]
    joined = torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
    return joined if joined.dtype in (torch.float32, torch.float64) else joined.float()


def _answers(subject: Subject, inputs: Inputs, ask: Ask) -> tuple[Tensor, int]:
    """What the network says: classes (N,) and how many there are, or numbers (N,) in float64 and 0."""
    wanted: Any = ask.wanted
    if isinstance(wanted, Tensor):
        if len(wanted.unique()) > 1:
            raise TargetError("The 'target' must be the same for all rows: one tree imitates one score", got="several")
        wanted = wanted[:1].expand(inputs.rows)
    output = predict(subject, inputs, ask.memory, ask.unit_place)
    ask.check_finite(output, 0)
    if inputs is ask.inputs:
        ask.remember(output)
    target = settle(wanted, output)
    if wanted is None and target.index is not None:
        return target.index.cpu(), output.reshape(inputs.rows, -1).shape[1]
    return target.score(output).detach().double().cpu(), 0


def held_out_rows(rows: Inputs, share: float, seed: int) -> Tensor:
    """Which rows to measure on, (M,) booleans; equal rows draw equal numbers, so copies do not stand on both sides."""
    draws = noise.uniform(seed, rows.keys(), [0] * rows.rows, (1,), torch.zeros(0, dtype=torch.float64))[:, 0]
    edge = draws.sort().values[max(1, round(share * rows.rows)) - 1]
    held = draws <= edge if int((draws > edge).sum()) >= 2 else draws < edge
    if not held.any() or int((~held).sum()) < 2:
        raise InputError("The 'data' must hold different rows", got="copies of too few rows to hold some out")
    return held


def agreement(said: Tensor, answers: Tensor, classes: int) -> float:
    """The share of equal classes; for numbers R², which is 1 where both are constant and equal, else at most 1."""
    if classes:
        return float((said == answers).double().mean())
    missed, spread = float((said - answers).square().sum()), float((answers - answers.mean()).square().sum())
    return 1 - missed / spread if spread > 0 else float(missed == 0)


def as_tree(root: grow.Node, rows: Inputs, regression: bool, data: Any = None) -> Tree:
    """The nodes as tensors, in the order of a walk from the root, left before right; names and units come from `data`."""
    nodes: list[grow.Node] = []
    todo = [root]
    while todo:
        nodes.append(todo.pop())
        todo.extend(reversed(nodes[-1].children))
    number = {id(node): i for i, node in enumerate(nodes)}

    def whole(get: Callable[[grow.Node], Any]) -> Tensor:
        return torch.tensor([get(node) for node in nodes], dtype=torch.long)

    def real(get: Callable[[grow.Node], Any]) -> Tensor:
        return torch.from_numpy(np.array([get(node) for node in nodes], dtype=np.float64))

    floats = rows.floats
    offset, scale, names = _original(data, floats[0]) if len(floats) == 1 else (None, None, ())
    return Tree(
        feature=whole(lambda n: n.feature),
        threshold=real(lambda n: n.threshold),
        left=whole(lambda n: number[id(n.children[0])] if n.children else -1),
        right=whole(lambda n: number[id(n.children[1])] if n.children else -1),
        value=real(lambda n: n.value),
        rows=whole(lambda n: n.rows),
        impurity=real(lambda n: n.impurity),
        slack=real(lambda n: n.slack),
        depth=whole(lambda n: n.depth),
        regression=regression,
        shape=tuple(floats[0].shape[1:]) if len(floats) == 1 else (sum(x[0].numel() for x in floats),),
        names=names,
        class_names=() if regression else tuple(map(str, getattr(data, "classes", ()))),
        offset=offset,
        scale=scale,
    )


def _original(data: Any, like: Tensor) -> tuple[Tensor | None, Tensor | None, tuple[str, ...]]:
    """Offset and scale of each column's original units, and the columns' names, where the data knows them."""
    columns = like[0].numel()
    names = tuple(map(str, getattr(data, "features", ())))
    names = names if len(names) == columns else ()
    if not callable(getattr(data, "original", None)):
        return None, None, names
    zero = torch.zeros((1, *like.shape[1:]), dtype=torch.float64)
    offset, one = (data.original(point).double().flatten() for point in (zero, zero + 1))
    if offset.shape != (columns,) or not bool((one > offset).all()):
        return None, None, names
    return offset, one - offset, names
