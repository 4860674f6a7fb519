"""A scenario from its data to its explanation, held against what is known to decide: trained here, in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pellucid.advice import Advice, advise
from pellucid.contract import Attribution, Explanation
from pellucid.contract.errors import InputError
from pellucid.engine import Subject, explain
from pellucid.evaluation.localisation import PointingGame
from pellucid.report.sections import Section, Table, free, page, save
from pellucid.show.words import number, percent
from pellucid.worlds import World, scenarios
from pellucid.worlds.scenarios import Scenario
from pellucid.zoo.recipe import Recipe
from pellucid.zoo.training import own_surroundings, train

__all__ = ["Rehearsal", "scenario"]

# Held-out accuracy that training must reach, or the explanations would be of a network that has learnt nothing.
LEAST = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """A scenario that was run: its network, its explanations, and how well each points to what decides.

    `scores` gives for each method ``mean``, ``low`` and ``high`` (95 % over rows), ``rows`` and ``excluded``: the area
    under the ROC curve, which is how often a feature that decides has a larger share, whatever its sign, than one that does
    not. 1/2 is chance; ``untrained`` is what the same method gives on the network before training, which is more than
    chance where what decides is merely brighter. `advice` is what `px.advise` says for the scenario's question, audience
    and preset, where it was asked.
    """

    scenario: Scenario
    world: World
    model: Subject
    accuracy: float
    explanations: Mapping[str, Attribution]
    scores: Mapping[str, Mapping[str, Any]]
    advice: Advice | None

    def describe(self) -> str:
        """What was decided, how well, and how far each explanation found what decides."""
        told = self.scenario
        lines = [
            f"{told.title}: {told.decision} ({told.impact}). Used by {told.users}.",
            f"The network is right on {percent(self.accuracy)} of held-out rows.",
            *(f"{name}: {_score(score)}." for name, score in self.scores.items()),
            *(f"Risk: {risk}." for risk in told.risks),
        ]
        return "\n".join([*lines, *([self.advice.statement] if self.advice else [])])

    def page(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all of it as one page that fetches nothing."""
        target, told = free(path, overwrite), self.scenario
        columns = [(p.name, p.values, p.role, "yes" if p.decides else "no") for p in told.schema]
        scores = [
            (name, number(s["mean"]), f"{number(s['low'])} to {number(s['high'])}", number(s["untrained"]))
            for name, s in self.scores.items()
        ]
        parts: dict[str, list[Any]] = {
            "What is decided": [f"{_begun(told.decision)}. Used by {told.users}. It is {told.impact}."],
            "What can go wrong": [[f"{_begun(risk)}." for risk in told.risks]],
            "The data": [
                "Simulated, so it is known what decides.",
                Table(caption="Columns or things drawn", headings=("name", "values", "role", "decides"), rows=columns),
            ],
            "How well the explanations point to what decides": [
                f"The network is right on {percent(self.accuracy)} of held-out rows.",
                Table(
                    caption="Area under the ROC curve; 0.5 is chance",
                    headings=("method", "mean", "95 %", "before training"),
                    rows=scores,
                ),
            ],
        }
        if self.advice is not None:
            parts["Which explanations are advised"] = [
                self.advice.statement,
                [f"{s.name}: {s.why}" for s in self.advice.suggestions[:5]],
            ]
        results: dict[str, list[Explanation]] = {name: [result] for name, result in self.explanations.items()}
        sections = [Section(heading=heading, parts=held) for heading, held in {**parts, **results}.items()]
        return save(page(*sections, title=told.title, rows=4), target, overwrite=overwrite)


def scenario(name: str, *, rows: int = 30, seed: int = 0, advice: bool = False) -> Rehearsal:
    """Do explanations of a network for this kind of decision point to what decides?

    The scenario's data are simulated from the seed, a small network is trained on them, each method of the scenario's
    bundle explains held-out rows, and its figures are held against the features that are known to decide.

    Args:
        name: one of `pellucid.worlds.scenarios.SCENARIOS`: driving, medical, credit, hiring, insurance, surveillance,
            military, face, voice.
        rows: how many held-out rows are explained at most.
        seed: of data, training and explanations.
        advice: ask `px.advise` as well, with the scenario's question, audience and preset.

    Example:
        >>> from pellucid.report import scenario
        >>> run = scenario("insurance", rows=10)
        >>> run.accuracy > 0.9, run.scores["shapley-sampling"]["mean"] > 0.9
        (True, True)
    """
    told = scenarios.get(name)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 2:
        raise InputError("The 'rows' must be a whole number of at least 2", got=repr(rows))
    world = told.world(seed=seed)
    images = world.inputs.dim() > 2
    recipe = Recipe(
        name=f"scenario {name}",
        architecture=_pictures if images else lambda: _columns(world.inputs.shape[1]),
        data="scenarios",
        learning_rate=5e-3,
        epochs=10 if images else 25,
        seed=seed,
        target=LEAST,
    )
    network, accuracy = train(recipe, world)
    with own_surroundings(seed):
        untrained = recipe.architecture().eval()
    model = Subject(network, classes=world.classes, features=() if images else world.features)
    scored = set(world.truth["scored"].tolist())
    chosen = [row for row in world.test_rows.tolist() if row in scored][:rows]
    inputs, masks = world.inputs[chosen], world.truth["important"][chosen]
    results = {method: explain(model, inputs, method, seed=seed) for method in told.methods}
    scores = {}
    for method in told.methods:
        measure, known = PointingGame(of=method, figure="roc", pooling="absolute"), {"masks": masks}
        found = explain(model, inputs, measure, data=known, seed=seed).source["overall"]
        before = explain(untrained, inputs, measure, data=known, seed=seed).source["overall"]
        # Student's interval knows no bounds; a share lies between 0 and 1.
        ends = {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
        scores[method] = {**found, **ends, "untrained": before["mean"]}
    advised = None
    if advice:
        advised = advise(
            model, inputs[:8], told.question, told.audience, data=world.train[0][:64], preset=told.impact, seed=seed
        )
    return Rehearsal(
        scenario=told,
        world=world,
        model=model,
        accuracy=accuracy,
        explanations=results,
        scores=scores,
        advice=advised,
    )


def _pictures() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 2)),
    )


def _columns(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def _score(score: Mapping[str, Any]) -> str:
    low, high, before = (number(score[k]) for k in ("low", "high", "untrained"))
    found = f"points to what decides with {number(score['mean'])} ({low} to {high}"
    return f"{found}; {before} before training, 0.5 is chance)"


def _begun(text: str) -> str:
    """Text with a capital where it begins."""
    return text[:1].upper() + text[1:]
