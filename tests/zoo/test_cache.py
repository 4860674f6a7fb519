"""The cache: same bytes on a hit, whole files only, damage repaired, and nothing of the caller's changed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import zoo
from pellucid.contract.errors import NumericalError
from pellucid.zoo import cache as store
from pellucid.zoo.recipe import find, recipe
from pellucid.zoo.training import train

NAME = "iris-mlp"


def weights_of(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_hit_gives_identical_weights_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = zoo.load(NAME, cache=tmp_path)
    data = only_file(tmp_path).read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained although cached")

    monkeypatch.setattr("pellucid.zoo.loading.train", refuse)
    assert weights_of(zoo.load(NAME, cache=tmp_path)) == weights_of(first)
    assert only_file(tmp_path).read_bytes() == data


def test_training_again_gives_identical_files(tmp_path: Path) -> None:
    zoo.load(NAME, cache=tmp_path)
    data = only_file(tmp_path).read_bytes()
    torch.manual_seed(99)
    zoo.load(NAME, cache=tmp_path, retrain=True)
    assert only_file(tmp_path).read_bytes() == data


def test_another_process_trains_to_identical_files(tmp_path: Path) -> None:
    zoo.load(NAME, cache=tmp_path / "here")
    # Python's own generator is compared here, as run-time checks of types draw from it in the tests' process.
    code = """
import random, sys
from pellucid import worlds, zoo
before = random.getstate()
worlds.photographs(size=16)
zoo.load("iris-mlp", cache=sys.argv[1])
assert random.getstate() == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "there")], check=True)
    here, there = only_file(tmp_path / "here"), only_file(tmp_path / "there")
    assert here.name == there.name
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "flipped bit", "other record", "folder"])
def test_damaged_file_is_trained_again(tmp_path: Path, damage: str) -> None:
    good = weights_of(zoo.load(NAME, cache=tmp_path))
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(data[:-100])
    elif damage == "garbage":
        path.write_bytes(bytes(range(256)) * 20)
    elif damage == "flipped bit":
        data[-3] ^= 4
        path.write_bytes(data)
    elif damage == "other record":
        kept = store.read(path)
        assert kept is not None
        store.write(path, kept[0], kept[1] | {"hash": "0" * 16})
    else:
        path.unlink()
        path.mkdir()
    if damage == "folder":
        with pytest.warns(UserWarning, match="could not be cached"):
            assert weights_of(zoo.load(NAME, cache=tmp_path)) == good
        return
    assert weights_of(zoo.load(NAME, cache=tmp_path)) == good
    assert store.read(only_file(tmp_path)) is not None


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.load(NAME, cache=tmp_path)
    data = only_file(tmp_path).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        monkeypatch.setattr(os, step, fail)
        with pytest.warns(UserWarning, match="No space left"):
            zoo.load(NAME, cache=tmp_path, retrain=True)
        monkeypatch.undo()
        assert only_file(tmp_path).read_bytes() == data


def test_record_is_in_the_header(tmp_path: Path) -> None:
    zoo.load(NAME, cache=tmp_path)
    kept = store.read(only_file(tmp_path))
    assert kept is not None
    record = kept[1]
    assert record == zoo.record(NAME, cache=tmp_path)
    assert record["name"] == NAME
    assert record["score"] >= find(NAME).target
    assert record["recipe"]["epochs"] == find(NAME).epochs
    assert str(tmp_path) not in str(record)


def test_hash_follows_what_decides_the_weights() -> None:
    known = find(NAME)
    changes = [{"epochs": 61}, {"seed": 1}, {"data_settings": {"seed": 1}}, {"version": 2}]
    changes.append({"architecture": find("wine-mlp").architecture})
    hashes = {known.hash(), *(dataclasses.replace(known, **change).hash() for change in changes)}  # type: ignore[arg-type]
    assert len(hashes) == 1 + len(changes)
    assert dataclasses.replace(known).hash() == known.hash()


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", "/one")
    assert store.folder() == Path("/one/zoo")
    assert store.folder("/two") == Path("/two")
    monkeypatch.delenv("PELLUCID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/three")
    assert store.folder() == Path("/three/pellucid/zoo")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert store.folder() == Path.home() / ".cache/pellucid/zoo"


def test_callers_settings_are_left_and_do_not_matter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plain = weights_of(zoo.load(NAME, cache=tmp_path / "plain"))
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            model = zoo.load(NAME, cache=tmp_path / "odd", progress=True)
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert weights_of(model) == plain
    model(zoo.data(NAME).inputs).sum().backward()  # parameters made under inference mode could not
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]
    assert capfd.readouterr() == ("", "")


def test_missed_target_is_an_error_and_not_cached() -> None:
    impossible = dataclasses.replace(find(NAME), target=1.1, epochs=1)
    with pytest.raises(NumericalError, match=r"'iris-mlp'.*1\.100"):
        train(impossible, impossible.world())


def test_taken_name_is_refused() -> None:
    with pytest.raises(LookupError, match="already"):
        recipe(NAME, data="iris", epochs=1, target=0.0)(find(NAME).architecture)


def test_progress_bar_goes_to_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = dataclasses.replace(find(NAME), epochs=2, target=-1.0)
    train(short, short.world(), progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(short, short.world(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training iris-mlp" in err
