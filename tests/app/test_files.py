"""Files that nobody vouches for: what is promised is judged before it is read, and what is right is read exactly."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pellucid
from pellucid.app import files, terminal, weights
from pellucid.contract.errors import InputError, UnsafeFileError


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The start of an .npy file that promises an array of this shape."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32", "uint8", "bool", ">f4", "uint16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(kind: str, order: str, tmp_path: Path) -> None:
    given = np.asarray(np.arange(24).reshape(2, 3, 4) % 7, dtype=kind, order=order)
    np.save(tmp_path / "a.npy", given)
    np.savez(tmp_path / "b.npz", x=given, y=given[0])
    np.savez_compressed(tmp_path / "c.npz", x=given)
    assert np.array_equal(files.arrays(tmp_path / "a.npy")[""].numpy(), given)
    found = files.arrays(tmp_path / "b.npz")
    assert list(found) == ["x", "y"]
    assert np.array_equal(found["x"].numpy(), given)
    assert np.array_equal(found["y"].numpy(), given[0])
    assert np.array_equal(files.arrays(tmp_path / "c.npz")["x"].numpy(), given)


def test_safetensors_come_back_as_they_were(tmp_path: Path) -> None:
    save_file({"x": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.safetensors")
    assert torch.equal(files.arrays(tmp_path / "a.safetensors")["x"], torch.arange(6.0).reshape(2, 3))


def test_a_zip_bomb_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    """One mebibyte that holds one gibibyte: refused, and memory grows by less than fifty."""
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header((1 << 28,)))
        for _ in range(1024):
            entry.write(bytes(1 << 20))
    code = f"""
import resource, sys
from pathlib import Path
from pellucid.app import files
from pellucid.contract.errors import UnsafeFileError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    files.arrays(Path({str(tmp_path / "bomb.npz")!r}))
except UnsafeFileError as error:
    sys.stdout.write(f"{{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}} {{error}}")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(pellucid.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    grown, _, message = done.stdout.partition(" ")
    assert "200-fold" in message, done.stderr
    assert int(grown) < 50 * 1024


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header((1 << 40,)) + bytes(64), "header"),
        (header((1 << 20,)) + bytes(64), "header"),
        (header((-1, -16)) + bytes(64), "header"),
        (header((16,), "|O") + bytes(128), "plain numbers"),
        (header((2,), "<U8") + bytes(64), "plain numbers"),
        (header((2,), "<c8") + bytes(16), "plain numbers"),
        (header((4,))[:40], "numpy's format"),
        (b"", "numpy's format"),
        (b"\x93NUMPY\x09\x00" + bytes(64), "numpy's format"),
        (b"not an array at all", "numpy's format"),
    ],
)
def test_arrays_that_lie_are_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UnsafeFileError, match=words):
        files.arrays(tmp_path / "a.npy")
    with pytest.raises(UnsafeFileError, match=words):
        files.arrays(archive(tmp_path / "b.npz", {"a.npy": data}, zipfile.ZIP_STORED))


def test_archives_that_promise_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive(tmp_path / "many.npz", {f"{i}.npy": npy(np.zeros(1)) for i in range(30)}, zipfile.ZIP_STORED)
    assert len(files.arrays(many)) == 30
    monkeypatch.setattr(files, "MOST_ENTRIES", 29)
    with pytest.raises(UnsafeFileError, match="at most 29 arrays"):
        files.arrays(many)
    monkeypatch.setattr(files, "_DIRECTORY_ENTRY", 10)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # the list of contents is not even read
    with pytest.raises(UnsafeFileError, match="longer list"):
        files.arrays(many)


def test_large_archives_are_refused_by_what_they_declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.npz", {"x.npy": npy(np.zeros(100)), "y.npy": npy(np.zeros(100))}, zipfile.ZIP_STORED)
    monkeypatch.setattr(files, "LARGEST", path.stat().st_size)
    assert len(files.arrays(path)) == 2
    monkeypatch.setattr(files, "LARGEST", 1500)
    with pytest.raises(UnsafeFileError, match="at most"):
        files.arrays(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", bytes(100), b"PK\x05\x06" + bytes(18)])
def test_damaged_files_are_refused(suffix: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    if data == b"PK\x05\x06" + bytes(18) and suffix == ".npz":
        assert files.arrays(path) == {}  # an archive without contents
    else:
        with pytest.raises(UnsafeFileError, match=r"whole|numpy"):
            files.arrays(path)


def test_names_inside_an_archive_name_no_files(tmp_path: Path) -> None:
    names = ["../outside", "/outside", "C:\\outside", "a/../../outside"]
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in" / "a.npz", {f"{n}.npy": npy(np.ones(2)) for n in names})
    assert len(files.arrays(path)) == 4
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.npz", "in"]


def test_a_payload_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    for name, value in {"a.pt": {"w": Payload(target)}, "b.pt": Payload(target)}.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(UnsafeFileError, match="trust-pickle"):
            weights.read(tmp_path / name)
    (tmp_path / "c.bin").write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(UnsafeFileError):
        weights.read(tmp_path / "c.bin")
    with pytest.raises(UnsafeFileError, match="another one"):
        weights.read(tmp_path / "a.pt", trust="0" * 64)
    assert not target.exists()


def test_a_checkpoint_with_classes_needs_its_digest(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), tmp_path / "whole.pt")
    with pytest.raises(UnsafeFileError, match="trust-pickle"):
        weights.read(tmp_path / "whole.pt")
    digest = hashlib.sha256((tmp_path / "whole.pt").read_bytes()).hexdigest()
    assert weights.read(tmp_path / "whole.pt", trust=digest)["weight"].shape == (3, 2)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_weights_fill_a_model(wrap: object, kind: str, tmp_path: Path) -> None:
    source, model = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    state = wrap(source.state_dict())  # type: ignore[operator]
    if kind == ".pt":
        torch.save(state, tmp_path / "w.pt")
    else:
        save_file(state.get("state_dict", state), tmp_path / "w.safetensors")
    weights.fill(model, tmp_path / f"w{kind}")
    assert torch.equal(model.weight, source.weight)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.nn.Linear(2, 4), "shapes"),
        (torch.nn.Linear(2, 3, bias=False), "1 missing"),
        (torch.nn.Conv2d(1, 3, 1), "shapes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(other: torch.nn.Module, words: str, tmp_path: Path) -> None:
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=words):
        weights.fill(torch.nn.Linear(2, 3), tmp_path / "w.safetensors")


def test_a_table_is_read_by_its_headings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("size,colour\n1.5,2\n-3e1,4\n")
    headings, rows = files.table(tmp_path / "a.csv")
    assert headings == ("size", "colour")
    assert files.numbers(rows, "a.csv").tolist() == [[1.5, 2.0], [-30.0, 4.0]]
    (tmp_path / "b.csv").write_text("1,2\n3,4\n")
    assert files.table(tmp_path / "b.csv") == ((), [["1", "2"], ["3", "4"]])


@pytest.mark.parametrize("text", ["", "a,b\n1\n", "1,2\n3\n", "a,b\n1,\x00\n"])
def test_tables_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError):
        files.numbers(files.table(tmp_path / "a.csv")[1], "a.csv")


@pytest.mark.parametrize("value", ["nan", "inf", "two", "", "1e999"])
def test_cells_that_are_no_numbers_are_named(value: str) -> None:
    with pytest.raises(InputError, match="row 2, column 1"):
        files.numbers([["1"], [value]], "a.csv")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb\nc\td\x07\x00", r"a\rb\nc\td\x07\x00"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("\u2066x\u2069\u200b", r"\u2066x\u2069\u200b"),
        ("\u2028\ud800", r"\u2028\ud800"),
        ("naïve Größe 猫 ✓", "naïve Größe 猫 ✓"),
    ],
)
def test_text_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert terminal.clean(text) == shown


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("-12.5e-3", "-12.5e-3"),
        ("+7", "+7"),
        ('say "x", y', '"say ""x"", y"'),
        ("=1,2", '"\'=1,2"'),
        ("\t=1", r"\t=1"),
    ],
)
def test_cells_are_no_formulas(value: str, written: str) -> None:
    assert terminal.cell(value) == written
