"""`pellucid compare` as a person meets it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pellucid.__main__ import main
from pellucid.evaluation.comparing_column import Run

QUICK = ("--methods", "gradient-x-input,feature-ablation,cam", "--metrics", "insertion-deletion")


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> str:
    assert main(["compare", *map(str, arguments)]) == status
    return capsys.readouterr().out


def test_it_prints_a_ranked_table_with_intervals_directions_a_recommendation_and_the_reasons(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = said(capsys, "zoo:digits-cnn", "test:0-2", *QUICK)
    table, _, reasons = out.partition("not measured")
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["method", "median", "rank", "insertion-deletion"]
    assert [line[:2] for line in lines[2:4]] == [["feature-ablation", "1"], ["gradient-x-input", "2"]]
    assert all("±" in line for line in lines[2:4])
    assert "lower is better" in table
    assert "recommended: feature-ablation; its median rank, 1, is the best of 2" in " ".join(table.split())
    assert "cam" in reasons
    assert "global average pooling" in " ".join(reasons.split())


def test_json_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(said(capsys, "zoo:digits-cnn", "test:0-1", *QUICK, "--json"))["source"]["comparison"]
    assert told["methods"] == ["gradient-x-input", "feature-ablation", "cam"]
    assert told["means"][2] == [None]
    assert told["about"]["insertion-deletion"]["assumption"]


def test_words_are_compared_at_their_embedding_and_other_layers_can_be_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("zoo:sentences-gru", "text:the food was good but the service was bad")
    embedded = json.loads(said(capsys, *words, *QUICK, "--json"))
    assert "embedding" in embedded["source"]["layer"]
    assert [len(refused) for refused in embedded["source"]["comparison"]["refused"].values()] == [1]
    named = json.loads(said(capsys, "zoo:digits-cnn", "test:0", *QUICK, "--layer", "conv1", "--json"))
    assert named["source"]["layer"] == "conv1"


def test_what_is_over_the_budget_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "zoo:digits-cnn", "test:0", *QUICK, "--budget", "1e-9")
    assert "budget includes it" in " ".join(out.split())
    assert "none is recommended" in out
    assert "budget" not in said(capsys, "zoo:digits-cnn", "test:0", *QUICK, "--budget", "inf")


def test_ctrl_c_says_where_to_go_on_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = Run._explained

    def explained(run: Run, method: Any, *rest: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(method.card.name)
        return real(run, method, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_explained", explained)
        assert main(["compare", "zoo:digits-cnn", "test:0", *QUICK, "--folder", str(tmp_path)]) == 130
    assert f"kept in {tmp_path}" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1
    assert "feature-ablation" in said(capsys, "zoo:digits-cnn", "test:0", *QUICK, "--folder", tmp_path)


def test_the_file_for_programs_holds_means_and_the_ends_of_their_intervals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    told = json.loads(said(capsys, "zoo:digits-cnn", "test:0-2", *QUICK, "--json", "--csv", path))
    lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    head = ["method", "median rank", "insertion-deletion", "insertion-deletion low", "insertion-deletion high"]
    assert lines[0] == [*head, "does not fit"]
    assert [line[0] for line in lines[1:]] == ["feature-ablation", "gradient-x-input", "cam"]
    mean, low, high = (float(cell) for cell in lines[1][2:5])
    assert mean == told["source"]["comparison"]["means"][1][0]
    assert (low + high) / 2 == pytest.approx(mean)
    assert lines[3][1:5] == ["", "", "", ""]
