"""Pages put together from parts: results, words and sections, and written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pellucid.contract import Explanation
from pellucid.contract.errors import InputError
from pellucid.contract.storage import is_special, write
from pellucid.show import Options, heard, options, pages, viewer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A headed part of a page. `parts` are results, tables, lists of text, or text; all text is escaped.

    `source` says where in a record the figures stand, as "/computed/cases".
    """

    heading: str
    parts: Sequence[Any] = ()
    source: str = "/computed"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under headings; the first cell of a row names it. `caption` says what the table shows."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(*sections: Any, title: str = "Explanations", audience: str = "layperson", **given: Any) -> str:
    """A self-contained page from sections, results and text: nothing is fetched, all text is escaped.

    Args:
        sections: a `Section`, a result, or text; a dict is read as headings with their results.
        title: the page's title.
        audience: "layperson" (figures for engineers are folded) or "engineer" (they stand open).
        given: options of the viewers, such as `rows`.

    Example:
        >>> import torch, pellucid as px
        >>> from pellucid.report import page
        >>> page("Two <words>", px.Measure(values=torch.ones(1))).count("<words>")
        0
    """
    heard(audience)
    wanted = options(given)
    body = [_drawn(section, audience, wanted) for section in _sections(sections)]
    return pages.document(title, pages.render("plain.html", title=title, body=body))


def drawn(section: Section, audience: str) -> Markup:
    """A section as it stands on a page; whoever isn't a layperson gets the engineer's figures open."""
    return _drawn(section, "layperson" if audience == "layperson" else "engineer", options({}))


def _drawn(section: Section, audience: str, wanted: Options) -> Markup:
    parts = []
    for part in section.parts:
        if isinstance(part, Explanation):
            parts.append(pages.piece(part, viewer(part), audience, wanted, level=3 if section.heading else 2))
        elif isinstance(part, Table):
            parts.append(pages.render("table.html", table=part))
        elif isinstance(part, list | tuple) and all(isinstance(line, str) for line in part):
            parts.append(pages.render("lines.html", lines=part))
        elif isinstance(part, str):
            parts.append(Markup("<p>{}</p>").format(pages.clean(part, 4000)))
        else:
            raise InputError("The parts of a section must be results or text", got=type(part).__name__)
    return pages.section(section.heading, parts)


def _sections(given: Sequence[Any]) -> list[Section]:
    found = []
    for part in given:
        if isinstance(part, Section):
            found.append(part)
        elif isinstance(part, dict):
            found += [
                Section(heading=str(k), parts=v if isinstance(v, list | tuple) else (v,)) for k, v in part.items()
            ]
        else:
            found.append(Section(heading="", parts=(part,)))
    return found


def save(text: str, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a page whole or not at all; an existing file is left alone unless `overwrite`."""
    return write(path, text.encode("utf-8", "backslashreplace"), overwrite=overwrite)


def free(path: str | Path, overwrite: bool) -> Path:
    """The path, refused before any work where the page could not be written to it."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError("The 'path' must lie in an existing folder", got=repr(str(path)))
    if is_special(path):
        raise InputError("The 'path' must be that of an ordinary file", got=repr(str(path)), hint="another name")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise InputError("The 'path' must not exist yet", got=repr(str(path)), hint="overwrite=True, or --force")
    return path
