"""What information bottlenecks share: noise like the data's own, what passes it in bits, and what losing it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, predict, seed
from pellucid.engine.chance import LogProbability
from pellucid.engine.inputs import Inputs
from pellucid.engine.target import Target

__all__: list[str] = []

Floats = tuple[Tensor, ...]
BLOCK = 256  # rows of the data whose values are held at once
CONSTANT = 1e-9  # of a value's size: what rounding leaves of the spread of a value that never varies
BIT = math.log(2)


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean and standard deviation of each of a place's values over the data, in float64, without the row axis.

    `floor` is the least deviation that the noise gets; `still` marks values that are the same in every row.
    """

    mean: Floats
    deviation: Floats
    still: tuple[Tensor, ...]
    rows: int

    @property
    def size(self) -> int:
        """How many values a row has."""
        return sum(m.numel() for m in self.mean)

    def alive(self, values: Floats) -> tuple[Tensor, ...]:
        """Where these rows carry anything: not where a value that never varies is what it always is."""
        found = []
        for x, mean, still in zip(values, self.mean, self.still, strict=True):
            usual = (x.double() - mean).abs() <= CONSTANT * (1 + mean.abs())
            found.append(~(still & usual))
        return tuple(found)

    def normed(self, values: Floats) -> Floats:
        """The values in deviations from the mean."""
        return tuple((x.double() - m) / d for x, m, d in zip(values, self.mean, self.deviation, strict=True))


def blocks(subject: Subject, ask: Ask, rows: Inputs) -> Iterator[Floats]:
    """What the explained place holds for these rows, some at a time."""
    for start in range(0, rows.rows, BLOCK):
        part = rows.take(torch.arange(start, min(start + BLOCK, rows.rows)))
        yield part.floats if ask.layer is None else (predict(subject, part, ask.memory, ask.layer),)


def spread(values: Iterable[Floats], floor: float) -> Spread:
    """Mean and deviation of each value over blocks of rows, in one pass.

    `floor` is a share of the root mean square of the deviations.
    """
    count, means, squares = 0, list[Tensor](), list[Tensor]()
    for block in values:
        for part, x in enumerate(block):
            x = x.double()
            mean, number = x.mean(0), x.shape[0]
            square = (x - mean).square().sum(0)
            if not count:
                means.append(mean)
                squares.append(square)
                continue
            apart = mean - means[part]
            means[part] = means[part] + apart * (number / (count + number))
            squares[part] = squares[part] + square + apart.square() * (count * number / (count + number))
        count += block[0].shape[0]
    deviations = [(s / (count - 1)).sqrt() for s in squares]
    still = tuple(d <= CONSTANT * (1 + m.abs()) for d, m in zip(deviations, means, strict=True))
    usual = math.sqrt(sum(float(d.square().sum()) for d in deviations) / sum(d.numel() for d in deviations))
    if all(bool(part.all()) for part in still):
        raise InputError("The 'data' must hold rows that differ at the place", got="the same values in every row")
    return Spread(tuple(means), tuple(d.clamp(min=floor * usual) for d in deviations), still, count)


def capacity(normed: Tensor, kept: Tensor, lost: Tensor) -> Tensor:
    """KL[N(kept·r, lost²) ‖ N(0, 1)] of each value in nats, for normed values r and lost = 1 - kept.

    Averaged over the data it is at least the mutual information of the value and its noisy copy.

    Example:
        >>> capacity(torch.tensor(2.0), torch.tensor(0.0), torch.tensor(1.0)).item()
        0.0
    """
    return ((kept * normed).square() + lost.square() - 1) / 2 - lost.log()


def mask(alpha: Tensor, smooth: float) -> tuple[Tensor, Tensor]:
    """λ = sigmoid(alpha) and 1 - λ, on maps (rows, channels, height, width) blurred by a Gaussian of width `smooth`."""
    kept, lost = alpha.sigmoid(), (-alpha).sigmoid()  # each by itself, so that neither loses its small values
    if smooth == 0 or alpha.dim() != 4:
        return kept, lost
    reach = max(1, round(2 * smooth))
    place = torch.arange(-reach, reach + 1, dtype=alpha.dtype, device=alpha.device)
    window = torch.exp(-place.square() / (2 * smooth**2))
    window = window / window.sum()
    return _blur(kept, window, reach), _blur(lost, window, reach)


def _blur(maps: Tensor, window: Tensor, reach: int) -> Tensor:
    flat = functional.pad(maps.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    flat = functional.conv2d(functional.conv2d(flat, window[None, None, None]), window[None, None, :, None])
    return flat.reshape(maps.shape)


def noise(ask: Ask, keys: list[bytes], draws: list[int], state: Spread, like: Floats) -> Floats:
    """Values drawn from the data's mean and deviation, one set for each key and draw."""
    found = []
    for part, (mean, deviation, x) in enumerate(zip(state.mean, state.deviation, like, strict=True)):
        numbers = [draw * len(like) + part for draw in draws]
        normal = seed.normal(ask.seed, keys, numbers, tuple(mean.shape), x)
        found.append(normal * deviation.to(x.dtype) + mean.to(x.dtype))
    return tuple(found)


def restricted(x: Tensor, kept: Tensor, lost: Tensor, drawn: Tensor, alive: Tensor) -> Tensor:
    """λ x + (1 - λ) noise, and values that carry nothing as they are."""
    return torch.where(alive, kept.to(x.dtype) * x + lost.to(x.dtype) * drawn, x)


def laid_out_like(values: Tensor, held: Tensor) -> Tensor:
    """The values with their axes in the order of `held` in memory: some networks insist on it."""
    order = sorted(range(1, held.dim()), key=held.stride, reverse=True)
    return values.permute(0, *order).contiguous().permute(0, *[1 + order.index(axis) for axis in range(1, held.dim())])


def folded(bits: Tensor) -> Tensor:
    """Bits of each place: summed over the channels of maps and the width of sequences, the axis kept with length 1."""
    if bits.dim() == 3:
        return bits.sum(2, keepdim=True)
    return bits.sum(1, keepdim=True) if bits.dim() > 3 else bits


def check_class(ask: Ask) -> None:
    """Refuse targets that are no class, before the model runs."""
    if ask.wanted is not None and not isinstance(ask.wanted, Tensor):
        raise TargetError(
            "The 'target' of a bottleneck must be a class, whose cross-entropy says what losing information costs",
            got=repr(ask.wanted),
            hint="target=None for the predicted class, or the number of a class",
        )


def class_loss(ask: Ask, output: str) -> Target:
    """The cross-entropy of each row's target class."""
    index = ask.target.index
    if index is None:
        raise NeedError(
            "The model must give scores of two classes or more, (rows, classes)",
            got="one score per row",
            hint="Subject(model, output=lambda y: torch.stack([-y, y], 1) / 2) where it is the log-odds of two classes",
        )
    return LogProbability(index=index, logits=output != "probabilities", sign=-1.0)


def check_number(name: str, value: float, low: float, *, whole: bool = False, strict: bool = False) -> None:
    """Refuse a setting that is no finite number from `low` on (above it, where `strict`)."""
    kind: tuple[type, ...] = (int,) if whole else (int, float)
    good = isinstance(value, kind) and not isinstance(value, bool) and low <= value < math.inf
    if not good or (strict and value == low):
        what = "an int" if whole else "a number"
        raise MethodError(f"The '{name}' must be {what} {'above' if strict else 'of at least'} {low}", got=repr(value))


def check_output(output: str) -> None:
    """Refuse a word for the model's output that is not known."""
    if output not in ("logits", "probabilities"):
        raise MethodError("The 'output' must be 'logits' or 'probabilities'", got=repr(output))
