"""`pellucid report --record`, `replay` and `record` as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pellucid.__main__ import main
from pellucid.report import record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    call = ["report", "zoo:digits-cnn", "test:3,5", "--out", str(folder / "page.html"), "--record"]
    assert main([*call, "--methods", "vanilla-gradient", "deep-nearest-neighbours", "--responsible", "A. Person"]) == 0
    return folder


def changed(folder: Path, to: Path, change: Any, *, resealed: bool = True) -> Path:
    told = json.loads((folder / "page.json").read_bytes())
    change(told)
    told = record.sealed(told["asked"], told["computed"], told["issued"]) if resealed else told
    (to / "changed.json").write_text(json.dumps(told))
    return to / "changed.json"


def test_a_record_of_the_zoo_needs_its_path_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seal = json.loads((folder / "page.json").read_bytes())["digests"]["record"]
    assert main(["replay", str(folder / "page.json"), "--digest", seal]) == 0
    out = capsys.readouterr().out
    assert "✗" not in out
    assert "✓ verified  result 2: deep-nearest-neighbours" in out
    # The record, the page's digest, model, inputs, data, outputs, two results, two cases, what is missing, what is said.
    assert "12 of 12 verified" in out


def test_what_differs_gives_status_1(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(folder, tmp_path, lambda r: r["computed"]["cases"][0]["answer"].update(share=0.5))
    assert main(["replay", str(path)]) == 1
    out = capsys.readouterr().out
    assert "✗ differs" in out
    assert "case 1" in out
    path = changed(folder, tmp_path, lambda r: r["issued"].update(responsible="B"), resealed=False)
    assert main(["replay", str(path)]) == 1
    assert "'issued' was changed" in capsys.readouterr().out
    assert main(["record", str(path)]) == 1
    assert "ALTERED" in capsys.readouterr().out
    assert main(["replay", str(folder / "page.json"), "--input", "test:3,6"]) == 1


def test_a_model_in_a_record_is_taken_from_the_zoo_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil_net.py").write_text("open('ran', 'w').close()")
    for name in ("evil_net:build", "hf:somebody/model", "onnx:file.onnx", "zoo:../x", "zoo:digits-cnn\n", None):
        path = changed(folder, tmp_path, lambda r, name=name: r["asked"]["model"].update(name=name))
        assert main(["replay", str(path), "--allow-code", "--path", str(tmp_path)]) == 2
        assert "--model" in capsys.readouterr().err
    assert main(["replay", str(path), "--model", "evil_net:build", "--path", str(tmp_path)]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["replay", str(path), "--model", "zoo:digits-cnn"]) == 0


def test_files_in_a_record_are_not_looked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("/etc/passwd", "test:3,5\n", "text:words", "x.npz", None):
        path = changed(folder, tmp_path, lambda r, name=name: r["asked"]["inputs"].update(name=name))
        assert main(["replay", str(path)]) == 1
        assert "– cannot" in capsys.readouterr().out
    path = changed(folder, tmp_path, lambda r: r["asked"]["data"].update(name="rows.csv"))
    assert main(["replay", str(path)]) == 1
    assert "bring the rows that the methods learnt from" in capsys.readouterr().out


def test_an_override_is_set_down_and_shown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.json"
    path.write_bytes((folder / "page.json").read_bytes())
    evil = "A\x1b[31m\u202e"
    assert main(["record", str(path), "--override", "=8", "--who", evil, "--reason", "it is", "--case", "2"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"A\x1b[31m\u202e decided “=8” for case 2: it is" in out
    assert "overridden: =8" in out
    assert "responsible: A. Person" in out
    assert main(["replay", str(path)]) == 0
    assert "1 override" in capsys.readouterr().out
    assert main(["record", str(path), "--override", "8"]) == 2
    assert main(["record", str(path), "--who", "me"]) == 2
    assert main(["record", str(tmp_path / "none.json")]) == 2
