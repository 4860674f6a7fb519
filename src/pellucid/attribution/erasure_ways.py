"""How is something erased, and when has the answer turned? Filled or cut out; margins below zero."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import Ask, batch, coalition
from pellucid.engine.ask import shape_key
from pellucid.engine.target import Target

__all__: list[str] = []

COMPLAINTS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)  # of a model about its input


def output_of(ask: Ask) -> Tensor:
    """The model's output for the rows as they are."""
    ask.target  # noqa: B018 - runs the model where that has not been done
    assert ask.output is not None
    return ask.output


@contextlib.contextmanager
def shorter(words: int, instead: str) -> Iterator[None]:
    """Say so where the model can't take sentences from which words were cut; `words` is how many they had."""
    try:
        yield
    except COMPLAINTS as error:
        if type(error) not in COMPLAINTS or batch.out_of_memory(error):
            raise
        raise InputError(
            f"The model must take sentences of any length to be asked about words that are cut, as it takes {words}",
            got=f"{type(error).__name__}: {error}",
            hint=instead,
        ) from error


@dataclass(frozen=True, eq=False)
class Margin(Target):
    """The class's score minus the largest other; of one score, its size, negative once its sign has turned."""

    sign: Tensor | None = None

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        found = super().score(output, rows)
        if self.index is None:
            assert self.sign is not None
            return found * (self.sign if rows is None else self.sign[rows.to(self.sign.device)])
        index = self.index if rows is None else self.index[rows.to(self.index.device)]
        others = output.flatten(1).scatter(1, index.to(output.device)[:, None], -math.inf)
        return found - others.amax(1)


def aim_of(ask: Ask) -> Margin:
    """The margin of what is explained."""
    target = ask.target
    sign = torch.where(target.score(output_of(ask)) < 0, -1, 1) if target.index is None else None
    return Margin(target.index, target.function, target.place, target.name, sign)


@dataclass(eq=False)
class Filled:
    """Parts get a fill."""

    ask: Ask
    aim: Margin
    game: coalition.Game
    label: str
    erasable: Tensor
    spent: Tensor
    spared: ClassVar[int] = 0

    @classmethod
    def of(cls, ask: Ask, features: str | tuple[Any, ...], baseline: float | str, label: str) -> Filled:
        plain = replace(ask, data=None)
        if ask.layer is None:
            coalition.game(plain, features, baseline)  # refused before the model runs
        aim = aim_of(ask)
        game = coalition.game(replace(plain, _target=aim, output=ask.output), features, baseline)
        changes = torch.zeros(game.held.rows, game.players, dtype=torch.bool)
        for labels, x, fill in zip(game.features.labels, game.held.floats, game.fills, strict=True):
            number = labels.expand_as(x).flatten(1).cpu()
            moved = (x != fill[:, 0]).expand_as(x).flatten(1).cpu() & (number >= 0)
            row = torch.arange(len(x))[:, None].expand_as(number)
            changes[row[moved], number[moved]] = True
        return cls(game.ask, aim, game, label, changes, torch.zeros(game.held.rows, dtype=torch.long))

    @property
    def baseline(self) -> Any:
        """What erasing leaves."""
        return self.game.baseline

    def margins(self, erased: Tensor, rows: Tensor) -> Tensor:
        """The margins (rows, sets) without the parts in `erased` (rows, sets, parts)."""
        self.spent[rows] += erased.shape[1]
        return self.game.worth(~erased, rows=rows, label=self.label)

    def spread(self, figures: Tensor) -> Any:
        """Figures of parts at their values."""
        return self.game.spread(figures)


@dataclass(eq=False)
class Cut:
    """Words are cut out; one is always left."""

    ask: Ask
    aim: Margin
    words: int
    label: str
    erasable: Tensor
    spent: Tensor
    baseline: ClassVar[None] = None
    spared: ClassVar[int] = 1

    @classmethod
    def of(cls, ask: Ask, label: str) -> Cut:
        first = (ask.inputs.floats or ask.inputs.tensors)[0]
        shaped = first.dim() == (3 if first.is_floating_point() else 2) and first.shape[1] > 1
        if ask.layer is not None or not shaped or len(ask.inputs.floats) > 1:
            got = "a layer" if ask.layer is not None else f"shape {tuple(first.shape)} of {first.dtype}"
            raise InputError(
                "Cutting needs 'inputs' of at least two words: ids (rows, words) or vectors (rows, words, dimensions)",
                got=got,
                hint="way='fill'",
            )
        rows, words = first.shape[:2]
        aim = aim_of(ask)
        asked = replace(ask, _target=aim, output=ask.output)
        return cls(asked, aim, words, label, torch.ones(rows, words, dtype=torch.bool), torch.zeros(rows).long())

    def margins(self, erased: Tensor, rows: Tensor) -> Tensor:
        """The margins (rows, sets) of sentences without the words in `erased` (rows, sets, words); inf without any."""
        self.spent[rows] += erased.shape[1]
        kept, row = ~erased.flatten(0, 1), rows.repeat_interleave(erased.shape[1])
        jobs = kept.any(1).nonzero()[:, 0]
        # Sentences of one length can be asked about together, so jobs are put in the order of lengths.
        jobs = jobs[kept[jobs].sum(1).argsort(stable=True)]
        answers = torch.full((len(kept),), math.inf, dtype=torch.float64)

        def work(start: int, stop: int) -> Tensor:
            lengths, parts = kept[jobs[start:stop]].sum(1), []
            for length in lengths.unique().tolist():
                some = jobs[start:stop][lengths == length]
                inputs = self.ask.inputs.take(row[some])
                inputs = replace(inputs, tensors=tuple(self._cut(x, kept[some], length) for x in inputs.tensors))
                with torch.no_grad(), shorter(self.words, "way='fill'"):
                    output = self.ask.subject.scores(inputs)
                parts.append(self.aim.score(output, row[some]))
            return torch.cat(parts)

        def fold(start: int, stop: int, found: Tensor) -> None:
            answers[jobs[start:stop]] = found.double().cpu()

        cost = (self.ask.subject.module, ("cut", shape_key(self.ask.inputs)))
        batch.run(
            len(jobs), work, fold, memory=self.ask.memory, cost=cost, device=self.ask.inputs.device, label=self.label
        )
        return answers.reshape(erased.shape[:2])

    def _cut(self, x: Tensor, kept: Tensor, length: int) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.words:
            return x
        return x[kept.to(x.device)].reshape(x.shape[0], length, *x.shape[2:])

    def spread(self, figures: Tensor) -> Any:
        """Figures of words, (rows, words) for ids and (rows, words, 1) for vectors, in the inputs' structure."""
        inputs = self.ask.inputs
        if inputs.explained:
            return inputs.wrap([figures.to(inputs.floats[0])[..., None]])
        values = figures.to(inputs.dtype).to(inputs.device)
        if inputs.single:
            return values
        return {inputs.names[0]: values} if inputs.names else (values, *[None] * (len(inputs.tensors) - 1))
