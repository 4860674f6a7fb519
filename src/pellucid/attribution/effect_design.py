"""Columns taken as independent: two samples of them, rows mixed from both, and variance shares with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, seed
from pellucid.engine.sample import Sample

__all__: list[str] = []

REPLICATES = 8  # independent scramblings, whose spread is the standard error
DISTRIBUTIONS = ("empirical", "uniform")
ROUNDING = 64  # differences of so many units in the last place count as none

Sums = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How the columns are drawn, and how long: `points` to begin with, doubled up to `most` until errors fit."""

    distribution: str
    points: int
    tolerance: float | None
    most: int

    def check(self) -> None:
        """Refuse impossible settings."""
        if self.distribution not in DISTRIBUTIONS:
            raise InputError(f"The 'distribution' must be one of {DISTRIBUTIONS}", got=repr(self.distribution))
        for name, value in (("points", self.points), ("max_points", self.most)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 2 * REPLICATES
            if not whole or value & (value - 1):
                hint = f"{name}=2048"
                raise InputError(f"The '{name}' must be a power of two of at least 16", got=repr(value), hint=hint)
        allowed = self.tolerance is None or (isinstance(self.tolerance, int | float) and 0 < self.tolerance < 1)
        if not allowed or isinstance(self.tolerance, bool):
            raise InputError("The 'tolerance' must lie between 0 and 1, or be None", got=repr(self.tolerance))


class Designs:
    """Scrambled Sobol' points in twice the columns, one sequence per replicate: pairs of independent rows."""

    def __init__(self, about: Sample, distribution: str, number: int) -> None:
        self.about, columns = about, about.table.shape[1]
        self.draw_value = _empirical(about) if distribution == "empirical" else _uniform(about)
        seeds = [int(seed.generator(number, b"effects", r).integers(1 << 31)) for r in range(REPLICATES)]
        self.sequences = [torch.quasirandom.SobolEngine(2 * columns, scramble=True, seed=s) for s in seeds]

    def more(self, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The next `count` rows of each replicate: its number, and the two samples (count, columns)."""
        columns = self.about.table.shape[1]
        for number, sequence in enumerate(self.sequences):
            found = self.draw_value(sequence.draw(count, dtype=torch.float64), columns)
            yield number, found[:, :columns], found[:, columns:]


def _empirical(about: Sample) -> Callable[[Tensor, int], Tensor]:
    """Each column by its own values in the data, with the data's weights."""
    sorted_values, order = about.table.detach().cpu().double().sort(0)
    reached = about.weights[order].cumsum(0).clamp(max=1.0)

    def draw(u: Tensor, columns: int) -> Tensor:
        found = torch.empty_like(u)
        for place in range(u.shape[1]):
            j = place % columns
            rank = torch.searchsorted(reached[:, j].contiguous(), u[:, place].contiguous(), right=True)
            found[:, place] = sorted_values[rank.clamp(max=len(sorted_values) - 1), j]
        return found

    return draw


def _uniform(about: Sample) -> Callable[[Tensor, int], Tensor]:
    """Each column evenly between its smallest and largest value in the data."""
    table = about.table.detach().cpu().double()
    low, high = table.amin(0), table.amax(0)
    return lambda u, columns: low.repeat(2) + u * (high - low).repeat(2)


def mixed(about: Sample, one: Tensor, other: Tensor, masks: Tensor, label: str) -> Iterator[Tensor]:
    """Scores (rows, masks, kinds) of rows of `one` that hold the columns (masks, columns) of `other`, block by block."""
    first = about.about(one)
    second = other.to(first.table)
    chosen = masks.to(first.table.device)

    def at(rows: Tensor, steps: Tensor) -> Tensor:
        rows, steps = rows.to(second.device), steps.to(second.device)
        return torch.where(chosen[steps], second[rows], first.table[rows])

    for _, found in first.blocks(len(masks), at, label):
        yield found


@dataclass(frozen=True, eq=False)
class Shares:
    """Named shares of the variance with standard errors, both (kinds, ...), and how they were reached."""

    share: Sums
    error: Sums
    variance: Tensor
    mean: Tensor
    points: int
    converged: bool


def run(
    about: Sample, effort: Effort, number: int, masks: Tensor, sums: Callable[[Tensor], Sums], watched: str, label: str
) -> Shares:
    """Add up `sums` of mixed rows over replicates, doubling the points until the errors of `watched` fit the tolerance.

    `sums` gets scores (rows, masks, kinds) less a constant; the first two masks are the two samples themselves. Each of
    its entries (kinds, ...) is a sum over the rows of terms whose mean is a part of the variance.
    """
    designs, totals, centre, floor = Designs(about, effort.distribution, number), _Totals(), None, 0.0
    count, done = effort.points // REPLICATES, 0
    while True:
        for replicate, one, other in designs.more(count):
            if centre is None:  # of all rows of a replicate, so that it does not depend on blocks
                begin = torch.cat(list(mixed(about, one, other, masks[:2], label)))
                centre, floor = begin.mean((0, 1)), _floor(about, float(begin.abs().max()))
            for found in mixed(about, one, other, masks, label):
                totals.add(replicate, sums(_rounded(found, floor) - centre), found[:, :2] - centre)
        done += count
        shares = totals.shares(done, centre, floor)
        worst = float(shares.error[watched].max())
        if effort.tolerance is None or worst <= effort.tolerance:
            return shares
        if 2 * done * REPLICATES > effort.most:
            return Shares(**{**vars(shares), "converged": False})
        count = done


def _floor(about: Sample, largest: float) -> float:
    return ROUNDING * torch.finfo(about.table.dtype).eps * largest


def _rounded(scores: Tensor, limit: float) -> Tensor:
    """Scores that differ from the first sample's (or the second's) by rounding alone are set to it."""
    for base in (scores[:, :1], scores[:, 1:2]):
        scores = torch.where((scores - base).abs() <= limit, base, scores)
    return scores


class _Totals:
    """Sums per replicate: of the terms asked for, of the scores and of their squares."""

    def __init__(self) -> None:
        self.terms: list[Sums] = [{} for _ in range(REPLICATES)]

    def add(self, replicate: int, terms: Sums, scores: Tensor) -> None:
        mine = self.terms[replicate]
        given = {**terms, "_sum": scores.sum((0, 1)) / 2, "_square": (scores**2).sum((0, 1)) / 2}
        for name, value in given.items():
            mine[name] = mine[name] + value if name in mine else value

    def shares(self, points: int, centre: Any, floor: float) -> Shares:
        """Ratios of means over all replicates, with errors by leaving one replicate out at a time."""
        stacked = {name: torch.stack([t[name] for t in self.terms]) / points for name in self.terms[0]}
        whole, without = {k: v.mean(0) for k, v in stacked.items()}, {}
        for name, value in stacked.items():
            without[name] = (value.sum(0) - value) / (REPLICATES - 1)
        share, error = {}, {}
        variance = _variance(whole)
        for name in (n for n in whole if not n.startswith("_")):
            share[name] = _ratio(whole[name], variance, floor)
            left = torch.stack(
                [
                    _ratio(without[name][r], _variance({k: v[r] for k, v in without.items()}), floor)
                    for r in range(REPLICATES)
                ]
            )
            spread = (left - left.mean(0)).square().sum(0)
            error[name] = (spread * (REPLICATES - 1) / REPLICATES).sqrt()
        real = torch.where(variance > floor**2, variance, torch.zeros_like(variance))
        return Shares(share, error, real, whole["_sum"] + centre, points * REPLICATES, True)


def _variance(means: Sums) -> Tensor:
    return (means["_square"] - means["_sum"] ** 2).clamp(min=0)


def _ratio(part: Tensor, variance: Tensor, floor: float) -> Tensor:
    """Parts (kinds, ...) of a variance (kinds,); none where there is no variance."""
    wide = variance.reshape(-1, *[1] * (part.dim() - 1))
    return torch.where(wide > floor**2, part / wide.clamp(min=1e-300), torch.zeros_like(part))


def correlation(about: Sample) -> float:
    """The largest correlation between two columns of the data, which are drawn as if there were none."""
    table = about.table.detach().cpu().double()
    centred = table - about.weights @ table
    covariance = centred.T @ (centred * about.weights[:, None])
    spread = covariance.diagonal().clamp(min=0).sqrt()
    scale = (spread[:, None] * spread).clamp(min=1e-300)
    found = torch.where(spread[:, None] * spread > 0, covariance / scale, torch.zeros_like(covariance)).abs()
    return float(found.fill_diagonal_(0).max().clamp(max=1)) if len(found) > 1 else 0.0


def attribution(ask: Ask, about: Sample, found: Shares, effort: Effort, parts: dict[str, Tensor]) -> Attribution:
    """Each row gets the shares of the score that is explained for it: `values` are the shares called "total"."""
    kind, x = about.kind, ask.inputs.tensors[0]
    ones = torch.ones(len(kind), dtype=torch.float64)
    facts = {
        "score": ask.score.detach().cpu().double(),
        "mean": found.mean[kind],
        "variance": found.variance[kind],
        "alone_share": found.share["first"].sum(1)[kind],
        "standard_error": found.error["total"].amax(1)[kind],
        "points": ones * found.points,
    }
    if effort.tolerance is not None:
        facts["converged"] = ones * found.converged
    if effort.distribution == "empirical":
        facts["correlation"] = ones * correlation(about)
    ask.path = about.ask.path
    return Attribution(
        values=found.share["total"][kind].to(x),
        error=found.error["total"][kind].to(x),
        parts={name: part[kind] for name, part in parts.items()},
        facts=facts,
    )
