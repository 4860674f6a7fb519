"""Arrays out of files that nobody vouches for: sizes are read and judged before contents, and nothing in a file runs."""

from __future__ import annotations

import csv
import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from pellucid.contract.errors import InputError, UnsafeFileError

LARGEST = 2 << 30
LARGEST_TABLE = 256 << 20
HIGHEST_RATIO = 200
MOST_ENTRIES = 10_000
_DIRECTORY_ENTRY = 46 + 256  # bytes of a zip directory entry with a name of reasonable length


def existing(text: str | Path, largest: int = LARGEST) -> Path:
    """The path of an ordinary file that is not too large."""
    path = Path(text)
    try:
        found = path.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise InputError("The file must exist", got=repr(str(text)))
    if path.stat().st_size > largest:
        raise UnsafeFileError(f"{path.name} must be at most {_size(largest)}", got=_size(path.stat().st_size))
    return path


def arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npy, .npz or .safetensors file by name; the array of an .npy file has the name ''."""
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            with existing(path).open("rb") as file:
                return {"": _tensor(_array(file, path.stat().st_size, path.name), path.name)}
        if kind == ".npz":
            return {name: _tensor(array, name) for name, array in _archive(existing(path)).items()}
        return tensors(path)
    except (zipfile.BadZipFile, EOFError, struct.error, OSError) as error:
        raise UnsafeFileError(f"{path.name} must be a whole {kind} file", got=str(error)) from error


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which holds numbers and names and nothing that could run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(existing(path))
    except SafetensorError as error:
        raise UnsafeFileError(f"{path.name} must be a whole .safetensors file", got=str(error)) from error


def table(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """Headings and rows of a CSV file; a first line of numbers alone is a row, and then there are no headings."""
    with existing(path, LARGEST_TABLE).open(newline="", encoding="utf-8-sig", errors="strict") as file:
        try:
            rows = [row for row in csv.reader(file) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path.name} must be a CSV file in UTF-8", got=str(error)) from error
    if not rows:
        raise InputError(f"{path.name} must have at least one row", got="none")
    headings = () if all(_is_number(c) for c in rows[0]) else tuple(rows.pop(0))
    widths = {len(row) for row in rows}
    if len(widths) != 1 or (headings and widths != {len(headings)}):
        raise InputError(f"{path.name} must have the same number of columns in each row", got=str(sorted(widths)))
    return headings, rows


def numbers(rows: list[list[str]], name: str) -> Tensor:
    """The cells as float64; the first that is no finite number is named."""
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if not _is_number(value):
                raise InputError(
                    f"{name} must hold finite numbers", got=f"{value[:40]!r} in row {i + 1}, column {j + 1}"
                )
    return torch.tensor([[float(c) for c in row] for row in rows], dtype=torch.float64)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, after its own directory was found to promise no more than is allowed."""
    if _directory_size(path) > MOST_ENTRIES * _DIRECTORY_ENTRY:
        raise UnsafeFileError(f"{path.name} must hold at most {MOST_ENTRIES} arrays", got="a longer list of contents")
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        if len(entries) > MOST_ENTRIES:
            raise UnsafeFileError(f"{path.name} must hold at most {MOST_ENTRIES} arrays", got=str(len(entries)))
        declared = sum(e.file_size for e in entries)
        if declared > LARGEST:
            raise UnsafeFileError(f"{path.name} must unpack to at most {_size(LARGEST)}", got=_size(declared))
        for e in entries:
            ratio = e.file_size / max(1, e.compress_size)
            if ratio > HIGHEST_RATIO or e.flag_bits & 1:
                got = "an encrypted entry" if e.flag_bits & 1 else f"{ratio:.0f}-fold compression in {e.filename!r}"
                raise UnsafeFileError(f"{path.name} must be compressed at most {HIGHEST_RATIO}-fold", got=got)
        found = {}
        for e in entries:
            with file.open(e) as stream:  # gives at most the declared number of bytes, and checks their sum
                found[e.filename.removesuffix(".npy")] = _array(stream, e.file_size, e.filename)
    return found


def _directory_size(path: Path) -> int:
    """How long the list of contents at the end of a zip file says it is, before anything else of it is read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise UnsafeFileError(f"{path.name} must be a whole .npz file", got="no list of contents")
    return int(struct.unpack_from("<I", tail, at + 12)[0])


def _array(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """One array in numpy's format, whose header must promise no more than there is."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version}")
        shape, fortran, kind = read(file)
    except ValueError as error:
        raise UnsafeFileError(f"{name} must be an array in numpy's format", got=str(error)[:120]) from error
    if kind.hasobject or kind.kind not in "biuf":
        raise UnsafeFileError(f"{name} must hold plain numbers", got=f"elements of type {kind}")
    declared = math.prod(shape) * kind.itemsize
    if min(shape, default=0) < 0 or declared > LARGEST or declared > size:
        raise UnsafeFileError(f"{name} must hold as much as its header says", got=f"{_size(declared)} in {_size(size)}")
    data = io.BytesIO(file.read(declared)).getbuffer()
    if len(data) != declared:
        raise UnsafeFileError(f"{name} must hold as much as its header says", got=f"{len(data)} of {declared} bytes")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _tensor(array: np.ndarray, name: str) -> Tensor:
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.int64)
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise InputError(f"{name} must hold numbers that torch knows", got=str(array.dtype)) from error


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def only(found: Mapping[str, Any], wanted: tuple[str, ...]) -> Any:
    """The one array of a file, or the one with a usual name; `None` where there are several and none has one."""
    if len(found) == 1:
        return next(iter(found.values()))
    return next((found[k] for k in wanted if k in found), None)
