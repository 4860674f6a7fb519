"""Which share of the score is each feature due? A weighted regression on coalitions, the telling ones first."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.shapley import EXEMPT, FILL, TREES, attribution, wide
from pellucid.attribution.shapley_sampling import check_settings
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.coalition import BLOCK, Game, game

__all__ = ["KernelShap"]

PAIRS = b"pairs"
# Up to here all coalitions of a size are shuffled; beyond, draws hardly ever meet.
SHUFFLED = 1 << 17
COUNTABLE = 1 << 62
MIXED = 0
LEAST_LEFT = 0.05


@dataclass(frozen=True, kw_only=True)
class KernelShap(Method):
    """Which share of the score is each feature due, by the additive model that fits the scores of coalitions best?

    ``values`` minimise ``Σ_S k(S) (v(S) - v(nobody) - Σ_{i in S} values[i])²`` with the sum fixed to
    S(x) - v(nobody), where ``k(S) = (M - 1) / (C(M, |S|) |S| (M - |S|))``; over all coalitions these are the Shapley
    values. In score units; positive raises the score. ``v(S)`` is the score with the features of S as they are and the
    others filled, averaged over the background where one is given.

    A coalition is always asked with its complement. Sizes are enumerated from one player, and all but one, inwards
    while their share of ``samples`` allows it; the rest is drawn without replacement within each size, or across sizes
    where the samples are too few for that. All rows share one design, which depends on ``seed`` alone. `error` is the
    standard error of each value from the spread of the residuals within each size; it is zero where every coalition
    was asked.

    Facts: ``score``, ``baseline_score``, ``completeness_gap``, ``standard_error`` (root mean square over the features),
    ``coalitions``, ``forwards`` a row; ``converged`` with a tolerance.

    Args:
        features: what counts as one feature, as for `ShapleyValue`.
        cells: cells along each axis of the grid that "auto" lays over images.
        baseline: what fills an absent feature, as for `ShapleyValue`; ``data=`` gives background rows and groups as there.
        samples: coalitions a row is asked about beside those of one player and of all but one.
        tolerance: go on doubling the samples of a row until its standard error is below this share of the root mean
            square of its values; scores that are known are kept.
        max_samples: most samples per row.

    Cost: 2 × features + samples + 2 forwards, times the background's rows.
    Known failure: the standard error of few sampled pairs is itself uncertain; a background that differs from the data
    asks about inputs that never occur.
    Source: Lundberg & Lee 2017, §4.1 with theorem 2; pairs as in Covert & Lee 2021, §3.2.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(16, 1).eval()
        >>> result = px.explain(net, torch.ones(1, 16), px.attribution.KernelShap(samples=32))
        >>> torch.allclose(result.values, net.weight, atol=1e-6)
        True
    """

    features: str | tuple[Any, ...] = "auto"
    cells: int = 8
    baseline: FILL = 0.0
    samples: int = 2048
    tolerance: float | None = None
    max_samples: int = 1 << 16

    card: ClassVar[Card] = Card(
        name="kernel-shap",
        title="Kernel SHAP",
        question="Which shares of the score add up best to what coalitions of features get?",
        form="attribution",
        scope="local",
        citation="lundberg2017unified",
        needs=("predictions",),
        data_types=("any",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "seeded",
            "complete",
            "linear",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        exempt=EXEMPT,
        trial={"samples": 4, "cells": 3},
        cost="2048 forwards and 2 per feature, times the background's rows",
        supports=("each feature's share of the difference to the fill, with its standard error",),
        limits=(
            "another fill or background: the figures may differ",
            "features whose figures differ by less than their standard errors",
            "causes in the world: the figure is about the network's answer",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple(c for c in self.card.claims if c != "linear" or self.tolerance is None)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings(self.tolerance, samples=self.samples, max_samples=self.max_samples)
        if self.samples < 4:
            raise MethodError("The 'samples' must be at least 4, two pairs of coalitions", got=repr(self.samples))
        played = game(ask, self.features, self.baseline, self.cells)
        count = ask.inputs.rows
        phi, error = (torch.empty(count, played.players, dtype=torch.float64) for _ in range(2))
        ends, asked = torch.empty(count, 2, dtype=torch.float64), torch.zeros(count, dtype=torch.long)
        most = self.samples if self.tolerance is None else max(self.samples, self.max_samples)
        tall = max(1, BLOCK // (2 * played.players + most))
        for rows in torch.arange(count).split(tall):
            present = torch.stack([torch.zeros(played.players), torch.ones(played.players)]).bool()
            ends[rows] = played.worth(present, rows=rows)
            change = ends[rows, 1] - ends[rows, 0]
            phi[rows], error[rows], asked[rows] = self._settle(played, ask.seed, rows, change)
        facts = {"coalitions": asked.double() + 2}
        if self.tolerance is not None:
            facts["converged"] = (~wide(phi, error, self.tolerance)).double()
        forwards = facts["coalitions"] * played.background
        return attribution(played, phi, (ends[:, 0], ends[:, 1]), forwards=forwards, error=error, facts=facts)

    def _settle(self, played: Game, number: int, rows: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, standard errors and coalitions asked, with more samples until the tolerance is met."""
        count, samples = len(rows), self.samples
        phi, error = (torch.empty(count, played.players, dtype=torch.float64) for _ in range(2))
        asked, todo = torch.zeros(count, dtype=torch.long), torch.arange(count)
        known: dict[int, Tensor] = {}
        while len(todo):
            strata = plan(played.players, samples // 2)
            chosen = [s.coalitions(number) for s in strata]
            known = _ask(played, rows[todo], strata, chosen, known)
            odd = [known[s.size] for s in strata]
            phi[todo], error[todo] = fit(strata, chosen, odd, change[todo])
            asked[todo] = 2 * sum(s.count for s in strata)
            samples *= 2
            if self.tolerance is None or samples > self.max_samples or all(s.complete for s in strata):
                break
            unsure = wide(phi[todo], error[todo], self.tolerance)
            todo, known = todo[unsure], {k: v[unsure] for k, v in known.items()}
        return phi, error, asked


@dataclass(frozen=True)
class Stratum:
    """`count` of the `total` pairs of a coalition of `size` players and its complement, or of those of `several` sizes.

    `mass` is the weight of all its pairs in the regression together.
    """

    players: int
    size: int
    count: int
    total: int
    mass: float
    several: tuple[int, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every pair is in it, and nothing is left to chance."""
        return self.count == self.total and not self.several

    def coalitions(self, number: int) -> Tensor:
        """The smaller coalition of each pair, (count, players); more of the same stratum begin with the same."""
        draws = seed.generator(number, PAIRS, self.size)
        if self.several:
            chances = np.array([mass_of(self.players, s) for s in self.several])
            sizes = np.asarray(self.several)[draws.choice(len(chances), self.count, p=chances / chances.sum())]
            place = seed.generator(number, PAIRS, self.players).random((self.count, self.players)).argsort(1).argsort(1)
            return torch.from_numpy(place < sizes[:, None])
        if self.total > COUNTABLE:
            return torch.from_numpy(draws.random((self.count, self.players)).argsort(1).argsort(1) < self.size)
        return torch.from_numpy(subsets(_distinct(draws, self.count, self.total), self.players, self.size))


def mass_of(players: int, size: int) -> float:
    """The kernel's weight of all pairs of this size and its complement."""
    return (players - 1) / (size * (players - size)) / (2 if 2 * size == players else 1)


def total_of(players: int, size: int) -> int:
    """How many such pairs there are."""
    return math.comb(players, size) // (2 if 2 * size == players else 1)


def plan(players: int, pairs: int) -> list[Stratum]:
    """Which pairs to ask about: those of one player, then size by size as long as the share of a size holds it all."""
    sizes = list(range(1, players // 2 + 1))
    mass, total = {s: mass_of(players, s) for s in sizes}, {s: total_of(players, s) for s in sizes}
    found, left = [Stratum(players, s, total[s], total[s], mass[s]) for s in sizes[:1]], pairs
    inner = sizes[1:]
    while inner and left * mass[inner[0]] >= total[inner[0]] * sum(mass[s] for s in inner):
        size = inner.pop(0)
        found.append(Stratum(players, size, total[size], total[size], mass[size]))
        left -= total[size]
    if not inner:
        return found
    rest = sum(mass[s] for s in inner)
    if left < 2 * len(inner):
        return [*found, Stratum(players, MIXED, max(2, left), -1, rest, tuple(inner))]
    spare = left - 2 * len(inner)
    for size in inner:
        count = min(total[size], 2 + int(spare * mass[size] / rest))
        found.append(Stratum(players, size, count, total[size], mass[size]))
    return found


def _distinct(draws: np.random.Generator, count: int, total: int) -> np.ndarray:
    """`count` different numbers below `total`; asking for more begins with the same."""
    if total <= SHUFFLED:
        return draws.permutation(total)[:count]
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        found = np.concatenate([found, draws.integers(total, size=4096)])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return found[:count]


def subsets(number: np.ndarray, players: int, size: int) -> np.ndarray:
    """The coalitions (n, players) of `size` players with these numbers, in lexicographic order.

    Of two complements of equal size, the one with the first player.
    """
    held = np.zeros((len(number), players), dtype=bool)
    left, rank = np.full(len(number), size), number.astype(np.int64)
    first = 2 * size == players
    if first:
        held[:, 0], left = True, left - 1
    for player in range(int(first), players):
        with_it = _followers(players - player - 1, size)[left]
        held[:, player] = rank < with_it
        rank = np.where(held[:, player], rank, rank - with_it)
        left = left - held[:, player]
    return held


@functools.cache
def _followers(others: int, size: int) -> np.ndarray:
    """In how many ways k - 1 more can be chosen among the others, for each k up to `size`; all large counts alike."""
    return np.array([min(math.comb(others, k - 1), COUNTABLE) if k else 0 for k in range(size + 1)])


def _ask(
    played: Game, rows: Tensor, strata: list[Stratum], chosen: list[Tensor], known: dict[int, Tensor]
) -> dict[int, Tensor]:
    """Half of what each coalition is worth more than its complement, (rows, pairs) per stratum; known ones are kept."""
    start = {s.size: known[s.size].shape[1] if s.size in known else 0 for s in strata}
    fresh = torch.cat([c[start[s.size] :] for s, c in zip(strata, chosen, strict=True)] or [torch.empty(0, 1)]).bool()
    worth = played.worth(torch.cat([fresh, ~fresh]), rows=rows, label=KernelShap.card.title)
    odd = (worth[:, : len(fresh)] - worth[:, len(fresh) :]) / 2
    found, at = {}, 0
    for s in strata:
        more = s.count - start[s.size]
        part = odd[:, at : at + more]
        found[s.size] = torch.cat([known[s.size], part], 1) if s.size in known else part
        at += more
    return found


def fit(strata: list[Stratum], chosen: list[Tensor], odd: list[Tensor], change: Tensor) -> tuple[Tensor, Tensor]:
    """Values and standard errors (rows, players), from half of each pair's difference in worth.

    The constrained regression on coalitions and complements depends on these differences alone: with
    ``t = present - 1/2`` it minimises ``Σ w (odd - t·φ)²`` with ``Σ φ = change``.
    """
    if not strata:
        return change[:, None], torch.zeros_like(change[:, None])
    signs = [c.double() - 0.5 for c in chosen]
    weight = [s.mass / s.count for s in strata]
    ones = torch.ones(signs[0].shape[1], 1, dtype=torch.float64)
    # Where the sum of φ is fixed, adding to the square of the sum changes nothing, and makes the matrix regular.
    gram = ones @ ones.T + sum(w * t.T @ t for w, t in zip(weight, signs, strict=True))
    inverse = torch.linalg.inv(gram)
    along = inverse @ ones
    kept = inverse - along @ along.T / along.sum()
    moment = sum(w * o @ t for w, o, t in zip(weight, odd, signs, strict=True))
    phi = moment @ kept + change[:, None] * (along / along.sum()).T
    square = torch.zeros_like(phi)
    for s, w, o, t in zip(strata, weight, odd, signs, strict=True):
        if not s.complete:
            square += _sampled(s, w, o - phi @ t.T, t, t @ kept)
    return phi, square.clamp(min=0).sqrt()


def _sampled(stratum: Stratum, weight: float, residual: Tensor, signs: Tensor, pull: Tensor) -> Tensor:
    """The variance that one stratum's draws bring in: how much its pairs' pulls on φ differ.

    A pair draws the fit towards itself by its leverage, so its residual is that much too small.
    """
    leverage = weight * (signs * pull).sum(1)
    residual = residual / (1 - leverage).clamp(min=LEAST_LEFT)
    count = stratum.count
    spread = residual**2 @ (weight * pull) ** 2 - (residual @ (weight * pull)) ** 2 / count
    share = 0.0 if stratum.several else count / stratum.total
    return spread * (1 - share) * count / (count - 1)
