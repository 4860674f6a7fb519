"""Which columns account for what a forest has learnt of the answers? Exact shares from the volumes of its leaves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.attribution.effect_curve import TAXONOMY
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.sample import sample

__all__ = ["FanovaForest"]

Floats = NDArray[np.float64]
DIGITS = 30  # binary ones of the largest score that are kept


@dataclass(frozen=True, kw_only=True)
class FanovaForest(Method):
    """Which share of the answers' variance goes back to a column or a pair, as a forest has learnt it from the data?

    A random forest is fitted to the scores of the data. Each tree is constant on boxes, so over the box that the data
    span, with columns uniform and independent, the mean of the tree with some columns held is a sum over leaves of value
    times volume: ``first_j = Var(E[tree | x_j]) / Var tree``, and ``pair_jk`` the same for two columns less ``first_j`` and
    ``first_k``. Both are exact for each tree. ``values`` (rows, columns) are the means of ``first`` over the trees, and
    ``error`` their standard errors; ``parts["pair"]`` (rows, columns, columns) and ``pair_error`` are those of pairs. Row n
    has the shares of the score explained for row n.

    Facts: ``score``; ``heldout_share``, the share of the scores' variance that trees reproduce on rows they were not
    fitted to; ``alone_share``, the sum of ``first``; ``standard_error``, the largest of a value; ``trees``, how many of
    them vary at all.

    Args:
        trees: how many trees.
        leaves: how many leaves a tree has at most.

    Cost: 1 forward per row of data, and a fit.
    Known failure: what the forest has not learnt is not seen, and a box holds combinations that never occur; scores are
    rounded to 30 binary digits, and where two splits are equally good the choice between them hangs on such digits.
    Source: Hutter, Hoos & Leyton-Brown 2014, §3.2 (theorem 3, algorithm 2); the forest is scikit-learn's, which computes
    in single precision.

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> result = px.explain(lambda x: 1.0 * (x[:, 1:] > 0.5), data[:1], "fanova-forest", data=data)
        >>> result.values[0].round(decimals=6).tolist()
        [0.0, 1.0]
    """

    trees: int = 32
    leaves: int = 64

    card: ClassVar[Card] = Card(
        name="fanova-forest",
        title="fANOVA of a random forest",
        question="Which share of the answers' variance goes back to a column or a pair, as a forest has learnt it?",
        form="attribution",
        scope="global",
        citation="hutter2014efficient",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy={**TAXONOMY, "001": "distillation/model translation/tree"},
        claims=("rowwise", "seeded"),
        trial={"trees": 4, "leaves": 6},
        cost="1 forward per row of data",
        supports=("these are exactly the shares of the forest's own variance over the box of the data",),
        limits=(
            "what the forest has not learnt: see how well it predicts rows it was not fitted to",
            "columns that move together: the box holds rows that never occur",
            "which way a column moves the answer: a variance has no sign",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        for name, value, least in (("trees", self.trees, 2), ("leaves", self.leaves, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"The '{name}' must be an int of at least {least}", got=repr(value))
        about = sample(ask, least=4)
        table, plain = about.table.detach().cpu().double().numpy(), _settled(about.plain().numpy())
        number = int(seed.generator(ask.seed, b"fanova-forest", 0).integers(1 << 31))
        found = [self._shares(table, plain[:, kind], about.weights.numpy(), number) for kind in range(about.kinds)]
        stacked = {name: torch.from_numpy(np.stack([f[name] for f in found])) for name in found[0]}
        kind, x = about.kind, ask.inputs.tensors[0]
        facts = {
            "score": ask.score.detach().cpu().double(),
            "heldout_share": stacked["heldout"][kind],
            "alone_share": stacked["first"].sum(1)[kind],
            "standard_error": stacked["first_error"].amax(1)[kind],
            "trees": stacked["trees"][kind],
        }
        parts = {name: stacked[name][kind] for name in ("first", "first_error", "pair", "pair_error")}
        parts["first"] = parts["first"].to(x)
        ask.path = about.ask.path
        return Attribution(values=parts["first"], error=parts["first_error"].to(x), parts=parts, facts=facts)

    def _shares(self, table: Floats, scores: Floats, weights: Floats, number: int) -> dict[str, Any]:
        """Means and standard errors over the trees, and how well they predict rows left out of their samples."""
        from sklearn.ensemble import RandomForestRegressor

        columns = table.shape[1]
        forest = RandomForestRegressor(n_estimators=self.trees, max_leaf_nodes=self.leaves, random_state=number)
        forest.fit(table, scores, sample_weight=weights * len(weights))
        box = np.stack([table.min(0), table.max(0)], 1)
        every = [found for tree in forest.estimators_ if (found := tree_shares(tree.tree_, box)) is not None]
        out: dict[str, Any] = {"heldout": held_out(forest, table, scores, weights), "trees": float(len(every))}
        for name, shape in (("first", (columns,)), ("pair", (columns, columns))):
            values = np.stack([f[name] for f in every]) if every else np.zeros((1, *shape))
            out[name] = values.mean(0)
            out[f"{name}_error"] = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.zeros(shape)
        return out


def _settled(scores: Floats) -> Floats:
    """Scores without their last bits, which depend on what they were computed beside and would decide between splits."""
    unit = 2.0 ** (np.ceil(np.log2(np.maximum(np.abs(scores).max(0), 1e-300))) - DIGITS)
    return np.asarray(np.round(scores / unit) * unit)


def held_out(forest: Any, table: Floats, scores: Floats, weights: Floats) -> float:
    """The share of the variance that is reproduced on each row by the trees whose samples it was not in."""
    total, count = np.zeros(len(scores)), np.zeros(len(scores))
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        out = ~np.isin(np.arange(len(scores)), drawn)
        if out.any():
            total[out] += tree.predict(table[out])
            count[out] += 1
    seen = count > 0
    if not seen.any():
        return 0.0
    share, truth = weights[seen] / weights[seen].sum(), scores[seen]
    spread = float(share @ (truth - share @ truth) ** 2)
    missed = float(share @ (truth - total[seen] / count[seen]) ** 2)
    return 1 - missed / spread if spread > 1e-24 * (1 + float(np.abs(truth).max())) ** 2 else 1.0


def tree_shares(tree: Any, box: Floats) -> dict[str, Floats] | None:
    """What columns and pairs account for in one tree over a box (columns, 2); nothing where the tree is constant."""
    value, low, high = leaves(tree, box)
    wide = np.maximum(box[:, 1] - box[:, 0], 0)
    share = np.where(wide > 0, (high - low) / np.where(wide > 0, wide, 1), 1.0)
    volume = share.prod(1)
    mean = float(volume @ value)
    variance, columns = float(volume @ (value - mean) ** 2), len(box)
    if variance <= 1e-14 * (1 + float(np.abs(value).max())) ** 2:
        return None
    first, pair = np.zeros(columns), np.zeros((columns, columns))
    cells = [_cells(low[:, j], high[:, j], box[j]) for j in range(columns)]
    for j in range(columns):
        inside, width = cells[j]
        rest = np.delete(share, j, axis=1).prod(1)
        first[j] = width @ (inside @ (rest * (value - mean))) ** 2 / variance
    for j, k in itertools.combinations(range(columns), 2):
        (one, first_width), (other, second_width) = cells[j], cells[k]
        rest = np.delete(share, [j, k], axis=1).prod(1) * (value - mean)
        both = (one * rest) @ other.T
        pair[j, k] = pair[k, j] = first_width @ both**2 @ second_width / variance - first[j] - first[k]
    return {"first": first, "pair": pair}


def leaves(tree: Any, box: Floats) -> tuple[Floats, Floats, Floats]:
    """The leaves' values, and their boxes' lower and upper ends (leaves, columns)."""
    found, todo = [], [(0, box[:, 0].copy(), box[:, 1].copy())]
    while todo:
        node, low, high = todo.pop()
        if tree.children_left[node] < 0:
            found.append((float(tree.value[node].reshape(-1)[0]), low, high))
            continue
        column, bound = tree.feature[node], tree.threshold[node]
        left, right = high.copy(), low.copy()
        left[column], right[column] = min(bound, high[column]), max(bound, low[column])
        todo += [(tree.children_left[node], low, left), (tree.children_right[node], right, high)]
    return np.array([f[0] for f in found]), np.stack([f[1] for f in found]), np.stack([f[2] for f in found])


def _cells(low: Floats, high: Floats, span: Floats) -> tuple[Floats, Floats]:
    """The intervals that the leaves cut a column into: which leaves (intervals, leaves) hold each, and its share."""
    edges = np.unique(np.concatenate([low, high, span]))
    if len(edges) < 2:
        return np.ones((1, len(low))), np.ones(1)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / (span[1] - span[0])
    return ((low <= middle[:, None]) & (middle[:, None] < high)).astype(np.float64), width
