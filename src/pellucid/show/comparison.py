"""Methods compared: a table of figures coloured by rank, and how far the methods' maps agree; and the same in words."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from pellucid.contract import Explanation, Measure
from pellucid.show import draw
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, listed, number

ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither way is better"}
LIGHT = np.array([0.299, 0.587, 0.114])  # how light a colour looks
FAILS, PASSES = (0.98, 0.82, 0.66), (0.93, 0.94, 0.93)
MOST = 60  # methods whose lines are drawn
RANKS, AGREES = "Purples_r", "coolwarm"


def is_one(result: Explanation) -> TypeGuard[Measure]:
    """Whether a result is a comparison of methods."""
    return isinstance(result, Measure) and isinstance(result.source.get("comparison"), dict)


def figure(result: Measure, wanted: Options) -> Figure:
    """The table and, beside it, the agreement of the maps."""
    told, values = result.source["comparison"], result.values
    known = [i for i in _order(result) if bool(values[i].isfinite().any())] or _order(result)
    shown = known[:MOST]
    names = [f"{clean(told['methods'][i], 30)}  {line}" for line, i in enumerate(shown, 1)]
    metrics = [clean(m, 28) for m in told["metrics"]]
    wide, broad = 1.1 * len(metrics), 1.6 + min(0.2, 6 / len(shown)) * len(shown)
    whole = draw.canvas(3.6 + wide + broad, 1.9 + 0.24 * len(shown))
    table, maps = whole.subplots(1, 2, width_ratios=(wide, broad))
    _table(table, result, shown, names, metrics)
    _agreement(whole, maps, result, shown, names)
    more = f"; {len(known) - len(shown)} not drawn" if len(known) > len(shown) else ""
    without = f"; {len(values) - len(known)} could not be measured" if len(values) > len(known) else ""
    draw.head(whole, wanted.headed, f"{counted(len(values), 'method')} compared{without}{more}")
    draw.foot(
        whole,
        "Darker is a better rank. Figures are means over the rows ± half their 95 % interval; a dash where there is none, "
        "with the reason in words. Orange: fails a test of sanity.",
    )
    return whole


def _order(result: Measure) -> list[int]:
    """The methods by their median rank, those without some figure behind those with all, those without any last."""
    middle, gaps = _middle(result), (~result.parts["rank"].isfinite()).sum(1).tolist()
    return sorted(range(len(middle)), key=lambda i: (not math.isfinite(middle[i]), middle[i], gaps[i], i))


def _table(axes: Any, result: Measure, shown: list[int], names: list[str], metrics: list[str]) -> None:
    rank, values = result.parts["rank"].numpy()[shown], result.values.numpy()[shown]
    count = max(1, len(result.values))
    shade = np.where(np.isfinite(rank), (rank - 1) / max(1, count - 1), 1.0)
    pixels = colormaps[RANKS](0.25 + 0.75 * shade)
    pixels[~np.isfinite(rank)] = (0.97, 0.97, 0.97, 1.0)
    told = result.source["comparison"]
    for j, metric in enumerate(told["metrics"]):
        if told["about"][metric].get("quality") != "sanity":
            continue
        for line, i in enumerate(shown):  # a test is passed or failed, and there is no order among those that pass
            if math.isfinite(values[line, j]):
                pixels[line, j, :3] = FAILS if metric in told["failed"].get(told["methods"][i], ()) else PASSES
    axes.imshow(pixels, aspect="auto", interpolation="nearest")
    for i, j in np.ndindex(*values.shape):
        dark = float(pixels[i, j, :3] @ LIGHT) < 0.5
        text = cell(result, shown[i], j)
        colour = "white" if dark else "#22262e"
        draw.note(axes, j, i, text, fontsize=7, ha="center", va="center", color=colour, longest=24)
    draw.bare(axes)
    draw.labels(axes.yaxis, range(len(names)), names, longest=40)
    heads = [
        f"{m}\n({ARROWS.get(told['better'].get(raw, ''), '')})" for m, raw in zip(metrics, told["metrics"], strict=True)
    ]
    axes.xaxis.tick_top()
    draw.labels(
        axes.xaxis,
        range(len(heads)),
        heads,
        longest=60,
        rotation=0 if len(heads) < 4 else 30,
        ha="center" if len(heads) < 4 else "left",
    )
    axes.tick_params(length=0)


def _agreement(whole: Figure, axes: Any, result: Measure, shown: list[int], names: list[str]) -> None:
    found = result.parts["agreement"].numpy()[np.ix_(shown, shown)]
    image = axes.imshow(
        np.ma.masked_invalid(found), cmap=AGREES, vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    axes.set_facecolor("#e6e8ec")
    draw.bare(axes)
    axes.set_yticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize=6)
    axes.set_xticks(range(len(names)), [str(i + 1) for i in range(len(names))], fontsize=6)
    axes.tick_params(length=0)
    draw.title(axes, "Agreement of the maps, lines as at the left")
    bar = whole.colorbar(image, ax=axes, shrink=0.6, aspect=25, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    draw.plain(bar.ax.set_ylabel("Spearman correlation, mean over rows", fontsize=7, color=draw.FAINT))


def account(result: Measure, wanted: Options) -> Account:
    """The table in words: who is best at what, how far the figures agree, what was refused."""
    told = result.source["comparison"]
    lines = []
    for j, metric in enumerate(told["metrics"]):
        order = [i for i in range(len(told["methods"])) if result.parts["rank"][i, j].isfinite()]
        order.sort(key=lambda i: float(result.parts["rank"][i, j]))
        if order:
            best = [f"{clean(told['methods'][i])} ({_with_interval(result, i, j)})" for i in order[:3]]
            lines.append(f"By {clean(metric)}, where {ARROWS[told['better'][metric]]}, the first are {listed(best)}.")
    for method, tests in told["failed"].items():
        lines.append(f"{clean(method)} fails {listed([clean(t) for t in tests])}.")
    for one, other, r in disagreeing(result):
        lines.append(
            f"{clean(one)} and {clean(other)} put the methods in opposite orders (rank correlation {number(r)})."
        )
    for method, reasons in told["refused"].items():
        for metric, why in reasons.items():
            about = (
                f"{clean(method)} could not be measured by {clean(metric)}"
                if metric
                else f"{clean(method)} does not fit"
            )
            lines.append(f"{about}: {clean(why, 300)}")
    for method, rows in told["without"].items():
        lines.append(
            f"{clean(method)} has no figure for {listed([f'row {r}' for r in rows[:8]])}; the means are without them."
        )
    first = clean(told["recommended"])
    why = clean(told["reason"], 400)
    believed = f"Recommended is {first}: {why}. " if first else f"None is recommended: {why}. "
    return Account(
        asked="Which explanation of this model can be believed most?",
        mattered=tuple(lines),
        believed=(believed + "Metrics that disagree measure different things; none of them is the truth.",),
        supports=("which method does better at a metric on these rows, where the intervals do not overlap",),
        cannot=(
            "which method is best on other rows or models",
            "what the network computes: a metric can be satisfied by chance",
        ),
        numbered=False,
    )


def _with_interval(result: Measure, i: int, j: int) -> str:
    low, high = float(result.parts["low"][i, j]), float(result.parts["high"][i, j])
    between = f", {number(low)} to {number(high)}" if math.isfinite(low) else ""
    return number(float(result.values[i, j])) + between


def cell(result: Measure, i: int, j: int) -> str:
    """A figure with half its interval, or a dash."""
    value, high = float(result.values[i, j]), float(result.parts["high"][i, j])
    if not math.isfinite(value):
        return "–"
    return f"{number(value)} ± {(high - value):.1g}" if math.isfinite(high) else number(value)


def disagreeing(result: Measure) -> list[tuple[str, str, float]]:
    """The pairs of metrics whose ranks of the methods go against each other, the most opposed first."""
    names, found = result.source["comparison"]["metrics"], result.parts["metric_agreement"]
    pairs = [(names[j], names[i], float(found[i, j])) for i in range(len(names)) for j in range(i)]
    return sorted((p for p in pairs if p[2] < 0), key=lambda p: p[2])


def table(result: Measure) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and lines of the table as text, best median rank first, then what has no figure, with the reason."""
    told = result.source["comparison"]
    lines = []
    for i in _order(result):
        name = told["methods"][i]
        figures = [cell(result, i, j) for j in range(result.values.shape[1])]
        why = told["refused"].get(name, {})
        reasons = "; ".join(f"{metric}: {text}" if metric else text for metric, text in why.items())
        middle = _middle(result)[i]
        lines.append((name, number(middle) if math.isfinite(middle) else "–", *figures, reasons))
    return ("method", "median rank", *told["metrics"], "does not fit"), lines


def columns(result: Measure) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The same for programs: each metric's mean and the ends of its interval in columns of their own, whole numbers."""
    told, middle = result.source["comparison"], _middle(result)
    sides = [result.values, result.parts["low"], result.parts["high"]]
    _, text = table(result)
    lines = []
    for i, words in zip(_order(result), text, strict=True):
        figures = [
            repr(v) if math.isfinite(v := float(side[i, j])) else ""
            for j in range(len(told["metrics"]))
            for side in sides
        ]
        lines.append((words[0], repr(middle[i]) if math.isfinite(middle[i]) else "", *figures, words[-1]))
    heads = [f"{metric}{end}" for metric in told["metrics"] for end in ("", " low", " high")]
    return ("method", "median rank", *heads, "does not fit"), lines


def _middle(result: Measure) -> list[float]:
    """Each method's median rank over the metrics that have a say."""
    told = result.source["comparison"]
    rank = result.parts["rank"][:, torch.tensor([m in told["counted"] for m in told["metrics"]])]
    return [float(r[r.isfinite()].quantile(0.5)) if bool(r.isfinite().any()) else math.nan for r in rank.double()]
