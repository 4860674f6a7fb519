"""The word that does not belong: always found among planted topics, by chance among random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pellucid.contract.errors import InputError
from pellucid.evaluation import Stimulus, find_intruders, word_intrusion_study, word_intrusions


def topics(count: int = 8, each: int = 20, noise: float = 0.05) -> np.ndarray:
    """Words of `count` topics: high in their own, about zero elsewhere."""
    return np.eye(count).repeat(each, 0) + noise * np.random.default_rng(0).random((count * each, count))


def test_the_intruder_is_low_here_and_high_elsewhere() -> None:
    weights = np.random.default_rng(1).normal(size=(200, 12))
    trials = word_intrusions(weights, top=5, low=0.4, high=0.05)
    assert [t.dimension for t in trials] == list(range(12))
    for t in trials:
        own, intruder = weights[:, t.dimension], t.shown[t.intruder]
        rest = {w for i, w in enumerate(t.shown) if i != t.intruder}
        assert rest == set(np.argsort(-own)[:5].tolist())
        assert (own < own[intruder]).sum() < 0.4 * 200
        others = np.delete(weights, t.dimension, 1)
        assert ((others > others[intruder]).sum(0) < 0.05 * 200).any()
    assert {t.intruder for t in word_intrusions(np.random.default_rng(2).normal(size=(200, 60)))} == set(range(6))


def test_planted_topics_are_always_found_out() -> None:
    weights = topics()
    other = topics(noise=0.2)[:, ::-1]  # another source of what is alike
    found = find_intruders(word_intrusions(weights), other.copy())
    assert found.values.tolist() == [1.0] * 8
    assert bool((found.facts["ratio"] > 1).all())
    assert found.source["found"]["share"] == 1
    assert found.source["found"]["chance"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("top", [3, 5])
def test_random_embeddings_are_found_out_by_chance(top: int) -> None:
    draw = np.random.default_rng(3)
    weights, other = draw.normal(size=(2000, 400)), draw.normal(size=(2000, 100))
    found = find_intruders(word_intrusions(weights, top=top), other)
    told = found.source["found"]
    chance = 1 / (top + 1)
    assert told["share"] == pytest.approx(chance, abs=3 * (chance * (1 - chance) / 400) ** 0.5)
    assert float(found.facts["ratio"].mean()) == pytest.approx(1, abs=0.02)


def test_it_is_the_word_with_the_lowest_mean_similarity() -> None:
    """Counted by two loops, from a square table and from vectors."""
    weights = np.random.default_rng(4).normal(size=(60, 5))
    vectors = np.random.default_rng(5).normal(size=(60, 7))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    trials = word_intrusions(weights)
    expected = []
    for t in trials:
        means = [np.mean([unit[a] @ unit[b] for b in t.shown if b != a]) for a in t.shown]
        expected.append(float(int(np.argmin(means)) == t.intruder))
    assert find_intruders(trials, vectors).values.tolist() == expected
    assert find_intruders(trials, unit @ unit.T).values.tolist() == expected


def test_words_that_are_all_alike_share_the_hit() -> None:
    found = find_intruders(word_intrusions(topics()), np.ones((160, 3)))
    assert found.values.tolist() == pytest.approx([1 / 6] * 8)
    assert found.facts["ratio"].tolist() == [1.0] * 8


def test_pretended_people_find_planted_topics_and_guess_at_random_ones() -> None:
    words = [f"w{i}" for i in range(160)]
    topic = {word: i // 20 for i, word in enumerate(words)}
    random = np.random.default_rng(6).normal(size=(160, 8))
    study = word_intrusion_study({"topics": topics(), "random": random}, words, participants=40, dimensions=8)

    def person(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, Any], float]:
        """Who knows the topics, and names the word whose topic is rarest among those shown."""
        shown = [topic[w] for w in s.questions[0].options]
        often = [shown.count(t) for t in shown]
        least = [i for i, n in enumerate(often) if n == min(often)]
        return {"intruder": int(draw.choice(least))}, 4.0

    found = study.analyse(study.rehearse(person))
    assert float(found.values[0]) == 1
    assert float(found.values[1]) < 0.5
    assert float(found.facts["low"][0]) > float(found.facts["high"][1])
    guess = study.analyse(study.rehearse(lambda _, s, draw: ({"intruder": int(draw.integers(6))}, 1.0)))
    assert found.unit == "share right"
    assert bool((guess.facts["low"] < 1 / 6).all() and (guess.facts["high"] > 1 / 6).all())


@pytest.mark.parametrize(
    ("weights", "settings", "said"),
    [
        (torch.zeros(20, 3), {}, "Dimension 0"),
        (torch.full((20, 3), torch.nan), {}, "finite"),
        (torch.rand(5, 3), {}, "more words"),
        (torch.rand(20, 1), {}, "2 dimensions"),
        (torch.rand(20, 3), {"low": 1.0}, "low"),
        (torch.rand(20, 3), {"dimensions": [3]}, "dimensions"),
    ],
)
def test_tables_that_give_no_trial_are_refused(weights: torch.Tensor, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        word_intrusions(weights, **settings)


def test_similarities_of_other_words_are_refused() -> None:
    with pytest.raises(InputError, match="similarity"):
        find_intruders(word_intrusions(topics()), np.ones((3, 3)))
    with pytest.raises(InputError, match="words"):
        word_intrusion_study({"a": topics()}, ["one"], participants=2)
