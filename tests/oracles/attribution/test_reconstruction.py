"""Linear operators with known matrices and pseudo-inverses, planted hallucinations, and a registration by hand."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import ReconstructionExplanation, Region
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}
NAME = "registration-reconstruction-explanation"
M, SIDE = 6, 4


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


A = normal(M, SIDE * SIDE)
INVERSE = torch.linalg.pinv(A)
IMAGES = normal(3, SIDE * SIDE, seed=2)
Y = IMAGES @ A.mT


class Reconstruct(nn.Module):
    """The pseudo-inverse, plus something that A can't see times the size of the measurements' first entry."""

    def __init__(self, invented=None, broken=None):
        super().__init__()
        self.matrix = nn.Parameter(INVERSE.clone())
        self.invented, self.broken = invented, broken

    def forward(self, y):
        found = y @ self.matrix.mT
        if self.invented is not None:
            found = found + y[:, :1].square() * self.invented
        if self.broken is not None:
            found = found + self.broken
        return found.reshape(-1, 1, SIDE, SIDE)


def null_vector():
    """A unit vector that A maps to zero, by orthogonalising against its rows one at a time."""
    basis = []
    for row in A:
        for b in basis:
            row = row - (row @ b) * b
        basis.append(row / row.norm())
    v = normal(SIDE * SIDE, seed=3)
    for b in basis + basis:
        v = v - (v @ b) * b
    assert float((A @ v).abs().max()) < 1e-12
    return v / v.norm()


def pixel(i, j):
    return lambda out: out[:, 0, i, j]


@pytest.mark.parametrize("place", [(0, 0), (2, 3)])
def test_jacobian_of_a_linear_reconstruction_is_its_matrix(place):
    model = Reconstruct().eval()
    row = INVERSE[place[0] * SIDE + place[1]]
    got = px.explain(model, Y, NAME, target=pixel(*place))
    torch.testing.assert_close(got.values, row.expand(3, M), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.facts["noise_gain"], row.norm().expand(3), rtol=0, atol=1e-12)
    assert float(got.facts["linear_gap"].max()) < 1e-10
    shown = px.explain(model, Y, ReconstructionExplanation(shown="contribution"), target=pixel(*place)).values
    torch.testing.assert_close(shown, Y * row, rtol=0, atol=1e-12)
    torch.testing.assert_close(shown.sum(1), model(Y)[:, 0, place[0], place[1]].detach(), rtol=0, atol=1e-10)


def test_noise_gain_is_the_spread_under_noise():
    model = Reconstruct().eval()
    gain = px.explain(model, Y[:1], NAME, target=pixel(1, 1)).facts["noise_gain"]
    with torch.no_grad():
        noisy = model(Y[:1] + 0.1 * normal(20_000, M, seed=9))[:, 0, 1, 1]
    assert math.isclose(float(noisy.std()) / 0.1, float(gain), rel_tol=0.03)


def test_pseudo_inverse_invents_nothing():
    got = px.explain(Reconstruct().eval(), Y, NAME, target=pixel(1, 2), data=A)
    assert float(got.facts["null_share"].max()) < 1e-20
    assert float(got.facts["data_gap"].max()) < 1e-10
    assert not got.facts["flagged"].any()
    torch.testing.assert_close(got.facts["score_measured"], got.facts["score"], rtol=0, atol=1e-10)


def as_function(images):
    return images.flatten(1) @ A.mT.to(images)


@pytest.mark.parametrize("operator", [A, as_function], ids=["matrix", "function"])
def test_planted_hallucination_is_found_where_it_lies(operator):
    """A vector of the null space is added by an amount that each row's measurement decides."""
    invented = 3 * null_vector()
    model = Reconstruct(invented).eval()
    where = divmod(int(invented.abs().argmax()), SIDE)
    got = px.explain(model, Y, NAME, target=pixel(*where), data=operator)
    for n in range(3):
        added = Y[n, 0] ** 2 * invented
        base = INVERSE @ Y[n]
        torch.testing.assert_close(got.parts["null"][n].flatten(), added, rtol=0, atol=1e-10)
        torch.testing.assert_close(got.parts["measured"][n].flatten(), base, rtol=0, atol=1e-10)
        share = float(added @ added) / float((base + added) @ (base + added))
        assert math.isclose(float(got.facts["null_share"][n]), share, rel_tol=1e-9)
        at = where[0] * SIDE + where[1]
        unsupported = abs(float(added[at])) / (abs(float(added[at])) + abs(float(base[at])))
        assert math.isclose(float(got.facts["unsupported"][n]), unsupported, rel_tol=1e-8)
        assert bool(got.facts["flagged"][n]) == (unsupported > 0.5)
    assert float(got.facts["data_gap"].max()) < 1e-10  # the measurements can't tell
    assert got.facts["flagged"].all()
    small = px.explain(model, Y / 1000, NAME, target=pixel(*where), data=operator)  # it is invented by the square
    assert not small.facts["flagged"].any()
    none = px.explain(model, Y, ReconstructionExplanation(level=1.0), target=pixel(*where), data=operator)
    assert not none.facts["flagged"].any()


def test_what_contradicts_the_measurements_shows_in_the_data_gap():
    broken = normal(SIDE * SIDE, seed=5)
    got = px.explain(Reconstruct(broken=broken).eval(), Y, NAME, target=pixel(0, 0), data=A)
    expected = (A @ broken).norm() / Y.norm(dim=1)
    torch.testing.assert_close(got.facts["data_gap"], expected, rtol=1e-9, atol=0)


def test_square_operators_leave_no_null_space_and_dependent_rows_count_once():
    square = normal(SIDE * SIDE, SIDE * SIDE, seed=6)
    model = nn.Linear(SIDE * SIDE, SIDE * SIDE).double().eval()
    got = px.explain(model, IMAGES, NAME, target=3, data=square)
    assert float(got.facts["null_share"].max()) < 1e-20
    model = nn.Linear(2 * M, SIDE * SIDE).double().eval()
    twice = px.explain(model, torch.cat([Y, Y], 1), NAME, target=3, data=torch.cat([A, A]))
    projector = INVERSE @ A
    with torch.no_grad():
        expected = model(torch.cat([Y, Y], 1)) @ projector.mT
    torch.testing.assert_close(twice.parts["measured"], expected, rtol=0, atol=1e-10)


class Register(nn.Module):
    """Displacement across, from the difference of two images, weighed twice for the moving one; none down."""

    def __init__(self):
        super().__init__()
        self.window = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()

    def forward(self, fixed, moving):
        across = self.window(fixed - 2 * moving)
        return torch.cat([across, torch.zeros_like(across)], 1)


def test_registration_by_hand():
    model = Register().eval()
    fixed = normal(2, 1, 6, 7, seed=7)
    moving = fixed.roll(1, 3)
    got = px.explain(model, (fixed, moving), NAME, target=Region(label=0, point=(3, 4)))
    expected = torch.zeros(6, 7, **DOUBLE)
    expected[2:5, 3:6] = model.window.weight[0, 0].detach()
    for n in range(2):
        torch.testing.assert_close(got.values[0][n, 0], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(got.values[1][n, 0], -2 * expected, rtol=0, atol=1e-12)
        sizes = [float((expected * fixed[n, 0]).abs().sum()), float((2 * expected * moving[n, 0]).abs().sum())]
        assert math.isclose(float(got.facts["share_1"][n]), sizes[0] / sum(sizes), rel_tol=1e-9)
        assert math.isclose(float(got.facts["share_2"][n]), sizes[1] / sum(sizes), rel_tol=1e-9)
    nothing = px.explain(model, (fixed, moving), NAME, target=Region(label=1, point=(3, 4)))
    assert not any(v.any() for v in nothing.values)
    assert nothing.facts["share_1"].tolist() == [0.0, 0.0]


def test_refusals():
    model = Reconstruct().eval()
    for setting in ({"shown": "both"}, {"level": 1.5}, {"level": True}):
        with pytest.raises(MethodError, match=f"'{next(iter(setting))}' must be"):
            px.explain(model, Y, ReconstructionExplanation(**setting), target=pixel(0, 0))
    wrong = {
        "its transpose": A.mT,
        "(6, pixels)": A[:5],
        "matrix (measurements, pixels), or a function": [1, 2],
        "column for each of the 16": A[:, :9],
        "finite": A * float("nan"),
        "must be linear": lambda x: as_function(x) + 1,
        "inputs' size, 6": lambda x: as_function(x)[:, :4],
    }
    for words, operator in wrong.items():
        with pytest.raises(InputError) as caught:
            px.explain(model, Y, NAME, target=pixel(0, 0), data=operator)
        assert words in str(caught.value)
    with pytest.raises(InputError, match="one input tensor"):
        px.explain(Register().eval(), (normal(1, 1, 4, 4), normal(1, 1, 4, 4)), NAME, target=Region(label=0), data=A)
