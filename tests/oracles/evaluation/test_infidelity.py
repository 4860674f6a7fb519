"""Infidelity against closed forms on a linear network, and against its definition, change by change."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import Infidelity

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """The same values for every row."""

    numbers: tuple[float, ...] = ()

    card: ClassVar[Card] = Card(
        name="test-fixed", title="Fixed", question="Which?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        x = ask.inputs.floats[0]
        return Attribution(
            values=torch.tensor(self.numbers, **DOUBLE).to(x).reshape(1, *x.shape[1:]).expand(x.shape).clone()
        )


def linear(weights):
    net = nn.Linear(len(weights), 1, **DOUBLE).eval()
    net.weight.data = weights[None]
    return net


def test_the_weights_of_a_linear_network_are_without_infidelity():
    w, x = drawn(5), drawn(3, 5, seed=1)
    for change in ("gaussian", "noisy baseline", "square"):
        found = px.explain(linear(w), x, Infidelity(of="vanilla-gradient", reading="slope", change=change))
        assert bool((found.values < 1e-20).all())
        assert found.facts["scale"].tolist() == pytest.approx([1.0] * 3)


def test_gaussian_infidelity_in_closed_form():
    """(w - φ)ᵀ Σ (w - φ), with Σ = σ² 1 and σ a share of the row's range; its scaling β = φ·w / φ·φ."""
    w, phi, x = drawn(5), drawn(5, seed=7), drawn(2, 5, seed=1)
    method = Infidelity(of=Fixed(numbers=tuple(phi.tolist())), reading="slope", noise=0.3, samples=4000)
    found = px.explain(linear(w), x, method)
    variance = (0.3 * (x.amax(1) - x.amin(1))) ** 2
    want = variance * ((w - phi) ** 2).sum()
    assert bool(((found.values - want).abs() < 5 * found.facts["standard_error"]).all())
    assert bool((found.facts["standard_error"] < 0.05 * want).all())
    best = (phi @ w) / (phi @ phi)
    assert found.facts["scale"].tolist() == pytest.approx([float(best)] * 2, abs=0.1)
    least = variance * ((w - best * phi) ** 2).sum()
    assert found.facts["scaled"].tolist() == pytest.approx(least.tolist(), rel=0.15)
    assert found.facts["null"].tolist() == pytest.approx((variance * (w @ w)).tolist(), rel=0.15)
    scaled = px.explain(linear(w), x, Infidelity(**{**vars(method), "scaled": True}))
    assert torch.allclose(scaled.values, found.facts["scaled"])
    assert torch.allclose(found.values, found.facts["unscaled"])


class Small(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.first, self.last = nn.Linear(size, 5, **DOUBLE), nn.Linear(5, 3, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 3)])
def test_all_squares_by_hand(rows, height, width):
    """Two channels and a picture that is not square: every 2 × 2 square goes to 0.5, and contributions are summed."""
    net, x, targets = Small(2 * height * width), drawn(rows, 2, height, width, seed=4), torch.arange(rows) % 3
    phi = drawn(2, height, width, seed=9)
    fixed = Fixed(numbers=tuple(phi.flatten().tolist()))
    found = px.explain(net, x, Infidelity(of=fixed, change="square", side=2, baseline=0.5), target=targets)
    for row in range(rows):
        errors = []
        for top in range(height - 1):
            for left in range(width - 1):
                y = x[row : row + 1].clone()
                y[:, :, top : top + 2, left : left + 2] = 0.5
                with torch.no_grad():
                    moved = (net(x[row : row + 1]) - net(y))[0, targets[row]]
                errors.append(float(phi[:, top : top + 2, left : left + 2].sum() - moved) ** 2)
        assert found.values[row].item() == pytest.approx(sum(errors) / len(errors), abs=1e-10)
    assert not found.facts["standard_error"].any()


@pytest.mark.parametrize("shape", [(8,), (8, 2)])
def test_all_windows_by_hand(shape):
    net, x = Small(torch.Size(shape).numel()), drawn(2, *shape, seed=4)
    phi = drawn(*shape, seed=9)
    fixed = Fixed(numbers=tuple(phi.flatten().tolist()))
    found = px.explain(net, x, Infidelity(of=fixed, change="square", side=3), target=1)
    for row in range(2):
        errors = []
        for first in range(6):
            y = x[row : row + 1].clone()
            y[:, first : first + 3] = 0
            with torch.no_grad():
                moved = (net(x[row : row + 1]) - net(y))[0, 1]
            errors.append(float(phi[first : first + 3].sum() - moved) ** 2)
        assert found.values[row].item() == pytest.approx(sum(errors) / 6, abs=1e-10)


def test_squares_drawn_at_random_agree_with_all_of_them():
    net, x = Small(64), drawn(2, 1, 8, 8, seed=4)
    settings = {"of": "gradient-x-input", "change": "square", "side": 2}
    every = px.explain(net, x, Infidelity(**settings, samples=49))
    some = px.explain(net, x, Infidelity(**settings, samples=48))
    assert not every.facts["standard_error"].any()
    assert bool(((some.values - every.values).abs() < 5 * some.facts["standard_error"]).all())
    assert not torch.allclose(some.values, every.values)


@pytest.mark.parametrize(
    "settings",
    [{"change": "up"}, {"reading": "x"}, {"samples": 1}, {"noise": 0}, {"side": 0}, {"scaled": 1}, {"side": 9}],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def never(x):
        raise AssertionError("called")

    with pytest.raises((MethodError, InputError)):
        px.explain(never, drawn(1, 6), Infidelity(**{"of": "feature-ablation", "change": "square", **settings}))
