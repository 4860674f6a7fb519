"""Occlusion and feature ablation against loops, closed forms and a planted object."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import FeatureAblation, Occlusion
from pellucid.contract.errors import InputError, LayerError, PellucidError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


def network(channels=2, height=7, width=5, classes=4):
    head = nn.Linear(3 * (height - 2) * (width - 2), classes)
    return filled(nn.Sequential(nn.Conv2d(channels, 3, 3), nn.ReLU(), nn.Flatten(), head))


IMAGES = rows(4, 2, 7, 5)


def starts(length, window, stride):
    """Where windows start: 0, then by the stride until one reaches the end."""
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    return found


def loop(model, image, target, window, stride, base):
    """The definition: one image (C, H, W), one window after the other, one pixel after the other."""
    channels, height, width = image.shape
    total, number, drops = torch.zeros_like(image), torch.zeros_like(image), []
    with torch.no_grad():
        score = model(image[None])[0, target]
        for y in starts(height, window[0], stride[0]):
            for x in starts(width, window[1], stride[1]):
                hidden = image.clone()
                place = (slice(None), slice(y, min(y + window[0], height)), slice(x, min(x + window[1], width)))
                hidden[place] = base[place]
                drop = score - model(hidden[None])[0, target]
                drops.append(drop.item())
                for c, j, i in itertools.product(range(channels), range(height), range(width)):
                    if y <= j < y + window[0] and x <= i < x + window[1]:
                        total[c, j, i] += drop
                        number[c, j, i] += 1
    return total / number, drops


@pytest.mark.parametrize(("window", "stride"), [((3, 2), (2, 2)), ((3, 3), (1, 2)), ((7, 2), (1, 1)), ((2, 2), (2, 2))])
def test_loop_over_windows_and_pixels(window, stride):
    model = network()
    got = px.explain(model, IMAGES, Occlusion(window=window, stride=stride, baseline=0.3), target=1)
    for n in range(4):
        heat, drops = loop(model, IMAGES[n], 1, window, stride, torch.full_like(IMAGES[n], 0.3))
        torch.testing.assert_close(got.values[n], heat, rtol=0, atol=1e-12)
        assert abs(got.facts["largest_drop"][n].item() - max(drops)) < 1e-12


def test_batch_equals_single_rows_in_any_chunk():
    model = network()
    method = Occlusion(window=3, stride=2, baseline="mean")
    whole = px.explain(model, IMAGES, method)
    small = px.explain(model, IMAGES, method, memory=40_000)
    for n in range(4):
        one = px.explain(model, IMAGES[n : n + 1], method)
        torch.testing.assert_close(whole.values[n : n + 1], one.values, rtol=0, atol=1e-12)
        for name, fact in one.facts.items():
            torch.testing.assert_close(whole.facts[name][n : n + 1], fact, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.values, small.values, rtol=0, atol=1e-12)


def test_linear_model_drops_by_weight_times_change_over_the_window():
    model = filled(nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 4, 3)))
    images, grey = rows(3, 2, 6, 4), 0.5
    got = px.explain(model, images, Occlusion(window=2, stride=2, baseline=grey), target=2).values
    part = (model[1].weight.detach()[2].reshape(2, 6, 4) * (images - grey)).sum(1)
    for y, x in itertools.product(range(0, 6, 2), range(0, 4, 2)):
        expected = part[:, y : y + 2, x : x + 2].sum((1, 2))
        for c, j, i in itertools.product(range(2), range(2), range(2)):
            torch.testing.assert_close(got[:, c, y + j, x + i], expected, rtol=0, atol=1e-12)


def test_additive_model_drops_by_what_is_masked():
    def model(x):
        return torch.stack([(x**2).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)

    got = px.explain(model, IMAGES, Occlusion(window=1), target=0).values
    torch.testing.assert_close(got, (IMAGES**2).sum(1, keepdim=True).expand_as(IMAGES), rtol=0, atol=1e-12)
    one_channel = px.explain(model, IMAGES, Occlusion(window=(1, 1, 1)), target=0).values
    torch.testing.assert_close(one_channel, IMAGES**2, rtol=0, atol=1e-12)


def test_planted_object_drops_most():
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]], **DOUBLE)

    def detector(x):
        found = functional.conv2d(x, cross[None, None]).flatten(1).amax(1) - 4
        return torch.stack([-found, found], 1)

    image = torch.zeros(1, 1, 12, 9, **DOUBLE)
    image[0, 0, 6:9, 3:6] = cross
    got = px.explain(detector, image, Occlusion(window=3, stride=3))
    heat = got.values[0, 0]
    assert (heat[6:9, 3:6] == heat.max()).all()
    assert heat.max() > 0
    assert heat.sum() == heat[6:9, 3:6].sum()
    assert got.target.tolist() == [1]
    assert got.facts["largest_drop"].tolist() == [5.0]
    assert got.facts["flipped"].item() == pytest.approx(1 / 12)
    assert got.facts["taken_over_by"].tolist() == [0.0]


def test_class_that_takes_over_is_that_of_the_strongest_window():
    weight = torch.tensor([[3.0, 2.0, 0.0], [0.0, 2.5, 0.0], [0.0, 0.0, 2.9]], **DOUBLE)
    model = nn.Linear(3, 3, bias=False).double().eval()
    model.weight.data = weight
    # Hiding column 0 leaves (2, 2.5, 2.9): class 2 takes over. Hiding column 1 leaves (3, 0, 2.9), column 2 (5, 2.5, 0).
    got = px.explain(model, torch.ones(1, 3, **DOUBLE), Occlusion(window=1))
    assert got.values.tolist() == [[3.0, 2.0, 0.0]]
    assert got.facts["flipped"].item() == pytest.approx(1 / 3)
    assert got.facts["taken_over_by"].item() == 2


def test_sequences_and_tables_slide_along_their_last_axis():
    model = filled(nn.Sequential(nn.Conv1d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)))
    series = rows(2, 3, 6)
    got = px.explain(model, series, Occlusion(window=4, stride=1), target=0).values
    for n in range(2):
        wide, _ = loop(
            lambda x: model(x[:, :, 0]), series[n][:, None], 0, (1, 4), (1, 1), torch.zeros(3, 1, 6, **DOUBLE)
        )
        torch.testing.assert_close(got[n], wide[:, 0], rtol=0, atol=1e-12)
    table = rows(3, 5)
    linear = filled(nn.Linear(5, 2))
    got = px.explain(linear, table, Occlusion(window=1), target=1).values
    torch.testing.assert_close(got, table * linear.weight.detach()[1], rtol=0, atol=1e-12)


def test_none_in_a_tuple_is_a_whole_axis():
    model = filled(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)))
    steps = rows(2, 4, 3)
    got = px.explain(model, steps, Occlusion(window=(1, None))).values
    expected = (steps * model[1].weight.detach().reshape(4, 3)).sum(2, keepdim=True).expand_as(steps)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_several_inputs_are_hidden_one_at_a_time():
    def model(a, b):
        return (a.sum((1, 2, 3)) + 2 * b.sum(1))[:, None]

    a, b = rows(2, 1, 2, 3), rows(2, 4, seed=2)
    got = px.explain(model, (a, b), Occlusion(window=((1, 1), (2,)), stride=((1, 1), (2,)))).values
    torch.testing.assert_close(got[0], a, rtol=0, atol=1e-12)
    torch.testing.assert_close(got[1], 2 * b.reshape(2, 2, 2).sum(2).repeat_interleave(2, 1), rtol=0, atol=1e-12)


def test_layer_is_hidden_at_its_own_values():
    model = network()
    got = px.explain(model, IMAGES, Occlusion(window=(3, 2), stride=2, baseline=0.1), target=2, layer="1").values
    with torch.no_grad():
        maps = model[:2](IMAGES)
    assert got.shape == maps.shape
    for n in range(4):
        heat, _ = loop(model[2:], maps[n], 2, (3, 2), (2, 2), torch.full_like(maps[n], 0.1))
        torch.testing.assert_close(got[n], heat, rtol=0, atol=1e-12)


def test_hidden_unit_as_target():
    model = network()
    got = px.explain(model, IMAGES, Occlusion(window=3, stride=2), target=px.unit("0", (1, 2, 2)))
    for n in range(4):
        heat, _ = loop(lambda x: model[0](x)[:, :, 2, 2], IMAGES[n], 1, (3, 3), (2, 2), torch.zeros_like(IMAGES[n]))
        torch.testing.assert_close(got.values[n], heat, rtol=0, atol=1e-12)
    assert "flipped" not in got.facts


def test_any_callable_will_do():
    weights = np.linspace(-1, 1, 70).reshape(2, 7, 5)

    def model(x):
        total = (np.asarray(x) * weights).sum((1, 2, 3))
        return np.stack([total, -total], 1)

    got = px.explain(model, IMAGES, Occlusion(window=1), target=0).values
    expected = (IMAGES * torch.from_numpy(weights)).sum(1, keepdim=True).expand_as(IMAGES)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_several_fills_are_averaged_and_their_spread_is_told():
    model = network()
    method = Occlusion(window=3, stride=2, baseline=(0.0, "mean", 1.0))
    got = px.explain(model, IMAGES, method, target=0)
    each = [px.explain(model, IMAGES, Occlusion(window=3, stride=2, baseline=b), target=0) for b in method.baseline]
    torch.testing.assert_close(got.values, sum(e.values for e in each) / 3, rtol=0, atol=1e-12)
    strongest = torch.stack([e.facts["largest_drop"] for e in each]).amax(0)
    torch.testing.assert_close(got.facts["largest_drop"], strongest, rtol=0, atol=1e-12)
    linear = filled(nn.Linear(2, 1, bias=False))
    linear.weight.data[:] = torch.tensor([[1.0, 2.0]])
    got = px.explain(linear, torch.ones(1, 2, **DOUBLE), Occlusion(window=1, baseline=(0.0, 3.0)))
    # Drops (1, 2) and (-2, -4): deviations 1.5 and 3, sizes 9 in 4 drops.
    assert got.values.tolist() == [[-0.5, -1.0]]
    assert got.facts["fill_sensitivity"].item() == pytest.approx(2.25 / 2.25)


def test_fill_given_as_data():
    model, fill = network(), rows(4, 2, 7, 5, seed=9)
    got = px.explain(model, IMAGES, Occlusion(window=3, stride=2), target=1, data=fill).values
    for n in range(4):
        heat, _ = loop(model, IMAGES[n], 1, (3, 3), (2, 2), fill[n])
        torch.testing.assert_close(got[n], heat, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 6}, "must fit the input"),
        ({"window": (3, 3), "stride": (4, 2)}, "between two windows"),
        ({"window": (1, 1, 3, 3)}, "at most 3 entries"),
        ({"window": 3, "stride": (1, 1, 1, 1)}, "at most 3 entries"),
        ({"window": 0}, "at least 1"),
        ({"window": 2.0}, "at least 1"),
        ({"window": 3, "stride": True}, "at least 1"),
        ({"window": ((3, 3), (2,))}, "one per input"),
        ({"window": 3, "baseline": "grey"}, "baseline"),
        ({"window": 3, "baseline": ()}, "at least one fill"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, words):
    def model(x):
        raise AssertionError("the model ran")

    with pytest.raises(InputError, match=words):
        px.explain(model, IMAGES, Occlusion(**settings))


def test_token_ids_need_a_layer():
    model = filled(nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2)))
    ids = torch.tensor([[1, 2, 3, 4], [8, 0, 0, 1]])
    for method in (Occlusion(), FeatureAblation()):
        with pytest.raises(InputError, match="layer="):
            px.explain(model, ids, method)
    got = px.explain(model, ids, FeatureAblation(features="token"), layer="0", target=1).values
    part = model[0](ids).detach() * model[2].weight.detach()[1].reshape(4, 3)
    torch.testing.assert_close(got, part.sum(2, keepdim=True).expand(2, 4, 3), rtol=0, atol=1e-12)
    same = px.explain(model, ids, Occlusion(window=(1, None)), layer="0", target=1).values
    torch.testing.assert_close(got, same, rtol=0, atol=1e-12)
    with pytest.raises(PellucidError):
        px.explain(model, ids, Occlusion(), layer="0:in")


def test_layer_must_have_the_rows_first():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x):
            return self.turn(x.mT).mT

    with pytest.raises(LayerError, match="one entry per row"):
        px.explain(Turned().eval(), rows(3, 5), Occlusion(), layer="turn")


def test_documented_failure_parts_that_stand_in_for_each_other():
    def model(x):
        return x.amax(1, keepdim=True)

    got = px.explain(model, torch.tensor([[1.0, 1.0, 0.0]]), FeatureAblation()).values
    assert got.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("features", ["element", "channel", "pixel", ("grid", 2), ("patch", 3)])
def test_ablation_loop_over_features(features):
    model = network()
    got = px.explain(model, IMAGES, FeatureAblation(features=features, baseline=0.2), target=3).values
    cells = {
        "element": lambda c, y, x: (c, y, x),
        "channel": lambda c, y, x: c,
        "pixel": lambda c, y, x: (y, x),
        ("grid", 2): lambda c, y, x: (y * 2 // 7, x * 2 // 5),
        ("patch", 3): lambda c, y, x: (y // 3, x // 3),
    }[features]
    members = {}
    for index in itertools.product(range(2), range(7), range(5)):
        members.setdefault(cells(*index), []).append(index)
    for indices in members.values():
        hidden = IMAGES.clone()
        for index in indices:
            hidden[(slice(None), *index)] = 0.2
        drop = (model(IMAGES) - model(hidden))[:, 3].detach()
        for index in indices:
            torch.testing.assert_close(got[(slice(None), *index)], drop, rtol=0, atol=1e-12)


def test_ablation_of_a_linear_model_is_weight_times_change():
    model, table, fill = filled(nn.Linear(5, 3)), rows(4, 5), rows(1, 5, seed=4)
    got = px.explain(model, table, "feature-ablation", target=[0, 1, 2, 0], data=fill)
    torch.testing.assert_close(got.values, model.weight.detach()[[0, 1, 2, 0]] * (table - fill), rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    turned = px.explain(model, table[order], "feature-ablation", target=[2, 0, 0, 1], data=fill)
    torch.testing.assert_close(turned.values, got.values[order], rtol=0, atol=1e-12)


def test_groups_of_columns_and_masks_share_one_drop():
    model, table = filled(nn.Linear(4, 2)), rows(3, 4)
    part = table * model.weight.detach()[0]
    pair = part[:, 0] + part[:, 2]
    expected = torch.stack([pair, part[:, 1], pair, torch.zeros(3, **DOUBLE)], 1)
    got = px.explain(model, table, FeatureAblation(features=((0, 2), (1,))), target=0)
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    mask = torch.tensor([7, 3, 7, -1])
    got = px.explain(model, table, FeatureAblation(), target=0, data={"groups": mask})
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="left out"):
        px.explain(model, table, FeatureAblation(features="column"), data={"groups": mask})


def test_masks_of_their_own_for_every_row_and_across_inputs():
    def model(a, b):
        return (a * torch.tensor([1.0, 10.0, 100.0], **DOUBLE)).sum(1, keepdim=True) + 1000 * b

    a, b = torch.ones(2, 3, **DOUBLE), torch.ones(2, 1, **DOUBLE)
    masks = (torch.tensor([[0, 0, 1], [0, 1, 1]]), torch.tensor([1]))
    got = px.explain(model, (a, b), FeatureAblation(), data={"groups": masks, "baseline": (a[:1] * 0, b[:1] * 0)})
    assert got.values[0].tolist() == [[11.0, 11.0, 1100.0], [1.0, 1110.0, 1110.0]]
    assert got.values[1].tolist() == [[1100.0], [1110.0]]


def test_dict_inputs_keep_their_structure():
    def model(x, mask):
        return (x * mask).sum(1, keepdim=True)

    x, mask = rows(3, 4), torch.tensor([[1, 1, 0, 1]]).expand(3, 4)
    for method in (FeatureAblation(), Occlusion(window=1)):
        got = px.explain(model, {"x": x, "mask": mask}, method).values
        assert list(got) == ["x"]
        torch.testing.assert_close(got["x"], x * mask, rtol=0, atol=1e-12)


def test_model_that_writes_to_its_input_in_place():
    class Writes(nn.Module):
        def forward(self, x):
            return x.mul_(2).sum(1, keepdim=True)

    table = rows(3, 4)
    before = table.clone()
    got = px.explain(Writes().eval(), table, "feature-ablation").values
    torch.testing.assert_close(got, 2 * before, rtol=0, atol=1e-12)
    assert torch.equal(table, before)


@pytest.mark.parametrize("method", [Occlusion(window=2, stride=1), FeatureAblation(features=("grid", 2))])
def test_precision_and_structure(method):
    model = network()
    double = px.explain(model, IMAGES, method, target=0)
    single = px.explain(model.float(), IMAGES.float(), method, target=0)
    assert double.values.dtype == torch.float64
    assert single.values.dtype == torch.float32
    assert (single.values - double.values).abs().max() < 1e-5
    assert px.contract.as_method(method.config()) == method
