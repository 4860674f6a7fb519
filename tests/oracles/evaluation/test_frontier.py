"""Readable models against black boxes on data whose truth is planted, and every figure counted by hand."""

import math

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import tradeoff
from pellucid.evaluation.frontier import _divide, frontier, interval

FEW = ["linear", "additive", "tree of 8 leaves", "network"]


def rows(count, columns=3, seed=0):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_truth_leaves_no_gap():
    x = rows(240)
    y = 2 * x[:, 0] - x[:, 1] + 0.3 * rows(240, 1, 9)[:, 0]
    found = tradeoff((x, y), FEW, splits=4)
    told = found.source["tradeoff"]
    assert told["verdict"] == "a readable model does as well"
    assert found.facts["gap_high"].item() < 0.01
    assert found.values[0] > 0.95
    assert found.parts["frontier"][0] == 1
    assert found.parts["numbers"][0] == 4  # three weights and a shift


def test_a_planted_interaction_opens_one():
    x = rows(400, 4)
    y = x[:, 0] * x[:, 1] + 0.1 * rows(400, 1, 9)[:, 0]
    found = tradeoff((x, y), FEW, splits=4)
    assert found.source["tradeoff"]["verdict"] == "a black box buys accuracy"
    assert found.facts["gap_low"].item() > 0.1
    assert found.values[1] < 0.2  # what is additive can't see it
    assert all(pair[1] == "network" for pair in found.source["tradeoff"]["chosen"])


def test_bent_lines_are_seen_by_the_additive_model_alone():
    x = rows(300)
    found = tradeoff((x, x[:, 0].abs() + x[:, 1].clamp(min=0)), ["linear", "additive"], splits=2)
    assert found.values[1] > 0.95 > found.values[0] + 0.2


def test_accuracy_is_counted_on_the_rows_held_out():
    x = rows(60)
    y = (torch.arange(60) % 3 == 0).long()
    own = {"mine": lambda r: torch.stack([r[:, 0], -r[:, 0]], 1)}
    found = tradeoff((x, y), ["constant"], splits=3, held_out=0.3, own=own)
    for k in range(3):
        test = _divide(y.numpy(), 0.3, 0, k)[2]
        assert found.parts["rows"][0, k] == (y.numpy()[test] == 0).mean()
        assert found.parts["rows"][1, k] == ((x.numpy()[test, 0] < 0).astype(int) == y.numpy()[test]).mean()
    assert found.parts["fidelity"][1] == 1  # the caller's model is what all are compared with
    assert found.source["tradeoff"]["chosen"] == [["constant", "mine"]] * 3


def test_rows_are_divided_into_three_with_every_class_in_each():
    y = np.array([0] * 30 + [1] * 10)
    for number in range(4):
        parts = _divide(y, 0.25, 0, number)
        assert sorted(np.concatenate(parts).tolist()) == list(range(40))
        assert [np.bincount(y[p]).tolist() for p in parts] == [[18, 6], [4, 2], [8, 2]]
    assert not np.array_equal(_divide(y, 0.25, 0, 0)[2], _divide(y, 0.25, 0, 1)[2])


def test_no_model_of_the_frontier_is_beaten():
    values, numbers = torch.rand(40, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 7
    found = frontier(values, numbers.double())
    for i in range(40):
        beaten = any(
            values[j] >= values[i] and numbers[j] <= numbers[i] and (values[j] > values[i] or numbers[j] < numbers[i])
            for j in range(40)
        )
        assert bool(found[i]) is not beaten


def test_the_interval_is_wider_than_that_of_independent_splits():
    each = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    mean, low, high = interval(each, 0.5)
    variance = sum((v - 0.25) ** 2 for v in each.tolist()) / 3
    half = 3.182446305284263 * math.sqrt(variance * (1 / 4 + 0.5))  # Student's t of 3 degrees at 0.975
    assert (mean.item(), low.item(), high.item()) == pytest.approx((0.25, 0.25 - half, 0.25 + half))


def test_the_proxy_imitates_the_network_and_not_the_labels():
    x = rows(200)
    found = tradeoff((x, (x[:, 0] + x[:, 1] > 0).long()), ["network", "proxy of the network"], splits=2)
    assert found.source["tradeoff"]["proxies"] == ["proxy of the network"]
    assert found.parts["fidelity"][0] == 1
    assert 0.75 < found.parts["fidelity"][1] < 1


def test_the_same_seed_gives_the_same_and_no_trace_is_left():
    x = rows(60)
    y = (x[:, 0] > 0).long()
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (tradeoff((x, y), ["linear", "network"], splits=2) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(first.parts["rows"], second.parts["rows"])
    assert not torch.equal(first.parts["rows"], tradeoff((x, y), ["linear", "network"], splits=2, seed=1).parts["rows"])


def test_columns_that_never_change_do_no_harm():
    x = torch.cat([rows(60), torch.ones(60, 1).double()], 1)
    found = tradeoff((x, (x[:, 0] > 0).long()), splits=2)
    assert found.values.isfinite().all()
    assert found.values[1] > 0.85


@pytest.mark.parametrize(
    ("data", "settings", "error", "word"),
    [
        (rows(40), {}, NeedError, "labels"),
        ((rows(10), torch.arange(10) % 2), {}, InputError, "at least 20 rows"),
        ((rows(40)[:, :, None], torch.arange(40) % 2), {}, InputError, "table"),
        ((rows(40), torch.zeros(40).long()), {}, InputError, "differ"),
        ((rows(40), (torch.arange(40) == 3).long()), {}, InputError, "4 times"),
        ((rows(40).log(), torch.arange(40) % 2), {}, InputError, "finite"),
        ((rows(40), torch.arange(40) % 2), {"models": ["forest"]}, InputError, "among"),
        ((rows(40), torch.arange(40) % 2), {"models": ["proxy of the network"]}, InputError, "imitates"),
        ((rows(40), torch.arange(40) % 2), {"splits": 1}, MethodError, "splits"),
        ((rows(40), torch.arange(40) % 2), {"held_out": 1.5}, InputError, "held_out"),
        ((rows(40), torch.arange(40) % 2), {"own": {"mine": 3}}, InputError, "own"),
        (
            (rows(40), torch.arange(40) % 2),
            {"own": {"mine": lambda r: r[:, 0]}},
            InputError,
            "scores",
        ),
    ],
)
def test_what_can_not_be_tried_is_refused(data, settings, error, word):
    with pytest.raises(error, match=word):
        tradeoff(data, **settings)


def test_it_is_saved_and_read_again(tmp_path):
    x = rows(40)
    found = tradeoff((x, (x[:, 0] > 0).long()), ["constant", "linear"], splits=2)
    again = px.load(found.save(tmp_path / "t.safetensors"))
    assert torch.equal(again.values, found.values)
    assert again.source["tradeoff"] == found.source["tradeoff"]
