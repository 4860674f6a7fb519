"""Mean squared slopes: closed forms of linear, quadratic and planted scores, and finite differences row by row."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import GlobalSensitivity
from pellucid.contract.errors import PellucidError

DOUBLE = {"dtype": torch.float64}


class Formula(nn.Module):
    """A module that computes a formula."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.formula(x)


def net(formula):
    return Formula(formula).eval()


def table(rows=30, columns=4, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def test_linear_scores_have_squared_weights():
    w = torch.tensor([1.0, -2.0, 0.0, 3.0], **DOUBLE)
    x = table()
    got = px.explain(net(lambda t: (t @ w + 5)[:, None]), x[:2], GlobalSensitivity(), data=x)
    expected = torch.tensor([1.0, 4.0, 0.0, 9.0], **DOUBLE)
    torch.testing.assert_close(got.values, (expected / 14).expand(2, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["mean_square"][0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["slope"][0], w, rtol=0, atol=1e-12)
    assert got.error.max() < 1e-12  # all rows agree
    assert not got.parts["pair"].any()
    scaled = px.explain(net(lambda t: (t @ w)[:, None]), x[:1], GlobalSensitivity(per="deviation"), data=x)
    variance = w**2 * x.var(0, correction=0)
    torch.testing.assert_close(scaled.values[0], variance / variance.sum(), rtol=0, atol=1e-12)


def test_a_planted_product_is_the_only_pair():
    x = table()
    got = px.explain(net(lambda t: (3 * t[:, 0] * t[:, 1] + t[:, 2])[:, None]), x[:1], GlobalSensitivity(), data=x)
    expected = torch.zeros(4, 4, **DOUBLE)
    expected[0, 1] = expected[1, 0] = 9.0
    torch.testing.assert_close(got.parts["pair"][0], expected, rtol=0, atol=1e-12)
    # The slope along column 0 is 3 x1 and the other way round.
    square = torch.stack([9 * (x[:, 1] ** 2).mean(), 9 * (x[:, 0] ** 2).mean(), torch.ones((), **DOUBLE), 0 * x[0, 0]])
    torch.testing.assert_close(got.parts["mean_square"][0], square, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.values[0], square / square.sum(), rtol=0, atol=1e-12)


def test_against_finite_differences_row_by_row():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double().eval()
    x, step = table(8, 3, 1), 1e-4
    got = px.explain(model, x[:3], GlobalSensitivity(), target=[1, 0, 1], data=x)

    def score(row, *moves):
        row = row.clone()
        for j, by in moves:
            row[j] += by
        return model(row[None])[0]

    first, second = torch.zeros(8, 2, 3, **DOUBLE), torch.zeros(8, 2, 3, 3, **DOUBLE)
    with torch.no_grad():
        for i in range(8):
            for j in range(3):
                first[i, :, j] = (score(x[i], (j, step)) - score(x[i], (j, -step))) / (2 * step)
                for k in range(3):
                    corners = [a * b * score(x[i], (j, a * step), (k, b * step)) for a in (1, -1) for b in (1, -1)]
                    second[i, :, j, k] = sum(corners) / (4 * step**2)
    for row, label in enumerate([1, 0, 1]):
        square = (first[:, label] ** 2).mean(0)
        torch.testing.assert_close(got.parts["mean_square"][row], square, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(got.parts["slope"][row], first[:, label].mean(0), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(got.values[row], square / square.sum(), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(got.parts["pair"][row], (second[:, label] ** 2).mean(0), rtol=1e-4, atol=1e-6)
        spread = (first[:, label] ** 2).std(0) / 8**0.5
        torch.testing.assert_close(got.parts["mean_square_error"][row], spread, rtol=1e-5, atol=1e-8)


def test_errors_are_those_of_repeated_samples():
    model = net(lambda t: (t[:, 0] ** 2 + t[:, 1] ** 3 / 3 + t[:, 2])[:, None])
    found = [
        px.explain(model, x[:1], GlobalSensitivity(interactions=False), data=x)
        for x in (table(400, 3, seed) for seed in range(60))
    ]
    spread = torch.stack([f.values[0] for f in found]).std(0)
    claimed = torch.stack([f.error[0] for f in found]).mean(0)
    assert ((claimed / spread) > 0.7).all()
    assert ((claimed / spread) < 1.4).all()


def test_interactions_leave_the_shares_as_they_are():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = table()
    one, other = (px.explain(model, x[:2], GlobalSensitivity(interactions=i), data=x) for i in (True, False))
    torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-12)
    assert "pair" not in other.parts
    assert not one.parts["pair"].any()  # rectifiers


def test_categories_change_between_the_values_that_they_have():
    x = table(12, 2, 2)
    x[:, 1] = torch.arange(12) % 3  # 0, 1, 2
    model = net(lambda t: (2 * t[:, 0] + t[:, 1] ** 2)[:, None])
    got = px.explain(model, x[:1], GlobalSensitivity(categories=(1,), interactions=False), data=x)
    # From 0: 1 and 4; from 1: -1 and 3; from 2: -4 and -3.
    expected = ((1 + 16) / 2 + (1 + 9) / 2 + (16 + 9) / 2) / 3
    assert got.parts["mean_square"][0].tolist() == pytest.approx([4.0, expected])
    assert got.parts["slope"][0].tolist() == pytest.approx([2.0, 0.0])
    constant = x.clone()
    constant[:, 1] = 1
    got = px.explain(model, x[:1], GlobalSensitivity(categories=(1,), interactions=False), data=constant)
    assert got.values[0].tolist() == [1.0, 0.0]


def test_weights_are_repeated_rows():
    x = table(10)
    model = net(lambda t: torch.tanh(t[:, :1] * t[:, 1:2] + t[:, 2:3]))
    times = torch.arange(10) % 3 + 1
    weighted = px.explain(model, x[:1], GlobalSensitivity(per="deviation"), data={"rows": x, "weights": times})
    repeated = px.explain(model, x[:1], GlobalSensitivity(per="deviation"), data=x.repeat_interleave(times, 0))
    torch.testing.assert_close(weighted.values, repeated.values, rtol=0, atol=1e-10)
    torch.testing.assert_close(weighted.parts["pair"], repeated.parts["pair"], rtol=0, atol=1e-10)


def test_a_flat_score_has_no_shares():
    x = table()
    got = px.explain(net(lambda t: 0 * t[:, :1] + 4), x[:1], GlobalSensitivity(), data=x)
    assert not got.values.any()
    assert not got.error.any()


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (GlobalSensitivity(per="row"), "'per'"),
        (GlobalSensitivity(interactions=1), "'interactions'"),
        (GlobalSensitivity(categories=(4,), interactions=False), "'categories'"),
        (GlobalSensitivity(categories=(1, 1), interactions=False), "'categories'"),
        (GlobalSensitivity(categories=(1,)), "interactions=False"),
    ],
)
def test_refused_before_the_model_runs(method, word):
    model = net(lambda t: t[:, :2])
    with pytest.raises(PellucidError, match=word):
        px.explain(model, table()[:2], method, data=table())
    assert model.calls == 0
