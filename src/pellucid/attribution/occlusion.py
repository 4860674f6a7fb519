"""What happens when a part is hidden? Scores asked again with windows or features replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject, feature, fill, perturb
from pellucid.engine.inputs import Inputs
from pellucid.engine.target import Target

__all__ = ["FeatureAblation", "Occlusion"]

Sizes = int | tuple[Any, ...] | None
PARTS = 8
NO_CLASS = -1
TAXONOMY = {
    "000": "behavioural/functional/perturbation",
    "001": "visualization/perturbation",
    "002": "post-hoc/saliency/perturbation",
    "003": "passive/attribution/local",
}


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """By how much does the score drop when a window slides over the input and hides what is under it?

    ``drop(window) = S(x) - S(x with the window filled)``, and ``values[i]`` is the mean drop of the windows that cover
    i, in score units; positive means that hiding it lowers the score, so that it spoke for the target. Values along an
    axis that windows cover whole, such as the channels of an image, are equal: they are one figure, not shares of it.
    Windows start at 0 and move by the stride until they reach the end, where the last one is cut off.

    Facts: ``score``; ``largest_drop``; ``flipped``, the share of windows that change the predicted class;
    ``taken_over_by``, the class predicted under the window with the largest drop; with several fills
    ``fill_sensitivity``, the standard deviation of a window's drop over the fills against the mean size of a drop.

    Args:
        window: the window's length along every axis after the channels (the columns of a table); or a tuple for the
            last axes, in which ``None`` is the whole axis: ``(16, 16)`` hides all channels, ``(1, 16, 16)`` one,
            ``(1, None)`` one token of (rows, tokens, width). With several inputs, a tuple of tuples. By default an
            eighth of each axis.
        stride: the step, given like the window; by default half the window.
        baseline: what fills the window: a number, or "zero", "mean", "blur", "min", "max"; a tuple of them averages
            over fills. ``data=`` gives the fill itself. With ``layer=``, all this is about the layer's values.

    Cost: one forward per window, and one; where a window changes little inside a convolutional network, that part alone.
    Known failure: parts that can stand in for each other both get nothing, since the network still sees the other one;
    a window may be an object of its own to the network; results depend on window, stride and fill.
    Source: Zeiler & Fergus 2014, §4.2 of arXiv 1311.2901 (who show the probability itself instead of its drop).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
        >>> px.explain(net, torch.ones(1, 1, 4, 4), px.attribution.Occlusion(window=2)).values.shape
        torch.Size([1, 1, 4, 4])
    """

    window: Sizes = None
    stride: Sizes = None
    baseline: float | str | tuple[float | str, ...] = 0.0

    card: ClassVar[Card] = Card(
        name="occlusion-sensitivity",
        title="Occlusion",
        question="By how much does the score drop when this part of the input is hidden?",
        form="attribution",
        scope="local",
        citation="zeiler2014visualizing",
        needs=("predictions",),
        data_types=("any",),
        taxonomy=TAXONOMY,
        claims=(
            "rowwise",
            "deterministic",
            "linear",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"window": 2, "stride": 1},
        cost="1 forward per window, and 1",
        supports=("the score really drops by this much, on average, when a window over this place is filled",),
        limits=(
            "which single pixel mattered: the figure belongs to windows",
            "parts that can stand in for each other: hiding one of them costs nothing",
            "another window, stride or fill: the figure may differ",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if ask.layer is None:
            _windows(self.window, self.stride, ask.inputs)  # refused before the model runs
        held = fill.explained(ask)
        windows = _windows(self.window, self.stride, held)
        starts = torch.tensor([0, *(w.count for w in windows)]).cumsum(0).tolist()
        fills = fill.fills(self.baseline, held, ask.data)

        def masks(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            return tuple(w.inside(which - start) for w, start in zip(windows, starts, strict=False))

        seen = _drops(ask, held, masks, starts[-1], fills, self.card.title)
        mean = seen.drop.mean(1)
        values = [w.heat(mean[:, a:b], x) for w, a, b, x in zip(windows, starts, starts[1:], held.floats, strict=False)]
        return _attribution(ask, held, tuple(values), fills, seen)


@dataclass(frozen=True, kw_only=True)
class FeatureAblation(Method):
    """By how much does the score drop when one feature is taken away?

    ``values[i] = S(x) - S(x with the feature of i replaced)``, in score units; positive means that the feature spoke for
    the target. Every value of a feature carries the feature's drop: they are one figure, not shares of it. Facts as for
    occlusion: ``score``, ``largest_drop``, ``flipped``, ``taken_over_by``, and ``fill_sensitivity`` with several fills.

    Args:
        features: what counts as one feature: "element", "column", "token", "channel", "pixel", ("grid", cells per
            axis), ("patch", side), ("superpixels", number), or groups of columns ((0, 1), (2,)). "auto": columns of
            tables, the second axis of sequences, a grid of 8 × 8 for images.
        baseline: what replaces a feature: a number, or "zero", "mean", "blur", "min", "max"; a tuple averages over
            fills. ``data=`` gives the fill itself; ``data={"groups": mask, "baseline": fill}`` gives integer masks of
            features as well, equal numbers together, negative ones never replaced. With ``layer=``, all this is about
            the layer's values.

    Cost: one forward per feature, and one; where it changes little inside a convolutional network, that part alone.
    Known failure: features that can stand in for each other both get nothing; a mixture of features that never occurs
    together may puzzle the network.
    Source: Robnik-Šikonja & Kononenko 2008, the difference of predictions with and without a feature; here it is
    replaced instead of averaged out.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "feature-ablation", target=0)
        >>> torch.allclose(result.values[0], net.weight[0])
        True
    """

    features: str | tuple[Any, ...] = "auto"
    baseline: float | str | tuple[float | str, ...] = 0.0

    card: ClassVar[Card] = Card(
        name="feature-ablation",
        title="Feature ablation",
        question="By how much does the score drop when this feature is taken away?",
        form="attribution",
        scope="local",
        citation="robnik2008explaining",
        needs=("predictions",),
        data_types=("any",),
        taxonomy=TAXONOMY,
        claims=(
            "rowwise",
            "deterministic",
            "linear",
            "dummy",
            "symmetric",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"features": "element"},
        cost="1 forward per feature, and 1",
        supports=("the score really drops by this much when this one feature is replaced",),
        limits=(
            "features that can stand in for each other: taking one away costs nothing",
            "how features act together: the drops of two need not add up",
            "another fill: the figure may differ",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        mask, given = _groups(ask.data)
        if mask is not None and self.features != "auto":
            raise InputError(
                "The 'features' must be left out where 'data' holds groups", got=repr(self.features), hint="'auto'"
            )
        held = fill.explained(ask)
        found = feature.features(self.features, held) if mask is None else feature.groups(mask, held)
        fills = fill.fills(self.baseline, held, given)
        seen = _drops(ask, held, found.inside, found.count, fills, self.card.title)
        return _attribution(ask, held, found.spread(seen.drop.mean(1), held), fills, seen)


def _groups(data: Any) -> tuple[Any, Any]:
    """Masks of features and the fill itself, out of `data`."""
    if isinstance(data, Mapping) and data and set(data) <= {"groups", "baseline"}:
        return data.get("groups"), data.get("baseline")
    return None, data


@dataclass(frozen=True, eq=False)
class _Windows:
    """The windows over one tensor, as a grid of intervals: along each axis `cover[axis][k, i]` says if k covers i."""

    cover: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        return math.prod(len(c) for c in self.cover)

    def inside(self, which: Tensor) -> Tensor:
        """Where these windows lie; nowhere for numbers that belong to none."""
        here, dims = (which >= 0) & (which < self.count), len(self.cover)
        left = which.clamp(0, self.count - 1)
        mask = here.reshape(-1, *[1] * dims).to(self.cover[0].device) if dims else here
        for axis in reversed(range(dims)):
            cover = self.cover[axis]
            chosen = cover[(left % len(cover)).to(cover.device)]
            mask = mask & chosen.reshape(-1, *[1] * axis, cover.shape[1], *[1] * (dims - axis - 1))
            left = left // len(cover)
        return mask

    def heat(self, drop: Tensor, like: Tensor) -> Tensor:
        """The mean drop (rows, windows) of the windows over each value: the grid is a product, so axis by axis."""
        heat = drop.reshape(-1, *map(len, self.cover))
        for cover in self.cover:
            share = cover.to(heat) / cover.to(heat).sum(0)
            heat = torch.tensordot(heat, share, dims=([1], [0]))
        return heat.to(dtype=like.dtype, device=like.device).expand(like.shape).contiguous()


def _windows(window: Sizes, stride: Sizes, held: Inputs) -> list[_Windows]:
    """The windows over each floating tensor, refused where they do not fit or would leave gaps."""
    found = []
    for number, x in enumerate(held.floats):
        shape = tuple(x.shape[1:])
        widths = _widths(_own("window", window, number, held), shape)
        steps = _steps(_own("stride", stride, number, held), widths)
        cover = [_cover(n, w, s, x.device) for n, w, s in zip(shape, widths, steps, strict=True)]
        found.append(_Windows(tuple(cover)))
    return found


def _own(name: str, sizes: Sizes, number: int, held: Inputs) -> Sizes:
    """The sizes for one tensor, checked to be ints; a tuple of tuples has one entry per tensor."""
    if isinstance(sizes, tuple | list) and any(isinstance(size, tuple | list) for size in sizes):
        if len(sizes) != len(held.floats):
            raise InputError(f"The '{name}' must have {len(held.floats)} entries, one per input", got=repr(sizes))
        sizes = sizes[number]
    listed = sizes if isinstance(sizes, tuple | list) else (sizes,)
    if any(s is not None and (isinstance(s, bool) or not isinstance(s, int) or s < 1) for s in listed):
        raise InputError(f"The '{name}' must be an int of at least 1, or a tuple of them", got=repr(sizes))
    dims = held.floats[number].dim() - 1
    if isinstance(sizes, tuple | list) and len(sizes) > dims:
        raise InputError(
            f"The '{name}' must have at most {dims} entries, one per axis after the rows", got=f"{len(sizes)}: {sizes}"
        )
    return tuple(sizes) if isinstance(sizes, tuple | list) else sizes


def _widths(window: Sizes, shape: tuple[int, ...]) -> list[int]:
    """The window's length along every axis."""
    if not isinstance(window, tuple):
        sliding = shape[1:] or shape
        window = tuple(max(1, n // PARTS) if window is None else window for n in sliding)
    given = [None] * (len(shape) - len(window)) + list(window)
    widths = [n if w is None else w for w, n in zip(given, shape, strict=True)]
    if any(w > n for w, n in zip(widths, shape, strict=True)):
        raise InputError(
            f"The 'window' must fit the input, {shape} a row", got=str(tuple(widths)), hint="None for a whole axis"
        )
    return widths


def _steps(stride: Sizes, widths: list[int]) -> list[int]:
    """The step along every axis."""
    if not isinstance(stride, tuple):
        stride = (stride,) * len(widths)
    given = [None] * (len(widths) - len(stride)) + list(stride)
    return [max(1, w // 2) if s is None else s for s, w in zip(given, widths, strict=True)]


def _cover(length: int, width: int, step: int, device: torch.device) -> Tensor:
    """Which positions each window covers along one axis; one column stands for all where one window covers all."""
    if width == length:
        return torch.ones(1, 1, dtype=torch.bool, device=device)
    if step > width:
        raise InputError(
            "The 'stride' must not be larger than the window: what lies between two windows would have no value",
            got=f"stride {step}, window {width}",
            hint=f"stride={width}",
        )
    start = torch.arange(0, length - width + step, step, device=device)[:, None]
    place = torch.arange(length, device=device)
    return (place >= start) & (place < start + width)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the model answered: the score of each row, and (rows, fills, jobs) drops and predicted classes."""

    score: Tensor
    drop: Tensor
    before: Tensor
    under: Tensor


class _Watched(Target):
    """A target that tells the predicted class beside the score, where the output has classes."""

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        score = super().score(output, rows)
        classes = self.place is None and output.dim() == 2 and output.shape[1] > 1
        winner = output.argmax(1) if classes else torch.full_like(score, NO_CLASS)
        return torch.stack([score.cpu().double(), winner.cpu().double()], 1)


def _drops(
    ask: Ask, held: Inputs, masks: perturb.Masks, count: int, fills: list[tuple[Tensor, ...]], label: str
) -> _Seen:
    """Score minus score under each of `count` masks, for every fill.

    The row as it is goes through the same sweep as its last job.
    """
    parts = perturb.Parts(held, masks, count, fills)
    jobs = parts.jobs
    answers = torch.empty(held.rows, jobs + 1, 2, dtype=torch.float64)

    def fold(rows: Tensor, which: Tensor, found: Tensor) -> None:
        answers[rows, which] = found

    def watched(target: Target) -> Target:
        return _Watched(target.index, target.function, target.place, target.name)

    perturb.sweep(ask, parts, fold, label=label, watch=watched)
    changed = answers[:, :jobs].reshape(held.rows, len(fills), count, 2)
    clean = answers[:, jobs]
    return _Seen(clean[:, 0], clean[:, None, None, 0] - changed[..., 0], clean[:, 1], changed[..., 1])


def _attribution(
    ask: Ask, held: Inputs, values: tuple[Tensor, ...], fills: list[tuple[Tensor, ...]], seen: _Seen
) -> Attribution:
    """The result, with what was measured on the way."""
    drop, facts = seen.drop.flatten(1), {"score": seen.score}
    facts["largest_drop"] = drop.amax(1)
    if bool((seen.before != NO_CLASS).all()):
        under = seen.under.flatten(1)
        facts["flipped"] = (under != seen.before[:, None]).double().mean(1)
        facts["taken_over_by"] = under.gather(1, drop.argmax(1, keepdim=True))[:, 0]
    if len(fills) > 1:
        spread = seen.drop.std(1, correction=0).mean(1)
        facts["fill_sensitivity"] = spread / drop.abs().mean(1).clamp(min=torch.finfo(torch.float64).tiny)
    baseline = held.wrap(fills[0]) if len(fills) == 1 else None
    return Attribution(values=held.wrap(values), baseline=baseline, facts=facts)
