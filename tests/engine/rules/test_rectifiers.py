"""Guided backpropagation and deconvnet: the same on every spelling, by hand, and as captum has it where it is right."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import stock
from nets.spellings import SPELLINGS, Spelt, image
from nets.tape import tape
from pellucid.engine import rules

TABLES = {"guided": rules.guided, "deconvnet": rules.deconvnet}
AT_RELU = {
    "gradient": None,
    "guided": lambda out, grad: grad.clamp(min=0) * (out > 0),
    "deconvnet": lambda out, grad: grad.clamp(min=0),
}


def score(output):
    return output[:, 0]


def run(model, x, table):
    return rules.backward(model, x, score, table, model=model).values[0]


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling_is_bit_for_bit_the_module(name):
    x, table = image(), TABLES[name]()
    want = run(Spelt(nn.ReLU()), x, table)
    assert want.abs().max() > 0
    assert not torch.allclose(want, run(Spelt(nn.ReLU()), x, rules.gradient()))
    for spelling, relu in SPELLINGS.items():
        assert torch.equal(run(Spelt(relu), x, table), want), spelling


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("net", stock.SMALL)
def test_stock_spellings_agree(net, name):
    x = image(2, 3, stock.SIDES.get(net, 16))
    want = run(stock.SMALL[net]("module"), x, TABLES[name]())
    for spelling in stock.SPELLINGS[1:]:
        got = run(stock.SMALL[net](spelling), x, TABLES[name]())
        assert (got - want).abs().max() <= 1e-12 * want.abs().max(), spelling


@pytest.mark.parametrize("name", AT_RELU)
@pytest.mark.parametrize("net", ["resnet", "densenet", "unet", "vit-hand", "swin"])
def test_independent_tape(net, name):
    """Another walk, over a functional program that knows nothing of autograd graphs, finds the same."""
    model, x = stock.SMALL[net]("mixed"), image(2, 3, stock.SIDES.get(net, 16))
    want = tape(lambda z: score(model(z)), x, AT_RELU[name])
    got = run(model, x, getattr(rules, name)())
    assert (got - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize("spelling", ["written-slices", "mask-assignment", "view-in-place", "fmax"])
def test_independent_tape_on_awkward_spellings(spelling):
    model, x = Spelt(SPELLINGS[spelling]), image()
    want = tape(lambda z: score(model(z)), x, AT_RELU["guided"])
    assert (run(model, x, rules.guided()) - want).abs().max() <= 1e-12 * want.abs().max()


def by_hand(model, x, at_relu):
    """Linear, ReLU, linear, ReLU, linear, one multiplication at a time."""
    a = x @ model[0].weight.T + model[0].bias
    b = a.clamp(min=0) @ model[2].weight.T + model[2].bias
    cotangent = model[4].weight[0].expand(len(x), -1)
    cotangent = at_relu(b.clamp(min=0), cotangent) @ model[2].weight
    return at_relu(a.clamp(min=0), cotangent) @ model[0].weight


@pytest.mark.parametrize("name", TABLES)
def test_by_hand(name):
    model = stock.settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    x = image(5, 1, 2).flatten(1)
    assert torch.allclose(run(model, x, TABLES[name]()), by_hand(model, x, AT_RELU[name]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", TABLES)
def test_captum_on_modules(name):
    """captum replaces the backward of nn.ReLU modules, so it is right where every ReLU is one of its own."""
    attr = pytest.importorskip("captum.attr")
    model = stock.settle(nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)
    ))  # fmt: skip
    x = image()
    peer = {"guided": attr.GuidedBackprop, "deconvnet": attr.Deconvolution}[name](model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = peer.attribute(x.clone().requires_grad_(), target=0)
    assert (run(model, x, TABLES[name]()) - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize(
    "gate",
    [
        lambda x: x * (x.flip(1) > 0),  # a mask made from something else
        lambda x: x * (x < 0),  # the other half
        lambda x: x * (x > 0.5),  # another threshold
        lambda x: F.hardtanh(x),
        lambda x: x.clamp(min=0, max=1),
        lambda x: F.threshold(x, 0, -1.0),
        lambda x: torch.maximum(x, -x),
    ],
)
def test_gates_are_not_rectifiers(gate):
    x = image()
    model = Spelt(gate)
    assert torch.equal(run(model, x, rules.guided()), run(model, x, rules.gradient()))


def test_a_mask_that_happens_to_agree_is_a_gate():
    """All features positive and nothing masked: x * (mask > 0) equals relu(x) in value, and is still no ReLU."""

    class Masked(nn.Module):
        def forward(self, x, mask):
            y = x * (mask > 0)
            return (y * torch.tensor([-1.0, 2.0], dtype=x.dtype)).sum(1, keepdim=True)

    x, mask = torch.rand(3, 2, dtype=torch.float64) + 1, torch.ones(3, 2, dtype=torch.float64)
    got = rules.backward(Masked(), (x, mask), score, rules.guided()).values[0]
    assert torch.equal(got, torch.tensor([[-1.0, 2.0]] * 3, dtype=torch.float64))


def test_a_row_that_is_not_finite_leaves_the_others_alone():
    x = image(3, 1, 2).flatten(1)
    model = stock.settle(nn.Sequential(nn.Linear(4, 4), stock.Mixed(), nn.Linear(4, 2)))
    want = run(model, x, rules.guided())
    bad = x.clone()
    bad[1, 0] = float("inf")
    got = run(model, bad, rules.guided())
    assert torch.equal(got[[0, 2]], want[[0, 2]])


def test_rows_are_independent_through_overlapping_pools():
    model, x = stock.small_resnet("mixed"), image(4, 3, 16)
    for table in (rules.gradient(), rules.guided(), rules.deconvnet(), rules.epsilon_lrp()):
        together = run(model, x, table)
        alone = torch.cat([run(model, row[None], table) for row in x])
        assert (together - alone).abs().max() <= 1e-12 * together.abs().max(), table.name
