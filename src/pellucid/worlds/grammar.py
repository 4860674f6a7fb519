"""The grammar of the sentences world: how a restaurant guest talks, and which words carry the opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PADDING = "<pad>"
ASPECTS = ("food", "service", "price", "place")
NOUNS = (
    ("food", "soup", "pizza", "dessert", "fish"),
    ("service", "waiter", "staff", "barman"),
    ("price", "bill", "tip"),
    ("place", "room", "terrace", "view"),
)
# Opinions that can be had of anything, then those of each aspect: first the bad ones, then the good ones.
COMMON = (("bad", "awful", "terrible", "poor", "dreadful"), ("good", "great", "lovely", "excellent", "wonderful"))
OWN = (
    (("tasteless", "stale"), ("delicious", "tasty")),
    (("rude", "slow"), ("friendly", "polite")),
    (("outrageous", "unfair"), ("fair", "modest")),
    (("noisy", "dirty"), ("cosy", "bright")),
)
NEGATIONS = ("not", "never", "hardly")
DEGREES = ("very", "really", "so")
JOINERS = (",", "and", "but", "while")
# A slot in capitals is filled; M and A are left out more often than not.
FRAMES = (
    ("the", "N", "was", "M", "A", "O"),
    ("the", "N", "seemed", "M", "A", "O"),
    ("i", "found", "the", "N", "M", "A", "O"),
    ("we", "had", "M", "A", "O", "N"),
    ("M", "A", "O", "was", "the", "N"),
)
# Asides say nothing about an aspect, though some have the words of an opinion, or of its denial.
ASIDES = (
    ("we", "went", "last", "week"),
    ("my", "good", "friend", "came"),
    ("it", "was", "a", "bad", "day"),
    ("we", "did", "not", "wait"),
    ("on", "a", "lovely", "evening"),
    ("after", "a", "terrible", "film"),
    ("they", "never", "close", "early"),
)
CUES = ("overall", "honestly")  # for the first and for the second class, where the world is told to be spurious
END = "."
ROLES = ("padding", "filler", "noun", "opinion", "negation", "degree", "joiner", "cue")
PAD, FILLER, NOUN, OPINION, NEGATION, DEGREE, JOINER, CUE = range(len(ROLES))
MOST_CLAUSES = 3
LENGTH = 32  # three clauses of seven words, an aside of five, two joiners, a comma, a cue and the full stop


def _words() -> tuple[str, ...]:
    opinions = [word for group in (COMMON, *OWN) for words in group for word in words]
    frames = [word for phrase in (*FRAMES, *ASIDES) for word in phrase if not word.isupper()]
    nouns = [word for words in NOUNS for word in words]
    known = [PADDING, END, *JOINERS, *nouns, *opinions, *NEGATIONS, *DEGREES, *CUES, *frames]
    return tuple(dict.fromkeys(known))


VOCABULARY = _words()
NUMBER = {word: number for number, word in enumerate(VOCABULARY)}
POLARITY = {word: 2 * sign - 1 for group in (COMMON, *OWN) for sign, words in enumerate(group) for word in words}
ASPECT_OF = {word: aspect for aspect, words in enumerate(NOUNS) for word in words}


@dataclass
class Sentence:
    """Words with the part that each plays, and the aspect of the clause it stands in, or -1."""

    words: list[str]
    roles: list[int]
    clauses: list[int]

    def say(self, word: str, role: int, aspect: int = -1) -> None:
        """Add a word."""
        self.words.append(word)
        self.roles.append(role)
        self.clauses.append(aspect)


def compose(draws: Sequence[float], asked: int) -> tuple[Sentence, list[int]]:
    """A sentence out of numbers in [0, 1), and what it says of each aspect: -1 bad, 1 good, 0 nothing.

    One clause, at a random place, is about the aspect ``asked``; up to two others are about other aspects.
    """
    draw = iter(draws)
    others = [aspect for aspect in range(len(ASPECTS)) if aspect != asked]
    count = 1 + _pick(next(draw), MOST_CLAUSES)
    second, third = others.pop(_pick(next(draw), 3)), others.pop(_pick(next(draw), 2))
    order = [second, third][: count - 1]
    order.insert(_pick(next(draw), count), asked)
    aside, which = next(draw), ASIDES[_pick(next(draw), len(ASIDES))]
    sentence, says = Sentence([], [], []), [0] * len(ASPECTS)
    if aside < 0.3:
        _aside(sentence, which)
        sentence.say(",", JOINER)
    for place, aspect in enumerate(order):
        if place:
            sentence.say(JOINERS[_pick(next(draw), len(JOINERS))], JOINER)
        says[aspect] = _clause(sentence, aspect, [next(draw) for _ in range(8)])
    if aside > 0.7:
        sentence.say(",", JOINER)
        _aside(sentence, which)
    return sentence, says


DRAWS = 6 + MOST_CLAUSES - 1 + 8 * MOST_CLAUSES  # what `compose` takes at most


def _clause(sentence: Sentence, aspect: int, draw: Sequence[float]) -> int:
    """Say something about an aspect; gives back -1 (bad) or 1 (good)."""
    noun = NOUNS[aspect][_pick(draw[0], len(NOUNS[aspect]))]
    good = draw[1] < 0.5
    words = (COMMON if draw[2] < 0.6 else OWN[aspect])[good]
    opinion = words[_pick(draw[3], len(words))]
    denied = draw[4] < 0.35
    negation = NEGATIONS[_pick(draw[4] / 0.35, len(NEGATIONS))] if denied else ""
    degree = DEGREES[_pick(draw[5] / 0.3, len(DEGREES))] if draw[5] < 0.3 else ""
    fillings = {"N": (noun, NOUN), "O": (opinion, OPINION), "M": (negation, NEGATION), "A": (degree, DEGREE)}
    for slot in FRAMES[_pick(draw[6], len(FRAMES))]:
        word, role = fillings.get(slot, (slot, FILLER))
        if word:
            sentence.say(word, role, aspect)
    return (1 if good else -1) * (-1 if denied else 1)


def _aside(sentence: Sentence, words: Sequence[str]) -> None:
    for word in words:
        sentence.say(word, FILLER)


def _pick(draw: float, count: int) -> int:
    return min(int(draw * count), count - 1)


def read(words: Sequence[str]) -> list[int]:
    """What a row of words says of each aspect: -1, 1, or 0 for nothing; words may be missing or out of the grammar.

    Joiners and the full stop part clauses. A clause with a noun says the product of its opinions' signs, each negation
    turning it around; a clause without an opinion says nothing.
    """
    says = [0] * len(ASPECTS)
    nouns, sign, opinions = set[int](), 1, 0
    for word in (*words, END):
        if word in JOINERS or word == END:
            for aspect in nouns:
                says[aspect] = sign if opinions else 0
            nouns, sign, opinions = set(), 1, 0
        elif word in ASPECT_OF:
            nouns.add(ASPECT_OF[word])
        elif word in NEGATIONS:
            sign = -sign
        elif word in POLARITY:
            sign, opinions = sign * POLARITY[word], opinions + 1
    return says
