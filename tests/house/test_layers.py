"""A layer imports lower layers only, and a folder of methods never imports another one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pellucid

SOURCE = Path(pellucid.__file__).parent
METHODS = ("attribution", "semantics", "rules", "examples", "text", "intrinsic", "training", "theory")
METHODS += ("debugging", "robustness", "fairness", "evaluation")
LEVELS = {"inert": 0, "contract": 0, "worlds": 0, "zoo": 1, "engine": 1, **dict.fromkeys(METHODS, 2)}
LEVELS |= {"entries": 1, "surveys": 2, "advice": 3, "catalogue": 3, "show": 3, "report": 3, "scale": 3, "testing": 3}
LEVELS |= {"app": 4, "__main__": 4}

# The only imports by name, at run time, that reach upwards: (file, what is imported) with the reason.
UPWARDS = {
    ("contract/explanation.py", "show"): "a result is drawn by the viewer, which is loaded when the first one is drawn",
    ("evaluation/human.py", "show"): "a study is put on a page by the viewer, which is loaded when it is exported",
    ("evaluation/human_volume.py", "show"): "slices of volumes are drawn by the viewer, which is loaded when they are",
    ("contract/method.py", "*"): "the catalogue finds methods by importing the folders they are in",
    ("testing/release.py", "*"): "the release gate looks for public methods without a card in every folder",
}


def home(path: Path) -> str:
    """The folder, or the file at the top, that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every part of Pellucid that a module imports, and whether by an import statement."""
    aliases = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees the layer"
            parts = (node.module or "").split(".")
            if parts[0] == "pellucid":
                yield from ((p, True) for p in ([parts[1]] if parts[1:] else [part_of(a.name) for a in node.names]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "pellucid":
                    aliases.add(alias.asname or "pellucid")
                    if parts[1:]:
                        yield parts[1], True
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            yield from by_name(node.args[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield part_of(node.attr), True


def by_name(argument: ast.expr) -> Iterator[tuple[str, bool]]:
    if isinstance(argument, ast.Constant) and str(argument.value).startswith("pellucid."):
        yield argument.value.split(".")[1], False
    elif isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        first = str(argument.values[0].value)
        if first.startswith("pellucid."):
            yield first.split(".")[1] or "*", False


def part_of(name: str) -> str:
    """The part in which a public word lives: `px.explain` is in the engine."""
    return pellucid._HOME.get(name, f"pellucid.{name}").split(".")[1]


def allowed(here: str, there: str) -> bool:
    if here == there or there == "__version__":
        return True
    return LEVELS[there] < LEVELS[here] or (LEVELS[there] == LEVELS[here] != 2)


def faults(path: Path, text: str | None = None) -> list[str]:
    here, file = home(path), path.relative_to(SOURCE).as_posix()
    found = []
    for there, statement in imported(ast.parse(text if text is not None else path.read_text(encoding="utf-8"))):
        if not statement and {(file, there), (file, "*")} & UPWARDS.keys():
            continue
        if there not in LEVELS and there != "__version__":
            found.append(f"{file} imports {there}, which has no layer")
        elif not allowed(here, there):
            found.append(f"{file} (layer {LEVELS[here]}) imports {there} (layer {LEVELS[there]})")
    return found


FILES = [p for p in sorted(SOURCE.rglob("*.py")) if p != SOURCE / "__init__.py"]


def test_every_folder_has_a_layer() -> None:
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders <= LEVELS.keys()


def test_layers_import_lower_layers_only() -> None:
    assert [fault for path in FILES for fault in faults(path)] == []


def test_folders_of_one_layer_do_not_import_each_other_in_a_circle() -> None:
    uses: dict[str, set[str]] = {}
    for path in FILES:
        here = home(path)
        for there, statement in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if statement and there in LEVELS and there != here and LEVELS[there] == LEVELS[here]:
                uses.setdefault(here, set()).add(there)

    def reached(start: str, seen: frozenset[str] = frozenset()) -> set[str]:
        return {x for y in uses.get(start, set()) - seen for x in {y, *reached(y, seen | {y})}}

    assert [x for x in uses if x in reached(x)] == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("attribution/x.py", "from pellucid.rules import Rules"),
        ("attribution/x.py", "from pellucid import show"),
        ("attribution/x.py", "import pellucid.evaluation.deletion"),
        ("engine/x.py", "import pellucid as px\nresult = px.report"),
        ("contract/x.py", "def late():\n    from pellucid.engine import explain"),
        ("contract/card.py", "import importlib\nimportlib.import_module('pellucid.show')"),
        ("engine/x.py", "import pellucid\npellucid.unheard_of"),
        ("show/x.py", "from pellucid.app import terminal"),
    ],
)
def test_the_check_finds_what_it_forbids(file: str, text: str) -> None:
    assert faults(SOURCE / file, text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("attribution/x.py", "from pellucid.engine import Ask"),
        ("engine/x.py", "import pellucid\nversion = pellucid.__version__"),
        ("contract/explanation.py", "import importlib\nimportlib.import_module('pellucid.show')"),
        ("app/x.py", "import pellucid as px\nresult = px.explain"),
    ],
)
def test_the_check_lets_through_what_is_right(file: str, text: str) -> None:
    assert faults(SOURCE / file, text) == []
