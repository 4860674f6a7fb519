"""How much did each part matter? Input beside map, signed bars, coloured tokens, heat strips; and the same in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.show import curves, draw, matrix, palette, shares, strategies
from pellucid.show.answer import Answer, answers, class_name
from pellucid.show.facts import TRIED, UNJUDGED, Verdict, card_of, judged, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.parts import Part, parts, regions, unit
from pellucid.show.words import Account, counted, listed, number, percent, signed, zip_longest

PHOTOGRAPH = 32


def figure(result: Attribution, wanted: Options) -> Figure:
    """One line of panels for each row: the input where it is known, then a panel for each part of the values.

    Shares of a variance, curves over columns and groups of rows have figures of their own.
    """
    if strategies.has(result):
        return strategies.figure(result, wanted)
    if shares.has(result):
        return shares.figure(result, wanted)
    if curves.has(result):
        return curves.figure(result, wanted)
    found = parts(result)
    rows = max(part.rows for part in found)
    drawn = min(rows, wanted.rows)
    heads, names = answers(result.context, drawn), [explained(result, row) for row in range(drawn)]
    sizes = [_size(part, wanted) for part in found]
    whole = draw.canvas(sum(s[0] for s in sizes), 0.75 + drawn * max(s[1] for s in sizes))
    body = whole.subfigures(drawn, len(found), squeeze=False, width_ratios=[s[0] for s in sizes])
    for row in range(drawn):
        for column, part in enumerate(found):
            if row < part.rows:
                _PANELS[part.kind](body[row, column], result, part, row, heads[row], names[row], wanted)
    more = "" if drawn == rows else f"; {counted(rows - drawn, 'more row')} not drawn"
    draw.head(whole, wanted.headed, f"{title_of(result)}{more}")
    return whole


def _size(part: Part, wanted: Options) -> tuple[float, float]:
    if part.kind == "image":
        return (6.0 if part.inputs is not None else 3.4), 2.9
    if part.kind in ("table", "overall"):
        return 6.4, 1.0 + 0.24 * min(wanted.features, len(part.heat(0)))
    if part.kind == "matrix":
        return matrix.size(part)
    if part.kind == "tokens":
        return 7.0, 0.95 + 0.34 * _lines(part, 0)
    return 6.4, 2.1


def _image(place: Any, result: Attribution, part: Part, row: int, head: Answer, name: str, wanted: Options) -> None:
    heat = part.heat(row)
    by = palette.scale(heat, wanted.clip, signed=part.signed)
    given = None if part.inputs is None else part.inputs[row]
    axes = place.subplots(1, 1 if given is None else 2, squeeze=False)[0]
    notes = [by.note]
    if part.values.shape[1] > 1:
        notes.append(f"summed over {part.values.shape[1]} channels")
    laid_over = False
    if given is not None:
        draw.photo(axes[0], palette.picture(given))
        draw.title(axes[0], *head.title(), longest=34)
        size = (int(given.shape[-2]), int(given.shape[-1]))
        if tuple(heat.shape) != size:
            notes.append(f"enlarged from {heat.shape[0]}×{heat.shape[1]}")
            heat = palette.upsample(heat, *size)
        laid_over = given.shape[0] == 3 and min(size) >= PHOTOGRAPH
    shaded = palette.coloured(heat, by)
    if laid_over and given is not None:
        shaded = palette.over(palette.picture(given), heat, by)
    draw.photo(axes[-1], shaded)
    draw.title(axes[-1], *(head.title() if given is None else ()), _raises(part, name), longest=34)
    draw.bar(place, axes[-1], by, unit(result), laid_over=laid_over)
    draw.foot(place, "; ".join(notes))


def _raises(part: Part, name: str) -> str:
    start = f"{part.name}: " if part.name else ""
    return f"{start}{'raises / lowers' if part.signed else 'size of effect on'} {name}"


def _bars(place: Any, result: Attribution, part: Part, row: int, head: Answer, name: str, wanted: Options) -> None:
    heat = palette.finite(part.heat(row))
    order = heat.abs().argsort(descending=True, stable=True)
    shown, rest = order[: wanted.features].tolist(), order[wanted.features :]
    axes = place.subplots()
    spots = list(range(len(shown)))
    colours = [palette.hexadecimal(palette.RED if heat[i] >= 0 else palette.BLUE) for i in shown]
    axes.barh(spots, [float(heat[i]) for i in shown], color=colours, height=0.72)
    axes.axvline(0, color=draw.FAINT, linewidth=0.8)
    axes.invert_yaxis()
    draw.labels(axes.yaxis, spots, [_with_value(part, i, row) for i in shown])
    widest = float(heat.abs().max()) if len(heat) else 0.0
    edge = 1.25 * (widest or 1.0)
    axes.set_xlim(-edge if part.signed else 0, edge)
    for spot, i in zip(spots, shown, strict=True):
        value = float(heat[i])
        draw.note(
            axes,
            value + (0.02 if value >= 0 else -0.02) * edge,
            spot,
            signed(value, 2),
            va="center",
            ha="left" if value >= 0 else "right",
            fontsize=7.5,
        )
    draw.numbers(axes.xaxis, -edge if part.signed else 0.0, edge)
    draw.plain(axes.set_xlabel(unit(result), fontsize=8, color=draw.FAINT))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    draw.title(axes, ", ".join(filter(None, head.title())), _raises(part, name), longest=64)
    if len(rest):
        draw.foot(place, f"{counted(len(rest), 'other')} together {signed(float(heat[rest].sum()))}")


def _with_value(part: Part, position: int, row: int) -> str:
    value = part.value(position, row)
    name = f"“{part.label(position, row)}”" if part.kind == "tokens" else part.label(position, row)
    return name + ("" if value is None else f" = {number(value)}")


_ACROSS = 64  # characters of tokens on one line


def _token_spots(part: Part, row: int) -> list[tuple[float, int, float, str]]:
    """Where each token goes: start, line, width in characters, text."""
    spots, start, line = [], 0.0, 0
    for position in range(part.length(row)):
        text = draw.drawable(part.label(position, row), 24)
        width = len(text) + 1.2
        if start + width > _ACROSS and start > 0:
            start, line = 0.0, line + 1
        spots.append((start, line, width, text))
        start += width + 0.5
    return spots


def _lines(part: Part, row: int) -> int:
    return max(_token_spots(part, r)[-1][1] + 1 for r in range(min(part.rows, 8))) if len(part.heat(row)) else 1


def _tokens(place: Any, result: Attribution, part: Part, row: int, head: Answer, name: str, wanted: Options) -> None:
    from matplotlib.patches import FancyBboxPatch

    heat = part.heat(row)
    by = palette.scale(heat, wanted.clip, signed=part.signed)
    axes = place.subplots()
    spots = _token_spots(part, row)
    for (start, line, width, text), value in zip(spots, palette.finite(heat[: len(spots)]).tolist(), strict=True):
        back, ink = palette.shade(value, by)
        box = FancyBboxPatch(
            (start + 0.1, line + 0.14), width - 0.2, 0.72, "round,pad=0,rounding_size=0.12", fc=back, ec="none"
        )
        axes.add_patch(box)
        written = axes.text(start + width / 2, line + 0.5, text, ha="center", va="center", fontsize=8.5, color=ink)
        draw.plain(written).set_fontfamily("DejaVu Sans Mono")
    axes.set_xlim(0, _ACROSS)
    axes.set_ylim((spots[-1][1] if spots else 0) + 1, 0)
    axes.axis("off")
    draw.title(axes, ", ".join(filter(None, head.title())), _raises(part, name), longest=64)
    draw.foot(place, f"full colour at ±{number(by.limit)} ({unit(result)}); {by.note}")


def _strip(place: Any, result: Attribution, part: Part, row: int, head: Answer, name: str, wanted: Options) -> None:
    heat = part.heat(row)
    by = palette.scale(heat, wanted.clip, signed=part.signed)
    axes = place.subplots()
    axes.imshow(palette.coloured(heat, by), interpolation="nearest", aspect="auto")
    draw.bare(axes)
    shape = "×".join(map(str, part.values.shape[1:]))
    place_name = result.source.get("layer") or part.name or "values"
    draw.title(
        axes, ", ".join(filter(None, head.title())), f"{place_name} ({shape}): {_raises(part, name)}", longest=64
    )
    draw.bar(place, axes, by, unit(result))
    draw.foot(place, by.note)


def _matrix(place: Any, result: Attribution, part: Part, row: int, head: Answer, name: str, wanted: Options) -> None:
    matrix.panel(place, result, part, row, wanted)


_PANELS = {
    "image": _image,
    "table": _bars,
    "overall": _bars,
    "tokens": _tokens,
    "matrix": _matrix,
    "heat": _strip,
}


def explained(result: Attribution, row: int) -> str:
    """The name of what is explained in a row, quoted where it is a class."""
    if isinstance(result.target, Tensor) and row < result.target.numel():
        return f"“{class_name(int(result.target.flatten()[row]), result.context.classes)}”"
    return "the score"


def row_verdicts(result: Attribution, row: int | None = None) -> list[Verdict]:
    """How far a row (or, without one, the worst row) can be believed."""
    values = [part.values for part in parts(result)]
    chosen = values if row is None else [v[row] if row < v.shape[0] and v.dim() > 1 else v for v in values]
    largest = max((float(palette.finite(v).abs().max()) for v in chosen if v.numel()), default=0.0)
    own = {k: v for k, v in result.facts.items() if k != TRIED}
    found = verdicts(own, row, largest=largest)
    if not found and isinstance(result.error, Tensor):
        error = result.error if row is None else result.error[row]
        found = verdicts({"standard_error": palette.finite(error).max()[None]}, None, largest=largest)
    # A test passed says that the map matters to the network, not how exact its figures are.
    return [*(found or [UNJUDGED]), *verdicts({k: v for k, v in result.facts.items() if k == TRIED}, row)]


def account(result: Attribution, wanted: Options) -> Account:
    """The result in plain words."""
    found = parts(result)
    rows = max(part.rows for part in found)
    told = min(rows, wanted.rows)
    card = card_of(result)
    heads = answers(result.context, told)
    said = []
    for row, head in enumerate(heads):
        name = explained(result, row)
        other = isinstance(result.target, Tensor) and head.index not in (None, int(result.target.flatten()[row]))
        said.append(head.sentence() + (f" Explained here is {name}." if other else ""))
    return Account(
        asked=card.question if card else "How much did each part matter?",
        answers=tuple(said),
        mattered=tuple(mattered(result, row, wanted.features) for row in range(told)),
        believed=judged(row_verdicts(result, 0 if rows == 1 else None), rows),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
        listing=curves.lines(result) if curves.has(result) else (),
        more="" if told == rows else f"{counted(rows - told, 'more row')} not told here.",
    )


def mattered(result: Attribution, row: int, most: int = 3) -> str:
    """Which parts of a row raised and lowered the score most, in words."""
    if strategies.has(result):
        return strategies.mattered(result, row, min(most, 3))
    if shares.has(result):
        return shares.mattered(result, row, min(most, 3))
    if curves.has(result) and (steepest := curves.mattered(result, row, min(most, 3))):
        return steepest
    told = [
        matrix.told(part, row, result.context.classes, most)
        if part.kind == "matrix"
        else _told(part, row, explained(result, row), min(most, 3))
        for part in parts(result)
        if row < part.rows
    ]
    return " ".join(told)


def _told(part: Part, row: int, name: str, most: int) -> str:
    heat = palette.finite(part.heat(row))
    where = f" in {part.name}" if part.name else ""
    if not bool((heat != 0).any()):
        return f"All values{where} are zero: no part of the input shows any effect."
    verbs = ("raised", "lowered") if part.signed else ("affected", "")
    found = []
    for verb, side in zip(verbs, (heat.clamp(min=0), (-heat).clamp(min=0)), strict=True):
        if verb and bool((side > 0).any()):
            found.append(f"{verb} {name} most{where}: {_where(part, row, side, heat, most)}")
    sentence = "; ".join(f"what {text}" if i else f"What {text}" for i, text in enumerate(found))
    return f"{sentence}."


def _where(part: Part, row: int, side: Tensor, heat: Tensor, most: int) -> str:
    if part.kind == "image":
        first, *others = regions(side)
        near = [r for r in others[:1] if r[1] >= 0.5 * first[1]]
        return listed([f"the {place} ({percent(share)} of it)" for place, share in (first, *near)])
    if part.kind == "heat":
        line, column = divmod(int(side.argmax()), side.shape[1])
        return f"position ({line}, {column}) of {side.shape[0]}×{side.shape[1]}"
    top = [i for i in side.argsort(descending=True, stable=True)[:most].tolist() if side[i] > 0]
    return listed([f"{_with_value(part, i, row)} ({signed(float(heat[i]))})" for i in top])


def alt(result: Attribution, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    told = account(result, wanted)
    lines = [" ".join(p for p in pair if p) for pair in zip_longest(told.answers, told.mattered)]
    return f"{title_of(result)}. " + " ".join(lines)


def sums(result: Attribution) -> list[dict[str, str]]:
    """Sum, least and largest value of each row, for engineers."""
    out = []
    values = [p.values if p.kind != "overall" else p.values[None] for p in parts(result)]
    for row in range(max(v.shape[0] for v in values)):
        flat = torch.cat([palette.finite(v[row]).double().flatten() for v in values if row < v.shape[0]]).numpy()
        flat = flat if flat.size else np.zeros(1)
        out.append({"sum": number(flat.sum(), 4), "min": number(flat.min(), 4), "max": number(flat.max(), 4)})
    return out
