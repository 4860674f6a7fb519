"""What do the answers to a study say? A figure for each condition with its interval, and what each condition changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.contract import Context, Measure
from pellucid.contract.errors import InputError
from pellucid.evaluation.human import Study
from pellucid.evaluation.human_answers import Answers
from pellucid.evaluation.human_statistics import (
    Estimate,
    bradley_terry,
    connected,
    fleiss_kappa,
    intraclass_correlation,
    mixed_effects,
    quantile,
)

__all__ = ["analyse_slopes"]

Array = NDArray[Any]


def analyse(study: Study, answers: Answers, question: str | None = None) -> Measure:
    """A figure for each condition, from the answers to one question.

    What the figure is follows from the question: the share of right answers, where there are any; the mean of a scale; the
    share that chose the first option; or, of choices between two sides, how strong each named side is (Bradley and Terry;
    log-odds, mean zero).

    Returns:
        A measure. ``values`` (conditions,), or (names,) of sides. Facts beside them: ``low`` and ``high``, 95 %;
        ``answers``; ``participants``; ``seconds`` (the geometric mean) with ``seconds_low`` and ``seconds_high``. `parts`,
        for conditions, each minus the first: ``effect`` with ``effect_low`` and ``effect_high``, the mean over people of
        each one's own difference (between people, Welch's); ``mixed``, the same by a random-intercept model with cases as
        fixed effects; ``time_ratio``, how many times longer it takes. ``agreement``: (value, low, high), Fleiss' kappa
        over cases or, for complete scales, ICC(2,1), of each condition. ``source["study"]`` has names, warnings, the
        balance test of the answers that came, and what the figures are.

    Intervals of shares are Wilson's at an effective number of answers, which allows for answers of one person being alike
    (Korn & Graubard 1998); others are Student's t over people. Cases count as fixed: the figures are about these cases.
    Known failure: few people; of fewer than ten, intervals say little.
    """
    if answers.study != study.mark:
        raise InputError("The 'answers' must be answers to this study", got="those of another one")
    asked = study.question(question)
    if asked.kind == "remark":
        raise InputError("The 'question' must be one whose answers are figures", got=repr(asked.name))
    right = any(asked.name in s.right for s in study.stimuli)
    if asked.kind == "side" and not right:
        return _preferences(study, answers, asked.name)
    table = _table(study, answers, asked.name, asked.kind, right)
    unit = "share right" if right else "mean rating" if asked.kind == "scale" else "share of the first option"
    facts, parts = _facts(study, table, asked.kind), _effects(study, table)
    source = _source(study, answers, asked.name, unit)
    return Measure(
        values=facts.pop("value"),
        better="higher" if right else "neither",
        unit=unit,
        facts=facts,
        parts={**parts, "agreement": _agreement(study, answers, asked.name, asked.kind)},
        source=source,
        context=Context(features=study.conditions),
    )


def analyse_slopes(
    study: Study,
    answers: Answers,
    factors: Mapping[str, Sequence[float]],
    question: str | None = None,
    *,
    of: str = "seconds",
) -> Measure:
    """How does each property of what was shown change time, accuracy or a rating?

    A random-intercept model over people, with the properties as columns beside each other: the slope of log-seconds
    (``of="seconds"``), or of the answers to a question (``of="answers"``), by one step of each factor.

    Args:
        study, answers, question: as for `analyse`.
        factors: name of a property → its figure in each condition, in the order of ``study.conditions``.
        of: "seconds" or "answers".

    Returns:
        A measure: ``values`` (factors,) are slopes, facts their ``low``, ``high`` and ``error``; times are told as
        ``ratio``, by which one step multiplies them.

    Source: Narayanan et al. 2018, §5, who regress each of the three responses on the properties.
    """
    if of not in ("seconds", "answers"):
        raise InputError("The 'of' must be 'seconds' or 'answers'", got=repr(of))
    for name, steps in factors.items():
        if len(steps) != len(study.conditions):
            raise InputError(f"The factor {name!r} must have one figure per condition", got=str(len(steps)))
    asked = study.question(question)
    right = any(asked.name in s.right for s in study.stimuli)
    people, conditions, _, figures, seconds = _table(study, answers, asked.name, asked.kind, right)
    design = np.array([np.asarray(f, float)[conditions] for f in factors.values()]).T
    kept = np.ptp(design, axis=0) > 0
    found = [Estimate(value=math.nan)] * len(factors)
    told = mixed_effects(
        np.log(seconds) if of == "seconds" else figures,
        np.column_stack([np.ones(len(people)), design[:, kept]]),
        people,
    )
    for place, estimate in zip(np.flatnonzero(kept), told[1:], strict=True):
        found[int(place)] = estimate
    values = torch.tensor([e.value for e in found], dtype=torch.float64)
    facts = {k: torch.tensor([getattr(e, k) for e in found], dtype=torch.float64) for k in ("low", "high", "error")}
    if of == "seconds":
        facts["ratio"] = values.exp()
    unit = "log-seconds per step" if of == "seconds" else "answer per step"
    source = _source(study, answers, asked.name, unit)
    return Measure(values=values, unit=unit, facts=facts, source=source, context=Context(features=tuple(factors)))


def _table(
    study: Study, answers: Answers, question: str, kind: str, right: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """Person, condition, case, figure and seconds of each answer."""
    cases = list(dict.fromkeys(s.case for s in study.stimuli))
    rows = []
    for a in answers.answers:
        s = study.stimuli[a.stimulus]
        if question not in a.given or (right and question not in s.right):
            continue
        given = a.given[question]
        if right:
            figure = float(given == s.right[question])
        elif kind == "several":
            figure = float(0 in given)
        else:
            figure = float(given) if kind == "scale" else float(given == 0)
        rows.append((a.participant, study.conditions.index(s.condition), cases.index(s.case), figure, a.seconds))
    if not rows:
        raise InputError("The 'answers' must hold some to this question", got="none", hint="another question")
    person, condition, case, figures, seconds = map(np.array, zip(*rows, strict=True))
    return person, condition, case, figures, seconds


def _facts(study: Study, table: tuple[Array, ...], kind: str) -> dict[str, torch.Tensor]:
    person, condition, _, figures, seconds = table
    told: dict[str, list[float]] = {}
    for way in range(len(study.conditions)):
        rows = condition == way
        by = share(figures[rows], person[rows]) if kind != "scale" else mean(figures[rows], person[rows])
        time = mean(np.log(seconds[rows]), person[rows])
        for name, value in (
            ("value", by.value),
            ("low", by.low),
            ("high", by.high),
            ("answers", float(rows.sum())),
            ("participants", float(len(np.unique(person[rows])))),
            ("seconds", math.exp(time.value)),
            ("seconds_low", math.exp(time.low)),
            ("seconds_high", math.exp(time.high)),
        ):
            told.setdefault(name, []).append(value)
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in told.items()}


def by_person(figures: Array, person: Array) -> tuple[Array, Array]:
    """Each person's mean and number of answers."""
    who = np.unique(person, return_inverse=True)[1]
    count = np.bincount(who)
    return np.bincount(who, weights=figures) / count, count


def mean(figures: Array, person: Array) -> Estimate:
    """The mean over people of each one's mean, by Student's t."""
    if not len(figures):
        return Estimate(value=math.nan)
    own = by_person(figures, person)[0]
    if len(own) < 2:
        return Estimate(value=float(own.mean()))
    error = float(own.std(ddof=1)) / math.sqrt(len(own))
    half, middle = quantile(len(own) - 1) * error, float(own.mean())
    return Estimate(value=middle, low=middle - half, high=middle + half, error=error)


def share(hits: Array, person: Array) -> Estimate:
    """The share of answers that are hits, by Wilson's interval at the effective number of answers over people."""
    count = len(hits)
    if not count:
        return Estimate(value=math.nan)
    value, (own, size) = float(hits.mean()), by_person(hits, person)
    people, effective, z = len(own), float(count), quantile(math.inf)
    if people > 1:
        z = quantile(people - 1)
        if 0 < value < 1:
            # Variance of a ratio of sums over people, beside that of independent answers.
            spread = people / (people - 1) * float((((own - value) * size) ** 2).sum()) / count**2
            effective = count * min(max(value * (1 - value) / count / max(spread, 1e-12), 1 / count), 1.0)
    p, t = value, z**2 / effective
    middle = (p + t / 2) / (1 + t)
    half = math.sqrt(t * p * (1 - p) + t**2 / 4) / (1 + t)
    return Estimate(value=value, low=max(0.0, middle - half), high=min(1.0, middle + half))


def _effects(study: Study, table: tuple[Array, ...]) -> dict[str, torch.Tensor]:
    """Each condition minus the first."""
    person, condition, case, figures, seconds = table
    count = len(study.conditions)
    if count < 2:
        return {}
    differ = _difference if study.design != "between" else _welch
    found: dict[str, list[Estimate]] = {"effect": [], "mixed": [], "time_ratio": []}
    modelled = _mixed(condition, case, figures, person, count)
    for way in range(count):
        found["effect"].append(differ(figures, person, condition, way))
        found["mixed"].append(modelled[way])
        time = differ(np.log(seconds), person, condition, way)
        low, high = math.exp(time.low), math.exp(time.high)
        found["time_ratio"].append(Estimate(value=math.exp(time.value), low=low, high=high))
    told = {}
    for name, estimates in found.items():
        for end in ("value", "low", "high"):
            values = [math.nan, *(getattr(e, end) for e in estimates[1:])]
            told[name if end == "value" else f"{name}_{end}"] = torch.tensor(values, dtype=torch.float64)
    return told


def _difference(figures: Array, person: Array, condition: Array, way: int) -> Estimate:
    """The mean over people of each one's own difference to the first condition."""
    both = np.intersect1d(person[condition == way], person[condition == 0])
    if not len(both):
        return Estimate(value=math.nan)
    kept = np.isin(person, both)
    own = [by_person(figures[kept & (condition == k)], person[kept & (condition == k)])[0] for k in (way, 0)]
    return mean(own[0] - own[1], both)


def _welch(figures: Array, person: Array, condition: Array, way: int) -> Estimate:
    """The difference of the means of two groups of people."""
    own = [by_person(figures[condition == k], person[condition == k])[0] for k in (way, 0)]
    if min(map(len, own)) < 2:
        return Estimate(value=math.nan)
    gap, parts = float(own[0].mean() - own[1].mean()), [float(o.var(ddof=1)) / len(o) for o in own]
    spread = sum(parts)
    if spread == 0:
        return Estimate(value=gap, low=gap, high=gap, error=0.0)
    freedom = spread**2 / sum(p**2 / (len(o) - 1) for p, o in zip(parts, own, strict=True))
    half = quantile(freedom) * math.sqrt(spread)
    return Estimate(value=gap, low=gap - half, high=gap + half, error=math.sqrt(spread))


def _mixed(condition: Array, case: Array, figures: Array, person: Array, count: int) -> list[Estimate]:
    """Conditions' effects in a random-intercept model with cases as fixed effects; NaN where the answers are too few."""
    columns = [np.ones(len(figures))]
    columns += [(condition == k).astype(float) for k in range(1, count)]
    columns += [(case == c).astype(float) for c in np.unique(case)[1:]]
    try:
        found = mixed_effects(figures, np.column_stack(columns), person)
    except (InputError, np.linalg.LinAlgError):
        return [Estimate(value=math.nan)] * count
    return [Estimate(value=0.0), *found[1:count]]


def _agreement(study: Study, answers: Answers, question: str, kind: str) -> torch.Tensor:
    """Agreement over the cases of each condition, with its interval: (conditions, 3)."""
    asked = study.question(question)
    told = []
    for way in study.conditions:
        given: dict[int, dict[int, Any]] = {}
        for a in answers.answers:
            if study.stimuli[a.stimulus].condition == way and question in a.given:
                given.setdefault(a.stimulus, {})[a.participant] = a.given[question]
        told.append(agreement(given, kind, len(asked.options) or 3))
    return torch.tensor([[e.value, e.low, e.high] for e in told], dtype=torch.float64)


def agreement(given: Mapping[int, Mapping[int, Any]], kind: str, categories: int) -> Estimate:
    """ICC(2,1) of a complete table of a scale, else Fleiss' kappa; `given` are answers by case and person."""
    people = sorted({p for own in given.values() for p in own})
    whole = all(len(own) == len(people) for own in given.values())
    if kind == "scale" and whole and min(len(given), len(people)) > 1:
        return intraclass_correlation([[own[p] for p in people] for own in given.values()])
    counts = np.zeros((len(given), categories + 1))
    for row, own in zip(counts, given.values(), strict=True):
        for value in own.values():
            row[int(0 in value) if isinstance(value, tuple) else value] += 1
    return fleiss_kappa(counts)


def _preferences(study: Study, answers: Answers, question: str) -> Measure:
    """How strong each named side is."""
    met = {a.stimulus for a in answers.answers if question in a.given}
    names = list(dict.fromkeys(name for i, s in enumerate(study.stimuli) if i in met for name in s.names))
    rows = [
        (names.index(s.names[0]), names.index(s.names[1]), (1.0, 0.0, 0.5)[a.given[question]], a.participant, a.seconds)
        for a in answers.answers
        if question in a.given and (s := study.stimuli[a.stimulus]).sides
    ]
    if not rows:
        raise InputError("The 'answers' must hold some to this question", got="none", hint="another question")
    first, second, won, people, seconds = map(np.array, zip(*rows, strict=True))
    first, second, count = first.astype(int), second.astype(int), len(names)
    prior = 0.0 if connected(first, second, won, count) else 0.5
    raters = people if len(set(people.tolist())) > 1 else None
    found = bradley_terry(first, second, won, raters=raters, prior=prior)
    time = mean(np.log(seconds), people)
    wins = np.zeros((count, count))
    np.add.at(wins, (first, second), won)
    np.add.at(wins, (second, first), 1 - won)
    given: dict[int, dict[int, Any]] = {}
    for a in answers.answers:
        if question in a.given:
            given.setdefault(a.stimulus, {})[a.participant] = a.given[question]
    agree = agreement(given, "side", 3)
    offered = [float(((first == k) | (second == k)).sum()) for k in range(count)]
    tensor: Callable[[Any], torch.Tensor] = lambda v: torch.tensor(np.asarray(v), dtype=torch.float64)  # noqa: E731
    return Measure(
        values=tensor(found.values),
        better="higher",
        unit="log-odds of being chosen",
        facts={
            "low": tensor(found.low),
            "high": tensor(found.high),
            "error": tensor(found.error),
            "answers": tensor(offered),
        },
        parts={
            "wins": tensor(wins),
            "covariance": tensor(found.covariance),
            "agreement": tensor([[agree.value, agree.low, agree.high]]),
            "seconds": tensor([math.exp(v) for v in (time.value, time.low, time.high)]),
        },
        source={**_source(study, answers, question, "strength"), "prior": prior},
        context=Context(features=tuple(names)),
    )


def _source(study: Study, answers: Answers, question: str, unit: str) -> dict[str, Any]:
    told = {
        "title": study.title,
        "question": question,
        "figure": unit,
        "conditions": list(study.conditions),
        "design": study.design,
        "people": len(answers.participants),
        "planned": study.participants,
        "simulated": answers.simulated,
        "warnings": list(study.warnings),
        "balance": study.balance(answers),
    }
    return {"study": told}
