"""Accuracy against size: every model as a point with its interval, and the frontier that none beats; the same in words."""

from __future__ import annotations

import math
from typing import TypeGuard

from matplotlib.figure import Figure

from pellucid.contract import Explanation, Measure
from pellucid.show import draw
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, number

READABLE, BLACK, PROXY = "#2f6fb0", "#22262e", "#8d6cab"


def is_one(result: Explanation) -> TypeGuard[Measure]:
    """Whether a result sets readable models beside black boxes."""
    return isinstance(result, Measure) and isinstance(result.source.get("tradeoff"), dict)


def figure(result: Measure, wanted: Options) -> Figure:
    """One line per model, the smallest first: its held-out accuracy with its interval."""
    told, parts = result.source["tradeoff"], result.parts
    order = parts["numbers"].argsort(stable=True).tolist()
    whole = draw.canvas(7.6, 1.3 + 0.27 * len(order))
    axes = whole.subplots()
    names = []
    for line, i in enumerate(order):
        name, size = told["models"][i], counted(round(float(parts["numbers"][i])), "number")
        shade = PROXY if name in told["proxies"] else READABLE if name in told["readable"] else BLACK
        axes.plot(
            [float(parts["low"][i]), float(parts["high"][i])], [line, line], color=shade, linewidth=1.4, alpha=0.5
        )
        best = float(parts["frontier"][i]) == 1
        axes.plot(float(result.values[i]), line, "o", color=shade, markersize=8 if best else 4)
        names.append(f"{name}, {size}")
    axes.invert_yaxis()
    draw.labels(axes.yaxis, range(len(names)), names, longest=50)
    seen = [v for v in (*parts["low"].tolist(), *parts["high"].tolist()) if math.isfinite(v)]
    low = max(min(seen), min(result.values.tolist()) - 0.3)
    axes.set_xlim(low - 0.02, max(seen) + 0.02)
    draw.numbers(axes.xaxis, low, max(seen))
    draw.plain(axes.set_xlabel(f"held-out {result.unit}", fontsize=8, color=draw.FAINT))
    axes.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    title = f"{counted(len(names), 'model')} on {counted(told['rows'], 'row')}"
    draw.head(whole, wanted.headed, f"{title}: {told['verdict']}" if told["verdict"] else title)
    note = (
        "Blue can be read, black can not, violet imitates the network. Large: none is as accurate with fewer numbers."
    )
    draw.foot(whole, note)
    return whole


def account(result: Measure, wanted: Options) -> Account:
    """The comparison in words."""
    told = result.source["tradeoff"]
    lines = []
    for i, name in enumerate(told["models"]):
        low, high = number(float(result.parts["low"][i])), number(float(result.parts["high"][i]))
        agrees = float(result.parts["fidelity"][i])
        says = f", and says what the network says to {number(agrees)}" if math.isfinite(agrees) and agrees < 1 else ""
        size = counted(round(float(result.parts["numbers"][i])), "number")
        figure = f"{number(float(result.values[i]))} ({low} to {high})"
        lines.append(f"{clean(name)}: {clean(result.unit)} {figure}, made of {size}{says}.")
    if told["verdict"]:
        gap, low, high = (number(float(result.facts[k][0])) for k in ("gap", "gap_low", "gap_high"))
        verdict = (
            f"{clean(told['verdict'])}: the best black box has {gap} more {clean(result.unit)} than the best readable"
        )
        lines.insert(0, f"{verdict[0].upper()}{verdict[1:]} model, with 95 % confidence between {low} and {high}.")
    return Account(
        asked="Does a black box buy accuracy on these data?",
        numbered=False,
        mattered=tuple(lines),
        believed=("Each model was chosen and judged on rows that it was not fitted to.",),
        supports=(
            "whether these families of models differ on rows like these, where the interval of the gap is off 0",
        ),
        cannot=(
            "what families that were not tried would reach",
            "whether a person in fact understands a readable model",
        ),
    )


def table(result: Measure) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and lines of the table as text, fewest numbers first."""
    told, parts = result.source["tradeoff"], result.parts
    lines = []
    for i in parts["numbers"].argsort(stable=True).tolist():
        kind = "proxy" if told["models"][i] in told["proxies"] else "readable"
        kind = kind if told["models"][i] in told["readable"] else "black box"
        figures = (result.values[i], parts["low"][i], parts["high"][i], parts["numbers"][i], parts["fidelity"][i])
        written = [number(float(v)) if math.isfinite(v) else "–" for v in figures]
        lines.append((told["models"][i], kind, *written, "yes" if parts["frontier"][i] == 1 else "no"))
    return ("model", "kind", result.unit, "from", "to", "numbers", "like the network", "on the frontier"), lines
