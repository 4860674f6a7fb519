"""Rules of the house that a program can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pellucid
from pellucid.contract import Method, registered

SOURCE = Path(pellucid.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 400


def prints(text: str) -> list[int]:
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    return [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


def test_only_the_app_prints() -> None:
    library = [p for p in FILES if "app" not in p.relative_to(SOURCE).parts]
    assert {
        p.relative_to(SOURCE).as_posix(): prints(p.read_text(encoding="utf-8"))
        for p in library
        if prints(p.read_text(encoding="utf-8"))
    } == {}


def test_the_check_of_prints_finds_one() -> None:
    assert prints("def f():\n    print('x')") == [2]
    assert prints("printer.print('x')") == []


def test_files_are_short() -> None:
    lengths = {p.relative_to(SOURCE).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n >= LONGEST_FILE} == {}


def own_methods() -> list[type[Method]]:
    return [m for m in registered().values() if m.__module__.startswith("pellucid.")]


@pytest.mark.parametrize("method", own_methods(), ids=lambda m: m.card.name)
def test_the_first_line_of_a_method_says_what_question_it_answers(method: type[Method]) -> None:
    first = (method.__doc__ or "").strip().splitlines()[:1]
    assert first, "a method has a docstring"
    assert first[0].endswith("?")


@pytest.mark.parametrize("method", own_methods(), ids=lambda m: m.card.name)
def test_every_setting_is_explained(method: type[Method]) -> None:
    from pellucid.app import fields

    assert [o.name for o in fields.options(method) if not o.help] == []
