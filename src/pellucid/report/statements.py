"""What a page states, read off the page itself, with the computation behind each statement.

Read off the page, no figure on it can be forgotten: what is printed is on record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser

from pellucid.report.dossier import Dossier

BLOCKS: tuple[str, ...] = (
    "p",
    "li",
    "dt",
    "tr",
    "figcaption",
    "summary",
    "h1",
    "h2",
    "h3",
    "h4",
    "caption",
    "div",
    "figure",
    "section",
)
BLOCKS += ("article", "details", "ul", "ol", "dl", "table", "tbody", "thead", "header", "main", "body")
SILENT = ("style", "script", "title")
EMPTY = ("meta", "img", "br", "rect", "link", "input", "hr")
TIMING = "seconds"


def sources(dossier: Dossier) -> dict[str, str]:
    """For each part of the page, by its anchor, where in the record the computation stands."""
    found = {"provenance": "/asked", "missing": "/computed/missing"}
    for case in dossier.cases:
        place = f"/computed/cases/{case.number - 1}"
        found |= {f"{name}-{case.number}": place for name in ("case", "hero")}
        found[f"{case.anchor}-short"] = place
        for kind in ("why", "evidence", "changes", "causes", "checks"):
            found[f"{case.anchor}-{kind}"] = f"{place}/{kind}"
        found[f"{case.anchor}-near"] = f"/computed/results/{case.near_number}"
        found[f"{case.anchor}-path"] = f"/computed/results/{case.path_number}"
        for panel in case.panels:
            found[f"{case.anchor}-result-{panel.number}"] = f"/computed/results/{panel.number}"
    found |= {f"whole-{k}": f"/computed/results/{k}" for k in range(len(dossier.found.results))}
    return found


def statements(page: str, known: Mapping[str, str]) -> dict[str, list[str]]:
    """Every statement with a figure on a page, by the place in the record behind it; times, which vary, apart.

    What stands in no known part is the page's own text, under "/issued".
    """
    reader = _Reader(known)
    reader.feed(page)
    reader.close()
    reader.flush()
    found: dict[str, list[str]] = {}
    for place, text in reader.told:
        if re.search(r"\d", text) and not text.startswith(f"{TIMING}: "):
            found.setdefault(place, []).append(text)
    return found


class _Reader(HTMLParser):
    """Gathers the text of each block, and knows in which part of the page it stands."""

    def __init__(self, known: Mapping[str, str]) -> None:
        super().__init__()
        self.known = known
        self.open: list[tuple[str, str]] = [("", "/issued")]
        self.told: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.term = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in BLOCKS:
            self.flush()
        if tag not in EMPTY:
            here = self.known.get(given.get("id") or "", self.open[-1][1])
            self.open.append((tag, here))
        elif tag == "img":
            self.told.append((self.open[-1][1], _neat(given.get("alt") or "")))
        if tag in ("td", "th", "br"):
            self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "dt":
            self.term, self.words = _neat("".join(self.words)), []
        elif tag == "dd":
            self.words.insert(0, f"{self.term}: ")
            self.flush()
        elif tag in BLOCKS:
            self.flush()
        while len(self.open) > 1 and tag not in EMPTY:
            if self.open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        if self.open[-1][0] not in SILENT:
            self.words.append(data)

    def flush(self) -> None:
        """Take down what was said since the last block began or ended."""
        text, self.words = _neat("".join(self.words)), []
        if text:
            self.told.append((self.open[-1][1], text))


def _neat(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())
