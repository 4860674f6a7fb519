"""Meaningful perturbation against closed forms, exhaustive search, loops over the definition and planted objects."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import MeaningfulPerturbation
from pellucid.attribution.mask_grid import enlarge, moved
from pellucid.contract.errors import InputError, MethodError, NeedError

DOUBLE = {"dtype": torch.float64}
PLAIN = {"baseline": "zero", "smoothness": 0.0, "jitter": 0.0}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


def network(channels=2, height=7, width=6, classes=3):
    head = nn.Linear(3 * (height - 2) * (width - 2), classes)
    return filled(nn.Sequential(nn.Conv2d(channels, 3, 3), nn.Tanh(), nn.Flatten(), head))


class Score(nn.Module):
    """Any function of the images as a module, with one number per row."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


IMAGES = rows(3, 2, 7, 6)


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_linear_score_has_a_closed_form(game):
    """Each pixel is worth its contribution and costs area / pixels, so it is in the region where it is worth more."""
    model = filled(nn.Sequential(nn.Flatten(), nn.Linear(2 * 42, 1)))
    worth = (IMAGES * model[1].weight.detach().reshape(2, 7, 6)).sum(1, keepdim=True)
    method = MeaningfulPerturbation(game=game, area=0.3 * 42, grid=(7, 6), output="score", steps=100, **PLAIN)
    got = px.explain(model, IMAGES, method)
    assert torch.equal(got.values, (worth > 0.3).double())
    assert got.facts["stationarity_gap"].tolist() == [0.0] * 3
    torch.testing.assert_close(got.facts["area"], (worth > 0.3).double().mean((1, 2, 3)), rtol=0, atol=1e-12)
    kept = worth * ((worth > 0.3) == (game == "preservation"))
    torch.testing.assert_close(
        got.facts["masked_score"], kept.sum((1, 2, 3)) + model[1].bias.item(), rtol=0, atol=1e-12
    )


def definition(model, image, region, fill, target, method):
    """The objective of one image and one mask at full size, cell by cell."""
    height, width = region.shape
    keep = region if method.game == "preservation" else 1 - region
    probability = model((keep * image + (1 - keep) * fill)[None])[0].softmax(0)[target]
    price = method.area * sum(region.flatten()) / (height * width)
    for y, x in itertools.product(range(height), range(width)):
        for j, i in ((y + 1, x), (y, x + 1)):
            if j < height and i < width:
                edge = abs(region[j, i] - region[y, x]) ** method.power
                price = price + method.smoothness * edge / math.sqrt(height * width)
    return price + (probability if method.game == "deletion" else -probability)


@pytest.mark.parametrize("game", ["deletion", "preservation"])
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_objective_and_gap_are_those_of_the_definition(game, power):
    model, fill = network(), rows(3, 2, 7, 6, seed=8)
    method = MeaningfulPerturbation(game=game, grid=(7, 6), jitter=0.0, power=power, steps=4, area=0.7, smoothness=0.9)
    got = px.explain(model, IMAGES, method, target=[0, 1, 2], data=fill)
    assert torch.equal(got.baseline, fill)
    for n in range(3):
        region = got.values[n, 0].clone().requires_grad_()
        objective = definition(model, IMAGES[n], region, fill[n], n, method)
        (slope,) = torch.autograd.grad(objective, region)
        # A linear function falls most at a corner: 1 where it falls, 0 where it rises.
        best = sum(
            min(float(g * (s - r)) for s in (0, 1))
            for g, r in zip(slope.flatten(), region.detach().flatten(), strict=True)
        )
        assert got.facts["objective"][n].item() == pytest.approx(objective.item(), abs=1e-12)
        assert got.facts["stationarity_gap"][n].item() == pytest.approx(-best, abs=1e-12)
        assert -best > 1e-3, "four steps are too few, so this is no comparison of zeros"


def test_scores_in_the_facts_are_the_models():
    model = network()
    got = px.explain(model, IMAGES, MeaningfulPerturbation(grid=3, jitter=0.0, steps=30, baseline=0.5), target=1)
    with torch.no_grad():
        for name, region in {
            "score": 0 * got.values,
            "fill_score": 0 * got.values + 1,
            "masked_score": got.values,
            "binary_score": (got.values >= 0.5).double(),
        }.items():
            expected = model((1 - region) * IMAGES + region * 0.5).softmax(1)[:, 1]
            torch.testing.assert_close(got.facts[name], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.facts["binary_area"], (got.values >= 0.5).double().mean((1, 2, 3)))


def test_enlarged_cells_are_gaussians():
    x = torch.zeros(1, 1, 9, 4)
    coarse = rows(3, 2, seed=5)
    fine = enlarge((3, 2), x).up(coarse)
    for v, u in itertools.product(range(9), range(4)):
        weights = {
            (j, i): math.exp(-(((v + 0.5) / 3 - 0.5 - j) ** 2 + ((u + 0.5) / 2 - 0.5 - i) ** 2) / (2 * (5 / 8) ** 2))
            for j, i in itertools.product(range(3), range(2))
        }
        expected = sum(w * coarse[at].item() for at, w in weights.items()) / sum(weights.values())
        assert fine[v, u].item() == pytest.approx(expected, abs=1e-12)
    flat = enlarge((3, 2), x).up(torch.ones(3, 2, **DOUBLE))
    torch.testing.assert_close(flat, torch.ones(9, 4, **DOUBLE))
    assert torch.equal(enlarge((9, 4), x).up(rows(9, 4)), rows(9, 4))


def test_moved_images_repeat_their_border():
    x = rows(3, 2, 4, 5)
    shift = torch.tensor([[1, -2], [0, 3], [-1, 0]])
    got = moved(x, shift)
    for n, c, v, u in itertools.product(range(3), range(2), range(4), range(5)):
        j = min(max(v - shift[n, 0].item(), 0), 3)
        i = min(max(u - shift[n, 1].item(), 0), 4)
        assert got[n, c, v, u] == x[n, c, j, i]


def either(x):
    """The score is 1 where the left or the right upper corner is lit, and falls off in between."""
    return torch.stack([torch.zeros(len(x), **DOUBLE), 20 * torch.maximum(x[:, 0, 0, 0], x[:, 0, 0, 2]) - 10], 1)


def both(x):
    """The same, with both corners needed."""
    return torch.stack([torch.zeros(len(x), **DOUBLE), 20 * torch.minimum(x[:, 0, 0, 0], x[:, 0, 0, 2]) - 10], 1)


def smallest(function, game):
    """The smallest sets of 9 pixels whose deletion takes the class, or that keep it alone, by trying all 512."""
    found = []
    for bits in itertools.product((0.0, 1.0), repeat=9):
        region = torch.tensor(bits, **DOUBLE).reshape(3, 3)
        keep = region if game == "preservation" else 1 - region
        says = function(keep.reshape(1, 1, 3, 3)).argmax().item()
        if says == (game == "preservation"):
            found.append(region)
    least = min(r.sum() for r in found)
    return [r for r in found if r.sum() == least]


@pytest.mark.parametrize("game", ["deletion", "preservation"])
@pytest.mark.parametrize("function", [either, both])
def test_smallest_subset_by_exhaustive_search(function, game):
    """Where one of two spots would do, deleting takes both and keeping takes one; where both are needed, the reverse."""
    image = torch.ones(1, 1, 3, 3, **DOUBLE)
    image[..., 2] = 0.9  # two that are quite equal pull on the mask alike, and stay together
    allowed = smallest(function, game)
    assert len(allowed) == (1 if (function is either) == (game == "deletion") else 2)
    got = px.explain(Score(function).eval(), image, MeaningfulPerturbation(game=game, grid=3, **PLAIN))
    assert got.target.tolist() == [1]
    assert any(torch.equal((got.values[0, 0] >= 0.5).double(), region) for region in allowed)
    if game == "deletion":
        assert got.facts["binary_score"].item() < 0.01 < 0.99 < got.facts["score"].item()
    else:
        assert got.facts["fill_score"].item() < 0.01 < 0.99 < got.facts["binary_score"].item()


CROSS = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]], **DOUBLE)


def detector(x):
    """Finds a cross of 3 × 3 cells of 2 × 2 pixels anywhere."""
    shape = CROSS.repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = functional.conv2d(x, shape[None, None]).flatten(1).amax(1) - 12
    return torch.stack([-found, found], 1)


def planted():
    """Two images with a cross each, at different places, on dim noise; and where they are."""
    images, masks = 0.1 * rows(2, 1, 16, 16, seed=4).abs(), torch.zeros(2, 1, 16, 16, **DOUBLE)
    for n, (y, x) in enumerate(((2, 8), (10, 0))):
        masks[n, 0, y : y + 6, x : x + 6] = CROSS.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return torch.maximum(images, masks), masks


def test_planted_object_is_what_is_kept():
    images, masks = planted()
    method = MeaningfulPerturbation(game="preservation", grid=16, baseline="zero", jitter=0.0, smoothness=0.01)
    got = px.explain(Score(detector).eval(), images, method, target=1)
    inside = got.values >= 0.5
    overlap = (inside & (masks > 0)).sum((1, 2, 3)) / (inside | (masks > 0)).sum((1, 2, 3))
    assert (overlap > 0.6).all(), overlap
    assert (got.facts["binary_score"] > 0.9).all()
    assert (got.facts["fill_score"] < 0.01).all()


def test_deleted_region_lies_on_the_planted_object():
    images, masks = planted()
    got = px.explain(Score(detector).eval(), images, MeaningfulPerturbation(baseline="zero"), target=1)
    on = (got.values * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3))
    off = (got.values * (1 - masks)).sum((1, 2, 3)) / (1 - masks).sum((1, 2, 3))
    assert (on > 3 * off).all()
    assert (got.facts["binary_score"] < 0.05).all()
    assert (got.facts["score"] > 0.95).all()
    assert (got.facts["binary_area"] < 0.35).all()


def test_area_falls_with_its_price_until_nothing_is_deleted():
    images, _ = planted()
    model, areas = Score(detector).eval(), []
    for price in (0.01, 0.3, 2.0, 1e4):
        method = MeaningfulPerturbation(area=price, baseline="zero", jitter=0.0, smoothness=0.0, grid=8)
        areas.append(px.explain(model, images, method, target=1).facts["area"])
    for more, less in itertools.pairwise(areas):
        assert (less <= more + 1e-9).all()
    assert areas[0].min() > 0
    assert areas[-1].tolist() == [0.0, 0.0]


def test_smooth_regions_cost_less_where_edges_have_a_price():
    images, _ = planted()

    def edges(price):
        method = MeaningfulPerturbation(smoothness=price, baseline="zero", jitter=0.0, grid=16)
        values = px.explain(Score(detector).eval(), images, method, target=1).values
        return values.diff(dim=2).abs().pow(3).sum() + values.diff(dim=3).abs().pow(3).sum()

    assert edges(3.0) < edges(0.3) < edges(0.0)


def test_tolerance_stops_each_row_by_itself():
    model = network()
    method = MeaningfulPerturbation(grid=4, jitter=0.0, smoothness=0.1, tolerance=0.01)
    got = px.explain(model, IMAGES, method)
    steps = got.facts["steps"]
    assert (steps < 300).all()
    assert len(set(steps.tolist())) > 1
    assert (got.facts["stationarity_gap"] <= 0.01).all()
    for n in range(3):
        alone = px.explain(model, IMAGES[n : n + 1], method)
        torch.testing.assert_close(alone.values, got.values[n : n + 1], rtol=0, atol=1e-9)
    strict = px.explain(model, IMAGES, MeaningfulPerturbation(grid=4, jitter=0.0, steps=3, tolerance=1e-9))
    ended = strict.facts["steps"] == 3
    assert torch.equal(strict.facts["stationarity_gap"] > 1e-9, ended), "what was not reached is told"
    assert ended.any()


def test_jitter_and_noise_belong_to_the_row_and_the_seed():
    model = network(height=30, width=30)
    images = rows(1, 2, 30, 30).expand(2, -1, -1, -1)
    for settings in ({"jitter": 0.1, "baseline": 0.0}, {"jitter": 0.0, "baseline": "noise"}):
        method = MeaningfulPerturbation(steps=5, **settings)
        assert "seeded" in method.claims
        first, other = (px.explain(model, images, method, seed=s, target=0) for s in (1, 2))
        assert torch.equal(first.values[0], first.values[1])
        assert not torch.equal(first.values, other.values)
    quiet = MeaningfulPerturbation(jitter=0.0)
    assert "deterministic" in quiet.claims
    assert "seeded" not in quiet.claims


def test_noise_has_the_mean_and_spread_of_each_channel():
    """A model that reports the mean square of a channel sees, on the fill alone, mean² + variance."""
    images = 3 + 2 * rows(1, 1, 40, 40)
    model = Score(lambda x: (x**2).mean((1, 2, 3))[:, None]).eval()
    got = px.explain(model, images, MeaningfulPerturbation(baseline="noise", jitter=0.0, output="score", steps=1))
    expected = images.mean() ** 2 + images.var(correction=0)
    assert got.facts["fill_score"].item() == pytest.approx(expected.item(), rel=0.03)
    assert got.baseline is None


def test_layer_and_function_as_target():
    model = network()
    deep = px.explain(model, IMAGES, MeaningfulPerturbation(grid=2, steps=20, **PLAIN), target=1, layer="1")
    with torch.no_grad():
        maps = model[:2](IMAGES)
        expected = model[2:]((1 - deep.values) * maps).softmax(1)[:, 1]
    assert deep.values.shape == (3, 1, 5, 4)
    torch.testing.assert_close(deep.facts["masked_score"], expected, rtol=0, atol=1e-12)
    gap = px.explain(
        model, IMAGES, MeaningfulPerturbation(steps=2, grid=2, **PLAIN), target=lambda y: y[:, 0] - y[:, 1]
    )
    with torch.no_grad():
        torch.testing.assert_close(gap.facts["score"], model(IMAGES)[:, 0] - model(IMAGES)[:, 1])
    plain = px.explain(model, IMAGES, MeaningfulPerturbation(steps=2, grid=2, output="score", **PLAIN), target=2)
    with torch.no_grad():
        torch.testing.assert_close(plain.facts["score"], model(IMAGES)[:, 2])


def test_small_memory_changes_nothing():
    model = network()
    method = MeaningfulPerturbation(grid=3, steps=5, jitter=0.2, baseline="noise")
    whole = px.explain(model, IMAGES, method)
    pieces = px.explain(model, IMAGES, method, memory=20_000)
    torch.testing.assert_close(whole.values, pieces.values, rtol=0, atol=1e-10)
    torch.testing.assert_close(whole.facts["objective"], pieces.facts["objective"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"game": "hide"}, MethodError, "'game'"),
        ({"output": "logit"}, MethodError, "'output'"),
        ({"baseline": "grey"}, MethodError, "'baseline'"),
        ({"area": -1.0}, MethodError, "'area'"),
        ({"area": float("nan")}, MethodError, "'area'"),
        ({"smoothness": "much"}, MethodError, "'smoothness'"),
        ({"power": 0.5}, MethodError, "'power'"),
        ({"jitter": 0.6}, MethodError, "'jitter'"),
        ({"tolerance": -0.1}, MethodError, "'tolerance'"),
        ({"rate": 0.0}, MethodError, "'rate'"),
        ({"steps": 0}, MethodError, "'steps'"),
        ({"steps": 2.5}, MethodError, "'steps'"),
        ({"grid": 0}, MethodError, "'grid'"),
        ({"grid": (2, 2, 2)}, MethodError, "'grid'"),
        ({"grid": 7}, InputError, "'grid'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, error, words):
    def runs(x):
        raise AssertionError("the model ran")

    with pytest.raises(error, match=words):
        px.explain(Score(runs).eval(), IMAGES, MeaningfulPerturbation(**settings))


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="images"):
        px.explain(filled(nn.Linear(4, 2)), rows(2, 4), MeaningfulPerturbation())
    with pytest.raises(InputError, match="one tensor"):
        px.explain(Score(lambda a, b: a).eval(), (IMAGES, IMAGES), MeaningfulPerturbation())
    with pytest.raises(NeedError):
        px.explain(lambda x: x.sum((2, 3)), IMAGES, MeaningfulPerturbation())
    with pytest.raises(InputError, match="one tensor"):
        px.explain(network(), IMAGES, MeaningfulPerturbation(), layer="2")
