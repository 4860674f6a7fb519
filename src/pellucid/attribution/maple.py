"""Which line fits the network here, where "here" is what a forest that imitates it takes for alike? (MAPLE.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, regression, seed
from pellucid.engine.regression import Fit
from pellucid.engine.sample import sample
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["Maple"]

STEPS = 100_000  # the forest sees answers rounded to this share of their range, so that rounding grows no other forest


@dataclass(frozen=True, kw_only=True)
class Maple(Method):
    """Which columns does the answer follow here, by a line through the rows that a forest takes for like this one?

    A random forest is fitted to the network's answers on ``data``. A row x_i of the data is as near to x as trees put them
    into one leaf: ``w(x_i, x) = 1/K Σ_k 1[same leaf of tree k] / (rows in that leaf)``, which sums to 1 over the data.
    ``values`` holds the slopes of the line that minimises ``K Σ_i w(x_i, x) (S(x_i) - b₀ - Σ_j b_j x_ij)² + ridge |b|²``,
    in score units per unit of the column: positive means that more of it raises the score. `error` is each slope's standard
    error (sandwich estimator), given these rows and weights. Only columns that the roots of the trees split on most are
    in the line (DStump: summed reduction of impurity at the roots); how many is chosen by the error on held-out rows. The
    other columns get 0.

    ``parts["influential"]`` (rows, n) numbers the rows of the data that weigh most, ``parts["influence"]`` their weights.
    Facts: ``score``; ``surrogate_score``, what the line says of the row; ``r_squared``, its weighted R² on the rows it was
    drawn through; ``heldout_r_squared``, of such lines at rows of the data that neither forest nor lines have seen, one
    figure for every row of a class; ``effective_rows``, 1 / Σ w²; ``columns``, how many are in the line.

    Args:
        trees: trees of the forest, K.
        leaf: fewest rows of the data in a leaf: fewer make neighbourhoods smaller.
        share: share of the columns that a split may choose from.
        columns: how many columns the line has; by default what does best on the held-out rows.
        heldout: share of the data held out.
        ridge: the penalty on the squares of b.
        influential: how many rows of the data to list.

    Cost: one forward per row of data and input; the forest, and a small regression for every row and held-out row.
    Known failures: where the data are few or the answer bends within a leaf, the line says little: see ``r_squared``;
    a column that splits no root, because another says the same or because it matters here and nowhere else, is left out
    unless ``columns`` says how many to take; so is one whose part is small beside jumps of the answer that lines miss.
    Source: Plumb, Molitor & Talwalkar 2018, §3 and algorithm 1. The authors' program adds up the roots' impurities where
    the paper has their reductions, which are used here.

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        >>> result = px.explain(lambda x: 2 * x[:, :1] - x[:, 1:2], data[:1], Maple(ridge=0.0), data=data)
        >>> [round(v, 4) + 0.0 for v in result.values[0].tolist()]
        [2.0, -1.0, 0.0]
    """

    trees: int = 200
    leaf: int = 10
    share: float = 0.5
    columns: int | None = None
    heldout: float = 0.2
    ridge: float = 0.001
    influential: int = 10

    card: ClassVar[Card] = Card(
        name="maple",
        title="MAPLE",
        question="Which columns does the answer follow here, by a line through the rows that a forest takes for alike?",
        form="attribution",
        scope="local",
        citation="plumb2018model",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy={"003": "passive/attribution/local"},
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant", "score scale"),
        trial={"trees": 12, "leaf": 3, "influential": 3},
        cost="1 forward per row of data and of the inputs, and a forest",
        supports=(
            "how the network's answers rise and fall over rows like this one",
            "which rows of the data the explanation rests on",
        ),
        limits=(
            "anything, where r_squared is low: no line fits the answers of these rows",
            "the network's answers to rows that do not occur in the data",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> dict[int, _Forest]:
        """A forest for each class that is explained."""
        self._check()
        found: dict[int, _Forest] = {}
        self._grow(ask, found)
        return found

    def explain(self, subject: Subject, ask: Ask, state: dict[int, _Forest]) -> Attribution:
        forests = dict(state)
        if missing := set(kinds(ask).tolist()) - set(forests):
            self._grow(ask, forests, missing)
        x = ask.inputs.tensors[0]
        here, kind = x.detach().cpu().double(), kinds(ask)
        values, errors = torch.zeros(2, *here.shape, dtype=torch.float64)
        names = ("surrogate_score", "r_squared", "heldout_r_squared", "effective_rows", "columns")
        facts = {name: torch.zeros(len(here), dtype=torch.float64) for name in names}
        count = min(self.influential, *(len(f.table) for f in forests.values()))
        items = torch.zeros(len(here), count, dtype=torch.long)
        influence = torch.zeros(len(here), count, dtype=torch.float64)
        for number in kind.unique().tolist():
            rows, forest = (kind == number).nonzero()[:, 0], forests[number]
            weights = forest.weights(here[rows])
            kept = forest.order[: forest.columns]
            fit = self._fit(forest, weights, kept, ask.memory)
            values[rows[:, None], kept], errors[rows[:, None], kept] = fit.slopes, fit.error
            heaviest = weights.sort(dim=1, descending=True, stable=True)
            items[rows], influence[rows] = forest.numbers[heaviest.indices[:, :count]], heaviest.values[:, :count]
            figures = (
                fit.intercept + (fit.slopes * here[rows][:, kept]).sum(1),
                fit.r2,
                torch.full((len(rows),), forest.heldout, dtype=torch.float64),
                1 / (weights**2).sum(1),
                torch.full((len(rows),), float(forest.columns), dtype=torch.float64),
            )
            for fact, figure in zip(facts.values(), figures, strict=True):
                fact[rows] = figure
        return Attribution(
            values=values.to(x),
            error=errors.to(x),
            facts={"score": ask.score, **facts},
            parts={"influential": items, "influence": influence},
        )

    def _check(self) -> None:
        whole(trees=(self.trees, 1), leaf=(self.leaf, 1), influential=(self.influential, 1))
        whole_or_none(columns=(self.columns, 1))
        for name, good in (("share", 0 < self.share <= 1), ("heldout", 0 < self.heldout < 1)):
            if not good:
                raise MethodError(f"The '{name}' must be a share between 0 and 1", got=repr(getattr(self, name)))
        if not self.ridge >= 0:
            raise MethodError("The 'ridge' must be at least 0", got=repr(self.ridge))

    def _grow(self, ask: Ask, into: dict[int, _Forest], wanted: set[int] | None = None) -> None:
        """Ask the network about the data, and fit a forest and the number of columns for each class."""
        if isinstance(ask.data, Mapping) and "weights" in ask.data:
            raise InputError("The 'data' must come without weights: MAPLE's are its own", got="data={'weights': ...}")
        about = sample(ask, least=max(4, 3 * self.leaf))
        table = about.table.detach().cpu().double()
        order = torch.from_numpy(seed.generator(ask.seed, b"maple", 0).permutation(len(table)))
        out = max(1, round(self.heldout * len(table)))
        seen, rest = order[out:].sort().values, order[:out].sort().values
        answers, number = about.plain(), dict(zip(kinds(ask).tolist(), about.kind.tolist(), strict=True))
        for key in sorted(set(number) if wanted is None else wanted):
            mine = answers[:, number[key]]
            forest = _Forest(table[seen], mine[seen], seen, self, ask.seed)
            self._choose(forest, table[rest], mine[rest], ask.memory)
            into[key] = forest

    def _choose(self, forest: _Forest, rows: Tensor, answers: Tensor, memory: int) -> None:
        """The number of columns whose lines do best on held-out rows, and how well that is."""
        weights, residual = forest.weights(rows), torch.full_like(answers, torch.inf)
        most = rows.shape[1]
        for count in range(1, most + 1) if self.columns is None else [min(self.columns, most)]:
            kept = forest.order[:count]
            fit = self._fit(forest, weights, kept, memory)
            left = fit.intercept + (fit.slopes * rows[:, kept]).sum(1) - answers
            if left.norm() < residual.norm():
                residual, forest.columns = left, count
        even = torch.full_like(answers, 1 / len(answers))
        forest.heldout = float(regression.explained(answers[None], answers.mean()[None], residual[None], even))

    def _fit(self, forest: _Forest, weights: Tensor, kept: Tensor, memory: int) -> Fit:
        """The weighted line through the forest's rows for each row of `weights`."""
        design, found = forest.table[:, kept], []
        chunk = max(1, memory // (64 * design.numel()))
        for part in weights.split(chunk):
            answers = forest.answers.expand(len(part), -1)
            found.append(regression.weighted(design, part * self.trees, answers, self.ridge))
        return Fit(*(torch.cat([getattr(f, name) for f in found]) for name in ("intercept", "slopes", "error", "r2")))


def kinds(ask: Ask) -> Tensor:
    """The class explained for each row, or 0 where no classes are."""
    index = ask.target.index
    return torch.zeros(ask.inputs.rows, dtype=torch.long) if index is None else index.cpu()


class _Forest:
    """A forest's leaves, and its columns by how much the roots gain from splitting on them."""

    def __init__(self, table: Tensor, answers: Tensor, numbers: Tensor, method: Maple, chosen_seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self.table, self.answers, self.numbers = table, answers, numbers
        self.columns, self.heldout = table.shape[1], 0.0
        low, high = answers.min(), answers.max()
        rounded = ((answers - low) / (high - low if high > low else 1.0) * STEPS).round()
        self.model = RandomForestRegressor(
            n_estimators=method.trees,
            min_samples_leaf=method.leaf,
            max_features=method.share,
            random_state=int(seed.generator(chosen_seed, b"maple", 1).integers(1 << 31)),
        ).fit(table.numpy(), rounded.numpy())
        self.leaves = torch.from_numpy(self.model.apply(table.numpy()))
        self.order = self._gains().argsort(descending=True, stable=True)

    def _gains(self) -> Tensor:
        """By how much splits at the roots lower the impurity, summed over the trees that split on each column."""
        gains = torch.zeros(self.table.shape[1], dtype=torch.float64)
        for tree in (member.tree_ for member in self.model.estimators_):
            if tree.node_count > 1:
                below = [tree.children_left[0], tree.children_right[0]]
                share = tree.weighted_n_node_samples[below] / tree.weighted_n_node_samples[0]
                gains[tree.feature[0]] += tree.impurity[0] - (share * tree.impurity[below]).sum()
        return gains

    def weights(self, rows: Tensor) -> Tensor:
        """w(x_i, x) for each of these rows and each row of the data, (rows, data); each row sums to 1."""
        leaves = torch.from_numpy(self.model.apply(rows.numpy()))
        total = torch.zeros(len(rows), len(self.table), dtype=torch.float64)
        for asked, known in zip(leaves.T, self.leaves.T, strict=True):
            same = (asked[:, None] == known).double()
            total += same / same.sum(1, keepdim=True)
        return total / leaves.shape[1]
