"""Strengths, agreement, effects and sample sizes, against closed forms, textbooks, scikit-learn and simulated people."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pellucid.contract.errors import InputError
from pellucid.evaluation import (
    bradley_terry,
    cohen_kappa,
    fleiss_kappa,
    intraclass_correlation,
    mixed_effects,
    participants_needed,
)

# Shrout & Fleiss 1979, table 2: six targets, four judges. Table 4 of the same: ICC(2,1) = .29.
TARGETS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
# Fourteen raters put ten cases into five categories: a worked example whose kappa is 0.210 by hand.
TABLE = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


@pytest.mark.parametrize(("wins", "losses"), [(3, 1), (7, 9), (20, 5)])
def test_two_items_have_a_closed_form(wins: int, losses: int) -> None:
    count = wins + losses
    found = bradley_terry([0] * count, [1] * count, [1] * wins + [0] * losses)
    assert found.values[0] - found.values[1] == pytest.approx(math.log(wins / losses), abs=1e-9)
    assert found.difference(0, 1).error == pytest.approx(math.sqrt(1 / wins + 1 / losses), abs=1e-9)
    assert found.beats(0, 1) == pytest.approx(wins / count)
    assert found.values.sum() == pytest.approx(0, abs=1e-12)


def test_a_choice_of_neither_is_half_a_choice_of_each() -> None:
    halves, whole = (
        bradley_terry([0, 0, 0], [1, 1, 1], [1, 0.5, 0.5]),
        bradley_terry([0] * 3 * 2, [1] * 6, [1] * 4 + [0] * 2),
    )
    assert halves.values == pytest.approx(whole.values)


def choices(truth: list[float], people: int, each: int, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    pairs = np.array([(i, j) for i in range(len(truth)) for j in range(i)] * each * people)
    who = np.repeat(np.arange(people), len(pairs) // people)
    gap = np.array(truth)[pairs[:, 0]] - np.array(truth)[pairs[:, 1]]
    return pairs[:, 0], pairs[:, 1], (draw.random(len(pairs)) < 1 / (1 + np.exp(-gap))).astype(float), who


def test_raters_of_known_preference_give_its_order_back() -> None:
    truth = [0.0, 1.1, -0.4, 2.0, 0.6]
    first, second, won, who = choices(truth, 30, 4, np.random.default_rng(0))
    found = bradley_terry(first, second, won, raters=who)
    assert np.argsort(found.values).tolist() == np.argsort(truth).tolist()
    assert np.abs(found.values - (np.array(truth) - np.mean(truth))).max() < 0.25


def test_the_maximum_is_one() -> None:
    truth = [0.0, 1.0, -0.5]
    first, second, won, _ = choices(truth, 5, 4, np.random.default_rng(1))

    def likelihood(s: np.ndarray) -> float:
        p = 1 / (1 + np.exp(s[second] - s[first]))
        return float((won * np.log(p) + (1 - won) * np.log(1 - p)).sum())

    found = bradley_terry(first, second, won).values
    assert all(
        likelihood(found) > likelihood(found + step) for step in 0.01 * np.random.default_rng(2).normal(size=(40, 3))
    )


def settled() -> np.ndarray:
    """The strengths that fit the choices of endlessly many people with tastes of their own."""
    taste = np.array([0.4, 0.0, -0.4]) + 0.8 * np.random.default_rng(9).normal(size=(200000, 3))
    pairs = [(0, 1), (0, 2), (1, 2)]
    won = [float((1 / (1 + np.exp(taste[:, j] - taste[:, i]))).mean()) for i, j in pairs]
    return bradley_terry([i for i, _ in pairs], [j for _, j in pairs], won).values


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_the_intervals_of_strengths_cover_the_truth(spread: float) -> None:
    """Also of people who each have a taste of their own, which only `raters` allows for."""
    draw, hits, naive = np.random.default_rng(3), 0, 0
    truth = settled()[0] if spread else 0.4
    for _ in range(300):
        first, second, _, who = choices([0.0, 0.0, 0.0], 25, 4, draw)
        taste = np.array([0.4, 0.0, -0.4]) + spread * draw.normal(size=(25, 3))
        gap = taste[who, first] - taste[who, second]
        won = (draw.random(len(gap)) < 1 / (1 + np.exp(-gap))).astype(float)
        found, plain = bradley_terry(first, second, won, raters=who), bradley_terry(first, second, won)
        hits += found.low[0] <= truth <= found.high[0]
        naive += plain.low[0] <= truth <= plain.high[0]
    assert 0.92 <= hits / 300 <= 0.98
    assert naive / 300 < 0.9 if spread else naive / 300 >= 0.92


def test_who_always_wins_has_no_finite_strength() -> None:
    with pytest.raises(InputError, match="prior"):
        bradley_terry([0, 0, 1], [1, 2, 2], [1, 1, 0.5])
    found = bradley_terry([0, 0, 1], [1, 2, 2], [1, 1, 0.5], prior=0.5)
    assert np.isfinite(found.values).all()
    assert found.values.argmax() == 0


@pytest.mark.parametrize(
    ("first", "second", "won"), [([0], [0], [1]), ([0], [1], [2]), ([0, 1], [1], [1]), ([-1], [1], [1])]
)
def test_choices_that_are_none_are_refused(first: list[int], second: list[int], won: list[float]) -> None:
    with pytest.raises(InputError):
        bradley_terry(first, second, won)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_cohen_is_scikit_learns(weights: str | None) -> None:
    from sklearn.metrics import cohen_kappa_score

    draw = np.random.default_rng(0)
    one = draw.integers(5, size=60)
    other = np.clip(one + draw.integers(-1, 2, size=60), 0, 4)
    assert cohen_kappa(one, other, weights=weights).value == pytest.approx(
        cohen_kappa_score(one, other, weights=weights)
    )


def test_fleiss_is_the_worked_example() -> None:
    found = fleiss_kappa(TABLE)
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert found.low < 0.210 < found.high


def test_fleiss_by_pairs_of_raters() -> None:
    """Agreement of pairs of different raters, counted one by one, against that of any two answers."""
    answers = np.random.default_rng(0).integers(3, size=(8, 4))
    pairs = [(row[i] == row[j]) for row in answers for i in range(4) for j in range(4) if i != j]
    chance = np.mean([a == b for a in answers.flatten() for b in answers.flatten()])
    counts = np.stack([(answers == c).sum(1) for c in range(3)], 1)
    assert fleiss_kappa(counts).value == pytest.approx((np.mean(pairs) - chance) / (1 - chance))


def test_agreement_that_nothing_can_be_said_of_is_nan() -> None:
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]).value)
    assert math.isnan(fleiss_kappa([[1, 0], [0, 1]]).value)
    assert math.isnan(cohen_kappa([1, 1], [1, 1]).value)
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]).value == 1
    assert fleiss_kappa([[3, 0], [0, 3], [3, 0]]).value == 1


def test_the_intraclass_correlation_is_the_textbook_s() -> None:
    found = intraclass_correlation(TARGETS)
    assert found.value == pytest.approx(0.29, abs=0.005)
    assert (found.low, found.high) == pytest.approx((0.019, 0.761), abs=0.001)


def test_the_intraclass_correlation_s_interval_covers_the_truth() -> None:
    draw, hits = np.random.default_rng(4), 0
    for _ in range(300):
        ratings = draw.normal(size=(12, 1)) + 0.5 * draw.normal(size=(1, 6)) + draw.normal(size=(12, 6))
        found = intraclass_correlation(ratings)
        hits += found.low <= 1 / 2.25 <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_a_rater_who_is_always_stricter_lowers_absolute_agreement() -> None:
    ratings = np.array(TARGETS, float)
    same = np.repeat(ratings[:, :1], 3, 1)
    assert intraclass_correlation(same + 1e-9 * ratings[:, 1:]).value == pytest.approx(1)
    assert intraclass_correlation(same + np.array([0, 0, 5.0]) + 1e-9 * ratings[:, 1:]).value < 0.5


def test_balanced_effects_are_the_means_of_each_one_s_difference() -> None:
    """In a balanced design the model's estimate and its error are those of the analysis of variance."""
    draw = np.random.default_rng(5)
    y = 2 * draw.normal(size=(10, 1, 1)) + np.array([0, 0.7])[None, :, None] + draw.normal(size=(10, 2, 6))
    people, way = np.meshgrid(np.arange(10), np.arange(2), indexing="ij")
    people, way = np.repeat(people, 6), np.repeat(way, 6)
    found = mixed_effects(y.flatten(), np.column_stack([np.ones(120), way]), people)[1]
    assert found.value == pytest.approx(float((y[:, 1] - y[:, 0]).mean()))
    own = y - y.mean((1, 2), keepdims=True)
    rest = own - own.mean((0, 2), keepdims=True)
    noise = float((rest**2).sum()) / (120 - 10 - 1)
    assert found.error == pytest.approx(math.sqrt(2 * noise / 60), rel=1e-3)


@pytest.mark.parametrize("kind", ["within", "between", "uneven"])
def test_the_intervals_of_effects_cover_the_truth(kind: str) -> None:
    draw, hits = np.random.default_rng(6), 0
    for _ in range(300):
        people = np.repeat(np.arange(12), 6)
        if kind == "uneven":
            people = np.sort(draw.integers(12, size=72))
        way = people % 2 if kind == "between" else draw.integers(2, size=72)
        y = draw.normal(size=12)[people] + 0.5 * way + draw.normal(size=72)
        found = mixed_effects(y, np.column_stack([np.ones(72), way]), people)[1]
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_a_design_that_says_one_thing_twice_is_refused() -> None:
    with pytest.raises(InputError, match="independent"):
        mixed_effects([1.0, 2, 3, 4], np.ones((4, 2)), [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("difference", "settings", "wanted"),
    [
        # Cohen's tables: t tests at 5 %, power .80 (or .90).
        (0.5, {"spread": 1.0, "between": True}, 128),
        (0.8, {"spread": 1.0, "between": True}, 52),
        (0.5, {"spread": 1.0, "between": True, "power": 0.9}, 172),
        (0.5, {"spread": 0.5**0.5}, 34),
    ],
)
def test_sample_sizes_are_the_tables(difference: float, settings: dict[str, float], wanted: int) -> None:
    assert participants_needed(difference, **settings) == wanted


def test_so_many_people_find_the_difference_so_often() -> None:
    from scipy.stats import ttest_1samp

    people = participants_needed(0.3, spread=0.5, answers=4, person=0.3)
    draw = np.random.default_rng(7)
    own = 0.3 + 0.3 * draw.normal(size=(2000, people))
    own += (0.5 * draw.normal(size=(2000, people, 2, 4))).mean(-1) @ np.array([1, -1])
    assert (ttest_1samp(own, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("wrong", [{"difference": 0.0}, {"spread": -1.0}, {"power": 1.0}, {"answers": 0}])
def test_sample_sizes_of_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        participants_needed(**{"difference": 0.5, "spread": 1.0, **wrong})
