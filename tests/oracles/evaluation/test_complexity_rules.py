"""Sizes of trees against trees drawn by hand."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import pellucid as px
from nets.told import drawn
from pellucid.contract import Card, Method, Rules
from pellucid.contract.errors import MethodError, NeedError
from pellucid.evaluation import RuleComplexity
from pellucid.rules.tree_structure import Tree


def by_hand():
    """x₀ ≤ 0: class 0; else x₁ ≤ 1: class 1; else, if x₀ ≤ 2: class 0, else class 1. Seven nodes, four leaves."""
    tests = {0: (0, 0.0, 1, 2), 2: (1, 1.0, 3, 4), 4: (0, 2.0, 5, 6)}
    says, depth = {1: 0, 3: 1, 5: 0, 6: 1}, [0, 1, 1, 2, 2, 3, 3]
    value = torch.full((7, 2), 0.5).double()
    for node, number in says.items():
        value[node] = torch.eye(2)[number]
    return Tree(
        feature=torch.tensor([tests.get(n, (-1,))[0] for n in range(7)]),
        threshold=torch.tensor([tests.get(n, (0, 0.0))[1] for n in range(7)]).double(),
        left=torch.tensor([tests.get(n, (0, 0, -1, -1))[2] for n in range(7)]),
        right=torch.tensor([tests.get(n, (0, 0, -1, -1))[3] for n in range(7)]),
        value=value,
        rows=torch.ones(7),
        impurity=torch.zeros(7),
        slack=torch.zeros(7),
        depth=torch.tensor(depth),
        regression=False,
        shape=(2,),
    )


@dataclass(frozen=True, kw_only=True)
class Drawn(Method):
    """The tree drawn by hand; with the other seeds its answers are turned around."""

    steady: bool = True

    card: ClassVar[Card] = Card(
        name="test-drawn",
        title="Drawn",
        question="What was drawn?",
        form="rules",
        scope="global",
        citation="none",
        needs=("predictions", "data"),
        claims=("seeded",),
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        tree = by_hand()
        if ask.seed and not self.steady:
            tree.value[1] = torch.eye(2)[1]
        return Rules(structure=tree, fidelity=0.75)


ROWS = torch.tensor([[-1.0, 0.0], [-2.0, 5.0], [1.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
NET = torch.nn.Linear(2, 2).eval()


def measured(data=ROWS, of=None, **settings):
    return px.explain(NET, ROWS[:2], RuleComplexity(of=of or Drawn(), **settings), data=data)


def test_a_tree_is_counted_as_by_hand():
    facts = {k: v.item() for k, v in measured((ROWS, torch.tensor([0, 0, 1, 1, 1]))).facts.items()}
    assert facts["rules"] == facts["leaves"] == 4
    assert facts["depth"] == 3
    assert facts["conditions"] == 1 + 2 + 3 + 2  # x₀ between 0 and 2 has two; above 2 swallows above 0
    assert facts["antecedents"] == 2
    assert facts["path_length"] == pytest.approx((1 + 1 + 2 + 3 + 3) / 5)
    assert (facts["coverage"], facts["overlap"]) == (1, 1)
    assert facts["fidelity"] == 0.75
    assert facts["accuracy"] == pytest.approx(4 / 5)  # says 0, 0, 1, 0, 1
    assert facts["consistency"] == 1


def test_every_figure_can_be_the_value():
    for name, want in (("conditions", 8), ("rules", 4), ("depth", 3), ("antecedents", 2), ("path_length", 2)):
        found = measured(figure=name)
        assert found.values.tolist() == [want]
        assert found.better == "lower"


def test_rules_that_come_out_otherwise_are_inconsistent():
    assert measured(of=Drawn(steady=False), repeats=2).facts["consistency"].item() == pytest.approx(3 / 5)
    assert "consistency" not in measured(repeats=0).facts
    assert "accuracy" not in measured().facts


def test_a_fitted_trees_facts_are_its_own():
    x = drawn(300, 3, seed=1).float()
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    for number, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=number).float()
    rules = px.explain(net, x, "cart-c45-surrogate", data=x)
    facts = px.explain(net, x[:2], "rule-complexity-metrics", data=x).facts
    assert {k: facts[k].item() for k in rules.size} == rules.size
    assert facts["path_length"].item() == pytest.approx(rules.facts["path_length"].mean().item())
    assert (facts["coverage"].item(), facts["overlap"].item()) == (1, 1)
    assert facts["fidelity"].item() == rules.fidelity


def test_numbers_agree_by_their_explained_variance():
    x = drawn(80, 2, seed=2).float()
    found = px.explain(lambda v: v[:, :1] + v[:, 1:], x[:2], "rule-complexity-metrics", data=x)
    assert 0 < found.facts["consistency"].item() < 1


def test_what_cannot_be_measured_is_refused():
    for settings in ({"figure": "length"}, {"repeats": -1}, {"of": "gradient-x-input"}):
        with pytest.raises(MethodError):
            measured(**settings)
    with pytest.raises(NeedError, match="data"):
        measured(data=None)
