"""Results on the terminal and in files."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

import pellucid as px
from pellucid.app import inputs, models, terminal
from pellucid.contract import storage
from pellucid.contract.errors import InputError
from pellucid.contract.explanation import Attribution, Explanation, tensors
from pellucid.show import comparison

SHOWN = 8


@Parameter(name="*", group="Results", negative="")
@dataclass(frozen=True, kw_only=True)
class Writing:
    """Where a result goes."""

    save: Annotated[Path | None, Parameter(help="Write the result as .safetensors, for px.load.")] = None
    html: Annotated[Path | None, Parameter(help="Write a page.")] = None
    png: Annotated[Path | None, Parameter(help="Write a figure.")] = None
    csv: Annotated[Path | None, Parameter(help="Write facts and values as a table, one line per row.")] = None
    json: Annotated[bool, Parameter(help="Print facts and settings as JSON.")] = False
    force: Annotated[bool, Parameter(help="Overwrite existing files.")] = False

    def check(self) -> None:
        """Raise before the work, not after it, if a file could not be written."""
        for path in (self.save, self.html, self.png, self.csv):
            if path is not None:
                free(path, self.force)

    def write(self, result: Explanation, rows: inputs.Read) -> None:
        """Write each file that was asked for, whole or not at all."""
        if self.save is not None:
            _wrote(result.save(self.save, overwrite=self.force))
        if self.html is not None:
            _wrote(storage.write(self.html, result.html(whole=True).encode(), overwrite=self.force))
        if self.png is not None:
            buffer = io.BytesIO()
            result.show().savefig(buffer, format="png", bbox_inches="tight")
            _wrote(storage.write(self.png, buffer.getvalue(), overwrite=self.force))
        if self.csv is not None:
            _wrote(storage.write(self.csv, as_csv(result, rows.names).encode(), overwrite=self.force))


NOWHERE = Writing()


def free(path: Path, force: bool) -> None:
    """Refuse a path at which no new file can be written."""
    if not path.parent.is_dir():
        raise InputError("Results must go to an existing folder", got=repr(str(path.parent)))
    if storage.is_special(path):
        raise InputError("Results must go to an ordinary file", got=repr(str(path)), hint="another name")
    if not force and (path.exists() or path.is_symlink()):
        raise InputError("Results must go to a new file", got=repr(str(path)), hint="--force to overwrite it")


def summary(result: Explanation, model: models.Loaded, rows: inputs.Read) -> str:
    """What was asked, the measured facts of each row, and the result in words."""
    method = px.catalogue.card(result.source["method"])
    count, seconds = len(rows.names), terminal.number(result.source["seconds"])
    columns = [("row", list(rows.names))]
    if rows.labels is not None and not rows.labels.is_floating_point():
        columns.append(("label", [_class(i, model) for i in rows.labels.tolist()]))
    if isinstance(result, Attribution) and result.target is not None:
        columns.append(("explained", [_class(i, model) for i in result.target.tolist()]))
    facts = {k.replace("_", " "): v for k, v in result.facts.items() if len(v) == count}
    columns += [(name, [terminal.number(float(v)) for v in values]) for name, values in facts.items()]
    lines = list(zip(*(cells for _, cells in columns), strict=True))
    parts = [
        f"{method.title}: {method.question}",
        f"{terminal.clean(model.name)}, {count} row{'s' * (count > 1)}, {seconds} s",
        "",
        terminal.table([heading for heading, _ in columns], lines[:SHOWN]),
        *([f"… and {count - SHOWN} more rows"] if count > SHOWN else []),
        "",
        terminal.paragraphs(result.describe()),
    ]
    return "\n".join(parts)


def as_json(result: Explanation, names: Sequence[str]) -> str:
    """Form, facts and source of a result as JSON; what is not finite becomes null."""
    facts = {name: values.tolist() for name, values in result.facts.items()}
    body = {"form": result.form, "rows": list(names), "facts": facts, "source": result.source}
    return json.dumps(_finite(body), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_csv(result: Explanation, names: Sequence[str]) -> str:
    """One line per row: its name, its facts, and its values where there is one for each part of the row."""
    if comparison.is_one(result):
        headings, rows = comparison.columns(result)
        return "".join(",".join(map(terminal.cell, line)) + "\r\n" for line in [headings, *rows])
    count = len(names)
    parts = tensors(result.values) if isinstance(result, Attribution) else []
    flat = [p.detach().cpu().double().flatten(1) for p in parts if p.dim() > 1 and p.shape[0] == count]
    values = torch.cat(flat, 1) if flat else torch.zeros(count, 0)
    facts = {k: v for k, v in result.facts.items() if len(v) == count}
    features = result.context.features
    known = features if len(features) == values.shape[1] else [f"value {i}" for i in range(values.shape[1])]
    lines: list[list[Any]] = [["row", *facts, *known]]
    for i, name in enumerate(names):
        lines.append([name, *(float(v[i]) for v in facts.values()), *values[i].tolist()])
    return "".join(",".join(map(terminal.cell, line)) + "\r\n" for line in lines)


def _class(index: int, model: models.Loaded) -> str:
    classes = model.subject.classes
    return classes[index] if 0 <= index < len(classes) else str(index)


def _wrote(path: Path) -> None:
    sys.stderr.write(f"wrote {terminal.clean(path)}\n")
