"""Do you need a black box? A line is found where there is one, and no readable model where there is none."""

import json

import numpy as np
import pytest
import torch

from pellucid import zoo
from pellucid.contract.errors import InputError
from pellucid.report import necessity, page
from pellucid.report.trust_necessity import interval


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(x, y):
    cut = len(x) // 2
    return {"train": (x[:cut], y[:cut]), "held_out": (x[cut:], y[cut:])}


def test_on_planted_lines_the_readable_model_is_recommended():
    x = drawn(1200, 4)
    score = x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    found = necessity(lambda v: torch.stack([-(v @ W), v @ W], 1), **halves(x, (score > 0).long()), splits=4)
    assert found.verdict == "readable"
    assert max(found.chosen, key=found.chosen.get) in ("linear", "additive")
    assert "may not need a black box" in " ".join(found.sentences())


W = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)


def parity(v):
    """Right about the parity of four signs, which no readable model here can follow."""
    sign = v[:, :4].sign().prod(1)
    return torch.stack([sign, -sign], 1)


def test_on_parity_it_is_not():
    x = drawn(1200, 6, seed=1)
    found = necessity(parity, **halves(x, parity(x).argmax(1)), splits=4)
    assert found.network == 1.0
    assert found.verdict == "network"
    assert found.low > 0.2


def test_on_xor_neither_line_nor_sum_does_and_a_tree_does():
    """A tree of four leaves can write XOR down, so that it, and no line, may replace the network."""
    x = drawn(1200, 2, seed=2).abs() * torch.tensor([[1.0, 1.0]]) * drawn(1200, 2, seed=3).sign()
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    found = necessity(lambda v: torch.stack([v.prod(1), -v.prod(1)], 1), **halves(x, y), splits=4)
    assert found.accuracies["linear"] < 0.7
    assert found.accuracies["additive"] < 0.7
    assert set(found.chosen) <= {f"tree of {k} leaves" for k in (4, 8, 16, 32)}


def test_few_rows_settle_nothing():
    x = drawn(60, 2, seed=4)
    y = ((x[:, 0] + 0.7 * drawn(60, seed=5)) > 0).long()
    assert necessity(lambda v: torch.stack([-v[:, 0], v[:, 0]], 1), **halves(x, y), splits=3).verdict == "open"


def test_interval_covers_the_gap_over_rows_and_trainings():
    """gap = 0.1 + what the rows add + what the training adds: 95 % of intervals hold 0.1."""
    random, hits = np.random.default_rng(0), 0
    for _ in range(200):
        gaps = 0.1 + random.normal(0, 0.5, (1, 80)) + random.normal(0, 0.05, (6, 1)) + random.normal(0, 0.1, (6, 80))
        mean, low, high = interval(gaps)
        assert mean == pytest.approx(gaps.mean())
        hits += low <= 0.1 <= high
    assert hits / 200 >= 0.93


def test_the_network_for_digits_earns_its_place():
    world = zoo.data("digits-cnn")
    found = necessity(zoo.load("digits-cnn"), train=world.train, held_out=world.test, splits=2)
    assert found.network == pytest.approx(444 / 450)
    assert found.gap > 0
    assert json.loads(json.dumps(found.as_dict()))["rows"] == 450
    assert "kept apart" in page(found.section())


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": 1},
        {"margin": 2},
        {"train": torch.zeros(9, 2)},
        {"held_out": (torch.zeros(9, 3, dtype=torch.float64), torch.arange(9) % 2)},
        {"train": (torch.zeros(9, 2, dtype=torch.float64), torch.rand(9))},
    ],
)
def test_what_can_not_be_is_refused(changes):
    data = halves(drawn(40, 2), torch.arange(40) % 2)
    with pytest.raises((InputError, LookupError, TypeError), match="Got"):
        necessity(lambda v: v, **{**data, **changes})
