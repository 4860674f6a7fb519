"""Entropy, size and sparsity of maps against counting by hand."""

import io
import math
from collections import Counter

import pytest
import torch

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.contract.errors import MethodError
from pellucid.evaluation import HeatmapEntropy
from pellucid.evaluation.complexity import png


def measured(x, **settings):
    return px.explain(NET, x, HeatmapEntropy(of=Told(), **settings), target=0)


def entropy(shares):
    return -sum(p * math.log2(p) for p in shares if p > 0)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 5, 7), (3, 2, 3)])
def test_every_figure_is_that_of_the_definition(rows, shape):
    x = drawn(rows, *shape, seed=1)
    found = measured(x, bins=4)
    for row in range(rows):
        v = (x[row] if len(shape) == 1 else x[row].sum(0)).flatten().tolist()
        low, step = min(v), (max(v) - min(v)) / 4
        counts = Counter(min(3, int((a - low) / step)) for a in v)
        assert found.values[row].item() == pytest.approx(entropy(c / len(v) for c in counts.values()))
        total = sum(map(abs, v))
        assert found.facts["shares"][row].item() == pytest.approx(entropy(abs(a) / total for a in v))
        apart = sum(abs(abs(a) - abs(b)) for a in v for b in v)  # the Gini index as a mean difference
        assert found.facts["gini"][row].item() == pytest.approx(apart / (2 * len(v) * total))
        place = x[row] if len(shape) == 1 else x[row].sum(0)
        steps = [place[i + 1] - place[i] for i in range(len(place) - 1)]
        steps += [place[:, i + 1] - place[:, i] for i in range(place.shape[1] - 1)] if place.dim() == 2 else []
        varied = sum(step.abs().sum().item() for step in steps)
        assert found.facts["variation"][row].item() == pytest.approx(varied / total)


def test_one_value_has_no_entropy_and_all_levels_have_the_most():
    even = measured(torch.full((1, 1, 16, 16), 3.0, **DOUBLE))
    assert (even.values.item(), even.facts["gini"].item(), even.facts["shares"].item()) == (0.0, 0.0, 8.0)
    assert measured(torch.arange(256, **DOUBLE).reshape(1, 1, 16, 16)).values.item() == 8.0
    one = torch.zeros(1, 100, **DOUBLE)
    one[0, 7] = -2.0
    focused = measured(one, figure="gini")
    assert focused.values.item() == pytest.approx(0.99)
    assert focused.facts["shares"].item() == 0.0
    assert focused.better == "higher"
    assert measured(one, figure="variation").values.item() == 2.0  # one step up and one down
    assert measured(torch.full((1, 1, 4, 4), 3.0, **DOUBLE), figure="variation").values.item() == 0.0
    nothing = measured(torch.zeros(1, 4, **DOUBLE)).facts
    assert (nothing["grey_levels"].item(), nothing["gini"].item(), nothing["shares"].item()) == (0.0, 0.0, 2.0)


def test_the_file_is_a_picture_of_the_map():
    image = pytest.importorskip("PIL.Image")
    grey = torch.arange(35).reshape(5, 7)
    with image.open(io.BytesIO(png(grey))) as found:
        assert found.size == (7, 5)
        assert found.tobytes() == bytes(range(35))


def test_a_simple_map_takes_fewer_bytes_than_noise():
    noise, simple = drawn(1, 1, 24, 30, seed=4), torch.zeros(1, 1, 24, 30, **DOUBLE)
    simple[0, 0, 8:12] = 1.0
    small, large = (measured(x, figure="bytes").values.item() for x in (simple, noise))
    assert small < 150
    assert large > 24 * 30 * 0.8  # noise of that many levels can't be made much shorter
    assert measured(noise, figure="bytes").unit == "bytes"


def test_rows_do_not_touch_each_other():
    x = drawn(4, 2, 3, 5, seed=6)
    whole = measured(x).facts
    for row in range(4):
        assert {k: v[row].item() for k, v in whole.items()} == {
            k: v.item() for k, v in measured(x[row : row + 1]).facts.items()
        }


@pytest.mark.parametrize(
    "settings", [{"figure": "size"}, {"bins": 1}, {"pooling": "mean"}, {"of": "cart-c45-surrogate"}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        px.explain(NET, drawn(1, 6), HeatmapEntropy(**{"of": Told(), **settings}))
