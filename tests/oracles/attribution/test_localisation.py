"""Score maps against the classifier slid over the image by hand, maps written by hand, and planted objects."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution import MaxPooledHead, ScoreMapLocalisation, image_label_loss
from pellucid.attribution.localisation import box_around, over_image
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.worlds.scene import COLOURS

DOUBLE = {"dtype": torch.float64}
NAME = "weakly-supervised-localization"


def rows(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


def max_pooled(hidden=3):
    return filled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), MaxPooledHead(4, 3, hidden)))


def flattened(stride=1):
    """A classifier of 2 × 9 × 9 images that reads every place by weights of its own; no padding."""
    side = (9 - 3) // stride + 1
    layers = [nn.Conv2d(2, 4, 3, stride=stride), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side * side, 5)]
    return filled(nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 3)))


IMAGES = rows(4, 2, 9, 9)


@pytest.mark.parametrize("hidden", [0, 3])
def test_one_place_at_a_time_on_max_pooled_networks(hidden):
    model = max_pooled(hidden)
    got = px.explain(model, IMAGES, NAME, layer="1")
    with torch.no_grad():
        features, scores = model[:2](IMAGES), model(IMAGES)
    head, winner = model[2].requires_grad_(False), scores.argmax(1)
    for n in range(4):
        for i in range(7):
            for j in range(7):
                column = features[n, :, i, j]
                if hidden:
                    column = (head.adapt.weight[:, :, 0, 0] @ column + head.adapt.bias).clamp(min=0)
                score = head.classify.weight[winner[n], :, 0, 0] @ column + head.classify.bias[winner[n]]
                assert math.isclose(got.parts["scores at scale 1"][n, 0, i, j], score, abs_tol=1e-12)
    torch.testing.assert_close(got.facts["score"], scores.amax(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.facts["peak_gap"], torch.zeros(4, **DOUBLE), rtol=0, atol=1e-12)
    assert got.source["window"] == [1, 1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 5 / 3, 2.0])
def test_head_slid_over_features_is_the_classifier_slid_over_the_image(stride, scale):
    model = flattened(stride)
    got = px.explain(model, IMAGES, ScoreMapLocalisation(scales=(scale,)), target=2, layer="1")
    side = round(9 * scale)
    large = functional.interpolate(IMAGES, size=(side, side), mode="bilinear", align_corners=False)
    places = (side - 9) // stride + 1
    found = got.parts[f"scores at scale {scale:g}"]
    assert found.shape == (4, 1, places, places)
    for i in range(places):
        for j in range(places):
            crop = large[:, :, stride * i : stride * i + 9, stride * j : stride * j + 9]
            with torch.no_grad():
                torch.testing.assert_close(found[:, 0, i, j], model(crop)[:, 2], rtol=0, atol=1e-12)


def test_each_row_has_its_own_target_and_functions_are_targets():
    model, targets = max_pooled(), torch.tensor([2, 0, 1, 2])
    got = px.explain(model, IMAGES, NAME, target=targets, layer="1").values
    for n in range(4):
        alone = px.explain(model, IMAGES[n : n + 1], NAME, target=int(targets[n]), layer="1").values
        torch.testing.assert_close(got[n], alone[0], rtol=0, atol=1e-12)
    margin = px.explain(model, IMAGES, NAME, target=lambda out: out[:, 0] - out[:, 1], layer="1")
    parts = [px.explain(model, IMAGES, NAME, target=k, layer="1").parts["scores at scale 1"] for k in (0, 1)]
    torch.testing.assert_close(margin.parts["scores at scale 1"], parts[0] - parts[1], rtol=0, atol=1e-12)


def test_several_scales_give_the_largest_score_at_each_pixel():
    model = max_pooled()
    each = [px.explain(model, IMAGES, ScoreMapLocalisation(scales=(s,)), target=0, layer="1") for s in (1.0, 1.5, 0.7)]
    both = px.explain(model, IMAGES, ScoreMapLocalisation(scales=(1.0, 1.5, 0.7)), target=0, layer="1")
    torch.testing.assert_close(both.values, torch.stack([e.values for e in each]).amax(0), rtol=0, atol=1e-12)
    peaks = torch.stack([e.facts["peak_score"] for e in each])
    torch.testing.assert_close(both.facts["peak_score"], peaks.amax(0), rtol=0, atol=1e-12)
    for n, best in enumerate(peaks.argmax(0).tolist()):
        assert both.facts["point_scale"][n] == (1.0, 1.5, 0.7)[best]
        assert both.facts["point_row"][n] == each[best].facts["point_row"][n]


def test_maps_are_laid_over_the_image_between_the_centres_of_their_windows():
    """Two windows of 2 places in a map of 3 over 6 pixels: centres at pixel edges 2 and 4."""
    got = over_image(torch.tensor([[[[0.0, 1.0]]]], **DOUBLE), (1, 3), (1, 2), (1, 6))[0, 0, 0]
    expected = [0, 0, 0.25, 0.75, 1, 1]
    assert got.tolist() == expected
    single = rows(2, 1, 3, 5)
    enlarged = functional.interpolate(single, size=(8, 9), mode="bilinear", align_corners=False)
    torch.testing.assert_close(over_image(single, (3, 5), (1, 1), (8, 9)), enlarged, rtol=0, atol=1e-12)


def test_point_is_the_centre_of_the_best_window():
    """A red blob in the second of 4 × 5 patches of 4 pixels each: the patch covers rows 4 to 7 and columns 8 to 11."""
    net = nn.Sequential(nn.AvgPool2d(4), MaxPooledHead(1, 2)).double().eval()
    net[1].classify.weight.data[:], net[1].classify.bias.data[:] = torch.tensor([1.0, -1.0])[:, None, None, None], 0
    image = torch.zeros(1, 1, 16, 20, **DOUBLE)
    image[0, 0, 4:8, 8:12] = 1
    got = px.explain(net, image, NAME, target=0, layer="0")
    assert (got.facts["point_row"].item(), got.facts["point_column"].item()) == (5.5, 9.5)
    assert got.facts["peak_score"].item() == 1.0
    box = [got.facts[f"box_{side}"].item() for side in ("top", "left", "bottom", "right")]
    assert box == [4, 8, 8, 12]  # linear between patches, so half height is reached at the patch's own border


def test_box_is_the_component_of_the_point():
    heat = torch.tensor([[5.0, 4, 0, 0], [0, 0, 0, 4], [0, 0, 4, 4]], **DOUBLE)
    assert box_around(heat, [0.0, 0.2], 0.5) == [0, 0, 1, 2]
    assert box_around(heat, [2.0, 3.0], 0.5) == [1, 2, 3, 4]
    assert box_around(heat, [0.0, 0.0], 0.9) == [0, 0, 1, 1]
    assert box_around(torch.ones(3, 4), [1.0, 1.0], 0.5) == [0, 0, 3, 4]


def test_averaging_networks_have_a_gap_and_their_map_averages_to_the_score():
    model = filled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    got = px.explain(model, IMAGES, NAME, target=1)
    mean = got.parts["scores at scale 1"].mean((1, 2, 3))
    torch.testing.assert_close(mean, got.facts["score"], rtol=0, atol=1e-12)
    assert bool((got.facts["peak_gap"] > 0).all())
    assert got.source["layer_used"] == "1"


class FixedRows(nn.Module):
    """Its head counts the rows of the image, so that windows can't be many to one row."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 2)

    def forward(self, x):
        maps = self.body(x).relu_()
        return self.head(maps.view(len(x), 3, -1).amax(2))


def test_heads_that_count_rows_or_write_in_place():
    model = filled(FixedRows())
    got = px.explain(model, IMAGES, NAME, target=1, layer="body").parts["scores at scale 1"]
    with torch.no_grad():
        expected = torch.einsum("k,nkij->nij", model.head.weight[1], model.body(IMAGES).clamp(min=0))
    torch.testing.assert_close(got[:, 0], expected + model.head.bias[1].item(), rtol=0, atol=1e-12)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.side, self.head = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3), MaxPooledHead(3, 2)

    def forward(self, x):
        return self.head(self.body(x) + self.side(x))


def test_refusals():
    model = max_pooled()
    with pytest.raises(NeedError, match=r"goes around 'body'.*behind the sum"):
        px.explain(filled(Around()), IMAGES, NAME, layer="body")
    for scales in ((), (0.0,), (1.0, 1.0), (-1.0,), (float("nan"),), (True,)):
        with pytest.raises(MethodError, match="'scales' must be different positive numbers"):
            px.explain(model, IMAGES, ScoreMapLocalisation(scales=scales))
    for window in ((0, 1), (1,), (1.5, 1)):
        with pytest.raises(MethodError, match="'window' must be"):
            px.explain(model, IMAGES, ScoreMapLocalisation(window=window))
    for level in (1.0, -0.1, True, "half"):
        with pytest.raises(MethodError, match="'level' must be"):
            px.explain(model, IMAGES, ScoreMapLocalisation(level=level))
    with pytest.raises(MethodError, match=r"'window'.*takes, of a map of 7 × 7 places\. Got \(3, 3\)"):
        px.explain(flattened(), IMAGES, ScoreMapLocalisation(window=(3, 3)), layer="1")
    with pytest.raises(MethodError, match=r"'scales' must keep the map.*7 × 7.*Got 0\.5, with a map of 2 × 2"):
        px.explain(flattened(), IMAGES, ScoreMapLocalisation(scales=(1.0, 0.5)), layer="1")
    with pytest.raises(MethodError, match=r"'scales' must be those.*Got 0\.1"):
        px.explain(model, IMAGES, ScoreMapLocalisation(scales=(0.1,)), layer="1")
    with pytest.raises(TargetError, match="hidden unit"):
        px.explain(model, IMAGES, NAME, target=px.unit("0", 1))
    with pytest.raises(LayerError, match="'layer' '2' must hold maps"):
        px.explain(model, IMAGES, NAME, layer="2")
    with pytest.raises(InputError, match="images"):
        px.explain(model, IMAGES[0], NAME)
    with pytest.raises(InputError, match="'labels' must say"):
        image_label_loss(torch.zeros(2, 3), torch.zeros(2))


def test_loss_by_hand():
    scores, labels = rows(3, 4) - 0.5, rows(3, 4, seed=2) > 0.5
    total = sum(math.log(1 + math.exp(-(1 if labels[n, k] else -1) * scores[n, k])) for n in range(3) for k in range(4))
    assert math.isclose(image_label_loss(scores, labels), total / 3, rel_tol=1e-12)


def test_training_on_labels_alone_finds_the_objects():
    """Which colours a picture shows is all that training is told; the best place then lies on an object of the colour."""
    world = worlds.shapes(300, seed=5)
    names = COLOURS
    masks = world.truth["masks"]
    labels = torch.stack([masks.present(name) for name in names], 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.ReLU(), MaxPooledHead(16, len(names), hidden=16))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(250):
            optimiser.zero_grad()
            image_label_loss(net(world.inputs[:240]), labels[:240]).backward()
            optimiser.step()
    net.eval()
    hits = chances = shown = 0
    for k, name in enumerate(names):
        held = [n for n in range(240, 300) if labels[n, k]]
        got = px.explain(net, world.inputs[held], NAME, target=k, layer="1")
        for at, n in enumerate(held):
            row, column = (round(got.facts[f"point_{axis}"][at].item()) for axis in ("row", "column"))
            hits += bool(masks["object"][n, row, column] & _near(masks[name][n], row, column))
            chances += masks[name][n].double().mean().item()
            shown += 1
    assert shown > 60
    assert hits / shown > 0.8
    assert chances / shown < 0.3


def _near(mask, row, column):
    """Whether the patch of 4 × 4 pixels around a point touches the mask."""
    return mask[max(0, row - 2) : row + 2, max(0, column - 2) : column + 2].any()


@pytest.mark.slow
def test_trained_network_looks_at_the_main_object():
    model, world = zoo.load("shapes-cnn"), worlds.shapes(40, seed=1234)
    masks = world.truth["masks"]["main object"]
    got = px.explain(model, world.inputs, NAME, target=world.labels, layer="block3")
    hit = [bool(masks[n, int(r), int(c)]) for n, (r, c) in enumerate(zip(*_points(got), strict=True))]
    swapped = [bool(masks[(n + 1) % 40, int(r), int(c)]) for n, (r, c) in enumerate(zip(*_points(got), strict=True))]
    assert sum(hit) / 40 > 0.7
    assert sum(hit) > sum(swapped) + 12


def _points(got):
    return [got.facts[f"point_{axis}"].round().tolist() for axis in ("row", "column")]
