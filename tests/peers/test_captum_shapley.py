"""Shapley values against captum."""

import warnings

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import KernelShap, ShapleySampling, ShapleyValue

attr = pytest.importorskip("captum.attr")
CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(autouse=True)
def _captum_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        yield


def test_exact_values_equal_captums_over_all_permutations():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    rows, fill, target = torch.randn(3, 5), torch.randn(1, 5), torch.tensor([2, 0, 1])
    theirs = attr.ShapleyValues(model).attribute(rows, baselines=fill, target=target, perturbations_per_eval=20)
    ours = px.explain(model, rows, ShapleyValue(), target=target, data=fill).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_exact_values_of_superpixels_equal_captums():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 5, 3)).eval()
    images, masks = torch.randn(2, 3, 8, 7), torch.randint(0, 4, (1, 1, 8, 7))
    theirs = attr.ShapleyValues(model).attribute(images, target=1, feature_mask=masks)
    ours = px.explain(model, images, ShapleyValue(), target=1, data={"groups": masks}).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_walks_have_less_error_than_captums_at_as_many_forwards():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    rows = torch.randn(4, 9)
    exact = px.explain(model, rows, ShapleyValue(), target=1).values
    theirs, ours = [], []
    for seed in range(6):
        torch.manual_seed(seed)
        found = attr.ShapleyValueSampling(model).attribute(rows, target=1, n_samples=20, perturbations_per_eval=5)
        theirs.append((found - exact).square().mean())
        walked = px.explain(model, rows, ShapleySampling(walks=20), target=1, seed=seed)
        assert walked.facts["forwards"].max() <= 20 * 9
        ours.append((walked.values - exact).square().mean())
    assert sum(ours) < 0.5 * sum(theirs)


def test_kernel_has_less_than_half_of_captums_error_which_draws_coalitions_anew():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    rows = torch.randn(2, 9)
    exact = px.explain(model, rows, ShapleyValue(), target=1).values
    theirs = attr.KernelShap(model).attribute(rows, target=1, n_samples=200, perturbations_per_eval=1)
    ours = px.explain(model, rows, KernelShap(samples=180), target=1)
    assert ours.facts["coalitions"].max() <= 200
    assert (ours.values - exact).square().mean() < 0.25 * (theirs - exact).square().mean()
