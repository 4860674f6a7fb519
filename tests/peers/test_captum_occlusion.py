"""Occlusion and feature ablation against captum."""

import warnings

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import FeatureAblation, Occlusion

attr = pytest.importorskip("captum.attr")
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _captum_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        yield


def network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 9 * 6, 4)).eval()


@pytest.mark.parametrize(
    ("window", "stride"),
    [((3, 4, 3), (3, 2, 2)), ((1, 5, 5), (1, 3, 4)), ((2, 3, 8), (1, 3, 5)), ((3, 11, 8), (1, 1, 1)), ((3, 7, 2), 2)],
)
def test_equals_captum_with_the_last_windows_cut_off(window, stride):
    model, x = network(), torch.randn(3, 3, 11, 8)
    target = torch.tensor([2, 0, 3])
    fill = torch.randn(1, 3, 11, 8)
    theirs = attr.Occlusion(model).attribute(x, window, stride, baselines=fill, target=target, perturbations_per_eval=5)
    ours = px.explain(model, x, Occlusion(window=window, stride=stride), target=target, data=fill).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_equals_captum_on_two_inputs():
    def model(a, b):
        return torch.tanh(a.sum((1, 2)) * b.sum(1) + a[:, 0, 1]).unsqueeze(1)

    a, b = torch.randn(2, 3, 4), torch.randn(2, 5)
    theirs = attr.Occlusion(lambda a, b: model(a, b)[:, 0]).attribute((a, b), ((3, 2), (2,)), ((1, 1), (2,)))
    ours = px.explain(model, (a, b), Occlusion(window=((3, 2), (2,)), stride=((1, 1), (2,)))).values
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_ablation_equals_captum_element_by_element():
    model, x = network(), torch.randn(2, 3, 11, 8)
    theirs = attr.FeatureAblation(model).attribute(x, baselines=0.5, target=1, perturbations_per_eval=64)
    ours = px.explain(model, x, FeatureAblation(features="element", baseline=0.5), target=1).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_ablation_equals_captum_with_masks():
    model, x = network(), torch.randn(3, 3, 11, 8)
    mask = torch.randint(0, 9, (1, 1, 11, 8))
    theirs = attr.FeatureAblation(model).attribute(x, target=2, feature_mask=mask)
    ours = px.explain(model, x, "feature-ablation", target=2, data={"groups": mask}).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_ablation_of_a_layer_equals_captum():
    model, x = network(), torch.randn(2, 3, 11, 8)
    mask = torch.arange(5).reshape(1, 5, 1, 1).expand(1, 5, 9, 6)
    theirs = attr.LayerFeatureAblation(model, model[1]).attribute(x, target=0, layer_mask=mask)
    ours = px.explain(model, x, FeatureAblation(features="channel"), target=0, layer="1").values
    torch.testing.assert_close(ours, theirs, **CLOSE)
