"""Localisation against counting by hand, place by place."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import PointingGame


def measured(x, masks, target=0, **settings):
    return px.explain(NET, x, PointingGame(of=Told(), **settings), target=target, data={"masks": masks})


def by_hand(v, mask, top):
    """Flat lists without ties."""
    n = len(v)
    order = sorted(range(n), key=lambda i: -v[i])
    size = sum(mask)
    positive = sum(a for a in v if a > 0)
    both = sum(mask[i] for i in order[:top])
    pairs = [(i, j) for i in range(n) for j in range(n) if mask[i] and not mask[j]]
    return {
        "pointing": float(mask[order[0]]),
        "mass": sum(a for a, m in zip(v, mask, strict=True) if m and a > 0) / positive,
        "rank": sum(mask[i] for i in order[:size]) / size,
        "overlap": both / (top + size - both),
        "roc": sum(v[i] > v[j] for i, j in pairs) / len(pairs),
        "precision": sum(sum(mask[j] for j in order[: k + 1]) / (k + 1) for k, i in enumerate(order) if mask[i]) / size,
    }


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 5, 7), (3, 2, 3)])
def test_every_figure_is_that_of_the_definition(rows, shape):
    x = drawn(rows, *shape, seed=2)
    places = shape if len(shape) == 1 else shape[1:]
    masks = drawn(rows, *places, seed=3) > 0.2
    masks.flatten(1)[:, 0], masks.flatten(1)[:, 1] = True, False
    for name in ("pointing", "mass", "rank", "overlap", "roc", "precision"):
        found = measured(x, masks, figure=name, top=2)
        for row in range(rows):
            v = x[row] if len(shape) == 1 else x[row].sum(0)
            want = by_hand(v.flatten().tolist(), masks[row].flatten().long().tolist(), 2)
            assert found.values[row].item() == pytest.approx(want[name], abs=1e-12)
            assert found.facts[name][row].item() == found.values[row].item()
            assert found.facts["area"][row].item() == pytest.approx(masks[row].double().mean().item())


def test_a_mask_of_all_gives_one_and_of_none_nothing():
    x = drawn(3, 2, 5, 7, seed=4)
    every = measured(x, torch.ones(3, 5, 7, dtype=torch.bool)).facts
    none = measured(x, torch.zeros(3, 5, 7, dtype=torch.bool)).facts
    for name in ("pointing", "mass", "rank", "overlap"):
        assert every[name].tolist() == [1.0] * 3
        assert none[name].tolist() == [0.0] * 3
    assert bool(every["roc"].isnan().all() and none["roc"].isnan().all())
    assert every["precision"].tolist() == [1.0] * 3
    assert bool(none["precision"].isnan().all() and none["precision_chance"].isnan().all())


def test_average_precision_with_ties_is_that_of_scikit_learn_and_its_chance_that_of_all_orders():
    from itertools import permutations

    from sklearn.metrics import average_precision_score

    v = torch.tensor([[3.0, 1.0, 1.0, 0.0, 1.0, -2.0]], dtype=torch.float64)
    masks = torch.tensor([[False, True, False, False, True, True]])
    found = measured(v, masks, figure="precision")
    assert found.values.item() == pytest.approx(average_precision_score(masks[0].numpy(), v[0].numpy()), abs=1e-12)
    orders = torch.tensor(list(permutations(range(6))), dtype=torch.float64)
    blind = measured(orders, masks.expand(len(orders), -1), figure="precision")
    assert blind.values.mean().item() == pytest.approx(found.facts["precision_chance"].item(), abs=1e-12)


def test_ties_are_taken_evenly():
    x = torch.tensor([[2.0, 2.0, 1.0, 1.0, 1.0, 0.0]], **DOUBLE)
    found = measured(x, torch.tensor([[True, False, True, True, False, False]]), top=4).facts
    assert found["ties"].item() == 2
    assert found["pointing"].item() == 0.5
    assert found["rank"].item() == pytest.approx((1 + 1 * 2 / 3) / 3)  # two at 2 and one of three at 1
    both = 1 + 2 * 2 / 3
    assert found["overlap"].item() == pytest.approx(both / (4 + 3 - both))
    wins = (2.5 + 1.5 + 1.5) / 9  # 2 against 2, 1, 0: a half and two wins; 1 twice: a half and one win
    assert found["roc"].item() == pytest.approx(wins)


def test_the_tolerance_is_a_distance_between_centres():
    x = torch.zeros(1, 1, 5, 7, **DOUBLE)
    x[0, 0, 1, 1] = 1.0
    masks = torch.zeros(1, 5, 7, dtype=torch.bool)
    masks[0, 3, 3] = True  # two rows and two columns away: 2.83
    told = {t: measured(x, masks, tolerance=t).values.item() for t in (0, 2, 2.8, 2.9)}
    assert told == {0: 0.0, 2: 0.0, 2.8: 0.0, 2.9: 1.0}
    around = sum((r - 3) ** 2 + (c - 3) ** 2 <= 2.9**2 for r in range(5) for c in range(7))
    assert measured(x, masks, tolerance=2.9).facts["chance"].item() == pytest.approx(around / 35)


def test_channels_are_pooled_as_asked():
    x = torch.tensor([[[[3.0, 1.0]], [[-4.0, 1.0]]]], **DOUBLE)  # two channels, two places
    masks = torch.tensor([[[True, False]]])
    share = {p: measured(x, masks, pooling=p).facts["mass"].item() for p in ("sum", "absolute", "norm", "largest")}
    assert share == {"sum": 0.0, "absolute": 1 / 3, "norm": pytest.approx(5 / (5 + 2**0.5)), "largest": 4 / 5}


def test_a_sequences_steps_are_its_places():
    x = drawn(2, 4, 3, seed=8)
    masks = torch.tensor([[True, False, False, True]])
    found = measured(x, masks).facts["mass"]
    step = x.sum(2).clamp(min=0)
    assert torch.allclose(found, (step[:, 0] + step[:, 3]) / step.sum(1))


def test_rows_without_a_figure_are_listed_and_left_out():
    x = torch.stack([-torch.ones(4, **DOUBLE), torch.tensor([1.0, 2, 3, 4], **DOUBLE), torch.ones(4, **DOUBLE)])
    found = measured(x, torch.tensor([[True, True, False, False]]), figure="mass", target=torch.tensor([0, 0, 1]))
    assert bool(found.values[0].isnan())
    overall, by_class = found.source["overall"], found.source["by_class"]
    assert (overall["excluded"], overall["rows"]) == ([0], 2)
    assert overall["mean"] == pytest.approx((0.3 + 0.5) / 2)
    half = 12.7062047 * 0.1  # Student's t at one degree of freedom; the standard error of 0.3 and 0.5
    assert overall["high"] - overall["mean"] == pytest.approx(half)
    assert {c: o["mean"] for c, o in by_class.items()} == {"0": pytest.approx(0.3), "1": pytest.approx(0.5)}


def test_on_the_shapes_a_map_of_the_object_finds_it_and_its_opposite_does_not():
    world = px.worlds.shapes(4, seed=3)
    masks = world.truth["masks"]["main object"]
    image = masks[:, None].expand(-1, 3, -1, -1).double()
    good, bad = measured(image, masks), measured(1 - image, masks)
    for name in ("pointing", "mass", "rank", "overlap", "roc"):
        assert good.facts[name].tolist() == [1.0] * 4
        assert bad.facts[name].max() == 0.0


def test_a_coarse_map_is_enlarged():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = drawn(2, 1, 9, 11)
    net(x)
    masks = torch.zeros(1, 9, 11, dtype=torch.bool)
    masks[0, :4] = True
    found = px.explain(net, x, PointingGame(of="gradient-x-input", pooling="norm"), layer="1", data={"masks": masks})
    coarse = px.explain(net, x, "gradient-x-input", layer="1").values.norm(dim=1, keepdim=True)
    fine = nn.functional.interpolate(coarse, (9, 11), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(found.facts["mass"], fine[:, :4].sum((1, 2)) / fine.sum((1, 2)))


@pytest.mark.parametrize("settings", [{"figure": "all"}, {"tolerance": -1}, {"top": 0}, {"pooling": "mean"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        measured(drawn(1, 6), torch.ones(1, 6, dtype=torch.bool), **settings)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (None, NeedError),
        (torch.ones(2, 6), NeedError),
        ({"masks": torch.ones(2, 5)}, InputError),
        ({"masks": torch.ones(3, 6)}, InputError),
        ({"masks": torch.full((2, 6), 0.5)}, InputError),
        ({"masks": torch.ones(2, 6), "boxes": 1}, InputError),
    ],
)
def test_bad_masks_are_refused_before_the_model_runs(data, error):
    calls = []
    with pytest.raises(error, match="mask"):
        px.explain(lambda x: calls.append(x) or x, drawn(2, 6), PointingGame(of="feature-ablation"), data=data)
    assert not calls


def test_a_form_that_has_no_map_is_refused():
    with pytest.raises(MethodError, match="attribution"):
        px.explain(NET, drawn(1, 6), PointingGame(of="cart-c45-surrogate"), data={"masks": torch.ones(1, 6)})
