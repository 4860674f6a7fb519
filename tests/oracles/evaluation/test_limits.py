"""The trust score against distances counted one by one, planted clusters, and answers of a trained network."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid import zoo
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.evaluation import TrustScore

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def plain(columns, classes, seed=1):
    net = nn.Linear(columns, classes, **DOUBLE).eval()
    for number, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=seed + number)
    return net


def kept_by_definition(rows, k, alpha):
    """Keep a row unless its radius (to the k-th nearest, itself first) is among the floor(alpha n) largest."""
    radius = [sorted(math.dist(a, b) for b in rows)[k - 1] for a in rows]
    cut = sorted(radius)[len(rows) - int(alpha * len(rows)) - 1]
    return [row for row, r in zip(rows, radius, strict=True) if r <= cut]


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(("k", "alpha"), [(1, 0.0), (3, 0.25)])
@pytest.mark.parametrize("shape", [(3,), (1, 2, 3)])
def test_score_is_the_ratio_of_distances_counted_one_by_one(rows, k, alpha, shape):
    X, y, x = drawn(24, *shape, seed=5), torch.arange(24) % 3, drawn(rows, *shape, seed=6)
    linear = plain(x[0].numel(), 3)
    found = px.explain(lambda v: linear(v.flatten(1)), x, TrustScore(neighbours=k, alpha=alpha), data=(X, y))
    said = linear(x.flatten(1)).argmax(1).tolist()
    flat = X.flatten(1).tolist()
    classes = {
        c: kept_by_definition([r for r, label in zip(flat, y, strict=True) if label == c], k, alpha) for c in range(3)
    }
    assert {len(v) for v in classes.values()} == {8 - int(8 * alpha)}
    for row, point in enumerate(x.flatten(1).tolist()):
        away = {c: min(math.dist(point, r) for r in known) for c, known in classes.items()}
        mine = away.pop(said[row])
        other = min(away, key=away.get)
        assert found.values[row].item() == pytest.approx(away[other] / mine, rel=1e-12)
        assert found.facts["other_class"][row] == other
        assert found.facts["nearest"][row].item() == pytest.approx(min(math.dist(point, r) for r in flat), rel=1e-12)
    assert found.better == "higher"


def test_filter_drops_exactly_the_rows_with_the_largest_radius():
    """0, 1, 2, 3 and an outlier at 50 of class 0: next to the outlier the data back class 0 only if it is counted."""
    X = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0], [40.0], [41.0], [42.0], [43.0], [44.0]], **DOUBLE)
    y, x = torch.tensor([0] * 5 + [1] * 5), torch.tensor([[49.0]], **DOUBLE)
    naive = px.explain(plain(1, 2), x, TrustScore(neighbours=2), target=0, data=(X, y))
    assert naive.values.item() == pytest.approx(5.0)  # 5 to the row at 44, 1 to the outlier
    clean = px.explain(plain(1, 2), x, TrustScore(neighbours=2, alpha=0.2), target=0, data=(X, y))
    assert clean.values.item() == pytest.approx(5 / 46)  # 46 to the row at 3; of 40 … 44 all radii are 1 and all stay


def test_score_falls_to_one_between_two_clusters():
    X = torch.cat([drawn(40, 2, seed=2) * 0.1 - 2, drawn(40, 2, seed=2) * 0.1 + 2])
    x = torch.linspace(-2, 2, 9, **DOUBLE)[:, None].expand(-1, 2)
    found = px.explain(plain(2, 2), x, "trust-score", target=0, data=(X, torch.arange(80) // 40)).values
    assert bool((found.diff() < 0).all())
    assert found[4].item() == pytest.approx(1.0, abs=0.15)
    assert found[0] > 5
    assert found[-1] < 0.2


def test_rows_of_the_data_borders_and_unknown_classes():
    X, y = torch.tensor([[0.0], [1.0], [1.0], [5.0]], **DOUBLE), torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[0.0], [1.0], [3.0]], **DOUBLE)
    assert px.explain(plain(1, 3), x, "trust-score", target=0, data=(X, y)).values.tolist() == [math.inf, 1.0, 1.0]
    assert px.explain(plain(1, 3), x, "trust-score", target=2, data=(X, y)).values.tolist() == [0.0] * 3


def test_novelty_and_rank_are_counted_among_held_out_rows():
    train = (torch.tensor([[0.0], [10.0]], **DOUBLE), torch.tensor([0, 1]))
    held = (torch.tensor([[1.0], [-2.0], [13.0], [6.0]], **DOUBLE), torch.tensor([0, 0, 1, 0]))
    net = nn.Linear(1, 2, **DOUBLE).eval()
    net.weight.data, net.bias.data = torch.tensor([[-1.0], [1.0]], **DOUBLE), torch.tensor([5.0, -5.0], **DOUBLE)
    x = torch.tensor([[2.5], [-40.0]], **DOUBLE)
    found = px.explain(net, x, "trust-score", data={"train": train, "held_out": held})
    assert found.facts["novelty"].tolist() == [0.5, 1.0]  # held-out rows lie 1, 2, 3 and 4 from the data
    assert found.values.tolist() == [3.0, 1.25]  # held-out ones have 9, 6, 13 / 3 and 6 / 4
    assert found.facts["trusted_more_than"].tolist() == [0.25, 0.0]
    told = found.source["held_out"]
    assert (told["rows"], told["right"], told["in_train"]) == (4, 3, 0)  # 6 is said to be class 1 and is not
    assert told["auroc"] == 1.0
    assert found.parts["risk"].tolist() == pytest.approx([0, 0, 0, 1 / 4])
    seen = px.explain(net, x, "trust-score", data={"train": train, "held_out": train})
    assert seen.source["held_out"]["in_train"] == 2


def test_it_ranks_the_answers_of_a_line_on_xor_better_than_its_confidence():
    """A linear network can't learn XOR, is sure where it is wrong, and the data know it."""
    X = drawn(400, 2, seed=3)
    y = ((X[:, 0] > 0) ^ (X[:, 1] > 0)).long()
    net = nn.Linear(2, 2, **DOUBLE).eval()
    net.weight.data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], **DOUBLE)
    net.bias.data = torch.zeros(2, **DOUBLE)
    data = {"train": (X[:200], y[:200]), "held_out": (X[200:], y[200:])}
    told = px.explain(net, X[:1], "trust-score", data=data).source["held_out"]
    assert told["low"] > 0.9
    assert told["by_confidence"]["high"] < 0.7


def test_on_two_gaussians_the_right_line_knows_as_well():
    y = torch.arange(800) % 2
    X = drawn(800, 2, seed=4) + 1.0 * (2 * y[:, None] - 1)
    net = nn.Linear(2, 2, **DOUBLE).eval()
    net.weight.data, net.bias.data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], **DOUBLE), torch.zeros(2, **DOUBLE)
    data = {"train": (X[:400], y[:400]), "held_out": (X[400:], y[400:])}
    told = px.explain(net, X[:1], "trust-score", data=data).source["held_out"]
    assert told["by_confidence"]["auroc"] > told["auroc"] - 0.02


def test_wrong_answers_about_digits_are_trusted_less():
    world = zoo.data("digits-cnn")
    net, x = zoo.load("digits-cnn"), world.test[0]
    told = px.explain(net, x[:2], "trust-score", data={"train": world.train, "held_out": world.test}).source["held_out"]
    assert told["rows"] == 450
    assert told["in_train"] == 0
    assert told["low"] > 0.6  # six wrong answers leave a wide interval, well above a half
    inside = px.explain(net, x[:2], "trust-score", layer="hidden", data={"train": world.train, "held_out": world.test})
    assert inside.source["held_out"]["low"] > 0.6
    far = px.explain(
        net,
        torch.stack([x[0], torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))]),
        "trust-score",
        data={"train": world.train, "held_out": world.test},
    )
    assert far.facts["novelty"][1] == 1.0


def test_a_row_of_the_data_is_at_no_distance_at_a_layer_either():
    world = zoo.data("digits-cnn")
    found = px.explain(zoo.load("digits-cnn"), world.train[0][3:5], "trust-score", layer="hidden", data=world.train)
    assert found.facts["nearest"].tolist() == [0.0, 0.0]
    assert found.facts["novelty"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"neighbours": 0}, (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), MethodError),
        ({"alpha": 1.0}, (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), MethodError),
        ({"alpha": True}, (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), MethodError),
        ({}, (torch.zeros(4, 2), torch.tensor([1, 1, 1, 1])), InputError),
        ({}, (torch.zeros(4, 2), torch.tensor([0.5, 1, 0, 1])), InputError),
        ({}, (torch.zeros(4, 2), torch.tensor([-1, 1, 0, 1])), InputError),
        ({}, torch.zeros(4, 2), NeedError),
        ({}, {"train": (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))}, InputError),
        ({}, (torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])), InputError),
    ],
)
def test_what_can_not_be_is_refused(settings, data, error):
    with pytest.raises(error, match="Got"):
        px.explain(plain(2, 2), torch.zeros(1, 2, **DOUBLE), TrustScore(**settings), data=data)


def test_a_score_is_no_class():
    data = (torch.zeros(4, 2, **DOUBLE), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(TargetError):
        px.explain(plain(2, 1), torch.zeros(1, 2, **DOUBLE), "trust-score", data=data)
    with pytest.raises(TargetError):
        px.explain(plain(2, 2), torch.zeros(1, 2, **DOUBLE), "trust-score", target=lambda o: o[:, 0], data=data)
