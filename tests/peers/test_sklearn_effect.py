"""Partial dependence and individual curves against scikit-learn, by brute force, on the same grid."""

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import IndividualConditionalExpectation, PartialDependence

sklearn = pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def fitted():
    from sklearn.ensemble import GradientBoostingRegressor

    random = np.random.default_rng(0)
    table = random.normal(size=(40, 3))
    table[:, 1] = np.round(table[:, 0] + 0.3 * table[:, 1])
    answers = table[:, 0] * table[:, 2] + np.sin(table[:, 1])
    model = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(table, answers)
    return model, table


def scores(model):
    return lambda x: model.predict(x.numpy())[:, None]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_curves_equal_scikit_learns(fitted, column):
    from sklearn.inspection import partial_dependence

    model, table = fitted
    data = torch.from_numpy(table)
    ice = px.explain(scores(model), data, IndividualConditionalExpectation(points=40), data=data).parts
    pdp = px.explain(scores(model), data, PartialDependence(points=40), data=data)
    theirs = partial_dependence(model, table, [column], grid_resolution=50, kind="both", method="brute")
    marks = theirs["grid_values"][0]
    count = len(marks)
    np.testing.assert_allclose(ice["grid"][0, column, :count].numpy(), marks, atol=1e-12)
    np.testing.assert_allclose(ice["curve"][:, column, :count].numpy(), theirs["individual"][0], atol=1e-12)
    centre = pdp.facts["baseline_score"][0]
    ours = pdp.parts["curve"][0, column, :count]
    average = torch.from_numpy(theirs["average"][0])
    weights = pdp.parts["density"][0, column, :count]
    torch.testing.assert_close(ours, average - weights @ average, rtol=0, atol=1e-12)
    assert centre == pytest.approx(model.predict(table).mean())


def test_the_surface_of_a_pair_equals_scikit_learns(fitted):
    from sklearn.inspection import partial_dependence

    model, table = fitted
    data = torch.from_numpy(table)
    got = px.explain(scores(model), data[:1], PartialDependence(points=40, pairs=((0, 1),)), data=data)
    theirs = torch.from_numpy(
        partial_dependence(model, table, [0, 1], grid_resolution=50, method="brute")["average"][0]
    )
    one, other = got.parts["density"][0, 0], got.parts["density"][0, 1][: theirs.shape[1]]
    beyond = theirs - (theirs @ other)[:, None] - one @ theirs + one @ theirs @ other
    torch.testing.assert_close(got.parts["surface"][0, 0][:, : theirs.shape[1]], beyond, rtol=0, atol=1e-12)
