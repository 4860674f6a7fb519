"""Disturbed features against closed forms of linear scores, the gradient, and loops."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import SensitivityAnalysis
from pellucid.contract.errors import InputError, MethodError, NeedError

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Net(nn.Module):
    def __init__(self, columns=4, classes=3):
        super().__init__()
        self.first, self.last = nn.Linear(columns, 5, **DOUBLE), nn.Linear(5, classes, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def linear(columns=4):
    net = nn.Linear(columns, 2, **DOUBLE).eval()
    net.weight.data = drawn(2, columns, seed=3)
    return net


def test_a_small_shift_tends_to_the_gradient():
    net, x = Net(), drawn(2, 4, seed=5)
    reach = (x.amax(1) - x.amin(1))[:, None]
    method = SensitivityAnalysis(disturbance="shift", distance="size", size=1e-6)
    found = px.explain(net, x, method, target=1).values / (1e-6 * reach)
    slope = px.explain(net, x, "vanilla-gradient", target=1).values.abs()
    assert torch.allclose(found, slope, rtol=1e-5)


def test_noise_on_a_line_has_the_half_normal_mean():
    net, x = linear(), drawn(2, 4, seed=5)
    sigma = 0.2 * (x.amax(1) - x.amin(1))[:, None] * net.weight[0].detach().abs()
    size = px.explain(net, x, SensitivityAnalysis(size=0.2, samples=4000), target=0)
    assert bool(((size.values - sigma * math.sqrt(2 / math.pi)).abs() <= 5 * size.error).all())
    square = px.explain(net, x, SensitivityAnalysis(size=0.2, samples=4000, distance="square"), target=0)
    assert bool(((square.values - sigma**2).abs() <= 5 * square.error).all())
    drop = px.explain(net, x, SensitivityAnalysis(size=0.2, samples=4000, distance="drop"), target=0)
    assert bool((drop.values.abs() <= 5 * drop.error).all())
    assert torch.allclose(size.error.mean(), sigma.mean() * math.sqrt((1 - 2 / math.pi) / 4000), rtol=0.1)
    together = (sigma**2).sum(1).sqrt() * math.sqrt(2 / math.pi)
    assert torch.allclose(size.facts["all_at_once"], together, rtol=0.1)


def test_values_of_other_rows_on_a_line():
    net, x, data = linear(), drawn(2, 4, seed=5), drawn(7, 4, seed=6)
    method = SensitivityAnalysis(disturbance="resample", distance="drop", samples=4000)
    found = px.explain(net, x, method, target=0, data=data)
    want = net.weight[0].detach() * (x - data.mean(0))
    assert bool(((found.values - want).abs() <= 5 * found.error).all())


def test_occlusion_is_the_ablation():
    net, x = Net(), drawn(3, 4, seed=5)
    method = SensitivityAnalysis(disturbance="occlude", distance="drop", baseline=0.5)
    found = px.explain(net, x, method, target=2)
    ablation = px.explain(net, x, px.attribution.FeatureAblation(baseline=0.5), target=2)
    assert torch.allclose(found.values, ablation.values, atol=1e-12)
    assert found.error is None
    with torch.no_grad():
        gone = net(torch.full_like(x, 0.5))[:, 2]
        assert torch.allclose(found.facts["all_at_once"], net(x)[:, 2] - gone)


@pytest.mark.parametrize("distance", ["kl", "flip"])
def test_distances_of_all_classes(distance):
    net, x = Net(), drawn(3, 4, seed=5)
    found = px.explain(net, x, SensitivityAnalysis(disturbance="occlude", distance=distance, baseline="mean"))
    for row in range(3):
        for column in range(4):
            other = x[row].clone()
            other[column] = x[row].mean()
            with torch.no_grad():
                p, q = net(x[row : row + 1]).softmax(1)[0], net(other[None]).softmax(1)[0]
            kl = sum((a * math.log2(a / b)).item() for a, b in zip(p, q, strict=True))
            want = kl if distance == "kl" else float(p.argmax() != q.argmax())
            assert found.values[row, column].item() == pytest.approx(want, abs=1e-9)


def test_shuffled_features_keep_their_values():
    class First(nn.Module):
        """The sum of each half, which no order changes, and the first pixel of the first."""

        def forward(self, x):
            return torch.stack([x[:, 0].sum((1, 2)) + 2 * x[:, 1].sum((1, 2)), x[:, 0, 0, 0]], 1)

    x = drawn(2, 2, 3, 2, seed=5)
    settings = {"disturbance": "shuffle", "distance": "drop", "features": "channel", "samples": 2000}
    sums = px.explain(First().eval(), x, SensitivityAnalysis(**settings), target=0)
    assert sums.values.abs().max() < 1e-10
    first = px.explain(First().eval(), x, SensitivityAnalysis(**settings), target=1)
    want = x[:, 0, 0, 0] - x[:, 0].mean((1, 2))
    assert bool(((first.values[:, 0, 0, 0] - want).abs() <= 5 * first.error[:, 0, 0, 0]).all())
    assert first.values[:, 1].abs().max() == 0


def test_an_unread_column_gets_exactly_zero():
    net = Net()
    net.first.weight.data[:, 1] = 0
    data = drawn(6, 4)
    for disturbance in ("noise", "resample", "shift", "occlude"):
        found = px.explain(net, drawn(2, 4, seed=5), SensitivityAnalysis(disturbance=disturbance), data=data, target=0)
        assert found.values[:, 1].abs().max() == 0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"disturbance": "swap"}, MethodError),
        ({"distance": "l2"}, MethodError),
        ({"samples": 1}, MethodError),
        ({"size": 0.0}, MethodError),
        ({"disturbance": "resample"}, NeedError),
        ({"features": "token"}, InputError),
    ],
)
def test_what_is_refused_before_the_model_runs(settings, error):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(error):
        px.explain(model, torch.zeros(1, 4), SensitivityAnalysis(**settings))


def test_distances_of_classes_need_classes():
    with pytest.raises(InputError, match="classes"):
        px.explain(nn.Linear(4, 1).eval(), torch.zeros(1, 4), SensitivityAnalysis(distance="kl"))
