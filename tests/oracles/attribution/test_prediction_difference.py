"""Averaging a feature out, against published figures, sums written out, and closed forms."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import PredictionDecomposition
from pellucid.contract.errors import InputError, MethodError, NeedError, NumericalError, TargetError

DOUBLE = {"dtype": torch.float64}
PLAIN = {"output": "probabilities", "laplace": False, "features": "column"}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def naive_bayes(x):
    """Two attributes, P(a1|y) = .9 / .2, P(a2|y) = .8 / .3, equal priors: the probabilities of (not y, y)."""
    given = torch.tensor([[0.2, 0.3], [0.9, 0.8]], **DOUBLE)
    likelihood = torch.stack([torch.where(x > 0.5, p, 1 - p).prod(1) for p in given], 1)
    return likelihood / likelihood.sum(1, keepdim=True)


def sample():
    """Both attributes are 1 in 11 of 20 rows, as their marginal .55 = (.9 + .2) / 2 = (.8 + .3) / 2 says."""
    column = torch.tensor([1.0] * 11 + [0.0] * 9, **DOUBLE)
    return torch.stack([column, column.flip(0)], 1)


def test_the_published_naive_bayes_has_2_878_bits():
    x = torch.ones(1, 2, **DOUBLE)
    found = px.explain(naive_bayes, x, PredictionDecomposition(**PLAIN), target=1, data=sample())
    assert found.values[0, 0].item() == pytest.approx(2.878, abs=5e-4)
    with_a1, without_a1 = 0.72 / 0.78, 0.08 / 0.32
    p = 0.55 * with_a1 + 0.45 * without_a1
    assert found.values[0, 0].item() == pytest.approx(math.log2(12) - math.log2(p / (1 - p)), abs=1e-12)


def test_one_attribute_gives_the_likelihood_ratio_in_bits():
    """With one attribute, averaging it out leaves the prior, so the weight of evidence is log2 P(a|y) / P(a|not y)."""

    def one(x):
        joint = torch.stack([torch.where(x[:, 0] > 0.5, p, 1 - p) for p in torch.tensor([0.2, 0.9], **DOUBLE)], 1)
        return joint / joint.sum(1, keepdim=True)

    x = torch.tensor([[1.0], [0.0]], **DOUBLE)
    method = PredictionDecomposition(**PLAIN)
    found = px.explain(one, x, method, target=1, data=sample()[:, :1])
    assert found.values[:, 0].tolist() == pytest.approx([math.log2(0.9 / 0.2), math.log2(0.1 / 0.8)], abs=1e-12)


class Net(nn.Module):
    def __init__(self, columns=3, classes=3):
        super().__init__()
        self.first, self.last = nn.Linear(columns, 5, **DOUBLE), nn.Linear(5, classes, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize("kind", ["weight of evidence", "information", "probability", "score"])
@pytest.mark.parametrize("laplace", [True, False])
def test_sums_written_out(kind, laplace):
    net, x, data = Net(), drawn(2, 3, seed=7), drawn(12, 3, seed=8).round()  # values that occur several times
    method = PredictionDecomposition(kind=kind, laplace=laplace)
    found = px.explain(net, x, method, target=torch.tensor([2, 0]), data=data).values
    for row, target in enumerate([2, 0]):

        def said(inputs, target=target):
            with torch.no_grad():
                out = net(inputs[None])[0]
            return (out if kind == "score" else out.softmax(0))[target].item()

        def figure(p):
            p = (p * 12 + 1) / (12 + 3) if laplace and kind in ("weight of evidence", "information") else p
            return {
                "weight of evidence": lambda: math.log2(p / (1 - p)),
                "information": lambda: math.log2(p),
            }.get(kind, lambda: p)()

        for column in range(3):
            total = 0.0
            for other in data:
                mixed = x[row].clone()
                mixed[column] = other[column]
                total += said(mixed) / 12
            assert found[row, column].item() == pytest.approx(figure(said(x[row])) - figure(total), abs=1e-12)


def test_or_of_two_ones_gives_nothing_to_either():
    """The known blind spot: the other one is still there."""

    def either(x):
        on = (x.amax(1) > 0.5).double()
        return torch.stack([1 - on, on], 1)

    x = torch.ones(1, 2, **DOUBLE)
    method = PredictionDecomposition(kind="probability", output="probabilities")
    assert px.explain(either, x, method, target=1, data=sample()).values.tolist() == [[0.0, 0.0]]


def test_hidden_units_of_a_linear_layer():
    """a_j - E[a_j with a_i averaged out] = w_ji (a_i - E a_i), and zero where the weight is zero."""
    net = Net()
    net.last.weight.data[1, 2] = 0
    x, data = drawn(2, 3, seed=7), drawn(9, 3, seed=8)
    method = PredictionDecomposition(kind="score", features="element")

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.squash, self.net = nn.Tanh(), net

        def forward(self, x):
            return self.net.last(self.squash(self.net.first(x))) ** 3

    two = Two().eval()
    with torch.no_grad():
        hidden, usual = torch.tanh(net.first(x)), torch.tanh(net.first(data)).mean(0)
    found = px.explain(two, x, method, target=px.unit("net.last", 1), layer="squash", data=data)
    assert torch.allclose(found.values, net.last.weight[1].detach() * (hidden - usual), atol=1e-12)
    assert found.values[:, 2].abs().max() == 0


def test_superpixels_differ_from_row_to_row():
    class Sum(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1, keepdim=True)

    images, data = drawn(2, 1, 2, 3), drawn(4, 1, 2, 3, seed=1)
    groups = torch.tensor([[[[0, 0, 1], [1, 1, 1]]], [[[0, 1, 1], [0, 0, 0]]]])
    method = PredictionDecomposition(kind="score")
    found = px.explain(Sum().eval(), images, method, data={"groups": groups, "background": data}).values
    for row in range(2):
        for number in range(2):
            inside = groups[row, 0] == number
            want = (images[row, 0][inside].sum() - data[:, 0][:, inside].sum(1).mean()).item()
            assert found[row, 0][inside].tolist() == pytest.approx([want] * int(inside.sum()))


@pytest.mark.parametrize(
    ("settings", "call", "error"),
    [
        ({"kind": "odds"}, {}, MethodError),
        ({"output": "scores"}, {}, MethodError),
        ({"laplace": 2}, {}, MethodError),
        ({}, {"data": None}, NeedError),
        ({}, {"data": torch.ones(2, 4, **DOUBLE)}, InputError),
        ({}, {"target": lambda out: out[:, 0]}, TargetError),
        ({"output": "probabilities"}, {}, NumericalError),
    ],
)
def test_what_is_refused(settings, call, error):
    with pytest.raises(error):
        px.explain(
            Net(),
            9 * drawn(1, 3),
            PredictionDecomposition(**settings),
            **{"data": drawn(4, 3, seed=2), "target": 0, **call},
        )
