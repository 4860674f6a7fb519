"""Tools, demos and requirements stand in the catalogue once, in order, and name a test that is really there."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import pellucid as px
from pellucid.contract import registered
from pellucid.contract.entry import Entry
from pellucid.contract.errors import MethodError

ROOT = Path(__file__).parents[2]
ENTRIES = px.catalogue.entries()
GOOD = {"name": "a-row", "kind": "tool", "title": "A", "does": "B.", "use": "c", "test": "tests/x.py::test_y"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_test_it_names_exists(entry: Entry) -> None:
    entry.check()
    file, name = entry.test.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_names_are_in_order_and_nowhere_else() -> None:
    names = [entry.name for entry in ENTRIES]
    assert names == sorted(set(names))
    cards = [method.card for method in registered().values()]
    assert not {*names, *(c for e in ENTRIES for c in e.covers)} & {n for c in cards for n in (c.name, *c.covers)}


def test_they_are_listed_with_the_methods() -> None:
    listed = json.loads(px.catalogue.as_json())
    assert {"id", "kind", "covers", "form", "scope", "needs"} <= set.intersection(*(set(one) for one in listed))
    assert {entry.name for entry in ENTRIES} <= {one["id"] for one in listed}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("kind", "method"), ("name", "A row"), ("name", "../row"), ("test", "tests/x.py"), ("title", ""), ("use", "")],
)
def test_an_entry_that_is_not_whole_is_refused(field: str, wrong: str) -> None:
    Entry(**GOOD).check()
    with pytest.raises(MethodError):
        Entry(**{**GOOD, field: wrong}).check()
