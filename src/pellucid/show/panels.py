"""Several figures of several methods: one panel for each figure, one line for each method; the same in words."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from matplotlib.figure import Figure

from pellucid.contract import Explanation, Measure
from pellucid.show import draw
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, listed, number

MARKED, PLAIN = "#2f6fb0", "#5c6470"


def is_one(result: Explanation) -> TypeGuard[Measure]:
    """Whether a result has several figures of several methods."""
    return isinstance(result, Measure) and isinstance(result.source.get("panels"), dict)


def figure(result: Measure, wanted: Options) -> Figure:
    """A dot with its interval for each method in each panel; methods that none beats are blue."""
    told, values = result.source["panels"], result.values
    methods, figures = told["methods"], told["figures"]
    best = result.parts["pareto"]
    shown = [j for j in range(len(figures)) if bool(values[:, j].isfinite().any())] or [0]
    whole = draw.canvas(2.6 + 1.75 * len(shown), 1.5 + 0.27 * len(methods))
    every = whole.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for j, axes in zip(shown, every, strict=True):
        _panel(axes, result, j, best)
        arrow = {"higher": "→ better", "lower": "← better"}.get(told["better"][j], "")
        draw.title(axes, clean(figures[j], 24), arrow, size=8)
    draw.labels(every[0].yaxis, range(len(methods)), [clean(m, 34) for m in methods], longest=34)
    every[0].set_ylim(len(values) - 0.5, -0.5)
    left = [clean(name, 24) for j, name in enumerate(figures) if j not in shown]
    open_ = f"; {listed(left)} not measured" if left else ""
    draw.head(whole, wanted.headed, f"{clean(told['title'])}: {len(methods)} explanations{open_}")
    draw.foot(
        whole, f"Blue: {clean(told['marked'])}. Bars are 95 % intervals; without a dot there is a reason, in words."
    )
    return whole


def _panel(axes: Any, result: Measure, j: int, best: Any) -> None:
    low, high, values = (result.parts["low"][:, j], result.parts["high"][:, j], result.values[:, j])
    ends = [float(v) for part in (low, high, values) for v in part if math.isfinite(v)]
    for i in range(len(values)):
        if not math.isfinite(values[i]):
            continue
        shade = MARKED if float(best[i]) == 1 else PLAIN
        axes.plot([float(low[i]), float(high[i])], [i, i], color=shade, linewidth=1.3, alpha=0.5)
        axes.plot(float(values[i]), i, "o", color=shade, markersize=5)
    first, last = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if last - first < 1e-6 * max(1.0, abs(last)):  # all alike: no scale is to make differences of rounding
        first, last = first - 0.5, last + 0.5
    pad = 0.08 * (last - first)
    axes.set_xlim(first - pad, last + pad)
    draw.numbers(axes.xaxis, first, last, count=3)
    axes.grid(axis="both", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def account(result: Measure, wanted: Options) -> Account:
    """Every method's figures in words, and why some are missing."""
    told = result.source["panels"]
    lines = []
    for i, method in enumerate(told["methods"]):
        parts = []
        for j, name in enumerate(told["figures"]):
            if math.isfinite(result.values[i, j]):
                ends = [float(result.parts[side][i, j]) for side in ("low", "high")]
                between = f" ({number(ends[0])} to {number(ends[1])})" if all(map(math.isfinite, ends)) else ""
                parts.append(f"{clean(name)} {number(float(result.values[i, j]))}{between}")
        said = listed(parts) or "no figure"
        why = " ".join(
            f"{clean(name)}: {clean(text, 300)}" if name else clean(text, 300)
            for name, text in told["reasons"].get(method, {}).items()
        )
        lines.append(f"{clean(method)}: {said}.{' ' + why if why else ''}")
    best = [clean(m) for m, mark in zip(told["methods"], result.parts["pareto"].tolist(), strict=True) if mark == 1]
    return Account(
        asked=clean(told["title"]) + "?",
        numbered=False,
        mattered=tuple(lines),
        believed=(f"{listed(best)}: {clean(told['marked'])}.",) if best else (),
        supports=("which explanation is better by a figure, where the intervals do not overlap",),
        cannot=("which figure matters most to you",),
    )
