"""Where captum computes the same, the same numbers; where it is wrong, why."""

import warnings

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import Conductance, IntegratedGradients

captum = pytest.importorskip("captum.attr")
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.one, self.act1, self.pool = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
        self.two, self.act2, self.head = nn.Conv2d(4, 3, 2), nn.ReLU(), nn.LazyLinear(5)
        self.double().eval()
        with torch.no_grad():
            self(torch.zeros(1, 2, 10, 8, **DOUBLE))
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2

    def forward(self, x):
        return self.head(self.act2(self.two(self.pool(self.act1(self.one(x))))).flatten(1))


X = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), **DOUBLE)


def test_saliency():
    model = Net()
    want = captum.Saliency(model).attribute(X, target=1, abs=False)
    assert torch.allclose(px.explain(model, X, "vanilla-gradient", target=1).values, want, atol=1e-13)


def test_input_x_gradient():
    model = Net()
    want = captum.InputXGradient(model).attribute(X.clone(), target=1)
    assert torch.allclose(px.explain(model, X, "gradient-x-input", target=1).values, want.detach(), atol=1e-13)


def test_integrated_gradients():
    model = Net()
    want = captum.IntegratedGradients(model).attribute(X, target=1, n_steps=20, baselines=0.1)
    got = px.explain(model, X, IntegratedGradients(steps=20, baseline=0.1), target=1)
    assert torch.allclose(got.values, want, atol=1e-12)


def test_integrated_gradients_to_a_tolerance_take_fewer_passes():
    # Passes captum needs for the same measured gap, trying its step counts in turn.
    model, tolerance, passes = Net(), 0.01, []
    for i in range(3):
        row = X[i : i + 1]
        change = (model(row) - model(torch.zeros_like(row)))[0, 1].abs()
        for steps in (8, 16, 24, 32, 50, 64, 100, 128, 200, 256, 400, 512, 1000):
            _, delta = captum.IntegratedGradients(model).attribute(
                row, target=1, n_steps=steps, method="riemann_trapezoid", return_convergence_delta=True
            )
            if delta.abs() <= tolerance * change:
                break
        got = px.explain(model, row, IntegratedGradients(tolerance=tolerance), target=1)
        assert got.facts["converged"].item() == 1
        passes.append(steps / got.facts["steps"].item())
    assert sorted(passes)[1] > 1


def test_layer_integrated_gradients():
    model = Net()
    want = captum.LayerIntegratedGradients(model, model.pool).attribute(X, target=1, n_steps=12)
    got = px.explain(model, X, IntegratedGradients(steps=12), target=1, layer="pool")
    assert torch.allclose(got.values, want, atol=1e-12)


def test_neuron_integrated_gradients():
    model = Net()
    want = captum.NeuronIntegratedGradients(model, model.two).attribute(X, (1, 2, 1), n_steps=15)
    got = px.explain(model, X, IntegratedGradients(steps=15), target=px.unit("two", (1, 2, 1)))
    assert torch.allclose(got.values, want, atol=1e-12)


def test_neuron_gradient_guided_and_deconvolution():
    model = Net()
    for peer, method in (
        (captum.NeuronGradient, "vanilla-gradient"),
        (captum.NeuronGuidedBackprop, "guided-backprop"),
        (captum.NeuronDeconvolution, "deconvnet"),
    ):
        want = peer(model, model.two).attribute(X, (0, 1, 1))
        got = px.explain(model, X, method, target=px.unit("two", (0, 1, 1))).values
        assert torch.allclose(got, want, atol=1e-13), method


def test_guided_backprop_and_deconvolution():
    model = Net()
    for peer, method in ((captum.GuidedBackprop, "guided-backprop"), (captum.Deconvolution, "deconvnet")):
        want = peer(model).attribute(X, target=1)
        assert torch.allclose(px.explain(model, X, method, target=1).values, want, atol=1e-13), method


def test_functional_rectifiers_change_captums_map_and_not_ours():
    class Functional(Net):
        def forward(self, x):
            return self.head(torch.relu(self.two(self.pool(torch.relu(self.one(x))))).flatten(1))

    modules, functional = Net(), Functional()
    ours = [px.explain(m, X, "guided-backprop", target=1).values for m in (modules, functional)]
    theirs = [captum.GuidedBackprop(m).attribute(X, target=1) for m in (modules, functional)]
    assert torch.allclose(*ours, atol=1e-13)
    # captum sees no nn.ReLU to hook, and returns the plain gradient.
    plain = px.explain(functional, X, "vanilla-gradient", target=1).values
    assert torch.allclose(theirs[1], plain, atol=1e-13)
    assert not torch.allclose(*theirs, atol=1e-3)


def test_layer_conductance_goes_to_the_same_limit():
    # captum weighs gradients at Riemann nodes with differences between them; ours sit in the middle of the pieces.
    model = Net()
    want = captum.LayerConductance(model, model.act1).attribute(X, target=1, n_steps=2000, method="riemann_middle")
    got = px.explain(model, X, Conductance(steps=1000), target=1, layer="act1").values
    assert (got - want).norm() < 5e-3 * want.norm()


def test_gradient_shap_estimates_expected_gradients():
    # GradientShap draws all rows' noise from one global stream; as an estimate of the same mean it agrees in the limit.
    model, background = Net(), torch.randn(10, 2, 10, 8, generator=torch.Generator().manual_seed(5), **DOUBLE)
    exact = px.explain(model, X[:1], px.attribution.ExpectedGradients(exact=True, steps=50), target=1, data=background)
    torch.manual_seed(0)
    runs = [captum.GradientShap(model).attribute(X[:1], background, n_samples=100, target=1) for _ in range(20)]
    runs = torch.stack(runs).detach()
    error = runs.std(0) / 20**0.5
    assert ((runs.mean(0) - exact.values).abs() < 5 * error + 1e-6).double().mean() > 0.99
