"""Insertion and deletion against the definition, one forward after the other."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, Six, drawn
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError, NeedError
from pellucid.evaluation import InsertionDeletion

NET = Six()


def area(x, target, values, way, fill=0.0):
    """x and values flat, (6,): scores with the first k of the order changed, and the trapezoids under them."""
    order, scores = values.argsort(descending=True, stable=True), []
    for k in range(7):
        mixed = x.clone() if way == "deletion" else torch.full_like(x, fill)
        for i in order[:k]:
            mixed[i] = fill if way == "deletion" else x[i]
        with torch.no_grad():
            scores.append(NET(mixed[None])[0, target].item())
    return sum((a + b) / 2 / 6 for a, b in itertools.pairwise(scores)), scores


@pytest.mark.parametrize("way", ["deletion", "insertion"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (1, 3, 2)])
def test_area_is_that_of_the_definition(way, rows, shape):
    x, targets = drawn(rows, *shape, seed=5), torch.arange(rows) % 3
    features = "element" if len(shape) == 1 else "pixel"
    values = px.explain(NET, x, "gradient-x-input", target=targets).values
    found = px.explain(NET, x, InsertionDeletion(way=way, features=features, baseline=0.5), target=targets)
    for row in range(rows):
        want, curve = area(x[row].flatten(), targets[row], values[row].flatten(), way, 0.5)
        assert found.values[row].item() == pytest.approx(want, abs=1e-12)
        assert found.parts["curve"][row].tolist() == pytest.approx(curve, abs=1e-12)
    assert found.better == ("lower" if way == "deletion" else "higher")


def test_on_an_additive_score_no_order_beats_the_contributions():
    net = nn.Linear(6, 1, **DOUBLE).eval()
    x = drawn(20, 6, seed=3)
    for way in ("deletion", "insertion"):
        best = px.explain(net, x, InsertionDeletion(of="gradient-x-input", way=way))
        assert bool((best.facts["gain"] >= -1e-12).all())
        assert best.facts["gain"].mean() > 0.1
        assert best.facts["beats_random_orders"].tolist() == [1.0] * 20
        worst = px.explain(net, x, InsertionDeletion(of=Backwards(), way=way))
        assert bool((worst.facts["gain"] <= 1e-12).all())
        assert worst.facts["beats_random_orders"].tolist() == [0.0] * 20


@dataclass(frozen=True, kw_only=True)
class Backwards(Method):
    """The contributions with their sign turned."""

    card: ClassVar[Card] = Card(
        name="test-backwards",
        title="Backwards",
        question="What is wrong?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=-ask.inputs.floats[0] * subject.module.weight.detach())


def test_the_random_orders_are_the_seeds():
    x = drawn(3, 6, seed=4)
    first, again, other = (px.explain(NET, x, "insertion-deletion", seed=s).facts["random"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("settings", [{"way": "up"}, {"steps": 0}, {"references": 1}, {"of": "cart-c45-surrogate"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        px.explain(NET, drawn(1, 6), InsertionDeletion(**settings))


def test_the_held_methods_needs_are_asked_for():
    with pytest.raises(NeedError, match="torch module"):
        px.explain(lambda x: x, drawn(1, 6), InsertionDeletion(of="vanilla-gradient"))
    found = px.explain(lambda x: x, drawn(1, 6), InsertionDeletion(of="feature-ablation"), target=0)
    assert found.values.shape == (1,)
