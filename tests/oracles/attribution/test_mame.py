"""MAME against scikit-learn's lassos on the very questions that were asked, conditions of optimality, planted regimes."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from sklearn.metrics import adjusted_rand_score
from torch import nn

import pellucid as px
from pellucid.attribution import Mame
from pellucid.attribution.mame_tree import Fusion, all_together, grow, nearest, weighted
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}
SLOPES = torch.tensor([[3.0, 0.0, 0.0], [-2.0, 0.0, 1.0], [0.0, 0.0, 2.0]], **DOUBLE)


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def planted(rows):
    """Three regimes by column 1, with a gap between them that no draw crosses; other columns are even."""
    regime = torch.arange(rows) % 3
    data = drawn(rows, 3)
    data[:, 1] += 4 * regime
    return data, regime


def regimes(x):
    which = ((x[:, 1] + 1.5) / 4).floor().clamp(0, 2).long()
    return (SLOPES[which] * x).sum(1, keepdim=True) + 5.0 * which[:, None]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, **DOUBLE), nn.Linear(6, 2, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = 2 * torch.randn(*p.shape, generator=torch.Generator().manual_seed(number), **DOUBLE)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize("neighbours", [5, None])
def test_planted_regimes_are_the_groups(neighbours):
    data, regime = planted(36)
    if neighbours:  # the nearest rows are those of the same regime
        data += 4 * regime[:, None] * torch.tensor([1.0, 0.0, 1.0], **DOUBLE)
    method = Mame(groups=3, spread=0.08, sparsity=0.0, neighbours=neighbours)
    result = px.explain(regimes, data, method, data=data)
    assert result.facts["groups"].tolist() == [3.0] * 36
    level = result.parts["counts"][0].tolist().index(3)
    assert adjusted_rand_score(regime, result.parts["groups"][:, level]) == 1.0
    assert torch.allclose(result.values, SLOPES[regime], atol=1e-9)
    assert torch.allclose(result.facts["fidelity"], torch.ones(36, **DOUBLE))
    assert result.facts["members"].tolist() == [12.0] * 36
    assert bool((result.facts["gap"] <= 1e-5).all())


def test_as_many_lines_are_used_as_the_answers_need():
    data, _ = planted(36)
    assert px.explain(regimes, data[:2], Mame(spread=0.08), data=data).facts["groups"].tolist() == [3.0, 3.0]
    line = px.explain(lambda x: x @ SLOPES.T[:, :1], data[:2], Mame(), data=data)
    assert line.facts["groups"].tolist() == [1.0, 1.0]


def around(net, data, x, method):
    """What the model was asked around each row of the data, in deviations of the draws; weights and answers."""
    seen = []

    def model(rows):
        seen.append(rows.clone())
        return net(rows)

    result = px.explain(model, x, method, target=1, data=data)
    questions = torch.cat(seen)
    unit = data.std(0, correction=0) * method.spread
    size = len(data) * method.samples
    for start in range(len(questions) - size + 1):
        block = questions[start : start + size].reshape(len(data), method.samples, -1)
        moves = (block - data[:, None]) / unit
        if torch.allclose(moves, moves[:1].expand_as(moves), atol=1e-9):
            break
    else:
        raise AssertionError("the draws around the data were not asked")
    weights = torch.exp(-(moves[0] ** 2).sum(1) / (1.06**2 * data.shape[1]))
    with torch.no_grad():
        answers = net(block.flatten(0, 1))[:, 1].reshape(len(data), -1)
    return result, moves[0].numpy(), weights.numpy(), answers.numpy(), unit.numpy()


def test_leaves_are_lassos_of_their_own_and_the_root_is_one_lasso():
    net, data = Net(), drawn(9, 3, seed=1)
    method = Mame(groups=9, samples=40, sparsity=0.15, levels=5)
    result, z, weights, answers, unit = around(net, data, data, method)
    penalty = result.facts["alpha"][0].item() / 2
    assert penalty > 0
    for row in range(9):
        own = Lasso(alpha=penalty, tol=1e-12, max_iter=100_000).fit(z, answers[row], sample_weight=weights)
        assert np.allclose(result.values[row].numpy(), own.coef_ / unit, atol=1e-6)
    assert bool((result.values == 0).any())
    # One slope for all rows, an intercept for each: what is left of questions and answers when each row's mean is gone.
    share = weights / weights.sum()
    centred = np.concatenate([a - share @ a for a in answers])
    design = np.tile(z - share @ z, (9, 1))
    whole = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
    whole.fit(design, centred, sample_weight=np.tile(weights, 9))
    root = result.parts["explanations"][:, -1]
    assert np.allclose(root.numpy(), np.tile(whole.coef_ / unit, (9, 1)), atol=1e-6)
    one = px.explain(net, data, Mame(groups=1, samples=40, sparsity=0.15, levels=5), target=1, data=data)
    assert torch.equal(one.values, root)


def test_standard_errors_are_those_of_the_sandwich():
    net, data = Net(), drawn(7, 3, seed=1)
    result, z, weights, answers, unit = around(net, data, data, Mame(groups=7, samples=40, sparsity=0.0, levels=3))
    design = np.column_stack([np.ones(40), z])
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
    for row in range(7):
        slopes = inverse @ design.T @ (weights * answers[row])
        pull = (weights * (answers[row] - design @ slopes))[:, None] * design
        spread = inverse @ pull.T @ pull @ inverse * 40 / 36
        assert np.allclose(result.error[row].numpy(), np.sqrt(np.diag(spread))[1:] / unit)


def test_standard_errors_foretell_what_other_seeds_find():
    net, data = Net(), drawn(12, 3, seed=1)
    method = Mame(groups=1, samples=60, sparsity=0.0, levels=2)
    runs = [px.explain(net, data[:1], method, target=0, data=data, seed=s) for s in range(60)]
    found = torch.stack([r.values[0] for r in runs]).std(0)
    said = torch.stack([r.error[0] for r in runs]).pow(2).mean(0).sqrt()
    assert bool(((said / found > 0.7) & (said / found < 1.4)).all())


def test_two_rows_meet_where_the_pull_is_as_strong_as_their_distance():
    """For (θ₁ - 4)² + (θ₂ - 1)² + β|θ₁ - θ₂| each moves by β/2 until both are at 2.5, at β = 3."""
    gram, cross = torch.ones(1, 1, **DOUBLE), torch.tensor([[4.0], [1.0]], **DOUBLE)
    graph = nearest(cross, None)
    assert all_together(cross, graph) == pytest.approx(3)
    fusion = Fusion(gram, cross, 0.0, graph)
    for beta in (0.5, 2.0, 2.9, 3.1, 10.0):
        assert fusion.solve(beta, 1e-13, 20_000) < 1e-12
        move = min(beta / 2, 1.5)
        assert fusion.theta.flatten().tolist() == pytest.approx([4 - move, 1 + move], abs=1e-5)
        assert fusion.together.tolist() == [beta > 3]


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize(("count", "share"), [(2, 0.5), (None, 0.4)])
def test_admm_ends_where_the_subgradient_holds_zero(alpha, count, share):
    square = drawn(8, 3, seed=2)
    gram, cross = square.T @ square / 8, 2 * drawn(6, 3, seed=3) - 1
    cross[1], cross[4] = cross[0] + 0.01, cross[3] - 0.01  # two pairs that meet before all do
    graph = nearest(drawn(6, 2, seed=4), count)
    fusion, beta = Fusion(gram, cross, alpha, graph), share * all_together(cross, graph)
    fusion.solve(beta, 1e-13, 50_000)

    def loss(theta):
        value = float((theta @ gram * theta).sum() - 2 * (theta * cross).sum() + alpha * theta.abs().sum())
        for i, j in zip(graph.first.tolist(), graph.second.tolist(), strict=True):
            value += beta * float((theta[i] - theta[j]).norm())
        return value

    # Forces of the lasso and of each edge: within their balls, at their ends where something moves, in balance everywhere.
    total = 2 * fusion.theta @ gram - 2 * cross + fusion.shrink
    assert bool((fusion.shrink.abs() <= alpha + 1e-12).all())
    free = fusion.sparse != 0
    assert torch.allclose(fusion.shrink[free], alpha * fusion.sparse[free].sign())
    for edge, (i, j) in enumerate(zip(graph.first.tolist(), graph.second.tolist(), strict=True)):
        total[i] += fusion.flow[edge]
        total[j] -= fusion.flow[edge]
        assert fusion.flow[edge].norm() <= beta + 1e-12
        if not fusion.together[edge]:
            apart = fusion.theta[i] - fusion.theta[j]
            assert torch.allclose(fusion.flow[edge], beta * apart / apart.norm(), atol=1e-4)
    assert total.abs().max() < 1e-5
    assert bool(fusion.together.any())
    assert not bool(fusion.together.all())
    best, draw = loss(fusion.theta), torch.Generator().manual_seed(5)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(50):
            assert loss(fusion.theta + size * torch.randn(6, 3, generator=draw, **DOUBLE)) > best - 1e-9


def test_the_gap_bounds_what_is_missing():
    square = drawn(8, 3, seed=2)
    gram, cross, graph = square.T @ square / 8, 2 * drawn(6, 3, seed=3) - 1, nearest(drawn(6, 2, seed=4), 2)

    def loss(theta):
        value = (theta @ gram * theta).sum() - 2 * (theta * cross).sum() + 0.1 * theta.abs().sum()
        return float(value + 0.2 * graph.differences(theta).norm(dim=1).sum())

    exact = Fusion(gram, cross, 0.1, graph)
    exact.solve(0.2, 1e-13, 50_000)
    for steps in (1, 5, 40):
        rough = Fusion(gram, cross, 0.1, graph)
        gap = rough.solve(0.2, 0.0, steps)
        assert 0 <= (loss(rough.theta) - loss(exact.theta)) / 6 <= gap + 1e-12


def test_beta_at_the_root_is_enough_for_one_group():
    gram, cross = torch.eye(2, **DOUBLE), drawn(7, 2, seed=6)
    for graph in (nearest(drawn(7, 2, seed=7), 1), nearest(drawn(7, 2, seed=7), None)):
        fusion = Fusion(gram, cross, 0.05, graph)
        fusion.solve(all_together(cross, graph) * 1.001, 1e-13, 50_000)
        assert torch.allclose(fusion.theta, fusion.theta[:1].expand(7, 2), atol=1e-5)


def test_side_information_says_who_meets_first():
    gram, cross = torch.ones(1, 1, **DOUBLE), torch.tensor([[0.0], [1.0], [2.0], [3.0]], **DOUBLE)
    similar = torch.full((4, 4), 0.01, **DOUBLE)
    similar[0, 3] = similar[3, 0] = 1.0
    tree = grow(gram, cross, 0.0, weighted(similar), 12, 1e-10, 5000)
    level = tree.counts.tolist().index(3)
    assert tree.groups[level].tolist() == [0, 1, 2, 0]


def test_side_information_comes_with_the_data():
    data = drawn(6, 2, seed=8)
    similar = torch.full((6, 6), 0.001, **DOUBLE)
    similar[0, 5] = similar[5, 0] = 1.0
    result = px.explain(
        lambda x: x[:, :1] ** 2 + torch.sin(5 * x[:, 1:]),
        data,
        Mame(levels=12),
        data={"rows": data, "similar": similar},
    )
    joined = result.parts["together"][0]
    assert joined.argsort()[:2].tolist() == [0, 5]
    assert int(joined[5]) < int(joined[1:5].min())


def test_the_tree_is_one_and_parts_agree():
    net, data = Net(), drawn(15, 3, seed=1)
    result = px.explain(net, data, Mame(levels=10, groups=4), target=0, data=data)
    parts = result.parts
    for level in range(10):
        own = parts["groups"][:, level]
        assert parts["counts"][0, level] == len(own.unique())
        for row in range(15):
            assert (parts["together"][row] <= level).tolist() == (own == own[row]).tolist()
            assert torch.equal(parts["explanations"][row, level], parts["explanations"][own[row], level])
    assert parts["counts"][0, 0] == 15
    assert parts["counts"][0, -1] == 1
    assert bool((parts["counts"].diff(dim=1) <= 0).all())
    assert bool((parts["beta"].diff(dim=1) >= 0).all())
    level = int((parts["counts"][0] <= 4).nonzero()[0])
    assert torch.equal(result.values, parts["explanations"][:, level])
    assert len(parts["counts"][0].unique()) > 4


def test_a_new_row_takes_the_line_of_the_nearest():
    data, regime = planted(30)
    x = data[[4, 11]] + torch.tensor([0.0, 0.3, 0.0], **DOUBLE)
    result = px.explain(regimes, x, Mame(groups=3, spread=0.08, sparsity=0.0), data=data)
    distance = ((x[:, None] - data[None]) / data.std(0, correction=0)).norm(dim=2)
    assert result.parts["leaf"].tolist() == distance.argmin(1).tolist()
    assert torch.allclose(result.facts["distance"], distance.amin(1))
    assert torch.allclose(result.values, SLOPES[regime[[4, 11]]], atol=1e-9)
    assert torch.allclose(result.facts["surrogate_score"], regimes(x)[:, 0])


def test_each_class_has_its_own_tree():
    net, data = Net(), drawn(12, 3, seed=1)
    method, target = Mame(groups=3, levels=6), torch.tensor([0, 1, 1, 0])
    both = px.explain(net, data[:4], method, target=target, data=data)
    for label in (0, 1):
        alone = px.explain(net, data[:4], method, target=label, data=data)
        assert torch.equal(both.values[target == label], alone.values[target == label])
    assert not torch.allclose(both.values[0], both.values[1])


def test_a_constant_answer_and_a_constant_column_have_no_slopes():
    data = drawn(10, 3)
    data[:, 2] = 7
    flat = px.explain(lambda x: torch.ones(len(x), 1, **DOUBLE) / 3, data[:2], Mame(samples=20), data=data)
    assert not bool(flat.values.any())
    assert not bool(flat.error.any())
    assert flat.facts["groups"].tolist() == [1, 1]
    line = px.explain(lambda x: x.sum(1, keepdim=True), data[:2], Mame(samples=20, sparsity=0.0), data=data)
    assert torch.allclose(line.values, torch.tensor([1.0, 1.0, 0.0], **DOUBLE).expand(2, 3))


GOOD = drawn(40, 3)
SIDE = torch.ones(40, 40)


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"groups": 0}, GOOD),
        ({"loss": -0.1}, GOOD),
        ({"samples": 3}, GOOD),
        ({"samples": 7}, GOOD),
        ({"spread": 0.0}, GOOD),
        ({"width": -1.0}, GOOD),
        ({"sparsity": 1.0}, GOOD),
        ({"neighbours": 0}, GOOD),
        ({"levels": 1}, GOOD),
        ({"rows": 2}, GOOD),
        ({"tolerance": 0.0}, GOOD),
        ({"iterations": True}, GOOD),
        ({}, GOOD[:2]),
        ({}, GOOD[:1].expand(5, 3)),
        ({}, GOOD * torch.inf),
        ({}, {"rows": GOOD, "weights": torch.ones(40)}),
        ({}, {"rows": GOOD, "similar": torch.ones(39, 39)}),
        ({}, {"rows": GOOD, "similar": torch.ones(40, 39)}),
        ({}, {"rows": GOOD, "similar": SIDE.triu()}),
        ({}, {"rows": GOOD, "similar": torch.eye(40)}),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, data):
    calls = []

    def model(x):
        calls.append(len(x))
        return x[:, :1]

    with pytest.raises((MethodError, InputError)):
        px.explain(model, drawn(2, 3), Mame(**settings), data=data)
    assert calls == []
