"""How much does the score fall as regions are flipped, the most relevant first?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.evaluation import (
    Evaluation,
    Judged,
    along,
    beside,
    check_references,
    overall,
    players,
    random_order,
    ranking,
)
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole

__all__ = ["RegionPerturbation"]

ORDERS = ("morf", "lerf")
PATCH = 9
# Draws of fills, apart from those of random orders, which have number 0.
FIRST_DRAW = 1000


@dataclass(frozen=True, kw_only=True)
class RegionPerturbation(Evaluation):
    """How much does the score fall as regions are replaced by noise, the most relevant first?

    Regions are sorted by the sum of their values and replaced one after the other, and stay replaced. With x⁽ᵏ⁾ after k
    regions, ``values`` is the area over the perturbation curve, ``AOPC = 1/(L+1) Σ_{k=0…L} f(x) - f(x⁽ᵏ⁾)``, the mean
    fall in score units. In the order "morf" (most relevant first) it is better the higher, in "lerf" the lower.

    `parts`: ``curve`` (rows, L + 1), the scores, and ``share`` (L + 1,), which part of the regions is gone. Facts:
    ``random``, the mean AOPC of random orders; ``gain``, by how much the explanation's order is better; ``random_error``,
    the standard error of ``random``; ``beats_random_orders``, the share of them that it is better than.
    ``source["overall"]``: the mean over rows with its 95 % interval; rows whose
    explanation or scores are not finite are listed there, and NaN in ``values``.

    Args:
        of: the explanation that is measured: a method or its name.
        order: "morf" or "lerf".
        features: the regions. "auto": patches of 9 × 9 pixels where an image has room for three along each side, else
            as for occlusion. "pixel" is pixel flipping.
        fill: "uniform": noise between the least and the greatest value of the row, channel by channel; or a baseline:
            a number, "zero", "mean", "blur", "min", "max", or "imputed" from the pixels around (ROAD).
        draws: noise fills over which each score is averaged.
        steps: L; fewer where there are fewer regions.
        references: random orders per row; 0 for none.

    Cost: that of ``of``, and (``steps`` + 1) × ``draws`` forwards for each order.
    Known failure: noise is unlike any input, and regions of it may be evidence of their own; compare the fills. The shape
    of a hole can tell the class by itself; "imputed", which hides holes, is for images without large smooth parts the
    least revealing fill, and takes a sparse system for each forward.
    Source: Samek, Binder, Montavon, Lapuschkin & Müller 2017, §III, equations 11 to 13; pixel flipping: Bach et al.
    2015, §Experiments. There the noise spans the values of all images; here those of the row, which needs no data.
    "imputed": Rong, Leemann, Borisov, Kasneci & Kasneci 2022, noisy linear imputation.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> x = torch.ones(1, 4)
        >>> found = px.explain(net, x, px.evaluation.RegionPerturbation(fill=0.0))
        >>> torch.isclose(found.values[0], found.parts["curve"][0, 0] - found.parts["curve"][0].mean()).item()
        True
    """

    order: str = "morf"
    features: str | tuple[Any, ...] = "auto"
    fill: float | str = "uniform"
    draws: int = 1
    steps: int = 100
    references: int = 4

    card: ClassVar[Card] = Card(
        name="region-perturbation-aopc",
        title="Region perturbation",
        question="How much does the score fall as the most relevant regions are replaced?",
        form="measure",
        scope="local",
        citation="samek2017evaluating",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity", "003": "evaluation/region perturbation"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "steps": 4, "references": 2},
        cost="that of the explanation, and 505 forwards",
        supports=("how far this score falls along the explanation's order, next to random orders",),
        limits=("whether the explanation pleases people", "the order's merit under another fill"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.order not in ORDERS:
            raise MethodError(f"The 'order' must be one of {ORDERS}", got=repr(self.order))
        whole(draws=(self.draws, 1), steps=(self.steps, 1))
        check_references(self.references)
        if self.draws > 1 and self.fill != "uniform":
            raise MethodError("The 'draws' must be 1 where the fill is no noise", got=f"{self.draws} of {self.fill!r}")

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        uniform = self.fill == "uniform"
        game, figures = players(judged, regions(self.features, judged), 0.0 if uniform else self.fill)
        if uniform:
            game = replace(game, fills=noise(game.held, ask, self.draws))
        counts = torch.arange(min(self.steps, game.players) + 1)

        def fall(order: Tensor) -> tuple[Tensor, Tensor]:
            curve = along(game, order, counts, label=self.card.title)
            return curve[:, 0] - curve.mean(1), curve

        area, curve = fall(ranking(figures, most_first=self.order == "morf"))
        area = area.where(torch.isfinite(figures).all(1), torch.nan)
        orders = (random_order(ask.seed + k, ask.keys, game.players) for k in range(self.references))
        areas = [fall(order)[0] for order in orders]
        return Measure(
            values=area,
            better="higher" if self.order == "morf" else "lower",
            unit="score",
            facts=beside(area, areas, 1.0 if self.order == "morf" else -1.0),
            parts={"curve": curve, "share": counts.double() / game.players},
            source={"overall": overall(area)},
        )


def regions(spec: str | tuple[Any, ...], judged: Judged) -> str | tuple[Any, ...]:
    """What "auto" stands for: patches of 9 × 9 pixels where images have room for three along each side."""
    shapes = [v.shape for v in judged.parts]
    large = all(len(s) == 4 and min(s[2:]) >= 3 * PATCH for s in shapes)
    return ("patch", PATCH) if spec == "auto" and large else spec


def noise(held: Inputs, ask: Ask, draws: int) -> tuple[Tensor, ...]:
    """Uniform noise (rows, draws, ...) between the least and the greatest value of each row, for images by channel."""
    found = []
    for number, x in enumerate(held.floats):
        axes = tuple(range(2, x.dim())) if x.dim() == 4 else tuple(range(1, x.dim()))
        low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
        first = FIRST_DRAW + number * draws
        drawn = [seed.uniform(ask.seed, ask.keys, [first + k] * held.rows, tuple(x.shape[1:]), x) for k in range(draws)]
        found.append(torch.stack([low + (high - low) * u for u in drawn], 1))
    return tuple(found)
