"""Which effects make up the answers where the data lie? Functional ANOVA under the data's own weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.effect_curve import TAXONOMY, Curves, attribution, check_points
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject
from pellucid.engine.sample import Grid, Sample, grid, sample

__all__ = ["GeneralizedFunctionalAnova"]

MOST = 4000  # unknowns, whose singular value decomposition takes about a minute
CUT = 1e-9  # singular values below this share of the largest count as none


@dataclass(frozen=True, kw_only=True)
class GeneralizedFunctionalAnova(Method):
    """Which effects of columns and pairs make up the answers where the data lie, though columns move together?

    ``S(x) ≈ f_0 + Σ_j f_j(x_j) + Σ_{j<k} f_jk(x_j, x_k)``, fitted to the scores of the data by least squares under its
    weights, where under the same weights each ``f_j`` has mean 0 and each ``f_jk`` is uncorrelated with every function of
    ``x_j`` or of ``x_k``. Effects are linear between grid points. No row is asked about that is not in the data.
    ``values[n, j]`` is ``f_j`` at the row's own value, in score units: positive means that the value raises the answer.
    ``parts``: ``curve`` along ``grid``, (rows, columns, points); ``pair_effect`` (rows, columns, columns), ``f_jk`` at the
    row; ``surface`` (rows, pairs, points, points) with the columns in ``pairs``; ``share`` (rows, columns)
    and ``pair_share`` (rows, columns, columns), each effect's covariance with the score as a share of the score's
    variance: together they add up to ``joint_share``, and may be negative where effects work against each other.

    Facts: ``score``; ``baseline_score``, the mean over the data; ``additive_gap``, by how much mean and curves miss the
    row's score; ``additive_share`` and ``joint_share``, the shares of the scores' variance over the data that curves, and
    curves with pairs, reproduce; ``heldout_share``, the same for each row when all others are fitted; ``identified``, 1
    where the data tell the effects apart, and less where columns determine each other and the smallest effects were
    taken; ``outside``, columns whose value lies beyond the data.

    Args:
        points: how many values of a column carry the effects at most, by rank in the data.
        pairs: whether pairs are fitted.

    ``data`` is the sample, rows alone or ``{"rows": X, "weights": w}``. Cost: 1 forward per row of data, and a fit of
    about columns × points + pairs × points² unknowns.
    Known failure: with fewer rows than unknowns everything is reproduced and little is known; see ``heldout_share``.
    Source: Hooker 2007, §3 (equations 3.1–3.3); the weights are those of the data instead of an estimated density on a
    grid, and effects of three columns are left out.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.linspace(-1, 1, 9, dtype=torch.float64)
        >>> data = torch.stack([x, x.abs()], 1)
        >>> method = px.attribution.GeneralizedFunctionalAnova(points=9, pairs=False)
        >>> px.explain(lambda t: t[:, :1] ** 3, data, method, data=data).facts["additive_share"][0].item() > 0.999
        True
    """

    points: int = 6
    pairs: bool = True

    card: ClassVar[Card] = Card(
        name="generalized-functional-anova",
        title="Generalised functional ANOVA",
        question="Which effects of columns and pairs make up the answers where the data lie?",
        form="attribution",
        scope="global",
        citation="hooker2007generalized",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic", "linear", "implementation invariant", "spelling invariant", "score scale"),
        trial={"points": 3},
        cost="1 forward per row of data",
        supports=("curves and pairs, added up, reproduce this share of the answers on rows like the data",),
        limits=(
            "effects of three or more columns together",
            "columns that determine each other: which of them has an effect can't be told",
            "rows unlike the data: none was asked about",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_points(self.points)
        if not isinstance(self.pairs, bool):
            raise InputError("The 'pairs' must be True or False", got=repr(self.pairs))
        columns = ask.inputs.tensors[0].shape[1]
        unknowns = columns * self.points + self.pairs * columns * (columns - 1) // 2 * self.points**2
        if unknowns > MOST:
            hint = "fewer points, or pairs=False"
            raise InputError(f"The effects must have at most {MOST} unknowns", got=f"{unknowns}", hint=hint)
        about = sample(ask)
        basis = _Basis.of(about, grid(about.table, self.points), self.pairs)
        found, more = _fit(about, basis)
        result = attribution(ask, about, found)
        effects = basis.pair_effects(ask.inputs.tensors[0], more["theta"])
        each = torch.arange(len(about.kind))
        return result.replace(parts={**result.parts, "pair_effect": effects[each, about.kind]})


@dataclass(frozen=True, eq=False)
class _Basis:
    """Functions of columns, of mean 0, and of pairs, uncorrelated with any of either column, as blocks of unknowns.

    `means` holds the mean of each column's hats, `slopes` what a pair's products (of grid points `kept`) have in common
    with the hats of its two columns.
    """

    marks: Grid
    pairs: tuple[tuple[int, int], ...]
    means: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    @staticmethod
    def of(about: Sample, marks: Grid, pairs: bool) -> _Basis:
        columns, weights = about.table.shape[1], about.weights
        hats = [_hats(marks, j, about.table[:, j]) for j in range(columns)]
        chosen = tuple(itertools.combinations(range(columns), 2)) if pairs else ()
        kept, slopes = [], []
        for one, other in chosen:
            products = _products(hats[one], hats[other])
            some = (weights @ products.abs() > 0).nonzero()[:, 0]
            root = weights.sqrt()[:, None]
            both = torch.cat([hats[one], hats[other]], 1)
            kept.append(some)
            slopes.append(torch.linalg.pinv(both * root, rtol=CUT) @ (products[:, some] * root))
        return _Basis(marks, chosen, tuple(weights @ h for h in hats), tuple(kept), tuple(slopes))

    def blocks(self, table: Tensor) -> list[Tensor]:
        """The functions' values (rows, unknowns) at the rows of a table: a block for each column, then for each pair."""
        hats = [_hats(self.marks, j, table[:, j]) for j in range(table.shape[1])]
        found = [h - mean for h, mean in zip(hats, self.means, strict=True)]
        for (one, other), some, slope in zip(self.pairs, self.kept, self.slopes, strict=True):
            products = _products(hats[one], hats[other])[:, some]
            found.append(products - torch.cat([hats[one], hats[other]], 1) @ slope)
        return found

    def pair_effects(self, table: Tensor, theta: list[Tensor]) -> Tensor:
        """The pairs' effects at the rows of a table, (rows, kinds, columns, columns)."""
        columns = table.shape[1]
        out = torch.zeros(len(table), theta[0].shape[1], columns, columns, dtype=torch.float64)
        for (one, other), block, own in zip(self.pairs, self.blocks(table)[columns:], theta[columns:], strict=True):
            out[:, :, one, other] = out[:, :, other, one] = block @ own
        return out

    def surface(self, number: int, theta: Tensor) -> Tensor:
        """A pair's effect on the whole grid, (kinds, points, points)."""
        points, (one, other) = self.marks.points, self.pairs[number]
        corner = torch.zeros(points**2, self.marks.values.shape[0], dtype=torch.float64)
        corner[:, one] = self.marks.values[one].repeat_interleave(points)
        corner[:, other] = self.marks.values[other].repeat(points)
        block = self.blocks(corner)[self.marks.values.shape[0] + number]
        return (block @ theta).T.reshape(-1, points, points)


def _hats(marks: Grid, column: int, x: Tensor) -> Tensor:
    return marks.hats(column, x)[:, : int(marks.count[column])]


def _products(one: Tensor, other: Tensor) -> Tensor:
    return (one[:, :, None] * other[:, None]).flatten(1)


def _fit(about: Sample, basis: _Basis) -> tuple[Curves, dict[str, Any]]:
    """The effects with the least squares under the weights, the smallest ones where several fit."""
    marks, columns, plain = basis.marks, about.table.shape[1], about.plain()
    blocks, root = basis.blocks(about.table), about.weights.sqrt()[:, None]
    base = about.weights @ plain
    left, sizes, right = torch.linalg.svd(torch.cat(blocks, 1) * root, full_matrices=False)
    keep = sizes > CUT * sizes[:1].clamp(min=1e-300)
    left, sizes, right = left[:, keep], sizes[keep], right[keep]
    joint = right.T @ ((left.T @ ((plain - base) * root)) / sizes[:, None])
    theta = list(joint.split([b.shape[1] for b in blocks]))
    effects = torch.stack([block @ own for block, own in zip(blocks, theta, strict=True)], 2)
    missed = plain - base - effects.sum(2)
    leverage = (left**2).sum(1) + about.weights  # the mean is fitted too
    alone = missed / (1 - leverage).clamp(min=1e-6)[:, None]
    variance = about.weights @ (plain - base) ** 2
    covariance = torch.einsum("n,nk,nku->ku", about.weights, plain - base, effects)
    share = covariance / variance.clamp(min=1e-300)[:, None] * (variance > 1e-24)[:, None]
    curve = torch.zeros(about.kinds, columns, marks.points, dtype=torch.float64)
    for j in range(columns):
        count = int(marks.count[j])
        curve[:, j, :count] = (theta[j] - basis.means[j] @ theta[j]).T
        curve[:, j, count:] = curve[:, j, count - 1, None]
    ranks = sum(int(torch.linalg.matrix_rank(b * root, rtol=CUT)) for b in blocks)
    facts = {
        "joint_share": _reproduced(missed, variance, about),
        "heldout_share": _reproduced(alone, variance, about),
        "identified": torch.full((about.kinds,), int(keep.sum()) / max(1, ranks), dtype=torch.float64),
    }
    parts = {"share": share[:, :columns], "pair_share": torch.zeros(about.kinds, columns, columns, dtype=torch.float64)}
    for number, (one, other) in enumerate(basis.pairs):
        parts["pair_share"][:, one, other] = parts["pair_share"][:, other, one] = share[:, columns + number]
    if basis.pairs:
        numbers = torch.tensor(basis.pairs)
        parts["surface"] = torch.stack([basis.surface(i, own) for i, own in enumerate(theta[columns:])], 1)
        parts["pairs"] = numbers.expand(about.kinds, *numbers.shape)
    found = Curves(grid=marks, curve=curve, base=base, plain=plain, parts=parts, facts=facts)
    return found, {"theta": theta}


def _reproduced(missed: Tensor, variance: Tensor, about: Sample) -> Tensor:
    lost = about.weights @ missed**2
    return torch.where(variance > 1e-24, 1 - lost / variance.clamp(min=1e-300), torch.ones_like(variance))
