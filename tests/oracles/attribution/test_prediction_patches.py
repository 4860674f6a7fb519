"""Windows filled with what could stand there: closed forms of Gaussians, loops, and pixels that nobody reads."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import PredictionDifferenceAnalysis
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine.patches import condition, gaussian

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def test_the_conditional_gaussian():
    root, mean = drawn(5, 5), drawn(5, seed=1)
    covariance = root @ root.T
    inside = torch.tensor([False, True, False, True, False])
    found = condition(mean, covariance, inside)
    c, w, s = covariance.numpy(), [1, 3], [0, 2, 4]
    gain = c[np.ix_(w, s)] @ np.linalg.inv(c[np.ix_(s, s)])
    assert np.allclose(found.gain.numpy(), gain, atol=1e-10)
    left = c[np.ix_(w, w)] - gain @ c[np.ix_(s, w)]
    assert np.allclose((found.root @ found.root.T).numpy(), left, atol=1e-10)
    patch, noise = drawn(5, seed=2), drawn(200_000, 2, seed=3)
    samples = found.draw(patch, noise).numpy()
    want = mean.numpy()[w] + gain @ (patch.numpy()[s] - mean.numpy()[s])
    assert np.allclose(samples.mean(0), want, atol=5 * np.sqrt(np.diag(left) / 2e5).max())
    assert np.allclose(np.cov(samples.T), left, atol=0.02 * left.max())


def test_the_gaussian_is_that_of_every_patch_of_the_data():
    images = drawn(3, 2, 5, 4)
    found = gaussian(images, 2, 3, 0)
    patches = [
        image[:, y : y + 2, x : x + 3].flatten().numpy()
        for image in images
        for y, x in itertools.product(range(4), range(2))
    ]
    assert np.allclose(found.mean.numpy(), np.mean(patches, 0))
    assert np.allclose(found.covariance.numpy(), np.cov(np.array(patches).T))
    assert found.low.tolist() == [images[:, c].min().item() for c in range(2)]


class Normal(nn.Module):
    """The probability Φ(a + b z) of the middle pixel z, and the rest."""

    def forward(self, x):
        p = torch.special.ndtr(0.3 + 0.8 * x[:, 0, 1, 1])
        return torch.stack([1 - p, p], 1)


def test_a_probit_answer_has_its_closed_form():
    root = drawn(9, 9, seed=4) / 2
    data = (drawn(4000, 9, seed=5) @ root.T).reshape(-1, 1, 3, 3)
    x = data[:1].clone()
    settings = {"window": 1, "surround": 1, "samples": 4000, "output": "probabilities", "laplace": False}
    found = px.explain(
        Normal().eval(), x, PredictionDifferenceAnalysis(kind="probability", **settings), data=data, target=1
    )
    whole = np.cov(data.flatten(1).numpy().T)
    s = [i for i in range(9) if i != 4]
    gain = whole[4, s] @ np.linalg.inv(whole[np.ix_(s, s)])
    mean = data.flatten(1).numpy().mean(0)
    m = mean[4] + gain @ (x.flatten().numpy()[s] - mean[s])
    variance = whole[4, 4] - gain @ whole[s, 4]
    want = torch.special.ndtr(torch.tensor((0.3 + 0.8 * m) / math.sqrt(1 + 0.64 * variance))).item()
    p = Normal()(x)[0, 1].item()
    assert found.values[0, 0, 1, 1].item() == pytest.approx(p - want, abs=5 * found.error[0, 0, 1, 1].item())
    assert 0 < found.error[0, 0, 1, 1].item() < 0.01
    others = found.values[0, 0].flatten()[s]
    assert others.abs().max() < 1e-12  # windows of one pixel that the network does not read


def constant_images():
    """Each image has one value, so a window is as its surroundings' mean says, without any doubt."""
    return torch.linspace(-3, 3, 12, **DOUBLE).reshape(12, 1, 1, 1).expand(12, 1, 5, 4).contiguous()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 3, **DOUBLE)
        self.layer.weight.data, self.layer.bias.data = drawn(3, 20, seed=6) / 3, drawn(3, seed=7)
        self.eval()

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("stride", "tops", "lefts"), [(1, [0, 1, 2, 3], [0, 1, 2]), (2, [0, 2, 3], [0, 2])])
def test_the_mean_over_windows_is_that_of_a_loop(rows, stride, tops, lefts):
    x, net = drawn(rows, 1, 5, 4, seed=8) / 2, Net()
    method = PredictionDifferenceAnalysis(window=2, surround=1, stride=stride, samples=2)
    targets = torch.arange(rows)
    found = px.explain(net, x, method, target=targets, data=constant_images())
    for row in range(rows):

        def bits(image, target=targets[row]):
            with torch.no_grad():
                p = (net(image[None]).softmax(1)[0, target].item() * 12 + 1) / 15
            return math.log2(p / (1 - p))

        total, count = np.zeros((5, 4)), np.zeros((5, 4))
        for top, left in itertools.product(tops, lefts):
            above, beside = min(max(0, top - 1), 1), 0  # a patch of 4 × 4 around the window, moved inside the image
            patch, around = x[row, 0, above : above + 4, beside : beside + 4], torch.ones(4, 4, dtype=torch.bool)
            around[top - above : top - above + 2, left - beside : left - beside + 2] = False
            filled = x[row].clone()
            filled[0, top : top + 2, left : left + 2] = patch[around].mean()
            total[top : top + 2, left : left + 2] += bits(x[row]) - bits(filled)
            count[top : top + 2, left : left + 2] += 1
        assert np.allclose(found.values[row, 0].numpy(), total / count, atol=1e-7)
    assert found.error.abs().max() < 1e-6


def test_independent_pixels_are_drawn_as_from_their_marginal():
    """White images: the surroundings say nothing, and both samplers average the pixel out in the same way."""
    data, x, net = drawn(300, 1, 3, 3, seed=9), drawn(1, 1, 3, 3, seed=10), nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    net = net.double().eval()
    values = {}
    for sampler in ("conditional", "marginal"):
        method = PredictionDifferenceAnalysis(window=1, surround=1, samples=800, sampler=sampler, kind="score")
        values[sampler] = px.explain(net, x, method, data=data, target=0)
    apart = (values["conditional"].values - values["marginal"].values).abs()
    doubt = (values["conditional"].error ** 2 + values["marginal"].error ** 2).sqrt()
    weight = net[1].weight[0].detach().abs().reshape(1, 1, 3, 3)
    spread = 5 * doubt + weight * 0.5  # 300 images pin the marginal mean, and the gain of eight neighbours, down to 0.1
    assert bool((apart < spread).all())


def test_a_hidden_units_activation():
    """kind="score" with a unit: the change of activation, w times the change of the pixel."""
    net, data = (
        nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval(),
        drawn(50, 1, 3, 3),
    )
    x = drawn(1, 1, 3, 3, seed=3)
    method = PredictionDifferenceAnalysis(window=1, surround=0, samples=2000, sampler="marginal", kind="score")
    found = px.explain(net, x, method, data=data, target=px.unit("1", 2))
    want = net[1].weight[2].detach().reshape(3, 3) * (x[0, 0] - data.mean((0, 1)))
    assert bool(((found.values[0, 0] - want).abs() <= 5 * found.error[0, 0]).all())


@pytest.mark.parametrize(
    ("settings", "shape", "error"),
    [
        ({"window": 0}, (1, 1, 5, 4), MethodError),
        ({"window": 5}, (1, 1, 5, 4), InputError),
        ({"stride": 5}, (1, 1, 5, 4), MethodError),
        ({"samples": 1}, (1, 1, 5, 4), MethodError),
        ({"sampler": "gibbs"}, (1, 1, 5, 4), MethodError),
        ({"kind": "bits"}, (1, 1, 5, 4), MethodError),
        ({}, (1, 20), InputError),
        ({}, (1, 2, 5, 4), InputError),
    ],
)
def test_what_is_refused(settings, shape, error):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(error):
        px.explain(
            model, torch.zeros(*shape, **DOUBLE), PredictionDifferenceAnalysis(**settings), data=constant_images()
        )
