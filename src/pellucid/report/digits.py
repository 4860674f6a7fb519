"""The demonstration: a small network that reads digits, right and wrong decisions, and why, with every error measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.engine import Subject, predict
from pellucid.engine.batch import DEFAULT_CPU, Progress
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import as_inputs
from pellucid.report.case import Case
from pellucid.report.dossier import Question, build
from pellucid.report.run import run
from pellucid.report.sections import free, save
from pellucid.report.story import Story, about, whole
from pellucid.show.answer import confidence
from pellucid.show.words import counted, number

MAPS = (
    "vanilla-gradient",
    "integrated-gradients",
    "smoothgrad",
    "guided-backprop",
    "grad-cam",
    "occlusion-sensitivity",
)
OTHERS = ("deep-nearest-neighbours", "cart-c45-surrogate")
WRONG, RIGHT = 6, 2


def demo(path: str | Path = "demo.html", *, progress: Any = True, overwrite: bool = False, seed: int = 0) -> Path:
    """Write a page about a small network that reads digits, made in seconds, and say where it is.

    The first call trains the network. Shown are the mistakes whose lead over the truth was largest and smallest, and
    right answers from the surest to the least sure; methods that aren't there are listed.

    Args:
        path: the file to write; never overwritten unless `overwrite`.
        progress: `True` shows a bar in a terminal; a function gets (done, total, label).
        overwrite: replace an existing file.
        seed: of the methods that draw at random.
    """
    from pellucid import zoo

    path = free(path, overwrite)
    world = zoo.data("digits-cnn")
    subject = Subject(zoo.load("digits-cnn", progress=bool(progress)), classes=world.classes)
    inputs, labels = world.test
    shares = _shares(subject, inputs)
    rows = choose(shares, labels)
    accuracy = float((shares.argmax(1) == labels).double().mean())
    chosen, truths = inputs[rows], labels[rows].tolist()
    with Progress(progress).bar(len(MAPS) + len(OTHERS) + 1, "demo") as step:
        found = run(subject, chosen, [*MAPS, *OTHERS], step, data=world, seed=seed)
        put = Question(inputs=chosen, methods=[*MAPS, *OTHERS], truths=truths, data=world, seed=seed, ink=True)
        cases = build(subject, put, found).cases
        step(1)
    hero = _hero(cases)
    mistakes = int((shares.argmax(1) != labels).sum())
    story = Story(
        title=_title(hero),
        intro="A small network has learnt to read handwritten digits of 8 by 8 pixels. Below are digits it had never seen: "
        "what it answered, how sure it was, which strokes moved it, and how far each explanation can be believed.",
        cases=cases,
        hero=hero,
        whole=whole(found, "layperson"),
        missing=found.missing,
        provenance=[
            *about(subject, found, seed),
            ("data", f"{world.attribution} {world.licence}"),
            ("training rows", f"{len(world.train_rows):,}"),
            ("held-out rows", f"{len(inputs):,}, right in {number(100 * accuracy)} %"),
        ],
        chosen=_chosen(cases, len(inputs), mistakes),
        accuracy=f"On the {len(inputs)} held-out digits it is right in {number(100 * accuracy)} %.",
    )
    return save(story.html("layperson"), path, overwrite=overwrite)


def choose(shares: Tensor, labels: Tensor) -> Tensor:
    """Rows to show: wrong and right ones, each spread evenly from the surest to the least sure."""
    sure, said = shares.max(1)
    order = sure.argsort(descending=True, stable=True)
    wrong = order[(said != labels)[order]]
    right = order[(said == labels)[order]]
    return torch.cat([spread(wrong, WRONG), spread(right, RIGHT)])


def spread(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, evenly spaced, with the first and the last."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


def _chosen(cases: list[Case], held_out: int, mistakes: int) -> str:
    wrong, right = (sum(c.right is side for c in cases) for side in (False, True))
    shown = f"all {wrong} mistakes" if wrong == mistakes else counted(wrong, "mistake")
    return (
        f"Of {held_out} digits kept apart from training the network misreads {mistakes}. Shown are {shown}, from the "
        f"surest to the least sure, and {counted(right, 'right answer')}, the surest and the least sure. “Lead” is how far "
        "the answer was ahead of the second choice."
    )


def _hero(cases: list[Case]) -> Case:
    """The case to begin with: the mistake that the fewest erased pixels put right, most surely."""

    def effort(made: Case) -> tuple[bool, int, float]:
        check = made.reason.erasure if made.reason is not None else None
        if made.right is not False or made.reason is None or check is None or check.count is None:
            return True, 0, 0.0
        return check.answer != made.reason.against, check.count, -check.share

    return min(cases, key=effort)


def _title(hero: Case) -> str:
    if hero.right is False:
        return f"Why did the network read this {hero.truth} as a {hero.answer.name}?"
    return f"Why did the network read this as a {hero.answer.name}?"


def _shares(subject: Subject, inputs: Tensor) -> Tensor:
    with untouched(subject.module):
        output = predict(subject, as_inputs(inputs), DEFAULT_CPU)
    return confidence(output.cpu().double())
