"""Grad-CAM against class activation maps, loops over channels, and its documented failure."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import GradCAM
from pellucid.attribution.spatial import upsample
from pellucid.contract.errors import LayerError, NeedError

DOUBLE = {"dtype": torch.float64}
SIGNED = GradCAM(relu=False)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


def pooled():
    """Convolutions, global average pooling, one linear layer: the networks that class activation maps are for."""
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()]
    return filled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)))


class Deep(nn.Module):
    """A head that is not linear in the pooled map."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
        self.head = nn.Linear(3 * 5 * 3, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(functional.relu(self.head(self.body(x).flatten(1))))


IMAGES = rows(4, 2, 7, 5)


def activations(model, stop, x=IMAGES):
    with torch.no_grad():
        return model[:stop](x)


@pytest.mark.parametrize("target", [0, 2])
def test_signed_map_is_the_class_activation_map_over_the_number_of_places(target):
    model = pooled()
    maps = activations(model, 4)
    height, width = maps.shape[2:]
    assert height != width
    class_map = torch.zeros(4, height, width, **DOUBLE)
    for k in range(5):
        class_map += model[6].weight.detach()[target, k] * maps[:, k]
    got = px.explain(model, IMAGES, SIGNED, target=target, layer="3").values
    torch.testing.assert_close(got[:, 0], class_map / (height * width), rtol=0, atol=1e-12)
    kept = px.explain(model, IMAGES, "grad-cam", target=target, layer="3").values
    torch.testing.assert_close(kept[:, 0], class_map.clamp(min=0) / (height * width), rtol=0, atol=1e-12)


def test_on_such_networks_the_signed_map_sums_to_the_logit_without_its_bias():
    model = pooled()
    got = px.explain(model, IMAGES, SIGNED, target=1, layer="3")
    with torch.no_grad():
        logit = model(IMAGES)[:, 1] - model[6].bias[1]
    torch.testing.assert_close(got.values.sum((1, 2, 3)), logit, rtol=0, atol=1e-12)


def test_loop_over_rows_and_channels():
    model = filled(Deep())
    got = px.explain(model, IMAGES, SIGNED, target=2).values
    for n in range(4):
        maps = model.body(IMAGES[n : n + 1]).detach().requires_grad_()
        score = model.last(functional.relu(model.head(maps.flatten(1))))[0, 2]
        (grad,) = torch.autograd.grad(score, maps)
        expected = torch.zeros(5, 3, **DOUBLE)
        for k in range(3):
            expected += grad[0, k].sum() / 15 * maps.detach()[0, k]
        torch.testing.assert_close(got[n, 0], expected, rtol=0, atol=1e-12)


def test_batch_equals_single_rows():
    model = filled(Deep())
    whole = px.explain(model, IMAGES, "grad-cam")
    for n in range(4):
        one = px.explain(model, IMAGES[n : n + 1], "grad-cam")
        torch.testing.assert_close(whole.values[n : n + 1], one.values, rtol=0, atol=1e-12)
        torch.testing.assert_close(whole.facts["negative_share"][n : n + 1], one.facts["negative_share"])


def test_negated_score_gives_the_counter_evidence():
    model = filled(Deep())
    signed = px.explain(model, IMAGES, SIGNED, target=lambda out: out[:, 1]).values
    against = px.explain(model, IMAGES, "grad-cam", target=lambda out: -out[:, 1]).values
    torch.testing.assert_close(against, (-signed).clamp(min=0), rtol=0, atol=1e-12)
    assert against.max() > 0


def test_margin_is_the_difference_of_signed_maps():
    model = filled(Deep())
    one, other = (px.explain(model, IMAGES, SIGNED, target=t).values for t in (3, 0))
    got = px.explain(model, IMAGES, SIGNED, target=px.margin(3, 0)).values
    torch.testing.assert_close(got, one - other, rtol=0, atol=1e-12)


def test_hidden_unit_as_target():
    model = pooled()
    got = px.explain(model, IMAGES, SIGNED, target=px.unit("2", 3), layer="1").values
    maps = activations(model, 2).requires_grad_()
    (grad,) = torch.autograd.grad(model[2](maps)[:, 3].mean((1, 2)).sum(), maps)
    expected = (grad.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_constant_logit_gives_zero():
    model = pooled()
    model[6].weight.data[1] = 0
    got = px.explain(model, IMAGES, "grad-cam", target=1)
    assert torch.equal(got.values, torch.zeros_like(got.values))
    assert torch.equal(got.facts["negative_share"].double(), torch.zeros(4, **DOUBLE))


def test_negative_share_counts_the_mass_that_the_rectifier_removes():
    model = pooled()
    signed = px.explain(model, IMAGES, SIGNED, target=0).values
    share = px.explain(model, IMAGES, "grad-cam", target=0).facts["negative_share"]
    for n in range(4):
        below = sum(-v for v in signed[n].flatten().tolist() if v < 0)
        mass = sum(abs(v) for v in signed[n].flatten().tolist())
        assert abs(share[n].item() - below / mass) < 1e-12
    assert 0 < share.min() < share.max() < 1


def test_planted_object_is_where_the_map_peaks():
    detector = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    filled(detector)
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]], **DOUBLE)
    detector[0].weight.data[0, 0], detector[0].bias.data[:] = cross, -4.0
    detector[4].weight.data[:] = torch.tensor([[-1.0], [1.0]])
    image = torch.zeros(1, 1, 12, 9, **DOUBLE)
    image[0, 0, 7:10, 2:5] = cross
    got = px.explain(detector, image, "grad-cam", target=1, layer="1").values[0, 0]
    assert divmod(int(got.argmax()), 7) == (7, 2)


@pytest.mark.parametrize(("height", "width"), [(9, 6), (14, 10)])
def test_upsampling_is_bilinear_between_centres(height, width):
    small = rows(2, 1, 7, 5)
    got = upsample(small, (height, width))
    assert got.shape == (2, 1, height, width)
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * 7 / height - 0.5, (x + 0.5) * 5 / width - 0.5
            v, u = min(max(v, 0), 6), min(max(u, 0), 4)
            top, left = min(int(v), 5), min(int(u), 3)
            a, b = v - top, u - left
            cell = small[:, 0, top : top + 2, left : left + 2]
            value = (1 - a) * ((1 - b) * cell[:, 0, 0] + b * cell[:, 0, 1])
            value += a * ((1 - b) * cell[:, 1, 0] + b * cell[:, 1, 1])
            torch.testing.assert_close(got[:, 0, y, x], value, rtol=0, atol=1e-12)


class Stages(nn.Module):
    """A network in blocks, with a reused rectifier and pooling at the end of the last block."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout()
        self.head = nn.Linear(3 * 3 * 2, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(self.block(x))
        return self.head(self.drop(self.pool(x)).flatten(1))


def test_guessed_layer_is_the_last_map_before_pooling():
    model = filled(Stages())
    got = px.explain(model, IMAGES, "grad-cam")
    assert got.source["layer_used"] == "act#2"
    named = px.explain(model, IMAGES, "grad-cam", layer="act#2")
    assert torch.equal(got.values, named.values)
    assert got.values.shape == (4, 1, 7, 5)
    assert px.explain(pooled(), IMAGES, "grad-cam").source["layer_used"] == "3"
    assert px.explain(filled(Deep()), IMAGES, "grad-cam").source["layer_used"] == "body"


def test_guess_is_made_again_when_a_module_is_replaced():
    model = pooled()
    assert px.explain(model, IMAGES, "grad-cam").source["layer_used"] == "3"
    model[4] = filled(nn.Sequential(nn.Conv2d(5, 5, 2, padding=1), nn.AdaptiveAvgPool2d(1)))
    assert px.explain(model, IMAGES, "grad-cam").source["layer_used"] == "4.0"


def test_guess_leaves_no_hook():
    model = filled(Stages())
    px.explain(model, IMAGES, "grad-cam")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Patches(nn.Module):
    """A convolution that cuts patches, and then many layers on tokens."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(2, 4, 2, stride=2)
        self.mix = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.mix(self.cut(x).flatten(2).mT).mean(1))


def test_refusals_name_what_would_do():
    model = filled(Patches())
    with pytest.raises(LayerError, match=r"'mix'.*'cut'"):
        px.explain(model, IMAGES, "grad-cam", layer="mix")
    with pytest.raises(LayerError, match=r"9 of 10 layers .* 'cut'"):
        px.explain(model, IMAGES, "grad-cam")
    assert px.explain(model, IMAGES, "grad-cam", layer="cut").values.shape == (4, 1, 3, 2)
    with pytest.raises(LayerError, match="no spatial layer"):
        px.explain(filled(nn.Linear(5, 2)), rows(3, 5), "grad-cam")
    with pytest.raises(NeedError):
        px.explain(lambda x: x.mean((2, 3)), IMAGES, "grad-cam")


def test_documented_failure_mean_gradients_lose_the_place():
    """The score reads the left half for and the right half against: the mean gradient is zero, and so is the map."""
    model = filled(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1, bias=False)))
    model[0].weight.data[:] = 1
    model[3].weight.data[:] = torch.tensor([[1.0, 1, -1, -1, 1, 1, -1, -1]])
    image = torch.tensor([[3.0, 3, 0, 0], [3, 3, 0, 0]], **DOUBLE)[None, None]
    assert model(image).item() == 12
    assert px.explain(model, image, SIGNED).values.abs().max() == 0
