"""Gradients against weights, finite differences, loops and documented failures."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import GradientXInput, VanillaGradient

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Small(nn.Module):
    """A convolutional network with one functional and one in-place rectifier."""

    def __init__(self, bias=True):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Conv2d(2, 4, 3, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 3, 3, stride=2, bias=bias)
        self.head = nn.Linear(3 * 2 * 1, 4, bias=bias)
        self.double().eval()
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2

    def forward(self, x):
        return self.head(functional.relu(self.second(self.act(self.first(x)))).flatten(1))


IMAGES = rows(3, 2, 7, 5)


def test_linear_network_gives_its_weights():
    model = nn.Linear(4, 3).double().eval()
    got = px.explain(model, rows(2, 4), "vanilla-gradient", target=[2, 0])
    assert torch.equal(got.values, model.weight.detach()[[2, 0]])


def test_agrees_with_central_differences():
    model, step = Small(), 1e-5
    got = px.explain(model, IMAGES, "vanilla-gradient", target=1).values
    for index in [(0, 0, 0, 0), (1, 1, 3, 2), (2, 0, 6, 4), (0, 1, 2, 3)]:
        up, down = IMAGES.clone(), IMAGES.clone()
        up[index] += step
        down[index] -= step
        slope = (model(up) - model(down))[index[0], 1] / (2 * step)
        assert abs(slope - got[index]) < 1e-7 * (1 + abs(slope))


def test_forms_of_the_map():
    model = Small()
    raw = px.explain(model, IMAGES, "vanilla-gradient", target=0).values
    absolute = px.explain(model, IMAGES, VanillaGradient(absolute=True, channels="max"), target=0).values
    squared = px.explain(model, IMAGES, VanillaGradient(squared=True, channels="sum"), target=0).values
    norm = px.explain(model, IMAGES, VanillaGradient(channels="norm"), target=0).values
    assert torch.equal(absolute[:, 0], torch.maximum(raw[:, 0].abs(), raw[:, 1].abs()))
    assert torch.allclose(squared[:, 0], raw[:, 0] ** 2 + raw[:, 1] ** 2)
    assert torch.allclose(norm, squared.sqrt())
    with pytest.raises(px.contract.errors.MethodError, match="channels"):
        px.explain(model, IMAGES, VanillaGradient(channels="median"))


def test_zero_where_the_network_is_saturated_although_the_input_matters():
    class Saturated(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True).clamp(max=1)

    got = px.explain(Saturated().eval(), torch.tensor([[2.0, 2.0]]), "vanilla-gradient")
    assert torch.equal(got.values, torch.zeros(1, 2))


def test_predicted_class_is_explained_by_default():
    model = Small()
    best = model(IMAGES).argmax(1)
    got = px.explain(model, IMAGES, "vanilla-gradient")
    assert torch.equal(got.target, best)
    assert torch.equal(got.values, px.explain(model, IMAGES, "vanilla-gradient", target=best).values)


def test_all_ways_to_ask_for_a_class_agree():
    model = Small()
    want = px.explain(model, IMAGES, "vanilla-gradient", target=3).values
    mask = functional.one_hot(torch.tensor([3, 3, 3]), 4).bool()
    for target in (-1, [3, 3, 3], torch.tensor([3, 3, 3]), torch.tensor([[3]] * 3), mask, lambda out: out[:, 3]):
        assert torch.equal(px.explain(model, IMAGES, "vanilla-gradient", target=target).values, want)


def test_margin_is_the_difference_of_two_maps():
    model = Small()
    a, b = (px.explain(model, IMAGES, "vanilla-gradient", target=k).values for k in (1, 2))
    got = px.explain(model, IMAGES, "vanilla-gradient", target=px.margin(1, 2))
    assert torch.allclose(got.values, a - b, atol=1e-14)


def test_hidden_unit_as_target_is_zero_outside_its_receptive_field():
    # second[k, 0, 0] sees rows and columns 0 to 4: 3 + 2·(3 - 1)/... a 3×3 after a 3×3 covers 5×5 at the corner.
    model = Small()
    got = px.explain(model, IMAGES, "vanilla-gradient", target=px.unit("second", (1, 1, 0))).values
    leaf = IMAGES.clone().requires_grad_()
    (want,) = torch.autograd.grad(model.second(torch.relu(model.first(leaf)))[:, 1, 1, 0].sum(), leaf)
    assert torch.allclose(got, want, atol=1e-14)
    assert torch.equal(got[:, :, :2], torch.zeros(3, 2, 2, 5, **DOUBLE))
    assert bool((got[:, :, 2:] != 0).any())


def test_gradient_at_a_layer_is_taken_before_the_in_place_activation():
    model = Small()
    hidden = model.first(IMAGES).detach().requires_grad_()
    out = model.head(torch.relu(model.second(torch.relu(hidden))).flatten(1))[:, 2]
    (want,) = torch.autograd.grad(out.sum(), hidden)
    got = px.explain(model, IMAGES, "vanilla-gradient", target=2, layer="first").values
    assert torch.allclose(got, want, atol=1e-14)


def test_gradient_times_input_sums_to_the_score_without_biases():
    model = Small(bias=False)
    got = px.explain(model, IMAGES, "gradient-x-input", target=0)
    assert torch.allclose(got.values.flatten(1).sum(1), model(IMAGES)[:, 0], atol=1e-12)
    assert float(got.facts["completeness_gap"].max()) < 1e-12


def test_gap_is_reported_with_biases():
    model = Small()
    got = px.explain(model, IMAGES, "gradient-x-input", target=0)
    want = got.values.flatten(1).sum(1) - (model(IMAGES) - model(torch.zeros_like(IMAGES)))[:, 0]
    assert torch.allclose(got.facts["completeness_gap"], want.abs().detach(), atol=1e-12)
    assert float(got.facts["completeness_gap"].min()) > 1e-3


def test_baseline_shifts_the_input():
    model = Small()
    gradient = px.explain(model, IMAGES, "vanilla-gradient", target=0).values
    for name, base in (
        ("mean", IMAGES.mean((2, 3), keepdim=True)),
        ("min", IMAGES.amin((1, 2, 3), keepdim=True)),
        (0.25, torch.tensor(0.25, **DOUBLE)),
    ):
        got = px.explain(model, IMAGES, GradientXInput(baseline=name), target=0).values
        assert torch.allclose(got, gradient * (IMAGES - base), atol=1e-14)


def test_rectifier_spellings_agree():
    model = Small()

    class Spelt(Small):
        def forward(self, x):
            return self.head(self.second(self.first(x).clamp(min=0)).relu_().flatten(1))

    other = Spelt().double().eval()
    assert torch.equal(
        px.explain(model, IMAGES, "vanilla-gradient", target=1).values,
        px.explain(other, IMAGES, "vanilla-gradient", target=1).values,
    )
