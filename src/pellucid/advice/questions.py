"""What a person asks, and which methods answer that kind of question."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pellucid import catalogue
from pellucid.contract.card import FORMS, SCOPES, Card
from pellucid.contract.errors import InputError

__all__ = ["KINDS", "Question", "asked"]

# Words on a card that say: it finds what would turn the answer.
_TURNS = r"counterfactual|contrast|pertinent|instead|\bturns?\b|\bflips?\b|fewest|minimal|smallest"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of question: its name, the words that give it away, and the forms and scopes that answer it."""

    name: str
    words: str
    forms: tuple[str, ...]
    scopes: tuple[str, ...] = SCOPES
    card: str = ""

    def answered_by(self, card: Card) -> bool:
        """Whether a method gives what this kind of question asks for."""
        told = f"{card.title} {card.question}".lower()
        return card.form in self.forms and card.scope in self.scopes and bool(re.search(self.card, told))


# In the order in which they are tried: the first whose words occur.
KINDS = (
    Kind(
        name="why not",
        words=r"why not|instead|rather than|otherwise|different answer|ha(ve|d) to change|counterfactual|contrast",
        forms=("examples", "attribution", "rules", "text"),
        card=_TURNS,
    ),
    Kind(
        name="can it be believed",
        words=r"believ|trust|faithful|reliable|\bevaluate|how good is the explanation",
        forms=("measure",),
    ),
    Kind(
        name="which examples",
        words=r"\bexamples?\b|\bcases?\b|similar|prototyp|neighbour|neighbor|training (data|images|rows|set)",
        forms=("examples",),
    ),
    Kind(name="what rule", words=r"\brules?\b|\blogic\b|\btrees?\b|\bif.then\b|\bconditions?\b", forms=("rules",)),
    Kind(
        name="what do hidden parts mean",
        words=r"hidden|neurons?\b|\bunits?\b|\bchannels?\b|\bconcepts?\b|\bfilters?\b",
        forms=("semantics",),
    ),
    Kind(name="say it in words", words=r"in (plain )?words|in a sentence|in plain (english|language)", forms=("text",)),
    Kind(
        name="which inputs in general",
        words=r"overall|in general|globally|on the whole|on average|the whole model",
        forms=("attribution",),
        scopes=("global",),
    ),
    Kind(
        name="which inputs",
        words=r"(which|what|where).*\b(inputs?|parts?|pixels?|words?|features?|columns?|regions?|places?|tokens?)\b"
        r"|matter|important|salien|\bwhy\b|\bwhere\b|look at|looked at",
        forms=("attribution",),
        scopes=("local", "semi-local"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked, in the caller's words and as a kind; the methods that answer it, each with a fit above zero."""

    text: str | None
    kind: Kind | None
    fits: dict[str, float]

    def misses(self, card: Card) -> str:
        """Why a method does not answer it; empty where it does."""
        if card.name in self.fits:
            return ""
        if self.text is None:
            return "it measures another method's explanation; ask whether an explanation can be believed"
        return f"it answers another question: {card.question}"


def asked(text: str | None, cards: list[Card]) -> Question:
    """The question understood: a kind by its words, and the cards whose own questions share words with it."""
    if text is None:
        return Question(text=None, kind=None, fits={c.name: 0.0 for c in cards if c.form != "measure"})
    if not isinstance(text, str) or not text.strip():
        raise InputError("The 'question' must be words", got=repr(text), hint=_known())
    lowered = text.strip().lower()
    kind = next((k for k in KINDS if lowered == k.name), None)
    kind = kind or next((k for k in KINDS if re.search(k.words, lowered)), None)
    shared = {c.name: catalogue.fit(text, c) for c in cards}
    if kind is not None:
        fits = {c.name: shared[c.name] for c in cards if kind.answered_by(c)}
        return Question(text=text, kind=kind, fits=fits)
    best = max(shared.values(), default=0.0)
    if not best:
        raise InputError("The 'question' must share words with what some method answers", got=repr(text), hint=_known())
    return Question(text=text, kind=None, fits={name: fit for name, fit in shared.items() if fit >= best / 2})


def _known() -> str:
    return f"{', '.join(repr(k.name) for k in KINDS)}; or the question of a card: `pellucid methods`"


assert all({*k.forms} <= {*FORMS} for k in KINDS)
