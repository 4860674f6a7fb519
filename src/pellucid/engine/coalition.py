"""What does the network say while only some features are there? Features as players, coalitions as questions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import feature, fill, score
from pellucid.engine.ask import Ask
from pellucid.engine.data import as_rows
from pellucid.engine.feature import Features
from pellucid.engine.inputs import Inputs

# Scores held at once while they are averaged over the background.
BLOCK = 1 << 21


@dataclass(frozen=True, eq=False)
class Game:
    """Every row as a game: the worth of a coalition is the score with its features as they are, the others filled.

    `fills` has one tensor per explained tensor: (1 or rows, fills, ...). With several fills, a background, the worth is
    the mean score over them. Values that belong to no feature stay as they are.
    """

    ask: Ask
    held: Inputs
    features: Features
    fills: tuple[Tensor, ...]

    @property
    def players(self) -> int:
        """How many features."""
        return self.features.count

    @property
    def background(self) -> int:
        """Over how many fills a worth is averaged, each one forward."""
        return self.fills[0].shape[1]

    @property
    def baseline(self) -> Any:
        """The fill, in the structure of the inputs, where there is one alone."""
        if self.background > 1:
            return None
        return self.held.wrap([f[:, 0].expand_as(x) for f, x in zip(self.fills, self.held.floats, strict=True)])

    def worth(self, present: Tensor, *, rows: Tensor | None = None, label: str = "") -> Tensor:
        """The scores (rows, coalitions) in float64 with the features in `present` alone.

        `present` is boolean, (coalitions, players) for all rows or (rows, coalitions, players). With `rows`, only these
        are asked about, and `present` and the answer have as many. Cost: a forward per row, coalition and fill.
        """
        chosen = torch.arange(self.held.rows) if rows is None else rows.cpu()
        memo = self.ask.memo
        if memo is None:
            return self._worth(present, chosen, label)
        key = self._key(present, chosen)  # all or nothing, so that the bits do not depend on what was asked before
        if key not in memo:
            memo[key] = self._worth(present, chosen, label)
        return memo[key].clone()

    def _key(self, present: Tensor, rows: Tensor) -> bytes:
        """What the worth depends on beside the question itself."""
        digest = hashlib.blake2b(type(self).__qualname__.encode(), digest_size=16)
        for x in (present, rows, *self.features.labels, *self.fills):
            digest.update(f"{tuple(x.shape)}{x.dtype}".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.digest()

    def _worth(self, present: Tensor, chosen: Tensor, label: str) -> Tensor:
        shared = present.dim() == 2
        found = torch.empty(len(chosen), present.shape[-2], dtype=torch.float64)
        for a, b, c, d in self._blocks(*found.shape):
            part = present[c:d] if shared else present[a:b, c:d]
            found[a:b, c:d] = self._block(part, chosen[a:b], label)
        return found

    def each(self, present: Tensor, which: Tensor, *, rows: Tensor | None = None, label: str = "") -> Tensor:
        """The scores (rows, jobs) in float64 under one fill per job, its number in `which`, shaped like `present`.

        `present` is (jobs, players) or (rows, jobs, players). With `rows`, only these are asked about.
        """
        chosen = torch.arange(self.held.rows) if rows is None else rows.cpu()
        return self._scores(present, which, chosen, label)

    def spread(self, figures: Tensor) -> Any:
        """(rows, players) figures at every value of their features, in the structure of the inputs."""
        return self.held.wrap(self.features.spread(figures, self.held))

    def _blocks(self, rows: int, coalitions: int) -> Iterator[tuple[int, int, int, int]]:
        """Blocks of rows and coalitions whose scores may be held at once."""
        wide = max(1, min(coalitions, BLOCK // self.background))
        tall = max(1, BLOCK // (self.background * wide))
        for a in range(0, rows, tall):
            for c in range(0, coalitions, wide):
                yield a, min(a + tall, rows), c, min(c + wide, coalitions)

    def _block(self, present: Tensor, rows: Tensor, label: str) -> Tensor:
        """The mean over the background of every coalition's scores."""
        count, jobs = self.background, present.shape[-2]
        number = self._number(rows)

        def points(row: Tensor, job: Tensor) -> tuple[Tensor, ...]:
            if present.dim() == 2 and bool((row == row[0]).all()):
                return self._crossed(row[:1], present, int(job[0]), len(job))
            if present.dim() == 3 and count == 1:
                return self._pieces(row, job, present, number)
            which, fill = job // count, job % count
            return self._mixed(row, present[which] if present.dim() == 2 else present[number[row], which], fill)

        return self._sweep(rows, jobs * count, points, label).reshape(len(rows), jobs, count).mean(2)

    def _scores(self, present: Tensor, which: Tensor, rows: Tensor, label: str) -> Tensor:
        number = self._number(rows)

        def points(row: Tensor, job: Tensor) -> tuple[Tensor, ...]:
            if present.dim() == 2:
                return self._mixed(row, present.index_select(0, job), which.index_select(0, job))
            own = number[row]
            return self._mixed(row, present[own, job], which[own, job])

        return self._sweep(rows, present.shape[-2], points, label)

    def _sweep(self, rows: Tensor, jobs: int, points: score.Points, label: str) -> Tensor:
        """The scores (rows, jobs) at these points."""
        found = torch.empty(len(rows), jobs, dtype=torch.float64)
        number, flat = self._number(rows), found.view(-1)

        def fold(row: Tensor, job: Tensor, scores: Tensor) -> None:
            first = int(number[row[0]]) * jobs + int(job[0])  # jobs come in order, so they lie side by side
            flat[first : first + len(job)] = scores.detach()

        if jobs:
            score.sweep(self.ask, jobs, points, fold, label=label, rows=rows.tolist())
        return found

    def _number(self, rows: Tensor) -> Tensor:
        """At which place among `rows` each row is."""
        number = torch.full((self.held.rows,), -1)
        number[rows] = torch.arange(len(rows))
        return number

    def _crossed(self, row: Tensor, present: Tensor, first: int, jobs: int) -> tuple[Tensor, ...]:
        """One row's jobs in order, every fill of a coalition after the other: broadcasting instead of copies."""
        count = self.background
        low, high = first // count, (first + jobs - 1) // count + 1
        inside, parts = self.features.among(row.expand(high - low), present[low:high]), []
        for x, f, m in zip(self.held.floats, self.fills, inside, strict=True):
            fills = f if f.shape[0] == 1 else f[row.to(f.device)]
            mixed = torch.where(m[:, None], x[row.to(x.device)], fills)
            parts.append(mixed.flatten(0, 1)[first - low * count :][:jobs])
        return tuple(parts)

    def _pieces(self, row: Tensor, job: Tensor, present: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        """Jobs of several rows under one fill, row after row into one tensor: broadcasting instead of copies."""
        parts = tuple(x.new_empty(len(row), *x.shape[1:]) for x in self.held.floats)
        start = 0
        for count in torch.unique_consecutive(row, return_counts=True)[1].tolist():
            one, stop, first = row[start : start + 1], start + count, int(job[start])
            own = present[int(number[one]), first : first + count]  # a row's jobs lie side by side
            inside = self.features.among(one.expand(count), own)
            for out, x, f, m in zip(parts, self.held.floats, self.fills, inside, strict=True):
                at = one.to(x.device)
                torch.where(m, x[at], f[at * (len(f) > 1), 0], out=out[start:stop])
            start = stop
        return parts

    def _mixed(self, rows: Tensor, present: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        """For each job its row where features are present, and the fill elsewhere."""
        inside = self.features.among(rows, present)
        parts = []
        for x, f, m in zip(self.held.floats, self.fills, inside, strict=True):
            row, chosen = rows.to(x.device), which.to(x.device)
            if bool((row == row[0]).all()):  # the usual case: broadcasting copies nothing twice
                row = row[:1]
            if f.shape[1] == 1:
                filled = f[:, 0] if f.shape[0] == 1 else f[row, 0]
            else:
                filled = f[0].index_select(0, chosen) if f.shape[0] == 1 else f[row, chosen]
            parts.append(torch.where(m, x[row], filled))
        return tuple(parts)


def game(
    ask: Ask,
    spec: str | tuple[Any, ...],
    baseline: fill.Spec | tuple[fill.Spec, ...] = 0.0,
    cells: int = feature.AUTO_GRID,
) -> Game:
    """The game that `features=spec` and a fill describe, or the background and the groups in `ask.data`.

    `cells`: how many along each axis of the grid that "auto" lays over images.
    `ask.data`: `None` for the fill that `baseline` names; background rows like the inputs, whose scores are averaged; or
    a dict with "groups" (integer masks, equal numbers together) and "background".
    """
    mask, background = _parts(ask.data)
    if mask is not None and spec != "auto":
        raise InputError("The 'features' must be left out where 'data' holds groups", got=repr(spec), hint="'auto'")
    held = fill.explained(ask)
    found = feature.features(spec, held, cells) if mask is None else feature.groups(mask, held)
    if background is not None:
        fills = tuple(b[None] for b in _background(background, held, ask))
    else:
        fills = tuple(torch.stack(f, 1) for f in zip(*fill.fills(baseline, held), strict=True))
    return Game(ask, held, found, fills)


def _parts(data: Any) -> tuple[Any, Any]:
    """Groups of values and the background, out of `data`."""
    if isinstance(data, Mapping) and data and set(data) <= {"groups", "background"}:
        return data.get("groups"), data.get("background")
    return None, data


def _background(data: Any, held: Inputs, ask: Ask) -> tuple[Tensor, ...]:
    """Rows that stand for absence; where a layer is explained, they may be its values or the model's inputs."""
    given = as_rows(data).inputs
    if ask.layer is not None and [tuple(g.shape[1:]) for g in given.tensors] != [
        tuple(x.shape[1:]) for x in held.floats
    ]:
        given = fill.values_of(data, ask)  # refused unless they are rows that the model takes
    if len(given.floats) != len(held.floats) or any(
        g.shape[1:] != x.shape[1:] for g, x in zip(given.floats, held.floats, strict=True)
    ):
        want = " and ".join(f"(rows, {', '.join(map(str, x.shape[1:]))})" for x in held.floats)
        got = ", ".join(str(tuple(g.shape)) for g in given.floats) or "no floating tensor"
        raise InputError(f"The background in 'data' must have rows like what is explained, {want}", got=got)
    for g in given.floats:
        if not bool(torch.isfinite(g).all()):
            raise InputError("The background in 'data' must be finite", got="NaN or infinity")
    return tuple(g.to(x.device, x.dtype) for g, x in zip(given.floats, held.floats, strict=True))


def every(players: int) -> Tensor:
    """All coalitions (2^players, players): coalition number i holds player j where bit j of i is set."""
    numbers = torch.arange(1 << players)[:, None]
    return (numbers >> torch.arange(players)) & 1 == 1


def cost_of(game: Game, coalitions: float) -> float:
    """Forwards that asking every row about so many coalitions takes."""
    return math.prod((game.held.rows, game.background)) * coalitions
