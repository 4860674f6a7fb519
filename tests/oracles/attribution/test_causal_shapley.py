"""Causal Shapley values against closed forms of linear graphs, brute force over orders, and the games they contain."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import CausalShapley, ShapleyValue
from pellucid.contract.errors import InputError, LayerError, MethodError

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def along(rows, columns, seed=0):
    """Rows whose columns go along with each other, with means that are not zero."""
    return drawn(rows, columns, seed=seed) @ drawn(columns, columns, seed=seed + 1) + drawn(1, columns, seed=seed + 2)


def line(*weights):
    w = torch.tensor(weights, **DOUBLE)
    return lambda x: (x @ w)[:, None]


def slope(data, free, causes):
    """Least squares of centred columns on centred causes, by numpy: (causes, free)."""
    centred = (data - data.mean(0)).numpy()
    return np.linalg.lstsq(centred[:, causes], centred[:, free], rcond=None)[0]


# --- two columns in closed form ---------------------------------------------------------------------------------------


def two(data, x, weights, graph, confounded=True, **settings):
    method = CausalShapley(graph=graph, confounded=confounded, **settings)
    return px.explain(line(*weights), x, method, data=data)


@pytest.mark.parametrize("noise", ["gaussian", "data"])
def test_chain_fork_confounder_and_cycle(noise):
    data, x, w = along(20, 2, seed=3), drawn(1, 2, seed=9), (1.5, -2.0)
    gap = (x - data.mean(0))[0].tolist()
    b21, b12 = slope(data, [1], [0]).item(), slope(data, [0], [1]).item()

    def check(found, direct, indirect):
        assert found.parts["direct"][0].tolist() == pytest.approx(direct, abs=1e-10)
        assert found.parts["indirect"][0].tolist() == pytest.approx(indirect, abs=1e-10)
        both = [a + b for a, b in zip(direct, indirect, strict=True)]
        assert found.values[0].tolist() == pytest.approx(both, abs=1e-10)
        assert found.facts["completeness_gap"].item() < 1e-10
        if noise == "gaussian":  # the mirror images cancel in a linear score
            assert found.error.max() < 1e-10

    own = [w[0] * gap[0], w[1] * gap[1]]
    through = w[1] * b21 * gap[0] / 2  # half of what the first does through the second: in one order of two
    check(two(data, x, w, ((0,), (1,)), noise=noise), [own[0], own[1] - through], [through, 0.0])
    back = w[0] * b12 * gap[1] / 2
    check(two(data, x, w, ((1,), (0,)), noise=noise), [own[0] - back, own[1]], [0.0, back])
    check(two(data, x, w, ((0, 1),), True, noise=noise), own, [0.0, 0.0])
    check(two(data, x, w, ((0, 1),), False, noise=noise), [own[0] - back, own[1] - through], [through, back])
    check(two(data, x, w, ((0,), (1,)), edges=(), noise=noise), own, [0.0, 0.0])


# --- any graph, linear score: brute force -----------------------------------------------------------------------------

GRAPHS = {
    "chain": (((0,), (1,), (2,), (3,)), ((0, 1), (1, 2), (2, 3)), True),
    "fork": (((2,), (0,), (1,), (3,)), ((0, 1), (0, 2), (0, 3)), True),
    "collider": (((0,), (1,), (3,), (2,)), ((0, 3), (1, 3)), True),
    "order": (((3,), (1,), (0,), (2,)), None, True),
    "hidden cause": (((0,), (1, 3), (2,)), None, True),
    "cycle": (((0,), (1, 3), (2,)), None, False),
    "some of each": (((0, 1), (2, 3)), None, (False, True)),
}


def settled(data, graph, edges, confounded, values):
    """Means of all columns when those of `values` {column: value} are set, component after component."""
    mean, found = data.mean(0).tolist(), dict(values)
    hidden = confounded if isinstance(confounded, tuple) else (confounded,) * len(graph)
    for number, part in enumerate(graph):
        acting = [i for i in range(number) if edges is None or (i, number) in edges]
        causes = [c for i in acting for c in graph[i]]
        if not hidden[number]:
            causes += [c for c in part if c in values]
        for c in part:
            if c not in values:
                b = slope(data, [c], causes)[:, 0] if causes else []
                found[c] = mean[c] + sum(s * (found[k] - mean[k]) for s, k in zip(b, causes, strict=True))
    return [found[c] for c in range(len(mean))]


@pytest.mark.parametrize("name", GRAPHS)
def test_linear_score_over_all_orders(name):
    graph, edges, confounded = GRAPHS[name]
    data, x, w = along(30, 4, seed=5), drawn(2, 4, seed=8), (1.0, -2.0, 0.5, 3.0)
    got = px.explain(line(*w), x, CausalShapley(graph=graph, edges=edges, confounded=confounded), data=data)
    assert got.facts["walks"].tolist() == [0.0, 0.0]
    for n in range(2):
        direct, indirect = np.zeros(4), np.zeros(4)
        for order in itertools.permutations(range(4)):
            values = {}
            for i in order:
                before = settled(data, graph, edges, confounded, values)
                alone = [x[n, i].item() if c == i else v for c, v in enumerate(before)]
                values = {**values, i: x[n, i].item()}
                after = settled(data, graph, edges, confounded, values)
                direct[i] += np.dot(w, alone) - np.dot(w, before)
                indirect[i] += np.dot(w, after) - np.dot(w, alone)
        assert got.parts["direct"][n].tolist() == pytest.approx((direct / 24).tolist(), abs=1e-9)
        assert got.parts["indirect"][n].tolist() == pytest.approx((indirect / 24).tolist(), abs=1e-9)
    assert got.facts["baseline_score"].tolist() == pytest.approx([float(data.mean(0) @ torch.tensor(w, **DOUBLE))] * 2)


# --- the games it contains --------------------------------------------------------------------------------------------


def network(columns, classes=2):
    model = nn.Sequential(nn.Linear(columns, 6), nn.Tanh(), nn.Linear(6, classes)).double()
    for number, p in enumerate(model.parameters()):
        p.data = drawn(*p.shape, seed=number + 1)
    return model.eval()


def test_no_graph_is_the_shapley_value_over_the_background():
    model, data, x = network(3), along(8, 3, seed=1), drawn(4, 3, seed=2)
    got = px.explain(model, x, CausalShapley(noise="data"), target=1, data=data)
    marginal = px.explain(model, x, ShapleyValue(), target=1, data=data)
    torch.testing.assert_close(got.values, marginal.values, rtol=0, atol=1e-10)
    assert got.parts["indirect"].abs().max() == 0
    torch.testing.assert_close(got.facts["baseline_score"], marginal.facts["baseline_score"])


def test_chain_with_a_square_in_closed_form():
    # Score X₂²; X₁ -> X₂. v(∅) = m² + s², v(1) = (m + b d₁)² + s² - b² s₁², and the row's own once 2 is set.
    data, x = along(50, 2, seed=12), torch.tensor([[1.3, -0.4]], **DOUBLE)
    m, cov = data.mean(0), torch.cov(data.T, correction=0)
    b, d = (cov[0, 1] / cov[0, 0]).item(), (x[0, 0] - m[0]).item()
    nobody = (m[1] ** 2 + cov[1, 1]).item()
    first = (m[1].item() + b * d) ** 2 + (cov[1, 1] - b * b * cov[0, 0]).item()
    whole = x[0, 1].item() ** 2
    expected = [(first - nobody) / 2, (whole - nobody) / 2 + (whole - first) / 2]
    inside = []
    for seed in range(30):
        got = px.explain(lambda x: x[:, 1:] ** 2, x, CausalShapley(graph=((0,), (1,)), walks=200), data=data, seed=seed)
        assert got.parts["direct"][0, 0].item() == pytest.approx(0.0, abs=1e-12)  # the score never reads column 0
        assert got.facts["completeness_gap"].item() < 1e-10
        inside += ((got.values[0] - torch.tensor(expected, **DOUBLE)).abs() <= 2 * got.error[0]).tolist()
    assert 0.85 < np.mean(inside) <= 1.0
    wide = CausalShapley(graph=((0,), (1,)), walks=20000)
    got = px.explain(lambda x: x[:, 1:] ** 2, x, wide, data=data)
    assert got.values[0].tolist() == pytest.approx(expected, abs=5 * got.error.max().item())
    assert got.error.max() < 0.1 * max(map(abs, expected))


# --- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["gaussian", "data"])
def test_walks_agree_with_all_coalitions_as_their_errors_say(noise):
    model, data, x = network(4), along(25, 4, seed=4), drawn(1, 4, seed=6)
    shared = {"graph": ((0, 1), (2,), (3,)), "confounded": (False, True, True), "noise": noise}
    exact = px.explain(model, x, CausalShapley(**shared, walks=12000), target=0, data=data)
    assert exact.facts["walks"].item() == 0
    off = []
    for seed in range(25):
        got = px.explain(model, x, CausalShapley(**shared, walks=60), target=0, data=data, seed=seed)
        assert got.facts["walks"].item() == 60
        assert got.facts["forwards"].item() == 60 * 7 + 1
        for name, error in (("direct", "direct_error"), ("indirect", "indirect_error")):
            off.append((got.parts[name] - exact.parts[name])[0, :3] / got.parts[error][0, :3])
        off.append(((got.values - exact.values) / got.error)[0, :3])
        assert got.parts["indirect"][0, 3].item() == 0  # nothing comes after the last column
        assert got.facts["completeness_gap"].item() < 1e-10
    # Going through the data's rows in turn makes the figures better than the spread of the draws tells.
    least = 0.8 if noise == "gaussian" else 0.4
    assert least < torch.stack(off).square().mean().sqrt() < 1.35


def test_tolerance():
    model, data, x = network(4), along(25, 4, seed=4), drawn(3, 4, seed=6)
    method = CausalShapley(graph=((0,), (1, 2, 3)), walks=16, tolerance=0.05)
    got = px.explain(model, x, method, target=0, data=data)
    assert got.facts["converged"].tolist() == [1.0] * 3
    limit = 0.05 * got.values.square().mean(1).sqrt()
    assert (got.error.square().mean(1).sqrt() <= limit).all()
    alone = px.explain(model, x[1:2], method, target=0, data=data)
    torch.testing.assert_close(alone.values, got.values[1:2], rtol=0, atol=1e-12)
    few = px.explain(model, x, CausalShapley(walks=16, tolerance=1e-6, max_walks=64), target=0, data=data)
    assert few.facts["converged"].tolist() == [0.0] * 3


def test_rows_chunks_and_seeds():
    model, data, x = network(4), along(25, 4, seed=4), drawn(5, 4, seed=6)
    method = CausalShapley(graph=((0,), (1, 2), (3,)), walks=24)
    whole = px.explain(model, x, method, target=0, data=data)
    small = px.explain(model, x, method, target=0, data=data, memory=30_000)
    torch.testing.assert_close(small.values, whole.values, rtol=0, atol=1e-12)
    other = px.explain(model, x, method, target=0, data=data, seed=1)
    assert (other.values - whole.values).abs().max() > 1e-6


def test_columns_of_one_another_and_constant_ones():
    # The third column is twice the first, and the last never varies: their laws are singular, and still hold.
    base = along(20, 2, seed=30)
    data = torch.cat([base, 2 * base[:, :1], torch.full((20, 1), 3.0, **DOUBLE)], 1)
    method = CausalShapley(graph=((0,), (1,), (2,), (3,)))
    got = px.explain(line(0, 0, 1, 1), data[:2], method, data=data)
    gap = 2 * (data[:2, 0] - data[:, 0].mean())
    # Setting 0 moves 2 all the way unless 2 was set before: half each, in steps that add up.
    torch.testing.assert_close(got.values[:, 0] + got.values[:, 2] + got.values[:, 1], gap, rtol=0, atol=1e-9)
    assert got.values[:, 3].abs().max() < 1e-9
    assert math.isfinite(got.error.max().item())


def test_refusals():
    model, data, calls = network(3), drawn(8, 3), []
    watched = lambda x: calls.append(1) or model(x)  # noqa: E731
    wrong = [
        ({"graph": ((0, 1),)}, InputError),
        ({"graph": ((0, 1), (1, 2))}, InputError),
        ({"graph": ((0, 1, 2), ())}, InputError),
        ({"graph": (0, 1, 2)}, MethodError),
        ({"graph": ((0,), (1, 2)), "edges": ((1, 0),)}, MethodError),
        ({"graph": ((0,), (1, 2)), "confounded": (True,)}, MethodError),
        ({"noise": "uniform"}, MethodError),
        ({"walks": 0}, MethodError),
        ({"tolerance": 0.0}, MethodError),
    ]
    for settings, error in wrong:
        with pytest.raises(error):
            px.explain(watched, data[:1], CausalShapley(**settings), target=0, data=data)
    with pytest.raises(InputError, match="rows like"):
        px.explain(watched, data[:1], CausalShapley(), target=0, data=data[:, :2])
    with pytest.raises(InputError, match="at least 2"):
        px.explain(watched, data[:1], CausalShapley(), target=0, data=data[:1])
    assert not calls
    with pytest.raises(LayerError):
        px.explain(model, data[:1], CausalShapley(), target=0, data=data, layer="0")
