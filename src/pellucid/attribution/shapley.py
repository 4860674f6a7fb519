"""Which share of the score is each feature due? Shapley values from all coalitions, and what features earn in pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject
from pellucid.engine.coalition import Game, cost_of, every, game

__all__ = ["ShapleyValue"]

# Coalitions whose worths are held as numbers and as a design at once: a row of 22 players takes 32 MiB.
MOST_PLAYERS = 22
TREES = {
    "000": "behavioural/functional/perturbation",
    "001": "visualization/perturbation",
    "002": "post-hoc/saliency/perturbation",
    "003": "passive/attribution/local",
}
EXEMPT = {"complete": "the features' figures sum to the change in score; each value carries its feature's figure whole"}
FILL = float | str | tuple[float | str, ...]


@dataclass(frozen=True, kw_only=True)
class ShapleyValue(Method):
    """Which share of the score is each feature due, if all orders in which features may come are equally likely?

    ``values[i] = Σ_S |S|! (M - |S| - 1)! / M! · (v(S + i) - v(S))`` over all coalitions S of the other features, in
    score units; positive raises the score. ``v(S)`` is the score with the features of S as they are and the others
    filled, averaged over the background where one is given. The features' figures sum to S(x) - v(nobody). Every value
    of a feature carries its figure, which is one figure and not shares of it; ``parts["players"]`` (rows, features)
    has each once.

    Facts: ``score``, ``baseline_score``, ``completeness_gap`` (what rounding leaves), ``forwards`` a row.

    Args:
        features: what counts as one feature: "element", "column", "token", "channel", "pixel", ("grid", cells per
            axis), ("patch", side), ("superpixels", number), or groups of columns ((0, 1), (2,)). "auto": columns of
            tables, the second axis of sequences, a grid for images.
        cells: cells along each axis of the grid that "auto" lays over images.
        baseline: what fills an absent feature: a number, or "zero", "mean", "blur", "min", "max"; a tuple of them
            averages. ``data=`` gives background rows to average over instead, or
            ``{"groups": integer masks of features, "background": rows}``. With ``layer=``, all this is about the
            layer's values.
        interactions: also ``parts["interactions"]`` (rows, features, features): off the diagonal the Shapley interaction
            index, by how much two features are worth more together than apart; on it, the value without half of
            its interactions, so that each row of the matrix, its off-diagonal halved, sums to the value.
        limit: most forwards for the whole call; beyond, the call is refused before the model runs.

    Cost: 2^M forwards per row and background row.
    Known failure: results depend on the fill, which may make inputs that never occur; features that carry the same
    information share what it is worth.
    Source: Shapley 1953, eq. 12; with v as in Štrumbelj & Kononenko 2010, eqs. 3 and 4; interactions: Grabisch &
    Roubens 1999, the Shapley interaction index.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).eval()
        >>> result = px.explain(net, torch.ones(1, 3), px.attribution.ShapleyValue())
        >>> torch.allclose(result.values, net.weight, atol=1e-6)
        True
    """

    features: str | tuple[Any, ...] = "auto"
    cells: int = 3
    baseline: FILL = 0.0
    interactions: bool = False
    limit: int = 1 << 22

    card: ClassVar[Card] = Card(
        name="shapley-value",
        title="Shapley values",
        question="Which share of the score is each feature due, whoever came before it?",
        form="attribution",
        scope="local",
        citation="shapley1953value",
        needs=("predictions",),
        data_types=("any",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "deterministic",
            "complete",
            "linear",
            "dummy",
            "symmetric",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        exempt=EXEMPT,
        trial={"cells": 2},
        cost="2 to the number of features, times the background's rows, forwards",
        supports=(
            "each feature's share of the difference to the fill, fairly divided",
            "which pairs of features are worth more, or less, together than apart",
        ),
        limits=(
            "another fill or background: the figures may differ",
            "causes in the world: the figure is about the network's answer",
            "more than about 20 features: the coalitions are too many",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        played = game(ask, self.features, self.baseline, self.cells)
        check_cost(played, self.limit)
        worth = played.worth(every(played.players), label=self.card.title)
        phi, parts = values_of(worth), {}
        if self.interactions:
            parts["interactions"] = _with_main_effects(interactions_of(worth), phi)
        forwards = worth.shape[1] * played.background
        return attribution(played, phi, (worth[:, 0], worth[:, -1]), forwards=forwards, parts=parts)


def check_cost(played: Game, limit: int) -> None:
    """Refuse, before the model runs, a game with too many coalitions to ask about."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError("The 'limit' must be an int of at least 1", got=repr(limit), hint="limit=2**22")
    cost = cost_of(played, math.ldexp(1.0, played.players))
    if cost > limit or played.players > MOST_PLAYERS:
        raise InputError(
            f"The exact Shapley values must take at most limit={limit} forwards and {MOST_PLAYERS} features",
            got=f"{cost:.3g} forwards: 2^{played.players} coalitions × {played.background} fills × "
            f"{played.held.rows} rows",
            hint="'shapley-sampling' or 'kernel-shap', which sample; fewer or larger features; a smaller background",
        )


def values_of(worth: Tensor) -> Tensor:
    """Shapley values (rows, players) from the worths of all coalitions (rows, 2^players), numbered as in `every`."""
    players = int(worth.shape[1]).bit_length() - 1
    size = every(players).sum(1)
    weight = torch.tensor([1 / (players * math.comb(players - 1, s)) for s in range(players)], dtype=worth.dtype)
    found = worth.new_empty(worth.shape[0], players)
    for player in range(players):
        # Coalitions in order fall into blocks without and with the player, one after the other.
        halves = worth.reshape(worth.shape[0], -1, 2, 1 << player)
        others = size.reshape(-1, 2, 1 << player)[:, 0]
        found[:, player] = ((halves[:, :, 1] - halves[:, :, 0]) * weight[others]).flatten(1).sum(1)
    return found


def interactions_of(worth: Tensor) -> Tensor:
    """Shapley interaction indices (rows, players, players) with a zero diagonal, from the worths of all coalitions."""
    players = int(worth.shape[1]).bit_length() - 1
    rows, size = worth.shape[0], every(players).sum(1)
    pairs = range(players - 1)
    weight = torch.tensor([1 / ((players - 1) * math.comb(players - 2, s)) for s in pairs], dtype=worth.dtype)
    found = worth.new_zeros(rows, players, players)
    for high in range(players):
        for low in range(high):
            shape = (-1, 2, 1 << (high - low - 1), 2, 1 << low)
            v, others = worth.reshape(rows, *shape), size.reshape(*shape)[:, 0, :, 0]
            apart = v[:, :, 1, :, 0] + v[:, :, 0, :, 1]
            gain = v[:, :, 1, :, 1] + v[:, :, 0, :, 0] - apart
            found[:, high, low] = found[:, low, high] = (gain * weight[others]).flatten(1).sum(1)
    return found


def _with_main_effects(pairs: Tensor, phi: Tensor) -> Tensor:
    return pairs + torch.diag_embed(phi - pairs.sum(2) / 2)


def wide(phi: Tensor, error: Tensor, tolerance: float) -> Tensor:
    """Which rows' standard errors are above the tolerance."""
    return (error**2).mean(1).sqrt() > tolerance * (phi**2).mean(1).sqrt()


def attribution(
    played: Game,
    phi: Tensor,
    ends: tuple[Tensor, Tensor],
    *,
    forwards: Tensor | int,
    error: Tensor | None = None,
    parts: dict[str, Tensor] | None = None,
    facts: dict[str, Tensor] | None = None,
) -> Attribution:
    """The result of figures (rows, players) with what was measured; `ends` are the worths of nobody and of all."""
    nobody, everybody = ends
    told = {
        "score": everybody,
        "baseline_score": nobody,
        "completeness_gap": (phi.sum(1) - (everybody - nobody)).abs(),
        "forwards": torch.as_tensor(forwards).expand(len(phi)).double(),
    }
    told |= {} if error is None else {"standard_error": (error**2).mean(1).sqrt()}
    return Attribution(
        values=played.spread(phi),
        baseline=played.baseline,
        error=None if error is None else played.spread(error),
        parts={"players": phi, **(parts or {})},
        facts=told | (facts or {}),
    )
