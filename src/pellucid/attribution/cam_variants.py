"""Which places of a feature map spoke for the target, place by place? Grad-CAM's kin, which weigh gradients otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.spatial import at_spatial_layer, weighted
from pellucid.contract import Attribution, Card, Method
from pellucid.engine import Ask, Subject

__all__ = ["GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM"]

_TREES = {
    "000": "behavioural/functional/gradients",
    "001": "visualization/activation",
    "002": "post-hoc/saliency/activation maps",
    "003": "passive/attribution/local",
}
_NEEDS = ("gradient", "layers", "spatial layer")
_CLAIMS = ("rowwise", "deterministic", "score scale")
_COST = "1 forward, 1 backward from the score to the layer"
_COARSE = "which pixel mattered: one value stands for a patch of the image"


@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(Method):
    """Which places count for the target, where several of the same object are in the image?

    With activations A_k and gradients g_k at the layer, ``values = relu(sum_k w_k A_k)`` and
    ``w_k = sum_ij alpha_kij relu(g_kij)``, ``alpha_kij = 1 / (2 + g_kij sum_ab A_kab)`` where g_kij is not zero: places
    share a channel's weight less than in a mean over all places. That is the paper's ratio of second and third
    derivatives of exp(score) for networks of rectifiers; its factor exp(score), the same at every place, is left out,
    since it overflows. Raw values in units of the score.

    Facts: ``score``; ``negative_share``; ``smallest_denominator``, the least |2 + g_kij sum_ab A_kab| where g_kij > 0: at
    least 2 behind a rectifier, and weights are noise where it is near zero.

    Args:
        relu: keep what speaks for the target alone.
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    Cost: one forward pass, and one backward pass from the score to the layer.
    Known failures: no channel weighs less than nothing, so the map is much like the sum of the activations for every
    class, and changes little when the layers behind are randomised; at layers whose
    activations may be negative a denominator may come near zero; in practice close to Grad-CAM with positive gradients
    alone (Lerma & Lucas 2022).
    Source: Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, §3.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> px.explain(net, torch.ones(1, 3, 8, 8), "grad-cam-plus-plus").values.shape
        torch.Size([1, 1, 6, 6])
    """

    relu: bool = True
    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="grad-cam-plus-plus",
        title="Grad-CAM++",
        question="Which places count for the target, where several of the same object are in the image?",
        form="attribution",
        scope="local",
        citation="chattopadhay2018grad",
        needs=_NEEDS,
        data_types=("image",),
        taxonomy=_TREES,
        claims=("rowwise", "deterministic"),
        cost=_COST,
        supports=("roughly where the network's last feature map holds evidence for the target, in several places",),
        limits=(
            _COARSE,
            "evidence against the target: negative gradients are cut before they are weighed",
            "why this class rather than another: the map is much the same for every class",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        values, grads = found.values.flatten(2), found.grads.flatten(2)
        bottom = 2 + grads * values.sum(2, keepdim=True)
        used = grads > 0
        weights = torch.where(used & (bottom != 0), grads / torch.where(bottom == 0, 1.0, bottom), 0.0).sum(2)
        least = torch.where(used, bottom.abs(), 2.0).flatten(1).amin(1)
        return found.explanation(weighted(found.values, weights), self.relu, smallest_denominator=least)


@dataclass(frozen=True, kw_only=True)
class XGradCAM(Method):
    """Which places count for the target, if the map must add up to activation times gradient?

    With activations A_k and gradients g_k at the layer, ``values = relu(sum_k w_k A_k)`` with
    ``w_k = sum_ij g_kij A_kij / sum_ij A_kij``: the mean gradient, weighted by activation. Without the ReLU the map sums
    to ``sum_kij g_kij A_kij``, the first-order estimate of what the score loses when the layer is set to zero.

    Facts: ``score``; ``negative_share``; ``sum_gap``, by how much the signed map misses that sum, above rounding only where
    a channel's activations add up to zero without being zero; ``unexplained``, score minus that sum.

    Args:
        relu: keep what speaks for the target alone.
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    Cost: one forward pass, and one backward pass from the score to the layer.
    Known failures: a channel is one blob with one weight, as in Grad-CAM, so the map may light up places that the score
    does not depend on; where activations of both signs nearly cancel, a weight is huge.
    Source: Fu, Hu, Dong, Guo, Gao & Li 2020, §3.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> bool(px.explain(net, torch.ones(1, 3, 8, 8), "xgrad-cam").facts["sum_gap"] < 1e-5)
        True
    """

    relu: bool = True
    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="xgrad-cam",
        title="XGrad-CAM",
        question="Which places count for the target, if the map must add up to activation times gradient?",
        form="attribution",
        scope="local",
        citation="fu2020axiom",
        needs=_NEEDS,
        data_types=("image",),
        taxonomy=_TREES,
        claims=_CLAIMS,
        cost=_COST,
        supports=("how much of the score's first-order change each place carries, channel by channel",),
        limits=(
            _COARSE,
            "that the places outside the map did not matter: a channel has one weight for all its places",
            "shares of the score where 'unexplained' is large",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        values, whole = found.values.flatten(2), (found.values * found.grads).flatten(2).sum(2)
        total = values.sum(2)
        weights = torch.where(total == 0, 0.0, whole / torch.where(total == 0, 1.0, total))
        signed = weighted(found.values, weights)
        first_order = whole.sum(1)
        return found.explanation(
            signed,
            self.relu,
            sum_gap=(signed.flatten(1).sum(1) - first_order).abs(),
            unexplained=found.score - first_order,
        )


@dataclass(frozen=True, kw_only=True)
class HiResCAM(Method):
    """Which places of the feature map does the score depend on, each by its own gradient?

    With activations A_k and gradients g_k at the layer, ``values_ij = sum_k g_kij A_kij``: gradient times activation,
    summed over channels, without averaging first. Where the head is linear in the layer (pooling by means, or flattening
    and one linear layer) the map sums to the score without its bias, exactly. Units are the score's; positive raises it.

    Facts: ``score``; ``negative_share``; ``unexplained``, score minus the sum of the signed map: the bias, for such heads.

    Args:
        relu: keep what speaks for the target alone.
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    Cost: one forward pass, and one backward pass from the score to the layer.
    Known failure: behind the layer a straight line stands for the network, which is exact for linear heads alone.
    Source: Draelos & Carin 2020, definition and proof for one linear layer.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> result = px.explain(net, torch.ones(1, 3, 8, 8), "hires-cam", target=1)
        >>> torch.allclose(result.facts["unexplained"], net[3].bias[1], atol=1e-5)
        True
    """

    relu: bool = False
    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="hires-cam",
        title="HiResCAM",
        question="Which places of the feature map does the score depend on, each by its own gradient?",
        form="attribution",
        scope="local",
        citation="draelos2020use",
        needs=_NEEDS,
        data_types=("image",),
        taxonomy=_TREES,
        claims=_CLAIMS,
        cost=_COST,
        supports=("each place's share of the score, where the head is linear or 'unexplained' is about the bias",),
        limits=(_COARSE, "shares of the score where several nonlinear layers follow: see 'unexplained'"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        signed = _over_channels(found.grads * found.values)
        return found.explanation(signed, self.relu, unexplained=found.score - signed.flatten(1).sum(1))


@dataclass(frozen=True, kw_only=True)
class LayerCAM(Method):
    """Which places count for the target, finely enough to use shallow layers too?

    With activations A_k and gradients g_k at the layer, ``values_ij = relu(sum_k relu(g_kij) A_kij)``: each activation
    is weighted by its own positive gradient, so that maps of shallow layers stay sharp. Raw values in score units; the
    paper's tanh scaling, for laying maps of several layers over each other, is left to the reader.

    Facts: ``score``; ``negative_share``, of the map before its ReLU, which is zero behind a rectifier.

    Args:
        relu: keep what speaks for the target alone.
        grid: rows and columns of the places, where the layer holds tokens or its channels may come first or last.

    Cost: one forward pass, and one backward pass from the score to the layer.
    Known failures: evidence against the target never shows; at shallow layers gradients are noisy, and so is the map.
    Source: Jiang, Zhang, Hou, Cheng & Wei 2021, §III.

    Example:
        >>> import torch, pellucid as px
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        >>> px.explain(net, torch.ones(1, 3, 8, 8), "layer-cam", layer="1").values.shape
        torch.Size([1, 1, 6, 6])
    """

    relu: bool = True
    grid: tuple[int, int] | None = None

    card: ClassVar[Card] = Card(
        name="layer-cam",
        title="LayerCAM",
        question="Which places count for the target, finely enough to use shallow layers too?",
        form="attribution",
        scope="local",
        citation="jiang2021layercam",
        needs=_NEEDS,
        data_types=("image",),
        taxonomy=_TREES,
        claims=_CLAIMS,
        cost=_COST,
        supports=("where the layer holds evidence for the target, place by place",),
        limits=(
            "evidence against the target: negative gradients are cut",
            "shares of the score: positive and negative gradients no longer balance",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = at_spatial_layer(subject, ask, self.card.title, self.grid)
        return found.explanation(_over_channels(found.grads.relu() * found.values), self.relu)


def _over_channels(values: Tensor) -> Tensor:
    return values.sum(1, keepdim=True)
