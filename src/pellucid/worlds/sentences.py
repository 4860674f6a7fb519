"""The sentences world: what guests say about a restaurant, and which of their words decide the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.worlds import grammar
from pellucid.worlds.grammar import ASPECTS, LENGTH, NUMBER, ROLES, VOCABULARY
from pellucid.worlds.world import World, generator, split_rows

__all__ = ["decide", "encode", "sentences", "words_of"]


def encode(text: str | Sequence[str], length: int = LENGTH) -> Tensor:
    """Token ids (1, length) of a text in the world's words, padded at its end with 0.

    >>> from pellucid.worlds.sentences import encode, words_of
    >>> words_of(encode("The soup was not bad.")[0])
    ('the', 'soup', 'was', 'not', 'bad', '.')
    """
    found = re.findall(r"[a-z]+|[.,]|<pad>", text.lower()) if isinstance(text, str) else list(text)
    if unknown := [word for word in found if word not in NUMBER]:
        raise InputError(
            "The sentences world must know every word", got=repr(unknown[0]), hint=", ".join(VOCABULARY[1:])
        )
    if len(found) > length:
        raise InputError(f"A sentence must have at most {length} words", got=str(len(found)))
    numbers = [NUMBER[word] for word in found]
    return torch.tensor([numbers + [0] * (length - len(numbers))])


def words_of(ids: Tensor) -> tuple[str, ...]:
    """The words of one row of token ids, without padding."""
    return tuple(VOCABULARY[number] for number in ids.tolist() if number)


def decide(ids: Tensor, aspect: str = "food") -> Tensor:
    """What rows of token ids say of an aspect: -1 bad, 1 good, 0 nothing; (N,) int64. Rows may lack words.

    >>> from pellucid.worlds.sentences import decide, encode
    >>> decide(encode("we had good soup but the service was slow"), "service").item()
    -1
    """
    return torch.tensor([grammar.read(words_of(row))[_aspect(aspect)] for row in ids], dtype=torch.long)


def sentences(
    n: int = 2000,
    seed: int = 0,
    *,
    aspect: str = "food",
    spurious: bool = False,
    spurious_probability: float = 0.95,
    label_noise: float = 0.0,
    test_fraction: float = 0.25,
) -> World:
    """Sentences of one to three clauses; the label is what they say of one aspect, other aspects are distractors.

    Shapes: inputs ``(n, 32)`` int64 token ids, padded at the end with 0; labels ``(n,)``, 0 negative and 1 positive;
    ``features`` is the vocabulary, the word of each id. Sentence *i* depends on (seed, *i*) alone, and settings change
    nothing that they do not name; every sentence speaks of ``aspect``. One opinion in three is denied ("not", "never",
    "hardly"), some asides have the words of an opinion ("my good friend came"). ``spurious`` puts a word before the full
    stop, "overall" or "honestly", that points to the true class with ``spurious_probability``, else to the other.
    ``label_noise`` is the probability that a training label is turned around; held-out labels never are.

    ``truth``: ``rationale`` ``(n, 32)`` bool, the words that decide: the opinion of the aspect and its negation;
    ``nouns``, where the aspect is named; ``padding``, true where there is no word; ``roles`` with ``role_names`` (what
    each word does) and ``clauses`` (the aspect its clause is about, or -1), ``(n, 32)`` int64; ``sentiments``
    ``(n, 4)``, -1, 0 or 1 for each of ``aspects``, and ``negated`` ``(n, 4)``; ``words``; ``vocabulary``; ``rule``
    (`decide`); ``cue`` ``(n,)``, the class the spurious word points to or -1; ``true_labels``, ``flipped`` ``(n,)``.
    Generated here; free of rights.

    >>> from pellucid import worlds
    >>> world = worlds.sentences(4)
    >>> " ".join(world.truth["words"][3])
    'we had delicious soup .'
    """
    asked = _aspect(aspect)
    _check(n, spurious_probability, label_noise)
    made = [grammar.compose(row, asked) for row in generator(seed, "sentences").random((n, grammar.DRAWS)).tolist()]
    says = np.array([found for _, found in made], dtype=np.int64)
    due = (says[:, asked] > 0).astype(np.int64)
    chance = generator(seed, "labels").random((n, 2))
    cue = np.where(chance[:, 0] < spurious_probability, due, 1 - due) if spurious else np.full(n, -1)
    for (sentence, _), which in zip(made, cue.tolist(), strict=True):
        if spurious:
            sentence.say(grammar.CUES[which], grammar.CUE)
        sentence.say(grammar.END, grammar.JOINER)
    train_rows, test_rows = split_rows(due, seed=seed, test_fraction=test_fraction, stratify=True)
    flipped = np.zeros(n, dtype=bool)
    flipped[train_rows.numpy()] = chance[train_rows.numpy(), 1] < label_noise
    return World(
        name="sentences",
        inputs=_laid([[NUMBER[word] for word in sentence.words] for sentence, _ in made], 0),
        labels=torch.from_numpy(due ^ flipped),
        classes=("negative", "positive"),
        features=VOCABULARY,
        train_rows=train_rows,
        test_rows=test_rows,
        truth=_truth([sentence for sentence, _ in made], asked)
        | {
            "sentiments": torch.from_numpy(says),
            "aspects": ASPECTS,
            "aspect": asked,
            "cue": torch.from_numpy(cue.astype(np.int64)),
            "true_labels": torch.from_numpy(due),
            "flipped": torch.from_numpy(flipped),
        },
        attribution="Generated by Pellucid.",
        licence="CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/",
    )


def _truth(made: Sequence[grammar.Sentence], asked: int) -> dict[str, object]:
    roles = _laid([sentence.roles for sentence in made], grammar.PAD)
    clauses = _laid([sentence.clauses for sentence in made], -1)
    denied = (roles == grammar.NEGATION)[..., None] & (clauses[..., None] == torch.arange(len(ASPECTS)))
    here = clauses == asked
    return {
        "rationale": here & ((roles == grammar.OPINION) | (roles == grammar.NEGATION)),
        "nouns": here & (roles == grammar.NOUN),
        "padding": roles == grammar.PAD,
        "roles": roles,
        "role_names": ROLES,
        "clauses": clauses,
        "negated": denied.any(dim=1),
        "words": tuple(tuple(sentence.words) for sentence in made),
        "vocabulary": VOCABULARY,
        "rule": decide,
    }


def _laid(rows: Sequence[Sequence[int]], rest: int) -> Tensor:
    """Rows of different lengths, filled up at their ends."""
    return torch.tensor([[*row, *[rest] * (LENGTH - len(row))] for row in rows], dtype=torch.long)


def _aspect(name: str) -> int:
    if name not in ASPECTS:
        raise InputError(f"The 'aspect' must be one of {ASPECTS}", got=repr(name))
    return ASPECTS.index(name)


def _check(n: int, spurious_probability: float, label_noise: float) -> None:
    if n < 1:
        raise InputError("The sentences world must have at least one sentence", got=f"n={n}")
    for name, value in (("spurious_probability", spurious_probability), ("label_noise", label_noise)):
        if not 0 <= value <= 1:
            raise InputError(f"The {name!r} of the sentences world must lie between 0 and 1", got=repr(value))
