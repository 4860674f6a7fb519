"""If and then: the stated precision is that of the network, on rows that chose nothing, and forms are in order."""

import json
import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid import zoo
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.report import Vocabulary, explicitness, if_then, page
from pellucid.report.audience_logic import ORDER, _condition


class Both(nn.Module):
    """Class 1 where the first two columns are both above 0.5; the others are not read."""

    def forward(self, x):
        score = torch.relu(x[:, 0] - 0.5) * torch.relu(x[:, 1] - 0.5) * 50
        return torch.stack([torch.full_like(score, 0.2), score], 1)


def table(rows=2000, columns=4, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(**settings):
    net = px.Subject(Both().eval(), features=("a", "b", "c", "d"), classes=("out", "in"))
    x = torch.tensor([[1.4, 1.5, 0.3, -0.2]], dtype=torch.float64)
    return net, if_then(net, px.explain(net, x, "feature-ablation"), table(), **settings)


def test_the_rule_names_what_decides_and_nothing_else():
    _, found = both()
    assert [c.name for c in found.conditions] == ["a", "b"]
    assert found.answer_name == "in"
    assert all(c.how == "high" for c in found.conditions)
    assert "If a is high (at least " in found.sentence()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_stated_precision_is_that_of_the_network_on_fresh_rows(most):
    net, found = both(most=most, precision=1.0)
    fresh = table(40_000, seed=9)
    fits = found.holds(fresh)
    true = (net.model(fresh).argmax(1) == found.answer)[fits].double().mean().item()
    assert found.low <= true <= found.high
    assert len(found.conditions) == min(most, 2)  # two are enough, and no other column speaks for it


def test_precision_and_coverage_are_counted_by_hand():
    net, found = both(most=1, precision=1.0, seed=3)
    (condition,) = found.conditions
    x = table()
    halves = [h for s in (3,) for h in px.engine.seed.generator(s, b"if then", 0).permutation(len(x))][len(x) // 2 :]
    fits = [i for i in halves if condition.low <= x[i, condition.column] <= condition.high]
    hits = [i for i in fits if net.model(x[i][None]).argmax().item() == found.answer]
    assert (found.covered, found.rows) == (len(fits), 1000)
    assert found.precision == pytest.approx(len(hits) / len(fits))


def test_conditions_stop_where_they_suffice():
    one = px.Subject(nn.Linear(3, 2).double().eval())
    one.model.weight.data, one.model.bias.data = torch.zeros(2, 3).double(), torch.zeros(2).double()
    one.model.weight.data[1, 0], one.model.weight.data[1, 1] = 5.0, 0.01
    x = torch.tensor([[2.0, 2.0, 0.0]], dtype=torch.float64)
    found = if_then(one, px.explain(one, x, "gradient-x-input"), table(columns=3))
    assert [c.name for c in found.conditions] == ["column 1"]
    assert found.precision > 0.99


def test_a_tree_s_own_rule_is_measured_on_the_network():
    world, net = zoo.data("breast-cancer-mlp"), zoo.load("breast-cancer-mlp")
    subject = px.Subject(net, features=world.features, classes=world.classes)
    tree = px.explain(subject, world.test[0][:3], "cart-c45-surrogate", data=world.train)
    found = if_then(subject, tree, world.test[0], row=1)
    fits = found.holds(world.test[0])
    assert bool(found.holds(world.test[0][1:2])[0])
    same = net(world.test[0]).argmax(1) == found.answer
    assert found.low <= same[fits].double().mean().item() <= found.high
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["then"] == found.answer
    assert told["if"][0]["name"] in world.features


def test_forms_are_in_the_order_of_explicitness():
    assert [explicitness(form) for form in ORDER] == [1, 2, 3, 4]
    assert explicitness("measure") == explicitness("text") == 0
    assert explicitness(px.explain(nn.Linear(2, 2).eval(), torch.ones(1, 2), "vanilla-gradient")) == 2


@pytest.mark.parametrize(
    ("value", "known", "low", "high"),
    [
        (9.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 7.0, math.inf),
        (0.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], -math.inf, 2.0),
        (4.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 2.0, 7.0),
        (0.0, [0] * 9 + [1], 0.0, 0.0),
        (1.0, [0] * 9 + [1], 1.0, math.inf),
        (-1.0, [0] * 9 + [1], -math.inf, -1.0),
        (1.0, [0, 1] * 5, 1.0, math.inf),
    ],
)
def test_a_condition_holds_for_its_own_value(value, known, low, high):
    import numpy as np

    found = _condition(0, "x", value, np.array(known, dtype=float))
    assert (found.low, found.high) == (low, high)
    assert bool(found.holds(torch.tensor([[value]]))[0])


def test_the_users_words_stand_in_the_sentence_and_stay_inert():
    net, _ = both()
    words = Vocabulary.of({"feature:a": "<b>blood pressure", "class:in": "ill"})
    named = words.apply(net)
    x = torch.tensor([[1.4, 1.5, 0.3, -0.2]], dtype=torch.float64)
    found = if_then(named, px.explain(named, x, "feature-ablation"), table())
    assert "blood pressure is high" in found.sentence()
    assert "says “ill”" in found.sentence()
    assert "<b>blood" not in page(found.section())


def test_what_can_not_be_written_is_refused():
    net, x = Both().eval(), table(6)
    x[:2, :2] = 2.0
    maps = px.explain(net, x[:2], "feature-ablation")
    examples = px.explain(nn.Sequential(nn.Linear(4, 2)).double().eval(), x[:2], "deep-nearest-neighbours", data=x)
    with pytest.raises(NeedError, match="examples"):
        if_then(net, examples, x)
    for wrong in ({"row": 2}, {"most": 0}, {"precision": 0}):
        with pytest.raises((InputError, MethodError), match="Got"):
            if_then(net, maps, x, **wrong)
    silent = px.explain(net, torch.zeros(1, 4).double(), "feature-ablation", target=1)
    with pytest.raises(InputError, match="speaks for"):
        if_then(net, silent, x)
    with pytest.raises(InputError, match="columns"):
        if_then(lambda v: torch.stack([v[:, 0], v[:, 1]], 1), maps, x[:, :3])
