"""Under what does one method equal another? Preconditions tried on the caller's own network, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import as_method
from pellucid.contract.errors import NeedError, PellucidError
from pellucid.engine import Ask, Subject, predict, score, seed
from pellucid.engine.place import parse
from pellucid.engine.survey import Survey, survey

__all__: list[str] = []

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest score: no more than this is no change
COARSE = 2e-2  # in half precision
ALL = 1024  # coalitions that are all asked for by methods with their default settings


@dataclass(eq=False)
class Question:
    """One call: the network, the rows, and how often a property is tried."""

    subject: Subject
    ask: Ask
    tries: int = 6

    @cached_property
    def here(self) -> tuple[Tensor, ...]:
        return self.ask.inputs.floats

    @cached_property
    def nothing(self) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(x) for x in self.here)

    @cached_property
    def players(self) -> int:
        return sum(x[0].numel() for x in self.here)

    @cached_property
    def survey(self) -> Survey:
        return survey(self.ask)

    @cached_property
    def limit(self) -> Tensor:
        """What rounding comes to, by row."""
        size = torch.stack([self.at(self.here).abs(), self.at(self.nothing).abs()]).amax(0)
        return ROUNDING.get(self.ask.inputs.dtype, COARSE) * (size + 1e-3)

    def at(self, points: tuple[Tensor, ...]) -> Tensor:
        return score.at_input(replace(self.ask, layer=None), points).double().cpu()

    def near(self, draw: int) -> tuple[Tensor, ...]:
        """Other points like the rows: some of their values gone, and noise as wide as they are."""
        found = []
        for number, x in enumerate(self.here):
            first = 2 * (1000 * number + draw)
            width = x.flatten(1).std(1, unbiased=False).clamp(min=1e-3).reshape(-1, *[1] * (x.dim() - 1))
            shape = tuple(x.shape[1:])
            kept = seed.uniform(self.ask.seed, self.ask.keys, [first] * len(x), shape, x) < 0.5
            noise = seed.normal(self.ask.seed, self.ask.keys, [first + 1] * len(x), shape, x)
            found.append(torch.where(kept, x, 0.0) + width * noise)
        return tuple(found)

    def half(self, draw: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The rows with one half of their values alone, and with the other."""
        keys, found = self.ask.keys, ([], [])  # type: ignore[var-annotated]
        for number, x in enumerate(self.here):
            draws = [100_000 + 1000 * number + draw] * len(x)
            drawn = seed.uniform(self.ask.seed, keys, draws, tuple(x.shape[1:]), x) < 0.5
            found[0].append(torch.where(drawn, x, 0.0))
            found[1].append(torch.where(drawn, 0.0, x))
        return tuple(found[0]), tuple(found[1])


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A property of a network at some rows. `holds` gives it by row, and why; None where it can't be told."""

    name: str
    says: str
    holds: Callable[[Question], tuple[Tensor | None, str]]


def tell(condition: Condition, question: Question) -> tuple[Tensor | None, str]:
    """Whether it holds, by row; a refusal on the way is told as the reason."""
    try:
        return condition.holds(question)
    except PellucidError as error:
        return None, str(error).split("\n", 1)[0]


def _by_gap(question: Question, gaps: list[Tensor], what: str) -> tuple[Tensor, str]:
    gap = torch.stack(gaps).abs().amax(0)
    return gap <= question.limit, f"{what} misses by up to {float(gap.max()):.2g} of a score"


def _every(question: Question, found: bool, why: str) -> tuple[Tensor, str]:
    return torch.full((question.ask.inputs.rows,), found), why


def affine(question: Question) -> tuple[Tensor, str]:
    gaps = []
    for k in range(question.tries):
        one, two = question.near(2 * k), question.near(2 * k + 1)
        middle = tuple((a + b) / 2 for a, b in zip(one, two, strict=True))
        gaps.append(question.at(middle) - (question.at(one) + question.at(two)) / 2)
    return _by_gap(question, gaps, "the score in the middle of two points")


def additive(question: Question) -> tuple[Tensor, str]:
    ends, gaps = question.at(question.here) + question.at(question.nothing), []
    for k in range(max(question.tries, 8)):
        one, two = question.half(k)
        gaps.append(ends - question.at(one) - question.at(two))
    return _by_gap(question, gaps, "the sum over two halves of the row")


def quadratic(question: Question) -> tuple[Tensor, str]:
    gaps = []
    for k in range(question.tries):
        one, two = question.near(2 * k), question.near(2 * k + 1)
        ends = [
            question.at(tuple(a + t * (b - a) for a, b in zip(one, two, strict=True))) for t in (0, 1 / 3, 2 / 3, 1)
        ]
        gaps.append(ends[3] - 3 * ends[2] + 3 * ends[1] - ends[0])
    return _by_gap(question, gaps, "the third difference along a line")


def homogeneous(question: Question) -> tuple[Tensor, str]:
    gaps = []
    for k in range(question.tries):
        point, factor = question.near(k) if k else question.here, (0.5, 0.25, 2.0)[k % 3]
        scaled = tuple(factor * x for x in point)
        gaps.append((question.at(scaled) - factor * question.at(point)) / max(1.0, factor))
    return _by_gap(question, gaps, "the score of a multiple")


def no_jump(question: Question) -> tuple[Tensor, str]:
    coarse, fine = (_largest_step(question, count) for count in (64, 1024))
    rest = fine <= 0.5 * coarse
    return rest | (
        coarse <= question.limit
    ), f"the largest step is {float(fine.max()):.2g} of {float(coarse.max()):.2g}"


def _largest_step(question: Question, count: int) -> Tensor:
    """Between neighbours among so many points on the line from nothing to the row."""
    found = torch.empty(question.ask.inputs.rows, count + 1, dtype=torch.float64)
    ask = replace(question.ask, layer=None)

    def points(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            (steps / count).to(x).reshape(-1, *[1] * (x.dim() - 1)) * x[rows.to(x.device)] for x in question.here
        )

    def fold(rows: Tensor, steps: Tensor, scores: Tensor) -> None:
        found[rows, steps] = scores.double().cpu()

    score.sweep(ask, count + 1, points, fold, at_input=True)
    return found.diff(dim=1).abs().amax(1)


def rectifiers(question: Question) -> tuple[Tensor | None, str]:
    known = _known(question)
    uneven = known.uneven()
    return _every(question, not uneven, f"other operations: {_names(uneven)}" if uneven else "each is bent at 0 alone")


def no_rectifier(question: Question) -> tuple[Tensor | None, str]:
    found = _known(question).rectifiers()
    return _every(question, not found, f"{len(found)} rectifiers" if found else "there is none")


def one_layer(question: Question) -> tuple[Tensor | None, str]:
    known = _known(question)
    if joining := known.joining():
        return _every(question, False, f"operations on several numbers: {_names(joining)}")
    return _every(question, known.bends <= 1, f"{known.bends} one after the other")


def nothing_from_nothing(question: Question) -> tuple[Tensor | None, str]:
    found = survey(question.ask, question.nothing)
    if found.unknown:
        raise NeedError("Operations are unknown", got=", ".join(found.unknown))
    added = found.constants()
    return _every(question, not added, f"constants come from {_names(added)}" if added else "zeros give zeros")


def pooled(question: Question) -> tuple[Tensor | None, str]:
    """Is the score an affine function of the mean of each map of the layer that class activation maps read?"""
    ask, subject = question.ask, question.subject
    method = as_method("grad-cam")
    used = method.explain(subject, ask, method.prepare(subject, ask)).source["layer_used"]
    assert subject.module is not None
    place = parse(used, subject.module)
    asked = replace(ask, layer=place)
    maps = predict(subject, ask.inputs, ask.memory, place)
    if maps.dim() != 4:
        return None, f"the layer {used!r} holds no maps"
    spread = maps.mean((2, 3), keepdim=True).expand_as(maps).contiguous()
    turned = maps.flip((2, 3)) * 0.5
    at = [score.at(asked, (m,)).double().cpu() for m in (maps, spread, turned, (maps + turned) / 2)]
    return _by_gap(question, [at[0] - at[1], at[3] - (at[0] + at[2]) / 2], f"a head on the means of {used!r}")


def background(question: Question) -> tuple[Tensor, str]:
    given = question.ask.data is not None
    return _every(question, given, "data= is given" if given else "data= is not given")


def every_coalition(question: Question) -> tuple[Tensor, str]:
    return _every(question, 2**question.players <= ALL, f"there are {question.players} values")


def _known(question: Question) -> Survey:
    if question.survey.unknown:
        raise NeedError("Operations are unknown", got=", ".join(question.survey.unknown))
    return question.survey


def _names(ops: list[Any]) -> str:
    return ", ".join(dict.fromkeys(f"{op.name} in {op.module or 'the model'!r}" for op in ops[:20]))


CONDITIONS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition(name="affine", says="the score is a weighted sum of the inputs and a constant", holds=affine),
        Condition(name="additive", says="the score is a sum of functions of one input each", holds=additive),
        Condition(name="quadratic", says="the score is a polynomial of at most degree two", holds=quadratic),
        Condition(
            name="homogeneous", says="a multiple of the input gets that multiple of the score", holds=homogeneous
        ),
        Condition(name="no jump", says="the score does not jump between zero and the input", holds=no_jump),
        Condition(name="rectifiers", says="what is not affine is bent at zero alone", holds=rectifiers),
        Condition(name="no rectifier", says="there is no rectifier", holds=no_rectifier),
        Condition(name="one layer", says="no unit that is not affine comes after another one", holds=one_layer),
        Condition(name="nothing from nothing", says="no operation adds a constant", holds=nothing_from_nothing),
        Condition(name="pooled head", says="the head reads the mean of each map alone, and is affine", holds=pooled),
        Condition(name="background", says="rows to compare with are given as data=", holds=background),
        Condition(name="every coalition", says=f"there are at most {ALL} coalitions of inputs", holds=every_coalition),
    )
}
