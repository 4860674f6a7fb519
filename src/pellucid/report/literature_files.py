"""Publications out of a bibliographic export: BibTeX, RIS or CSV, read as plain text that nobody vouches for."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.inert import clean

__all__ = ["Publication", "publications"]

LARGEST = 64 << 20
MOST = 200_000
_ACCENT = re.compile(r"\\[^A-Za-z\s]")  # \" in M{\"u}ller
_COMMAND = re.compile(r"\\[A-Za-z]+\s?")
_YEAR = re.compile(r"(?<!\d)(1[5-9]\d\d|20\d\d)(?!\d)")
_WHAT = {
    "title": ("title", "ti", "t1", "article title", "document title"),
    "abstract": ("abstract", "ab", "n2"),
    "keywords": ("keywords", "keyword", "kw", "author keywords", "de"),
    "year": ("year", "py", "publication year", "y1", "date", "da"),
    "doi": ("doi", "do", "di"),
}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One record: its year, where it has one, and the words that are searched."""

    title: str
    year: int | None
    text: str
    doi: str = ""


def publications(path: str | Path) -> tuple[Publication, ...]:
    """Every record of a .bib, .ris or .csv export, in the file's order, repeats too.

    A record's text is its title, abstract and keywords, without accents, LaTeX commands and braces, in small letters. Its
    year is the first number between 1500 and 2099 in the field for the year or, without one, the date. Nothing in the file
    is run, followed or drawn as markup. A file above 64 MiB or with more than 200,000 records is refused, and so is one
    that is not UTF-8 or holds no record.
    """
    file = Path(path)
    readers = {".bib": _bibtex, ".ris": _ris, ".csv": _csv}
    if not file.is_file():
        raise InputError("The export must be a file", got=clean(repr(str(path)))[:200])
    if file.suffix.lower() not in readers:
        raise InputError("The export must be a .bib, .ris or .csv file", got=clean(repr(file.name))[:120])
    if file.stat().st_size > LARGEST:
        raise UnsafeFileError(f"The export must be at most {LARGEST >> 20} MiB", got=f"{file.stat().st_size} bytes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("The export must be text in UTF-8", got=str(error)[:120]) from error
    found: list[Publication] = []
    for fields in readers[file.suffix.lower()](text):
        if len(found) == MOST:
            raise UnsafeFileError("The export must hold at most 200,000 records", got="more")
        found.append(_publication(fields))
    if not found:
        raise InputError(f"The export must hold at least one record of a {file.suffix.lower()} file", got="none")
    return tuple(found)


def plain(text: str) -> str:
    """Text as it is searched: small letters without accents, LaTeX commands and braces, words one space apart."""
    bare = _COMMAND.sub("", _ACCENT.sub("", text)).replace("{", "").replace("}", "")
    letters = (c for c in unicodedata.normalize("NFKD", bare) if not unicodedata.combining(c))
    return " ".join("".join(letters).casefold().split())


def _publication(fields: Mapping[str, str]) -> Publication:
    told = {name.strip().casefold(): value for name, value in fields.items()}
    held = {what: next((told[n] for n in names if told.get(n)), "") for what, names in _WHAT.items()}
    dates = (told.get(name, "") for name in _WHAT["year"])
    year = next((int(m[0]) for date in dates if (m := _YEAR.search(date))), None)
    # Between the fields stands a mark that no query holds, so that no phrase runs over from one into the next.
    text = "\n".join(plain(held[what]) for what in ("title", "abstract", "keywords"))
    doi = plain(held["doi"]).removeprefix("https://doi.org/").removeprefix("doi:").strip()
    return Publication(title=clean(" ".join(held["title"].split()))[:300], year=year, text=text, doi=doi)


def _ris(text: str) -> Iterator[dict[str, str]]:
    """Records from `TY  -` to `ER  -`; a line without a tag carries on the one before."""
    fields: dict[str, str] = {}
    tag = ""
    for line in text.splitlines():
        if re.match(r"[A-Z][A-Z0-9]  -", line):
            tag, value = line[:2].casefold(), line[5:].strip()
            if tag in ("ty", "er") and fields:
                yield fields
            if tag in ("ty", "er"):
                fields = {"ty": value} if tag == "ty" else {}
            else:
                fields[tag] = f"{fields[tag]} ; {value}" if tag in fields else value
        elif fields and tag:
            fields[tag] = f"{fields.get(tag, '')} {line.strip()}"
    if fields:
        yield fields


def _csv(text: str) -> Iterator[dict[str, str]]:
    """Rows under headings; a heading for the title and one for the year are needed."""
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        headings = [h.strip().casefold() for h in next(rows, [])]
        for what in ("title", "year"):
            if not set(_WHAT[what]) & set(headings):
                got = clean(", ".join(headings))[:120] or "none"
                raise InputError(f"The export must have a column for the {what}", got=got, hint=f"a heading {what!r}")
        for number, row in enumerate(rows, 2):
            if row and len(row) != len(headings):
                raise InputError(f"Row {number} of the export must have {len(headings)} cells", got=str(len(row)))
            if row:
                yield dict(zip(headings, row, strict=True))
    except csv.Error as error:
        raise InputError("The export must be a CSV file", got=clean(error)[:120]) from error


def _bibtex(text: str) -> Iterator[dict[str, str]]:
    """Entries at the start of a line; comments, preambles and macros are none. An entry that never ends is refused."""
    for head in re.finditer(r"^[ \t]*@[ \t]*([A-Za-z]+)[ \t]*([{(])", text, flags=re.MULTILINE):
        if head[1].casefold() not in ("comment", "preamble", "string"):
            yield _entry(text, head.end(), {"{": "}", "(": ")"}[head[2]])


def _entry(text: str, at: int, end: str) -> dict[str, str]:
    """The fields of the entry whose key begins at `at`; each character is looked at once."""
    fields: dict[str, str] = {}
    begins, depth, quoted, start, name = at, 0, False, at, ""
    while at < len(text):
        c = text[at]
        if c == "\\":
            at += 1  # an escaped brace or quotation mark encloses nothing
        elif c == '"' and not depth and name:
            quoted = not quoted
        elif c == "{":
            depth += 1
        elif c == "}" and depth:
            depth -= 1
        elif c == "=" and not (depth or quoted or name):
            name, start = text[start:at].strip().casefold(), at + 1
        elif c in (",", end) and not (depth or quoted):
            if name:
                fields.setdefault(name, _value(text[start:at]))
            name, start = "", at + 1
            if c == end:
                return fields
        at += 1
    line = text.count("\n", 0, begins) + 1
    raise InputError(f"The entry in line {line} of the export must have an end", got="none")


def _value(text: str) -> str:
    """What stands in braces or quotation marks, its parts joined."""
    parts = (part.strip() for part in text.split(" # "))
    return "".join(p[1:-1] if p[:1] + p[-1:] in ("{}", '""') else p for p in parts)
