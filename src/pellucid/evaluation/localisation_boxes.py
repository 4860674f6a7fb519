"""Does an explanation lie where the object's box is? The box it draws itself, and what it says outside the true one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall
from pellucid.evaluation.marked import around, boxes, filled, maps, marks, places, refuse_pooling

__all__ = ["CamLocalisation", "ObjectRelevanceRatio"]


@dataclass(frozen=True, kw_only=True)
class CamLocalisation(Evaluation):
    """Does the box around the map's largest bright region fit the object's box?

    Places whose figure is above ``level`` × the largest one of the map are joined where they touch, corners included; the
    box around the largest region is compared with the true box that it fits best: ``values`` is their intersection over
    union. A map without a positive figure has no box and gets 0. Of regions of equal size the one with the larger sum
    counts, then the first from the top.

    Needs ``data={"boxes": (rows, 4)}``, or (rows, boxes, 4), as top, left, bottom, right, the last two exclusive, in
    pixels; or ``{"masks": (rows, height, width)}``, whose boxes are taken. Facts: ``found``, 1 where the overlap reaches
    ``enough``; ``box_top``, ``box_left``, ``box_bottom``, ``box_right``, the box drawn; ``regions``, how many there were.
    ``source["overall"]`` is the mean of ``found`` over rows, one minus the localisation error.

    Args:
        of: the explanation that is measured, such as "cam" or "grad-cam": a method or its name.
        level: share of the largest figure above which a place is bright; the paper takes 0.2.
        enough: the overlap that counts as found.
        pooling: how a pixel's channels become one figure: "sum", "absolute", "norm" or "largest".

    Cost: that of ``of``.
    Known failure: the most telling part is bright and the rest of the object dim, so that the box depends on ``level``;
    objects of one class side by side become one box.
    Source: Zhou, Khosla, Lapedriza, Oliva & Torralba 2016, §3.2; there the class must be right too.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.zeros(1, 1, 6, 8)
        >>> x[0, 0, 1:3, 2:7] = 1.0
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1)).eval()
        >>> torch.nn.init.ones_(net[1].weight)[0, 0].item()
        1.0
        >>> px.explain(net, x, "cam-localisation", data={"boxes": torch.tensor([[1, 2, 3, 7]])}).values.item()
        1.0
    """

    level: float = 0.2
    enough: float = 0.5
    pooling: str = "sum"

    own: ClassVar[tuple[str, ...]] = ("masks", "boxes")
    card: ClassVar[Card] = Card(
        name="cam-localisation",
        title="Localisation by a box",
        question="Does the box around the map's largest bright region fit the object's box?",
        form="measure",
        scope="local",
        citation="zhou2016learning",
        needs=("predictions", "image", "masks"),
        data_types=("image",),
        taxonomy={"001": "evaluation/localisation", "003": "evaluation/localisation"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("how well the map alone, without boxes to learn from, tells where the object is",),
        limits=("whether it is true to the model", "the object's outline: boxes are compared"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name in ("level", "enough"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise MethodError(f"The '{name}' must be a number from 0 to below 1", got=repr(value))
        refuse_pooling(self.pooling)
        boxes(flat(ask), own)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        true, at = boxes(ask, self.split(ask.data)[0]), places(ask)
        found = [drawn(v, self.level) for v in maps(judged, at, self.pooling)]
        box, counts = torch.stack([b for b, _ in found]), torch.tensor([float(n) for _, n in found])
        best = fit(box[:, None], true).amax(1)
        hit = (best >= self.enough).double()
        facts = {"found": hit, "regions": counts}
        facts |= {f"box_{name}": box[:, k] for k, name in enumerate(("top", "left", "bottom", "right"))}
        source = {"overall": overall(hit), "by_class": by_class(hit, ask.explained_class)}
        return Measure(values=best, better="higher", unit="intersection over union", facts=facts, source=source)


def flat(ask: Ask) -> Ask:
    """The question, refused where its inputs are no images."""
    at = places(ask)
    if len(at) != 2:
        raise InputError("Boxes need images, laid out as (rows, channels, height, width)", got=f"{at} places a row")
    return ask


def drawn(v: Tensor, level: float) -> tuple[Tensor, int]:
    """The box around the largest bright region of one map (height, width), and how many regions there are."""
    from scipy.ndimage import label

    top = float(v.max())
    bright = (v > level * top) & (v > 0)
    names, count = label(bright.numpy(), structure=torch.ones(3, 3).numpy())
    regions = [torch.from_numpy(names == k + 1) for k in range(count)]
    if not regions:
        return torch.zeros(4, dtype=torch.float64), 0
    best = max(regions, key=lambda region: (int(region.sum()), float(v[region].sum())))
    return around(best), count


def fit(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4); 0 where both are empty."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    either = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - both
    return torch.where(either > 0, both / either, 0.0)


@dataclass(frozen=True, kw_only=True)
class ObjectRelevanceRatio(Evaluation):
    """How much does the model rely on the object's surroundings, next to the object itself?

    ``μ = mean of the positive values outside the box / mean inside``, both over all places there: 0 where all of it lies
    in the object, 1 where the surroundings matter as much per pixel, more where they matter more. NaN where no value
    inside is positive, or the box holds all places or none.

    Needs ``data={"boxes": ...}`` (as for `CamLocalisation`; several boxes of a row are joined) or ``{"masks": ...}``.
    Facts: ``outside``, ``inside``, the two means; ``area``, the share of places inside. ``source["by_class"]`` gives each
    explained class's mean with a 95 % interval, by which classes can be ranked; ``source["overall"]`` that of all rows.

    Args:
        of: the explanation that is measured: a method or its name.
        pooling: how a place's channels become one figure: "sum" with its sign, "absolute", "norm" or "largest".

    Cost: that of ``of``.
    Known failure: the border of the object lies outside a tight mask, and maps blur over it; a large μ tells that context
    is used, not whether it misleads.
    Source: Lapuschkin, Binder, Montavon, Müller & Samek 2016 (the outside-inside relevance ratio). The intervals are by
    Student's t.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> w = torch.nn.init.constant_(net.weight, 1.0)
        >>> x, masks = torch.tensor([[4.0, 2.0, 1.0, 2.0]]), torch.tensor([[True, True, False, False]])
        >>> px.explain(net, x, "object-relevance-ratio", data={"masks": masks}).values.item()
        0.5
    """

    pooling: str = "sum"

    own: ClassVar[tuple[str, ...]] = ("masks", "boxes")
    card: ClassVar[Card] = Card(
        name="object-relevance-ratio",
        title="Context against object",
        question="How much does the model rely on the object's surroundings, next to the object itself?",
        form="measure",
        scope="local",
        citation="lapuschkin2016analyzing",
        needs=("predictions", "masks"),
        data_types=("image", "table", "sequence", "text"),
        taxonomy={"001": "evaluation/localisation"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "pooling": "norm"},
        cost="that of the explanation",
        supports=("by which classes the context speaks for the answer more than the object does",),
        limits=("whether the context is a fair reason", "evidence against the class, which is left out"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        refuse_pooling(self.pooling)
        inside(ask, own)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        mask = inside(ask, self.split(ask.data)[0])
        v = maps(judged, tuple(mask.shape[1:]), self.pooling).clamp(min=0)
        v, mask = v.flatten(1), mask.expand(v.shape).flatten(1)
        means = {
            name: (v * part).sum(1) / part.sum(1).clamp(min=1) for name, part in (("outside", ~mask), ("inside", mask))
        }
        defined = (means["inside"] > 0) & ~mask.all(1)
        ratio = torch.where(defined, means["outside"] / means["inside"], float("nan"))
        source = {"overall": overall(ratio), "by_class": by_class(ratio, ask.explained_class)}
        facts = {**means, "area": mask.double().mean(1)}
        return Measure(values=ratio, better="neither", unit="ratio", facts=facts, source=source)


def inside(ask: Ask, own: Mapping[str, Any]) -> Tensor:
    """The places that are the object's, by masks or boxes."""
    return marks(ask, own) if own.get("boxes") is None else filled(boxes(flat(ask), own), places(ask))
