"""Trust beside what it should be: planted biases of simulated people are found again, and effects told apart."""

import json
import math

import numpy as np
import pytest
import torch

from pellucid.contract.errors import InputError
from pellucid.report import calibration, page
from pellucid.report.trust_calibration import wilson

CASES, PEOPLE = 240, 12


def simulated(bias=0.0, noise=0.05, informed=0.0, seed=0):
    """A network that is right with chance p, which it knows; people who say p + bias, and more if informed."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.5, 0.9, CASES)
    right = random.random(CASES) < p
    said = p[None] + bias + informed * (right[None] - 0.5) + random.normal(0, noise, (PEOPLE, CASES))
    return torch.from_numpy(said.clip(0, 1)), torch.from_numpy(right), torch.from_numpy(p)


@pytest.mark.parametrize(("bias", "verdict"), [(0.1, "over"), (0.0, "level"), (-0.2, "under")])
def test_the_planted_gap_is_recovered(bias, verdict):
    gaps = []
    for seed in range(20):
        stated, right, p = simulated(bias, seed=seed)
        (group,) = calibration(stated, right, confidence=p).groups
        gaps.append(group.gap)
        assert group.low < group.gap < group.high
    assert np.mean(gaps) == pytest.approx(bias, abs=0.02)
    stated, _, p = simulated(bias)
    right = torch.from_numpy(np.random.default_rng(1).permutation(CASES) < round(float(p.mean()) * CASES))
    assert calibration(stated, right).groups[0].verdict == verdict  # exactly as often right as it says


def test_interval_covers_the_planted_gap():
    hits = 0
    for seed in range(150):
        stated, right, _ = simulated(0.05, seed=seed)
        (group,) = calibration(stated[:6], right).groups
        hits += group.low <= 0.05 <= group.high
    assert hits / 150 >= 0.9


def test_over_and_undertrust_are_the_two_halves_of_the_distance():
    right, confidence = torch.tensor([1, 1, 0, 1, 0, 0]), torch.tensor([0.9, 0.9, 0.9, 0.2, 0.2, 0.2])
    stated = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    (group,) = calibration(stated, right, confidence=confidence, bins=2).groups
    assert group.overtrust == pytest.approx(3 * (1 - 2 / 3) / 6)
    assert group.undertrust == pytest.approx(3 * (1 / 3) / 6)
    assert group.gap == pytest.approx(0.0)  # too much and too little cancel out in the mean, not in the two
    assert group.overreliance == pytest.approx(1 / 3)
    assert group.underreliance == pytest.approx(1 / 3)
    assert group.tells == pytest.approx(2 / 3 - 1 / 3)


def test_the_diagram_has_the_networks_bins_and_the_peoples():
    stated, right, p = simulated()
    told = calibration(stated, right, confidence=p, bins=4)
    for bins in (told.network, told.groups[0].bins):
        assert len(bins) == 4
        assert sum(b.answers for b in bins) in (CASES, PEOPLE * CASES)
        assert all(b.low <= b.right <= b.high for b in bins)
        assert [b.figure for b in bins] == sorted(b.figure for b in bins)
    by_hand = p.argsort()[: CASES // 4]
    assert told.network[0].right == pytest.approx(float(right[by_hand].double().mean()))


def test_an_explanation_for_confidence_is_told_from_one_for_trust():
    alone, right, p = simulated()
    pleased, taught = simulated(bias=0.08)[0], simulated(informed=0.3)[0]
    told = calibration({"alone": alone, "a pleasing story": pleased, "a map": taught}, right, confidence=p)
    assert told.effect("a pleasing story")["kind"] == "for confidence"
    assert told.effect("a pleasing story")["trust"][0] == pytest.approx(0.08, abs=0.02)
    assert told.effect("a map")["kind"] == "for trust"
    assert told.effect("a map")["tells"][0] == pytest.approx(0.3, abs=0.05)
    assert told.effect("alone")["kind"] == "not settled"
    few = calibration({"alone": alone[:1], "a map": taught[:1]}, right)
    assert few.effect("a map")["kind"] == "not settled"  # one person each shows nothing
    words = " ".join(told.sentences())
    assert "surer, not better" in words
    assert "helps them to tell right answers from wrong ones" in words


def test_wilson_is_scipys():
    from scipy.stats import binomtest

    for hits, count in ((0, 5), (3, 7), (40, 40)):
        want = binomtest(hits, count).proportion_ci(method="wilson")
        assert wilson(hits / count, count) == (pytest.approx(want.low, abs=1e-12), pytest.approx(want.high, abs=1e-12))


def test_answers_may_be_missing_and_names_are_inert():
    stated, right, _ = simulated()
    stated[::2, ::3] = math.nan
    told = calibration({"<img src=x>\u202e": stated}, right)
    assert told.groups[0].trust == pytest.approx(float(stated.nanmean()))
    assert "<img src=x>" not in page(told.section())
    assert "\u202e" not in " ".join(told.sentences())
    assert json.loads(json.dumps(told.as_dict()))["cases"] == CASES


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        (torch.full((2, 3), 1.5), [1, 0, 1]),
        (torch.full((2, 4), 0.5), [1, 0, 1]),
        (torch.full((2, 3), math.nan), [1, 0, 1]),
        (torch.full((2, 3), 0.5), [1, 2, 1]),
        ({}, [1, 0, 1]),
    ],
)
def test_what_can_not_be_is_refused(stated, right):
    with pytest.raises(InputError, match="Got"):
        calibration(stated, right)
