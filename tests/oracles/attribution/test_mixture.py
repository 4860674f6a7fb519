"""The mixture of lines against planted regimes, scikit-learn's elastic net, and densities integrated numerically."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma
from sklearn.linear_model import ElasticNet

import pellucid as px
from pellucid.attribution import MixtureOfLines
from pellucid.attribution.mixture_fit import Prior, _log_shares, elastic_net, log_total, mixture
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}
SLOPES = torch.tensor([[3.0, 0.0, 1.0], [-2.0, 1.0, 1.0], [0.5, -4.0, 1.0]], **DOUBLE)
STARTS = torch.tensor([0.0, 6.0, -5.0], **DOUBLE)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def regime(x: torch.Tensor) -> torch.Tensor:
    """By thirds of column 0."""
    return (x[:, 0] * 3).long().clamp(max=2)


def planted(x: torch.Tensor) -> torch.Tensor:
    """Three lines, each in its third."""
    which = regime(x)
    return ((x * SLOPES[which]).sum(1) + STARTS[which])[:, None]


def test_planted_regimes_are_counted_and_their_slopes_recovered() -> None:
    data, x = drawn(400, 3), drawn(40, 3, seed=1)
    result = px.explain(planted, x, MixtureOfLines(), data=data)
    assert result.facts["components"].tolist() == [3.0] * 40
    torch.testing.assert_close(result.values, SLOPES[regime(x)], atol=0.02, rtol=0)
    torch.testing.assert_close(result.facts["surrogate_score"], planted(x)[:, 0], atol=0.02, rtol=0)
    # every row lists the same regimes, the largest share first, and they are the planted ones
    coefficients, shares = result.parts["coefficients"][0], result.parts["shares"][0]
    assert shares.tolist() == sorted(shares.tolist(), reverse=True)
    assert {tuple(b.round().int().tolist()) for b in coefficients} == {(3, 0, 1), (-2, 1, 1), (0, -4, 1)}
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, **DOUBLE))
    counted = regime(data).bincount().double() / 400
    assert (shares.sort().values - counted.sort().values).abs().max() < 0.04  # a fifth of the rows is held out


def test_it_explains_more_than_one_line_does_where_there_are_regimes_and_no_more_where_there_are_none() -> None:
    data = drawn(300, 3, seed=2)
    # Lines that meet: a row near the fold loses little by the wrong regime, so hardly anything is left unexplained.
    bent = px.explain(lambda x: 3 * (x[:, :1] - 0.5).abs() + 0.2 * x[:, 1:2], data[:2], MixtureOfLines(), data=data)
    assert bent.facts["components"].tolist() == [2.0, 2.0]
    assert bent.facts["heldout_r_squared"][0] > 0.95
    # One line has the slope 0 in column 0, so it explains no more than the share of column 1: 0.04 of 0.04 + 9/4.
    assert bent.facts["line_r_squared"][0] < 0.1
    straight = px.explain(lambda x: (x @ SLOPES[1])[:, None], data[:2], MixtureOfLines(), data=data)
    assert straight.facts["components"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(straight.values, SLOPES[1].expand(2, 3), atol=0.01, rtol=0)
    assert straight.facts["line_r_squared"][0].item() == pytest.approx(1)


def test_one_component_is_scikit_learn_s_elastic_net() -> None:
    """At the mode, with the variance it settles on: λ₁ and λ₂ times σ² over the rows are alpha's two shares."""
    numbers = np.random.default_rng(0)
    z = numbers.normal(size=(60, 4))
    answers = z @ np.array([1.0, -0.5, 0.0, 0.1]) + 0.3 * numbers.normal(size=60)
    prior = Prior(concentration=1.0, nets=((20.0, 5.0),), least=1e-4)
    found = mixture(z, answers, prior, np.ones((60, 1)))
    one, two = 20.0 * found.variances[0] / 60, 2 * 5.0 * found.variances[0] / 60
    peer = ElasticNet(alpha=one + two, l1_ratio=one / (one + two), tol=1e-10).fit(z, answers)
    np.testing.assert_allclose(found.slopes[0], peer.coef_, atol=1e-5)
    np.testing.assert_allclose(found.intercepts[0], peer.intercept_, atol=1e-5)
    np.testing.assert_allclose(found.variances[0], ((answers - peer.predict(z)) ** 2).mean(), rtol=1e-3)

    # and the mode it is: no step from it raises log likelihood plus log prior
    def log(slopes: np.ndarray) -> float:
        left = answers - found.intercepts[0] - z @ slopes
        return -(left**2).sum() / 2 / found.variances[0] - 20 * np.abs(slopes).sum() - 5 * (slopes**2).sum()

    for step in numbers.normal(size=(50, 4)):
        assert log(found.slopes[0] + 1e-2 * step) < log(found.slopes[0])


@pytest.mark.parametrize("seed", range(20))
def test_elastic_nets_are_scikit_learn_s(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    rows, columns = int(numbers.integers(15, 60)), int(numbers.integers(1, 12))
    z = numbers.normal(size=(rows, columns)) @ numbers.normal(size=(columns, columns))  # columns that go together
    answers, weight = numbers.normal(size=rows) + z[:, 0], numbers.random(rows)
    one, two = 10 ** numbers.uniform(-3, 0, 2)
    share = weight / weight.sum()
    around, above = z - share @ z, answers - share @ answers
    found = elastic_net(
        around.T @ (share[:, None] * around), (share * above) @ around, one, two, numbers.normal(size=columns)
    )
    peer = ElasticNet(alpha=one + two, l1_ratio=one / (one + two), tol=1e-12, max_iter=10**6)
    np.testing.assert_allclose(found, peer.fit(z, answers, sample_weight=weight).coef_, atol=1e-5)


@pytest.mark.parametrize(("one", "two"), [(1.0, 1.0), (3.0, 0.2), (0.1, 5.0), (0.0, 1.0)])
def test_the_elastic_net_is_a_density(one: float, two: float) -> None:
    total = quad(lambda b: math.exp(-one * abs(b) - two * b * b), -60, 60, points=[0.0])[0]
    assert float(log_total(np.array(one), np.array(two))) == pytest.approx(math.log(total), abs=1e-8)


def test_expected_log_shares_are_those_of_drawn_sticks() -> None:
    sizes, concentration = np.array([6.0, 3.0, 1.0]), 1.5
    numbers = np.random.default_rng(0)
    sticks = np.stack([numbers.beta(1 + n, concentration + sizes[i + 1 :].sum(), 200_000) for i, n in enumerate(sizes)])
    rest = np.concatenate([np.ones((1, 200_000)), (1 - sticks).cumprod(0)[:-1]])
    assert _log_shares(sizes, concentration) == pytest.approx(np.log(sticks * rest).mean(1), abs=0.02)
    assert _log_shares(sizes, concentration)[0] == pytest.approx(digamma(7) - digamma(7 + 5.5))


def test_a_sparse_prior_is_chosen_where_slopes_are_sparse() -> None:
    """Given a net that expects slopes near 0 and one that does not, large slopes come from the latter and stay large."""
    data = drawn(200, 3, seed=4)
    weight = torch.tensor([4.0, 0.0, 0.0], **DOUBLE)
    method = MixtureOfLines(components=1, penalties=((50.0, 0.1), (0.01, 0.01)), noise=0.1)
    result = px.explain(lambda x: (x @ weight)[:, None], data[:1], method, data=data)
    torch.testing.assert_close(result.values[0], weight, atol=0.1, rtol=0)


def test_each_class_has_its_own_regimes() -> None:
    data = drawn(200, 3, seed=5)

    def two(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([planted(x), 2 * x[:, 1:2]], 1)

    result = px.explain(two, data[:4], MixtureOfLines(), target=torch.tensor([0, 1, 0, 1]), data=data)
    alone = px.explain(two, data[1:2], MixtureOfLines(), target=1, data=data)
    torch.testing.assert_close(result.values[1:2], alone.values)
    torch.testing.assert_close(result.values[3], torch.tensor([0.0, 2.0, 0.0], **DOUBLE), atol=0.02, rtol=0)
    assert result.facts["components"].tolist() == [3.0, 1.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"components": 0}, "components"),
        ({"noise": 0.0}, "noise"),
        ({"heldout": 1.0}, "heldout"),
        ({"penalties": ((1.0, 0.0),)}, "penalties"),
        ({"penalties": ()}, "penalties"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_the_model_runs(settings: dict, said: str) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model ran")

    with pytest.raises(MethodError, match=said):
        px.explain(never, drawn(2, 3), MixtureOfLines(**settings), target=0, data=drawn(20, 3))


def test_weights_and_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="weights"):
        px.explain(planted, drawn(2, 3), MixtureOfLines(), data={"rows": drawn(9, 3), "weights": torch.ones(9)})
    with pytest.raises(InputError, match="at least"):
        px.explain(planted, drawn(2, 3), MixtureOfLines(), data=drawn(3, 3))
