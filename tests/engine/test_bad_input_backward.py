"""What backward methods and maps can't be asked: a typed error that names operation or argument, place and remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pellucid as px
from pellucid.attribution import AlphaBetaLRP, CompositeLRP, DeepTaylor, GammaLRP
from pellucid.contract import errors

ROWS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, -1.0]])
IMAGES = torch.linspace(-1, 1, 2 * 2 * 8 * 6).reshape(2, 2, 8, 6)
MAPS = ("grad-cam", "grad-cam-plus-plus", "xgrad-cam", "hires-cam", "layer-cam")
REFERENCED = ("deeplift", "deeplift-revealcancel", "integrated-gradients", "gradient-x-input", "conductance")
RULED = ("lrp-epsilon", "lrp-alpha-beta", "lrp-gamma", "lrp-composites", "deep-taylor-decomposition", "deeplift")
RULED += ("deeplift-revealcancel", "guided-backprop", "deconvnet", "openbox-plnn", "bias-backpropagation")
RULED += ("contextual-decomposition",)


def perceptron(bias: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4, bias=bias), nn.ReLU(), nn.Linear(4, 2, bias=bias)).eval()


def pooled(bias: bool = True) -> nn.Module:
    layers = [nn.Conv2d(2, 3, 3, bias=bias), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.Linear(3, 2, bias=bias)).eval()


def flattened() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 4, 2)).eval()


class Odd(nn.Module):
    """Its middle has an operation for which no table has a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(3, 4), Middle(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.middle(self.enter(x)))


class Middle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x / (1 + x.detach().abs().amax()))


def refused(kind: type[errors.PellucidError], words: tuple[str, ...], *call: Any, **settings: Any) -> None:
    """The call raises this kind, in our three sentences, with these words, and leaves nothing in the model."""
    model = call[0]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(kind) as caught:
        px.explain(*call, **settings)
    error = caught.value
    assert type(error) is kind
    assert error.got
    assert error.hint, "there is a remedy"
    missing = [word for word in words if word not in str(error)]
    assert not missing, str(error)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@pytest.mark.parametrize("method", [*MAPS, "cam", "guided-grad-cam", "weakly-supervised-localization"])
@pytest.mark.parametrize("layer", ["3", "4"])
def test_layers_that_hold_no_maps(method: str, layer: str) -> None:
    model = pooled()
    refused(
        errors.LayerError,
        (f"'layer' '{layer}'", "maps", "Got shape", "Try one of '0'"),
        model,
        IMAGES,
        method,
        layer=layer,
    )


@pytest.mark.parametrize("method", [*MAPS, "cam"])
def test_models_without_maps(method: str) -> None:
    words = ("'layer'", "no spatial layer", "integrated-gradients")
    refused(errors.LayerError, words, perceptron(), ROWS, method)
    refused(errors.LayerError, ("'layer' '0'", ", 4)", "Try"), perceptron(), ROWS, method, layer="0")


def test_maps_of_classes_need_a_pooled_head() -> None:
    words = ("pooling", "behind '1'", "'3' reads each place", "'grad-cam'")
    refused(errors.NeedError, words, flattened(), IMAGES, "cam", layer="1")


def test_missing_biases_have_no_share() -> None:
    words = ("bias", "aten.", "module '0'", "module '2'", "gradient-x-input")
    refused(errors.NeedError, words, perceptron(bias=False), ROWS, "bias-backpropagation")
    zero = perceptron()
    for name, p in zero.named_parameters():
        if name.endswith("bias"):
            p.data.zero_()
    refused(errors.NeedError, words, zero, ROWS, "bias-backpropagation")


@pytest.mark.parametrize("method", ["lrp-epsilon", "lrp-alpha-beta", "lrp-gamma", "lrp-composites"])
def test_missing_biases_keep_nothing(method: str) -> None:
    """On such networks no relevance stays with a bias; what the composites' flat rule rounds off is all."""
    result = px.explain(perceptron(bias=False).double(), ROWS.double(), method)
    assert float(result.facts["absorbed_bias"].abs().max()) < 1e-6 * float(result.facts["score"].abs().max())
    assert torch.isfinite(result.values).all()


def test_missing_biases_leave_class_maps_exact() -> None:
    assert float(px.explain(pooled(bias=False), IMAGES, "cam").facts["bias"].abs().max()) == 0.0


@pytest.mark.parametrize("method", REFERENCED)
@pytest.mark.parametrize("shape", [(1, 5), (3, 3), (2, 3, 1)])
def test_references_of_another_shape(method: str, shape: tuple[int, ...]) -> None:
    words = ("'data'", "(1, 3) or (2, 3)", str(shape), "Try")
    refused(errors.InputError, words, perceptron(), ROWS, method, data=torch.zeros(shape))


@pytest.mark.parametrize("method", ["deep-shap", "expected-gradients"])
def test_backgrounds_of_another_shape(method: str) -> None:
    refused(errors.InputError, ("'data'", "5", "Try"), perceptron(), ROWS, method, data=torch.zeros(4, 5))


def test_inputs_below_zero_where_the_rule_needs_others() -> None:
    words = ("z⁺", "positive", "-2", "aten.addmm in module '0' at ", "domain='real'")
    refused(errors.InputError, words, perceptron(), ROWS, DeepTaylor(domain="positive"))
    px.explain(perceptron(), ROWS.abs(), DeepTaylor(domain="positive"))
    two = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    refused(errors.InputError, ("module '1'", "Try"), two, ROWS, "deep-taylor-decomposition", layer="0")


@pytest.mark.parametrize("method", [DeepTaylor(low=0.0, high=1.0), CompositeLRP(composite="epsilon-gamma-box")])
def test_inputs_outside_the_box(method: Any) -> None:
    words = ("'low' and 'high'", "from -1 to ", "aten.convolution in module '0' at ", "normalisation")
    refused(errors.InputError, words, flattened(), IMAGES, method)


@pytest.mark.parametrize("method", [AlphaBetaLRP(), GammaLRP(), AlphaBetaLRP(alpha=1.0, beta=0.0)])
def test_rules_for_inputs_of_both_signs_take_them(method: Any) -> None:
    """Their published forms for inputs that are not negative are extended by sign, not applied as they are."""
    assert torch.isfinite(px.explain(perceptron(), ROWS, method).values).all()


@pytest.mark.parametrize("method", RULED)
def test_operations_without_a_rule(method: str) -> None:
    words = ("no rule in the table", "aten.erfinv in module 'middle' at ", "test_bad_input_backward.py:", "Try")
    refused(errors.UnsupportedOperation, words, Odd().eval(), ROWS, method)
