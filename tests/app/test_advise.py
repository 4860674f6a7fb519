"""`pellucid advise` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pellucid.__main__ import main
from pellucid.contract import registered

FEW = ("vanilla-gradient", "feature-ablation", "cart-c45-surrogate", "grad-cam", "insertion-deletion")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    found = registered()
    monkeypatch.setattr("pellucid.advice.ask.registered", lambda: {n: found[n] for n in FEW})


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> str:
    assert main(["advise", *map(str, arguments)]) == status
    return capsys.readouterr().out


def test_it_says_what_to_take_and_what_to_call(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(said(capsys, "zoo:iris-mlp", "test:0-1", "--question", "Which inputs mattered?").split())
    assert out.startswith("Take ")
    assert "px.explain(model, inputs, 'feature-ablation')" in out
    assert "of 2 compared" in out


def test_json_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "zoo:iris-mlp", "--question", "what rule", "--json", "--audience", "auditor"))
    assert [s["method"] for s in found["suggestions"]] == ["cart-c45-surrogate"]
    assert {*found["refused"]} == {*FEW} - {"cart-c45-surrogate"}
    assert found["asked"]["audience"] == "auditor"


def test_nothing_in_time_is_said_with_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "zoo:iris-mlp", "test:0", "--deadline", "1e-9", status=3)
    assert out.startswith("Nothing explains 1 row within")


def test_a_page_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "advice.html"
    said(capsys, "zoo:iris-mlp", "test:0", "--html", page)
    assert "Which explanation?" in page.read_text(encoding="utf-8")
    assert main(["advise", "zoo:iris-mlp", "test:0", "--html", str(page)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "word"), [("--deadline", "-1"), ("--audience", "king"), ("--question", "xyzzy")])
def test_a_wrong_call_gets_status_2(capsys: pytest.CaptureFixture[str], option: str, word: str) -> None:
    assert main(["advise", "zoo:iris-mlp", "test:0", f"{option}={word}"]) == 2
    assert capsys.readouterr().err.startswith("pellucid: ")
