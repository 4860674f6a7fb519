"""LIME against lines fitted by hand, closed forms, scikit-learn and its own stated errors."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor
from torch import nn

import pellucid as px
from pellucid.attribution import Lime
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.engine import seed as seeds
from pellucid.engine.feature import superpixels
from pellucid.engine.neighbourhood import BLOCK, Switched

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Net(nn.Module):
    """Two scores with products between the columns."""

    def __init__(self, columns, seed=1):
        super().__init__()
        self.first, self.last = nn.Linear(columns, 6, **DOUBLE), nn.Linear(6, 2, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=seed + number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def fitted(masks, weights, answers):
    """Weighted least squares by NumPy: the intercept and the slopes."""
    root = np.sqrt(weights)
    design = np.column_stack([np.ones(len(masks)), masks])
    return np.linalg.lstsq(design * root[:, None], answers * root, rcond=None)[0]


def masks_of(players, count, seed=0):
    """The questions that the method asks, as it draws them."""

    class Stub:
        class ask:
            pass

    Stub.players, Stub.ask.seed = players, seed
    return Switched(Stub, 0).present(count, torch.arange(1)).double().numpy()


def test_every_question_once_equals_a_fit_over_all_coalitions():
    net, x = Net(5), drawn(2, 5, seed=7)
    result = px.explain(net, x, Lime(features="column", samples=32), target=1)
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    for row in range(2):
        with torch.no_grad():
            answers = np.array([net((x[row] * torch.tensor(m))[None])[0, 1].item() for m in masks])
        weights = np.array([math.exp(-(((1 - math.sqrt(m.sum() / 5)) / (0.25 * math.sqrt(2))) ** 2)) for m in masks])
        found = fitted(masks, weights, answers)
        assert np.allclose(result.values[row].numpy(), found[1:], atol=1e-10)
        guess = found[0] + masks @ found[1:]
        mean = np.average(answers, weights=weights)
        r2 = 1 - np.sum(weights * (answers - guess) ** 2) / np.sum(weights * (answers - mean) ** 2)
        assert result.facts["r_squared"][row].item() == pytest.approx(r2, abs=1e-10)
        assert result.facts["surrogate_score"][row].item() == pytest.approx(found.sum(), abs=1e-10)
        assert result.facts["effective_samples"][row].item() == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert result.error.abs().max() == 0
    assert result.facts["samples"].tolist() == [32.0, 32.0]


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_drawn_questions_equal_ridge_regression_on_the_same_masks(ridge):
    net, x = Net(12), drawn(3, 12, seed=8)
    method = Lime(features="column", samples=100, ridge=ridge, distance="euclidean", width=2.0)
    result = px.explain(net, x, method, target=torch.tensor([0, 1, 1]), seed=5)
    masks = masks_of(12, 100, seed=5)
    weights = np.exp(-(12 - masks.sum(1)) / 4.0)
    for row, target in enumerate([0, 1, 1]):
        with torch.no_grad():
            answers = net(x[row] * torch.from_numpy(masks))[:, target].numpy()
        if ridge:
            peer = Ridge(alpha=ridge).fit(masks, answers, sample_weight=weights).coef_
        else:
            peer = fitted(masks, weights, answers)[1:]
        assert np.allclose(result.values[row].numpy(), peer, atol=1e-9)


def test_a_score_that_is_a_line_in_the_features_gives_its_slopes():
    weight = drawn(2, 20, seed=3)
    net = nn.Linear(20, 2, **DOUBLE).eval()
    net.weight.data = weight
    x, fill = drawn(2, 20, seed=4), drawn(1, 20, seed=5)
    result = px.explain(net, x, Lime(features="column", samples=60, bins=0), target=1, data=fill)
    assert torch.allclose(result.values, weight[1] * (x - fill), atol=1e-10)
    assert torch.allclose(result.facts["r_squared"], torch.ones(2, **DOUBLE), atol=1e-10)
    assert result.error.abs().max() < 1e-10


def test_the_stated_errors_cover_the_exact_slopes():
    net, x = Net(11, seed=4), drawn(1, 11, seed=2)
    exact = px.explain(net, x, Lime(features="column", samples=2048), target=0).values
    inside = []
    for seed in range(60):
        found = px.explain(net, x, Lime(features="column", samples=300), target=0, seed=seed)
        inside.append(((found.values - exact).abs() <= 1.96 * found.error).double().mean().item())
    # 660 intervals of 95 %: five standard errors of a share are 4.2 points; slopes of one draw are not independent.
    assert 0.88 <= np.mean(inside) <= 0.99


def test_tolerance_asks_more_until_the_errors_are_small():
    net, x = Net(12), drawn(3, 12, seed=8)
    loose = px.explain(net, x, Lime(features="column", samples=64, tolerance=0.05, max_samples=4096), target=0)
    ratio = loose.error.norm(dim=1) / loose.values.norm(dim=1)
    assert bool((ratio <= 0.05).all())
    assert bool(loose.facts["converged"].all())
    assert loose.facts["samples"].min() > 64
    alone = px.explain(net, x[1:2], Lime(features="column", samples=64, tolerance=0.05, max_samples=4096), target=0)
    assert torch.allclose(alone.values[0], loose.values[1], atol=1e-12)
    short = px.explain(net, x, Lime(features="column", samples=64, tolerance=1e-9, max_samples=128), target=0)
    assert not bool(short.facts["converged"].any())


def test_only_the_planted_features_are_kept():
    class Planted(nn.Module):
        def forward(self, x):
            return (5 * x[:, 2] - 3 * x[:, 9] + 0.1 * x[:, 4] * x[:, 5])[:, None]

    result = px.explain(Planted().eval(), torch.ones(1, 14, **DOUBLE), Lime(features="column", samples=400, select=2))
    assert result.values[0].nonzero()[:, 0].tolist() == [2, 9]
    assert result.values[0, 2].item() == pytest.approx(5, abs=0.05)
    assert result.values[0, 9].item() == pytest.approx(-3, abs=0.05)


def test_a_tree_of_limited_depth():
    class And(nn.Module):
        def forward(self, x):
            return (x[:, 0] * x[:, 1] + 0.25 * x[:, 2])[:, None]

    result = px.explain(And().eval(), torch.ones(1, 4, **DOUBLE), Lime(features="column", samples=16, depth=2))
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    answers = masks[:, 0] * masks[:, 1] + 0.25 * masks[:, 2]
    weights = np.exp(-(((1 - np.sqrt(masks.sum(1) / 4)) / (0.25 * math.sqrt(2))) ** 2))
    tree = DecisionTreeRegressor(max_depth=2, random_state=0).fit(masks, answers, sample_weight=weights)
    says = tree.predict(np.ones((1, 4)))[0]
    base = np.average(answers, weights=weights)
    assert result.values.sum().item() == pytest.approx(says - base, abs=1e-12)
    assert result.values[0].nonzero()[:, 0].tolist() == [0, 1]
    assert result.facts["surrogate_score"].item() == pytest.approx(says)
    assert result.error is None


def test_a_table_with_data_is_asked_bin_by_bin():
    net, x = Net(3), drawn(2, 3, seed=6)
    data = torch.cat([drawn(50, 2, seed=9), torch.ones(50, 1, **DOUBLE)], 1)
    x[:, 2] = 1.0
    result = px.explain(net, x, Lime(samples=500), target=0, data=data, seed=2)
    which = []
    for block in range(math.ceil(500 / BLOCK)):
        which.append(seeds.generator(2, b"neighbourhood", block).integers(50, size=(BLOCK, 3)))
    which = np.concatenate(which)[:500]
    values = np.stack([data[which[:, c], c].numpy() for c in range(3)], 1)
    edges = [np.quantile(data[:, c].numpy(), [0.25, 0.5, 0.75]) for c in range(3)]
    for row in range(2):
        same = np.stack(
            [
                np.digitize(values[:, c], edges[c], right=True) == np.digitize(x[row, c], edges[c], right=True)
                for c in range(2)
            ],
            1,
        ).astype(float)
        weights = np.exp(-(2 - same.sum(1)) / (0.75**2 * 2 * 3))
        with torch.no_grad():
            answers = net(torch.from_numpy(values))[:, 0].numpy()
        found = fitted(same, weights, answers)
        assert np.allclose(result.values[row, :2].numpy(), found[1:], atol=1e-9)
        assert result.values[row, 2].item() == pytest.approx(0.0, abs=1e-9)  # a constant column says nothing


def test_an_ignored_column_is_within_its_error_of_zero():
    net, x = Net(12), drawn(4, 12, seed=8)
    net.first.weight.data[:, 3] = 0
    result = px.explain(net, x, Lime(features="column", samples=500), target=0)
    assert bool((result.values[:, 3].abs() <= 4 * result.error[:, 3]).all())


def test_superpixels_of_an_image_share_their_slope():
    image = torch.zeros(1, 3, 16, 16, **DOUBLE)
    image[:, 0, :, 8:] = 1.0

    class Right(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 4:12, 8:].mean((1, 2)), x[:, 1].mean((1, 2))], 1)

    method = Lime(features=("superpixels", 4), samples=200)
    result = px.explain(Right().eval(), image, method, target=0)
    labels = superpixels(image, 4)[0, 0]
    assert set(labels[:, 8:].flatten().tolist()) & set(labels[:, :8].flatten().tolist()) == set()
    seen = torch.zeros(16, 16, dtype=torch.bool)
    seen[4:12, 8:] = True
    for number in labels.unique():
        region = labels == number
        share = (region & seen).sum() / 64
        assert torch.allclose(result.values[0, :, region], share.double(), atol=1e-9)


def test_rows_without_an_answer_are_listed_and_the_others_complete():
    def model(x):
        score = x.sum(1, keepdim=True)
        return torch.where((x[:, :1] == 0) & (x[:, 1:2] > 5), torch.nan, score)

    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 9.0, 3.0]], **DOUBLE)
    result = px.explain(model, x, Lime(features="column"))
    assert torch.allclose(result.values[0], x[0], atol=1e-10)
    assert bool(result.values[1].isnan().all())
    assert result.facts["unanswered"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"samples": 5, "features": "element"},
        {"select": 0},
        {"ridge": -1.0},
        {"width": 0.0},
        {"distance": "manhattan"},
        {"bins": 1},
        {"depth": 0},
        {"depth": 2, "select": 2},
        {"tolerance": 0.0},
        {"features": ("superpixels", 4)},
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises((MethodError, InputError)) as caught:
        px.explain(model, torch.ones(1, 12), Lime(**settings))
    assert isinstance(caught.value, PellucidError)


def test_a_width_that_lets_nothing_count_is_refused():
    with pytest.raises(MethodError, match="width"):
        px.explain(Net(12), torch.ones(1, 12, **DOUBLE), Lime(features="column", samples=50, width=1e-4))
