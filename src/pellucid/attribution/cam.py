"""Which places of a feature map spoke for the target? Maps of a spatial layer, weighted channel by channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.pooled_head import Head, read_head
from pellucid.attribution.spatial import at_spatial_layer, guess, layout, negative_share, upsample, weighted
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, TargetError
from pellucid.engine import Ask, Subject, backward, batch, rules
from pellucid.engine.ask import shape_key
from pellucid.engine.place import Place, visit

__all__ = ["ClassActivationMap", "GradCAM", "GuidedGradCAM"]

_TREES = {
    "000": "behavioural/functional/gradients",
    "001": "visualization/activation",
    "002": "post-hoc/saliency/activation maps",
    "003": "passive/attribution/local",
}


@dataclass(frozen=True, kw_only=True)
class ClassActivationMap(Method):
    """Which places of the last feature map make up the score, where the head only takes their mean?

    Where the score is ``S_c = b_c + sum_k w_ck mean_ij A_kij``, ``values_ij = sum_k w_ck A_kij``: one map (rows, 1, height,
    width) at the layer's own resolution, signed, in score units. Its mean over the places plus the bias is the score,
    exactly. A target that is a function of the scores gets the weights of its gradient there. Two kinds of head have
    such maps: the mean followed by one linear layer, and the mean of one map per class (Network in Network); others are
    refused with the reason, found by a probe of the head. ``PooledHead`` builds such heads and ``validate_head`` finds
    them.

    Facts: ``score``; ``bias``; ``identity_gap``, |mean of the map + bias - score|, rounding alone for a class or a margin;
    ``negative_share``, the part of the map's mass that is negative. ``source`` names ``layer_used`` and the ``head``.

    Args:
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    With ``layer=None`` the last spatial feature map before pooling and the head is taken.

    Cost: one forward pass, and one more of one row, with random values at the layer, to see that the head is of this kind.
    Known failure: as coarse as the layer; a place of the map has seen more of the image than the patch it stands for.
    Source: Zhou, Khosla, Lapedriza, Oliva & Torralba 2016, §2, equations 1 and 2.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> bool(px.explain(net.eval(), torch.ones(1, 3, 8, 8), "cam").facts["identity_gap"] < 1e-5)
        True
    """

    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="cam",
        title="Class activation map",
        question="Which places of the last feature map make up the score, where the head only takes their mean?",
        form="attribution",
        scope="local",
        citation="zhou2016learning",
        covers=("global-average-pooling",),
        needs=("spatial layer", "pooled head"),
        data_types=("image",),
        taxonomy=_TREES,
        claims=("rowwise", "deterministic", "score scale"),
        cost="1 forward",
        supports=(
            "each place's exact share of the score, bias apart, on networks that end in a mean and a linear layer",
        ),
        limits=(
            "which pixel mattered: one value stands for a patch of the image",
            "what made the feature map what it is",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if ask.unit_place is not None:
            raise TargetError(
                "The 'target' of a class activation map must be a class or a function of the scores",
                got=f"the hidden unit {ask.unit_place}",
                hint="'grad-cam', which takes any target",
            )
        place = guess(subject, ask) if ask.layer is None else ask.layer
        head = read_head(subject, ask, place, self.grid)
        values, output = _values_and_output(subject, ask, place, self.card.title)
        ask.remember(output)
        score, slope = _slope(ask, output)
        maps = layout(subject, ask, place, tuple(values.shape), self.grid).maps(values)
        signed, bias = weighted(maps, slope @ head.weight), slope @ head.bias
        return Attribution(
            values=signed,
            facts={
                "score": score,
                "bias": bias,
                "identity_gap": (signed.flatten(1).mean(1) + bias - score).abs(),
                "negative_share": negative_share(signed),
            },
            source={"layer_used": str(place), "head": _told(head)},
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
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    With ``layer=None`` the last spatial feature map before pooling and the head is taken. Tokens (rows, tokens, channels)
    of a transformer on square images become a square grid by themselves, with or without a class token, which is left
    out: then ``outside_grid`` is its share of Σ|value · gradient|. At 1 the layer comes after the last attention, and the
    map says nothing. For networks that label every pixel, ``target=Region(label=..., point=...)`` or a mask gives
    Seg-Grad-CAM, and `by_distance` says how far from the region the map lies.

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
    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="grad-cam",
        title="Grad-CAM",
        question="Which places of the image does the network's last feature map count for the target?",
        form="attribution",
        scope="local",
        citation="selvaraju2017grad",
        covers=("segmentation-attribution",),
        needs=("gradient", "layers", "spatial layer"),
        data_types=("image",),
        taxonomy=_TREES,
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
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        return found.explanation(weighted(found.values, found.grads.flatten(2).mean(2)), self.relu)


@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM(Method):
    """Which fine details lie where the last feature map speaks for the target?

    ``values = map · detail`` at the image's size and with its channels: ``map`` is Grad-CAM at the layer, rectified and
    then enlarged bilinearly between the centres of its places, ``detail`` is guided backpropagation of the same target.
    Both factors are kept in ``parts``. Signed; units are score² per pixel unit, so only ratios within a row mean anything.

    Facts: ``score``; ``negative_share``, the part of Grad-CAM's signed map that the rectifier removes; ``map_share``, the
    part of the detail's mass that lies where the map is not zero. ``source["layer_used"]`` names the layer.

    Args:
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    With ``layer=None`` the last spatial feature map before pooling and the head is taken.

    Cost: two forward and two backward passes.
    Known failure: the detail comes from guided backpropagation, which hardly depends on the class or on the upper layers
    (Nie, Zhang & Patel 2018; Adebayo et al. 2018): only the map speaks about the class, as coarsely as the layer.
    Source: Selvaraju et al. 2017, §3.2.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> result = px.explain(net, torch.ones(1, 3, 8, 8), "guided-grad-cam")
        >>> torch.equal(result.values, result.parts["map"] * result.parts["detail"])
        True
    """

    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="guided-grad-cam",
        title="Guided Grad-CAM",
        question="Which fine details lie where the last feature map speaks for the target?",
        form="attribution",
        scope="local",
        citation="selvaraju2017grad",
        needs=("backward rules", "spatial layer"),
        data_types=("image",),
        taxonomy=_TREES,
        claims=("rowwise", "deterministic"),
        cost="2 forwards, 2 backwards",
        supports=("what the fine details look like in the region that Grad-CAM marks",),
        limits=(
            "which of these details the score depends on: they are edges that guided backpropagation recovers",
            "that the places outside the map did not matter: channels are weighted by their mean gradient",
            "sizes: a product of two maps has no unit of its own",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        images = ask.inputs.floats
        if len(images) != 1 or images[0].dim() != 4:
            raise InputError(
                "Guided Grad-CAM needs one image per row: 'inputs' laid out as (rows, channels, height, width)",
                got=", ".join(f"shape {tuple(x.shape)}" for x in images) or "no floating tensor",
                hint="'grad-cam', which needs a spatial layer alone",
            )
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        signed = weighted(found.values, found.grads.flatten(2).mean(2))
        if signed.dim() != 4:
            raise LayerError(
                f"The 'layer' {str(found.place)!r} must hold maps of an image, (rows, channels, height, width)",
                got=f"maps of shape {tuple(signed.shape[2:])}",
            )
        plane = upsample(signed.relu(), (images[0].shape[2], images[0].shape[3]))
        detail = backward.once(replace(ask, layer=None), rules.guided, self.card.title).grads[0]
        mass = detail.abs()
        inside = (mass * (plane > 0)).flatten(1).sum(1) / mass.flatten(1).sum(1).clamp(min=torch.finfo(mass.dtype).tiny)
        result = found.explanation(signed, True, map_share=inside)
        return result.replace(values=ask.inputs.wrap((plane * detail,)), parts={"map": plane, "detail": detail})


def _values_and_output(subject: Subject, ask: Ask, place: Place, label: str) -> tuple[Tensor, Tensor]:
    """The values at a place and the model's output, by one forward pass in chunks."""
    found: list[tuple[Tensor, Tensor]] = []
    module = subject.module
    assert module is not None

    def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows = ask.inputs.take(torch.arange(start, stop))
        with torch.no_grad():
            seen = visit(lambda: subject.scores(rows), module, [place])
        ask.settle_rows(seen.output, start, stop)
        return seen.seen[place].detach(), seen.output.detach()

    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, part: found.append(part),
        memory=ask.memory,
        cost=(module, ("values and output", str(place), shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    return torch.cat([values for values, _ in found]), torch.cat([output for _, output in found])


def _slope(ask: Ask, output: Tensor) -> tuple[Tensor, Tensor]:
    """The explained score of each row, (N,), and its derivative by the model's scores, (N, classes)."""
    with torch.enable_grad():
        scores = output.detach().requires_grad_()
        score = ask.target.score(scores)
        (slope,) = torch.autograd.grad(score.sum(), scores)
    return score.detach(), slope.reshape(len(slope), -1)


def _told(head: Head) -> str:
    if head.form == "maps":
        return "mean of one map per class"
    return f"mean over places, then {head.module!r}"
