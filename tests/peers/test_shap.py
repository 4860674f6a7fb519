"""Shapley values against shap."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import KernelShap, ShapleySampling, ShapleyValue

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    shap = pytest.importorskip("shap")

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(autouse=True)
def _shap_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        yield


def network(columns):
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(columns, 16), nn.Tanh(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)).eval()


def scores(model):
    def call(rows):
        with torch.no_grad():
            return model(torch.as_tensor(np.asarray(rows), dtype=torch.float32))[:, 0].numpy()

    return call


def test_exact_values_equal_shaps():
    model, rows, background = network(7), torch.randn(3, 7), torch.randn(9, 7)
    masker = shap.maskers.Independent(background.numpy(), max_samples=100)
    theirs = shap.explainers.Exact(scores(model), masker)(rows.numpy())
    ours = px.explain(model, rows, ShapleyValue(), data=background)
    torch.testing.assert_close(ours.values, torch.as_tensor(theirs.values).float(), **CLOSE)
    base = torch.as_tensor(np.broadcast_to(theirs.base_values, 3).copy()).double()
    torch.testing.assert_close(ours.facts["baseline_score"], base, **CLOSE)


def interactions(model, rows, background):
    masker = shap.maskers.Independent(background, max_samples=100)
    return torch.as_tensor(shap.explainers.Exact(model, masker)(rows, interactions=True).values)


def test_interactions_of_two_at_a_time_equal_shaps_which_writes_half_of_each_on_either_side():
    matrix, rows, background = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 5), (2, 5), (4, 5)))
    theirs = interactions(lambda x: ((x @ matrix.numpy()) * x).sum(1), rows.numpy(), background.numpy())
    found = px.explain(lambda x: ((x @ matrix) * x).sum(1), rows, ShapleyValue(interactions=True), data=background)
    ours = found.parts["interactions"]
    halved = (ours + torch.diag_embed(ours.diagonal(dim1=1, dim2=2))) / 2
    torch.testing.assert_close(halved, theirs, rtol=0, atol=1e-10)


def test_interactions_of_three_at_a_time_are_another_index_in_shap():
    # Three who are worth 1 together alone: the Shapley interaction index of two is 1/2 (one arrival of the pair as one
    # in two orders comes last). shap weights by orders of all three, as the Shapley-Taylor index does: 1/3.
    theirs = 2 * interactions(lambda x: x.prod(1), np.ones((1, 3)), np.zeros((1, 3)))[0, 0, 1]
    method = ShapleyValue(interactions=True)
    ours = px.explain(lambda x: x.prod(1), torch.ones(1, 3), method).parts["interactions"][0, 0, 1]
    assert theirs.item() == pytest.approx(1 / 3)
    assert ours.item() == pytest.approx(1 / 2)


def rough(model, rows, values, background):
    """Root mean square error against the exact values."""
    exact = px.explain(model, rows, ShapleyValue(), data=background).values
    return (torch.as_tensor(np.asarray(values)) - exact).square().mean().sqrt().item()


def test_walks_have_less_error_than_shaps_at_as_many_forwards():
    model, rows, background = network(10), torch.randn(4, 10), torch.randn(20, 10)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)  # far from linear
    masker = shap.maskers.Independent(background.numpy(), max_samples=100)
    theirs, ours = [], []
    for seed in range(4):
        explainer = shap.explainers.Permutation(scores(model), masker, seed=seed)
        theirs.append(rough(model, rows, explainer(rows.numpy(), max_evals=81, silent=True).values, background))
        found = px.explain(model, rows, ShapleySampling(walks=160), data=background, seed=seed)
        assert found.facts["forwards"].max() <= 81 * 20
        ours.append(rough(model, rows, found.values, background))
    assert np.mean(ours) < 0.8 * np.mean(theirs)


def test_kernel_equals_shaps_where_all_coalitions_are_asked_and_has_less_error_where_not():
    model, rows, background = network(10), torch.randn(4, 10), torch.randn(20, 10)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)  # far from linear
    explainer = shap.KernelExplainer(scores(model), background.numpy())

    def theirs(count):
        return explainer.shap_values(rows.numpy(), nsamples=count, silent=True, l1_reg=False).reshape(4, 10)

    every = px.explain(model, rows, KernelShap(samples=1004), data=background)
    torch.testing.assert_close(every.values, torch.as_tensor(theirs(1022)).float(), **CLOSE)
    np.random.seed(0)
    other = np.mean([rough(model, rows, theirs(300), background) for _ in range(4)])
    method, own = KernelShap(samples=280), []
    for seed in range(4):
        found = px.explain(model, rows, method, data=background, seed=seed)
        assert found.facts["coalitions"].max() <= 302
        own.append(rough(model, rows, found.values, background))
    assert np.mean(own) < other
