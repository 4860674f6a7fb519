"""fANOVA of forests against sums over every cell of a tree's partition, and planted effects."""

import itertools

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import FanovaForest
from pellucid.attribution.effect_forest import tree_shares
from pellucid.contract.errors import InputError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def cell_by_cell(tree, box):
    """Ask the tree in the middle of every cell that its thresholds cut the box into; average over columns by hand."""
    columns, edges = len(box), []
    for j in range(columns):
        cuts = [t for f, t in zip(tree.tree_.feature, tree.tree_.threshold, strict=True) if f == j]
        edges.append(np.unique([box[j, 0], *np.clip(cuts, *box[j]), box[j, 1]]))
    middles = [(e[1:] + e[:-1]) / 2 for e in edges]
    widths = [np.diff(e) / (e[-1] - e[0]) for e in edges]
    points = np.array(list(itertools.product(*middles)))
    values = tree.predict(points).reshape([len(m) for m in middles])

    def mean_with(*held):
        out = values
        for j in reversed([j for j in range(columns) if j not in held]):
            out = np.tensordot(out, widths[j], axes=(j, 0))
        return out

    mean = mean_with()
    variance = values - mean
    for j in reversed(range(columns)):
        variance = np.tensordot(variance**2 if j == columns - 1 else variance, widths[j], axes=(j, 0))
    first = np.array([widths[j] @ (mean_with(j) - mean) ** 2 for j in range(columns)]) / variance
    pair = np.zeros((columns, columns))
    for j, k in itertools.combinations(range(columns), 2):
        both = widths[j] @ (mean_with(j, k) - mean) ** 2 @ widths[k] / variance
        pair[j, k] = pair[k, j] = both - first[j] - first[k]
    return first, pair


def test_shares_of_a_tree_are_those_of_its_partition_cell_by_cell():
    from sklearn.tree import DecisionTreeRegressor

    table = rows(80, 3).numpy() * [1, 5, 0.2] + [0, -2, 7]
    scores = table[:, 0] * table[:, 1] + np.sin(9 * table[:, 2]) + table[:, 1]
    tree = DecisionTreeRegressor(max_leaf_nodes=12, random_state=0).fit(table, scores)
    box = np.stack([table.min(0), table.max(0)], 1)
    first, pair = cell_by_cell(tree, box)
    got = tree_shares(tree.tree_, box)
    np.testing.assert_allclose(got["first"], first, atol=1e-12)
    np.testing.assert_allclose(got["pair"], pair, atol=1e-12)
    assert got["first"].sum() + np.triu(got["pair"]).sum() <= 1 + 1e-12


def test_values_are_means_over_trees_with_their_standard_errors():
    from sklearn.ensemble import RandomForestRegressor

    data = rows(60, 3)
    model = lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:]  # noqa: E731
    got = px.explain(model, data[:2], FanovaForest(trees=5, leaves=8), data=data, seed=3)
    number = int(px.engine.seed.generator(3, b"fanova-forest", 0).integers(1 << 31))
    forest = RandomForestRegressor(n_estimators=5, max_leaf_nodes=8, random_state=number)
    forest.fit(data.numpy(), model(data)[:, 0].numpy(), sample_weight=np.ones(60))
    box = np.stack([data.numpy().min(0), data.numpy().max(0)], 1)
    by_tree = [cell_by_cell(tree, box) for tree in forest.estimators_]
    first, pair = (np.array([t[i] for t in by_tree]) for i in range(2))
    for row in range(2):
        np.testing.assert_allclose(got.values[row].numpy(), first.mean(0), atol=1e-8)
        np.testing.assert_allclose(got.error[row].numpy(), first.std(0, ddof=1) / 5**0.5, atol=1e-8)
        np.testing.assert_allclose(got.parts["pair"][row].numpy(), pair.mean(0), atol=1e-8)


def test_two_steps_that_add_up_have_no_pair_and_a_product_of_signs_nothing_else():
    from sklearn.tree import DecisionTreeRegressor

    table = np.array(list(itertools.product([0.0, 1.0], [0.0, 1.0], [0.0, 1.0])))
    box = np.array([[0.0, 1.0]] * 3)
    added = DecisionTreeRegressor().fit(table, 2 * table[:, 0] + table[:, 1])
    got = tree_shares(added.tree_, box)
    np.testing.assert_allclose(got["first"], [0.8, 0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(got["pair"], np.zeros((3, 3)), atol=1e-12)
    crossed = DecisionTreeRegressor(random_state=0).fit(table[:, :2], (2 * table[:, 0] - 1) * (2 * table[:, 1] - 1))
    got = tree_shares(crossed.tree_, box[:2])
    np.testing.assert_allclose(got["first"], [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(got["pair"], [[0, 1], [1, 0]], atol=1e-12)


def test_a_column_that_nothing_depends_on_and_one_value_alone():
    data = rows(60, 3)
    data[:, 2] = 4.0
    got = px.explain(lambda x: (x[:, :1] > 0.5) * 3.0, data[:1], FanovaForest(trees=8), data=data)
    torch.testing.assert_close(got.values[0], torch.tensor([1.0, 0.0, 0.0], **DOUBLE), rtol=0, atol=1e-6)
    flat = px.explain(lambda x: 0 * x[:, :1] + 2, data[:1], FanovaForest(trees=8), data=data)
    assert not flat.values.any()
    assert flat.facts["trees"].tolist() == [0.0]


def test_held_out_share_is_scikit_learns_out_of_bag_score():
    """On multiples of 1/1024 the scores have few binary digits, so that both forests are fitted to the same numbers."""
    from sklearn.ensemble import RandomForestRegressor

    data = (rows(60, 3) * 1024).floor() / 1024
    model = lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:]  # noqa: E731
    got = px.explain(model, data[:1], FanovaForest(trees=60, leaves=8), data=data)
    number = int(px.engine.seed.generator(0, b"fanova-forest", 0).integers(1 << 31))
    forest = RandomForestRegressor(n_estimators=60, max_leaf_nodes=8, random_state=number, oob_score=True)
    forest.fit(data.numpy(), model(data)[:, 0].numpy(), sample_weight=np.ones(60))
    assert got.facts["heldout_share"].item() == pytest.approx(forest.oob_score_, abs=1e-10)


@pytest.mark.parametrize(("settings", "word"), [({"trees": 1}, "'trees'"), ({"leaves": 2.5}, "'leaves'")])
def test_refused_before_the_model_runs(settings, word):
    calls = []
    with pytest.raises(InputError, match=word):
        px.explain(lambda x: calls.append(1) or x, rows(5, 2), FanovaForest(**settings), data=rows(5, 2))
    assert not calls
