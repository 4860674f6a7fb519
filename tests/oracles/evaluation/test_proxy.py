"""The fidelity of proxies whose disagreement with the network is known."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import Card, Method, Rules, RuleStructure
from pellucid.contract.errors import MethodError
from pellucid.evaluation import ProxyFidelity

DOUBLE = {"dtype": torch.float64}


def even(rows, seed=0):
    """Two columns, even between -1 and 1."""
    return 2 * torch.rand(rows, 2, generator=torch.Generator().manual_seed(seed), **DOUBLE) - 1


@dataclass(frozen=True)
class Step(RuleStructure):
    """Class 1 where the first column is above a threshold."""

    kind: ClassVar[str] = "test-step"
    threshold: float

    def predict(self, inputs):
        return (inputs[:, 0] > self.threshold).long()

    def size(self):
        return {"rules": 1, "tests": 3}

    def text(self, features=(), classes=()):
        return ["one"]


@dataclass(frozen=True)
class Slope(Step):
    """A number."""

    kind: ClassVar[str] = "test-slope"

    def predict(self, inputs):
        return inputs[:, 0] * self.threshold


@dataclass(frozen=True, kw_only=True)
class Stated(Method):
    """The same rules, whatever the network."""

    threshold: float = 0.0
    number: bool = False

    card: ClassVar[Card] = Card(
        name="test-stated", title="Stated", question="Which rules?", form="rules", scope="global", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Rules(structure=(Slope if self.number else Step)(self.threshold), fidelity=1.0)


def network(weight=1.0):
    """Scores (0, weight × first column): class 1 where that is above 0."""
    net = nn.Linear(2, 2, bias=False, **DOUBLE).eval()
    net.weight.data = torch.tensor([[0.0, 0.0], [weight, 0.0]], **DOUBLE)
    return net


def test_a_proxy_that_is_the_network_agrees_everywhere():
    found = px.explain(network(), even(500), ProxyFidelity(of=Stated()), data=even(3))
    assert found.parts["fidelity"].tolist() == [1.0, 1.0, 1.0]
    assert found.parts["region"].tolist() == [1.0] * 4
    assert found.facts["size"].item() == 3
    assert found.source["size"] == {"rules": 1, "tests": 3}
    assert found.parts["high"].tolist() == [1.0, 1.0, 1.0]
    assert found.parts["low"][0].item() == pytest.approx(500 / (500 + 1.959964**2), abs=1e-6)


def test_a_shifted_threshold_fails_near_the_boundary_alone():
    """Rows whose first column is between 0 and 0.25 are wrong: an eighth of all, half of those near the boundary."""
    x = even(4000)
    found = px.explain(network(), x, ProxyFidelity(of=Stated(threshold=0.25)), data=x)
    wrong = ((x[:, 0] > 0) & (x[:, 0] <= 0.25)).double().mean().item()
    assert found.values.item() == pytest.approx(1 - wrong)
    assert found.facts["everywhere"].item() == pytest.approx(7 / 8, abs=0.05)
    order = x[:, 0].abs().argsort()
    quarter = x[order[:1000], 0]
    assert found.parts["region"][0].item() == pytest.approx(
        1 - ((quarter > 0) & (quarter <= 0.25)).double().mean().item()
    )
    assert found.parts["region"][2:].tolist() == [1.0, 1.0]
    assert found.parts["region_rows"].tolist() == [1000] * 4


def test_a_proxy_that_knows_nothing_is_at_chance():
    """Whether the second column is above 0 says nothing of the first."""
    x = even(4000)
    swapped = network()
    swapped.weight.data = swapped.weight.data.flip(1)
    found = px.explain(swapped, x, ProxyFidelity(of=Stated()), data=x)
    assert found.values.item() == pytest.approx(0.5, abs=0.04)
    assert found.facts["chance"].item() == pytest.approx(0.5, abs=0.02)


def test_the_interval_covers():
    """200 samples of a proxy that is right on seven eighths: about 95 % of the intervals hold that."""
    held = 0
    for seed in range(200):
        found = px.explain(network(), even(60, seed), ProxyFidelity(of=Stated(threshold=0.25), samples=2), data=even(3))
        held += bool(found.parts["low"][0] <= 7 / 8 <= found.parts["high"][0])
    assert 180 <= held <= 200


def test_numbers_are_compared_by_explained_variance():
    """f = 2 x, the proxy says b x: R² = 1 - (2 - b)² / 4 for columns whose mean is zero."""
    x = even(600)
    x = torch.cat([x, -x])
    for b in (2.0, 1.0, -2.0):
        method = ProxyFidelity(of=Stated(threshold=b, number=True))
        found = px.explain(network(2.0), x, method, target=1, data=x)
        assert found.values.item() == pytest.approx(1 - (2 - b) ** 2 / 4)
        assert found.parts["low"][0] <= found.values[0] <= found.parts["high"][0]
    assert found.unit == "R²"


@pytest.mark.parametrize("settings", [{"samples": 1}, {"regions": 0}, {"noise": 0.0}, {"of": "vanilla-gradient"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        px.explain(network(), even(3), ProxyFidelity(**{"of": Stated(), **settings}), data=even(3))
