"""Which word was made of which? A table of colours: the written words down, the words they were made of across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.contract import Attribution
from pellucid.show import draw, palette
from pellucid.show.answer import class_name
from pellucid.show.options import Options
from pellucid.show.parts import Part, unit
from pellucid.show.words import listed, signed

MOST = 40  # words on a side that get their names


def size(part: Part) -> tuple[float, float]:
    """Width and height of the panel in inches."""
    written, read = part.heat(0).shape
    return 2.2 + 0.42 * min(max(read, 3), MOST), 1.5 + 0.3 * min(max(written, 3), MOST)


def panel(place: Any, result: Attribution, part: Part, row: int, wanted: Options) -> None:
    """One row's table, with the words at its sides."""
    heat = part.heat(row)
    by = palette.scale(heat, wanted.clip, signed=part.signed)
    axes = place.subplots()
    axes.imshow(palette.coloured(heat, by), interpolation="nearest", aspect="auto")
    draw.bare(axes)
    written, read = written_words(part, row, result.context.classes), read_words(part, row)
    if len(written) <= MOST:
        draw.labels(axes.yaxis, range(len(written)), written, longest=16)
    if len(read) <= MOST:
        draw.labels(axes.xaxis, range(len(read)), read, longest=16, rotation=90 if max(map(len, read)) > 3 else 0)
    axes.tick_params(length=0)
    draw.title(axes, f"{part.name or 'words'} (across): raises / lowers each word (down)", longest=64)
    draw.bar(place, axes, by, unit(result))
    draw.foot(place, by.note)


def written_words(part: Part, row: int, classes: Sequence[str]) -> list[str]:
    """The words whose scores are explained."""
    words = part.words[row]
    return [class_name(w, classes) if 0 <= w < len(classes) else f"#{w}" for w in words]


def read_words(part: Part, row: int) -> list[str]:
    """The words that relevance went to."""
    return [part.label(position, row) for position in range(part.heat(row).shape[1])]


def told(part: Part, row: int, classes: Sequence[str], most: int) -> str:
    """From which word each of the first few came most."""
    heat, read = palette.finite(part.heat(row)), read_words(part, row)
    best = heat.argmax(1).tolist()
    written = written_words(part, row, classes)
    said = [
        f"“{word}” from “{read[k]}” ({signed(float(heat[t, k]))})"
        for t, (word, k) in enumerate(zip(written, best, strict=True))
        if heat[t, k] > 0
    ]
    where = f" of {part.name}" if part.name else ""
    if not said:
        return f"No word{where} raised any of them."
    rest = f", and {len(said) - most} more" if len(said) > most else ""
    return f"What raised each word most{where}: {listed(said[:most])}{rest}."
