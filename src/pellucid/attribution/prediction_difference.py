"""What would the network say had it not known this feature? Predictions with the feature averaged out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, chance, coalition
from pellucid.engine.coalition import Game
from pellucid.engine.feature import NOWHERE

__all__ = ["PredictionDecomposition"]


@dataclass(frozen=True, kw_only=True)
class PredictionDecomposition(Method):
    """How much does knowing this feature's value speak for the predicted class?

    The network's answer without feature A is what it says on average over the values a_s that A takes in ``data=``:
    ``p(y | x without A) = Σ_s p(A = a_s) p(y | x with A = a_s)``. ``values`` compares it with p(y | x):

    ====================  ===========================================  =========
    kind                  value                                        unit
    ====================  ===========================================  =========
    "weight of evidence"  log₂ odds(y | x) - log₂ odds(y | x without)  bits
    "information"         log₂ p(y | x) - log₂ p(y | x without)        bits
    "probability"         p(y | x) - p(y | x without)                  probability
    "score"               S(x) - mean S(x with A = a_s)                score unit
    ====================  ===========================================  =========

    Positive: the value speaks for the class. Every value of a feature carries the feature's figure. "score" takes any
    target: with ``layer=`` and ``target=px.unit(...)`` it says what hidden units do for another unit, whose activation is
    compared with its mean when one unit's is averaged out.

    Facts: ``probability`` of the class (``score`` for the kind "score").

    Args:
        kind: see the table.
        features: what is averaged out at once: "element", "column", "token", "channel", "pixel", ("grid", k), ("patch", k),
            ("superpixels", k), groups of columns; "auto" as for feature ablation.
        output: whether the model returns "logits" or "probabilities".
        laplace: correct every probability p to (p n + 1) / (n + classes), for n rows of data, before bits are taken.

    ``data=`` is the sample of values: rows like the inputs (with ``layer=``, inputs of the model or the layer's values), or
    ``{"groups": integer masks, "background": rows}``.

    Cost: one forward per feature and distinct value it takes in the data, and one.
    Known failures: where one of two features is enough, each gets nothing, since the other is still known; values are put
    together that never occur together.
    Source: Robnik-Šikonja & Kononenko 2008, eq. 2-7; hidden units: Zintgraf et al. 2017, §3.3.

    Example:
        >>> import torch, pellucid as px
        >>> net, sample = torch.nn.Linear(3, 2).double().eval(), torch.eye(3).double()
        >>> method = px.attribution.PredictionDecomposition(kind="score")
        >>> found = px.explain(net, torch.ones(1, 3).double(), method, target=0, data=sample)
        >>> torch.allclose(found.values[0], net.weight[0] * (1 - 1 / 3))
        True
    """

    kind: str = "weight of evidence"
    features: str | tuple[Any, ...] = "auto"
    output: str = "logits"
    laplace: bool = True

    card: ClassVar[Card] = Card(
        name="prediction-decomposition",
        title="Prediction decomposition",
        question="How much does knowing this feature's value speak for the predicted class?",
        form="attribution",
        scope="local",
        citation="robnik2008explaining",
        covers=("prediction-difference-hidden",),
        needs=("predictions", "data"),
        data_types=("any",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=(
            "rowwise",
            "deterministic",
            "dummy",
            "implementation invariant",
            "spelling invariant",
        ),
        trial={"features": "element"},
        cost="1 forward per feature and value it takes in the data, and 1",
        supports=("what the network's answer owes to knowing this one feature, the others staying as they are",),
        limits=(
            "features that can stand in for each other: each gets nothing",
            "features that occur together: averaging out one alone makes inputs that never occur",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        """A mean of scores is linear in the model; probabilities are not."""
        return (*self.card.claims, "linear", "score scale") if self.kind == "score" else self.card.claims

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        chance.check(self.kind, self.output)
        if not isinstance(self.laplace, bool):
            raise MethodError("The 'laplace' must be True or False", got=repr(self.laplace))
        played = coalition.game(ask, self.features)
        asked = chance.asked(ask, self.kind, self.output)
        played = Game(asked, played.held, played.features, played.fills)
        before, drop = averaged(played, self.card.title)
        ask.path = asked.path
        assert ask.output is not None
        classes = max(2, ask.output.reshape(len(ask.output), -1).shape[1])
        rows = played.background if self.laplace else 0
        change = chance.change(self.kind, before[:, None], before[:, None] - drop, rows=rows, classes=classes)
        facts = {"score" if self.kind == "score" else "probability": before}
        return Attribution(values=played.spread(change), facts=facts)


def averaged(played: Game, label: str) -> tuple[Tensor, Tensor]:
    """The scores (rows,), and by how much they drop on average (rows, players) with each feature in turn drawn anew.

    Values that a feature takes several times in the background are asked about once, and count as often as they occur.
    The row as it is comes last among the questions, so that rounding is the same on both sides of a difference.
    """
    whole = torch.ones(1, played.players, dtype=torch.bool)
    one_each = ~torch.eye(played.players, dtype=torch.bool)
    if any(labels.shape[0] > 1 for labels in played.features.labels):
        worth = played.worth(torch.cat([one_each, whole]), label=label)
        return worth[:, -1], worth[:, -1:] - worth[:, :-1]
    distinct = [_distinct(played, player) for player in range(played.players)]
    number = torch.cat([torch.full((len(first),), player) for player, (first, _) in enumerate(distinct)])
    weight = torch.cat([counts.double() / counts.sum() for _, counts in distinct])
    which = torch.cat([first for first, _ in distinct] + [torch.zeros(1, dtype=torch.long)])
    present = torch.cat([one_each[number], whole])
    size = max(1, coalition.BLOCK // len(present))
    before, drop = [], []
    for rows in torch.arange(played.held.rows).split(size):
        scores = played.each(present, which, rows=rows, label=label)
        mean = torch.zeros(len(rows), played.players, dtype=torch.float64)
        drop.append(mean.index_add_(1, number, (scores[:, -1:] - scores[:, :-1]) * weight))
        before.append(scores[:, -1])
    return torch.cat(before), torch.cat(drop)


def _distinct(played: Game, player: int) -> tuple[Tensor, Tensor]:
    """For each set of values that the feature takes in the background, the first row that has it and how many do."""
    inside = []
    for labels, fill in zip(played.features.labels, played.fills, strict=True):
        mask = ((labels == player) & (labels != NOWHERE)).expand(1, *fill.shape[2:])[0]
        inside.append(fill[0][:, mask].flatten(1).cpu())
    _, inverse, counts = torch.unique(torch.cat(inside, 1), dim=0, return_inverse=True, return_counts=True)
    first = torch.full((len(counts),), len(inverse)).scatter_reduce_(0, inverse, torch.arange(len(inverse)), "amin")
    return first, counts
