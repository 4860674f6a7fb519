"""What do hidden parts mean? Pictures that excite units, their labels and scores; and the same in words."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from pellucid.contract import Semantics
from pellucid.show import draw, palette
from pellucid.show.facts import card_of, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, listed, number

ACROSS = 6


def figure(result: Semantics, wanted: Options) -> Figure:
    """Pictures in a grid where there are some; otherwise the scores as bars or a strip, or the directions."""
    if result.images is not None and result.images.dim() >= 4:
        return _gallery(result, wanted)
    table = result.scores if result.scores is not None else result.directions
    whole = draw.canvas(6.4, 0.9 + 0.26 * min(wanted.features, max(count(result), 2)) + 0.4)
    axes = whole.subplots()
    draw.head(whole, wanted.headed, _title(result, wanted))
    if table is None:
        axes.axis("off")
        text = listed([name(result, i) for i in range(min(count(result), wanted.features))]) or "nothing to draw"
        draw.note(axes, 0, 0.5, text, transform=axes.transAxes, longest=90)
    elif table.dim() == 1:
        _bars(axes, result, wanted)
    else:
        flat = table.detach().cpu().reshape(table.shape[0], -1)[: wanted.features]
        by = palette.scale(flat, wanted.clip)
        axes.imshow(palette.coloured(flat, by), aspect="auto", interpolation="nearest")
        draw.bare(axes)
        draw.labels(axes.yaxis, list(range(len(flat))), [name(result, i) for i in range(len(flat))])
        if flat.shape[1] == len(result.labels) and flat.shape[1] != count(result):
            draw.labels(
                axes.xaxis, list(range(flat.shape[1])), list(result.labels), rotation=45, ha="right", longest=18
            )
        draw.bar(whole, axes, by, "score" if result.scores is not None else "weight in the direction")
    return whole


def count(result: Semantics) -> int:
    """How many units or directions there are."""
    tables = [t.shape[0] for t in (result.images, result.scores, result.directions) if t is not None and t.dim()]
    return max([len(result.units), *tables]) or len(result.labels)


def name(result: Semantics, position: int) -> str:
    """A unit's number with its label where it has one."""
    unit = f"unit {result.units[position]}" if position < len(result.units) else f"direction {position}"
    labelled = len(result.labels) == count(result)
    return f"{unit}: {clean(result.labels[position])}" if labelled else unit


def score(result: Semantics, position: int) -> float | None:
    """A unit's score; of several, the largest."""
    if result.scores is None or not result.scores.dim() or position >= result.scores.shape[0]:
        return None
    return float(palette.finite(result.scores[position]).max())


def _title(result: Semantics, wanted: Options) -> str:
    hidden = count(result) - (wanted.rows * ACROSS if result.images is not None else wanted.features)
    return title_of(result) + (f"; {counted(hidden, 'more unit')} not drawn" if hidden > 0 else "")


def _gallery(result: Semantics, wanted: Options) -> Figure:
    images = result.images
    assert images is not None
    several = images.dim() == 5
    drawn = min(images.shape[0], wanted.rows * (1 if several else ACROSS))
    across = min(images.shape[1], ACROSS) if several else min(drawn, ACROSS)
    lines = drawn if several else math.ceil(drawn / across)
    whole = draw.canvas(max(1.45 * across, 4.0), 0.5 + 1.75 * lines)
    axes = whole.subplots(lines, across, squeeze=False)
    for position in range(lines * across):
        unit, place = divmod(position, across) if several else (position, 0)
        spot = axes[position // across, position % across]
        if unit >= drawn:
            spot.axis("off")
            continue
        draw.photo(spot, palette.picture(images[unit, place] if several else images[unit]))
        if place == 0:
            _caption(spot, result, unit)
    draw.head(whole, wanted.headed, _title(result, wanted))
    return whole


def _caption(spot: Any, result: Semantics, unit: int) -> None:
    value = score(result, unit)
    draw.title(spot, name(result, unit), size=7.5, longest=24)
    if value is not None:
        draw.note(spot, 0, -0.04, number(value), transform=spot.transAxes, va="top", fontsize=7, color=draw.FAINT)


def _bars(axes: Any, result: Semantics, wanted: Options) -> None:
    assert result.scores is not None or result.directions is not None
    table = palette.finite(result.scores if result.scores is not None else result.directions)  # type: ignore[arg-type]
    order = table.abs().argsort(descending=True, stable=True)[: wanted.features].tolist()
    hues = [palette.hexadecimal(palette.RED if table[i] >= 0 else palette.BLUE) for i in order]
    axes.barh(range(len(order)), [float(table[i]) for i in order], color=hues, height=0.7)
    axes.invert_yaxis()
    draw.labels(axes.yaxis, list(range(len(order))), [name(result, i) for i in order])
    draw.numbers(axes.xaxis, min(0.0, float(table.min())), max(0.0, float(table.max())) or 1.0)
    draw.plain(axes.set_xlabel("score", fontsize=8, color=draw.FAINT))


def account(result: Semantics, wanted: Options) -> Account:
    """The result in plain words."""
    card, total = card_of(result), count(result)
    scored = [(score(result, i), i) for i in range(total)]
    best = sorted([(s, i) for s, i in scored if s is not None], reverse=True)[:3]
    told = f"{counted(total, 'hidden part')} examined."
    if best:
        told += f" The strongest: {listed([f'{name(result, i)} (score {number(s)})' for s, i in best])}."
    elif total:
        told += f" Among them: {listed([name(result, i) for i in range(min(total, 3))])}."
    return Account(
        asked=card.question if card else "What do hidden parts mean?",
        mattered=(told,),
        believed=tuple(v.long for v in verdicts(result.facts)),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
    )


def alt(result: Semantics, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    return f"{title_of(result)}. {account(result, wanted).mattered[0]}"


def sums(result: Semantics) -> list[dict[str, str]]:
    """Each unit's score, for engineers."""
    return [
        {"part": name(result, i), "score": number(s, 4)}
        for i in range(count(result))
        if (s := score(result, i)) is not None
    ]
