"""Sensitivity-n against all subsets of six features, one forward after the other."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import SensitivityN
from pellucid.evaluation.subsets import correlation

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Six(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5, **DOUBLE), nn.Linear(5, 3, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)
        self.eval()

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))


NET = Six()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (1, 3, 2)])
def test_all_subsets_by_hand(rows, shape):
    x, targets = drawn(rows, *shape, seed=5), torch.arange(rows) % 3
    features = "element" if len(shape) == 1 else "pixel"
    values = px.explain(NET, x, "gradient-x-input", target=targets).values.flatten(1)
    method = SensitivityN(sizes=(1, 2, 3, 4, 5), features=features, baseline=0.5)
    found = px.explain(NET, x, method, target=targets)
    for row in range(rows):
        by_size = []
        for size in range(1, 6):
            sums, falls = [], []
            for subset in itertools.combinations(range(6), size):
                y = x[row].flatten().clone()
                y[list(subset)] = 0.5
                with torch.no_grad():
                    fall = NET(x[row : row + 1])[0, targets[row]] - NET(y[None])[0, targets[row]]
                sums.append(float(values[row, list(subset)].sum()))
                falls.append(float(fall))
            by_size.append(np.corrcoef(sums, falls)[0, 1])
        assert found.parts["curve"][row].tolist() == pytest.approx(by_size, abs=1e-10)
        assert found.values[row].item() == pytest.approx(np.mean(by_size), abs=1e-10)
    assert not found.facts["standard_error"].any()


@pytest.mark.parametrize("rows", [1, 7])
def test_the_contributions_of_a_linear_network_reach_one_at_every_size(rows):
    net, x = nn.Linear(12, 1, **DOUBLE).eval(), drawn(rows, 12, seed=2)
    method = SensitivityN(of="gradient-x-input", sizes=tuple(range(1, 12)), samples=50)
    found = px.explain(net, x, method)
    assert bool((found.parts["curve"] > 1 - 1e-9).all())
    assert found.parts["size"].tolist() == list(range(1, 12))


def test_drawn_subsets_agree_with_all_of_them():
    x = drawn(3, 6, seed=5)
    every = px.explain(NET, x, SensitivityN(sizes=(3,), samples=20))
    some = px.explain(NET, x, SensitivityN(sizes=(3,), samples=19))
    assert not every.facts["standard_error"].any()
    assert bool(((some.values - every.values).abs() < 5 * some.facts["standard_error"] + 0.05).all())
    alone = px.explain(NET, x[1:2], SensitivityN(sizes=(3,), samples=19))
    assert torch.allclose(alone.values, some.values[1:2], atol=1e-12, rtol=0)


def test_where_nothing_differs_there_is_no_correlation():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1] > 5, x.sum(1, keepdim=True), 0 * x.sum(1, keepdim=True))

    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 2.0, 3.0, 4.0]], **DOUBLE)
    found = px.explain(Flat().eval(), x, SensitivityN(of="gradient-x-input"))
    assert bool(found.values[0].isnan())
    assert found.source["overall"]["excluded"] == [0]
    assert bool(found.values[1].isfinite())


def test_correlation_is_numpys():
    a, b = drawn(3, 20), drawn(3, 20, seed=1)
    want = [np.corrcoef(u, v)[0, 1] for u, v in zip(a.numpy(), b.numpy(), strict=True)]
    assert correlation(a, b).tolist() == pytest.approx(want)
    assert bool(correlation(a, torch.full_like(b, 0.3)).isnan().all())


def test_the_name_of_the_single_size_finds_it():
    assert isinstance(px.contract.as_method("faithfulness-correlation"), SensitivityN)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"sizes": (0,)}, MethodError),
        ({"sizes": (6,)}, MethodError),
        ({"sizes": 3}, MethodError),
        ({"samples": 2}, MethodError),
        ({"features": ((0, 1, 2, 3, 4, 5),)}, InputError),
    ],
)
def test_bad_settings_are_refused(settings, error):
    with pytest.raises(error):
        px.explain(NET, drawn(1, 6), SensitivityN(**settings))
