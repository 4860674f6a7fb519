"""Does the score follow the features that an explanation calls important, as these are taken away or put back?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pellucid.contract import Card, Measure
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import (
    Evaluation,
    Judged,
    along,
    beside,
    check_references,
    players,
    random_order,
    ranking,
)
from pellucid.engine.settings import whole

__all__ = ["InsertionDeletion"]

WAYS = ("deletion", "insertion")


@dataclass(frozen=True, kw_only=True)
class InsertionDeletion(Evaluation):
    """How fast does the score fall as the features called most important go, or rise as they come?

    Features are sorted by the sum of their values. "deletion" replaces the first, the first two, … by the fill,
    "insertion" starts from the fill and puts them back; ``values`` is the area under the score over the share of features
    changed, by the trapezoid rule, in score units. Deletion is better the lower, insertion the higher.

    `parts`: ``curve`` (rows, points), the scores, and ``share`` (points,). Facts: ``random``, the mean area of random
    orders; ``gain``, by how much the explanation's order is better than that (positive is better, for both ways);
    ``random_error``, the standard error of ``random``; ``beats_random_orders``, the share of the random orders that the
    explanation's is better than. Features whose sums are equal come in the order of their numbers.

    Args:
        of: the explanation that is measured: a method or its name.
        way: "deletion" or "insertion".
        features: what is taken away at once; as for occlusion, "auto" is a grid of 8 × 8 for images.
        baseline: what stands in its place: a number, "zero", "mean", "blur", "min", "max", or "imputed": the pixels are
            solved for from those around, with a little noise (ROAD, for images).
        steps: points of the curve after the first; fewer where there are fewer features.
        references: random orders per row; 0 for none.

    Cost: that of ``of``, and ``steps`` + 1 forwards for each order.
    Known failure: inputs with features replaced never occur, and the score may fall because of that alone: compare with
    ``random``, and with other fills.
    Source: Petsiuk, Das & Saenko 2018, §3.3; the area over shares of features, not pixels. "imputed": Rong, Leemann,
    Borisov, Kasneci & Kasneci 2022, noisy linear imputation.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).double().eval()
        >>> x = torch.ones(1, 4).double()
        >>> found = px.explain(net, x, "insertion-deletion")
        >>> bool(found.facts["gain"] >= 0), found.better
        (True, 'lower')
    """

    way: str = "deletion"
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0
    steps: int = 32
    references: int = 4

    card: ClassVar[Card] = Card(
        name="insertion-deletion",
        title="Insertion and deletion",
        question="Does the score follow the features that the explanation calls important?",
        form="measure",
        scope="local",
        citation="petsiuk2018rise",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/deletion"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "steps": 4, "references": 2},
        cost="that of the explanation, and 165 forwards",
        supports=("how fast this score falls or rises along the explanation's order, next to random orders",),
        limits=("whether the explanation pleases people", "the order's merit under another fill"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.way not in WAYS:
            raise MethodError(f"The 'way' must be one of {WAYS}", got=repr(self.way))
        whole(steps=(self.steps, 1))
        check_references(self.references)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        game, figures = players(judged, self.features, self.baseline)
        counts = torch.linspace(0, game.players, min(self.steps, game.players) + 1).round().long()
        order = ranking(figures)
        gone, label = self.way == "deletion", self.card.title
        curve, share = along(game, order, counts, gone=gone, label=label), counts.double() / game.players
        drawn = [random_order(ask.seed + k, ask.keys, game.players) for k in range(self.references)]
        curves = [along(game, o, counts, gone=gone, label=label) for o in drawn]
        areas = [torch.trapezoid(c, share, dim=1) for c in curves]
        area = torch.trapezoid(curve, share, dim=1)
        facts = beside(area, areas, -1.0 if self.way == "deletion" else 1.0)
        better = "lower" if self.way == "deletion" else "higher"
        return Measure(values=area, better=better, unit="score", facts=facts, parts={"curve": curve, "share": share})
