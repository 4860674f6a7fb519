"""How much does the answer hang on a feature? Features replaced by draws that know nothing of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.shapley import TREES, attribution
from pellucid.attribution.shapley_sampling import Walk, check_settings
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.coalition import Game, game
from pellucid.engine.data import as_rows

__all__ = ["QuantitativeInputInfluence"]

DRAWS, ORDERS = b"draws", b"orders"
AGGREGATES = ("shapley", "unary")


@dataclass(frozen=True, kw_only=True)
class QuantitativeInputInfluence(Method):
    """How much does the network's answer hang on each column, alone or on top of other columns?

    Columns are replaced by draws from their own marginal distribution in ``data=``, each independently of all others,
    which breaks correlations: a column that the network does not use gets zero however well it predicts one that it
    does. ``aggregate="unary"``: ``values[i] = S(x) - E S(x with column i drawn)``. ``"shapley"``: the mean over random
    orders of what replacing column i costs on top of those before it; these sum to S(x) minus the mean score of the
    draws. In score units; positive means that the row's own value raises the score. `error` is the standard error over
    the draws.

    Influence is linear in the rows, so the mean of values over the rows of a group is the influence on the group's
    outcome, and the difference of two groups' means the influence on the disparity between them.

    Facts: ``score``, ``baseline_score`` (mean score of whole draws), ``completeness_gap``, ``standard_error``,
    ``forwards`` a row.

    Args:
        aggregate: "shapley" or "unary".
        draws: how many draws. Each column goes through the data's values equally often, as far as the number allows.

    Cost: 2 × draws × (columns - 1) forwards a row, or draws × columns, and draws.
    Known failure: independent draws make rows that never occur, on which networks were not trained; the noise that the
    source adds for privacy is left out.
    Source: Datta, Sen & Zick 2016, definitions 2 to 4 and §III-B.

    Example:
        >>> import torch, pellucid as px
        >>> net, rows = torch.nn.Linear(3, 1).eval(), torch.eye(3)
        >>> result = px.explain(net, torch.ones(1, 3), "qii", data=rows)
        >>> torch.allclose(result.values, net.weight * 2 / 3, atol=0.05)
        True
    """

    aggregate: str = "shapley"
    draws: int = 258

    card: ClassVar[Card] = Card(
        name="qii",
        title="Quantitative input influence",
        question="How much does the answer hang on this column itself, whatever it is correlated with?",
        form="attribution",
        scope="local",
        citation="datta2016algorithmic",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "seeded",
            "linear",
            "dummy",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"draws": 36},
        cost="516 forwards per column",
        supports=("columns that the network uses, told apart from columns that go along with them",),
        limits=(
            "rows that can't occur: the network's answers to them count",
            "columns whose figures differ by less than their standard errors",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings(None, draws=self.draws)
        if self.draws < 2:
            raise MethodError("The 'draws' must be at least 2", got=repr(self.draws))
        if self.aggregate not in AGGREGATES:
            raise MethodError(f"The 'aggregate' must be one of {AGGREGATES}", got=repr(self.aggregate))
        played = game(replace(ask, data=self._drawn(ask)), "column")
        ask.path = played.ask.path
        whole = torch.zeros(self.draws + 1, played.players, dtype=torch.bool)
        whole[-1] = True
        found = played.each(whole, torch.arange(self.draws + 1).clamp(max=self.draws - 1))
        starts, score = found[:, :-1], found[:, -1]
        if self.aggregate == "unary" or played.players < 2:
            gains, cost = self._alone(played, score), played.players
        else:
            gains, cost = self._in_orders(played, ask.seed, (starts, score)), 2 * (played.players - 1)
        forwards = self.draws * (cost + 1) + 1
        error = gains.std(1) / self.draws**0.5
        return attribution(played, gains.mean(1), (starts.mean(1), score), forwards=forwards, error=error)

    def _drawn(self, ask: Ask) -> Tensor:
        """Rows whose columns are drawn independently of each other, (draws, columns)."""
        given = as_rows(ask.data).inputs.floats
        if len(given) != 1 or given[0].dim() != 2:
            got = ", ".join(str(tuple(x.shape)) for x in given) or "no floating tensor"
            raise InputError("The 'data' must be a table (rows, columns)", got=got)
        rows, columns = given[0].shape
        draws = seed.generator(ask.seed, DRAWS, 0)
        rounds = -(-self.draws // rows)
        order = torch.from_numpy(draws.random((rounds, rows, columns)).argsort(1)).reshape(-1, columns)
        return given[0].gather(0, order[: self.draws].to(given[0].device))

    def _alone(self, played: Game, score: Tensor) -> Tensor:
        """What each draw of each column costs by itself, (rows, draws, columns)."""
        present = ~torch.eye(played.players, dtype=torch.bool).repeat(self.draws, 1)
        which = torch.arange(self.draws).repeat_interleave(played.players)
        left = played.each(present, which).reshape(len(score), self.draws, played.players)
        return score[:, None, None] - left

    def _in_orders(self, played: Game, number: int, starts: tuple[Tensor, Tensor]) -> Tensor:
        """The mean gain of each column along an order and its reverse, (rows, draws, columns)."""
        drawn = seed.generator(number, ORDERS, 0).random((self.draws, played.players))
        orders, walk = torch.from_numpy(drawn).argsort(1), Walk(played, "antithetic", self.draws)
        rows = torch.arange(len(starts[1]))
        parts = [walk.gains(orders[units], units, rows, starts) for units in walk.split(len(rows), 1)]
        return torch.cat(parts, 1)
