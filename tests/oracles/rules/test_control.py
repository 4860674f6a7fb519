"""Rules within a budget: caps met exactly, losses as they are, and the greedy choice against all choices by hand."""

import itertools

import pytest
import torch

import pellucid as px
from nets.told import DOUBLE
from pellucid.contract.errors import InputError, MethodError
from pellucid.rules import BUDGETS, Budget, CartSurrogate, Summary, control


def slanted(x):
    return torch.stack([1 - x[:, :2].sum(1), x[:, :2].sum(1) - 1], 1)


def rows(count, seed=0, columns=3):
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def grown(model=slanted, depth=6, **settings):
    return px.explain(model, rows(3), CartSurrogate(max_depth=depth), data=rows(400, 1), **settings)


def agreed(structure, x, model=slanted):
    return float((structure.predict(x) == model(x).argmax(1)).double().mean())


@pytest.mark.parametrize(
    "budget",
    [
        Budget(depth=2),
        Budget(rules=5),
        Budget(literals=7),
        Budget(depth=4, rules=6, literals=12),
        Budget(rules=1),
        Budget(depth=0),
        Budget(literals=0),
        *BUDGETS.values(),
    ],
)
def test_caps_are_met_exactly_and_the_loss_is_told(budget):
    rules, x = grown(), rows(600, 2)
    found = control(rules, slanted, x, budget)
    size = found.size
    for name, cap in (("depth", budget.depth), ("rules", budget.rules), ("conditions", budget.literals)):
        assert cap is None or size[name] <= cap
    assert found.structure.size()["conditions"] == sum(
        (abs(b) != float("inf")) for rule in found.structure.rules() for bounds in rule.bounds.values() for b in bounds
    )
    lost = found.facts["fidelity_before"] - found.fidelity
    assert torch.allclose(found.facts["fidelity_lost"], lost)
    assert found.source["control"]["before"] == rules.size
    assert found.source["control"]["after"] == size
    # Measured on rows that were not pruned on, of the same draw.
    assert abs(found.fidelity - agreed(found.structure, rows(4000, 3))) < 0.09
    left = [step["literals"] for step in found.source["control"]["steps"]]
    assert left == sorted(left, reverse=True)


def test_what_is_within_the_budget_stays_as_it_is():
    rules, x = grown(depth=2), rows(300, 2)
    found = control(rules, slanted, x, Budget(depth=2, rules=4))
    assert found.structure is rules.structure
    assert found.source["control"]["excess"] == "within"
    assert found.facts["fidelity_lost"].item() == 0
    assert found.fidelity == pytest.approx(agreed(rules.structure, x))


def ancestors(tree):
    """The path from the root to each node, itself included."""
    paths = {0: (0,)}
    for node in range(len(tree.feature)):
        for child in (int(tree.left[node]), int(tree.right[node])):
            if child >= 0:
                paths[child] = (*paths[node], child)
    return paths


def predicted(tree, x, cut):
    """Row by row: down the tree until a leaf or a cut."""
    said = []
    for row in x:
        node = 0
        while node not in cut and tree.feature[node] >= 0:
            side = tree.left if row[tree.feature[node]] <= tree.threshold[node] else tree.right
            node = int(side[node])
        said.append(int(tree.value[node].argmax()))
    return torch.tensor(said)


def literals(tree, cut):
    """Bounds of all ways to an end, where a column's tests on one side are one bound."""
    total = 0
    for node, path in ancestors(tree).items():
        if any(p in cut for p in path[:-1]) or (tree.feature[node] >= 0 and node not in cut):
            continue
        total += len({(int(tree.feature[p]), int(tree.left[p]) == child) for p, child in itertools.pairwise(path)})
    return total


def test_the_cheapest_test_per_literal_goes_first():
    from pellucid.rules.control import _Shrunk

    tree, x = grown(depth=4).structure, rows(150, 5)
    truth = slanted(x).argmax(1)
    shrunk = _Shrunk(tree, x, truth, 2)
    shrunk.within(Budget(rules=int(tree.size()["rules"]) - 3))
    cut, met = set(), []
    while True:
        open_tests = [
            n for n, path in ancestors(tree).items() if tree.feature[n] >= 0 and not any(p in cut for p in path)
        ]
        here = float((predicted(tree, x, cut) == truth).double().mean())
        costs = {}
        for node in open_tests:
            gone = literals(tree, cut) - literals(tree, cut | {node})
            lost = here - float((predicted(tree, x, cut | {node}) == truth).double().mean())
            costs[node] = (round(lost / max(gone, 1), 12), -gone, node)
        cut.add(min(costs, key=costs.get))
        met.append((literals(tree, cut), float((predicted(tree, x, cut) == truth).double().mean())))
        if len(met) == len(shrunk.steps) - 1:
            break
    assert shrunk.cut == cut
    assert [(s["literals"], pytest.approx(s["fidelity"])) for s in shrunk.steps[1:]] == met


def test_a_planted_short_tree_is_found_again_without_loss():
    """A needle of noise in the answers grows a deep tree; the two tests that matter are what pruning leaves."""

    def planted(x):
        inside = ((x[:, 0] > 0.5) & (x[:, 1] > 0.5)).double()
        return torch.stack([0.5 - inside, inside - 0.5], 1)

    def noisy(x):
        speck = ((x[:, 2] * 1000).floor() % 17 == 0).double()[:, None]
        return planted(x) * (1 - 2 * speck)

    rules = px.explain(noisy, rows(3), CartSurrogate(max_depth=9, min_rows=1), data=rows(500, 1))
    assert rules.size["rules"] > 10
    found = control(rules, planted, rows(2000, 7), Budget(rules=3))
    assert sorted(found.structure.feature.tolist()) == [-1, -1, -1, 0, 1]
    assert found.fidelity > 0.95
    assert found.facts["fidelity_lost"].item() < 0


def test_refusing_says_what_is_over_and_by_how_much():
    rules = grown()
    with pytest.raises(MethodError, match=r"rules where 3 are allowed"):
        control(rules, slanted, rows(100, 2), Budget(rules=3), excess="refuse")
    with pytest.raises(MethodError, match="fidelity"):
        control(rules, slanted, rows(100, 2), Budget(rules=1), least=0.9)


def test_a_summary_reads_short_and_predicts_as_before(tmp_path):
    rules, x = grown(), rows(300, 2)
    found = control(rules, slanted, x, Budget(rules=4), excess="summarise")
    assert isinstance(found.structure, Summary)
    assert torch.equal(found.predict(x), rules.predict(x))
    assert found.facts["fidelity_lost"].item() == 0
    assert len(found.text) == found.size["rules"] <= 4
    assert found.size["rules_behind"] == rules.size["rules"]
    behind = [found.structure.behind(i) for i in range(len(found.text))]
    assert [*itertools.chain(*behind)] == rules.text  # every rule is behind one sentence, in order
    for sentence, those in zip(found.text, behind, strict=True):
        assert sentence.endswith(f"; {len(those)} rules say more.") == (len(those) > 1)
    again = px.load(found.save(tmp_path / "summary"))
    assert again.text == found.text
    assert torch.equal(again.predict(x), rules.predict(x))
    found.show()
    assert "rules say more" in found.describe()


def test_words_tell_what_the_budget_cost():
    rules = grown()
    found = control(rules, slanted, rows(600, 2), Budget(rules=2))
    points = -100 * found.facts["fidelity_lost"].item()
    told = found.describe()
    assert f"from {rules.size['conditions']} tests in all to {found.size['conditions']}" in told
    assert f"changed the agreement by {points:+.1f} points" in told
    assert points < -1
    assert "budget" not in control(rules, slanted, rows(600, 2), Budget()).describe()


def test_numbers_are_pruned_by_what_they_explain():
    model = lambda v: (v[:, :1] > 0.5).double() + 0.1 * v[:, 1:2]  # noqa: E731
    rules = grown(model, depth=4)
    found = control(rules, model, rows(400, 2), Budget(rules=2))
    assert found.structure.feature.tolist() == [0, -1, -1]
    assert found.fidelity > 0.9
    assert found.facts["fidelity_lost"].item() > 0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"budget": "expert"}, MethodError),
        ({"budget": 3}, MethodError),
        ({"budget": Budget(rules=0)}, MethodError),
        ({"budget": Budget(depth=1.5)}, MethodError),
        ({"excess": "hide"}, MethodError),
        ({"least": 2}, MethodError),
        ({"inputs": torch.rand(2, 3)}, InputError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, error):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(error):
        control(grown(depth=2), never, **{"inputs": rows(9), **settings})


def test_other_results_are_refused():
    with pytest.raises(InputError, match="form rules"):
        control(px.explain(slanted, rows(2), "feature-ablation"), slanted, rows(9))
