"""What people answered, drawn and told: every interval, every warning, and that pretended answers are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pellucid as px
from pellucid.contract import Context

FACTS = {"low": [0.4, 0.6, float("nan")], "high": [0.6, 0.8, float("nan")], "seconds": [3.0, 4.5, float("nan")]}
PARTS = {"effect": [float("nan"), 0.2, float("nan")], "effect_low": [float("nan"), 0.05, float("nan")]}
PARTS |= {"effect_high": [float("nan"), 0.35, float("nan")]}


def result(**study: Any) -> px.Measure:
    told = {"title": "What will it say?", "people": 12, "planned": 20, "simulated": False, "warnings": [], **study}
    tensors = [{k: torch.tensor(v, dtype=torch.float64) for k, v in d.items()} for d in (FACTS, PARTS)]
    return px.Measure(
        values=torch.tensor([0.5, 0.7, float("nan")]),
        unit="share right",
        facts=tensors[0],
        parts=tensors[1],
        source={"study": told},
        context=Context(features=("without", "with <b>map</b>", "rules")),
    )


def test_every_condition_is_told_with_its_interval() -> None:
    words = result().describe()
    assert "What did people answer? What will it say?" in words
    assert "without: 50 % right, with 95 % confidence between 40 % and 60 %; 3 seconds." in words
    assert "rules: no answers that tell it." in words
    assert "with <b>map</b> minus without: +0.2 (+0.05 to +0.35)." in words
    assert "Answers of 12 participants of 20 planned." in words
    assert "pretended" not in words


@pytest.mark.parametrize("form", ["words", "html", "figure"])
def test_warnings_are_shown(form: str) -> None:
    made = result(warnings=["Plausible is not faithful: edges (90 % accepted)."], simulated=True)
    if form == "figure":
        told = made.show()._supxlabel.get_text()
    else:
        told = made.describe() if form == "words" else made.html()
    told = told.replace("\u00a0", " ").replace("\n", " ")
    assert "Plausible is not faithful" in told
    assert "Nobody was asked" in told


def test_hostile_names_stay_text() -> None:
    page = result(title="<script>alert(1)</script>").html()
    assert "<b>map" not in page
    assert "<script>alert" not in page


def test_the_interval_of_each_condition_is_drawn() -> None:
    first, second = result().show().axes
    drawn = [line.get_xdata() for line in first.lines if len(line.get_xdata()) == 2]
    assert [tuple(map(float, d)) for d in drawn] == [(0.4, 0.6), (0.6, 0.8)]
    assert first.get_yticklabels()[0].get_text() == "without"
    assert any(
        tuple(map(float, line.get_xdata())) == (0.05, 0.35) for line in second.lines if len(line.get_xdata()) == 2
    )


def test_answers_out_of_balance_are_said_to_be() -> None:
    assert "out of balance" in result(balance={"conditions × cases": {"p": 0.01}}).describe()
    assert "out of balance" not in result(balance={"conditions × cases": {"p": 0.5}}).describe()


def test_a_measure_without_intervals_is_drawn_as_before() -> None:
    made = result().replace(facts={})
    assert made.show() is not None
    assert "run from" in made.describe()
