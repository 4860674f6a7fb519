"""The lookup tables of the field guide, against rows copied out by hand, and the metadata that advice reads."""

from __future__ import annotations

import pytest
import torch

import pellucid as px
from pellucid.advice import direction, lookup
from pellucid.advice.table import NETWORKS, PROBLEMS, TABLE, Listing
from pellucid.contract import NEEDS, registered
from pellucid.contract.errors import InputError, PellucidError
from pellucid.engine.needs import INSIDE

IMAGES_BY_CNN = [
    *("Zeiler 2011", "Zeiler and Fergus 2014", "Selvaraju 2017", "Zhou 2016", "Lapuschkin 2016", "Zintgraf 2017"),
    *("Shrikumar 2017", "Harradon 2018", "Frosst 2017", "Zhang 2019a", "Zhang 2017", "Zhang 2018", "Hendricks 2016"),
]


def papers(*asked: str | None, agnostic: bool = False) -> list[str]:
    return [entry.paper for entry in lookup(*asked, agnostic=agnostic)]


def test_images_classified_by_a_cnn_get_exactly_the_rows_that_name_cnns() -> None:
    assert papers("image", "classification", "CNN") == IMAGES_BY_CNN


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("table", "regression", None), ["Tan 2018"]),
        (("text", "classification", "LSTM"), ["Murdoch and Szlam 2017"]),
        (
            ("text", "translation", None),
            ["Ding 2017", "Sundararajan 2017", "Vaswani 2017", "Bahdanau 2014", "Luong 2015"],
        ),
        (("video", "captions", None), ["Dong 2017"]),
        ((None, "localisation", None), ["Zhou 2016"]),
        (("graph", "classification", "any"), ["Montavon 2017", "Baehrens 2010"]),
        (("DNA", None, "CNN"), ["Shrikumar 2017"]),
        (("image", "regression", "RNN"), []),
    ],
)
def test_rows_are_returned_where_the_tables_say_so(asked: tuple[str | None, ...], expected: list[str]) -> None:
    assert papers(*asked) == expected


def test_missing_icons_are_honoured() -> None:
    assert "Arras 2016" not in papers("text")  # embeddings, not words
    assert "Lapuschkin 2016" not in papers("text", "classification")
    assert "Sundararajan 2016" not in papers("text", "translation")


def test_rows_for_any_network_come_where_they_are_asked_for() -> None:
    wide = papers("image", "classification", "CNN", agnostic=True)
    assert set(IMAGES_BY_CNN) < set(wide)
    assert {"Ribeiro 2016c", "Fong 2017", "Sundararajan 2017"} <= set(wide)
    assert "Bach 2015" not in wide


def test_every_row_is_whole() -> None:
    assert len({entry.paper for entry in TABLE}) == len(TABLE) == 61
    assert {p for e in TABLE for p in e.problems} == {*PROBLEMS}
    assert {f for e in TABLE for f in e.families} == {*NETWORKS}


@pytest.mark.parametrize("asked", [("picture",), ("image", "classify"), ("image", None, "ConvNet")])
def test_unknown_words_are_refused(asked: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="must be one of"):
        lookup(*asked)


def test_a_method_is_listed_for_this_call_for_others_or_nowhere() -> None:
    assert Listing.of(["grad-cam"], ["CNN"], "image", "classification").tier == 0
    assert Listing.of(["grad-cam"], ["RNN"], "text", "classification").tier == 2
    assert Listing.of(["smoothgrad"], ["CNN"], "image", "classification").tier == 1


def own() -> list[str]:
    return sorted(name for name, m in registered().items() if m.__module__.startswith("pellucid."))


@pytest.mark.parametrize("name", own())
def test_every_method_has_the_metadata_that_advice_reads(name: str) -> None:
    card = px.catalogue.card(name)
    assert card.cost
    assert card.data_types
    assert card.limits
    assert {*card.needs} <= {*NEEDS}


@pytest.mark.parametrize("name", [n for n in own() if {*INSIDE} & {*px.catalogue.card(n).needs}])
def test_a_method_that_looks_inside_refuses_a_plain_function(name: str) -> None:
    calls = []
    with pytest.raises(PellucidError, match="torch module"):
        px.explain(lambda x: calls.append(1), torch.ones(1, 4), name)
    assert calls == []


@pytest.mark.parametrize(
    ("purpose", "engagement", "scopes", "first"),
    [
        ({"single": True}, "passive", ("local", "semi-local"), None),  # a credit refused
        ({"whole": True}, "passive", ("global",), None),  # a field of science
        ({"single": True, "whole": True}, "passive", ("local", "semi-local", "global"), "mame"),
        ({"single": True, "retraining": True, "priors": True}, "active", ("local", "semi-local"), None),
        ({"whole": True, "retraining": True}, "passive", ("global",), None),  # nothing known to train it by
        ({"whole": True, "priors": True}, "passive", ("global",), None),  # not permitted
    ],
)
def test_purposes_lead_where_the_third_survey_says(
    purpose: dict[str, bool], engagement: str, scopes: tuple[str, ...], first: str | None
) -> None:
    found = direction(**purpose)
    assert (found.engagement, found.scopes) == (engagement, scopes)
    cards = {name: px.catalogue.card(name) for name in found.names}
    assert all(card.scope in scopes and card.active == (engagement == "active") for card in cards.values())
    assert all(card.form != "measure" for card in cards.values())
    assert first is None or found.names[0] == first
    assert found.reasons


def test_without_a_purpose_there_is_no_direction() -> None:
    with pytest.raises(InputError, match=r"purpose.*neither"):
        direction(retraining=True)
