"""Which places of a feature map spoke for the target? Maps of a spatial layer, weighted channel by channel."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError
from pellucid.engine import Ask, Subject, gradient
from pellucid.engine.ask import shape_key
from pellucid.engine.place import Place

__all__ = ["GradCAM"]

FEW = 4
_GUESSES: weakref.WeakKeyDictionary[nn.Module, dict[Any, Place]] = weakref.WeakKeyDictionary()
_PASSING = (
    *(nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.LPPool2d),
    *(nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Upsample, nn.Unflatten),
)


@dataclass(frozen=True, kw_only=True)
class GradCAM(Method):
    """Which places of the image does the network's last feature map count for the target?

    With activations A of shape (channels, height, width) at the layer and the score S, each channel is weighted by its
    mean gradient, ``weight_k = mean_ij dS/dA_kij``, and ``values = relu(sum_k weight_k A_k)``, one map (rows, 1, height,
    width) at the layer's own resolution, in score units per place. ``relu=False`` keeps the sign: negative places speak
    against the target. ``upsample`` gives it the image's size; viewers do so when they draw.

    Facts: ``score``; ``negative_share``, the part of the signed map's mass that is negative and that the ReLU removes.
    ``source["layer_used"]`` names the layer.

    Args:
        relu: keep what speaks for the target alone.

    With ``layer=None`` the last spatial feature map before pooling and the head is taken.

    Cost: one forward pass, and one backward pass from the score to the layer; a guessed layer costs one more forward
    pass of one row, the first time.
    Known failure: means of gradients lose where a channel matters, so that a map may light up places that the score
    does not depend on, at layers that are not followed by global average pooling (Draelos & Carin 2020); as coarse as
    the layer.
    Source: Selvaraju et al. 2017, §3, equations 1 and 2; counterfactual explanations by the negated score, §3.3.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> px.explain(net.eval(), torch.ones(1, 3, 8, 8), "grad-cam").values.shape
        torch.Size([1, 1, 6, 6])
    """

    relu: bool = True

    card: ClassVar[Card] = Card(
        name="grad-cam",
        title="Grad-CAM",
        question="Which places of the image does the network's last feature map count for the target?",
        form="attribution",
        scope="local",
        citation="selvaraju2017grad",
        needs=("gradient", "layers", "spatial layer"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/activation",
            "002": "post-hoc/saliency/activation maps",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "score scale"),
        cost="1 forward, 1 backward from the score to the layer",
        supports=("roughly where the network's last feature map holds evidence for the target",),
        limits=(
            "which pixel mattered: one value stands for a patch of the image",
            "that the places outside the map did not matter: channels are weighted by their mean gradient",
            "evidence against the target, which the ReLU removes unless relu=False",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        place, found = at_spatial_layer(subject, ask, self.card.title)
        values, grads = found.values[0], found.grads[0]
        signed = weighted(values, grads.flatten(2).mean(2))
        return Attribution(
            values=signed.relu() if self.relu else signed,
            facts={"score": found.score, "negative_share": negative_share(signed)},
            source={"layer_used": str(place)},
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


def at_spatial_layer(subject: Subject, ask: Ask, label: str) -> tuple[Place, gradient.Gradient]:
    """Score, values and gradients at the layer asked for, or at the last spatial one; refused where it is not spatial."""
    place = guess(subject, ask) if ask.layer is None else ask.layer
    asked = replace(ask, layer=place)
    found = gradient.once(asked, label)
    ask.remember(found.output)
    ask.path = asked.path
    if found.values[0].dim() not in (4, 5):
        names = list(dict.fromkeys(str(s.place) for s in _passed(subject, ask) if s.spatial))
        raise LayerError(
            f"The 'layer' {str(place)!r} must hold maps laid out as (rows, channels, height, width)",
            got=f"shape {tuple(found.values[0].shape)}",
            hint=f"one of {', '.join(map(repr, names[-4:]))}" if names else "a model with spatial layers",
        )
    return place, found


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
            hint=f"layer={str(last.place)!r} all the same, or a method for any input",
        )
    return last.place


def _weights(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


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
