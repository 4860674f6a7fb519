"""Taylor decomposition: exact for affine scores, roots known in closed form, and failure said."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from nets import stock
from nets.spellings import image
from pellucid.attribution import SimpleTaylor
from pellucid.contract.errors import MethodError

DOUBLE = {"dtype": torch.float64}


def of(function):
    class Formula(nn.Module):
        def forward(self, x):
            return function(x)[:, None]

    return Formula().eval()


def rows(*numbers):
    return torch.tensor(numbers, **DOUBLE)


@pytest.mark.parametrize("search", ["gradient", "line"])
def test_affine_scores_are_shared_exactly(search):
    model, x = stock.settle(nn.Linear(4, 3)), image(5, 1, 2).flatten(1)
    base = -3 * x if search == "line" else None
    found = px.explain(model, x, SimpleTaylor(search=search), target=2, data=base)
    w, score = model.weight[2], model(x)[:, 2].detach()
    reached = score * model(-3 * x)[:, 2] <= 0 if search == "line" else torch.ones(5, dtype=torch.bool)
    assert reached.any()
    assert torch.equal(found.facts["root_found"], reached.double())
    assert found.facts["residual"][reached].abs().max() <= 1e-12
    assert torch.allclose(found.values[reached].sum(1), score[reached], rtol=1e-12)
    if search == "gradient":  # the nearest root of all: x - S w / |w|²
        assert torch.allclose(found.values, score[:, None] * w**2 / (w @ w), rtol=1e-9)
        assert torch.allclose(found.facts["root_distance"], score.abs() / w.norm(), rtol=1e-9)


def test_the_root_of_a_circle():
    """S = |x|² - 1 along its gradient: the root is x / |x|, values 2 r_i (x_i - r_i), the residual (|x| - 1)²."""
    x = rows([3.0, 4.0], [0.0, 2.0])
    found = px.explain(of(lambda z: (z**2).sum(1) - 1), x, SimpleTaylor())
    length = x.norm(dim=1, keepdim=True)
    root = x / length
    assert torch.allclose(found.baseline, root, atol=1e-9)
    assert torch.allclose(found.values, 2 * root * (x - root), atol=1e-8)
    assert torch.allclose(found.facts["residual"], (length[:, 0] - 1) ** 2, atol=1e-8)
    assert found.facts["root_score"].abs().max() <= 1e-12
    assert found.facts["root_found"].tolist() == [1.0, 1.0]


def test_the_first_root_on_a_line():
    """sin on the way from 7 to 0 meets 2π first; there its slope is one."""
    found = px.explain(of(lambda z: torch.sin(z[:, 0])), rows([7.0]), SimpleTaylor(search="line"))
    assert found.baseline.item() == pytest.approx(2 * math.pi, abs=1e-12)
    assert found.values.item() == pytest.approx(7 - 2 * math.pi, abs=1e-12)
    assert found.facts["residual"].item() == pytest.approx(math.sin(7) - (7 - 2 * math.pi), abs=1e-12)


@pytest.mark.parametrize("search", ["gradient", "line"])
def test_failure_is_said(search):
    """|x|² + 1 has no root: the expansion is around the smallest score met, and the facts say so."""
    x = rows([1.0, 2.0], [0.5, 0.0])
    found = px.explain(of(lambda z: (z**2).sum(1) + 1), x, SimpleTaylor(search=search, baseline=-1.0))
    assert found.facts["root_found"].tolist() == [0.0, 0.0]
    root, gap = found.baseline, found.facts["residual"] - found.facts["root_score"]
    assert torch.allclose(found.facts["root_score"], (root**2).sum(1) + 1)
    assert (found.facts["root_score"] >= 1).all()
    assert torch.allclose(found.values, 2 * root * (x - root))
    assert torch.allclose(gap, ((x - root) ** 2).sum(1))


def test_rows_that_fail_do_not_spoil_the_others():
    """The second row's score is 1.01 up to a place where it jumps to -1: a change of sign, and no root."""
    score = of(lambda z: torch.where(z[:, 0] > 0, z[:, 0] - 1, z[:, 0] ** 2 + 1 + z[:, 1]))
    found = px.explain(score, rows([3.0, 0.0], [-0.1, 0.0], [2.0, 5.0]), SimpleTaylor(search="line", baseline=0.5))
    assert found.facts["root_found"].tolist() == [1.0, 0.0, 1.0]
    assert found.facts["root_score"][1].abs() > 0.4
    assert torch.allclose(found.values[[0, 2]], rows([2.0, 0.0], [1.0, 0.0]))


def test_where_the_score_is_zero_everything_is_zero():
    found = px.explain(of(lambda z: z.sum(1)), rows([1.0, -1.0]), SimpleTaylor())
    assert not found.values.any()
    assert found.facts["residual"].item() == 0
    flat = px.explain(of(lambda z: (z * 0).sum(1) + 2), rows([1.0, -1.0]), SimpleTaylor())
    assert flat.facts["root_found"].item() == 0
    assert flat.facts["residual"].item() == 2


@pytest.mark.parametrize("search", ["gradient", "line"])
def test_the_residual_is_what_the_sum_misses(search):
    model, x = stock.small_vgg(), image(4, 3, 16)
    found = px.explain(model, x, SimpleTaylor(search=search), target=2)
    total = found.values.flatten(1).sum(1)
    score = model(x)[:, 2].detach()
    assert torch.allclose(found.facts["residual"], score - total, rtol=1e-12)
    at_root = model(found.baseline)[:, 2].detach()
    assert torch.allclose(at_root, found.facts["root_score"], rtol=1e-6, atol=1e-12)
    kept = found.facts["root_found"] == 1
    assert kept.any()
    assert (at_root[kept].abs() <= 1e-9 * score[kept].abs()).all()


def test_at_a_layer():
    model = stock.settle(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
    x = image(3, 1, 2).flatten(1)
    found = px.explain(model, x, SimpleTaylor(), target=1, layer="1")
    w, score = model[2].weight[1], model(x)[:, 1].detach()
    assert torch.allclose(found.values, score[:, None] * w**2 / (w @ w), rtol=1e-9)


def test_settings_are_checked():
    for settings in ({"search": "newton"}, {"points": 0}, {"reach": 0.0}, {"reach": math.inf}):
        with pytest.raises(MethodError, match=f"'{next(iter(settings))}' must be"):
            px.explain(of(lambda z: z.sum(1)), rows([1.0]), SimpleTaylor(**settings))
