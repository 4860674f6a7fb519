"""Answering only where a figure says that it can be trusted: how often that is then wrong, with a bound that holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STARTS = 5
EDGE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Answer where the figure is at least `threshold`: what was measured on held-out rows, and what is promised.

    `answered` of `rows` held-out rows reach the threshold, of which `wrong` are wrong. With `confidence`, the share of
    wrong answers above it is at most `risk`.
    """

    threshold: float
    rows: int
    answered: int
    wrong: int
    risk: float
    confidence: float

    @property
    def coverage(self) -> float:
        """The share of rows that are answered."""
        return self.answered / self.rows


def curve(figure: Tensor, wrong: Tensor) -> Tensor:
    """The share of wrong answers among the k rows with the largest figures, for k = 1 … n, (n,).

    Rows with equal figures stand in every order, so that among them the share is the expected one.
    """
    score, bad = figure.detach().cpu().double(), wrong.detach().cpu().double()
    order = score.argsort(descending=True, stable=True)
    score, bad = score[order], bad[order]
    _, group, size = torch.unique_consecutive(score, return_inverse=True, return_counts=True)
    inside = torch.zeros(len(size), dtype=torch.float64).index_add_(0, group, bad) / size
    return inside[group].cumsum(0) / torch.arange(1, len(score) + 1)


def ranking(figure: Tensor, right: Tensor) -> dict[str, float]:
    """How well the figure puts right answers above wrong ones: the area under the ROC curve with its 95 % interval.

    The area is the chance that a right row's figure is larger than a wrong row's, ties counting half. The interval is
    Newcombe's (2006, method 5), which stays in 0 … 1 and does not shrink to a point at its ends; without any wrong or
    any right row the area is NaN.
    """
    from scipy.stats import rankdata

    good = right.detach().cpu().bool()
    ranks = torch.from_numpy(rankdata(figure.detach().cpu().double().numpy()))
    m, n = int(good.sum()), int((~good).sum())
    if not m or not n:
        return {"auroc": math.nan, "low": 0.0, "high": 1.0, "right": m, "wrong": n}
    area = (float(ranks[good].sum()) - m * (m + 1) / 2) / (m * n)
    low, high = _newcombe(area, m, n)
    return {"auroc": area, "low": low, "high": high, "right": m, "wrong": n}


def _newcombe(area: float, m: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    if min(m, n) < 2:
        return 0.0, 1.0
    from scipy.optimize import brentq

    half = (m + n) / 2

    def away(true: float) -> float:
        spread = true * (1 - true) / ((m - 1) * (n - 1))
        spread *= 2 * half - 1 - (3 * half - 3) / ((2 - true) * (1 + true))
        return (area - true) ** 2 - z * z * spread

    # Within the interval the difference is negative, at 0 and 1 it is not: one root on either side of the area.
    inside = min(max(area, EDGE), 1 - EDGE)
    low = 0.0 if area <= 0 else brentq(away, 0.0, inside)
    high = 1.0 if area >= 1 else brentq(away, inside, 1.0)
    return float(low), float(high)


def most_wrong(wrong: int, rows: int, confidence: float) -> float:
    """What the share of wrong answers is at most, by Clopper and Pearson, after so many of so many rows were wrong."""
    from scipy.stats import beta

    return 1.0 if wrong >= rows else float(beta.ppf(confidence, wrong + 1, rows - wrong))


def rule(figure: Tensor, wrong: Tensor, risk: float, confidence: float) -> Rule | None:
    """The threshold that answers most rows while at most `risk` of the answers are wrong, with this confidence.

    The rows with the largest fifth of the figures are tested first: how likely were so few errors if the risk were above
    `risk`? While that is unlikely, one more row is let in. The same begins anew at two, three, four fifths and at all rows,
    and each of the five walks gets a fifth of the chance of error that is allowed. `None` where none holds: fewer errors or
    more rows would be needed. The promise is of rows drawn as these were.
    """
    from scipy.stats import binom

    score, bad = figure.detach().cpu().double(), wrong.detach().cpu().bool()
    order = score.argsort(descending=True, stable=True)
    score, errors = score[order], bad[order].cumsum(0)
    # The last row of each run of equal figures: thresholds can't part equal rows.
    ends = torch.cat([score[1:] != score[:-1], torch.ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    counts = ends + 1
    unlikely = torch.from_numpy(binom.cdf(errors[ends].numpy(), counts.numpy(), risk)) <= (1 - confidence) / STARTS
    best = -1
    for start in range(1, STARTS + 1):
        place = int(torch.searchsorted(counts, math.ceil(start * len(score) / STARTS)))
        while place < len(ends) and bool(unlikely[place]):
            best, place = max(best, place), place + 1
    if best < 0:
        return None
    return Rule(
        threshold=float(score[ends[best]]),
        rows=len(score),
        answered=int(counts[best]),
        wrong=int(errors[ends[best]]),
        risk=risk,
        confidence=confidence,
    )
