"""Curves over a table's columns: one panel each, with the data's density under it; and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.show import draw, palette
from pellucid.show.answer import class_name
from pellucid.show.facts import title_of
from pellucid.show.options import Options
from pellucid.show.words import clean, counted, number, signed

COLOURS = ("#2f5d9b", "#c2570c", "#2e7d5b", "#7c4d9e", "#8a6d1a", "#b03060", "#3a8aa6", "#4b5563")
ACROSS = 3
BAND = 2  # standard errors
RUG = 0.09  # of a panel's height, for the densest grid point


def has(result: Attribution) -> bool:
    """Whether a result holds curves over columns: (rows, columns, points) along a grid."""
    grid, curve = result.parts.get("grid"), result.parts.get("curve")
    return isinstance(grid, Tensor) and isinstance(curve, Tensor) and curve.dim() == 3 and grid.shape == curve.shape


def figure(result: Attribution, wanted: Options) -> Figure:
    """One panel for each column, those whose curves span most first; then one for each pair's surface."""
    leaders = _leaders(result)
    drawn = leaders[: wanted.rows]
    columns = _order(result, drawn)[: wanted.features]
    surfaces = result.parts.get("surface")
    pairs: list[int] = []
    if isinstance(surfaces, Tensor):
        span = palette.finite(surfaces[0]).abs().flatten(1).amax(1)
        pairs = span.argsort(descending=True, stable=True)[:ACROSS].tolist()
    lines = math.ceil(len(columns) / ACROSS) + bool(pairs)
    wide = min(ACROSS, max(len(columns), len(pairs)))
    whole = draw.canvas(2.9 * max(wide, 2) + 0.4, 0.9 + 2.2 * lines)
    axes = whole.subplots(lines, wide, squeeze=False)
    flat = axes.reshape(-1)
    for place, column in zip(flat, columns, strict=False):
        _panel(place, result, column, drawn)
    pictured = axes[-1][: len(pairs)] if pairs else []
    for place, pair in zip(pictured, pairs, strict=True):
        _surface(whole, place, result, pair, wanted)
    _close([*flat[len(columns) : (lines - bool(pairs)) * wide], *(axes[-1][len(pairs) :] if pairs else [])])
    for line in axes[: lines - bool(pairs)]:
        draw.plain(line[0].set_ylabel(unit(result), fontsize=8, color=draw.FAINT))
    if len(drawn) > 1 or _one_mean(result, drawn):
        key = whole.legend(*flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=7)
        key.set_frame_on(False)
        for text in key.get_texts():
            draw.plain(text)
    hidden = [counted(len(leaders) - len(drawn), "more curve")] if len(leaders) > len(drawn) else []
    left = result.parts["curve"].shape[1] - len(columns)
    hidden += [counted(left, "more column")] if left else []
    draw.foot(whole, _note(result) + "".join(f"; {text} not drawn" for text in hidden))
    draw.head(whole, wanted.headed, title_of(result))
    return whole


def _leaders(result: Attribution) -> list[int]:
    """The first row of each different set of curves: rows with the same score explained share a global method's."""
    flat = result.parts["curve"].detach().cpu().double().flatten(1)
    found: list[int] = []
    for row in range(len(flat)):
        if not any(torch.equal(flat[row], flat[other]) for other in found[-64:]):
            found.append(row)
    return found


def _order(result: Attribution, rows: Sequence[int]) -> list[int]:
    curves = palette.finite(result.parts["curve"][list(rows)])
    span = (curves.amax(2) - curves.amin(2)).amax(0)
    return list(span.argsort(descending=True, stable=True).tolist())


def _line(result: Attribution, name: str, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Grid and values of one line, without the repeated end of a shorter column."""
    marks = result.parts["grid"][row, column].detach().cpu().double().numpy()
    kept = np.concatenate([[True], np.diff(marks) > 0])
    return marks[kept], palette.finite(result.parts[name][row, column]).double().numpy()[kept]


def _panel(axes: Any, result: Attribution, column: int, rows: Sequence[int]) -> None:
    for place, row in enumerate(rows):
        colour = COLOURS[place % len(COLOURS)]
        marks, curve = _line(result, "curve", row, column)
        alone = {"marker": "o", "markersize": 3} if len(marks) < 2 else {}
        axes.plot(marks, curve, color=colour, linewidth=1.5, label=_named(result, row), **alone)
        if "curve_error" in result.parts:
            _, error = _line(result, "curve_error", row, column)
            axes.fill_between(marks, curve - BAND * error, curve + BAND * error, color=colour, alpha=0.16, linewidth=0)
    if _one_mean(result, rows):
        axes.plot(*_line(result, "mean", rows[0], column), color=draw.INK, linewidth=1.4, linestyle="--", label="mean")
    _own(axes, result, column, rows)
    _rug(axes, result, rows[0], column)
    low, high = axes.get_ylim()
    draw.numbers(axes.yaxis, float(low), float(high), 4)
    low, high = axes.get_xlim()
    draw.numbers(axes.xaxis, float(low), float(high), 4)
    axes.tick_params(length=2, colors=draw.FAINT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw.title(axes, name_of(result, column), longest=34)


def _own(axes: Any, result: Attribution, column: int, rows: Sequence[int]) -> None:
    """A dot at the row's own value, where single rows are drawn and known."""
    given = result.context.inputs
    if len(rows) < len(result.parts["curve"]) or not isinstance(given, Tensor) or given.shape[0] < len(rows):
        return
    for place, row in enumerate(rows):
        marks, curve = _line(result, "curve", row, column)
        x, colour = float(given[row, column]), COLOURS[place % len(COLOURS)]
        axes.plot([x], [np.interp(x, marks, curve)], "o", color=colour, markersize=4.5, zorder=4)


def _one_mean(result: Attribution, rows: Sequence[int]) -> bool:
    """Whether one mean curve of the data goes with all rows that are drawn: their scores may be of several classes."""
    if "mean" not in result.parts:
        return False
    means = result.parts["mean"][list(rows)]
    return all(torch.equal(mean, means[0]) for mean in means)


def _rug(axes: Any, result: Attribution, row: int, column: int) -> None:
    if "density" not in result.parts:
        return
    marks, share = _line(result, "density", row, column)
    tall = RUG * share / max(float(share.max()), 1e-12)
    axes.vlines(marks, 0, tall, transform=axes.get_xaxis_transform(), color=draw.FAINT, linewidth=1.6, alpha=0.6)


def _surface(whole: Figure, axes: Any, result: Attribution, pair: int, wanted: Options) -> None:
    """What a pair does together, as colours over both columns."""
    one, other = (int(c) for c in result.parts["pairs"][0, pair])
    whose = f" ({_named(result, 0)})" if len(_leaders(result)) > 1 else ""
    heat = palette.finite(result.parts["surface"][0, pair])
    by = palette.scale(heat, 100.0, signed=True)
    marks = [result.parts["grid"][0, c].detach().cpu().double().numpy() for c in (one, other)]
    kept = [np.concatenate([[True], np.diff(m) > 0]) for m in marks]
    across, up = (m[k] for m, k in zip(marks, kept, strict=True))
    table = heat.double().numpy()[np.ix_(*kept)].T
    axes.pcolormesh(across, up, table, cmap=palette.SIGNED, vmin=by.low, vmax=by.limit, shading="nearest")
    draw.numbers(axes.xaxis, float(across.min()), float(across.max()), 4)
    draw.numbers(axes.yaxis, float(up.min()), float(up.max()), 4)
    draw.bar(whole, axes, by, "beyond both curves")
    draw.title(axes, f"{name_of(result, one)} (across) ×", f"{name_of(result, other)} (up){whose}", longest=34)


def _close(unused: Sequence[Any]) -> None:
    for axes in unused:
        axes.axis("off")


def _named(result: Attribution, row: int) -> str:
    """What a line is called: the class explained, or the row."""
    if "mean" not in result.parts and isinstance(result.target, Tensor):
        return draw.drawable(class_name(int(result.target.flatten()[row]), result.context.classes), 24)
    return f"row {row + 1}"


def _view(result: Attribution) -> str:
    settings = result.source.get("settings", {})
    return str(settings.get("view", "")) if isinstance(settings, dict) else ""


def unit(result: Attribution) -> str:
    """What the curves are measured in."""
    return {"plain": "score", "derivative": "slope of the score"}.get(_view(result), "change of the score")


def _note(result: Attribution) -> str:
    notes = ["ticks at the bottom: where the data lie"]
    notes += [f"shaded: ± {BAND} standard errors"] if "curve_error" in result.parts else []
    single = len(_leaders(result)) == len(result.parts["curve"]) and isinstance(result.context.inputs, Tensor)
    notes += ["dots: the rows' own values"] if single else []
    return "; ".join(notes)


def name_of(result: Attribution, column: int) -> str:
    """The column's name, or its number."""
    names = result.context.features
    return clean(names[column]) if len(names) == result.parts["curve"].shape[1] else f"input {column}"


def lines(result: Attribution, row: int = 0) -> tuple[str, ...]:
    """One sentence for each column, those whose curve spans most first: how the curve of a row runs."""
    whose = f" of {_quoted(result, row)}" if len(_leaders(result)) > 1 else ""
    told = signed if unit(result) != "score" else number
    return tuple(
        f"{name_of(result, j)}: the curve{whose} {_runs(*_line(result, 'curve', row, j), told)}."
        for j in _order(result, [row])
    )


def _quoted(result: Attribution, row: int) -> str:
    return f"row {row + 1}" if "mean" in result.parts else f"“{_named(result, row)}”"


def _runs(marks: np.ndarray, curve: np.ndarray, told: Callable[[float], str]) -> str:
    span = float(curve.max() - curve.min())
    if span <= 1e-9 * (1 + float(np.abs(curve).max())):
        return "is flat"
    steps = np.diff(curve)
    ends = f"from {told(curve[0])} at {number(marks[0])} to {told(curve[-1])} at {number(marks[-1])}"
    if (steps >= -1e-9 * span).all():
        return f"rises {ends}"
    if (steps <= 1e-9 * span).all():
        return f"falls {ends}"
    low, high = int(curve.argmin()), int(curve.argmax())
    return (
        f"goes {ends}; it is lowest, {told(curve[low])}, at {number(marks[low])} "
        f"and highest, {told(curve[high])}, at {number(marks[high])}"
    )


def mattered(result: Attribution, row: int, most: int) -> str:
    """Along which columns the score is steepest at a row, where the curves are slopes; else nothing."""
    if _view(result) != "derivative":
        return ""
    slopes = palette.finite(result.values[row])
    order = slopes.abs().argsort(descending=True, stable=True)[:most].tolist()
    told = ", ".join(f"{name_of(result, j)} ({signed(float(slopes[j]))} per unit)" for j in order)
    return f"At its own values the score is steepest along {told}."
