"""SmoothGrad against Gaussian integrals in closed form, and its standard errors against repetition."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence, stock
from pellucid.attribution import IntegratedGradients, SmoothGrad
from pellucid.engine.inputs import as_inputs

DOUBLE = {"dtype": torch.float64}


class Formula(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)[:, None]


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def cdf(z):
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def test_linear_network_is_its_own_gradient_whatever_the_noise():
    model = nn.Linear(5, 3).double().eval()
    got = px.explain(model, rows(4, 5), SmoothGrad(samples=3, noise=2.0), target=1)
    assert torch.allclose(got.values, model.weight[1].detach().expand(4, 5), atol=1e-14)
    assert float(got.error.abs().max()) < 1e-7


def test_quadratic_expectation_is_the_gradient_at_x():
    model = Formula(lambda v: (v**2).sum(1)).eval()
    x = rows(2, 4)
    got = px.explain(model, x, SmoothGrad(samples=4000))
    assert bool(((got.values - 2 * x).abs() <= 5 * got.error).all())
    # The gradient of a draw is 2(x + n), so the standard error is 2σ/√N with σ = 0.15 · range.
    sigma = 0.15 * (x.amax(1) - x.amin(1))
    want = (2 * sigma / math.sqrt(4000))[:, None].expand(2, 4)
    assert torch.allclose(got.error, want, rtol=0.06)


def test_relu_smoothed_by_a_gaussian():
    # f = Σ relu(x): the smoothed gradient is Φ(x/σ); squared: the same (0 or 1); variance: Φ(1 - Φ).
    model = Formula(lambda v: v.clamp(min=0).sum(1)).eval()
    x = torch.tensor([[-1.0, -0.2, 0.0, 0.4, 1.0]], **DOUBLE)
    want = cdf(x / (0.3 * 2))
    for kind, value in (("mean", want), ("squared", want), ("variance", want * (1 - want))):
        got = px.explain(model, x, SmoothGrad(samples=4000, noise=0.3, kind=kind))
        assert bool(((got.values - value).abs() <= 5 * got.error + 1e-3).all()), kind


def test_kinds_equal_moments_of_the_same_draws():
    model = Formula(lambda v: (v**3).sum(1)).eval()
    x = rows(3, 4)
    mean, squared, variance = (
        px.explain(model, x, SmoothGrad(samples=50, kind=kind)).values for kind in ("mean", "squared", "variance")
    )
    assert torch.allclose(variance, (squared - mean**2) * 50 / 49, atol=1e-10)


@pytest.mark.parametrize("kind", ["mean", "squared", "variance"])
def test_stated_error_equals_the_spread_over_seeds(kind):
    model = Formula(lambda v: (v**3).sum(1)).eval()
    x = rows(2, 3)
    runs = [px.explain(model, x, SmoothGrad(samples=64, kind=kind), seed=s) for s in range(200)]
    spread = torch.stack([r.values for r in runs]).std(0)
    stated = torch.stack([r.error for r in runs]).pow(2).mean(0).sqrt()
    assert bool(((stated / spread - 1).abs() < 0.3).all())


def test_tolerance_stops_each_row_by_itself():
    model = Formula(lambda v: (v**3).sum(1)).eval()
    x = torch.cat([rows(2, 3), rows(1, 3) * 0.01 + 5])
    got = px.explain(model, x, SmoothGrad(samples=4, tolerance=0.02))
    ratio = got.error.norm(dim=1) / got.values.norm(dim=1)
    assert torch.allclose(ratio, got.facts["relative_standard_error"], rtol=1e-9)
    assert bool((ratio <= 0.02).all())
    assert len(set(got.facts["samples"].tolist())) > 1


def test_a_row_draws_the_same_noise_wherever_it_stands():
    model = Formula(lambda v: (v**3).sum(1)).eval()
    x, method = rows(4, 3), SmoothGrad(samples=5)
    whole = px.explain(model, x, method).values
    assert torch.equal(px.explain(model, x.flip(0), method).values.flip(0), whole)
    assert torch.equal(px.explain(model, x[2:3], method).values, whole[2:3])
    assert not torch.equal(px.explain(model, x, method, seed=1).values, whole)


def test_smooths_any_explanation():
    model = Formula(lambda v: v[:, 0] * v[:, 1]).eval()
    x = rows(2, 2)
    inner = IntegratedGradients(steps=2)
    got = px.explain(model, x, SmoothGrad(of=inner, samples=4000, noise=0.1))
    # Integrated gradients of x·y from zero give xy/2 each, and E[(x + n)(y + m)] = xy.
    assert bool(((got.values - (x.prod(1) / 2)[:, None]).abs() <= 5 * got.error).all())


def test_equals_the_loop_with_the_same_noise():
    from pellucid.engine import seed
    from pellucid.engine.inputs import as_inputs

    model = Formula(lambda v: (v**3).sum(1)).eval()
    x = rows(2, 3)
    keys, want = as_inputs(x).keys(), torch.zeros(2, 3, **DOUBLE)
    for i in range(2):
        sigma = 0.15 * (x[i].max() - x[i].min())
        for k in range(6):
            n = seed.normal(7, [keys[i]], [k << 8], (3,), x)
            want[i] += 3 * (x[i] + sigma * n[0]) ** 2 / 6
    assert torch.allclose(px.explain(model, x, SmoothGrad(samples=6), seed=7).values, want, atol=1e-12)


@pytest.mark.parametrize("method", [SmoothGrad(samples=1), SmoothGrad(kind="median"), SmoothGrad(noise=-1.0)])
def test_impossible_settings_are_refused(method):
    with pytest.raises(px.contract.errors.MethodError):
        px.explain(nn.Linear(3, 2).eval(), torch.ones(1, 3), method)


def test_token_ids_tremble_at_their_embedding():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding = nn.Embedding(10, 4)

        def forward(self, ids):
            return (self.embedding(ids) ** 2).sum((1, 2))[:, None]

    model, ids = Tokens().double().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(px.contract.errors.InputError, match="embedding"):
        px.explain(model, ids, SmoothGrad(samples=4))
    got = px.explain(model, ids, SmoothGrad(samples=2000), layer="embedding")
    assert got.values.shape == (2, 3, 4)
    assert bool((got.error > 0).all())
    assert bool(((got.values - 2 * model.embedding(ids)).abs() <= 5 * got.error).all())


def test_padding_changes_neither_noise_nor_range():
    net = stock.settle(sequence.Tokens())
    short = {"ids": sequence.token_ids(), "mask": torch.ones(3, sequence.LENGTH, dtype=torch.long)}
    long = {name: torch.cat([x, torch.zeros(3, 4, dtype=torch.long)], 1) for name, x in short.items()}
    method = SmoothGrad(samples=4)
    found = px.explain(net, short, method, layer="embedding", target=1).values
    padded = px.explain(net, long, method, layer="embedding", target=1).values
    assert torch.allclose(padded[:, : sequence.LENGTH], found, atol=1e-10)
    assert found.abs().max() > 1e-3
    # A word more is another sentence, with other noise.
    other = {name: torch.cat([x, torch.ones(3, 1, dtype=torch.long)], 1) for name, x in short.items()}
    assert as_inputs(other).keys() != as_inputs(short).keys() == as_inputs(long).keys()


def test_rows_of_numbers_are_told_apart_by_every_number():
    table = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 1]])
    assert len(set(as_inputs(table).keys())) == 4
    images = torch.zeros(2, 1, 2, 2)
    images[1, 0, 1, 1] = 1
    assert len(set(as_inputs(images).keys())) == 2
    assert as_inputs(images).lengths() is None
    masked = (torch.tensor([[3, 0, 0], [0, 2, 0]]), torch.tensor([[1, 1, 0], [1, 1, 0]]))
    assert as_inputs(masked).lengths().tolist() == [2, 2]  # a 0 under a mask of 1 is a word
