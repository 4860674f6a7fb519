"""The games world: cooperative games of which every player's share is known in closed form.

Each game is a module from presence ``(N, players)`` to worth ``(N, 1)``, so that any method that hands out a score among
features can be checked against it. Between 0 and 1 a presence is a probability: the worth is the expected one when every
player comes independently of the others (the multilinear extension of Owen 1972), whose gradients are exact.

The Shapley value is the mean marginal worth of a player over all orders of arrival; the interaction is that of Grabisch
& Roubens 1999: the mean, over the orders in which two players arrive as one, of what they are worth together beyond what
each is worth without the other. Sums over coalitions are never taken: each family has its formula.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError
from pellucid.worlds.world import generator

__all__ = [
    "Between",
    "CountGame",
    "Game",
    "TermGame",
    "additive",
    "airport",
    "examples",
    "glove",
    "majority",
    "security_council",
    "symmetric",
    "synergies",
    "unanimity",
]

Weight = Callable[[int, int], float]

MOST_CELLS = 1 << 16
MOST_PLAYERS = 56  # binomial coefficients of more are no longer exact in float64


class Game(nn.Module, abc.ABC):
    """A cooperative game as a network, with what each player is due.

    ``shapley`` and ``banzhaf`` are ``(players,)``, ``interactions`` is ``(players, players)``, symmetric with a zero
    diagonal; all float64, in the units of the worth.

    >>> from pellucid import worlds
    >>> game = worlds.games.glove(left=1, right=2)
    >>> [round(share, 4) for share in game.shapley.tolist()]
    [0.6667, 0.1667, 0.1667]
    """

    title: str
    players: int

    def __init__(self, title: str, players: int) -> None:
        super().__init__()
        if not 1 <= players <= MOST_PLAYERS:
            raise InputError(f"A game must have from 1 to {MOST_PLAYERS} players", got=str(players))
        self.title, self.players = title, players

    @property
    @abc.abstractmethod
    def shapley(self) -> Tensor:
        """The Shapley value of each player, (players,)."""

    @property
    @abc.abstractmethod
    def banzhaf(self) -> Tensor:
        """The Banzhaf value of each player, (players,): its mean marginal worth over all coalitions of the others."""

    @property
    @abc.abstractmethod
    def interactions(self) -> Tensor:
        """The Shapley interaction index of each pair, (players, players)."""

    def worth(self, coalition: Iterable[int]) -> float:
        """What the players with these numbers are worth together."""
        presence = torch.zeros(1, self.players, dtype=torch.float64)
        presence[0, list(coalition)] = 1.0
        return float(self(presence))

    def between(self, absent: Sequence[float], present: Sequence[float]) -> Between:
        """The game played with features: a player comes as its column moves from ``absent`` to ``present``."""
        return Between(self, absent, present)

    def extra_repr(self) -> str:
        return f"{self.title!r}, players={self.players}"


class Between(nn.Module):
    """A game over the columns of a table: presence is ``(x - absent) / (present - absent)``, column by column.

    The row ``present`` explained against the baseline ``absent`` has the game's own Shapley values.
    """

    absent: Tensor
    range: Tensor

    def __init__(self, game: Game, absent: Sequence[float], present: Sequence[float]) -> None:
        super().__init__()
        self.game = game
        low, high = (torch.as_tensor(row, dtype=torch.float64) for row in (absent, present))
        if low.shape != (game.players,) or high.shape != (game.players,) or bool((low == high).any()):
            raise InputError(
                f"'absent' and 'present' must be {game.players} numbers each, different in every column",
                got=f"shapes {tuple(low.shape)} and {tuple(high.shape)}, {int((low == high).sum())} equal"
                if low.shape == high.shape
                else f"shapes {tuple(low.shape)} and {tuple(high.shape)}",
            )
        self.register_buffer("absent", low)
        self.register_buffer("range", high - low)

    def forward(self, rows: Tensor) -> Tensor:
        return self.game((rows - self.absent.to(rows.dtype)) / self.range.to(rows.dtype))


class TermGame(Game):
    """A weighted sum of terms, each of which counts when *all*, or when *any*, of some players are there.

    The weights of terms of the first kind are the game's Harsanyi dividends. A term of m players gives each ``w / m``
    (Shapley) and ``w / 2^(m-1)`` (Banzhaf), and each pair of them the interaction ``w / (m - 1)``, negative where any
    of them is enough, as such players stand in for each other.
    """

    members: Tensor
    weights: Tensor

    def __init__(self, title: str, members: np.ndarray, weights: Sequence[float], *, any_of: bool = False) -> None:
        super().__init__(title, members.shape[1])
        self.any_of = any_of
        self.register_buffer("members", torch.from_numpy(members.astype(bool)))
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float64))

    def forward(self, presence: Tensor) -> Tensor:
        _check_presence(presence, self.players)
        factors = (1 - presence if self.any_of else presence)[:, None]
        met = torch.where(self.members, factors, factors.new_ones(())).prod(dim=2)
        return ((1 - met if self.any_of else met) @ self.weights.to(presence.dtype))[:, None]

    @property
    def shapley(self) -> Tensor:
        return (self.weights / self._sizes) @ self.members.double()

    @property
    def banzhaf(self) -> Tensor:
        return (self.weights * 2 ** (1 - self._sizes)) @ self.members.double()

    @property
    def interactions(self) -> Tensor:
        pairs = self.members.double()
        shares = torch.where(self._sizes > 1, self.weights / (self._sizes - 1).clamp(min=1), 0.0)
        found = pairs.T @ (shares[:, None] * pairs)
        return (-found if self.any_of else found).fill_diagonal_(0.0)

    @property
    def _sizes(self) -> Tensor:
        return self.members.double().sum(dim=1)


class CountGame(Game):
    """A game whose worth depends only on how many players of each kind are there.

    ``kinds`` has each player's kind, from 0; ``table[c_0, c_1, ...]`` the worth of ``c_k`` players of kind k. Values are
    hypergeometric sums over the table's cells.
    """

    table: Tensor

    def __init__(self, title: str, kinds: Sequence[int], table: np.ndarray) -> None:
        super().__init__(title, len(kinds))
        self.kinds = tuple(kinds)
        self.counts = tuple(self.kinds.count(kind) for kind in range(table.ndim))
        assert table.shape == tuple(count + 1 for count in self.counts)
        self.register_buffer("table", torch.from_numpy(np.ascontiguousarray(table, dtype=np.float64)))

    def forward(self, presence: Tensor) -> Tensor:
        _check_presence(presence, self.players)
        worth = self.table.to(presence.dtype).expand(len(presence), *self.table.shape)
        for kind in reversed(range(len(self.counts))):
            columns = [i for i, other in enumerate(self.kinds) if other == kind]
            chances = _how_many(presence[:, columns])
            worth = (worth * chances.reshape(len(presence), *[1] * kind, -1)).sum(dim=-1)
        return worth[:, None]

    @property
    def shapley(self) -> Tensor:
        return self._each(lambda others, size: 1 / ((others + 1) * math.comb(others, size)))

    @property
    def banzhaf(self) -> Tensor:
        return self._each(lambda others, size: 0.5**others)

    @property
    def interactions(self) -> Tensor:
        def weight(others: int, size: int) -> float:
            return 1 / ((others + 1) * math.comb(others, size))

        found = torch.zeros(self.players, self.players, dtype=torch.float64)
        known: dict[tuple[int, ...], float] = {}
        for i in range(self.players):
            for j in range(i):
                pair = tuple(sorted((self.kinds[i], self.kinds[j])))
                if pair not in known:
                    known[pair] = self._mean_gain(pair, weight)
                found[i, j] = found[j, i] = known[pair]
        return found

    def _each(self, weight: Weight) -> Tensor:
        shares = [self._mean_gain((kind,), weight) for kind in range(len(self.counts))]
        return torch.tensor([shares[kind] for kind in self.kinds], dtype=torch.float64)

    def _mean_gain(self, joining: tuple[int, ...], weight: Weight) -> float:
        """The weighted sum, over coalitions of the others, of the (mixed) difference that these players make."""
        gain, left = self.table.numpy(), list(self.counts)
        for kind in joining:
            gain = np.diff(gain, axis=kind)
            left[kind] -= 1
        others = sum(left)
        ways, size = np.ones(()), np.zeros((), dtype=np.int64)
        for count in left:
            ways = ways[..., None] * np.array([math.comb(count, c) for c in range(count + 1)], dtype=np.float64)
            size = size[..., None] + np.arange(count + 1)
        weights = np.array([weight(others, s) for s in range(others + 1)])
        return float((gain * ways * weights[size]).sum())


def additive(worths: Sequence[float]) -> TermGame:
    """Everyone brings their own worth: the Shapley values are the worths, and nobody interacts."""
    return TermGame("additive", np.eye(len(worths)), worths)


def unanimity(players: int, members: Sequence[int], worth: float = 1.0) -> TermGame:
    """``worth`` is made when all ``members`` are there: each of them gets an equal part, everyone else nothing."""
    chosen = sorted(set(members))
    if not chosen or not all(isinstance(i, int) and 0 <= i < players for i in chosen):
        raise InputError(f"The 'members' must be numbers from 0 to {players - 1}, at least one", got=repr(members))
    rows = np.zeros((1, players))
    rows[0, chosen] = 1
    return TermGame("unanimity", rows, [worth])


def airport(costs: Sequence[float]) -> TermGame:
    """The runway of a group costs what its largest aircraft needs (Littlechild & Owen 1973).

    Each stretch of runway is paid in equal parts by all who need it.
    """
    needs = np.asarray(costs, dtype=np.float64)
    if needs.ndim != 1 or not len(needs) or (needs < 0).any():
        raise InputError("The 'costs' of the airport game must be numbers that are not negative", got=repr(costs))
    steps = np.unique(np.concatenate([[0.0], needs]))
    return TermGame("airport", needs[None] >= steps[1:, None], np.diff(steps).tolist(), any_of=True)


def glove(left: int, right: int) -> CountGame:
    """Players hold one glove each, the ``left`` ones first; a pair is worth 1 (Shapley & Shubik 1969)."""
    if left < 1 or right < 1:
        raise InputError("The glove game must have gloves for both hands", got=f"left={left}, right={right}")
    table = np.minimum(np.arange(left + 1)[:, None], np.arange(right + 1)[None])
    return CountGame("glove", [0] * left + [1] * right, table)


def majority(weights: Sequence[int], quota: int) -> CountGame:
    """A group wins, and is worth 1, when its votes reach the ``quota`` (the index of Shapley & Shubik 1954)."""
    if not all(isinstance(w, int) and w >= 0 for w in weights) or not 0 < quota <= sum(weights):
        raise InputError(
            "Votes must be whole numbers that are not negative, and reach the 'quota'", got=f"{weights}, quota={quota}"
        )
    kinds = sorted(set(weights), reverse=True)
    counts = [list(weights).count(kind) for kind in kinds]
    if math.prod(count + 1 for count in counts) > MOST_CELLS:
        raise InputError(f"The votes must make at most {MOST_CELLS} different groups", got=f"{len(kinds)} kinds")
    votes = np.zeros(())
    for kind, count in zip(kinds, counts, strict=True):
        votes = votes[..., None] + kind * np.arange(count + 1)
    return CountGame("majority", [kinds.index(w) for w in weights], votes >= quota)


def security_council() -> CountGame:
    """The United Nations Security Council: nine votes of fifteen, among them those of the five permanent members.

    Players 0 to 4 are permanent. Their Shapley value is 421/2145 each, that of the others 4/2145.
    """
    game = majority([7] * 5 + [1] * 10, quota=39)
    game.title = "security council"
    return game


def symmetric(worths: Sequence[float]) -> CountGame:
    """A group of s players is worth ``worths[s]``, whoever they are; ``worths[0]`` is what nobody is worth."""
    if len(worths) < 2:
        raise InputError("The 'worths' must be those of 0, 1, ... players", got=repr(worths))
    return CountGame("symmetric", [0] * (len(worths) - 1), np.asarray(worths))


def synergies(players: int = 6, seed: int = 0, order: int | None = None) -> TermGame:
    """Random Harsanyi dividends between -1 and 1 for every coalition of at most ``order`` players.

    Any game that is worth nothing without players can come out with ``order=None``; its values follow from the dividends.
    """
    limit = players if order is None else order
    if not 1 <= players <= 14 or not 1 <= limit <= players:
        raise InputError(
            "Synergies must have from 1 to 14 'players', and an 'order' from 1 to their number",
            got=f"players={players}, order={order}",
        )
    members = (np.arange(1, 1 << players)[:, None] >> np.arange(players)) & 1
    dividends = 2 * generator(seed, "synergies").random(len(members)) - 1
    kept = members.sum(axis=1) <= limit
    return TermGame("synergies", members[kept], dividends[kept].tolist())


def examples() -> tuple[Game, ...]:
    """A small game of every kind, for tests of methods that hand out a score."""
    return (
        additive([1.0, -2.0, 0.5, 0.0]),
        unanimity(5, [0, 2, 3], worth=6.0),
        airport([1.0, 4.0, 4.0, 9.0, 0.0]),
        glove(left=2, right=4),
        majority([4, 3, 2, 1], quota=6),
        symmetric([0.5, 0.0, 3.0, 3.5, -1.0]),
        synergies(5, seed=0),
        synergies(6, seed=1, order=2),
    )


def _how_many(presence: Tensor) -> Tensor:
    """The chance of 0, 1, ... of independent players being there, (N, columns) to (N, columns + 1)."""
    chances = presence.new_ones(len(presence), 1)
    for column in presence.T:
        chance = column[:, None]
        chances = nn.functional.pad(chances * (1 - chance), (0, 1)) + nn.functional.pad(chances * chance, (1, 0))
    return chances


def _check_presence(presence: Tensor, players: int) -> None:
    if presence.dim() != 2 or presence.shape[1] != players or not presence.is_floating_point():
        raise InputError(
            f"The presence of a game must be floating, (N, {players})",
            got=f"shape {tuple(presence.shape)} of {presence.dtype}",
        )
