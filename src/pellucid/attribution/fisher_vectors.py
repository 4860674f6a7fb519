"""Which pixels made a bag of local descriptors score as it did? Fisher vectors, and their score shared out to the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, batch
from pellucid.engine.ask import shape_key

__all__ = ["FisherVectorLRP", "FisherVectors", "context_ratio"]


class FisherVectors(nn.Module):
    """Which class has an image by the statistics of its patches alone, wherever they lie?

    The classifier of choice before deep networks. Every patch (N, channels, patch, patch), `stride` pixels apart, becomes
    a local descriptor; descriptors follow a mixture of K Gaussians with diagonal covariance; with γ_k the probability of
    component k for descriptor x, each gives to the Fisher vector

        ``γ_k (x - μ_k) / (σ_k √w_k)``   and   ``γ_k ((x - μ_k)² / σ_k² - 1) / √(2 w_k)``,

    K·D numbers of the first kind and then K·D of the second, averaged over the image, brought to ``sign(v) √|v|`` and to
    length 1; a linear layer makes the scores. `fitted` learns all of it from images and labels.

    Args:
        weights: of the components, (K,), summing to 1.
        means: of the components, (K, D).
        variances: of the components, (K, D).
        classes: how many scores go out.
        patch: side of a patch in pixels.
        stride: pixels from one patch to the next.
        projection: (channels · patch², D), applied to patches less `centre`; None leaves patches as they are.
        centre: what is taken from patches before the projection, (channels · patch²,).

    Source: Perronnin, Sánchez & Mensink 2010, §2.

    Example:
        >>> import torch
        >>> model = FisherVectors.fitted(torch.rand(8, 1, 8, 8), torch.arange(8) % 2, components=2, patch=4, stride=2)
        >>> model(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    projection: Tensor | None
    centre: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        variances: Tensor,
        classes: int,
        patch: int = 8,
        stride: int = 4,
        projection: Tensor | None = None,
        centre: Tensor | None = None,
    ) -> None:
        super().__init__()
        if means.dim() != 2 or variances.shape != means.shape or weights.shape != means.shape[:1]:
            got = f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(variances.shape)}"
            raise InputError("The 'weights', 'means' and 'variances' must be (K,), (K, D) and (K, D)", got=got)
        if not bool((weights > 0).all()) or not bool((variances > 0).all()):
            raise InputError("The 'weights' and 'variances' must be above zero", got="a component without any")
        if patch < 1 or stride < 1:
            raise InputError("The 'patch' and 'stride' must be at least 1", got=f"{patch} and {stride}")
        self.patch, self.stride = patch, stride
        for name, value in {"weights": weights, "means": means, "variances": variances}.items():
            self.register_buffer(name, value.detach().clone())
        self.register_buffer("projection", None if projection is None else projection.detach().clone())
        self.register_buffer("centre", None if centre is None else centre.detach().clone())
        self.classify = nn.Linear(2 * means.numel(), classes, dtype=means.dtype)

    @classmethod
    def fitted(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        components: int = 16,
        dimensions: int | None = None,
        patch: int = 8,
        stride: int = 4,
        penalty: float = 1.0,
        seed: int = 0,
    ) -> FisherVectors:
        """Principal axes and mixture of the patches, then one linear support vector machine per class.

        `dimensions` keeps that many principal axes of the patches, None all pixels; `penalty` is the machine's C. Needs
        scikit-learn.
        """
        from sklearn.mixture import GaussianMixture
        from sklearn.svm import LinearSVC

        if images.dim() != 4 or labels.shape != images.shape[:1]:
            got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise InputError("The 'images' must be (rows, channels, height, width) with one label each", got=got)
        classes = int(labels.max()) + 1
        if not torch.equal(labels.unique().cpu(), torch.arange(classes)) or classes < 2:
            raise InputError(
                "The 'labels' must hold every class from 0 on, at least two", got=str(labels.unique().tolist())
            )
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a new linear layer draws its weights
            patches = functional.unfold(images, patch, stride=stride).transpose(1, 2).flatten(0, 1)
            centre = patches.mean(0)
            axes = (
                None
                if dimensions is None
                else torch.linalg.svd(patches - centre, full_matrices=False)[2][:dimensions].T
            )
            local = patches - centre if axes is None else (patches - centre) @ axes
            floor = 1e-4 * float(local.var(0).mean())
            mixture = GaussianMixture(
                components, covariance_type="diag", reg_covar=floor, random_state=seed, max_iter=500
            )
            mixture.fit(local.double().cpu().numpy())
            shares, means, variances = (
                torch.from_numpy(x).to(images) for x in (mixture.weights_, mixture.means_, mixture.covariances_)
            )
            whole = torch.eye(local.shape[1]).to(images) if axes is None else axes
            model = cls(shares, means, variances, classes, patch, stride, whole, centre).eval()
            machine = LinearSVC(C=penalty, random_state=seed, max_iter=20_000)
            machine.fit(model.fisher(images).double().cpu().numpy(), labels.cpu().numpy())
            weight, bias = (torch.from_numpy(x).to(images) for x in (machine.coef_, machine.intercept_))
            model.classify.weight.copy_(weight if classes > 2 else torch.cat([-weight, weight]))
            model.classify.bias.copy_(bias if classes > 2 else torch.cat([-bias, bias]))
        return model

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        return (height - self.patch) // self.stride + 1, (width - self.patch) // self.stride + 1

    def descriptors(self, images: Tensor) -> Tensor:
        """The local descriptors, (N, patches, D), row by row of the grid."""
        found = functional.unfold(images, self.patch, stride=self.stride).transpose(1, 2)
        found = found if self.centre is None else found - self.centre
        return found if self.projection is None else found @ self.projection

    def contributions(self, local: Tensor) -> Tensor:
        """What each descriptor (N, patches, D) gives to the Fisher vector, (N, patches, 2·K·D)."""
        away = (local[:, :, None] - self.means) / self.variances.sqrt()
        density = self.weights.log() - 0.5 * (away.square() + self.variances.log() + math.log(2 * math.pi)).sum(3)
        share = (density.softmax(2) / self.weights.sqrt())[..., None]
        return torch.stack([share * away, share * (away.square() - 1) / math.sqrt(2)], 2).flatten(2)

    def normalised(self, vector: Tensor) -> Tensor:
        """Signed roots, at length 1."""
        return functional.normalize(vector.sign() * vector.abs().sqrt(), dim=1)

    def fisher(self, images: Tensor) -> Tensor:
        """The normalised Fisher vectors, (N, 2·K·D)."""
        return self.normalised(self.contributions(self.descriptors(images)).mean(1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, classes)."""
        return self.classify(self.fisher(images))


@dataclass(frozen=True, kw_only=True)
class FisherVectorLRP(Method):
    """Which pixels made a Fisher-vector classifier score as it did, if each step shares in proportion to its parts?

    Three steps, each in score units, positive supports the score. Dimensions d of the Fisher vector φ get
    ``R_d = w_d φ_d + b / D``. Descriptors l, each of which gave m_d(l) to dimension d before it was normalised, get
    ``R_l = Σ_d R_d m_d(l) / Σ_l' m_d(l')``, and equal parts of the dimensions whose sum is zero. Pixels get equal parts of
    the relevance of each patch that holds them: the values, (N, 1, height, width). `context_ratio` compares them inside
    and outside an object.

    Facts: ``score``; ``dimension_gap``, ``descriptor_gap`` and ``conservation_gap``, what is missing from the score at
    dimensions, descriptors and pixels: rounding alone with ``epsilon=0``; ``least_share``, the least |Σ_l m_d(l)| over
    Σ_l |m_d(l)|: where it is small, descriptors that cancel get large relevance of both signs. ``parts["descriptors"]``
    is the relevance on the grid of patches, (N, 1, rows, columns).

    Args:
        epsilon: added to Σ_l m_d(l), with its sign, as a share of Σ_l |m_d(l)|, against cancelling; keeps some relevance.

    Cost: one forward for the scores, and one for the shares.
    Known failure: a patch's relevance is spread evenly over its pixels, so the map is as coarse as the patches overlap.
    Source: Lapuschkin, Binder, Montavon, Müller & Samek 2016, R⁽³⁾ to R⁽¹⁾; ε relative to the parts is ours.

    Example:
        >>> import torch, pellucid as px
        >>> images = torch.rand(8, 1, 8, 8)
        >>> model = FisherVectors.fitted(images, torch.arange(8) % 2, components=2, patch=4, stride=2)
        >>> result = px.explain(model, images, FisherVectorLRP())
        >>> torch.allclose(result.values.sum((1, 2, 3)), model(images).amax(1), atol=1e-2)
        True
    """

    epsilon: float = 0.0

    card: ClassVar[Card] = Card(
        name="lrp-fisher-vectors",
        title="LRP for Fisher vectors",
        question="Which pixels made a Fisher-vector classifier score as it did?",
        form="attribution",
        scope="local",
        citation="lapuschkin2016analyzing",
        needs=("image", "Fisher vectors"),
        data_types=("image",),
        taxonomy={
            "000": "behavioural/functional/layer-wise-relevance",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/relevance",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "linear", "score scale"),
        cost="2 forwards",
        supports=("each patch's share of the score", "how much of the score lies on the object and how much around it"),
        limits=("which pixel of a patch mattered", "what happens when a patch changes: shares are no derivatives"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, int | float) or not 0 <= self.epsilon < 1:
            raise MethodError("The 'epsilon' must be a share from 0 to below 1", got=repr(self.epsilon))
        pipeline = _pipeline(subject, ask)
        slope = _slope(ask)
        parts: list[tuple[Tensor, ...]] = []

        def work(start: int, stop: int) -> tuple[Tensor, ...]:
            (images,) = ask.inputs.take(torch.arange(start, stop)).floats
            with torch.no_grad():
                given = images if subject.preprocess is None else subject.preprocess(images)
                return _shared(pipeline, given, slope[start:stop], self.epsilon)

        batch.run(
            ask.inputs.rows,
            work,
            lambda start, stop, part: parts.append(part),
            memory=ask.memory,
            cost=(subject.module, ("fisher vectors", shape_key(ask.inputs))),
            device=ask.inputs.device,
            progress=ask.progress,
            label=self.card.title,
        )
        dimensions, grid, pixels, least = map(torch.cat, zip(*parts, strict=True))
        score = ask.score
        levels = {"dimension": dimensions, "descriptor": grid, "conservation": pixels}
        facts = {f"{name}_gap": (level.flatten(1).sum(1) - score).abs() for name, level in levels.items()}
        return Attribution(
            values=pixels, facts={"score": score, **facts, "least_share": least}, parts={"descriptors": grid}
        )


def _pipeline(subject: Subject, ask: Ask) -> FisherVectors:
    """The pipeline, or why there is nothing to share out."""
    if not isinstance(subject.module, FisherVectors) or subject.call is not None:
        raise NeedError(
            "LRP for Fisher vectors needs a FisherVectors pipeline as its 'model', called as it is",
            got=type(subject.module or subject.model).__name__,
            hint="FisherVectors.fitted(images, labels); or 'lrp-epsilon' for a network",
        )
    if ask.layer is not None:
        raise LayerError("LRP for Fisher vectors explains pixels", got=f"layer={str(ask.layer)!r}", hint="layer=None")
    if ask.unit_place is not None:
        raise TargetError(
            "The 'target' of LRP for Fisher vectors must be a class or a function of the scores",
            got=f"the hidden unit {ask.unit_place}",
            hint="target=0",
        )
    if len(ask.inputs.tensors) != 1:
        raise InputError("The 'inputs' must be one tensor of images", got=f"{len(ask.inputs.tensors)} tensors")
    return subject.module


def _slope(ask: Ask) -> Tensor:
    """The derivative of each row's explained score by the scores of the classes, (N, classes)."""
    aim = ask.target
    assert ask.output is not None
    with torch.enable_grad():
        scores = ask.output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(aim.score(scores).sum(), scores)
    return slope


def _shared(model: FisherVectors, images: Tensor, slope: Tensor, epsilon: float) -> tuple[Tensor, ...]:
    """Relevance of the dimensions, on the grid of patches and of the pixels, and the least share that did not cancel."""
    given = model.contributions(model.descriptors(images))
    dimensions = of_dimensions(model, given, slope)
    local, least = of_descriptors(given, dimensions, epsilon)
    rows, columns = model.grid(*images.shape[2:])
    grid = local.reshape(len(images), 1, rows, columns)
    return dimensions, grid, of_pixels(model, local, (images.shape[2], images.shape[3])), least


def of_dimensions(model: FisherVectors, given: Tensor, slope: Tensor) -> Tensor:
    """w_d φ_d and an equal part of the bias, for the combination of classes that `slope` says."""
    vector, layer = model.normalised(given.mean(1)), model.classify
    return (slope @ layer.weight) * vector + (slope @ layer.bias)[:, None] / vector.shape[1]


def of_descriptors(given: Tensor, dimensions: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Each dimension's relevance by what the descriptors gave to it, summed over dimensions: (N, patches)."""
    total, size = given.sum(1), given.abs().sum(1)
    empty = total == 0
    whole = total + epsilon * size * torch.where(total < 0, -1.0, 1.0)
    rate = torch.where(empty, 0.0, dimensions / torch.where(empty, 1.0, whole))
    even = torch.where(empty, dimensions, 0.0).sum(1, keepdim=True) / given.shape[1]
    share = torch.where(size > 0, total.abs() / size.clamp(min=torch.finfo(size.dtype).tiny), 1.0)
    return torch.einsum("nld,nd->nl", given, rate) + even, share.amin(1)


def of_pixels(model: FisherVectors, local: Tensor, size: tuple[int, int]) -> Tensor:
    """Each patch's relevance in equal parts to its pixels, (N, 1, height, width)."""
    area = model.patch**2
    spread = (local / area)[:, None].expand(-1, area, -1)
    return functional.fold(spread, size, model.patch, stride=model.stride)


def context_ratio(values: Tensor, inside: Tensor) -> Tensor:
    """How much does the surrounding count against the object? Mean relevance of a pixel outside over that inside.

    Values (N, channels, height, width), whose channels are summed, and boolean places of the object (N, height, width), or
    one (height, width) for all rows, give (N,). Above 1 the surrounding counts more, pixel by pixel; a map that is the same
    everywhere has 1. The ratio says what it seems to only where both means are positive: pass ``values.clamp(min=0)`` to
    compare support alone. Infinite or NaN where the mean inside is zero.

    Source: Lapuschkin et al. 2016, the outside-inside ratio μ, with a mask for the box.

    Example:
        >>> import torch
        >>> inside = torch.tensor([[True, False, False]])
        >>> context_ratio(torch.tensor([[[[4.0, 1.0, 1.0]]]]), inside).tolist()
        [0.25]
    """
    if values.dim() != 4 or inside.dtype != torch.bool or inside.shape not in (values.shape[2:], values[:, 0].shape):
        raise InputError(
            "The 'inside' must be a boolean mask (height, width), or one per row, of the pixels of the values",
            got=f"{inside.dtype} of shape {tuple(inside.shape)} for values {tuple(values.shape)}",
        )
    mask = inside.expand(values[:, 0].shape).flatten(1)
    count = mask.sum(1)
    if bool((count == 0).any()) or bool((count == mask.shape[1]).any()):
        raise InputError("The 'inside' must hold some pixels of each row and leave some out", got=str(count.tolist()))
    flat = values.sum(1).flatten(1)
    return (flat * ~mask).sum(1) / (mask.shape[1] - count) / ((flat * mask).sum(1) / count)
