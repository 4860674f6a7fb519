"""The planted worlds as questions: network, rows, the truth about them, and whether the network really goes by it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.planted import circuit
from benchmarks.planted.reader import Reader
from pellucid import worlds, zoo
from pellucid.worlds import grammar
from pellucid.worlds.sentences import decide
from pellucid.worlds.tabular import CAUSES, INCOME

DOUBLE = torch.float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One world as a question to every method.

    `truth` is (rows, places) truth values, or for "shares" (rows, columns) figures; `background` is what methods learn
    from, with labels, and where shares depend on it, `learnt` is the truth about it and `population` that of all its rows.
    `checks` says in words and shares what interventions on the network found.
    """

    model: nn.Module
    rows: Tensor
    target: Any
    truth: Tensor
    background: tuple[Tensor, Tensor]
    kind: str = "places"
    layer: str | None = None
    learnt: Tensor | None = None
    population: Tensor | None = None
    checks: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, nn.Module] = field(default_factory=dict)


def said(model: nn.Module, rows: Tensor) -> Tensor:
    """Which class the model names."""
    with torch.no_grad():
        return torch.cat([model(part) for part in rows.split(256)]).argmax(1)


def share(found: Tensor) -> float:
    """How often something is so."""
    return float(found.double().mean())


@functools.cache
def objects(count: int) -> Task:
    """Pictures in which the outline of the largest object is the only evidence; rows on which the network goes by it."""
    model, world = zoo.load("shapes-cnn"), worlds.shapes(240, seed=1)
    x, labels, mask = world.inputs, world.labels, world.truth["masks"]["main object"]
    ground = world.truth["masks"]["background"][:, None]
    mean = (x * ground).flatten(2).sum(2) / ground.flatten(2).sum(2)
    plain = mean[:, :, None, None].expand_as(x)
    erased, alone = torch.where(mask[:, None], plain, x), torch.where(mask[:, None], x, plain)
    right = said(model, x) == labels
    fit = right & (said(model, erased) != labels) & (said(model, alone) == labels)
    rows = fit.nonzero()[:count, 0]
    checks = {
        "right as it is": share(right),
        "right with the object painted over": share(said(model, erased) == labels),
        "right with all but the object painted over": share(said(model, alone) == labels),
        "pictures kept: right, and both as they should be": share(fit),
    }
    return Task(
        model=model, rows=x[rows], target=labels[rows], truth=mask[rows], background=_rest(x, labels), checks=checks
    )


@functools.cache
def cues(count: int) -> Task:
    """Pictures with a tag that names the class; rows on which another tag, and nothing else, changes the answer."""
    model = zoo.load("shapes-cnn-spurious")
    true, false, none = (
        worlds.shapes(240, seed=1, spurious=spurious, spurious_probability=probability)
        for spurious, probability in (("tag", 1.0), ("tag", 0.0), (None, 0.0))
    )
    x, labels, mask = true.inputs, true.labels, true.truth["masks"]["cue"]
    other = false.truth["cue"]
    right, swapped = said(model, x) == labels, said(model, false.inputs)
    fit = right & (swapped == other)
    rows = fit.nonzero()[:count, 0]
    checks = {
        "right with the right tag": share(right),
        "names the other class where the tag does, all else equal": share(swapped == other),
        "right without a tag": share(said(model, none.inputs) == labels),
        "pictures kept: right, and turned by the tag": share(fit),
    }
    return Task(
        model=model, rows=x[rows], target=labels[rows], truth=mask[rows], background=_rest(x, labels), checks=checks
    )


def _rest(x: Tensor, labels: Tensor, count: int = 64) -> tuple[Tensor, Tensor]:
    """The last rows, for methods that learn."""
    return x[-count:], labels[-count:]


WORDS = 12


@functools.cache
def words(count: int) -> Task:
    """Sentences of one length, so that no padding makes the task easier; opinions turned round turn the answer round."""
    model, world = zoo.load("sentences-lstm"), worlds.sentences(6000, seed=1)
    long = (~world.truth["padding"]).sum(1) == WORDS
    x, labels, mask = world.inputs[long], world.labels[long], world.truth["rationale"][long][:, :WORDS]
    opinions = (world.truth["roles"][long] == grammar.OPINION)[:, :WORDS]
    x = x[:, :WORDS].contiguous()
    # Sentences that speak of several aspects: in the others every opinion is the right one.
    several = (opinions & ~mask).any(1)
    x, labels, mask, opinions = x[several], labels[several], mask[several], opinions[several]
    turned, rest = _turned(x, opinions & mask), _turned(x, opinions & ~mask)
    right = said(model, x) == labels
    fit = right & (said(model, turned) != labels) & (said(model, rest) == labels)
    assert bool((decide(turned) == -decide(x)).all()), "opinions turned round must turn the truth round"
    rows = fit.nonzero()[:count, 0]
    checks = {
        "right as it is": share(right),
        "says the opposite with the deciding opinion turned round": share(said(model, turned) != labels),
        "says the same with all other opinions turned round": share(said(model, rest) == labels),
        "sentences kept: right, and both as they should be": share(fit),
    }
    others = {"sentences-cnn": zoo.load("sentences-cnn")}
    background = _rest(x, labels)
    return Task(
        model=model,
        rows=x[rows],
        target=labels[rows],
        truth=mask[rows],
        background=background,
        layer="embedding",
        checks=checks,
        others=others,
    )


@functools.cache
def attention(count: int) -> Task:
    """Sentences of one length, read by a network set by hand that reads the words which can be opinions, and no other."""
    model, world = Reader(), worlds.sentences(6000, seed=2)
    x = world.inputs[(~world.truth["padding"]).sum(1) == WORDS][:, :WORDS].contiguous()
    says = torch.tensor([grammar.POLARITY.get(word, 0) for word in grammar.VOCABULARY])[x]
    x, says = x[says.sum(1) != 0], says[says.sum(1) != 0]
    with torch.no_grad():
        scores = model(x)
        strange = torch.where(says != 0, x, torch.full_like(x, grammar.NUMBER["was"]))
        gap = (scores - model(strange)).abs().max()
        off = (scores[:, 1] - says.sum(1) / (says != 0).sum(1)).abs().max()
    labels = (says.sum(1) > 0).long()
    return Task(
        model=model,
        rows=x[:count],
        target=labels[:count],
        truth=says[:count] != 0,
        background=_rest(x, labels),
        layer="embedding",
        checks={
            "largest change of a score from 1 to -1 by turning all other words into one": float(gap),
            "largest distance of the score from the mean opinion": float(off),
        },
    )


def _turned(ids: Tensor, where: Tensor) -> Tensor:
    """The sentences with these opinions replaced by their opposites, which the same aspect can have."""
    opposite = torch.arange(len(grammar.VOCABULARY))
    for bad, good in (grammar.COMMON, *grammar.OWN):
        for one, other in zip(bad, good, strict=True):
            a, b = grammar.NUMBER[one], grammar.NUMBER[other]
            opposite[a], opposite[b] = b, a
    return torch.where(where, opposite[ids], ids)


@functools.cache
def loans(count: int) -> Task:
    """Loan applications: the columns that could turn the decision alone; a copy of income, and others, that could not."""
    model, world = zoo.load("tabular-mlp"), zoo.data("tabular-mlp")
    x, labels = world.test
    pivotal = world.truth["pivotal"][world.test_rows]
    causes = torch.zeros(x.shape[1], dtype=torch.bool)
    causes[list(CAUSES)] = True
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    right = said(model, x) == labels
    some = right & pivotal.any(1)
    rows = some.nonzero()[:count, 0]
    checks = {
        "right as it is": share(right),
        "right with the other five columns (copy of income, car, group, district, day) shuffled": share(
            said(model, torch.where(causes, x, shuffled)) == labels
        ),
        "right with the six causes shuffled": share(said(model, torch.where(causes, shuffled, x)) == labels),
        "right with income alone shuffled, its copy left": share(
            said(model, torch.where(torch.arange(x.shape[1]) == INCOME, shuffled, x)) == labels
        ),
        "rows kept: right, and some column could turn the decision": share(some),
    }
    background = (world.train[0][:200], world.train[1][:200])
    return Task(
        model=model, rows=x[rows], target=labels[rows], truth=pivotal[rows], background=background, checks=checks
    )


@functools.cache
def columns(count: int) -> Task:
    """The circuit: its columns' shares are known, one saturates and a copy and noise are not read."""
    model = circuit.Circuit()
    drawn = circuit.draw(4 * count, seed=1)
    rows = drawn[drawn[:, circuit.SATURATES] > 1][:count]
    background = circuit.draw(200, seed=2)
    zero = torch.zeros(1, rows.shape[1])
    learnt = circuit.shapley(rows, background)
    population = circuit.shapley(background, background).abs().mean(0).expand_as(learnt)
    total = circuit.shapley(rows, zero).sum(1) - (model(rows) - model(zero))[:, 1].detach().double()
    return Task(
        model=model,
        rows=rows,
        target=1,
        truth=circuit.shapley(rows, zero),
        background=(background, (model(background)[:, 1] > 1.5).long()),
        kind="shares",
        learnt=learnt,
        population=population,
        checks={"largest gap between the shares' sum and the network's change": float(total.abs().max())},
    )


@functools.cache
def games() -> tuple[Task, ...]:
    """Each game as a network: the row with every player, against the one with none, has the game's Shapley values."""
    found = []
    for game in worlds.games.examples():
        nobody = torch.zeros(1, game.players, dtype=DOUBLE)
        model = game.double().eval()
        rows = torch.ones(1, game.players, dtype=DOUBLE)
        gap = float((model(rows) - model(nobody)).sum() - game.shapley.sum())
        found.append(
            Task(
                model=model,
                rows=rows,
                target=0,
                truth=game.shapley[None],
                background=(nobody, torch.zeros(1, dtype=torch.long)),
                kind="game",
                checks={"largest gap between the values' sum and the worth of all": abs(gap)},
            )
        )
    return tuple(found)


TASKS: dict[str, Callable[[int], Task]] = {
    "objects": objects,
    "cues": cues,
    "words": words,
    "attention": attention,
    "loans": loans,
    "columns": columns,
}
