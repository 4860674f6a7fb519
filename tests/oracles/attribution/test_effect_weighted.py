"""Generalised functional ANOVA against averages on full tables, and a constrained fit written out on dependent ones."""

import itertools

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import GeneralizedFunctionalAnova
from pellucid.contract.errors import InputError

DOUBLE = {"dtype": torch.float64}
AXES = ([-1.0, 0, 2], [1.0, 2, 5], [0.0, 3])


def lattice(*axes):
    return torch.tensor(list(itertools.product(*axes)), **DOUBLE)


def dependent():
    """Rows of the table with very unequal weights, so that the columns move together; no row is missing."""
    data = lattice(*AXES)
    away = (data[:, 0] - data[:, 1] / 2).abs() + (data[:, 2] - data[:, 0]).abs() / 3
    return data, torch.exp(-2 * away) + 0.01


def close(got, expected, limit=1e-9):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected, **DOUBLE), rtol=0, atol=limit)


def mixture(x):
    return (x[:, 0] ** 2 + 3 * x[:, 1] * x[:, 2] - x[:, 0] * x[:, 1])[:, None]


def test_on_independent_columns_it_is_plain_functional_anova():
    data = lattice(*AXES)
    scores = mixture(data).reshape(3, 3, 2)
    got = px.explain(mixture, data, GeneralizedFunctionalAnova(), data=data)
    mean, whole = scores.mean(), scores.var(correction=0)
    for j in range(3):
        rest = [k for k in range(3) if k != j]
        effect = scores.mean(rest, keepdim=True) - mean
        close(got.values[:, j], effect.expand(3, 3, 2).flatten())
        close(got.parts["share"][0, j], (effect**2).mean() / whole)
        for k in range(j + 1, 3):
            third = 3 - j - k
            other = scores.mean([i for i in range(3) if i != k], keepdim=True) - mean
            pair = scores.mean(third, keepdim=True) - effect - other - mean
            close(got.parts["pair_effect"][:, j, k], pair.expand(3, 3, 2).flatten())
            close(got.parts["pair_share"][0, j, k], (pair**2).mean() / whole)
    close(got.facts["joint_share"], torch.ones(18))
    close(got.facts["identified"], torch.ones(18))


def by_hand(data, weights, scores):
    """Least squares over a table of values for each column and pair, with Hooker's conditions as equations to be met."""
    data, weights, scores = data.numpy(), weights.numpy() / weights.numpy().sum(), scores.numpy()
    sets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    cells = [(u, values) for u in sets for values in itertools.product(*(sorted(set(data[:, j])) for j in u))]
    design = np.array(
        [[float(all(row[j] == v for j, v in zip(u, values, strict=True))) for u, values in cells] for row in data]
    )
    equations = []
    for u in sets:
        for w in itertools.chain.from_iterable(itertools.combinations(u, size) for size in range(len(u))):
            for fixed in itertools.product(*(sorted(set(data[:, j])) for j in w)):
                inside = np.array([all(row[j] == v for j, v in zip(w, fixed, strict=True)) for row in data])
                mine = np.array([v == u for v, _ in cells])
                equations.append((weights * inside) @ design * mine)
    _, sizes, right = np.linalg.svd(np.array(equations))
    free = right[(sizes > 1e-10).sum() :].T
    root = np.sqrt(weights)[:, None]
    mean = weights @ scores
    found = free @ np.linalg.lstsq(root * design @ free, root[:, 0] * (scores - mean), rcond=1e-10)[0]
    return {u: design[:, [v == u for v, _ in cells]] @ found[[v == u for v, _ in cells]] for u in sets}


def test_on_dependent_columns_it_is_the_constrained_fit():
    data, weights = dependent()
    model = lambda x: mixture(x) + x.prod(1, keepdim=True)  # noqa: E731 - with an effect of all three columns left over
    got = px.explain(model, data, GeneralizedFunctionalAnova(), data={"rows": data, "weights": weights})
    expected = by_hand(data, weights, model(data)[:, 0])
    for j in range(3):
        close(got.values[:, j], expected[(j,)])
    for j, k in itertools.combinations(range(3), 2):
        close(got.parts["pair_effect"][:, j, k], expected[j, k])
        close(got.parts["pair_effect"][:, k, j], expected[j, k])
    assert 0.5 < got.facts["joint_share"][0] < 0.9999


def test_an_additive_model_keeps_its_components_where_columns_move_together():
    data, weights = dependent()
    share = (weights / weights.sum()).double()
    model = lambda x: (x[:, 0] ** 3 - 2 * x[:, 1] + torch.exp(x[:, 2] / 3))[:, None]  # noqa: E731
    got = px.explain(model, data, GeneralizedFunctionalAnova(), data={"rows": data, "weights": weights})
    parts = torch.stack([data[:, 0] ** 3, -2 * data[:, 1], torch.exp(data[:, 2] / 3)], 1)
    close(got.values, parts - share @ parts)
    close(got.parts["pair_effect"], torch.zeros(18, 3, 3))
    close(got.facts["additive_share"], torch.ones(18))
    close(got.parts["share"].sum(1), torch.ones(18))
    # A plain mean over the table's rows, by contrast, does not see the weights: the columns do move together.
    centred = data - share @ data
    assert ((centred * share[:, None]).T @ centred)[0, 1].abs() > 0.1


def test_pairs_are_uncorrelated_with_all_functions_of_their_columns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator, **DOUBLE)
    data = torch.stack([x[:, 0], x[:, 0] + 0.7 * x[:, 1]], 1)
    model = lambda t: torch.tanh(t[:, :1] * t[:, 1:]) + t[:, :1]  # noqa: E731
    got = px.explain(model, data, GeneralizedFunctionalAnova(points=5), data=data)
    marks, pair = got.parts["grid"][0].numpy(), got.parts["pair_effect"][:, 0, 1].numpy()
    assert np.abs(pair).max() > 0.1
    for j in (0, 1):
        close(got.values[:, j].mean(), 0.0)
        for point in range(5):
            bump = np.interp(data[:, j].numpy(), marks[j], np.eye(5)[point])
            assert abs((bump * pair).mean()) < 1e-10
    close(got.parts["share"].sum(1)[0] + got.parts["pair_share"][0, 0, 1], got.facts["joint_share"][0])
    surface = got.parts["surface"][0, 0].numpy()
    here = [np.interp(data[:, 1].numpy(), marks[1], row) for row in surface]
    read = [np.interp(float(v), marks[0], [h[n] for h in here]) for n, v in enumerate(data[:, 0])]
    close(np.array(read), torch.from_numpy(pair))


def test_held_out_share_is_that_of_fitting_again_without_each_row():
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, 3, (40, 2), generator=generator).double()
    noise = torch.randn(3, 3, generator=generator, **DOUBLE)
    model = lambda t: noise[t[:, 0].long(), t[:, 1].long()][:, None]  # noqa: E731
    method = GeneralizedFunctionalAnova(pairs=False)
    got = px.explain(model, data[:1], method, data=data)
    scores, missed = model(data)[:, 0], []
    for n in range(40):
        rest = torch.cat([data[:n], data[n + 1 :]])
        again = px.explain(model, data[n : n + 1], method, data=rest)
        missed.append(float(scores[n] - again.facts["baseline_score"] - again.values.sum()))
    spread = (scores - scores.mean()).square().sum()
    close(got.facts["heldout_share"], [1 - np.square(missed).sum() / float(spread)], 1e-6)


def test_columns_that_determine_each_other_are_told_and_share_the_effect():
    x = torch.linspace(-1, 1, 12, **DOUBLE)
    data = torch.stack([x, x], 1)
    got = px.explain(lambda t: t[:, :1] ** 2, data, GeneralizedFunctionalAnova(points=4, pairs=False), data=data)
    assert got.facts["identified"].tolist() == [0.5] * 12
    close(got.values[:, 0], got.values[:, 1])


def test_a_constant_score_has_no_effects():
    data = lattice(*AXES)
    got = px.explain(lambda t: 0 * t[:, :1] + 4, data, GeneralizedFunctionalAnova(), data=data)
    close(got.values, torch.zeros(18, 3), 1e-20)
    assert not got.parts["pair_share"].any()
    assert got.facts["joint_share"].tolist() == [1.0] * 18


class Counting:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return x[:, :1]


@pytest.mark.parametrize(
    ("method", "columns", "word"),
    [
        (GeneralizedFunctionalAnova(points=1), 3, "'points'"),
        (GeneralizedFunctionalAnova(pairs="all"), 3, "'pairs'"),
        (GeneralizedFunctionalAnova(points=20), 12, "unknowns"),
    ],
)
def test_refused_before_the_model_runs(method, columns, word):
    model, data = Counting(), torch.ones(4, columns, **DOUBLE)
    with pytest.raises(InputError, match=word):
        px.explain(model, data, method, data=data)
    assert model.calls == 0
