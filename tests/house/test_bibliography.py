"""Every card cites an entry of the bibliography, and every entry is cited."""

from __future__ import annotations

import re

import pytest

import pellucid as px
from pellucid.contract import registered

USED = {m.card.citation for m in registered().values() if m.__module__.startswith("pellucid.")}


@pytest.mark.parametrize("key", sorted(USED))
def test_every_citation_has_an_entry(key: str) -> None:
    assert key in px.catalogue.bibliography()


def test_every_entry_is_cited() -> None:
    assert set(px.catalogue.bibliography()) - USED == set()


@pytest.mark.parametrize("key", sorted(px.catalogue.bibliography()))
def test_entries_are_complete(key: str) -> None:
    entry = px.catalogue.bibliography()[key]
    assert re.search(r"^  author = \{.+\},$", entry, re.MULTILINE)
    assert re.search(r"^  title = \{.+\},$", entry, re.MULTILINE)
    assert re.search(r"^  year = \{(1[89]|20)\d\d\},$", entry, re.MULTILINE)
    assert entry.count("{") == entry.count("}")


def test_entries_are_sorted_and_none_is_lost() -> None:
    import importlib.resources

    text = importlib.resources.files("pellucid").joinpath("bibliography.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,\s]+),$", text, re.MULTILINE)
    assert keys == sorted(px.catalogue.bibliography())
