"""Could other attention weights have given the same answer? The tests of "Attention is not explanation"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, attention, attention_swap, batch, fill
from pellucid.engine import seed as seeds
from pellucid.engine.ask import shape_key
from pellucid.engine.attention import Map
from pellucid.engine.evaluation import by_class, overall
from pellucid.engine.layout import Layout, lay
from pellucid.engine.settings import whole
from pellucid.evaluation.attention_search import (
    SCORES,
    TINY,
    Found,
    ascend,
    distance,
    divergence,
    permuted,
    probabilities,
)
from pellucid.evaluation.similarity import steady

__all__ = ["AttentionIsNotExplanation"]

CAVEAT = (
    "Other weights that give the same answer show that these weights are not the only account of it, not that they are "
    "useless: attention may still be one of several plausible reasons (Wiegreffe & Pinter 2019)."
)
GRADIENTS = ("norm", "product")
NEAR = 0.95  # of the largest divergence: as good
SPREAD = 4.0  # of the logits that the search starts from


@dataclass(frozen=True, eq=False)
class _Read:
    """What one pass saw: every map's weights, the map that is tested, and the tokens it lies over."""

    maps: list[Map]
    weights: list[Tensor]
    block: int
    share: Tensor  # (rows, heads, queries): how much each of its distributions counts, 1 in all
    place: int
    values: tuple[Tensor, ...]
    layout: Layout

    @property
    def real(self) -> Tensor:
        """The weights that are tested, (rows, heads, queries, keys)."""
        return self.weights[self.block]

    @property
    def tested(self) -> list[Map]:
        """Their map alone."""
        return [self.maps[self.block]]

    def mean(self, weights: Tensor) -> Tensor:
        """The distributions that count as one, (rows, keys) in float64."""
        return (self.share[..., None] * weights).sum((1, 2)).double()


@dataclass(frozen=True, kw_only=True)
class AttentionIsNotExplanation(Method):
    """Could other attention weights have given the same answer, and do these agree with other measures of importance?

    ``values`` is the largest Jensen-Shannon divergence, in nats from 0 to ln 2, that a search found between the model's
    attention and other weights under which the output changes by at most ``epsilon``. Changes of the output are total
    variation distances, ½ Σ |p - p'| over classes' probabilities, from 0 to 1. Where several heads, or tokens that the
    score reads, have a distribution each, divergences are their mean and weights their average.

    Facts: ``tau_gradient`` and ``tau_leave_one_out``, Kendall's tau-b over tokens between attention and the size of the
    score's gradient (the graph cut at all attention weights) or the change of the output without the token, each with its
    p-value, NaN where either is constant; ``permutation_change``, the median change when weights are permuted among the
    tokens that may be looked at, and ``permutation_high``, its 90 % quantile; ``adversarial_change``, the change under the
    weights found, never above ``epsilon``; ``search_agreement``, the share of starts that came within 5 % of the best:
    where it is low, more starts may reach farther; ``largest_weight``; ``tokens``, how many may be looked at.
    `parts`: ``attention`` and ``adversarial`` (rows, keys), ``gradient`` and ``leave_one_out`` (rows, tokens),
    ``permuted`` (rows, permutations), ``by_start`` (rows, starts), the divergences reached. ``source`` has distributions
    over all rows and each class, and the caveat: other weights show that these are not the only account, not that they are
    useless.

    Args:
        block: which attention layer, counted from the first or, if negative, from the last.
        epsilon: the change of the output that counts as none.
        permutations: how many are tried.
        starts: searches per row; the first starts from the attention turned around.
        steps: gradient steps of each.
        rate: length of the first step, in logits of attention; the last is a thousandth of it.
        gradient: "norm" of a token's gradient, or "product", \\|x · gradient\\|, which is a word's own where x is one-hot.
        hold: leave tokens out with all attention weights held as they were, not renormalised.
        baseline: what stands for a token that is left out: a number, or "mean".
        scores: whether the model gives "logits" (one column: those of a probability) or "probabilities".

    Cost: 2 forwards and 2 backwards; a forward per permutation and token; ``starts`` (``steps`` + 28) forwards and
    2 ``starts`` × ``steps`` backwards.
    Known failures: the search may miss more distant weights, so ``values`` are lower bounds. Weights are replaced at one
    layer, while the others answer to that.
    Source: Jain & Wallace 2019, §3, §4.1, §4.2, algorithms 1 to 3. Their search penalises changes and lets
    some exceed epsilon; here each step follows the constraint, and what exceeds it is shortened towards the attention.

    Example:
        >>> import torch, pellucid as px
        >>> body = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> net = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
        >>> found = px.explain(net, torch.randn(1, 3, 4), px.evaluation.AttentionIsNotExplanation(epsilon=0.05, steps=5))
        >>> bool(found.facts["adversarial_change"] <= 0.05)
        True
    """

    block: int = -1
    epsilon: float = 0.01
    permutations: int = 100
    starts: int = 8
    steps: int = 60
    rate: float = 1.0
    gradient: str = "norm"
    hold: bool = False
    baseline: float | str = 0.0
    scores: str = "logits"

    card: ClassVar[Card] = Card(
        name="attention-is-not-explanation",
        title="Attention is not explanation",
        question="Could other attention weights have given the same answer?",
        form="measure",
        scope="local",
        citation="jain2019attention",
        needs=("gradient", "backward rules"),
        data_types=("sequence", "tokens", "image"),
        taxonomy={"001": "visualization/attention/evaluation", "002": "post-hoc/explaining-by-text/attention"},
        claims=("rowwise", "seeded"),
        trial={"permutations": 5, "starts": 1, "steps": 5, "epsilon": 0.05},
        cost="800 forwards and 960 backwards, and a forward per token",
        supports=("whether the attention is the only one that gives this answer",),
        limits=("that the attention is useless: it may be one of several plausible accounts",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        self._check(ask)
        read = self._read(ask)
        assert ask.output is not None
        before = probabilities(ask.output, self.scores)
        places = read.mean(read.real)[:, read.layout.extra :]
        slopes = _slopes(ask, read, self.gradient == "product")
        without = self._left_out(ask, read, before)
        permuted = self._permuted(ask, read, before)
        each, found, change = self._search(ask, read)
        values = each.amax(1)
        allowed = (read.real > 0).any(2).any(1)
        facts = {
            **_agreement("tau_gradient", places, slopes),
            **_agreement("tau_leave_one_out", places, without),
            "permutation_change": permuted.quantile(0.5, 1),
            "permutation_high": permuted.quantile(0.9, 1),
            "adversarial_change": change,
            "search_agreement": (each >= NEAR * values[:, None]).double().mean(1),
            "largest_weight": read.mean(read.real).amax(1),
            "tokens": allowed.sum(1).double(),
        }
        parts = {
            "attention": read.mean(read.real),
            "adversarial": read.mean(found),
            "gradient": slopes,
            "leave_one_out": without,
            "permuted": permuted,
            "by_start": each,
        }
        told = {"divergence": values, **{k: v for k, v in facts.items() if not k.endswith(("_p", "tokens"))}}
        spread = {name: {"all": overall(v), **by_class(v, ask.explained_class)} for name, v in told.items()}
        source = {"caveat": CAVEAT, "distributions": spread, "attention": _described(read)}
        return Measure(values=values, better="lower", unit="nats", facts=facts, parts=parts, source=source)

    def _check(self, ask: Ask) -> None:
        whole(permutations=(self.permutations, 1), starts=(self.starts, 1), steps=(self.steps, 1))
        if isinstance(self.block, bool) or not isinstance(self.block, int):
            raise MethodError("The 'block' must be the number of an attention layer", got=repr(self.block))
        for name, low, high in (("epsilon", 0, 1), ("rate", 1e-6, 100)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise MethodError(f"The '{name}' must be a number from {low:g} to {high:g}", got=repr(value))
        for name, known in (("scores", SCORES), ("gradient", GRADIENTS)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        if ask.unit_place is not None:
            raise TargetError("The 'target' must be a score of the model's output", got=f"a unit of {ask.unit_place}")

    def _read(self, ask: Ask) -> _Read:
        """Every map of every row, and where the tested one lies."""
        known: list[Map] = []

        def act(seen: attention.Seen) -> tuple[Tensor, ...]:
            known[:] = seen.maps
            if not -len(known) <= self.block < len(known):
                raise InputError(f"The 'block' must be one of {len(known)} attention layers", got=str(self.block))
            return known[self.block].asked(), *(m.weights for m in known), *seen.values

        asked, *tensors = attention.read(ask, act, self.card.title, located=True).parts
        weights, values = tensors[: len(known)], tuple(tensors[len(known) :])
        block = self.block % len(known)
        laid = [lay(weights[block].shape[3], x) for x in values]
        fitting = [i for i, layout in enumerate(laid) if layout is not None]
        if len(fitting) != 1:
            keys = weights[block].shape[3]
            raise NeedError(
                f"The attention's {keys} tokens must lie over what is explained, and over one input alone",
                got=", ".join(str(tuple(x.shape[1:])) for x in values) + " a row",
                hint="layer= the place where tokens enter the attention, such as the embedding",
            )
        heads = weights[block].shape[1]
        share = (asked[:, None] / heads).expand(-1, heads, -1)
        layout = laid[fitting[0]]
        assert layout is not None
        return _Read(known, weights, block, share, fitting[0], values, layout)

    def _left_out(self, ask: Ask, read: _Read, before: Tensor) -> Tensor:
        """How far the output moves without each token, (rows, tokens)."""
        held = fill.explained(ask)
        absent = fill.fills(self.baseline, held)[0][read.place]
        tokens = read.real.shape[3] - read.layout.extra
        eye = torch.eye(tokens).to(before)
        inside = read.layout.spread(torch.cat([eye.new_zeros(tokens, read.layout.extra), eye], 1)) > 0
        found = torch.zeros(ask.inputs.rows, tokens, dtype=torch.float64)

        def places(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
            values = [v[rows] for v in read.values]
            values[read.place] = torch.where(inside[steps], absent[rows], values[read.place])
            return tuple(values)

        def fold(rows: Tensor, steps: Tensor, output: Tensor) -> None:
            found[rows, steps] = distance(probabilities(output, self.scores), before[rows]).double().cpu()

        maps = read.maps if self.hold else []
        label = f"{self.card.title}: tokens"
        attention_swap.sweep(
            ask, tokens, maps, lambda rows, _: [w[rows] for w in read.weights] if maps else [], fold,
            places=places, label=label,
        )  # fmt: skip
        return found

    def _permuted(self, ask: Ask, read: _Read, before: Tensor) -> Tensor:
        """How far the output moves with each permutation of the weights, (rows, permutations)."""
        found = torch.zeros(ask.inputs.rows, self.permutations, dtype=torch.float64)
        counts = read.share > 0

        def points(rows: Tensor, steps: Tensor) -> list[Tensor]:
            real, keys = read.real[rows], [ask.keys[row] for row in rows.tolist()]
            noise = seeds.uniform(ask.seed, keys, steps.tolist(), tuple(real.shape[1:]), torch.empty(0).double())
            return [torch.where(counts[rows][..., None], permuted(real, noise.to(real.device)), real)]

        def fold(rows: Tensor, steps: Tensor, output: Tensor) -> None:
            found[rows, steps] = distance(probabilities(output, self.scores), before[rows]).double().cpu()

        label = f"{self.card.title}: permutations"
        attention_swap.sweep(ask, self.permutations, read.tested, points, fold, label=label)
        return found

    def _search(self, ask: Ask, read: _Read) -> tuple[Tensor, Tensor, Tensor]:
        """The divergence that each start reached, the weights of the best, and the change of the output under them."""
        rows = ask.inputs.rows
        each = torch.full((rows, self.starts), -1.0, dtype=torch.float64)
        weights, change = read.real.clone(), torch.zeros(rows, dtype=torch.float64)

        def work(start: int, stop: int) -> tuple[Tensor, ...]:
            return self._one_search(ask, read, torch.arange(start, stop))

        def fold(start: int, stop: int, result: tuple[Tensor, ...]) -> None:
            for job, (reached, found, moved) in enumerate(zip(*result, strict=True), start):
                row = job // self.starts
                if reached > each[row].amax():
                    weights[row], change[row] = found, moved.double()
                each[row, job % self.starts] = reached.double()

        batch.run(
            rows * self.starts,
            work,
            fold,
            memory=ask.memory,
            cost=(ask.subject.module, ("adversarial attention", self.steps, str(ask.layer), shape_key(ask.inputs))),
            device=ask.inputs.device,
            progress=ask.progress,
            label=f"{self.card.title}: search",
        )
        return each.clamp(0, math.log(2)), weights, change

    def _one_search(self, ask: Ask, read: _Read, jobs: Tensor) -> Found:
        """The farthest weights from each job's start that leave the output as it is."""
        rows = jobs // self.starts
        real, share = read.real[rows], read.share[rows]

        def output(weights: Tensor) -> Tensor:
            return probabilities(attention_swap.output(ask, read.tested, rows, [weights]), self.scores)

        with torch.no_grad():
            before = output(real)

        def judge(weights: Tensor) -> tuple[Tensor, Tensor]:
            return divergence(weights, real, share), distance(output(weights), before)

        keys = [ask.keys[row] for row in rows.tolist()]
        which = jobs % self.starts
        draws = (self.permutations + which).tolist()
        noise = SPREAD * seeds.normal(ask.seed, keys, draws, tuple(real.shape[1:]), real)
        first = (which == 0).reshape(-1, 1, 1, 1).to(real.device)
        logits = torch.where(first, -real.clamp(min=TINY).log(), noise)
        return ascend(real, logits, share, judge, self.epsilon, self.steps, self.rate)


def _slopes(ask: Ask, read: _Read, product: bool) -> Tensor:
    """The size of the score's gradient at each token, attention weights held constant, (rows, tokens)."""
    found: list[Tensor] = []

    def work(start: int, stop: int) -> Tensor:
        rows = torch.arange(start, stop)
        with torch.inference_mode(False), torch.enable_grad():
            values = tuple(v[rows].requires_grad_() for v in read.values)
            output = attention_swap.output(ask, read.maps, rows, [w[rows] for w in read.weights], values)
            score, leaf = ask.target.score(output, rows), values[read.place]
            slope = torch.autograd.grad(score.sum(), leaf, allow_unused=True)[0] if score.requires_grad else None
        slope = torch.zeros_like(leaf) if slope is None else slope
        if not product:
            return read.layout.sizes(slope)
        return _sums(read.layout, slope * leaf.detach()).abs()

    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, slope: found.append(slope),
        memory=ask.memory,
        cost=(ask.subject.module, ("slopes with attention held", str(ask.layer), shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
    )
    return torch.cat(found)


def _sums(layout: Layout, values: Tensor) -> Tensor:
    """The sum of the values that each of the place's tokens holds, (rows, tokens)."""
    # Norms of the positive and of the negative parts' roots: the layout knows norms.
    up, down = (layout.sizes(part.clamp(min=0).sqrt()).square() for part in (values, -values))
    return up - down


def _agreement(name: str, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Kendall's tau-b over the tokens that are attended to, and its p-value; NaN where either is constant."""
    from scipy.stats import kendalltau

    one, two = steady(first).numpy(), steady(second).numpy()
    found = []
    for a, b in zip(one, two, strict=True):
        seen = a > 0
        constant = len(np.unique(a[seen])) < 2 or len(np.unique(b[seen])) < 2
        found.append((np.nan, np.nan) if constant else kendalltau(a[seen], b[seen]))
    pairs = torch.tensor([[float(x) for x in pair] for pair in found], dtype=torch.float64)
    return {name: pairs[:, 0], f"{name}_p": pairs[:, 1]}


def _described(read: _Read) -> dict[str, Any]:
    """The tested layer as plain data."""
    m = read.maps[read.block]
    return {"block": read.block, "module": m.module, "heads": m.weights.shape[1], "queries": m.queries, "keys": m.keys}
