"""Curves of effects over a table's columns: sums over the sample, what the curves leave unexplained, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.errors import InputError
from pellucid.engine import Ask
from pellucid.engine.sample import Grid, Points, Sample, put

__all__: list[str] = []

PROBED = 256  # rows among which distances are measured
USUAL = 0.95  # of the data lie at most this far from their nearest neighbour
SPACINGS = ("quantile", "uniform")
TAXONOMY = {
    "000": "behavioural/functional/perturbation",
    "001": "visualization/perturbation",
    "002": "post-hoc/saliency/sensitivity",
    "003": "passive/attribution/global",
}


class Running:
    """Weighted mean and variance of what comes in blocks, taken from the first entry on, so that equal ones have none."""

    def __init__(self) -> None:
        self.shift, self.total, self.square, self.weight = torch.zeros(0), torch.zeros(0), torch.zeros(0), 0.0

    def add(self, weights: Tensor, x: Tensor) -> None:
        """Take in entries x (rows, ...) with weights (rows,)."""
        if not self.weight:
            self.shift = x[0].clone()
            self.total, self.square = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        off = x - self.shift
        self.total = self.total + torch.tensordot(weights, off, dims=1)
        self.square = self.square + torch.tensordot(weights, off * off, dims=1)
        self.weight += float(weights.sum())

    @property
    def mean(self) -> Tensor:
        """The weighted mean."""
        return self.shift + self.total / self.weight

    @property
    def variance(self) -> Tensor:
        """The weighted variance about the mean."""
        return (self.square / self.weight - (self.total / self.weight) ** 2).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Curves:
    """One centred curve per score and column, (kinds, columns, points), with standard errors where it was sampled.

    `base` (kinds,) is the mean score of the data, `plain` (rows, kinds) are its scores as they are.
    """

    grid: Grid
    curve: Tensor
    base: Tensor
    plain: Tensor
    error: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Tensor] = field(default_factory=dict)


def check_points(points: int, spacing: str = "quantile") -> None:
    """Refuse an impossible grid."""
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise InputError("The 'points' must be an int of at least 2", got=repr(points), hint="points=20")
    if spacing not in SPACINGS:
        raise InputError(f"The 'spacing' must be one of {SPACINGS}", got=repr(spacing))


def check_pairs(pairs: tuple[tuple[int, int], ...], ask: Ask) -> None:
    """Refuse pairs that are not two different columns of the table."""
    columns = ask.inputs.tensors[0].shape[1]
    for pair in pairs:
        good = isinstance(pair, tuple | list) and len(pair) == 2 and all(type(c) is int for c in pair)
        if not good or pair[0] == pair[1] or not all(0 <= c < columns for c in pair):
            raise InputError(
                f"The 'pairs' must be pairs of different columns from 0 to {columns - 1}",
                got=repr(pair),
                hint="pairs=((0, 1),)",
            )


def density(sample: Sample, grid: Grid) -> Tensor:
    """The share of the data that each grid point stands for, (columns, points)."""
    return torch.stack([sample.weights @ grid.hats(j, sample.table[:, j]) for j in range(sample.table.shape[1])])


def along(sample: Sample, grid: Grid) -> tuple[int, Points]:
    """How many, and which, rows are asked: each column at each of its grid values, and last the row as it is."""
    columns, points = grid.values.shape

    def at(rows: Tensor, steps: Tensor) -> Tensor:
        column = (steps // points).clamp(max=columns - 1)
        own = sample.table[rows.to(sample.table.device), column.to(sample.table.device)]
        value = grid.values[column, steps % points].to(own)
        changed = (steps < columns * points).to(own.device)
        return put(sample.table, rows, [column], [torch.where(changed, value, own)])

    return columns * points + 1, at


def each(sample: Sample, grid: Grid, visit: Callable[[Tensor, Tensor, Tensor], None], label: str) -> None:
    """Every row's curves: `visit(rows, curves (rows, columns, points, kinds), scores (rows, kinds))`, block by block."""
    count, points = along(sample, grid)
    for rows, found in sample.blocks(count, points, label):
        visit(rows, found[:, :-1].reshape(len(rows), *grid.values.shape, -1), found[:, -1])


def off_grid(sample: Sample, grid: Grid, rows: Tensor, curves: Tensor, scores: Tensor) -> Tensor:
    """How far each row's own curves, read at the row's values, are from its score, (rows, columns, kinds)."""
    table = sample.table[rows.to(sample.table.device)]
    hats = torch.stack([grid.hats(j, table[:, j]) for j in range(table.shape[1])], 1)
    return torch.einsum("bdg,bdgk->bdk", hats, curves) - scores[:, None]


def extrapolated(sample: Sample, grid: Grid) -> Tensor:
    """The share of rows with one column moved along the grid that lie farther from the data than data do, (columns,).

    Farther: than 95 % of rows are from their nearest neighbour, in units of the columns' standard deviations; measured
    among at most 256 rows, which lie evenly spread over the table.
    """
    table = sample.table.detach().cpu().double()
    if len(table) > PROBED:
        table = table[torch.linspace(0, len(table) - 1, PROBED).round().long()]
    spread = table.std(0, correction=0)
    scale = torch.where(spread > 0, spread, torch.ones_like(spread))
    x, marks = table / scale, grid.values / scale[:, None]
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    lonely = apart.clone().fill_diagonal_(torch.inf).amin(1)
    usual = float(lonely.quantile(USUAL)) + 1e-12
    found = torch.zeros(x.shape[1], dtype=torch.float64)
    for j in range(x.shape[1]):
        rest = (apart - (x[:, None, j] - x[None, :, j]) ** 2).clamp(min=0)
        here = marks[j, : int(grid.count[j])]
        nearest = torch.stack([(rest + (mark - x[:, j]) ** 2).amin(1) for mark in here])
        found[j] = (nearest > usual).double().mean()
    return found


def standard(variance: Tensor, weights: Tensor) -> Tensor:
    """The standard error of a weighted mean, from the variance of its entries."""
    lost = float((weights**2).sum())
    return (variance * lost / (1 - lost)).sqrt()


def additive_share(sample: Sample, found: Curves) -> Tensor:
    """The share of the scores' variance over the data that the curves, added up, reproduce, (kinds,)."""
    table, weights = sample.table, sample.weights[:, None]
    added = found.base + found.grid.read(found.curve, table).sum(-1)
    missed = (weights * (found.plain - added) ** 2).sum(0)
    spread = (weights * (found.plain - found.base) ** 2).sum(0)
    tiny = 1e-24 * (1 + found.plain.abs().amax(0)) ** 2
    return torch.where(spread > tiny, 1 - missed / spread.clamp(min=1e-300), (missed <= 16 * tiny).double())


def attribution(ask: Ask, sample: Sample, found: Curves) -> Attribution:
    """The curves read at the rows: `values`, with the curves themselves in `parts`, each row's own."""
    x, kind = ask.inputs.tensors[0], sample.kind
    each_row = torch.arange(len(kind))
    values = found.grid.read(found.curve, x)[each_row, kind]
    score, base = ask.score.detach().cpu().double(), found.base[kind]
    spread = lambda part: part.expand(len(kind), *part.shape)  # noqa: E731
    parts = {
        "grid": spread(found.grid.values),
        "curve": found.curve[kind],
        "density": spread(density(sample, found.grid)),
    }
    facts = {
        "score": score,
        "baseline_score": base,
        "additive_gap": (score - base - values.sum(1)).abs(),
        "additive_share": additive_share(sample, found)[kind],
        "outside": found.grid.outside(x).double(),
        **{name: fact[kind] for name, fact in found.facts.items()},
    }
    error = None
    if found.error is not None:
        error = found.grid.read(found.error, x)[each_row, kind]
        parts["curve_error"], facts["sampling_error"] = found.error[kind], error.amax(1)
        error = error.to(x)
    parts.update({name: part[kind] for name, part in found.parts.items()})
    ask.path = sample.ask.path
    return Attribution(values=values.to(x), error=error, parts=parts, facts=facts)
