"""Nothing in the library runs text, unpacks archives or loads pickles. There is no list of exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pellucid

SOURCE = Path(pellucid.__file__).parent
NAMES = {"eval", "exec", "__import__"}  # as plain names: `model.eval()` is another thing
METHODS = {"extractall", "mktemp"}
MEMBERS = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("cloudpickle", "load"),
    ("cloudpickle", "loads"),
    ("dill", "load"),
    ("joblib", "load"),
    ("marshal", "load"),
    ("marshal", "loads"),
    ("shelve", "open"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
    ("os", "popen"),
}


def faults(text: str, file: str = "") -> list[str]:
    tree, found, origin = ast.parse(text), [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin |= {a.asname or a.name: ((node.module or "").split(".")[0], a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            origin |= {a.asname or a.name.split(".")[0]: (a.name.split(".")[0], "") for a in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = {k.arg: k.value for k in node.keywords}
        called = _called(node.func, origin)
        wrong = (
            (isinstance(node.func, ast.Name) and node.func.id in NAMES)
            or called in MEMBERS
            or called[1] in METHODS
            or _is(words.get("shell"), True)
            or _is(words.get("allow_pickle"), True)
            or _is(words.get("weights_only"), False)
            or (called == ("torch", "load") and not _is(words.get("weights_only"), True))
        )
        if wrong:
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def _called(function: ast.expr, origin: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """The package and the name of what is called, whatever it was imported as."""
    if isinstance(function, ast.Name):
        return origin.get(function.id, ("", function.id))
    if isinstance(function, ast.Attribute):
        owner = function.value
        name = owner.id if isinstance(owner, ast.Name) else ""
        return origin.get(name, (name, ""))[0], function.attr
    return "", ""


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


def test_no_forbidden_call() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        found += faults(path.read_text(encoding="utf-8"), path.relative_to(SOURCE).as_posix())
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(code)",
        "__import__('os')",
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import loads as read\nread(b)",
        "import yaml\nyaml.load(f)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import os\nos.system('ls')",
        "archive.extractall('/')",
        "import tempfile\ntempfile.mktemp()",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "from torch import load\nload(f)",
        "import torch as t\nt.load(f, weights_only=safe)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
    ],
)
def test_the_check_finds_what_it_forbids(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize("text", ["model.eval()", "import torch\ntorch.load(f, weights_only=True)", "import pickle"])
def test_the_check_lets_through_what_is_right(text: str) -> None:
    assert faults(text) == []
