"""Networks trained with free, uniform or watched attention, and a network without context that is told where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError, NeedError
from pellucid.engine import Ask, Subject, batch, guard
from pellucid.engine import seed as seeds
from pellucid.engine.ask import shape_key
from pellucid.engine.attention import Map, by_head
from pellucid.engine.data import Rows
from pellucid.engine.inputs import Inputs
from pellucid.engine.softmaxes import Softmaxes
from pellucid.evaluation.retraining import fit

__all__: list[str] = []

BATCH = 64
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows, output, weights (rows, heads, queries, keys) to a number


def reachable(found: Map) -> None:
    """Refuse attention whose softmax can't be seen from outside."""
    if found.call is None:
        raise NeedError(
            "The attention must come from a softmax that can be replaced: torch.softmax, an attention module or "
            "scaled_dot_product_attention",
            got=f"one inside another function, in module '{found.module}'",
            hint="spelling it by torch.softmax",
        )


def uniform(weights: Tensor, axis: int = -1) -> Tensor:
    """Equal weights for everything that may be looked at."""
    open_ = (weights.detach() != 0).to(weights)
    return open_ / open_.sum(axis, keepdim=True).clamp(min=1)


class _Watched(Softmaxes):
    """Keeps the weights of one softmax, made uniform if asked."""

    def __init__(self, found: Map, even: bool) -> None:
        super().__init__()
        self.found, self.even = found, even
        self.weights: Tensor | None = None

    def meet(self, call: int, weights: Tensor) -> Tensor:
        """The one that is watched, or any other as it is."""
        if call == self.found.call:
            weights = uniform(weights, self.found.axis) if self.even else weights
            self.weights = weights
        return weights


@dataclass(frozen=True, eq=False)
class Trained:
    """A network of the factory, with the place of its attention."""

    ask: Ask
    subject: Subject
    module: nn.Module
    found: Map

    def learn(
        self, rows: Rows, seed: int, epochs: int, rate: float, *, uniform: bool = False, loss: Loss | None = None
    ) -> None:
        """Adam on cross-entropy, or on another loss, in batches whose order is the seed's."""
        assert rows.labels is not None
        weights = [p.requires_grad_(True) for p in self.module.parameters() if p.is_floating_point()]
        optimiser = torch.optim.Adam(weights, lr=rate)
        with guard.generators(), torch.inference_mode(False), torch.enable_grad():
            torch.random.default_generator.manual_seed(seed)  # dropout
            self.module.train()
            for epoch in range(epochs):
                order = torch.from_numpy(seeds.generator(seed, b"batches", epoch).permutation(rows.inputs.rows))
                for chosen in order.split(BATCH):
                    output, seen = self._pass(rows.inputs.take(chosen), uniform)
                    if loss is None:
                        scores, wanted = fit(output, rows.labels[chosen])
                        if scores.shape[1] <= int(wanted.max()):
                            raise InputError(
                                f"The labels in 'data' must be classes of the model, from 0 to {scores.shape[1] - 1}",
                                got=str(int(wanted.max())),
                            )
                        aim = nn.functional.cross_entropy(scores, wanted.to(scores.device))
                    else:
                        aim = loss(chosen, output, seen)
                    optimiser.zero_grad(set_to_none=True)
                    aim.backward()
                    optimiser.step()
        self.module.eval().requires_grad_(False)

    def look(self, inputs: Inputs, *, uniform: bool = False) -> tuple[Tensor, Tensor]:
        """Output and attention weights for these rows."""
        found: list[tuple[Tensor, Tensor]] = []

        def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                return self._pass(inputs.take(torch.arange(start, stop)), uniform)

        batch.run(
            inputs.rows,
            work,
            lambda start, stop, result: found.append(result),
            memory=self.ask.memory,
            cost=(self.module, ("watched attention", shape_key(inputs))),
            device=inputs.device,
        )
        return torch.cat([output for output, _ in found]), torch.cat([weights for _, weights in found])

    def _pass(self, inputs: Inputs, even: bool) -> tuple[Tensor, Tensor]:
        watched = _Watched(self.found, even)
        with watched:
            output = self.subject.scores(inputs)
        if watched.weights is None:
            raise NeedError(
                "The 'factory' must give networks that run the attention that the model runs",
                got=f"{watched.count} softmaxes, and not that in module '{self.found.module}'",
            )
        return output, by_head(watched.weights, self.found.axis, inputs.rows)


class _Mixer(nn.Module):
    """One tanh layer on each token, mixed by weights that are given or learnt, and a linear readout."""

    def __init__(self, size: int, width: int, classes: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(size, width), nn.Linear(width, classes)
        self.key, self.query = nn.Linear(size, width), nn.Linear(width, 1, bias=False)

    def forward(self, values: Tensor, weights: Tensor | None, allowed: Tensor) -> Tensor:
        if weights is None:
            scores = self.query(torch.tanh(self.key(values)))[..., 0]
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(1)
        return self.head((weights[..., None] * torch.tanh(self.hidden(values))).sum(1))


def without_context(
    values: tuple[Tensor, Tensor],
    weights: Sequence[Tensor | None],
    allowed: Sequence[Tensor],
    labels: Tensor,
    width: int,
    classes: int,
    epochs: int,
    rate: float,
    seed: int,
) -> Tensor:
    """Scores for the second of two sets of rows, of a network trained on the first with these weights over tokens.

    `values` (rows, tokens, size); `weights` (rows, tokens) of each, or None: learnt.
    """
    first, second = values
    centre, spread = first.mean((0, 1)), first.std((0, 1)).clamp(min=1e-6)
    with guard.generators(), torch.inference_mode(False), torch.enable_grad():
        torch.random.default_generator.manual_seed(seed)
        net = _Mixer(first.shape[2], width, classes).to(first)
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        for epoch in range(epochs):
            order = torch.from_numpy(seeds.generator(seed, b"mixer", epoch).permutation(len(first)))
            for chosen in order.split(BATCH):
                given = None if weights[0] is None else weights[0][chosen]
                output = net((first[chosen] - centre) / spread, given, allowed[0][chosen])
                loss = nn.functional.cross_entropy(output, labels[chosen].long().to(output.device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
    with torch.no_grad():
        return net((second - centre) / spread, weights[1], allowed[1])
