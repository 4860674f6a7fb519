"""Which fewest words, or other parts, must be erased for the answer to change? By a learnt policy, or by search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.erasure_ways import Cut, Filled, output_of
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed

__all__ = ["MinimalErasure"]

STEEPEST = 4.0  # the policy's logits stay within these, so that it never stops trying
Margins = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MinimalErasure(Method):
    """Which fewest words, or other parts, must be erased for the answer to change?

    ``values`` is 1 at every part of one such set, else 0. The answer changes where the margin, the class's score minus
    the largest other, falls below zero (for a model with one score, or a target that is no class: where the sign of the
    score turns). A class that is not the answer needs no erasure. Parts that equal their fill, as padding does in an
    embedding with a padding index, are never erased.

    "policy" learns, by REINFORCE, a chance of erasure for each part of the row: reward ``1/|D|`` where erasing the set D
    turns the answer, else 0, minus ``contiguity`` times the number of changes between neighbours; the best set tried is
    kept. "search" tries all sets, small ones first, while ``questions`` last, and goes on by beam search.

    Facts: ``turned``, 1 where a set was found, checked by running it; ``size``; ``at_least``: all smaller sets were tried
    and none turns the answer, so that equality proves the size minimal (above the number of parts that can go: no set
    does); ``spans``, runs of neighbours in the set; ``score``, the margin, and ``erased_score``; ``questions``, forwards
    spent. With "policy", ``mean_size`` is that of the sets it tried, and ``parts["policy"]`` (rows, parts)
    holds its chances in the end.

    Args:
        by: "policy" or "search".
        way: "fill": a part gets the ``baseline`` (at the input, or at ``layer=`` the embedding); "cut": words are cut out,
            with whatever else is as long as the sentence; token ids will do.
        features: what one part is (see `pellucid.engine.feature`); "auto": words of sequences, columns of tables.
        baseline: what erasing leaves, 0 or a name such as "mean".
        steps: how often the policy is updated.
        samples: how many sets it tries for each update.
        rate: the step of its logits.
        contiguity: γ; more of it gives fewer spans.
        prune: drop parts from the set found while the answer stays turned, so that none is idle.
        beam: how many sets the beam keeps.
        questions: how many sets are tried, per row, to find or prove a smallest one.

    ``data={"erasable": (rows, parts) of booleans}`` holds parts back.

    Cost: forwards alone, per row at most ``steps × samples + questions`` for the policy, by search ``questions`` and
    ``beam × parts²/2``; and ``size²/2`` to prune.
    Known failure: there may be several smallest sets, one is told; a policy that never meets a turned answer learns
    nothing, and says so in ``turned``. What is left may be no sentence.
    Source: Li, Monroe & Jurafsky 2016 (arXiv 1612.08220), the section on reinforcement learning. There one network learns
    the policy over a corpus; here each row has its own, so that no other row matters; ``prune`` and the search are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = lambda x: torch.stack([x.sum(1), torch.full((len(x),), 2.5)], 1)
        >>> result = px.explain(net, torch.tensor([[1.0, 2.0, 1.0]]), px.attribution.MinimalErasure(by="search"))
        >>> result.values.tolist(), result.facts["at_least"].tolist()
        ([[0.0, 1.0, 0.0]], [1.0])
    """

    by: str = "policy"
    way: str = "fill"
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0
    steps: int = 40
    samples: int = 32
    rate: float = 1.0
    contiguity: float = 0.0
    prune: bool = True
    beam: int = 4
    questions: int = 1000

    card: ClassVar[Card] = Card(
        name="representation-erasure-rl",
        title="Minimal erasure",
        question="Which fewest words must be erased for the answer to change?",
        form="attribution",
        scope="local",
        citation="li2016understanding",
        needs=("predictions",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "dummy"),
        trial={"steps": 3, "samples": 4, "questions": 20},
        cost="steps × samples + questions forwards",
        supports=("erasing exactly these parts turns the answer, and sets smaller than `at_least` do not",),
        limits=(
            "other sets of the same size that turn the answer too: one is told",
            "what the parts mean to the answer they support: the text without them may be no text at all",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        drawn = "seeded" if self.by == "policy" else "deterministic"
        return ("rowwise", drawn, "dummy") if self.prune or self.by == "search" else ("rowwise", drawn)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        label = self.card.title
        game = Cut.of(ask, label) if self.way == "cut" else Filled.of(ask, self.features, self.baseline, label)
        erasable = game.erasable & _held_back(ask.data, game.erasable)
        before = game.aim.score(output_of(ask)).double().cpu()
        found = torch.zeros_like(erasable)
        at_least, chances = torch.zeros(len(before)), torch.zeros(erasable.shape, dtype=torch.float64)
        open_rows, met = (before >= 0).nonzero()[:, 0], torch.zeros_like(before)
        if self.by == "policy" and len(open_rows):
            found[open_rows], chances[open_rows], met[open_rows] = self._policy(
                ask, game, open_rows, erasable[open_rows]
            )
        for row in open_rows.tolist():
            found[row], at_least[row] = self._settle(game, row, erasable[row], found[row])
        ask.path = game.ask.path
        drawn = {"mean_size": met} if self.by == "policy" else {}
        parts = {"policy": chances} if self.by == "policy" else {}
        return _told(game, before, found, at_least, drawn, parts)

    def _check(self) -> None:
        for name, known in (("by", ("policy", "search")), ("way", ("fill", "cut"))):
            if getattr(self, name) not in known:
                raise MethodError(f"{name!r} must be one of {known}", got=repr(getattr(self, name)))
        for name, least in (("steps", 1), ("samples", 2), ("beam", 1), ("questions", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise MethodError(f"{name!r} must be an int of at least {least}", got=repr(value))
        if not (0 < self.rate < math.inf and 0 <= self.contiguity < math.inf):
            got = f"rate={self.rate!r}, contiguity={self.contiguity!r}"
            raise MethodError("'rate' must be positive, 'contiguity' not negative, both finite", got=got)

    def _policy(self, ask: Ask, game: Filled | Cut, rows: Tensor, erasable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best set met while each row's policy learns, all False where none turned the answer.

        Also the chances in the end, and the mean size of all sets tried.
        """
        logits = torch.zeros(erasable.shape, dtype=torch.float64)
        best, record = torch.zeros_like(erasable), torch.full((len(rows),), -math.inf, dtype=torch.float64)
        met = torch.zeros(len(rows), dtype=torch.float64)
        keys, each = [ask.keys[row] for row in rows.tolist()], torch.arange(len(rows))
        for step in range(self.steps + 1):
            chance = logits.sigmoid() * erasable
            if step < self.steps:
                drawn = seed.uniform(ask.seed, keys, [step] * len(rows), (self.samples, erasable.shape[1]), logits)
                tried = drawn < chance[:, None]
            else:
                tried = (chance > 0.5)[:, None]  # what the policy would do in the end
            reward, turned = self._reward(tried, game.margins(tried, rows))
            merit, which = torch.where(turned, reward, -math.inf).max(1)
            better = merit > record
            best[better], record[better] = tried[each, which][better], merit[better]
            if step < self.steps:
                # The mean of the others' rewards is a baseline that leaves the gradient unbiased.
                gain = (reward - reward.mean(1, keepdim=True)) * self.samples / (self.samples - 1)
                gain = gain / (reward.std(1, keepdim=True) + 1e-9)
                slope = (gain[..., None] * (tried.double() - chance[:, None])).mean(1)
                logits = (logits + self.rate * slope).clamp(-STEEPEST, STEEPEST)
                met += tried.sum(2).double().mean(1) / self.steps
        return best, logits.sigmoid() * erasable, met

    def _reward(self, tried: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
        """1/|D| where the answer turns, minus γ for each change between neighbours; and where it turns."""
        turned = (margins < 0) & tried.any(2)
        changes = (tried[..., 1:] != tried[..., :-1]).sum(2)
        return turned / tried.sum(2).clamp(min=1).double() - self.contiguity * changes, turned

    def _settle(self, game: Filled | Cut, row: int, erasable: Tensor, found: Tensor) -> tuple[Tensor, int]:
        """A set for a row, pruned, and the size below which none turns the answer."""
        parts = erasable.nonzero()[:, 0]
        limit = len(parts) - game.spared

        def margins(sets: Tensor) -> Tensor:
            return game.margins(_erased(parts, sets, len(erasable))[None], torch.tensor([row]))[0]

        if self.by == "search":
            chosen, at_least = exact(len(parts), limit, self.questions, margins)
            if chosen is None and at_least <= limit:
                chosen = pruned(beam(len(parts), limit, self.beam, margins), margins)
        else:
            chosen = found[parts].nonzero()[:, 0].tolist() or None
            chosen = pruned(chosen, margins) if self.prune else chosen
            _, at_least = exact(len(parts), limit if chosen is None else len(chosen) - 1, self.questions, margins)
        members = torch.zeros_like(erasable)
        members[parts[torch.tensor(chosen or [], dtype=torch.long)]] = True
        return members, at_least


def exact(count: int, limit: int, most: int, margins: Margins) -> tuple[list[int] | None, int]:
    """A smallest set of at most `limit` of `count` parts with a negative margin, and the size it has at least.

    All sets of a size are tried or none; with fewer than needed of `most` left, the size that would be next is told.
    """
    for size in range(1, limit + 1):
        most -= math.comb(count, size)
        if most < 0:
            return None, size
        sets = torch.tensor(list(itertools.combinations(range(count), size)))
        found = margins(sets)
        if bool((found < 0).any()):
            return sets[int(found.argmin())].tolist(), size
    return None, limit + 1


def beam(count: int, limit: int, width: int, margins: Margins) -> list[int] | None:
    """A set with a negative margin, grown part by part from the `width` sets of the lowest margins."""
    kept: list[tuple[int, ...]] = [()]
    for _ in range(limit):
        grown = {tuple(sorted((*one, part))) for one in kept for part in range(count) if part not in one}
        sets = sorted(grown)
        found = margins(torch.tensor(sets))
        order = found.argsort(stable=True)[:width].tolist()
        if float(found[order[0]]) < 0:
            return list(sets[order[0]])
        kept = [sets[i] for i in order]
    return None


def pruned(chosen: list[int] | None, margins: Margins) -> list[int] | None:
    """The set without parts that are not needed: taking any one of the rest back would turn the answer back."""
    while chosen is not None and len(chosen) > 1:
        sets = torch.tensor(list(itertools.combinations(chosen, len(chosen) - 1)))
        found = margins(sets)
        if not bool((found < 0).any()):
            break
        chosen = sets[int(found.argmin())].tolist()
    return chosen


def _told(
    game: Filled | Cut,
    before: Tensor,
    found: Tensor,
    at_least: Tensor,
    drawn: dict[str, Tensor],
    parts: dict[str, Tensor],
) -> Attribution:
    """The result; every set is run once more, so that `turned` is what the model says."""
    spent = game.spent.clone()
    after = game.margins(found[:, None], torch.arange(len(found)))[:, 0]
    after = torch.where(found.any(1), after, before)
    starts = torch.cat([found[:, :1], found[:, 1:] & ~found[:, :-1]], 1)
    facts = {
        "turned": (after < 0).double(),
        "size": found.sum(1).double(),
        "at_least": at_least.double(),
        "spans": starts.sum(1).double(),
        "score": before,
        "erased_score": after,
        "questions": spent.double(),
    }
    values = game.spread(found.double())
    return Attribution(values=values, baseline=game.baseline, facts=facts | drawn, parts=parts)


def _erased(parts: Tensor, sets: Tensor, count: int) -> Tensor:
    """Sets of positions in `parts` (sets, size) as masks (sets, count)."""
    mask = torch.zeros(len(sets), count, dtype=torch.bool)
    return mask.scatter_(1, parts[sets], True)


def _held_back(data: Any, erasable: Tensor) -> Tensor:
    """Which parts the caller lets be erased."""
    if data is None:
        return torch.ones_like(erasable)
    given = data.get("erasable") if isinstance(data, Mapping) and len(data) == 1 else None
    mask = torch.as_tensor(given) if isinstance(given, Tensor | Sequence) else torch.zeros(0)
    if mask.dtype != torch.bool or mask.shape != erasable.shape:
        got = f"shape {tuple(mask.shape)} of {mask.dtype}" if given is not None else type(data).__name__
        raise InputError(
            f"The 'data' must be {{'erasable': booleans {tuple(erasable.shape)}}}, by row and part",
            got=got,
            hint="None",
        )
    return mask.cpu()
