"""What the gallery's figures of tables are drawn with: bars of forces, swarms and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.show import draw, palette
from pellucid.show.palette import BLUE, RED, hexadecimal

ORANGE = "#d55e00"
HUES = ((ORANGE, "-"), ("#0072b2", "-"), (draw.INK, ":"))  # told apart by everyone, and in grey by their dashes
LOW_HIGH = "cividis"  # values of a column: not the colours of raising and lowering, and told apart by everyone


def bars(names: Sequence[str], values: Tensor, spread: Tensor | None, head: str, unit: str) -> Figure:
    """One bar a feature, first above, with its spread as a line."""
    figure = draw.canvas(7.0, 0.9 + 0.27 * len(names))
    axes = figure.subplots()
    places = list(range(len(names)))[::-1]
    hues = [hexadecimal(RED if v > 0 else BLUE) for v in values.tolist()]
    axes.barh(places, values.tolist(), color=hues, height=0.7)
    if spread is not None:
        axes.errorbar(
            values.tolist(), places, xerr=spread.tolist(), fmt="none", ecolor=draw.INK, elinewidth=1, capsize=2
        )
    axes.axvline(0, color=draw.INK, linewidth=0.8)
    draw.labels(axes.yaxis, places, names, longest=60)
    wide = spread if spread is not None else torch.zeros_like(values)
    finish(axes, "x", float((values - wide).min().clamp(max=0)), float((values + wide).max().clamp(min=0)), unit)
    draw.title(axes, head, size=8.5, longest=120)
    return figure


def swarm(names: Sequence[str], values: Tensor, inputs: Tensor, unit: str) -> Figure:
    """One dot a row and feature at its value, as many above each other as there are; its colour is the input's rank."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = draw.canvas(7.0, 0.8 + 0.34 * len(names))
    axes = figure.subplots()
    low, high = float(values.min()), float(values.max())
    places = list(range(len(names)))[::-1]
    for place, value, given in zip(places, values.T, inputs.T, strict=True):
        ranks = (given[:, None] > given).double().mean(1) + (given[:, None] == given).double().mean(1) / 2
        heights = place + 0.36 * _stacked(value, (high - low) / 90)
        axes.scatter(value.tolist(), heights.tolist(), c=ranks.tolist(), cmap=LOW_HIGH, s=7, linewidths=0)
    axes.axvline(0, color=draw.FAINT, linewidth=0.8)
    draw.labels(axes.yaxis, places, names)
    finish(axes, "x", low, high, unit)
    key = figure.colorbar(ScalarMappable(Normalize(0, 1), LOW_HIGH), ax=axes, fraction=0.03, pad=0.01, shrink=0.6)
    key.set_ticks([0, 1], labels=["lowest", "highest"])
    key.outline.set_visible(False)
    key.ax.tick_params(labelsize=7, length=2, colors=draw.FAINT)
    key.set_label("value of the column", fontsize=7, color=draw.FAINT)
    return figure


def _stacked(values: Tensor, width: float) -> Tensor:
    """Heights in [-1, 1] that keep dots of like value apart."""
    cells: dict[int, int] = {}
    heights = torch.zeros(len(values), dtype=torch.float64)
    for row in values.argsort().tolist():
        cell = round(float(values[row]) / width)
        cells[cell] = count = cells.get(cell, 0) + 1
        heights[row] = (count // 2) * (-1 if count % 2 else 1)
    return heights / max(6.0, float(heights.abs().max()))


def finish(axes: Any, which: str, low: float, high: float, unit: str) -> None:
    """Round marks, a unit and no frame but the axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    draw.numbers(axis, low, high)
    draw.plain(axis.label)
    axis.label.set(text=unit, fontsize=8, color=draw.FAINT)
    for side in ("top", "right", *(("left",) if which == "x" else ())):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=2, color=draw.FAINT)


def pairs(names: Sequence[str], measured: Tensor, spread: Tensor, known: Tensor, unit: str) -> Figure:
    """A dot with its spread a line, and the known figure as a ring around it."""
    figure = draw.canvas(7.0, 0.7 + 0.23 * len(names))
    axes = figure.subplots()
    places = list(range(len(names)))[::-1]
    axes.hlines(places, 0, measured.tolist(), color="#d5d9e0", linewidth=1)
    dots = {"fmt": "o", "color": hexadecimal(BLUE), "markersize": 4, "elinewidth": 1.2, "capsize": 3}
    axes.errorbar(measured.tolist(), places, xerr=spread.tolist(), label="measured", **dots)
    ring = {"marker": "o", "facecolors": "none", "edgecolors": ORANGE, "s": 70, "linewidths": 1.4, "zorder": 3}
    axes.scatter(known.tolist(), places, label="by formula", **ring)
    axes.axvline(0, color=draw.INK, linewidth=0.8)
    draw.labels(axes.yaxis, places, names)
    low, high = float((measured - spread).min().clamp(max=0)), float((measured + spread).max())
    finish(axes, "x", min(low, float(known.min())), max(high, float(known.max())), unit)
    legend(axes)
    return figure


def curves(
    lines: dict[str, tuple[Tensor, Tensor, Tensor | None]],
    behind: list[tuple[Tensor, Tensor]],
    behind_name: str,
    across: str,
    unit: str,
) -> Figure:
    """Curves told apart by hue and dash, each with a band of two standard errors, over many thin ones."""
    figure = draw.canvas(6.0, 3.4)
    axes = figure.subplots()
    for drawn, (grid, curve) in enumerate(behind):
        label = behind_name if not drawn else None
        axes.plot(grid.tolist(), curve.tolist(), color="#c3c8d0", linewidth=0.5, label=label)
    for (name, (grid, curve, error)), (hue, dash) in zip(lines.items(), HUES, strict=False):
        axes.plot(grid.tolist(), curve.tolist(), dash, color=hue, linewidth=2, label=name)
        if error is not None:
            band = (curve - 2 * error).tolist(), (curve + 2 * error).tolist()
            axes.fill_between(grid.tolist(), *band, color=hue, alpha=0.2, linewidth=0)
    every = torch.cat([curve for _, curve, _ in lines.values()])
    axes.set_ylim(float(every.min()) - 0.3, float(every.max()) + 0.6)
    finish(axes, "y", *axes.get_ylim(), unit)
    draw.numbers(axes.xaxis, float(lines[next(iter(lines))][0].min()), float(lines[next(iter(lines))][0].max()))
    draw.plain(axes.xaxis.label)
    axes.xaxis.label.set(text=across, fontsize=8, color=draw.FAINT)
    legend(axes)
    return figure


def legend(axes: Any) -> None:
    """What is what, where it hides least."""
    for text in axes.legend(fontsize=8, frameon=False, loc="best").get_texts():
        draw.plain(text)


def words_by_row(
    spoken: Sequence[str], marks: Sequence[str], rows: dict[str, Tensor], head: str, *, signed: bool = True
) -> Figure:
    """A line of cells for each explanation, one cell a word, each line in limits of its own; marks stand under words."""
    count = len(spoken)
    figure = draw.canvas(2.9 + 0.62 * count, 0.85 + 0.3 * len(rows))
    axes = figure.subplots()
    drawn = []
    for values in rows.values():
        own = values[:count]
        drawn.append(palette.coloured(own, palette.scale(own, 100, signed=signed)))
    axes.imshow(np.stack(drawn), aspect="auto", interpolation="nearest")
    draw.bare(axes)
    for line in range(1, len(rows)):
        axes.axhline(line - 0.5, color="white", linewidth=2)
    for column in range(1, count):
        axes.axvline(column - 0.5, color="white", linewidth=1)
    for line, values in enumerate(rows.values()):
        by, whole = palette.scale(values[:count], 100, signed=signed), bool((values == values.round()).all())
        for column, value in enumerate(values[:count].tolist()):
            ink = palette.shade(value, by)[1]
            draw.note(
                axes,
                column,
                line,
                f"{value:z.0f}" if whole else f"{value:z.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color=ink,
            )
    draw.labels(axes.yaxis, list(range(len(rows))), list(rows), longest=60)
    shown = [f"{word}\n{mark}" for word, mark in zip(spoken, marks, strict=False)]
    axes.xaxis.set_ticks(range(count), labels=shown)
    for label in axes.get_xticklabels():
        draw.plain(label).set(fontsize=8, color=draw.INK)
    axes.tick_params(length=0)
    draw.title(axes, head, size=8.5, longest=120)
    return figure


def matrix(values: Tensor, lines: Sequence[str], columns: Sequence[str], down: str, across: str, head: str) -> Figure:
    """Figures of pairs, (lines, columns), over one scale whose middle is zero."""
    figure = draw.canvas(5.4, 3.1)
    axes = figure.subplots()
    by = palette.scale(values, 100)
    axes.imshow(palette.coloured(values, by), interpolation="nearest", aspect="auto")
    draw.bare(axes)
    for line, row in enumerate(values.tolist()):
        for column, value in enumerate(row):
            ink = palette.shade(value, by)[1]
            draw.note(axes, column, line, f"{value:z.1f}", ha="center", va="center", fontsize=8, color=ink)
    draw.labels(axes.yaxis, list(range(len(lines))), lines)
    draw.labels(axes.xaxis, list(range(len(columns))), columns)
    axes.tick_params(length=0)
    for axis, name in ((axes.yaxis, down), (axes.xaxis, across)):
        draw.plain(axis.label).set(text=name, fontsize=8, color=draw.FAINT)
    draw.bar(figure, axes, by, "relevance (score units)")
    draw.title(axes, head, size=8.5, longest=120)
    return figure
