"""An auditor reads what was tried, what failed, what speaks against and on what each statement rests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid as px
from pellucid.report import replay
from pellucid.report.audit import noise
from pellucid.report.dossier import build, question
from pellucid.report.run import Found
from report.deciding import ROWS, reported, two
from show.reading import Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("auditor")
    methods = ["integrated-gradients", "gradient-x-input", "vanilla-gradient"]
    page, told = reported(folder, audience="auditor", methods=methods)
    return re.sub(r"\s+", " ", Page(page).text), told, folder


def test_the_checks_are_counted_and_those_that_failed_stand_on_the_page(
    made: tuple[str, dict[str, Any], Path],
) -> None:
    said, told, _ = made
    checks = [check for case in told["computed"]["cases"] for check in case["checks"]["checks"]]
    held = sum(c["held"] is True for c in checks)
    failed = [c for c in checks if c["held"] is False]
    assert len(checks) > 10
    assert failed
    assert f"{held} of {held + len(failed)} checks held" in said
    assert all(c["how"] in said for c in failed)


def test_maps_of_one_order_agree_and_others_do_not(made: tuple[str, dict[str, Any], Path]) -> None:
    _, told, _ = made
    pairs = {(a, b): c for a, b, c in told["computed"]["cases"][0]["checks"]["agreement"]}
    # Integrated gradients and gradient × input of the score 3a − b are equal: (3, −1, 0); the gradient is (1, −1, 0).
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert pairs[0, 1] == pytest.approx(1)
    assert pairs[0, 2] == pytest.approx(1)  # the same order of three
    # The second row's answer is one half whatever is put in: no order at all, which is no number.
    assert told["computed"]["cases"][1]["checks"]["agreement"][0][2] == "nan"
    held = {
        c["held"] for c in told["computed"]["cases"][1]["checks"]["checks"] if c["what"] == "Maps against each other"
    }
    assert held == {None}


def test_erasing_in_a_maps_order_is_held_against_random_orders(made: tuple[str, dict[str, Any], Path]) -> None:
    _, told, _ = made
    first = told["computed"]["cases"][0]["checks"]["erasing"]["0"]
    assert (first["part"], first["count"], first["of"]) == ("pixel", 1, 3)
    assert first["by_chance"] == pytest.approx(2, abs=0.5)


def test_noise_is_measured_as_counted_by_hand() -> None:
    subject, rows = two(), torch.tensor([[0.6, 0.0, 1.0]])
    put = question(rows, [], None, "layperson", None, seed=3)
    dossier = build(subject, put, Found())
    found = noise(dossier, rows, 0)
    draw = torch.Generator().manual_seed(3)
    for size, kept in found:
        moved = rows + size * 1.0 * torch.randn(50, 3, generator=draw)  # the row's values span one
        stays = [float(a - b) > 0.5 for a, b, _ in moved]
        assert kept == pytest.approx(sum(stays) / 50)
    assert found[0][1] > found[-1][1]


def test_a_map_that_weights_do_not_move_is_found_out(tmp_path: Path) -> None:
    class Alike(torch.nn.Module):
        """It has weights but hardly uses them, so that no map can depend on them."""

        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.stack([(flat * torch.tensor([3.0, 2.0, 1.0])).sum(1), flat.sum(1) * 0], 1) + (
                1e-9 * self.unused(flat)
            )

    _, told = reported(tmp_path, px.Subject(Alike().eval()), audience="auditor", methods=["gradient-x-input"])
    case = told["computed"]["cases"][0]["checks"]
    assert case["sanity"]["0"] == pytest.approx([1.0, 1.0])
    assert [c["held"] for c in case["checks"] if "drawn anew" in c["how"]] == [False]


def test_cards_statements_and_counter_evidence_stand_on_the_page(made: tuple[str, dict[str, Any], Path]) -> None:
    said, _, _ = made
    for name in ("integrated-gradients", "gradient-x-input", "vanilla-gradient"):
        card = px.contract.by_name(name).card
        assert f"{card.title} ({name})" in said
        assert card.citation in said
        assert all(text in said for text in (*card.limits, *card.supports))
        assert all(px.contract.CLAIMS[claim] in said for claim in card.claims)
    assert "Which statements are figures, and what they rest on" in said
    assert "Where the methods disagree" in said
    assert "What would give another answer" in said
    assert "1 pixel erased: “half” 82 %" in said


def test_an_auditors_page_is_replayed_like_any_other(made: tuple[str, dict[str, Any], Path]) -> None:
    _, told, folder = made
    found = replay(folder / "page.json", two(), ROWS)
    assert found.verified, str(found)
    assert "/computed/cases" in told["computed"]["statements"]


def test_others_are_not_shown_it(tmp_path: Path) -> None:
    for audience in ("layperson", "engineer"):
        page, told = reported(tmp_path, audience=audience, methods=["vanilla-gradient"])
        assert "How many checks held" not in page
        assert "checks" not in told["computed"]["cases"][0]
