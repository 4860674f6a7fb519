"""Where should the answer not be relied on? The trust score: nearer to the class that was said than to any other?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract import Card, Measure, Method
from pellucid.contract.errors import InputError, MethodError, TargetError
from pellucid.engine import Ask, Subject, predict, selective
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.nearest import as_known, embed, nearest, own_distances
from pellucid.engine.settings import whole

__all__ = ["TrustScore"]

OWN = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class TrustScore(Method):
    """Does the input lie nearer to the class that the network says than to every other class?

    ``values`` (N,) are d_other / d_said: the Euclidean distance to the nearest row of any other class over that to the
    nearest row of the predicted class (or of ``target``), by the labels of the data. Above 1 the data agree with the
    network, below 1 they are nearer to another class; 1 on the border between two. Infinite for a row of the data itself, 0
    where the predicted class has no rows. Of each class, the share ``alpha`` of rows whose ``neighbours``-th nearest row,
    themselves counted, is farthest is left out first, as outliers.

    Distances are between inputs, or, with ``layer=``, between the values there. Facts: ``said`` and ``other``, the two
    distances; ``other_class``; ``nearest``, the distance to the nearest row of all; ``novelty``, the share of rows that lie
    nearer to the data than this one does: 1 means farther away than all of them.

    Data: ``(X, y)``, the rows that the network learnt from; novelty is then counted among these (each without itself). Or
    ``{"train": (X, y), "held_out": (X, y)}``: rows the network has not seen, among which novelty is counted, and that show
    what the score is worth. Fact ``trusted_more_than``, the share of them with a lower score; `parts` ``coverage`` and
    ``risk``, the share of wrong answers among the most trusted share of them, and ``risk_by_confidence``, the same by
    how far the highest output is ahead of the second; ``source["held_out"]``, the chance that a right answer is trusted
    more than a wrong one (``auroc`` with its 95 % interval), the same ``by_confidence``, and how many held-out rows are
    in the data (``in_train``); `parts` ``held_out_score``, ``held_out_nearest`` and ``held_out_right`` have each row's.

    Args:
        neighbours: k of the density, in rows, at least 1.
        alpha: the share of each class left out as outliers, from 0 to less than 1.

    Cost: one forward per row; every input is compared with every row of data.
    Known failures: distances between raw inputs of many columns, or of columns in different units, say little: scale them,
    or give a layer. Against a network that suits the data its own confidence ranks as well. It judges one answer, not the
    data: where labels are wrong, so is the score.
    Source: Jiang, Kim, Guan & Gupta 2018, Algorithms 1 and 2. Novelty and the comparison with confidence are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(1, 2).eval()
        >>> data = (torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
        >>> found = px.explain(net, torch.tensor([[2.0], [3.0]]), "trust-score", target=0, data=data)
        >>> found.values.tolist(), found.facts["novelty"].tolist()
        ([3.0, 1.0], [0.0, 1.0])
    """

    neighbours: int = 10
    alpha: float = 0.0

    card: ClassVar[Card] = Card(
        name="trust-score",
        title="Trust score",
        question="Does the input lie nearer to the class that the network says than to every other class?",
        form="measure",
        scope="local",
        citation="jiang2018trust",
        needs=("predictions", "labels"),
        taxonomy={"001": "trust/reliability"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"neighbours": 2},
        cost="1 forward per row, and every row compared with every row of data",
        supports=(
            "whether cases like this one had the answer that the network gives",
            "how often the most trusted answers were wrong on rows kept apart, where such are given",
        ),
        limits=("whether the network used good reasons", "inputs unlike the rows on which it was measured"),
    )

    def prepare(self, subject: Subject, ask: Ask) -> _Known:
        """The data's vectors by class, without outliers, and what the score is worth on held-out rows."""
        self._check()
        train, held = _given(ask)
        vectors = _vectors(subject, ask, train.inputs)
        labels = _labels(train, "data")
        if len(labels.unique()) < 2:
            raise InputError("The labels in 'data' must be of two or more classes", got=f"{labels.unique().tolist()}")
        space, classes = embed(vectors, "euclidean"), labels.unique().tolist()
        kept = {c: dense(space[labels.numpy() == c], self.neighbours, self.alpha, ask.memory) for c in classes}
        known = _Known(train.inputs, vectors, space, kept, own_distances(space, "euclidean", ask.memory))
        if held is not None:
            known.held = _held(subject, ask, known, held)
        return known

    def explain(self, subject: Subject, ask: Ask, state: _Known) -> Measure:
        """The score of each row, with its distances."""
        said = _classes(ask)
        found = state.measure(_vectors(subject, ask, ask.inputs, state), said, ask.memory)
        score = found.pop("score")
        facts, parts, told = found, {}, {}
        usual = state.usual
        if state.held is not None:
            usual, parts, told = state.held.distance, state.held.parts, state.held.told
            facts["trusted_more_than"] = (state.held.score[None] < score[:, None]).double().mean(1)
        facts["novelty"] = (usual[None] < facts["nearest"][:, None]).double().mean(1)
        source = {"rows_of_data": state.inputs.rows, **({"held_out": told} if told else {})}
        return Measure(values=score, better="higher", unit="times as far", facts=facts, parts=parts, source=source)

    def _check(self) -> None:
        whole(neighbours=(self.neighbours, 1))
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not 0 <= self.alpha < 1:
            raise MethodError("The 'alpha' must be a share from 0 to less than 1", got=repr(self.alpha))


@dataclass(eq=False)
class _Held:
    """Rows kept apart: their distances and scores, the curves, and what is told of them."""

    distance: Tensor
    score: Tensor
    parts: dict[str, Tensor]
    told: dict[str, Any]


@dataclass(eq=False)
class _Known:
    """The data: its vectors, those of each class without outliers, and how far rows are from each other."""

    inputs: Inputs
    vectors: Tensor
    space: NDArray[np.float64]
    kept: dict[int, NDArray[np.float64]]
    usual: Tensor
    held: _Held | None = None

    def measure(self, vectors: Tensor, said: Tensor, memory: int) -> dict[str, Tensor]:
        """Distances and score of rows about which the network says these classes."""
        asked, names = embed(vectors, "euclidean"), list(self.kept)
        away = torch.stack([nearest(self.kept[c], asked, 1, "euclidean", memory)[1][:, 0] for c in names], 1)
        own = torch.tensor(names)[None] == said[:, None]
        mine = away.masked_fill(~own, torch.inf).amin(1)
        others = away.masked_fill(own, torch.inf)
        other, which = others.min(1)
        return {
            "score": ratio(other, mine),
            "said": mine,
            "other": other,
            "other_class": torch.tensor(names)[which].double(),
            "nearest": nearest(self.space, asked, 1, "euclidean", memory)[1][:, 0],
        }


def ratio(other: Tensor, said: Tensor) -> Tensor:
    """other / said; 1 where both are 0, as there neither class is nearer, and 0 where nothing of the class is known."""
    return torch.where((other == said) & (said == 0), 1.0, other / said)


def dense(rows: NDArray[np.float64], neighbours: int, alpha: float, memory: int) -> NDArray[np.float64]:
    """The rows without the share `alpha` whose `neighbours`-th nearest row, themselves counted, is farthest.

    Algorithm 1 of Jiang et al.: kept is what lies within the smallest radius that at most ``alpha n`` rows exceed, so
    rows with equal radii stay together.
    """
    dropped = math.floor(alpha * len(rows) + 1e-9)
    if not dropped:
        return rows
    radius = nearest(rows, rows, min(neighbours, len(rows)), "euclidean", memory)[1][:, -1].numpy()
    return rows[radius <= np.sort(radius)[len(rows) - dropped - 1]]


def _given(ask: Ask) -> tuple[Rows, Rows | None]:
    """The rows of the data, and those kept apart where they are given."""
    data = ask.data
    if isinstance(data, Mapping) and set(data) & {*OWN}:
        if unknown := sorted(set(data) - {*OWN}) or [n for n in OWN if n not in data]:
            raise InputError(f"The 'data' must have the names {OWN}", got=f"{', '.join(map(str, data))} ({unknown})")
        return rows_like(data["train"], ask.inputs, labels=True), rows_like(data["held_out"], ask.inputs, labels=True)
    return rows_like(data, ask.inputs, labels=True), None


def _labels(rows: Rows, name: str) -> Tensor:
    labels = rows.labels
    if labels is None or labels.is_floating_point() or labels.dim() != 1 or bool((labels < 0).any()):
        got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"The labels in '{name}' must be class numbers from 0 on", got=got)
    return labels.detach().cpu().long()


def _vectors(subject: Subject, ask: Ask, rows: Inputs, state: _Known | None = None) -> Tensor:
    """What distances are measured between, (rows, numbers): all floating inputs, or the values at the layer."""
    if ask.layer is None:
        if not rows.floats:
            raise InputError("Token ids have no distances", got="inputs without numbers", hint="layer= a place inside")
        return torch.cat([x.flatten(1).double().cpu() for x in rows.floats], 1)
    values = predict(subject, rows, ask.memory, ask.layer).flatten(1).double().cpu()
    return values if state is None else as_known(values, rows, state.inputs, state.vectors)


def _classes(ask: Ask) -> Tensor:
    """The class about which each row is asked."""
    index = ask.target.index
    if index is None or ask.output is None or ask.output.dim() != 2:
        raise TargetError("The 'target' must be a class", got=ask.target.name or "a score", hint="target=None")
    return index.detach().cpu().long()


def _held(subject: Subject, ask: Ask, known: _Known, rows: Rows) -> _Held:
    """What the score is worth: right against wrong answers on rows that the network has not seen."""
    labels, output = _labels(rows, "held_out"), predict(subject, rows.inputs, ask.memory).detach().cpu().double()
    if output.dim() != 2 or output.shape[1] < 2:
        raise TargetError("The trust score needs a network that chooses a class", got=f"output {tuple(output.shape)}")
    said = output.argmax(1)
    found = known.measure(_vectors(subject, ask, rows.inputs, known), said, ask.memory)
    right, sure = said == labels, output.amax(1) - output.topk(2, dim=1).values[:, 1]
    seen, keys = {*known.inputs.keys()}, rows.inputs.keys()
    told = {
        "rows": len(labels),
        "right": int(right.sum()),
        "in_train": len([key for key in keys if key in seen]),
        **{k: v for k, v in selective.ranking(found["score"], right).items() if k in ("auroc", "low", "high")},
        "by_confidence": {k: v for k, v in selective.ranking(sure, right).items() if k in ("auroc", "low", "high")},
    }
    parts = {
        "coverage": torch.arange(1, len(labels) + 1, dtype=torch.float64) / len(labels),
        "risk": selective.curve(found["score"], ~right),
        "risk_by_confidence": selective.curve(sure, ~right),
        "held_out_score": found["score"],
        "held_out_nearest": found["nearest"],
        "held_out_right": right,
    }
    return _Held(found["nearest"], found["score"], parts, told)
