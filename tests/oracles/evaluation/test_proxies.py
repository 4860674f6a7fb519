"""Proxies against definitions on known maps and trees, and each against its own metric."""

import dataclasses

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import MethodError
from pellucid.evaluation import PROXIES, FunctionallyGrounded

DOUBLE = {"dtype": torch.float64}


def linear(rows=3):
    net = nn.Linear(4, 2, bias=False, **DOUBLE).eval()
    net.weight.data = torch.tensor([[4.0, 0.0, 0.0, 0.0], [1.0, -1.0, 2.0, 0.5]], **DOUBLE)
    return net, torch.arange(1.0, 4.0 * rows + 1, **DOUBLE).reshape(rows, 4)


def test_every_proxy_says_which_way_is_better_what_it_costs_and_what_it_assumes():
    for name, proxy in PROXIES.items():
        assert proxy.name == name
        assert proxy.better in ("higher", "lower")
        assert proxy.cost
        assert len(proxy.assumption) > 20
        assert name == "runtime" or proxy.form in proxy.build().wants


def test_the_direction_is_that_of_the_metric():
    net, x = linear()
    found = px.explain(net, x, FunctionallyGrounded(of="feature-ablation"), target=1)
    maps = {k: p for k, p in PROXIES.items() if p.form == "attribution"}
    assert list(found.facts) == list(maps)
    for name, proxy in maps.items():
        alone = px.explain(net, x, dataclasses.replace(proxy.build(), of="feature-ablation"), target=1)
        assert alone.better == proxy.better == found.source["proxies"][name]["better"]
        assert torch.allclose(found.facts[name], alone.values.double(), equal_nan=True)


def test_known_maps():
    """One column alone matters for class 0: the sparsest map, and values that foretell every change."""
    net, x = linear()
    found = px.explain(net, x, FunctionallyGrounded(of="gradient-x-input", figure="sparsity"), target=0)
    assert torch.allclose(found.values, torch.full((3,), 0.75, **DOUBLE))  # 1 - 1/n of n places
    assert torch.allclose(found.facts["deletion"], (4 * x[:, 0]) / 8)  # gone with the first of four: a triangle
    assert torch.allclose(found.facts["insertion"], (4 * x[:, 0]) * 7 / 8)
    assert torch.allclose(found.facts["sensitivity-n"], torch.ones(3, **DOUBLE))
    told = found.source["proxies"]["sparsity"]
    assert told["quality"] == "simplicity"
    assert told["mean"] == 0.75
    assert told["low"] <= told["mean"] <= told["high"]
    assert 0 < found.source["proxies"]["runtime"]["mean"] < found.source["seconds"]


def test_known_tree():
    """One threshold on one column: two rules, depth 1, two conditions, and the same answers as the network."""
    x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))

    def model(rows):
        return torch.stack([0.5 - rows[:, 0], rows[:, 0] - 0.5], 1)

    found = px.explain(model, x[:3], FunctionallyGrounded(of="cart-c45-surrogate"), data=x)
    assert {k: v.item() for k, v in found.facts.items() if k != "consistency"} == {
        "rules": 2.0,
        "depth": 1.0,
        "conditions": 2.0,
        "fidelity": 1.0,
    }
    assert 0.95 <= found.facts["consistency"].item() <= 1.0
    assert found.better == "lower"
    assert found.source["proxies"]["fidelity"]["better"] == "higher"


def test_what_can_not_be_measured_is_named_and_the_others_are():
    """Weights can't be drawn anew in a plain function."""
    net, x = linear()
    found = px.explain(lambda rows: net(rows), x, FunctionallyGrounded(of="feature-ablation"), target=1)
    assert "randomisation" not in found.facts
    assert found.source["proxies"]["randomisation"]["refused"]
    assert found.facts["deletion"].isfinite().all()
    method = FunctionallyGrounded(of="feature-ablation", figure="randomisation")
    with pytest.raises(MethodError, match="needs gradient"):
        px.explain(lambda rows: net(rows), x, method, target=1)


@pytest.mark.parametrize(
    "settings",
    [{"figure": "rules"}, {"only": ("rules",)}, {"only": "deletion"}, {"only": ("deletion",), "figure": "insertion"}],
)
def test_proxies_of_another_form_are_refused(settings):
    def model(rows):
        raise AssertionError("asked")

    with pytest.raises(MethodError):
        px.explain(model, torch.ones(1, 4), FunctionallyGrounded(of="feature-ablation", **settings))


def test_some_of_them():
    net, x = linear()
    found = px.explain(net, x, FunctionallyGrounded(of="feature-ablation", only=("sparsity",)), target=1)
    assert list(found.facts) == ["sparsity"]
    assert torch.equal(found.values, found.facts["sparsity"])
