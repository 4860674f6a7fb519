"""Do the summed values of random subsets go along with what removing these does to the score?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.coalition import Game
from pellucid.engine.evaluation import MASKS, Evaluation, Judged, overall, players
from pellucid.engine.settings import whole

__all__ = ["SensitivityN"]

MOST_SIZES = 8
LARGEST_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class SensitivityN(Evaluation):
    """Do the summed values of n features go along with the fall of the score when these n are taken away together?

    For subsets S of n features, Pearson's correlation, over the subsets and for each row by itself, between ``Σ_{i∈S}
    φ_i`` and ``f(x) - f(x with S at the baseline)``. ``values`` is the mean over the sizes n; 1 where the values foretell
    every removal up to one factor and shift for each size. One size alone is the *faithfulness correlation*.

    `parts`: ``curve`` (rows, sizes), the correlation at each size, and ``size`` (sizes,). Fact ``standard_error``: of
    ``values``, from (1 - r²)/√(subsets - 1), and 0 where all subsets were gone through. Where the sums or the falls of a
    size do not differ there is no correlation: such a size has NaN in ``curve`` and is left out of the mean, and a row
    without any has NaN. ``source["overall"]``: the mean over rows with its 95 % interval; rows with NaN are listed there.

    Args:
        of: the explanation that is measured: a method or its name.
        sizes: how many features are taken away at once; none: up to eight sizes from 1 to four fifths of the features.
        features: what is taken away at once; as for occlusion, "auto" is a grid of 8 × 8 for images.
        baseline: what stands in its place: a number, or "zero", "mean", "blur", "min", "max".
        samples: subsets per size; where there are no more than that, each is asked about once.

    Cost: that of ``of``, and ``samples`` forwards per size.
    Known failure: a constant added to all values changes nothing, since all subsets of a size have as many features; and
    inputs with features replaced never occur.
    Source: Ancona, Ceolini, Öztireli & Gross 2018, §3.4; Bhatt, Weller & Moura 2020, definition 1 (one size).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).double().eval()
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 5.0]]).double()
        >>> round(px.explain(net, x, "sensitivity-n").values.item(), 9)
        1.0
    """

    sizes: tuple[int, ...] = ()
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0
    samples: int = 100

    card: ClassVar[Card] = Card(
        name="sensitivity-n",
        title="Sensitivity-n",
        covers=("faithfulness-correlation",),
        question="Do the summed values of some features go along with what taking them away does to the score?",
        form="measure",
        scope="local",
        citation="ancona2018towards",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/exactness"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 8},
        cost="that of the explanation, and 808 forwards",
        supports=("how well sums of values rank what removing features does to this score",),
        limits=("the size of the values", "the order's merit under another fill"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(samples=(self.samples, 3))
        if not isinstance(self.sizes, tuple):
            raise MethodError("The 'sizes' must be a tuple of ints", got=repr(self.sizes), hint="sizes=(1, 2, 4)")
        for size in self.sizes:
            whole(sizes=(size, 1))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        game, figures = players(judged, self.features, self.baseline)
        sizes = self._sizes(game.players)
        full = game.worth(torch.ones(1, game.players, dtype=torch.bool), label=self.card.title)
        curve, errors = [], []
        for number, size in enumerate(sizes):
            sums, falls, every = self._size(game, figures, full, ask, size, number)
            r = correlation(sums, falls, 1e-5 if game.held.dtype != torch.float64 else 1e-12)
            curve.append(r)
            errors.append(torch.zeros_like(r) if every else (1 - r**2) / (sums.shape[1] - 1) ** 0.5)
        drawn, error = torch.stack(curve, 1), torch.stack(errors, 1)
        values = drawn.nanmean(1)
        count = torch.isfinite(drawn).sum(1)
        facts = {"standard_error": error.nan_to_num().norm(dim=1) / count.clamp(min=1)}
        return Measure(
            values=values,
            better="higher",
            unit="correlation",
            facts=facts,
            parts={"curve": drawn, "size": torch.tensor(sizes)},
            source={"overall": overall(values)},
        )

    def _sizes(self, count: int) -> tuple[int, ...]:
        if count < 2:
            raise InputError("The 'inputs' must have at least two features, whose removal differs", got=str(count))
        if self.sizes and max(self.sizes) >= count:
            raise MethodError(f"The 'sizes' must be below {count}, the number of features", got=str(max(self.sizes)))
        most = max(1, min(count - 1, round(LARGEST_SHARE * count)))
        steps = torch.linspace(1, most, min(MOST_SIZES, most)).round().long()
        return self.sizes or tuple(steps.unique().tolist())

    def _size(
        self, game: Game, figures: Tensor, full: Tensor, ask: Ask, size: int, number: int
    ) -> tuple[Tensor, Tensor, bool]:
        """Sums of values and falls of the score over subsets of this size, (rows, subsets) each; whether over all."""
        rows, count = figures.shape
        every = math.comb(count, size) <= self.samples
        subsets = math.comb(count, size) if every else self.samples
        sums, falls = (torch.empty(rows, subsets, dtype=torch.float64) for _ in range(2))
        block = max(1, MASKS // (subsets * count))
        shared = _all(count, size) if every else None
        for start in range(0, rows, block):
            here = torch.arange(start, min(start + block, rows))
            chosen = shared if shared is not None else _drawn(ask, here, subsets, count, size, number)
            falls[here] = full[here] - game.worth(~chosen, rows=here, label=self.card.title)
            weights = chosen.double() if chosen.dim() == 3 else chosen.double().expand(len(here), -1, -1)
            sums[here] = torch.einsum("rsp,rp->rs", weights, figures[here])
        return sums, falls, every


def _all(count: int, size: int) -> Tensor:
    """All subsets of this size, (subsets, count)."""
    chosen = torch.tensor(list(itertools.combinations(range(count), size)))
    return torch.zeros(len(chosen), count, dtype=torch.bool).scatter_(1, chosen, True)


def _drawn(ask: Ask, rows: Tensor, subsets: int, count: int, size: int, number: int) -> Tensor:
    """Random subsets of this size for each row, (rows, subsets, count), drawn by the row's content."""
    keys = [ask.keys[i] for i in rows.tolist()]
    order = seed.uniform(ask.seed, keys, [number] * len(keys), (subsets, count), torch.zeros((), dtype=torch.float64))
    first = order.argsort(2)[:, :, :size]
    return torch.zeros(order.shape, dtype=torch.bool).scatter_(2, first, True)


def correlation(a: Tensor, b: Tensor, limit: float = 1e-12) -> Tensor:
    """Pearson's correlation along the second axis, (rows,); NaN where one side does not differ, up to rounding."""
    spread = []
    for x in (a, b):
        away = x - x.mean(1, keepdim=True)
        constant = away.abs().amax(1) <= limit * x.abs().amax(1)
        spread.append((away, constant))
    (u, still_u), (v, still_v) = spread
    r = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp(min=1e-300)
    return r.clamp(-1, 1).masked_fill(still_u | still_v, torch.nan)
