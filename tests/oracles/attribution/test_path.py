"""Integrated gradients, expected gradients and conductance against closed forms, axioms and brute force."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import Conductance, ExpectedGradients, IntegratedGradients
from pellucid.attribution.path import nodes
from pellucid.contract.errors import InputError

DOUBLE = {"dtype": torch.float64}


class Formula(nn.Module):
    """A network that is one line of mathematics, (N, d) → (N, 1)."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)[:, None]


def net(seed=0, inputs=5, outputs=3):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE)
    return model.eval()


def rows(count=4, width=5, seed=1):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def test_quadratic_form_has_its_closed_form():
    # f = xᵀAx, baseline b: the integral of the gradient (A + Aᵀ)(b + a(x-b)) over a is (A + Aᵀ)(x + b)/2.
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), **DOUBLE)
    x = rows(3, 4)
    model = Formula(lambda v: ((v @ a) * v).sum(1)).eval()
    got = px.explain(model, x, IntegratedGradients(steps=1, baseline=0.5))
    assert torch.allclose(got.values, (x - 0.5) * ((x + 0.5) / 2 @ (a + a.T)), atol=1e-12)


def test_saturated_unit_gets_its_share_where_the_gradient_is_zero():
    # f = min(1, x1 + x2) at (2, 2) from 0: the gradient is 1 for a < 1/4 and 0 after, so each input gets 2/4 = 1/2.
    model = Formula(lambda v: v.sum(1).clamp(max=1)).eval()
    x = torch.full((1, 2), 2.0, **DOUBLE)
    gradient = px.explain(model, x, "vanilla-gradient")
    got = px.explain(model, x, IntegratedGradients(rule="midpoint", steps=400))
    assert torch.equal(gradient.values, torch.zeros(1, 2, **DOUBLE))
    assert torch.allclose(got.values, torch.full((1, 2), 0.5, **DOUBLE), atol=1e-12)


def test_polynomials_of_degree_2n_are_exact_with_n_nodes():
    # d/dx x⁶ has degree 5 along the path; three Gauss-Legendre nodes are exact to degree 5, two are not.
    model = Formula(lambda v: (v**6).sum(1)).eval()
    x = rows(3, 2)
    exact = px.explain(model, x, IntegratedGradients(steps=3)).values
    assert torch.allclose(exact, x**6, rtol=1e-12)
    assert not torch.allclose(px.explain(model, x, IntegratedGradients(steps=2)).values, x**6, rtol=1e-6)


@pytest.mark.parametrize("rule", ["gauss-legendre", "trapezoid", "midpoint", "left", "right"])
def test_equals_the_loop_over_nodes(rule):
    model, x, base, n = net(), rows(), 0.3, 7
    at = {
        "trapezoid": [k / (n - 1) for k in range(n)],
        "midpoint": [(k + 0.5) / n for k in range(n)],
        "left": [k / n for k in range(n)],
        "right": [(k + 1) / n for k in range(n)],
    }.get(rule)
    weight = [1 / n] * n
    if rule == "trapezoid":
        weight = [1 / (n - 1) * (0.5 if k in (0, n - 1) else 1) for k in range(n)]
    if rule == "gauss-legendre":
        at, weight = nodes(rule, n)
    want = torch.zeros_like(x)
    for i in range(len(x)):
        for a, w in zip(at, weight, strict=True):
            point = (base + a * (x[i : i + 1] - base)).requires_grad_()
            (g,) = torch.autograd.grad(model(point)[0, 1], point)
            want[i] += w * (x[i] - base) * g[0]
    got = px.explain(model, x, IntegratedGradients(steps=n, rule=rule, baseline=base), target=1)
    assert torch.allclose(got.values, want, rtol=1e-12, atol=1e-13)


def test_gauss_legendre_nodes_integrate_polynomials():
    for n in (1, 2, 5, 12, 80):
        at, weight = nodes("gauss-legendre", n)
        for degree in range(min(2 * n, 60)):
            assert math.isclose(sum(w * a**degree for a, w in zip(at, weight, strict=True)), 1 / (degree + 1))


def test_tolerance_is_met_by_measured_gap_and_each_row_stops_by_itself():
    model, x = net(), rows(6)
    got = px.explain(model, x, IntegratedGradients(tolerance=1e-3, max_steps=4096), target=0)
    change = model(x)[:, 0] - model(torch.zeros_like(x))[:, 0]
    gap = (got.values.sum(1) - change).abs().detach()
    assert torch.allclose(gap, got.facts["completeness_gap"], atol=1e-12)
    assert torch.allclose(gap / change.abs().detach(), got.facts["relative_gap"], atol=1e-12)
    assert bool((got.facts["relative_gap"] <= 1e-3).all())
    assert bool((got.facts["converged"] == 1).all())
    assert len(set(got.facts["steps"].tolist())) > 1


def test_says_so_when_the_tolerance_is_out_of_reach():
    got = px.explain(net(), rows(), IntegratedGradients(tolerance=1e-9, max_steps=16), target=0)
    assert bool((got.facts["converged"] == 0).any())
    assert got.facts["steps"].max() == 8 + 16


def test_two_spellings_of_one_function_get_the_same_map():
    # relu(x) = (x + |x|)/2 away from zero: another network, the same function.
    model, x = net(), rows()

    class Other(nn.Module):
        def forward(self, v):
            v = model[0](v)
            return model[4](torch.tanh(model[2]((v + v.abs()) / 2)))

    method = IntegratedGradients(steps=32)
    assert torch.allclose(
        px.explain(model, x, method, target=1).values,
        px.explain(Other().eval(), x, method, target=1).values,
        atol=1e-12,
    )


def test_interior_gradients_are_the_mean_gradient():
    model, x = net(), rows()
    whole = px.explain(model, x, IntegratedGradients(steps=16), target=2).values
    inner = px.explain(model, x, IntegratedGradients(steps=16, interior=True), target=2).values
    assert torch.allclose(inner * x, whole, atol=1e-12)


def test_baseline_given_as_data_and_its_errors():
    model, x = net(), rows()
    own = rows(4, 5, seed=9)
    got = px.explain(model, x, IntegratedGradients(steps=8), target=0, data=own)
    each = [
        px.explain(model, x[i : i + 1], IntegratedGradients(steps=8), target=0, data=own[i : i + 1]).values
        for i in range(4)
    ]
    assert torch.allclose(got.values, torch.cat(each), atol=1e-13)
    assert torch.equal(got.baseline, own)
    with pytest.raises(ValueError, match="shape"):
        px.explain(model, x, IntegratedGradients(), data=torch.zeros(3, 5, **DOUBLE))


def test_layer_explains_hidden_values_from_the_baselines_hidden_values():
    model, x = net(), rows()
    got = px.explain(model, x, IntegratedGradients(steps=64), target=0, layer="1")
    hidden, start = model[:2](x), model[:2](torch.zeros_like(x))
    tail = px.explain(model[2:].eval(), hidden.detach(), IntegratedGradients(steps=64), target=0, data=start.detach())
    assert torch.allclose(got.values, tail.values, atol=1e-12)


def test_expected_gradients_of_a_product():
    # f = x y at (2, 5). Baseline 0: (5, 5); baseline (1, 1): x: 1·∫(1+4a) = 3, y: 4·∫(1+a) = 6. The mean is (4, 5.5).
    model = Formula(lambda v: v[:, 0] * v[:, 1]).eval()
    x = torch.tensor([[2.0, 5.0]], **DOUBLE)
    background = torch.tensor([[0.0, 0.0], [1.0, 1.0]], **DOUBLE)
    got = px.explain(model, x, ExpectedGradients(exact=True), data=background)
    assert torch.allclose(got.values, torch.tensor([[4.0, 5.5]], **DOUBLE), atol=1e-12)
    assert got.facts["completeness_gap"].item() < 1e-12
    assert got.facts["baseline_score"].item() == 0.5


def test_expected_gradients_are_the_mean_of_integrated_gradients():
    model, x, background = net(), rows(), rows(7, 5, seed=5)
    each = [
        px.explain(model, x, IntegratedGradients(steps=16), target=1, data=b[None].expand(4, 5)).values
        for b in background
    ]
    got = px.explain(model, x, ExpectedGradients(exact=True, steps=16), target=1, data=background)
    assert torch.allclose(got.values, torch.stack(each).mean(0), atol=1e-12)


def test_expected_gradients_intervals_cover_the_exact_value():
    model, x, background = net(), rows(2), rows(16, 5, seed=5)
    exact = px.explain(model, x, ExpectedGradients(exact=True, steps=200), target=1, data=background).values
    inside, off = 0, []
    for seed in range(60):
        got = px.explain(model, x, ExpectedGradients(samples=64), target=1, data=background, seed=seed)
        inside += int(((got.values - exact).abs() <= 1.96 * got.error).sum())
        off.append(got.values - exact)
    # Strata and draws without replacement make the stated error an upper bound, so at least the nominal 95 % are inside.
    assert inside / (60 * exact.numel()) > 0.93
    bias = torch.stack(off).mean(0) / (torch.stack(off).std(0) / math.sqrt(60))
    assert bool((bias.abs() < 5).all())


def test_expected_gradients_stop_at_the_tolerance():
    model, x, background = net(), rows(3), rows(16, 5, seed=5)
    got = px.explain(model, x, ExpectedGradients(samples=16, tolerance=0.05), target=1, data=background)
    assert bool((got.error.norm(dim=1) <= 0.05 * got.values.norm(dim=1)).all())
    assert got.facts["samples"].min() > 16


def test_conductance_sums_to_the_change_in_every_layer():
    model, x = net(), rows()
    change = (model(x) - model(torch.zeros_like(x)))[:, 0].detach()
    for layer in "0123":
        got = px.explain(model, x, Conductance(steps=512), target=0, layer=layer)
        assert torch.allclose(got.values.sum(1), change, rtol=2e-3), layer


def test_conductance_of_a_linear_network_is_weight_times_change():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    x = rows(2, 3)
    want = model[1].weight[1] * (model[0](x) - model[0](torch.zeros_like(x)))
    got = px.explain(model, x, Conductance(steps=1), target=1, layer="0")
    assert torch.allclose(got.values, want.detach(), atol=1e-12)


def test_conductance_equals_the_loop_over_pieces():
    model, x, n = net(), rows(2), 5
    want = torch.zeros(2, 6, **DOUBLE)
    for i in range(2):
        for k in range(n):
            start, middle, stop = (model[:3]((k + s) / n * x[i : i + 1]) for s in (0, 0.5, 1))
            leaf = middle.detach().requires_grad_()
            (g,) = torch.autograd.grad(model[3:](leaf)[0, 2], leaf)
            want[i] += (g * (stop - start))[0].detach()
    got = px.explain(model, x, Conductance(steps=n), target=2, layer="2")
    assert torch.allclose(got.values, want, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        IntegratedGradients(rule="simpson"),
        IntegratedGradients(steps=0),
        IntegratedGradients(tolerance=0.0),
        IntegratedGradients(tolerance="a"),
    ],
)
def test_impossible_settings_are_refused(method):
    with pytest.raises(px.contract.errors.MethodError):
        px.explain(net(), rows(), method)


def test_token_ids_have_no_path_from_a_baseline():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, ids):
            return self.head(self.words(ids).mean(1))

    with pytest.raises(InputError, match=r"must have a floating tensor.*torch\.int64"):
        px.explain(Reader().eval(), torch.ones(2, 4, dtype=torch.long), "conductance", layer="words")
