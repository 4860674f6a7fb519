"""Submodular pick against the paper's own toy matrix, every set of rows, and coverage counted by hand."""

import itertools
import math

import pytest
import torch

import pellucid as px
from pellucid.attribution import Lime, SubmodularPick
from pellucid.attribution.pick import pick
from pellucid.contract.errors import MethodError

DOUBLE = {"dtype": torch.float64}


def total(x):
    """A model whose feature ablation is the input itself, so that the inputs are the matrix W."""
    return x.sum(1, keepdim=True)


def covered(matrix, rows):
    """c(V) of the paper's equation 3, by loops."""
    importance = [math.sqrt(sum(abs(v) for v in column)) for column in zip(*matrix, strict=True)]
    return sum(i for j, i in enumerate(importance) if any(matrix[r][j] != 0 for r in rows))


def test_the_papers_toy_matrix():
    """Five texts and five words: the second word is in most; after row 2 the third adds nothing, the fifth two words."""
    toy = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    result = px.explain(total, torch.tensor(toy, **DOUBLE), SubmodularPick(of="feature-ablation", budget=2))
    assert result.items.tolist() == [[1, 4]]
    whole = covered(toy, range(5))
    assert result.facts["coverage"].item() == pytest.approx(covered(toy, [1, 4]) / whole)
    assert result.facts["features_covered"].item() == 4
    assert result.source["adds"] == [[1, 2], [3, 4]]
    assert result.weights[0].tolist() == pytest.approx([(2 + math.sqrt(2)) / whole, 2 / whole])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_greedy_is_within_its_bound_of_the_best_set(seed, budget):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(8, 7, generator=draw, **DOUBLE) * (torch.rand(8, 7, generator=draw) < 0.35)
    result = px.explain(total, matrix, SubmodularPick(of="feature-ablation", budget=budget))
    listed = matrix.tolist()
    whole = covered(listed, range(8))
    best = max(covered(listed, rows) for rows in itertools.combinations(range(8), budget)) / whole
    got = result.facts["coverage"].item()
    assert got == pytest.approx(covered(listed, result.items[0].tolist()) / whole)
    assert got >= (1 - 1 / math.e) * best
    assert best <= result.facts["best_possible"].item() + 1e-12
    assert result.weights.sum().item() == pytest.approx(got)


def test_the_bound_is_not_always_met_and_the_stated_one_says_so():
    """The classic trap: the row that shows most at first is no part of the best pair."""
    present = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]]).bool()
    importance = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.9, 0.9], **DOUBLE)
    chosen, gains, best = pick(present, importance, 2)
    assert chosen == [0, 1]
    assert sum(gains) == pytest.approx(4.9)
    assert best.item() >= 5.8 - 1e-12  # rows 1 and 2


def test_nothing_is_added_once_everything_is_covered():
    rows = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 3.0]], **DOUBLE)
    result = px.explain(total, rows, SubmodularPick(of="feature-ablation", budget=3))
    assert result.items.tolist() == [[0]]
    assert result.facts["coverage"].item() == 1


def test_dense_explanations_are_cut_to_their_largest_features():
    rows = torch.tensor([[5.0, 0.1, 0.2], [0.1, -5.0, 0.2], [4.0, 0.1, 0.2], [0.1, 0.1, -0.2]], **DOUBLE)
    result = px.explain(total, rows, SubmodularPick(of="feature-ablation", budget=4, keep=1))
    # importances 3, √5 and √0.2: rows 0 and 2 tie, and the first is taken
    assert result.items.tolist() == [[0, 1, 3]]
    assert result.weights[0].tolist() == pytest.approx(
        [w / (3 + math.sqrt(5) + math.sqrt(0.2)) for w in (3, math.sqrt(5), math.sqrt(0.2))]
    )


def test_lime_with_k_features_is_picked_from_by_default():
    """Each row has one column that matters; four rows are needed, whichever copies of them are taken."""
    rows = torch.eye(4, **DOUBLE).repeat(3, 1)
    result = px.explain(total, rows, SubmodularPick(of=Lime(select=1), budget=4))
    assert result.items.tolist() == [[0, 1, 2, 3]]
    assert SubmodularPick().of == Lime(select=5)


def test_cells_of_images_are_one_feature_each():
    images = torch.zeros(3, 1, 4, 4, **DOUBLE)
    images[0, 0, :2, :2], images[1, 0, :2, :2], images[2, 0, 2:, 2:] = 1.0, 2.0, 0.5
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1, **DOUBLE)).eval()
    net[1].weight.data.fill_(1.0)
    for pool, size in (("sum", 4), ("mean", 1)):
        method = SubmodularPick(of="gradient-x-input", features=("grid", 2), budget=2, pool=pool)
        result = px.explain(net, images, method)
        assert result.items.tolist() == [[0, 2]]
        share = math.sqrt(3 * size) / (math.sqrt(3 * size) + math.sqrt(0.5 * size))
        assert result.weights[0, 0].item() == pytest.approx(share)
        assert torch.equal(result.rows[0], images[[0, 2]])


def test_rows_without_an_explanation_are_no_candidates():
    def model(x):
        return torch.where((x[:, :1] == 0) & (x[:, 1:2] > 5), torch.nan, x.sum(1, keepdim=True))

    rows = torch.tensor([[1.0, 9.0, 3.0], [1.0, 2.0, 0.0]], **DOUBLE)
    result = px.explain(model, rows, SubmodularPick(of=Lime(features="column"), budget=2))
    assert result.items.tolist() == [[1]]
    assert result.facts["candidates"].item() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": 0},
        {"budget": True},
        {"keep": 0},
        {"pool": "max"},
        {"of": "cart-c45-surrogate"},
        {"features": ("superpixels", 4)},
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(MethodError):
        px.explain(model, torch.rand(2, 3, 8, 8), SubmodularPick(**settings))
