"""How does the answer change with one column, among rows that occur? Local differences, accumulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.effect_curve import TAXONOMY, Curves, attribution, check_pairs, check_points, density
from pellucid.contract import Attribution, Card, Method
from pellucid.engine import Ask, Subject
from pellucid.engine.sample import Grid, Sample, grid, put, sample

__all__ = ["AccumulatedLocalEffects"]

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class AccumulatedLocalEffects(Method):
    """How does the answer change with one column, when rows are only moved to values next to their own?

    The data's values ``z_0 < … < z_K`` cut column j into intervals. In each the mean of
    ``S(row with column j at z_k) - S(row with column j at z_{k-1})`` is taken over the rows that lie in it, and
    ``curve_j(z_k)`` is the sum of the means up to k, minus its mean over the data: ``parts["curve"]`` (rows, columns,
    points) along ``parts["grid"]``, row n for the score explained for row n. ``values[n, j]`` is the curve of column j
    read at the row's own value, in score units: positive means that this value raises the answer above the average.
    ``error`` and ``parts["curve_error"]`` are standard errors of the sum of means. With ``pairs``, ``parts["surface"]``
    (rows, pairs, points, points) accumulates differences of differences, less the curves in it, and ``parts["pairs"]``
    holds their numbers; cells without a row take the difference of the nearest cell that has some.

    Facts: ``score``; ``baseline_score``, the mean over the data; ``additive_gap``, by how much mean and curves, added up,
    miss this row's score; ``additive_share``, the share of the scores' variance over the data that they reproduce;
    ``outside``, columns whose value lies beyond the data; ``sampling_error``.

    Args:
        points: how many values cut a column at most, by rank in the data; a column with fewer is cut at all of them.
        pairs: columns whose joint effect is drawn, as ((0, 1), (2, 5)).

    ``data`` is the sample, rows alone or ``{"rows": X, "weights": w}``. Cost: 2 × columns + 1 forwards per row of data,
    and 4 for each pair.
    Known failure: the curve joins differences of different rows, so where the slope depends on a column that moves along
    with this one, the curve mixes both; wide intervals hide what happens inside them.
    Source: Apley & Zhu 2020, §3 (equations 13–16 for one column, 17–20 for two). The curve is linear between cuts here,
    and its mean over the data is subtracted as such; columns without an order are not reordered.

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
        >>> result = px.explain(lambda x: 2 * x[:, :1] + x[:, 1:], data, "accumulated-local-effects", data=data)
        >>> result.values[:, 0].round(decimals=4).tolist()
        [-2.0, 0.0, 2.0]
    """

    points: int = 20
    pairs: Pairs = ()

    card: ClassVar[Card] = Card(
        name="accumulated-local-effects",
        title="Accumulated local effects",
        question="How does the answer change with this column, among rows that look like the data?",
        form="attribution",
        scope="global",
        citation="apley2020visualizing",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic", "linear", "implementation invariant", "spelling invariant", "score scale"),
        trial={"points": 5, "pairs": ((0, 2),)},
        cost="2 × columns forwards per row of data",
        supports=("answers near the data really change by these amounts from one value to the next, on average",),
        limits=(
            "one row moved along the whole curve: each piece of it comes from other rows",
            "single rows: the average hides that a column may raise some answers and lower others",
            "what would happen in the world if the column were changed: only the network is asked",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_points(self.points)
        check_pairs(self.pairs, ask)
        about = sample(ask)
        marks = grid(about.table, self.points)
        found = _accumulated(about, marks, self.card.title)
        if self.pairs:
            surfaces = [_surface(about, marks, pair, self.card.title) for pair in self.pairs]
            found.parts["surface"], numbers = torch.stack(surfaces, 1), torch.tensor(self.pairs)
            found.parts["pairs"] = numbers.expand(about.kinds, *numbers.shape)
        return attribution(ask, about, found)


def _bins(about: Sample, marks: Grid) -> Tensor:
    """The interval of each row along each column, (rows, columns): number k lies between cuts k and k + 1."""
    x = about.table.detach().cpu().double()
    found = [
        (torch.searchsorted(marks.values[j, :count], x[:, j].contiguous()) - 1).clamp(0, max(0, count - 2))
        for j, count in enumerate(marks.count.tolist())
    ]
    return torch.stack(found, 1)


def _accumulated(about: Sample, marks: Grid, label: str) -> Curves:
    """The curve of every column, with the standard error of its sum of means."""
    bins, columns = _bins(about, marks), marks.values.shape[0]

    def at(rows: Tensor, steps: Tensor) -> Tensor:
        column = (steps // 2).clamp(max=columns - 1)
        side = (bins[rows, column] + steps % 2).clamp(max=marks.points - 1)
        own = about.table[rows.to(about.table.device), column.to(about.table.device)]
        value = torch.where((steps < 2 * columns).to(own.device), marks.values[column, side].to(own), own)
        return put(about.table, rows, [column], [value])

    found = about.scores(2 * columns + 1, at, label)
    differences, share = found[:, 1:-1:2] - found[:, 0:-1:2], density(about, marks)
    curves = torch.zeros(about.kinds, columns, marks.points, dtype=torch.float64)
    errors = torch.zeros_like(curves)
    for j in range(columns):
        count = int(marks.count[j])
        if count < 2:
            continue
        mean, variance = _means(differences[:, j], bins[:, j], about.weights, count - 1)
        # Each centred value is a sum of the intervals' means with these shares, so errors add up in squares.
        steps = torch.tril(torch.ones(count, count - 1, dtype=torch.float64), -1)
        shares = steps - share[j, :count] @ steps
        curves[:, j, :count], errors[:, j, :count] = (shares @ mean).T, (shares**2 @ variance).sqrt().T
        curves[:, j, count:], errors[:, j, count:] = curves[:, j, count - 1, None], errors[:, j, count - 1, None]
    plain = found[:, -1]
    return Curves(grid=marks, curve=curves, base=about.weights @ plain, plain=plain, error=errors)


def _means(values: Tensor, bins: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean (bins, kinds) of each interval's values and the variance of that mean; lone rows take the others' spread."""
    member = torch.nn.functional.one_hot(bins, count).double() * weights[:, None]
    total = member.sum(0)
    inside = member / total.clamp(min=1e-300)
    mean = inside.T @ values
    lost = (inside**2).sum(0)
    spread = inside.T @ (values - mean[bins]) ** 2
    several = (lost < 1 - 1e-9) & (total > 0)
    spread = torch.where(several[:, None], spread / (1 - lost).clamp(min=1e-9)[:, None], 0.0)
    usual = spread[several].mean(0) if several.any() else values.var(0)
    return mean, torch.where(several[:, None], spread, usual) * lost[:, None]


def _surface(about: Sample, marks: Grid, pair: tuple[int, int], label: str) -> Tensor:
    """What two columns do together beyond what each does, accumulated over cells, (kinds, points, points)."""
    bins, (one, other) = _bins(about, marks), pair
    sizes = [max(1, int(marks.count[c]) - 1) for c in pair]

    def at(rows: Tensor, steps: Tensor) -> Tensor:
        sides = ((one, steps // 2), (other, steps % 2))
        columns = [torch.full_like(rows, c) for c, _ in sides]
        places = [(bins[rows, c] + side).clamp(max=marks.points - 1) for c, side in sides]
        return put(about.table, rows, columns, [marks.values[c, p] for (c, _), p in zip(sides, places, strict=True)])

    found = about.scores(4, at, label)
    twice = found[:, 3] - found[:, 2] - found[:, 1] + found[:, 0]
    cell = bins[:, one] * sizes[1] + bins[:, other]
    member = torch.zeros(sizes[0] * sizes[1], dtype=torch.float64).index_add_(0, cell, about.weights)
    total = torch.zeros(len(member), about.kinds, dtype=torch.float64)
    total.index_add_(0, cell, twice * about.weights[:, None])
    mean = total / member.clamp(min=1e-300)[:, None]
    mean = _filled(mean, member, marks, pair, sizes).T.reshape(about.kinds, *sizes)
    heights = torch.zeros(about.kinds, sizes[0] + 1, sizes[1] + 1, dtype=torch.float64)
    heights[:, 1:, 1:] = mean.cumsum(1).cumsum(2)
    bare = _without_curves(heights, member.reshape(sizes))
    rows = torch.arange(marks.points).clamp(max=sizes[0])
    across = torch.arange(marks.points).clamp(max=sizes[1])
    return bare[:, rows][:, :, across]


def _filled(mean: Tensor, member: Tensor, marks: Grid, pair: tuple[int, int], sizes: list[int]) -> Tensor:
    """Cells (cells, kinds) without a row take the mean of the nearest cell with some, in ranks along both columns."""
    empty = member <= 0
    if not bool(empty.any()):
        return mean
    places = torch.stack([torch.arange(len(member)) // sizes[1], torch.arange(len(member)) % sizes[1]], 1).double()
    places = places / torch.tensor(sizes, dtype=torch.float64)
    full = (~empty).nonzero()[:, 0]
    nearest = torch.cdist(places[empty], places[full]).argmin(1)
    mean = mean.clone()
    mean[empty] = mean[full[nearest]]
    return mean


def _without_curves(heights: Tensor, member: Tensor) -> Tensor:
    """Accumulated heights (kinds, a, b) less the effects of either column alone, and less their mean."""
    first = _effect(heights, member)
    second = _effect(heights.transpose(1, 2), member.T)
    bare = heights - first[:, :, None] - second[:, None]
    corners = (bare[:, 1:, 1:] + bare[:, :-1, 1:] + bare[:, 1:, :-1] + bare[:, :-1, :-1]) / 4
    return bare - ((corners * member).sum((1, 2)) / member.sum())[:, None, None]


def _effect(heights: Tensor, member: Tensor) -> Tensor:
    """The accumulated effect (kinds, a) along the first axis of heights, over where the data lie along the second."""
    steps = heights[:, 1:] - heights[:, :-1]
    middle = (steps[:, :, 1:] + steps[:, :, :-1]) / 2
    inside = member.sum(1)
    mean = (middle * member).sum(2) / inside.clamp(min=1e-300)
    return torch.cat([torch.zeros_like(mean[:, :1]), mean.cumsum(1)], 1)
