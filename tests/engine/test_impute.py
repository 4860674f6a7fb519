"""Holes filled from around: against the equations written out one by one, and against what is known without them."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, drawn
from pellucid.contract.errors import InputError
from pellucid.engine import impute
from pellucid.evaluation import InsertionDeletion, RegionPerturbation, SensitivityN


def by_hand(picture, gone):
    """Each missing value times the weights of its neighbours is their weighted sum: a dense system."""
    height, width = gone.shape
    places = [(i, j) for i in range(height) for j in range(width) if gone[i, j]]
    found = picture.clone()
    for channel in range(len(picture)):
        matrix, right = torch.zeros(len(places), len(places), **DOUBLE), torch.zeros(len(places), **DOUBLE)
        for number, (i, j) in enumerate(places):
            for k in (i - 1, i, i + 1):
                for m in (j - 1, j, j + 1):
                    if (k, m) == (i, j) or not (0 <= k < height and 0 <= m < width):
                        continue
                    weight = 1 / 6 if k == i or m == j else 1 / 12
                    matrix[number, number] += weight
                    if gone[k, m]:
                        matrix[number, places.index((k, m))] -= weight
                    else:
                        right[number] += weight * picture[channel, k, m]
        for (i, j), value in zip(places, torch.linalg.solve(matrix, right), strict=True):
            found[channel, i, j] = value
    return found


@pytest.mark.parametrize(("height", "width"), [(4, 7), (9, 5), (1, 6), (3, 1)])
def test_holes_solve_the_equations(height, width):
    pictures = drawn(3, 2, height, width)
    gone = drawn(3, 1, height, width, seed=1) > torch.tensor([-1.0, 0.0, 1.0], **DOUBLE)[:, None, None, None]
    gone[:, :, 0, 0] = False
    found = impute.imputed(pictures, gone)
    for row in range(3):
        assert torch.allclose(found[row], by_hand(pictures[row], gone[row, 0]), atol=1e-12, rtol=0)


def test_each_channel_may_have_a_hole_of_its_own():
    pictures, gone = drawn(1, 2, 5, 4), drawn(1, 2, 5, 4, seed=1) > 0
    found = impute.imputed(pictures, gone)
    for channel in range(2):
        one = by_hand(pictures[0, channel : channel + 1], gone[0, channel])
        assert torch.allclose(found[0, channel], one[0], atol=1e-12, rtol=0)


def test_slopes_go_on_through_holes_and_large_holes_stay_within_bounds():
    """A plane is its own mean of neighbours, so a hole inside it closes without a trace; nothing leaves the known range."""
    down, right = torch.meshgrid(torch.arange(40.0, **DOUBLE), torch.arange(30.0, **DOUBLE), indexing="ij")
    plane, gone = (2 * down - 3 * right)[None, None], torch.zeros(1, 1, 40, 30, dtype=torch.bool)
    gone[..., 3:-3, 4:-2] = True
    assert torch.allclose(impute.imputed(plane, gone), plane, atol=1e-9)
    noise = drawn(1, 1, 40, 30)
    found = impute.imputed(noise, gone)[gone]
    assert noise[~gone].min() < found.min() < found.max() < noise[~gone].max()


def test_nothing_left_is_the_mean_and_nothing_gone_is_the_picture():
    picture = drawn(1, 2, 4, 4)
    every = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mean = picture.mean((2, 3), keepdim=True).expand_as(picture)
    assert torch.allclose(impute.imputed(picture, every), mean)
    assert torch.equal(impute.imputed(picture, ~every), picture)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(30, 2, **DOUBLE)
        self.last.weight.data = drawn(2, 30, seed=9)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(x).flatten(1))


def test_curves_are_those_of_imputed_pictures_with_noise_of_the_rows_own():
    net, x = Small(), drawn(3, 1, 5, 6, seed=2)
    method = InsertionDeletion(features="pixel", baseline="imputed", references=0, steps=6)
    found = px.explain(net, x, method, target=0)
    assert {*found.facts} == set()
    order = px.explain(net, x, "gradient-x-input", target=0).values.flatten(1).argsort(descending=True, stable=True)
    error = impute.NOISE * float(x.flatten(1).std(1).max()) * float(net.last.weight.detach()[0].norm())
    for row in range(3):
        for point, count in enumerate([0, 5, 10, 15, 20, 25]):
            gone = torch.zeros(30, dtype=torch.bool)
            gone[order[row, :count]] = True
            with torch.no_grad():
                bare = net(by_hand(x[row], gone.reshape(5, 6))[None])[0, 0].item()
            assert abs(found.parts["curve"][row, point].item() - bare) <= 5 * error * (count > 0) + 1e-12
    alone = px.explain(net, x[1:2], method, target=0)
    assert torch.allclose(alone.values, found.values[1:2], atol=1e-12, rtol=0)
    again, other = (px.explain(net, x, method, target=0, seed=s) for s in (0, 1))
    assert torch.equal(again.values, found.values)
    assert not torch.equal(other.values, found.values)


@pytest.mark.parametrize(
    "method",
    [
        RegionPerturbation(fill="imputed", features="pixel", steps=3, references=2),
        SensitivityN(baseline="imputed", features="pixel", sizes=(2,), samples=5),
    ],
)
def test_other_measurements_take_the_same_fill(method):
    found = px.explain(Small(), drawn(2, 1, 5, 6, seed=2), method, target=0)
    assert bool(torch.isfinite(found.values).all())


def test_tables_are_refused():
    with pytest.raises(InputError, match="pictures"):
        px.explain(nn.Linear(4, 2).double().eval(), drawn(2, 4), InsertionDeletion(baseline="imputed"))
