"""Captum's LRP and Pellucid's agree where captum is right: plain stacks of modules, each used once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets import stock
from nets.spellings import image
from pellucid.attribution import AlphaBetaLRP, EpsilonLRP

captum = pytest.importorskip("captum.attr")
lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Stack(nn.Module):
    """Modules one after the other, each used once; captum has no rule for nn.Flatten."""

    def __init__(self, bias):
        super().__init__()
        self.conv, self.one, self.pool = nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2)
        self.hidden, self.two, self.head = nn.Linear(16, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        return self.head(self.two(self.hidden(self.pool(self.one(self.conv(x))).flatten(1))))


def stack(bias=True):
    return stock.settle(Stack(bias))


def theirs(model, x, rule, target=1):
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = rule()
    found = captum.LRP(model).attribute(x.clone(), target=target).detach()
    for module in model.modules():
        vars(module).pop("rule", None)
    return found


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_epsilon(epsilon):
    x = image(3)
    want = theirs(stack(), x, lambda: lrp_rules.EpsilonRule(epsilon))
    got = px.explain(stack(), x, EpsilonLRP(epsilon=epsilon), target=1).values
    assert (got - want).abs().max() <= 1e-7 * want.abs().max()  # captum adds 1e-9 wherever it divides


def test_alpha_one_where_inputs_are_not_negative():
    # Captum clamps weights alone, so it is the rule of the paper for inputs that are not negative, and without biases:
    # those below zero it leaves in.
    x = image(3).abs()
    want = theirs(stack(bias=False), x, lrp_rules.Alpha1_Beta0_Rule)
    method = AlphaBetaLRP(alpha=1.0, beta=0.0, stabiliser=1e-9)
    got = px.explain(stack(bias=False), x, method, target=1).values
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_captum_does_not_see_functional_rectifiers():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(functional.silu(self.one(x)))

    class Modules(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3))

    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = [px.explain(stock.settle(kind()), x, EpsilonLRP(), target=1).values for kind in (Functional, Modules)]
    assert torch.allclose(*ours)
    want = theirs(stock.settle(Functional()), x, lrp_rules.EpsilonRule)
    assert not torch.allclose(want, ours[0])  # it takes the derivative of what it does not see
