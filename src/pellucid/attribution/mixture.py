"""Which of a few lines does the network follow here, where all its answers are split among lines? (DMM-MEN.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.maple import kinds
from pellucid.attribution.mixture_fit import Lines, Prior, mixture
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.sample import Sample, sample
from pellucid.engine.settings import whole

__all__ = ["MixtureOfLines"]


@dataclass(frozen=True, kw_only=True)
class MixtureOfLines(Method):
    """Into which few linear regimes do the network's answers fall, and which of them holds here?

    The answers S(x_i) to the rows of ``data`` are taken for draws of ``S | x, u = k ~ N(a_k + b_k · x, σ_k²)`` with shares
    of the regimes k from a Dirichlet process, so that their number need not be known, and slopes from a mixture of elastic
    nets ``p(b) ∝ exp(-λ₁|b|₁ - λ₂|b|²)``. `values` holds the slopes b_k of the regime that a row most probably belongs to,
    in score units per unit of the column: positive means that more of it raises the score. A row's regime is judged by how
    well each line meets the network's answer, times the regimes' shares among its nearest rows of the data.

    ``parts["coefficients"]`` (rows, K, columns) holds the slopes of all regimes for the row's class, and (rows, K)
    ``parts["intercepts"]`` and ``parts["shares"]`` the rest, the largest first; regimes that a class doesn't have hold 0.
    Facts: ``score``; ``surrogate_score``, what the line says of the row; ``component``, the regime's number;
    ``responsibility``, how probably it is this one; ``components``, how many there are; ``heldout_r_squared``, how much of
    the variance of the answers to held-out rows is explained by the lines, each row's regime guessed from its neighbours
    alone; ``line_r_squared``, how much one line through everything explains of the same.

    Args:
        components: most regimes; fewer are found where lines coincide or hold too few rows.
        concentration: of the Dirichlet process: larger expects more regimes.
        penalties: pairs (λ₁, λ₂) of the elastic nets, for columns and answers scaled to standard deviation 1.
        noise: least σ_k, as a share of the answers' standard deviation.
        neighbours: nearest rows of the data that say which regime is likely; 0 goes by the regimes' shares alone.
        restarts: starts from different groupings of the rows, of which the most probable result is kept.
        heldout: share of the data that is held out to measure the fit.

    Cost: one forward per row of data and of the inputs; up to ``restarts`` × 200 rounds of ``components`` elastic nets.
    Known failures: a network that bends everywhere gets as many lines as are allowed, each of them wrong between its
    rows: see ``heldout_r_squared``; where two lines meet, the regime is in doubt: see ``responsibility``. Which mode of the
    density is found depends on the start.
    Source: Guo, Huang, Tao, Xing & Lin 2018, the section on the proposed model. The paper draws from the posterior by
    Markov chains; here its mode is sought by expectation-maximisation, components are merged where that raises the
    density (with Schwarz's price for each), and the neighbours' vote is an addition; each line has an intercept.

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.linspace(-1, 1, 100)[:, None]
        >>> result = px.explain(lambda x: x.abs(), torch.tensor([[-0.5], [0.5]]), MixtureOfLines(), data=data)
        >>> [round(v, 2) for v in result.values[:, 0].tolist()], result.facts["components"][0].item()
        ([-1.0, 1.0], 2.0)
    """

    components: int = 8
    concentration: float = 1.0
    penalties: tuple[tuple[float, float], ...] = ((0.01, 0.01), (1.0, 0.1))
    noise: float = 0.01
    neighbours: int = 10
    restarts: int = 3
    heldout: float = 0.2

    card: ClassVar[Card] = Card(
        name="dmm-men",
        title="Mixture of elastic nets (DMM-MEN)",
        question="Into which few linear regimes do the network's answers fall, and which of them holds here?",
        form="attribution",
        scope="semi-local",
        citation="guo2018explaining",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy={"000": "behavioural/surrogate", "003": "passive/attribution/semi-local"},
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant", "score scale"),
        trial={"components": 2, "restarts": 1, "neighbours": 2},
        cost="1 forward per row of data and of the inputs, and a few hundred elastic nets",
        supports=(
            "which regimes the network's answers fall into over the data, and their slopes",
            "how sure it is that a row belongs to its regime",
        ),
        limits=(
            "anything, where heldout_r_squared is hardly above line_r_squared: there are no regimes to tell apart",
            "the network's answers to rows that do not occur in the data",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> dict[int, _Regimes]:
        """The regimes of each class that is explained."""
        self._check()
        found: dict[int, _Regimes] = {}
        self._fit(ask, found)
        return found

    def explain(self, subject: Subject, ask: Ask, state: dict[int, _Regimes]) -> Attribution:
        regimes = dict(state)
        if missing := set(kinds(ask).tolist()) - set(regimes):
            self._fit(ask, regimes, missing)
        x, kind = ask.inputs.tensors[0], kinds(ask)
        here, answers = x.detach().cpu().double(), ask.score.detach().cpu().double()
        most = max(len(regimes[k].shares) for k in kind.tolist())
        values = torch.zeros_like(here)
        parts = {"coefficients": torch.zeros(len(here), most, here.shape[1], dtype=torch.float64)}
        parts |= {name: torch.zeros(len(here), most, dtype=torch.float64) for name in ("intercepts", "shares")}
        names = ("surrogate_score", "component", "responsibility", "components", "heldout_r_squared", "line_r_squared")
        facts = {name: torch.zeros(len(here), dtype=torch.float64) for name in names}
        for number in kind.unique().tolist():
            rows, held = (kind == number).nonzero()[:, 0], regimes[number]
            holds = held.holds(here[rows], answers[rows], self.neighbours)
            best = holds.argmax(1)
            values[rows] = held.slopes[best]
            count = len(held.shares)
            parts["coefficients"][rows, :count] = held.slopes
            parts["intercepts"][rows, :count], parts["shares"][rows, :count] = held.intercepts, held.shares
            figures = (
                held.intercepts[best] + (held.slopes[best] * here[rows]).sum(1),
                best.double(),
                holds.max(1).values,
                *(torch.full((len(rows),), float(f), dtype=torch.float64) for f in (count, held.heldout, held.line)),
            )
            for fact, figure in zip(facts.values(), figures, strict=True):
                fact[rows] = figure
        return Attribution(values=values.to(x), facts={"score": ask.score, **facts}, parts=parts)

    def _check(self) -> None:
        whole(components=(self.components, 1), neighbours=(self.neighbours, 0), restarts=(self.restarts, 1))
        for name in ("concentration", "noise"):
            if not getattr(self, name) > 0:
                raise MethodError(f"The '{name}' must be above 0", got=repr(getattr(self, name)))
        if not 0 < self.heldout < 1:
            raise MethodError("The 'heldout' must be a share between 0 and 1", got=repr(self.heldout))
        good = len(self.penalties) > 0 and all(
            isinstance(p, tuple) and len(p) == 2 and p[0] >= 0 and p[1] > 0 for p in self.penalties
        )
        if not good:
            raise MethodError(
                "The 'penalties' must be pairs (λ₁ at least 0, λ₂ above 0)",
                got=repr(self.penalties),
                hint="((0.01, 0.01), (1.0, 0.1))",
            )

    def _fit(self, ask: Ask, into: dict[int, _Regimes], wanted: set[int] | None = None) -> None:
        """Ask the network about the data, and split the answers among lines for each class."""
        if isinstance(ask.data, Mapping) and "weights" in ask.data:
            raise InputError("The 'data' must come without weights", got="data={'weights': ...}")
        about: Sample = sample(ask, least=5)
        table, answers = about.table.detach().cpu().double(), about.plain()
        number = dict(zip(kinds(ask).tolist(), about.kind.tolist(), strict=True))
        for key in sorted(set(number) if wanted is None else wanted):
            into[key] = _Regimes(self, table, answers[:, number[key]], ask.seed)


class _Regimes:
    """The lines of one class in the columns' own units, and the rows that say which is likely where."""

    def __init__(self, method: MixtureOfLines, table: Tensor, answers: Tensor, chosen_seed: int) -> None:
        order = torch.from_numpy(seed.generator(chosen_seed, b"dmm-men", 0).permutation(len(table)))
        out = max(1, round(method.heldout * len(table)))
        seen, rest = order[out:].sort().values, order[:out].sort().values
        self.middle, self.spread = table[seen].mean(0), table[seen].std(0, correction=0)
        self.spread[self.spread == 0] = 1.0
        mean, deviation = answers[seen].mean(), answers[seen].std(correction=0)
        deviation = deviation if deviation > 0 else torch.ones(())
        self.near = ((table[seen] - self.middle) / self.spread).numpy()
        scaled = ((answers[seen] - mean) / deviation).numpy()
        prior = Prior(concentration=method.concentration, nets=method.penalties, least=method.noise**2)
        starts = [_grouping(self.near, scaled, method, chosen_seed, i) for i in range(method.restarts)]
        self.lines: Lines = max(
            (mixture(self.near, scaled, prior, start) for start in starts), key=lambda lines: lines.log_density
        )
        self.mean, self.deviation = float(mean), float(deviation)
        self.slopes = torch.from_numpy(self.lines.slopes) * self.deviation / self.spread
        self.intercepts = (
            self.mean + torch.from_numpy(self.lines.intercepts) * self.deviation - self.slopes @ self.middle
        )
        self.shares = torch.from_numpy(self.lines.shares)
        z = ((table[rest] - self.middle) / self.spread).numpy()
        said = (self._votes(z, method.neighbours) * self.lines.at(z)).sum(1) * self.deviation + self.mean
        design = np.column_stack([np.ones(len(self.near)), self.near])
        one = np.linalg.lstsq(design, answers[seen].numpy(), rcond=None)[0]
        plain = np.column_stack([np.ones(len(z)), z]) @ one
        truth = answers[rest].numpy()
        whole_spread = max(float(((truth - self.mean) ** 2).sum()), 1e-300)
        self.heldout = 1 - float(((truth - said) ** 2).sum()) / whole_spread
        self.line = 1 - float(((truth - plain) ** 2).sum()) / whole_spread

    def _votes(self, z: np.ndarray, neighbours: int) -> np.ndarray:
        """How likely each regime is before the answer is known, (rows, K)."""
        if not neighbours:
            return np.broadcast_to(self.lines.shares, (len(z), len(self.lines.shares)))
        from sklearn.neighbors import NearestNeighbors

        found = NearestNeighbors(n_neighbors=min(neighbours, len(self.near))).fit(self.near)
        return self.lines.holds[found.kneighbors(z, return_distance=False)].mean(1)

    def holds(self, rows: Tensor, answers: Tensor, neighbours: int) -> Tensor:
        """How probably each row belongs to each regime, (rows, K)."""
        z = ((rows - self.middle) / self.spread).numpy()
        log = self.lines.near(z, ((answers - self.mean) / self.deviation).numpy())
        # A regime that no neighbour is of stays possible: the answer may speak for it.
        return torch.from_numpy(log + np.log(self._votes(z, neighbours) + 1e-6 * self.lines.shares)).softmax(1)


def _grouping(z: np.ndarray, answers: np.ndarray, method: MixtureOfLines, chosen_seed: int, start: int) -> np.ndarray:
    """Memberships to begin with: groups of rows that lie together, in turn without and with their answers."""
    from sklearn.cluster import KMeans

    points = np.column_stack([z, (start % 3) * answers])
    count = min(method.components, len(np.unique(points, axis=0)))
    draw = int(seed.generator(chosen_seed, b"dmm-men", 1 + start).integers(1 << 31))
    labels = KMeans(n_clusters=count, n_init=1, random_state=draw).fit_predict(points)
    return np.eye(count)[labels]
