"""Grad-CAM against captum's LayerGradCam."""

import warnings

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import GradCAM

attr = pytest.importorskip("captum.attr")


@pytest.fixture(autouse=True)
def _captum_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        yield


def network():
    torch.manual_seed(4)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Tanh()]
    return nn.Sequential(*body, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 3 * 2, 5)).double().eval()


@pytest.mark.parametrize("layer", ["2", "3", "4"])
@pytest.mark.parametrize("relu", [True, False])
def test_equals_layer_grad_cam(layer, relu):
    model, x = network(), torch.randn(4, 3, 17, 13, dtype=torch.float64)
    target = torch.tensor([1, 0, 4, 1])
    theirs = attr.LayerGradCam(model, model[int(layer)]).attribute(x, target=target, relu_attributions=relu)
    ours = px.explain(model, x, GradCAM(relu=relu), target=target, layer=layer).values
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", ["2", "4"])
def test_equals_guided_grad_cam(layer):
    """Captum asks for bilinear enlargement, and finds rectifiers that are modules alone; its warning is its own."""
    torch.manual_seed(6)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()]
    model = nn.Sequential(*body, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 3 * 2, 5)).double().eval()
    x, target = torch.randn(4, 3, 17, 13, dtype=torch.float64), torch.tensor([1, 0, 4, 1])
    ours = px.explain(model, x, "guided-grad-cam", target=target, layer=layer).values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks on ReLU")
        explainer = attr.GuidedGradCam(model, model[int(layer)])
        theirs = explainer.attribute(x.requires_grad_(), target=target, interpolate_mode="bilinear")
    assert ours.abs().max() > 0
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)
