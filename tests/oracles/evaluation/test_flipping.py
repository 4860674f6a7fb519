"""Region perturbation against its definition, one forward after the other."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, Six, drawn
from pellucid.contract.errors import MethodError
from pellucid.evaluation import RegionPerturbation

NET = Six()


def by_hand(x, target, order, fill):
    """x and fill flat, (6,): the falls from the score, region after region, and their mean with the first, zero."""
    x, scores = x.clone(), []
    with torch.no_grad():
        scores.append(NET(x[None])[0, target].item())
        for i in order:
            x[i] = fill[i]
            scores.append(NET(x[None])[0, target].item())
    return sum(scores[0] - s for s in scores) / len(scores), scores


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (1, 3, 2)])
def test_area_is_that_of_the_definition(order, rows, shape):
    x, targets = drawn(rows, *shape, seed=5), torch.arange(rows) % 3
    features = "element" if len(shape) == 1 else "pixel"
    values = px.explain(NET, x, "gradient-x-input", target=targets).values.flatten(1)
    method = RegionPerturbation(order=order, features=features, fill=0.5)
    found = px.explain(NET, x, method, target=targets)
    for row in range(rows):
        ranked = sorted(range(6), key=lambda i: float(values[row, i]), reverse=order == "morf")
        want, curve = by_hand(x[row].flatten(), targets[row], ranked, [0.5] * 6)
        assert found.values[row].item() == pytest.approx(want, abs=1e-12)
        assert found.parts["curve"][row].tolist() == pytest.approx(curve, abs=1e-12)
    assert found.better == ("higher" if order == "morf" else "lower")
    mean = found.source["overall"]
    assert mean["mean"] == pytest.approx(float(found.values.mean()))
    assert mean["excluded"] == []


def test_no_order_of_an_additive_score_beats_its_contributions():
    """All 720 orders by hand: the greatest area is the explanation's, the mean that of random orders, five errors wide."""
    net = nn.Linear(6, 1, **DOUBLE).eval()
    x = drawn(1, 6, seed=3)
    share = (net.weight.detach() * x)[0]
    areas = []
    for order in itertools.permutations(range(6)):
        gone = torch.tensor([sum(float(share[i]) for i in order[:k]) for k in range(7)])
        areas.append(float(gone.mean()))
    found = {
        order: px.explain(net, x, RegionPerturbation(order=order, fill=0.0, references=40))
        for order in ("morf", "lerf")
    }
    assert found["morf"].values.item() == pytest.approx(max(areas))
    assert found["lerf"].values.item() == pytest.approx(min(areas))
    for result in found.values():
        assert result.facts["gain"].item() > 0
        assert abs(result.facts["random"].item() - np.mean(areas)) < 5 * result.facts["random_error"].item()


def test_noise_spans_the_row_and_is_its_own():
    """With every region gone, the score of an additive network is that of the noise: its mean lies midway."""
    net = nn.Linear(6, 1, bias=False, **DOUBLE).eval()
    x = drawn(3, 6, seed=8)
    method = RegionPerturbation(draws=400, references=2)
    found = px.explain(net, x, method)
    low, high, w = x.amin(1), x.amax(1), net.weight.detach()[0]
    error = ((high - low) / 12**0.5 * w.norm()) / 400**0.5
    assert bool(((found.parts["curve"][:, -1] - (low + high) / 2 * w.sum()).abs() < 5 * error).all())
    alone = px.explain(net, x[1:2], method)
    assert torch.allclose(alone.values, found.values[1:2], atol=1e-12, rtol=0)
    other = px.explain(net, x, method, seed=1)
    assert not torch.allclose(other.values, found.values)


def test_large_images_are_cut_into_patches_of_nine():
    x = drawn(2, 1, 28, 30)
    net = nn.Sequential(nn.Flatten(), nn.Linear(840, 2, **DOUBLE)).eval()
    found = px.explain(net, x, RegionPerturbation(references=2))
    assert found.parts["share"].tolist() == pytest.approx([k / 16 for k in range(17)])


def test_rows_without_finite_scores_are_listed():
    class Fragile(nn.Module):
        def forward(self, x):
            return (x.sum(1, keepdim=True)).where(x[:, :1] != 0.5, torch.nan)

    x = torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]], **DOUBLE)
    found = px.explain(Fragile().eval(), x, RegionPerturbation(of="gradient-x-input", fill=0.5))
    assert bool(found.values.isnan().all())
    assert found.source["overall"] == {"rows": 0, "excluded": [0, 1], "mean": None}


@pytest.mark.parametrize(
    "settings", [{"order": "up"}, {"steps": 0}, {"references": 1}, {"draws": 0}, {"draws": 2, "fill": 0.0}]
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(MethodError):
        px.explain(never, drawn(1, 6), RegionPerturbation(of="feature-ablation", **settings))
