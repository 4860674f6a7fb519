"""Is a map more than what could be drawn without any network? Edges, chance and the middle of the picture as controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Measure, Method, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, fill
from pellucid.engine import seed as seeds
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.evaluation import similarity

__all__ = ["EdgeDetector", "EdgeDetectorBaseline"]

FILTERS = ("sobel", "canny")
DRAWS = 8
SPREAD = 0.25  # of the centre's Gaussian, in sides of the picture


def grey(images: Tensor) -> Tensor:
    """The mean over channels, (rows, height, width) in float64 on the processor."""
    return images.detach().cpu().double().mean(1)


def sobel(pictures: Tensor) -> Tensor:
    """The size of the slope at every pixel, per pixel: Sobel's kernels scaled so that a ramp of slope 1 gives 1.

    At the border the picture goes on as it ends.
    """
    padded = torch.nn.functional.pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (padded[:, :, 2:] - padded[:, :, :-2]) / 2  # differences first, so that what is constant is exactly 0
    down = (padded[:, 2:] - padded[:, :-2]) / 2
    across = (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 4
    down = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 4
    return (across.square() + down.square()).sqrt()


def canny(pictures: Tensor) -> Tensor:
    """Canny's thin edges of pictures scaled to 0…1, as 0 and 1: a Gaussian of one pixel, thresholds 0.1 and 0.2."""
    from skimage.feature import canny as edges

    low, high = (edge[:, None, None] for edge in (pictures.flatten(1).amin(1), pictures.flatten(1).amax(1)))
    scaled = (pictures - low) / torch.where(high > low, high - low, 1.0)
    return torch.stack(
        [torch.from_numpy(edges(p, low_threshold=0.1, high_threshold=0.2)) for p in scaled.numpy()]
    ).double()


def centre(height: int, width: int) -> Tensor:
    """A Gaussian on the middle of the picture, a quarter of each side wide; its top is 1."""
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (SPREAD * n) for n in (height, width)]
    return torch.exp(-0.5 * (axes[0][:, None].square() + axes[1].square()))


def pictures_of(ask: Ask) -> Tensor:
    """The explained images, (rows, channels, height, width)."""
    held = fill.explained(ask).floats
    if len(held) != 1 or held[0].dim() != 4:
        raise InputError(
            "Edges are those of images: the explained values must be laid out as (rows, channels, height, width)",
            got=", ".join(f"shape {tuple(x.shape)}" for x in held),
        )
    return held[0]


@dataclass(frozen=True, kw_only=True)
class EdgeDetector(Method):
    """What would a map of this picture's edges look like, drawn without the network?

    A control, not an explanation: it asks the model nothing but its score, so it stays the same whatever the model has
    learnt. ``values`` are ≥ 0, shared equally among the channels, whose sum is the edge's strength: for "sobel" the size
    of the grey picture's slope in input units per pixel (kernels [1, 2, 1]/4 × [-1, 0, 1]/2; the picture goes on as it
    ends), for "canny" 1 on thin edges and 0 elsewhere, of the picture scaled to 0…1.

    Args:
        filter: "sobel" or "canny".

    Cost: one forward.
    Known failure: it looks like an explanation, wherever objects have edges; that is what it is for.
    Source: Adebayo et al. 2018, §1 and figure 1, as the control; Canny 1986.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
        >>> px.explain(net, torch.ones(1, 1, 4, 4), "edge-detector").values.sum().item()
        0.0
    """

    filter: str = "sobel"

    card: ClassVar[Card] = Card(
        name="edge-detector",
        title="Edge detector",
        question="What would a map of this picture's edges look like, drawn without the network?",
        form="attribution",
        scope="local",
        citation="adebayo2018sanity",
        needs=("predictions", "image"),
        data_types=("image",),
        taxonomy={"002": "evaluation/sanity-checks"},
        claims=("rowwise", "deterministic", "implementation invariant", "spelling invariant"),
        cost="1 forward",
        supports=("how much of a map could be had without the network",),
        limits=("anything about the network",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.filter not in FILTERS:
            raise MethodError(f"The 'filter' must be one of {FILTERS}", got=repr(self.filter))
        images = pictures_of(ask)
        strength = {"sobel": sobel, "canny": canny}[self.filter](grey(images))
        share = (strength[:, None] / images.shape[1]).to(images).expand_as(images).contiguous()
        values = share if ask.layer is not None else ask.inputs.wrap((share,))
        return Attribution(values=values, facts={"score": ask.score})


@dataclass(frozen=True, kw_only=True)
class EdgeDetectorBaseline(Evaluation):
    """Is this map more than an edge detector, a random map or the middle of the picture would draw?

    ``values`` is Spearman's rank correlation between the sizes of the map (summed over channels) and the strength of the
    picture's edges by Sobel's filter, from -1 to 1; near 1, the map could be had without the network.

    Facts: ``sobel_ssim``, the structural similarity of both scaled to 0…1; ``canny_rank`` and ``canny_ssim``, the same
    with Canny's edges; ``centre_rank`` and ``centre_ssim``, with a Gaussian on the middle; ``random_rank``, the mean over
    8 maps of independent noise, with ``random_spread``, their standard deviation, by which chance can be told;
    ``flagged``, 1 where the rank correlation with Sobel's edges, Canny's or the middle exceeds ``limit``. NaN where a map
    or a control is constant. `parts`: ``sobel``, ``canny`` (rows, height, width) and ``centre`` (height, width).

    Args:
        of: the explanation that is measured: a method or its name.
        limit: the rank correlation above which a map is flagged. A convention of ours.

    Cost: that of ``of``; no further forward.
    Known failure: objects have edges, so a right map may lie on them: a flag asks for `ModelRandomisationTest`, it is no
    verdict.
    Source: Adebayo et al. 2018, §1, figure 1 and §5.3 (edges); the other controls are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
        >>> found = px.explain(net, torch.rand(1, 1, 8, 8), px.evaluation.EdgeDetectorBaseline(of="edge-detector"))
        >>> round(found.values.item(), 3), found.facts["flagged"].item()
        (1.0, 1.0)
    """

    limit: float = 0.5

    card: ClassVar[Card] = Card(
        name="edge-detector-baseline",
        title="Edge detector as a baseline",
        question="Is this map more than an edge detector would draw?",
        form="measure",
        scope="local",
        citation="adebayo2018sanity",
        needs=("predictions", "image"),
        data_types=("image",),
        taxonomy={"002": "evaluation/sanity-checks", "003": "passive/attribution/evaluation"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation"},
        cost="that of the explanation",
        supports=("how like this map is to maps that know nothing of the network",),
        limits=("whether a map that lies on edges is wrong: objects have edges",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not -1 <= self.limit <= 1:
            raise MethodError("The 'limit' must be a rank correlation from -1 to 1", got=repr(self.limit))
        pictures_of(ask)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        images = pictures_of(judged.ask)
        parts = tensors(judged.values)
        height, width = images.shape[2:]
        if len(parts) != 1 or parts[0].dim() != 4 or parts[0].shape[2:] != images.shape[2:]:
            raise MethodError(
                f"The attribution must be a map over the {height} × {width} pixels of the explained images",
                got=", ".join(str(tuple(p.shape)) for p in parts),
            )
        middle = centre(height, width)
        drawn = {
            "sobel": sobel(grey(images)),
            "canny": canny(grey(images)),
            "centre": middle.expand(len(images), -1, -1),
        }
        facts: dict[str, Tensor] = {}
        for name, control in drawn.items():
            found = similarity.compare(parts[0], control[:, None])
            facts |= {f"{name}_rank": found["rank_absolute"], f"{name}_ssim": found["ssim"]}
        chance = torch.stack([self.by_chance(ask, parts[0], draw) for draw in range(DRAWS)])
        ranks = torch.stack([facts[f"{name}_rank"] for name in drawn])
        near = (ranks > self.limit).any(0).double()
        values = facts.pop("sobel_rank")
        facts |= {
            "random_rank": chance.mean(0),
            "random_spread": chance.std(0),
            "flagged": torch.where(values.isnan(), torch.nan, near),
        }
        maps = {"sobel": drawn["sobel"], "canny": drawn["canny"], "centre": middle}
        return Measure(values=values, better="lower", unit="rank correlation", facts=facts, parts=maps)

    def by_chance(self, ask: Ask, values: Tensor, draw: int) -> Tensor:
        """The similarity with a map of independent noise, of the row's own."""
        shape = (1, *values.shape[2:])
        noise = seeds.uniform(ask.seed, ask.keys, [draw] * len(values), shape, torch.empty(0, dtype=torch.float64))
        return similarity.compare(values, noise)["rank_absolute"]
