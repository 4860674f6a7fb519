"""How much information does the network need from each place, told by a network that has learnt to say it?"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.attribution.bottleneck import (
    Floats,
    blocks,
    capacity,
    check_class,
    check_number,
    check_output,
    class_loss,
    laid_out_like,
    noise,
    restricted,
    spread,
)
from pellucid.attribution.bottleneck_network import Masks, ReadOut, channels, drawn_weights, look
from pellucid.attribution.mask_network import Adam, Weights
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, batch, fill, gradient, score, seed
from pellucid.engine.chance import LogProbability
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, parse

__all__ = ["ReadOutBottleneck"]

Jobs = Callable[[Tensor, Tensor], Floats]
States = dict[int | None, ReadOut]
_KEPT: weakref.WeakKeyDictionary[nn.Module, tuple[Any, States]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class ReadOutBottleneck(Method):
    """How many bits does the network need from each place, told in one pass by a network that has learnt to tell?

    As for the information bottleneck, the layer's values R are mixed with noise like the data's own,
    ``Z = λ R + (1 - λ) ε`` with ``ε ~ N(μ, s²)``, but the mask ``λ = blur(sigmoid(α))`` is not fitted to a row: α is read
    off what the model holds for it, at the layer, at the places in `read` and at its output, by three 1 × 1 convolutions.
    Maps of other sizes are resized linearly, vectors stand at every place, channels are in deviations of the data, the
    layer's own values also in those at their place. The weights are trained on ``data=`` to lower, by Adam, the mean over
    its rows of

    ``-log p(class | Z) + β · mean KL``, with, for r = (R - μ)/s, ``KL = ((λ r)² + (1 - λ)² - 1) / 2 - log(1 - λ)``,

    where the class is what the model predicts for the row of data (labels are not read), or, with ``target=`` a class,
    that class for every row; then each class that is asked for gets a read-out of its own.

    ``values = KL / ln 2``, summed over channels (of maps) or dimensions (of sequences): bits per place of the layer, never
    negative, on the same scale as the information bottleneck's. `error` is the standard error over `repeats`.

    Facts: ``score`` and ``noisy_score``, its mean through the bottleneck; ``bits``, the row's sum; ``cross_entropy``,
    -log p(target) through the bottleneck in nats, measured on fresh noise, with ``cross_entropy_error``; and
    ``model_cross_entropy``, without it. Where the first is much larger than the last, too much was lost for this row: a
    mask that is read is no better than what was learnt. ``source`` tells rows, steps and the mean loss of the first and
    of the last tenth of the training.

    The read-out is kept with the model: the same call on new inputs trains nothing, until weights, data, seed or settings
    change.

    Args:
        beta: what a nat, averaged over all values of the layer, costs against the cross-entropy.
        read: names of further places that are read, such as ("layer2", "layer3", "layer4"); deep ones see more around
            each place.
        hidden: channels of the read-out's two inner layers.
        steps: steps of Adam.
        minibatch: rows of data per step.
        samples: draws of noise per row and step.
        rate: the step size, which falls to 0 along half a cosine.
        start: α at first: 1 lets through 73 %. From far above, bits fall so steeply that Adam closes the mask for good.
        smooth: width of the Gaussian, in places of a map, that blurs the mask; 0 for none.
        floor: least standard deviation of the noise, as a share of the layer's (root mean square).
        repeats: read-outs trained from other weights and noise, whose mean is given.
        draws: draws of noise per row and repeat for the facts; 0 leaves out those that need noise.
        output: what the model returns: "logits" (log-probabilities will do) or "probabilities".

    Values that are the same in all rows of the data, and in the row, are left alone and have zero bits.

    Cost: once, repeats × steps × minibatch × (samples forwards and backwards above the layer, and 1 forward), and 2
    forwards per row of data; then 2 forwards per row, and 2 × repeats × draws above the layer for the facts.
    Known failure: what no channel tells at a place can't be told there, so with `read` left out masks know their
    surroundings only through the output; rows unlike the data get the mask of what they look like, and values that few
    rows of the data had cost many bits; few steps leave the mask open, and a large `start` or `rate` can close it for
    good: compare first and last loss, and ``cross_entropy`` with the fitted bottleneck's on some rows.
    Source: Schulz, Sixt, Tombari & Landgraf 2020, §3.2. Departs from it: predicted classes instead of labels, the output
    is read too, channels are standardised, and no pretrained read-out.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2)).eval()
        >>> x = torch.arange(48.0).sin().reshape(3, 1, 4, 4)
        >>> method = px.attribution.ReadOutBottleneck(steps=3)
        >>> px.explain(net, x, method, layer="0", data=x).values.shape
        torch.Size([3, 1, 2, 2])
    """

    beta: float = 10.0
    read: tuple[str, ...] = ()
    hidden: int = 32
    steps: int = 300
    minibatch: int = 16
    samples: int = 1
    rate: float = 0.01
    start: float = 1.0
    smooth: float = 1.0
    floor: float = 0.01
    repeats: int = 2
    draws: int = 10
    output: str = "logits"

    card: ClassVar[Card] = Card(
        name="read-out-bottleneck",
        title="Read-out bottleneck",
        question="How many bits does the network need from each place, told in one pass?",
        form="attribution",
        scope="local",
        citation="schulz2020restricting",
        needs=("gradient", "layers", "data"),
        taxonomy={
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/mutual information",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded"),
        trial={"steps": 3, "minibatch": 4, "hidden": 4, "draws": 2},
        cost="training once: 9,600 forwards and backwards above the layer; then 2 forwards, and 40 for the facts",
        supports=(
            "the answer is kept, at the reported cross-entropy, when no more than these bits pass each place",
            "masks of one rule that was learnt from many rows: a row can't be fitted to its own accidents",
        ),
        limits=(
            "the fewest bits for this row: the information bottleneck, fitted to it, may find fewer",
            "for or against: bits have no sign",
            "rows unlike the data, or whose `cross_entropy` is far above `model_cross_entropy`",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> States:
        """A read-out for the predicted classes, or for each class asked for; those that are kept are not trained again."""
        self._check(ask)
        module = gradient.needs_module(subject, "gradients")
        read = self._places(module)
        if ask.layer is None:
            fill.explained(ask)  # refused before the model runs
        rows = rows_like(ask.data, ask.inputs).inputs
        if rows.rows < 2:
            raise InputError("The 'data' must hold at least 2 rows", got=str(rows.rows))
        index = class_loss(ask, self.output).index
        assert index is not None
        wanted = [None] if ask.wanted is None else sorted(set(index.tolist()))
        plain = subject.preprocess is None and subject.call is None and isinstance(subject.output, str | int | None)
        told = (str(ask.layer), subject.output, rows.fingerprint(), str(rows.dtype), str(rows.device))
        key = (replace(self, draws=0), ask.seed, ask.model_hash, *told)
        kept = _KEPT.get(module, (None, {})) if plain else (None, {})
        found: States = dict(kept[1]) if kept[0] == key else {}
        if missing := [one for one in wanted if one not in found]:
            usual = spread(blocks(subject, ask, rows), self.floor)
            centre, scale, output = channels(subject, rows, ask.layer, read, ask.memory)
            ask.check_finite(output, 0)
            empty = ReadOut(weights=(), spread=usual, centre=centre, scale=scale)
            for one in missing:
                said = (
                    output.flatten(1).argmax(1) if one is None else torch.full_like(index[:1], one).expand(len(output))
                )
                target = LogProbability(index=said, logits=self.output != "probabilities", sign=-1.0)
                about = replace(ask, inputs=rows, wanted=said, data=None, output=None, memo=None, _target=target)
                trained = [_Training(self, about, empty, read, repeat).run() for repeat in range(self.repeats)]
                weights, losses = zip(*trained, strict=True)
                found[one] = replace(empty, weights=weights, losses=losses)
            if plain:
                _KEPT[module] = (key, found)
        return {one: found[one] for one in wanted}

    def explain(self, subject: Subject, ask: Ask, state: States) -> Attribution:
        """The mask that each row is given, the bits that it lets through, and what is left of the answer."""
        asked, read = (
            replace(ask, _target=class_loss(ask, self.output)),
            self._places(gradient.needs_module(subject, "")),
        )
        first, rows = next(iter(state.values())), torch.arange(ask.inputs.rows)
        assert asked.target.index is not None
        # What was learnt of predicted classes serves also where a measurement asks again about those it settled on.
        wanted = [None] * len(rows) if None in state else asked.target.index.tolist()
        block = first.block(ask.memory, self.hidden, self.repeats)
        bits, facts, held = list[Floats](), list[dict[str, Tensor]](), list[Floats]()
        for some in rows.split(block):
            seen = look(subject, ask.inputs.take(some), ask.layer, read, ask.memory)
            values = seen[: len(first.spread.mean)]
            masks = self._masks(state, [wanted[row] for row in some.tolist()], seen, values)
            bits.append(first.bits(masks, values))
            facts.append(self._measured(ask, asked, first, some, values, masks))
            held.append(values)
        ask.path = asked.path
        place = ask.inputs if ask.layer is None else Inputs((torch.cat([h[0] for h in held]),), (), True)
        maps = [torch.cat(part).to(x.dtype) for part, x in zip(zip(*bits, strict=True), place.floats, strict=True)]
        assert ask.output is not None  # the target was settled on it
        measured = {name: torch.cat([f[name] for f in facts]) for name in facts[0]}
        measured["score"], measured["model_cross_entropy"] = ask.score, asked.target.score(ask.output)
        measured["bits"] = torch.stack([m.double().flatten(2).sum(2).mean(1) for m in maps]).sum(0)
        losses = torch.tensor([pair for one in state.values() for pair in one.losses], dtype=torch.float64).mean(0)
        told = {
            "rows": first.spread.rows,
            "steps": self.steps,
            "first_loss": float(losses[0]),
            "last_loss": float(losses[1]),
        }
        spreads = None if self.repeats < 2 else [m.std(1) / self.repeats**0.5 for m in maps]
        return Attribution(
            values=place.wrap([m.mean(1) for m in maps]),
            error=None if spreads is None else place.wrap(spreads),
            facts=measured,
            source={"read_out": told},
        )

    def _check(self, ask: Ask) -> None:
        for name in ("beta", "smooth"):
            check_number(name, getattr(self, name), 0)
        for name in ("rate", "floor"):
            check_number(name, getattr(self, name), 0, strict=True)
        for name in ("hidden", "steps", "minibatch", "samples", "repeats"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("draws", self.draws, 0, whole=True)
        check_number("start", self.start, -100)
        check_output(self.output)
        if not isinstance(self.read, tuple) or not all(isinstance(name, str) for name in self.read):
            raise MethodError(
                "The 'read' must be a tuple of places", got=repr(self.read), hint='read=("layer3", "layer4")'
            )
        check_class(ask)

    def _places(self, module: nn.Module) -> list[Place]:
        return [parse(name, module) for name in self.read]

    def _masks(self, state: States, wanted: list[int | None], reads: Floats, values: Floats) -> Masks:
        """λ and 1 - λ of each repeat, (rows, repeats, ...)."""
        found = [
            tuple(x.new_zeros(len(x), self.repeats, *x.shape[1:], dtype=torch.float64) for _ in "λε") for x in values
        ]
        for one, trained in state.items():
            rows = torch.tensor(
                [i for i, w in enumerate(wanted) if w == one], dtype=torch.long, device=values[0].device
            )
            if not len(rows):
                continue
            for repeat in range(self.repeats):
                some = trained.masks(repeat, tuple(x[rows] for x in reads), tuple(x[rows] for x in values), self.smooth)
                for (kept, lost), (k, e) in zip(found, some, strict=True):
                    kept[rows, repeat], lost[rows, repeat] = k, e
        return [(kept, lost) for kept, lost in found]

    def _measured(
        self, ask: Ask, asked: Ask, state: ReadOut, rows: Tensor, values: Floats, masks: Masks
    ) -> dict[str, Tensor]:
        """What is left of score and cross-entropy behind the masks, for noise that no step has seen."""
        if not self.draws:
            return {"score": torch.zeros(len(rows))}
        count, first = self.repeats * self.draws, self.repeats * self.steps * self.samples
        alive = state.spread.alive(values)

        def points(jobs: Tensor, draws: Tensor) -> Floats:
            local, repeat = jobs - int(rows[0]), draws // self.draws
            keys = [ask.keys[row] for row in jobs.tolist()]
            drawn = noise(ask, keys, [first + draw for draw in draws.tolist()], state.spread, values)
            parts = zip(masks, values, alive, drawn, strict=True)
            return tuple(
                laid_out_like(restricted(x[local], k[local, repeat], e[local, repeat], n, a[local]), x)
                for (k, e), x, a, n in parts
            )

        def ask_for(one: Ask) -> Tensor:
            found = torch.zeros(len(rows), count, dtype=torch.float64)

            def keep(jobs: Tensor, draws: Tensor, result: Tensor) -> None:
                found[jobs - int(rows[0]), draws] = result.double().cpu()

            score.sweep(one, count, points, keep, rows=rows.tolist())
            return found

        loss = ask_for(asked)
        return {
            "noisy_score": ask_for(ask).mean(1),
            "cross_entropy": loss.mean(1),
            "cross_entropy_error": loss.std(1) / count**0.5 if count > 1 else torch.zeros(len(rows)),
        }


class _Training:
    """One read-out on its way: minibatches of the data, with the slope of the loss by its weights."""

    def __init__(self, method: ReadOutBottleneck, ask: Ask, state: ReadOut, read: list[Place], repeat: int) -> None:
        self.method, self.ask, self.read, self.repeat = method, ask, read, repeat
        like = tuple(m[None] for m in state.spread.mean)
        weights = drawn_weights(state.width, like, method.hidden, method.start, ask.seed, repeat)
        self.state, self.weights = replace(state, weights=(weights,)), weights
        self.block = state.block(ask.memory, method.hidden, 1)

    def run(self) -> tuple[Weights, tuple[float, float]]:
        """The trained weights, and the mean loss of the first and of the last tenth of the steps."""
        method, adam, history = self.method, Adam(self.weights), list[float]()
        with self.ask.progress.bar(method.steps, method.card.title) as tell:
            for step in range(method.steps):
                loss, slopes = self.slopes(step)
                history.append(loss)
                adam.move(slopes, method.rate * 0.5 * (1 + math.cos(math.pi * step / method.steps)))
                tell(1)
        tenth = max(1, len(history) // 10)
        return self.weights, (sum(history[:tenth]) / tenth, sum(history[-tenth:]) / tenth)

    def slopes(self, step: int) -> tuple[float, Weights]:
        """The mean loss of one minibatch, and its derivative by the weights."""
        chance = seed.generator(self.ask.seed, f"read-out rows {self.repeat}".encode(), step)
        rows = torch.from_numpy(chance.permutation(self.ask.inputs.rows)[: self.method.minibatch])
        total, slopes = 0.0, {k: torch.zeros_like(w) for k, w in self.weights.items()}
        for some in rows.split(self.block):
            loss, found = self._some(some, step)
            total += loss / len(rows)
            for k, slope in zip(slopes, found, strict=True):
                slopes[k] += slope / len(rows)
        return total, slopes

    def _some(self, rows: Tensor, step: int) -> tuple[float, Floats]:
        """The same, summed over some rows: the slope in the mask by the chain rule through Z, and that of the bits."""
        method, ask, spreads = self.method, self.ask, self.state.spread
        seen = look(ask.subject, ask.inputs.take(rows), ask.layer, self.read, ask.memory)
        values = seen[: len(spreads.mean)]
        with torch.enable_grad():
            leaves = {k: w.detach().requires_grad_() for k, w in self.weights.items()}
            masks = replace(self.state, weights=(leaves,)).masks(0, seen, values, method.smooth)
        losses, slopes = self._through(rows, step, values, [(k.detach(), e.detach()) for k, e in masks])
        with torch.enable_grad():
            paid = torch.zeros((), dtype=torch.float64, device=values[0].device)
            total = paid
            parts = zip(masks, slopes, spreads.normed(values), spreads.alive(values), strict=True)
            for (kept, lost), slope, r, alive in parts:
                paid = paid + (capacity(r, kept, lost) * alive).sum() * (method.beta / spreads.size)
                total = total + (kept * alive * slope).sum()
            found = torch.autograd.grad(total + paid, list(leaves.values()))
        return losses + float(paid.detach()), found

    def _through(self, rows: Tensor, step: int, values: Floats, masks: Masks) -> tuple[float, list[Tensor]]:
        """The cross-entropy through the bottleneck, and its slope in λ, each the mean over the draws of noise."""
        method, ask, spreads = self.method, self.ask, self.state.spread
        alive, samples = spreads.alive(values), method.samples
        where = torch.zeros(ask.inputs.rows, dtype=torch.long)
        where[rows] = torch.arange(len(rows))
        slopes, loss = [torch.zeros_like(kept) for kept, _ in masks], [0.0]

        def drawn(jobs: Tensor, draws: Tensor) -> Floats:
            numbers = [(self.repeat * method.steps + step) * samples + draw for draw in draws.tolist()]
            return noise(ask, [ask.keys[row] for row in jobs.tolist()], numbers, spreads, values)

        def points(jobs: Tensor, draws: Tensor) -> Floats:
            local = where[jobs]
            parts = zip(masks, values, alive, drawn(jobs, draws), strict=True)
            return tuple(
                laid_out_like(restricted(x[local], k[local], e[local], n, a[local]), x) for (k, e), x, a, n in parts
            )

        def add(jobs: Tensor, draws: Tensor, found: gradient.Gradient) -> None:
            local = where[jobs]
            loss[0] += float(found.score.double().sum()) / samples
            for slope, g, x, n in zip(slopes, found.grads, values, drawn(jobs, draws), strict=True):
                change = (g * (x[local] - n)).double() / samples  # dZ/dλ = R - ε
                slope.index_add_(0, local.to(slope.device), change)

        quiet = replace(ask, progress=batch.Progress())
        gradient.sweep(quiet, samples, points, add, rows=rows.tolist())
        return loss[0], slopes
