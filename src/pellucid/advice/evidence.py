"""What the model itself says for one method against another: the same rows explained by each, and every map measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.advice.trial import Tried
from pellucid.contract.errors import PellucidError
from pellucid.engine import Subject
from pellucid.engine.inputs import Inputs
from pellucid.evaluation.comparing import compare

__all__ = ["Standing", "standings"]

MOST_METHODS, MOST_ROWS = 6, 4
# Rows that the model runs on to measure one explanation of one row by the comparison's own metrics, generously.
FORWARDS = 400


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a method did among those compared: its median rank over the metrics (1 is best), and the figures in words."""

    rank: float
    words: str


def standings(
    subject: Subject,
    rows: Inputs,
    tried: Mapping[str, Tried],
    *,
    target: Any,
    data: Any,
    seed: int,
    left: float,
    row: float,
) -> dict[str, Standing]:
    """The standings of the first few methods, as many as can be compared in the seconds that are left; none if under two.

    Maps that are not of the inputs can't be set beside the others, so methods at a hidden place are left out.
    `row` is the seconds of one row's forward pass among many.
    """
    count, budget = min(rows.rows, MOST_ROWS), max(left, 1.0)
    chosen: dict[str, Tried] = {}
    for name, t in tried.items():
        need = t.seconds * count / t.rows + FORWARDS * row * count
        if t.method.card.form == "attribution" and t.layer is None and need <= left and len(chosen) < MOST_METHODS:
            chosen[name], left = t, left - need
    if len(chosen) < 2:
        return {}
    wanted = target[:count] if isinstance(target, torch.Tensor) and target.dim() else target
    inputs = rows.take(torch.arange(count)).wrap_all()
    methods = {name: t.method for name, t in chosen.items()}
    try:
        found = compare(subject, inputs, methods, target=wanted, data=data, seed=seed, budget=budget / len(methods))
    except PellucidError:
        return {}
    told = found.source["comparison"]
    counted = torch.tensor([m in told["counted"] for m in told["metrics"]])
    ranks = found.parts["rank"][:, counted]
    standing = {}
    for number, name in enumerate(told["methods"]):
        good = torch.isfinite(ranks[number])
        if not good.any():
            continue
        rank = float(ranks[number][good].median())
        figures = [
            f"{metric} {value:.3g} ({told['better'][metric]} is better)"
            for metric, value in zip(told["metrics"], told["means"][number], strict=True)
            if told["better"].get(metric, "neither") != "neither"
        ]
        words = f"on {count} of these rows: {', '.join(figures)}; median rank {rank:g} of {len(chosen)} compared"
        standing[name] = Standing(rank=rank, words=words)
    return standing
