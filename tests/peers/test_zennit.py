"""Zennit and Pellucid give the same relevance, rule by rule and composite by composite, in double precision.

Zennit attaches to modules, so it is given networks spelled as modules; Pellucid, also the functional spelling of the
same weights. Zennit's batch norms, merged by its canonizer, keep their epsilon, so it is zero here on both sides.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets import stock
from nets.spellings import image
from peers import zennit_without_torchvision
from pellucid.attribution import AlphaBetaLRP, CompositeLRP, DeepTaylor, EpsilonLRP, GammaLRP

zennit = zennit_without_torchvision.load()
LOW, HIGH = -6.0, 6.0


def convolution(into, width, size, stride):
    return nn.Conv2d(into, width, size, stride, size // 2, bias=False)


def norm(width):
    return nn.BatchNorm2d(width, eps=0.0)


class Block(nn.Module):
    """A residual block whose sum is a module for zennit or an operator."""

    def __init__(self, into, width, spelled):
        super().__init__()
        stride = 1 + (into != width)
        self.conv1, self.bn1, self.relu1 = convolution(into, width, 3, stride), norm(width), nn.ReLU()
        self.conv2, self.bn2 = convolution(width, width, 3, 1), norm(width)
        self.down = self.bn3 = None
        if into != width:
            self.down, self.bn3 = convolution(into, width, 1, stride), norm(width)
        self.sum, self.relu2, self.functional = zennit.layer.Sum(), nn.ReLU(), spelled

    def forward(self, x):
        short = x if self.down is None else self.bn3(self.down(x))
        if self.functional:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            y += short
            return torch.relu_(y)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.sum(torch.stack([y, short], -1)))


class Residual(nn.Module):
    """ResNet's parts: stem with overlapping pooling, two blocks, average pooling, head."""

    def __init__(self, spelled=False):
        super().__init__()
        self.conv1, self.bn1, self.relu = convolution(3, 4, 5, 2), norm(4), nn.ReLU()
        self.pool, self.blocks = nn.MaxPool2d(3, 2, 1), nn.Sequential(Block(4, 4, spelled), Block(4, 8, spelled))
        self.average, self.fc, self.functional = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5), spelled

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = self.pool(functional.relu(x) if self.functional else self.relu(x))
        x = self.blocks(x)
        x = functional.adaptive_avg_pool2d(x, 1) if self.functional else self.average(x)
        return self.fc(torch.flatten(x, 1))


NETWORKS = {
    "vgg": (lambda: stock.small_vgg("module"), lambda: stock.small_vgg("functional")),
    "residual": (lambda: stock.settle(Residual(), 4), lambda: stock.settle(Residual(True), 4)),
}


def theirs(model, composite, x, target=1):
    def start(output):
        seed = torch.zeros_like(output)
        seed[:, target] = output[:, target].detach()
        return seed

    with zennit.attribution.Gradient(model, composite) as attributor:
        return attributor(x.clone().requires_grad_(), start)[1].detach()


def everywhere(rule):
    layers = [*zennit.composites.layer_map_base(), (zennit.composites.Convolution, rule), (nn.Linear, rule)]
    return zennit.composites.LayerMapComposite(layers, canonizers=merged())


def merged():
    return [zennit.canonizers.SequentialMergeBatchNorm()]


def same(name, method, composite, target=2):
    modules, operators = NETWORKS[name]
    x = image(3, 3, 16)
    want = theirs(modules(), composite, x, target)
    for build in (modules, operators):
        got = px.explain(build(), x, method, target=target).values
        assert (got - want).abs().max() <= 1e-10 * want.abs().max()
    assert want.abs().max() > 0


RULES = {
    "epsilon": lambda: (EpsilonLRP(), zennit.rules.Epsilon()),
    "epsilon, large": lambda: (EpsilonLRP(epsilon=0.25), zennit.rules.Epsilon(0.25)),
    "alpha 1": lambda: (AlphaBetaLRP(alpha=1.0, beta=0.0), zennit.rules.ZPlus()),
    "alpha 2": lambda: (AlphaBetaLRP(), zennit.rules.AlphaBeta(2.0, 1.0)),
    "alpha 1.5": lambda: (AlphaBetaLRP(alpha=1.5, beta=0.5), zennit.rules.AlphaBeta(1.5, 0.5)),
    "gamma": lambda: (GammaLRP(), zennit.rules.Gamma()),
    "gamma 2": lambda: (GammaLRP(gamma=2.0), zennit.rules.Gamma(2.0)),
    "flat": lambda: (CompositeLRP(assign=(("*", "flat"),)), zennit.rules.Flat()),
    "w²": lambda: (CompositeLRP(assign=(("*", "w-square"),)), zennit.rules.WSquare()),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_one_rule_for_all(name, rule):
    method, their_rule = RULES[rule]()
    if rule == "epsilon, large":  # sums and pooling keep the small stabiliser there, and get ε here
        base = [(kind, zennit.rules.Norm(0.25) if isinstance(r, zennit.rules.Norm) else r)
                for kind, r in zennit.composites.layer_map_base()]  # fmt: skip
        kinds = [(zennit.composites.Convolution, their_rule), (nn.Linear, their_rule)]
        composite = zennit.composites.LayerMapComposite([*base, *kinds], canonizers=merged())
        return same(name, method, composite)
    return same(name, method, everywhere(their_rule))


COMPOSITES = {
    "epsilon-plus": lambda: zennit.composites.EpsilonPlus(canonizers=merged()),
    "epsilon-plus-flat": lambda: zennit.composites.EpsilonPlusFlat(canonizers=merged()),
    "epsilon-alpha2-beta1": lambda: zennit.composites.EpsilonAlpha2Beta1(canonizers=merged()),
    "epsilon-alpha2-beta1-flat": lambda: zennit.composites.EpsilonAlpha2Beta1Flat(canonizers=merged()),
    "epsilon-gamma-box": lambda: zennit.composites.EpsilonGammaBox(
        low=torch.full((1, 3, 16, 16), LOW), high=torch.full((1, 3, 16, 16), HIGH), canonizers=merged()
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("composite", COMPOSITES)
def test_composites(name, composite):
    same(name, CompositeLRP(composite=composite, low=LOW, high=HIGH), COMPOSITES[composite]())


@pytest.mark.parametrize("domain", ["box", "positive"])
def test_deep_taylor_is_their_rules_where_the_score_is_positive(domain):
    model, x = stock.small_vgg("module"), image(2, 3, 16)
    x = x.abs() if domain == "positive" else x  # the domain's own inputs: others are refused
    scores = model(x).detach()
    target = int(scores.min(0).values.argmax())
    assert (scores[:, target] > 0).all()
    first = zennit.rules.ZBox(LOW, HIGH) if domain == "box" else zennit.rules.ZPlus()
    kinds = [(zennit.composites.Convolution, zennit.rules.ZPlus()), (nn.Linear, zennit.rules.ZPlus())]
    composite = zennit.composites.SpecialFirstLayerMapComposite(
        [*zennit.composites.layer_map_base(), *kinds], [(zennit.composites.Convolution, first)]
    )
    want = theirs(model, composite, x, target)
    got = px.explain(model, x, DeepTaylor(domain=domain, low=LOW, high=HIGH), target=target).values
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


def test_single_precision_is_no_worse_than_theirs():
    x, modules = image(3, 3, 16), NETWORKS["vgg"][0]
    exact = theirs(modules(), zennit.composites.EpsilonAlpha2Beta1(), x)
    method = CompositeLRP(composite="epsilon-alpha2-beta1")
    mine = px.explain(modules().float(), x.float(), method, target=1).values
    other = theirs(modules().float(), zennit.composites.EpsilonAlpha2Beta1(), x.float())
    assert (mine - exact).norm() <= max(2 * float((other - exact).norm()), 1e-5 * float(exact.norm()))
