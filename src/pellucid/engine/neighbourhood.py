"""Questions around an input, for simple models that imitate a network nearby: what is present in each, and the answers.

The questions belong to the seed alone, so that all rows are asked the same ones and one design serves them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import score, seed
from pellucid.engine.ask import Ask
from pellucid.engine.coalition import Game, every
from pellucid.engine.data import rows_like

BLOCK = 1024


class Questions(ABC):
    """A sequence of inputs near each row that can be continued: number i is the same whatever is asked before it."""

    players: int
    exact = False

    @abstractmethod
    def present(self, count: int, rows: Tensor) -> Tensor:
        """Which features the first `count` questions hold: (count, players), or (rows, count, players)."""

    @abstractmethod
    def ask(self, start: int, count: int, rows: Tensor, label: str) -> Tensor:
        """The answers (rows, count) to the questions from `start` on."""

    @abstractmethod
    def spread(self, figures: Tensor) -> object:
        """(rows, players) figures at the values of their features, in the structure of the inputs."""


class Switched(Questions):
    """Features on or off with even chances; every coalition once where that takes no more than `samples` questions."""

    def __init__(self, game: Game, samples: int) -> None:
        self.game, self.players = game, game.players
        self.exact = self.players < 31 and 1 << self.players <= samples
        self._drawn = every(self.players) if self.exact else torch.zeros(0, self.players, dtype=torch.bool)

    def present(self, count: int, rows: Tensor) -> Tensor:
        while len(self._drawn) < count and not self.exact:
            draw = seed.generator(self.game.ask.seed, b"neighbourhood", len(self._drawn) // BLOCK)
            fresh = torch.from_numpy(draw.random((BLOCK, self.players), dtype=np.float32) < 0.5)
            self._drawn = torch.cat([self._drawn, fresh])
        return self._drawn[:count]

    def ask(self, start: int, count: int, rows: Tensor, label: str) -> Tensor:
        return self.game.worth(self.present(start + count, rows)[start:], rows=rows, label=label)

    def spread(self, figures: Tensor) -> object:
        return self.game.spread(figures)


class Binned(Questions):
    """Tables: every column drawn from the data by itself; a feature is present where it falls into the row's own bin."""

    def __init__(self, ask: Ask, bins: int) -> None:
        data = rows_like(ask.data, ask.inputs).inputs.floats[0]
        if not bool(torch.isfinite(data).all()):
            raise InputError("The 'data' must be finite", got="NaN or infinity")
        self.of, self.data, self.players = ask, data, data.shape[1]
        self.edges = torch.quantile(data.double(), torch.arange(1, bins, dtype=torch.float64) / bins, dim=0)
        self.own = self._bin(ask.inputs.floats[0])
        self._drawn = torch.zeros(0, self.players, dtype=torch.long)

    def _bin(self, values: Tensor) -> Tensor:
        """In which bin each value falls: a value on an edge belongs to the lower one."""
        return (values.double()[:, None] > self.edges.to(values.device)).sum(1)

    def _which(self, count: int) -> Tensor:
        while len(self._drawn) < count:
            draw = seed.generator(self.of.seed, b"neighbourhood", len(self._drawn) // BLOCK)
            fresh = torch.from_numpy(draw.integers(len(self.data), size=(BLOCK, self.players)))
            self._drawn = torch.cat([self._drawn, fresh])
        return self._drawn[:count]

    def _values(self, which: Tensor) -> Tensor:
        return self.data[which.to(self.data.device), torch.arange(self.players, device=self.data.device)]

    def present(self, count: int, rows: Tensor) -> Tensor:
        drawn = self._bin(self._values(self._which(count)))
        return (drawn[None] == self.own[rows.to(self.own.device), None]).cpu()

    def ask(self, start: int, count: int, rows: Tensor, label: str) -> Tensor:
        which = self._which(start + count)[start:]
        found = torch.empty(self.of.inputs.rows, count, dtype=torch.float64)

        def fold(row: Tensor, step: Tensor, scores: Tensor) -> None:
            found[row, step] = scores.detach().cpu().double()

        score.sweep(
            self.of, count, lambda row, step: (self._values(which[step]),), fold, label=label, rows=rows.tolist()
        )
        return found[rows]

    def spread(self, figures: Tensor) -> object:
        like = self.of.inputs.floats[0]
        return self.of.inputs.wrap([figures.to(like.device, like.dtype)])
