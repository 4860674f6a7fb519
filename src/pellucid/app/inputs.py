"""What is explained, by name: `test:12`, `test:wrong`, a picture, an array, a table, or `text:some words`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.app import files, images
from pellucid.app.models import Loaded
from pellucid.contract.errors import InputError, TargetError
from pellucid.engine.inputs import as_inputs
from pellucid.worlds import World

MOST_WRONG = 16
LABELS = ("y", "labels", "label", "target", "class")
ROWS = ("X", "x", "inputs", "data")
_PART = re.compile(r"(train|test):(.+)")


@dataclass(frozen=True, kw_only=True)
class Read:
    """Rows to explain, what each is called, and their labels where those are known."""

    inputs: Any
    names: tuple[str, ...]
    labels: Tensor | None = None


def read(text: str, model: Loaded) -> Read:
    """The rows that a person means by `text`, in the type and shape that the model takes."""
    if match := _PART.fullmatch(text):
        return _of_world(match[1], match[2], model)
    if text.startswith("text:"):
        return _words(text.removeprefix("text:"), model)
    path, kind = Path(text), Path(text).suffix.lower()
    if kind in images.SUFFIXES:
        channels, height, width = model.picture or (3, 224, 224)
        return _named(_typed(images.read(path, (height, width), channels), model), path)
    if kind in (".npy", ".npz", ".safetensors"):
        found = files.arrays(path)
        labels = next((found.pop(k) for k in LABELS if k in found and len(found) > 1), None)
        chosen = files.only(found, ROWS)
        if chosen is None:
            return _named({k: _typed(v, model) for k, v in found.items()}, path)
        return _named(_with_rows(_typed(chosen, model), model), path, labels)
    if kind == ".csv":
        return _table(path, model)
    raise InputError(
        "The INPUT must be a row such as test:12, or a file",
        got=repr(text),
        hint="test:12, test:0-7, test:wrong, a .png, .jpg, .webp, .npy, .npz, .safetensors or .csv file, or text:…",
    )


def data(text: str | None, model: Loaded, *, learns: bool) -> Any:
    """What a method learns from: `train` or `test` of the model's world, or a file with rows and labels."""
    if text is None:
        return model.world.train if learns and model.world is not None else None
    if text in ("train", "test"):
        return getattr(_world(model, text), text)
    found = read(text, model)
    return found.inputs if found.labels is None else (found.inputs, found.labels)


def target(text: str | None, model: Loaded) -> int | None:
    """A class by its name or number."""
    classes = model.subject.classes
    if text is None or text in classes:
        return None if text is None else classes.index(text)
    try:
        return int(text)
    except ValueError:
        known = ", ".join(classes[:8]) or "the number of a class"
        raise TargetError("The --target must be a class of the model", got=repr(text), hint=known) from None


def _world(model: Loaded, text: str) -> World:
    if model.world is None:
        raise InputError(
            "Only models of the zoo bring rows with them",
            got=repr(text),
            hint="a file, such as picture.png or rows.npy",
        )
    return model.world


def _of_world(part: str, which: str, model: Loaded) -> Read:
    world = _world(model, f"{part}:{which}")
    inputs, labels = getattr(world, part)
    chosen = _wrong(inputs, labels, model, part) if which == "wrong" else _chosen(which, len(inputs), part)
    rows = torch.tensor(chosen)
    return Read(inputs=inputs[rows], labels=labels[rows], names=tuple(f"{part}:{i}" for i in chosen))


def _chosen(which: str, count: int, part: str) -> list[int]:
    """Row numbers out of "12", "0-7" or "3,5,9"."""
    rows: list[int] = []
    for piece in which.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < count:
            hint = f"{part}:12, {part}:0-7, {part}:3,5,9 or {part}:wrong"
            raise InputError(f"The INPUT must name rows from 0 to {count - 1}", got=repr(piece[:40]), hint=hint)
        rows += range(first, last + 1)
    return rows


def _wrong(inputs: Tensor, labels: Tensor, model: Loaded, part: str) -> list[int]:
    """The rows that the model takes for another class, the surest mistake first."""
    with torch.no_grad():
        output = model.subject.scores(as_inputs(inputs))
    if labels.is_floating_point() or output.dim() != 2 or output.shape[1] < 2:
        raise InputError("Only classifiers can be wrong", got=f"{part}:wrong for {model.name}", hint=f"{part}:0-7")
    sure = output.softmax(1).amax(1)
    wrong = (output.argmax(1) != labels).nonzero()[:, 0]
    if not len(wrong):
        raise InputError(f"The model must be wrong somewhere in {part}", got="no mistake", hint=f"{part}:0-7")
    return [int(i) for i in wrong[sure[wrong].argsort(descending=True, stable=True)][:MOST_WRONG]]


def _words(text: str, model: Loaded) -> Read:
    if model.tokenizer is None:
        raise InputError(
            "The MODEL must come with a tokenizer to read words", got=model.name, hint="an array of tokens"
        )
    found = model.tokenizer(text, return_tensors="pt", truncation=True)
    return Read(inputs={k: found[k] for k in ("input_ids", "attention_mask") if k in found}, names=(text[:40],))


def _table(path: Path, model: Loaded) -> Read:
    """A CSV file: columns by name where the model's features have the same names, else in their order.

    For models of the zoo the values are in the units that the data was collected in. A column called "label" or
    "class" holds the class, as name or number.
    """
    headings, cells = files.table(path)
    words = [h.strip().lower() for h in headings]
    at = next((words.index(k) for k in LABELS if k in words and k not in map(str.lower, model.subject.features)), None)
    labels = None if at is None else _labels([row[at] for row in cells], model.subject.classes, path.name)
    order = [i for i in range(len(cells[0])) if i != at]
    named = [f.lower() for f in model.subject.features]
    if named and set(named) <= set(words):
        order = [words.index(f) for f in named]
    if named and len(order) != len(named):
        raise InputError(f"{path.name} must have the model's {len(named)} columns", got=str(len(order)))
    rows = files.numbers([[row[i] for i in order] for row in cells], path.name)
    if model.world is not None:
        rows = model.world.standardised(rows)
    return _named(_typed(rows, model), path, labels)


def _labels(cells: Sequence[str], classes: Sequence[str], name: str) -> Tensor:
    numbers = {c: i for i, c in enumerate(classes)} | {str(i): i for i in range(len(classes) or 1000)}
    if unknown := [c for c in cells if c.strip() not in numbers]:
        raise InputError(f"The labels of {name} must be classes of the model", got=repr(unknown[0][:40]))
    return torch.tensor([numbers[c.strip()] for c in cells])


def _typed(values: Tensor, model: Loaded) -> Tensor:
    """Floating values in the model's own type; whole numbers, such as tokens, as they are."""
    if not values.is_floating_point():
        return values.float() if values.dtype in (torch.uint8, torch.bool) else values.long()
    first = next(iter(model.subject.module.parameters()), None) if model.subject.module is not None else None
    return values.to(first.dtype if first is not None and first.is_floating_point() else torch.float32)


def _with_rows(values: Tensor, model: Loaded) -> Tensor:
    """A single row of a known shape gets the axis of rows that it lacks."""
    shape = model.world.inputs.shape[1:] if model.world is not None else model.picture
    return values[None] if shape is not None and tuple(values.shape) == tuple(shape) else values


def _named(values: Any, path: Path, labels: Tensor | None = None) -> Read:
    count = as_inputs(values).rows
    names = (path.name,) if count == 1 else tuple(f"{path.name}:{i}" for i in range(count))
    return Read(inputs=values, names=names, labels=labels)
