"""One row of a result, as a result of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pellucid.contract import Attribution, Context, Examples, Explanation

BY_ROW = ("hierarchy", "polytope", "explained_words")  # entries of `source` that hold one item per row


def only(result: Explanation, row: int) -> Any:
    """The row alone: values, facts, inputs and output of the others are left out."""
    changes: dict[str, Any] = {"facts": {k: _cut(v, row) for k, v in result.facts.items()}}
    by_row = {k: result.source[k][row : row + 1] for k in BY_ROW if isinstance(result.source.get(k), list)}
    changes["source"] = {**result.source, **by_row}
    known = result.context
    changes["context"] = Context(
        inputs=_cut(known.inputs, row), output=_cut(known.output, row), classes=known.classes, features=known.features
    )
    names: tuple[str, ...] = ()
    if isinstance(result, Attribution):
        names = ("values", "target", "baseline", "error", "parts")
    elif isinstance(result, Examples):
        names = ("items", "weights", "labels")
        same = (
            isinstance(result.rows, Tensor) and result.rows.shape[:2] == result.items.shape and result.items.dim() > 1
        )
        names += ("rows",) if same and result.rows.dim() > 2 else ()
    return result.replace(**changes, **{name: _cut(getattr(result, name), row) for name in names})


def per_row(result: Explanation) -> bool:
    """Whether a result says something of each row: an attribution or examples."""
    return isinstance(result, Attribution | Examples)


def _cut(value: Any, row: int) -> Any:
    if isinstance(value, Tensor):
        return value if value.dim() == 0 or value.shape[0] <= 1 else value[row : row + 1]
    if isinstance(value, Mapping):
        return {k: _cut(v, row) for k, v in value.items()}
    return tuple(_cut(v, row) for v in value) if isinstance(value, tuple | list) else value
