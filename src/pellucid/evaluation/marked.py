"""Which places did people mark, and what does an explanation say of them? Masks, boxes and maps, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import tensors
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask
from pellucid.engine.evaluation import Judged

__all__: list[str] = []

POOLINGS = ("sum", "absolute", "norm", "largest")


def refuse_pooling(pooling: str) -> None:
    """Raise where it is none of the known."""
    if pooling not in POOLINGS:
        raise MethodError(f"The 'pooling' must be one of {POOLINGS}", got=repr(pooling))


def places(ask: Ask) -> tuple[int, ...]:
    """The places of a row of inputs: an image without its channels, the steps of a sequence, the columns of a table."""
    floats = ask.inputs.floats
    if len(floats) > 1:
        raise InputError(
            "Localisation reads one map per row, so the 'inputs' must hold one floating tensor",
            got=", ".join(f"shape {tuple(x.shape)}" for x in floats),
        )
    shape = tuple((floats[0] if floats else ask.inputs.tensors[0]).shape)
    return shape[2:] if len(shape) > 3 else shape[1:2] if floats else shape[1:]


def maps(judged: Judged, at: tuple[int, ...] | None, pooling: str) -> Tensor:
    """One figure per place, (rows, places) in float64: a place's channels are pooled, and a coarse map is enlarged.

    `at` are the places that are wanted; None takes the map as it is.

    "sum": the channels' sum, with its sign; "absolute": its magnitude; "norm": the root of the sum of squares; "largest":
    the largest magnitude.
    """
    parts = tensors(judged.values)
    if len(parts) != 1:
        raise MethodError("Localisation reads one map per row", got=f"an attribution of {len(parts)} tensors")
    values = parts[0].detach().cpu().double()
    axis = {2: None, 3: 2}.get(values.dim(), 1)
    whole = values[:, None] if axis is None else values.movedim(axis, 1)
    if pooling in ("sum", "absolute"):
        found = whole.sum(1) if pooling == "sum" else whole.sum(1).abs()
    else:
        found = whole.norm(dim=1) if pooling == "norm" else whole.abs().amax(1)
    at = tuple(found.shape[1:]) if at is None else at
    if found.shape[1:] != at and found.dim() == 3 and len(at) == 2:
        found = functional.interpolate(found[:, None], size=at, mode="bilinear", align_corners=False)[:, 0]
    if found.shape[1:] != at:
        raise InputError(
            f"The 'masks' must have one entry per place of the explanation, {tuple(found.shape[1:])} a row",
            got=f"shape {at} a row",
        )
    return found


def marks(ask: Ask, own: Mapping[str, Any], shares: bool = False) -> Tensor:
    """The masks, (rows or 1, places): booleans, or with `shares` numbers from 0 to 1.

    One mask serves all rows. An axis of one channel may follow the rows; with `shares`, one of people, who are averaged.
    """
    if own.get("masks") is None:
        raise NeedError(
            "Localisation needs masks of the places that are right",
            got=", ".join(own) or "other data",
            hint='data={"masks": masks, "explanation": the explanation\'s own data}',
        )
    found = torch.as_tensor(own["masks"]).detach().cpu()
    at, layered = places(ask), ask.layer is not None
    if found.dim() == len(at) + 2 and (shares or found.shape[1] == 1):
        found = found.double().mean(1) if shares else found[:, 0]
    wrong = found.dim() != len(at) + 1 and not layered
    if wrong or found.shape[0] not in (1, ask.inputs.rows) or (not layered and tuple(found.shape[1:]) != at):
        raise InputError(
            f"The 'masks' must have shape {(ask.inputs.rows, *at)}, or one row for all", got=f"{tuple(found.shape)}"
        )
    if not bool(((found >= 0) & (found <= 1)).all()) or (not shares and not bool(((found == 0) | (found == 1)).all())):
        raise InputError(
            f"The 'masks' must be {'shares from 0 to 1' if shares else 'truth values'}",
            got=f"values from {float(found.min()):.3g} to {float(found.max()):.3g}",
        )
    return found.double() if shares else found.bool()


def boxes(ask: Ask, own: Mapping[str, Any]) -> Tensor:
    """True boxes (rows, boxes, 4) as top, left, bottom, right, the last two exclusive, of `boxes` or around `masks`."""
    if own.get("boxes") is None:
        return torch.stack([around(mask)[None] for mask in marks(ask, own).expand(ask.inputs.rows, *places(ask))])
    found, (height, width) = torch.as_tensor(own["boxes"]).detach().cpu().double(), places(ask)
    found = found[:, None] if found.dim() == 2 else found
    if found.dim() != 3 or found.shape[2] != 4 or found.shape[0] not in (1, ask.inputs.rows):
        raise InputError(
            f"The 'boxes' must be top, left, bottom, right for each row: ({ask.inputs.rows}, 4), or boxes a row between",
            got=f"shape {tuple(torch.as_tensor(own['boxes']).shape)}",
        )
    top, left, bottom, right = found.unbind(2)
    inside = (top >= 0) & (left >= 0) & (bottom <= height) & (right <= width) & (top <= bottom) & (left <= right)
    if not bool(inside.all()):
        raise InputError(
            f"The 'boxes' must lie inside the image, {height} by {width}, as top, left, bottom, right (exclusive)",
            got=str(found[~inside][0].tolist()),
        )
    return found.expand(ask.inputs.rows, *found.shape[1:])


def around(mask: Tensor) -> Tensor:
    """The smallest box that holds a mask's (height, width) true places; zeros where there are none."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return torch.zeros(4, dtype=torch.float64)
    return torch.tensor([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], dtype=torch.float64)


def filled(found: Tensor, at: tuple[int, ...]) -> Tensor:
    """The places (rows, height, width) inside any of each row's boxes."""
    high, wide = (torch.arange(n, dtype=torch.float64) for n in at)
    top, left, bottom, right = (found[:, :, k, None] for k in range(4))
    tall, broad = (high >= top) & (high < bottom), (wide >= left) & (wide < right)
    return (tall[:, :, :, None] & broad[:, :, None, :]).any(1)


def near(mask: Tensor, distance: float) -> Tensor:
    """The places (rows, places) at most `distance` away from a true one, from centre to centre."""
    from scipy.ndimage import distance_transform_edt

    if distance == 0:
        return mask
    found = [distance_transform_edt(~m) <= distance if m.any() else np.zeros(m.shape, bool) for m in mask.numpy()]
    return torch.from_numpy(np.stack(found))
