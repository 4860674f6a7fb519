"""Zennit imports torchvision for its canonizers of two architectures, which are not used here: stand-ins for it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


def load() -> Any:
    """The zennit package, or a skipped test where it is not installed."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        names = {"torchvision": (), "torchvision.models": (), "torchvision.models.resnet": ("Bottleneck", "BasicBlock")}
        names["torchvision.models.vgg"] = ("VGG",)
        before = {name: sys.modules.get(name) for name in names}
        for name, classes in names.items():
            module = sys.modules[name] = ModuleType(name)
            for cls in classes:
                setattr(module, cls, type(cls, (), {}))
        try:
            return _import()
        finally:
            for name, module in before.items():
                sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    return _import()


def _import() -> Any:
    zennit = pytest.importorskip("zennit")
    for part in ("attribution", "canonizers", "composites", "core", "layer", "rules"):
        pytest.importorskip(f"zennit.{part}")
    return zennit
