"""How much of each word has a hidden state thrown away? As much noise as the state can bear is put on each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.bottleneck import Spread, blocks, check_number, laid_out_like, spread
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, TargetError
from pellucid.engine import Ask, Subject, feature, fill, gradient, predict, score, seed
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import parse
from pellucid.engine.target import Target, unit

__all__ = ["DiscardedInformation"]

Floats = tuple[Tensor, ...]
LEAST = 1e-3  # of the usual deviation: what a column that never varies is given
FIRST = 0.1  # of the largest deviation: where the descent begins
FARTHEST = 3.0  # a step at most, in step sizes
KEEP = 0.8  # of the usual size of a slope, from step to step
HALF = math.log(2 * math.pi * math.e) / 2  # the entropy of a normal law with a deviation of one


@dataclass(frozen=True, kw_only=True)
class DiscardedInformation(Method):
    """How many bits of each word does a hidden state keep, and how much has it thrown away?

    Every word (or column) x_i gets noise of its own size, ``x~_i = x_i + N(0, σ_i² I)``, as large as the hidden state
    ``s = Φ(x)`` can bear: for each row a stochastic descent on log σ lowers

    ``D(σ) - λ sum_i K_i log σ_i``, with the distortion ``D = mean (Φ(x~) - s)² / mean variance of s over the data``

    and K_i the values of word i. ``λ = 2 · budget / sum_i K_i``, with which a linear Φ spends exactly the budget:
    ``D = budget``, every value's share the same. σ is at most ``largest`` standard deviations of the inputs in the data.

    ``values = log2(σ_max / σ_i)``: the bits that the state keeps of each value of word i, beyond what the largest noise
    leaves; 0 for a word that the state has thrown away, never negative; a word's bits are their sum over its values.
    ``parts["sigma"]``, σ in input units, and ``parts["entropy"]``, the paper's measure ``log σ_i + log(2πe)/2`` in nats
    for each value: high where much is thrown away. They are on one scale for all layers and models.
    `error` is the standard error over `repeats`.

    With ``hidden=None`` s is the model's output, or the score where ``target=`` asks for one. ``layer=`` says where the
    words are (an embedding), ``hidden`` where the state is. Facts: ``distortion``, D on fresh noise, to be compared with
    ``budget``: far more means that Φ is curved, or that the descent was too short; ``entropy``, the sum of the paper's
    measure over the row; ``at_largest``, the share of words at σ_max (within 1 %).

    Args:
        hidden: the place of the hidden state, such as "encoder.layers.3".
        budget: the distortion that is allowed, as a share of the state's variance.
        largest: σ_max in standard deviations of the inputs: of each column of a table, of all values else.
        features: what gets noise of one size: "auto": columns of tables, the second axis of sequences, an 8 × 8 grid of
            images; "element", "token", "channel", "pixel", ("grid", k), ("patch", k), or groups of columns.
        steps: steps of the descent; the last half is averaged.
        samples: draws of noise per step.
        rate: the step size in log σ, which falls to a tenth of it.
        repeats: descents with other noise, whose mean is given.

    Cost: repeats × steps × samples forwards and backwards, as many forwards as samples × repeats for the facts, and one
    forward per row of data.
    Known failure: noise has no direction, so a word of which one dimension is read counts as read; two words that say the
    same both look thrown away; large noise leaves what the network was trained on.
    Source: Guan, Wang, Zhang, Chen, He & Xie 2019, §3.2, equations 4 to 7. Departs from it: λ follows from a budget.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1, bias=False).eval()
        >>> _ = net.weight.data.copy_(torch.tensor([[4.0, 1.0, 0.0]]))
        >>> x = torch.arange(60.0).sin().reshape(20, 3)
        >>> px.explain(net, x[:1], "information-based-measure-nlp", data=x).values.round().tolist()
        [[6.0, 4.0, 0.0]]
    """

    hidden: str | None = None
    budget: float = 0.05
    largest: float = 10.0
    features: str | tuple[Any, ...] = "auto"
    steps: int = 150
    samples: int = 8
    rate: float = 0.2
    repeats: int = 2

    card: ClassVar[Card] = Card(
        name="information-based-measure-nlp",
        title="Information that a hidden state throws away",
        question="How much of each word does a hidden state keep, and how much has it thrown away?",
        form="attribution",
        scope="local",
        citation="guan2019towards",
        needs=("gradient", "data"),
        taxonomy={
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/mutual information",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "dummy", "implementation invariant", "spelling invariant"),
        trial={"steps": 24, "samples": 2, "rate": 0.3},
        cost="2400 forwards and backwards, 16 forwards, and 1 forward per row of data",
        supports=(
            "this much noise on each word at once changes the hidden state by the reported distortion",
            "bits of one scale: layers and models can be compared at one budget",
        ),
        limits=(
            "for or against: bits have no sign",
            "which of several words that say the same is read: together they can bear the noise",
            "rows where `distortion` is far from the budget",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> _Usual:
        """How much the inputs and the hidden state vary over the data."""
        for name in ("budget", "largest", "rate"):
            check_number(name, getattr(self, name), 0, strict=True)
        for name in ("steps", "samples", "repeats"):
            check_number(name, getattr(self, name), 1, whole=True)
        module = gradient.needs_module(subject, "gradients")
        place = None if self.hidden is None else parse(self.hidden, module)
        if place is not None and ask.wanted is not None:
            raise TargetError("The 'target' must be None where 'hidden' names the state", got=repr(ask.wanted))
        if ask.layer is None:
            feature.features(self.features, fill.explained(ask))  # refused before the model runs
        table = any(x.dim() == 2 for x in ask.inputs.floats)
        rows = rows_like(ask.data, ask.inputs, shapes=table or ask.layer is not None).inputs
        if rows.rows < 2:
            raise InputError("The 'data' must hold at least 2 rows", got=str(rows.rows))
        if ask.wanted is not None:
            assert ask.target is not None  # refused before the data are run
        states = predict(subject, rows, ask.memory, place or ask.unit_place)
        return _Usual(spread(blocks(subject, ask, rows), LEAST), states)

    def explain(self, subject: Subject, ask: Ask, state: _Usual) -> Attribution:
        """The largest noise that each word bears, and what is left of the words in it."""
        held = fill.explained(ask)
        laid, asked = feature.features(self.features, held), self._distortion(subject, ask, state)
        fit = _Descent(self, asked, held, laid, state.inputs)
        for step in range(self.steps):
            fit.descend(step)
        distortion = fit.measured()
        ask.path = asked.path
        logs, top = fit.result(), fit.top  # log σ/σ_max (rows, repeats, features), log σ_max (features,)
        sizes = fit.sizes.double()
        bits, error = (0 - logs.mean(1)) / math.log(2), logs.std(1) / math.log(2) / self.repeats**0.5
        sigma = top + logs.mean(1)
        there = (sizes > 0).double()
        facts = {
            "distortion": distortion.mean(1),
            "budget": torch.full((held.rows,), float(self.budget), dtype=torch.float64),
            "entropy": ((sigma + HALF) * sizes).sum(1),
            "at_largest": ((logs.mean(1) > math.log(0.99)).double() * there).sum(1) / there.sum(1).clamp(min=1),
        }
        parts = {"sigma": laid.spread(sigma.exp(), held), "entropy": laid.spread(sigma + HALF, held)}
        return Attribution(
            values=held.wrap(laid.spread(bits, held)),
            error=None if self.repeats < 2 else held.wrap(laid.spread(error, held)),
            parts={k if len(v) == 1 else f"{k} {i}": x for k, v in parts.items() for i, x in enumerate(v)},
            facts=facts,
            source={"rows_of_data": state.inputs.rows},
        )

    def _distortion(self, subject: Subject, ask: Ask, state: _Usual) -> Ask:
        """The question of how far the state of each row is from where it was, against its variance in the data."""
        module = gradient.needs_module(subject, "gradients")
        if ask.output is None:
            ask.record(predict(subject, ask.inputs, ask.memory, ask.unit_place))
        assert ask.output is not None
        settled = None if ask.wanted is None else ask.target
        if self.hidden is not None:
            place = parse(self.hidden, module)
            clean = _flat(predict(subject, ask.inputs, ask.memory, place))
            asked = replace(ask, wanted=unit(self.hidden))
            usual = _variance(_flat(state.states)).expand(len(clean))
        elif settled is None:
            clean, asked = _flat(ask.output), ask
            usual = _variance(_flat(state.states)).expand(len(clean))
        else:
            clean, asked = settled.score(ask.output)[:, None], ask
            usual = _scores(settled, state.states, ask.inputs.rows)
        if bool((usual <= 0).any()):
            raise InputError("The hidden state must vary over the rows of 'data'", got="the same state for every row")
        return replace(asked, _target=_Distortion(inner=settled, clean=clean, usual=usual))


@dataclass(frozen=True, eq=False)
class _Usual:
    """Mean and deviation of the inputs, and the states (or outputs), over the data."""

    inputs: Spread
    states: Tensor


def _flat(values: Tensor) -> Tensor:
    """Rows of values, also where a row has one value and no axis for it."""
    return values.reshape(len(values), -1)


def _variance(states: Tensor) -> Tensor:
    """The mean variance of a state's values over rows (N, values)."""
    return states.double().var(0).mean()


def _scores(settled: Target, outputs: Tensor, rows: int) -> Tensor:
    """The variance over the data of the score that each row explains, (rows,)."""
    if settled.index is None:
        return settled.score(outputs).double().var().expand(rows)
    return outputs.flatten(1).double().var(0)[settled.index]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Distortion(Target):
    """The mean squared change of a row's state, or of its score where `inner` asks for one, against its variance."""

    inner: Target | None
    clean: Tensor
    usual: Tensor

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        """One number per row."""
        which = torch.arange(len(output)) if rows is None else rows
        state = _flat(output) if self.inner is None else self.inner.score(output, which)[:, None]
        which = which.to(self.clean.device)
        return (state - self.clean[which]).square().mean(1) / self.usual[which].to(state.dtype)


class _Descent:
    """log σ/σ_max of each feature of each row, `repeats` for each, while distortion minus entropy is lowered."""

    def __init__(
        self, method: DiscardedInformation, ask: Ask, held: Inputs, laid: feature.Features, inputs: Spread
    ) -> None:
        self.method, self.ask, self.held, self.count = method, ask, held, laid.count
        self.labels = [torch.where(part == feature.NOWHERE, laid.count, part) for part in laid.labels]
        rows = torch.arange(held.rows)
        numbers = self._numbers(rows)
        ones = [torch.ones_like(x.flatten(1), dtype=torch.float64) for x in held.floats]
        self.sizes = self._summed(ones, numbers)
        self.top = _largest(held, inputs, numbers, self.sizes, method.largest)
        shape = (held.rows * method.repeats, laid.count)
        self.logs = torch.full(shape, math.log(FIRST), dtype=torch.float64, device=held.device)
        self.kept, self.terms, self.usual = torch.zeros_like(self.logs), 0, torch.zeros_like(self.logs)

    def _label(self, part: int, rows: Tensor) -> Tensor:
        """The feature of every value of these rows, `count` for none."""
        labels, shape = self.labels[part], self.held.floats[part].shape[1:]
        chosen = labels if labels.shape[0] == 1 else labels[rows.to(labels.device)]
        return chosen.expand(len(rows), *shape)

    def _numbers(self, rows: Tensor) -> list[Tensor]:
        return [self._label(part, rows).flatten(1) for part in range(len(self.held.floats))]

    def _summed(self, parts: list[Tensor], numbers: list[Tensor]) -> Tensor:
        """Sums of values (rows, values) over each feature, (rows, features)."""
        total = parts[0].new_zeros(len(parts[0]), self.count + 1, dtype=torch.float64)
        for part, number in zip(parts, numbers, strict=True):
            total = total.scatter_add(1, number, part.double())
        return total[:, : self.count]

    def _noise(self, rows: Tensor, draws: Tensor, step: int) -> Floats:
        keys, count = [self.ask.keys[row] for row in rows.tolist()], self.method.repeats * self.method.samples
        parts = self.held.floats
        found = []
        for part, x in enumerate(parts):
            numbers = [(step * count + draw) * len(parts) + part for draw in draws.tolist()]
            found.append(seed.normal(self.ask.seed, keys, numbers, tuple(x.shape[1:]), x))
        return tuple(found)

    def _points(self, logs: Tensor, step: int) -> Any:
        sigma = (self.top.repeat_interleave(self.method.repeats, 0) + logs).exp()
        padded = torch.cat([sigma, sigma.new_zeros(len(sigma), 1)], 1)

        def points(rows: Tensor, draws: Tensor) -> Floats:
            chains, noise = self._chain(rows, draws).to(padded.device), self._noise(rows, draws, step)
            found = []
            for part, (x, e) in enumerate(zip(self.held.floats, noise, strict=True)):
                number = self._label(part, rows)
                wide = padded[chains].gather(1, number.flatten(1)).reshape(number.shape)
                found.append(laid_out_like(x[rows.to(x.device)] + wide.to(x.dtype) * e, x))
            return tuple(found)

        return points

    def _chain(self, rows: Tensor, draws: Tensor) -> Tensor:
        return rows * self.method.repeats + draws // self.method.samples

    def descend(self, step: int) -> None:
        """One step: noise of the present size, and the slope of the distortion in log σ against the price."""
        method, slope = self.method, torch.zeros_like(self.logs)
        top = self.top.repeat_interleave(method.repeats, 0)
        now = self.logs

        def add(rows: Tensor, draws: Tensor, found: gradient.Gradient) -> None:
            noise, numbers = self._noise(rows, draws, step), self._numbers(rows)
            pulled = [(g * e).flatten(1) for g, e in zip(found.grads, noise, strict=True)]
            summed, chains = self._summed(pulled, numbers), self._chain(rows, draws)
            number, sizes = torch.unique_consecutive(chains, return_counts=True)
            for chain, some in zip(number.tolist(), summed.split(sizes.tolist()), strict=True):
                slope[chain] += some.sum(0)

        gradient.sweep(self.ask, method.repeats * method.samples, self._points(now, step), add, label=method.card.title)
        sizes = self.sizes.repeat_interleave(method.repeats, 0)
        price = 2 * method.budget / sizes.sum(1, keepdim=True) * sizes
        slope = (top + now).exp() * slope / method.samples
        # Slopes change by orders of magnitude on the way. What they are divided by comes from earlier steps alone: were
        # this one in it, large slopes would count less than small ones, and the descent would end elsewhere.
        self.usual = slope.abs() if step == 0 else self.usual
        share = (price - slope) / torch.maximum(self.usual, price).clamp(min=torch.finfo(torch.float64).tiny)
        self.logs = (now + method.rate * 0.1 ** (step / method.steps) * share.clamp(-FARTHEST, FARTHEST)).clamp(max=0.0)
        self.usual = KEEP * self.usual + (1 - KEEP) * slope.abs()
        if 2 * (step + 1) > method.steps:
            self.kept, self.terms = self.kept + self.logs, self.terms + 1

    def result(self) -> Tensor:
        """log σ/σ_max, the mean of the last half of the steps, (rows, repeats, features)."""
        return (self.kept / self.terms).reshape(self.held.rows, self.method.repeats, self.count)

    def measured(self) -> Tensor:
        """The distortion for noise that no step has seen, (rows, draws)."""
        count = self.method.repeats * self.method.samples
        found = torch.zeros(self.held.rows, count, dtype=torch.float64)

        def keep(rows: Tensor, draws: Tensor, distortion: Tensor) -> None:
            found[rows, draws] = distortion.double().cpu()

        score.sweep(self.ask, count, self._points(self.kept / self.terms, self.method.steps), keep)
        return found


def _largest(held: Inputs, inputs: Spread, numbers: list[Tensor], sizes: Tensor, times: float) -> Tensor:
    """log σ_max of each feature of each row: of each column of a table, of all values of a tensor else."""
    squares = sizes.new_zeros(len(sizes), sizes.shape[1] + 1)
    for x, number, mean, deviation in zip(held.floats, numbers, inputs.mean, inputs.deviation, strict=True):
        if x.dim() == 2:
            square = deviation.square().expand(x.shape)
        else:
            square = (deviation.square().mean() + mean.var(correction=0)).expand(len(x), x[0].numel())
        squares = squares.scatter_add(1, number, square)
    return (squares[:, :-1] / sizes.clamp(min=1)).clamp(min=torch.finfo(torch.float64).tiny).sqrt().mul(times).log()
