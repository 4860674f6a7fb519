"""Bias back-propagation against splits worked out by hand and against the bias that the gradient leaves over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pellucid as px
from nets import stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid import zoo
from pellucid.attribution import BiasBackpropagation
from pellucid.contract.errors import MethodError, NeedError, UnsupportedOperation

SHARES = ("proportional", "equal", "softmax")


def linear(weight, bias) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def left_over(net: nn.Module, x: torch.Tensor, target: int) -> torch.Tensor:
    """f(x) - w·x with w by autograd."""
    x = x.clone().requires_grad_()
    score = net(x)[:, target]
    (w,) = torch.autograd.grad(score.sum(), x)
    return (score - (w * x).flatten(1).sum(1)).detach()


@pytest.mark.parametrize("share", SHARES)
def test_one_layer_by_hand(share: str) -> None:
    """w x = (2, -6, 0, 0) by x = (1, 2, 0, 5): the third input is zero, the fourth has no weight."""
    net, x = linear([[2.0, -3.0, 7.0, 0.0]], [4.0]), torch.tensor([[1.0, 2.0, 0.0, 5.0]], dtype=torch.float64)
    e = torch.exp(torch.tensor([2.0, 6.0]) / 2).double()
    expected = {
        "proportional": [4 * 2 / 8, 4 * 6 / 8, 0, 0],
        "equal": [2, 2, 0, 0],
        "softmax": [*(4 * e / e.sum()).tolist(), 0, 0],
    }[share]
    found = px.explain(net.eval(), x, BiasBackpropagation(share=share, temperature=2.0))
    assert found.values[0].tolist() == pytest.approx(expected)
    assert found.facts["bias"].tolist() == [4.0]


def test_two_layers_by_hand() -> None:
    """Hidden z = (3, -1, 2): the second unit is closed. Amounts at the open ones: their part of b2, and w2 b1."""
    net = nn.Sequential(linear([[1.0, 1.0], [-1.0, 0.0], [0.0, 2.0]], [1.0, 0.5, 0.0]), nn.ReLU(),
                        linear([[2.0, 9.0, -3.0]], [6.0])).eval()  # fmt: skip
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    # open units hold 3 and 2; contributions 6 and -6, so b2 = 6 splits 3 and 3; first unit adds 2·1
    first, third = 3.0 + 2.0 * 1.0, 3.0 + (-3.0) * 0.0
    expected = [first / 2, first / 2 + third]
    found = px.explain(net, x, "bias-backpropagation")
    assert found.values[0].tolist() == pytest.approx(expected)
    # b2 + (gated W2) b1; without the lower bias it would be 6
    assert found.facts["bias"].tolist() == pytest.approx([6.0 + 2.0 * 1.0])
    assert float(found.values.sum()) == pytest.approx(8.0)


@pytest.mark.parametrize("share", SHARES)
def test_sums_to_what_the_gradient_leaves_over(share: str) -> None:
    net, x = Spelt(nn.ReLU()), image()
    found = px.explain(net, x, BiasBackpropagation(share=share), target=1)
    assert torch.allclose(found.values.flatten(1).sum(1), left_over(net, x, 1), atol=1e-12)
    assert float(found.facts["completeness_gap"].max()) < 1e-12
    assert float(found.values.abs().max()) > 1e-3


@pytest.mark.parametrize("share", SHARES)
def test_without_any_bias_there_is_nothing_to_share_out(share: str) -> None:
    net, x = Spelt(nn.ReLU(), bias=False), image()
    with torch.no_grad():
        net.norm.running_mean.zero_()
        net.norm.bias.zero_()
    assert float(left_over(net, x, 1).abs().max()) < 1e-12
    with pytest.raises(NeedError, match=r"must have a bias.*module 'first'"):
        px.explain(net, x, BiasBackpropagation(share=share), target=1)
    whole = px.explain(net, x, BiasBackpropagation(share=share, add_gradient=True), target=1).values
    assert torch.allclose(whole, px.explain(net, x, "gradient-x-input", target=1).values, atol=1e-12)
    with torch.no_grad():
        net.norm.running_mean.fill_(0.5)  # a running mean is a bias too
    found = px.explain(net, x, BiasBackpropagation(share=share), target=1)
    assert torch.allclose(found.values.flatten(1).sum(1), left_over(net, x, 1), atol=1e-12)


def test_with_the_gradient_it_is_the_score() -> None:
    net, x = Spelt(nn.ReLU()), image()
    found = px.explain(net, x, BiasBackpropagation(add_gradient=True), target=0)
    assert torch.allclose(found.values.flatten(1).sum(1), net(x)[:, 0])


def test_a_closed_unit_passes_no_bias() -> None:
    """Input 1 reaches the score through the closed unit alone."""
    net = nn.Sequential(linear([[1.0, 0.0], [0.0, -1.0]], [0.5, 0.25]), nn.ReLU(), linear([[1.0, 1.0]], [2.0])).eval()
    found = px.explain(net, torch.ones(1, 2).double(), BiasBackpropagation(share="softmax"))
    assert found.values.tolist() == [[2.5, 0.0]]


@pytest.mark.parametrize("share", SHARES)
def test_bias_arrives_although_everything_is_closed_or_zero(share: str) -> None:
    net, x = (
        nn.Sequential(linear([[-1.0, 0.0, -1.0]], [-1.0]), nn.ReLU(), linear([[1.0]], [2.0])).eval(),
        torch.ones(1, 3),
    )
    found = px.explain(net, x.double(), BiasBackpropagation(share=share))
    assert float(found.values.sum()) == pytest.approx(2.0)
    assert found.values[0, 1] == 0
    blank = px.explain(net, torch.zeros(1, 3).double(), BiasBackpropagation(share=share))
    assert blank.values.tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("name", ["leaky", "hardtanh", "maximum", "residual", "average"])
def test_other_operations_lose_nothing(name: str) -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.shift = nn.Parameter(torch.randn(6))

        def forward(self, x):
            z = self.one(x)
            z = {
                "leaky": lambda: nn.functional.leaky_relu(z, 0.3),
                "hardtanh": lambda: nn.functional.hardtanh(3 * z),
                "maximum": lambda: torch.maximum(z, self.shift),
                "residual": lambda: torch.relu(self.two(z)) - z + self.shift,
                "average": lambda: nn.functional.avg_pool1d(torch.relu(z)[:, None], 3, 1, 1)[:, 0] * 2 + 1,
            }[name]()
            return self.three(z)

    net, x = Net().double().eval(), torch.randn(5, 4).double()
    found = px.explain(net, x, "bias-backpropagation", target=1)
    assert torch.allclose(found.values.sum(1), left_over(net, x, 1), atol=1e-12)


@pytest.mark.parametrize("spelling", stock.SPELLINGS)
def test_residual_networks(spelling: str) -> None:
    net = stock.settle(stock.ResNet(depths=(1, 1, 1, 1), width=4, classes=3, spelling=spelling))
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    found = px.explain(net, x, "bias-backpropagation", target=2)
    assert torch.allclose(found.values.flatten(1).sum(1), left_over(net, x, 2), atol=1e-11)


@pytest.mark.parametrize("name", [n for n in SPELLINGS if n != "module"])
def test_every_spelling_gives_the_same(name: str) -> None:
    plain, spelt = (px.explain(Spelt(SPELLINGS[n]), image(1), "bias-backpropagation", target=0).values
                    for n in ("module", name))  # fmt: skip
    assert torch.allclose(plain, spelt, atol=1e-14)


def test_a_layer_and_a_zoo_network() -> None:
    net, data = zoo.load("digits-cnn").double(), zoo.data("digits-cnn")
    x = torch.as_tensor(data.test[0][:2]).double()
    found = px.explain(net, x, BiasBackpropagation(share="equal"), target=3)
    assert torch.allclose(found.values.flatten(1).sum(1), left_over(net, x, 3))
    head = px.explain(net, x, "bias-backpropagation", layer="hidden", target=3)
    assert torch.allclose(head.values.sum(1), net.output.bias[3].detach().expand(2))


def test_what_is_curved_or_meaningless_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).eval()
    with pytest.raises(UnsupportedOperation, match=r"aten.tanh in module '1'"):
        px.explain(net, torch.ones(1, 3), "bias-backpropagation")
    with pytest.raises(MethodError, match="'share' must be one of"):
        px.explain(net, torch.ones(1, 3), BiasBackpropagation(share="fair"))
    with pytest.raises(MethodError, match="'temperature' must be above zero"):
        px.explain(net, torch.ones(1, 3), BiasBackpropagation(temperature=0.0))
