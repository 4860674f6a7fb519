"""What decompositions of a score share: the baseline's values at the explained place, and the measured gap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import reference, score
from pellucid.engine.ask import Ask, predict
from pellucid.engine.data import as_rows
from pellucid.engine.inputs import Inputs

Floats = tuple[Tensor, ...]


def at_place(ask: Ask, inputs: Floats) -> Floats:
    """The explained place's values for these inputs: the inputs themselves, or what they excite at the layer."""
    if ask.layer is None:
        return inputs
    if not inputs:
        rows = ask.inputs
    elif inputs[0].shape[0] == ask.inputs.rows:
        rows = ask.inputs.with_floats(inputs)
    else:
        rows = ask.inputs.take(torch.zeros(inputs[0].shape[0], dtype=torch.long)).with_floats(inputs)
    return (predict(ask.subject, rows, ask.memory, ask.layer),)


def start(ask: Ask, spec: float | str) -> Floats:
    """The baseline's values at the explained place.

    At a layer they are what the input's baseline excites there. Integer inputs (token ids) have no such baseline of
    their own: then `spec` is taken of the layer's values, or `data=` holds other ids.
    """
    if ask.layer is None or ask.inputs.explained:
        return at_place(ask, reference.baseline(spec, ask.inputs, ask.data))
    if ask.data is not None:
        ids = as_rows(ask.data).inputs
        if [x.shape[1:] for x in ids.tensors] != [x.shape[1:] for x in ask.inputs.tensors] or ids.rows not in (
            1,
            ask.inputs.rows,
        ):
            raise InputError(
                "The baseline given as 'data' must be shaped like the inputs, one row for all or one per row",
                got=", ".join(str(tuple(x.shape)) for x in ids.tensors),
            )
        rows = torch.zeros(ask.inputs.rows, dtype=torch.long) if ids.rows == 1 else torch.arange(ids.rows)
        return (predict(ask.subject, ids.take(rows), ask.memory, ask.layer),)
    values = predict(ask.subject, ask.inputs, ask.memory, ask.layer)
    return reference.baseline(spec, Inputs((values,), single=True))


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
