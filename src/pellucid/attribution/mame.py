"""Which explanations serve a row, a group of rows, all rows? Local lines that are drawn together into a tree (MAME)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution import mame_tree
from pellucid.attribution.mame_tree import Graph, Tree
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, regression, seed
from pellucid.engine.data import rows_like
from pellucid.engine.sample import Sample, sample
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["Mame"]

USUAL = 1.06  # width over √columns, in units of the spread: that of LIME's program


@dataclass(frozen=True, kw_only=True)
class Mame(Method):
    """Which few lines explain how the answer follows the columns, and which of them holds for this row?

    Around each row x_i of the data the network is asked at draws z ~ N(x_i, (spread · deviation of the column)²), weighted
    by ``ψ = exp(-D² / width²)`` for the distance D from x_i in units of the spread. Lines through the answers S, each with
    an intercept of its own, are drawn together: with columns in deviations of the draws, ADMM minimises ``Σ_i (Σ_z ψ
    (S(z) - b_i - zθ_i)² / Σ_z ψ + α |θ_i|₁) + β Σ_i<j w_ij |θ_i - θ_j|₂`` for growing β, from one line for each row (β =
    0, lassos as LIME's) to one for all (β = ∞, one lasso). Rows whose θ meet are a group from then on: a tree with rows
    as leaves. A group's line is the lasso through the answers around all its rows. A row that is explained takes the
    line of the data's nearest row.

    ``values`` holds the slopes at the chosen level, in score units per unit of the column: positive means that more of it
    raises the score. `error` is each slope's standard error over the draws (sandwich estimator), 0 where the lasso left a
    column out. Parts tell the whole tree: for each level ``explanations`` (rows, levels, columns), ``groups``, the first
    data row of the group, ``counts``, how many groups there are, ``beta``; ``leaf``, the nearest row of the data;
    ``together`` (rows, data), the level at which each row of the data has joined the group, -1 for rows left out.

    Facts: ``score``; ``surrogate_score``, what the line says of the row; ``fidelity``, its weighted R² on fresh draws
    around the row; ``tree_fidelity``, the R² of all lines of the level around the data; ``groups``, how many lines the
    level has; ``members``, rows of the data that share this one; ``distance`` to the nearest of them, in deviations of
    the columns; ``alpha``, α; ``gap``, by which share of the answers' spread ADMM may have missed the least loss.

    Args:
        groups: explain by the first level that has at most so many groups; by default the fewest that ``loss`` allows.
        loss: how much of the R² of one line per row fewer lines may lose.
        samples: draws around each row.
        spread: standard deviation of the draws, as a share of the column's in the data.
        width: of the weights, in units of the spread; by default 1.06 √columns.
        sparsity: α, as a share of the one at which no line has a column.
        neighbours: w_ij = 1 for so many nearest rows and for what joins them to one whole, which keeps groups in one
            place and is faster; ``None``: for all pairs, so that the lines alone make the groups.
            ``data={"rows": X, "similar": W}`` gives the weights (rows, rows) instead: side information.
        levels: values of β, of which the first is 0 and the last as good as ∞; those between are tried where most groups
            meet, and where none are left to tell apart, the last stands again.
        rows: most rows of the data that become leaves.
        tolerance: the gap at which ADMM stops.
        iterations: most steps of ADMM for each β.

    Cost: ``samples`` forwards for each row of data and input; ADMM's steps take rows² × columns.
    Known failures: draws leave the data where columns go together or are codes; groups follow the weights, and where
    the slopes change gradually they are cuts through a continuum: see `tree_fidelity` of more of them.
    Source: Ramamurthy, Vinzamuri, Zhang & Dhurandhar 2020, §3, equation 1. Departs from it: the draws are the same
    around all rows; intercepts are not drawn together; each β is solved up to `tolerance` where the paper takes one
    step of ADMM; lines of groups are free of the pull to other groups.

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> result = px.explain(lambda x: 2 * x[:, :1] - x[:, 1:], data[:1], Mame(sparsity=0.0, rows=20), data=data)
        >>> [round(v, 4) for v in result.values[0].tolist()], result.facts["groups"].tolist()
        ([2.0, -1.0], [1.0])
    """

    groups: int | None = None
    loss: float = 0.05
    samples: int = 100
    spread: float = 0.3
    width: float | None = None
    sparsity: float = 0.01
    neighbours: int | None = None
    levels: int = 20
    rows: int = 100
    tolerance: float = 1e-5
    iterations: int = 2000

    card: ClassVar[Card] = Card(
        name="mame",
        title="MAME",
        question="Which few lines explain how the answer follows the columns, and which of them holds for this row?",
        form="attribution",
        scope="global",
        citation="ramamurthy2020model",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy={"003": "passive/attribution/global"},
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant", "score scale"),
        trial={"rows": 8, "samples": 24, "levels": 4, "neighbours": 2},
        cost="100 forwards per row of data and of the inputs",
        supports=(
            "how the answer rises and falls with the columns around rows like this one",
            "how many different lines the data need, and which rows share one",
        ),
        limits=(
            "anything, where fidelity is low: the group's line does not hold around this row",
            "rows far from the data, which take the line of the nearest row: see distance",
            "how many regimes a network has, where its slopes change gradually",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> dict[int, _Lines]:
        """The tree of each class that is explained."""
        self._check()
        return self._fit(ask, None)

    def explain(self, subject: Subject, ask: Ask, state: dict[int, _Lines]) -> Attribution:
        trees = dict(state)
        if missing := set(kinds(ask).tolist()) - set(trees):
            trees.update(self._fit(ask, missing))
        x, kind, about = ask.inputs.tensors[0], kinds(ask), sample(replace(ask, data=_given(ask)[0]))
        one = next(iter(trees.values())).ground
        fresh = _draws(ask.seed, 2, self.samples, x.shape[1])
        asked = self._answers(about.about(x), one.deviation, fresh)
        answers = asked[torch.arange(len(x)), :, about.kind]
        found = _Found(len(x), x.shape[1], self.levels, one.of)
        for number in kind.unique().tolist():
            found.take((kind == number).nonzero()[:, 0], x, trees[number], self._level(trees[number].tree))
        found.judge(fresh * self.spread * one.deviation, self._shares(fresh[:, one.moving]), answers)
        return Attribution(
            values=found.values.to(x),
            error=found.errors.to(x),
            facts={"score": ask.score, **found.facts},
            parts=found.parts,
        )

    def _level(self, tree: Tree) -> int:
        """The coarsest level that still says enough, or the first that has few enough groups."""
        if self.groups is not None:
            return int((tree.counts <= self.groups).nonzero()[0])
        return int((tree.explained >= tree.explained[0] - self.loss).nonzero()[-1])

    def _fit(self, ask: Ask, wanted: set[int] | None) -> dict[int, _Lines]:
        """Draw around rows of the data, and grow a tree from the answers for each class."""
        given, similar = _given(ask)
        ground = self._ground(ask, given, similar)
        about = sample(replace(ask, data=given))
        moving, unit = ground.moving, ground.deviation[ground.moving] * self.spread
        draws = _draws(ask.seed, 1, self.samples, len(moving))
        answers = self._answers(about.about(ground.points), ground.deviation, draws)
        number = dict(zip(kinds(ask).tolist(), about.kind.tolist(), strict=True))
        share, design = self._shares(draws[:, moving]), draws[:, moving]
        made = {}
        for key in sorted(set(number) if wanted is None else wanted):
            mine = answers[:, :, number[key]]
            tree, fine = self._tree(mine, design, share, ground.graph, about.table.dtype)
            made[key] = _Lines(ground, tree, unit, design - share @ design, share, mine, fine)
        return made

    def _ground(self, ask: Ask, given: Any, similar: Tensor | None) -> _Ground:
        """The rows that become leaves and who draws whom, refused before the model runs."""
        given = rows_like(given, ask.inputs).inputs.tensors[0]
        table = given.detach().cpu().double()
        if len(table) < 3:
            raise InputError("The 'data' must hold at least 3 rows", got=str(len(table)))
        if not bool(torch.isfinite(table).all()):
            raise InputError("The 'data' must be finite", got="NaN or infinity")
        if similar is not None and len(similar) != len(table):
            raise InputError(
                f"The side information 'similar' must be ({len(table)}, {len(table)}), a weight for each pair of rows",
                got=f"shape {tuple(similar.shape)}",
            )
        order = torch.from_numpy(seed.generator(ask.seed, b"mame", 0).permutation(len(table)))
        leaves = torch.arange(len(table)) if similar is not None else order[: self.rows].sort().values
        points = table[leaves]
        deviation = points.std(0, correction=0)
        deviation = deviation.where(deviation > 64 * torch.finfo(given.dtype).eps * points.abs().amax(0), 0.0)
        moving = deviation > 0
        columns = int(moving.sum())
        if not columns:
            raise InputError("The 'data' must vary in some column", got="copies of one row")
        if self.samples < 2 * columns + 2:
            raise InputError(
                f"The 'samples' must be at least twice the {columns} columns that vary, and 2",
                got=str(self.samples),
                hint=f"samples={5 * columns}",
            )
        scaled = points[:, moving] / deviation[moving]
        graph = mame_tree.nearest(scaled, self.neighbours) if similar is None else mame_tree.weighted(similar)
        return _Ground(points, leaves, scaled, deviation, moving, graph, len(table))

    def _tree(self, answers: Tensor, design: Tensor, share: Tensor, graph: Graph, dtype: Any) -> tuple[Tree, float]:
        """The tree of these answers (rows, draws), and the unit that they were divided by."""
        z, y = design - share @ design, answers - (answers @ share)[:, None]
        gram, spread = z.T @ (share[:, None] * z), float((y**2 @ share).mean())
        rounding = (64 * torch.finfo(dtype).eps) ** 2 * float((answers**2 @ share).mean())
        unit = math.sqrt(spread) if spread > rounding else math.inf
        cross = y / unit @ (share[:, None] * z)
        return mame_tree.grow(
            gram, cross, self.sparsity, graph, self.levels, self.tolerance, self.iterations
        ), 0.0 if math.isinf(unit) else unit

    def _answers(self, about: Sample, deviation: Tensor, draws: Tensor) -> Tensor:
        """The scores (rows, draws, kinds) around each row."""
        moved = (draws * self.spread * deviation).to(about.table)
        device = about.table.device

        def points(rows: Tensor, steps: Tensor) -> Tensor:
            return about.table[rows.to(device)] + moved[steps.to(device)]

        return about.scores(len(draws), points, self.card.title)

    def _shares(self, draws: Tensor) -> Tensor:
        """ψ of each draw, divided by their sum; only columns that move count."""
        width = USUAL * math.sqrt(draws.shape[1]) if self.width is None else self.width
        # The least distance may be taken off before the exponential: shares stay as they are and never are all zero.
        return (-((draws**2).sum(1)) / width**2).softmax(0)

    def _check(self) -> None:
        whole(samples=(self.samples, 4), levels=(self.levels, 2), rows=(self.rows, 3), iterations=(self.iterations, 1))
        whole_or_none(groups=(self.groups, 1), neighbours=(self.neighbours, 1))
        for name in ("spread", "width", "tolerance"):
            value = getattr(self, name)
            if (value is not None or name != "width") and not 0 < value < math.inf:
                raise MethodError(f"The '{name}' must be positive", got=repr(value))
        for name in ("loss", "sparsity"):
            if not 0 <= getattr(self, name) < 1:
                raise MethodError(
                    f"The '{name}' must be a share, at least 0 and below 1", got=repr(getattr(self, name))
                )


@dataclass(frozen=True, eq=False)
class _Ground:
    """The leaves: their rows (`points`), numbers in the data, rows in deviations of the columns that move, and the graph.

    `of` is how many rows the data have.
    """

    points: Tensor
    leaves: Tensor
    scaled: Tensor
    deviation: Tensor
    moving: Tensor
    graph: Graph
    of: int


@dataclass(frozen=True, eq=False)
class _Lines:
    """A class's tree with what it was grown from. Slopes times `fine` / `unit` are those of the moving columns."""

    ground: _Ground
    tree: Tree
    unit: Tensor
    design: Tensor
    share: Tensor
    answers: Tensor
    fine: float

    def slopes(self, theta: Tensor) -> Tensor:
        """Slopes of moving columns in units of the score and of all columns."""
        out = torch.zeros(*theta.shape[:-1], len(self.ground.moving), dtype=torch.float64)
        out[..., self.ground.moving] = theta * self.fine / self.unit
        return out

    def error(self, members: Tensor, theta: Tensor) -> Tensor:
        """Standard errors of a group's slopes: draws are shared by its rows, so that a draw's residuals go together."""
        out, kept = torch.zeros_like(theta), theta != 0
        if not bool(kept.any()) or not self.fine:
            return out
        z, y = self.design, self.answers[members].mean(0) / self.fine
        residual = y - y @ self.share - z @ theta
        pull = (self.share * residual)[:, None] * z[:, kept]
        pull = pull - pull.mean(0)
        inverse = torch.linalg.inv(z[:, kept].T @ (self.share[:, None] * z[:, kept]))
        spent, asked = int(kept.sum()) + 1, len(z)
        spread = inverse @ (pull.T @ pull) @ inverse * asked / max(1, asked - spent)
        out[kept] = spread.diagonal().clamp(min=0).sqrt()
        return out


class _Found:
    """Values, errors, facts and parts of all rows, filled in class by class."""

    def __init__(self, rows: int, columns: int, levels: int, data: int) -> None:
        self.values, self.errors = torch.zeros(2, rows, columns, dtype=torch.float64)
        names = ("surrogate_score", "fidelity", "tree_fidelity", "groups", "members", "distance", "alpha", "gap")
        self.facts = {name: torch.zeros(rows, dtype=torch.float64) for name in names}
        self.parts = {
            "explanations": torch.zeros(rows, levels, columns, dtype=torch.float64),
            "groups": torch.zeros(rows, levels, dtype=torch.long),
            "counts": torch.zeros(rows, levels, dtype=torch.long),
            "beta": torch.zeros(rows, levels, dtype=torch.float64),
            "leaf": torch.zeros(rows, dtype=torch.long),
            "together": torch.full((rows, data), -1),
        }

    def take(self, rows: Tensor, x: Tensor, lines: _Lines, level: int) -> None:
        """The group of the nearest leaf at this level, and the leaf's way to the root."""
        ground = lines.ground
        here = x[rows].detach().cpu().double()[:, ground.moving] / ground.deviation[ground.moving]
        distance = torch.cdist(here, ground.scaled, compute_mode="donot_use_mm_for_euclid_dist")
        nearest, tree = distance.min(1), lines.tree
        leaf = nearest.indices
        self.values[rows] = lines.slopes(tree.theta[level, leaf])
        groups = tree.groups[level]
        for name in groups[leaf].unique().tolist():
            members, mine = (groups == name).nonzero()[:, 0], rows[groups[leaf] == name]
            self.errors[mine] = lines.slopes(lines.error(members, tree.theta[level, members[0]]))
            self.facts["members"][mine] = float(len(members))
        self.facts["distance"][rows] = nearest.values
        # α and β of the loss in units of the score, for slopes per deviation of the draws
        self.facts["alpha"][rows] = tree.alpha * lines.fine
        for name, figure in (("tree_fidelity", tree.explained), ("groups", tree.counts), ("gap", tree.gap)):
            self.facts[name][rows] = figure[level]
        self.parts["explanations"][rows] = lines.slopes(tree.theta[:, leaf].transpose(0, 1))
        self.parts["groups"][rows] = ground.leaves[tree.groups[:, leaf].T]
        self.parts["counts"][rows] = tree.counts.long()
        self.parts["beta"][rows] = tree.beta * lines.fine
        self.parts["leaf"][rows] = ground.leaves[leaf]
        apart = (tree.groups[:, leaf, None] != tree.groups[:, None, :]).sum(0)  # the levels below the first common one
        self.parts["together"][rows[:, None], ground.leaves] = apart

    def judge(self, moves: Tensor, share: Tensor, answers: Tensor) -> None:
        """How well the lines, with an intercept of their own, say the answers (rows, draws) around the rows."""
        says = self.values @ moves.T
        mean = answers @ share
        offset = mean - says @ share
        residual = answers - says - offset[:, None]
        self.facts["fidelity"] = regression.explained(answers, mean, residual, share)
        self.facts["surrogate_score"] = offset


def kinds(ask: Ask) -> Tensor:
    """The class explained for each row, or 0 where no classes are."""
    index = ask.target.index
    return torch.zeros(ask.inputs.rows, dtype=torch.long) if index is None else index.cpu()


def _draws(chosen: int, number: int, count: int, columns: int) -> Tensor:
    draw = seed.generator(chosen, b"mame", number)
    return torch.from_numpy(draw.standard_normal((count, columns)))


def _given(ask: Ask) -> tuple[Any, Tensor | None]:
    """The rows in `data`, and the weights of their pairs where they came with them."""
    if not (isinstance(ask.data, Mapping) and ("similar" in ask.data or "weights" in ask.data)):
        return ask.data, None
    if set(ask.data) != {"rows", "similar"}:
        raise InputError(
            "The 'data' must be rows, or rows with weights of pairs",
            got=str(sorted(ask.data)),
            hint='data={"rows": X, "similar": W}',
        )
    similar = torch.as_tensor(ask.data["similar"], dtype=torch.float64).detach().cpu()
    square = similar.dim() == 2 and similar.shape[0] == similar.shape[1]
    if not square or not bool(((similar >= 0) & torch.isfinite(similar) & (similar == similar.T)).all()):
        raise InputError(
            "The side information 'similar' must be a symmetric matrix of numbers of at least 0",
            got=f"shape {tuple(similar.shape)}",
        )
    from scipy.sparse.csgraph import connected_components

    parts, _ = connected_components(similar.numpy() > 0, directed=False)
    if parts > 1:
        raise InputError(
            "The side information 'similar' must join all rows: without weights between them they never meet",
            got=f"{parts} parts",
            hint="a small weight, such as 0.01, in place of zeros",
        )
    return ask.data["rows"], similar
