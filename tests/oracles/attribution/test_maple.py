"""MAPLE against weights counted leaf by leaf, lines fitted by NumPy, and slopes that were planted."""

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import Maple
from pellucid.contract.errors import InputError, MethodError, PellucidError

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def regimes(x):
    """Slope 3 in column 0 where column 1 is below a half, and -2 above; column 2 says nothing."""
    return torch.where(x[:, 1] < 0.5, 3 * x[:, 0], 10 - 2 * x[:, 0])[:, None]


def test_the_slope_of_each_regime_is_found():
    data, x = drawn(600, 3), torch.tensor([[0.5, 0.2, 0.5], [0.5, 0.85, 0.5]], **DOUBLE)
    result = px.explain(regimes, x, Maple(trees=50, share=1.0, columns=3, ridge=0.0), data=data)
    assert result.values[0, 0].item() == pytest.approx(3, abs=1e-6)
    assert result.values[1, 0].item() == pytest.approx(-2, abs=1e-6)
    assert result.facts["surrogate_score"].tolist() == pytest.approx([1.5, 9.0], abs=1e-6)
    assert bool((result.facts["heldout_r_squared"] > 0.95).all())
    # the rows that the lines rest on lie in the same regime
    for row, low in ((0, True), (1, False)):
        assert bool(((data[result.parts["influential"][row], 1] < 0.5) == low).all())


def test_a_score_that_is_a_line_has_its_slopes_everywhere():
    weight = torch.tensor([2.0, -1.0, 0.0, 0.5], **DOUBLE)
    data = drawn(200, 4, seed=3)
    result = px.explain(lambda x: (x @ weight)[:, None], data[:5], Maple(trees=20, columns=4, ridge=0.0), data=data)
    assert torch.allclose(result.values, weight.expand(5, 4), atol=1e-9)
    assert torch.allclose(result.facts["r_squared"], torch.ones(5, **DOUBLE))
    assert result.facts["heldout_r_squared"][0].item() == pytest.approx(1)
    assert result.error.abs().max() < 1e-9


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6, **DOUBLE), nn.Linear(6, 2, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = 3 * torch.randn(*p.shape, generator=torch.Generator().manual_seed(number), **DOUBLE)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize("columns", [2, 4])
def test_weights_and_line_equal_those_worked_out_leaf_by_leaf(columns):
    net, data, x = Net(), drawn(90, 4, seed=1), drawn(3, 4, seed=2)
    method = Maple(trees=15, leaf=5, columns=columns, ridge=0.01, influential=72)
    target = torch.tensor([0, 1, 0])
    result = px.explain(net, x, method, target=target, data=data)
    ask = px.engine.answer.question(px.Subject(net), x, method.card, target, None, data, 0, None, False)
    forests = method.prepare(ask.subject, ask)
    for row, label in enumerate(target.tolist()):
        forest = forests[label]
        assert len(forest.table) == 72
        weights = np.zeros(72)
        for tree in forest.model.estimators_:
            own = tree.apply(x[row : row + 1].numpy())[0]
            mates = [i for i, leaf in enumerate(tree.apply(forest.table.numpy())) if leaf == own]
            for i in mates:
                weights[i] += 1 / len(mates) / 15
        assert weights.sum() == pytest.approx(1)
        given = dict(
            zip(result.parts["influential"][row].tolist(), result.parts["influence"][row].tolist(), strict=True)
        )
        assert {k: pytest.approx(v) for k, v in given.items()} == dict(
            zip(forest.numbers.tolist(), weights.tolist(), strict=True)
        )
        assert result.facts["effective_rows"][row].item() == pytest.approx(1 / (weights**2).sum())
        kept = forest.order[:columns].tolist()
        design = np.column_stack([np.ones(72), forest.table.numpy()[:, kept]])
        penalty = np.diag([0.0] + [0.01] * columns)
        heavy = design.T * (15 * weights)
        with torch.no_grad():
            answers = net(forest.table)[:, label].numpy()
        line = np.linalg.solve(heavy @ design + penalty, heavy @ answers)
        expected = np.zeros(4)
        expected[kept] = line[1:]
        assert np.allclose(result.values[row].numpy(), expected, atol=1e-9)
        says = line[0] + x[row, kept].numpy() @ line[1:]
        assert result.facts["surrogate_score"][row].item() == pytest.approx(says)


def test_columns_are_ordered_by_what_roots_gain():
    net, data = Net(), drawn(90, 4, seed=1)
    method = Maple(trees=15, leaf=5)
    ask = px.engine.answer.question(px.Subject(net), data[:1], method.card, 0, None, data, 0, None, False)
    forest = method.prepare(ask.subject, ask)[0]
    gains = np.zeros(4)
    for tree in forest.model.estimators_:
        inner = tree.tree_
        left, right = inner.children_left[0], inner.children_right[0]
        size = inner.weighted_n_node_samples
        lost = (size[left] * inner.impurity[left] + size[right] * inner.impurity[right]) / size[0]
        gains[inner.feature[0]] += inner.impurity[0] - lost
    assert forest.order.tolist() == np.argsort(-gains, kind="stable").tolist()


def test_columns_that_say_nothing_are_left_out():
    data = drawn(400, 6, seed=5)
    result = px.explain(lambda x: 4 * x[:, 2:3] - 3 * x[:, 4:5], data[:3], Maple(trees=40), data=data)
    assert result.facts["columns"].tolist() == [2.0] * 3
    assert result.values[0].nonzero()[:, 0].tolist() == [2, 4]


def test_a_constant_answer_has_no_slopes():
    data = drawn(60, 3)
    result = px.explain(lambda x: torch.ones(len(x), 1, **DOUBLE), data[:2], Maple(trees=5), data=data)
    assert result.values.abs().max() < 1e-9
    assert result.facts["heldout_r_squared"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    "settings",
    [
        {"trees": 0},
        {"leaf": 0},
        {"columns": 0},
        {"share": 0.0},
        {"heldout": 1.0},
        {"ridge": -1.0},
        {"influential": 0},
        {"leaf": 50},
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    calls = []

    def model(x):
        calls.append(len(x))
        return x[:, :1]

    with pytest.raises((MethodError, InputError)) as caught:
        px.explain(model, drawn(2, 3), Maple(**settings), data=drawn(40, 3))
    assert isinstance(caught.value, PellucidError)
    assert calls == []
