"""Foreign text made harmless for terminals and spreadsheets. No other part of the library is needed for it."""

from __future__ import annotations

import unicodedata

__all__ = ["cell", "clean"]


def clean(text: object) -> str:
    """One line of text without control characters: `\\x1b[31m` shows as those seven characters and colours nothing.

    Escaped are all characters of the Unicode categories "control", "format" (which reorder or hide text), "surrogate"
    and the two line separators.

    Example:
        >>> print(clean("a\\x1b[2Jb"))
        a\\x1b[2Jb
    """
    return "".join(_visible(c) for c in str(text))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def cell(value: object) -> str:
    """A CSV cell that no spreadsheet takes for a formula: text that starts like one gets an apostrophe before it.

    Example:
        >>> cell("=1+1"), cell("-0.5"), cell("a, b")
        ("'=1+1", '-0.5', '"a, b"')
    """
    text = clean(value)
    if text.lstrip()[:1] in ("=", "+", "-", "@") and not _numeric(text):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in '",') else text


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
