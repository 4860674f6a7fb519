"""Text for terminals and tables: whatever comes from files, models or users is made harmless before it is printed."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from pellucid.inert import cell, clean

__all__ = ["cell", "clean", "complain", "number", "paragraphs", "say", "table"]

WIDEST = 120


def paragraphs(text: object) -> str:
    """The same for text of several lines, each folded where the terminal is too narrow."""
    room = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    return "\n".join(textwrap.fill(clean(line), room, subsequent_indent="  ") for line in str(text).split("\n"))


def say(text: str = "") -> None:
    """Print to standard output; text from elsewhere must be clean by now."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def complain(text: str) -> None:
    """Print one line to standard error."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr.write(f"pellucid: {clean(text)}".encode(encoding, "backslashreplace").decode(encoding) + "\n")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: Sequence[int] = ()) -> str:
    """Columns of text; the columns `wrap`, the later ones first, are folded where the terminal is too narrow."""
    cells = [[clean(c) for c in row] for row in rows]
    widths = [max(_width(r[i]) for r in [list(headings), *cells]) for i in range(len(headings))]
    for column in reversed(wrap):
        room = shutil.get_terminal_size((WIDEST, 24)).columns - sum(widths) - 2 * (len(widths) - 1) + widths[column]
        widths[column] = min(widths[column], max(24, room))
    out = []
    for row in [list(headings), ["─" * w for w in widths], *cells]:
        parts = [textwrap.wrap(c, widths[i]) or [""] if i in wrap else [c] for i, c in enumerate(row)]
        for at in range(max(map(len, parts))):
            line = [p[at] if at < len(p) else "" for p in parts]
            out.append("  ".join(c + " " * (w - _width(c)) for c, w in zip(line, widths, strict=True)).rstrip())
    return "\n".join(out)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def number(value: float) -> str:
    """Four significant digits, as people write them."""
    return f"{value:.4g}"
