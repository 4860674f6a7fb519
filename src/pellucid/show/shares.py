"""Shares of a variance: what each column does alone and with others, what pairs do together; and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.show import draw, palette
from pellucid.show.answer import class_name
from pellucid.show.facts import title_of
from pellucid.show.options import Options
from pellucid.show.words import clean, counted, listed, number, percent

ALONE, WHOLE = "#4a3f8f", "#c9c3e6"
LEAST = 0.01  # of the variance, below which a pair is not told


def has(result: Attribution) -> bool:
    """Whether the values are shares of a variance, with what each column does alone."""
    first = result.parts.get("first")
    return isinstance(first, Tensor) and isinstance(result.values, Tensor) and first.shape == result.values.shape


def figure(result: Attribution, wanted: Options) -> Figure:
    """For each score explained a panel of bars, and one of pairs where these were asked for."""
    leaders = _leaders(result)
    drawn = leaders[: wanted.rows]
    columns = result.values.shape[1]
    shown = min(columns, wanted.features)
    pairs = "pair" in result.parts and columns > 1
    whole = draw.canvas(9.4 if pairs else 6.0, 0.8 + len(drawn) * (1.1 + 0.26 * max(shown, 4)))
    body = whole.subfigures(len(drawn), 1, squeeze=False)[:, 0]
    for place, row in zip(body, drawn, strict=True):
        axes = place.subplots(1, 2 if pairs else 1, squeeze=False, width_ratios=[1.15, 1] if pairs else [1])[0]
        order = palette.finite(result.values[row]).argsort(descending=True, stable=True)[:shown].tolist()
        _bars(axes[0], result, row, order)
        if pairs:
            _pairs(place, axes[1], result, row, sorted(order))
    more = [counted(columns - shown, "more column")] if columns > shown else []
    more += [counted(len(leaders) - len(drawn), "more score")] if len(leaders) > len(drawn) else []
    whiskers = "; lines: ± 2 standard errors" if result.error is not None else ""
    kinds = "dark: the column alone; pale: with others" if _wider(result) else "what the column does alone"
    draw.foot(whole, f"{kinds}{whiskers}" + "".join(f"; {text} not drawn" for text in more))
    draw.head(whole, wanted.headed, title_of(result))
    return whole


def _leaders(result: Attribution) -> list[int]:
    """The first row of each score: rows of one class share a global method's numbers."""
    seen: dict[Any, int] = {}
    for row, values in enumerate(result.values.detach().cpu().tolist()):
        seen.setdefault(tuple(values), row)
    return list(seen.values())


def _wider(result: Attribution) -> bool:
    return not torch.equal(result.values.double().cpu(), result.parts["first"].to(result.values).double().cpu())


def _bars(axes: Any, result: Attribution, row: int, order: Sequence[int]) -> None:
    spots = list(range(len(order)))
    total, first = palette.finite(result.values[row]), palette.finite(result.parts["first"][row])
    if _wider(result):
        axes.barh(spots, [float(total[j]) for j in order], color=WHOLE, height=0.72)
        axes.barh(spots, [float(first[j]) for j in order], color=ALONE, height=0.4)
    else:
        axes.barh(spots, [float(first[j]) for j in order], color=ALONE, height=0.6)
    if isinstance(result.error, Tensor):
        error = palette.finite(result.error[row])
        ends = [(float(total[j] - 2 * error[j]), float(total[j] + 2 * error[j])) for j in order]
        axes.hlines(spots, [a for a, _ in ends], [b for _, b in ends], color=draw.INK, linewidth=1.0)
    axes.axvline(0, color=draw.FAINT, linewidth=0.8)
    axes.invert_yaxis()
    draw.labels(axes.yaxis, spots, [name_of(result, j) for j in order])
    low, high = axes.get_xlim()
    draw.numbers(axes.xaxis, float(low), float(high))
    draw.plain(axes.set_xlabel("share of the variance", fontsize=8, color=draw.FAINT))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    draw.title(axes, f"variance of {_score(result, row)}", longest=48)


def _pairs(place: Any, axes: Any, result: Attribution, row: int, order: Sequence[int]) -> None:
    """What each pair does together, as a triangle of figures."""
    table = palette.finite(result.parts["pair"][row])[order][:, order].clamp(min=0)
    below = torch.tril(torch.ones_like(table), -1) > 0
    by = palette.scale(table[below], 100.0, signed=False)
    pixels = palette.coloured(table, by)
    pixels[~below.numpy()] = 255
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    if len(order) <= 8:
        for i, j in below.nonzero().tolist():
            value = float(table[i, j])
            ink = "white" if value > 0.55 * by.limit else draw.INK
            if value >= LEAST / 10:
                draw.note(axes, j, i, percent(value), ha="center", va="center", fontsize=7, color=ink)
    spots = list(range(len(order)))
    draw.labels(axes.xaxis, spots, [name_of(result, j) for j in order], longest=16, rotation=45, ha="right")
    draw.labels(axes.yaxis, spots, [name_of(result, j) for j in order], longest=16)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    draw.title(axes, "of it, by pairs acting together", longest=48)
    draw.bar(place, axes, by, "share of the variance")


def name_of(result: Attribution, column: int) -> str:
    """The column's name, or its number."""
    names = result.context.features
    return clean(names[column]) if len(names) == result.values.shape[1] else f"input {column}"


def _score(result: Attribution, row: int) -> str:
    if isinstance(result.target, Tensor) and row < result.target.numel():
        return f"“{class_name(int(result.target.flatten()[row]), result.context.classes)}”"
    return "the score"


def mattered(result: Attribution, row: int, most: int) -> str:
    """Which columns account for most of the variance, alone and with others, and which pairs act together."""
    values, first = palette.finite(result.values[row]), palette.finite(result.parts["first"][row])
    if not bool((values > 0).any()):
        return f"Of {_score(result, row)} nothing varies, so there is nothing to share out."
    order = [j for j in values.argsort(descending=True, stable=True)[:most].tolist() if values[j] > 0]
    wide = _wider(result)
    said = [
        f"{name_of(result, j)} {percent(float(values[j]))}" + (f" ({_alone(float(first[j]))} alone)" if wide else "")
        for j in order
    ]
    start = f"Of the variance of {_score(result, row)} there go back to"
    return f"{start} {listed(said)}.{_together(result, row, most)}"


def _alone(share: float) -> str:
    return percent(share) if share > 0 else "nothing"


def _together(result: Attribution, row: int, most: int) -> str:
    if "pair" not in result.parts:
        return ""
    table = palette.finite(result.parts["pair"][row])
    error = palette.finite(result.parts["pair_error"][row]) if "pair_error" in result.parts else torch.zeros_like(table)
    real = torch.where(table - 2 * error > LEAST, table, torch.zeros_like(table)).triu(1)
    found = [divmod(k, len(real)) for k in real.flatten().argsort(descending=True, stable=True)[:most].tolist()]
    told = [
        f"{name_of(result, i)} with {name_of(result, j)} ({percent(float(real[i, j]))})"
        for i, j in found
        if real[i, j] > 0
    ]
    if not told:
        return f" Of no pair is it certain that it accounts for more than {number(100 * LEAST)} % of it."
    return f" Act together: {listed(told)}."
