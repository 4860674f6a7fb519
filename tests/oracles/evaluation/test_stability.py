"""Lipschitz estimates and continuity against functions whose gradients are known."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import ExplanationContinuity, LocalLipschitz


class Quadratic(nn.Module):
    """xᵀ A x / 2 for a symmetric A, whose gradient is A x."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x):
        return (x @ self.a * x).sum(1, keepdim=True) / 2


B = drawn(5, 5, seed=1)
A = B + B.T
QUADRATIC = Quadratic(A).eval()


class Curved(nn.Module):
    """Six values of any shape to two scores that bend."""

    def forward(self, x):
        x = x.flatten(1)
        first = (x**3).sum(1) + x[:, 0] * x[:, 1]
        return torch.stack([first, -first + x.sin().sum(1)], 1)


def gradient(x, target):
    """Of `Curved`, by hand; x (6,)."""
    slope = 3 * x**2
    slope[0] += x[1]
    slope[1] += x[0]
    return slope if target == 0 else x.cos() - slope


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (1, 3, 2)])
def test_over_the_data_it_is_a_loop_over_neighbours(rows, shape):
    x, near = drawn(rows, *shape, seed=2), drawn(9, *shape, seed=3)
    near[0] = x[0]  # at no distance, so no neighbour
    targets = torch.arange(rows) % 2
    method = LocalLipschitz(of="vanilla-gradient", search="data", radius=3.0, samples=9)
    found = px.explain(Curved().eval(), x, method, target=targets, data={"neighbours": near})
    for row in range(rows):
        ratios = []
        for other in near:
            far = (other - x[row]).norm().item()
            if 0 < far <= 3:
                change = gradient(other.flatten().clone(), targets[row]) - gradient(x[row].flatten(), targets[row])
                ratios.append(change.norm().item() / far)
        assert found.facts["asked"][row].item() == len(ratios)
        if ratios:
            own = gradient(x[row].flatten(), targets[row]).norm().item()
            assert found.values[row].item() == pytest.approx(max(ratios))
            assert found.facts["mean"][row].item() == pytest.approx(sum(ratios) / len(ratios))
            assert found.facts["relative"][row].item() == pytest.approx(max(ratios) / own)
        else:
            assert bool(found.values[row].isnan())
            assert row in found.source["overall"]["excluded"]


def test_a_quadratic_is_never_above_its_spectral_norm_and_reaches_it_along_the_top_eigenvector():
    x, norm = drawn(4, 5, seed=4), torch.linalg.matrix_norm(A, 2).item()
    for ball in ("l2", "linf"):
        found = px.explain(QUADRATIC, x, LocalLipschitz(of="vanilla-gradient", samples=30, ball=ball))
        assert bool((found.values <= norm * (1 + 1e-9)).all())
        assert bool((found.values > 0.4 * norm).all())
    values, vectors = torch.linalg.eigh(A)
    top = vectors[:, values.abs().argmax()]
    along = {"neighbours": torch.cat([x + 0.01 * top, x + 0.5])}
    found = px.explain(QUADRATIC, x, LocalLipschitz(of="vanilla-gradient", search="data", radius=0.1), data=along)
    assert found.values.tolist() == pytest.approx([norm] * 4)
    assert found.facts["distance"].tolist() == pytest.approx([0.01] * 4)


def test_points_lie_in_the_ball_and_more_of_them_find_no_less():
    x = drawn(3, 5, seed=5)
    few, many = (
        px.explain(QUADRATIC, x, LocalLipschitz(of="vanilla-gradient", samples=n, radius=0.3)) for n in (4, 40)
    )
    assert bool((many.values >= few.values).all())
    assert bool((many.facts["distance"] <= 0.3).all())
    square = px.explain(QUADRATIC, x, LocalLipschitz(of="vanilla-gradient", radius=0.3, ball="linf"))
    assert bool((square.facts["distance"] <= 0.3 * 5**0.5).all())


def test_constant_explanations_do_not_move():
    net, x = nn.Linear(6, 2, **DOUBLE).eval(), drawn(3, 6)
    for method in (LocalLipschitz, ExplanationContinuity):
        assert px.explain(net, x, method(of="vanilla-gradient")).values.tolist() == [0.0] * 3


def test_an_explanation_that_is_its_input_moves_as_fast():
    x = drawn(3, 2, 2, 3, seed=6)
    assert px.explain(NET, x, LocalLipschitz(of=Told())).values.tolist() == pytest.approx([1.0] * 3)
    found = px.explain(NET, x, ExplanationContinuity(of=Told(), samples=200))
    assert found.values.max() <= 12**0.5  # ‖d‖₁ / ‖d‖₂ of 12 numbers
    assert found.facts["mean"].mean().item() == pytest.approx((2 * 12 / torch.pi) ** 0.5, rel=0.03)
    ratio = found.parts["ratio"]
    assert torch.allclose(found.values, ratio.amax(1))
    assert torch.allclose(found.facts["median"], ratio.quantile(0.5, dim=1))


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 5)])
def test_shifts_are_those_of_the_picture(shape):
    x = drawn(2, *shape, seed=7)
    found = px.explain(NET, x, ExplanationContinuity(of=Told(), nearby="translation", radius=2))
    for row in range(2):
        want = []
        for shift in (-1, 1, -2, 2):
            moved = torch.stack([x[row, :, :, (c - shift) % 5] for c in range(5)], -1)
            change = (moved - x[row]).flatten()
            want.append((change.abs().sum() / change.norm()).item())
        assert found.parts["ratio"][row].tolist() == pytest.approx(want)


def test_the_sharpest_bend_of_a_softplus():
    class Soft(nn.Module):
        def forward(self, x):
            return nn.functional.softplus(4 * x)

    near = torch.linspace(-0.01, 0.01, 21, **DOUBLE)[:, None]
    found = px.explain(Soft().eval(), near, ExplanationContinuity(of="vanilla-gradient", radius=0.01))
    assert found.values.max() <= 4**2 / 4
    assert found.values.max().item() == pytest.approx(4**2 / 4, rel=1e-3)


def test_selectivity_is_the_area_under_a_linear_models_scores():
    net = nn.Linear(3, 1, bias=False, **DOUBLE).eval()
    net.weight.data = torch.tensor([[1.0, 3.0, 2.0]], **DOUBLE)
    x = torch.ones(1, 3, **DOUBLE)
    found = px.explain(net, x, ExplanationContinuity(of="gradient-x-input"))
    assert found.facts["selectivity"].item() == pytest.approx((6 / 2 + 3 + 1 + 0 / 2) / 3)  # 6, 3, 1, 0


@pytest.mark.parametrize(
    "method",
    [
        LocalLipschitz(search="far"),
        LocalLipschitz(ball="l1"),
        LocalLipschitz(radius=0),
        LocalLipschitz(radius=None),
        LocalLipschitz(samples=0),
        ExplanationContinuity(nearby="data"),
        ExplanationContinuity(radius=-1.0),
        ExplanationContinuity(nearby="translation", radius=1),
        ExplanationContinuity(steps=0),
    ],
)
def test_bad_settings_are_refused(method):
    with pytest.raises(MethodError):
        px.explain(NET, drawn(1, 6), method)


def test_neighbours_are_needed_and_must_fit():
    search = LocalLipschitz(search="data")
    with pytest.raises(NeedError, match="neighbours"):
        px.explain(NET, drawn(1, 6), search)
    with pytest.raises(InputError, match="data"):
        px.explain(NET, drawn(1, 6), search, data={"neighbours": drawn(2, 5)})
    with pytest.raises(InputError, match="floating"):
        px.explain(lambda x: x.double(), torch.ones(1, 4).long(), LocalLipschitz(of="feature-ablation"))
