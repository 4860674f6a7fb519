"""Figures and foreign text made readable: rounding, plain lists, and labels that can't break a page or hide."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LONGEST = 200
LISTED = 3
# Joiners belong to ordinary words in several scripts and to emoji; all other format characters only hide something.
_JOINERS = "\u200c\u200d"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SPACES = "\t\n\r\x0b\x0c\u2028\u2029"


@dataclass(frozen=True, kw_only=True)
class Account:
    """An explanation in plain words, in the order in which a person asks; `numbered` where each line tells of a row.

    `listing` is what can be read at length, such as all rules; words alone give its beginning.
    """

    asked: str
    answers: tuple[str, ...] = ()
    mattered: tuple[str, ...] = ()
    believed: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    more: str = ""
    listing: tuple[str, ...] = ()
    numbered: bool = True

    def text(self) -> str:
        """All of it as text: one line for each statement."""
        parts = [f"What was asked: {self.asked}"]
        for number, row in enumerate(zip_longest(self.answers, self.mattered), 1):
            several = self.numbered and max(len(self.answers), len(self.mattered)) > 1
            start = f"Row {number}: " if several else ""
            parts.append(start + " ".join(part for part in row if part))
        parts += [f"- {line}" for line in self.listing[:LISTED]]
        if len(self.listing) > LISTED:
            parts.append(f"- … and {len(self.listing) - LISTED:,} more")
        parts += [self.more] if self.more else []
        parts += [f"How far to believe it: {' '.join(self.believed)}"] if self.believed else []
        parts += [f"What it can't tell you: {'; '.join(self.cannot)}."] if self.cannot else []
        return "\n".join(parts)


def zip_longest(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs, with empty text where one list is shorter."""
    count = max(len(first), len(second))
    return [(first[i] if i < len(first) else "", second[i] if i < len(second) else "") for i in range(count)]


def clean(text: object, longest: int = LONGEST) -> str:
    """Foreign text on one line, of bounded length, with control, direction and invisible characters made visible."""
    raw = str(text)
    out = "".join(map(_visible, raw[: longest + 1]))
    return out if len(raw) <= longest else out[:longest].rstrip() + "…"


def _visible(character: str) -> str:
    if character in _SPACES:
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Co") and character not in _JOINERS
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


def placeless(text: object) -> str:
    """Text with the folders of absolute paths left out: pages go to people who need not know where they were made."""
    return re.sub(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"<>]+[/\\])+", "…/", str(text))


def drawable(text: object, longest: int = 60) -> str:
    """Clean text with what the figure's font can't draw replaced by a box."""
    return "".join(c if _has_glyph(c) else "□" for c in clean(text, longest) if c not in _JOINERS)


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family="DejaVu Sans"))).get_char_index(ord(character)) != 0


def number(value: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits, a true minus sign, and a power of ten only where it is needed."""
    value = float(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -4 <= size < 6:
        places = max(0, digits - 1 - size)
        text = f"{value:,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}"
    return text.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A figure with its sign, also when positive."""
    return ("+" if float(value) > 0 else "") + number(value, digits)


def percent(share: float) -> str:
    """A share of one as a percentage; never "100 %" or "0 %" for what is not quite so."""
    value = 100 * float(share)
    if not math.isfinite(value):
        return "an unknown share"
    if 0 < value < 0.1:
        return "under 0.1 %"
    if 99.9 < value < 100:
        return "over 99.9 %"
    return f"{number(value, 3 if value > 99 else 2)} %"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def counted(count: int, noun: str) -> str:
    """1 row, 2 rows; 2 patches, 2 leaves."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """More than one of it."""
    if noun == "leaf":
        return "leaves"
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def pretty(name: str) -> str:
    """`completeness_gap` → completeness gap."""
    return clean(name.replace("_", " ").replace("-", " "))


def upper(text: str) -> str:
    """The first letter as a capital."""
    return text[:1].upper() + text[1:]
