"""Methods compared, as a table: means with intervals, ranks, agreement of maps, what was refused; kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pellucid.contract import Measure, Method, as_method
from pellucid.contract.errors import InputError
from pellucid.contract.storage import load
from pellucid.engine import answer
from pellucid.engine.ask import Ask
from pellucid.engine.evaluation import Evaluation
from pellucid.engine.subject import Subject

LEVEL = 1.96


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one method's explanation got: figures (metrics, rows), what was refused, its map as (rows, values)."""

    figures: Tensor
    refused: dict[str, str]
    better: dict[str, str]
    map: Tensor | None
    seconds: float


class Table:
    """The comparison as it grows."""

    def __init__(self, labels: list[str], metrics: Mapping[str, Evaluation], rows: int) -> None:
        self.labels, self.metrics, self.rows = labels, metrics, rows
        self.columns: dict[str, Column] = {}

    def add(self, label: str, column: Column) -> None:
        """One more method."""
        self.columns[label] = column

    def measure(self, subject: Subject, ask: Ask) -> Measure:
        """All of it."""
        rows = torch.stack([self.columns[label].figures for label in self.labels])
        count = rows.isfinite().sum(2)
        held = rows.where(rows.isfinite(), 0.0)
        mean = torch.where(count > 0, held.sum(2) / count.clamp(min=1), torch.nan)
        square = ((held - mean.nan_to_num()[..., None]) ** 2 * rows.isfinite()).sum(2)
        error = torch.where(count > 1, (square / (count - 1).clamp(min=1) / count.clamp(min=1)).sqrt(), torch.nan)
        better = {
            m: next((c.better[m] for c in self.columns.values() if m in c.better), "neither") for m in self.metrics
        }
        rank = torch.stack([ranks(mean[:, k], better[m]) for k, m in enumerate(self.metrics)], 1)
        told = {
            "methods": self.labels,
            "metrics": list(self.metrics),
            "means": mean.tolist(),
            "better": better,
            "refused": {k: c.refused for k, c in self.columns.items() if c.refused},
            "without": self._without(rows),
            "seconds": {k: c.seconds for k, c in self.columns.items()},
            "recommended": _best(self.labels, rank),
        }
        parts = {
            "rows": rows,
            "low": mean - LEVEL * error,
            "high": mean + LEVEL * error,
            "rank": rank,
            "agreement": agreement([self.columns[label].map for label in self.labels]),
        }
        seconds = sum(c.seconds for c in self.columns.values())
        origin = answer.source(subject, ask, as_method("insertion-deletion"), None, seconds)
        source = {**origin, "method": "comparison", "settings": {}, "comparison": told}
        return Measure(values=mean, unit="each metric's own", parts=parts, source=source)

    def _without(self, rows: Tensor) -> dict[str, list[int]]:
        """The rows that have no figure although the metric gave others, which no mean contains."""
        found = {}
        for i, label in enumerate(self.labels):
            some = rows[i].isfinite().any(1)
            bad = (~rows[i][some].isfinite()).any(0).nonzero()[:, 0].tolist()
            if bad:
                found[label] = bad
        return found


def ranks(values: Tensor, better: str) -> Tensor:
    """1 for the best, ties sharing their mean rank; NaN where there is no figure or no better side."""
    if better not in ("higher", "lower"):
        return torch.full_like(values, torch.nan, dtype=torch.float64)
    known = values.isfinite()
    signed = (values if better == "lower" else -values)[known]
    found = torch.full_like(values, torch.nan, dtype=torch.float64)
    below = (signed[:, None] > signed[None]).sum(1).double()
    found[known] = below + ((signed[:, None] == signed[None]).sum(1).double() + 1) / 2
    return found


def _best(labels: list[str], rank: Tensor) -> str:
    """The method whose median rank is best among those with a rank in every metric that ranks anything."""
    counts = rank.isfinite()
    ranked = counts[:, counts.any(0)]
    whole = ranked.all(1) if ranked.shape[1] else torch.zeros(len(labels), dtype=torch.bool)
    if not bool(whole.any()):
        return ""
    middle = torch.stack(
        [r[r.isfinite()].quantile(0.5) if ok else torch.tensor(torch.inf) for r, ok in zip(rank, whole, strict=True)]
    )
    return labels[int(middle.argmin())]


def agreement(maps: Sequence[Tensor | None]) -> Tensor:
    """The mean Spearman correlation over rows of each two maps; NaN where one of them is missing or flat."""
    ordered = [None if m is None else _ranked(m) for m in maps]
    found = torch.full((len(maps), len(maps)), torch.nan, dtype=torch.float64)
    for i, a in enumerate(ordered):
        for j, b in enumerate(ordered[: i + 1]):
            if a is not None and b is not None and a.shape == b.shape:
                found[i, j] = found[j, i] = (a * b).sum(1).nanmean()
    return found


def _ranked(values: Tensor) -> Tensor:
    """Each row's mean ranks, centred and of length 1; NaN for a flat row."""
    _, inverse, counts = zip(*[torch.unique(v, return_inverse=True, return_counts=True) for v in values], strict=True)
    ranks = torch.stack([(c.cumsum(0) - (c - 1) / 2.0)[i] for i, c in zip(inverse, counts, strict=True)]).double()
    centred = ranks - ranks.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True)


class Kept:
    """Finished columns in a folder, whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError("The 'folder' must exist", got=repr(str(folder)))

    def read(self, key: str) -> Column | None:
        """The column of this key, if it is there."""
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            return None
        found = load(path)
        assert isinstance(found, Measure)
        told = found.source
        return Column(
            figures=found.values,
            refused=told["refused"],
            better=told["better"],
            map=found.parts.get("map"),
            seconds=told["seconds"],
        )

    def write(self, key: str, column: Column) -> Column:
        """Keep a column."""
        told = {"refused": column.refused, "better": column.better, "seconds": column.seconds}
        parts = {} if column.map is None else {"map": column.map}
        result = Measure(values=column.figures, parts=parts, source=told)
        result.save(self.folder / f"{key}.safetensors", overwrite=True)
        return column


def key_of(subject: Subject, ask: Ask, method: Method, metrics: Mapping[str, Evaluation]) -> str:
    """What a column depends on."""
    target = ask.target
    told = {
        "method": method.config(),
        "metrics": {k: m.config() for k, m in metrics.items()},
        "model": ask.model_hash,
        "inputs": ask.inputs.fingerprint(),
        "target": None if target.index is None else target.index.tolist(),
        "function": target.name,
        "data": _print(ask.data),
        "seed": ask.seed,
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True, default=repr).encode(), digest_size=16).hexdigest()


def _print(data: Any) -> str:
    """A hash of the data's tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in tree_leaves(data.train if hasattr(data, "train") and not callable(data.train) else data):
        if isinstance(leaf, Tensor):
            digest.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
            digest.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
