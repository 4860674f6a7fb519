"""Maps of a spatial layer: which layer, how its values are laid out as maps, and what map methods make of them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.attribution.grid import Grid, Layout, Unclear, check_grid, layout_of
from pellucid.contract import Attribution
from pellucid.contract.errors import InputError, LayerError
from pellucid.engine import Ask, Subject, gradient
from pellucid.engine.ask import shape_key
from pellucid.engine.place import Place

__all__: list[str] = []

FEW = 4
_GUESSES: weakref.WeakKeyDictionary[nn.Module, dict[Any, Place]] = weakref.WeakKeyDictionary()
_POOLS = (
    *(nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.LPPool2d),
    *(nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_PASSING = (
    *_POOLS,
    *(nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Upsample, nn.Unflatten),
)


@dataclass(frozen=True, eq=False)
class Maps:
    """What map methods work with: score (N,), and the layer's values and gradients as maps (N, channels, ...).

    `outside` is the share of Σ|value · gradient| that lies on tokens outside the grid, where there are any.
    """

    place: Place
    score: Tensor
    values: Tensor
    grads: Tensor
    outside: Tensor | None = None

    def explanation(self, signed: Tensor, relu: bool, **facts: Tensor) -> Attribution:
        """A signed map (N, 1, ...) as the result, rectified where asked for, with the facts that all of them have."""
        facts = {"score": self.score, "negative_share": negative_share(signed), **facts}
        if self.outside is not None:
            facts["outside_grid"] = self.outside
        return Attribution(
            values=signed.relu() if relu else signed, facts=facts, source={"layer_used": str(self.place)}
        )


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """The sum of a layer's channels (N, C, ...) with weights (N, C), as one map (N, 1, ...)."""
    return torch.einsum("nc...,nc->n...", values, weights)[:, None]


def negative_share(signed: Tensor) -> Tensor:
    """The part of each map's absolute mass that is negative; zero for a map of zeros."""
    flat = signed.flatten(1)
    mass = flat.abs().sum(1)
    return torch.where(mass > 0, (-flat).relu().sum(1) / mass.clamp(min=torch.finfo(mass.dtype).tiny), 0.0)


def upsample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, 1, h, w) at another size (H, W), bilinear between the centres of their places.

    Example:
        >>> upsample(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if values.dim() != 4 or len(tuple(size)) != 2:
        raise InputError(
            "The 'values' must be maps (rows, 1, height, width), and 'size' a pair",
            got=f"{tuple(values.shape)}, {size}",
        )
    return functional.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


def at_spatial_layer(subject: Subject, ask: Ask, label: str, grid: Grid = None) -> Maps:
    """Score, and values and gradients as maps, at the layer asked for or at the last spatial one."""
    check_grid(grid)
    place = guess(subject, ask) if ask.layer is None else ask.layer
    asked = replace(ask, layer=place)
    found = gradient.once(asked, label)
    ask.remember(found.output)
    ask.path = asked.path
    (values,), (grads,) = found.values, found.grads
    laid = layout(subject, ask, place, tuple(values.shape), grid)
    outside = None
    if laid.extra:
        flow = (values * grads).abs().sum(2)
        whole = flow.sum(1)
        part = flow[:, : laid.extra].sum(1) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        outside = torch.where(whole > 0, part, 0.0)
    return Maps(place, found.score, laid.maps(values), laid.maps(grads), outside)


def layout(subject: Subject, ask: Ask, place: Place, shape: tuple[int, ...], grid: Grid) -> Layout:
    """How values of this shape lie at a place; refused, naming the places that would do, where they are no maps."""
    module = gradient.needs_module(subject, "a spatial layer").get_submodule(place.module)
    images = [x for x in ask.inputs.floats if x.dim() == 4]
    size = (images[0].shape[2], images[0].shape[3]) if images else None
    try:
        return layout_of(shape, module, place.side, size, grid)
    except Unclear as unclear:
        names = spatial_names(subject, ask)
        other = f"one of {', '.join(map(repr, names[-4:]))}" if names else "a model with spatial layers"
        raise LayerError(
            f"The 'layer' {str(place)!r} must hold maps laid out as (rows, channels, height, width)",
            got=unclear.got,
            hint=f"{unclear.hint}; or {other}" if unclear.hint else other,
        ) from None


def guess(subject: Subject, ask: Ask) -> Place:
    """The last spatial feature map before pooling and the head, found by a forward pass of the first row.

    The answer is kept per model and input shape, until a module is added, replaced or taken away.
    """
    module = gradient.needs_module(subject, "a spatial layer")
    parts = tuple((name, type(part), id(part)) for name, part in module.named_modules())
    key, known = (shape_key(ask.inputs), parts), _GUESSES.setdefault(module, {})
    if key not in known:
        known.clear()
        known[key] = _last_map(_passed(subject, ask))
    return known[key]


@dataclass(frozen=True, eq=False)
class _Passed:
    """One call of a module in a forward pass, with its output where that is a tensor."""

    place: Place
    module: nn.Module
    output: Tensor | None

    @property
    def spatial(self) -> bool:
        """Whether it gives maps with more than one place."""
        out = self.output
        return out is not None and out.dim() in (4, 5) and out.is_floating_point() and out.flatten(2).shape[2] > 1


def _last_map(passed: list[_Passed]) -> Place:
    """The last place whose maps a module computed, under its outermost name."""
    made: dict[int, _Passed] = {}
    for call in passed:
        if call.output is not None:
            made.setdefault(id(call.output), call)  # the innermost module finishes first: it made the tensor
    good = [call for call in passed if call.spatial and not isinstance(made[id(call.output)].module, _PASSING)]
    if not good:
        raise LayerError(
            "The 'layer' must hold maps laid out as (rows, channels, height, width)",
            got="layer=None, and the model has no spatial layer",
            hint="a method for any input, such as 'integrated-gradients' or 'occlusion-sensitivity'",
        )
    last = good[-1]
    weighty = [
        i for i, call in enumerate(passed) if not any(True for _ in call.module.children()) and _weights(call.module)
    ]
    after = sum(i > passed.index(last) for i in weighty)
    if after > FEW and 2 * after > len(weighty):
        raise LayerError(
            "The 'layer' must be named: the last spatial one is far from the model's output",
            got=f"layer=None, and {after} of {len(weighty)} layers with weights follow {str(last.place)!r}",
            hint=f"layer={str(last.place)!r} all the same; in a transformer, the normalisation before its last attention; "
            "or a method for any input",
        )
    return last.place


def _weights(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def spatial_names(subject: Subject, ask: Ask) -> list[str]:
    """Names of the places that hold maps, as modules with several axes behind the channels give them."""
    return list(dict.fromkeys(str(call.place) for call in _passed(subject, ask) if call.spatial))


def _passed(subject: Subject, ask: Ask) -> list[_Passed]:
    """Every call of a submodule in a forward pass of the first row, in the order in which they end."""
    module, calls = gradient.needs_module(subject, "a spatial layer"), list[tuple[str, nn.Module, Tensor | None]]()

    def watch(name: str) -> Any:
        def after(part: nn.Module, args: Any, out: Any) -> None:
            calls.append((name, part, out if isinstance(out, Tensor) else None))

        return after

    handles = []
    try:
        for name, part in module.named_modules():
            if name:
                handles.append(part.register_forward_hook(watch(name)))
        with torch.no_grad():
            subject.scores(ask.inputs.take(torch.arange(1)))
    finally:
        for handle in handles:
            handle.remove()
    total: dict[str, int] = {}
    passed = []
    for name, part, out in calls:
        total[name] = total.get(name, 0) + 1
        passed.append(_Passed(Place(name, total[name]), part, out))
    once = {name for name, count in total.items() if count == 1}
    return [replace(p, place=Place(p.place.module)) if p.place.module in once else p for p in passed]
