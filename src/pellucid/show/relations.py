"""Relations between methods: a graph of what says the same on this network, and a list of why; the same in words."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
from matplotlib.figure import Figure

from pellucid.contract import Explanation, Measure
from pellucid.show import draw
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, listed, number

# How a state is drawn: colour, line, width.
LINES = {
    "holds": ("#1f7a4d", "-", 2.2),
    "broken": ("#b40426", "-", 2.6),
    "coincides": ("#1f7a4d", ":", 1.4),
    "differs": ("#9aa5bd", "--", 1.0),
    "not tried": ("#d5d9e0", ":", 0.8),
}
TOLD = {
    "holds": "must be equal here, and is",
    "broken": "must be equal here, and is not",
    "coincides": "is equal, although it need not be",
    "differs": "is not equal, and need not be",
    "not tried": "could not be tried",
}
HEADS = {"holds": "hold", "coincides": "coincide", "differs": "differ"} | {s: s for s in ("broken", "not tried")}
ROUNDS = 400


def is_one(result: Explanation) -> TypeGuard[Measure]:
    """Whether a result holds relations between methods."""
    return isinstance(result, Measure) and isinstance(result.source.get("relations"), list)


def figure(result: Measure, wanted: Options) -> Figure:
    """Methods as points, relations as numbered lines, and beside them what each says and needs."""
    told = result.source["relations"]
    names = list(dict.fromkeys(str(r[side]) for r in told for side in ("left", "right")))
    places = layout(names, [(str(r["left"]), str(r["right"])) for r in told])
    whole = draw.canvas(9.6, max(4.6, 1.1 + 0.26 * len(told)))
    axes, beside = whole.subplots(1, 2, width_ratios=(1.6, 1))
    for i, relation in enumerate(told, 1):
        _edge(axes, places[str(relation["left"])], places[str(relation["right"])], relation["state"], i)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "#c3c8d0", "linewidth": 0.8}
        draw.note(axes, x, y, name, fontsize=7, ha="center", va="center", bbox=box, longest=24, zorder=4)
    axes.set_xlim(-1.25, 1.25)
    axes.set_ylim(-1.12, 1.12)
    axes.axis("off")
    _list(beside, told)
    counts = {s: sum(r["state"] == s for r in told) for s in LINES}
    heads = [f"{count} {HEADS[s]}" for s, count in counts.items() if count]
    draw.head(
        whole, wanted.headed, f"{counted(len(told), 'relation')} between methods on this network: {listed(heads)}"
    )
    note = "Green must be equal here, and is; dotted is equal all the same; dashed differs, as a precondition ✗ misses."
    draw.foot(whole, note)
    return whole


def _edge(axes: Any, start: np.ndarray, end: np.ndarray, state: str, number_: int) -> None:
    colour, line, width = LINES[state]
    axes.plot(*zip(start, end, strict=True), color=colour, linestyle=line, linewidth=width, zorder=1)
    x, y = (start + end) / 2
    dot = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8}
    draw.note(axes, x, y, str(number_), fontsize=6, ha="center", va="center", color="#1d2330", bbox=dot, zorder=3)


def _list(axes: Any, told: list[dict[str, Any]]) -> None:
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(told) + 0.5, 0.2)
    for i, relation in enumerate(told, 1):
        colour = LINES[relation["state"]][0] if relation["state"] in ("holds", "broken") else draw.FAINT
        needs = ", ".join(f"{n['name']}{_mark(n['met'])}" for n in relation["needs"]) or "always"
        gap = "" if relation["gap"] is None else f"; gap {number(float(relation['gap']), 2)}"
        draw.note(axes, 0.0, i - 0.16, f"{i}  {relation['name']}", fontsize=7.5, color=colour, va="center", longest=60)
        draw.note(axes, 0.03, i + 0.26, f"{needs}{gap}", fontsize=6.2, color=draw.FAINT, va="center", longest=100)


def _mark(met: bool | None) -> str:
    return " ?" if met is None else " ✓" if met else " ✗"


def layout(names: list[str], pairs: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Places in a square: related methods draw together, all push each other away; the same for the same graph."""
    count = len(names)
    turn = 2 * math.pi * np.arange(count) / max(1, count)
    at = np.stack([np.cos(turn), np.sin(turn)], 1)
    which = {n: i for i, n in enumerate(names)}
    ends = np.array([(which[a], which[b]) for a, b in pairs if a != b]).reshape(-1, 2)
    ideal = 1.5 / max(1.0, math.sqrt(count))
    for step in range(ROUNDS):
        away = at[:, None] - at[None]
        far = np.maximum(np.linalg.norm(away, axis=2), 1e-3)
        move = (away / far[..., None] * (ideal**2 / far)[..., None]).sum(1) - 0.8 * at
        for a, b in ends:
            pull = (at[a] - at[b]) * far[a, b] / ideal
            move[a] -= pull
            move[b] += pull
        size = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        at = at + move / size * np.minimum(size, 0.12 * (1 - step / ROUNDS))
    at = at - (at.max(0) + at.min(0)) / 2
    return dict(zip(names, at / np.maximum(np.abs(at).max(0), 1e-9), strict=True))


def account(result: Measure, wanted: Options) -> Account:
    """The relations in words, those that must hold first."""
    lines = []
    for state in LINES:
        for relation in result.source["relations"]:
            if relation["state"] == state:
                lines.append(_sentence(relation))
    return Account(
        asked="Which methods say the same on this network, because theory says that they must?",
        numbered=False,
        mattered=tuple(lines),
        believed=("Properties of the network were tried at a few points; equalities were computed on every row.",),
        supports=("that two methods can't be told apart on these rows",),
        cannot=("whether methods that agree are right",),
    )


def _sentence(relation: dict[str, Any]) -> str:
    sides = f"{clean(relation['left'])} and {clean(relation['right'])}"
    missing = [clean(n["says"]) for n in relation["needs"] if n["met"] is False]
    why = f" Missing: {listed(missing)}." if missing else ""
    why = f" {clean(relation['reason'], 200)}" if relation["reason"] else why
    return f"{clean(relation['name'])} ({sides}) {TOLD[relation['state']]}: {clean(relation['says'])}.{why}"
