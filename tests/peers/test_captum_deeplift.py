"""Captum's DeepLIFT: the same numbers where each activation is a module of its own; elsewhere, what goes wrong and why."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets.stock import settle

captum = pytest.importorskip("captum.attr")
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


X, BASE = noise(3, 2, 9, 9), noise(3, 2, 9, 9, seed=2)


class Net(nn.Module):
    """Two activations, each a module, with a pooling in between; a copy keeps activation and pooling `apart`."""

    def __init__(self, pool, act=nn.ReLU, apart=True):
        super().__init__()
        self.one, self.norm, self.act1, self.pool = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), act(), pool
        self.two, self.act2, self.apart = nn.Conv2d(4, 3, 2), act(), apart
        with torch.no_grad():
            size = self.two(pool(torch.zeros(1, 4, 7, 7))).flatten(1).shape[1]
        self.head = nn.Linear(size, 5)
        settle(self)

    def forward(self, x):
        x = self.act1(self.norm(self.one(x)))
        return self.head(self.act2(self.two(self.pool(x.clone() if self.apart else x))).flatten(1))


def theirs(model, x, base, kind="DeepLift", target=1):
    return getattr(captum, kind)(model).attribute(x.clone(), base, target=target).detach()


def ours(model, x, base, method="deeplift", target=1):
    return px.explain(model, x, method, target=target, data=base).values


def overwritten(model, x, base, size, stride, target=1):
    """The shares of max pooling with each winner's windows overwriting each other instead of adding up."""
    top, at = functional.max_pool2d(x, size, stride, return_indices=True)
    top0, at0 = functional.max_pool2d(base, size, stride, return_indices=True)
    weight = model[-1].weight[target].reshape(top.shape[1:]).detach()
    higher = torch.maximum(top, top0)
    found = torch.zeros_like(x)
    for amount, place in ((higher - top0, at), (top - higher, at0)):
        found += (
            torch.zeros_like(x).flatten(2).scatter(2, place.flatten(2), (weight * amount).flatten(2)).reshape(x.shape)
        )
    return found


def missed(model, found, x, base, target=1):
    """By how much the sum of a row misses the change of its score, relative to it."""
    with torch.no_grad():
        change = model(x)[:, target] - model(base)[:, target]
    return ((found.flatten(1).sum(1) - change).abs() / change.abs()).max()


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 3), nn.AvgPool2d(2), nn.AvgPool2d(3, 1)], ids=repr)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LeakyReLU, nn.ELU])
def test_the_same_numbers(act, pool):
    model = Net(pool, act)
    assert (ours(model, X, BASE) - theirs(model, X, BASE)).abs().max() <= 1e-9 * theirs(model, X, BASE).abs().max()


def test_deep_shap_is_their_deep_lift_shap():
    model, background = Net(nn.MaxPool2d(2)), noise(4, 2, 9, 9, seed=5)
    want = theirs(model, X, background, "DeepLiftShap")
    assert torch.allclose(ours(model, X, background, "deep-shap"), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_pooling_right_after_an_activation(act):
    """Captum gives the activation the gradient of what follows, read off the tensor between the two before the pooling's
    own multiplier is put there: its hooks on one tensor run in the order in which they were made. A copy in between, which
    changes nothing, mends it.
    """
    together, apart = Net(nn.MaxPool2d(2), act, apart=False), Net(nn.MaxPool2d(2), act)
    assert torch.equal(together(X), apart(X))
    got = ours(together, X, BASE)
    assert torch.allclose(got, theirs(apart, X, BASE), rtol=1e-9, atol=1e-12)
    assert missed(together, got, X, BASE) <= 1e-9
    assert missed(together, theirs(together, X, BASE), X, BASE) > 0.01


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2)])
def test_overlapping_max_pooling(size, stride):
    """Captum unpools: where two windows have the same winner, one of their shares overwrites the other and is lost."""
    windows = 2 * ((9 - size) // stride + 1) ** 2
    model = settle(nn.Sequential(nn.MaxPool2d(size, stride), nn.Flatten(), nn.Linear(windows, 2)))
    got = ours(model, X, BASE)
    assert missed(model, got, X, BASE) <= 1e-9
    found = theirs(model, X, BASE)
    assert missed(model, found, X, BASE) > 0.01
    # What it does, share by share: the last window of a winner is the one that counts.
    assert torch.allclose(found, overwritten(model, X, BASE, size, stride), rtol=1e-9, atol=1e-12)


class Spelt(nn.Module):
    """One hidden layer whose activation is called in some way."""

    def __init__(self, act):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.module, self.act = nn.ReLU(), act
        settle(self)

    def forward(self, x):
        return self.head(self.act(self, self.two(self.act(self, self.one(x)))))


class Apart(Spelt):
    """The same with two modules, which captum can tell apart."""

    def __init__(self):
        super().__init__(None)
        self.first, self.second = nn.ReLU().eval(), nn.ReLU().eval()

    def forward(self, x):
        return self.head(self.second(self.two(self.first(self.one(x)))))


FLAT, FLAT_BASE = noise(3, 6), noise(3, 6, seed=4)


def test_functional_activations():
    """Captum hooks modules: a function gets its plain derivative instead of the Rescale rule, without a word."""
    model = Spelt(lambda self, x: functional.relu(x))
    want = theirs(Apart(), FLAT, FLAT_BASE)
    assert torch.allclose(ours(model, FLAT, FLAT_BASE), want, rtol=1e-9)
    found = theirs(model, FLAT, FLAT_BASE)
    x = FLAT.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert torch.allclose(found, grad * (FLAT - FLAT_BASE), rtol=1e-9)
    assert missed(model, found, FLAT, FLAT_BASE) > 1e-3


def test_reused_activations():
    """Captum keeps one input and output for each module, and gives up at the second call."""
    model = Spelt(lambda self, x: self.module(x))
    assert torch.allclose(ours(model, FLAT, FLAT_BASE), theirs(Apart(), FLAT, FLAT_BASE), rtol=1e-9)
    with pytest.raises(RuntimeError, match="being used more than once"):
        theirs(model, FLAT, FLAT_BASE)


def test_activations_in_place():
    """Here both are right: captum copies an activation's input before it is overwritten."""
    model = Apart()
    want = theirs(Apart(), FLAT, FLAT_BASE)
    model.first.inplace = model.second.inplace = True
    assert torch.allclose(ours(model, FLAT, FLAT_BASE), want, rtol=1e-9)
    assert torch.allclose(theirs(model, FLAT, FLAT_BASE), want, rtol=1e-9)
