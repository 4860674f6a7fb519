"""Guided backpropagation and deconvnet against hand-written loops, transposed convolutions, and their known failures."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.contract.errors import UnsupportedOperation

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Net(nn.Module):
    """conv → relu → pool → conv → relu → linear, with the rectifiers in a chosen spelling."""

    def __init__(self, rectify=functional.relu, pool=(2, 2), seed=3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.one, self.two, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 2), nn.Linear(3 * 4, 5)
        self.rectify, self.pool = rectify, pool
        self.double().eval()
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2

    def forward(self, x):
        x = functional.max_pool2d(self.rectify(self.one(x)), *self.pool)
        x = self.rectify(self.two(x))
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))


IMAGES = rows(3, 2, 10, 9)


def by_hand(model, x, target, guided):
    """The backward pass written out layer by layer, one row at a time."""
    maps = []
    for row in x.split(1):
        a = model.one(row)
        r = a.clamp(min=0)
        p, where = functional.max_pool2d(r, *model.pool, return_indices=True)
        b = model.two(p)
        back = torch.zeros(1, 5, **DOUBLE)
        back[0, target] = 1
        back = (back @ model.head.weight).view(1, 3, 2, 2)
        leaf = b.clone().requires_grad_()
        (back,) = torch.autograd.grad(functional.adaptive_avg_pool2d(leaf, 2), leaf, back)
        back = back.clamp(min=0) * ((b > 0) if guided else 1)
        back = functional.conv_transpose2d(back, model.two.weight)
        unpooled = torch.zeros_like(r).flatten(2)
        unpooled.scatter_add_(2, where.flatten(2), back.flatten(2))
        back = unpooled.view_as(r).clamp(min=0) * ((a > 0) if guided else 1)
        maps.append(functional.conv_transpose2d(back, model.one.weight))
    return torch.cat(maps).detach()


@pytest.mark.parametrize("pool", [(2, 2), (3, 1)])
@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_equals_the_pass_written_by_hand(method, pool):
    model = Net(pool=pool)
    got = px.explain(model, IMAGES, method, target=2).values
    assert torch.allclose(got, by_hand(model, IMAGES, 2, method == "guided-backprop"), atol=1e-12)


@pytest.mark.parametrize(
    "rectify",
    [torch.relu, lambda x: x.clamp(min=0), lambda x: x * (x > 0), lambda x: torch.where(x > 0, x, 0.0), torch.relu_],
)
@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_the_same_map_in_every_spelling(method, rectify):
    want = px.explain(Net(), IMAGES, method, target=1).values
    assert torch.allclose(px.explain(Net(rectify), IMAGES, method, target=1).values, want, atol=1e-13)


def test_deconvnet_of_one_convolution_is_the_transposed_convolution():
    model = nn.Conv2d(2, 3, 3).double().eval()
    x = rows(1, 2, 6, 6)
    got = px.explain(model, x, "deconvnet", target=lambda out: out[:, 1, 2, 3]).values
    seed = torch.zeros(1, 3, 4, 4, **DOUBLE)
    seed[0, 1, 2, 3] = 1
    assert torch.allclose(got, functional.conv_transpose2d(seed, model.weight).detach(), atol=1e-14)


def test_deconvnet_takes_no_notice_of_biases_that_move_no_switch():
    model = Net()
    before = px.explain(model, IMAGES, "deconvnet", target=0).values
    model.two.bias.data += 0.3
    model.head.bias.data -= 2.0
    assert torch.equal(px.explain(model, IMAGES, "deconvnet", target=0).values, before)
    assert not torch.equal(px.explain(model, IMAGES, "guided-backprop", target=0).values, before)


def test_without_rectifiers_both_are_the_gradient():
    model = Net(rectify=torch.tanh)
    want = px.explain(model, IMAGES, "vanilla-gradient", target=3).values
    for method in ("guided-backprop", "deconvnet"):
        assert torch.allclose(px.explain(model, IMAGES, method, target=3).values, want, atol=1e-13)


def test_hidden_unit_and_layer():
    model = Net()
    got = px.explain(model, IMAGES, "deconvnet", target=px.unit("one", (2, 4, 4))).values
    want = torch.zeros_like(IMAGES)
    want[:, :, 4:7, 4:7] = model.one.weight[2].detach()
    assert torch.allclose(got, want, atol=1e-14)
    inner = px.explain(model, IMAGES, "guided-backprop", target=2, layer="two").values
    assert inner.shape == (3, 3, 3, 2)


def test_class_insensitivity_and_the_failed_randomisation_test_occur():
    # Known failures: maps of different classes resemble each other far more than gradients do, and the map survives
    # the randomisation of the top layer.
    def likeness(a, b):
        return functional.cosine_similarity(a.flatten(1), b.flatten(1)).mean()

    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    )
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(16 * 36, 10)).double().eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / p[0].numel() ** 0.5
    x = rows(6, 1, 12, 12)
    guided, plain = (
        [px.explain(model, x, m, target=k).values for k in (0, 1)] for m in ("guided-backprop", "vanilla-gradient")
    )
    assert likeness(*guided) > likeness(*plain) + 0.2
    model[-1].weight.data = torch.randn(model[-1].weight.shape, generator=generator, **DOUBLE) / 24
    assert likeness(px.explain(model, x, "guided-backprop", target=0).values, guided[0]) > 0.5
    assert abs(likeness(px.explain(model, x, "vanilla-gradient", target=0).values, plain[0])) < 0.2


def test_what_has_no_rule_is_refused_by_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return torch.linalg.pinv(self.linear(x).reshape(-1, 2, 2)).flatten(1)

    with pytest.raises(UnsupportedOperation, match="no rule"):
        px.explain(Odd().eval(), torch.rand(2, 4), "guided-backprop")
