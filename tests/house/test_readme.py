"""What the README says runs, and its table of methods is the catalogue's."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_methods_is_current() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- methods: " in text
    assert runpy.run_path(str(ROOT / "docs" / "readme.py"))["current"](text) == text, "run `make readme`"


def test_the_example_runs() -> None:
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (failed, tried) == (0, 5)


def test_make_knows_the_two_commands() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("demo", "test"):
        assert f"make {command} " in readme
        assert f"\n{command}: " in rules
