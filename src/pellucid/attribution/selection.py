"""A network that picks features and one that reads them, trained together: the parts of learning to explain."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.engine import seed
from pellucid.engine.batch import Progress

__all__: list[str] = []

Weights = tuple[Tensor, ...]
SMALLEST = 1e-30


@dataclass(frozen=True, eq=False)
class Pair:
    """A chooser and a decoder for rows laid out flat (N, values), in float64.

    `label` says which feature each value belongs to; those of the number `count` belong to none and are always seen.
    `mean` and `deviation` are the data's.
    """

    chooser: Weights
    decoder: Weights
    mean: Tensor
    deviation: Tensor
    label: Tensor
    count: int

    def logits(self, flat: Tensor) -> Tensor:
        """What the chooser says of each feature, (N, count)."""
        return dense(self.chooser, (flat - self.mean) / self.deviation)

    def chances(self, flat: Tensor, chosen: int) -> Tensor:
        """The chance of each feature to be among so many draws, (N, count)."""
        missed = torch.log1p(-self.logits(flat).softmax(1).clamp(max=1 - 1e-16)) * chosen
        return -torch.expm1(missed)

    def choose(self, flat: Tensor, chosen: int) -> Tensor:
        """1 for the likeliest features and 0 for the others, (N, count)."""
        logits = self.logits(flat)
        return torch.zeros_like(logits).scatter(1, logits.topk(chosen, 1).indices, 1.0)

    def seen(self, marks: Tensor) -> Tensor:
        """The same for every value, (N, values)."""
        return torch.cat([marks, marks.new_ones(len(marks), 1)], 1)[:, self.label]

    def read(self, flat: Tensor, marks: Tensor) -> Tensor:
        """log Q(c | the marked features), (N, classes); other features are at their mean."""
        return dense(self.decoder, (flat - self.mean) / self.deviation * self.seen(marks)).log_softmax(1)


def dense(weights: Weights, x: Tensor) -> Tensor:
    """Linear layers with rectifiers in between; weights and biases take turns."""
    for i in range(0, len(weights) - 2, 2):
        x = torch.relu(x @ weights[i] + weights[i + 1])
    return x @ weights[-2] + weights[-1]


def fresh(widths: tuple[int, ...], number: int, name: bytes, like: Tensor) -> Weights:
    """Weights of a deviation of one over the root of a layer's width, biases of zero."""
    found: list[Tensor] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        drawn = seed.generator(number, name, i).standard_normal((before, after)) / before**0.5
        found += [torch.from_numpy(drawn).to(like), like.new_zeros(after)]
    return tuple(w.requires_grad_() for w in found)


def softly(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """k Gumbel-softmax samples of each row, merged by their maximum: (N, count) from uniform draws (N, k, count)."""
    gumbel = -torch.log(-torch.log(uniform.clamp(SMALLEST, 1 - 1e-16)))
    return ((logits[:, None] + gumbel) / temperature).softmax(2).amax(1)


def train(
    flat: Tensor,
    answers: Tensor,
    label: Tensor,
    count: int,
    *,
    chosen: int,
    steps: int,
    batch: int,
    hidden: int,
    temperature: float,
    rate: float,
    decay: float,
    number: int,
    name: bytes,
    progress: Progress,
) -> Pair:
    """Both networks, by Adam on ``-mean sum_c P log Q + decay · sum of squared weights`` over batches of rows.

    All draws come from (`number`, `name`).
    """
    spread = flat.std(0)
    known = {"mean": flat.mean(0), "deviation": torch.where(spread > 0, spread, 1.0), "label": label, "count": count}
    chooser = fresh((flat.shape[1], hidden, hidden, count), number, name + b" chooser", flat)
    wide = (flat.shape[1], 2 * hidden, 2 * hidden, answers.shape[1])
    decoder = fresh(wide, number, name + b" decoder", flat)
    pair = Pair(chooser, decoder, **known)  # type: ignore[arg-type]
    adam = torch.optim.Adam([*chooser, *decoder], lr=rate, foreach=False)
    size = min(batch, len(flat))
    with progress.bar(steps, "Learning to explain") as tell, torch.enable_grad():
        for step in range(steps):
            source = seed.generator(number, name, step)
            rows = torch.from_numpy(source.choice(len(flat), size, replace=False)).to(flat.device)
            uniform = torch.from_numpy(source.random((size, chosen, count))).to(flat)
            marks = softly(pair.logits(flat[rows]), uniform, temperature)
            loss = -(answers[rows] * pair.read(flat[rows], marks)).sum(1).mean()
            loss = loss + decay * torch.stack([w.square().sum() for w in [*chooser[::2], *decoder[::2]]]).sum()
            for weight, grad in zip([*chooser, *decoder], torch.autograd.grad(loss, [*chooser, *decoder]), strict=True):
                weight.grad = grad
            adam.step()
            tell(1)
    first, second = (tuple(w.detach() for w in weights) for weights in (chooser, decoder))
    return Pair(first, second, **known)  # type: ignore[arg-type]
