"""Which of the methods that work comes first, and why, in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.advice import trial
from pellucid.advice.answer import Cost, Suggestion, seconds
from pellucid.advice.evidence import Standing
from pellucid.advice.questions import Question
from pellucid.advice.table import Listing
from pellucid.advice.trial import Tried
from pellucid.contract import Method
from pellucid.contract.card import FORMS

__all__ = ["AUDIENCES", "Found", "order", "suggestion"]

AUDIENCES = {
    "layperson": "it speaks of few parts, of cases or in rules",
    "engineer": "it draws nothing by chance: the same figures in every run",
    "auditor": "it can be repeated exactly, and states its own error",
}
_SIMPLE = ("text", "examples", "rules")
# Settings of methods that speak of parts, not of single pixels or numbers.
_PARTS = {"features", "window", "cells", "parts", "chosen"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A method that works here: tried, stopped after so many seconds, or not tried at all."""

    method: Method
    tried: Tried | None
    layer: str | None = None
    stopped: float | None = None
    reduced: bool = False

    @property
    def name(self) -> str:
        """The method's name in the catalogue."""
        return self.method.card.name


def suits(found: Found, audience: str | None) -> bool:
    """Whether a method is what this audience wants first."""
    claims = {*found.method.claims}
    if audience == "layperson":
        fields = {f.name for f in dataclasses.fields(found.method)}  # type: ignore[arg-type]
        return found.method.card.form in _SIMPLE or bool(fields & _PARTS)
    if audience == "engineer":
        return "deterministic" in claims
    if audience == "auditor":
        known = found.tried is not None and trial.has_error(found.tried.result)
        return known and bool(claims & {"deterministic", "seeded"})
    return True


def order(
    found: Sequence[Found],
    wanted: Question,
    wish: Any,
    listed: Mapping[str, Listing],
    standing: Mapping[str, Standing],
) -> list[Found]:
    """The best first: by preset, audience, the question's words, what was measured, the field guide, and time."""
    preset = wish.preset

    def key(f: Found) -> tuple[Any, ...]:
        card, fit = f.method.card, wanted.fits[f.name]
        took = f.tried.seconds / f.tried.rows if f.tried is not None else math.inf
        scope = {"decision-critical": card.scope == "global", "science": card.scope != "global"}.get(
            preset or "", False
        )
        rank = standing[f.name].rank if f.name in standing else math.inf
        hurry = took if preset == "time-critical" else 0.0
        words = -fit if wanted.kind is None else 0.0
        return (
            f.tried is None,
            scope,
            not suits(f, wish.audience),
            hurry,
            words,
            rank,
            listed[f.name].tier,
            -fit,
            took,
            f.name,
        )

    ordered = sorted(found, key=key)
    if preset != "decision-critical":
        return ordered
    heads = [next((f for f in ordered if f.method.card.form == form), None) for form in FORMS]
    first = [f for f in ordered if f in heads]
    return first + [f for f in ordered if f not in heads]


def suggestion(
    found: Found,
    wish: Any,
    rows: int,
    forward: float,
    standing: Standing | None,
    listed: Listing,
) -> Suggestion:
    """A method with its reason, cost, evidence and limits."""
    card, cost = found.method.card, _cost(found, rows, forward)
    why = [f"It answers: {card.question}"]
    if wish.audience is not None and suits(found, wish.audience):
        why.append(f"For the {wish.audience}: {AUDIENCES[wish.audience]}.")
    if wish.deadline is not None:
        why.append(f"It takes {cost}, and there are {seconds(wish.deadline)}.")
    shown = [standing.words] if standing is not None else []
    limits = list(card.limits)
    if found.tried is not None:
        errors = trial.own_errors(found.tried.result)
        shown += [f"its own {name.replace('_', ' ')}: {value:.2g} at worst" for name, value in errors.items()]
    else:
        limits.append("whether it works on this model was not found out in the time that there was")
    if found.reduced:
        limits.append("fewer draws than by default, to be in time; the error it states is larger for it")
    shown += listed.words
    return Suggestion(
        method=found.method,
        layer=found.tried.layer if found.tried is not None else found.layer,
        why=" ".join(why),
        cost=cost,
        evidence=tuple(shown),
        limits=tuple(limits),
    )


def _cost(found: Found, rows: int, forward: float) -> Cost:
    stated = found.method.card.cost
    if found.tried is None:
        bound = "unknown" if found.stopped is None else "more than"
        return Cost(seconds=found.stopped, bound=bound, forwards=None, passes=None, stated=stated)
    took = found.tried.all_rows(rows)
    return Cost(
        seconds=took,
        bound="about" if took == found.tried.seconds else "at most",
        forwards=found.tried.forwards,
        passes=took / forward if forward > 0 else None,
        stated=stated,
    )
