"""Sampled Shapley values: all orders give the exact ones, intervals cover them as often as stated, axioms of a walk."""

import itertools

import pytest
import torch
from scipy import stats
from torch import nn

import pellucid as px
from pellucid.attribution import ShapleySampling, ShapleyValue, shapley_sampling
from pellucid.contract.errors import InputError, MethodError
from pellucid.worlds import games

DOUBLE = {"dtype": torch.float64}
DESIGNS = ("plain", "antithetic", "circular")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(columns=9):
    model = nn.Sequential(nn.Linear(columns, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=number + 1)
    return model.eval()


def places(orders):
    """The place of every player in each order."""
    return torch.tensor([[order.index(player) for player in range(len(order))] for order in orders])


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(
    "game", [games.synergies(4, seed=2), games.airport([1.0, 4.0, 4.0, 9.0])], ids=lambda g: g.title
)
def test_all_orders_together_give_the_exact_values(design, game, monkeypatch):
    orders = places(list(itertools.permutations(range(4))))
    monkeypatch.setattr(shapley_sampling, "_orders", lambda number, done, more, played: orders)
    monkeypatch.setattr(shapley_sampling.Walk, "cost_of_all", 1e9)
    walks = 24 * {"plain": 1, "antithetic": 2, "circular": 4}[design]
    got = px.explain(game.eval(), torch.ones(1, 4, **DOUBLE), ShapleySampling(walks=walks, design=design))
    torch.testing.assert_close(got.values[0], game.shapley, rtol=0, atol=1e-12)
    assert got.facts["walks"].item() == walks


def test_one_unit_of_each_design_walked_by_hand(monkeypatch):
    model, row, order = network(4), drawn(1, 4, seed=9), [2, 0, 3, 1]
    monkeypatch.setattr(shapley_sampling, "_orders", lambda number, done, more, played: places([order] * 2))
    monkeypatch.setattr(shapley_sampling.Walk, "cost_of_all", 1e9)

    def walk(order):
        here, gains = torch.zeros(1, 4, **DOUBLE), [0.0] * 4
        for player in order:
            before = model(here)[0, 1].item()
            here[0, player] = row[0, player]
            gains[player] = model(here)[0, 1].item() - before
        return torch.tensor(gains, **DOUBLE)

    turns = [order[k:] + order[:k] for k in range(4)]
    walks = {
        "plain": [order],
        "antithetic": [order, order[::-1]],
        "circular": [*turns, *(turn[::-1] for turn in turns)],
    }
    for design, orders in walks.items():
        got = px.explain(model, row, ShapleySampling(walks=1, design=design), target=1)
        expected = torch.stack([walk(o) for o in orders]).mean(0)
        torch.testing.assert_close(got.values[0], expected, rtol=0, atol=1e-12)
        assert got.error.max() < 1e-7  # twice the same order


@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_cover_the_exact_values_as_often_as_stated(design):
    game, hits = games.synergies(9, seed=1, order=3).eval(), []
    for seed in range(150):
        method = ShapleySampling(walks=36, design=design)
        got = px.explain(game, torch.ones(1, 9, **DOUBLE), method, seed=seed)
        quantile = stats.t.ppf(0.95, got.facts["degrees_of_freedom"].item())  # two-sided 90 %
        hits.append((got.values[0] - game.shapley).abs() <= quantile * got.error[0])
    # 1350 hits; those of one seed depend on each other, so allow what 300 independent ones would need, 3 deviations.
    assert torch.stack(hits).double().mean().item() == pytest.approx(0.90, abs=0.05)


def test_intervals_cover_with_a_background():
    model, row, background, hits = network(9), drawn(1, 9, seed=9), drawn(6, 9, seed=8), []
    exact = px.explain(model, row, ShapleyValue(), target=0, data=background).values
    for seed in range(150):
        got = px.explain(model, row, ShapleySampling(walks=36), target=0, data=background, seed=seed)
        assert got.facts["degrees_of_freedom"].item() == 12
        hits.append((got.values - exact).abs() <= stats.t.ppf(0.95, 12) * got.error)
    assert torch.stack(hits).double().mean().item() == pytest.approx(0.90, abs=0.05)


def test_mean_over_seeds_is_the_exact_value_and_better_designs_spread_less():
    game, spread = games.synergies(9, seed=1, order=3).eval(), {}
    for design in DESIGNS:
        method = ShapleySampling(walks=18, design=design)
        found = [px.explain(game, torch.ones(1, 9, **DOUBLE), method, seed=s).values[0] for s in range(100)]
        found = torch.stack(found)
        assert ((found.mean(0) - game.shapley).abs() <= 4 * found.std(0) / 10).all()
        spread[design] = found.var(0).mean().item()
    assert spread["antithetic"] < 0.5 * spread["plain"]
    assert spread["circular"] < spread["antithetic"]


@pytest.mark.parametrize("background", [None, drawn(5, 9, seed=20)])
@pytest.mark.parametrize("design", DESIGNS)
def test_every_walk_hands_out_the_whole_change(design, background):
    model, rows = network(), drawn(3, 9, seed=9)
    got = px.explain(model, rows, ShapleySampling(walks=20, design=design), target=1, data=background)
    base = model(rows * 0 if background is None else background)[:, 1].mean().detach()
    torch.testing.assert_close(got.values.sum(1), model(rows)[:, 1].detach() - base, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.facts["baseline_score"], base.expand(3))
    assert got.facts["completeness_gap"].max() < 1e-12


def test_linear_models_are_exact_without_error_and_unread_columns_get_zero():
    model, rows, background = nn.Linear(12, 1).double().eval(), drawn(3, 12, seed=1), drawn(4, 12, seed=2)
    got = px.explain(model, rows, ShapleySampling(walks=8), data=background)
    expected = (rows - background.mean(0)) * model.weight[0].detach()
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    assert got.error.max() < 1e-7
    unread = px.explain(lambda x: x[:, :1] * x[:, 1:2] * x[:, 2:3], rows, ShapleySampling(walks=8))
    assert unread.values[:, 3:].abs().max() == 0
    assert unread.error[:, 3:].abs().max() == 0


def test_enumerated_where_that_is_cheaper():
    model, rows = network(5), drawn(2, 5, seed=9)
    got = px.explain(model, rows, "shapley-sampling", target=0)
    exact = px.explain(model, rows, ShapleyValue(), target=0)
    torch.testing.assert_close(got.values, exact.values, rtol=0, atol=1e-12)
    assert got.error.tolist() == [[0.0] * 5] * 2
    assert got.facts["walks"].tolist() == [0.0, 0.0]
    assert got.facts["forwards"].tolist() == [32.0, 32.0]
    one = px.explain(lambda x: x**2, torch.full((1, 1), 3.0), "shapley-sampling")
    assert one.values.tolist() == [[9.0]]


def test_tolerance_goes_on_until_each_row_has_it():
    game = games.synergies(12, seed=3, order=4).eval()
    rows = torch.stack([torch.ones(12, **DOUBLE), torch.linspace(0.2, 1, 12, **DOUBLE)])
    got = px.explain(game, rows, ShapleySampling(walks=4, tolerance=0.2, max_walks=256))
    share = (got.error**2).mean(1).sqrt() / (got.values**2).mean(1).sqrt()
    assert (share <= 0.2).tolist() == [True, True]
    assert got.facts["converged"].tolist() == [1.0, 1.0]
    assert (got.facts["walks"] > 4).any()
    for n in range(2):
        alone = px.explain(game, rows[n : n + 1], ShapleySampling(walks=4, tolerance=0.2, max_walks=256))
        torch.testing.assert_close(alone.values[0], got.values[n], rtol=0, atol=1e-12)
        assert alone.facts["walks"].item() == got.facts["walks"][n].item()
    stopped = px.explain(game, rows, ShapleySampling(walks=4, tolerance=1e-6, max_walks=8))
    assert stopped.facts["converged"].tolist() == [0.0, 0.0]
    assert stopped.facts["walks"].tolist() == [8.0, 8.0]
    exact = px.explain(game, rows, ShapleySampling(walks=4, tolerance=1e-6))
    assert exact.facts["converged"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(exact.values[0], game.shapley, rtol=0, atol=1e-10)


def test_forwards_are_counted():
    asked = [0]

    def model(x):
        asked[0] += len(x)
        return torch.tanh(x.sum(1, keepdim=True))

    x = drawn(2, 11, seed=4)
    got = px.explain(model, x, ShapleySampling(walks=12, design="antithetic"), data=drawn(3, 11, seed=5))
    assert got.facts["forwards"].tolist() == [12 * 10 + 3 + 1] * 2
    # and what settles the target, and the repeated first rows on which memory is measured
    assert asked[0] - 2 * (12 * 10 + 3 + 1) <= 6


def test_any_blocks_and_chunks_give_the_same(monkeypatch):
    model, rows, background = network(), drawn(3, 9, seed=9), drawn(2, 9, seed=8)
    for design in DESIGNS:
        method = ShapleySampling(walks=16, design=design)
        whole = px.explain(model, rows, method, target=0, data=background)
        with monkeypatch.context() as patch:
            patch.setattr(shapley_sampling, "BLOCK", 40)
            patch.setattr(shapley_sampling, "DESIGN", 100)
            parts = px.explain(model, rows, method, target=0, data=background, memory=30_000)
        torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.error, whole.error, rtol=0, atol=1e-12)


def test_images_by_a_grid():
    def model(x):
        return (x.sum((1, 2, 3)) * 3)[:, None]

    images = drawn(2, 1, 8, 8)
    got = px.explain(model, images, ShapleySampling(walks=4, cells=4))
    cells = 3 * images.reshape(2, 4, 2, 4, 2).sum((2, 4))
    expected = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    assert got.parts["players"].shape == (2, 16)
    assert got.error.shape == images.shape


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"walks": 0}, MethodError, "'walks'"),
        ({"walks": 2.0}, MethodError, "'walks'"),
        ({"max_walks": 0}, MethodError, "'max_walks'"),
        ({"design": "spiral"}, MethodError, "'design'"),
        ({"tolerance": 0.0}, MethodError, "'tolerance'"),
        ({"tolerance": "small"}, MethodError, "'tolerance'"),
        ({"baseline": "grey"}, InputError, "'baseline'"),
        ({"features": "pixel"}, InputError, "'features'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, kind, words):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(kind, match=words):
        px.explain(model, torch.ones(1, 4), ShapleySampling(**settings))
