"""Completeness in closed form: products, saturated rectifiers, chains without biases, sums written out."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import EpsilonLRP, FeatureAblation, GradientXInput, IntegratedGradients, ShapleyValue
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError
from pellucid.evaluation import Completeness

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Product(nn.Module):
    """S(x) = Π x_i: gradient times input sums to n S, not S."""

    def forward(self, x):
        return x.flatten(1).prod(1, keepdim=True)


class Saturated(nn.Module):
    """S(x) = 1 - ReLU(1 - x), the example of the axiom's paper: flat beyond x = 1."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return 1 - self.relu(1 - x)


def network(*shape, bias=True):
    count = torch.Size(shape).numel()
    layers = (
        nn.Linear(count, 7, bias=bias),
        nn.ReLU(),
        nn.Linear(7, 5, bias=bias),
        nn.ReLU(),
        nn.Linear(5, 3, bias=bias),
    )
    net = nn.Sequential(nn.Flatten(), *layers).double()
    for k, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=k)
    return net.eval()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (1, 3, 2)])
def test_gap_is_that_of_the_definition(rows, shape):
    net, x, target = network(*shape), drawn(rows, *shape, seed=9), torch.arange(rows) % 3
    values = px.explain(net, x, GradientXInput(baseline=0.5), target=target).values
    found = px.explain(net, x, Completeness(of=GradientXInput(baseline=0.5)), target=target)
    for row in range(rows):
        with torch.no_grad():
            here, there = (
                net(x[row : row + 1])[0, target[row]],
                net(torch.full_like(x[row : row + 1], 0.5))[0, target[row]],
            )
        gap = abs(float(values[row].sum() - (here - there)))
        assert found.facts["gap"][row].item() == pytest.approx(gap, abs=1e-12)
        assert found.values[row].item() == pytest.approx(gap / abs(float(here - there)), rel=1e-9)
    assert found.better == "lower"
    assert found.source["compared"] == "the method's baseline"


def test_gradient_times_input_of_a_product_counts_it_once_for_each_factor():
    x = torch.tensor([[2.0, 3.0, 0.5, 1.0]], **DOUBLE)  # four factors: the values sum to 4 S
    found = px.explain(Product().eval(), x, Completeness(of="gradient-x-input"))
    assert found.facts["sum"].item() == pytest.approx(12.0)
    assert found.facts["change"].item() == pytest.approx(3.0)
    assert found.values.item() == pytest.approx(3.0)
    assert found.facts["passes"].item() == 0


def test_on_a_saturated_unit_integrated_gradients_are_complete_and_the_gradient_loses_everything():
    x = torch.tensor([[2.0]], **DOUBLE)
    exact = Completeness(of=IntegratedGradients(rule="midpoint", steps=64))
    assert px.explain(Saturated().eval(), x, exact).values.item() == pytest.approx(0.0, abs=1e-9)
    lost = px.explain(Saturated().eval(), x, Completeness(of="gradient-x-input"))
    assert (lost.facts["sum"].item(), lost.facts["change"].item(), lost.values.item()) == (0.0, 1.0, 1.0)


def test_the_curve_by_steps_is_the_quadrature_error_and_falls():
    x = torch.tensor([[2.0]], **DOUBLE)
    # S(x) = x², from 0: the left rule with n steps misses x²/n
    found = px.explain(
        lambda_net(lambda v: v**2), x, Completeness(of=IntegratedGradients(rule="left", steps=4), steps=(4, 8, 16))
    )
    assert found.parts["curve"].tolist() == [pytest.approx([1.0, 0.5, 0.25])]
    assert found.parts["steps"].tolist() == [4, 8, 16]
    assert found.facts["gap"].item() == pytest.approx(1.0)


def lambda_net(function):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    return Net().eval()


def test_without_biases_relevance_is_conserved_at_every_layer_and_with_them_the_books_say_what_is_missing():
    x, places = drawn(7, 6, seed=9), ("1", "3", "5")
    of = EpsilonLRP(epsilon=0.0)
    found = px.explain(network(6, bias=False), x, Completeness(of=of, layers=places), target=1)
    with torch.no_grad():
        score = network(6, bias=False)(x)[:, 1]
    assert torch.allclose(found.parts["layer_sum"], score[:, None].expand(-1, 3), atol=1e-10)
    assert found.parts["layer_gap"].amax() < 1e-9
    assert found.facts["passes"].tolist() == [1] * 7
    assert found.source["compared"] == "the whole score"
    kept = px.explain(network(6), x, Completeness(of=of, layers=places), target=1)
    assert kept.facts["passes"].sum() < 7
    assert kept.facts["books_gap"].amax() < 1e-9
    assert torch.allclose(kept.facts["absorbed"].abs(), kept.facts["gap"])
    # at the last layer's output all of the score is there; one step below it, all but the last bias
    bias = network(6)[5].bias[1].abs().expand(7)
    assert torch.allclose(kept.parts["layer_gap"][:, 1], bias, atol=1e-9)
    assert kept.parts["layer_gap"][:, 2].amax() < 1e-12


def test_features_that_repeat_one_figure_count_once():
    class Net(nn.Module):
        def forward(self, x):
            return (x.flatten(1) * torch.arange(1.0, 13.0, **DOUBLE)).sum(1, keepdim=True)

    x, features = drawn(3, 1, 2, 6, seed=4), ("patch", 2)
    plain = px.explain(Net().eval(), x, Completeness(of=ShapleyValue(features=features)))
    assert plain.values.amax() < 1e-9
    of = FeatureAblation(features=features)
    once = px.explain(Net().eval(), x, Completeness(of=of, features=features, baseline=0.0))
    assert once.values.amax() < 1e-9
    every = px.explain(Net().eval(), x, Completeness(of=of, baseline=0.0))
    assert torch.allclose(every.values, torch.full((3,), 3.0, **DOUBLE))  # 4 values each say the same


def test_a_baseline_of_ones_own_and_a_background():
    net, x = network(6), drawn(4, 6, seed=2)
    with torch.no_grad():
        here, half, mean = net(x)[:, 0], net(torch.full_like(x, 0.5))[:, 0], net(drawn(5, 6, seed=8))[:, 0].mean()
    own = px.explain(net, x, Completeness(of="gradient-x-input", baseline=0.5), target=0)
    assert torch.allclose(own.facts["change"], here - half)
    whole = px.explain(net, x, Completeness(of="gradient-x-input", baseline="none"), target=0)
    assert torch.allclose(whole.facts["change"], here)
    background = px.explain(net, x, Completeness(of=ShapleyValue()), target=0, data=drawn(5, 6, seed=8))
    assert torch.allclose(background.facts["change"], here - mean)
    assert background.values.amax() < 1e-9


def test_rows_whose_score_does_not_change_are_listed_and_left_out():
    x = torch.stack([torch.zeros(6, **DOUBLE), drawn(6, seed=3)])
    found = px.explain(network(6), x, Completeness(of="gradient-x-input"), target=0)
    assert found.values[0].isnan()
    assert found.source["overall"]["excluded"] == [0]
    assert found.facts["passes"][0] == 1
    assert found.source["overall"]["mean"] == pytest.approx(found.values[1].item())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tolerance": -1.0}, MethodError),
        ({"layers": "1"}, MethodError),
        ({"layers": ("nowhere",)}, LayerError),
        ({"steps": (0,), "of": "integrated-gradients"}, MethodError),
        ({"steps": 8, "of": "integrated-gradients"}, MethodError),
        ({"steps": (8,)}, MethodError),
        ({"baseline": "night"}, InputError),
        ({"of": "cart-c45-surrogate"}, MethodError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, error):
    net, calls = network(6), []
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(error):
        px.explain(net, drawn(1, 6), Completeness(**settings))
    assert not calls


def test_layers_need_a_module():
    with pytest.raises(NeedError, match="torch module"):
        px.explain(lambda x: x, drawn(1, 6), Completeness(of="feature-ablation", layers=("1",)), target=0)
