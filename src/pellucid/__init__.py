"""Pellucid: understand a trained network, and know how far each explanation can be believed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pellucid import catalogue, testing, worlds, zoo
    from pellucid.advice import advise
    from pellucid.contract import Attribution, Card, Examples, Explanation, Measure, Method, Rules, Semantics, Text
    from pellucid.contract.storage import load
    from pellucid.engine import Subject, explain
    from pellucid.engine.columns import Columns
    from pellucid.engine.target import margin, unit
    from pellucid.evaluation.comparing import compare

_HOME = {
    "advise": "pellucid.advice",
    "explain": "pellucid.engine",
    "Subject": "pellucid.engine",
    "Columns": "pellucid.engine.columns",
    "unit": "pellucid.engine.target",
    "margin": "pellucid.engine.target",
    "load": "pellucid.contract.storage",
    "compare": "pellucid.evaluation",
    **dict.fromkeys(
        ("Attribution", "Semantics", "Rules", "Examples", "Text", "Measure", "Explanation", "Method", "Card"),
        "pellucid.contract",
    ),
}
_MODULES = (
    *("attribution", "catalogue", "contract", "engine", "evaluation", "examples", "report", "rules", "show", "testing"),
    *("worlds", "zoo"),
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"pellucid.{name}")
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])


__all__ = [
    "Attribution",
    "Card",
    "Columns",
    "Examples",
    "Explanation",
    "Measure",
    "Method",
    "Rules",
    "Semantics",
    "Subject",
    "Text",
    "advise",
    "catalogue",
    "compare",
    "explain",
    "load",
    "margin",
    "testing",
    "unit",
    "worlds",
    "zoo",
]
