"""Does the call give what a method needs? Asked of its card before any work, also for a method held by another."""

from __future__ import annotations

from typing import Any

from pellucid.contract.card import Card
from pellucid.contract.errors import InputError, NeedError
from pellucid.engine.inputs import Inputs
from pellucid.engine.subject import Subject

INSIDE = ("gradient", "layers", "backward rules")


def check(card: Card, subject: Subject, rows: Inputs, data: Any, layer: object) -> None:
    """Raise where the model, the data or the inputs are not what the card asks for."""
    if subject.module is None and (missing := [n for n in card.needs if n in INSIDE]):
        raise NeedError(
            f"{card.title} needs {', '.join(missing)}, so the 'model' must be a torch module",
            got=type(subject.model).__name__,
            hint="a method that needs predictions alone: `pellucid methods --needs predictions`",
        )
    if data is None and ("data" in card.needs or "labels" in card.needs):
        raise NeedError(
            f"{card.title} needs examples to learn from",
            got="data=None",
            hint="data=X_train, or data=(X_train, y_train)",
        )
    if data is None and "masks" in card.needs:
        raise NeedError(
            f"{card.title} needs to know which places of each row are the right ones",
            got="data=None",
            hint='data={"masks": ...}, with one truth value per place of each row',
        )
    if "image" in card.needs and layer is None and any(x.dim() != 4 for x in rows.floats):
        raise InputError(
            f"{card.title} needs images: 'inputs' laid out as (rows, channels, height, width)",
            got=f"shape {tuple(rows.tensors[0].shape)}",
        )
    if "table" in card.needs and (not rows.single or rows.tensors[0].dim() != 2):
        got = ", ".join(f"shape {tuple(x.shape)}" for x in rows.tensors)
        raise InputError(f"{card.title} needs a table: 'inputs' of shape (rows, columns)", got=got)
    if "table" in card.needs and not rows.floats:
        raise InputError(f"{card.title} needs a table of floating columns", got=str(rows.tensors[0].dtype))
