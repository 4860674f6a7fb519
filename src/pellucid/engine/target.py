"""What is explained: one score per row, out of the model's output or of a place inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import TargetError

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class unit:
    """A hidden unit, channel or direction as the target: `unit("conv2", 5)`, `unit("conv2", (5, 2, 3))`.

    Args:
        place: a place inside the model, such as "layer4.1.conv2" or "relu#2".
        index: position in the place's axes after the row axis; a shorter index leaves axes for `reduce`.
        reduce: "mean", "sum", "max" or "norm" over the axes that are left.
    """

    place: str
    index: int | tuple[int, ...] = ()
    reduce: str = "mean"

    def score(self, values: Tensor) -> Tensor:
        """One number per row."""
        index = (self.index,) if isinstance(self.index, int) else tuple(self.index)
        if len(index) > values.dim() - 1 or any(not -n <= i < n for i, n in zip(index, values.shape[1:], strict=False)):
            raise TargetError(
                f"The 'target' unit must lie inside {self.place!r}, of shape {tuple(values.shape[1:])} a row",
                got=str(self.index),
            )
        left = values
        for i in index:
            left = left.select(1, i)
        if left.dim() == 1:
            return left
        left = left.flatten(1)
        if self.reduce not in ("mean", "sum", "max", "norm"):
            raise TargetError("The 'reduce' of a unit must be 'mean', 'sum', 'max' or 'norm'", got=repr(self.reduce))
        return {
            "mean": lambda: left.mean(1),
            "sum": lambda: left.sum(1),
            "max": lambda: left.amax(1),
            "norm": lambda: left.norm(dim=1),
        }[self.reduce]()


@dataclass(frozen=True)
class margin:
    """The score of one class minus that of another: `margin(3, 8)` asks why 3 rather than 8."""

    towards: int
    against: int

    def __call__(self, output: Tensor) -> Tensor:
        """One number per row."""
        return output[:, self.towards] - output[:, self.against]


@dataclass(frozen=True, eq=False)
class Target:
    """A target checked against the call: `index` per row where classes were asked for, else a `function`."""

    index: Tensor | None = None
    function: Score | None = None
    place: str | None = None
    name: str = ""

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        """One score per row of `output`; `rows` says which rows of the call they are."""
        if self.function is not None:
            score = self.function(output)
            if not isinstance(score, Tensor) or score.shape != (output.shape[0],):
                got = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
                raise TargetError(f"The 'target' must give one number per row, ({output.shape[0]},)", got=got)
            return score
        if self.index is None:
            return output.reshape(output.shape[0])
        index = self.index if rows is None else self.index[rows.to(self.index.device)]
        return output.flatten(1).gather(1, index.to(output.device)[:, None])[:, 0]


def as_target(value: Any, rows: int, classes: int | None = None) -> Any:
    """Check what can be checked before the model runs; gives back `None`, ints (N,), a `unit` or a callable."""
    if value is None or isinstance(value, unit) or (callable(value) and not isinstance(value, Tensor)):
        return value
    index = value
    if isinstance(value, bool | float | str) or (isinstance(value, Tensor) and value.is_floating_point()):
        raise _wrong(value, rows)
    if isinstance(value, int):
        try:
            index = torch.full((rows,), value, dtype=torch.long)
        except (OverflowError, RuntimeError):
            raise TargetError("The 'target' must be a class of the model", got=repr(value)) from None
    elif isinstance(value, Sequence) or (hasattr(value, "__array__") and not isinstance(value, Tensor)):
        try:
            index = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise _wrong(value, rows) from None
    if not isinstance(index, Tensor) or index.is_floating_point() or index.is_complex():
        raise _wrong(value, rows)
    if index.dtype == torch.bool:
        if index.dim() != 2 or index.shape[0] != rows or not bool((index.sum(1) == 1).all()):
            raise _wrong(value, rows)
        return index.long().argmax(1)
    index = index.detach().long()
    if index.dim() == 0:
        index = index.expand(rows)
    if index.shape == (rows, 1):
        index = index[:, 0]
    if index.shape != (rows,):
        raise _wrong(value, rows)
    if classes:
        _in_range(index, classes)
    return index.clone()


def settle(value: Any, output: Tensor) -> Target:
    """The target for this output: the predicted class of each row where nothing was asked."""
    rows, shape = output.shape[0], tuple(output.shape)
    if isinstance(value, unit):
        return Target(function=value.score, place=value.place, name=f"{value.place}{value.index or ''}")
    if callable(value):
        target = Target(function=value, name=getattr(value, "__name__", repr(value)))
        target.score(output)
        return target
    if output.dim() > 2 and any(n > 1 for n in shape[2:]):
        raise TargetError(
            f"The 'target' must be a function of an output of shape {shape} that gives one number per row",
            got=repr(value) if value is None else "class numbers",
            hint="target=lambda out: out[:, -1, token], or the mean of a region",
        )
    output = output.reshape(rows, -1)
    if value is None:
        return Target() if output.shape[1] == 1 else Target(index=output.detach().argmax(1))
    _in_range(value, output.shape[1])
    if output.dim() == 2 and output.shape[1] == 1:
        return Target()
    return Target(index=torch.where(value < 0, value + output.shape[1], value).to(output.device))


def _in_range(index: Tensor, classes: int) -> None:
    if bool((index >= classes).any()) or bool((index < -classes).any()):
        worst = int(index[(index >= classes) | (index < -classes)][0])
        raise TargetError(f"The 'target' must be a class from 0 to {classes - 1}", got=str(worst))


def _wrong(value: Any, rows: int) -> TargetError:
    got = f"{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else ""
    return TargetError(
        f"The 'target' must be None, an int, {rows} ints (one per row), or a function from the output to ({rows},)",
        got=got or repr(value)[:80],
        hint="target=3, or target=lambda out: out[:, 3] - out[:, 8]",
    )
