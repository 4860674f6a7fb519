"""How much of the answers' variance does a column account for, alone and with others? Sobol' indices, functional ANOVA."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.effect_curve import TAXONOMY
from pellucid.attribution.effect_design import REPLICATES, Effort, Sums, attribution, run
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject
from pellucid.engine.sample import Sample, sample

__all__ = ["FunctionalAnova", "SobolIndices"]

CLAIMS = ("rowwise", "seeded", "dummy", "implementation invariant", "spelling invariant")
LIMITS = (
    "columns that move together: they are drawn one by one here, and rows that never occur count as much as any",
    "which way a column moves the answer: a variance has no sign",
    "single rows: the shares are of all rows drawn",
)


@dataclass(frozen=True, kw_only=True)
class SobolIndices(Method):
    """Which share of the answers' variance goes back to a column, alone and together with others?

    With columns drawn independently: ``first_j = Var(E[S | x_j]) / Var S``, what column j does alone;
    ``total_j = E[Var(S | all but x_j)] / Var S``, all in which it takes part; and
    ``pair_jk = Var(E[S | x_j, x_k]) / Var S - first_j - first_k``, what two do together beyond each alone.
    ``values`` (rows, columns) are the totals, which add up to more than 1 where columns act together; ``parts`` holds
    ``first``, ``pair`` (rows, columns, columns), each with its ``_error``, and 95 % intervals in
    ``total_low``, ``total_high``, ``first_low`` and ``first_high``. Row n has the shares of the score explained for row n,
    over all rows drawn. Shares are estimates: those of nothing scatter about 0.

    Facts: ``score``; ``mean`` and ``variance`` of the scores drawn; ``alone_share``, the sum of ``first``;
    ``standard_error``, the largest of a total; ``points``; ``correlation``, the largest between two columns of the data,
    which are drawn as if there were none; ``converged`` with a tolerance.

    Args:
        distribution: "empirical" draws each column from its own values in the data, "uniform" evenly between its smallest
            and largest, so that two rows of ``data`` give the bounds.
        points: rows of each of the two samples, a power of two.
        pairs: whether pairs are asked for, which doubles the cost.
        tolerance: double the points until no standard error of a total is larger, or ``max_points`` are reached.
        max_points: the most points under a tolerance, a power of two.

    Cost: points × (columns + 2) forwards, or points × (2 × columns + 2) with pairs.
    Known failure: columns that move together in the data are drawn apart.
    Source: Sobol' 2001; estimators of Saltelli et al. 2010, table 2 (b) for first and Jansen's (f) for total, Saltelli 2002
    for pairs; scrambled Sobol' points in eight replicates, whose spread gives the errors (leaving one out).

    Example:
        >>> import torch, pellucid as px
        >>> box = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
        >>> method = px.attribution.SobolIndices(distribution="uniform")
        >>> px.explain(lambda x: 2 * x[:, :1] + x[:, 1:], box, method, data=box).values[0].round(decimals=2).tolist()
        [0.8, 0.2]
    """

    distribution: str = "empirical"
    points: int = 1024
    pairs: bool = True
    tolerance: float | None = None
    max_points: int = 65536

    card: ClassVar[Card] = Card(
        name="sobol-indices",
        title="Sobol' indices",
        question="Which share of the answers' variance goes back to this column, alone and together with others?",
        form="attribution",
        scope="global",
        citation="sobol2001global",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=CLAIMS,
        trial={"points": 64},
        cost="points × (2 × columns + 2) forwards",
        supports=(
            "fixing this column would take away this share of the answers' variance, if columns were independent",
        ),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        effort = Effort(
            distribution=self.distribution, points=self.points, tolerance=self.tolerance, most=self.max_points
        )
        effort.check()
        about = sample(ask)
        columns = about.table.shape[1]
        each = torch.eye(columns, dtype=torch.bool)
        masks = [torch.zeros(1, columns, dtype=torch.bool), torch.ones(1, columns, dtype=torch.bool), each]
        masks += [~each] if self.pairs else []
        sums = _with_pairs if self.pairs else _without_pairs
        found = run(about, effort, ask.seed, torch.cat(masks), sums, "total", self.card.title)
        parts: Sums = {}
        for name in ("total", "first"):
            wide = _quantile() * found.error[name]
            parts |= {f"{name}_low": found.share[name] - wide, f"{name}_high": found.share[name] + wide}
        for name in ("first", "pair") if self.pairs else ("first",):
            parts |= {name: found.share[name], f"{name}_error": found.error[name]}
        return attribution(ask, about, found, effort, parts)


def _quantile() -> float:
    """Of Student's t, for a 95 % interval from the replicates."""
    from scipy.special import stdtrit

    return float(stdtrit(REPLICATES - 1, 0.975))


def _without_pairs(scores: Tensor) -> Sums:
    """Scores (rows, 2 + columns, kinds): both samples, and the first with each column of the second."""
    other, moved = scores[:, 1:2], scores[:, 2:] - scores[:, :1]
    first = (other * moved).sum(0).T
    total = (moved**2).sum(0).T / 2
    return {"first": first, "total": total}


def _with_pairs(scores: Tensor) -> Sums:
    """The same with the second sample with each column of the first, which makes every estimate twice."""
    columns = (scores.shape[1] - 2) // 2
    one, other = scores[:, 0], scores[:, 1]
    to_other, to_one = scores[:, 2 : 2 + columns], scores[:, 2 + columns :]
    ahead, back = to_other - one[:, None], to_one - other[:, None]
    first = ((other[:, None] * ahead).sum(0) + (one[:, None] * back).sum(0)).T / 2
    total = ((ahead**2).sum(0) + (back**2).sum(0)).T / 4
    both = torch.einsum("nik,njk->kij", to_one, to_other) - (one * other).sum(0)[:, None, None]
    both = (both + both.transpose(1, 2)) / 2 - first[:, :, None] - first[:, None]
    diagonal = torch.eye(columns, dtype=torch.bool)
    return {"first": first, "total": total, "pair": both.masked_fill(diagonal, 0.0)}


@dataclass(frozen=True, kw_only=True)
class FunctionalAnova(Method):
    """Which columns act together, and which ones merely add up?

    With columns drawn independently, the score is a sum of effects of sets of columns that are uncorrelated. ``together_u``
    is the share of the variance in effects of the set u or larger ones: what an additive model without them must lose. It
    is measured as ``E[(Σ_{v ⊆ u} (-1)^|v| S(row with the columns v from another row))²] / (2^|u| Var S)``.
    ``values`` (rows, columns) are these shares of single columns, and ``parts["pair"]`` (rows, columns, columns) those of
    pairs, with ``pair_error``; ``parts["edge"]`` is 1 for pairs that act together: the share, less two standard errors,
    exceeds the threshold. With ``order=3``, ``parts["triple"]`` (rows, columns, columns, columns) and ``triple_error``
    hold those of triples whose three pairs are edges; others, whose share can't be larger than that of their pairs, have 0.
    ``parts["first"]`` is the share of a column's effect alone, with ``first_error``.

    Facts: as for Sobol' indices, and ``edges``, how many pairs act together.

    Args:
        distribution: "empirical" draws each column from its own values in the data, "uniform" evenly between its smallest
            and largest.
        points: rows of each of the two samples, a power of two.
        threshold: the share of the variance above which a pair counts as acting together.
        order: 2, or 3 to look at triples as well.
        tolerance: double the points until no standard error of a pair is larger, or ``max_points`` are reached.
        max_points: the most points under a tolerance, a power of two.

    Cost: points × (2 + columns + pairs) forwards; with triples, one more for each point and triple left, and those again.
    Known failure: columns that move together in the data are drawn apart; effects off the data count like others.
    Source: Hooker 2004, §3–4 (variable interaction network; larger sets are pruned because their cost can't exceed that of
    their subsets); the estimator is that of Liu & Owen 2006 for superset importance.

    Example:
        >>> import torch, pellucid as px
        >>> box = torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64)
        >>> method = px.attribution.FunctionalAnova(distribution="uniform")
        >>> px.explain(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:], box, method, data=box).parts["edge"][0].int().tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """

    distribution: str = "empirical"
    points: int = 1024
    threshold: float = 0.001
    order: int = 2
    tolerance: float | None = None
    max_points: int = 65536

    card: ClassVar[Card] = Card(
        name="functional-anova",
        title="Functional ANOVA (variable interaction network)",
        question="Which columns act together, and which ones merely add up?",
        form="attribution",
        scope="global",
        citation="hooker2004discovering",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=CLAIMS,
        trial={"points": 64, "order": 3},
        cost="points × (2 + columns + pairs) forwards",
        supports=("a sum of effects without this pair must miss at least this share of the answers' variance",),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        effort = Effort(
            distribution=self.distribution, points=self.points, tolerance=self.tolerance, most=self.max_points
        )
        effort.check()
        self._check(ask)
        about = sample(ask)
        columns = about.table.shape[1]
        sets = [*((j,) for j in range(columns)), *itertools.combinations(range(columns), 2)]
        found = run(about, effort, ask.seed, _masks(sets, columns), _supersets(sets), "pairs", self.card.title)
        pair, wide = (_table(part["pairs"], sets[columns:], columns, 2) for part in (found.share, found.error))
        edge = ((pair - 2 * wide) > self.threshold).double()
        parts = {"first": found.share["first"], "first_error": found.error["first"]}
        parts |= {"pair": pair, "pair_error": wide, "edge": edge}
        if self.order == 3:
            parts |= self._triples(about, effort, ask.seed, edge)
        result = attribution(ask, about, found, effort, parts)
        edges = edge.sum((1, 2)) / 2
        return result.replace(facts={**result.facts, "edges": edges[about.kind]})

    def _check(self, ask: Ask) -> None:
        if type(self.order) is not int or self.order not in (2, 3):
            raise InputError("The 'order' must be 2 or 3", got=repr(self.order))
        if (
            isinstance(self.threshold, bool)
            or not isinstance(self.threshold, int | float)
            or not 0 <= self.threshold < 1
        ):
            raise InputError("The 'threshold' must be a share from 0 to below 1", got=repr(self.threshold))

    def _triples(self, about: Sample, effort: Effort, number: int, edge: Tensor) -> Sums:
        """Shares of triples whose pairs are all edges for some score; zero where they are not."""
        columns, kinds = edge.shape[1], edge.shape[0]
        every = list(itertools.combinations(range(columns), 3))
        alive = {t: edge[:, t[0], t[1]] * edge[:, t[0], t[2]] * edge[:, t[1], t[2]] for t in every}
        kept = [t for t in every if bool(alive[t].any())]
        empty = torch.zeros(kinds, columns, columns, columns, dtype=torch.float64)
        if not kept:
            return {"triple": empty, "triple_error": empty}
        parts = {u for t in kept for size in (1, 2) for u in itertools.combinations(t, size)}
        sets = [*((j,) for j in range(columns)), *sorted(u for u in parts if len(u) == 2), *kept]
        found = run(about, effort, number, _masks(sets, columns), _supersets(sets), "triples", self.card.title)
        shown = torch.stack([alive[t] for t in kept], 1)
        return {
            "triple": _table(found.share["triples"] * shown, kept, columns, 3),
            "triple_error": _table(found.error["triples"] * shown, kept, columns, 3),
        }


def _masks(sets: list[tuple[int, ...]], columns: int) -> Tensor:
    """No column, every column, and then each set of them."""
    masks = torch.zeros(2 + len(sets), columns, dtype=torch.bool)
    masks[1] = True
    for number, chosen in enumerate(sets):
        masks[2 + number, list(chosen)] = True
    return masks


def _supersets(sets: list[tuple[int, ...]]) -> Any:
    """Sums for the variance in effects of each set or larger ones, by the number of its columns, and of columns alone."""
    place = {(): 0} | {u: 2 + i for i, u in enumerate(sets)}

    def sums(scores: Tensor) -> Sums:
        found: dict[str, list[Tensor]] = {"total": [], "pairs": [], "triples": []}
        for u in sets:
            signed = [
                (-1) ** len(v) * scores[:, place[v]]
                for size in range(len(u) + 1)
                for v in itertools.combinations(u, size)
            ]
            found[("total", "pairs", "triples")[len(u) - 1]].append((sum(signed) ** 2).sum(0) / 2 ** len(u))
        kinds = scores.shape[2]
        out = {k: torch.stack(v, 1) if v else torch.zeros(kinds, 0, dtype=torch.float64) for k, v in found.items()}
        ahead = scores[:, 2 : 2 + out["total"].shape[1]] - scores[:, :1]
        return {**out, "first": (scores[:, 1:2] * ahead).sum(0).T}

    return sums


def _table(values: Tensor, sets: Sequence[tuple[int, ...]], columns: int, order: int) -> Tensor:
    """Values (kinds, sets) as a symmetric table over the columns."""
    out = torch.zeros(len(values), *[columns] * order, dtype=torch.float64)
    for number, chosen in enumerate(sets):
        for places in itertools.permutations(chosen):
            out.index_put_((torch.arange(len(values)), *map(torch.tensor, places)), values[:, number])
    return out
