"""A result in figures, for those who have to check or repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pellucid.contract import Explanation, tensors
from pellucid.show.facts import figures, title_of
from pellucid.show.options import Options
from pellucid.show.words import clean, counted, number, placeless


def describe(result: Explanation, module: Any, wanted: Options) -> str:
    """Settings, seed, hashes and seconds, then facts, sums and extremes of each row."""
    lines = [f"{title_of(result)} · {result.form} {shape(result)}"]
    lines += [f"{name}: {text}" for name, text in provenance(result)]
    rows, total = table(result, module, wanted)
    lines += [f"row {i}: " + "; ".join(f"{k} {v}" for k, v in row.items()) for i, row in enumerate(rows) if row]
    if total > len(rows):
        lines.append(f"{counted(total - len(rows), 'more row')} not listed")
    return "\n".join(lines)


def table(result: Explanation, module: Any, wanted: Options) -> tuple[list[dict[str, str]], int]:
    """Each row's facts, sums and extremes, at most `wanted.rows` of them, and how many rows there are."""
    own = module.sums(result)
    total = max([len(own), *(f.numel() for f in result.facts.values() if hasattr(f, "numel"))])
    rows = []
    for row in range(min(total, wanted.rows)):
        entry = dict(own[row]) if row < len(own) else {}
        rows.append({**entry, **dict(figures(result.facts, row))})
    return rows, total


def shape(result: Explanation) -> str:
    """Shapes and types of the values."""
    values = getattr(result, "values", None)
    if values is None:
        return ""
    return ", ".join(f"{tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for v in tensors(values))


def provenance(result: Explanation) -> list[tuple[str, str]]:
    """What made the result, as names and figures; nothing about the machine or its user."""
    source = result.source
    out = []
    for name in (
        "method",
        "settings",
        "target",
        "layer",
        "layer_used",
        "seed",
        "model",
        "model_hash",
        "input_hash",
        "rows",
        "dtype",
    ):
        value = source.get(name)
        if value not in (None, "", {}):
            out.append((name.replace("_", " "), _compact(value)))
    if isinstance(source.get("versions"), Mapping):
        out.append(("versions", ", ".join(f"{clean(k)} {clean(v)}" for k, v in source["versions"].items())))
    if isinstance(source.get("device"), str):
        out.append(("device", clean(source["device"])))
    if isinstance(source.get("seconds"), int | float):
        out.append(("seconds", number(source["seconds"])))
    return out


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(f"{k}={json.dumps(v, default=str, ensure_ascii=False)}" for k, v in value.items())
        return clean(placeless(text), 600)
    return clean(placeless(value), 600)
