"""Which object in the picture matters to the decision? Objects found by their templates and taken out one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, score

__all__ = ["ObjectSaliency"]

BACKGROUNDS = ("mode", "median")


@dataclass(frozen=True, kw_only=True)
class ObjectSaliency(Method):
    """Which object in the picture matters to the decision?

    Every template is looked for in each picture, and each object found is taken out by itself: its pixels become the
    background, and its channel, where objects have channels of their own, zero. ``values = Q(s, a) - Q(s without o, a)``
    stands at the pixels of the object o, in score units (for a value network, in its reward); positive means that the
    object speaks for the action. Pixels of no object get zero; where two objects overlap, the larger figure in size.

    An object is a place where the normalised cross-correlation with the template reaches ``threshold`` and is the largest
    in the template's neighbourhood.

    Facts: ``score``; ``objects`` found; ``largest`` figure by size, with its sign. ``source["objects"]`` lists, for each
    row, template, top, left, match and figure.

    Args:
        threshold: least correlation with the template, from 0 to 1.
        background: the colour that takes an object's place: each picture's most frequent ("mode") or "median" per
            channel; a number fills.

    ``data={"ghost": template, ...}``: a template (channels, height, width) for each kind, of the picture's own channels or
    the first of them; or one tensor (kinds, channels, height, width). ``data={"templates": ..., "channels": {"ghost": 4}}``
    names the input channel in which a kind is marked, as in an object-sensitive network; templates then cover the others.

    Cost: one forward per object, and one.
    Known failures: objects that look unlike their template (turned, scaled, hidden in part) are not found; taking one away
    can make a state that never occurs.
    Source: Iyer et al. 2018, §3 (object channels by template matching) and §4 (object saliency).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2)).eval()
        >>> frame, ball = torch.zeros(1, 1, 6, 6), torch.tensor([[[0.0, 1.0], [1.0, 0.5]]])
        >>> frame[0, :, 2:4, 3:5] = ball
        >>> found = px.explain(net, frame, "o-drl-object-saliency", data={"ball": ball})
        >>> found.source["objects"][0][0]["left"], int(found.facts["objects"][0])
        (3, 1)
    """

    threshold: float = 0.9
    background: str | float = "mode"

    card: ClassVar[Card] = Card(
        name="o-drl-object-saliency",
        title="Object saliency",
        question="Which object in the picture matters to the decision?",
        form="attribution",
        scope="local",
        citation="iyer2018transparency",
        needs=("predictions", "image", "data"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "linear", "implementation invariant", "spelling invariant", "score scale"),
        cost="1 forward per object, and 1",
        supports=("how much this score would change were this object not there",),
        limits=("objects that no template finds", "objects that can stand in for each other: taking one costs nothing"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        if len(ask.inputs.floats) != 1 or ask.layer is not None:
            got = f"{len(ask.inputs.floats)} pictures" if ask.layer is None else f"layer={str(ask.layer)!r}"
            raise InputError("Object saliency needs one picture per row, and no 'layer'", got=got)
        x = ask.inputs.floats[0]
        templates, channels = _templates(ask.data, x)
        marked = set(channels.values())
        seen = [c for c in range(x.shape[1]) if c not in marked]
        found = [find(row[seen], templates, self.threshold) for row in x]
        fills = torch.stack([self._background(row) for row in x])
        counts = torch.tensor([len(f) for f in found])
        jobs = int(counts.max())
        scores = torch.full((len(x), jobs + 1), torch.nan, dtype=torch.float64)

        def points(rows: Tensor, which: Tensor) -> tuple[Tensor]:
            pictures = x[rows.to(x.device)]
            for at, (row, number) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
                if number < len(found[row]):
                    _take_out(pictures[at], found[row][number], fills[row], channels, seen)
            return (pictures,)

        def fold(rows: Tensor, which: Tensor, answers: Tensor) -> None:
            scores[rows, which] = answers.detach().cpu().double()

        score.sweep(ask, jobs + 1, points, fold, label=self.card.title)
        return self._result(ask, found, scores, channels)

    def _result(self, ask: Ask, found: list[list[Object]], scores: Tensor, channels: dict[str, int]) -> Attribution:
        x = ask.inputs.floats[0]
        drop = scores[:, -1:] - scores[:, :-1]
        heat = torch.zeros(len(x), *x.shape[2:], dtype=torch.float64)
        told: list[list[dict[str, Any]]] = []
        largest = torch.zeros(len(x), dtype=torch.float64)
        for row, objects in enumerate(found):
            told.append([])
            for number, o in enumerate(objects):
                figure = drop[row, number]
                place = (row, *o.place)
                heat[place] = torch.where(figure.abs() > heat[place].abs(), figure, heat[place])
                largest[row] = figure if figure.abs() > largest[row].abs() else largest[row]
                where = {"template": o.kind, "top": o.top, "left": o.left, "match": round(o.match, 6)}
                told[-1].append({**where, "figure": float(figure)})
        facts = {
            "score": scores[:, -1],
            "objects": torch.tensor([float(len(o)) for o in found], dtype=torch.float64),
            "largest": largest,
        }
        values = heat[:, None].to(x).expand(x.shape).contiguous()
        return Attribution(values=ask.inputs.wrap([values]), facts=facts, source={"objects": told})

    def _background(self, picture: Tensor) -> Tensor:
        """One value per channel."""
        flat = picture.flatten(1)
        if isinstance(self.background, str):
            return flat.mode(1).values if self.background == "mode" else flat.median(1).values
        return torch.full_like(flat[:, 0], self.background)

    def _check(self) -> None:
        if isinstance(self.threshold, bool) or not 0 < self.threshold <= 1:
            raise MethodError("The 'threshold' must be above 0 and at most 1", got=repr(self.threshold))
        if isinstance(self.background, bool) or (
            isinstance(self.background, str) and self.background not in BACKGROUNDS
        ):
            raise MethodError(f"The 'background' must be a number or one of {BACKGROUNDS}", got=repr(self.background))


@dataclass(frozen=True)
class Object:
    """An object found in a picture."""

    kind: str
    top: int
    left: int
    height: int
    width: int
    match: float

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def find(picture: Tensor, templates: Mapping[str, Tensor], threshold: float) -> list[Object]:
    """Where the templates lie in a picture (channels, height, width), best match first."""
    found = []
    for kind, template in templates.items():
        match = correlation(picture[: template.shape[0]], template)
        height, width = template.shape[1:]
        reach = ((height - 1) // 2, (width - 1) // 2)
        padded = functional.pad(match[None, None], (reach[1], reach[1], reach[0], reach[0]), value=-2.0)
        best = functional.max_pool2d(padded, (2 * reach[0] + 1, 2 * reach[1] + 1), stride=1)[0, 0]
        for top, left in ((match >= threshold - 1e-9) & (match == best)).nonzero().tolist():
            found.append(Object(kind, top, left, height, width, float(match[top, left])))
    return sorted(found, key=lambda o: (-o.match, o.kind, o.top, o.left))


def correlation(picture: Tensor, template: Tensor) -> Tensor:
    """The normalised cross-correlation at every place where the template fits; 0 where the picture is flat."""
    x, t = picture.double()[None], template.double()
    t = t - t.mean()
    ones = torch.ones_like(t)[None]
    total = functional.conv2d(x, ones)
    energy = functional.conv2d(x**2, ones) - total**2 / t.numel()
    product = functional.conv2d(x, t[None])
    scale = (energy.clamp(min=0) * (t**2).sum()).sqrt()
    flat = energy <= 1e-12 * functional.conv2d(x**2, ones).clamp(min=1e-300)
    return torch.where(flat, torch.zeros_like(product), product / scale.where(~flat, torch.ones_like(scale)))[0, 0]


def _take_out(picture: Tensor, o: Object, fill: Tensor, channels: dict[str, int], seen: list[int]) -> None:
    """Make the object's pixels the background, and its own channel zero there."""
    for channel in seen:
        picture[(channel, *o.place)] = fill[channel]
    if o.kind in channels:
        picture[(channels[o.kind], *o.place)] = 0


def _templates(data: Any, x: Tensor) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The templates by kind, and the channels in which kinds are marked."""
    channels: dict[str, int] = {}
    if isinstance(data, Mapping) and "templates" in data and set(data) <= {"templates", "channels"}:
        channels = dict(data.get("channels") or {})
        data = data["templates"]
    if isinstance(data, Tensor) and data.dim() == 4:
        data = {str(number): template for number, template in enumerate(data)}
    if not isinstance(data, Mapping) or not data:
        raise NeedError(
            "Object saliency needs a template for each kind of object",
            got=type(data).__name__,
            hint="data={'ball': tensor}",
        )
    for kind, channel in channels.items():
        if (
            kind not in data
            or isinstance(channel, bool)
            or not isinstance(channel, int)
            or not 0 <= channel < x.shape[1]
        ):
            raise InputError(
                f"The 'channels' must give a kind's input channel, from 0 to {x.shape[1] - 1}",
                got=f"{kind!r}: {channel!r}",
            )
    free = x.shape[1] - len(set(channels.values()))
    found = {}
    for kind, template in data.items():
        template = torch.as_tensor(template)
        fits = template.dim() == 3 and template.shape[0] <= free and template.numel() > 0
        if not fits or any(t > n for t, n in zip(template.shape[1:], x.shape[2:], strict=True)):
            raise InputError(
                f"The template {kind!r} must be (channels, height, width) within the picture's {(free, *x.shape[2:])}",
                got=str(tuple(template.shape)),
            )
        if not bool(torch.isfinite(template.double()).all()) or float(template.double().std(correction=0)) == 0:
            raise InputError(f"The template {kind!r} must have finite values that differ", got="a flat or infinite one")
        found[str(kind)] = template.to(x.device)
    return found, {str(k): v for k, v in channels.items()}
