"""A small network and its report with a record, for the tests of what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pellucid as px
from pellucid.report import record


class Scale(torch.nn.Module):
    """Class 0 scores the first feature minus the second; class 1 scores one half. The weight gives it a digest."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = (x.flatten(1)[:, :3] * self.weight).sum(1)
        return torch.stack([first, torch.full_like(first, 0.5)], 1)


ROWS = torch.tensor([[3.0, 1.0, 9.0], [0.2, 0.1, 1.0]]).reshape(2, 1, 1, 3)  # pictures are drawn faster than tables
METHODS = ("integrated-gradients", "smoothgrad", "no-such-method")


def two(*classes: str) -> px.Subject:
    return px.Subject(Scale().eval(), classes=classes or ("first", "half"), features=("a", "b", "c"))


def reported(folder: Path, subject: px.Subject | None = None, **given: Any) -> tuple[str, dict[str, Any]]:
    """A page and its record."""
    path = folder / "page.html"
    wanted = {"labels": [1, 1], "record": True, "overwrite": True, "methods": list(METHODS), **given}
    px.report(subject or two(), ROWS, path=path, **wanted)
    return path.read_text(encoding="utf-8").replace("\u00a0", " "), json.loads((folder / "page.json").read_bytes())


def edited(folder: Path, change: Callable[[dict[str, Any]], object], *, resealed: bool) -> Path:
    """A copy of the record with a change by hand; `resealed` by someone who makes the digests anew as well."""
    told = json.loads((folder / "page.json").read_bytes())
    change(told)
    if resealed:
        told = {**record.sealed(told["asked"], told["computed"], told["issued"])}
    path = folder / "edited.json"
    path.write_text(json.dumps(told))
    return path
