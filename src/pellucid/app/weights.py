"""Weights out of files that nobody vouches for. Nothing in a file runs, unless the file is trusted by its digest."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.app import files
from pellucid.contract.errors import InputError, UnsafeFileError

LARGEST = 64 << 30
PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def fill(module: nn.Module, path: str | Path, trust: str | None = None) -> nn.Module:
    """Load the weights of a file into a module; every name and shape must fit."""
    found = read(files.existing(path, LARGEST), trust)
    wanted = module.state_dict()
    if found.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        got = [
            f"{len(names)} {word}, such as {names[0]!r}"
            for word, names in (("missing", missing), ("extra", extra))
            if names
        ]
        raise InputError("The weights must have the names of the model's parameters", got=" and ".join(got))
    wrong = [k for k, v in wanted.items() if v.shape != found[k].shape]
    if wrong:
        shapes = f"{tuple(found[wrong[0]].shape)} for {tuple(wanted[wrong[0]].shape)}"
        raise InputError("The weights must have the model's shapes", got=f"{shapes} in {wrong[0]!r}")
    module.load_state_dict(found)
    return module


def read(path: Path, trust: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name. A .pt file gives tensors and plain containers alone, unless it is trusted."""
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return _names(files.tensors(path))
    if kind not in PICKLED:
        raise InputError("The weights must be a .safetensors or .pt file", got=repr(path.name))
    return _names(_unpickled(path, trust))


def _unpickled(path: Path, trust: str | None) -> Any:
    """What a .pt file holds.

    Torch's restricted reader is the only one used. A trusted file is read by it too, with the classes that the file
    names allowed.
    """
    data = path.read_bytes()
    allowed: list[Any] = []
    try:
        if trust is not None:
            if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), trust.lower()):
                raise UnsafeFileError(f"{path.name} must have the SHA-256 given with --trust-pickle", got="another one")
            names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
            allowed = [_named(name) for name in names]
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore", UserWarning)  # about the file's age; what can't be read is an error below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path.name} must hold tensors alone: loading anything else would run code from the file",
            got=_reason(error),
            hint="a .safetensors file; or, if you trust whoever made it, --trust-pickle with its SHA-256",
        ) from error
    except (RuntimeError, ValueError, EOFError, zipfile.BadZipFile, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, UnsafeFileError):
            raise
        raise UnsafeFileError(f"{path.name} must be a whole file of weights", got=_reason(error)) from error


def _named(name: str) -> Any:
    home, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(home), last)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError("Everything that a trusted file names must be installed", got=repr(name)) from error


def _reason(error: Exception) -> str:
    """The first sentence that says what the file asked for; torch's own advice is to switch the check off."""
    text = str(error).replace("WeightsUnpickler error: ", "\n")
    return text.strip().splitlines()[-1 if "Unsupported" in text else 0][:160] if text.strip() else type(error).__name__


def _names(found: Any) -> dict[str, Tensor]:
    """The state dict inside what people save: itself, or one level down, with or without "module." before each name."""
    if isinstance(found, nn.Module):
        found = found.state_dict()
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping | nn.Module):
            return _names(found[key])
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError("The weights must be tensors by name", got=type(found).__name__, hint="model.state_dict()")
    names = [str(k) for k in found]
    cut = len("module.") if all(n.startswith("module.") for n in names) else 0
    return {n[cut:]: v for n, v in zip(names, found.values(), strict=True)}
