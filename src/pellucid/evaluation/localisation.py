"""Does an explanation point to what it should? The places it calls important, against masks of the right ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall
from pellucid.evaluation.marked import maps, marks, near, refuse_pooling

__all__ = ["PointingGame"]

FIGURES = ("pointing", "mass", "rank", "overlap", "roc", "precision")


@dataclass(frozen=True, kw_only=True)
class PointingGame(Evaluation):
    """Does the explanation point to the object, and how much of it lies there?

    With a figure v for each place (pixel, step, column) and the mask M of the right places, all of them from 0 to 1:

    - ``pointing``: 1 where the place with the largest v is in M or at most ``tolerance`` away from it, else 0. Where
      several places share the largest v, the share of them that hit: what choosing among them blindly would give.
    - ``mass``: the share of the positive v that lies in M: the energy-based pointing game, and relevance mass accuracy.
      NaN where no v is positive.
    - ``rank``: the share of the \\|M| places with the largest v that are in M: relevance rank accuracy.
    - ``overlap``: intersection over union of M and the ``top`` places.
    - ``roc``: the area under the ROC curve: how often a place in M has a larger v than one outside, ties counting
      half. NaN where M holds all places or none.
    - ``precision``: average precision: over the places in M, the mean share of M among the places with at least their v.
      NaN where M holds none. Blindly ordered places give ``precision_chance``, a little more than ``area``.

    Where places at the border of the first \\|M| or ``top`` are equal, as many of them as fit are taken evenly. An empty M
    gives 0. Choose in ``figure`` which of them ``values`` is; `facts` hold all, with ``area``, the share of places in M
    (what ``mass`` and ``rank`` are by chance), ``chance``, that of places which would hit, and ``ties``, how many places
    share the largest v. ``source["overall"]`` is the mean over rows with its 95 % interval, rows that are NaN listed;
    ``source["by_class"]`` the same for each class: Zhang et al. average over these.

    Needs ``data={"masks": M}``, (rows, height, width) or (rows, steps or columns) truth values, or one row for all;
    ``"explanation"`` beside it is the explanation's own data. Maps coarser than an image are enlarged bilinearly.

    Args:
        of: the explanation that is measured: a method or its name.
        figure: "pointing", "mass", "rank", "overlap", "roc" or "precision".
        tolerance: pixels (from centre to centre) by which pointing may miss; the paper takes 15 for photographs.
        top: how many places are compared in ``overlap``; None for as many as M has.
        pooling: how a place's channels become v: "sum", with its sign, or, never negative, "absolute" (of the sum),
            "norm" (root of the sum of squares) or "largest".

    Cost: that of ``of``.
    Known failure: it assumes that the model looks at the object; an honest map of a model that reads the background scores
    low. Pointing reads a single place, and large masks are easy to hit: compare with ``chance``.
    Source: Zhang, Lin, Brandt, Shen & Sclaroff 2016, §4.1; ``mass``: Wang et al. 2020 (Score-CAM), and Arras, Osman &
    Samek 2022 (CLEVR-XAI), on maps without negative values; ``rank``: the latter.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> masks = net.weight.detach().argmax(1, keepdim=True) == torch.arange(4)
        >>> px.explain(net, torch.ones(1, 4), "pointing-game", data={"masks": masks}).values.item()
        1.0
    """

    figure: str = "pointing"
    tolerance: float = 0.0
    top: int | None = None
    pooling: str = "sum"

    own: ClassVar[tuple[str, ...]] = ("masks",)
    card: ClassVar[Card] = Card(
        name="pointing-game",
        title="Pointing game and localisation",
        question="Does the explanation point to the object, and how much of it lies there?",
        form="measure",
        scope="local",
        citation="zhang2016excitation",
        needs=("predictions", "masks"),
        data_types=("image", "table", "sequence", "text"),
        taxonomy={"001": "evaluation/localisation", "003": "evaluation/localisation"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("how well the explanation finds what people marked, next to chance",),
        limits=(
            "whether it is true to the model: a model that reads the background is explained rightly by a map that misses",
        ),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.figure not in FIGURES:
            raise MethodError(f"The 'figure' must be one of {FIGURES}", got=repr(self.figure))
        refuse_pooling(self.pooling)
        bad = isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float)
        if bad or not 0 <= self.tolerance < float("inf"):
            raise MethodError("The 'tolerance' must be a number of pixels, 0 or more", got=repr(self.tolerance))
        if self.top is not None and (isinstance(self.top, bool) or not isinstance(self.top, int) or self.top < 1):
            raise MethodError("The 'top' must be an int of at least 1, or None", got=repr(self.top))
        marks(ask, own)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        mask = marks(ask, self.split(ask.data)[0])
        values = maps(judged, tuple(mask.shape[1:]), self.pooling)
        mask = mask.expand(values.shape)
        hits = near(mask, self.tolerance).flatten(1)
        v, inside = values.flatten(1), mask.flatten(1)
        size = inside.sum(1)
        first = v == v.amax(1, keepdim=True)
        figures = {
            "pointing": share(first & hits, first),
            "mass": mass(v, inside),
            "rank": expected(v, inside, size) / size.clamp(min=1),
            "overlap": overlap(v, inside, size if self.top is None else torch.full_like(size, self.top)),
            "roc": roc(v, inside),
            "precision": precision(v, inside),
        }
        found = figures[self.figure]
        area, chance, ties = inside.double().mean(1), hits.double().mean(1), first.sum(1).double()
        return Measure(
            values=found,
            better="higher",
            unit="share",
            facts={
                **figures,
                "area": area,
                "chance": chance,
                "precision_chance": precision_by_chance(inside),
                "ties": ties,
            },
            source={"overall": overall(found), "by_class": by_class(found, ask.explained_class)},
        )


def share(some: Tensor, every: Tensor) -> Tensor:
    """How much of each row's `every` is in `some`."""
    return some.sum(1).double() / every.sum(1)


def mass(v: Tensor, inside: Tensor) -> Tensor:
    """The share of the positive values that lies inside; NaN where none is positive."""
    positive = v.clamp(min=0)
    return (positive * inside).sum(1) / positive.sum(1)


def expected(v: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """How many of each row's `count` largest values lie inside, where equal ones at the border are taken evenly."""
    count = count.clamp(max=v.shape[1])
    ranked = v.sort(1, descending=True).values
    border = ranked.gather(1, (count - 1).clamp(min=0)[:, None])
    above, tied = v > border, v == border
    left = (count - above.sum(1)).double()
    found = (above & inside).sum(1) + left * (tied & inside).sum(1) / tied.sum(1)
    return torch.where(count > 0, found, 0.0)


def overlap(v: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """Intersection over union of the mask and the `count` largest values; 0 where both are empty."""
    both = expected(v, inside, count)
    either = count.clamp(max=v.shape[1]) + inside.sum(1) - both
    return torch.where(either > 0, both / either, 0.0)


def roc(v: Tensor, inside: Tensor) -> Tensor:
    """How often a value inside is larger than one outside, ties counting half; NaN where either side is empty."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(v.numpy(), axis=1))
    one, other = inside.sum(1).double(), (~inside).sum(1).double()
    return ((ranks * inside).sum(1) - one * (one + 1) / 2) / (one * other)


def precision(v: Tensor, inside: Tensor) -> Tensor:
    """Average precision, equal values taken together; NaN where no place is inside."""
    from scipy.stats import rankdata

    found = torch.full((len(v),), torch.nan, dtype=torch.float64)
    for row, (values, mask) in enumerate(zip(-v.numpy(), inside.numpy(), strict=True)):
        if mask.any():
            hits, among = rankdata(values[mask], "max"), rankdata(values, "max")[mask]
            found[row] = float((hits / among).mean())
    return found


def precision_by_chance(inside: Tensor) -> Tensor:
    """The mean of `precision` over all orders of the places: one place is first of k by k - 1 others, evenly drawn."""
    count, size = inside.shape[1], inside.sum(1).double()
    k = torch.arange(1, count + 1, dtype=torch.float64)
    others = (size - 1)[:, None] * (k - 1) / max(count - 1, 1)
    return torch.where(size > 0, ((1 + others) / k).mean(1), torch.nan)
