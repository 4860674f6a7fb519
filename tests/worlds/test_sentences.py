"""The sentences world: labels follow the words, rationales are what brute force finds, cues and noise are recorded."""

from __future__ import annotations

import itertools

import pytest
import torch

from pellucid import worlds
from pellucid.contract.errors import InputError
from pellucid.worlds.grammar import ASPECTS, CUE, CUES, LENGTH, NEGATION, NOUN, NUMBER, OPINION, PAD, VOCABULARY
from pellucid.worlds.sentences import decide, encode, words_of

# A change of these is a change of the world: raise the versions of the zoo recipes that use it, and say so.
PINNED = {False: "a02c904bba2d84eb", True: "db1924323648e340"}
GOOD = ["good", "great", "lovely", "excellent", "wonderful", "delicious", "tasty"]
FOOD = ["food", "soup", "pizza", "dessert", "fish"]


@pytest.fixture(scope="module")
def world() -> worlds.World:
    return worlds.sentences(1000, seed=3)


@pytest.mark.parametrize("spurious", PINNED)
def test_bytes_are_pinned(spurious: bool) -> None:
    assert worlds.sentences(60, seed=7, spurious=spurious, label_noise=0.2).fingerprint()[:16] == PINNED[spurious]


def test_rows_depend_on_seed_and_number_alone(world: worlds.World) -> None:
    few = worlds.sentences(40, seed=3)
    assert torch.equal(few.inputs, world.inputs[:40])
    assert few.truth["words"] == world.truth["words"][:40]
    assert not torch.equal(worlds.sentences(40, seed=4).inputs, few.inputs)


def decide_plainly(words: tuple[str, ...]) -> int:
    """The label again, from the words alone: in the clause that names the food, opinion and denial."""
    clauses = " ".join(words).replace(",", "|").replace(" and ", "|").replace(" but ", "|").replace(" while ", "|")
    clause = next(c.split() for c in clauses.split("|") if set(c.split()) & set(FOOD))
    good = bool(set(clause) & set(GOOD))
    return int(good != bool({"not", "never", "hardly"} & set(clause)))


def test_labels_follow_the_words(world: worlds.World) -> None:
    assert world.labels.tolist() == [decide_plainly(words) for words in world.truth["words"]]
    assert torch.equal((decide(world.inputs) > 0).long(), world.labels)


def test_tokens_words_and_padding_agree(world: worlds.World) -> None:
    truth = world.truth
    assert world.inputs.shape == (1000, LENGTH)
    assert world.inputs.dtype == torch.int64
    assert world.features == VOCABULARY == truth["vocabulary"]
    assert [words_of(row) for row in world.inputs] == list(truth["words"])
    assert torch.equal(truth["padding"], world.inputs == 0)
    assert torch.equal(truth["padding"], truth["roles"] == PAD)
    assert (truth["padding"].long().diff(dim=1) >= 0).all()  # at the end alone
    for i in range(50):
        assert torch.equal(encode(truth["words"][i])[0], world.inputs[i])


def test_rationales_are_what_brute_force_finds(world: worlds.World) -> None:
    """Erasing a word of the rationale changes what is said of the food, and erasing any other but the noun does not."""
    before = decide(world.inputs[:150])
    for place in range(LENGTH):
        erased = world.inputs[:150].clone()
        erased[:, place] = 0
        changed = decide(erased) != before
        decides = (world.truth["rationale"] | world.truth["nouns"])[:150, place]
        # Two clauses run into one where the joiner between them is missing; so joiners are not erased here.
        words = [VOCABULARY[number] in (",", "and", "but", "while") for number in world.inputs[:150, place].tolist()]
        assert torch.equal(changed & ~torch.tensor(words), decides)


def test_rationale_alone_is_enough(world: worlds.World) -> None:
    kept = torch.where(world.truth["rationale"] | world.truth["nouns"], world.inputs, 0)
    assert torch.equal(decide(kept), decide(world.inputs))


def test_sentiments_are_said_of_every_aspect(world: worlds.World) -> None:
    truth = world.truth
    for number, aspect in enumerate(ASPECTS):
        assert torch.equal(decide(world.inputs, aspect), truth["sentiments"][:, number])
        named = ((truth["clauses"] == number) & (truth["roles"] == NOUN)).sum(dim=1)
        assert torch.equal(named, truth["sentiments"][:, number].abs())
        negated = ((truth["clauses"] == number) & (truth["roles"] == NEGATION)).any(dim=1)
        assert torch.equal(negated, truth["negated"][:, number])
    assert (truth["sentiments"][:, truth["aspect"]] != 0).all()


def test_distractors_disagree_and_negations_abound(world: worlds.World) -> None:
    truth = world.truth
    says = truth["sentiments"]
    others = says[:, 1:].abs().sum(dim=1)
    assert {0, 1, 2} == set(others.tolist())
    assert ((says[:, 1:] == -says[:, :1]).any(dim=1)).double().mean() > 0.4
    assert truth["negated"][:, 0].double().mean() == pytest.approx(0.35, abs=0.05)
    assert world.labels.double().mean() == pytest.approx(0.5, abs=0.05)
    outside = [set(words) for words in truth["words"] if "friend" in words]
    assert outside
    assert all("good" in words for words in outside)
    opinions = (truth["roles"] == OPINION) & (truth["clauses"] < 0)
    assert not opinions.any()  # what an aside says is nobody's opinion of an aspect


@pytest.mark.parametrize("aspect", ASPECTS)
def test_any_aspect_can_be_asked_about(aspect: str) -> None:
    world = worlds.sentences(100, seed=1, aspect=aspect)
    assert torch.equal((decide(world.inputs, aspect) > 0).long(), world.labels)
    assert (decide(world.inputs, aspect) != 0).all()


def test_cue_points_where_it_is_said_to() -> None:
    plain, world = worlds.sentences(2000, seed=2), worlds.sentences(2000, seed=2, spurious=True)
    truth = world.truth
    assert (plain.truth["cue"] == -1).all()
    assert not {NUMBER[word] for word in CUES} & set(plain.inputs.unique().tolist())
    assert (truth["cue"] == world.labels).double().mean() == pytest.approx(0.95, abs=0.02)
    where = truth["roles"] == CUE
    assert (where.sum(dim=1) == 1).all()
    assert [CUES.index(VOCABULARY[i]) for i in world.inputs[where].tolist()] == truth["cue"].tolist()
    assert torch.equal(world.labels, plain.labels)
    for with_cue, without in itertools.islice(zip(truth["words"], plain.truth["words"], strict=True), 100):
        assert (*with_cue[:-2], with_cue[-1]) == without
    assert (worlds.sentences(200, spurious=True, spurious_probability=0.0).truth["cue"] != -1).all()


def test_noise_is_recorded_exactly() -> None:
    world = worlds.sentences(2000, seed=3, label_noise=0.1)
    truth = world.truth
    assert torch.equal(world.labels, truth["true_labels"] ^ truth["flipped"].long())
    assert not truth["flipped"][world.test_rows].any()
    assert truth["flipped"][world.train_rows].double().mean() == pytest.approx(0.1, abs=0.03)


def test_text_is_read_and_strange_words_are_named() -> None:
    assert decide(encode("The soup was NOT bad, but the waiter was rude."), "food").item() == 1
    assert decide(encode("The soup was not bad, but the waiter was rude."), "service").item() == -1
    assert decide(encode("the soup"), "food").item() == 0
    with pytest.raises(InputError, match="'goulash'"):
        encode("the goulash was good")
    with pytest.raises(InputError, match="33"):
        encode(["the"] * 33)
    with pytest.raises(InputError, match="'wine'"):
        decide(encode("the soup"), "wine")


@pytest.mark.parametrize(
    "settings", [{"n": 0}, {"spurious_probability": 2.0}, {"label_noise": -1.0}, {"seed": -1}, {"aspect": "wine"}]
)
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(settings.values())))):
        worlds.sentences(**{"n": 4, **settings})  # type: ignore[arg-type]
