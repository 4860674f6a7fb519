"""Answering only where it is trusted: curves by hand, areas by pairs, promises kept."""

import math

import pytest
import torch

from pellucid.engine import selective


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def test_curve_is_the_share_of_errors_among_the_most_trusted():
    figure, wrong = torch.tensor([1.0, 4.0, 3.0, 2.0]), torch.tensor([1, 0, 1, 0])
    assert selective.curve(figure, wrong).tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    tied = selective.curve(torch.tensor([5.0, 1.0, 1.0]), torch.tensor([0, 1, 0]))
    assert tied.tolist() == pytest.approx([0, 0.5 / 2, 1 / 3])  # either of the two may come second


def test_area_counts_pairs():
    generator = drawn(3)
    figure = torch.randint(0, 6, (30,), generator=generator).double()
    right = torch.rand(30, generator=generator) < 0.6
    pairs = [float(a > b) + 0.5 * float(a == b) for a in figure[right] for b in figure[~right]]
    found = selective.ranking(figure, right)
    assert found["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert found["low"] < found["auroc"] < found["high"]
    assert selective.ranking(-figure, right)["auroc"] == pytest.approx(1 - found["auroc"], abs=1e-12)


def test_interval_at_its_ends_and_without_wrong_rows():
    perfect = selective.ranking(torch.arange(20.0), torch.arange(20) >= 10)
    assert perfect["auroc"] == perfect["high"] == 1.0
    assert 0.6 < perfect["low"] < 1.0
    assert selective.ranking(torch.arange(20.0), torch.arange(20) >= 1)["low"] == 0.0  # one wrong row says nothing
    assert math.isnan(selective.ranking(torch.arange(3.0), torch.ones(3))["auroc"])


def test_interval_covers_the_true_area():
    """Right rows from N(1, 1), wrong ones from N(0, 1): the true area is Φ(1 / √2)."""
    truth, generator, hits = 0.5 * (1 + math.erf(0.5)), drawn(0), 0
    for _ in range(300):
        figure = torch.cat([torch.randn(60, generator=generator) + 1, torch.randn(12, generator=generator)])
        found = selective.ranking(figure, torch.arange(72) < 60)
        hits += found["low"] <= truth <= found["high"]
    assert 0.91 <= hits / 300 <= 0.985  # 95 %, give or take three standard errors


def test_rule_keeps_its_promise():
    """The chance of an error falls from 0.5 to 0 with the figure f in 0 … 1: (1 - f) / 2, so above t it is (1 - t) / 4."""
    broken, answered, generator = 0, [], drawn(1)
    for _ in range(400):
        figure = torch.rand(2000, generator=generator)
        wrong = torch.rand(2000, generator=generator) < (1 - figure) / 2
        found = selective.rule(figure, wrong, risk=0.1, confidence=0.9)
        if found is not None:
            broken += (1 - found.threshold) / 4 > 0.1
            answered.append(found.coverage)
    assert broken / 400 <= 0.1 + 3 * (0.1 * 0.9 / 400) ** 0.5
    assert sum(answered) / 400 > 0.2  # 0.4 would just hold; a rule that never answers would be safe and useless


def test_rule_answers_all_where_nothing_is_wrong_and_nothing_where_all_is():
    figure = torch.arange(200.0)
    found = selective.rule(figure, torch.zeros(200), risk=0.05, confidence=0.95)
    assert (found.answered, found.wrong, found.coverage, found.threshold) == (200, 0, 1.0, 0.0)
    assert selective.rule(figure, torch.ones(200), risk=0.05, confidence=0.95) is None
    assert selective.rule(figure[:10], torch.zeros(10), risk=0.05, confidence=0.95) is None  # ten rows can't show it


def test_equal_figures_are_answered_together():
    figure = torch.tensor([2.0] * 100 + [1.0] * 100)
    found = selective.rule(figure, torch.arange(200) >= 150, risk=0.05, confidence=0.95)
    assert (found.answered, found.threshold) == (100, 2.0)


@pytest.mark.parametrize(("wrong", "rows"), [(0, 45), (2, 300), (5, 5)])
def test_bound_is_where_so_few_errors_become_unlikely(wrong, rows):
    bound = selective.most_wrong(wrong, rows, 0.95)
    if wrong == rows:
        assert bound == 1.0
        return
    few = sum(math.comb(rows, k) * bound**k * (1 - bound) ** (rows - k) for k in range(wrong + 1))
    assert few == pytest.approx(0.05, abs=1e-9)
