"""Shares of R² against all orders of ordinary least squares, closed forms, and coefficients that must hold."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import RegressionShares
from pellucid.contract.errors import InputError, MethodError, NeedError

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def together(rows, columns, seed=0):
    """Columns that go along with each other."""
    return drawn(rows, columns, seed=seed) @ drawn(columns, columns, seed=seed + 1) + drawn(rows, 1, seed=seed + 2)


def network(columns, classes=3):
    model = nn.Sequential(nn.Linear(columns, 6), nn.Tanh(), nn.Linear(6, classes)).double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=number + 1)
    return model.eval()


def r_squared(x, y, weights=None):
    """1 - residual / total of least squares with an intercept, by numpy, for columns x (maybe none)."""
    w = np.sqrt(np.ones(len(y)) if weights is None else weights)
    design = np.column_stack([np.ones(len(y)), x]) * w[:, None]
    residual = y * w - design @ np.linalg.lstsq(design, y * w, rcond=None)[0]
    centred = (y - np.average(y, weights=w**2)) * w
    return 1 - residual @ residual / (centred @ centred)


def over_orders(x, y, weights=None):
    columns = x.shape[1]
    shares = np.zeros(columns)
    for order in itertools.permutations(range(columns)):
        for place, j in enumerate(order):
            before, after = list(order[:place]), list(order[: place + 1])
            shares[j] += r_squared(x[:, after], y, weights) - r_squared(x[:, before], y, weights)
    return shares / math.factorial(columns)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_gain_of_r_squared_over_all_orders(weighted):
    model, data, rows = network(4), together(30, 4, seed=5), drawn(3, 4, seed=9)
    weights = torch.arange(1, 31, **DOUBLE) if weighted else None
    given = {"rows": data, "weights": weights} if weighted else data
    got = px.explain(model, rows, RegressionShares(), target=[2, 0, 2], data=given)
    for n, target in enumerate([2, 0, 2]):
        y = model(data)[:, target].detach().numpy()
        w = None if weights is None else weights.numpy()
        assert got.values[n].tolist() == pytest.approx(over_orders(data.numpy(), y, w), abs=1e-10)
        assert got.facts["r2"][n].item() == pytest.approx(r_squared(data.numpy(), y, w), abs=1e-10)
        last = [r_squared(data.numpy(), y, w) - r_squared(np.delete(data.numpy(), j, 1), y, w) for j in range(4)]
        assert got.parts["last"][n].tolist() == pytest.approx(last, abs=1e-10)
    assert got.facts["sum_gap"].max() < 1e-12
    assert got.error.abs().max() == 0
    assert (got.facts["r2"] < 1).all()  # the network is no line


def test_labels_instead_of_scores():
    x, y = together(40, 3, seed=3), drawn(40, seed=8)
    y = y + x[:, 0]
    got = px.explain(network(3), x[:2], RegressionShares(about="labels"), data=(x, y))
    expected = over_orders(x.numpy(), y.numpy())
    for n in range(2):
        assert got.values[n].tolist() == pytest.approx(expected, abs=1e-10)


def test_two_columns_in_closed_form():
    data = together(25, 2, seed=7)
    model = network(2, classes=1)
    y = model(data)[:, 0].detach()
    r = [np.corrcoef(data[:, j], y)[0, 1] for j in range(2)]
    r12 = np.corrcoef(data[:, 0], data[:, 1])[0, 1]
    whole = (r[0] ** 2 + r[1] ** 2 - 2 * r[0] * r[1] * r12) / (1 - r12**2)
    got = px.explain(model, data[:1], RegressionShares(), data=data)
    expected = [(r[0] ** 2 + whole - r[1] ** 2) / 2, (r[1] ** 2 + whole - r[0] ** 2) / 2]
    assert got.values[0].tolist() == pytest.approx(expected, abs=1e-12)
    beta = [(r[0] - r12 * r[1]) / (1 - r12**2), (r[1] - r12 * r[0]) / (1 - r12**2)]
    assert got.parts["beta"][0].tolist() == pytest.approx(beta, abs=1e-11)
    assert got.parts["net_effect"][0].tolist() == pytest.approx(
        [b * c for b, c in zip(beta, r, strict=True)], abs=1e-11
    )
    assert got.parts["first"][0].tolist() == pytest.approx([c**2 for c in r], abs=1e-12)


def test_orthogonal_columns_have_their_squared_correlations():
    # A full factorial design: columns are uncorrelated, and a line without noise divides its variance by squared slopes.
    data = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), **DOUBLE)
    slopes = torch.tensor([2.0, -1.0, 0.0, 3.0], **DOUBLE)
    got = px.explain(lambda x: (x @ slopes)[:, None], data[:1], RegressionShares(), data=data)
    assert got.values[0].tolist() == pytest.approx((slopes**2 / (slopes**2).sum()).tolist(), abs=1e-12)
    for name in ("first", "last", "net_effect"):
        torch.testing.assert_close(got.parts[name], got.values, rtol=0, atol=1e-12)
    # Then the net effects are the shares already, and all coefficients agree.
    for name in ("share_beta", "net_beta"):
        torch.testing.assert_close(got.parts[name], got.parts["beta"], rtol=0, atol=1e-6)
    assert got.facts["net_gap"].item() < 1e-9


def test_duplicated_columns_share_equally_and_constant_ones_get_nothing():
    base = together(30, 2, seed=11)
    data = torch.cat([base[:, :1], base, torch.full((30, 1), 4.0, **DOUBLE)], 1)
    got = px.explain(lambda x: x[:, :1] + x[:, 2:3] ** 2, data[:1], RegressionShares(), data=data)
    one, two, three, four = got.values[0].tolist()
    assert one == pytest.approx(two, abs=1e-12)
    assert four == 0
    assert one + two + three == pytest.approx(got.facts["r2"].item(), abs=1e-12)
    y = (base[:, 0] + base[:, 1] ** 2).numpy()
    assert got.facts["r2"].item() == pytest.approx(r_squared(base.numpy(), y), abs=1e-9)
    assert got.parts["last"][0, :2].tolist() == [0.0, 0.0]


def test_coefficients_from_shares():
    data, model = together(50, 4, seed=20), network(4, classes=1)
    y = model(data)[:, 0].detach().numpy()
    got = px.explain(model, data[:1], RegressionShares(), data=data)
    correlation = np.corrcoef(np.column_stack([data.numpy(), y]).T)
    c, r, shares = correlation[:4, :4], correlation[:4, 4], got.values[0].numpy()
    assert got.parts["share_beta"][0].numpy() * r == pytest.approx(shares, abs=1e-12)
    # The regression's own net effects add up to R² as well; no other coefficients explain so much.
    assert got.parts["net_effect"][0].sum().item() == pytest.approx(shares.sum(), abs=1e-10)
    assert got.facts["share_r2"].item() < got.facts["r2"].item() - 1e-3
    assert got.facts["net_r2"].item() < got.facts["r2"].item()
    # net_beta is where its sum of squares is least: nothing nearby is better, and the stated gap is what it leaves.
    net = got.parts["net_beta"][0].numpy()

    def left(b):
        return shares - b * (2 * r - c @ b)

    least = np.square(left(net)).sum()
    assert np.abs(left(net)).max() == pytest.approx(got.facts["net_gap"].item(), abs=1e-9)
    assert least > 1e-9  # these equations have no solution
    for j, step in itertools.product(range(4), (1e-3, -1e-3)):
        assert np.square(left(net + step * np.eye(4)[j])).sum() > least
    assert np.square(left(got.parts["beta"][0].numpy())).sum() > least
    # What the coefficients explain, by the residuals of their own predictions.
    z, t = (data.numpy() - data.numpy().mean(0)) / data.numpy().std(0), (y - y.mean()) / y.std()
    assert 1 - np.square(t - z @ net).mean() == pytest.approx(got.facts["net_r2"].item(), abs=1e-9)


def test_orders_drawn_beyond_fifteen_columns_cover_the_exact_shares():
    # Three columns with noise-free answers, and 14 others that are uncorrelated with all: exact shares from three alone.
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), **DOUBLE)
    columns = [signs[:, list(c)].prod(1) for size in range(1, 4) for c in itertools.combinations(range(5), size)]
    a, b = columns[0] + columns[1], columns[0] - 0.5 * columns[1]
    data = torch.stack([a, b, *columns[2:17]], 1)
    assert data.shape[1] == 17

    def model(x):
        return (x[:, 0] + 2 * x[:, 1] + x[:, 2])[:, None]

    exact = over_orders(data[:, :3].numpy(), model(data)[:, 0].numpy())
    hits = []
    for number in range(8):
        got = px.explain(model, data[:1], RegressionShares(orders=40), data=data, seed=number)
        assert got.facts["orders"].item() == 40
        assert got.facts["sum_gap"].item() < 1e-12
        assert got.values[0, 3:].abs().max() < 1e-12
        hits.append((got.values[0, 0].item() - exact[0]) / got.error[0, 0].item() if got.error[0, 0] > 1e-12 else 0.0)
        assert got.values[0, 0].item() == pytest.approx(exact[0], abs=5 * got.error[0, 0].item() + 1e-12)
    assert np.mean(np.abs(hits)) < 1.5


def test_drawn_orders_have_an_honest_error():
    data, model = together(60, 16, seed=40), network(16, classes=1)
    many = px.explain(model, data[:1], RegressionShares(orders=2000), data=data, seed=99).values[0]
    scaled = []
    for number in range(20):
        got = px.explain(model, data[:1], RegressionShares(orders=64), data=data, seed=number)
        scaled.append((got.values[0] - many) / got.error[0])
    assert 0.85 < torch.stack(scaled).square().mean().sqrt() < 1.2
    wide = px.explain(model, data[:1], RegressionShares(orders=16, tolerance=0.004), data=data)
    assert wide.facts["converged"].item() == 1
    assert wide.error.max() <= 0.004
    assert wide.facts["orders"].item() > 16


def test_constant_scores_have_nothing_to_share():
    data = drawn(10, 3)
    got = px.explain(lambda x: x[:, :1] * 0 + 7.0, data[:1], RegressionShares(), data=data)
    assert got.values[0].tolist() == [0.0] * 3
    assert got.facts["r2"].item() == 0


def test_a_column_without_correlation_but_with_a_share_has_no_coefficient():
    # A suppressor: it is uncorrelated with the score, but cleans the first column of what is not the score.
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), **DOUBLE)
    data = torch.stack([signs[:, 0] + signs[:, 1], signs[:, 1]], 1)  # y = first - second
    got = px.explain(lambda x: x[:, :1] - x[:, 1:], data[:1], RegressionShares(), data=data)
    assert got.facts["r2"].item() == pytest.approx(1.0)
    assert got.values[0].tolist() == pytest.approx([0.75, 0.25])  # (0.5 + 1 - 0) / 2 by the closed form of two
    assert math.isnan(got.parts["share_beta"][0, 1].item())


def test_refusals():
    model, data, calls = network(3), drawn(8, 3), []
    watched = lambda x: calls.append(1) or model(x)  # noqa: E731
    for method in (
        RegressionShares(about="rows"),
        RegressionShares(exact=21),
        RegressionShares(orders=0),
        RegressionShares(tolerance=-1.0),
    ):
        with pytest.raises(MethodError):
            px.explain(watched, data[:1], method, target=0, data=data)
    with pytest.raises(NeedError, match="labels"):
        px.explain(watched, data[:1], RegressionShares(about="labels"), target=0, data=data)
    with pytest.raises(InputError, match="finite"):
        px.explain(
            watched, data[:1], RegressionShares(about="labels"), target=0, data=(data, torch.full((8,), torch.nan))
        )
    with pytest.raises(InputError, match="at least 3"):
        px.explain(watched, data[:1], RegressionShares(), target=0, data=data[:2])
    with pytest.raises(NeedError):
        px.explain(watched, data[:1], RegressionShares(), target=0)
    assert not calls
