"""Results on the terminal and in files."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pellucid as px
from pellucid.app import inputs, models, terminal
from pellucid.contract import storage
from pellucid.contract.errors import InputError
from pellucid.contract.explanation import Attribution, Explanation, tensors

SHOWN = 8


def free(path: Path, force: bool) -> None:
    """Say before the work, not after it, that a result could not be written."""
    if not path.parent.is_dir():
        raise InputError("Results must go to an existing folder", got=repr(str(path.parent)))
    if path.is_dir() or (not force and (path.exists() or path.is_symlink())):
        raise InputError("Results must go to a new file", got=repr(str(path)), hint="--force to overwrite it")


def as_json(result: Explanation, names: Sequence[str]) -> str:
    """Form, facts and source of a result as JSON."""
    facts = {k: [float(x) for x in v] for k, v in result.facts.items()}
    body = {"form": result.form, "rows": list(names), "facts": facts, "source": result.source}
    return json.dumps(body, indent=1, default=str)


def show(result: Explanation, model: models.Loaded, rows: inputs.Read) -> None:
    classes = model.subject.classes
    seconds = result.source.get("seconds", 0.0)
    method = px.catalogue.card(result.source["method"])
    terminal.say(f"{method.title}: {method.question}")
    terminal.say(
        f"{terminal.clean(model.name)}, {len(rows.names)} row{'s' * (len(rows.names) > 1)}, {terminal.number(seconds)} s\n"
    )
    explained = result.target if isinstance(result, Attribution) else None
    headings, lines = ["row"], [[name] for name in rows.names[:SHOWN]]
    columns: list[tuple[str, list[str]]] = []
    if rows.labels is not None and not rows.labels.is_floating_point():
        columns.append(("label", [_class(int(i), classes) for i in rows.labels[:SHOWN]]))
    if explained is not None:
        columns.append(("explained", [_class(int(i), classes) for i in explained[:SHOWN]]))
    for fact, values in result.facts.items():
        if len(values) == len(rows.names):
            columns.append((fact.replace("_", " "), [terminal.number(float(v)) for v in values[:SHOWN]]))
    for heading, values_ in columns:
        headings.append(heading)
        for line, value in zip(lines, values_, strict=True):
            line.append(value)
    terminal.say(terminal.table(headings, lines))
    if len(rows.names) > SHOWN:
        terminal.say(f"… and {len(rows.names) - SHOWN} more rows")
    terminal.say()
    terminal.say(terminal.paragraphs(result.describe()))


def _class(index: int, classes: Sequence[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)


def write(result: Explanation, rows: inputs.Read, words: dict[str, Any]) -> None:
    force = words["force"]
    if words["save"] is not None:
        _wrote(result.save(words["save"], overwrite=force))
    if words["html"] is not None:
        page = result.html(whole=True)
        _wrote(storage.write(words["html"], page.encode(), overwrite=force))
    if words["png"] is not None:
        buffer = io.BytesIO()
        result.show().savefig(buffer, format="png", bbox_inches="tight")
        _wrote(storage.write(words["png"], buffer.getvalue(), overwrite=force))
    if words["csv"] is not None:
        _wrote(storage.write(words["csv"], _csv(result, rows).encode(), overwrite=force))


def _csv(result: Explanation, rows: inputs.Read) -> str:
    """One line per row: its name, its facts, and its values where the form has one value per part."""
    count = len(rows.names)
    parts = tensors(result.values) if isinstance(result, Attribution) else []
    values = (
        torch.cat([p.detach().cpu().double().reshape(count, -1) for p in parts], 1) if parts else torch.zeros(count, 0)
    )
    facts = {k: v for k, v in result.facts.items() if len(v) == count}
    features = list(result.context.features) if len(result.context.features) == values.shape[1] else []
    headings = ["row", *facts, *(features or [f"value {i}" for i in range(values.shape[1])])]
    lines = [headings] + [
        [name, *(repr(float(v[i])) for v in facts.values()), *(repr(float(x)) for x in values[i])]
        for i, name in enumerate(rows.names)
    ]
    return "".join(",".join(map(terminal.cell, line)) + "\r\n" for line in lines)


def _wrote(path: Path) -> None:
    sys.stderr.write(f"wrote {terminal.clean(path)}\n")
