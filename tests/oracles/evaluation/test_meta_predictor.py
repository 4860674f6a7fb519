"""Explanations as rules: the right one never errs, a blind one as often as chance, and sampled errors are the known."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, Six, drawn
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import MetaPredictor


def three(x):
    """Three classes by the sum of two columns."""
    total = x[:, :2].sum(1)
    return torch.stack([-total, torch.full_like(total, 0.5), total], 1)


def test_the_networks_own_answers_as_a_rule_never_err():
    x = drawn(200, 4)
    found = px.explain(three, x, "meta-predictor-explanation", data={"rule": lambda v: three(v).argmax(1)})
    assert found.values.tolist() == [0] * 200
    assert found.source["overall"]["mean"] == 0
    assert found.source["rule"] == "given, inputs"
    assert found.source["chance"] > 0.5
    near = px.explain(three, x, MetaPredictor(where="near", samples=9), data={"rule": lambda v: three(v).argmax(1)})
    assert near.values.tolist() == [0] * 200


def test_a_rule_that_knows_nothing_errs_as_often_as_chance():
    x, generator = drawn(2000, 4), torch.Generator().manual_seed(1)
    found = px.explain(
        three,
        x,
        "meta-predictor-explanation",
        data={"rule": lambda v: torch.randint(0, 3, (len(v),), generator=generator)},
    )
    error = (2 / 9 / 2000) ** 0.5  # of a share of 2/3
    assert abs(found.source["overall"]["mean"] - 2 / 3) < 5 * error
    assert abs(found.source["chance"] - 2 / 3) < 5 * error
    assert found.source["overall"]["low"] < 2 / 3 < found.source["overall"]["high"]


def test_rules_err_where_they_differ_row_by_row():
    x = drawn(300, 4)
    found = px.explain(three, x[:50], MetaPredictor(of="cart-c45-surrogate"), data=x[50:])
    tree = px.explain(three, x[:50], "cart-c45-surrogate", data=x[50:])
    assert found.values.tolist() == (tree.predict(x[:50]) != three(x[:50]).argmax(1)).double().tolist()
    assert found.source["rule"] == "rules, inputs"
    near = px.explain(three, x[:50], MetaPredictor(of="cart-c45-surrogate", where="near", samples=20), data=x[50:])
    assert 0 < near.values.mean() < 0.5
    assert bool((near.facts["low"] <= near.values).all() and (near.values <= near.facts["high"]).all())


@dataclass(frozen=True, kw_only=True)
class Blind(Method):
    """Amounts of the right sum, dealt out to the features without looking."""

    card: ClassVar[Card] = Card(
        name="test-blind-amounts",
        title="Blind",
        question="Which amounts?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject, ask, state):
        x = ask.inputs.floats[0]
        return Attribution(values=drawn(*x.shape, seed=7) + (ask.score / x.shape[1])[:, None])


def test_amounts_predict_a_score_that_adds_up():
    net, x = nn.Linear(8, 1, bias=False, **DOUBLE).eval(), drawn(30, 8)
    right = px.explain(net, x, MetaPredictor(of="gradient-x-input"))
    assert right.values.tolist() == [0] * 30
    assert right.source["rule"] == "amounts"
    blind = px.explain(net, x, MetaPredictor(of=Blind()))
    assert blind.values.mean() > 0.2


def test_errors_of_amounts_are_those_of_all_coalitions():
    """Six features have 64 coalitions: the share of them that the amounts mistake, within five errors of the sample."""
    net, x = Six(), drawn(4, 6, seed=3)
    values = px.explain(net, x, "gradient-x-input", target=1).values
    found = px.explain(net, x, MetaPredictor(of="gradient-x-input", samples=3000), target=1)
    with torch.no_grad():
        for row in range(4):
            full, empty = (float(net(v[None])[0, 1]) for v in (x[row], torch.zeros(6, **DOUBLE)))
            wrong = 0
            for number in range(64):
                kept = torch.tensor([bool(number >> i & 1) for i in range(6)])
                score = float(net(torch.where(kept, x[row], 0.0)[None])[0, 1])
                said = full - float(values[row][~kept].sum())
                half = (full + empty) / 2
                wrong += (said > half) != (score > half)
            share = wrong / 64
            assert abs(found.values[row].item() - share) <= 5 * math.sqrt(share * (1 - share) / 3000) + 1e-12


def test_how_often_an_answer_turns_under_a_change_is_its_known_chance():
    """The sign of x + 2u - 1 differs from that of x with probability (1 - |x|) / 2."""
    x = torch.tensor([[0.1], [-0.6], [0.95], [3.0]], **DOUBLE)
    found = px.explain(
        lambda v: v,
        x,
        MetaPredictor(samples=2000),
        data={"transform": lambda v, u: v + (2 * u - 1)[:, None]},
    )
    for row, share in enumerate([0.45, 0.2, 0.025, 0.0]):
        assert abs(found.values[row].item() - share) <= 5 * math.sqrt(share * (1 - share) / 2000)
        assert found.facts["low"][row] <= found.values[row] <= found.facts["high"][row]
    alone = px.explain(
        lambda v: v, x[1:2], MetaPredictor(samples=2000), data={"transform": lambda v, u: v + (2 * u - 1)[:, None]}
    )
    assert torch.equal(alone.values, found.values[1:2])


class Sides(nn.Module):
    """Is there more on the left than on the right?"""

    def forward(self, x):
        middle = x.shape[3] // 2
        return (x[..., :middle].sum((1, 2, 3)) - x[..., middle:].sum((1, 2, 3)))[:, None]


class Rings(nn.Module):
    """Is there more around the middle than further out? Turning changes nothing but what pixels blur."""

    def __init__(self, side=31):
        super().__init__()
        at = torch.arange(side, **DOUBLE) - (side - 1) / 2
        far = (at[:, None] ** 2 + at**2).sqrt()
        self.weight = (far < 6).double() - ((far >= 6) & (far < 11)).double()

    def forward(self, x):
        return (x * self.weight).sum((1, 2, 3))[:, None]


def test_planted_invariances_are_told_from_others():
    x = drawn(6, 1, 31, 31)
    x = x + torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0, -3.0], **DOUBLE).reshape(-1, 1, 1, 1) * Rings().weight
    found = {
        (net, kind): px.explain(model, x, MetaPredictor(invariance=kind, samples=30)).values
        for net, model in (("sides", Sides().eval()), ("rings", Rings().eval()))
        for kind in ("mirror", "rotation")
    }
    assert found["rings", "mirror"].tolist() == [0] * 6
    assert found["rings", "rotation"].tolist() == [0] * 6
    assert found["sides", "rotation"].mean() > 0.2
    even = x[..., :30]
    turned = px.explain(Sides().eval(), even, MetaPredictor(invariance="mirror", samples=2)).values
    assert turned.tolist() == [1] * 6


def test_a_picture_turned_by_half_is_upside_down_whatever_its_sides():
    method = MetaPredictor(invariance="rotation")
    x = drawn(2, 1, 6, 10)
    assert torch.allclose(method._changed(x, torch.ones(2, **DOUBLE)), x.flip(2, 3), atol=1e-9)
    square = drawn(1, 1, 7, 7)
    quarter = method._changed(square, torch.full((1,), 0.75, **DOUBLE))
    assert torch.allclose(quarter, square.rot90(1, (2, 3)), atol=1e-9) or torch.allclose(
        quarter, square.rot90(-1, (2, 3)), atol=1e-9
    )
    wide = torch.zeros(1, 1, 9, 21, **DOUBLE)
    wide[0, 0, 4, 10:13] = 1.0  # three across, from the middle on
    turned = method._changed(wide, torch.full((1,), 0.75, **DOUBLE))[0, 0]
    assert turned[:, 10].sum().item() == pytest.approx(3)  # are three up or down, not stretched


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"where": "far"}, None, MethodError),
        ({"samples": 1}, None, MethodError),
        ({"noise": 0}, None, MethodError),
        ({"extent": 2}, None, MethodError),
        ({"invariance": "turning"}, None, MethodError),
        ({"invariance": "mirror"}, None, InputError),
        ({}, {"rule": 3}, InputError),
        ({}, {"rule": len, "transform": len}, MethodError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, data, error):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(error):
        px.explain(never, drawn(1, 6), MetaPredictor(**{"of": "feature-ablation", **settings}), data=data)


def test_rules_that_give_no_classes_are_refused():
    with pytest.raises(InputError, match="whole numbers"):
        px.explain(three, drawn(5, 4), "meta-predictor-explanation", data={"rule": lambda v: v[:, 0]})
    with pytest.raises(InputError, match="shape"):
        px.explain(three, drawn(5, 4), "meta-predictor-explanation", data={"transform": lambda v, u: v[:, :2]})
