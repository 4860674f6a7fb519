"""What people answered, drawn: each condition's figure with its interval, and what it changes; the same in words."""

from __future__ import annotations

import math
import textwrap
from typing import Any, TypeGuard

from matplotlib.figure import Figure

from pellucid.contract import Explanation, Measure
from pellucid.show import draw
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, number, percent, signed

FEET = 6  # lines
DOT, FELL, ROSE = "#22262e", "#d55e00", "#0072b2"


def is_one(result: Explanation) -> TypeGuard[Measure]:
    """Whether a result tells what people answered to a study."""
    if not isinstance(result, Measure) or not isinstance(result.source.get("study"), dict):
        return False
    ends = [result.facts.get(k) for k in ("low", "high")]
    return result.values.dim() == 1 and all(e is not None and e.shape == result.values.shape for e in ends)


def figure(result: Measure, wanted: Options) -> Figure:
    """A line for each condition: its figure with the interval; and beside it what it changes, where that is known."""
    names, told = _names(result), result.source["study"]
    shown = list(range(min(len(names), 3 * wanted.features)))
    effect = result.parts.get("effect")
    both = effect is not None and effect.shape == result.values.shape and bool(effect.isfinite().any())
    whole = draw.canvas(8.6 if both else 6.2, 1.35 + 0.32 * len(shown))
    axes = whole.subplots(1, 2 if both else 1, squeeze=False)[0]
    _dots(axes[0], result.values, result.facts["low"], result.facts["high"], shown)
    draw.labels(axes[0].yaxis, shown, [names[i] for i in shown], longest=34)
    draw.plain(axes[0].set_xlabel(draw.drawable(result.unit), fontsize=8, color=draw.FAINT))
    if both:
        value, low, high = (result.parts[k] for k in ("effect", "effect_low", "effect_high"))
        _dots(axes[1], value, low, high, shown, zero=True)
        axes[1].set_yticks([])
        base = told.get("against") or names[0]
        draw.plain(axes[1].set_xlabel(draw.drawable(f"minus “{clean(base)}”"), fontsize=8, color=draw.FAINT))
    draw.head(whole, wanted.headed, clean(told.get("title", "")))
    _foot(whole, " ".join(_believed(result)[:1] + _warnings(result)), 136 if both else 96)
    return whole


def _foot(whole: Figure, text: str, longest: int) -> None:
    """Lines under the whole figure: a warning must not run out of it."""
    lines = textwrap.wrap(draw.drawable(text, 800), longest)[:FEET]
    width, height = whole.get_size_inches()
    whole.set_size_inches(width, height + 0.16 * (len(lines) - 1))
    draw.plain(whole.supxlabel("\n".join(lines), fontsize=8, color=draw.FAINT, x=0.01, ha="left"))


def _dots(axes: Any, values: Any, low: Any, high: Any, shown: list[int], *, zero: bool = False) -> None:
    seen = [0.0] if zero else []
    for line in shown:
        value, ends = float(values[line]), [float(low[line]), float(high[line])]
        if not math.isfinite(value):
            continue
        clear = zero and all(map(math.isfinite, ends)) and (ends[0] > 0 or ends[1] < 0)
        shade = DOT if not clear else ROSE if value > 0 else FELL
        if all(map(math.isfinite, ends)):
            axes.plot(ends, [line, line], color=shade, linewidth=1.8, alpha=0.55, solid_capstyle="butt")
            seen += ends
        axes.plot(value, line, "o", color=shade, markersize=6)
        seen.append(value)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    low_end, high_end = (min(seen), max(seen)) if seen else (0.0, 1.0)
    room = 0.06 * ((high_end - low_end) or 1.0)
    axes.set_xlim(low_end - room, high_end + room)
    draw.numbers(axes.xaxis, low_end - room, high_end + room)
    if zero:
        axes.axvline(0, color=draw.FAINT, linewidth=0.9)
    axes.grid(axis="x", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def account(result: Measure, wanted: Options) -> Account:
    """What people answered in words, with its warnings."""
    told, lines = result.source["study"], []
    for i, name in enumerate(_names(result)):
        value, low, high = (float(v[i]) for v in (result.values, result.facts["low"], result.facts["high"]))
        if not math.isfinite(value):
            lines.append(f"{name}: no answers that tell it.")
            continue
        line = f"{name}: {_figure(value, result.unit)}"
        if math.isfinite(low) and math.isfinite(high):
            ends = [_figure(v, result.unit, bare=True) for v in (low, high)]
            line += f", with 95 % confidence between {ends[0]} and {ends[1]}"
        seconds = result.facts.get("seconds")
        line += f"; {number(float(seconds[i]))} seconds" if seconds is not None and math.isfinite(seconds[i]) else ""
        lines.append(f"{line}.")
    lines += _changes(result)
    return Account(
        asked=f"What did people answer? {clean(told.get('title', ''))}".strip(),
        numbered=False,
        mattered=(*_warnings(result), *lines),
        believed=tuple(_believed(result)),
        supports=("what people like these answered about these cases",),
        cannot=("whether an explanation is true to the network: people judge what they see",),
    )


def alt(result: Measure) -> str:
    """What the figure shows, for those who can't see it."""
    return " ".join(account(result, Options()).mattered)


def _names(result: Measure) -> list[str]:
    names, count = result.context.features, len(result.values)
    return [clean(n, 60) for n in names] if len(names) == count else [f"row {i + 1}" for i in range(count)]


def _figure(value: float, unit: str, *, bare: bool = False) -> str:
    if unit.startswith("share"):
        return percent(value) + ("" if bare else f" {clean(unit.removeprefix('share '))}")
    return number(value) + ("" if bare else f" {clean(unit)}")


def _changes(result: Measure) -> list[str]:
    """Which conditions differ from what they are compared with, as far as these answers tell."""
    ends = [result.parts.get(k) for k in ("effect", "effect_low", "effect_high")]
    if any(e is None or e.shape != result.values.shape for e in ends):
        return []
    names, found = _names(result), []
    base = clean(result.source["study"].get("against") or names[0])
    for name, value, low, high in zip(names, *(e.tolist() for e in ends if e is not None), strict=True):
        if math.isfinite(low) and math.isfinite(high):
            settled = "" if low > 0 or high < 0 else ": not settled by these answers"
            found.append(f"{name} minus {base}: {signed(value, 2)} ({signed(low, 2)} to {signed(high, 2)}){settled}.")
    return found


def _warnings(result: Measure) -> list[str]:
    return [clean(w, 400) for w in result.source["study"].get("warnings", ())]


def _believed(result: Measure) -> list[str]:
    told, found = result.source["study"], []
    people = told.get("people")
    if told.get("simulated"):
        found.append("Nobody was asked: these answers are pretended ones, to rehearse the study.")
    if isinstance(people, int):
        found.append(f"Answers of {counted(people, 'participant')} of {told.get('planned', people)} planned.")
    odd = [name for name, test in (told.get("balance") or {}).items() if test["p"] < 0.05]
    if odd:
        found.append(f"The answers that came are out of balance ({', '.join(map(clean, odd))}): who left may matter.")
    return found
