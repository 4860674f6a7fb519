"""What decompositions of a score share: the baseline's values at the explained place, and the measured gap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.engine import score
from pellucid.engine.ask import Ask, predict

Floats = tuple[Tensor, ...]


def at_place(ask: Ask, inputs: Floats) -> Floats:
    """The explained place's values for these inputs: the inputs themselves, or what they excite at the layer."""
    if ask.layer is None:
        return inputs
    if inputs[0].shape[0] == ask.inputs.rows:
        rows = ask.inputs.with_floats(inputs)
    else:
        rows = ask.inputs.take(torch.zeros(inputs[0].shape[0], dtype=torch.long)).with_floats(inputs)
    return (predict(ask.subject, rows, ask.memory, ask.layer),)


def gaps(values: Floats, found: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Score, baseline score, and the measured gap |sum of values - (score - baseline score)|, absolute and relative."""
    found, reference = found.detach().double().cpu(), reference.detach().double().cpu()
    total = torch.stack([v.flatten(1).double().sum(1).cpu() for v in values]).sum(0)
    change = found - reference
    gap = (total - change).abs()
    # Where the score does not change, relative to rounding, there is nothing to have a share of.
    floor = 1e-6 * (found.abs() + reference.abs()) + 1e-30
    return {
        "score": found,
        "baseline_score": reference,
        "completeness_gap": gap,
        "relative_gap": gap / torch.maximum(change.abs(), floor),
    }


def completeness(ask: Ask, values: Floats, base: Floats, found: Tensor) -> dict[str, Tensor]:
    """The same, where the baseline's score has still to be asked for."""
    return gaps(values, found, score.at(ask, base))


def wrap(ask: Ask, values: Floats) -> Any:
    """Values in the structure of the inputs, or the one tensor of a layer."""
    return values[0] if ask.layer is not None else ask.inputs.wrap(values)
