"""What the README says runs, and its table of methods is the catalogue's."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_methods_is_current() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- methods: " in text
    # In a process of its own: other tests register methods of their own in this one.
    done = subprocess.run([sys.executable, ROOT / "docs" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example_runs() -> None:
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (failed, tried) == (0, 5)


def test_make_knows_the_two_commands() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("demo", "test"):
        assert f"make {command} " in readme
        assert f"\n{command}: " in rules
