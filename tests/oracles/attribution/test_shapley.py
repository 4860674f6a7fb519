"""Exact Shapley values against the definition over orders, closed forms, axioms and games with known values."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import ShapleyValue
from pellucid.contract.errors import InputError
from pellucid.worlds import games

DOUBLE = {"dtype": torch.float64}
EXAMPLES = games.examples()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(columns=5, classes=3):
    model = nn.Sequential(nn.Linear(columns, 7), nn.ReLU(), nn.Linear(7, classes)).double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=number + 1)
    return model.eval()


def worth(model, row, target, present, background):
    """The mean score with the columns in `present` as they are and the others from each background row."""
    total = 0.0
    for other in background:
        mixed = [row[j].item() if j in present else other[j].item() for j in range(len(row))]
        total += model(torch.tensor([mixed], **DOUBLE))[0, target].item()
    return total / len(background)


def over_orders(model, row, target, background):
    """The definition: the mean gain on arrival over all orders."""
    count = len(row)
    known = {
        frozenset(s): worth(model, row, target, s, background)
        for size in range(count + 1)
        for s in itertools.combinations(range(count), size)
    }
    shares = [0.0] * count
    for order in itertools.permutations(range(count)):
        for place, player in enumerate(order):
            shares[player] += known[frozenset(order[: place + 1])] - known[frozenset(order[:place])]
    return [share / math.factorial(count) for share in shares]


@pytest.mark.parametrize("background", [None, drawn(3, 5, seed=20)])
def test_mean_gain_over_all_orders(background):
    model, rows, target = network(), drawn(3, 5, seed=9), [2, 0, 1]
    got = px.explain(model, rows, ShapleyValue(), target=target, data=background)
    used = torch.zeros(1, 5, **DOUBLE) if background is None else background
    for n in range(3):
        assert got.values[n].tolist() == pytest.approx(over_orders(model, rows[n], target[n], used), abs=1e-12)


@pytest.mark.parametrize("game", EXAMPLES, ids=lambda game: f"{game.title}-{game.players}")
def test_games_with_known_values_and_interactions(game):
    absent = drawn(game.players, seed=3)
    present = absent + drawn(game.players, seed=4)
    model = game.between(absent.tolist(), present.tolist()).eval()
    got = px.explain(model, present[None], ShapleyValue(interactions=True), data=absent[None])
    torch.testing.assert_close(got.values[0], game.shapley, rtol=0, atol=1e-10)
    pairs = got.parts["interactions"][0]
    off = pairs - torch.diag(pairs.diagonal())
    torch.testing.assert_close(off, game.interactions, rtol=0, atol=1e-10)
    torch.testing.assert_close(pairs.diagonal() + off.sum(1) / 2, game.shapley, rtol=0, atol=1e-10)
    assert got.facts["completeness_gap"].item() < 1e-10


def test_published_power_indices():
    # Shapley & Shubik 1954: in the Security Council each permanent member has 421/2145, each other 4/2145.
    council = games.security_council().eval()
    got = px.explain(council, torch.ones(1, 15, **DOUBLE), "shapley-value").values[0]
    expected = torch.tensor([421.0] * 5 + [4.0] * 10, **DOUBLE) / 2145
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_linear_model_gets_weight_times_distance_from_the_mean():
    model, rows, background = nn.Linear(6, 2).double().eval(), drawn(4, 6, seed=1), drawn(7, 6, seed=2)
    got = px.explain(model, rows, ShapleyValue(interactions=True), target=1, data=background)
    expected = (rows - background.mean(0)) * model.weight[1].detach()
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["interactions"], torch.diag_embed(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.facts["baseline_score"], model(background)[:, 1].mean().detach().expand(4))
    assert got.facts["forwards"].tolist() == [7 * 2**6] * 4


def test_axioms():
    model, other, rows = network(), nn.Linear(5, 3).double().eval(), drawn(4, 5, seed=9)

    def values(f, x):
        return px.explain(f, x, ShapleyValue(), target=1).values

    both = values(lambda x: 2 * model(x) - 3 * other(x), rows)
    torch.testing.assert_close(both, 2 * values(model, rows) - 3 * values(other, rows), rtol=0, atol=1e-11)
    torch.testing.assert_close(values(model, rows).sum(1), (model(rows) - model(rows * 0))[:, 1].detach())
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = values(lambda x: model(x[:, order.argsort()]), rows[:, order])
    torch.testing.assert_close(turned, values(model, rows)[:, order], rtol=0, atol=1e-12)
    alike = rows.clone()
    alike[:, 0] = alike[:, 1]
    found = values(lambda x: torch.tanh(x[:, :1] + x[:, 1:2] + x[:, 2:] * x[:, 3:4]).repeat(1, 3)[:, :3], alike)
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=0, atol=1e-12)
    unread = values(lambda x: model(torch.cat([x[:, :4], x[:, :1]], 1)), rows)
    assert unread[:, 4].tolist() == [0.0] * 4


def test_input_and_baseline_shifted_together_change_nothing():
    model, rows, background, shift = network(), drawn(2, 5, seed=9), drawn(3, 5, seed=8), drawn(5, seed=7)
    plain = px.explain(model, rows, ShapleyValue(), target=0, data=background).values
    moved = px.explain(lambda x: model(x - shift), rows + shift, ShapleyValue(), target=0, data=background + shift)
    torch.testing.assert_close(moved.values, plain, rtol=0, atol=1e-11)


def test_row_alone_in_a_batch_and_in_any_chunk():
    model, rows, background = network(), drawn(4, 5, seed=9), drawn(3, 5, seed=8)
    whole = px.explain(model, rows, ShapleyValue(), target=0, data=background)
    small = px.explain(model, rows, ShapleyValue(), target=0, data=background, memory=20_000)
    torch.testing.assert_close(small.values, whole.values, rtol=0, atol=1e-12)
    for n in range(4):
        one = px.explain(model, rows[n : n + 1], ShapleyValue(), target=0, data=background)
        torch.testing.assert_close(one.values, whole.values[n : n + 1], rtol=0, atol=1e-12)


def test_product_of_two_is_shared_in_halves_and_is_all_interaction():
    got = px.explain(
        lambda x: (x[:, 0] * x[:, 1] + x[:, 2])[:, None],
        torch.tensor([[2.0, 3.0, 5.0]]),
        ShapleyValue(interactions=True),
    )
    assert got.values.tolist() == [[3.0, 3.0, 5.0]]
    assert got.parts["interactions"][0].tolist() == [[0.0, 6.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 5.0]]


def test_groups_play_as_one_and_carry_one_figure():
    rows, groups = torch.tensor([[2.0, 3.0, 5.0, 7.0]]), ((0, 1), (2,))
    got = px.explain(lambda x: (x[:, 0] * x[:, 1] * x[:, 2] + x[:, 3])[:, None], rows, ShapleyValue(features=groups))
    assert got.values.tolist() == [[15.0, 15.0, 15.0, 0.0]]  # the last column always stays
    assert got.parts["players"].tolist() == [[15.0, 15.0]]
    assert got.facts["completeness_gap"].tolist() == [0.0]
    masks = {"groups": torch.tensor([4, 4, 9, -1]), "background": torch.zeros(1, 4)}
    same = px.explain(lambda x: (x[:, 0] * x[:, 1] * x[:, 2] + x[:, 3])[:, None], rows, ShapleyValue(), data=masks)
    assert same.values.tolist() == got.values.tolist()


def test_images_by_a_grid_and_several_inputs():
    def model(image, table):
        return (image.sum((1, 2, 3)) * 2 + table[:, 0] * table[:, 1])[:, None]

    image, table = drawn(2, 1, 4, 4), drawn(2, 2, seed=5)
    got = px.explain(model, (image, table), ShapleyValue(cells=2))
    cells = 2 * image.reshape(2, 1, 2, 2, 2, 2).sum((3, 5), keepdim=True).expand(-1, -1, -1, 2, -1, 2)
    torch.testing.assert_close(got.values[0], cells.reshape(2, 1, 4, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.values[1], (table.prod(1) / 2)[:, None].expand(2, 2), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["players"].sum(1), model(image, table)[:, 0], rtol=0, atol=1e-12)


def test_layer_values_as_players_and_models_without_gradients():
    model, rows = network(), drawn(2, 5, seed=9)
    got = px.explain(model, rows, ShapleyValue(), target=1, layer="1").values
    expected = torch.relu(model[0](rows)) * model[2].weight[1]
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-12)

    def votes(x):
        return np.asarray(x).max(1, keepdims=True)

    got = px.explain(votes, torch.tensor([[1.0, 4.0, 4.0, 9.0]], **DOUBLE), ShapleyValue()).values
    assert got[0].tolist() == pytest.approx(games.airport([1.0, 4.0, 4.0, 9.0]).shapley.tolist())


def test_several_fills_are_averaged():
    model, rows = network(), drawn(2, 5, seed=9)
    got = px.explain(model, rows, ShapleyValue(baseline=(0.0, 1.5)), target=0)
    each = [px.explain(model, rows, ShapleyValue(baseline=b), target=0).values for b in (0.0, 1.5)]
    torch.testing.assert_close(got.values, (each[0] + each[1]) / 2, rtol=0, atol=1e-12)
    assert got.baseline is None


def test_documented_failure_copies_share_what_they_are_worth():
    got = px.explain(lambda x: x.amax(1, keepdim=True), torch.ones(1, 3), ShapleyValue())
    torch.testing.assert_close(got.values, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize(
    ("settings", "columns", "words"),
    [
        ({}, 23, "8.39e\\+06 forwards.*shapley-sampling"),
        ({"limit": 10}, 4, "16 forwards"),
        ({"limit": 2**40}, 23, "22 features"),
        ({"limit": 0}, 4, "'limit'"),
        ({"limit": True}, 4, "'limit'"),
        ({"cells": 0}, 4, "'cells'"),
        ({"baseline": "grey"}, 4, "'baseline'"),
        ({"features": "pixel"}, 4, "'features'"),
    ],
)
def test_too_much_and_impossible_settings_are_refused_before_the_model_runs(settings, columns, words):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(InputError, match=words):
        px.explain(model, torch.ones(1, columns), ShapleyValue(**settings))


def test_limit_counts_background_and_rows():
    method = ShapleyValue(limit=2**4 * 3 * 2)
    data = torch.zeros(3, 4)
    assert px.explain(nn.Linear(4, 1).eval(), torch.ones(2, 4), method, data=data).values.shape == (2, 4)
    with pytest.raises(InputError, match="3 fills × 3 rows"):
        px.explain(nn.Linear(4, 1).eval(), torch.ones(3, 4), method, data=data)


def test_precision():
    model, rows = network(), drawn(2, 5, seed=9)
    double = px.explain(model, rows, ShapleyValue(interactions=True), target=0)
    single = px.explain(model.float(), rows.float(), ShapleyValue(interactions=True), target=0)
    assert (double.values.dtype, single.values.dtype) == (torch.float64, torch.float32)
    assert (double.values - single.values).abs().max() < 1e-5
