"""What methods learn from, in any of the shapes people have it: tensor, (X, y), Dataset, DataLoader, a world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.contract.errors import InputError, NeedError
from pellucid.engine.inputs import Inputs, as_inputs


@dataclass(frozen=True, eq=False)
class Rows:
    """Examples, with labels where they were given."""

    inputs: Inputs
    labels: Tensor | None = None


def as_rows(data: Any, *, labels: bool = False) -> Rows:
    """Examples out of `data`; with `labels=True` they must have labels."""
    if isinstance(data, Rows):
        rows = data
    elif isinstance(data, Tensor | np.ndarray):
        rows = Rows(as_inputs(_tensor(data), "data"))
    elif hasattr(data, "train") and not callable(data.train):
        rows = as_rows(data.train)
    elif isinstance(data, tuple | list) and len(data) == 2 and _is_labels(data[1]):
        inputs = as_inputs(data[0] if isinstance(data[0], Mapping | tuple | list) else _tensor(data[0]), "data")
        rows = Rows(inputs, torch.as_tensor(data[1]))
    elif isinstance(data, Mapping | tuple | list) and data and not _is_dataset(data):
        rows = Rows(as_inputs(data, "data"))
    elif not isinstance(data, str | bytes) and (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        rows = _from_items(data)
    else:
        raise InputError(
            "The 'data' must be a tensor, (X, y), a Dataset or a DataLoader",
            got=type(data).__name__,
            hint="data=(X, y)",
        )
    if labels and rows.labels is None:
        raise NeedError("The 'data' must have labels", got="examples alone", hint="data=(X, y)")
    if rows.labels is not None and rows.labels.shape[:1] != (rows.inputs.rows,):
        raise InputError(
            f"The 'data' must have one label per row, {rows.inputs.rows}", got=f"shape {tuple(rows.labels.shape)}"
        )
    return rows


def rows_like(data: Any, inputs: Inputs, *, labels: bool = False, shapes: bool = True) -> Rows:
    """Examples that the model can be called with as it is with `inputs`: same structure, device and floating type.

    With `shapes=False` the axes after the first may have other lengths, as token sequences have.
    """
    rows = as_rows(data, labels=labels)
    given, names = rows.inputs.tensors, rows.inputs.names
    if names and sorted(names) == sorted(inputs.names):
        given, names = tuple(given[names.index(name)] for name in inputs.names), inputs.names
    same = len(given) == len(inputs.tensors) and names == inputs.names
    if not same or not all(_alike(g, x, shapes) for g, x in zip(given, inputs.tensors, strict=True)):
        raise InputError(
            f"The 'data' must be rows like the 'inputs', {_shapes(inputs)}",
            got=_shapes(rows.inputs),
            hint="data= rows made and preprocessed as the inputs were",
        )
    kinds = [x.dtype if x.is_floating_point() else g.dtype for g, x in zip(given, inputs.tensors, strict=True)]
    moved = tuple(g.to(inputs.device, kind) for g, kind in zip(given, kinds, strict=True))
    return Rows(replace(inputs, tensors=moved), rows.labels)


def _alike(given: Tensor, like: Tensor, shapes: bool) -> bool:
    fits = given.shape[1:] == like.shape[1:] if shapes else given.dim() == like.dim()
    return fits and (like.is_floating_point() or not given.is_floating_point())


def _shapes(inputs: Inputs) -> str:
    names = inputs.names or ("",) * len(inputs.tensors)
    parts = (f"{n} (rows, {', '.join(map(str, x.shape[1:]))})" for n, x in zip(names, inputs.tensors, strict=True))
    return " and ".join(part.strip().replace(", )", ")") for part in parts)


def _tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _is_labels(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return len(value.shape) == 1 and (not isinstance(value, Tensor) or True)
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def _is_dataset(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], tuple)


def _from_items(data: Any) -> Rows:
    """Collect a Dataset or DataLoader; each item is x or (x, y), one row or a batch."""
    batched = type(data).__name__.endswith("DataLoader") or hasattr(data, "batch_sampler")
    items = data if batched or not hasattr(data, "__len__") else (data[i] for i in range(len(data)))
    xs, ys = [], []
    for item in items:
        x, y = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
        xs.append(torch.as_tensor(x) if batched else torch.as_tensor(x)[None])
        if y is not None:
            ys.append(torch.as_tensor(y) if batched else torch.as_tensor([y]))
    if not xs:
        raise InputError("The 'data' must hold at least one row", got="none")
    return Rows(as_inputs(torch.cat(xs), "data"), torch.cat(ys) if ys else None)
