"""Input invariance in closed form: m times the gradient, references that move along, and biases that take the shift."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import GradientXInput, IntegratedGradients, SmoothGrad
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import InputInvarianceTest

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(*shape):
    count = torch.Size(shape).numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(count, 7), nn.Softplus(), nn.Linear(7, 3)).double()
    for k, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=k)
    return net.eval()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_gradient_times_input_differs_by_the_shift_times_the_gradient(rows, shape):
    net, x, target = network(*shape), drawn(rows, *shape, seed=9), torch.arange(rows) % 3
    grad = px.explain(net, x, "vanilla-gradient", target=target).values
    found = px.explain(net, x, InputInvarianceTest(of="gradient-x-input", shift=0.7), target=target)
    expected = (0.7 * grad).abs().flatten(1).amax(1)
    assert found.facts["largest"].tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert found.values.tolist() == pytest.approx((expected / (x * grad).abs().flatten(1).amax(1)).tolist(), rel=1e-9)
    assert torch.allclose(found.parts["second"] - found.parts["first"], 0.7 * grad)
    assert found.facts["passes"].tolist() == [0] * rows
    assert bool((found.facts["score_gap"] < 1e-12).all())


def test_the_gradient_is_invariant_and_scales_with_the_input_unit():
    net, x = network(6), drawn(4, 6, seed=9)
    found = px.explain(net, x, InputInvarianceTest(of="vanilla-gradient", shift=-3.0))
    assert bool((found.values < 1e-12).all())
    assert found.facts["passes"].tolist() == [1] * 4
    scaled = px.explain(net, x, InputInvarianceTest(of="vanilla-gradient", shift=0.0, scale=4.0))
    assert scaled.values.tolist() == pytest.approx([0.75] * 4)  # a quarter of each value is left
    assert scaled.facts["rank_signed"].tolist() == pytest.approx([1] * 4)
    contributions = px.explain(net, x, InputInvarianceTest(of="gradient-x-input", shift=0.0, scale=4.0))
    assert bool((contributions.values < 1e-12).all())


def test_a_reference_that_moves_along_makes_integrated_gradients_invariant():
    net, x = network(6), drawn(3, 6, seed=9)
    still = IntegratedGradients(baseline=0.0)
    assert px.explain(net, x, InputInvarianceTest(of=still, shift=2.0)).facts["passes"].sum() == 0
    along = InputInvarianceTest(of=still, moved=IntegratedGradients(baseline=2.0), shift=2.0)
    assert px.explain(net, x, along).facts["passes"].tolist() == [1] * 3
    both = InputInvarianceTest(
        of=GradientXInput(baseline=0.5), moved=GradientXInput(baseline=3.0), shift=2.0, scale=2.0
    )
    assert bool((px.explain(net, x, both).values < 1e-12).all())


def test_it_is_the_construction_of_the_source_with_the_bias():
    """The source's second network has the first layer's bias b - w m, and the same inputs moved by m."""
    net, x = network(6), drawn(3, 6, seed=9)
    moved = network(6)
    moved[1].bias.data -= moved[1].weight.sum(1) * 0.7
    assert torch.allclose(net(x), moved(x + 0.7))
    second = px.explain(moved, x + 0.7, "gradient-x-input").values
    found = px.explain(net, x, InputInvarianceTest(of="gradient-x-input", shift=0.7))
    assert torch.allclose(found.parts["second"], second)


def test_random_draws_are_the_same_on_both_sides():
    net, x = network(6), drawn(3, 6, seed=9)
    method = InputInvarianceTest(of=SmoothGrad(samples=4), shift=1.5)
    assert bool((px.explain(net, x, method).values < 1e-6).all())
    assert "seeded" in method.claims
    assert "deterministic" in InputInvarianceTest(of="vanilla-gradient").claims


def test_the_callers_preprocessing_comes_after():
    net, x = network(6), drawn(3, 6, seed=9)
    subject = px.Subject(net, preprocess=lambda v: 3 * v)
    found = px.explain(subject, x, InputInvarianceTest(of="vanilla-gradient"))
    assert bool((found.facts["score_gap"] < 1e-12).all())
    assert bool((found.values < 1e-12).all())


@pytest.mark.parametrize(
    "settings", [{"shift": "far"}, {"scale": 0}, {"shift": 0.0}, {"tolerance": -1}, {"moved": "cart-c45-surrogate"}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        px.explain(network(6), drawn(1, 6), InputInvarianceTest(**settings))


def test_token_ids_cannot_be_moved():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(InputError, match="moved"):
        px.explain(net, torch.ones(1, 3).long(), InputInvarianceTest(of="gradient-x-input"), layer="0")
