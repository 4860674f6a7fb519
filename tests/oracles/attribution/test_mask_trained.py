"""Real-time saliency: loss and crop metric against loops, the masker against layers, and objects planted in pictures."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import RealTimeSaliency
from pellucid.attribution.mask_network import draw, drawn_weights
from pellucid.attribution.mask_trained import box, losses, metric, middle
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine.reference import blur

DOUBLE = {"dtype": torch.float64}
SHORT = {"steps": 2, "width": 2, "depth": 2, "minibatch": 4}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Score(nn.Module):
    """Any function of the images as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, x):
        return self.function(x)


def network(channels=2, height=9, width=7, classes=3):
    head = nn.Linear(3 * (height - 2) * (width - 2), classes)
    model = nn.Sequential(nn.Conv2d(channels, 3, 3), nn.Tanh(), nn.Flatten(), head).double()
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return model.eval()


IMAGES, DATA = rows(3, 2, 9, 7), rows(12, 2, 9, 7, seed=2)


def test_masker_is_an_encoder_and_decoder_with_skips_and_a_class_filter():
    weights = drawn_weights(2, 3, 4, 2, 7, torch.zeros(1, **DOUBLE))
    images, classes = rows(3, 2, 9, 7), torch.tensor([0, 2, 1])

    def layer(name, x, stride=1):
        out, into, size, _ = weights[name].shape
        conv = nn.Conv2d(into, out, size, stride, padding=size // 2).double()
        conv.weight.data, conv.bias.data = weights[name], weights[name + ".bias"]
        with torch.no_grad():
            return conv(x)

    full = layer("enter", images).clamp(min=0)
    half = layer("down0", full, 2).clamp(min=0)
    quarter = layer("down1", half, 2).clamp(min=0)
    filtered = torch.empty_like(quarter)
    for n, y, x in itertools.product(range(3), range(3), range(2)):
        agreement = sum(quarter[n, c, y, x] * weights["class"][classes[n], c] for c in range(8))
        filtered[n, :, y, x] = quarter[n, :, y, x] / (1 + math.exp(-agreement))
    wide = nn.Upsample((5, 4))(filtered)
    wide = layer("up1", torch.cat([wide, half], 1)).clamp(min=0)
    wide = layer("up0", torch.cat([nn.Upsample((9, 7))(wide), full], 1)).clamp(min=0)
    parts = layer("leave", wide).abs()
    expected = (parts[:, 0] / (parts[:, 0] + parts[:, 1]))[:, None]
    torch.testing.assert_close(draw(images, classes, weights, 2), expected, rtol=0, atol=1e-12)


def test_loss_is_that_of_the_definition():
    method = RealTimeSaliency(smoothness=0.7, area=0.4, destroy=1.3, exponent=0.5)
    masks, kept, left = rows(3, 1, 4, 5).sigmoid(), [0.9, 0.2, 0.5], [0.1, 0.6, 0.3]
    decoy = torch.tensor([False, True, False])
    got = losses(method, masks, torch.tensor(kept, **DOUBLE).log(), torch.tensor(left, **DOUBLE).log(), decoy)
    for n in range(3):
        mask, rough = masks[n, 0], 0.0
        for y, x in itertools.product(range(4), range(5)):
            rough += (mask[y + 1, x] - mask[y, x]).item() ** 2 if y < 3 else 0
            rough += (mask[y, x + 1] - mask[y, x]).item() ** 2 if x < 4 else 0
        expected = 0.7 * rough / 20 + 0.4 * mask.mean().item() - math.log(kept[n]) + 1.3 * left[n] ** 0.5
        assert got[n].item() == pytest.approx(mask.mean().item() if decoy[n] else expected, abs=1e-12)


def test_crop_metric_in_numbers():
    """A quarter of the image at full confidence; the floor of 0.05; a sure loss where the crop says nothing."""
    area, share = torch.tensor([0.25, 0.01, 1.0]), torch.tensor([1.0, 0.5, 0.1])
    expected = [math.log(0.25), math.log(0.05) - math.log(0.5), -math.log(0.1)]
    assert metric(area, share).tolist() == pytest.approx(expected, abs=1e-6)
    mask = torch.zeros(6, 5, dtype=torch.bool)
    assert box(mask) == (0, 6, 0, 5)
    mask[2, 1] = mask[4, 3] = True
    assert box(mask) == (2, 5, 1, 4)
    assert middle(2, 5, 1, 4, 6, 5) == (1, 4, 1, 4)


def test_facts_are_the_models_scores():
    model = network()
    got = px.explain(model, IMAGES, RealTimeSaliency(**SHORT), data=DATA, target=[0, 1, 2])
    fill, facts = blur(IMAGES, 1.0), got.facts
    for n in range(3):
        mask, image = got.values[n], IMAGES[n]
        top, bottom, left, right = box(mask[0] >= 0.5)
        crop = functional.interpolate(image[None, :, top:bottom, left:right], (9, 7), mode="bilinear")[0]

        def share(x, n=n):
            with torch.no_grad():
                return model(x[None])[0].softmax(0)[n].item()

        area = (bottom - top) * (right - left) / 63
        expected = {
            "score": share(image),
            "kept_score": share(mask * image + (1 - mask) * fill[n]),
            "destroyed_score": share((1 - mask) * image + mask * fill[n]),
            "fill_score": share(fill[n]),
            "area": mask.mean().item(),
            "saliency_metric": math.log(max(area, 0.05)) - math.log(share(crop)),
        }
        for name, figure in expected.items():
            assert facts[name][n].item() == pytest.approx(figure, abs=1e-10), name


WIDE = torch.zeros(6, 6)
WIDE[2:5] = 1
BARS = torch.stack([WIDE, WIDE.T])


def bars(x):
    """Two classes: a bar of 3 × 6 pixels that lies, and one that stands, anywhere; each scored by its best match."""
    return functional.conv2d(x, BARS[:, None] - 0.3).flatten(2).amax(2)


def pictures(count, seed):
    """One bar in each picture of 14 × 14, on dim noise; with its class and its mask."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.rand(count, 1, 14, 14, generator=generator)
    kinds = torch.arange(count) % 2
    masks = torch.zeros_like(images)
    for n in range(count):
        y, x = torch.randint(0, 9, (2,), generator=generator).tolist()
        masks[n, 0, y : y + 6, x : x + 6] = BARS[kinds[n]]
    return torch.maximum(images, masks), kinds, masks > 0


TOY = RealTimeSaliency(width=8, depth=2, steps=300, minibatch=16, decoys=0.4)


@pytest.fixture(scope="module")
def toy():
    """A masker trained on 200 pictures, and what it draws over 40 new ones."""
    model, (images, kinds, masks) = Score(bars).eval(), pictures(40, 5)
    data = pictures(200, 6)[0]
    got = px.explain(model, images, TOY, data=data)
    return model, images, kinds, masks, data, got


def test_planted_objects_are_found_in_new_pictures(toy):
    _, _, kinds, masks, _, got = toy
    assert torch.equal(got.target, kinds)
    found = got.values >= 0.5
    overlap = (found & masks).sum((1, 2, 3)) / (found | masks).sum((1, 2, 3))
    assert overlap.mean() > 0.4, overlap.mean()
    assert (found & masks).sum() > 0.8 * masks.sum()
    assert got.values.mean() < 0.25


def test_what_is_kept_suffices_and_what_is_left_does_not(toy):
    facts = toy[-1].facts
    assert facts["kept_score"].mean() > 0.85
    assert facts["fill_score"].mean() < facts["destroyed_score"].mean() < facts["score"].mean()
    assert (facts["saliency_metric"] < facts["centre_metric"]).double().mean() > 0.6
    assert facts["saliency_metric"].mean() < facts["centre_metric"].mean()
    told = toy[-1].source["masker"]
    assert told["rows"] == 200
    assert told["last_loss"] < told["first_loss"]


def test_mask_is_of_the_class_asked_for(toy):
    model, images, kinds, masks, data, got = toy
    other = px.explain(model, images, TOY, data=data, target=1 - kinds)
    assert (other.values * masks).sum() < 0.5 * (got.values * masks).sum()


def test_masker_is_kept_until_something_changes(toy):
    """A second call runs the model for its predictions and the facts alone: 1 + 6 passes a row."""
    _, images, _, _, data, _ = toy
    model, seen = Score(bars).eval(), []
    model.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    short = replace(TOY, steps=3)

    def cost(method=short, **changes):
        seen.clear()
        px.explain(model, images[:4], method, **{"data": data, **changes})
        return sum(seen)

    training = cost() - 28
    assert training >= 200 + 3 * 2 * 16
    assert cost() <= 28 + 2
    assert cost(seed=1) > 200
    assert cost() > 200  # only the last masker is kept
    assert cost(replace(short, area=2.0)) > 200
    assert cost(replace(short, area=2.0), data=data[:100]) > 100


def test_inputs_that_are_no_images_go_along():
    def model(x, keep):
        total = (x * keep[:, None, :, None]).sum((1, 2, 3))
        return torch.stack([total, -total], 1)

    class Two(nn.Module):
        def forward(self, x, keep):
            return model(x, keep)

    keep = torch.ones(3, 9, dtype=torch.long)
    data = (DATA, torch.ones(12, 9, dtype=torch.long))
    got = px.explain(Two().eval(), (IMAGES, keep), RealTimeSaliency(**SHORT), data=data)
    assert got.values[0].shape == (3, 1, 9, 7)
    assert got.values[1] is None


def test_probabilities_are_taken_as_they_are():
    model = network()
    soft = Score(lambda x: model(x).softmax(1)).eval()
    short = RealTimeSaliency(**SHORT)
    logits = px.explain(model, IMAGES, short, data=DATA)
    shares = px.explain(soft, IMAGES, replace(short, output="score"), data=DATA)
    torch.testing.assert_close(logits.values, shares.values, rtol=0, atol=1e-9)
    torch.testing.assert_close(logits.facts["kept_score"], shares.facts["kept_score"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "'width'"),
        ({"depth": 1.5}, "'depth'"),
        ({"steps": 0}, "'steps'"),
        ({"minibatch": True}, "'minibatch'"),
        ({"rate": 0.0}, "'rate'"),
        ({"exponent": 0}, "'exponent'"),
        ({"smoothness": -1.0}, "'smoothness'"),
        ({"area": float("inf")}, "'area'"),
        ({"destroy": "much"}, "'destroy'"),
        ({"decoys": 1.0}, "'decoys'"),
        ({"colours": 1.5}, "'colours'"),
        ({"output": "logits"}, "'output'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, words):
    def runs(x):
        raise AssertionError("the model ran")

    with pytest.raises(MethodError, match=words):
        px.explain(Score(runs).eval(), IMAGES, RealTimeSaliency(**settings), data=DATA)


def test_what_can_not_be_learnt_is_refused():
    method = RealTimeSaliency(**SHORT)
    with pytest.raises(NeedError, match="data="):
        px.explain(network(), IMAGES, method)
    with pytest.raises(InputError, match="rows like"):
        px.explain(network(), IMAGES, method, data=rows(4, 2, 5, 5))
    with pytest.raises(TargetError, match="class"):
        px.explain(network(), IMAGES, method, data=DATA, target=lambda y: y[:, 0])
    with pytest.raises(LayerError, match="'layer'"):
        px.explain(network(), IMAGES, method, data=DATA, layer="0")
    with pytest.raises(NeedError, match="two classes"):
        px.explain(Score(lambda x: x.sum((1, 2, 3))[:, None]).eval(), IMAGES, method, data=DATA)
    with pytest.raises(InputError, match="one image"):
        px.explain(Score(lambda a, b: a).eval(), (IMAGES, IMAGES), method, data=(DATA, DATA))
