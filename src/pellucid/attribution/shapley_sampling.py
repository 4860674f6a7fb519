"""Which share of the score is each feature due, where all coalitions are too many? Walks through random orders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.shapley import EXEMPT, FILL, MOST_PLAYERS, TREES, attribution, values_of, wide
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.coalition import BLOCK, Game, every, game
from pellucid.engine.settings import whole

__all__ = ["ShapleySampling"]

DESIGNS = ("auto", "plain", "antithetic", "circular")
# Bytes of a design of coalitions held at once, one per player and coalition.
DESIGN = 1 << 25
# Fewer circles than this leave their spread, and so the standard error, too uncertain.
LEAST_CIRCLES = 8
WALKS = b"walks"


@dataclass(frozen=True, kw_only=True)
class ShapleySampling(Method):
    """Which share of the score is each feature due, estimated from random orders in which features come?

    ``values[i]`` is the mean, over random orders, of what the score gains when feature i joins those before it, in score
    units; positive raises the score. A walk starts at one background row y and replaces feature after feature by the
    explained row's, so its gains sum to S(x) - S(y); every background row starts equally many walks, so the values sum
    to S(x) minus the background's mean score exactly. All rows walk the same orders, which depend on ``seed`` alone.
    `error` is the standard error of each value: values ± t · error cover the exact ones, with Student's t for
    ``degrees_of_freedom``, as often as stated. Where asking all coalitions takes no more forwards, it is done instead,
    and the error is zero.

    Facts: ``score``, ``baseline_score``, ``completeness_gap``, ``standard_error`` (root mean square over the features),
    ``degrees_of_freedom``, ``walks`` (0 where all coalitions were asked), ``forwards`` a row; ``converged`` with a
    tolerance.

    Args:
        features: what counts as one feature, as for `ShapleyValue`.
        cells: cells along each axis of the grid that "auto" lays over images.
        baseline: what fills an absent feature, as for `ShapleyValue`; ``data=`` gives background rows and groups as there.
        walks: walks per row, rounded up to the same number, at least two, of draws for each background row.
        design: "plain": independent orders; "antithetic": each order and its reverse; "circular": an order closed to a
            circle and walked from every player both ways, which meets every player at every place equally often and asks
            half as many coalitions, so that M walks' forwards make 2M walks. "auto": circular where the walks
            suffice for eight circles and two for each background row, else antithetic.
        tolerance: go on doubling the walks of a row until its standard error is below this share of the root mean
            square of its values.
        max_walks: most walks per row.

    Cost: walks × (features - 1) forwards per row, and one per background row.
    Known failure: a background that differs from the data asks about inputs that never occur; the standard error of few
    walks is itself uncertain.
    Source: Castro, Gómez & Tejada 2009, §3 (orders); Štrumbelj & Kononenko 2010, §4 (background rows).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(12, 1).eval()
        >>> result = px.explain(net, torch.ones(1, 12), px.attribution.ShapleySampling(walks=8))
        >>> torch.allclose(result.values, net.weight, atol=1e-6)
        True
    """

    features: str | tuple[Any, ...] = "auto"
    cells: int = 8
    baseline: FILL = 0.0
    walks: int = 64
    design: str = "auto"
    tolerance: float | None = None
    max_walks: int = 1 << 14

    card: ClassVar[Card] = Card(
        name="shapley-sampling",
        title="Shapley values by sampling",
        question="Which share of the score is each of many features due, and how sure is that?",
        form="attribution",
        scope="local",
        citation="castro2009polynomial",
        needs=("predictions",),
        data_types=("any",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "seeded",
            "complete",
            "linear",
            "dummy",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        exempt=EXEMPT,
        trial={"walks": 4, "cells": 2},
        cost="64 forwards per feature, 1 per background row",
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
        check_settings(self.tolerance, walks=self.walks, max_walks=self.max_walks)
        if self.design not in DESIGNS:
            raise MethodError(f"The 'design' must be one of {DESIGNS}", got=repr(self.design))
        played = game(ask, self.features, self.baseline, self.cells)
        walk = Walk(played, self.design, self.walks)
        phi, error = (torch.empty(ask.inputs.rows, played.players, dtype=torch.float64) for _ in range(2))
        ends = torch.empty(ask.inputs.rows, 2, dtype=torch.float64)
        rounds = torch.zeros(ask.inputs.rows, dtype=torch.long)
        tall = max(1, BLOCK // (played.background * played.players))
        for rows in torch.arange(ask.inputs.rows).split(tall):
            starts = _starts(played, rows)
            ends[rows] = torch.stack([starts[0].mean(1), starts[1]], 1)
            phi[rows], error[rows], rounds[rows] = self._settle(walk, ask.seed, rows, starts)
        facts = {"walks": rounds * walk.of_round, "degrees_of_freedom": (rounds - 1).clamp(min=0) * played.background}
        if self.tolerance is not None:
            facts["converged"] = ~wide(phi, error, self.tolerance)
        forwards = torch.where(rounds > 0, rounds * walk.cost + played.background + 1, walk.cost_of_all)
        return attribution(
            played,
            phi,
            (ends[:, 0], ends[:, 1]),
            forwards=forwards,
            error=error,
            facts={k: v.double() for k, v in facts.items()},
        )

    def _settle(
        self, walk: Walk, number: int, rows: Tensor, starts: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, standard errors and rounds of these rows: more rounds until the tolerance is met."""
        played, count = walk.played, len(rows)
        total = torch.zeros(count, played.background, played.players, dtype=torch.float64)
        square = torch.zeros(count, played.players, dtype=torch.float64)
        phi, error = torch.zeros_like(square), torch.zeros_like(square)
        rounds, todo, done, more = torch.zeros(count, dtype=torch.long), torch.arange(count), 0, walk.rounds
        while len(todo):
            if played.players < 3 or walk.cost_of_all <= (done + more) * walk.cost:
                phi[todo], error[todo], rounds[todo] = values_of(_all(played, rows[todo])), 0.0, 0
                break
            orders, sums = _orders(number, done, more, played), torch.zeros_like(total[todo])
            own = (starts[0][todo], starts[1][todo])
            for units in walk.split(len(todo), more):
                found = walk.gains(orders[units], units % played.background, rows[todo], own)
                sums.index_add_(1, units % played.background, found)
                square[todo] += (found**2).sum(1)
            total[todo] += sums
            done += more
            rounds[todo] = done
            phi[todo], error[todo] = _moments(total[todo], square[todo], done)
            more = done
            if self.tolerance is None or (done + more) * walk.of_round > self.max_walks:
                break
            todo = todo[wide(phi[todo], error[todo], self.tolerance)]
        return phi, error, rounds


@dataclass(frozen=True, eq=False)
class Walk:
    """How coalitions are visited: units of one order each, `background` of them a round, so that each fill has one."""

    played: Game
    wanted: str
    walks: int

    @property
    def design(self) -> str:
        """Plain, antithetic or circular."""
        if self.wanted != "auto":
            return self.wanted
        enough = self.walks >= self.played.players * max(LEAST_CIRCLES, 2 * self.played.background)
        return "circular" if enough else "antithetic"

    @property
    def of_unit(self) -> int:
        """Walks whose forwards one unit costs."""
        return {"plain": 1, "antithetic": 2, "circular": self.played.players}[self.design]

    @property
    def of_round(self) -> int:
        """Walks whose forwards one round costs."""
        return self.of_unit * self.played.background

    @property
    def rounds(self) -> int:
        """At least two, so that the spread can be told."""
        return max(2, -(-self.walks // self.of_round))

    @property
    def cost(self) -> int:
        """Forwards of one round."""
        return self.of_round * (self.played.players - 1)

    @property
    def cost_of_all(self) -> float:
        """Forwards that all coalitions take, or infinitely many where they can't be held."""
        players = self.played.players
        return math.inf if players > MOST_PLAYERS else float((1 << players) * self.played.background)

    def split(self, rows: int, rounds: int) -> tuple[Tensor, ...]:
        """The units of so many rounds, in parts whose scores and coalitions may be held at once."""
        jobs = max(1, self.of_unit * (self.played.players - 1))
        part = min(BLOCK // (rows * jobs), DESIGN // (jobs * self.played.players))
        return torch.arange(rounds * self.played.background).split(max(1, part))

    def gains(self, orders: Tensor, fills: Tensor, rows: Tensor, starts: tuple[Tensor, Tensor]) -> Tensor:
        """What each player gains on arrival, the mean over each unit's walks: (rows, units, players).

        `orders` (units, players) has each player's place; `fills` (units,) each unit's fill; `starts` the scores of the
        rows' fills (rows, fills) and of the rows.
        """
        players = self.played.players
        present = self._visited(orders)
        which = fills[:, None].expand(-1, present.shape[1] * present.shape[2]).flatten()
        scores = self.played.each(present.flatten(0, 2), which, rows=rows)
        scores = scores.reshape(len(rows), len(orders), -1, players - 1)
        first = starts[0][:, fills, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([first, scores, starts[1][:, None, None, None].expand_as(first)], 3)
        return self._shared(orders, scores)

    def _visited(self, orders: Tensor) -> Tensor:
        """The coalitions (units, walks, players - 1, players) between nobody and everybody."""
        players = self.played.players
        size = torch.arange(1, players)[:, None]
        place = orders[:, None]
        if self.design == "antithetic":
            place = torch.stack([orders, players - 1 - orders], 1)
        elif self.design == "circular":
            place = (place - torch.arange(players)[:, None]) % players
        return place[:, :, None] < size

    def _shared(self, orders: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, units, walks, players + 1) along the walks as the mean gain of each player."""
        players, gain = self.played.players, scores.diff(dim=3)
        rows = gain.shape[0]
        if self.design != "circular":
            places = [orders] if self.design == "plain" else [orders, players - 1 - orders]
            found = [gain[:, :, k].gather(2, p.expand(rows, -1, -1)) for k, p in enumerate(places)]
            return torch.stack(found).mean(0)
        place = (orders[:, None] - torch.arange(players)[:, None]) % players
        forth = gain.gather(3, place.expand(rows, -1, -1, -1)).sum(2)
        # The same arcs the other way round: the player at p joins those who come after it.
        back = (scores[..., 1:] - scores.roll(-1, 2)[..., :-1]).sum(3)
        return (forth + back.gather(2, orders.expand(rows, -1, -1))) / (2 * players)


def check_settings(tolerance: float | None, **counts: int) -> None:
    """Refuse numbers that are none, and a tolerance that is not positive."""
    whole(**{name: (value, 1) for name, value in counts.items()})
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and 0 < tolerance < math.inf):
        raise MethodError("The 'tolerance' must be positive, or None", got=repr(tolerance), hint="0.05")


def _starts(played: Game, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of each row's fills (rows, fills), and of the row as it is (rows,)."""
    count = played.background
    present = torch.zeros(count + 1, played.players, dtype=torch.bool)
    present[-1] = True
    scores = played.each(present, torch.arange(count + 1).clamp(max=count - 1), rows=rows)
    return scores[:, :-1], scores[:, -1]


def _orders(number: int, done: int, more: int, played: Game) -> Tensor:
    """The place of each player in the orders of these rounds, (rounds × fills, players)."""
    drawn: np.ndarray = seed.generator(number, WALKS, done).random((more * played.background, played.players))
    return torch.from_numpy(drawn).argsort(1)


def _all(played: Game, rows: Tensor) -> Tensor:
    return played.worth(every(played.players), rows=rows)


def _moments(total: Tensor, square: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error from the sums (rows, fills, players) of each fill's units, and of all squares.

    Every fill has its share of the units, so only the spread around each fill's own mean is left to chance.
    """
    fills = total.shape[1]
    spread = (square - (total**2).sum(1) / rounds).clamp(min=0) / (fills * (rounds - 1))
    return total.sum(1) / (fills * rounds), (spread / (fills * rounds)).sqrt()
