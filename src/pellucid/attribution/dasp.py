"""Which share of the score is each feature due, without asking about coalitions one by one? Uncertainty carried through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.dasp_moments import Network, Normal
from pellucid.attribution.shapley import FILL, TREES
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import LayerError, MethodError, NeedError, UnsupportedOperation
from pellucid.engine import Ask, Subject, batch
from pellucid.engine.ask import shape_key
from pellucid.engine.coalition import Game, game
from pellucid.engine.gradient import needs_module

__all__ = ["DeepApproximateShapley"]

# The recorded operations must give the model's own score at the row itself, up to this share.
SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class DeepApproximateShapley(Method):
    """Which share of the score is each feature due, without asking about coalitions one by one?

    ``values[i]`` is the mean over sizes k of ``E S(C + i) - E S(C)``, where C is a random coalition of k of the N - 1 other
    features, in score units; positive raises the score. The coalition is not drawn: up to the first operation that is not
    affine, its mean and variance are exact (sampling without replacement), and from there on both are carried through the
    network as those of independent normal values. Every value of a feature carries its feature's figure;
    ``parts["players"]`` (rows, features) has each once.

    A network that is affine in the features gets its exact Shapley values; the others' are approximate.
    ``completeness_gap`` is what the figures' sum misses, and a sign of how good they are, not a bound.

    Facts: ``score``, ``baseline_score``, ``completeness_gap``, ``forwards`` a row: propagations count twice, as each
    carries two numbers for every value.

    Args:
        features: what counts as one feature, as for `ShapleyValue`.
        cells: cells along each axis of the grid that "auto" lays over images.
        baseline: what fills an absent feature, as for `ShapleyValue`; ``data=`` gives background rows and groups as there.
        sizes: how many coalition sizes, evenly spaced over 0 … N - 1; None: all of them.

    Rules: linear maps, convolutions, batch-norm, averages, sums and shapes (exact for independent values); ReLU by the
    rectified normal's moments; maxima pair by pair (Clark 1961); smooth activations by quadrature. Others are refused by
    name. A score that is not linear in the output is taken at the output's mean.

    Cost: about 4 × features × sizes forwards, for each background row.
    Known failure: values inside are taken as independent and normal, so that few features, features of very different
    weight, and skip connections leave errors that no number of sizes removes.
    Source: Ancona, Öztireli & Gross 2019, §3 (coalitions, eqs. 7 to 9) with the layers of Gast & Roth 2018. Departs:
    absent features may be filled with other values than zero, and averages over several fills.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(12, 1).eval()
        >>> result = px.explain(net, torch.ones(1, 12), "dasp")
        >>> torch.allclose(result.values, net.weight, atol=1e-6)
        True
    """

    features: str | tuple[Any, ...] = "auto"
    cells: int = 8
    baseline: FILL = 0.0
    sizes: int | None = None

    card: ClassVar[Card] = Card(
        name="dasp",
        title="Deep approximate Shapley propagation",
        question="Which share of the score is each of many features due, roughly but without a draw?",
        form="attribution",
        scope="local",
        citation="ancona2019explaining",
        needs=("backward rules",),
        data_types=("any",),
        taxonomy=TREES,
        claims=("rowwise", "deterministic", "symmetric", "spelling invariant", "score scale"),
        trial={"cells": 2, "sizes": 3},
        cost="4 × features × sizes forwards",
        supports=("which features carry the score, without noise from sampling",),
        limits=(
            "exact figures: values inside the network are taken as independent and normal",
            "another fill or background: the figures may differ",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        module = needs_module(subject, "operations")
        self._check(ask)
        played = game(ask, self.features, self.baseline, self.cells)
        network = Network(module, tuple(x[:1] for x in ask.inputs.tensors))
        sizes = self._sizes(played.players)
        rows, fills, players = ask.inputs.rows, played.background, played.players
        work = _Work(played, network, sizes)
        found = torch.empty(rows * fills * work.jobs, dtype=torch.float64)

        def fold(start: int, stop: int, scores: Tensor) -> None:
            found[start:stop] = scores

        batch.run(
            len(found),
            work,
            fold,
            memory=ask.memory,
            cost=(module, ("dasp", players, shape_key(ask.inputs))),
            device=ask.inputs.device,
            progress=ask.progress,
            label=self.card.title,
        )
        found = found.reshape(rows, fills, work.jobs).mean(1)
        nobody, everybody = found[:, 0], found[:, 1]
        empty = played.worth(torch.zeros(1, players, dtype=torch.bool))[:, 0]
        _compare(found[:, :2], torch.stack([empty, ask.score.detach().cpu().double()], 1))
        gains = found[:, 2:].reshape(rows, players, len(sizes), 2)
        phi = (gains[..., 1] - gains[..., 0]).mean(2)
        forwards = fills * (players + 2 + 2 * work.jobs) + 1
        return Attribution(
            values=played.spread(phi),
            baseline=played.baseline,
            parts={"players": phi},
            facts={
                "score": everybody,
                "baseline_score": nobody,
                "completeness_gap": (phi.sum(1) - (everybody - nobody)).abs(),
                "forwards": torch.full((rows,), float(forwards), dtype=torch.float64),
            },
        )

    def _check(self, ask: Ask) -> None:
        subject = ask.subject
        if self.sizes is not None and (
            isinstance(self.sizes, bool) or not isinstance(self.sizes, int) or self.sizes < 1
        ):
            raise MethodError("The 'sizes' must be an int of at least 1, or None", got=repr(self.sizes), hint="8")
        if ask.layer is not None or ask.unit_place is not None:
            raise LayerError(
                "DASP explains the output by the input: there must be no 'layer' and no unit as 'target'",
                got=str(ask.layer or ask.unit_place),
                hint="layer=None and a class as target",
            )
        if subject.preprocess is not None or subject.call is not None or ask.inputs.names:
            raise NeedError(
                "DASP reads the module's own operations, so the Subject must call it on plain tensors",
                got="named inputs" if ask.inputs.names else "a 'preprocess' or 'call' around it",
                hint="a module that holds these steps",
            )

    def _sizes(self, players: int) -> Tensor:
        if self.sizes is None or self.sizes >= players:
            return torch.arange(players)
        return ((torch.arange(self.sizes) + 0.5) * players / self.sizes).floor().long()


def _compare(replayed: Tensor, own: Tensor) -> None:
    """Refuse where the recorded operations give other scores at a row and its baseline than the model."""
    gap = ((replayed - own).abs() / own.abs().amax(1, keepdim=True).clamp(min=1e-6)).amax(1)
    if not bool((gap <= SAME).all()):
        row = int(gap.nan_to_num(torch.inf).argmax())
        raise UnsupportedOperation(
            "The model's recorded operations must give its own scores at a row and its baseline",
            got=f"a difference of {float(gap[row]):.1e} of them in row {row}",
            hint="the model without hooks that change values, or 'shapley-sampling'",
        )


class _Work:
    """Scores of jobs: for each row and fill the empty and the whole coalition, then players × sizes × (without, with)."""

    def __init__(self, played: Game, network: Network, sizes: Tensor) -> None:
        self.played, self.network = played, network
        players, count = played.players, len(sizes)
        grid = torch.cartesian_prod(torch.arange(players), sizes, torch.arange(2)).reshape(-1, 3)
        ends = torch.tensor([[0, 0, 0], [0, players - 1, 1]])
        self.grid = torch.cat([ends, grid])
        self.jobs = 2 + 2 * players * count

    def __call__(self, start: int, stop: int) -> Tensor:
        parts = []
        while start < stop:
            unit, first = divmod(start, self.jobs)
            last = min(self.jobs, first + stop - start)
            parts.append(self._scores(unit, self.grid[first:last]))
            start += last - first
        return torch.cat(parts)

    def _scores(self, unit: int, jobs: Tensor) -> Tensor:
        """The scores of these jobs (player, size, with the player or not) for one row and fill."""
        ask, number = self.played.ask, unit // self.played.background
        with torch.no_grad():
            points = self.network.points(self._points(number, unit % self.played.background))
            raw = self.network.carry(points, lambda v: _coalitions(v, jobs), len(jobs))
            rows = torch.full((len(jobs),), number)
            output = ask.subject.select(raw, ask.inputs.take(rows))
            return ask.target.score(output, rows).detach().cpu().double()

    def _points(self, row: int, fill: int) -> tuple[Tensor, ...]:
        """The row without any feature, and with each alone, as the model's inputs."""
        played = self.played
        present = torch.cat([torch.zeros(1, played.players), torch.eye(played.players)]).bool()
        rows = torch.full((len(present),), row)
        floats = []
        for x, f, m in zip(played.held.floats, played.fills, played.features.among(rows, present), strict=True):
            floats.append(torch.where(m, x[row], f[row if f.shape[0] > 1 else 0, fill]))
        return played.held.at(rows, floats).tensors


def _coalitions(values: Tensor, jobs: Tensor) -> Normal:
    """Mean and variance over all coalitions of k of the others, for jobs (player, k, with the player or not).

    `values` (1 + players, ...) are affine in the features: at none of them, and at each alone.
    """
    gain = (values[1:] - values[:1]).double()
    others = len(gain) - 1
    player, size, joined = (part.to(values.device) for part in jobs.T)

    def wide(part: Tensor) -> Tensor:
        return part.double().reshape(-1, *[1] * (values.dim() - 1))

    own, k = gain[player], wide(size)
    mean = values[:1].double() + wide(joined) * own
    if not others:
        return Normal(mean.to(values), torch.zeros_like(mean).to(values))
    share = (gain.sum(0) - own) / others
    mean = mean + k * share
    # Around the mean of all, so that little is lost where gains are alike; then around that of the others.
    middle = gain.mean(0)
    square = ((gain - middle) ** 2).sum(0) - (own - middle) ** 2 - others * (share - middle) ** 2
    spread = (square / others).clamp(min=0)
    variance = k * (others - k) / max(1, others - 1) * spread
    return Normal(mean.to(values), variance.to(values))
