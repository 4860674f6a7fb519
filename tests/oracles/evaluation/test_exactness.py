"""Errors against exact values found by enumeration, and the fall of sampling error with the number of draws."""

import itertools
import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import DeepSHAP, ExpectedGradients, KernelShap, Lime, ShapleySampling, SmoothGrad
from pellucid.contract.errors import MethodError
from pellucid.evaluation import Exactness

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(inputs):
    net, private = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval(), torch.Generator()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=private.manual_seed(k), **DOUBLE) * 0.8)
    return net


NET, LARGE, LINE = network(4), network(10), nn.Linear(4, 2).double().eval()
with torch.no_grad():
    LINE.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 0.0, 0.0, 0.0]]))
ROWS, BACKGROUND = drawn(3, 4), drawn(5, 4, seed=2)


def shapley(net, row, absent):
    """By the sum over all orders."""
    found = torch.zeros(len(row), **DOUBLE)
    for order in itertools.permutations(range(len(row))):
        point, before = absent.clone(), net(absent[None])[0, 0]
        for i in order:
            point[i] = row[i]
            after = net(point[None])[0, 0]
            found[i] += (after - before).detach() / math.factorial(len(row))
            before = after
    return found


@pytest.mark.parametrize("of", ["shapley-value", "kernel-shap", "shapley-sampling"])
def test_an_exact_method_has_no_error(of):
    found = px.explain(NET, ROWS, Exactness(of=of), target=0)
    assert found.source["reference"] == "exact"
    assert found.values.max() < 1e-9
    assert found.facts["completeness"].max() < 1e-9
    assert found.facts["quantitative"].tolist() == [1.0] * 3


def test_the_error_is_the_distance_from_the_orders_of_all_features():
    method = DeepSHAP()
    found = px.explain(NET, ROWS, Exactness(of=method), target=0, data=BACKGROUND)
    said = px.explain(NET, ROWS, method, target=0, data=BACKGROUND).values
    for i, row in enumerate(ROWS):
        exact = torch.stack([shapley(NET, row, other) for other in BACKGROUND]).mean(0)
        want = ((said[i] - exact).norm() / exact.norm()).item()
        assert found.values[i].item() == pytest.approx(want, rel=1e-6)
        assert want > 0.005  # an approximation, as it is known to be
    assert found.facts["completeness"].max() < 1e-9  # which its sum does not show


def test_monte_carlo_error_falls_as_one_over_the_root():
    x = drawn(4, 10)
    method = Exactness(of=ShapleySampling(design="plain"), sizes=(2, 4, 8, 16, 32), repeats=16)
    found = px.explain(LARGE, x, method, target=0)
    assert found.parts["curve"].shape == (4, 5)
    assert found.facts["rate"].mean().item() == pytest.approx(-0.5, abs=0.08)
    first = found.parts["curve"].mean(0)
    assert (first[0] / first[-1]).item() == pytest.approx(4, rel=0.25)  # sixteen times the draws


def test_the_rate_is_a_fit_of_logarithms():
    from pellucid.evaluation.exactness import slope

    sizes = (10, 20, 80)
    curve = torch.tensor([[3 * s**-0.5 for s in sizes], [s**-1.0 for s in sizes], [1.0, 0.0, 0.0]], **DOUBLE)
    assert slope(curve, sizes)[:2].tolist() == pytest.approx([-0.5, -1.0])
    assert slope(curve, sizes)[2].isnan()


def test_expected_gradients_are_held_against_every_baseline():
    method = Exactness(of=ExpectedGradients(samples=6))
    found = px.explain(NET, ROWS, method, target=0, data=BACKGROUND)
    said = px.explain(NET, ROWS, ExpectedGradients(samples=6), target=0, data=BACKGROUND).values
    for i, row in enumerate(ROWS):
        exact = torch.zeros(4, **DOUBLE)
        for other in BACKGROUND:
            for step in range(200):  # the midpoint rule
                point = (other + (step + 0.5) / 200 * (row - other)).requires_grad_()
                exact += torch.autograd.grad(NET(point[None])[0, 0], point)[0] * (row - other) / (200 * 5)
        assert found.values[i].item() == pytest.approx(((said[i] - exact).norm() / exact.norm()).item(), rel=1e-3)


def test_a_method_that_claims_to_add_up_is_held_to_it():
    found = px.explain(NET, ROWS, Exactness(of="integrated-gradients"), target=0)
    assert found.source["reference"] == "completeness"
    said = px.explain(NET, ROWS, "integrated-gradients", target=0).values
    change = (NET(ROWS) - NET(0 * ROWS)).detach()[:, 0]
    assert found.values.tolist() == pytest.approx(((said.sum(1) - change).abs() / change.abs()).tolist(), rel=1e-6)


def test_a_surrogate_is_held_to_its_fit():
    found = px.explain(NET, ROWS, Exactness(of=Lime(), reference="fit"), target=0)
    said = px.explain(NET, ROWS, Lime(), target=0).facts["r_squared"]
    assert torch.allclose(found.values, 1 - said.double())
    assert found.facts["quantitative"].tolist() == [1.0] * 3


@pytest.mark.parametrize("of", ["vanilla-gradient", "guided-backprop"])
def test_proportions_alone_are_qualitative(of):
    found = px.explain(NET, ROWS, Exactness(of=of), target=0)
    assert found.source["reference"] == "infidelity"
    assert found.facts["quantitative"].tolist() == [0.0] * 3
    assert set(found.source["absent"]) == {"exact", "completeness", "fit"}
    line = px.explain(LINE, ROWS, Exactness(of=of), target=0)
    assert line.values.max() < 1e-9  # slopes of a line foretell every change
    assert (found.values > 1e-3).all()


def test_a_wrong_direction_foretells_little():
    right = px.explain(LINE, ROWS, Exactness(of="vanilla-gradient", samples=400), target=0)
    wrong = px.explain(LINE, ROWS, Exactness(of=SmoothGrad(kind="squared"), samples=400), target=0)
    assert right.values.max() < 1e-9
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], **DOUBLE)  # squares have lost the signs
    for row, value in zip(ROWS, wrong.values.tolist(), strict=True):
        slopes = (weights**2, weights**2 / row)  # the better of both readings
        missed = [1 - float((s @ weights) ** 2 / (s @ s) / (weights @ weights)) for s in slopes]
        assert value == pytest.approx(min(missed), rel=0.15)
        assert value > 0.1


def test_a_row_does_not_depend_on_the_others():
    method = Exactness(of=KernelShap(samples=8))
    whole, alone = (px.explain(LARGE, x, method, target=0) for x in (drawn(3, 10), drawn(3, 10)[1:2]))
    assert whole.values[1:2].tolist() == pytest.approx(alone.values.tolist(), rel=1e-9)
    assert whole.values.min() > 0.001


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"reference": "truth"}, "reference"),
        ({"of": "vanilla-gradient", "reference": "exact"}, "exact value"),
        ({"of": "kernel-shap", "reference": "fit"}, "no fit"),
        ({"of": "vanilla-gradient", "sizes": (2, 4)}, "samples"),
        ({"of": "shapley-sampling", "sizes": (2,)}, "two ints"),
        ({"of": "shapley-sampling", "sizes": (0, 4)}, "sizes"),
        ({"repeats": 0}, "repeats"),
        ({"samples": 1}, "samples"),
        ({"of": "cart-c45-surrogate"}, "form"),
    ],
)
def test_wrong_settings_are_refused(settings, word):
    with pytest.raises(MethodError, match=word):
        px.explain(NET, ROWS, Exactness(**settings), target=0)
