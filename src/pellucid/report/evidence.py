"""What does a decision rest on? Parts that a map points to, each named, tried by erasing it, and said in a sentence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.engine import Subject
from pellucid.report.erase import shares_of
from pellucid.show.answer import class_name
from pellucid.show.parts import REGIONS, thirds
from pellucid.show.words import clean, listed, number, percent

TRIED, TOLD = 9, 3
LEAST = 0.05  # a smaller fall of the answer's share is no reason to name a region


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """A part of an input by name: its share of what the map says for the answer, and the answer's share without it."""

    name: str
    mask: Tensor
    weight: float
    without: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A decision with the regions it rests on, those first whose erasing takes most from it.

    `unsupported` are regions that the map points to as well, but whose erasing takes less than five points of a hundred
    from the answer: no sentence names them as a reason.
    """

    index: int
    share: float
    regions: tuple[Region, ...]
    unsupported: tuple[Region, ...]

    def fragments(self, classes: Sequence[str]) -> list[tuple[str, Region]]:
        """The parts of the sentence, each with the region that it rests on."""
        name = class_name(self.index, classes)
        return [
            (f"{r.name} (without it, “{name}” falls from {percent(self.share)} to {percent(r.without)})", r)
            for r in self.regions[:TOLD]
        ]

    def sentences(self, classes: Sequence[str]) -> list[str]:
        """What the decision rests on, in words."""
        told = [text for text, _ in self.fragments(classes)]
        name = class_name(self.index, classes)
        said = (
            f"“{name}” rests on {listed(told)}."
            if told
            else (f"No single part that the map points to lowers “{name}” much when it alone is erased.")
        )
        if not self.unsupported:
            return [said]
        rest = listed([r.name for r in self.unsupported[:TOLD]])
        return [said, f"The map also points to {rest}, but erasing that hardly lowers “{name}”."]

    def plain(self) -> dict[str, Any]:
        """The same as figures."""
        told = [("regions", self.regions), ("unsupported", self.unsupported)]
        return {
            "share": self.share,
            **{k: [{"name": r.name, "weight": r.weight, "without": r.without} for r in part] for k, part in told},
        }


def evidence(
    subject: Subject, row: Tensor, values: Tensor, index: int, parts: Mapping[str, Tensor] | None = None
) -> Evidence | None:
    """Which regions of a row (1, channels, height, width) or (1, columns) the answer `index` rests on.

    Args:
        subject: the model.
        row: the input.
        values: a map of it, of the same shape.
        index: the class that was answered.
        parts: named regions, masks (height, width) or (columns,); without them, ninths of a picture or single columns.

    Cost: one forward, of at most ten rows.
    """
    heat = values[0].sum(0) if values.dim() == 4 else values[0]
    heat = heat.detach().cpu().double()
    if row.dim() not in (2, 4) or heat.shape != row.shape[row.dim() // 2 :] or values.shape[1:] != row.shape[1:]:
        return None
    masks = [(f"the part “{clean(k)}”", m.cpu().bool()) for k, m in (parts or {}).items()] or _places(
        subject, row, heat
    )
    speaking = float(heat.clamp(min=0).sum())
    weighed = [(name, mask, float(heat[mask].sum())) for name, mask in masks if bool(mask.any())]
    chosen = sorted((w for w in weighed if w[2] > 0), key=lambda w: -w[2])[:TRIED]
    states = torch.cat([row.detach().cpu(), *(row.detach().cpu() * ~mask for _, mask, _ in chosen)])
    shares = shares_of(subject, states)[:, index].tolist()
    found = [
        Region(name=name, mask=mask, weight=weight / speaking, without=without)
        for (name, mask, weight), without in zip(chosen, shares[1:], strict=True)
    ]
    return Evidence(
        index=index,
        share=shares[0],
        regions=tuple(sorted((r for r in found if shares[0] - r.without >= LEAST), key=lambda r: r.without)),
        unsupported=tuple(r for r in found if shares[0] - r.without < LEAST),
    )


def _places(subject: Subject, row: Tensor, heat: Tensor) -> list[tuple[str, Tensor]]:
    """Ninths of a picture, or the columns of a table with their values."""
    if heat.dim() == 1:
        names = subject.features if len(subject.features) == len(heat) else [f"input {i}" for i in range(len(heat))]
        told = [f"{clean(name)} = {number(v)}" for name, v in zip(names, row[0].tolist(), strict=True)]
        return list(zip(told, torch.eye(len(heat), dtype=torch.bool), strict=True))
    found = []
    for k, (lines, columns) in enumerate(itertools.product(thirds(heat.shape[0]), thirds(heat.shape[1]))):
        mask = torch.zeros(heat.shape, dtype=torch.bool)
        mask[lines, columns] = True
        found.append((f"the {REGIONS[k]}", mask))
    return found
