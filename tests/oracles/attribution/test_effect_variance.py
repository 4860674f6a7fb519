"""Sobol' indices and the variable interaction network against closed forms and sums over all combinations."""

import itertools
import math

import pytest
import torch

import pellucid as px
from pellucid.attribution import FunctionalAnova, SobolIndices
from pellucid.contract.errors import PellucidError

DOUBLE = {"dtype": torch.float64}
PI = math.pi


def box(low, high, columns):
    return torch.tensor([[low] * columns, [high] * columns], **DOUBLE)


def ishigami(x, a=7.0, b=0.1):
    return (torch.sin(x[:, 0]) + a * torch.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * torch.sin(x[:, 0]))[:, None]


def ishigami_shares(a=7.0, b=0.1):
    """First, total and pair (1, 3), from the integrals of the sine function's squares."""
    one = 0.5 * (1 + b * PI**4 / 5) ** 2
    two, both = a**2 / 8, b**2 * PI**8 * (1 / 18 - 1 / 50)
    whole = one + two + both
    return [one / whole, two / whole, 0.0], [(one + both) / whole, two / whole, both / whole], both / whole, whole


WEIGHTS = (0.0, 1.0, 4.5, 9.0)


def g_function(x):
    a = torch.tensor(WEIGHTS, **DOUBLE)
    return ((((4 * x - 2).abs() + a) / (1 + a)).prod(1))[:, None]


def g_shares():
    """Of Sobol's g-function: the factors have mean 1 and variance 1 / (3 (1 + a)²)."""
    own = [1 / (3 * (1 + a) ** 2) for a in WEIGHTS]
    whole = math.prod(1 + v for v in own) - 1
    total = [v * math.prod(1 + w for j, w in enumerate(own) if j != i) / whole for i, v in enumerate(own)]
    pair = [[0.0 if i == j else own[i] * own[j] / whole for j in range(4)] for i in range(4)]
    return [v / whole for v in own], total, pair


def within(found, expected, error, limit, sizes=5):
    """Within a few standard errors, which are small themselves."""
    expected = torch.tensor(expected, **DOUBLE)
    assert error.max() < limit
    assert ((found - expected).abs() <= sizes * error + 1e-12).all(), (found, expected, error)


@pytest.mark.parametrize("seed", [0, 1])
def test_ishigami(seed):
    data = box(-PI, PI, 3)
    got = px.explain(ishigami, data, SobolIndices(distribution="uniform", points=4096), data=data, seed=seed)
    first, total, both, whole = ishigami_shares()
    within(got.parts["first"][0], first, got.parts["first_error"][0], 0.02)
    within(got.values[0], total, got.error[0], 0.02)
    within(got.parts["pair"][0], [[0, 0, both], [0, 0, 0], [both, 0, 0]], got.parts["pair_error"][0], 0.02)
    assert got.facts["variance"][0].item() == pytest.approx(whole, rel=0.01)
    assert got.facts["mean"][0].item() == pytest.approx(3.5, abs=0.01)
    scatter = float(got.parts["first_error"][0].sum())
    assert got.facts["alone_share"][0].item() == pytest.approx(1 - both, abs=3 * scatter)


def test_g_function_with_and_without_pairs():
    data = box(0.0, 1.0, 4)
    first, total, pair = g_shares()
    for pairs in (True, False):
        method = SobolIndices(distribution="uniform", points=4096, pairs=pairs)
        got = px.explain(g_function, data, method, data=data)
        within(got.parts["first"][0], first, got.parts["first_error"][0], 0.02)
        within(got.values[0], total, got.error[0], 0.01)
        if pairs:
            within(got.parts["pair"][0], pair, got.parts["pair_error"][0], 0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    data = box(0.0, 1.0, 4)
    first, total, _ = g_shares()
    hits, tried = 0, 0
    for seed in range(40):
        method = SobolIndices(distribution="uniform", points=128, pairs=False)
        got = px.explain(g_function, data[:1], method, data=data, seed=seed).parts
        for name, truth in (("first", first), ("total", total)):
            inside = (got[f"{name}_low"][0] <= torch.tensor(truth)) & (torch.tensor(truth) <= got[f"{name}_high"][0])
            hits, tried = hits + int(inside.sum()), tried + 4
    assert 0.88 <= hits / tried <= 0.99


def decomposed(model, *axes):
    """All effects over a full table of independent columns, by averaging and subtracting: set of columns → variance."""
    rows = torch.tensor(list(itertools.product(*axes)), **DOUBLE)
    scores = model(rows).reshape([len(a) for a in axes])
    columns, effects = range(len(axes)), {}
    for size in range(len(axes) + 1):
        for u in itertools.combinations(columns, size):
            rest = [j for j in columns if j not in u]
            mean = scores.mean(rest, keepdim=True) if rest else scores
            for smaller, effect in effects.items():
                if set(smaller) < set(u):
                    mean = mean - effect
            effects[u] = mean
    return {u: float((e.expand_as(scores) ** 2).mean()) for u, e in effects.items() if u}


def tangle(x):
    return (x[:, 0] * x[:, 1] * x[:, 3] + x[:, 0] ** 2 - 2 * x[:, 2] + x[:, 2] * x[:, 1])[:, None]


AXES = ([-1.0, 0, 2], [1.0, 2], [0.0, 3, 4, 5], [-2.0, 1])


def test_empirical_columns_are_drawn_from_the_values_of_the_data():
    data = torch.tensor(list(itertools.product(*AXES)), **DOUBLE)
    got = px.explain(tangle, data[:2], SobolIndices(points=16384), data=data)
    variance = decomposed(tangle, *AXES)
    whole = sum(variance.values())
    first = [variance[(j,)] / whole for j in range(4)]
    total = [sum(v for u, v in variance.items() if j in u) / whole for j in range(4)]
    within(got.parts["first"][0], first, got.parts["first_error"][0], 0.02)
    within(got.values[0], total, got.error[0], 0.02)
    assert got.facts["correlation"].max() < 1e-12


def test_weights_of_the_data_are_the_chances_of_its_values():
    data = torch.tensor([[0.0, 0.0], [1.0, 1.0]], **DOUBLE)
    model = lambda x: (x[:, 0] + x[:, 1])[:, None]  # noqa: E731
    given = {"rows": data, "weights": [0.9, 0.1]}
    got = px.explain(model, data, SobolIndices(points=16384), data=given)
    assert got.facts["variance"][0].item() == pytest.approx(2 * 0.09, rel=0.02)
    assert got.facts["mean"][0].item() == pytest.approx(0.2, abs=0.005)


def test_superset_importance_is_what_all_larger_effects_add_up_to():
    data = torch.tensor(list(itertools.product(*AXES)), **DOUBLE)
    got = px.explain(tangle, data[:1], FunctionalAnova(points=16384, order=3), data=data)
    variance = decomposed(tangle, *AXES)
    whole = sum(variance.values())

    def above(*u):
        return sum(v for w, v in variance.items() if set(u) <= set(w)) / whole

    pair = [[0.0 if i == j else above(i, j) for j in range(4)] for i in range(4)]
    within(got.values[0], [above(j) for j in range(4)], got.error[0], 0.02)
    within(got.parts["pair"][0], pair, got.parts["pair_error"][0], 0.02)
    within(got.parts["triple"][0, 0, 1, 3], above(0, 1, 3), got.parts["triple_error"][0, 0, 1, 3], 0.02)
    edges = {tuple(sorted(e)) for e in got.parts["edge"][0].nonzero().tolist()}
    assert edges == {(0, 1), (0, 3), (1, 3), (1, 2)}
    assert got.facts["edges"].tolist() == [4.0]
    outside = [t for t in itertools.permutations(range(4), 3) if set(t) != {0, 1, 3}]
    assert all(got.parts["triple"][0][t] == 0 for t in outside)


def test_planted_product_and_sum():
    data = box(-1.0, 1.0, 3)
    got = px.explain(
        lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:], data, FunctionalAnova(distribution="uniform"), data=data
    )
    assert got.parts["edge"][0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    # Var(x1 x2) = 1/9 and Var(x3) = 1/3.
    within(got.parts["pair"][0, 0, 1], 0.25, got.parts["pair_error"][0, 0, 1], 0.02)
    assert got.parts["pair"][0, [0, 1], [2, 2]].max() < 1e-20


def test_ishigami_network():
    data = box(-PI, PI, 3)
    got = px.explain(ishigami, data, FunctionalAnova(distribution="uniform", points=4096), data=data)
    assert got.parts["edge"][0].nonzero().tolist() == [[0, 2], [2, 0]]
    within(got.parts["pair"][0, 0, 2], ishigami_shares()[2], got.parts["pair_error"][0, 0, 2], 0.03)


@pytest.mark.parametrize("method", [SobolIndices, FunctionalAnova])
def test_a_tolerance_is_reached_or_said_to_be_missed(method):
    data = box(0.0, 1.0, 4)
    coarse = px.explain(g_function, data, method(distribution="uniform", points=64), data=data)
    got = px.explain(g_function, data, method(distribution="uniform", points=64, tolerance=0.01), data=data)
    name = "pair_error" if method is FunctionalAnova else None
    reached = got.error if name is None else got.parts[name]
    assert reached.max() <= 0.01 < coarse.facts["standard_error"].max()
    assert got.facts["converged"].tolist() == [1.0, 1.0]
    assert got.facts["points"][0] > 64
    missed = method(distribution="uniform", points=64, tolerance=1e-6, max_points=128)
    missed = px.explain(g_function, data, missed, data=data)
    assert missed.facts["converged"].tolist() == [0.0, 0.0]
    assert missed.facts["points"].tolist() == [128.0, 128.0]
    twice = px.explain(g_function, data, method(distribution="uniform", points=128), data=data)
    torch.testing.assert_close(missed.values, twice.values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", [SobolIndices, FunctionalAnova])
def test_a_constant_score_has_no_shares_and_an_unread_column_none(method):
    data = box(0.0, 1.0, 3)
    flat = px.explain(lambda x: 0 * x[:, :1] + 1e6, data, method(points=64), data=data)
    assert not flat.values.any()
    assert flat.facts["variance"].tolist() == [0.0, 0.0]
    got = px.explain(lambda x: torch.exp(x[:, :1]) * x[:, 1:2] + 1e6, data, method(points=64), data=data)
    assert got.values[:, 2].tolist() == [0.0, 0.0]


def test_rows_have_the_shares_of_their_own_class():
    model = lambda x: torch.stack([x[:, 0] * x[:, 1], 3 * x[:, 1] - x[:, 2]], 1)  # noqa: E731
    data = box(-1.0, 1.0, 3)
    inputs = torch.tensor([[1.0, 1.0, 3.0], [-1.0, 1.0, 0.0]], **DOUBLE)
    for method in (SobolIndices(points=256), FunctionalAnova(points=256, order=3)):
        both = px.explain(model, inputs, method, target=[0, 1], data=data)
        for row, target in enumerate((0, 1)):
            one = px.explain(model, inputs[row : row + 1], method, target=target, data=data)
            torch.testing.assert_close(both.values[row], one.values[0], rtol=0, atol=1e-12)
            for name, part in both.parts.items():
                torch.testing.assert_close(part[row], one.parts[name][0], rtol=0, atol=1e-12)


def test_correlation_of_the_data_is_told():
    x = torch.linspace(-1, 1, 50, **DOUBLE)
    data = torch.stack([x, -x, x * 0 + 3], 1)
    got = px.explain(lambda t: t[:, :1], data[:1], SobolIndices(points=64), data=data)
    assert got.facts["correlation"].item() == pytest.approx(1.0)


class Counting:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return x[:, :1]


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (SobolIndices(points=100), "'points'"),
        (SobolIndices(points=8), "'points'"),
        (FunctionalAnova(points=64.0), "'points'"),
        (SobolIndices(max_points=100), "'max_points'"),
        (SobolIndices(distribution="normal"), "'distribution'"),
        (SobolIndices(tolerance=0), "'tolerance'"),
        (FunctionalAnova(tolerance="small"), "'tolerance'"),
        (FunctionalAnova(threshold=-0.1), "'threshold'"),
        (FunctionalAnova(order=4), "'order'"),
    ],
)
def test_refused_before_the_model_runs(method, word):
    model, data = Counting(), box(0.0, 1.0, 2)
    with pytest.raises(PellucidError, match=word):
        px.explain(model, data, method, data=data)
    assert model.calls == 0
