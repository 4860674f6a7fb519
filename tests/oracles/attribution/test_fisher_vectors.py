"""Fisher vectors against derivatives of the mixture's likelihood; relevance against loops, sums and planted watermarks."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import FisherVectorLRP, FisherVectors, context_ratio
from pellucid.attribution.fisher_vectors import of_descriptors
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError

DOUBLE = {"dtype": torch.float64}
NAME = "lrp-fisher-vectors"
K, D, CLASSES, PATCH, STRIDE = 3, 4, 3, 3, 2


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def pipeline():
    weights = torch.tensor([0.2, 0.5, 0.3], **DOUBLE)
    model = FisherVectors(
        weights,
        normal(K, D),
        0.5 + normal(K, D, seed=2).abs(),
        CLASSES,
        patch=PATCH,
        stride=STRIDE,
        projection=normal(2 * PATCH**2, D, seed=3) / 3,
        centre=normal(2 * PATCH**2, seed=4) / 5,
    )
    model.classify.weight.data = normal(CLASSES, 2 * K * D, seed=5)
    model.classify.bias.data = normal(CLASSES, seed=6)
    return model.eval()


IMAGES = normal(3, 2, 7, 9, seed=7)
CORNERS = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4, 6)]


def descriptors_by_hand(model, image):
    """Patches cut out one by one, as rows."""
    patches = [image[:, i : i + PATCH, j : j + PATCH].reshape(-1) for i, j in CORNERS]
    return torch.stack([(p - model.centre) @ model.projection for p in patches])


def log_likelihood(x, weights, means, deviations):
    """Of each row, by the definition of a mixture of Gaussians."""
    total = 0
    for w, mean, deviation in zip(weights, means, deviations, strict=True):
        each = torch.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
        total = total + w * each.prod(1)
    return total.log()


def test_vectors_are_scaled_derivatives_of_the_likelihood():
    """By μ, times σ / √w; by σ, times σ / √(2 w): Perronnin et al.'s normalisation by the Fisher information."""
    model = pipeline()
    for image in IMAGES:
        local = descriptors_by_hand(model, image)
        means, deviations = model.means.clone().requires_grad_(), model.variances.sqrt().requires_grad_()
        value = log_likelihood(local, model.weights, means, deviations).mean()
        by_mean, by_deviation = torch.autograd.grad(value, (means, deviations))
        root = model.weights.sqrt()[:, None]
        parts = [by_mean * deviations / root, by_deviation * deviations / root / math.sqrt(2)]
        raw = torch.cat([part.flatten() for part in parts]).detach()
        got = model.contributions(model.descriptors(image[None]))[0].mean(0)
        torch.testing.assert_close(got, raw, rtol=0, atol=1e-12)
        rooted = torch.tensor([math.copysign(math.sqrt(abs(v)), v) for v in raw.tolist()], **DOUBLE)
        expected = model.classify.weight @ (rooted / rooted.norm()) + model.classify.bias
        torch.testing.assert_close(model(image[None])[0], expected, rtol=0, atol=1e-12)


def shares_by_hand(model, image, weight, bias):
    """Dimensions, descriptors and pixels, by loops over all of them."""
    given = model.contributions(descriptors_by_hand(model, image)[None])[0]
    vector = model.normalised(given.mean(0)[None])[0]
    size = len(vector)
    dimensions = [float(weight[d] * vector[d] + bias / size) for d in range(size)]
    local = [
        sum(dimensions[d] * float(given[at, d] / given[:, d].sum()) for d in range(size)) for at in range(len(CORNERS))
    ]
    pixels = torch.zeros(image.shape[1:], **DOUBLE)
    for amount, (i, j) in zip(local, CORNERS, strict=True):
        for a in range(PATCH):
            for b in range(PATCH):
                pixels[i + a, j + b] += amount / PATCH**2
    return torch.tensor(local, **DOUBLE), pixels


@pytest.mark.parametrize("target", [0, 2])
def test_shares_by_loops(target):
    model = pipeline()
    got = px.explain(model, IMAGES, NAME, target=target)
    with torch.no_grad():
        for n, image in enumerate(IMAGES):
            local, pixels = shares_by_hand(model, image, model.classify.weight[target], model.classify.bias[target])
            torch.testing.assert_close(got.values[n, 0], pixels, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(got.parts["descriptors"][n, 0].flatten(), local, rtol=1e-9, atol=1e-10)


def test_every_level_holds_the_score():
    model = pipeline()
    got = px.explain(model, IMAGES, NAME)
    with torch.no_grad():
        score = model(IMAGES).amax(1)
    torch.testing.assert_close(got.values.sum((1, 2, 3)), score, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.parts["descriptors"].sum((1, 2, 3)), score, rtol=0, atol=1e-9)
    for level in ("dimension", "descriptor", "conservation"):
        assert float(got.facts[f"{level}_gap"].max()) < 1e-9
    kept = px.explain(model, IMAGES, FisherVectorLRP(epsilon=0.1))
    missing = (kept.values.sum((1, 2, 3)) - score).abs()
    torch.testing.assert_close(kept.facts["conservation_gap"], missing, rtol=0, atol=1e-12)
    assert float(missing.min()) > 1e-3


def test_margins_are_differences_of_classes():
    model = pipeline()
    margin = px.explain(model, IMAGES, NAME, target=lambda y: y[:, 0] - y[:, 2]).values
    parts = [px.explain(model, IMAGES, NAME, target=k).values for k in (0, 2)]
    torch.testing.assert_close(margin, parts[0] - parts[1], rtol=1e-9, atol=1e-10)


def test_one_patch_over_the_whole_image_gives_a_flat_map():
    model = FisherVectors(torch.ones(1, **DOUBLE), normal(1, 16), torch.ones(1, 16, **DOUBLE), 2, patch=4, stride=4)
    image = normal(1, 1, 4, 4, seed=9)
    got = px.explain(model.eval(), image, NAME, target=1)
    with torch.no_grad():
        torch.testing.assert_close(got.values, (model(image)[:, 1] / 16).expand(1, 1, 4, 4), rtol=0, atol=1e-12)


def test_dimensions_to_which_nothing_was_given_are_shared_evenly():
    """The second dimension sums to zero, so that its relevance of 6 goes to the three descriptors in equal parts."""
    given = torch.tensor([[[1.0, 2.0], [3.0, -2.0], [0.0, 0.0]]])
    local, least = of_descriptors(given, torch.tensor([[8.0, 6.0]]), 0.0)
    assert local.tolist() == [[2 + 2, 6 + 2, 0 + 2]]
    assert least.tolist() == [0.0]
    halved, _ = of_descriptors(given[..., :1], torch.tensor([[8.0]]), 1 - 1e-7)
    torch.testing.assert_close(halved, torch.tensor([[1.0, 3.0, 0.0]]))


def pictures(count, seed=0):
    """Class 0 shows stripes in a box of 12 pixels; in class 1 the box is blank, and a watermark is in one corner."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 + 0.02 * torch.randn(count, 1, 32, 32, generator=generator)
    labels, inside = torch.arange(count) % 2, torch.zeros(count, 32, 32, dtype=torch.bool)
    stripes = ((torch.arange(12)[:, None] // 2) % 2).float().expand(12, 12)
    for n, label in enumerate(labels.tolist()):
        i, j = torch.randint(8, 20, (2,), generator=generator).tolist()
        inside[n, i : i + 12, j : j + 12] = True
        if label == 0:
            images[n, 0, i : i + 12, j : j + 12] = stripes
        else:
            images[n, 0, :8, :8] = (torch.arange(8)[:, None] + torch.arange(8) < 7).float()
    return images.double(), labels, inside


def test_planted_watermark_shows_in_the_context_ratio():
    images, labels, inside = pictures(60)
    model = FisherVectors.fitted(images[:40], labels[:40], components=6, dimensions=12, patch=4, stride=2)
    held, told, boxes = images[40:], labels[40:], inside[40:]
    with torch.no_grad():
        assert bool((model(held).argmax(1) == told).all())
    support = px.explain(model, held, NAME, target=told).values.clamp(min=0)
    ratio = context_ratio(support, boxes)
    assert float(ratio[told == 1].min()) > 1
    assert float(ratio[told == 0].max()) < 1


def test_fitting_depends_on_the_seed_alone_and_leaves_the_generators():
    images, labels, _ = pictures(12)
    before = torch.get_rng_state()
    one, two = (FisherVectors.fitted(images, labels, components=2, patch=4, stride=4, seed=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one(images), two(images))
    three = (labels + (torch.arange(12) == 0)).clamp(max=2)
    three[0] = 2
    assert FisherVectors.fitted(images, three, components=2, patch=4, stride=4)(images).shape == (12, 3)


def test_mixture_is_that_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    images, labels, _ = pictures(12)
    model = FisherVectors.fitted(images, labels, components=3, dimensions=5, patch=4, stride=4)
    mixture = GaussianMixture(3, covariance_type="diag")
    mixture.weights_, mixture.means_ = model.weights.numpy(), model.means.numpy()
    mixture.covariances_, mixture.precisions_cholesky_ = model.variances.numpy(), model.variances.rsqrt().numpy()
    local = model.descriptors(images)
    share = mixture.predict_proba(local.flatten(0, 1).numpy())
    away = (local[:, :, None] - model.means) / model.variances.sqrt()
    expected = torch.from_numpy(share).reshape(*local.shape[:2], 3)[..., None] / model.weights.sqrt()[:, None] * away
    got = model.contributions(local).unflatten(2, (2, 3, 5))[:, :, 0]
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_context_ratio_by_hand():
    values = normal(2, 3, 4, 5, seed=11)
    inside = normal(2, 4, 5, seed=12) > 0
    for n, got in enumerate(context_ratio(values, inside).tolist()):
        pixels = values[n].sum(0)
        expected = pixels[~inside[n]].mean() / pixels[inside[n]].mean()
        assert math.isclose(got, float(expected), rel_tol=1e-9)
    assert context_ratio(torch.ones(2, 1, 4, 5), inside[0]).tolist() == pytest.approx([1.0, 1.0])


def test_refusals():
    model = pipeline()
    with pytest.raises(NeedError, match=r"FisherVectors pipeline.*Got Conv2d"):
        px.explain(nn.Conv2d(2, 2, 3).eval().double(), IMAGES, NAME, target=lambda y: y.sum((1, 2, 3)))
    with pytest.raises(MethodError, match="'epsilon' must be a share"):
        px.explain(model, IMAGES, FisherVectorLRP(epsilon=-0.1))
    with pytest.raises(LayerError, match="explains pixels"):
        px.explain(model, IMAGES, NAME, layer="classify")
    with pytest.raises(TargetError, match="hidden unit"):
        px.explain(model, IMAGES, NAME, target=px.unit("classify", 0))
    with pytest.raises(InputError, match="images"):
        px.explain(model, IMAGES[0], NAME)
    with pytest.raises(InputError, match=r"\(K,\), \(K, D\)"):
        FisherVectors(torch.ones(2), torch.ones(3, 4), torch.ones(3, 4), 2)
    with pytest.raises(InputError, match="above zero"):
        FisherVectors(torch.ones(1), torch.ones(1, 4), torch.zeros(1, 4), 2)
    with pytest.raises(InputError, match="every class from 0 on"):
        FisherVectors.fitted(torch.rand(4, 1, 8, 8), torch.tensor([0, 2, 0, 2]))
    with pytest.raises(InputError, match="'inside' must be"):
        context_ratio(torch.ones(1, 1, 4, 5), torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="'inside' must hold some"):
        context_ratio(torch.ones(1, 1, 4, 5), torch.ones(4, 5, dtype=torch.bool))
