"""What a card and its class must say, so that catalogue, docs, command line and advice can be made from them."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import re
from typing import Any

from pellucid.contract import Method
from pellucid.contract.card import CLAIMS
from pellucid.testing.case import Case, demand
from pellucid.testing.checking.entry import check, checks


@check("card")
def card(case: Case) -> None:
    """The card is in the vocabulary, its question ends with a question mark, its citation and trial settings are real."""
    card, cls = case.card, type(case.method)
    card.check()
    demand(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", card.name), f"the name {card.name!r} is not in kebab-case")
    demand(card.title and card.cost and card.supports and card.limits, "title, cost, supports or limits is empty")
    demand("deterministic" in card.claims or "seeded" in card.claims or _exempts(card), _RANDOM)
    demand(not {"deterministic", "seeded"} <= set(card.claims), "the card claims both 'deterministic' and 'seeded'")
    demand(all(reason.strip() for reason in card.exempt.values()), "an exemption has no reason")
    unknown = sorted(set(card.exempt) - set(checks()) - set(CLAIMS))
    demand(not unknown, f"exemptions name no check: {unknown}")
    json.dumps(card.as_dict(), allow_nan=False)
    cls(**dict(card.trial))
    known = _bibliography() if cls.__module__.startswith("pellucid.") else set()
    demand(not known or card.citation in known, f"the citation {card.citation!r} is not in the bibliography")


_RANDOM = "the card claims neither 'deterministic' nor 'seeded', so nobody knows whether a result can be had again"


def _exempts(card: Any) -> bool:
    return "reproducible" in card.exempt


def _bibliography() -> set[str]:
    """Keys of the bibliography, where there is one."""
    file = importlib.resources.files("pellucid") / "bibliography.bib"
    return set(re.findall(r"@\w+\{\s*([^,\s]+)", file.read_text(encoding="utf-8"))) if file.is_file() else set()


@check("settings")
def settings(case: Case) -> None:
    """The class is a frozen, keyword-only dataclass whose settings all have defaults and are plain data."""
    cls = type(case.method)
    demand(dataclasses.is_dataclass(cls), "the class is no dataclass")
    demand(cls.__dataclass_params__.frozen, "the class is not frozen")  # type: ignore[attr-defined]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        demand(field.kw_only, f"the setting {field.name!r} is not keyword-only")
        has = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        demand(has, f"the setting {field.name!r} has no default")
    demand(cls() == cls() and hash(cls()) == hash(cls()), "two methods of the same settings are not equal")
    demand(isinstance(cls(), Method), "the defaults make no method")


@check("docstring")
def docstring(case: Case) -> None:
    """The docstring begins with the question answered, and has a source and an example."""
    text = type(case.method).__doc__ or ""
    first = (text.strip().splitlines() or [""])[0]
    demand(first.endswith("?"), f"the first line asks no question: {first!r}")
    for word in ("Source", "Example", ">>>"):
        demand(word in text, f"the docstring has no {word!r}")
