"""The release gate: every card is whole and every claim is tried and kept; a card that lacks or lies closes it."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from pellucid import testing
from pellucid.contract import registered
from pellucid.contract.card import CLAIMS
from pellucid.testing.checking.entry import checks
from pellucid.testing.liars import liars
from pellucid.testing.release import PIECES, TRIED_BY
from pellucid.testing.twins import HonestPath

METHODS = sorted(m.card.name for m in registered().values() if m.__module__.startswith("pellucid."))


def test_every_card_is_whole_and_every_claim_has_a_check() -> None:
    found = testing.gate(run=False)
    own = {*METHODS, *found.cardless}  # other tests register methods of their own in this process
    assert {name: told for name, told in found.problems.items() if name in own} == {}
    assert {sheet.name for sheet in found.sheets} >= {*METHODS}
    assert {name for claim in CLAIMS for name in TRIED_BY.get(claim, (claim,))} <= {*checks()}


@pytest.mark.slow
@pytest.mark.skipif("PELLUCID_EVERY_MODEL" not in os.environ, reason="test_conformance.py has tried the same claims")
@pytest.mark.parametrize("name", METHODS)
def test_every_claim_is_tried_and_kept(name: str) -> None:
    found = testing.sheet(name)
    assert found.problems == []
    assert not any(one["outcome"] == "not run" for one in found.claims.values())


@pytest.mark.parametrize("name", ["vanilla-gradient", "feature-ablation", "insertion-deletion", "trust-score"])
def test_a_few_claims_are_tried_and_kept(name: str) -> None:
    assert testing.sheet(name).problems == []


@pytest.mark.parametrize("piece", PIECES)
def test_an_empty_piece_closes_the_gate(piece: str) -> None:
    class Bare(HonestPath):
        pass

    old = getattr(HonestPath.card, piece)
    Bare.card = dataclasses.replace(HonestPath.card, name="bare", **{piece: type(old)()})
    found = testing.gate([Bare], run=False)
    assert f"the card says nothing of {piece}" in found.problems["bare"]
    assert not found.open


@pytest.mark.parametrize("claim", ["complete", "rowwise", "linear", "spelling invariant"])
def test_a_false_claim_closes_the_gate(claim: str) -> None:
    liar = next(one for one in liars()[claim] if one.verb is testing.Case.__dataclass_fields__["verb"].default)
    found = testing.gate([liar.method])
    assert any(f"it claims to be {claim}" in problem for problem in found.problems[liar.method.card.name])
    assert "FAIL" in found.text()
    assert found.text().endswith("the gate is closed")


def test_a_claim_that_nothing_can_try_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vague(HonestPath):
        pass

    monkeypatch.setitem(CLAIMS, "fair", "it treats everybody alike")
    Vague.card = dataclasses.replace(HonestPath.card, name="vague", claims=("deterministic", "fair"))
    assert "it claims to be fair: no check tries it" in testing.gate([Vague], run=False).problems["vague"]


def test_sheets_are_machine_readable() -> None:
    told = json.loads(testing.gate(["vanilla-gradient"], run=False).as_json())
    (sheet,) = told["methods"]
    assert told["open"]
    assert sheet["id"] == "vanilla-gradient"
    assert sheet["assumes"]["gradient"].startswith("derivatives")
    assert sheet["claims"]["rowwise"]["checks"]["rowwise"]
    assert sheet["limits"]
