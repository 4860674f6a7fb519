"""Maximum sensitivity against the closed form of a quadratic score, and against points drawn by hand."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import MaxSensitivity

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Quadratic(nn.Module):
    """½ xᵀ A x, whose gradient A x moves by A δ."""

    def __init__(self, size):
        super().__init__()
        a = drawn(size, size, seed=2)
        self.matrix = nn.Parameter((a + a.T) / 2)
        self.eval()

    def forward(self, x):
        x = x.flatten(1)
        return (x @ self.matrix * x).sum(1, keepdim=True) / 2


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_ascent_finds_the_spectral_norm(shape, rows):
    net, x = Quadratic(6), drawn(rows, *shape, seed=3)
    settings = {"of": "vanilla-gradient", "radius": 0.5}
    norm = 0.5 * float(torch.linalg.matrix_norm(net.matrix.detach(), 2))
    climbed = px.explain(net, x, MaxSensitivity(search="ascent", steps=40, **settings))
    assert climbed.values.tolist() == pytest.approx([norm] * rows, rel=1e-3)
    assert bool((climbed.values <= norm * (1 + 1e-12)).all())
    sampled = px.explain(net, x, MaxSensitivity(samples=300, **settings))
    assert bool((sampled.values <= norm).all())
    assert bool((sampled.values > 0.8 * norm).all())
    assert bool((sampled.facts["mean"] < sampled.values).all())
    length = (x.flatten(1) @ net.matrix.detach()).norm(dim=1)
    assert torch.allclose(climbed.facts["relative"], climbed.values / length)


def test_in_a_cube_the_ascent_ends_in_a_corner():
    """All 2⁶ corners by hand: what is found is the change at one of them, no less than sampling found."""
    net, x = Quadratic(6), drawn(2, 6, seed=3)
    corners = torch.tensor([[1.0 if n >> i & 1 else -1.0 for i in range(6)] for n in range(64)], **DOUBLE)
    reached = (0.1 * corners @ net.matrix.detach()).norm(dim=1)
    method = MaxSensitivity(of="vanilla-gradient", radius=0.1, ball="linf", search="ascent", samples=40)
    found = px.explain(net, x, method)
    for value in found.values:
        assert (reached - value).abs().min().item() < 1e-9
        assert reached.max().item() * 0.85 < value.item() <= reached.max().item() + 1e-12
    assert bool((found.facts["gain"] > 0).all())


def test_points_fill_the_ball_evenly():
    """For φ = x the change is the length of the move: in d dimensions its mean is r d / (d + 1)."""

    class Half(nn.Module):
        def forward(self, x):
            return (x**2).sum(1, keepdim=True) / 2

    found = px.explain(Half().eval(), drawn(1, 3), MaxSensitivity(of="vanilla-gradient", radius=2.0, samples=800))
    assert abs(found.facts["mean"].item() - 1.5) < 5 * found.facts["standard_error"].item()
    assert found.values.item() <= 2.0


def test_the_target_is_kept():
    """At the boundary of two classes the moved row has another predicted class, and is asked about the first."""
    net = nn.Linear(2, 2, bias=False, **DOUBLE).eval()
    net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]], **DOUBLE)
    x = torch.tensor([[1.0, 1.0 - 1e-6]], **DOUBLE)
    assert px.explain(net, x, MaxSensitivity(of="vanilla-gradient", samples=20)).values.item() == 0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"search": "x"}, MethodError),
        ({"ball": "l1"}, MethodError),
        ({"radius": 0}, MethodError),
        ({"samples": 1}, MethodError),
        ({"steps": 0}, MethodError),
        ({}, InputError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, error):
    def never(x):
        raise AssertionError("called")

    x = drawn(1, 6) if settings else torch.ones(1, 6, dtype=torch.long)
    with pytest.raises(error):
        px.explain(never, x, MaxSensitivity(of="feature-ablation", **settings))
