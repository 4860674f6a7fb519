"""The five qualities of an explanation side by side: exact, consistent, complete, universal, and worth acting on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Measure, Method
from pellucid.contract.errors import InputError, PellucidError
from pellucid.engine import explain
from pellucid.engine.evaluation import Evaluation, overall
from pellucid.engine.ranks import placed
from pellucid.engine.settings import whole
from pellucid.evaluation.coverage import Coverage
from pellucid.evaluation.exactness import Exactness
from pellucid.evaluation.proxies import reason
from pellucid.evaluation.repeatability import Consistency
from pellucid.evaluation.reward import Reward
from pellucid.evaluation.three_c import labelled, pareto
from pellucid.evaluation.universality import universality

__all__ = ["scorecard"]

QUALITIES = ("exactness", "consistency", "completeness", "universality", "reward")
BETTER = ("lower", "higher", "higher", "higher", "higher")


def scorecard(
    model: Any,
    inputs: Any,
    methods: Any,
    *,
    reward: Reward | None = None,
    reward_data: Any = None,
    target: Any = None,
    layer: str | None = None,
    data: Any = None,
    architectures: tuple[str, ...] = (),
    seeds: int = 2,
    seed: int = 0,
) -> Measure:
    """How exact, consistent, complete, universal and rewarding is each of several explanations of this model?

    Each quality is the measurement of that name on the caller's own model and rows (`Exactness`, `Consistency`,
    `Coverage`), on small models of every kind (`Universality`), or by an experiment that the caller gives (`Reward`).

    Args:
        model, inputs, target, layer, data, seed: as for `px.explain`; data goes to the methods whose cards ask for it.
        methods: names or values, or a dict from labels to them.
        reward: the experiment, such as ``Reward(act="mask")``; without it that quality is left open, and says so.
        reward_data: its ``data``.
        architectures: some of the kinds of model for universality; () for all.
        seeds: seeds under which each quality on the caller's rows is measured; figures are means over rows and seeds.

    Returns:
        A measure: ``values`` (methods, 5), the qualities in the order above. Exactness is an error, lower is better; the
        others are better higher. `parts`: ``low`` and ``high``, 95 % intervals, by Student's t over the rows and widened
        to hold every seed's own mean (Wilson's for universality, over the repeats for reward); ``order`` (methods, 5),
        the rank by each quality, from 1; ``apart`` (5, methods, methods), 1 where two intervals do not overlap, so that
        their order can be relied on; ``pareto`` (methods,), 1 for methods that no other equals or betters in all
        qualities that all of them have. ``source["panels"]`` has for each missing figure the reason, and for exactness
        against what it was measured: errors against different references are different questions.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 2).double().eval()
        >>> chosen = ["integrated-gradients", "vanilla-gradient"]
        >>> found = scorecard(net, torch.ones(2, 4).double(), chosen, architectures=("perceptron", "decision tree"))
        >>> found.values[:, 3].tolist(), found.source["panels"]["reasons"]["vanilla-gradient"]["reward"][:13]
        ([0.5, 0.5], 'no experiment')
    """
    whole(seeds=(seeds, 1))
    if reward is not None and not isinstance(reward, Reward):
        raise InputError("The 'reward' must be an experiment", got=type(reward).__name__, hint="Reward(act='mask')")
    chosen = labelled(methods)
    cells = torch.full((len(chosen), len(QUALITIES), 3), torch.nan, dtype=torch.float64)
    reasons: dict[str, dict[str, str]] = {}
    asked = {"target": target, "layer": layer}
    for i, (label, method) in enumerate(chosen.items()):
        given = data if {"data", "labels"} & set(method.card.needs) else None
        trials = _trials(method, reward, reward_data, given, asked)
        said = reasons.setdefault(label, {})
        for j, name in enumerate(QUALITIES):
            if name == "universality":
                cells[i, j], said[name] = everywhere(method, architectures, seed)
                continue
            if name not in trials:
                said[name] = "no experiment was given: reward=Reward(act=...), reward_data=..."
                continue
            metric, settings, repeats = trials[name]
            try:
                found = [
                    explain(model, inputs, metric, seed=seed + k, **settings) for k in range(seeds if repeats else 1)
                ]
            except PellucidError as error:
                said[name] = reason(error)
                continue
            cells[i, j] = figure(found)
            if name == "exactness":
                said[name] = f"measured against {found[0].source['reference']}"
    return _told(chosen, cells, {k: {n: t for n, t in v.items() if t} for k, v in reasons.items()}, seed)


def _trials(
    method: Method,
    reward: Reward | None,
    reward_data: Any,
    given: Any,
    asked: Mapping[str, Any],
) -> dict[str, tuple[Evaluation, dict[str, Any], bool]]:
    """By quality its measurement, how it is asked, and whether it is asked again with other seeds."""
    here = {**asked, "data": given}
    found: dict[str, tuple[Evaluation, dict[str, Any], bool]] = {
        "exactness": (Exactness(of=method), here, True),
        "consistency": (Consistency(of=method), here, True),
        "completeness": (Coverage(of=method), here, False),
    }
    if reward is not None:
        settings = {k: getattr(reward, k) for k in ("act", "share", "features", "repeats", "epochs")}
        own = (
            {**reward_data, "explanation": given}
            if isinstance(reward_data, Mapping) and given is not None
            else reward_data
        )
        found["reward"] = (Reward(of=method, **settings), {**asked, "data": own}, True)
    return found


def everywhere(method: Method, architectures: tuple[str, ...], seed: int) -> tuple[Tensor, str]:
    """On what share of the kinds of model it works, with its interval, and why not on others."""
    found = universality([method], architectures, seed=seed)
    (row,) = found.source["universality"]["cells"].values()
    worst = [f"{k}: {v}" for k, v in row.items() if v != "works"]
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    ends = torch.stack([found.values[0], found.parts["low"][0], found.parts["high"][0]])
    return ends, "; ".join(worst[:3]) + more


def figure(found: list[Measure]) -> Tensor:
    """Mean, low and high: over rows and seeds, wide enough for every seed's own mean."""
    if "low" in found[0].facts:  # it brings an interval of its own
        each = torch.stack([torch.stack([f.values[0], f.facts["low"][0], f.facts["high"][0]]) for f in found]).double()
        return torch.stack([each[:, 0].mean(), each[:, 1].amin(), each[:, 2].amax()])
    rows = torch.stack([f.values.double().cpu() for f in found])
    said = overall(rows.mean(0))
    if said["mean"] is None:
        return torch.full((3,), torch.nan, dtype=torch.float64)
    means = rows[:, rows.isfinite().all(0)].mean(1)
    low, high = said.get("low", math.nan), said.get("high", math.nan)
    ends = (min(low, float(means.min())), max(high, float(means.max()))) if math.isfinite(low) else (low, high)
    return torch.tensor([said["mean"], *ends], dtype=torch.float64)


def _told(chosen: Mapping[str, Method], cells: Tensor, reasons: dict[str, dict[str, str]], seed: int) -> Measure:
    values, low, high = cells.unbind(2)
    settled = (values * 1e9).round() / 1e9  # rounding must not decide who is first
    known = values.isfinite().any(0)
    shared = settled[:, known] if bool(known.any()) else settled
    better = tuple(b for b, k in zip(BETTER, known.tolist(), strict=True) if k) or BETTER
    told = {
        "title": "The five qualities of an explanation",
        "methods": list(chosen),
        "figures": list(QUALITIES),
        "better": list(BETTER),
        "reasons": reasons,
        "marked": "no other is as good in every quality that was measured and better in one",
    }
    return Measure(
        values=values,
        unit="each quality's own",
        parts={
            "low": low,
            "high": high,
            "order": torch.stack([placed(settled[:, j], BETTER[j]) for j in range(len(QUALITIES))], 1),
            "apart": torch.stack([apart(low[:, j], high[:, j]) for j in range(len(QUALITIES))]),
            "pareto": pareto(shared, better),
        },
        source={"method": "scorecard", "settings": {}, "seed": seed, "panels": told},
    )


def apart(low: Tensor, high: Tensor) -> Tensor:
    """1 where the intervals of two methods do not overlap."""
    return ((low[:, None] > high[None]) | (high[:, None] < low[None])).double()
