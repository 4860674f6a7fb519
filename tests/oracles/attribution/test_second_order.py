"""Second-order saliency against analytic optima of quadratics, Hessians written out, and subgradient conditions."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import SecondOrderSaliency
from pellucid.contract.errors import MethodError, TargetError
from pellucid.engine.curvature import extremes

DOUBLE = {"dtype": torch.float64}
FINE = {"tolerance": 1e-12, "steps": 5000}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Quadratic(nn.Module):
    """b x + ½ xᵀ A x: gradient b + A x and Hessian A everywhere."""

    def __init__(self, matrix, vector):
        super().__init__()
        self.matrix, self.vector = nn.Parameter(matrix), nn.Parameter(vector)

    def forward(self, x):
        return (x @ self.vector + ((x @ self.matrix) * x).sum(1) / 2)[:, None]


def symmetric(size, seed):
    a = rows(size, size, seed=seed)
    return (a + a.T) / 2


A, B, X = symmetric(5, 3), rows(5, seed=4), rows(3, 5)
QUADRATIC = Quadratic(A, B).eval()
SLOPE = B + X @ A
TOP = float(torch.linalg.eigvalsh(A)[-1])


def test_without_sparsity_it_solves_the_linear_system():
    weight = 0.7 * TOP + 0.3
    got = px.explain(QUADRATIC, X, SecondOrderSaliency(shrinkage=weight, **FINE))
    want = torch.linalg.solve(2 * weight * torch.eye(5, **DOUBLE) - A, SLOPE.T).T
    assert torch.allclose(got.values, want, atol=1e-9)
    gain = (SLOPE * want).sum(1) + ((want @ A) * want).sum(1) / 2
    assert torch.allclose(got.facts["predicted_change"], gain, atol=1e-8)
    exact = QUADRATIC(X + want)[:, 0] - QUADRATIC(X)[:, 0]  # the quadratic is the function itself
    assert torch.allclose(got.facts["predicted_change"], exact.detach(), atol=1e-8)


def test_the_shrinkage_chosen_is_half_plus_the_largest_curvature():
    size = float(torch.linalg.eigvalsh(A).abs().max())
    got = px.explain(QUADRATIC, X, SecondOrderSaliency(**FINE))
    want = torch.linalg.solve((1 + 2 * size) * torch.eye(5, **DOUBLE) - A, SLOPE.T).T
    assert torch.allclose(got.facts["curvature"], torch.full((3,), size, **DOUBLE), atol=1e-9)
    assert torch.allclose(got.values, want, atol=1e-9)


@pytest.mark.parametrize("sparsity", [0.2, 0.6])
def test_with_sparsity_the_optimum_meets_the_subgradient_conditions(sparsity):
    weight = TOP + 0.1
    got = px.explain(QUADRATIC, X, SecondOrderSaliency(shrinkage=weight, sparsity=sparsity, **FINE)).values
    limit = sparsity * SLOPE.abs().amax(1, keepdim=True)
    uphill = SLOPE + got @ A - 2 * weight * got
    moved = got != 0
    assert torch.allclose(uphill[moved], (limit * got.sign())[moved], atol=1e-8)
    assert bool((uphill.abs() <= limit + 1e-9).all())
    assert 0 < int(moved.sum()) < moved.numel()


def test_a_diagonal_hessian_is_solved_input_by_input():
    curve = torch.tensor([-2.0, 0.5, 1.0, 0.0, -0.1], **DOUBLE)
    model, x = Quadratic(torch.diag(curve), B).eval(), X
    slope = B + x * curve
    limit = 0.3 * slope.abs().amax(1, keepdim=True)
    want = slope.sign() * (slope.abs() - limit).clamp(min=0) / (2 * 1.5 - curve)
    got = px.explain(model, x, SecondOrderSaliency(shrinkage=1.5, sparsity=0.3, **FINE))
    assert torch.allclose(got.values, want, atol=1e-9)
    assert torch.allclose(got.facts["nonzero"], (want != 0).double().mean(1))


def test_without_curvature_it_is_the_gradient_thresholded():
    linear = nn.Linear(5, 3).double().eval()
    weight = linear.weight.detach()[1].expand(3, 5)
    assert torch.allclose(px.explain(linear, X, SecondOrderSaliency(**FINE), target=1).values, weight, atol=1e-12)
    limit = 0.5 * weight.abs().amax()
    soft = weight.sign() * (weight.abs() - limit).clamp(min=0)
    for order in (1, 2):
        got = px.explain(linear, X, SecondOrderSaliency(order=order, sparsity=0.5, shrinkage=2.0, **FINE), target=1)
        assert torch.allclose(got.values, soft / 4, atol=1e-12)


def test_first_order_leaves_the_hessian_out():
    got = px.explain(QUADRATIC, X, SecondOrderSaliency(order=1, shrinkage=0.5, **FINE)).values
    assert torch.allclose(got, SLOPE, atol=1e-12)


def test_the_loss_of_a_locally_linear_network_has_the_softmax_hessian():
    # A network of rectifiers is W x + b around a row; the cross-entropy's Hessian is Wᵀ (diag p - p pᵀ) W.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double().eval()
    got = px.explain(model, X, SecondOrderSaliency(of="loss", shrinkage=3.0, **FINE), target=2)
    for i, row in enumerate(X):
        on = (model[0](row) > 0).double()
        weight = model[2].weight @ (on[:, None] * model[0].weight)
        p = torch.softmax(model(row), 0)
        slope = weight.T @ (p - torch.tensor([0.0, 0.0, 1.0], **DOUBLE))
        hessian = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight
        want = torch.linalg.solve(6 * torch.eye(5, **DOUBLE) - hessian, slope)
        assert torch.allclose(got.values[i], want.detach(), atol=1e-9)
        assert abs(got.facts["score"][i] + torch.log(p[2]).detach()) < 1e-12


def test_extremes_are_the_eigenvalues():
    stacked = torch.stack([A, -A, torch.eye(5, **DOUBLE), torch.zeros(5, 5, **DOUBLE)])
    low, high = extremes(lambda v: (stacked @ v[:, :, None])[..., 0], torch.zeros(4, 5, **DOUBLE))
    found = torch.linalg.eigvalsh(stacked)
    assert torch.allclose(low, found[:, 0].clamp(max=0), atol=1e-9)
    assert torch.allclose(high, found[:, -1].clamp(min=0), atol=1e-9)


def test_fused_attention_recurrence_and_layers_have_second_derivatives():
    from nets import sequence, stock

    for model, x, layer in (
        (sequence.FLOAT["encoder"](), sequence.sentences(2), None),
        (sequence.FLOAT["lstm"](), sequence.sentences(2), None),
        (stock.SMALL["vit-sdpa"]("functional"), rows(1, 3, 16, 16), "patches"),
    ):
        got = px.explain(model, x, SecondOrderSaliency(of="loss"), target=0, layer=layer)
        assert bool((got.facts["curvature"] > 0).all())
        assert bool((got.facts["optimality_gap"] <= 1e-6).all())


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(MethodError, match="half the largest curvature"):
        px.explain(QUADRATIC, X, SecondOrderSaliency(shrinkage=0.49 * TOP))
    with pytest.raises(TargetError, match="class"):
        px.explain(QUADRATIC, X, SecondOrderSaliency(of="loss"))
    for settings in ({"order": 3}, {"of": "margin"}, {"sparsity": 1.0}, {"shrinkage": -1.0}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(QUADRATIC, X, SecondOrderSaliency(**settings))
