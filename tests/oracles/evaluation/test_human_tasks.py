"""Tasks for people: choices, foretelling, real decisions; each with pretended people whose ways are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.contract.errors import InputError
from pellucid.evaluation import (
    Panel,
    Stimulus,
    analyse_gap,
    application_study,
    counterfactual_study,
    forward_simulation_study,
    preference_study,
)

TASTE = {"x": 0.0, "y": 1.2, "z": -0.8, "w": 0.5}


def panels(name: str, count: int) -> list[Panel]:
    return [Panel(lines=(f"{name} {i}",)) for i in range(count)]


def chooser(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, int], float]:
    one, other = s.names
    return {"choice": int(draw.random() > 1 / (1 + np.exp(TASTE[other] - TASTE[one])))}, 2.0


def test_raters_with_a_known_taste_give_the_order_of_methods() -> None:
    made = preference_study({k: panels(k, 4) for k in TASTE}, participants=24, cases=panels("case", 4))
    found = made.analyse(made.rehearse(chooser))
    assert found.context.features == tuple(TASTE)
    truth = np.array(list(TASTE.values())) - np.mean(list(TASTE.values()))
    assert np.argsort(found.values.numpy()).tolist() == np.argsort(truth).tolist()
    assert bool(((found.facts["low"].numpy() < truth) & (truth < found.facts["high"].numpy())).all())
    assert int(found.parts["wins"].sum()) == 24 * 6 * 4


def test_whoever_always_chooses_the_left_shows_no_preference() -> None:
    """Sides are balanced over people: a habit of the hand must not favour a method."""
    made = preference_study({k: panels(k, 4) for k in ("x", "y", "z")}, participants=12)
    left = {(p, s.stimulus): int(s.flipped) for p, own in enumerate(made.plan(), 1) for s in own}
    number = {id(s): i for i, s in enumerate(made.stimuli)}
    found = made.analyse(made.rehearse(lambda p, s, _: ({"choice": left[p, number[id(s)]]}, 1.0)))
    assert found.values.abs().max() < 1e-9


def test_sides_that_changed_places_on_the_page_are_put_back(tmp_path: Path) -> None:
    """Whoever always chooses what "x" shows, wherever it stands, prefers x."""
    made = preference_study({k: panels(k, 6) for k in ("x", "y")}, participants=2)
    body = made.public()
    for number, own in enumerate(body["plan"], 1):
        rows = []
        for place, (code, flipped) in enumerate(own):
            shown = body["stimuli"][code]["sides"][::-1] if flipped else body["stimuli"][code]["sides"]
            choice = next(i for i, one in enumerate(shown) if one["lines"][0].startswith("x"))
            rows.append({"stimulus": code, "position": place, "seconds": 1.0, "given": {"choice": choice}})
        file = {"format": "pellucid-answers", "version": 1, "study": made.mark, "participant": number, "answers": rows}
        (tmp_path / f"{number}.json").write_text(json.dumps(file))
    assert {flipped for own in body["plan"] for _, flipped in own} == {0, 1}
    answers = made.read(tmp_path)
    assert {a.given["choice"] for a in answers.answers} == {0}
    assert made.analyse(answers).parts["wins"].tolist() == [[0, 12], [0, 0]]


def test_no_difference_counts_half() -> None:
    made = preference_study({k: panels(k, 2) for k in ("x", "y")}, participants=4, neither=True)
    found = made.analyse(made.rehearse(lambda *_: ({"choice": 2}, 1.0)))
    assert found.values.tolist() == pytest.approx([0, 0])
    assert found.parts["wins"].tolist() == [[0, 4], [4, 0]]


def test_a_method_that_always_wins_is_told_with_the_prior_it_takes() -> None:
    made = preference_study({k: panels(k, 3) for k in ("x", "y")}, participants=4)
    found = made.analyse(made.rehearse(lambda *_: ({"choice": 0}, 1.0)))
    assert found.source["prior"] == 0.5
    assert found.values[0] > found.values[1]
    assert bool(found.values.isfinite().all())


def foreteller(share: dict[str, float]) -> Any:
    def answer(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, int], float]:
        right = s.right["answer"]
        return {"answer": right if draw.random() < share[s.condition] else (right + 1) % 3}, 3.0

    return answer


def test_foretelling_recovers_what_an_explanation_adds() -> None:
    seen, made = panels("case", 30), {"without": None, "with": panels("map", 30)}
    study = forward_simulation_study(seen, made, [i % 3 for i in range(30)], ["a", "b", "c"], participants=40)
    assert [len(s.panels) for s in study.stimuli[:2]] == [1, 2]
    found = study.analyse(study.rehearse(foreteller({"without": 0.4, "with": 0.7})))
    assert found.values.tolist() == pytest.approx([0.4, 0.7], abs=0.05)
    assert float(found.parts["effect_low"][1]) < 0.3 < float(found.parts["effect_high"][1])


def test_what_changes_is_told_apart_from_what_stays() -> None:
    before, after = [i % 3 for i in range(12)], [(i + i % 2) % 3 for i in range(12)]
    study = counterfactual_study(
        panels("case", 12),
        {"without": None, "with": panels("map", 12)},
        panels("changed", 12),
        before,
        after,
        ["a", "b", "c"],
        participants=20,
    )
    assert [s.about["changes"] for s in study.stimuli[::2]] == [i % 2 for i in range(12)]
    number = {s.case: i for i, s in enumerate(study.stimuli[::2])}
    # They say what was answered before: right where nothing changes, wrong elsewhere.
    answers = study.rehearse(lambda _, s, __: ({"answer": before[number[s.case]]}, 1.0))
    assert study.analyse(answers).values.tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert study.analyse(answers.where(study, changes=0)).values.tolist() == [1, 1]
    assert study.analyse(answers.where(study, changes=1)).values.tolist() == [0, 0]


def decisions() -> Any:
    truth = [i % 2 for i in range(40)]
    advice = [t if i % 4 else 1 - t for i, t in enumerate(truth)]  # a quarter is wrong
    told = [[Panel(lines=(f"advice {a}",))] for a in advice]
    aids = {"alone": None, "advice": told, "advice and map": [[*t, Panel(lines=("map",))] for t in told]}
    groups = ["north" if i // 2 % 2 else "south" for i in range(40)]
    return application_study(
        panels("case", 40), aids, truth, ["grant", "refuse"], participants=60, advice=advice, groups=groups
    )


def test_the_planted_detection_of_wrong_advice_is_recovered() -> None:
    """People with advice follow it; with a map they find out half of the wrong one."""
    study = decisions()

    def decide(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, int], float]:
        truth, advice = s.right["decision"], s.about["advice"]
        alone = truth if draw.random() < 0.7 else 1 - truth
        with_map = truth if advice == truth or draw.random() < 0.5 else advice
        chosen = {"alone": alone, "advice": advice, "advice and map": with_map}[s.condition]
        return {"decision": chosen, "sure": 3}, 10.0 if s.condition == "alone" else 5.0

    answers = study.rehearse(decide)
    assert study.analyse(answers).values.tolist() == pytest.approx([0.7, 0.75, 0.875], abs=0.05)
    wrong = study.analyse(answers.where(study, advice_right=0))
    assert wrong.values.tolist() == pytest.approx([0.7, 0.0, 0.5], abs=0.08)
    assert study.analyse(answers).parts["time_ratio"][1:].tolist() == pytest.approx([0.5, 0.5])


def test_the_planted_discrimination_is_recovered() -> None:
    """Alone, people grant the south's cases 30 points more often; with a map, as often as the north's."""
    study = decisions()

    def decide(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, int], float]:
        share = 0.5 + (0.3 if s.about["group"] == "south" and s.condition == "alone" else 0)
        return {"decision": int(draw.random() > share), "sure": 3}, 5.0

    found = analyse_gap(study, study.rehearse(decide))
    assert found.source["study"]["groups"] == ["south", "north"]
    assert found.values.tolist() == pytest.approx([0.3, 0, 0], abs=0.08)
    assert float(found.facts["low"][0]) < 0.3 < float(found.facts["high"][0])
    assert float(found.parts["effect_high"][2]) < 0


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="one length"):
        preference_study({"x": panels("x", 2), "y": panels("y", 3)}, participants=2)
    with pytest.raises(InputError, match="two methods"):
        preference_study({"x": panels("x", 2)}, participants=2)
    with pytest.raises(InputError, match="one length"):
        forward_simulation_study(panels("c", 2), {"a": None}, [0], ["a", "b"], participants=2)
    with pytest.raises(InputError, match="right answers"):
        forward_simulation_study(panels("c", 1), {"a": None}, [5], ["a", "b"], participants=2)
    with pytest.raises(InputError, match="two groups"):
        analyse_gap(
            study := preference_study({k: panels(k, 2) for k in "xy"}, participants=2), study.rehearse(chooser_of_a)
        )


def chooser_of_a(*_: Any) -> tuple[dict[str, int], float]:
    return {"choice": 0}, 1.0
