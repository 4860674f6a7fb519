"""Which few parts of the input, shown alone, keep the network's answer? Greedy and streaming selection (STREAK)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError, NumericalError, TargetError
from pellucid.engine import Ask, Subject, coalition
from pellucid.engine.coalition import Game
from pellucid.engine.evaluation import random_order
from pellucid.engine.settings import whole
from pellucid.engine.target import Target

__all__ = ["Streak"]

WAYS = ("streaming", "greedy")
OBJECTIVES = ("auto", "log-probability", "score")


@dataclass(frozen=True, kw_only=True)
class Streak(Method):
    """Which few parts of the input, shown alone, keep the network's answer?

    ``f(S) = objective with the parts in S alone - objective with none``, the others being filled. A set S of at most
    ``parts`` parts is chosen that makes f large. ``values`` holds at every value of a chosen part what it added to f when
    it was taken, in nats where the objective is a log-probability; 0 at the others. They sum, part by part, to f(S).

    "streaming" meets the parts once, in random order, with a guess τ of how large f can be: part u is taken where
    ``f(S + u) - f(S) ≥ τ / k``. All guesses (1 - ε)^i that the largest f({u}) so far leaves open run side by side, and
    the best of their sets wins. "greedy" takes the part that adds most, k times. Where every part adds less the more there
    is already, greedy gets at least 63 % of the best f and streaming (1 - ε) / 2. Both stop where nothing adds.

    Facts: ``score``, the objective of the whole input; ``empty_score``, of none of its parts; ``kept_score``, of the chosen
    ones alone; ``kept``, how many; ``model_calls``, sets that the network was asked about. ``unanswered`` counts sets whose
    answer was not finite; they are never taken. ``parts["order"]`` (rows, k) numbers the chosen parts as they were taken,
    then -1; ``parts["met"]`` (rows, parts) is the order in which "streaming" met them.

    Args:
        features: what a part is; the paper's are ("superpixels", 30). See `Lime`. ``data={"groups": integer masks}``
            gives your own.
        parts: how many to choose at most, k.
        way: "streaming" or "greedy".
        epsilon: how far apart the guesses lie, ε; smaller costs more calls.
        objective: "log-probability" of the explained class (of scores, by softmax; of probabilities, as they are), "score",
            or "auto": the former where a class of several is explained.
        baseline: what stands where a part is not shown: a number, or "zero", "mean", "blur", "min", "max";
            ``data=`` gives rows whose objectives are averaged instead.

    Cost: at most k forwards per part for "greedy"; for "streaming" one per part and one per part and distinct set that a
    guess holds at that moment, typically 3 to 10.
    Known failures: what is left of the input never occurs, and the network's answer to it may owe more to the fill than to
    the parts shown; the bounds need f to be (nearly) submodular, which no network promises.
    Source: Elenberg, Dimakis, Feldman & Karbasi 2017, §4 (algorithms 1 and 2) and §6.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> net.weight.data = torch.tensor([[3.0, 1.0, -2.0, 2.0]])
        >>> px.explain(net, torch.ones(1, 4), Streak(parts=2, way="greedy")).values.tolist()
        [[3.0, 0.0, 0.0, 2.0]]
    """

    features: str | tuple[Any, ...] = "auto"
    parts: int = 5
    way: str = "streaming"
    epsilon: float = 0.2
    objective: str = "auto"
    baseline: float | str = 0.0

    card: ClassVar[Card] = Card(
        name="streak",
        title="STREAK",
        question="Which few parts of the input, shown alone, keep the network's answer?",
        form="attribution",
        scope="local",
        citation="elenberg2017streaming",
        needs=("predictions",),
        data_types=("any",),
        taxonomy={"001": "visualization/perturbation/streak", "003": "passive/attribution/local"},
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant"),
        trial={"parts": 3},
        cost="3 to 10 forwards for each part of the input, and 2",
        supports=("that the network still answers like this when it is shown these parts alone",),
        limits=(
            "parts that were not chosen: others may do as well, or say the same",
            "what happens when the chosen parts are taken away from the whole input",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        if self.way == "streaming":
            return self.card.claims
        return tuple("deterministic" if c == "seeded" else c for c in self.card.claims)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        asked = replace(ask, _target=objective(ask, self.objective))
        sets = _Sets(coalition.game(asked, self.features, self.baseline), self.card.title)
        most = min(self.parts, sets.players)
        met = random_order(ask.seed, ask.keys, sets.players) if self.way == "streaming" else None
        order, gains = _greedy(sets, most) if met is None else self._stream(sets, met, most)
        ask.path = asked.path
        facts = {
            "score": asked.score.double().cpu(),
            "empty_score": sets.empty,
            "kept_score": sets.empty + gains.sum(1),
            "kept": (order >= 0).sum(1).double(),
            "model_calls": sets.calls,
        }
        if bool(sets.unanswered.any()):
            facts["unanswered"] = sets.unanswered
        figures = torch.zeros(sets.rows, sets.players + 1, dtype=torch.float64)
        figures.scatter_(1, order.where(order >= 0, sets.players), gains)
        return Attribution(
            values=sets.game.spread(figures[:, : sets.players]),
            baseline=sets.game.baseline,
            facts=facts,
            parts={"order": order, **({} if met is None else {"met": met})},
        )

    def _check(self) -> None:
        whole(parts=(self.parts, 1))
        for name, known in (("way", WAYS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        if not 0 < self.epsilon < 1:
            raise MethodError("The 'epsilon' must lie between 0 and 1", got=repr(self.epsilon), hint="0.2")

    def _stream(self, sets: _Sets, orders: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Every row's parts in its order, each shown to all guesses at once."""
        every = torch.arange(sets.rows)
        alone = sets.worth(every, torch.eye(sets.players, dtype=torch.bool).expand(sets.rows, -1, -1))
        streams = [_Stream(most, self.epsilon) for _ in range(sets.rows)]
        for step in range(sets.players):
            waiting: dict[int, list[int]] = {}
            for row, stream in enumerate(streams):
                part = int(orders[row, step])
                stream.meet(part, float(alone[row, part]))
                waiting.setdefault(len(stream.open()), []).append(row)
            for count, rows in waiting.items():
                present = torch.zeros(len(rows), count, sets.players, dtype=torch.bool)
                for k, row in enumerate(rows):
                    for j, held in enumerate(streams[row].open()):
                        present[k, j, [*held, int(orders[row, step])]] = True
                worths = sets.worth(torch.tensor(rows), present) if count else torch.zeros(len(rows), 0)
                for row, found in zip(rows, worths.tolist(), strict=True):
                    streams[row].decide(found)
        return _table([stream.best() for stream in streams], most)


def objective(ask: Ask, wanted: str) -> Target:
    """The target as it is, or the logarithm of the explained class's probability."""
    settled = ask.target
    output = ask.output
    assert output is not None
    several = settled.index is not None and output.dim() == 2 and output.shape[1] > 1 and ask.unit_place is None
    if wanted == "log-probability" and not several:
        raise TargetError(
            "The log-probability is that of one class among several: the 'target' must be a class, and the output scores "
            "of shape (rows, classes)",
            got=f"an output of shape {tuple(output.shape)}",
            hint="objective='score'",
        )
    if wanted == "score" or not several:
        return settled
    shares = (output >= 0).all(1) & ((output.sum(1) - 1).abs() < 1e-3)
    return _LogProbability(settled.index, shares=shares)


@dataclass(frozen=True, eq=False)
class _LogProbability(Target):
    """The logarithm of a class's probability; `shares` marks the rows whose outputs are probabilities already."""

    shares: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        already = self.shares if rows is None else self.shares[rows.to(self.shares.device)]
        logs = output.clamp(min=torch.finfo(output.dtype).tiny).log()
        return super().score(torch.where(already[:, None].to(output.device), logs, output.log_softmax(1)), rows)


class _Sets:
    """f of sets of parts, asked of the network and counted."""

    def __init__(self, game: Game, label: str) -> None:
        self.game, self.label, self.players, self.rows = game, label, game.players, game.held.rows
        self.calls, self.unanswered = torch.zeros(2, self.rows, dtype=torch.float64)
        none = torch.zeros(1, self.players, dtype=torch.bool)
        self.empty = game.worth(none, label=label)[:, 0]
        self.calls += game.background
        if not bool(self.empty.isfinite().all()):
            bad = (~self.empty.isfinite()).nonzero()[:, 0].tolist()
            raise NumericalError(
                "The model's answer must be finite where no part is shown",
                got=f"NaN or infinity in row {bad[0]}",
                hint="another baseline",
            )

    def worth(self, rows: Tensor, present: Tensor) -> Tensor:
        """f of the sets `present` (rows, sets, players) of these rows, -inf where there is no finite answer."""
        found = self.game.worth(present, rows=rows, label=self.label)
        answered = found.isfinite()
        self.calls[rows] += present.shape[1] * self.game.background
        self.unanswered[rows] += (~answered).sum(1)
        return (found - self.empty[rows, None]).where(answered, -torch.inf)


def _greedy(sets: _Sets, most: int) -> tuple[Tensor, Tensor]:
    """The part that adds most (the first of equals), one after the other, while there is one that adds."""
    taken: list[list[tuple[int, float]]] = [[] for _ in range(sets.rows)]
    shown = torch.zeros(sets.rows, sets.players, dtype=torch.bool)
    held, rows = torch.zeros(sets.rows, dtype=torch.float64), torch.arange(sets.rows)
    for step in range(most):
        left = (~shown[rows]).nonzero()[:, 1].reshape(len(rows), sets.players - step)
        present = shown[rows][:, None].repeat(1, left.shape[1], 1).scatter(2, left[..., None], True)
        worths = sets.worth(rows, present)
        best = worths.argmax(1, keepdim=True)
        gain, part = worths.gather(1, best)[:, 0] - held[rows], left.gather(1, best)[:, 0]
        adds = gain > 0
        rows, gain, part = rows[adds], gain[adds], part[adds]
        if not len(rows):
            break
        for row, number, more in zip(rows.tolist(), part.tolist(), gain.tolist(), strict=True):
            taken[row].append((number, more))
        shown[rows, part] = True
        held[rows] += gain
    return _table(taken, most)


def _table(taken: list[list[tuple[int, float]]], most: int) -> tuple[Tensor, Tensor]:
    """(rows, k) numbers of the parts taken, then -1, and what each added, then 0."""
    order = torch.full((len(taken), most), -1)
    gains = torch.zeros(len(taken), most, dtype=torch.float64)
    for row, found in enumerate(taken):
        for place, (part, gain) in enumerate(found):
            order[row, place], gains[row, place] = part, gain
    return order, gains


class _Stream:
    """One row's guesses τ = (1 - ε)^i, each with the parts that it has taken and f after each of them."""

    def __init__(self, most: int, epsilon: float) -> None:
        self.most, self.shrink = most, 1 - epsilon
        self.largest, self.first, self.part = 0.0, -1, -1
        self.guesses: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] = {}

    def meet(self, part: int, alone: float) -> None:
        """The next part arrives; the largest f of one part says which guesses are worth running."""
        self.part, self.alone = part, alone
        if alone <= self.largest:
            return
        self.largest, self.first = alone, part
        high, low = self.most * alone, self.shrink * alone / (9 * math.exp(3) * self.most)
        span = [math.log(bound) / math.log(self.shrink) for bound in (high, low)]
        numbers = range(math.ceil(span[0] - 1e-9), math.floor(span[1] + 1e-9) + 1)
        self.guesses = {i: self.guesses.get(i, ((), ())) for i in numbers}

    def open(self) -> list[tuple[int, ...]]:
        """The distinct sets that have room, but for the empty one, whose answer is known."""
        return list(dict.fromkeys(held for held, _ in self.guesses.values() if 0 < len(held) < self.most))

    def decide(self, worths: list[float]) -> None:
        """Each guess takes the part where it adds enough; `worths` is f with it for each of the open sets."""
        known = {(): self.alone, **dict(zip(self.open(), worths, strict=True))}
        for number, (held, path) in self.guesses.items():
            if len(held) < self.most:
                before = path[-1] if path else 0.0
                if known[held] - before >= self.shrink**number / self.most:
                    self.guesses[number] = ((*held, self.part), (*path, known[held]))

    def best(self) -> list[tuple[int, float]]:
        """The parts of the best set with what each added: that of a guess, or the best part alone."""
        single = [((self.first,), (self.largest,))] if self.first >= 0 else []
        found = [pair for pair in (*single, *self.guesses.values()) if pair[1]]
        if not found:
            return []
        held, path = max(found, key=lambda pair: pair[1][-1])
        return [(part, now - before) for part, now, before in zip(held, path, (0.0, *path), strict=False)]
