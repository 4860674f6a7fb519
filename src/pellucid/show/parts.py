"""What an attribution holds, part by part: which input each value belongs to, and which picture suits it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.show.facts import card_of
from pellucid.show.words import clean

REGIONS = ("upper left", "top", "upper right", "left", "middle", "right", "lower left", "bottom", "lower right")

PADDING = "<pad>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The values of one input, (N, ...) on the CPU, with the input where it is known.

    `kind` is "image", "tokens", "table", "heat", "overall", which has values of features and no rows, or "matrix", which
    has values for each of several `words` of a row. `names` are those of positions, `vocabulary` those of token numbers.
    """

    name: str
    values: Tensor
    inputs: Tensor | None
    kind: str
    names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    signed: bool = True
    words: tuple[tuple[int, ...], ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are to draw."""
        return 1 if self.kind == "overall" else self.values.shape[0]

    def heat(self, row: int) -> Tensor:
        """The values of one row in the shape in which they are drawn: channels and embedding axes are summed."""
        if self.kind == "overall":
            return self.values
        value = self.values[row]
        if self.kind == "image":
            return value.sum(0)
        if self.kind == "tokens":
            return value.flatten(1).sum(1) if value.dim() > 1 else value
        if self.kind == "table":
            return value
        flat = value.reshape(value.shape[0], -1) if value.dim() > 1 else value[None]
        return flat.T if value.dim() == 2 else flat

    def label(self, position: int, row: int) -> str:
        """The name of a feature or token, with its input value where that is known."""
        given = self.names[position] if position < len(self.names) else ""
        if self.kind in ("tokens", "matrix"):
            ids = self.inputs
            known = ids is not None and not ids.is_floating_point() and ids.dim() == 2
            number = int(ids[row, position]) if ids is not None and known else -1
            word = self.vocabulary[number] if 0 <= number < len(self.vocabulary) else ""
            return given or word or (f"#{number}" if known else f"token {position + 1}")
        return given or f"{'unit' if self.inputs is None else 'input'} {position}"

    def length(self, row: int) -> int:
        """How many tokens a row has, without padding at its end that got nothing."""
        heat = self.heat(row)
        count = len(heat)
        while count > 1 and self.label(count - 1, row) == PADDING and float(heat[count - 1]) == 0:
            count -= 1
        return count

    def value(self, position: int, row: int) -> float | None:
        """The input value of a column, where that is known."""
        if self.kind != "table" or self.inputs is None:
            return None
        return float(self.inputs[row, position])


def parts(result: Attribution) -> list[Part]:
    """The parts of a result: one for each tensor of values."""
    inputs, features = _named(result.context.inputs), tuple(map(clean, result.context.features))
    signed = not (_sized(result.source.get("settings", {})) and _never_negative(result.values))
    found: list[Part] = []
    for name, value in _named(result.values).items():
        value = value.detach().cpu()
        given = _matching(value, inputs, name, layer=result.source.get("layer"))
        words = _words(result.source.get("explained_words"), value)
        kind = "matrix" if words else _kind(value, given)
        columns = value.shape[0] if kind == "overall" else value.shape[1] if value.dim() > 1 else 0
        names = features if len(features) == columns and kind in ("table", "tokens", "overall") else ()
        spelt = not names and kind in ("tokens", "matrix") and _spelt(inputs, len(features))
        if kind == "matrix" and not found and not spelt and len(features) == columns:
            names = features  # of what was read first; what was written has names of its own
        found.append(
            Part(
                name=clean(name),
                values=value,
                inputs=given,
                kind=kind,
                names=names,
                vocabulary=features if spelt else (),
                signed=signed,
                words=words,
            )
        )
    return found


def _words(given: Any, value: Tensor) -> tuple[tuple[int, ...], ...]:
    """The words that a row's last axis stands for, where the source tells them. Files may hold anything."""
    if value.dim() != 3 or not isinstance(given, list) or len(given) != value.shape[0]:
        return ()
    if not all(isinstance(row, list) and len(row) == value.shape[2] for row in given):
        return ()
    return tuple(map(tuple, given)) if all(type(w) is int for row in given for w in row) else ()


def _spelt(inputs: Mapping[str, Tensor], words: int) -> bool:
    """Whether the feature names can be the words of the token numbers: there is nothing else for them to name."""
    return all(not x.is_floating_point() and int(x.max()) < words for x in inputs.values())


def unit(result: Attribution) -> str:
    """What the numbers are measured in."""
    if "relative_gap" in result.facts or "completeness_gap" in result.facts:
        return "share of the score"
    card = card_of(result)
    return clean(getattr(card, "unit", "")) or "value, on the method's own scale"


def _named(value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {"": value}
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value or ())
    names = {k: str(k) if isinstance(k, str) else f"input {k + 1}" for k, _ in pairs}
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value or ())
    return {names[k]: v for k, v in pairs if isinstance(v, Tensor)}


def _matching(value: Tensor, inputs: Mapping[str, Tensor], name: str, layer: Any) -> Tensor | None:
    """The input a value belongs to: of the same name; for values inside the model, token ids or an image it came from."""
    if layer is None and name in inputs and inputs[name].shape[0] == value.shape[0]:
        return inputs[name].detach().cpu()
    for given in inputs.values():
        tokens = not given.is_floating_point() and given.dim() == 2 and value.shape[:2] == given.shape
        image = value.dim() == 4 and given.dim() == 4 and value.shape[0] == given.shape[0]
        if (tokens and value.dim() in (2, 3)) or image:
            return given.detach().cpu()
    return None


def _kind(value: Tensor, given: Tensor | None) -> str:
    if value.dim() <= 1:
        return "overall"
    if given is not None and not given.is_floating_point() and given.dim() == 2 and value.shape[:2] == given.shape:
        return "tokens"
    return {2: "table", 4: "image"}.get(value.dim(), "heat")


def _sized(settings: Any) -> bool:
    """Whether the settings ask for sizes, without a sign."""
    if not isinstance(settings, Mapping):
        return False
    here = any(settings.get(k) is True for k in ("absolute", "squared")) or settings.get("channels") == "norm"
    return here or any(_sized(v) for v in settings.values())


def _never_negative(values: Any) -> bool:
    return all(bool((torch.nan_to_num(v) >= 0).all()) for v in _named(values).values())


def regions(heat: Tensor) -> list[tuple[str, float]]:
    """Nine parts of a map with the share of its total that each holds, largest first; heat must not be negative."""
    total = float(heat.sum())
    if total <= 0:
        return []
    found = []
    for i, line in enumerate(thirds(heat.shape[0])):
        for j, column in enumerate(thirds(heat.shape[1])):
            found.append((REGIONS[3 * i + j], float(heat[line, column].sum()) / total))
    return sorted(found, key=lambda pair: -pair[1])


def thirds(length: int) -> list[slice]:
    """Three slices of about equal length."""
    edges = [round(length * k / 3) for k in range(4)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
