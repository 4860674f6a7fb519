"""Do the values foretell what a small change of the input does to the score?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, fill, reference, score, seed
from pellucid.engine.evaluation import Evaluation, Judged, overall
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["Infidelity"]

CHANGES = ("gaussian", "noisy baseline", "square")
READINGS = ("contribution", "slope")


@dataclass(frozen=True, kw_only=True)
class Infidelity(Evaluation):
    """Do the values foretell by how much a change of the input moves the score?

    For random changes I, ``E (I · φ - (f(x) - f(x - I)))²``, in squared score units: 0 where the explanation φ foretells
    every change. φ is a slope, a change of the score per unit of input; values that are contributions, such as
    gradient × input or Shapley values, are turned into slopes by division by x - baseline (no slope where that is 0).

    Facts: ``standard_error`` of ``values``, 0 where all changes were gone through; ``scale``, the factor
    β = E[(I · φ) Δf] / E[(I · φ)²] that makes the infidelity of β φ the least; ``scaled``, that least infidelity, and
    ``unscaled``, the plain one; ``null``, E Δf², which an explanation of nothing but zeros has.
    ``source["overall"]``: the mean over rows with its 95 % interval.

    Args:
        of: the explanation that is measured: a method or its name.
        change: "gaussian": I is noise; "noisy baseline": I = x - baseline - noise; "square": a square of an image, a
            window of a sequence or table, at a random place goes to the baseline, with all its channels.
        reading: what the values are: "contribution" or "slope" (gradients).
        baseline: what stands for absence: a number, or "zero", "mean", "blur", "min", "max".
        noise: standard deviation of the noise, as a share of the row's range.
        side: of the square; a quarter of the shorter side where it is `None`.
        scaled: give the infidelity after the best scaling in ``values``.
        samples: changes per row. Where a square has no more places than that, all are gone through, each once.

    Cost: that of ``of``, and ``samples`` + 1 forwards.
    Known failure: squares and baselines leave the data; small noise asks about the gradient alone. An explanation is
    rewarded for the changes that are asked about: state them with the figure.
    Source: Yeh, Hsieh, Suggala, Inouye & Ravikumar 2019, definition 2.1; optimal scaling: appendix.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).double().eval()
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 5.0]]).double()
        >>> found = px.explain(net, x, px.evaluation.Infidelity(of="gradient-x-input"))
        >>> bool(found.values < 1e-20), found.better
        (True, 'lower')
    """

    change: str = "gaussian"
    reading: str = "contribution"
    baseline: float | str = 0.0
    noise: float = 0.2
    side: int | None = None
    scaled: bool = False
    samples: int = 200

    card: ClassVar[Card] = Card(
        name="infidelity",
        title="Infidelity",
        question="Do the values foretell by how much a change of the input moves the score?",
        form="measure",
        scope="local",
        citation="yeh2019infidelity",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/exactness"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 6},
        cost="that of the explanation, and 201 forwards",
        supports=("how far the values miss the score's change under the stated changes of the input",),
        limits=("whether the explanation pleases people", "changes of other kinds than those asked about"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, value, known in (("change", self.change, CHANGES), ("reading", self.reading, READINGS)):
            if value not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(value))
        whole(samples=(self.samples, 2))
        whole_or_none(side=(self.side, 1))
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float) or not self.noise > 0:
            raise MethodError("The 'noise' must be a number above 0", got=repr(self.noise))
        if not isinstance(self.scaled, bool):
            raise MethodError("The 'scaled' must be True or False", got=repr(self.scaled))
        if self.side is not None and self.change == "square" and ask.layer is None:
            places(ask.inputs, self.side)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        held = fill.explained(judged.ask)
        if [tuple(v.shape) for v in judged.parts] != [tuple(x.shape) for x in held.floats]:
            got = ", ".join(str(tuple(v.shape)) for v in judged.parts)
            raise MethodError("The attribution must have the shape of the explained place", got=got)
        base = reference.baseline(self.baseline, held)
        slopes = tuple(self._slope(v, x, b) for v, x, b in zip(judged.parts, held.floats, base, strict=True))
        changes = self._changes(held, base, ask)
        foretold, moved = _ask_model(judged.ask, held, slopes, changes, self.card.title)
        return self._result(foretold, moved, changes.every)

    def _slope(self, value: Tensor, x: Tensor, base: Tensor) -> Tensor:
        """The change of the score per unit of input."""
        value, difference = value.double(), x.double() - base.double()
        if self.reading == "slope":
            return value
        return torch.where(difference == 0, 0.0, value / torch.where(difference == 0, 1.0, difference))

    def _changes(self, held: Inputs, base: tuple[Tensor, ...], ask: Ask) -> _Changes:
        if self.change != "square":
            return _Noise(held, base, ask, self.noise, self.samples, self.change == "noisy baseline")
        sides = tuple(_side(x, self.side) for x in held.floats)
        return _Squares(held, base, ask, sides, self.samples)

    def _result(self, foretold: Tensor, moved: Tensor, every: bool) -> Measure:
        """From (rows, samples) of I · φ and of f(x) - f(x - I)."""
        power = (foretold**2).mean(1)
        best = torch.where(power > 0, (foretold * moved).mean(1) / power.clamp(min=1e-300), 0.0)
        plain, least = (foretold - moved) ** 2, (best[:, None] * foretold - moved) ** 2
        chosen = least if self.scaled else plain
        error = chosen.std(1) / math.sqrt(chosen.shape[1])
        facts = {
            "standard_error": torch.zeros_like(error) if every else error,
            "scale": best,
            "scaled": least.mean(1),
            "unscaled": plain.mean(1),
            "null": (moved**2).mean(1),
        }
        values = chosen.mean(1)
        return Measure(values=values, better="lower", unit="score²", facts=facts, source={"overall": overall(values)})


@dataclass(frozen=True, eq=False)
class _Changes:
    """Which changes of a row are asked about: number `step` of each."""

    held: Inputs
    base: tuple[Tensor, ...]
    ask: Ask

    @property
    def count(self) -> int:
        raise NotImplementedError

    @property
    def every(self) -> bool:
        """Whether these are all changes that there are."""
        return False

    def of(self, rows: Tensor, steps: Tensor) -> list[Tensor]:
        """The changes I of these rows, one tensor per explained one."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class _Noise(_Changes):
    share: float
    samples: int
    from_baseline: bool

    @property
    def count(self) -> int:
        return self.samples

    def of(self, rows: Tensor, steps: Tensor) -> list[Tensor]:
        found, keys = [], [self.ask.keys[i] for i in rows.tolist()]
        for number, (x, base) in enumerate(zip(self.held.floats, self.base, strict=True)):
            here = x[rows.to(x.device)]
            flat = x.flatten(1)
            width = (flat.amax(1) - flat.amin(1))[rows.to(x.device)].reshape(-1, *[1] * (x.dim() - 1))
            width = torch.where(width > 0, width, torch.ones_like(width))
            draws = [number * self.samples + step for step in steps.tolist()]
            drawn = self.share * width * seed.normal(self.ask.seed, keys, draws, tuple(x.shape[1:]), x)
            found.append(here - base[rows.to(x.device)] - drawn if self.from_baseline else drawn)
        return found


@dataclass(frozen=True, eq=False)
class _Squares(_Changes):
    sides: tuple[int, ...]
    samples: int

    @property
    def total(self) -> int:
        """How many places a square of the first tensor has."""
        return math.prod(_room(self.held.floats[0], self.sides[0]))

    @property
    def every(self) -> bool:
        return len(self.sides) == 1 and self.total <= self.samples

    @property
    def count(self) -> int:
        return self.total if self.every else self.samples

    def of(self, rows: Tensor, steps: Tensor) -> list[Tensor]:
        found, keys = [], [self.ask.keys[i] for i in rows.tolist()]
        for number, (x, base, side) in enumerate(zip(self.held.floats, self.base, self.sides, strict=True)):
            room = _room(x, side)
            draws = [number * self.samples + step for step in steps.tolist()]
            place = steps if self.every else seed.integers(self.ask.seed, keys, draws, math.prod(room))
            inside = torch.ones(len(rows), *[1] * (x.dim() - 1), dtype=torch.bool)
            for axis in reversed(range(len(room))):
                first, place = place % room[axis], place // room[axis]
                dim = x.dim() - len(room) + axis if x.dim() > 3 else 1
                at = torch.arange(x.shape[dim]) - first[:, None]
                line = (at >= 0) & (at < side)
                inside = inside & line.reshape(len(rows), *[x.shape[d] if d == dim else 1 for d in range(1, x.dim())])
            r = rows.to(x.device)
            found.append(torch.where(inside.to(x.device), x[r] - base[r], torch.zeros_like(x[r])))
        return found


def _axes(x: Tensor) -> tuple[int, ...]:
    """The lengths along which a square lies: the positions of images, the steps of sequences, the columns of tables."""
    return tuple(x.shape[2:]) if x.dim() > 3 else (x.shape[1],)


def _side(x: Tensor, side: int | None) -> int:
    return max(1, min(_axes(x)) // 4) if side is None else side


def _room(x: Tensor, side: int) -> tuple[int, ...]:
    """How many places there are along each axis."""
    return tuple(n - side + 1 for n in _axes(x))


def places(held: Inputs, side: int) -> None:
    """Refuse a square that is larger than what it should lie in."""
    if (least := min((min(_axes(x)) for x in held.floats), default=side)) < side:
        raise InputError(f"The 'side' must be at most {least}, the shortest side of the inputs", got=str(side))


def _ask_model(
    ask: Ask, held: Inputs, slopes: tuple[Tensor, ...], changes: _Changes, label: str
) -> tuple[Tensor, Tensor]:
    """What the slopes foretell and what the score does, (rows, samples) each in float64."""
    count = changes.count
    foretold = torch.empty(held.rows, count, dtype=torch.float64)
    scores = torch.empty(held.rows, count + 1, dtype=torch.float64)

    def points(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        moves = changes.of(rows, steps.clamp(max=count - 1))
        found = []
        for x, move in zip(held.floats, moves, strict=True):
            still = (steps == count).to(x.device).reshape(-1, *[1] * (x.dim() - 1))
            found.append(x[rows.to(x.device)] - move.masked_fill(still, 0.0))
        return tuple(found)

    def fold(rows: Tensor, steps: Tensor, found: Tensor) -> None:
        scores[rows, steps] = found.detach().double().cpu()
        asked = steps < count
        rows, steps = rows[asked], steps[asked]
        if len(rows):
            moves = zip(changes.of(rows, steps), slopes, strict=True)
            dots = [(move.double() * slope[rows.to(slope.device)]).flatten(1).sum(1) for move, slope in moves]
            foretold[rows, steps] = torch.stack(dots).sum(0).cpu()

    score.sweep(ask, count + 1, points, fold, label=label)
    return foretold, scores[:, -1:] - scores[:, :-1]
