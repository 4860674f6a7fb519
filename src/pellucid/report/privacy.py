"""Who was explained what, and nobody shown who need not be: the log of explanations, and what private data keep back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pellucid.contract.errors import InputError
from pellucid.contract.storage import as_path, is_special
from pellucid.report.computed import result
from pellucid.report.dossier import Dossier
from pellucid.report.plain import tensor
from pellucid.report.record import now


def loggable(path: str | Path | None) -> Path | None:
    """The path of a log, refused before any work where nothing can be added to it."""
    if path is None:
        return None
    path = as_path(path)
    if not path.parent.is_dir():
        raise InputError("The 'log' must lie in an existing folder", got=repr(str(path)))
    if is_special(path) or path.is_symlink():
        raise InputError("The 'log' must be an ordinary file", got=repr(str(path)), hint="another name")
    return path


def log_lines(path: str | Path | None, dossier: Dossier) -> None:
    """Add a line of JSON for each explanation: when, of which model and inputs, by which method, with what output."""
    file = loggable(path)
    if file is None:
        return
    why = [c.reason.result for c in dossier.cases if c.reason is not None]
    lines = [json.dumps(entry(r, dossier), sort_keys=True, allow_nan=False) for r in [*dossier.found.results, *why]]
    # Lines are added, never rewritten; one write each keeps those of several processes whole.
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        for line in lines:
            os.write(handle, line.encode("ascii") + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def entry(found: Any, dossier: Dossier) -> dict[str, Any]:
    """What the log keeps of one explanation; values by digest alone."""
    told = result(found, private=True)
    kept = ("method", "settings", "form", "target", "layer", "digest")
    facts = {name: fact["tensor"].get("values") for name, fact in told["facts"].items()}
    return {
        "when": now(),
        "model_hash": found.source.get("model_hash"),
        "input_hash": found.source.get("input_hash"),
        "seed": found.source.get("seed"),
        "answers": [a.index if a.value is None else a.value for a in dossier.said],
        "outputs": tensor(dossier.output, values=False)["tensor"]["digest"],
        "facts": facts,
        **{name: told[name] for name in kept},
    }
