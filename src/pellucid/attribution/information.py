"""How much information does the network need from each place? Noise is let in until the answer would suffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution.bottleneck import (
    BIT,
    Floats,
    Spread,
    blocks,
    capacity,
    check_class,
    check_number,
    check_output,
    class_loss,
    folded,
    laid_out_like,
    mask,
    noise,
    restricted,
    spread,
)
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject, fill, gradient, score
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs

__all__ = ["InformationBottleneck"]

Jobs = Callable[[Tensor, Tensor], Floats]
COPIES = 12  # tensors of a layer's values, in float64, that one mask takes while it is fitted


@dataclass(frozen=True, kw_only=True)
class InformationBottleneck(Method):
    """How many bits of information does the network need from each place to keep its answer?

    The layer's values R are mixed with noise like the data's own, ``Z = λ R + (1 - λ) ε`` with ``ε ~ N(μ, s²)``, where μ
    and s are mean and standard deviation of each value over ``data=``. For each row a mask ``λ = blur(sigmoid(α))`` is
    fitted to lose as much as it can: Adam lowers ``-log p(target | Z) + β · mean KL``, with for r = (R - μ)/s

    ``KL = ((λ r)² + (1 - λ)² - 1) / 2 - log(1 - λ)``.

    ``values = KL / ln 2``, summed over channels (of maps) or dimensions (of sequences): bits per place of the layer, never
    negative. Averaged over the data, their sum is at least the information that passes (the noise is not quite like R);
    a place near zero bits is not needed: the answer was kept without it. `error` is the standard error over `repeats`.

    Facts: ``score`` and ``noisy_score``, its mean through the bottleneck; ``bits``, the row's sum; ``cross_entropy``,
    -log p(target) through the bottleneck in nats, measured on fresh noise, with ``cross_entropy_error``; and
    ``model_cross_entropy``, without it. Where the first is much larger than the last, too much was lost, and zero bits
    say nothing.

    Args:
        beta: what a nat, averaged over all values of the layer, costs against the cross-entropy.
        steps: steps of Adam.
        samples: draws of noise per step.
        rate: the step size.
        start: α at first: 5 lets through all but 0.7 %.
        smooth: width of the Gaussian, in places of a map, that blurs the mask; 0 for none.
        floor: least standard deviation of the noise, as a share of the layer's (root mean square).
        repeats: fits with other noise, whose mean is given.
        output: what the model returns: "logits" (log-probabilities will do) or "probabilities".

    Values that are the same in all rows of the data, and in the row, are left alone and have zero bits.

    Cost: repeats × samples × steps forwards and backwards above the layer, 2 × repeats × samples forwards for
    the facts; one forward per row of data.
    Known failure: the bottleneck takes each value by itself, so that neighbours that say the same are paid for twice; ten
    steps do not reach the optimum, and places that could be lost keep a few bits; ``layer=`` decides what a place can know.
    Source: Schulz, Sixt, Tombari & Landgraf 2020, §3 and §3.1. Departs from it: `floor` is relative, the blur repeats
    the map's border, the map is left at the layer's resolution.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2)).eval()
        >>> x = torch.arange(48.0).sin().reshape(3, 1, 4, 4)
        >>> px.explain(net, x, "information-bottleneck-attribution", layer="0", data=x).values.shape
        torch.Size([3, 1, 2, 2])
    """

    beta: float = 10.0
    steps: int = 10
    samples: int = 10
    rate: float = 1.0
    start: float = 5.0
    smooth: float = 1.0
    floor: float = 0.01
    repeats: int = 2
    output: str = "logits"

    card: ClassVar[Card] = Card(
        name="information-bottleneck-attribution",
        title="Information bottleneck",
        question="How many bits does the network need from each place to keep its answer?",
        form="attribution",
        scope="local",
        citation="schulz2020restricting",
        needs=("gradient", "layers", "data"),
        taxonomy={
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/mutual information",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"steps": 3, "samples": 2},
        cost="200 forwards and backwards above the layer, 40 forwards, and 1 forward per row of data",
        supports=(
            "the answer is kept, at the reported cross-entropy, when no more than these bits pass each place",
            "bits are one scale for all rows and models: 2 bits here and 1 bit there",
        ),
        limits=(
            "that a place with many bits decides the answer: it is needed beside the others",
            "for or against: bits have no sign",
            "zero bits where `cross_entropy` is far above `model_cross_entropy`: then the answer was lost too",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> Spread:
        """Mean and standard deviation of the layer's values over the data."""
        for name in ("beta", "smooth"):
            check_number(name, getattr(self, name), 0)
        for name in ("rate", "floor"):
            check_number(name, getattr(self, name), 0, strict=True)
        for name in ("steps", "samples", "repeats"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("start", self.start, -100)
        check_output(self.output)
        check_class(ask)
        if ask.layer is None:
            fill.explained(ask)  # refused before the model runs
        rows = rows_like(ask.data, ask.inputs)
        if rows.inputs.rows < 2:
            raise InputError("The 'data' must hold at least 2 rows", got=str(rows.inputs.rows))
        return spread(blocks(subject, ask, rows.inputs), self.floor)

    def explain(self, subject: Subject, ask: Ask, state: Spread) -> Attribution:
        """A mask for each row, and the bits that it lets through."""
        asked, held = replace(ask, _target=class_loss(ask, self.output)), fill.explained(ask)
        block = max(1, ask.memory // (4 * 8 * COPIES * self.repeats * state.size))
        bits, loss, error, kept = list[Floats](), list[Tensor](), list[Tensor](), list[Tensor]()
        for start in range(0, held.rows, block):
            rows = torch.arange(start, min(held.rows, start + block))
            fit = _Fit(self, asked, held, state, rows)
            for step in range(self.steps):
                fit.descend(step)
            bits.append(fit.bits())
            found = fit.measured(asked, self.steps)
            loss.append(found.mean(1))
            error.append(found.std(1) / found.shape[1] ** 0.5 if found.shape[1] > 1 else torch.zeros_like(found[:, 0]))
            kept.append(fit.measured(ask, self.steps).mean(1))
        ask.path = asked.path
        maps = [torch.cat(parts).to(x.dtype) for parts, x in zip(zip(*bits, strict=True), held.floats, strict=True)]
        facts = {
            "score": ask.score,
            "noisy_score": torch.cat(kept),
            "bits": torch.stack([m.double().flatten(2).sum(2).mean(1) for m in maps]).sum(0),
            "cross_entropy": torch.cat(loss),
            "cross_entropy_error": torch.cat(error),
            "model_cross_entropy": asked.target.score(_output(ask)),
        }
        spreads = None if self.repeats < 2 else [m.std(1) / self.repeats**0.5 for m in maps]
        return Attribution(
            values=held.wrap([m.mean(1) for m in maps]),
            error=None if spreads is None else held.wrap(spreads),
            facts=facts,
            source={"rows_of_data": state.rows},
        )


def _output(ask: Ask) -> Tensor:
    assert ask.output is not None  # the target was settled on it
    return ask.output


class _Fit:
    """The masks of some rows, `repeats` for each, while they are fitted."""

    def __init__(self, method: InformationBottleneck, ask: Ask, held: Inputs, state: Spread, rows: Tensor) -> None:
        self.method, self.ask, self.held, self.state, self.rows = method, ask, held, state, rows
        repeats, self.values = method.repeats, tuple(x[int(rows[0]) : int(rows[-1]) + 1] for x in held.floats)
        self.alive = state.alive(self.values)
        twice = [x.repeat_interleave(repeats, 0) for x in state.normed(self.values)]
        self.normed, self.twice = tuple(twice), tuple(a.repeat_interleave(repeats, 0) for a in self.alive)
        self.alpha = [torch.full_like(r, method.start).requires_grad_() for r in self.normed]
        self.adam = torch.optim.Adam(self.alpha, lr=method.rate, foreach=False)
        self._masks: list[tuple[Tensor, Tensor]] = []

    def masks(self) -> list[tuple[Tensor, Tensor]]:
        """λ and 1 - λ of every fit, (rows × repeats, ...)."""
        return [mask(a, self.method.smooth) for a in self.alpha]

    def descend(self, step: int) -> None:
        """One step of Adam: the slope of the cross-entropy, by the chain rule through Z, and that of the bits."""
        slopes = [torch.zeros_like(a) for a in self.alpha]
        with torch.no_grad():
            self._masks = self.masks()

        def add(rows: Tensor, draws: Tensor, found: gradient.Gradient) -> None:
            chains = self._chain(rows, draws)
            drawn = self._noise(rows, draws, step)
            number, sizes = torch.unique_consecutive(chains, return_counts=True)
            for part, slope in enumerate(slopes):
                x = self.held.floats[part][rows.to(slope.device)]
                change = (found.grads[part] * (x - drawn[part])).double()  # dZ/dλ = R - ε
                for chain, some in zip(number.tolist(), change.split(sizes.tolist()), strict=True):
                    slope[chain] += some.sum(0)

        count = self.method.repeats * self.method.samples
        label = InformationBottleneck.card.title
        gradient.sweep(self.ask, count, self._points(step), add, label=label, rows=self.rows.tolist())
        with torch.enable_grad():
            total = torch.zeros((), dtype=torch.float64, device=slopes[0].device)
            for (kept, lost), slope, r, alive in zip(self.masks(), slopes, self.normed, self.twice, strict=True):
                paid = (capacity(r, kept, lost) * alive).sum() * (self.method.beta / self.state.size)
                total = total + (kept * alive * slope / self.method.samples).sum() + paid
            for alpha, grad in zip(self.alpha, torch.autograd.grad(total, self.alpha), strict=True):
                alpha.grad = grad
        self.adam.step()

    def bits(self) -> Floats:
        """The bits of each place, (rows, repeats, ...)."""
        found = []
        with torch.no_grad():
            for (kept, lost), r, alive in zip(self.masks(), self.normed, self.twice, strict=True):
                place = folded(capacity(r, kept, lost) * alive / BIT)
                found.append(place.reshape(len(self.rows), self.method.repeats, *place.shape[1:]))
        return tuple(found)

    def measured(self, ask: Ask, step: int) -> Tensor:
        """What `ask` wants to know of the model through the masks, for noise that no step has seen, (rows, draws)."""
        count = self.method.repeats * self.method.samples
        found = torch.zeros(len(self.rows), count, dtype=torch.float64)
        with torch.no_grad():
            self._masks = self.masks()

        def keep(rows: Tensor, draws: Tensor, loss: Tensor) -> None:
            found[rows - int(self.rows[0]), draws] = loss.double().cpu()

        score.sweep(ask, count, self._points(step), keep, rows=self.rows.tolist())
        return found

    def _chain(self, rows: Tensor, draws: Tensor) -> Tensor:
        return (rows - int(self.rows[0])) * self.method.repeats + draws // self.method.samples

    def _noise(self, rows: Tensor, draws: Tensor, step: int) -> Floats:
        keys = [self.ask.keys[row] for row in rows.tolist()]
        count = self.method.repeats * self.method.samples
        return noise(self.ask, keys, [step * count + draw for draw in draws.tolist()], self.state, self.held.floats)

    def _points(self, step: int) -> Jobs:
        def points(rows: Tensor, draws: Tensor) -> Floats:
            chains, local = self._chain(rows, draws), rows - int(self.rows[0])
            drawn = self._noise(rows, draws, step)
            found = []
            for (kept, lost), x, alive, e in zip(self._masks, self.values, self.alive, drawn, strict=True):
                mixed = restricted(x[local], kept[chains], lost[chains], e, alive[local])
                found.append(laid_out_like(mixed, x))
            return tuple(found)

        return points
