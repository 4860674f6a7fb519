"""Deep approximate Shapley propagation: exact where affine, moments by integration, the definition by a loop."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import nn

import pellucid as px
from pellucid.attribution import DeepApproximateShapley, ShapleySampling, ShapleyValue
from pellucid.attribution.dasp import _coalitions
from pellucid.attribution.dasp_moments import Normal, larger, pooled, rectified, smoothed
from pellucid.contract.errors import LayerError, MethodError, NeedError, UnsupportedOperation

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def settle(model, seed=1):
    model = model.double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=seed + number) / max(1, p[0].numel()) ** 0.5
    for number, b in enumerate(model.buffers()):
        if b.is_floating_point():
            b.data = drawn(*b.shape, seed=seed + 50 + number).abs() + 0.5
    return model.eval()


def mlp(columns=10, hidden=20, layers=2, seed=1):
    parts, width = [], columns
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return settle(nn.Sequential(*parts, nn.Linear(width, 3)), seed)


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [None, drawn(3, 6, seed=20)])
def test_linear_model_is_exact(background):
    model, x = settle(nn.Linear(6, 2)), drawn(3, 6, seed=9)
    got = px.explain(model, x, "dasp", target=1, data=background)
    mean = torch.zeros(6, **DOUBLE) if background is None else background.mean(0)
    torch.testing.assert_close(got.values, (x - mean) * model.weight[1].detach(), rtol=0, atol=1e-12)
    assert got.facts["completeness_gap"].max() < 1e-12


class AffineImage(nn.Module):
    """Convolution, batch-norm, averages, a skip, a concatenation and shapes: affine as a whole."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.two, self.last = nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Linear(30, 2)

    def forward(self, x):
        x = self.norm(self.one(x))
        x = F.avg_pool2d(x + 0.5 * x - 1.0, 2)
        y = self.two(x)
        pooled = [F.adaptive_avg_pool2d(x, (2, 2)).flatten(1), y.flatten(1), x.mean((2, 3)), x.sum((2, 3))]
        return self.last(torch.cat(pooled, 1) / 2)


def test_affine_network_of_many_operations_is_exact():
    model, x = settle(AffineImage()), drawn(2, 2, 8, 8, seed=3)
    method = {"features": ("grid", 3), "baseline": "mean"}
    got = px.explain(model, x, DeepApproximateShapley(**method), target=[1, 0])
    exact = px.explain(model, x, ShapleyValue(**method), target=[1, 0])
    torch.testing.assert_close(got.values, exact.values, rtol=0, atol=1e-11)
    few = px.explain(model, x, DeepApproximateShapley(**method, sizes=2), target=[1, 0])
    torch.testing.assert_close(few.values, exact.values, rtol=0, atol=1e-11)


def test_two_features_are_exact_in_any_network():
    # Coalitions of no feature or one are points: nothing is approximated.
    model, x = mlp(2), drawn(4, 2, seed=9)
    got = px.explain(model, x, "dasp", target=0)
    torch.testing.assert_close(got.values, px.explain(model, x, ShapleyValue(), target=0).values, rtol=0, atol=1e-12)
    assert got.facts["completeness_gap"].max() < 1e-12


# --- moments ----------------------------------------------------------------------------------------------------------


def test_mean_and_variance_of_random_coalitions():
    values = drawn(6, 4, seed=2)  # at none, and at each of five features alone
    gain = (values[1:] - values[0]).numpy()
    jobs = torch.tensor([[i, k, joined] for i in range(5) for k in range(5) for joined in range(2)])
    got = _coalitions(values, jobs)
    for number, (i, k, joined) in enumerate(jobs.tolist()):
        others = [j for j in range(5) if j != i]
        sums = [values[0].numpy() + gain[list(c)].sum(0) + joined * gain[i] for c in itertools.combinations(others, k)]
        assert got.mean[number].tolist() == pytest.approx(np.mean(sums, 0).tolist(), abs=1e-12)
        assert got.variance[number].tolist() == pytest.approx(np.var(sums, 0).tolist(), abs=1e-12)


def moments(function, density):
    first = integrate.quad(lambda z: function(z) * density(z), -12, 12, points=[0], limit=200)[0]
    second = integrate.quad(lambda z: function(z) ** 2 * density(z), -12, 12, points=[0], limit=200)[0]
    return first, second - first**2


@pytest.mark.parametrize(("mean", "variance"), [(0.3, 1.0), (-2.0, 0.5), (1.5, 2.0), (0.0, 0.7)])
def test_functions_of_one_normal_by_integration(mean, variance):
    value = Normal(torch.tensor([mean], **DOUBLE), torch.tensor([variance], **DOUBLE))
    density = stats.norm(mean, variance**0.5).pdf
    for function, found, limit in (
        (lambda z: max(z, 0.0), rectified(value), 1e-8),
        (math.tanh, smoothed(value, torch.tanh), 1e-4),  # by 32 points of a quadrature
        (lambda z: z * stats.norm.cdf(z), smoothed(value, F.gelu), 1e-4),
    ):
        first, second = moments(function, density)
        assert found.mean.item() == pytest.approx(first, abs=limit)
        assert found.variance.item() == pytest.approx(second, abs=limit)


@pytest.mark.parametrize("other", [(0.5, 1.0), (3.0, 0.2), (-1.0, 2.0)])
def test_larger_of_two_normals_by_integration(other):
    one, two = stats.norm(0.2, 0.8), stats.norm(other[0], other[1] ** 0.5)
    density = lambda z: one.pdf(z) * two.cdf(z) + two.pdf(z) * one.cdf(z)  # noqa: E731
    first, second = moments(lambda z: z, density)
    pair = [Normal(*(torch.tensor([v], **DOUBLE) for v in given)) for given in ((0.2, 0.64), other)]
    found = larger(*pair)
    assert found.mean.item() == pytest.approx(first, abs=1e-6)
    assert found.variance.item() == pytest.approx(second, abs=1e-6)


def test_certain_values_go_through_as_they_are():
    mean = drawn(2, 3, 7, 6, seed=5)
    certain = Normal(mean, torch.zeros_like(mean))
    for settings in ((2, 2, 0, 1), (3, 1, 1, 1), ((3, 2), (2, 1), (1, 0), (1, 2))):
        found = pooled(certain, *settings)
        torch.testing.assert_close(found.mean, F.max_pool2d(mean, *settings), rtol=0, atol=1e-12)
        assert found.variance.abs().max() < 1e-12
    assert torch.equal(rectified(certain).mean, mean.relu())
    torch.testing.assert_close(smoothed(certain, torch.tanh).mean, torch.tanh(mean), rtol=0, atol=1e-12)
    flat = Normal(mean[:, :, 0], torch.zeros_like(mean[:, :, 0]))
    torch.testing.assert_close(pooled(flat, 3, 2, 1, 1).mean, F.max_pool1d(mean[:, :, 0], 3, 2, 1), rtol=0, atol=1e-12)


# --- whole networks ---------------------------------------------------------------------------------------------------


def by_a_loop(model, x, target):
    """The method for Linear, ReLU, Linear, ReLU, Linear by numpy, from its description; absent features are zero."""
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in model if isinstance(m, nn.Linear)]

    def relu(m, v):
        s = np.sqrt(v)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(s > 0, m / s, np.sign(m) * np.inf)
        first = m * stats.norm.cdf(z) + s * stats.norm.pdf(z)
        second = (m**2 + v) * stats.norm.cdf(z) + m * s * stats.norm.pdf(z)
        return first, np.maximum(second - first**2, 0)

    def expected(chosen, k, joined):
        (w, b), parts = weights[0], weights[0][0] * x
        others = [j for j in range(len(x)) if j != chosen]
        sums = np.array([parts[:, list(c)].sum(1) for c in itertools.combinations(others, k)])
        m, v = sums.mean(0) + b + joined * parts[:, chosen], sums.var(0)
        for w, b in weights[1:]:
            m, v = relu(m, v)
            m, v = w @ m + b, w**2 @ v
        return m[target]

    sizes = range(len(x))
    return [np.mean([expected(i, k, 1) - expected(i, k, 0) for k in sizes]) for i in sizes]


def test_definition_by_a_loop():
    model, x = mlp(5), drawn(2, 5, seed=9)
    got = px.explain(model, x, "dasp", target=[2, 0])
    for n, target in enumerate([2, 0]):
        assert got.values[n].tolist() == pytest.approx(by_a_loop(model, x[n].numpy(), target), abs=1e-10)
    torch.testing.assert_close(got.facts["score"], torch.stack([model(x)[0, 2], model(x)[1, 0]]).detach())
    torch.testing.assert_close(got.facts["baseline_score"], model(x * 0)[0, [2, 0]].detach())
    assert got.facts["forwards"].tolist() == [5 + 1 + 2 * (2 + 2 * 5 * 5) + 2] * 2


class Residual(nn.Module):
    def __init__(self, functional):
        super().__init__()
        self.functional = functional
        self.one, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.pool, self.last = nn.MaxPool2d(3, 2, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.one(x))
        x = F.relu(x) if self.functional else self.act(x)
        x = F.max_pool2d(x, 3, stride=2, padding=1) if self.functional else self.pool(x)
        y = self.two(x)
        y += x
        return self.last(F.adaptive_avg_pool2d(torch.relu(y), 1).reshape(y.size(0), -1))


def test_residual_network_in_two_spellings_is_near_the_exact_values():
    one, other = settle(Residual(True)), settle(Residual(False))
    x = drawn(2, 1, 8, 8, seed=4)
    method = DeepApproximateShapley(features=("grid", 3))
    got = px.explain(one, x, method, target=0)
    torch.testing.assert_close(px.explain(other, x, method, target=0).values, got.values, rtol=0, atol=1e-12)
    exact = px.explain(one, x, ShapleyValue(features=("grid", 3)), target=0).parts["players"]
    found = got.parts["players"]
    assert (found - exact).norm() < 0.5 * exact.norm()
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.9


@pytest.mark.parametrize("columns", [12, 14])
def test_error_is_below_plain_sampling_at_equal_forwards(columns):
    off, sampled = [], []
    for seed in range(3):
        model, x = mlp(columns, 30, seed=10 * seed), drawn(2, columns, seed=seed)
        exact = px.explain(model, x, ShapleyValue(), target=0).values
        got = px.explain(model, x, DeepApproximateShapley(sizes=3), target=0)
        off.append((got.values - exact).square().sum() / exact.square().sum())
        walks = int(got.facts["forwards"][0]) // (columns - 1)
        for draw in range(3):
            method = ShapleySampling(walks=walks, design="plain")
            found = px.explain(model, x, method, target=0, seed=draw).values
            sampled.append((found - exact).square().sum() / exact.square().sum())
    assert torch.stack(off).mean() < 0.8 * torch.stack(sampled).mean()


def test_sizes_chunks_rows_and_columns_never_read():
    model, x = mlp(6), drawn(3, 6, seed=9)
    model[0].weight.data[:, 4] = 0
    whole = px.explain(model, x, "dasp", target=0)
    assert whole.values[:, 4].abs().max() < 1e-14
    small = px.explain(model, x, "dasp", target=0, memory=20_000)
    torch.testing.assert_close(small.values, whole.values, rtol=0, atol=1e-12)
    one = px.explain(model, x[1:2], "dasp", target=0)
    torch.testing.assert_close(one.values, whole.values[1:2], rtol=0, atol=1e-12)
    all_sizes = px.explain(model, x, DeepApproximateShapley(sizes=6), target=0)
    assert torch.equal(all_sizes.values, whole.values)


def test_hooks_are_not_called_but_must_not_matter():
    model, x, calls = mlp(5), drawn(2, 5, seed=9), []
    plain = px.explain(model, x, "dasp", target=0).values
    watching = model[1].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(px.explain(model, x, "dasp", target=0).values, plain)
    watching.remove()
    model[1].register_forward_hook(lambda module, given, output: output * 1.5)
    with pytest.raises(UnsupportedOperation, match="own scores"):
        px.explain(model, x, "dasp", target=0)


def test_refused_operations_are_named():
    x, calls = drawn(2, 6), []
    for part, name in ((nn.LayerNorm(6), "LayerNorm"), (nn.Softmax(1), "Softmax"), (nn.LeakyReLU(), "LeakyReLU")):
        model = settle(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), part, nn.Linear(6, 2)))
        with pytest.raises(UnsupportedOperation, match=name):
            px.explain(model, x, "dasp", target=0)

    class Product(nn.Module):
        def forward(self, x):
            return (x * x.flip(1))[:, :2]

    class AcrossRows(nn.Module):
        def forward(self, x):
            return x - x.mean(0, keepdim=True)

    with pytest.raises(UnsupportedOperation, match="flip, mul"):
        px.explain(Product().eval(), x, "dasp", target=0)
    with pytest.raises(UnsupportedOperation, match="mean"):
        px.explain(AcrossRows().eval(), x, "dasp", target=0)
    model = mlp(6)
    with pytest.raises(NeedError):
        px.explain(lambda x: calls.append(1) or model(x), x, "dasp", target=0)
    with pytest.raises(MethodError, match="sizes"):
        px.explain(model, x, DeepApproximateShapley(sizes=0), target=0)
    with pytest.raises(LayerError):
        px.explain(model, x, "dasp", target=0, layer="0")
    assert not calls
