"""The chart of a trend: dots for what was counted, curves for how it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.show import draw
from pellucid.show.curves import COLOURS
from pellucid.show.words import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pellucid.report.literature import Growth, Trend

MARKS = "os^Dv<>P"


def figure(trend: Trend) -> Figure:
    """Publications a year, each query in a colour and mark of its own; queries are drawn as text, never as markup."""
    whole = draw.canvas(7.0, 3.2 + 0.2 * len(trend.counts))
    axes = whole.subplots()
    top = 1.0
    for (query, counts), hue, mark in zip(trend.counts.items(), COLOURS, MARKS, strict=False):
        fit = trend.fits[query]
        told = "growth not told" if isinstance(fit, str) else _key(fit)
        label = f"{drawable(query, 60)}: {told}"
        axes.plot(trend.years, counts, mark, color=hue, markersize=4, label=label)
        if not isinstance(fit, str):
            _curve(axes, trend.fitted, fit, hue)
        top = max(top, *counts)
    axes.set_ylim(0, 1.15 * top)
    draw.numbers(axes.yaxis, 0, top)
    step = max(1, -(-len(trend.years) // 10))
    ticks = list(trend.years[::step])
    axes.xaxis.set_ticks(ticks, labels=[str(y) for y in ticks])
    for text in (axes.set_ylabel("publications a year"), *axes.get_xticklabels()):
        draw.plain(text).set(fontsize=8, color=draw.FAINT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=2, color=draw.FAINT)
    key = axes.legend(fontsize=8, frameon=False, loc="upper left")
    for text in key.get_texts():
        draw.plain(text)
    draw.foot(
        whole, f"Curves: exponential growth fitted to {trend.fitted[0]}–{trend.fitted[1]}; bands: its 95 % interval."
    )
    return whole


def _key(fit: Growth) -> str:
    if fit.low <= 0 <= fit.high:
        return "no growth that can be told from chance"
    ends = sorted(abs(e) for e in fit.doubling_interval or (0.0, 0.0))
    return f"{'×2' if fit.rate > 0 else '÷2'} in {abs(fit.doubling):.1f} years ({ends[0]:.1f}–{ends[1]:.1f})"


def _curve(axes: Any, fitted: tuple[int, int], fit: Growth, hue: str) -> None:
    x = np.linspace(0, fitted[1] - fitted[0], 80)
    years = (x + fitted[0]).tolist()
    expected, low, high = (line.tolist() for line in fit.band(x))
    axes.plot(years, expected, color=hue, linewidth=1.6)
    axes.fill_between(years, low, high, color=hue, alpha=0.15, linewidth=0)
