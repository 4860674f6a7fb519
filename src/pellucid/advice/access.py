"""What a call gives (kind of input, problem, family of networks), and so which methods can't work, before any is tried."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pellucid.contract.card import Card
from pellucid.contract.errors import PellucidError
from pellucid.engine import Subject, needs
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import embedding

__all__ = ["families", "kinds", "obstacle", "place", "problem"]

# What the catalogue calls kinds of data, by the number of axes of a floating input; and the field guide's word for it.
_KINDS = {2: {"table"}, 3: {"sequence", "tokens", "text"}, 4: {"image"}}
_GUIDE = {2: "table", 3: "embedding", 4: "image"}
_TOKENS = {"sequence", "tokens", "text"}
_LAYERED = ("spatial layer", "pooled head", "separate head")


def kinds(subject: Subject, rows: Inputs) -> set[str] | None:
    """The kinds of data that the inputs can be; `None` where their layout does not say."""
    if not rows.explained:  # whole numbers are words where the model looks them up, else they may be codes in a table
        return _TOKENS if place(subject, rows) is not None else {"table", *_TOKENS}
    if not rows.single:
        return None
    return _KINDS.get(rows.tensors[0].dim())


def guide_kind(rows: Inputs) -> str | None:
    """The field guide's word for the inputs."""
    if not rows.explained:
        return "text"
    return _GUIDE.get(rows.tensors[0].dim()) if rows.single else None


def problem(output: Tensor) -> str | None:
    """The field guide's word for what the model does, as far as the shape of its output says."""
    if output.dim() == 1 or (output.dim() == 2 and output.shape[1] == 1):
        return "regression"
    return "classification" if output.dim() == 2 else None


def families(subject: Subject) -> set[str]:
    """The families of networks that the modules of a model belong to; functions inside it are not seen."""
    parts = [] if subject.module is None else [*subject.module.modules()]
    found = set()
    if any(isinstance(p, nn.Conv1d | nn.Conv2d | nn.Conv3d) for p in parts):
        found.add("CNN")
    if any(isinstance(p, nn.RNNBase | nn.RNNCellBase) for p in parts):
        found.add("RNN")
    if any(isinstance(p, nn.LSTM | nn.LSTMCell) for p in parts):
        found.add("LSTM")
    if any(isinstance(p, nn.MultiheadAttention) for p in parts):
        found |= {"transformer", "attention"}
    if sum(isinstance(p, nn.Linear) for p in parts) > 1 or found:
        found.add("multilayer")
    return found


def place(subject: Subject, rows: Inputs) -> str | None:
    """Where rows of tokens are explained: at the embedding, as their numbers can't be changed a little."""
    return None if rows.explained else embedding(subject.module)


def obstacle(card: Card, subject: Subject, rows: Inputs, data: Any, layer: str | None) -> str:
    """Why a method can't work on this call; empty where nothing stands in the way."""
    if card.active or card.kind != "method":
        return "the network has to be built or trained for it"
    if subject.module is None and {*_LAYERED} & {*card.needs}:
        return f"{card.title} needs places inside the model, and the model is a plain function"
    try:
        needs.check(card, subject, rows, data, layer)
    except PellucidError as error:
        return error.problem + (f": got {error.got}" if error.got else "")
    here = kinds(subject, rows)
    if here is not None and "any" not in card.data_types and not here & {*card.data_types}:
        return f"it is for {' or '.join(card.data_types)}, and the inputs are {' or '.join(sorted(here))}"
    return ""
