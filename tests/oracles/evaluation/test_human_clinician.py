"""Clinicians: a sham is found out where people can tell, and not where they can't; nothing of a patient is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.contract.errors import InputError
from pellucid.evaluation import (
    Panel,
    Stimulus,
    analyse_clinicians,
    clinician_study,
    intraclass_correlation,
    notebook,
    participants_needed,
    sham,
)

TRUTH = [i % 2 for i in range(12)]


def panels(name: str) -> list[Panel]:
    return [Panel(lines=(f"{name} {i}",)) for i in range(12)]


def study(**changes: Any) -> Any:
    shown = {"true": panels("a"), "other method": panels("b"), "sham": panels("c")}
    given = {"participants": 12, "advice": TRUTH, **changes}
    return clinician_study(panels("case"), shown, ["benign", "malignant"], TRUTH, **given)


def doctor(level: dict[str, float], share: dict[str, float]) -> Any:
    """Rates by condition, case and person; decides rightly so often."""

    def answer(number: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, Any], float]:
        own, case = 0.5 * np.sin(number), 1.2 * np.cos(3 * int(s.case[5:]))
        rating = int(np.clip(np.rint(level[s.condition] + own + case + 0.7 * draw.normal()), 1, 7))
        right = s.right["decision"] if draw.random() < share[s.condition] else 1 - s.right["decision"]
        return {"decision": right, "correct": rating, "useful": rating, "sure": 4}, 20.0

    return answer


LEVEL = {"no aid": 4.0, "true": 5.0, "other method": 4.5, "sham": 3.0}
SHARE = {"no aid": 0.7, "true": 0.9, "other method": 0.85, "sham": 0.7}


def test_a_sham_that_is_rated_lower_is_found_out() -> None:
    made = study()
    answers = made.rehearse(doctor(LEVEL, SHARE))
    found = analyse_clinicians(made, answers, against="sham")
    assert set(found) == {"decision", "correct", "useful", "sure"}
    for name in ("correct", "useful"):
        rating = found[name]
        assert rating.parts["effect"].tolist()[1:3] == pytest.approx([2.0, 1.5], abs=0.3)
        assert bool(rating.parts["effect"][[0, 3]].isnan().all())
        assert rating.source["study"]["found_out"] == {"true": True, "other method": True}
    right = found["decision"]
    assert right.values.tolist() == pytest.approx(list(SHARE.values()), abs=0.1)
    assert float(right.parts["effect_low"][1]) > 0
    # Agreement is that of the table put together here, case by case and person by person.
    table = [
        [
            next(a.given["correct"] for a in answers.answers if a.participant == p and made.stimuli[a.stimulus] is s)
            for p in range(1, 13)
        ]
        for s in made.stimuli
        if s.condition == "true"
    ]
    expected = intraclass_correlation(table)
    assert found["correct"].parts["agreement"][1].tolist() == pytest.approx(
        [expected.value, expected.low, expected.high]
    )


def test_a_sham_that_nobody_can_tell_is_not() -> None:
    made, hits = study(), 0
    for seed in range(5):
        answers = made.rehearse(doctor(dict.fromkeys(LEVEL, 4.0), SHARE), seed=seed)
        found = analyse_clinicians(made, answers, against="sham")["correct"]
        hits += sum(found.source["study"]["found_out"].values())
    assert hits <= 1  # one-sided 2.5 % each, ten times


def test_the_number_of_people_follows_from_what_matters() -> None:
    needed = participants_needed(1.0, spread=1.5, person=1.0, answers=12)
    assert needed <= study(participants=None).participants < needed + 4
    assert study(participants=None).participants % 4 == 0
    assert study(participants=None, difference=0.5).participants > study(participants=None).participants
    assert all(t["chi2"] == 0 for t in study(participants=None).balance().values())


def test_without_aid_nothing_is_advised() -> None:
    for s in study().stimuli:
        headings = [p.heading for p in s.panels]
        assert ("The network advises" in headings) == (s.condition != "no aid")
        assert len(s.panels) == (1 if s.condition == "no aid" else 3)


def test_a_sham_has_the_same_values_elsewhere() -> None:
    values = torch.zeros(4, 1, 16, 12)
    values[:, 0, 2:5, 2:4] = 1.0
    made = sham(px.Attribution(values=values), seed=1)
    for one, other in zip(values, made.values, strict=True):
        assert torch.equal(one.flatten().sort().values, other.flatten().sort().values)
        assert float((one * other).sum()) < 6  # not where it was
    assert len({tuple(v.flatten().tolist()) for v in made.values}) > 1
    table = px.Attribution(values=torch.arange(20.0).reshape(2, 10))
    assert not bool((sham(table).values == table.values).any())
    assert torch.equal(sham(table, seed=3).values, sham(table, seed=3).values)
    assert torch.equal(sham(px.Attribution(values=torch.ones(1, 1))).values, torch.ones(1, 1))
    with pytest.raises(InputError, match="attribution"):
        sham(px.Measure(values=torch.ones(1)))


def test_the_notebook_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study()
    made.export(tmp_path / "out")
    path = notebook(made, tmp_path / "out")
    (tmp_path / "out" / "answers").mkdir()
    codes = made.codes()
    given = {"decision": 0, "correct": 3, "useful": 3, "sure": 2}
    rows = [
        {"stimulus": codes[s.stimulus], "position": i, "seconds": 1.5, "given": given}
        for i, s in enumerate(made.plan()[0])
    ]
    body = {"format": "pellucid-answers", "version": 1, "study": made.mark, "participant": 1, "answers": rows}
    (tmp_path / "out" / "answers" / "1.json").write_text(json.dumps(body))
    monkeypatch.chdir(tmp_path / "out")
    space: dict[str, Any] = {}
    for cell in json.loads(path.read_text())["cells"]:
        exec(compile(cell["source"], "cell", "exec"), space)
    assert Path("answers.csv").read_text().count(",decision,0,benign,") == 48


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="each case"):
        study(advice=[0])
    with pytest.raises(InputError, match="against"):
        analyse_clinicians(study(), study().rehearse(doctor(LEVEL, SHARE)), against="placebo")
