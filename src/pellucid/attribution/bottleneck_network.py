"""A network of 1 × 1 convolutions that reads what a model holds at its places and says how much of it may pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.attribution.bottleneck import BIT, BLOCK, Floats, Spread, capacity, folded, mask, spread
from pellucid.attribution.mask_network import Weights
from pellucid.contract.errors import LayerError
from pellucid.engine import Subject, batch, seed
from pellucid.engine.ask import shape_key
from pellucid.engine.gradient import needs_module
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, visit

__all__: list[str] = []

Masks = list[tuple[Tensor, Tensor]]
LAYERS = 3
FARTHEST = 10.0  # deviations beyond which the network sees no difference: a unit that the data never woke
COPIES = 12  # tensors, in float64, of a row's values and of what is read beside them, while its mask is drawn
RESIZED = {3: "linear", 4: "bilinear", 5: "trilinear"}  # by the number of axes


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadOut:
    """A trained read-out: weights of each repeat, what it reads in deviations, and the noise of the bottleneck.

    `centre` and `scale` are mean and deviation of each channel that is read; `losses` the mean loss of the first and of
    the last tenth of the steps, for each repeat.
    """

    weights: tuple[Weights, ...]
    spread: Spread
    centre: Floats
    scale: Floats
    losses: tuple[tuple[float, float], ...] = ()

    def masks(self, repeat: int, reads: Floats, like: Floats, smooth: float) -> Masks:
        """λ and 1 - λ for values like these, from what the model holds for the same rows."""
        known = zip(reads, self.centre, self.scale, strict=True)
        usual = [(last(x.double()) - centre) / scale for x, centre, scale in known]
        # A value that hardly varied at its place costs the most bits, and only its own deviation gives it away.
        seen = [x.clamp(-FARTHEST, FARTHEST) for x in [*map(last, self.spread.normed(like)), *usual]]
        found = []
        for part, x in enumerate(like):
            alpha = forward(torch.cat([resized(s, x) for s in seen], -1), self.weights[repeat], part)
            found.append(mask(alpha if x.dim() < 4 else alpha.movedim(-1, 1), smooth))
        return found

    @property
    def width(self) -> int:
        """How many channels are read at each place."""
        own = sum(c.numel() for c in self.centre[: len(self.spread.mean)])
        return own + sum(c.numel() for c in self.centre)

    def bits(self, masks: Masks, values: Floats) -> Floats:
        """The bits of each place, (rows, repeats, ...), for masks of the same axes before those of the values."""
        found = []
        for (kept, lost), r, alive in zip(masks, self.spread.normed(values), self.spread.alive(values), strict=True):
            places = capacity(r[:, None], kept, lost) * alive[:, None] / BIT
            maps = folded(places.flatten(0, 1))
            found.append(maps.reshape(*places.shape[:2], *maps.shape[1:]))
        return tuple(found)

    def block(self, memory: int, hidden: int, repeats: int) -> int:
        """How many rows' masks are drawn at once."""
        shapes = [tuple(m.shape) for m in self.spread.mean]
        spots = sum(1 if len(s) == 1 else s[0] if len(s) == 2 else math.prod(s[1:]) for s in shapes)
        wide = self.width + 2 * hidden
        return max(1, memory // (8 * COPIES * (repeats * self.spread.size + wide * spots)))


def last(x: Tensor) -> Tensor:
    """Values with their channels along the last axis, (rows, places..., channels)."""
    return x.movedim(1, -1) if x.dim() > 3 else x.reshape(len(x), -1) if x.dim() < 2 else x


def resized(seen: Tensor, like: Tensor) -> Tensor:
    """Values (rows, places..., channels) at the places of `like`: interpolated, or the same everywhere.

    What has other axes than `like`, as a vector beside a map, is averaged over its places.
    """
    places = tuple(like.shape[1:-1] if like.dim() == 3 else like.shape[2:])
    if seen.shape[1:-1] == places:
        return seen
    if seen.dim() == len(places) + 2 and seen.dim() in RESIZED:
        wide = functional.interpolate(seen.movedim(-1, 1), size=places, mode=RESIZED[seen.dim()], align_corners=False)
        return wide.movedim(1, -1)
    seen = seen.flatten(1, -2).mean(1) if seen.dim() > 2 else seen
    return seen.reshape(len(seen), *[1] * len(places), -1).expand(-1, *places, -1)


def forward(seen: Tensor, weights: Weights, part: int) -> Tensor:
    """Three layers over the channels of each place, with rectifiers between them."""
    for layer in range(LAYERS):
        seen = functional.linear(seen, weights[f"{part}.{layer}"], weights[f"{part}.{layer}.bias"])
        seen = seen.relu() if layer < LAYERS - 1 else seen
    return seen


def drawn_weights(width: int, like: Floats, hidden: int, start: float, number: int, repeat: int) -> Weights:
    """Weights to begin with, from the seed alone: whatever is read, the mask is sigmoid(start) at first."""
    found: Weights = {}
    for part, x in enumerate(like):
        channels = x.shape[-1] if x.dim() < 4 else x.shape[1]
        wide = [width, hidden, hidden, channels]
        for layer in range(LAYERS):
            name, shape = f"{part}.{layer}", (wide[layer + 1], wide[layer])
            key = f"read-out {repeat} {name}".encode()
            normal = seed.normal(number, [key], [0], shape, x.new_empty(0, dtype=torch.float64))[0]
            final = layer == LAYERS - 1
            found[name] = torch.zeros_like(normal) if final else normal * math.sqrt(2 / shape[1])
            found[name + ".bias"] = normal.new_full((shape[0],), start if final else 0.0)
    return found


def look(subject: Subject, inputs: Inputs, layer: Place | None, read: Sequence[Place], memory: int) -> Floats:
    """What the model holds for these rows, by one pass: at the layer (or the inputs), at each place read, its output."""
    module, parts = needs_module(subject, "values at places"), list[Floats]()
    places = list(dict.fromkeys([*([] if layer is None else [layer]), *read]))

    def work(start: int, stop: int) -> Floats:
        rows = inputs.take(torch.arange(start, stop))
        with torch.no_grad():
            seen = visit(lambda: subject.scores(rows), module, places)
        own = rows.floats if layer is None else (seen.seen[layer],)
        for place in places:
            _check(place, seen.seen[place], rows.rows)
        return (*own, *(seen.seen[place] for place in read), seen.output)

    cost = (module, ("read-out", str(layer), tuple(map(str, read)), shape_key(inputs)))
    batch.run(
        inputs.rows, work, lambda a, b, found: parts.append(found), memory=memory, cost=cost, device=inputs.device
    )
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def _check(place: Place, seen: Tensor, rows: int) -> None:
    if not seen.is_floating_point():
        raise LayerError(f"The place {str(place)!r} must hold floating values", got=str(seen.dtype))
    if seen.shape[:1] != (rows,):
        raise LayerError(
            f"The place {str(place)!r} must hold one entry per row along its first axis, {rows}",
            got=f"shape {tuple(seen.shape)}",
            hint="a neighbouring module, or batch_first=True",
        )


def channels(
    subject: Subject, rows: Inputs, layer: Place | None, read: Sequence[Place], memory: int
) -> tuple[Floats, Floats, Tensor]:
    """Mean and deviation over rows and places of each channel that is read, and the model's output."""
    outputs: list[Tensor] = []

    def some(start: int) -> Floats:
        part = rows.take(torch.arange(start, min(start + BLOCK, rows.rows)))
        found = look(subject, part, layer, read, memory)
        outputs.append(found[-1])
        return tuple(last(x) for x in found)

    usual = spread((some(start) for start in range(0, rows.rows, BLOCK)), 0.0)
    centre, scale = [], []
    for mean, deviation in zip(usual.mean, usual.deviation, strict=True):
        mean, deviation = mean.reshape(-1, mean.shape[-1]), deviation.reshape(-1, mean.shape[-1])
        size = (deviation.square().mean(0) + mean.var(0, correction=0)).sqrt()
        centre.append(mean.mean(0))
        scale.append(torch.where(size > 1e-9 * (1 + centre[-1].abs()), size, 1.0))
    return tuple(centre), tuple(scale), torch.cat(outputs)
