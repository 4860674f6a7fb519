"""Methods compared, as a table: means with intervals, ranks, agreement of maps, what was refused; kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pellucid.contract import Measure, Method
from pellucid.contract.errors import InputError
from pellucid.contract.storage import load
from pellucid.engine import answer
from pellucid.engine.ask import Ask
from pellucid.engine.evaluation import Evaluation, overall
from pellucid.engine.ranks import placed, ranks, spearman_matrix, unit
from pellucid.engine.subject import Subject

# Qualities that have no say in a median rank: a simple map may be wrong; and whoever passes a test of sanity passes it,
# how far below its limit a figure lies being chance.
ASIDE = ("simplicity", "sanity")


@dataclass(kw_only=True)
class Column:
    """What one method's explanation got: figures (metrics, rows), what was refused, its map as (rows, values), seconds.

    `late`: what was left out for want of time, which is also in `refused`; "" stands for the explanation.
    """

    figures: Tensor
    refused: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    better: dict[str, str] = field(default_factory=dict)
    map: Tensor | None = None
    fitting: float = 0.0
    explaining: float = 0.0
    measuring: dict[str, float] = field(default_factory=dict)

    def refuse(self, what: str, why: str, late: bool = False) -> None:
        """Note the reason."""
        self.refused[what] = why
        if late:
            self.late.append(what)


class Table:
    """The comparison as it grows. `about` says of each metric what it costs and assumes."""

    def __init__(
        self, labels: list[str], metrics: Mapping[str, Evaluation], about: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.labels, self.metrics, self.about = labels, metrics, about
        self.columns: dict[str, Column] = {}

    def add(self, label: str, column: Column) -> None:
        """One more method."""
        self.columns[label] = column

    def measure(self, subject: Subject, ask: Ask, layer: str | None) -> Measure:
        """All of it."""
        rows = torch.stack([self.columns[label].figures for label in self.labels])
        each = [[overall(figures) for figures in method] for method in rows]

        def figure(name: str) -> Tensor:
            found = [[torch.nan if (v := one.get(name)) is None else v for one in line] for line in each]
            return torch.tensor(found, dtype=torch.float64)

        mean = figure("mean")
        better = {
            m: next((c.better[m] for c in self.columns.values() if m in c.better), "neither") for m in self.metrics
        }
        rank = torch.stack([placed(mean[:, k], better[m]) for k, m in enumerate(self.metrics)], 1)
        counted = torch.tensor([self.about[m].get("quality") not in ASIDE for m in self.metrics])
        counted = counted if bool(counted.any()) else ~counted
        sane: list[tuple[int, Any]] = [(k, m) for k, m in enumerate(self.metrics.values()) if m.quality == "sanity"]
        failed = [[list(self.metrics)[k] for k, m in sane if mean[i, k] > m.limit] for i in range(len(each))]
        tested = torch.ones(len(each), dtype=torch.bool)
        for k, test in sane:
            passed = torch.where(mean[:, k].isfinite(), (mean[:, k] > test.limit).double(), torch.nan)
            rank[:, k] = placed(passed, "lower")
            tested &= mean[:, k].isfinite() | ~mean[:, k].isfinite().any()
        first, why = recommended(self.labels, list(self.metrics), rank, counted, failed, tested)
        told = {
            "methods": self.labels,
            "metrics": list(self.metrics),
            "means": mean.tolist(),
            "better": better,
            "about": {k: dict(v) for k, v in self.about.items()},
            "refused": {k: c.refused for k, c in self.columns.items() if c.refused},
            "late": {k: c.late for k, c in self.columns.items() if c.late},
            "without": self._without(rows),
            "seconds": {k: c.explaining for k, c in self.columns.items()},
            "measuring": {k: c.measuring for k, c in self.columns.items()},
            "counted": [m for m, ok in zip(self.metrics, counted.tolist(), strict=True) if ok],
            "failed": {label: names for label, names in zip(self.labels, failed, strict=True) if names},
            "recommended": first,
            "reason": why,
        }
        parts = {
            "rows": rows,
            "low": figure("low"),
            "high": figure("high"),
            "rank": rank,
            "agreement": agreement([self.columns[label].map for label in self.labels]),
            "metric_agreement": spearman_matrix(rank),
        }
        seconds = sum(c.explaining + sum(c.measuring.values()) for c in self.columns.values())
        origin = answer.source(subject, ask, {"method": "comparison"}, layer, seconds)
        return Measure(values=mean, unit="each metric's own", parts=parts, source={**origin, "comparison": told})

    def _without(self, rows: Tensor) -> dict[str, list[int]]:
        """The rows that have no figure although the metric gave others, which no mean contains."""
        found = {}
        for i, label in enumerate(self.labels):
            some = rows[i].isfinite().any(1)
            bad = (~rows[i][some].isfinite()).any(0).nonzero()[:, 0].tolist()
            if bad:
                found[label] = bad
        return found


def recommended(
    labels: list[str],
    metrics: list[str],
    rank: Tensor,
    counted: Tensor,
    failed: list[list[str]],
    tested: Tensor,
) -> tuple[str, str]:
    """The method whose median rank is best among those with a figure by every metric that counts, and the reason."""
    ranked = rank.isfinite().any(0) & counted
    if not bool(ranked.any()):
        return "", "no metric that counts ranks anything"
    names, own = [m for m, ok in zip(metrics, ranked.tolist(), strict=True) if ok], rank[:, ranked]
    whole = own.isfinite().all(1) & tested
    if not bool(whole.any()):
        return "", f"no method has a figure by each of {', '.join(names)}"
    fails = sorted({m for bad, ok in zip(failed, whole.tolist(), strict=True) if ok for m in bad})
    whole = whole & torch.tensor([not bad for bad in failed])
    if not bool(whole.any()):
        return "", f"no method with a figure by each of {', '.join(names)} passes {' and '.join(fails)}"
    middle = torch.where(whole, own.nan_to_num(torch.inf).quantile(0.5, dim=1), torch.inf)
    tied = (middle == middle.min()).nonzero()[:, 0]
    best = int(tied[own[tied].mean(1).argmin()])
    places = ", ".join(f"{m} {r:g}" for m, r in zip(names, own[best].tolist(), strict=True))
    passing = f" and pass {' and '.join(fails)}" if fails else ""
    among = f"of {int(whole.sum())} methods that have every figure{passing} ({places})"
    why = f"its median rank, {middle[best].item():g}, is the best {among}"
    last = names[int(own[best].argmax())]
    return labels[best], why if bool((own[best] == own[best][0]).all()) else f"{why}; it does worst by {last}"


def agreement(maps: Sequence[Tensor | None]) -> Tensor:
    """The mean Spearman correlation over rows of each two maps; NaN where one of them is missing or flat."""
    ordered = [None if m is None else unit(ranks(m)) for m in maps]
    found = torch.full((len(maps), len(maps)), torch.nan, dtype=torch.float64)
    for i, a in enumerate(ordered):
        for j, b in enumerate(ordered[: i + 1]):
            if a is not None and b is not None and a.shape == b.shape:
                found[i, j] = found[j, i] = (a * b).sum(1).nanmean()
    return found


class Kept:
    """Finished columns in a folder, whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError("The 'folder' must exist", got=repr(str(folder)))

    def read(self, key: str, budget: float | None) -> Column | None:
        """The column of this key, unless it is not there or lacks what there is more time for now."""
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            return None
        found = load(path)
        assert isinstance(found, Measure)
        told, known = dict(found.source), {f.name for f in fields(Column)} - {"figures", "map"}
        had = told.pop("budget")
        if told["late"] and had is not None and (budget is None or budget > had):
            return None
        kept: dict[str, Any] = {k: told[k] for k in known}
        return Column(figures=found.values, map=found.parts.get("map"), **kept)

    def write(self, key: str, column: Column, budget: float | None) -> Column:
        """Keep a column, and the budget it was made with."""
        told = {f.name: getattr(column, f.name) for f in fields(Column) if f.name not in ("figures", "map")}
        parts = {} if column.map is None else {"map": column.map}
        result = Measure(values=column.figures, parts=parts, source={**told, "budget": budget})
        result.save(self.folder / f"{key}.safetensors", overwrite=True)
        return column


def key_of(subject: Subject, ask: Ask, method: Method, metrics: Mapping[str, Evaluation]) -> str:
    """What a column depends on."""
    target = ask.target
    told = {
        "method": method.config(),
        "layer": None if ask.layer is None else str(ask.layer),
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
