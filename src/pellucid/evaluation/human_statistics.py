"""What do people's answers say, and how surely? Strengths from choices, agreement, effects, and sample sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.contract.errors import InputError

__all__ = [
    "Estimate",
    "Strengths",
    "bradley_terry",
    "cohen_kappa",
    "fleiss_kappa",
    "intraclass_correlation",
    "mixed_effects",
    "participants_needed",
]

Array = NDArray[Any]
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval and standard error; NaN where these answers can't tell."""

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Strengths:
    """How strong each is: `values` on the log-odds scale, with mean 0, their intervals, errors and covariance."""

    values: Array
    low: Array
    high: Array
    error: Array
    covariance: Array

    def beats(self, one: int, other: int) -> float:
        """The chance that `one` is chosen when both are offered."""
        return float(_logistic(self.values[one] - self.values[other]))

    def difference(self, one: int, other: int) -> Estimate:
        """By how much `one` is stronger, with its interval (normal)."""
        gap = float(self.values[one] - self.values[other])
        c = self.covariance
        error = math.sqrt(max(0.0, float(c[one, one] + c[other, other] - 2 * c[one, other])))
        return Estimate(value=gap, low=gap - 1.959964 * error, high=gap + 1.959964 * error, error=error)


def bradley_terry(first: Any, second: Any, won: Any, *, raters: Any = None, prior: float = 0.0) -> Strengths:
    """Which of several is preferred, from choices between two at a time?

    P(first is chosen) = 1 / (1 + exp(s_second - s_first)), fitted by maximum likelihood (Newton's method), mean s zero.

    Args:
        first, second: (N,) numbers, from 0, of the two that were offered.
        won: (N,) 1 where the first was chosen, 0 where the second, 0.5 for neither.
        raters: (N,) who chose. With it, errors allow for one person's answers being alike (the sandwich estimator over
            raters, with Student's t of raters - 1); without it, every choice counts as independent.
        prior: so many pretended choices of every pair, half won by each. Without any there is no finite answer where a
            group of them always wins against the rest; that is refused.

    Source: Bradley & Terry 1952; Hunter 2004, §3, for when the answer is finite.

    Example:
        >>> found = bradley_terry([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0])
        >>> round(float(found.values[0] - found.values[1]), 4)  # log 3
        1.0986
    """
    one, other, share = np.asarray(first), np.asarray(second), np.asarray(won, float)
    if not (one.shape == other.shape == share.shape) or one.ndim != 1 or not len(one):
        raise InputError(
            "The choices must be three lists of one length", got=f"{one.shape}, {other.shape}, {share.shape}"
        )
    if (one == other).any() or min(one.min(), other.min()) < 0 or not ((share >= 0) & (share <= 1)).all():
        raise InputError("Each choice must be between two different ones, and won by a share from 0 to 1")
    count = int(max(one.max(), other.max())) + 1
    design, weight = np.eye(count)[one] - np.eye(count)[other], np.ones(len(one))
    if prior > 0:
        pairs = np.array([(i, j) for i in range(count) for j in range(i)])
        design = np.concatenate([design, np.eye(count)[pairs[:, 0]] - np.eye(count)[pairs[:, 1]]])
        share, weight = np.append(share, np.full(len(pairs), 0.5)), np.append(weight, np.full(len(pairs), prior))
    elif not connected(one, other, share, count):
        raise InputError(
            "The choices must not split into a group that always wins and the rest: their distance has no finite estimate",
            hint="prior=0.5",
        )
    strength, bread = _newton(design, share, weight)
    error, freedom = bread, math.inf
    if raters is not None:
        left = (weight * (share - _logistic(design @ strength)))[: len(one), None] * design[: len(one)]
        names, who = np.unique(np.asarray(raters), return_inverse=True)
        sums = np.zeros((len(names), count))
        np.add.at(sums, who, left)
        if len(names) < 2:
            raise InputError("The 'raters' must be at least 2 for an error over raters", got="1", hint="raters=None")
        error, freedom = bread @ sums.T @ sums @ bread * len(names) / (len(names) - 1), len(names) - 1
    spread = np.sqrt(np.clip(np.diag(error), 0, None))
    half = quantile(freedom) * spread
    return Strengths(values=strength, low=strength - half, high=strength + half, error=spread, covariance=error)


def _newton(design: Array, share: Array, weight: Array) -> tuple[Array, Array]:
    """The strengths and the pseudo-inverse of their information."""
    count = design.shape[1]
    mean, strength = np.full((count, count), 1 / count), np.zeros(count)
    bread = np.eye(count)
    for _ in range(100):
        chance = _logistic(design @ strength)
        slope = design.T @ (weight * (share - chance))
        bread = np.linalg.inv(design.T * (weight * chance * (1 - chance)) @ design + mean) - mean
        step = bread @ slope
        strength = strength + step / max(1.0, float(np.abs(step).max()))  # steps of at most 1: it can't overshoot far
        if np.abs(step).max() < 1e-12:
            break
    return strength - strength.mean(), bread


def connected(one: Array, other: Array, share: Array, count: int) -> bool:
    """Whether everyone has beaten everyone else, directly or by way of others."""
    reach = np.eye(count, dtype=bool)
    reach[one[share > 0], other[share > 0]] = True
    reach[other[share < 1], one[share < 1]] = True
    for middle in range(count):
        reach |= reach[:, [middle]] & reach[[middle]]
    return bool(reach.all())


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def quantile(freedom: float) -> float:
    """Student's t, two-sided 95 %."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom)) if freedom > 0 else math.nan


def jackknifed(value: Callable[[Array], float], rows: Array) -> Estimate:
    """A figure of a table with an interval from leaving out each of its rows once (Student's t)."""
    whole, count = value(rows), len(rows)
    if count < 3 or not math.isfinite(whole):
        return Estimate(value=whole)
    each = np.array([value(np.delete(rows, i, 0)) for i in range(count)])
    error = math.sqrt((count - 1) / count * float(((each - each.mean()) ** 2).sum()))
    half = quantile(count - 1) * error
    return Estimate(value=whole, low=max(-1.0, whole - half), high=min(1.0, whole + half), error=error)


def cohen_kappa(one: Any, other: Any, *, weights: str | None = None) -> Estimate:
    """How far do two raters agree beyond chance?

    1 - Σ w·observed / Σ w·expected, with w = 1 for any disagreement, or the distance of the answers ("linear") or its
    square ("quadratic"), which are for answers in an order, as whole numbers. NaN where both always give one answer.

    Source: Cohen 1960 and 1968. The interval leaves out each case once.

    Example:
        >>> round(cohen_kappa([0, 0, 1, 1], [0, 0, 1, 0]).value, 3)
        0.5
    """
    pairs = np.stack([np.asarray(one), np.asarray(other)], 1)
    if weights not in (None, "linear", "quadratic"):
        raise InputError("The 'weights' must be None, 'linear' or 'quadratic'", got=repr(weights))
    power = {None: 0, "linear": 1, "quadratic": 2}[weights]

    def value(rows: Array) -> float:
        cost = np.abs(rows[:, [0]] - rows[None, :, 1]).astype(float)
        cost = (cost > 0).astype(float) if power == 0 else cost**power
        chance = float(cost.mean())
        return 1 - float(np.diag(cost).mean()) / chance if chance > 0 else math.nan

    return jackknifed(value, pairs)


def fleiss_kappa(counts: Any) -> Estimate:
    """How far do several raters agree beyond chance?

    `counts` (cases, categories) says how many raters put a case into a category; cases with fewer than two raters are
    left out, and cases may have different numbers of raters. NaN where all answers are of one category.

    Source: Fleiss 1971, eqs. 1 to 9. The interval leaves out each case once.

    Example:
        >>> round(fleiss_kappa([[2, 0], [0, 2], [1, 1], [2, 0]]).value, 3)
        0.467
    """
    table = np.asarray(counts, float)
    table = table[table.sum(1) >= 2]

    def value(rows: Array) -> float:
        raters = rows.sum(1)
        agree = float(((rows * (rows - 1)).sum(1) / (raters * (raters - 1))).mean())
        chance = float(((rows.sum(0) / rows.sum()) ** 2).sum())
        return (agree - chance) / (1 - chance) if chance < 1 else math.nan

    return jackknifed(value, table) if len(table) else Estimate(value=math.nan)


def intraclass_correlation(ratings: Any) -> Estimate:
    """Which share of the ratings' variance is of the cases, not of raters or error? ICC(2,1): absolute agreement.

    `ratings` (cases, raters), complete: each rater, one of many that might have been asked, rated each case once.

    Source: Shrout & Fleiss 1979, case 2; interval: McGraw & Wong 1996, table 7.

    Example:
        >>> round(intraclass_correlation([[1, 2], [3, 4], [5, 6]]).value, 3)  # 8 / (8 + 1)
        0.889
    """
    from scipy.stats import f

    x = np.asarray(ratings, float)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise InputError("The 'ratings' must be a complete table of 2 or more cases and raters", got=f"shape {x.shape}")
    n, k = x.shape
    rows, columns = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    case = k * float(((rows - x.mean()) ** 2).sum()) / (n - 1)
    rater = n * float(((columns - x.mean()) ** 2).sum()) / (k - 1)
    rest = float(((x - rows - columns + x.mean()) ** 2).sum()) / ((n - 1) * (k - 1))
    below = case + (k - 1) * rest + k * (rater - rest) / n
    if below <= 0:
        return Estimate(value=math.nan)
    value = (case - rest) / below
    if rest <= 0:
        return Estimate(value=value)
    ratio, own = rater / rest, n * (1 + (k - 1) * value) - k * value
    freedom = (k - 1) * (n - 1) * (k * value * ratio + own) ** 2
    freedom /= (n - 1) * (k * value * ratio) ** 2 + own**2
    up, down = (float(f.ppf((1 + LEVEL) / 2, *v)) for v in ((n - 1, freedom), (freedom, n - 1)))
    spread = k * rater + (k * n - k - n) * rest
    low, high = n * (case - up * rest) / (up * spread + n * case), n * (down * case - rest) / (spread + n * down * case)
    return Estimate(value=value, low=low, high=high)


def mixed_effects(y: Any, design: Any, people: Any) -> list[Estimate]:
    """What does each column of a design do to people's answers, when each person has a level of their own?

    y = design · b + u(person) + noise, with normal u and noise: the random-intercept model, by restricted maximum
    likelihood. The first column of `design` (N, columns) is usually 1. Intervals by Student's t, with the freedom of
    comparisons within people for columns that vary within them, and else that of comparisons between people.

    Known failure: where the effect itself differs from person to person, intervals are too narrow; compare with the mean
    of each person's own difference. Source: Laird & Ware 1982; Pinheiro & Bates 2000, §2.4.2, for the freedom.

    Example:
        >>> found = mixed_effects([1, 3, 2, 4.5], [[1, 0], [1, 1], [1, 0], [1, 1]], [0, 0, 1, 1])
        >>> round(found[1].value, 2)
        2.25
    """
    from scipy.optimize import minimize_scalar

    values, x = np.asarray(y, float), np.asarray(design, float)
    who = np.unique(np.asarray(people), return_inverse=True)[1]
    total, columns = x.shape
    if total <= columns or np.linalg.matrix_rank(x) < columns:
        raise InputError("The 'design' must have independent columns, fewer than answers", got=f"shape {x.shape}")
    size = np.bincount(who).astype(float)
    sums = np.zeros((len(size), columns + 1))
    both = np.column_stack([x, values])
    np.add.at(sums, who, both)
    square = both.T @ both

    def fit(ratio: float) -> tuple[float, Array, Array, float]:
        moment = square - sums.T * (ratio / (1 + ratio * size)) @ sums
        inverse = np.linalg.inv(moment[:-1, :-1])
        slope = inverse @ moment[:-1, -1]
        rest = max(float(moment[-1, -1] - moment[:-1, -1] @ slope), 1e-300)
        told = (total - columns) * math.log(rest) + float(np.log1p(ratio * size).sum())
        return told - float(np.linalg.slogdet(inverse)[1]), slope, inverse, rest / (total - columns)

    found = minimize_scalar(lambda z: fit(math.exp(z))[0], bounds=(-12, 12), method="bounded", options={"xatol": 1e-8})
    ratio = math.exp(found.x) if found.fun < fit(0.0)[0] else 0.0
    _, slope, inverse, noise = fit(ratio)
    mean = np.zeros((len(size), columns))
    np.add.at(mean, who, x)
    inside = np.abs(x - (mean / size[:, None])[who]).max(0) > 1e-12
    freedom = np.where(inside, total - len(size) - inside.sum(), len(size) - (~inside).sum())
    error = np.sqrt(noise * np.diag(inverse))
    half = np.array([quantile(float(d)) for d in freedom]) * error
    return [
        Estimate(value=float(b), low=float(b - h), high=float(b + h), error=float(e))
        for b, h, e in zip(slope, half, error, strict=True)
    ]


def participants_needed(
    difference: float,
    *,
    spread: float,
    answers: int = 1,
    between: bool = False,
    person: float = 0.0,
    power: float = 0.8,
) -> int:
    """How many people are needed to find a difference between two conditions?

    Within people, each gives `answers` in both conditions, and the error of one person's difference is
    √(person² + 2·spread² / answers), where `person` is the standard deviation, over people, of the true difference.
    Between people, it is that of a person's mean, √(person² + spread² / answers), where `person` is that of their levels;
    the number is of both groups together. Two-sided t test at 5 %, exact by the non-central t.

    Args:
        difference: what matters if it is there: 0.1 for ten points of accuracy.
        spread: standard deviation of one answer about the person's own level; √(p (1 - p)) for shares.
        answers: per person and condition.
        between: whether each person meets one condition only.
        person: see above.
        power: the chance to find the difference if it is there.

    Source: Cohen 1988, chapter 2.

    Example:
        >>> participants_needed(0.5, spread=1 / 2**0.5), participants_needed(0.5, spread=1.0, between=True)
        (34, 128)
    """
    from scipy.stats import nct, t

    for name, value in (("difference", abs(difference)), ("spread", spread)):
        if not math.isfinite(value) or value <= 0:
            raise InputError(f"The '{name}' must be a finite number other than 0", got=repr(value))
    if not 0 < power < 1 or answers < 1 or person < 0:
        raise InputError("The 'power' must lie between 0 and 1, 'answers' be at least 1 and 'person' at least 0")
    own = math.sqrt(person**2 + (1 if between else 2) * spread**2 / answers)
    groups = 2 if between else 1

    def reached(people: int) -> bool:
        """Whether so many people a group are enough."""
        freedom = groups * (people - 1)
        shift = abs(difference) / own * math.sqrt(people / groups)
        limit = float(t.ppf(0.975, freedom))
        found = float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift))
        return shift > 30 if math.isnan(found) else found >= power

    high = 2
    while not reached(high):
        high *= 2
        if high > 1 << 24:
            raise InputError("The 'difference' must be within reach of 16 million people", got=repr(difference))
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= 2 and reached(middle) else (middle, high)
    return groups * high
