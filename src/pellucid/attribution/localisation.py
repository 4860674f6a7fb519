"""Where is the object that only the image's label speaks of? Score maps of the head, slid over the last feature map."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.attribution.spatial import guess, layout
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, batch, gradient
from pellucid.engine.ask import predict, shape_key
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, visit

__all__ = ["MaxPooledHead", "ScoreMapLocalisation", "image_label_loss"]

COMPLAINTS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


class MaxPooledHead(nn.Module):
    """Which scores follow from the best place of a score map, so that image labels alone teach where objects are?

    Maps (N, channels, height, width) of any size to scores (N, classes): 1×1 convolutions, the adaptation layers, make one
    score map per class, and each score is the largest value of its map. `score_maps` gives the maps.

    Args:
        channels: how many maps come in.
        classes: how many scores go out.
        hidden: width of the adaptation layer between them; 0 for none.

    Source: Oquab, Bottou, Laptev & Sivic 2015, §3.

    Example:
        >>> import torch
        >>> head, maps = MaxPooledHead(4, 3), torch.rand(2, 4, 5, 6)
        >>> torch.equal(head(maps), head.score_maps(maps).amax((2, 3)))
        True
    """

    def __init__(self, channels: int, classes: int, hidden: int = 0) -> None:
        super().__init__()
        self.adapt = nn.Conv2d(channels, hidden, 1) if hidden else None
        self.classify = nn.Conv2d(hidden or channels, classes, 1)

    def score_maps(self, maps: Tensor) -> Tensor:
        """One score map per class, (N, classes, height, width)."""
        return self.classify(maps if self.adapt is None else self.adapt(maps).relu())

    def forward(self, maps: Tensor) -> Tensor:
        """Scores (N, classes)."""
        return self.score_maps(maps).amax((2, 3))


def image_label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """How badly do scores tell which classes an image holds, each class by itself? To be minimised in training.

    ``mean over rows of Σ_k log(1 + exp(-y_k S_k))``, with y_k = 1 where the image holds class k and -1 elsewhere; labels
    (N, classes) are true or 1 for the former. No place is ever said. For objects of many sizes, train on images scaled at
    random.

    Source: Oquab, Bottou, Laptev & Sivic 2015, §3.

    Example:
        >>> import torch
        >>> round(float(image_label_loss(torch.zeros(1, 2), torch.tensor([[True, False]]))), 4)
        1.3863
    """
    if scores.dim() != 2 or labels.shape != scores.shape:
        raise InputError(
            "The 'labels' must say of each row and class whether the image holds it, in the shape of the scores",
            got=f"{tuple(labels.shape)} for scores {tuple(scores.shape)}",
        )
    return functional.softplus(torch.where(labels.bool(), -scores, scores)).sum(1).mean()


@dataclass(frozen=True, kw_only=True)
class ScoreMapLocalisation(Method):
    """Where is the object, if the head of the network is slid over the last feature map and asked at each position?

    The map of a layer is cut into all its windows, and what follows the layer gives each a score: ``M_ij = S(A_ij)``. On
    networks trained with a maximum over the places, as by `MaxPooledHead` and `image_label_loss`, the window is one place
    and the maximum of M is the score. Where the head reads maps of one size alone, as a flattened one does, that size is
    the window, and larger images (``scales`` above 1) make a score map: the classifier turned fully convolutional. The
    values are the largest score over the scales at each pixel, (N, 1, height, width), score units; each map is laid over
    the image with bilinear steps between the centres of its windows. ``parts`` holds the maps themselves.

    Facts: ``score``; ``peak_score``, the highest value of any map; ``peak_gap``, by how much it exceeds the score;
    ``point_row``, ``point_column``, the centre of the best window, in pixels, at ``point_scale``; ``box_top``,
    ``box_left``, ``box_bottom``, ``box_right``, the box (last two exclusive) around the pixels joined to the point.

    Args:
        scales: factors by which the images are resized before the network sees them.
        window: rows and columns of places that the head gets at once; None is one place where the head takes it, and the
            whole map at the given size elsewhere.
        level: pixels above this share of the way from the lowest value to the highest are joined into the box.

    Cost: one forward for the scores, one per scale, and per row and scale one in which the head sees all windows at once.
    Known failure: the most telling part is found, not the extent: a head for a whole object marks it, one for heads marks
    heads; an average over places (``peak_gap`` well above 0) taught no single place to be certain. Windows at the border
    saw the network's padding.
    Source: Oquab, Bottou, Laptev & Sivic 2015, §3; the box, and the maximum over scales, are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), px.attribution.MaxPooledHead(4, 2)).eval()
        >>> result = px.explain(net, torch.rand(1, 1, 8, 8), "weakly-supervised-localization", layer="1")
        >>> bool(result.facts["peak_gap"].abs() < 1e-6)
        True
    """

    scales: tuple[float, ...] = (1.0,)
    window: tuple[int, int] | None = None
    level: float = 0.5

    card: ClassVar[Card] = Card(
        name="weakly-supervised-localization",
        title="Score-map localisation",
        question="Where is the object, if the head of the network is asked at each position of the last feature map?",
        form="attribution",
        scope="local",
        citation="oquab2015object",
        active=True,
        needs=("image", "layers", "spatial layer", "separate head"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/activation",
            "002": "post-hoc/saliency/activation maps",
            "003": "active/attribution/local",
        },
        claims=("rowwise", "deterministic", "score scale"),
        trial={"scales": (1.0, 1.5)},
        cost="2 forwards, and the head once per position",
        supports=("where the network itself would see the object if it looked at one window alone",),
        limits=(
            "the object's extent: the most telling part has the highest score",
            "one place, on networks that average over places: there every place says a little",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        images = [x for x in ask.inputs.floats if x.dim() == 4]
        if len(images) != 1 or len(ask.inputs.floats) != 1:
            raise InputError(
                "Score-map localisation needs one image per row: 'inputs' laid out as (rows, channels, height, width)",
                got=", ".join(f"shape {tuple(x.shape)}" for x in ask.inputs.floats) or "no floating tensor",
                hint="'grad-cam', which needs a spatial layer alone",
            )
        if ask.unit_place is not None:
            raise TargetError(
                "The 'target' of score-map localisation must be a class or a function of the scores",
                got=f"the hidden unit {ask.unit_place}",
                hint="'grad-cam', which takes any target",
            )
        place, size = guess(subject, ask) if ask.layer is None else ask.layer, tuple(images[0].shape[2:])
        one = _separate(subject, ask, place)
        found = ask.score
        head, values = _head(subject, ask, place, one, self.window), _maps(subject, ask, ask.inputs, place)
        maps: dict[float, Tensor] = {}
        extents: dict[float, tuple[int, int]] = {}
        for scale in self.scales:
            at = values if scale == 1 else _maps(subject, ask, _resized(ask.inputs, scale), place, scale)
            extents[scale] = (at.shape[2], at.shape[3])
            maps[scale] = _score_map(ask, head, at, scale)
        return self._located(maps, extents, head, size, found, str(place))

    def _check(self) -> None:
        good = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 < s < math.inf for s in self.scales)
        if not self.scales or not good or len(set(self.scales)) < len(self.scales):
            raise MethodError(
                "The 'scales' must be different positive numbers", got=repr(self.scales), hint="(1.0, 1.5)"
            )
        pair = self.window is None or (
            len(self.window) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in self.window)
        )
        if not pair:
            raise MethodError("The 'window' must be two positive whole numbers, or None", got=repr(self.window))
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 <= self.level < 1:
            raise MethodError("The 'level' must be a number from 0 to below 1", got=repr(self.level))

    def _located(
        self, maps: dict[float, Tensor], extents: Any, head: _Head, size: Any, score: Tensor, layer: str
    ) -> Attribution:
        """The maps laid over the image, with the best window's centre and the box around it."""
        laid = torch.stack([over_image(m, extents[s], head.window, size) for s, m in maps.items()]).amax(0)
        tops = torch.stack([m.flatten(1).amax(1) for m in maps.values()])
        peak, best = tops.max(0)
        points, boxes = [], []
        for row, at in enumerate(best.tolist()):
            scale = self.scales[at]
            cell = divmod(int(maps[scale][row].argmax()), maps[scale].shape[3])
            centre = [
                (i + w / 2) / n * side - 0.5
                for i, w, n, side in zip(cell, head.window, extents[scale], size, strict=True)
            ]
            points.append([*centre, scale])
            boxes.append(box_around(laid[row, 0], centre, self.level))
        point, box = torch.tensor(points, dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64)
        facts = {"score": score, "peak_score": peak, "peak_gap": peak - score}
        facts |= {f"point_{name}": point[:, k] for k, name in enumerate(("row", "column", "scale"))}
        facts |= {f"box_{name}": box[:, k] for k, name in enumerate(("top", "left", "bottom", "right"))}
        return Attribution(
            values=laid,
            facts=facts,
            parts={f"scores at scale {scale:g}": m for scale, m in maps.items()},
            source={"layer_used": layer, "window": list(head.window)},
        )


@dataclass(frozen=True, eq=False)
class _Head:
    """What follows a layer, as a function of windows of its map.

    Where `lean`, what comes before the layer runs on one row while the head runs on many windows.
    """

    subject: Subject
    place: Place
    window: tuple[int, int]
    lean: bool = True

    def __call__(self, row: Inputs, windows: Tensor) -> Tensor:
        """The model's output for each window, in the place of the layer's map of this row."""
        module, many = self.subject.module, row.take(torch.zeros(len(windows), dtype=torch.long))
        assert module is not None
        with torch.no_grad():
            rows = row if self.lean else many
            seen = visit(lambda: self.subject.raw(rows), module, edit={self.place: lambda _: windows})
            return self.subject.select(seen.output, many).detach()


def _maps(subject: Subject, ask: Ask, inputs: Inputs, place: Place, scale: float = 1.0) -> Tensor:
    """The layer's map of each row, (N, channels, height, width); at other scales no more of the model runs than that."""
    try:
        values = predict(subject, inputs, ask.memory, place if scale == 1 else replace(place, call=place.call or 1))
    except COMPLAINTS as error:
        if scale == 1 or type(error) not in COMPLAINTS or batch.out_of_memory(error):
            raise
        raise MethodError(
            "The 'scales' must be those of images that the network takes as far as the layer",
            got=f"{scale:g}, at which it raised {type(error).__name__}: {error}",
            hint="scales=(1.0,)",
        ) from error
    laid = layout(subject, ask, place, tuple(values.shape), None)
    if laid.kind != "channels first" or values.dim() != 4:
        raise LayerError(
            f"The 'layer' {str(place)!r} must hold maps laid out as (rows, channels, height, width)",
            got=f"shape {tuple(values.shape)}, {laid.kind}",
            hint="'grad-cam', which takes any layout",
        )
    return values


def _resized(inputs: Inputs, scale: float) -> Inputs:
    (images,) = inputs.floats
    size = [max(1, round(n * scale)) for n in images.shape[2:]]
    new = functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
    return inputs.with_floats([new])


def _separate(subject: Subject, ask: Ask, place: Place) -> Tensor:
    """The first row's map; refused where something goes around the layer: then the head is no function of the map."""
    gradient.needs_module(subject, "a spatial layer")
    row = ask.inputs.take(torch.arange(1))
    values = _maps(subject, ask, row, place)
    own, (image,) = _Head(subject, place, (values.shape[2], values.shape[3]), lean=False), row.floats
    low, high = float(image.min()), float(image.max())
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(image)
    other = row.with_floats([noise * ((high - low) or 1.0) + low])
    here, there = own(row, values.clone()), own(other, values.clone())
    if not torch.allclose(here, there, rtol=1e-4, atol=1e-5 * float(here.abs().max())):
        raise NeedError(
            f"Score-map localisation needs a 'layer' that everything passes through, and something goes around "
            f"{str(place)!r}",
            got="scores that depend on the image although the layer is held fixed",
            hint="a layer behind the sum of the paths, or 'grad-cam'",
        )
    return values


def _head(subject: Subject, ask: Ask, place: Place, values: Tensor, window: tuple[int, int] | None) -> _Head:
    """The head behind a layer and the window it takes, found by trying them on the first row's map."""
    row, whole = ask.inputs.take(torch.arange(1)), (values.shape[2], values.shape[3])
    for size in [window] if window else [(1, 1), whole]:
        for lean in (True, False):
            head = _Head(subject, place, size, lean)
            if size[0] <= whole[0] and size[1] <= whole[1] and _takes(head, row, values):
                return head
    raise MethodError(
        f"The 'window' must be one that the head behind {str(place)!r} takes, of a map of {whole[0]} × {whole[1]} places",
        got=repr(window),
        hint=f"window=None, or {whole}",
    )


def _takes(head: _Head, row: Inputs, values: Tensor) -> bool:
    """Whether the head gives two equal windows the same finite output, a row each."""
    one = values[:, :, : head.window[0], : head.window[1]]
    try:
        out = head(row, _as_laid(torch.cat([one, one]), values))
    except COMPLAINTS as error:
        # a model's own kinds of error come through; ours says that the head gave another number of rows
        if batch.out_of_memory(error) or (type(error) not in COMPLAINTS and not isinstance(error, InputError)):
            raise
        return False
    return bool(torch.isfinite(out).all()) and torch.allclose(out[0], out[1], rtol=1e-4)


def _as_laid(windows: Tensor, values: Tensor) -> Tensor:
    """Windows in the memory order of the layer's values, on which a view in the head may insist."""
    last = values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()
    return windows.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _score_map(ask: Ask, head: _Head, values: Tensor, scale: float) -> Tensor:
    """The head's score at every window of each row's map, (N, 1, rows of windows, columns of windows)."""
    if values.shape[2] < head.window[0] or values.shape[3] < head.window[1]:
        raise MethodError(
            f"The 'scales' must keep the map as large as the head's window, {head.window[0]} × {head.window[1]} places",
            got=f"{scale:g}, with a map of {values.shape[2]} × {values.shape[3]}",
            hint="scales of at least 1",
        )
    windows = values.unfold(2, head.window[0], 1).unfold(3, head.window[1], 1)
    target, (high, wide) = ask.target, windows.shape[2:4]
    count, parts = high * wide, list[Tensor]()

    def work(start: int, stop: int) -> Tensor:
        found = []
        for row in range(start // count, (stop - 1) // count + 1):
            at = torch.arange(max(start, row * count), min(stop, (row + 1) * count)) - row * count
            some = windows[row][:, at // wide, at % wide].transpose(0, 1)
            out = head(ask.inputs.take(torch.tensor([row])), _as_laid(some, values))
            found.append(target.score(out, torch.full((len(at),), row)))
        return torch.cat(found)

    batch.run(
        count * len(values),
        work,
        lambda start, stop, part: parts.append(part),
        memory=ask.memory,
        cost=(head.subject.module, ("windows", str(head.place), head.window, shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=ScoreMapLocalisation.card.title,
    )
    return torch.cat(parts).reshape(len(values), 1, high, wide)


def over_image(maps: Tensor, extent: tuple[int, int], window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Score maps (N, 1, rows, columns) of windows in maps of an extent, at the image's size (N, 1, height, width)."""
    down, along = (
        _steps(n, w, whole, side).to(maps)
        for n, w, whole, side in zip(maps.shape[2:], window, extent, size, strict=True)
    )
    return down @ maps @ along.mT


def _steps(places: int, window: int, whole: int, side: int) -> Tensor:
    """How much of each window's score every pixel gets along one axis, (side, places): linear between their centres."""
    at = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * whole - window / 2).clamp(0, places - 1)
    return (1 - (at[:, None] - torch.arange(places)).abs()).clamp(min=0)


def box_around(heat: Tensor, centre: list[float], level: float) -> list[int]:
    """Top, left, bottom and right of the pixels that are above the level and joined to the pixel at the centre."""
    from scipy import ndimage

    pixel = tuple(min(n - 1, max(0, round(c))) for c, n in zip(centre, heat.shape, strict=True))
    kept = heat >= heat.min() + level * (heat.max() - heat.min())
    kept[pixel] = True
    numbers, _ = ndimage.label(kept.cpu().numpy())
    rows, columns = (numbers == numbers[pixel]).nonzero()
    return [int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1]
