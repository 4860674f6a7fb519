"""Which cases explain it? Each query beside its examples, with their labels, distances or weights.

A method that speaks of all rows at once chooses cases without a query; these are drawn alone.
"""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pellucid.contract import Examples
from pellucid.show import draw, palette
from pellucid.show.answer import Answer, answers, class_name
from pellucid.show.facts import card_of, judged, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted, listed, number, zip_longest

MOST = 6


def figure(result: Examples, wanted: Options) -> Figure:
    """A line for each row: the query and its examples as pictures, as columns of features, or as bars of weights."""
    rows, shown = shape(result)
    drawn, shown = min(rows, wanted.rows), min(shown, MOST, wanted.features)
    heads = [Answer()] * drawn if overall(result) else answers(result.context, drawn)
    sample = case(result, 0, 0) if shown else None
    kind = "none" if sample is None else {1: "table", 3: "image"}.get(sample.dim(), "none")
    lines = min(wanted.features, len(sample)) if sample is not None else 0
    height = {"image": 1.75, "table": 1.0 + 0.2 * lines, "none": 0.9 + 0.26 * max(shown, 1)}[kind]
    whole = draw.canvas(
        max(1.5 * (shown + (not overall(result))), 4.5) if kind != "none" else 6.4, 0.55 + drawn * height
    )
    body = whole.subfigures(drawn, 1, squeeze=False)[:, 0]
    for row in range(drawn):
        _PANELS[kind](body[row], result, row, shown, heads[row], wanted)
    more = "" if drawn == rows else f"; {counted(rows - drawn, 'more row')} not drawn"
    if overall(result) and shown < shape(result)[1]:
        more = f"; {shape(result)[1] - shown} more not drawn"
    draw.head(whole, wanted.headed, f"{title_of(result)}: {clean(result.role)} examples{more}")
    return whole


def overall(result: Examples) -> bool:
    """Whether the examples stand for all rows together, so that there is no query."""
    card = card_of(result)
    return card is not None and card.scope == "global"


def shape(result: Examples) -> tuple[int, int]:
    """Rows, and examples for each."""
    items = result.items
    if items.is_floating_point() and items.dim() < 3:
        return items.shape[0], 1
    return items.shape[0], (items.shape[1] if items.dim() > 1 else 1)


def case(result: Examples, row: int, place: int) -> Tensor | None:
    """One example itself, where the result holds it: made rows, rows beside the indices, or data that these point to."""
    items = result.items.detach().cpu()
    if items.is_floating_point():
        one_each = result.context.inputs is None or items.dim() == _dim(result.context.inputs)
        return items[row] if one_each else items[row, place]
    rows = result.rows
    if not isinstance(rows, Tensor):
        return None
    rows = rows.detach().cpu()
    if items.dim() > 1 and rows.dim() > 2 and rows.shape[:2] == items.shape:
        return rows[row, place]
    index = int(items[row, place]) if items.dim() > 1 else int(items[row])
    return rows[index] if 0 <= index < rows.shape[0] else None


def _dim(inputs: Any) -> int:
    return inputs.dim() if isinstance(inputs, Tensor) else -1


def query(result: Examples, row: int) -> Tensor | None:
    """The row that is explained, where there is one and it is known."""
    given = None if overall(result) else result.context.inputs
    return given[row].detach().cpu() if isinstance(given, Tensor) and row < given.shape[0] else None


def label(result: Examples, row: int, place: int) -> str:
    """The example's known class, quoted, or empty text."""
    if result.labels is None:
        return ""
    labels = result.labels.detach().cpu().reshape(result.labels.shape[0], -1)
    value = labels[row, place] if place < labels.shape[1] else None
    if value is None:
        return ""
    if labels.is_floating_point() and float(value) != int(value):
        return number(float(value))
    return f"“{class_name(int(value), result.context.classes)}”"


def weight(result: Examples, row: int, place: int) -> float | None:
    """The example's weight or distance."""
    if result.weights is None:
        return None
    weights = result.weights.detach().cpu().reshape(result.weights.shape[0], -1)
    return float(weights[row, place]) if row < weights.shape[0] and place < weights.shape[1] else None


def index(result: Examples, row: int, place: int) -> int | None:
    """The example's number in the data."""
    if result.items.is_floating_point():
        return None
    return int(result.items.reshape(result.items.shape[0], -1)[row, place])


def measure_word(result: Examples) -> str:
    """What the weights are."""
    return clean(result.source.get("weights", "")) or (
        "distance" if "neighbour" in title_of(result).lower() else "weight"
    )


def caption(result: Examples, row: int, place: int) -> tuple[str, str]:
    """Two short lines under an example: its label and number, and its weight."""
    at, value = index(result, row, place), weight(result, row, place)
    first = [label(result, row, place), "" if at is None else f"no. {at}"]
    return " ".join(p for p in first if p), "" if value is None else f"{measure_word(result)} {number(value)}"


def _pictures(place: Any, result: Examples, row: int, shown: int, head: Answer, wanted: Options) -> None:
    asked = 0 if overall(result) else 1
    axes = place.subplots(1, shown + asked, squeeze=False)[0]
    given = query(result, row)
    if given is not None:
        draw.photo(axes[0], palette.picture(given))
        name = f"asked: read as “{head.name}”" if head.name else "asked"
        draw.title(axes[0], name, size=7.5, longest=26)
    elif asked:
        axes[0].axis("off")
    for k in range(shown):
        found, at = case(result, row, k), axes[k + asked]
        if found is None or found.dim() != 3:
            at.axis("off")
            continue
        draw.photo(at, palette.picture(found))
        first, second = caption(result, row, k)
        draw.title(at, first, size=7.5, longest=24)
        draw.note(at, 0.5, -0.04, second, transform=at.transAxes, ha="center", va="top", fontsize=7)


def _columns(place: Any, result: Examples, row: int, shown: int, head: Answer, wanted: Options) -> None:
    axes = place.subplots()
    asked = 0 if overall(result) else 1
    columns = [*[query(result, row)][:asked], *(case(result, row, k) for k in range(shown))]
    first = next(c for c in columns if c is not None)
    count = min(len(first), wanted.features)
    names = result.context.features if len(result.context.features) == len(first) else ()
    weighed = result.weights is not None
    lines = [
        "",
        "",
        *([measure_word(result)] if weighed else []),
        *(names[i] if names else f"input {i}" for i in range(count)),
    ]
    for column, values in enumerate(columns):
        query_column = column < asked
        cells = ["asked", head.name] if query_column else _heads(result, row, column - asked)
        if weighed:
            value = None if query_column else weight(result, row, column - asked)
            cells = [*cells, "" if value is None else number(value)]
        cells = [*cells, *("" if values is None else number(float(values[i])) for i in range(count))]
        for line, text in enumerate(cells):
            settings = (
                {"fontweight": "bold"} if line == 0 else {"color": draw.FAINT} if line < len(cells) - count else {}
            )
            _cell(
                axes,
                (column + 1.9) / (shown + asked + 1.9),
                1 - line / len(lines),
                text,
                ha="center",
                longest=16,
                **settings,
            )
    for line, text in enumerate(lines):
        _cell(axes, 0, 1 - line / len(lines), text, longest=26)
    axes.set_ylim(0, 1)
    axes.axis("off")
    if count < len(first):
        draw.foot(place, f"{counted(len(first) - count, 'more feature')} not drawn")


def _cell(axes: Any, x: float, y: float, text: str, **settings: Any) -> None:
    draw.note(axes, x, y, text, va="top", fontsize=7.5, **settings)


def _heads(result: Examples, row: int, place: int) -> list[str]:
    """What stands over a column: the label and the number in the data, in whichever there is."""
    at = index(result, row, place)
    found = [text for text in (label(result, row, place), "" if at is None else f"no. {at}") if text]
    return [*found, "", ""][:2]


def _weights(place: Any, result: Examples, row: int, shown: int, head: Answer, wanted: Options) -> None:
    axes = place.subplots()
    values = [weight(result, row, k) or 0.0 for k in range(shown)]
    axes.barh(range(shown), values, color="#5b6b8c", height=0.7)
    axes.invert_yaxis()
    names = [" ".join(p for p in caption(result, row, k) if p) for k in range(shown)]
    draw.labels(axes.yaxis, list(range(shown)), names, longest=50)
    draw.numbers(axes.xaxis, min([0.0, *values]), max([0.0, *values]) or 1.0)
    draw.title(axes, *(head.title() if head.title()[0] else ("" if overall(result) else f"row {row + 1}",)))


_PANELS = {"image": _pictures, "table": _columns, "none": _weights}


def account(result: Examples, wanted: Options) -> Account:
    """The result in plain words."""
    rows, _ = shape(result)
    told, card = min(rows, wanted.rows), card_of(result)
    return Account(
        asked=card.question if card else "Which cases explain it?",
        answers=() if overall(result) else tuple(a.sentence() for a in answers(result.context, told)),
        mattered=tuple(neighbours(result, row) for row in range(told)),
        believed=judged(verdicts(result.facts, 0 if rows == 1 else None), rows),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
        more="" if told == rows else f"{counted(rows - told, 'more row')} not told here.",
    )


def neighbours(result: Examples, row: int) -> str:
    """A row's examples in words: how many carry which label, and the first of them."""
    _, shown = shape(result)
    labels = [label(result, row, k) for k in range(shown)]
    role = clean(result.role)
    if overall(result):
        given = result.context.inputs
        of = f" of {given.shape[0]}" if isinstance(given, Tensor) else ""
        start = f"{counted(shown, f'{role} case')}{of} {'was' if shown == 1 else 'were'} chosen."
    elif any(labels):
        tally = sorted({name: labels.count(name) for name in labels if name}.items(), key=lambda pair: -pair[1])
        kinds = listed([f"{many} {'is' if many == 1 else 'are'} {name}" for name, many in tally])
        start = f"Of its {shown} {role} examples {kinds}." if shown > 1 else f"Its {role} example is {tally[0][0]}."
    else:
        start = f"It has {counted(shown, f'{role} example')}."
    first = [p for p in caption(result, row, 0) if p] if shown else []
    return f"{start} The first: {', '.join(first)}." if first else start


def alt(result: Examples, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    told = account(result, wanted)
    lines = [" ".join(p for p in pair if p) for pair in zip_longest(told.answers, told.mattered)]
    return f"{title_of(result)}. " + " ".join(lines)


def sums(result: Examples) -> list[dict[str, str]]:
    """Each row's examples as figures, for engineers."""
    rows, shown = shape(result)
    out = []
    for row in range(rows):
        numbers = [index(result, row, k) for k in range(shown)]
        weights = [w for k in range(shown) if (w := weight(result, row, k)) is not None]
        entry = {"items": ", ".join("made" if n is None else str(n) for n in numbers)}
        out.append(entry | ({"weights": ", ".join(map(number, weights))} if weights else {}))
    return out
