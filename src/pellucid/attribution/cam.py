"""Which places of a feature map spoke for the target? Maps of a spatial layer, weighted channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.attribution.spatial import at_spatial_layer, weighted
from pellucid.contract import Attribution, Card, Method
from pellucid.engine import Ask, Subject

__all__ = ["GradCAM"]


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
    map says nothing.

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
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        return found.explanation(weighted(found.values, found.grads.flatten(2).mean(2)), self.relu)
