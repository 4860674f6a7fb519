"""What would the network say had it not seen this patch? Windows filled with what could stand there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, chance, fill, score, seed
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.patches import PatchGaussian, gaussian
from pellucid.engine.settings import whole

__all__ = ["PredictionDifferenceAnalysis"]

SAMPLERS = ("conditional", "marginal")


@dataclass(frozen=True, kw_only=True)
class PredictionDifferenceAnalysis(Method):
    """How much does what is seen in this patch speak for the predicted class, against what could have stood there?

    A window slides over the image. What could stand in it is drawn ``samples`` times, given the pixels around it, and the
    class's probability is averaged: ``p(c | x without w) = 1/S Σ p(c | x with w drawn)``. A window's figure is the change
    in log₂ odds (bits; see ``kind`` of prediction decomposition for the others), and ``values[i]`` the mean over the
    windows that cover pixel i; positive speaks for the class. `error` is the standard error from the draws.

    Facts: ``probability`` (``score`` for the kind "score"), ``standard_error`` (root mean square over the map).

    Args:
        window: the window's side; with ``layer=``, of the layer's map.
        surround: how far the surroundings reach beyond the window, on each side.
        stride: the step of the window; the last one touches the border.
        samples: draws per window.
        sampler: "conditional": a Gaussian of window and surroundings, the same all over the image, estimated from the
            patches of ``data=`` and cut off at each channel's extremes; "marginal": the window of a row of ``data=``.
        kind: "weight of evidence", "information", "probability", or "score" for any target, such as a hidden unit
            ``px.unit(...)``, whose change of activation it gives.
        output: whether the model returns "logits" or "probabilities".
        laplace: correct every probability p to (p n + 1) / (n + classes), for n rows of data.

    Cost: ``samples`` forwards per window, and one; estimating the Gaussian takes the cube of the patch's values.
    Known failures: natural patches are not Gaussian, so that large windows get blurred fills; an object that a second
    one could replace gets nothing.
    Source: Zintgraf, Cohen, Adel & Welling 2017, §3.1-3.3 and algorithm 1.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2)).eval()
        >>> data = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> method = px.attribution.PredictionDifferenceAnalysis(window=2, surround=1, samples=2)
        >>> px.explain(net, data[:1], method, data=data).values.shape
        torch.Size([1, 1, 6, 6])
    """

    window: int = 4
    surround: int = 2
    stride: int = 1
    samples: int = 10
    sampler: str = "conditional"
    kind: str = "weight of evidence"
    output: str = "logits"
    laplace: bool = True

    card: ClassVar[Card] = Card(
        name="prediction-difference-analysis",
        title="Prediction difference analysis",
        question="How much does what is seen in this patch speak for the class, against what could have stood there?",
        form="attribution",
        scope="local",
        citation="zintgraf2017visualizing",
        needs=("predictions", "image", "data"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant"),
        trial={"window": 2, "surround": 1, "stride": 2, "samples": 3},
        cost="10 forwards per window, and 1",
        supports=("what the answer owes to this patch, when what could stand there is like the data",),
        limits=(
            "patches that can stand in for each other: each gets nothing",
            "fills of large windows: they are Gaussian, and blurred",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return (*self.card.claims, "linear", "score scale") if self.kind == "score" else self.card.claims

    def prepare(self, subject: Subject, ask: Ask) -> PatchGaussian | Tensor:
        """The Gaussian of the data's patches, or the data themselves."""
        self._check()
        held = fill.explained(ask)
        if len(held.floats) != 1 or held.floats[0].dim() != 4:
            got = ", ".join(str(tuple(x.shape)) for x in held.floats)
            raise InputError("What is explained must be one tensor (rows, channels, height, width)", got=got)
        images = fill.values_of(ask.data, ask).floats[0]
        if not bool(torch.isfinite(images).all()):
            raise InputError("The 'data' must be finite", got="NaN or infinity")
        tall, wide = held.floats[0].shape[2:]
        if self.window > min(tall, wide):
            raise InputError(f"The 'window' must fit the image, {tall} × {wide}", got=str(self.window))
        if self.sampler == "marginal":
            return images
        reach = self.window + 2 * self.surround
        return gaussian(images, min(reach, tall), min(reach, wide), ask.seed)

    def explain(self, subject: Subject, ask: Ask, state: PatchGaussian | Tensor) -> Attribution:
        held = fill.explained(ask)
        asked = chance.asked(ask, self.kind, self.output)
        image = held.floats[0]
        spots = [(top, left) for top in self._starts(image.shape[2]) for left in self._starts(image.shape[3])]
        draws = _Draws(self, ask, image, spots, state)
        sums = torch.zeros(2, held.rows, len(spots), dtype=torch.float64)
        before = torch.empty(held.rows, dtype=torch.float64)

        def fold(rows: Tensor, jobs: Tensor, found: Tensor) -> None:
            found, last = found.detach().cpu().double(), jobs == len(spots) * self.samples
            before[rows[last]] = found[last]
            rows, jobs, found = rows[~last], jobs[~last], found[~last]
            for power in range(2):
                sums[power].index_put_((rows, jobs // self.samples), found ** (power + 1), accumulate=True)

        score.sweep(asked, len(spots) * self.samples + 1, draws.points, fold, label=self.card.title)
        ask.path = asked.path
        return self._result(ask, held, spots, before, sums / self.samples, draws.rows)

    def _result(
        self, ask: Ask, held: Inputs, spots: list[tuple[int, int]], before: Tensor, means: Tensor, rows: int
    ) -> Attribution:
        assert ask.output is not None
        image = held.floats[0]
        known = {"rows": rows if self.laplace else 0, "classes": max(2, ask.output[0].numel())}
        after, square = means
        figure = chance.change(self.kind, before[:, None], after, **known)
        variance = (square - after**2).clamp(min=0) / max(1, self.samples - 1)
        variance = variance * chance.slope(self.kind, after, **known) ** 2
        heat, doubt = torch.zeros(2, held.rows, *image.shape[2:], dtype=torch.float64)
        count = torch.zeros(image.shape[2:], dtype=torch.float64)
        for number, (top, left) in enumerate(spots):
            place = (..., slice(top, top + self.window), slice(left, left + self.window))
            heat[place] += figure[:, number, None, None]
            doubt[place] += variance[:, number, None, None]
            count[place] += 1

        def over_channels(x: Tensor) -> Any:
            return held.wrap([x.to(image.device, image.dtype)[:, None].expand(image.shape).contiguous()])

        error = doubt.sqrt() / count
        facts = {
            "score" if self.kind == "score" else "probability": before,
            "standard_error": (error**2).mean((1, 2)).sqrt(),
        }
        return Attribution(values=over_channels(heat / count), error=over_channels(error), facts=facts)

    def _starts(self, length: int) -> list[int]:
        """Where windows start along an axis: by the stride, and at the border."""
        return sorted({*range(0, length - self.window + 1, self.stride), length - self.window})

    def _check(self) -> None:
        chance.check(self.kind, self.output)
        whole(window=(self.window, 1), surround=(self.surround, 0), stride=(self.stride, 1), samples=(self.samples, 2))
        if self.stride > self.window:
            raise MethodError(
                "The 'stride' must not be larger than the window: what lies between has no value", got=str(self.stride)
            )
        if self.sampler not in SAMPLERS:
            raise MethodError(f"The 'sampler' must be one of {SAMPLERS}", got=repr(self.sampler))
        if not isinstance(self.laplace, bool):
            raise MethodError("The 'laplace' must be True or False", got=repr(self.laplace))


class _Draws:
    """The images with a window filled, one job after the other; the last job of a row is the row as it is."""

    def __init__(
        self,
        method: PredictionDifferenceAnalysis,
        ask: Ask,
        image: Tensor,
        spots: list[tuple[int, int]],
        state: PatchGaussian | Tensor,
    ) -> None:
        self.method, self.ask, self.image, self.spots, self.state = method, ask, image, spots, state
        self.rows = rows_like(ask.data, ask.inputs).inputs.rows

    def points(self, rows: Tensor, jobs: Tensor) -> tuple[Tensor]:
        images, samples, k = self.image[rows.to(self.image.device)], self.method.samples, self.method.window
        last = (row := -1, number := -1)
        fills = torch.empty(0)
        for at, (row, job) in enumerate(zip(rows.tolist(), jobs.tolist(), strict=True)):
            if (number := job // samples) == len(self.spots):
                continue
            if (row, number) != last:
                fills, last = self.fills(row, number), (row, number)
            top, left = self.spots[number]
            images[at, :, top : top + k, left : left + k] = fills[job % samples]
        return (images,)

    def fills(self, row: int, number: int) -> Tensor:
        """What could stand in the window of this number in this row: (samples, channels, window, window)."""
        (top, left), k = self.spots[number], self.method.window
        draw = seed.generator(self.ask.seed, self.ask.keys[row], number)
        channels, shape = self.image.shape[1], (self.method.samples, self.image.shape[1], k, k)
        if isinstance(self.state, Tensor):
            which = torch.from_numpy(draw.integers(len(self.state), size=self.method.samples)).to(self.state.device)
            return self.state[which, :, top : top + k, left : left + k].to(self.image)
        _, tall, wide = self.state.size
        above = min(max(0, top + k // 2 - tall // 2), self.image.shape[2] - tall)
        beside = min(max(0, left + k // 2 - wide // 2), self.image.shape[3] - wide)
        patch = self.image[row, :, above : above + tall, beside : beside + wide].detach().double().cpu().flatten()
        noise = torch.from_numpy(draw.standard_normal((self.method.samples, channels * k * k)))
        found = self.state.given_surroundings(top - above, left - beside, k, k).draw(patch, noise).reshape(shape)
        low, high = (bound.reshape(1, -1, 1, 1) for bound in (self.state.low, self.state.high))
        return found.maximum(low).minimum(high).to(self.image)
