"""Keep trained weights in the user's cache folder: safetensors, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_HEADER = "pellucid"


def folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where weights are kept: ``cache`` itself, else ``zoo`` inside ``$PELLUCID_CACHE`` or the user's cache folder."""
    if cache is not None:
        return Path(cache)
    if chosen := os.environ.get("PELLUCID_CACHE"):
        return Path(chosen) / "zoo"
    # The XDG specification says that a relative path in the variable is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pellucid" / "zoo"


def write(path: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write weights and record so that a reader sees the old file or the whole new one, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    header = json.dumps(dict(record) | {"weights_hash": _digest(weights)}, sort_keys=True)
    data = save(weights, metadata={_HEADER: header})
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and record, or ``None`` where the file is missing, damaged or not one of ours."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            record = json.loads(stream.metadata()[_HEADER])
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
        # safetensors checks its own header only; the digest also catches a bit that flipped inside a tensor.
        intact = record.pop("weights_hash") == _digest(weights)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return (weights, record) if intact else None


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
