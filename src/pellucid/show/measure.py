"""A measurement drawn: one figure, bars, a spread or curves; and the same in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pellucid.contract import Measure
from pellucid.show import comparison, draw, palette, panels, relations, study, tradeoff
from pellucid.show.facts import card_of, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, number

BARS = 24
CURVES = 8
# Measures with a view of their own: each says whether a result is one of its kind.
KINDS: tuple[Any, ...] = (comparison, panels, relations, study, tradeoff)
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by everyone
BETTER = {"higher": "higher is better", "lower": "lower is better"}


def figure(result: Measure, wanted: Options) -> Figure:
    """A number, bars for a few values, a histogram for many, lines for a table of curves, a strip for the rest."""
    for kind in KINDS:
        if kind.is_one(result):
            own: Figure = kind.figure(result, wanted)
            return own
    values = palette.finite(result.values).numpy()
    title = f"{title_of(result)}" + (f" ({BETTER[result.better]})" if result.better in BETTER else "")
    lines, named = _lines(result), _named(result)
    if named:
        whole = draw.canvas(8.6, 3.2)
        axes, beside = whole.subplots(1, 2, width_ratios=(1, 1.6))
        _named_curves(beside, result, named)
    elif lines is not None:
        whole = draw.canvas(8.6, 3.2)
        axes, beside = whole.subplots(1, 2, width_ratios=(1, 1.2))
        _curve(beside, *lines)
    else:
        whole = draw.canvas(6.4, 1.4 if values.size == 1 else 3.2)
        axes = whole.subplots()
    if values.size == 1:
        axes.axis("off")
        text = f"{number(float(values.reshape(-1)[0]))} {clean(result.unit)}".strip()
        draw.note(axes, 0.02, 0.5, text, transform=axes.transAxes, fontsize=20, va="center", longest=80)
    elif values.ndim == 1 and len(values) <= BARS:
        _bars(axes, result, values)
    elif values.ndim == 1:
        axes.hist(values, bins=30, color="#5b6b8c")
        draw.plain(axes.set_ylabel("how many rows", fontsize=8, color=draw.FAINT))
        _ends(axes, values, clean(result.unit) or "value")
    elif values.ndim == 2 and values.shape[0] <= wanted.rows:
        _curves(axes, result, values)
    else:
        strip = result.values.detach().cpu().reshape(values.shape[0], -1)
        by = palette.scale(strip, wanted.clip)
        axes.imshow(palette.coloured(strip, by), aspect="auto", interpolation="nearest")
        draw.bare(axes)
        draw.bar(whole, axes, by, clean(result.unit) or "value")
    draw.head(whole, wanted.headed, title)
    return whole


def _lines(result: Measure) -> tuple[np.ndarray, np.ndarray] | None:
    """The curve behind the values, (rows, points), and where its points lie, if the measure has one."""
    curve, share = result.parts.get("curve"), result.parts.get("share")
    if curve is None or share is None or curve.dim() != 2 or share.shape != curve.shape[1:] or not curve.numel():
        return None
    return palette.finite(share).numpy(), palette.finite(curve).numpy()


def _named(result: Measure) -> list[str]:
    """The lines of a measure that lie along one axis, `along`; bands between a line's `_low` and `_high` go with it."""
    along = result.parts.get("along")
    if along is None or along.dim() != 1 or not len(along):
        return []
    bands = ("_low", "_high")
    return [n for n, v in result.parts.items() if n != "along" and v.shape == along.shape and not n.endswith(bands)]


def _named_curves(axes: Any, result: Measure, names: list[str]) -> None:
    """Each line by its name; what is compared with, the line of random orders, is dotted in the same colour."""
    along = palette.finite(result.parts["along"]).double().numpy()
    hues: dict[str, str] = {}
    for name in names:
        group = name.removesuffix("_random")
        hue = hues.setdefault(group, HUES[len(hues) % len(HUES)])
        style = ":" if name.endswith("_random") else "-"
        axes.plot(
            along, palette.finite(result.parts[name]).numpy(), style, color=hue, label=clean(name.replace("_", ", "))
        )
        low, high = (result.parts.get(name + end) for end in ("_low", "_high"))
        if low is not None and high is not None:
            band = (palette.finite(low).numpy(), palette.finite(high).numpy())
            axes.fill_between(along, *band, color=hue, alpha=0.16, linewidth=0)
    low, high = axes.get_ylim()
    draw.numbers(axes.yaxis, float(low), float(high))
    draw.numbers(axes.xaxis, float(along.min()), float(along.max()) or 1.0)
    draw.plain(axes.set_xlabel(draw.drawable(result.source.get("along", "")), fontsize=8, color=draw.FAINT))
    for text in axes.legend(fontsize=7, frameon=False).get_texts():
        draw.plain(text)
    _open(axes)


def _curve(axes: Any, share: np.ndarray, curve: np.ndarray) -> None:
    """The first rows' curves, and the mean of all."""
    for line in curve[:CURVES]:
        axes.plot(share, line, color="#9aa5bd", linewidth=0.9)
    axes.plot(share, curve.mean(0), color="#b40426", linewidth=2.0, label=f"mean of {counted(len(curve), 'row')}")
    axes.plot([], [], color="#9aa5bd", linewidth=0.9, label=counted(min(len(curve), CURVES), "row"))
    draw.numbers(axes.yaxis, float(curve[:CURVES].min()), float(curve[:CURVES].max()) or 1.0)
    draw.numbers(axes.xaxis, float(share.min()), float(share.max()) or 1.0)
    draw.plain(axes.set_xlabel("share", fontsize=8, color=draw.FAINT))
    draw.plain(axes.set_ylabel("along the curve", fontsize=8, color=draw.FAINT))
    for text in axes.legend(fontsize=7, frameon=False).get_texts():
        draw.plain(text)
    _open(axes)


def _bars(axes: Any, result: Measure, values: np.ndarray) -> None:
    names = result.context.features if len(result.context.features) == len(values) else ()
    axes.bar(range(len(values)), values, color="#5b6b8c", width=0.7)
    axes.axhline(0, color=draw.FAINT, linewidth=0.8)
    marks = [clean(names[i], 14) if names else str(i + 1) for i in range(len(values))]
    draw.labels(axes.xaxis, list(range(len(values))), marks, longest=14, rotation=90 if names else 0)
    draw.numbers(axes.yaxis, min(0.0, float(values.min())), max(0.0, float(values.max())) or 1.0)
    draw.plain(axes.set_ylabel(draw.drawable(result.unit or "value"), fontsize=8, color=draw.FAINT))
    if not names:
        draw.plain(axes.set_xlabel("row", fontsize=8, color=draw.FAINT))
    _open(axes)


def _curves(axes: Any, result: Measure, values: np.ndarray) -> None:
    for row, line in enumerate(values):
        axes.plot(line, linewidth=1.4, label=f"row {row + 1}")
    draw.numbers(axes.yaxis, float(values.min()), float(values.max()) or 1.0)
    draw.numbers(axes.xaxis, 0, values.shape[1] - 1 or 1)
    draw.plain(axes.set_ylabel(draw.drawable(result.unit or "value"), fontsize=8, color=draw.FAINT))
    for text in axes.legend(fontsize=7, frameon=False).get_texts():
        draw.plain(text)
    _open(axes)


def _ends(axes: Any, values: np.ndarray, unit: str) -> None:
    draw.numbers(axes.xaxis, float(values.min()), float(values.max()) or 1.0)
    draw.plain(axes.set_xlabel(draw.drawable(unit), fontsize=8, color=draw.FAINT))
    low, high = axes.get_ylim()
    draw.numbers(axes.yaxis, float(low), float(high))
    _open(axes)


def _open(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def account(result: Measure, wanted: Options) -> Account:
    """The result in plain words."""
    for kind in KINDS:
        if kind.is_one(result):
            own: Account = kind.account(result, wanted)
            return own
    card, values = card_of(result), palette.finite(result.values).flatten()
    unit = f" {clean(result.unit)}" if result.unit else ""
    if values.numel() == 1:
        told = f"The measured value is {number(float(values[0]))}{unit}."
    elif values.numel():
        least, middle, most = (number(float(v)) for v in (values.min(), values.median(), values.max()))
        told = f"The {counted(values.numel(), 'value')} run from {least} to {most}{unit}, with {middle} in the middle."
    else:
        told = "There is no value."
    better = f" For this measure {BETTER[result.better]}." if result.better in BETTER else ""
    return Account(
        asked=card.question if card else "What was measured?",
        mattered=(told + better,),
        believed=tuple(v.long for v in verdicts(result.facts)),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
    )


def alt(result: Measure, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    if study.is_one(result):
        return study.alt(result)
    return f"{title_of(result)}. {account(result, wanted).mattered[0]}"


def sums(result: Measure) -> list[dict[str, str]]:
    """The values' extremes, for engineers."""
    values = palette.finite(result.values).double().flatten()
    if not values.numel():
        return []
    return [
        {k: number(float(v), 4) for k, v in (("mean", values.mean()), ("min", values.min()), ("max", values.max()))}
    ]
