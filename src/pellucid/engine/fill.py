"""What is put in the place of something? The values that are perturbed, what replaces them, and the replacing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, LayerError
from pellucid.engine import reference
from pellucid.engine.ask import Ask, predict
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs

Spec = float | str


def explained(ask: Ask) -> Inputs:
    """The values to perturb: the inputs, or, where a layer is asked for, what the model holds there, as one tensor."""
    if ask.layer is None:
        if not ask.inputs.explained:
            raise InputError(
                "The 'inputs' must have a floating tensor, whose parts can be replaced",
                got=", ".join(str(x.dtype) for x in ask.inputs.tensors),
                hint="layer= the name of the embedding",
            )
        return ask.inputs
    values = predict(ask.subject, ask.inputs, ask.memory, ask.layer)
    if not values.is_floating_point():
        raise LayerError(
            f"The 'layer' {str(ask.layer)!r} must hold floating values",
            got=str(values.dtype),
            hint="the output of the embedding",
        )
    return Inputs((values,), (), True)


def values_of(data: Any, ask: Ask) -> Inputs:
    """Rows of `data`, which must be like the model's inputs, as values of what is explained: inputs, or a layer's."""
    rows = rows_like(data, ask.inputs).inputs
    return rows if ask.layer is None else Inputs((predict(ask.subject, rows, ask.memory, ask.layer),), (), True)


def fills(spec: Spec | Sequence[Spec], held: Inputs, data: Any = None) -> list[tuple[Tensor, ...]]:
    """One or several sets of values that stand for absence, each shaped like the explained values.

    `spec` is a number, a name such as "mean" or "blur", or a tuple of them; `data` holds the values themselves.
    """
    several = isinstance(spec, tuple | list)
    specs: list[Any] = list(spec) if isinstance(spec, tuple | list) else [spec]
    if not specs:
        raise InputError("The 'baseline' must name at least one fill", got=repr(spec), hint="baseline=0.0")
    if data is not None and several:
        raise InputError(
            "The 'baseline' must be one fill where 'data' holds the fill itself",
            got=f"{len(specs)} fills",
            hint="data=None, or one call per fill",
        )
    return [reference.baseline(one, held, data) for one in specs]


def put(values: Tensor, fill: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """For each job the row `rows[job]` of `values`, with `fill` where `inside[job]`; a new tensor.

    Jobs of one row are the usual case, and are made by broadcasting, so that nothing is copied twice.
    """
    rows = rows[:1] if bool((rows == rows[0]).all()) else rows
    rows = rows.to(values.device)
    return torch.where(inside, fill[rows], values[rows])
