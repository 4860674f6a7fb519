"""Several lines through one cloud of answers: a Dirichlet-process mixture of elastic-net regressions, by its mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ROUNDS = 200
MERGE_ROUNDS = 5
GAIN = 1e-7  # in log density per row: less than this is no progress


@dataclass(frozen=True, eq=False)
class Lines:
    """Components in descending order of their shares: intercepts (K,), slopes (K, d), variances (K,), shares (K,).

    `holds` (rows, K) says how probably each row belongs to each; `log_density` is what the mixture is chosen by.
    """

    intercepts: np.ndarray
    slopes: np.ndarray
    variances: np.ndarray
    shares: np.ndarray
    holds: np.ndarray
    log_density: float

    def at(self, z: np.ndarray) -> np.ndarray:
        """What each line says of each row, (rows, K)."""
        return z @ self.slopes.T + self.intercepts

    def near(self, z: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Log densities of the answers under each line, (rows, K)."""
        left = answers[:, None] - self.at(z)
        return -(left**2) / (2 * self.variances) - np.log(2 * math.pi * self.variances) / 2


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed before: concentration of the process, pairs (L1, L2) of the elastic nets, least variance."""

    concentration: float
    nets: tuple[tuple[float, float], ...]
    least: float


def mixture(z: np.ndarray, answers: np.ndarray, prior: Prior, holds: np.ndarray) -> Lines:
    """The mode found from these memberships (rows, K), with components merged for as long as that raises the density."""
    found = _converged(z, answers, prior, holds, ROUNDS)
    while found.holds.shape[1] > 1:
        best = max(
            (
                _converged(z, answers, prior, _joined(found.holds, one, other), MERGE_ROUNDS)
                for one, other in _alike(found)
            ),
            key=lambda lines: lines.log_density,
        )
        if best.log_density < found.log_density:
            break
        found = _converged(z, answers, prior, best.holds, ROUNDS)
    return found


def _alike(lines: Lines, most: int = 12) -> list[tuple[int, int]]:
    """The pairs of components whose lines differ least, weighed by the rows they hold."""
    count = len(lines.shares)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    gap = np.abs(lines.slopes[:, None] - lines.slopes[None]).sum(-1) + np.abs(
        lines.intercepts[:, None] - lines.intercepts[None]
    )
    weight = np.minimum(lines.shares[:, None], lines.shares[None])
    return sorted(pairs, key=lambda pair: float((gap * weight)[pair]))[:most]


def _joined(holds: np.ndarray, one: int, other: int) -> np.ndarray:
    joined = holds.copy()
    joined[:, one] += joined[:, other]
    return np.delete(joined, other, 1)


def _converged(z: np.ndarray, answers: np.ndarray, prior: Prior, holds: np.ndarray, rounds: int) -> Lines:
    """Expectation-maximisation from these memberships; components that lose their rows are dropped."""
    variances = np.full(holds.shape[1], max(float(answers.var()), prior.least))
    nets = np.full((holds.shape[1], len(prior.nets)), 1 / len(prior.nets))
    slopes = np.zeros((holds.shape[1], z.shape[1]))
    lines, before = None, -math.inf
    for _ in range(rounds):
        kept = holds.sum(0) > 2  # fewer rows than that draw no line
        kept[holds.sum(0).argmax()] = True
        order = np.flatnonzero(kept)[np.argsort(-holds.sum(0)[kept], kind="stable")]
        holds, variances, nets, slopes = holds[:, order], variances[order], nets[order], slopes[order]
        holds = holds / holds.sum(1, keepdims=True).clip(1e-300)
        lines = _maximised(z, answers, prior, holds, variances, nets, slopes)
        variances, slopes = lines.variances, lines.slopes
        weighed = lines.near(z, answers) + _log_shares(holds.sum(0), prior.concentration)
        top = weighed.max(1, keepdims=True)
        evidence = top[:, 0] + np.log(np.exp(weighed - top).sum(1))
        holds = np.exp(weighed - evidence[:, None])
        nets, belief = _nets(lines.slopes, prior.nets)
        price = (z.shape[1] + 2) / 2 * np.log(holds.sum(0).clip(2)).sum()
        now = float(evidence.sum() + belief - price)
        lines = Lines(lines.intercepts, lines.slopes, variances, holds.mean(0), holds, now)
        if now - before < GAIN * len(answers) and now >= before:
            break
        before = now
    assert lines is not None
    return lines


def _maximised(
    z: np.ndarray,
    answers: np.ndarray,
    prior: Prior,
    holds: np.ndarray,
    variances: np.ndarray,
    nets: np.ndarray,
    before: np.ndarray,
) -> Lines:
    """The penalised line and the variance of each component, given who belongs to it."""
    count = holds.shape[1]
    intercepts, slopes, found = np.empty(count), np.empty((count, z.shape[1])), np.empty(count)
    for k in range(count):
        weight, (one, two) = holds[:, k], nets[k] @ np.asarray(prior.nets)
        share = weight / weight.sum()
        middle, mean = share @ z, share @ answers
        around, above = z - middle, answers - mean
        heavy = share[:, None] * around
        # The density's exponent -Σ r e²/2σ² - λ₁|b| - λ₂ b², divided by Σ r / σ²: half a weighted mean square.
        scale = variances[k] / weight.sum()
        slopes[k] = elastic_net(around.T @ heavy, above @ heavy, scale * one, 2 * scale * two, before[k])
        intercepts[k] = mean - slopes[k] @ middle
        found[k] = max(float(share @ (above - around @ slopes[k]) ** 2), prior.least)
    return Lines(intercepts, slopes, found, holds.mean(0), holds, 0.0)


def elastic_net(gram: np.ndarray, pull: np.ndarray, one: float, two: float, start: np.ndarray) -> np.ndarray:
    """The minimiser of bᵀ gram b / 2 - pull · b + one |b|₁ + two |b|² / 2: exactly, one set of signs after the other.

    Given the signs, the slopes that are not zero solve a linear system. A slope that would change its sign leaves, and the
    step is cut short there; of those at zero, the one whose pull most exceeds `one` joins. So what is minimised only falls
    and no set comes twice. A `start` near the end saves most of the sets.
    """
    system = gram + max(two, 1e-12) * np.eye(len(pull))
    if one == 0:
        return np.linalg.solve(system, pull)
    found, signs = start.copy(), np.sign(start)
    for _ in range(20 * len(pull) + 20):
        _settle(system, pull, one, found, signs)
        left = pull - system @ found
        over = np.where(signs == 0, np.abs(left) - one, -np.inf)
        if over.max() <= 1e-12 * max(1.0, float(np.abs(pull).max())):
            break
        joining = int(over.argmax())
        signs[joining] = np.sign(left[joining])
    return found


def _settle(system: np.ndarray, pull: np.ndarray, one: float, found: np.ndarray, signs: np.ndarray) -> None:
    """Move to the minimum for these signs, in place, dropping those that would change on the way."""
    while len(held := np.flatnonzero(signs)):
        aim = np.linalg.solve(system[np.ix_(held, held)], pull[held] - one * signs[held])
        crossing = aim * signs[held] <= 0
        if not crossing.any():
            found[held] = aim
            return
        step = aim - found[held]
        reach = np.full(len(held), np.inf)
        reach[crossing] = -found[held][crossing] / step[crossing]
        first = int(reach.argmin())
        found[held] += reach[first] * step
        found[held[first]], signs[held[first]] = 0.0, 0.0


def _log_shares(sizes: np.ndarray, concentration: float) -> np.ndarray:
    """Expected logarithms of the shares that broken sticks have after so many rows each."""
    from scipy.special import digamma

    rest = sizes[::-1].cumsum()[::-1] - sizes
    one, two = 1 + sizes, concentration + rest
    both = digamma(one + two)
    return digamma(one) - both + np.concatenate([[0.0], (digamma(two) - both).cumsum()[:-1]])


def _nets(slopes: np.ndarray, pairs: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, float]:
    """How probably each component's slopes come from each elastic net (K, nets), and the log density of all slopes."""
    one, two = np.asarray(pairs, dtype=float).T
    log = np.stack([-one * np.abs(b).sum() - two * (b**2).sum() - len(b) * log_total(one, two) for b in slopes])
    log -= math.log(len(pairs))
    top = log.max(1, keepdims=True)
    evidence = top[:, 0] + np.log(np.exp(log - top).sum(1))
    return np.exp(log - evidence[:, None]), float(evidence.sum())


def log_total(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """log ∫ exp(-λ₁|b| - λ₂ b²) db, which makes an elastic net a density of one slope."""
    from scipy.special import log_ndtr

    root = np.sqrt(2 * two)
    # 2 √(π/λ₂) exp(λ₁²/4λ₂) Φ(-λ₁/√(2λ₂))
    return math.log(2) + np.log(math.pi / two) / 2 + one**2 / (4 * two) + log_ndtr(-one / root)
