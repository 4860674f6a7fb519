"""Where is the evidence, told at once? A small network that is trained to draw the mask in one pass."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.attribution.mask import number
from pellucid.attribution.mask_network import Adam, Masker, Weights, drawn_weights
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, batch, predict, reference, score, seed
from pellucid.engine.ask import shape_key
from pellucid.engine.data import rows_like
from pellucid.engine.gradient import needs_module
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.target import Target

__all__ = ["RealTimeSaliency"]

OUTPUTS = ("probability", "score")
SMALLEST = 0.05  # share of the image below which a crop earns no more
LEAST = 1e-12  # below which a score has no logarithm
_KEPT: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Masker]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class RealTimeSaliency(Method):
    """Where is the evidence for this class, drawn in one pass by a network that was trained to draw it?

    A masker, a convolutional encoder and decoder with skips, sees image and class and gives a mask M in [0, 1]: at the
    encoder's end, features are let through where they agree with an embedding of the class. It is trained on ``data=``,
    for the classes that the model predicts there (labels are not read), to keep little that suffices and to leave
    nothing behind that does:

    ``smoothness TV(M) + area mean(M) - log f_c(Φ(x, M)) + destroy f_c(Φ(x, 1 - M))^exponent``,

    with ``Φ(x, M) = M x + (1 - M) A`` and A the blurred image or, as often, an even random colour with noise; TV is the
    mean squared difference of neighbours. For a share of the images the masker is told another class, and then the
    loss is ``mean(M)``: the mask is of the class, not of whatever stands out. ``values`` is M, (N, 1, H, W), without unit
    or sign: near 1 is evidence.

    Facts of each row: ``score``, f_c of the image; ``kept_score`` and ``destroyed_score``, f_c of Φ(x, M) and of
    Φ(x, 1 - M) with the blurred image, and ``fill_score``, f_c of that alone, the least that destroying can be expected
    to leave; ``area``, the mean of M; ``saliency_metric``, ``log max(a, 0.05) - log p``, where a is the area of the
    tightest box around M ≥ 0.5 and p the class's probability on that box, enlarged to the image (lower is better; the
    whole image where the mask is empty); ``centre_metric``, the same of a box of that size in the middle.
    ``source`` tells rows, steps and the mean loss of the first and of the last tenth of the training.

    The masker is kept with the model: the same call on new inputs costs one pass of it, until weights, data, seed or
    settings change.

    Args:
        width: channels of the masker's first stage; deeper ones have twice as many.
        depth: how often the encoder halves the image.
        steps: training steps.
        minibatch: images per step.
        rate: Adam's step, which falls to 0 along half a cosine.
        smoothness: price of neighbours that differ.
        area: price of the whole image.
        destroy: weight of the score that is left without the mask.
        exponent: its exponent, below 1 so that small scores still count.
        decoys: share of the images for which the masker is told another class.
        colours: share of the images hidden behind an even colour instead of their blurred selves.
        output: "probability" is the softmax of the model's output; "score" is for models that give probabilities.

    Cost: once, ``steps * minibatch * 2`` forwards and backwards of the model; then one pass of the masker, and 7 forwards
    of the model per row for the facts.
    Known failure: a masker of its own may follow shapes that go with a class instead of what the model reads: hold it
    against ``kept_score`` and ``destroyed_score``; where the model reads even the fills as something, only the whole image
    suffices, and ``area`` comes near 1: fewer ``colours`` help; images unlike the data get an unlearnt mask.
    Source: Dabkowski & Gal 2017, §3 to 5 (arXiv 1705.07857). Departs from it: the encoder is trained along instead of taken
    from a pretrained network, M has full resolution, and means replace sums, so the prices are other ones.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
        >>> method = px.attribution.RealTimeSaliency(steps=2, width=4)
        >>> px.explain(net, torch.ones(1, 1, 8, 8), method, data=torch.rand(6, 1, 8, 8)).values.shape
        torch.Size([1, 1, 8, 8])
    """

    width: int = 16
    depth: int = 3
    steps: int = 400
    minibatch: int = 32
    rate: float = 5e-3
    smoothness: float = 1.0
    area: float = 1.0
    destroy: float = 1.0
    exponent: float = 0.3
    decoys: float = 0.3
    colours: float = 0.5
    output: str = "probability"

    card: ClassVar[Card] = Card(
        name="real-time-image-saliency",
        title="Real-time saliency",
        question="Where is the evidence for this class, drawn in one pass?",
        form="attribution",
        scope="local",
        citation="dabkowski2017real",
        needs=("gradient", "image", "data"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/masks",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded"),
        trial={"steps": 2, "width": 2, "depth": 2, "minibatch": 4},
        cost="training once: 25,600 forwards and backwards; then 1 pass of the masker, and 7 forwards",
        supports=("keeping the mask keeps this much of the score, and taking it away leaves this much",),
        limits=(
            "that the model reads exactly this: the masker is another network, judged by two scores",
            "images unlike those it was trained on",
            "how much a pixel matters: the mask says in or out",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> Masker:
        """The masker, trained on the data, or the one kept from the last call."""
        self._check()
        module, data = needs_module(subject, "gradients"), _images(ask)
        index = ask.target.index
        if index is None:
            raise NeedError(
                "The model must give scores of two classes or more, (rows, classes)",
                got=f"shape {tuple(ask.output.shape) if ask.output is not None else ()}",
            )
        plain = subject.preprocess is None and subject.call is None and isinstance(subject.output, str | int | None)
        key = (self, ask.seed, ask.model_hash, subject.output, data.fingerprint(), str(data.dtype), str(data.device))
        if plain and module in _KEPT and _KEPT[module][0] == key:
            return _KEPT[module][1]
        state = _train(self, subject, ask, data)
        if plain:
            _KEPT[module] = (key, state)
        return state

    def explain(self, subject: Subject, ask: Ask, state: Masker) -> Attribution:
        """One pass of the masker, and what the masks do to the score."""
        x, index = ask.inputs.floats[0], ask.target.index
        assert index is not None
        parts: list[Tensor] = []

        def work(start: int, stop: int) -> Tensor:
            with torch.no_grad():
                return state.masks(x[start:stop], index[start:stop])

        key = ("masker", shape_key(ask.inputs), self.width, self.depth)
        cost = (subject.module, key)
        batch.run(len(x), work, lambda a, b, m: parts.append(m), memory=ask.memory, cost=cost, device=x.device)
        masks = torch.cat(parts)
        told = {"rows": state.rows, "steps": self.steps, "first_loss": state.losses[0], "last_loss": state.losses[1]}
        return Attribution(
            values=ask.inputs.wrap((masks,)), facts=_measure(self, ask, x, masks), source={"masker": told}
        )

    def _check(self) -> None:
        whole(width=(self.width, 1), depth=(self.depth, 1), steps=(self.steps, 1), minibatch=(self.minibatch, 1))
        for name in ("rate", "smoothness", "area", "destroy", "exponent", "decoys", "colours"):
            number(name, getattr(self, name), 0.0)
        if self.rate == 0 or self.exponent == 0:
            name = "rate" if self.rate == 0 else "exponent"
            raise MethodError(f"The '{name}' must be positive", got="0")
        if self.decoys >= 1:
            raise MethodError("The 'decoys' must be a share below 1", got=repr(self.decoys), hint="decoys=0.3")
        if self.colours > 1:
            raise MethodError("The 'colours' must be a share of at most 1", got=repr(self.colours))
        if self.output not in OUTPUTS:
            raise MethodError(f"The 'output' must be one of {OUTPUTS}", got=repr(self.output))


def _images(ask: Ask) -> Inputs:
    """The data as images like the inputs; refused before the model runs where it can't serve."""
    if ask.layer is not None:
        raise LayerError("The 'layer' must be left out: the masker draws over images", got=repr(str(ask.layer)))
    if len(ask.inputs.floats) != 1:
        raise InputError("The 'inputs' must hold one image tensor", got=f"{len(ask.inputs.floats)} floating tensors")
    if ask.wanted is not None and not isinstance(ask.wanted, Tensor):
        raise TargetError("The 'target' must be a class: the masker learns one embedding a class", got=repr(ask.wanted))
    return rows_like(ask.data, ask.inputs).inputs


def losses(method: RealTimeSaliency, masks: Tensor, kept: Tensor, destroyed: Tensor, decoy: Tensor) -> Tensor:
    """The loss of each row, (N,): masks (N, 1, H, W), log f_c with and without what is masked, and who is a decoy."""
    rough = sum(masks.diff(dim=axis).square().sum((1, 2, 3)) for axis in (2, 3)) / masks[0].numel()
    area = masks.mean((1, 2, 3))
    left = (method.exponent * destroyed).exp()
    told = method.smoothness * rough + method.area * area - kept + method.destroy * left
    return torch.where(decoy, area, told)


def _train(method: RealTimeSaliency, subject: Subject, ask: Ask, data: Inputs) -> Masker:
    """Minibatch descent on the data, with the model's predicted classes; only the masker's weights get gradients."""
    x, said = data.floats[0], predict(subject, data, ask.memory)
    ask.check_finite(said, 0)
    count, said = said.flatten(1).shape[1], said.flatten(1).argmax(1)
    axes = (0, 2, 3)
    centre, spread = x.mean(axes, keepdim=True), x.std(axes, correction=0, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)
    weights = drawn_weights(x.shape[1], count, method.width, method.depth, ask.seed, x)
    adam, history, made = Adam(weights), [], _Fills(x, ask.seed, method.colours)
    state = Masker(weights=weights, centre=centre, spread=spread, depth=method.depth, rows=len(x), losses=(0.0, 0.0))
    for step in range(method.steps):
        chance = seed.generator(ask.seed, b"masker step", step)
        rows = torch.from_numpy(chance.permutation(len(x))[: method.minibatch])
        decoy = torch.from_numpy(chance.random(len(rows)) < method.decoys).to(x.device)
        shift = torch.from_numpy(chance.integers(1, max(2, count), len(rows))).to(x.device)
        told = torch.where(decoy, (said[rows] + shift) % count, said[rows])
        loss, slopes = _step(method, subject, ask, data, state, rows, told, decoy, made.draw(rows, step))
        history.append(loss / len(rows))
        rate = method.rate * 0.5 * (1 + math.cos(math.pi * step / method.steps))
        adam.move({k: g / len(rows) for k, g in slopes.items()}, rate)
    tenth = max(1, len(history) // 10)
    return replace(state, losses=(sum(history[:tenth]) / tenth, sum(history[-tenth:]) / tenth))


def _step(
    method: RealTimeSaliency,
    subject: Subject,
    ask: Ask,
    data: Inputs,
    state: Masker,
    rows: Tensor,
    told: Tensor,
    decoy: Tensor,
    fills: Tensor,
) -> tuple[float, Weights]:
    """The summed loss of some rows of the data, and its derivative by the masker's weights, in chunks."""
    x, total, slopes = data.floats[0], [0.0], {k: torch.zeros_like(v) for k, v in state.weights.items()}

    def work(start: int, stop: int) -> tuple[float, tuple[Tensor, ...]]:
        at, here = rows[start:stop], slice(start, stop)
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in state.weights.items()}
            images, fill = x[at.to(x.device)], fills[here]
            masks = replace(state, weights=leaves).masks(images, told[here])
            found = [
                _log(method.output, subject.scores(data.at(at, [fill + m * (images - fill)])), told[here])
                for m in (masks, 1 - masks)
            ]
            loss = losses(method, masks, found[0], found[1], decoy[here]).sum()
            return float(loss.detach()), torch.autograd.grad(loss, list(leaves.values()))

    def fold(start: int, stop: int, result: tuple[float, tuple[Tensor, ...]]) -> None:
        total[0] += result[0]
        for k, g in zip(slopes, result[1], strict=True):
            slopes[k] += g

    cost = (subject.module, ("masker step", method, shape_key(data)))
    batch.run(len(rows), work, fold, memory=ask.memory, cost=cost, device=x.device, label=method.card.title)
    return total[0], slopes


def _log(kind: str, output: Tensor, classes: Tensor) -> Tensor:
    """log f_c of each row."""
    flat = output.flatten(1)
    logs = flat.log_softmax(1) if kind == OUTPUTS[0] else flat.clamp(min=LEAST).log()
    return logs.gather(1, classes[:, None])[:, 0]


class _Fills:
    """What stands where the mask hides: the blurred image, or an even random colour with noise."""

    def __init__(self, x: Tensor, number: int, colours: float) -> None:
        self.blurred, self.number, self.colours = blurred(x), number, colours
        self.low, self.high = x.amin((0, 2, 3)), x.amax((0, 2, 3))

    def draw(self, rows: Tensor, step: int) -> Tensor:
        """Fills for these rows of the data at this step."""
        keys, like = [f"masker fill {n}".encode() for n in range(len(rows))], self.blurred
        steps, shape = [step] * len(keys), tuple(like.shape[1:])
        chance = seed.uniform(self.number, keys, steps, (1 + shape[0],), like)
        noise = seed.normal(self.number, [k + b" noise" for k in keys], steps, shape, like)
        colour = (self.low + chance[:, 1:] * (self.high - self.low))[:, :, None, None]
        even = colour + 0.1 * (self.high - self.low)[:, None, None] * noise
        return torch.where(chance[:, 0, None, None, None] < self.colours, even, self.blurred[rows.to(like.device)])


def blurred(x: Tensor) -> Tensor:
    """The images without detail."""
    return reference.blur(x, max(1.0, min(x.shape[2:]) / 10))


@dataclass(frozen=True, eq=False)
class _Share(Target):
    """A target that gives f_c itself."""

    output: str = OUTPUTS[0]

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        assert self.index is not None
        index = self.index if rows is None else self.index[rows.to(self.index.device)]
        return _log(self.output, output, index.to(output.device)).exp()


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """The tightest box (top, bottom, left, right) around a boolean mask (H, W); the whole where it is empty."""
    height, width = mask.shape
    down, across = mask.any(1).nonzero()[:, 0].tolist(), mask.any(0).nonzero()[:, 0].tolist()
    return (down[0], down[-1] + 1, across[0], across[-1] + 1) if down else (0, height, 0, width)


def middle(top: int, bottom: int, left: int, right: int, height: int, width: int) -> tuple[int, int, int, int]:
    """A box of the same size in the middle."""
    y, x = (height - (bottom - top)) // 2, (width - (right - left)) // 2
    return y, y + bottom - top, x, x + right - left


def metric(area: Tensor, share: Tensor) -> Tensor:
    """``log max(a, 0.05) - log p`` of the source, §5.1; lower is better."""
    return area.clamp(min=SMALLEST).log() - share.clamp(min=LEAST).log()


def _measure(method: RealTimeSaliency, ask: Ask, x: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What keeping, destroying and cropping do to the score."""
    height, width = x.shape[2:]
    boxes = [box(m) for m in (masks[:, 0] >= 0.5).cpu()]
    centres = [middle(*b, height, width) for b in boxes]
    fills, found = blurred(x), torch.zeros(len(x), 6, dtype=torch.float64)

    def cut(row: int, b: tuple[int, int, int, int]) -> Tensor:
        part = x[row : row + 1, :, b[0] : b[1], b[2] : b[3]]
        return functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)

    def one(row: int, kind: int) -> Tensor:
        image, fill, mask = x[row : row + 1], fills[row : row + 1], masks[row : row + 1]
        if kind in (1, 2):
            return fill + (mask if kind == 1 else 1 - mask) * (image - fill)
        if kind in (0, 3):
            return image if kind == 0 else fill
        return cut(row, (boxes if kind == 4 else centres)[row])

    def points(rows: Tensor, kinds: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([one(r, k) for r, k in zip(rows.tolist(), kinds.tolist(), strict=True)]),)

    def fold(rows: Tensor, kinds: Tensor, result: Tensor) -> None:
        found[rows, kinds] = result.cpu().double()

    asked = replace(ask, _target=_Share(index=ask.target.index, output=method.output))
    score.sweep(asked, 6, points, fold)
    ask.path = asked.path
    area = torch.tensor([(b[1] - b[0]) * (b[3] - b[2]) / (height * width) for b in boxes], dtype=torch.float64)
    return {
        "score": found[:, 0],
        "kept_score": found[:, 1],
        "destroyed_score": found[:, 2],
        "area": masks.double().mean((1, 2, 3)).cpu(),
        "fill_score": found[:, 3],
        "saliency_metric": metric(area, found[:, 4]),
        "centre_metric": metric(area, found[:, 5]),
    }
