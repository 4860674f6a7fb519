"""Rule sets have exactly the wanted complexity, and tasks the right answers: read from the text that people see."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pellucid.contract.errors import InputError
from pellucid.evaluation import Complexity, Stimulus, analyse_slopes, decision_set, decision_set_study

WANTED = [
    Complexity(lines=1, terms=2),
    Complexity(lines=2, terms=2, repeats=1),
    Complexity(lines=4, terms=3, repeats=5),
    Complexity(lines=4, terms=3, chunks=2, repeats=2),
    Complexity(lines=4, terms=3, chunks=2, repeats=2, explicit=False),
    Complexity(lines=8, terms=4, chunks=5, repeats=9),
    Complexity(lines=6, terms=2, chunks=6, repeats=0),
    Complexity(lines=3, terms=4, repeats=7),
    Complexity(lines=10, terms=3),
]


def parse(lines: tuple[str, ...]) -> tuple[dict[str, list[str]], list[tuple[list[list[str]], list[str], str]]]:
    """Definitions; and of each rule its parts, as lists of things, the parts as written, and its output."""
    defined: dict[str, list[str]] = {}
    rules = []
    for line in lines:
        if line.startswith("if "):
            body, output = line[3:].split(" then ")
            written = [p for p in re.findall(r"\([^)]*\)|\w+", body) if p != "and"]
            things = [p.strip("()").split(" and ") if "(" in p else defined.get(p, [p]) for p in written]
            rules.append((things, written, output))
        else:
            name, meaning = line.split(" means ")
            defined[name] = meaning.split(" and ")
    return defined, rules


def says(lines: tuple[str, ...], seen: set[str]) -> list[str]:
    """What the rules say, each tried."""
    return [output for things, _, output in parse(lines)[1] if all(t in seen for part in things for t in part)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wanted", WANTED, ids=lambda c: c.name)
def test_rule_sets_have_exactly_what_was_asked_for(wanted: Complexity, seed: int) -> None:
    made = decision_set(wanted, seed=seed)
    defined, rules = parse(made.text())
    assert len(rules) == wanted.lines
    assert all(len(written) == wanted.terms for _, written, _ in rules)
    concepts = [p for _, written, _ in rules for p in written if p in defined or "(" in p]
    assert len(set(concepts)) == len(concepts) == wanted.chunks
    assert len(defined) == (wanted.chunks if wanted.explicit else 0)
    plain = [p for _, written, _ in rules for p in written if p not in concepts]
    assert len(plain) - len(set(plain)) == wanted.repeats
    assert all(len(set(written)) == len(written) for _, written, _ in rules)
    inside = [
        t
        for things, written, _ in rules
        for part, w in zip(things, written, strict=True)
        if w in concepts
        for t in part
    ]
    assert len(inside) == len(set(inside)) == 2 * wanted.chunks
    assert not set(inside) & set(plain)
    assert len({output for _, _, output in rules}) == wanted.lines
    assert made.complexity() == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        Complexity(lines=2, terms=2, repeats=3),
        Complexity(lines=2, terms=2, repeats=2),  # two rules that hold together
        Complexity(lines=2, terms=2, chunks=5),
        Complexity(lines=20),
        Complexity(lines=10, terms=8),
        Complexity(lines=2, repeats=-1),
        Complexity(lines=0),
    ],
    ids=lambda c: c.name,
)
def test_what_no_rule_set_can_have_is_refused(wanted: Complexity) -> None:
    with pytest.raises(LookupError if wanted.repeats < 0 or not wanted.lines else InputError):
        decision_set(wanted)


def screen(s: Stimulus) -> tuple[tuple[str, ...], set[str], str]:
    return s.panels[0].lines, set(s.panels[1].lines[0].split(", ")), s.questions[0].text


@pytest.mark.parametrize("task", ["verification", "simulation", "counterfactual"])
def test_right_answers_follow_from_what_people_see(task: str) -> None:
    study, _ = decision_set_study(WANTED[1:8], participants=2, task=task, tasks=6)
    for s in study.stimuli:
        rules, seen, text = screen(s)
        said = says(rules, seen)
        assert len(said) == 1
        chosen = s.questions[0].options[s.right["answer"]]
        if task == "simulation":
            assert chosen == said[0]
        elif task == "verification":
            offered = re.search(r"was fed (\w+)\.", text)
            assert offered
            assert (chosen == "Yes") == (offered[1] == said[0])
        else:
            swap = re.search(r"Suppose it were (\w+), and not (\w+)\.", text)
            less, more = (
                re.search(r"Suppose it were not (\w+)\.", text),
                re.search(r"Suppose it were (\w+), too\.", text),
            )
            after = (
                seen - {swap[2]} | {swap[1]}
                if swap
                else seen - {less[1]}
                if less
                else seen | {more[1]}
                if more
                else set()
            )
            then = says(rules, after)
            assert len(then) == 1
            assert (chosen == "Yes") == (then != said)
    rights = [s.right["answer"] for s in study.stimuli]
    if task != "simulation":
        assert sum(rights) * 2 == len(rights)


def test_the_planted_slopes_are_recovered() -> None:
    """Pretended people take longer with lines and repeats, and twice as long for a chunk; each has a pace of their own."""
    levels = [Complexity(lines=n, terms=3, chunks=c, repeats=r) for n in (3, 6) for c in (0, 1) for r in (0, 3)]
    study, factors = decision_set_study(levels, participants=12, tasks=4)
    where = {c.name: c for c in levels}

    def person(number: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, Any], float]:
        c = where[s.condition]
        pace = 0.5 * np.random.default_rng(number).normal()
        log = pace + 0.2 * c.lines + 0.1 * c.repeats + np.log(2) * c.chunks + 0.3 * draw.normal()
        right = draw.random() < 0.95 - 0.05 * c.lines
        rating = int(np.clip(np.rint(c.lines / 2 + 2 * c.chunks + draw.normal()), 1, 7))
        return {"answer": s.right["answer"] if right else 1 - s.right["answer"], "difficulty": rating}, float(
            np.exp(log)
        )

    answers = study.rehearse(person)
    found = analyse_slopes(study, answers, factors)
    told = dict(zip(found.context.features, range(5), strict=True))
    for name, truth in (("lines", 0.2), ("chunks", np.log(2)), ("repeats", 0.1)):
        at = told[name]
        assert float(found.values[at]) == pytest.approx(truth, abs=0.05)
        assert float(found.facts["low"][at]) < truth < float(found.facts["high"][at])
    assert bool(found.values[told["terms"]].isnan())  # the same everywhere: nothing can be said of it
    right = analyse_slopes(study, answers, factors, of="answers")
    assert float(right.values[told["lines"]]) == pytest.approx(-0.05, abs=0.04)
    hard = analyse_slopes(study, answers, factors, "difficulty", of="answers")
    assert float(hard.values[told["chunks"]]) == pytest.approx(2, abs=0.3)


def test_what_can_not_be_asked_of_a_single_rule_is_refused() -> None:
    for task in ("simulation", "counterfactual"):
        with pytest.raises(InputError, match=task):
            decision_set_study([Complexity(lines=1)], participants=2, task=task)


def test_wrong_settings_are_refused() -> None:
    one = [Complexity(lines=3)]
    for wrong in ({"task": "guess"}, {"tasks": 3}):
        with pytest.raises(InputError, match="task"):
            decision_set_study(one, participants=2, **wrong)
    with pytest.raises(InputError, match="different"):
        decision_set_study(one * 2, participants=2)
    study, factors = decision_set_study(one, participants=2)
    answers = study.rehearse(lambda *_: ({"answer": 0, "difficulty": 1}, 1.0))
    with pytest.raises(InputError, match="of"):
        analyse_slopes(study, answers, factors, of="speed")
    with pytest.raises(InputError, match="factor"):
        analyse_slopes(study, answers, {"lines": [1, 2]})
