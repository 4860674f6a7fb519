"""Which methods are there, and which of them answers my question? Computed from the cards, so it can't be out of date."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pellucid import surveys
from pellucid.contract.card import FORMS, NEEDS, SCOPES, Card
from pellucid.contract.entry import Entry
from pellucid.contract.errors import MethodError
from pellucid.contract.method import by_name, registered
from pellucid.entries import ENTRIES

__all__ = ["as_json", "bibliography", "card", "citation", "entries", "find", "html", "names", "places", "table", "tree"]

# What an access to the model or the data brings along: whoever has gradients has predictions too.
_BRINGS = {
    "gradient": {"layers"},
    "layers": {"gradient"},
    "backward rules": {"gradient", "layers"},
    "spatial layer": {"gradient", "layers"},
    "pooled head": {"gradient", "layers", "spatial layer"},
    "separate head": {"gradient", "layers", "spatial layer"},
    "labels": {"data"},
}
_KINDS_OF_INPUT = {"image", "table"}
_EMPTY_WORDS = {
    "does",
    "from",
    "have",
    "much",
    "that",
    "their",
    "this",
    "what",
    "when",
    "where",
    "which",
    "will",
    "with",
}


def names() -> list[str]:
    """The name of every method, in alphabetical order.

    Example:
        >>> import pellucid as px
        >>> "integrated-gradients" in px.catalogue.names()
        True
    """
    return sorted(registered())


def card(name: str) -> Card:
    """The card of one method; an unknown name lists the nearest, and a variant's name gives the method that covers it.

    Example:
        >>> import pellucid as px
        >>> px.catalogue.card("vanilla-gradient").form
        'attribution'
    """
    return by_name(name).card


def find(
    text: str | None = None,
    *,
    form: str | None = None,
    scope: str | None = None,
    needs: str | Iterable[str] | None = None,
    question: str | None = None,
    category: str | None = None,
) -> list[Card]:
    """Which methods fit? The cards that meet every condition given, sorted by name, or by fit where a question is asked.

    Args:
        text: words that must all occur somewhere on the card.
        form: "attribution", "semantics", "rules", "examples", "text" or "measure".
        scope: "local", "semi-local" or "global".
        needs: what you can give, such as "predictions" or ("gradient", "data"): methods that need nothing more. Kinds
            of input ("image", "table") count where one of them is named.
        question: your question in your words; methods whose question shares words with it, the best fit first.
        category: part of a place in a survey's taxonomy, such as "saliency" or "002:post-hoc".

    Example:
        >>> import pellucid as px
        >>> "vanilla-gradient" in [c.name for c in px.catalogue.find("saturated", form="attribution", needs="gradient")]
        True
    """
    found = sorted((method.card for method in registered().values()), key=lambda c: c.name)
    if form is not None:
        found = [c for c in found if c.form == _known(form, FORMS, "form")]
    if scope is not None:
        found = [c for c in found if c.scope == _known(scope, SCOPES, "scope")]
    if needs is not None:
        given = _given(needs)
        found = [c for c in found if _enough(c, given)]
    if category is not None:
        found = [c for c in found if category.lower() in _categories(c)]
    if text is not None:
        found = [c for c in found if all(word in _all_words(c) for word in text.lower().split())]
    if question is not None:
        fits = {c.name: fit(question, c) for c in found}
        found = sorted((c for c in found if fits[c.name]), key=lambda c: (-fits[c.name], c.name))
    return found


def table(cards: Iterable[Card] | None = None) -> str:
    """The methods as a Markdown table, by form: title, the question it answers, the name to ask for it.

    Example:
        >>> import pellucid as px
        >>> print(px.catalogue.table([px.catalogue.card("vanilla-gradient")]).splitlines()[0])
        | method | question it answers | name |
    """
    chosen = find() if cards is None else list(cards)
    lines = ["| method | question it answers | name |", "|---|---|---|"]
    for form in FORMS:
        here = [c for c in chosen if c.form == form]
        if here:
            lines.append(f"| **{form}** | | |")
        lines += [f"| {_cell(c.title)} | {_cell(c.question)} | `{c.name}` |" for c in here]
    return "\n".join(lines)


def places(name: str) -> dict[str, str]:
    """Where a method stands in each survey's taxonomy: one path for every survey of `pellucid.surveys.SURVEYS`.

    Example:
        >>> import pellucid as px
        >>> px.catalogue.places("integrated-gradients")["003"]
        'passive/attribution/semi-local'
    """
    return surveys.places(card(name))


def tree(survey: str, cards: Iterable[Card] | None = None) -> dict[str, tuple[str, ...]]:
    """A survey's branches, in its order, with the names of the methods there; branches without a method too.

    Example:
        >>> import pellucid as px
        >>> "lime" in px.catalogue.tree("002")["post-hoc/proxy/local explainer"]
        True
    """
    return surveys.tree(survey, find() if cards is None else cards)


def html(cards: Iterable[Card] | None = None) -> str:
    """The catalogue as a page of its own: three dimensions, a table with filters, the surveys' trees.

    It fetches nothing, and can be read without its script.

    Example:
        >>> import pellucid as px
        >>> px.catalogue.html([px.catalogue.card("lime")])[:15]
        '<!doctype html>'
    """
    from pellucid.show.catalogue import page

    return page(find() if cards is None else list(cards))


def entries() -> tuple[Entry, ...]:
    """The tools, demos and requirements of the catalogue, each with the test that shows it.

    Example:
        >>> import pellucid as px
        >>> {entry.kind for entry in px.catalogue.entries()} <= {"tool", "demo", "requirement"}
        True
    """
    return ENTRIES


def as_json(cards: Iterable[Card] | None = None) -> str:
    """The cards as JSON: a list of objects with `id`, `kind`, `covers`, `form`, `scope`, `needs` and everything else.

    Without `cards`, those of all methods and after them the tools, demos and requirements.

    Example:
        >>> import json, pellucid as px
        >>> json.loads(px.catalogue.as_json())[0].keys() >= {"id", "kind", "covers", "form", "scope", "needs"}
        True
    """
    chosen: list[Card | Entry] = [*find(), *entries()] if cards is None else list(cards)
    return json.dumps([c.as_dict() for c in chosen], indent=1, ensure_ascii=False)


@functools.cache
def bibliography() -> Mapping[str, str]:
    """The BibTeX entry behind every citation key, as text.

    Example:
        >>> import pellucid as px
        >>> px.catalogue.bibliography()["sundararajan2017axiomatic"].splitlines()[0]
        '@inproceedings{sundararajan2017axiomatic,'
    """
    text = importlib.resources.files("pellucid").joinpath("bibliography.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^(@\w+\{([^,\s]+),\n.*?^\})$", text, flags=re.MULTILINE | re.DOTALL)
    return {key: entry for entry, key in entries}


def citation(name: str) -> str:
    """Whom to cite for a method: authors, title, where and when, in one line.

    Example:
        >>> import pellucid as px
        >>> px.catalogue.citation("integrated-gradients")
        'Sundararajan, Taly and Yan. Axiomatic Attribution for Deep Networks. ICML, 2017. arXiv:1703.01365'
    """
    key = card(name).citation
    entry = bibliography().get(key)
    if entry is None:
        return key
    fields: dict[str, str] = dict(re.findall(r"^\s*(\w+) = \{(.*)\},?$", entry, flags=re.MULTILINE))
    places = ("journal", "booktitle", "publisher", "school", "howpublished")
    where = next((fields[k] for k in places if k in fields), "")
    authors = [a.split(",")[0].strip() for a in fields["author"].split(" and ")]
    people = " and ".join(filter(None, [", ".join(authors[:-1]), authors[-1]]))
    if len(authors) > 4:
        people = f"{authors[0]} et al."
    parts = [people, fields["title"], ", ".join(filter(None, [where, fields["year"]]))]
    tail = f" arXiv:{fields['eprint']}" if "eprint" in fields else f" doi:{fields['doi']}" if "doi" in fields else ""
    return ". ".join(parts).replace("{", "").replace("}", "") + "." * bool(tail) + tail


def _known(word: str, words: Iterable[str], name: str) -> str:
    if word not in words:
        raise MethodError(f"The '{name}' must be one of {', '.join(words)}", got=repr(word))
    return word


def _given(needs: str | Iterable[str]) -> set[str]:
    given = {_known(n, NEEDS, "needs") for n in ([needs] if isinstance(needs, str) else needs)}
    return given.union({"predictions"}, *(_BRINGS.get(n, set()) for n in given))


def _enough(card: Card, given: set[str]) -> bool:
    """Whether what is given suffices. A module gives gradients and layers, and rules where its operations have them."""
    wanted = set(card.needs)
    if "gradient" in given:
        wanted -= {"backward rules", "spatial layer", "pooled head", "separate head"}
    if not given & _KINDS_OF_INPUT:
        wanted -= _KINDS_OF_INPUT
    return wanted <= given


def _categories(card: Card) -> str:
    """Every place of a method: those its card gives in its own words, and those in the surveys' trees."""
    pairs = [*card.taxonomy.items(), *surveys.places(card).items()]
    return "\n".join(f"{survey}:{path}" for survey, path in pairs).lower()


def _all_words(card: Card) -> str:
    values: list[Any] = list(card.as_dict().values())
    return json.dumps(values, ensure_ascii=False).lower()


def _stems(text: str) -> set[str]:
    """Longer words without their endings, so that "pixels mattered" meets "pixel matters"."""
    words = set(re.findall(r"[a-z]{4,}", text.lower())) - _EMPTY_WORDS
    return {re.sub(r"(?<=...)(ations?|ing|ed|es|s|e)$", "", w) for w in words}


def fit(question: str, card: Card) -> float:
    """Shared words, those of the card's own question counting twice."""
    asked = _stems(question)
    near = _stems(f"{card.title} {' '.join(card.supports)}")
    return 2 * len(asked & _stems(card.question)) + len(asked & near)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
