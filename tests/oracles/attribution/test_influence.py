"""Quantitative input influence: closed forms of linear and product models, unused proxies, the definition by a loop."""

import pytest
import torch
from scipy import stats
from torch import nn

import pellucid as px
from pellucid.attribution import QuantitativeInputInfluence
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("aggregate", ["shapley", "unary"])
def test_linear_model_gets_weight_times_distance_from_the_mean(aggregate):
    model, rows, data = nn.Linear(5, 2).double().eval(), drawn(3, 5, seed=1), drawn(20, 5, seed=2)
    method = QuantitativeInputInfluence(aggregate=aggregate, draws=40)  # every value of every column twice
    got = px.explain(model, rows, method, target=1, data=data)
    expected = (rows - data.mean(0)) * model.weight[1].detach()
    torch.testing.assert_close(got.values, expected, rtol=0, atol=1e-12)
    se = (data - data.mean(0)).square().sum(0).mul(2 / 39).sqrt() * model.weight[1].detach().abs() / 40**0.5
    torch.testing.assert_close(got.error, se.expand(3, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("aggregate", ["shapley", "unary"])
def test_unused_proxy_of_a_used_column_gets_nothing(aggregate):
    used = drawn(50, 1, seed=3)
    data = torch.cat([used, used, drawn(50, 1, seed=4)], 1)
    method = QuantitativeInputInfluence(aggregate=aggregate, draws=50)
    got = px.explain(lambda x: torch.tanh(x[:, :1] * x[:, 2:]), data[:4], method, data=data)
    assert got.values[:, 1].tolist() == [0.0] * 4
    assert got.error[:, 1].tolist() == [0.0] * 4
    assert got.values[:, 0].abs().min() > 0


def test_intervals_cover_the_expectation_over_independent_columns():
    # f = a·b·c, independent columns with means m: E over draws of each coalition is a product, so φ is in closed form.
    data, row, hits = (
        drawn(30, 3, seed=5) + 0.5,
        torch.tensor([[1.0, -2.0, 0.7]], **DOUBLE),
        {"shapley": [], "unary": []},
    )
    x, m = row[0], data.mean(0)
    unary, shapley = [], []
    for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        gain = x[i] - m[i]
        unary.append(gain * x[j] * x[k])
        shapley.append(gain * (m[j] * m[k] / 3 + (x[j] * m[k] + m[j] * x[k]) / 6 + x[j] * x[k] / 3))
    exact = {"unary": torch.stack(unary), "shapley": torch.stack(shapley)}
    for aggregate, found in hits.items():
        method = QuantitativeInputInfluence(aggregate=aggregate, draws=25)  # no full round of the data
        for seed in range(60):
            got = px.explain(lambda x: x.prod(1, keepdim=True), row, method, data=data, seed=seed)
            found.append((got.values[0] - exact[aggregate]).abs() <= stats.t.ppf(0.95, 24) * got.error[0])
        # Going through the data's values in turn makes the figures better than the draws' spread tells: at least 90 %.
        assert torch.stack(found).double().mean() >= 0.90
    many = px.explain(lambda x: x.prod(1, keepdim=True), row, QuantitativeInputInfluence(draws=6000), data=data)
    torch.testing.assert_close(many.values[0], exact["shapley"], rtol=0, atol=0.05)


def test_shapley_aggregate_hands_out_the_whole_change():
    model, rows, data = (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double().eval(),
        drawn(3, 4),
        drawn(9, 4),
    )
    got = px.explain(model, rows, QuantitativeInputInfluence(draws=18), target=0, data=data)
    change = got.facts["score"] - got.facts["baseline_score"]
    torch.testing.assert_close(got.values.sum(1), change, rtol=0, atol=1e-12)
    assert got.facts["forwards"].tolist() == [18 * (2 * 3 + 1) + 1.0] * 3


def test_groups_by_the_mean_over_rows():
    model, rows, data = nn.Linear(3, 1).double().eval(), drawn(6, 3), drawn(10, 3, seed=1)
    got = px.explain(model, rows, QuantitativeInputInfluence(draws=10), data=data).values
    disparity = (model(rows[:3]).mean() - model(rows[3:]).mean()).item()
    assert (got[:3].mean(0) - got[3:].mean(0)).sum().item() == pytest.approx(disparity)


@pytest.mark.parametrize(
    ("settings", "data", "kind", "words"),
    [
        ({"draws": 1}, torch.zeros(4, 3), MethodError, "'draws'"),
        ({"draws": 2.5}, torch.zeros(4, 3), MethodError, "'draws'"),
        ({"aggregate": "sum"}, torch.zeros(4, 3), MethodError, "'aggregate'"),
        ({}, torch.zeros(4, 3, 2), InputError, "'data'"),
        ({}, torch.zeros(4, 2), InputError, "'data'"),
    ],
)
def test_impossible_settings_are_refused_before_the_model_runs(settings, data, kind, words):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(kind, match=words):
        px.explain(model, torch.ones(1, 3), QuantitativeInputInfluence(**settings), data=data)
