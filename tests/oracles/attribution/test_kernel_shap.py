"""Kernel SHAP against the regression written out, exact values, and games on which its intervals must cover."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pellucid as px
from pellucid.attribution import KernelShap, ShapleyValue, kernel_shap
from pellucid.attribution.kernel_shap import plan, subsets
from pellucid.contract.errors import InputError, MethodError
from pellucid.worlds import games

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(columns=9):
    model = nn.Sequential(nn.Linear(columns, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=number + 1)
    return model.eval()


@pytest.mark.parametrize("game", games.examples(), ids=lambda g: f"{g.title}-{g.players}")
def test_all_coalitions_give_the_shapley_values_without_error(game):
    absent, present = drawn(game.players, seed=3), drawn(game.players, seed=4)
    model = game.between(absent.tolist(), present.tolist()).eval()
    got = px.explain(model, present[None], "kernel-shap", data=absent[None])
    torch.testing.assert_close(got.values[0], game.shapley, rtol=0, atol=1e-10)
    assert got.error.abs().max() == 0
    assert got.facts["coalitions"].item() == 2**game.players


def test_all_coalitions_over_a_background_and_few_players():
    for columns in (1, 2, 3, 6):
        model, rows, background = network(columns), drawn(3, columns, seed=9), drawn(4, columns, seed=8)
        got = px.explain(model, rows, "kernel-shap", target=0, data=background)
        exact = px.explain(model, rows, ShapleyValue(), target=0, data=background)
        torch.testing.assert_close(got.values, exact.values, rtol=0, atol=1e-10)
        assert got.facts["forwards"].tolist() == [4 * 2**columns] * 3


def test_regression_written_out_on_the_coalitions_that_were_asked():
    """Weighted least squares over single coalitions with the sum eliminated, the way the paper states it."""
    model, row, players = network(7), drawn(1, 7, seed=9), 7
    strata = plan(players, 13)
    assert [s.size for s in strata] == [1, 2, 3]
    assert [s.complete for s in strata] == [True, False, False]
    design, target, weight = [], [], []
    change = (model(row) - model(row * 0))[0, 1].item()
    for s in strata:
        for present in s.coalitions(5):
            for coalition in (present, ~present):
                z = coalition.double()
                design.append((z[:-1] - z[-1]).numpy())
                target.append((model(row * z) - model(row * 0))[0, 1].item() - z[-1].item() * change)
                kernel = (players - 1) / (math.comb(players, s.size) * s.size * (players - s.size))
                weight.append(kernel * s.total / s.count)
    root = np.sqrt(weight)
    found = np.linalg.lstsq(np.array(design) * root[:, None], np.array(target) * root, rcond=None)[0]
    got = px.explain(model, row, KernelShap(samples=26), target=1, seed=5)
    assert got.values[0].tolist() == pytest.approx([*found, change - found.sum()], abs=1e-9)
    assert got.facts["coalitions"].item() == 2 + len(design)


@pytest.mark.parametrize(("players", "samples"), [(9, 60), (9, 200), (11, 300)])
def test_intervals_cover_the_exact_values_as_often_as_stated(players, samples):
    game, hits = games.synergies(players, seed=1, order=3).eval(), []
    ends = torch.ones(1, players, **DOUBLE)
    for seed in range(80):
        got = px.explain(game, ends, KernelShap(samples=samples), seed=seed)
        hits.append((got.values[0] - game.shapley).abs() <= stats.norm.ppf(0.95) * got.error[0])
    # Hits of one seed depend on each other: allow what 200 independent ones need, 3 deviations.
    assert torch.stack(hits).double().mean().item() == pytest.approx(0.90, abs=0.065)


def test_mean_over_seeds_is_the_exact_value_and_the_error_is_the_spread():
    game, found, told = games.synergies(10, seed=4, order=3).eval(), [], []
    for seed in range(100):
        got = px.explain(game, torch.ones(1, 10, **DOUBLE), KernelShap(samples=150), seed=seed)
        found.append(got.values[0])
        told.append(got.error[0])
    found = torch.stack(found)
    assert ((found.mean(0) - game.shapley).abs() <= 4 * found.std(0) / 10).all()
    ratio = torch.stack(told).square().mean(0).sqrt() / found.std(0)
    assert ratio.min() > 0.75
    assert ratio.max() < 1.35


def test_linear_and_pairwise_models_are_exact_with_any_sample():
    """Pairs of complements cancel interactions of two: only odd parts are left, and those are additive here."""
    matrix, rows, background = drawn(12, 12, seed=3), drawn(3, 12, seed=1), drawn(4, 12, seed=2)

    def quadratic(x):
        return ((x @ matrix) * x).sum(1, keepdim=True)

    got = px.explain(quadratic, rows, KernelShap(samples=4), data=background)
    exact = px.explain(quadratic, rows, ShapleyValue(), data=background)
    torch.testing.assert_close(got.values, exact.values, rtol=0, atol=1e-9)
    assert got.error.max() < 1e-7


@pytest.mark.parametrize("samples", [4, 30, 200])
def test_values_always_sum_to_the_change(samples):
    model, rows, background = network(), drawn(3, 9, seed=9), drawn(5, 9, seed=8)
    got = px.explain(model, rows, KernelShap(samples=samples), target=1, data=background)
    change = model(rows)[:, 1].detach() - model(background)[:, 1].mean().detach()
    torch.testing.assert_close(got.values.sum(1), change, rtol=0, atol=1e-11)
    assert got.facts["completeness_gap"].max() < 1e-11


@pytest.mark.parametrize(("players", "size"), [(6, 2), (7, 3), (6, 3), (5, 1), (2, 1)])
def test_numbered_coalitions_are_all_of_them_once(players, size):
    total = math.comb(players, size) // (2 if 2 * size == players else 1)
    found = [tuple(np.flatnonzero(row)) for row in subsets(np.arange(total), players, size)]
    expected = [c for c in itertools.combinations(range(players), size) if 2 * size != players or 0 in c]
    assert found == expected


@pytest.mark.parametrize(
    ("players", "pairs"), [(8, 40), (11, 100), (11, 7), (30, 900), (64, 100), (64, 2000), (300, 64)]
)
def test_design_has_different_coalitions_within_its_budget(players, pairs):
    strata = plan(players, pairs)
    assert strata[0].complete
    assert sum(s.count for s in strata[1:]) <= pairs
    assert sum(s.mass for s in strata) == pytest.approx(
        sum((players - 1) / (s * (players - s)) for s in range(1, players)) / 2
    )
    for s in strata:
        chosen = s.coalitions(0)
        assert chosen.shape == (s.count, players)
        if s.several:
            assert set(chosen.sum(1).tolist()) <= set(s.several)
        else:
            assert (chosen.sum(1) == s.size).all()
            assert len(torch.unique(chosen, dim=0)) == s.count
            more = kernel_shap.Stratum(players, s.size, min(s.total, 2 * s.count), s.total, s.mass)
            assert torch.equal(more.coalitions(0)[: s.count], chosen)


def test_tolerance_goes_on_until_each_row_has_it_and_keeps_what_is_known(monkeypatch):
    game = games.synergies(12, seed=3, order=4).eval()
    rows = torch.stack([torch.ones(12, **DOUBLE), torch.linspace(0.2, 1, 12, **DOUBLE)])
    method = KernelShap(samples=32, tolerance=0.1)
    got = px.explain(game, rows, method)
    share = (got.error**2).mean(1).sqrt() / (got.values**2).mean(1).sqrt()
    assert (share <= 0.1).tolist() == [True, True]
    assert got.facts["converged"].tolist() == [1.0, 1.0]
    for n in range(2):
        alone = px.explain(game, rows[n : n + 1], method)
        torch.testing.assert_close(alone.values[0], got.values[n], rtol=0, atol=1e-11)
    # The same design asked at once gives the same.
    asked = int(got.facts["coalitions"][0].item())
    for samples in (32, 64, 128, 256, 512, 1024):
        once = px.explain(game, rows[:1], KernelShap(samples=samples))
        if int(once.facts["coalitions"].item()) == asked:
            torch.testing.assert_close(once.values[0], got.values[0], rtol=0, atol=1e-11)
            break
    else:
        raise AssertionError("no such number of samples")
    stopped = px.explain(game, rows, KernelShap(samples=8, tolerance=1e-9, max_samples=16))
    assert stopped.facts["converged"].tolist() == [0.0, 0.0]
    exact = px.explain(game, rows[:1], KernelShap(samples=1024, tolerance=1e-9))
    torch.testing.assert_close(exact.values[0], game.shapley, rtol=0, atol=1e-9)
    assert exact.facts["coalitions"].item() == 2**12


def test_any_blocks_and_chunks_give_the_same(monkeypatch):
    model, rows, background = network(), drawn(5, 9, seed=9), drawn(2, 9, seed=8)
    whole = px.explain(model, rows, KernelShap(samples=60), target=0, data=background)
    monkeypatch.setattr(kernel_shap, "BLOCK", 170)
    parts = px.explain(model, rows, KernelShap(samples=60), target=0, data=background, memory=30_000)
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-11)
    torch.testing.assert_close(parts.error, whole.error, rtol=0, atol=1e-11)


def test_images_by_a_grid_of_sixty_four():
    images = drawn(1, 2, 16, 16)
    got = px.explain(lambda x: (x.sum((1, 2, 3)) * 3)[:, None], images, KernelShap(samples=64))
    cells = 3 * images.reshape(1, 2, 8, 2, 8, 2).sum((1, 3, 5))
    expected = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand(1, 2, 16, 16)
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"samples": 3}, MethodError, "'samples'"),
        ({"samples": 100.0}, MethodError, "'samples'"),
        ({"max_samples": 0}, MethodError, "'max_samples'"),
        ({"tolerance": -1.0}, MethodError, "'tolerance'"),
        ({"cells": 0}, InputError, "'cells'"),
        ({"baseline": "grey"}, InputError, "'baseline'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, kind, words):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(kind, match=words):
        px.explain(model, torch.ones(1, 4), KernelShap(**settings))
