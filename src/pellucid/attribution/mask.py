"""Which smallest region, once blurred away, takes the class with it? A mask optimised for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.mask_grid import cells, enlarge, moved, starts
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, fill, gradient, score, seed
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.target import Target

__all__ = ["MeaningfulPerturbation"]

GAMES = ("deletion", "preservation")
OUTPUTS = ("probability", "score")
FILLS = ("blur", "mean", "noise", "zero", "min", "max")
DRAWS = 8  # over which what is random, noise and jitter, is averaged in the facts
DECAY, SECOND, TINY = 0.9, 0.999, 1e-12  # of Adam


@dataclass(frozen=True, kw_only=True)
class MeaningfulPerturbation(Method):
    """Which smallest region takes the class with it when it is deleted, or keeps it when all else is?

    A region r in [0, 1] on a coarse grid is enlarged to the image and mixes it with a fill,
    ``Φ(m) = m x + (1 - m) fill``: the deletion game deletes the region (m = 1 - r), the preservation game keeps it alone
    (m = r). For each image by itself, Adam minimises

    ``area * mean(r) + smoothness * sum |∇r|^power / sqrt(cells) ± E_jitter[f(Φ(m))]``,

    with + for deletion and - for preservation, and f the probability of the explained class. ``values`` is the enlarged
    r, (N, 1, H, W), without unit or sign: 1 is inside the region, 0 outside.

    Facts of each row: ``score``, f of the whole image, ``fill_score``, f of the fill alone, and ``masked_score``, f of
    Φ(m), each without jitter; ``area``, the mean of r; ``binary_score`` and ``binary_area``, the same where r is cut at
    0.5: a mask that works only in shades of grey is an artefact; ``objective``; ``stationarity_gap``, how much the
    objective could still fall, to first order, by any other region: 0 at a stationary point; ``steps`` taken. Objective
    and gap are means over 8 further draws where there is jitter or noise, which leaves the gap somewhat too large.

    Args:
        game: "deletion" or "preservation".
        baseline: the fill: "blur", "noise" (Gaussian, with the mean and deviation of each channel, drawn anew at every
            step), "mean", "zero", "min", "max" or a number; ``data=`` gives the fill itself.
        area: the price of the whole image, in units of f. The source's λ1 per cell, times the number of cells.
        smoothness: the price of edges; for the source's 28 × 28 cells this is its λ2, times 28.
        power: β ≥ 1; above 1 soft edges cost less than hard ones.
        grid: cells per side, an int or (rows, columns); by default cells of 8 pixels, and at least 8 per side.
        jitter: the image is moved below the mask by up to this share of its shorter side, in whole pixels, at every
            step, so that the mask can't lean on single pixels; 0 switches it off, as do images of less than 28 pixels.
        output: "probability" is the softmax of the model's output where a class of several is explained, and any other
            target as it is; "score" takes every target as it is.
        steps: at most so many steps.
        tolerance: a row stops once its ``stationarity_gap``, as seen at the step, is at most this.
        rate: Adam's step, in parts of the mask's range; it falls linearly to 0.

    Cost: ``steps`` forwards and backwards, and about 16 forwards.
    Known failure: the objective is not convex, so another start may find another region; where two regions each carry the
    class, deletion needs both and preservation one, or both where they are exactly alike; the fill is an image the
    network was not trained on.
    Source: Fong & Vedaldi 2017, §4 (arXiv 1704.03296). Departs from it: prices are per image instead of per cell;
    "blur" mixes with one blurred image instead of blurring to a degree; the start is the best of some discs and even masks.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
        >>> method = px.attribution.MeaningfulPerturbation(steps=5, baseline="zero")
        >>> px.explain(net, torch.ones(1, 1, 8, 8), method).values.shape
        torch.Size([1, 1, 8, 8])
    """

    game: str = "deletion"
    baseline: float | str = "blur"
    area: float = 0.1
    smoothness: float = 0.3
    power: float = 3.0
    grid: int | tuple[int, int] | None = None
    jitter: float = 1 / 56
    output: str = "probability"
    steps: int = 300
    tolerance: float | None = None
    rate: float = 0.1

    card: ClassVar[Card] = Card(
        name="meaningful-perturbation",
        title="Meaningful perturbation",
        question="Which smallest region takes the class with it when it is deleted?",
        form="attribution",
        scope="local",
        citation="fong2017interpretable",
        needs=("gradient", "image"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/masks",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant"),
        trial={"steps": 3, "grid": 3, "jitter": 0.25},
        cost="1 forward and backward per step (300), and about 16 forwards",
        supports=(
            "deleting this region, in this way, takes the class away: `binary_score` against `score`",
            "keeping it alone keeps the class, in the preservation game",
        ),
        limits=(
            "that no smaller or other region would do: the optimum is a local one",
            "how much a pixel matters: the mask says in or out, not how much",
            "another fill: the region may differ",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        """Without jitter and noise there are no random draws."""
        random = self.jitter != 0 or self.baseline == "noise"
        return tuple("deterministic" if c == "seeded" and not random else c for c in self.card.claims)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        if ask.layer is None:
            _one_image(ask.inputs)  # refused before the model runs
            cells(self.grid, ask.inputs.floats[0])
        held = fill.explained(ask)
        _one_image(held)
        x, noisy = held.floats[0], self.baseline == "noise" and ask.data is None
        base = fill.fills("mean" if noisy else self.baseline, held, ask.data)[0][0]
        game = _Game(
            self, replace(ask, _target=soft(ask.target) if self.output == "probability" else ask.target), x, base
        )
        game.noisy = noisy
        region, taken = _descend(game)
        facts = _measure(game, region)
        ask.path = game.ask.path
        values = game.enlarge.up(region).to(x.dtype)[:, None]
        baseline = None if noisy else held.wrap((base.contiguous(),))
        return Attribution(values=held.wrap((values,)), baseline=baseline, facts={**facts, "steps": taken})

    def _check(self) -> None:
        for name, word, known in (("game", self.game, GAMES), ("output", self.output, OUTPUTS)):
            if word not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(word))
        if isinstance(self.baseline, str) and self.baseline not in FILLS:
            raise MethodError(f"The 'baseline' must be a number or one of {FILLS}", got=repr(self.baseline))
        for name, least in (("area", 0.0), ("smoothness", 0.0), ("power", 1.0), ("jitter", 0.0)):
            number(name, getattr(self, name), least)
        if self.jitter >= 0.5:
            raise MethodError("The 'jitter' must be below half of the side", got=repr(self.jitter), hint="jitter=1/56")
        if self.tolerance is not None:
            number("tolerance", self.tolerance, 0.0)
        if number("rate", self.rate, 0.0) == 0:
            raise MethodError("The 'rate' must be positive", got=repr(self.rate))
        whole(steps=(self.steps, 1))


def number(name: str, value: Any, least: float) -> float:
    """A finite number of at least `least`, or our error."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least
    if not good:
        raise MethodError(f"The '{name}' must be a number of at least {least:g}", got=repr(value))
    return float(value)


class _Soft(Target):
    """A target that gives the softmax probability of its class."""

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        return super().score(output.flatten(1).softmax(1), rows)


def soft(target: Target) -> Target:
    """The same target as a probability, where it is a class; any other as it is."""
    return target if target.index is None else _Soft(target.index, target.function, target.place, target.name)


def _one_image(held: Inputs) -> None:
    """Refuse what a mask of one image can't cover."""
    if len(held.floats) != 1 or held.floats[0].dim() != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in held.floats)
        raise InputError(
            "The 'inputs' (or the layer) must be one tensor (rows, channels, height, width)", got=f"shapes {shapes}"
        )


class _Game:
    """One question to the network: images, fills, prices. The mask is kept in double precision throughout."""

    noisy = False

    def __init__(self, method: MeaningfulPerturbation, ask: Ask, x: Tensor, base: Tensor) -> None:
        self.method, self.x, self.base = method, x, base
        self.ask = replace(ask, passes=x.shape[0] * method.steps)
        self.cells = cells(method.grid, x)
        self.enlarge = enlarge(self.cells, x)
        self.shifts, self.spread = self._draw(), x.std((2, 3), correction=0, keepdim=True)

    def _draw(self) -> Tensor:
        """By how many pixels each row's image is moved at each step, and in the draws for the facts, (N, …, 2)."""
        most, steps = int(self.method.jitter * min(self.x.shape[2:]) + 0.5), self.method.steps + DRAWS
        if not most:
            return torch.zeros(self.x.shape[0], steps, 2, dtype=torch.long)
        drawn = seed.uniform(self.ask.seed, self.ask.keys, [0] * self.x.shape[0], (steps, 2), torch.zeros(1).double())
        return (drawn * (2 * most + 1)).floor().long() - most

    def images(self, rows: Tensor, draw: int, *, move: bool) -> tuple[Tensor, Tensor]:
        """The images and fills of these rows in a draw; moved by its shift, with the border repeated."""
        x, base = self.x[rows.to(self.x.device)], self.base[rows.to(self.x.device)]
        if self.noisy:
            keys = [self.ask.keys[i] for i in rows.tolist()]
            noise = seed.normal(self.ask.seed, keys, [1 + draw] * len(keys), tuple(x.shape[1:]), x)
            base = base + self.spread[rows.to(x.device)] * noise
        shift = self.shifts[rows, draw]
        if move and bool(shift.any()):
            x, base = moved(x, shift), moved(base, shift)
        return x, base

    def drawn(self, rows: Tensor, draws: Tensor, *, move: bool) -> tuple[Tensor, Tensor]:
        """The same where each entry has a draw of its own."""
        kinds = draws.unique().tolist()
        if len(kinds) == 1:
            return self.images(rows, kinds[0], move=move)
        parts = [self.images(rows[draws == d], d, move=move) for d in kinds]
        order = torch.cat([(draws == d).nonzero()[:, 0] for d in kinds]).argsort().to(self.x.device)
        return torch.cat([p[0] for p in parts])[order], torch.cat([p[1] for p in parts])[order]

    def mixed(self, x: Tensor, base: Tensor, region: Tensor) -> Tensor:
        """Φ for regions at full size (rows, H, W)."""
        inside = region.to(x.dtype)[:, None]
        keep = inside if self.method.game == "preservation" else 1 - inside
        return base + keep * (x - base)

    def price(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """What area and edges of coarse regions (rows, h, w) cost, and the derivative."""
        count, power = region[0].numel(), self.method.power
        cost = self.method.area * region.mean((1, 2))
        slope = torch.full_like(region, self.method.area / count)
        for axis in (1, 2):
            step = region.diff(dim=axis)
            scale = self.method.smoothness / math.sqrt(count)
            cost = cost + scale * step.abs().pow(power).sum((1, 2))
            edge = scale * power * step.abs().pow(power - 1) * step.sign()
            slope.narrow(axis, 1, edge.shape[axis]).add_(edge)
            slope.narrow(axis, 0, edge.shape[axis]).sub_(edge)
        return cost, slope

    def signed(self, found: Tensor) -> Tensor:
        """What the game makes of f: smaller is better."""
        return found if self.method.game == "deletion" else -found

    def slope(self, region: Tensor, rows: Sequence[int], step: int | None, label: str = "") -> tuple[Tensor, Tensor]:
        """f and the objective's derivative by the coarse region, for these rows; `region` holds one for every row.

        `step` None means the mean over further draws, where anything is drawn.
        """
        random = self.noisy or bool(self.shifts.any())
        fine, first = self.enlarge.up(region), self.method.steps if step is None else step
        count = DRAWS if step is None and random else 1
        found, change = torch.zeros(len(region), dtype=torch.float64), torch.zeros_like(region)

        def points(at: Tensor, draw: Tensor) -> tuple[Tensor, ...]:
            return (self.mixed(*self.drawn(at, first + draw, move=True), fine[at.to(fine.device)]),)

        def fold(at: Tensor, draw: Tensor, result: gradient.Gradient) -> None:
            x, base = self.drawn(at, first + draw, move=True)
            pull = self.enlarge.back((result.grads[0].double() * (x - base).double()).sum(1))
            found.index_add_(0, at, result.score.cpu().double() / count)
            change.index_add_(0, at.to(change.device), pull / count)

        gradient.sweep(self.ask, count, points, fold, rows=rows, label=label)
        chosen = torch.as_tensor(rows, device=region.device)
        return found[torch.as_tensor(rows)], self.price(region[chosen])[1] - change[chosen]

    def scores(self, regions: Tensor) -> Tensor:
        """f for several regions of every row, (N, k, H, W), without jitter, averaged over draws of noise: (N, k)."""
        kinds, draws = regions.shape[1], DRAWS if self.noisy else 1
        found = torch.zeros(len(regions), kinds, dtype=torch.float64)

        def points(at: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            pair = self.drawn(at, self.method.steps + which // kinds, move=False)
            return (self.mixed(*pair, regions[at.to(regions.device), (which % kinds).to(regions.device)]),)

        def fold(at: Tensor, which: Tensor, result: Tensor) -> None:
            found.index_put_((at, which % kinds), result.cpu().double() / draws, accumulate=True)

        score.sweep(self.ask, kinds * draws, points, fold)
        return found


def _descend(game: _Game) -> tuple[Tensor, Tensor]:
    """The regions found, (N, h, w), and the steps that each row took."""
    method, rows = game.method, len(game.x)
    tried = starts(game.cells, game.x)
    first = game.signed(game.scores(game.enlarge.up(tried).expand(rows, -1, -1, -1))) + game.price(tried)[0].cpu()
    region = tried[first.argmin(1).to(tried.device)].clone()
    mean, square, taken = torch.zeros_like(region), torch.zeros_like(region), torch.zeros(rows, dtype=torch.float64)
    active = list(range(rows))
    for step in range(method.steps):
        slope = game.slope(region, active, step, method.card.title)[1]
        if method.tolerance is not None:
            left = (_gap(region[active], slope) > method.tolerance).tolist()
            active, slope = [r for r, on in zip(active, left, strict=True) if on], slope[left]
            if not active:
                break
        at, taken[active] = active, step + 1.0
        mean[at] = DECAY * mean[at] + (1 - DECAY) * slope
        square[at] = SECOND * square[at] + (1 - SECOND) * slope**2
        size = (square[at] / (1 - SECOND ** (step + 1))).sqrt() + TINY
        move = mean[at] / (1 - DECAY ** (step + 1)) / size
        region[at] = (region[at] - method.rate * (1 - step / method.steps) * move).clamp(0, 1)
    return region, taken


def _gap(region: Tensor, slope: Tensor) -> Tensor:
    """The largest fall of the objective, to first order, on the way to any other region: ``max_s <slope, region - s>``."""
    return (slope * region - slope.clamp(max=0)).sum((1, 2)).cpu()


def _measure(game: _Game, region: Tensor) -> dict[str, Tensor]:
    """What the found regions are worth, without jitter."""
    fine, deleted = game.enlarge.up(region), game.method.game == "deletion"
    cut = (fine >= 0.5).double()
    empty, full = torch.zeros_like(fine), torch.ones_like(fine)
    whole, nothing = (empty, full) if deleted else (full, empty)
    found = game.scores(torch.stack([whole, nothing, fine, cut], 1))
    drawn, slope = game.slope(region, range(len(region)), None)
    return {
        "score": found[:, 0],
        "fill_score": found[:, 1],
        "masked_score": found[:, 2],
        "area": fine.mean((1, 2)),
        "binary_score": found[:, 3],
        "binary_area": cut.mean((1, 2)),
        "objective": game.price(region)[0].cpu() + game.signed(drawn),
        "stationarity_gap": _gap(region, slope),
    }
