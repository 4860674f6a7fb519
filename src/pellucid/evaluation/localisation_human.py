"""Does an explanation agree with what people marked? Shares of people who marked a place, and points they set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall
from pellucid.evaluation.marked import maps, marks, places, refuse_pooling

__all__ = ["HumanAttention", "LesionOverlap"]

LEVELS = 10


@dataclass(frozen=True, kw_only=True)
class HumanAttention(Evaluation):
    """How far is the explanation from what people found important?

    The mask m of a row holds, for each place (pixel or word), the share of people who marked it; the map s is the positive
    part of the explanation over its largest value, so that both run from 0 to 1. ``values`` is
    ``false_positive × mean(max(s - m, 0)) + false_negative × mean(max(m - s, 0))``: with both weights 1 the mean absolute
    error. Facts: ``mae``; ``too_much`` and ``too_little``, its two parts; ``precision`` ``Σ min(s, m) / Σ s``; ``recall``
    ``Σ min(s, m) / Σ m``; ``soft_iou`` ``Σ min(s, m) / Σ max(s, m)`` (each 0 where the divisor is); ``empty``, what
    ``values`` would be for an empty map: no better explanation than that is worth showing.

    `parts`: for ``level`` 0.1, 0.2, … 1, with only the places that at least so many people marked: ``precision`` (rows,
    levels), the share of s there, and ``recall``, the mean of s there (0 where nobody marked so).

    Needs ``data={"masks": ...}``: (rows, places) shares or truth values, or (rows, people, places), which are averaged.

    Args:
        of: the explanation that is measured: a method or its name.
        false_positive: cost of calling important what people did not.
        false_negative: cost of missing what people marked.
        pooling: how a place's channels become one figure: "sum" with its sign, "absolute", "norm" or "largest".

    Cost: that of ``of``.
    Known failure: people mark whole objects, maps mark edges and tips: the error favours filled areas. People's reasons
    are not the model's, so that a true explanation of a wrong model scores badly.
    Source: Mohseni, Block & Ragan 2021 (masks of several people, mean absolute error); the weights and soft
    precision and recall are ours. People's ratings of explanations are not part of it.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> w = torch.nn.init.constant_(net.weight, 1.0)
        >>> x, people = torch.tensor([[4.0, 2.0, 0.0, 0.0]]), torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
        >>> px.explain(net, x, "human-attention-benchmark-mohseni", data={"masks": people}).values.item()
        0.0
    """

    false_positive: float = 1.0
    false_negative: float = 1.0
    pooling: str = "sum"

    own: ClassVar[tuple[str, ...]] = ("masks",)
    card: ClassVar[Card] = Card(
        name="human-attention-benchmark-mohseni",
        title="Agreement with people's masks",
        question="How far is the explanation from what people found important?",
        form="measure",
        scope="local",
        citation="mohseni2021quantitative",
        needs=("predictions", "masks"),
        data_types=("image", "table", "sequence", "text"),
        taxonomy={"001": "evaluation/human-grounded"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("how plausible the explanation looks to the people who marked the places",),
        limits=("whether the explanation is true to the model",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name in ("false_positive", "false_negative"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise MethodError(f"The '{name}' must be a finite number of at least 0", got=repr(value))
        refuse_pooling(self.pooling)
        marks(ask, own, shares=True)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        mask = marks(ask, self.split(ask.data)[0], shares=True)
        v = maps(judged, tuple(mask.shape[1:]), self.pooling).clamp(min=0)
        m, s = mask.expand(v.shape).flatten(1), v.flatten(1)
        s = s / s.amax(1, keepdim=True).where(s.amax(1, keepdim=True) > 0, torch.ones(1).double())
        over, under = (s - m).clamp(min=0).mean(1), (m - s).clamp(min=0).mean(1)
        both = torch.minimum(s, m).sum(1)
        found = self.false_positive * over + self.false_negative * under
        facts = {
            "mae": over + under,
            "too_much": over,
            "too_little": under,
            "precision": ratio(both, s.sum(1)),
            "recall": ratio(both, m.sum(1)),
            "soft_iou": ratio(both, torch.maximum(s, m).sum(1)),
            "empty": self.false_negative * m.mean(1),
        }
        level = torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS
        agreed = [(m >= t - 1e-9).double() for t in level]
        parts = {
            "level": level,
            "precision": torch.stack([ratio((s * a).sum(1), s.sum(1)) for a in agreed], 1),
            "recall": torch.stack([ratio((s * a).sum(1), a.sum(1)) for a in agreed], 1),
        }
        source = {"overall": overall(found), "by_class": by_class(found, ask.explained_class)}
        return Measure(values=found, better="lower", unit="share", facts=facts, parts=parts, source=source)


def ratio(one: Tensor, other: Tensor) -> Tensor:
    """One over the other, and 0 where that is 0."""
    return torch.where(other > 0, one / other.where(other > 0, torch.ones(1).double()), 0.0)


@dataclass(frozen=True, kw_only=True)
class LesionOverlap(Evaluation):
    """Which share of the places that experts marked does the map cover, and how much does it cover besides?

    A place is covered where its figure is positive and at least ``level`` × the largest of the map. ``values`` is the share
    of the marked points that are covered; a row without points is NaN. Facts: ``points``, how many there are; ``area``, the
    share of all places that is covered, which is what a map without any knowledge would reach; ``false_area``, the share of
    the unmarked places that is.

    Needs ``data={"points": (rows, points, 2)}``, row and column (or one number, the step or column of a table), negative
    where a row has fewer; or ``{"masks": ...}``, every place of which is a point. With ``"subtypes"`` (rows, points), whole
    numbers, ``source["by_subtype"]`` has the points and the share covered for each kind, over all rows.

    Args:
        of: the explanation that is measured: a method or its name.
        level: share of the largest figure from which on a place is covered.
        pooling: how a place's channels become one figure: "sum" with its sign, "absolute", "norm" or "largest".

    Cost: that of ``of``.
    Known failure: a low ``level`` covers everything: read ``values`` beside ``area``. Points weigh alike, whatever the
    size of what they mark.
    Source: Lee et al. 2019, Results (78.1 % of bleeding points inside the attention maps). Their atlas of training cases
    is another method, and no patient's data comes with this one.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> w = torch.nn.init.constant_(net.weight, 1.0)
        >>> x, points = torch.tensor([[4.0, 3.0, 0.0, 1.0]]), torch.tensor([[[0], [2]]])
        >>> px.explain(net, x, "attention-lesion-overlap", data={"points": points}).values.item()
        0.5
    """

    level: float = 0.5
    pooling: str = "sum"

    own: ClassVar[tuple[str, ...]] = ("masks", "points", "subtypes")
    card: ClassVar[Card] = Card(
        name="attention-lesion-overlap",
        title="Marked points covered by the map",
        question="Which share of the places that experts marked does the map cover, and how much does it cover besides?",
        form="measure",
        scope="local",
        citation="lee2019explainable",
        needs=("predictions", "masks"),
        data_types=("image", "table", "sequence", "text"),
        taxonomy={"002": "post-hoc/saliency/validation"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("whether a reader who looks where the map points sees what experts marked",),
        limits=("whether the model used these places", "use on patients: nothing here was tested on any"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 <= self.level <= 1:
            raise MethodError("The 'level' must be a number from 0 to 1", got=repr(self.level))
        refuse_pooling(self.pooling)
        points = marked_points(ask, own)
        if points is None:
            marks(ask, own)
        kinds = own.get("subtypes")
        if kinds is not None and (points is None or torch.as_tensor(kinds).shape != points.shape[:2]):
            want = "'points' beside them" if points is None else f"shape {tuple(points.shape[:2])}"
            raise InputError(f"The 'subtypes' need {want}", got=f"shape {tuple(torch.as_tensor(kinds).shape)}")

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        own = self.split(ask.data)[0]
        points = marked_points(ask, own)
        at = places(ask) if points is not None else tuple(marks(ask, own).shape[1:])
        v = maps(judged, at, self.pooling).flatten(1)
        covered = (v > 0) & (v >= self.level * v.amax(1, keepdim=True))
        source: dict[str, Any] = {}
        if points is None:
            marked = marks(ask, own).flatten(1).expand(v.shape)
            count, hits = marked.sum(1).double(), (marked & covered).sum(1).double()
        else:
            there, number = (points >= 0).all(2), flat_number(points.clamp(min=0), at)
            hit = covered.gather(1, number) & there
            count, hits = there.sum(1).double(), hit.sum(1).double()
            marked = torch.zeros_like(v).scatter_add_(1, number, there.double()) > 0
            if own.get("subtypes") is not None:
                source["by_subtype"] = by_subtype(hit, there, torch.as_tensor(own["subtypes"]).expand(there.shape))
        found = hits / count
        facts = {
            "points": count,
            "area": covered.double().mean(1),
            "false_area": ratio((covered & ~marked).sum(1).double(), (~marked).sum(1).double()),
        }
        source |= {"overall": overall(found), "by_class": by_class(found, ask.explained_class)}
        return Measure(values=found, better="higher", unit="share", facts=facts, source=source)


def marked_points(ask: Ask, own: Mapping[str, Any]) -> Tensor | None:
    """The points (rows, points, axes) of the data, where they are given."""
    if own.get("points") is None:
        if own.get("masks") is None:
            raise NeedError("This measurement needs points or masks", got="neither", hint='data={"points": points}')
        return None
    at, found = places(ask), torch.as_tensor(own["points"]).detach().cpu()
    if found.is_floating_point() or found.dim() != 3 or found.shape[2] != len(at):
        raise InputError(
            f"The 'points' must be whole numbers of shape {(ask.inputs.rows, 'points', len(at))}",
            got=f"{found.dtype} of shape {tuple(found.shape)}",
        )
    if found.shape[0] not in (1, ask.inputs.rows) or bool((found >= torch.tensor(at)).any()):
        raise InputError(
            f"The 'points' must lie inside {at}, for each of the {ask.inputs.rows} rows",
            got=f"shape {tuple(found.shape)}, up to {found.flatten(0, 1).amax(0).tolist()}",
        )
    return found.expand(ask.inputs.rows, *found.shape[1:])


def flat_number(points: Tensor, at: tuple[int, ...]) -> Tensor:
    """The number of each point's place, counted along the last axis first."""
    number = torch.zeros(points.shape[:2], dtype=torch.long)
    for axis, side in enumerate(at):
        number = number * side + points[:, :, axis]
    return number


def by_subtype(hit: Tensor, there: Tensor, kinds: Tensor) -> dict[str, Any]:
    """For each kind of point how many there are and the share covered, over all rows."""
    found = {}
    for kind in kinds[there].unique().tolist():
        own = there & (kinds == kind)
        found[str(kind)] = {"points": int(own.sum()), "share": float((hit & own).sum() / own.sum())}
    return found
