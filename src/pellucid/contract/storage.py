"""Results on disk: one safetensors file whose header holds the rest as versioned JSON. Nothing runs on load."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from pellucid.contract import explanation as e
from pellucid.contract.errors import InputError, UnsafeFileError

VERSION = 1
KEY = "pellucid"
LARGEST = 2 << 30


def save(result: e.Explanation, path: str | Path, *, inputs: bool, overwrite: bool) -> Path:
    """Write atomically; an existing file is left alone unless `overwrite`."""
    tensors: dict[str, Tensor] = {}
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    if not inputs:
        fields["context"] = dataclasses.replace(fields["context"], inputs=None)
        if isinstance(result, e.Examples) and not result.items.is_floating_point():
            fields["rows"] = None  # copies of the caller's data, which the indices in `items` point to
    body = {k: _encode(v, k, tensors) for k, v in fields.items()}
    header = json.dumps({"version": VERSION, "form": result.form, "fields": body}, allow_nan=False)
    return write(path, to_bytes(tensors, {KEY: header}), overwrite=overwrite)


def as_path(path: Any) -> Path:
    """The path, or an error that names the argument where it is none."""
    if not isinstance(path, str | os.PathLike):
        raise InputError("The 'path' must be text or a Path", got=repr(path)[:80], hint="'result.safetensors'")
    return Path(path)


def is_special(path: Path) -> bool:
    """Whether a folder, device, pipe or socket is there: putting a file in its place would break whoever uses it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # too long a name, or one with a NUL
        raise InputError("The 'path' must be a name that a file can have", got=repr(str(path)[:80])) from error
    return path.exists() and not path.is_file()


def write(path: str | Path, data: bytes, *, overwrite: bool = False) -> Path:
    """Write a file whole or not at all: temporary file beside it, synced, then renamed; never through a link."""
    path = as_path(path)
    if not path.parent.is_dir():
        raise InputError("The 'path' must lie in an existing folder", got=repr(str(path)))
    if is_special(path):
        raise InputError("The 'path' must be that of an ordinary file", got=repr(str(path)), hint="another name")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".pellucid-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(name, path)
        else:
            try:
                os.link(name, path)
            except FileExistsError:
                raise InputError(
                    "The 'path' must not exist yet", got=repr(str(path)), hint="overwrite=True, or --force"
                ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return path


def load(path: str | Path) -> e.Explanation:
    """Read a result written by `save`, by this or an earlier version."""
    path = as_path(path)
    if not path.is_file():
        raise InputError("The 'path' must be a saved result", got=repr(str(path)))
    if path.stat().st_size > LARGEST:
        raise UnsafeFileError(f"The file must be at most {LARGEST >> 30} GiB", got=f"{path.stat().st_size} bytes")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[KEY])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise UnsafeFileError("The file must be a result saved by Pellucid", got=repr(path.name)) from error
    if header.get("version") != VERSION:
        raise UnsafeFileError(
            f"The file must have version {VERSION}", got=repr(header.get("version")), hint="a newer Pellucid"
        )
    cls = e.forms().get(header.get("form"))
    if cls is None:
        raise UnsafeFileError("The file must hold one of the known forms", got=repr(header.get("form")))
    try:
        fields = {k: _decode(v, found) for k, v in header["fields"].items()}
        return cls(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsafeFileError("The file's fields must fit its form", got=str(error)) from error


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"#": "float", "is": repr(value)}
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"#": "tensor", "is": name}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {"#": kind, "is": [_encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"#": "dict", "is": {str(k): _encode(v, f"{name}.{k}", tensors) for k, v in value.items()}}
    if isinstance(value, e.RuleStructure):
        return {"#": "structure", "kind": value.kind, "is": _fields(value, name, tensors)}
    if isinstance(value, e.Context):
        return {"#": "context", "is": _fields(value, name, tensors)}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _encode(value.item(), name, tensors)
    return {"#": "text", "is": repr(value)}


def _fields(value: Any, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in dataclasses.fields(value)}


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    kind, body = value["#"], value["is"]
    if kind == "tensor":
        return tensors[body]
    if kind == "float":
        return float(body)
    if kind == "text":
        return body
    if kind in ("list", "tuple"):
        items = [_decode(v, tensors) for v in body]
        return tuple(items) if kind == "tuple" else items
    inner = {k: _decode(v, tensors) for k, v in body.items()}
    if kind == "dict":
        return inner
    if kind == "context":
        return e.Context(**inner)
    if kind == "structure":
        return _structure(value["kind"])(**inner)
    raise ValueError(f"unknown mark {kind!r}")


def _structure(kind: str) -> Any:
    if kind not in e.structures():
        from pellucid.contract.method import registered

        registered()
    return e.structures()[kind]


def same(a: Any, b: Any) -> bool:
    """Whether two results hold equal values, facts and settings (times apart)."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name != "context"
        )
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
