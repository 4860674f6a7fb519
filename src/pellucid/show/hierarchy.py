"""Which groups combine into which? A hierarchy as a nested list that opens and closes, by keyboard too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.contract import Explanation
from pellucid.show.options import Options
from pellucid.show.words import clean, number

STEPS = 3  # shades on each side of zero
NAMED = 12
MOST = 600
OPEN_LEVELS = 2


@dataclass(frozen=True)
class Line:
    """One step through the nested list: "open" a group, show a "leaf", or "close" the group."""

    kind: str
    text: str = ""
    score: str = ""
    shade: str = ""
    unfolded: bool = False


def lists(result: Explanation, wanted: Options) -> list[list[Line]]:
    """For each row drawn, its hierarchy in the order of the page; nothing where the result holds none that is sound."""
    rows = result.source.get("hierarchy")
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return []
    return [_lines(row, result) for row in rows[: wanted.rows] if _sound(row)]


def _sound(row: Any) -> bool:
    """Is this a tree: children before their parents, each in one group, one root at the end? Files may hold anything."""
    if not isinstance(row, Sequence) or isinstance(row, str) or not 0 < len(row) <= MOST:
        return False
    used: set[int] = set()
    for k, node in enumerate(row):
        if not isinstance(node, Mapping) or not isinstance(node.get("score"), int | float):
            return False
        children, features = node.get("children", ""), node.get("features", "")
        if not all(isinstance(x, list) and all(type(i) is int for i in x) for x in (children, features)):
            return False
        if len(set(children)) < len(children) or any(not 0 <= c < k or c in used for c in children):
            return False
        used |= set(children)
    return len(used) == len(row) - 1


def _lines(row: Sequence[Any], result: Explanation) -> list[Line]:
    largest = max((abs(n["score"]) for n in row if math.isfinite(n["score"])), default=0.0) or 1.0
    found: list[Line] = []
    left: list[tuple[int, int]] = [(len(row) - 1, 0)]
    while left:
        k, depth = left.pop()
        if k < 0:
            found.append(Line("close"))
            continue
        node = row[k]
        kind = "open" if node["children"] else "leaf"
        shade = _shade(node["score"] / largest)
        found.append(Line(kind, _name(node["features"], result), number(node["score"]), shade, depth < OPEN_LEVELS))
        if node["children"]:
            left.append((-1, depth))
            ordered = sorted(node["children"], key=lambda c: min(row[c]["features"], default=0), reverse=True)
            left.extend((c, depth + 1) for c in ordered)
    return found


def _shade(share: float) -> str:
    """A class name: "px-up3" raises the score the most, "px-down1" lowers it a little."""
    if not math.isfinite(share) or abs(share) < 0.02:
        return "px-level"
    return f"px-{'up' if share > 0 else 'down'}{min(STEPS, 1 + int(abs(share) * STEPS))}"


def _name(features: Sequence[int], result: Explanation) -> str:
    names, values = result.context.features, getattr(result, "values", None)
    table = isinstance(values, Tensor) and values.dim() == 2 and len(names) == values.shape[1]
    words = [clean(names[i], 40) if table and 0 <= i < len(names) else f"{i + 1}" for i in features[:NAMED]]
    more = f" and {len(features) - NAMED} more" if len(features) > NAMED else ""
    lead = "" if table else "feature " if len(features) == 1 else "features "
    return f"{lead}{', '.join(words)}{more}"
