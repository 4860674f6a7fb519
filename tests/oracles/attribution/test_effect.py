"""Partial dependence, individual curves and accumulated local effects against loops and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import (
    AccumulatedLocalEffects,
    IndividualConditionalExpectation,
    PartialDependence,
)
from pellucid.contract.errors import InputError, LayerError, NumericalError, PellucidError

DOUBLE = {"dtype": torch.float64}
METHODS = (PartialDependence, IndividualConditionalExpectation, AccumulatedLocalEffects)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def network(columns=3, classes=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(columns, 5), nn.Tanh(), nn.Linear(5, classes)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE)
    return net.eval()


def lattice(*axes):
    """Every combination of values, so that the columns are exactly independent."""
    return torch.tensor(list(itertools.product(*axes)), **DOUBLE)


def close(got, expected, limit=1e-12):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected, **DOUBLE), rtol=0, atol=limit)


def moved_mean(model, data, column, value, target):
    """The definition: every row with one column set, one after the other."""
    total = 0.0
    for row in data:
        changed = row.clone()
        changed[column] = value
        total += float(model(changed[None])[0, target])
    return total / len(data)


# --- partial dependence ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_pdp_is_the_mean_over_rows_with_the_column_set():
    model, data = network(), rows(9, 3)
    got = px.explain(model, data, PartialDependence(), target=1, data=data)
    for j in range(3):
        marks = sorted(data[:, j].tolist())
        close(got.parts["grid"][0, j], marks)
        raw = [moved_mean(model, data, j, v, 1) for v in marks]
        close(got.parts["curve"][0, j], np.array(raw) - np.mean(raw))
        for n in range(9):
            own = moved_mean(model, data, j, data[n, j], 1)
            assert got.values[n, j].item() == pytest.approx(own - np.mean(raw), abs=1e-12)
    close(got.facts["baseline_score"], model(data)[:, 1].mean().repeat(9))
    close(got.facts["grid_gap"], torch.zeros(9), 1e-7)


def test_each_row_has_the_curves_of_its_own_class():
    model, data = network(classes=3), rows(12, 3)
    inputs = rows(6, 3, seed=5)
    for method in (PartialDependence(points=4), AccumulatedLocalEffects(points=4)):
        free = px.explain(model, inputs, method, data=data)
        assert len(free.target.unique()) > 1
        for n in range(6):
            fixed = px.explain(model, inputs, method, target=int(free.target[n]), data=data)
            for name, part in free.parts.items():
                close(part[n].double(), fixed.parts[name][n].double())
            close(free.values[n], fixed.values[n])
            close(free.error[n], fixed.error[n])


def additive(x):
    return (x[:, 0] ** 2 - 3 * x[:, 1] + torch.sin(x[:, 2]))[:, None]


@pytest.mark.parametrize("method", [PartialDependence(), AccumulatedLocalEffects()])
def test_an_additive_model_gives_its_components_also_where_columns_move_together(method):
    x = rows(15, 1)
    data = torch.cat([x, 0.5 * x + 0.1 * rows(15, 1, seed=2), -x + 0.1 * rows(15, 1, seed=4)], 1)
    got = px.explain(additive, data, method, data=data)
    parts = torch.stack([data[:, 0] ** 2, -3 * data[:, 1], torch.sin(data[:, 2])], 1)
    close(got.values, parts - parts.mean(0))
    close(got.facts["additive_gap"], torch.zeros(15))
    close(got.facts["additive_share"], torch.ones(15))
    assert got.facts["sampling_error"].max() < 1e-12 or isinstance(method, AccumulatedLocalEffects)


def product(x):
    return x[:, :1] * x[:, 1:2]


def test_of_a_product_of_equal_columns_pdp_is_a_line_and_ale_half_a_square():
    """Apley & Zhu's point: for f = x1 x2 and x1 = x2 uniform on [0, 1], PD = (x - 1/2) / 2 and ALE = x²/2 - 1/6."""
    x = torch.linspace(0, 1, 401, **DOUBLE)
    data = torch.stack([x, x], 1)
    line = px.explain(product, data, PartialDependence(points=11), data=data)
    half = px.explain(product, data, AccumulatedLocalEffects(points=401), data=data)
    for j in (0, 1):
        close(line.values[:, j], (x - 0.5) / 2, 1e-12)
        close(half.values[:, j], x**2 / 2 - 1 / 6, 2e-3)
    assert line.facts["extrapolated"][0] > 0.8
    # The two lines add up to x - 1/2 where the score is x²: its variance 4/45 is missed by 1/180.
    close(line.facts["additive_share"], torch.full((401,), 15 / 16), 1e-2)
    close(half.facts["additive_share"], torch.ones(401), 1e-4)


def test_what_the_network_says_where_no_data_are_reaches_pdp_and_not_ale():
    x = torch.linspace(-1, 1, 41, **DOUBLE)
    data = torch.stack([x, x], 1)

    def wild(table):
        off = ((table[:, :1] - table[:, 1:]).abs() > 0.5).double()
        return table[:, :1] + table[:, 1:] + 100 * off * table[:, :1] ** 2

    calm = torch.stack([x, x], 1)
    ale = px.explain(wild, data, AccumulatedLocalEffects(), data=data)
    pdp = px.explain(wild, data, PartialDependence(), data=data)
    close(ale.values, calm, 1e-12)
    assert (pdp.values - calm).abs().max() > 10


def test_extrapolated_is_none_where_every_combination_occurs():
    data = lattice([0.0, 1, 2], [0.0, 1, 2], [5.0, 6])
    got = px.explain(additive, data, PartialDependence(), data=data)
    assert got.facts["extrapolated"].tolist() == [0.0] * len(data)


def test_interaction_is_what_total_and_first_order_variance_differ_by():
    """On a full table sqrt(V_total - V_first): for f = a b + c it is sd(a) sd(b) for a and b, and nothing for c."""
    data = lattice([-1.0, 0, 4], [2.0, 3, 7], [0.0, 1])
    model = lambda x: (x[:, 0] * x[:, 1] + x[:, 2])[:, None]  # noqa: E731
    got = px.explain(model, data, PartialDependence(), data=data).parts["interaction"][0]
    both = float(data[:, 0].std(correction=0) * data[:, 1].std(correction=0))
    close(got, [both, both, 0.0], 1e-12)


def test_pdp_surface_is_what_the_pair_does_beyond_its_curves():
    data = lattice([-1.0, 0, 4], [2.0, 3, 7], [0.0, 1])
    model = lambda x: (x[:, 0] * x[:, 1] + x[:, 1] * x[:, 2] ** 2)[:, None]  # noqa: E731
    got = px.explain(model, data[:1], PartialDependence(pairs=((0, 1), (0, 2))), data=data)
    a, b = torch.tensor([-1.0, 0, 4], **DOUBLE), torch.tensor([2.0, 3, 7], **DOUBLE)
    close(got.parts["surface"][0, 0], (a - a.mean())[:, None] * (b - b.mean()))
    close(got.parts["surface"][0, 1], torch.zeros(3, 3))
    assert got.parts["pairs"][0].tolist() == [[0, 1], [0, 2]]


def test_pdp_error_is_the_spread_of_single_curves_over_root_n():
    model, data = network(), rows(30, 3)
    got = px.explain(model, data, PartialDependence(points=6), target=0, data=data)
    ice = px.explain(model, data, IndividualConditionalExpectation(points=6), target=0, data=data).parts
    centred = ice["curve"] - (ice["density"] * ice["curve"]).sum(2, keepdim=True)
    close(got.parts["curve_error"][0], centred.std(0) / 30**0.5)


@pytest.mark.parametrize("method", [PartialDependence(points=4), AccumulatedLocalEffects(points=4)])
def test_a_weight_of_two_is_a_row_twice(method):
    model, data = network(), rows(10, 3)
    weights = torch.ones(10)
    weights[3] = 2
    inputs = rows(3, 3, seed=8)
    if isinstance(method, AccumulatedLocalEffects):  # its cuts lie by rank, so give it values that are all cuts
        data = data.round()
    spacing = {} if isinstance(method, AccumulatedLocalEffects) else {"spacing": "uniform"}
    method = type(method)(points=12 if not spacing else 4, **spacing)
    heavy = px.explain(model, inputs, method, target=0, data={"rows": data, "weights": weights})
    twice = px.explain(model, inputs, method, target=0, data=torch.cat([data, data[3:4]]))
    close(heavy.values, twice.values)
    close(heavy.facts["baseline_score"], twice.facts["baseline_score"])


def test_columns_with_few_values_and_with_one():
    data = lattice([0.0, 1.0], [3.0], [1.0, 2, 5])
    for method in METHODS:
        got = px.explain(additive, data, method(), data=data)
        assert got.parts["grid"].shape == (6, 3, 3)
        close(got.values[:, 1], torch.zeros(6))
        close(got.parts["curve"][:, 0, 1], got.parts["curve"][:, 0, 2])


def test_a_constant_model_has_flat_curves_that_reproduce_it():
    data = rows(8, 2)
    for method in METHODS:
        got = px.explain(lambda x: x[:, :1] * 0 + 7, data, method(), data=data)
        assert not got.values.any()
        if "additive_share" in got.facts:
            assert got.facts["additive_share"].tolist() == [1.0] * 8


def test_values_beyond_the_data_keep_the_last_and_are_counted():
    data = rows(8, 2)
    far = torch.tensor([[100.0, 0.0], [-100.0, 100.0]], **DOUBLE)
    got = px.explain(product, far, PartialDependence(), data=data)
    close(got.values[0, 0], got.parts["curve"][0, 0, -1])
    assert got.facts["outside"].tolist() == [1.0, 2.0]


# --- individual curves -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_ice_is_the_row_with_one_column_set():
    model, data, inputs = network(), rows(7, 3), rows(2, 3, seed=9)
    got = px.explain(model, inputs, IndividualConditionalExpectation(), target=1, data=data)
    for n, j in itertools.product(range(2), range(3)):
        raw = []
        for value in sorted(data[:, j].tolist()):
            changed = inputs[n].clone()
            changed[j] = value
            raw.append(float(model(changed[None])[0, 1]))
        close(got.parts["curve"][n, j], raw)
        own = float(model(inputs[n : n + 1])[0, 1])
        assert got.values[n, j].item() == pytest.approx(own - np.mean(raw), abs=1e-12)


def test_the_mean_of_ice_is_the_partial_dependence():
    model, data = network(), rows(11, 3)
    ice = px.explain(model, data, IndividualConditionalExpectation(points=5), target=0, data=data)
    pdp = px.explain(model, data, PartialDependence(points=5), target=0, data=data)
    close(ice.parts["curve"].mean(0), ice.parts["mean"][0])
    close(ice.parts["curve"].std(0, correction=0), ice.parts["spread"][0])
    mean = ice.parts["mean"][0]
    close(mean - (ice.parts["density"][0] * mean).sum(1, keepdim=True), pdp.parts["curve"][0])
    close(ice.parts["interaction"], pdp.parts["interaction"])


def test_centred_curves_start_at_zero_and_values_are_the_score_minus_that_at_the_anchor():
    model, data = network(), rows(7, 3)
    plain = px.explain(model, data, IndividualConditionalExpectation(), target=0, data=data)
    got = px.explain(model, data, IndividualConditionalExpectation(view="centred"), target=0, data=data)
    close(got.parts["curve"], plain.parts["curve"] - plain.parts["curve"][:, :, :1])
    close(got.values, plain.facts["score"][:, None] - plain.parts["curve"][:, :, 0])


def test_slopes_of_a_quadratic_are_exact_inside_and_read_at_the_row():
    """Three-point differences are exact for x², also between unequal steps."""
    data = torch.tensor([[0.0, 1], [1, 2], [3, 0], [4, 5], [8, 2]], **DOUBLE)
    model = lambda x: (x[:, 0] ** 2 * x[:, 1])[:, None]  # noqa: E731
    got = px.explain(model, data, IndividualConditionalExpectation(view="derivative"), data=data)
    for n in range(5):
        close(got.parts["curve"][n, 0, 1:4], 2 * torch.tensor([1.0, 3, 4], **DOUBLE) * data[n, 1])
    close(got.values[1:4, 0], 2 * data[1:4, 0] * data[1:4, 1])
    close(got.values[:, 1], data[:, 0] ** 2)


def test_curves_are_parallel_exactly_where_a_column_acts_alone():
    data = rows(9, 3)
    model = lambda x: (x[:, 0] * x[:, 1] + x[:, 2] ** 3)[:, None]  # noqa: E731
    slopes = px.explain(model, data, IndividualConditionalExpectation(view="derivative"), data=data).parts["spread"][0]
    assert slopes[2].max() < 1e-7 < 1e-2 < slopes[:2].min()
    apart = px.explain(model, data, IndividualConditionalExpectation(), data=data).parts["interaction"][0]
    assert apart[2] < 1e-12 < 1e-2 < apart[:2].min()


# --- accumulated local effects ---------------------------------------------------------------------------------------


@torch.no_grad()
def ale_loop(model, data, column, cuts, target):
    """Apley & Zhu, equations 15 and 16: intervals, means of differences, sums; linear between cuts."""
    sums, inside = [0.0], []
    for k in range(1, len(cuts)):
        low, high, found = cuts[k - 1], cuts[k], []
        for row in data:
            if low < row[column] <= high or (k == 1 and row[column] == cuts[0]):
                ends = []
                for value in (low, high):
                    changed = row.clone()
                    changed[column] = value
                    ends.append(float(model(changed[None])[0, target]))
                found.append(ends[1] - ends[0])
        inside.append(found)
        sums.append(sums[-1] + np.mean(found))
    here = np.interp(data[:, column].numpy(), cuts, sums)
    return np.array(sums) - here.mean(), here - here.mean(), inside


def test_ale_is_the_loop_over_intervals_and_rows():
    model, data = network(), rows(40, 3)
    got = px.explain(model, data, AccumulatedLocalEffects(points=6), target=1, data=data)
    for j in range(3):
        cuts = got.parts["grid"][0, j].tolist()
        assert set(cuts) <= set(data[:, j].tolist())
        assert (cuts[0], cuts[-1]) == (data[:, j].min(), data[:, j].max())
        curve, read, _ = ale_loop(model, data, j, cuts, 1)
        close(got.parts["curve"][0, j], curve)
        close(got.values[:, j], read)


def test_ale_error_is_that_of_drawing_rows_again_inside_each_interval():
    model, data = network(), rows(120, 3)
    got = px.explain(model, data, AccumulatedLocalEffects(points=5), target=1, data=data)
    random = np.random.default_rng(0)
    _, _, inside = ale_loop(model, data, 0, got.parts["grid"][0, 0].tolist(), 1)
    drawn = []
    for _ in range(4000):
        means = [np.mean(random.choice(found, len(found))) for found in inside]
        curve = np.cumsum([0, *means])
        drawn.append(curve - (got.parts["density"][0, 0].numpy() * curve).sum())
    close(got.parts["curve_error"][0, 0] / torch.as_tensor(np.std(drawn, 0)), torch.ones(5), 0.06)


def test_ale_surface_of_a_product_is_the_product_of_deviations():
    a, b = [0.0, 1, 2, 4], [1.0, 2, 6]
    data = lattice(a, b, [0.0, 1])
    model = lambda x: (3 * x[:, 0] * x[:, 1] + x[:, 0] ** 2 + x[:, 2])[:, None]  # noqa: E731
    got = px.explain(model, data[:1], AccumulatedLocalEffects(pairs=((0, 1), (2, 0))), data=data)
    surface = got.parts["surface"][0, 0]
    twice = surface[1:, 1:] - surface[:-1, 1:] - surface[1:, :-1] + surface[:-1, :-1]
    close(twice[:, : len(b) - 1], 3 * torch.tensor(a).diff()[:, None] * torch.tensor(b).diff())
    # The surface holds no effect of either column alone: all heights' mean differences along an axis, over the data, are 0.
    # In the first intervals there are two of the lattice's values, so they count twice.
    across = torch.tensor([2.0, 1.0], **DOUBLE) / 3
    steps = surface[1:] - surface[:-1]
    close((((steps[:, 1:] + steps[:, :-1]) / 2)[:, :2] * across).sum(1), torch.zeros(3))
    close(got.parts["surface"][0, 1], torch.zeros_like(surface))


def test_ale_surface_of_fine_even_columns_is_the_closed_form():
    marks = torch.linspace(-1, 1, 21, **DOUBLE)
    data = lattice(marks.tolist(), marks.tolist())
    got = px.explain(product, data[:1], AccumulatedLocalEffects(points=21, pairs=((0, 1),)), data=data)
    close(got.parts["surface"][0, 0], marks[:, None] * marks, 0.12)
    finer = torch.linspace(-1, 1, 81, **DOUBLE)
    data = lattice(finer.tolist(), finer.tolist())
    got = px.explain(product, data[:1], AccumulatedLocalEffects(points=81, pairs=((0, 1),)), data=data)
    close(got.parts["surface"][0, 0], finer[:, None] * finer, 0.03)


def test_ale_surface_goes_over_cells_without_rows():
    x = torch.linspace(0, 1, 30, **DOUBLE)
    data = torch.stack([x, x + 0.01 * torch.sin(40 * x)], 1)
    got = px.explain(product, data[:1], AccumulatedLocalEffects(points=6, pairs=((0, 1),)), data=data)
    assert torch.isfinite(got.parts["surface"]).all()


# --- refusals --------------------------------------------------------------------------------------------------------


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x[:, :1]


@pytest.mark.parametrize(
    ("method", "data", "word"),
    [
        (PartialDependence(points=1), rows(4, 2), "'points'"),
        (AccumulatedLocalEffects(points=2.5), rows(4, 2), "'points'"),
        (PartialDependence(spacing="log"), rows(4, 2), "'spacing'"),
        (PartialDependence(pairs=((0, 2),)), rows(4, 2), "'pairs'"),
        (PartialDependence(pairs=((1, 1),)), rows(4, 2), "'pairs'"),
        (AccumulatedLocalEffects(pairs=(0, 1)), rows(4, 2), "'pairs'"),
        (IndividualConditionalExpectation(view="slope"), rows(4, 2), "'view'"),
        (PartialDependence(), rows(1, 2), "at least 2 rows"),
        (PartialDependence(), rows(4, 3), "'data'"),
        (PartialDependence(), {"rows": rows(4, 2), "weights": torch.ones(3)}, "'weights'"),
        (PartialDependence(), {"rows": rows(4, 2), "weights": [1, -1, 1, 1]}, "'weights'"),
        (PartialDependence(), {"rows": rows(4, 2), "weights": [1, 0, 0, 0]}, "'weights'"),
        (PartialDependence(), None, "data="),
    ],
)
def test_refused_before_the_model_runs(method, data, word):
    model = Counting()
    with pytest.raises(PellucidError, match=word):
        px.explain(model, rows(2, 2), method, data=data)
    assert model.calls == 0


@pytest.mark.parametrize("method", METHODS)
def test_layers_images_and_scores_that_are_not_finite_are_refused(method):
    with pytest.raises(LayerError, match="columns"):
        px.explain(network(), rows(2, 3), method(), layer="0", data=rows(4, 3))
    with pytest.raises(InputError, match="table"):
        px.explain(lambda x: x[:, 0, :1], rows(2, 3, 3), method(), data=rows(4, 3, 3))
    data = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], **DOUBLE)
    alone = lambda x: torch.where(x[:, :1] == x[:, 1:], x[:, :1], torch.nan)  # noqa: E731
    with pytest.raises(NumericalError, match="'data'"):
        px.explain(alone, data, method(), data=data)
