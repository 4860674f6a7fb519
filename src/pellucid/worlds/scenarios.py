"""The scenarios: toy versions of decisions that networks take about people, each with a planted answer and its risks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch

from pellucid.contract.errors import InputError
from pellucid.worlds import scenario_pictures
from pellucid.worlds.tabular import CAUSES, FEATURES, GROUP, INCOME, INCOME_COPY, tabular
from pellucid.worlds.world import World, generator, split_rows

__all__ = ["SCENARIOS", "Part", "Scenario", "get"]

Role = Literal["decides", "decoy", "protected", "proxy", "copy"]
IMAGES = ("integrated-gradients", "occlusion-sensitivity", "vanilla-gradient")
TABLES = ("shapley-sampling", "feature-ablation", "integrated-gradients")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One column, or one thing that is drawn: its values, and whether it decides.

    Roles: "decides"; "decoy", which occurs whatever the answer; "protected", which must not decide (where the data are
    biased it does: `decides` tells); "proxy", which gives a protected one away; "copy" of one that decides.
    """

    name: str
    values: str
    role: Role
    decides: bool = False


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A decision, who takes it on whose behalf, and what can go wrong; with data whose important features are known.

    `impact` is "time-critical" or "decision-critical", the preset of `px.advise`; `question` and `audience` are what its
    user would ask there; `methods` is the bundle of explanations to look at together. `make(n, seed)` gives the world: its
    truth has ``important``, true for each row's features that decide, and ``scored``, the rows that have any.
    """

    name: str
    title: str
    decision: str
    users: str
    impact: Literal["time-critical", "decision-critical"]
    question: str
    audience: str
    risks: tuple[str, ...]
    schema: tuple[Part, ...]
    methods: tuple[str, ...]
    make: Callable[[int, int], World]

    def world(self, n: int = 1200, seed: int = 0) -> World:
        """The scenario's data; rows depend on the seed and their number alone.

        >>> from pellucid import worlds
        >>> worlds.scenarios.get("voice").world(8).truth["important"].shape
        torch.Size([8, 16, 16])
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 8:
            raise InputError("The 'n' of a scenario must be a whole number of at least 8", got=repr(n))
        return self.make(n, seed)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column drawn evenly from `low` to `high` in steps; `weight` is what going from one to the other adds."""

    name: str
    low: float
    high: float
    step: float
    weight: float = 0.0
    role: Role = "decoy"
    follows: int | None = None  # nine times in ten this column has that one's value

    def part(self) -> Part:
        values = f"{self.low:g} to {self.high:g} in steps of {self.step:g}"
        return Part(name=self.name, values=values, role=self.role, decides=bool(self.weight))


HIRING = (
    _Column(name="work sample (points)", low=0, high=100, step=1, weight=3.0, role="decides"),
    _Column(name="experience (years)", low=0, high=20, step=1, weight=2.0, role="decides"),
    _Column(name="interview (points)", low=1, high=10, step=1, weight=2.0, role="decides"),
    _Column(name="group", low=0, high=1, step=1, weight=-1.0, role="protected"),
    _Column(name="sports club", low=0, high=1, step=1, role="proxy", follows=3),
    _Column(name="way to work (km)", low=0, high=60, step=1),
    _Column(name="typing (words a minute)", low=20, high=90, step=1),
    _Column(name="length of letter (lines)", low=5, high=60, step=1),
)
INSURANCE = (
    _Column(name="age (years)", low=18, high=80, step=1, weight=-2.0, role="decides"),
    _Column(name="engine (kW)", low=40, high=200, step=5, weight=2.0, role="decides"),
    _Column(name="driven (1000 km a year)", low=1, high=40, step=1, weight=2.5, role="decides"),
    _Column(name="claims before", low=0, high=4, step=1, weight=2.5, role="decides"),
    _Column(name="colour of car", low=1, high=8, step=1),
    _Column(name="number of doors", low=2, high=5, step=1),
    _Column(name="first letter of name", low=1, high=26, step=1),
)


def _table(name: str, columns: tuple[_Column, ...], classes: tuple[str, str], n: int, seed: int) -> World:
    """Rows of columns; class 1 where the weighted columns, each from -1/2 to 1/2, add up to more than nothing."""
    drawn = generator(seed, name).random((n, 2 * len(columns))).T
    raw = np.empty((n, len(columns)))
    for k, column in enumerate(columns):
        levels = round((column.high - column.low) / column.step) + 1
        raw[:, k] = column.low + column.step * np.floor(drawn[k] * levels)
        if column.follows is not None:
            raw[:, k] = np.where(drawn[len(columns) + k] < 0.9, raw[:, column.follows], raw[:, k])
    low, high, weight = (np.array([getattr(c, field) for c in columns]) for field in ("low", "high", "weight"))
    labels = (((raw - low) / (high - low) - 0.5) @ weight > 0).astype(np.int64)
    train_rows, test_rows = split_rows(labels, seed=seed, test_fraction=0.25, stratify=True)
    mean, scale = (low + high) / 2, (high - low) / np.sqrt(12)
    return World(
        name=name,
        inputs=torch.from_numpy(((raw - mean) / scale).astype(np.float32)),
        labels=torch.from_numpy(labels),
        classes=classes,
        features=tuple(c.name for c in columns),
        train_rows=train_rows,
        test_rows=test_rows,
        truth={
            "important": torch.from_numpy(weight != 0).expand(n, -1),
            "scored": torch.arange(n),
            "weights": torch.from_numpy(weight),
        },
        mean=torch.from_numpy(mean),
        scale=torch.from_numpy(scale),
        attribution="Generated by Pellucid.",
        licence="CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/",
    )


def _hiring(n: int, seed: int) -> World:
    return _table("hiring", HIRING, ("turned down", "invited"), n, seed)


def _insurance(n: int, seed: int) -> World:
    return _table("insurance", INSURANCE, ("low premium", "high premium"), n, seed)


def _credit(n: int, seed: int) -> World:
    """The tabular world, without the copy of income: a network may read either, and both would be right."""
    whole = tabular(n, seed)
    kept = [k for k in range(len(FEATURES)) if k != INCOME_COPY]
    settings = {name: getattr(whole, name) for name in ("labels", "classes", "train_rows", "test_rows", "attribution")}
    assert whole.mean is not None
    assert whole.scale is not None
    return World(
        name="credit",
        inputs=whole.inputs[:, kept],
        features=tuple(FEATURES[k] for k in kept),
        mean=whole.mean[kept],
        scale=whole.scale[kept],
        licence=whole.licence,
        truth={
            "important": whole.truth["relevant"][:, kept],
            "scored": torch.arange(n),
            "rule": whole.truth["rule_text"],
        },
        **settings,
    )


def _credit_schema() -> tuple[Part, ...]:
    roles: dict[int, Role] = {GROUP: "protected", GROUP + 1: "proxy", INCOME: "decides"}
    return tuple(
        Part(name=name, values="as in worlds.tabular", role=roles.get(k, "decides" if k in CAUSES else "decoy"),
             decides=k in CAUSES)
        for k, name in enumerate(FEATURES)
        if k != INCOME_COPY
    )  # fmt: skip


def _drawn(name: str) -> tuple[Part, ...]:
    picture = scenario_pictures.PICTURES[name]
    parts = [Part(name=picture.decides, values="drawn, with its pixels known", role="decides", decides=True)]
    return tuple(parts + [Part(name=d, values="drawn whatever the answer", role="decoy") for d in picture.decoys])


def _pictured(name: str) -> Callable[[int, int], World]:
    return lambda n, seed: scenario_pictures.world(name, n, seed)


_ALL = (
    Scenario(
        name="driving",
        title="Braking for what stands in the lane",
        decision="brake, or drive on",
        users="the car's own control while it drives; engineers and courts afterwards",
        impact="time-critical",
        question="Which inputs mattered?",
        audience="engineer",
        risks=(
            "braking for what stands beside the road, or not braking for what was never in the training data",
            "an explanation that comes after the crash helps nobody in the car",
        ),
        schema=_drawn("driving"),
        methods=("vanilla-gradient", "occlusion-sensitivity", "integrated-gradients"),
        make=_pictured("driving"),
    ),
    Scenario(
        name="medical",
        title="A nodule on a scan",
        decision="refer the patient, or not",
        users="radiologists, who answer for the referral, and patients, who may ask why",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="auditor",
        risks=(
            "a mark of the clinic on the picture that goes along with the illness is read in its place",
            "a map that looks plausible makes a wrong answer more persuasive",
        ),
        schema=_drawn("medical"),
        methods=IMAGES,
        make=_pictured("medical"),
    ),
    Scenario(
        name="credit",
        title="A loan granted or refused",
        decision="grant the loan, or refuse it",
        users="the applicant, the bank's officer, the supervisor",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="layperson",
        risks=(
            "a district stands for a protected group",
            "whoever knows the reasons may change what is read without changing the risk",
        ),
        schema=_credit_schema(),
        methods=TABLES,
        make=_credit,
    ),
    Scenario(
        name="hiring",
        title="Invited or turned down",
        decision="invite the applicant, or turn them down",
        users="the applicant, the recruiter, whoever checks for discrimination",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="auditor",
        risks=(
            "the decisions it learnt from put one group at a disadvantage: here it is planted, and has to be found",
            "without the column for the group, the club would give it away",
        ),
        schema=tuple(column.part() for column in HIRING),
        methods=TABLES,
        make=_hiring,
    ),
    Scenario(
        name="insurance",
        title="A premium",
        decision="a low premium, or a high one",
        users="the insured, the actuary, the supervisor",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="layperson",
        risks=(
            "columns that go along with a risk without causing it make the premium unfair",
            "age decides here by design; whether it may is a question of law that no explanation answers",
        ),
        schema=tuple(column.part() for column in INSURANCE),
        methods=TABLES,
        make=_insurance,
    ),
    Scenario(
        name="surveillance",
        title="A bag that was left",
        decision="raise an alarm, or not",
        users="guards at a screen; the people who are watched",
        impact="time-critical",
        question="Which inputs mattered?",
        audience="engineer",
        risks=(
            "people are watched who gave no reason to, and alarms fall on some of them more often",
            "guards stop looking where alarms are mostly false",
        ),
        schema=_drawn("surveillance"),
        methods=("vanilla-gradient", "occlusion-sensitivity", "integrated-gradients"),
        make=_pictured("surveillance"),
    ),
    Scenario(
        name="military",
        title="An armed vehicle or an unarmed one",
        decision="report the vehicle as armed, or not",
        users="an officer who answers for what follows, and whoever judges it later",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="auditor",
        risks=(
            "lives depend on it, and rows unlike the training data are the rule",
            "the ground or the weather of the pictures may be read in place of the vehicle",
        ),
        schema=_drawn("military"),
        methods=IMAGES,
        make=_pictured("military"),
    ),
    Scenario(
        name="face",
        title="Smiling or not",
        decision="call the expression a smile, or not",
        users="makers of cameras and of studies; the people pictured",
        impact="decision-critical",
        question="Which inputs mattered?",
        audience="layperson",
        risks=(
            "an expression is not a feeling",
            "glasses, skin or hair that go along with the label in the training data are read in its place",
        ),
        schema=_drawn("face"),
        methods=IMAGES,
        make=_pictured("face"),
    ),
    Scenario(
        name="voice",
        title="A rising tone or a falling one",
        decision="take the words for a question, or for a statement",
        users="whoever speaks to a device, and its makers",
        impact="time-critical",
        question="Which inputs mattered?",
        audience="engineer",
        risks=(
            "voices and accents that were rare in the training data are understood less often",
            "a hum of the room or of the microphone is read in place of the voice",
        ),
        schema=_drawn("voice"),
        methods=("vanilla-gradient", "occlusion-sensitivity", "integrated-gradients"),
        make=_pictured("voice"),
    ),
)
SCENARIOS: Mapping[str, Scenario] = MappingProxyType({scenario.name: scenario for scenario in _ALL})


def get(name: str) -> Scenario:
    """The scenario of this name.

    >>> from pellucid import worlds
    >>> worlds.scenarios.get("driving").impact
    'time-critical'
    """
    if not isinstance(name, str) or name not in SCENARIOS:
        near = difflib.get_close_matches(str(name), SCENARIOS, 1)
        hint = near[0] if near else ", ".join(SCENARIOS)
        raise InputError("The scenario must be one of the catalogue's", got=repr(name)[:80], hint=hint)
    return SCENARIOS[name]
