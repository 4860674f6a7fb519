"""Axioms in closed form: the pairs and the saturated unit of the axioms' paper, split units, and methods made to fail."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import AlphaBetaLRP, DeepLIFT, GradientXInput, IntegratedGradients, ShapleyValue
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NumericalError
from pellucid.engine import Subject
from pellucid.evaluation import AxiomTable, Completeness, axiom_pairs

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(*layers):
    net = nn.Sequential(*layers).double()
    for k, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=k)
    return net.eval()


def network():
    return filled(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


class First(nn.Module):
    """ReLU(ReLU(x1) - 1 - ReLU(x2)): one of two networks that compute the same, appendix B of the axioms' paper."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.last(self.one(x[:, :1]) - 1 - self.two(x[:, 1:]))


class Second(First):
    """ReLU(ReLU(x1 - 1) - ReLU(x2))."""

    def forward(self, x):
        return self.last(self.one(x[:, :1] - 1) - self.two(x[:, 1:]))


class Saturated(nn.Module):
    """1 - ReLU(1 - x)."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return 1 - self.relu(1 - x)


@dataclass(frozen=True, kw_only=True)
class Made(Method):
    """Says the same whatever the network: its inputs, or the number of each place."""

    what: str = "inputs"
    card: ClassVar[Card] = Card(
        name="test-made", title="Made", question="What?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        x = ask.inputs.floats[0]
        places = torch.arange(1, x.shape[1] + 1, **DOUBLE).expand_as(x)
        return Attribution(values=x.clone() if self.what == "inputs" else places)


def test_the_papers_pair_deeplift_is_not_implementation_invariant_and_integrated_gradients_are():
    x, other = torch.tensor([[3.0, 1.0]], **DOUBLE), {"model": Second().eval()}
    # published values: DeepLIFT (1.5, -0.5) against (2, -1), so a gap of 0.5 of 2
    found = px.explain(First().eval(), x, AxiomTable(of=DeepLIFT()), data=other)
    at = found.source["networks"].index("the other model")
    assert found.parts["implementation"][0, at].item() == pytest.approx(0.25)
    assert found.facts["implementation"].item() == pytest.approx(0.25)
    assert found.source["table"]["implementation"]["kept"] == 0
    exact = IntegratedGradients(rule="midpoint", steps=600, max_steps=600)
    kept = px.explain(First().eval(), x, AxiomTable(of=exact), data=other)
    assert px.explain(First().eval(), x, exact).values[0].tolist() == pytest.approx([1.5, -0.5], abs=3e-3)
    assert kept.facts["implementation"].item() < 3e-3
    assert kept.values.item() == 1.0


def test_on_the_saturated_unit_the_gradient_fails_sensitivity_and_integrated_gradients_keep_it():
    x = torch.tensor([[2.0]], **DOUBLE)
    for of in ("vanilla-gradient", "gradient-x-input", "guided-backprop"):
        found = px.explain(Saturated().eval(), x, AxiomTable(of=of))
        assert found.facts["sensitivity"].item() == 1.0
    found = px.explain(Saturated().eval(), x, AxiomTable(of=IntegratedGradients(rule="midpoint", steps=64)))
    assert found.facts["sensitivity"].item() == 0.0
    assert found.values.item() == 1.0


def test_guided_backprop_and_lrp_fail_on_split_units_where_the_gradient_keeps_invariance():
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double().eval()
    for p in net.parameters():
        p.data = torch.ones_like(p) if p.dim() == 2 else torch.zeros_like(p)
    x = torch.ones(1, 1, **DOUBLE)

    def gap(of):
        found = px.explain(net, x, AxiomTable(of=of))
        return found.parts["implementation"][0, found.source["networks"].index("units split and permuted")].item()

    assert gap("vanilla-gradient") == pytest.approx(0.0, abs=1e-12)
    assert gap("guided-backprop") == pytest.approx(0.5 / 1.5)  # 1 against 1.5: the way by -0.5 is cut off
    # 1 unit: nothing inhibits, and all goes by α = 2 twice; split: 2 of 1.5/1.5 less 1 of 0.5/0.5, then twice that
    assert gap(AlphaBetaLRP(stabiliser=0.0)) == pytest.approx(0.5)
    assert gap("lrp-0") == pytest.approx(0.0, abs=1e-5)  # equals gradient × input


def test_exact_shapley_values_keep_all():
    found = px.explain(network(), drawn(3, 5, seed=9), AxiomTable(of=ShapleyValue()))
    assert found.source["axioms"] == ["completeness", "sensitivity", "dummy", "symmetry", "linearity", "implementation"]
    assert found.parts["gaps"].abs().max() < 1e-9
    assert found.values.tolist() == [1.0] * 3
    assert found.source["not tried"] == {}


def test_made_up_values_miss_each_axiom_by_what_they_are_made_of():
    net, x = network(), torch.full((2, 5), 4.0, **DOUBLE)
    inputs = px.explain(net, x, AxiomTable(of=Made(what="inputs")))
    assert inputs.facts["dummy"].tolist() == pytest.approx([0.25] * 2)  # the added input is 1
    assert inputs.facts["symmetry"].tolist() == [0.0] * 2
    places = px.explain(net, x, AxiomTable(of=Made(what="places")))
    assert places.facts["dummy"].tolist() == pytest.approx([1.0] * 2)
    assert places.facts["symmetry"].tolist() == pytest.approx([0.5] * 2)  # 5 of 10
    assert places.facts["linearity"].tolist() == pytest.approx([2 / 3] * 2)  # p - (2 p - 3 p), of 3 p
    assert places.facts["implementation"].tolist() == [0.0] * 2
    complete = px.explain(net, x, Completeness(of=Made(what="places"))).values
    assert places.facts["completeness"].tolist() == pytest.approx(complete.tolist())
    kept = [name for name, column in zip(places.source["axioms"], places.parts["kept"][0], strict=True) if column]
    assert kept == ["sensitivity", "implementation"]
    assert places.values.tolist() == pytest.approx([2 / 6] * 2)


def test_images_and_the_networks_that_compute_the_same():
    net = filled(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(4, 3)),
    )
    net[1].running_mean, net[1].running_var = drawn(3, seed=5), drawn(3, seed=6).square() + 0.5
    x = drawn(3, 2, 5, 7, seed=7)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    others = axiom_pairs.equals(Subject(net))
    assert set(others) == {"longer way in", "units split and permuted", "batch norm folded"}
    for other in others.values():
        with torch.no_grad():
            value = other.preprocess(x) if other.preprocess else x
            assert torch.allclose(other.model(value), net(x), atol=1e-10)
    assert others["units split and permuted"].model[3].out_channels == 8
    assert isinstance(others["batch norm folded"].model[1], nn.Identity)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    found = px.explain(net, x, AxiomTable(of=GradientXInput(), tries=3))
    for name in ("dummy", "symmetry", "linearity", "implementation"):
        assert found.facts[name].max() < 1e-9
    assert found.parts["implementation"].shape == (3, 3)
    guided = px.explain(net, x, AxiomTable(of="guided-backprop", tries=3))
    assert guided.facts["implementation"].min() > 0.01
    assert guided.facts["dummy"].max() == 0


def test_batch_norm_does_not_hide_the_units_behind_it():
    net = filled(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    net[1].running_mean, net[1].running_var = drawn(6, seed=5), drawn(6, seed=6).square() + 0.5
    other = axiom_pairs.equals(Subject(net))["units split and permuted"].model
    x = drawn(4, 5, seed=7)
    with torch.no_grad():
        assert torch.allclose(other(x), net(x), atol=1e-10)
    assert [p.out_features for p in other if isinstance(p, nn.Linear)] == [12, 3]


def test_what_cannot_be_tried_says_why():
    found = px.explain(lambda x: x.sum(1, keepdim=True), drawn(2, 5), AxiomTable(of="feature-ablation"))
    assert "linearity" in found.source["not tried"]
    assert found.source["networks"] == ["longer way in"]
    image = px.explain(lambda x: x.flatten(1), drawn(2, 1, 4, 6), AxiomTable(of="feature-ablation"), target=0)
    assert {"dummy", "symmetry"} <= set(image.source["not tried"])


def test_rows_are_asked_apart():
    net, x = network(), drawn(7, 5, seed=9)
    whole = px.explain(net, x, AxiomTable(of="guided-backprop"), target=1)
    for row in range(7):
        alone = px.explain(net, x[row : row + 1], AxiomTable(of="guided-backprop"), target=1)
        assert torch.allclose(whole.parts["gaps"][row], alone.parts["gaps"][0], atol=1e-12, equal_nan=True)


def test_another_function_is_refused():
    with pytest.raises(NumericalError, match="same function"):
        px.explain(
            First().eval(), torch.tensor([[3.0, 1.0]], **DOUBLE), AxiomTable(), data={"model": Saturated().eval()}
        )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tries": 0}, MethodError),
        ({"tolerance": -1.0}, MethodError),
        ({"baseline": "night"}, InputError),
        ({"of": "cart-c45-surrogate"}, MethodError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, error):
    net, calls = network(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(error):
        px.explain(net, drawn(1, 5), AxiomTable(**settings))
    assert not calls


def test_places_inside_are_refused():
    with pytest.raises(MethodError, match="by the inputs"):
        px.explain(network(), drawn(1, 5), AxiomTable(), layer="1")
