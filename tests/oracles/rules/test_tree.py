"""Decision tree surrogates against scikit-learn, tables worked by hand, published figures and functions that are trees."""

import math

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import nn

import pellucid as px
from pellucid import worlds, zoo
from pellucid.contract import RuleStructure
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.contract.storage import same
from pellucid.engine.inputs import as_inputs
from pellucid.rules import CartSurrogate, grow
from pellucid.rules.tree import agreement, as_tree, held_out_rows
from pellucid.rules.tree_structure import Tree

# Temperature, humidity, windy, and whether to play: nine yes (1), five no (0). Sorted by temperature the answers read
# n n n y y n y y y y n y y y; sorted by humidity y y y y y y y n y n n y n n; windy holds for three yes and three no.
WEATHER = [
    (10.0, 90.0, 1, 0), (11.0, 80.0, 0, 0), (12.0, 94.0, 1, 0), (20.0, 50.0, 1, 1), (21.0, 52.0, 0, 1),
    (22.0, 84.0, 0, 0), (23.0, 54.0, 1, 1), (24.0, 56.0, 0, 1), (25.0, 58.0, 1, 1), (26.0, 60.0, 0, 1),
    (27.0, 86.0, 1, 0), (28.0, 62.0, 0, 1), (29.0, 82.0, 0, 1), (30.0, 88.0, 0, 1),
]  # fmt: skip


ROWS = 15  # in a leaf at least: splits of a few rows often tie, and each program breaks ties in its own way


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grown(columns, answers, measure, classes=1, **limits):
    root = grow.grow(columns.numpy(), answers.numpy(), grow.Growth(measure=measure, classes=classes, **limits))
    return root, as_tree(root, as_inputs(columns), measure == "variance")


def samples(rows=300, columns=6, seed=0):
    x = torch.randn(rows, columns, generator=generator(seed))
    noise = 0.4 * torch.randn(rows, generator=generator(seed + 1))
    score = x[:, 0] + x[:, 1] * x[:, 2] + noise
    return x, (score > -0.7).long() + (score > 0.8).long(), score.double()


def assert_same_tree(tree, peer, x):
    """Node by node: both are numbered from the root, left before right."""
    assert torch.equal(
        tree.feature.clamp(min=-2), torch.from_numpy(peer.tree_.feature).where(tree.feature >= 0, tree.feature)
    )
    assert len(tree.feature) == peer.tree_.node_count
    assert np.allclose(tree.threshold[tree.feature >= 0], peer.tree_.threshold[peer.tree_.feature >= 0], atol=1e-6)
    assert np.allclose(tree.predict(x), peer.predict(x.numpy()), atol=1e-12)
    assert np.allclose(tree.importance(), peer.feature_importances_, atol=1e-12)
    assert np.array_equal(tree.rows, peer.tree_.n_node_samples)
    assert np.allclose(tree.impurity, peer.tree_.impurity, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_gini_trees_equal_scikit_learn(depth):
    x, y, _ = samples(seed=10)
    _, tree = grown(x, y, "gini", 3, max_depth=depth, min_rows=ROWS)
    peer = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=ROWS, random_state=0).fit(x.numpy(), y.numpy())
    assert_same_tree(tree, peer, x)
    assert tree.size()["leaves"] == peer.get_n_leaves()
    assert tree.size()["depth"] == peer.get_depth()


def test_variance_trees_equal_scikit_learn():
    x, _, y = samples()
    _, tree = grown(x, y, "variance", max_depth=5, min_rows=5)
    assert_same_tree(tree, DecisionTreeRegressor(max_depth=5, min_samples_leaf=5, random_state=0).fit(x, y.numpy()), x)


@pytest.mark.parametrize("leaves", [2, 5, 9])
def test_the_number_of_leaves_is_spent_where_scikit_learn_spends_it(leaves):
    x, y, _ = samples(seed=10)
    _, tree = grown(x, y, "gini", 3, max_leaves=leaves, min_rows=ROWS)
    peer = DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=ROWS, random_state=0).fit(
        x.numpy(), y.numpy()
    )
    assert tree.size()["leaves"] == peer.get_n_leaves() == leaves
    assert np.array_equal(tree.predict(x), peer.predict(x.numpy()))


@pytest.mark.parametrize("alpha", [0.0, 0.004, 0.02, 0.05, 0.5])
def test_cost_complexity_pruning_equals_scikit_learn(alpha):
    x, y, _ = samples(seed=10)
    root, _ = grown(x, y, "gini", 3, min_rows=ROWS)
    grow.prune_by_cost(root, alpha)
    tree = as_tree(root, as_inputs(x), False)
    peer = DecisionTreeClassifier(ccp_alpha=alpha, min_samples_leaf=ROWS, random_state=0).fit(x.numpy(), y.numpy())
    assert tree.size()["leaves"] == peer.get_n_leaves()
    assert np.array_equal(tree.predict(x), peer.predict(x.numpy()))


def test_gain_ratio_and_gini_choose_what_they_choose_by_hand():
    # Before: H(9/14) = 0.9403 bit. Temperature, 3 no | 9 yes 2 no: gain 0.9403 - 11/14·H(2/11) = 0.4028, split
    # information H(3/14) = 0.7496, ratio 0.5374. Humidity, 7 yes | 2 yes 5 no: gain 0.9403 - H(2/7)/2 = 0.5087, split
    # information 1, ratio 0.5087. Windy: gain 0.0481. The mean gain is 0.3199, so temperature may win, and does.
    # Gini before 0.4592; falls by 0.2254 for temperature and by 0.2551 for humidity, so CART takes humidity.
    table = torch.tensor(WEATHER, dtype=torch.float64)
    x, y = table[:, :3], table[:, 3].long()
    root, _ = grown(x, y, "gain-ratio", 2, max_depth=1)
    assert (root.feature, root.threshold) == (0, 16.0)
    assert math.isclose(root.impurity, 0.94028596, abs_tol=1e-8)
    below = sum(child.rows / 14 * child.impurity for child in root.children)
    assert math.isclose(root.impurity - below, 0.4028, abs_tol=5e-5)
    root, _ = grown(x, y, "gini", 2, max_depth=1)
    assert (root.feature, root.threshold) == (1, 71.0)
    assert math.isclose(root.impurity - 0.5 * root.children[1].impurity, 0.2551, abs_tol=5e-5)


def test_gain_ratio_of_the_weather_table_by_brute_force():
    def entropy(answers):
        shares = [answers.count(c) / len(answers) for c in set(answers)]
        return -sum(p * math.log2(p) for p in shares)

    answers = [row[3] for row in WEATHER]
    best = {}
    for column in range(3):
        for threshold in sorted({row[column] for row in WEATHER})[:-1]:
            sides = [[r[3] for r in WEATHER if (r[column] <= threshold) == left] for left in (True, False)]
            gain = entropy(answers) - sum(len(s) / 14 * entropy(s) for s in sides)
            ratio = gain / entropy([len(sides[0])] * len(sides[0]) + [-1] * len(sides[1]))
            best[column] = max(best.get(column, (-1.0, 0.0)), (gain, ratio))
    mean = sum(gain for gain, _ in best.values()) / 3
    wanted = max((c for c in best if best[c][0] >= mean), key=lambda c: best[c][1])
    x = torch.tensor(WEATHER, dtype=torch.float64)
    order = np.argsort(x[:, :3].numpy(), axis=0, kind="stable").T
    how = grow.Growth(measure="gain-ratio", classes=2)
    gains, positions = grow._gains(x[:, :3].numpy(), x[:, 3].long().numpy(), order, 0, how)
    assert np.allclose(gains / 14, [best[c][0] for c in range(3)], atol=1e-12)
    assert grow.by_ratio(gains, positions, 14) == wanted == 0


def test_a_column_of_little_gain_is_not_chosen_for_its_ratio():
    # Gain 0.5 bit for 7 of 14 rows: ratio 0.5. Gain 0.2 for one row: split information H(1/14) = 0.371, ratio 0.539; but
    # the mean gain is 0.35. Where the first column gains 0.2 as well, the mean is 0.2 and the second may win.
    assert grow.by_ratio(np.array([7.0, 2.8]), np.array([6, 0]), 14) == 0
    assert grow.by_ratio(np.array([2.8, 2.8]), np.array([6, 0]), 14) == 1
    assert grow.by_ratio(np.array([-np.inf, 0.0]), np.array([6, 0]), 14) is None


def test_error_bounds_are_the_published_ones():
    # Quinlan 1993, §4.2, prints 0.206, 0.143 and 0.750 for no error in 6, 9 and 1 rows; with no error U = 1 - CF^(1/N).
    assert [round(grow.error_bound(0, n, 0.25), 3) for n in (6, 9, 1)] == [0.206, 0.143, 0.75]
    # And in general U solves P(errors or fewer | U) = CF.
    u = grow.error_bound(3, 20, 0.1)
    assert math.isclose(sum(math.comb(20, k) * u**k * (1 - u) ** (20 - k) for k in range(4)), 0.1, abs_tol=1e-12)


def test_pessimistic_pruning_does_what_the_books_example_does():
    # Leaves of 6, 9 and 1 rows without errors expect 6·0.206 + 9·0.143 + 1·0.750 = 3.27 errors; one leaf of 16 rows with
    # one error expects 2.55, so the leaf takes the subtree's place.
    def leaf(rows, share):
        return grow.Node(1, rows, np.array([share, 1 - share]), 0.0)

    root = grow.Node(0, 16, np.array([15 / 16, 1 / 16]), 0.3, 0, 0.5, 0.5, (leaf(6, 1.0), leaf(9, 1.0), leaf(1, 0.0)))
    grow.prune_by_errors(root, 0.25)
    assert list(root.leaves()) == [root]
    # Two pure halves expect 2·8·(1 - 0.25^(1/8)) = 2.5 errors where one leaf of 16 with 8 errors expects more than 8.
    kept = grow.Node(0, 16, np.array([0.5, 0.5]), 1.0, 0, 0.5, 0.5, (leaf(8, 1.0), leaf(8, 0.0)))
    grow.prune_by_errors(kept, 0.25)
    assert len(list(kept.leaves())) == 2


def planted(x):
    """A function that is a tree: three tests, four leaves, three classes."""
    low = torch.where(x[:, 1] <= -0.5, 0, 1)
    high = torch.where(x[:, 2] <= 0.75, 2, 0)
    return torch.nn.functional.one_hot(torch.where(x[:, 0] <= 0.25, low, high), 3).to(x.dtype)


@pytest.mark.parametrize("criterion", ["gini", "gain-ratio"])
def test_a_tree_is_recovered(criterion):
    # Data on a grid of which the thresholds are midpoints, so that the tree can be found exactly.
    x = torch.randint(-8, 9, (600, 4), generator=generator(3)).double() / 4 + 0.125
    rules = px.explain(planted, x[:20], CartSurrogate(criterion=criterion), data=x)
    assert rules.fidelity == 1.0
    assert rules.size["leaves"] == 4
    assert rules.size["depth"] == 2
    assert (int(rules.structure.feature[0]), float(rules.structure.threshold[0])) == (0, 0.25)
    assert torch.equal(rules.facts["agrees"], torch.ones(20, dtype=torch.float64))
    assert torch.equal(rules.facts["path_length"], torch.full((20,), 2.0, dtype=torch.float64))
    assert rules.source["rows_held_out"] + rules.source["rows_training"] == 600


@pytest.mark.parametrize("measure", ["gini", "variance"])
def test_flattened_rules_say_what_the_tree_says(measure):
    x, y, score = samples()
    _, tree = grown(x, y if measure == "gini" else score, measure, 3, max_depth=7)
    fresh = torch.randn(500, 6, generator=generator(9)).double()
    fresh[:300] = x.double()
    fresh[300:320, 0] = float(tree.threshold[0])  # on a threshold: goes left
    said = torch.full((500,), torch.nan, dtype=torch.float64)
    for rule in tree.rules():
        holds = torch.ones(500, dtype=torch.bool)
        for column, (low, high) in rule.bounds.items():
            holds &= (fresh[:, column] > low) & (fresh[:, column] <= high)
        assert torch.isnan(said[holds]).all()  # no row satisfies two rules
        value = tree.value[rule.leaf]
        said[holds] = float(value[0]) if measure == "variance" else float(value.argmax())
    assert torch.equal(said, tree.predict(fresh).double())
    assert len(tree.rules()) == len(tree.text()) == tree.size()["rules"]


def test_sentences_and_paths():
    table = torch.tensor(WEATHER, dtype=torch.float64)
    _, tree = grown(table[:, :3], table[:, 3].long(), "gini", 2, max_depth=2)
    names, classes = ("temperature", "humidity", "wind"), ("stay in", "play")
    # Right of 71 stand humidity 80…94 with n y n n y n n; the best cut there is temperature 28 (5 no | 2 yes).
    assert tree.text(names, classes) == [
        "If humidity is at most 71, the network says play (7 of 7 rows).",
        "If humidity is above 71 and temperature is at most 28, the network says stay in (5 of 5 rows).",
        "If humidity is above 71 and temperature is above 28, the network says play (2 of 2 rows).",
    ]
    path = tree.decision_path(table[0, :3], names, classes)
    assert path == "humidity is 90, above 71; temperature is 10, at most 28; so the network says stay in (5 of 5 rows)."
    assert tree.text()[0] == "If column 1 is at most 71, the network says class 1 (7 of 7 rows)."


def test_intervals_are_merged_and_thresholds_rounded_within_the_gap():
    x = torch.tensor([[0.0], [1.23456], [1.23466], [2.0], [3.0]], dtype=torch.float64)
    _, tree = grown(x, torch.tensor([0, 0, 1, 1, 0]), "gini", 2)
    assert tree.text()[1] == "If column 0 is above 1.2346 but at most 2.5, the network says class 1 (2 of 2 rows)."
    assert tree.size() == {"rules": 3, "leaves": 3, "depth": 2, "conditions": 4}


def test_pixels_have_names():
    image = torch.zeros(40, 2, 3, 4)
    image[:, 1, 2, 3] = torch.linspace(0, 1, 40)
    label = (image[:, 1, 2, 3] > 0.5).long()
    _, tree = grown(image.flatten(1), label, "gini", 2)
    colour = as_tree(grow.grow(image.flatten(1).numpy(), label.numpy(), grow.Growth(measure="gini", classes=2)),
                     as_inputs(image), False)  # fmt: skip
    assert tree.text()[0].startswith("If column 23 is at most 0.5,")
    assert colour.text()[0].startswith("If channel 1 of pixel (2,3) is at most 0.5,")
    assert colour.text(("red", "blue"))[0].startswith("If blue of pixel (2,3) is at most")
    grey = as_tree(grow.grow(image[:, 1].flatten(1).numpy(), label.numpy(), grow.Growth(measure="gini", classes=2)),
                   as_inputs(image[:, 1:]), False)  # fmt: skip
    assert grey.text()[0].startswith("If pixel (2,3) is at most 0.5,")
    assert torch.equal(grey.predict(image[:, 1:]), label)


def test_numbers_are_imitated_by_means_of_leaves():
    step = nn.Sequential(nn.Linear(2, 1), nn.Threshold(0.0, -1.0)).double().eval()
    step[0].weight.data, step[0].bias.data = torch.tensor([[1.0, 0.0]]).double(), torch.zeros(1).double()
    x = torch.rand(200, 2, generator=generator(5), dtype=torch.float64) * 2 - 1
    x[:, 0] = x[:, 0].sign()
    got = px.explain(step, x[:10], CartSurrogate(), data=x)
    assert got.fidelity == 1.0
    assert torch.equal(got.facts["gap"], torch.zeros(10, dtype=torch.float64))
    assert torch.equal(got.predict(x), step(x).detach()[:, 0])
    assert "the network answers about -1 ± 0 (" in got.text[0]
    # A score asked for by number is imitated as a number, too: class 1 of two is 1 - x0 here.
    pair = nn.Linear(2, 2).double().eval()
    pair.weight.data, pair.bias.data = (
        torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(),
        torch.tensor([0.0, 1.0]).double(),
    )
    assert (
        px.explain(pair, x[:3], "cart-c45-surrogate", data=x, target=1).predict(x[:3]).tolist()
        == (1 - x[:3, 0]).tolist()
    )


def test_fidelity_is_measured_on_rows_that_the_tree_has_not_seen():
    # Answers that are noise: a full tree repeats its own rows and does no better than chance on others.
    x = torch.rand(400, 3, generator=generator(6), dtype=torch.float64)
    coin = torch.rand(400, generator=generator(7)) < 0.5
    known = {tuple(row.tolist()): int(c) for row, c in zip(x, coin, strict=True)}

    def model(rows):
        return nn.functional.one_hot(torch.tensor([known[tuple(r.tolist())] for r in rows]), 2).double()

    got = px.explain(model, x[:5], CartSurrogate(max_depth=None, min_rows=1, held_out=0.5), data=x)
    assert got.source["fidelity_training"] == 1.0
    assert 0.35 < got.fidelity < 0.65
    held = held_out_rows(as_inputs(x), 0.5, 0)
    answers = torch.tensor([known[tuple(r.tolist())] for r in x])
    assert got.fidelity == float((got.predict(x[held]) == answers[held]).double().mean())
    by_class = [float((got.predict(x)[held & (answers == c)] == c).double().mean()) for c in range(2)]
    assert got.source["fidelity_by_class"] == by_class


def test_the_split_belongs_to_seed_and_content():
    x = torch.rand(50, 2, generator=generator(8))
    held, order = held_out_rows(as_inputs(x), 0.3, 0), torch.randperm(50, generator=generator(9))
    assert int(held.sum()) == 15
    assert torch.equal(held_out_rows(as_inputs(x[order]), 0.3, 0), held[order])
    assert not torch.equal(held_out_rows(as_inputs(x), 0.3, 1), held)
    twice = held_out_rows(as_inputs(torch.cat([x, x])), 0.3, 0)
    assert torch.equal(twice[:50], twice[50:])  # copies stay together


def test_r_squared():
    y = torch.tensor([1.0, 2.0, 3.0])
    assert agreement(y, y, 0) == 1.0
    assert agreement(torch.full((3,), 2.0), y, 0) == 0.0
    assert agreement(torch.tensor([3.0, 2.0, 1.0]), y, 0) == 1 - 8 / 2


def test_a_saved_tree_predicts_the_same(tmp_path):
    x, _, _ = samples()
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rules = px.explain(px.Subject(net, classes=("a", "b", "c")), x[:4], "cart-c45-surrogate", data=x)
    loaded = px.load(rules.save(tmp_path / "tree.safetensors"))
    assert isinstance(loaded.structure, Tree)
    assert same(loaded, rules)
    assert torch.equal(loaded.predict(x), rules.predict(x))
    assert loaded.text == rules.text
    assert isinstance(rules.structure, RuleStructure)


def test_rows_do_not_depend_on_each_other():
    x, _, _ = samples()
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    whole = px.explain(net, x[:6], CartSurrogate(max_depth=3), data=x)
    for i in range(6):
        alone = px.explain(net, x[i : i + 1], CartSurrogate(max_depth=3), data=x, memory="1MiB")
        assert same(alone.structure, whole.structure)
        assert all(alone.facts[k][0] == whole.facts[k][i] for k in whole.facts)


def test_what_cannot_be_done_is_refused():
    x, _, _ = samples(20)
    net = nn.Linear(6, 3).eval()

    def ask(method="cart-c45-surrogate", **more):
        return px.explain(net, x[:2], method, **{"data": x, **more})

    for wrong in ({"criterion": "id3"}, {"max_depth": 0}, {"max_leaves": 1}, {"min_rows": 0}, {"alpha": -1.0},
                  {"alpha": 0.1, "criterion": "gain-ratio"}, {"held_out": 1.0}, {"confidence": 0.0}):  # fmt: skip
        with pytest.raises(MethodError):
            ask(CartSurrogate(**wrong))
    with pytest.raises(MethodError, match="classes"):
        ask(CartSurrogate(criterion="gain-ratio"), target=1)
    with pytest.raises(NeedError):
        ask(data=None)
    with pytest.raises(InputError, match="rows like"):
        ask(data=x[:, :4])
    with pytest.raises(InputError, match="at least 4"):
        ask(data=x[:3])
    with pytest.raises(InputError, match="different rows"):
        ask(data=x[:1].expand(10, 6))
    with pytest.raises(TargetError, match="same for all"):
        ask(target=[0, 1])
    with pytest.raises(LayerError):
        px.explain(nn.Sequential(net).eval(), x[:2], "cart-c45-surrogate", data=x, layer="0")


def test_the_iris_network_is_a_matter_of_petals():
    model, world = zoo.load("iris-mlp"), worlds.iris()
    subject = px.Subject(model, classes=world.classes, features=world.features)
    rules = px.explain(subject, world.test[0], CartSurrogate(max_depth=3), data=world)
    assert rules.fidelity >= 0.9
    assert rules.fidelity > rules.source["fidelity_constant"]
    assert world.features[int(rules.structure.feature[0])].startswith("petal")
    # In centimetres, as the flowers were measured: some gap between setosa and the others, which ends below 3 cm.
    bound = float(rules.structure.threshold[0])
    column = int(rules.structure.feature[0])
    shown = float(rules.text[0].split("at most ")[1].split(",")[0].split(" and")[0])
    assert abs(shown - (bound * float(world.scale[column]) + float(world.mean[column]))) < 0.05
    assert any("setosa" in sentence for sentence in rules.text)
    nameless = px.explain(model, world.test[0], CartSurrogate(max_depth=3), data=world)
    assert nameless.text == rules.text  # the world knows the names, too
