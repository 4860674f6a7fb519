"""What advice is: the methods to take, each with its cost, evidence and limits; the others with the reason against them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pellucid.contract import Method
from pellucid.contract.card import Card

__all__ = ["Advice", "Cost", "Refusal", "Suggestion"]

SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What explaining all rows takes.

    `seconds` were measured on the caller's model and rows; `bound` says how they are meant: "about"; "at most", where all
    rows would have taken too long to try and one row's time, loading included, stands for each; "more than", where the
    trial was stopped; "unknown", where it was not tried. `forwards` are the rows that the model ran on in that trial,
    `None` where a faster path ran parts of the network. `passes` are the seconds in forward passes of all rows. `stated`
    is the method's own account.
    """

    seconds: float | None
    bound: str
    forwards: int | None
    passes: float | None
    stated: str

    def __str__(self) -> str:
        if self.seconds is None:
            return "not measured"
        return f"{self.bound} {seconds(self.seconds)}"


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """One method to take: `px.explain(model, inputs, suggestion.method, layer=suggestion.layer)` as `call` spells it."""

    method: Method
    layer: str | None
    why: str
    cost: Cost
    evidence: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def name(self) -> str:
        """The method's name in the catalogue."""
        return self.method.card.name

    @property
    def card(self) -> Card:
        """The method's card."""
        return self.method.card

    @property
    def call(self) -> str:
        """The call to make."""
        changed = [
            f"{f.name}={getattr(self.method, f.name)!r}"
            for f in dataclasses.fields(self.method)  # type: ignore[arg-type]
            if getattr(self.method, f.name) != f.default
        ]
        what = f"{type(self.method).__name__}({', '.join(changed)})" if changed else repr(self.name)
        layer = "" if self.layer is None else f", layer={self.layer!r}"
        data = ", data=data" if {"data", "labels", "masks"} & {*self.card.needs} else ""
        return f"px.explain(model, inputs, {what}{layer}{data})"

    def as_dict(self) -> dict[str, Any]:
        """The suggestion as plain JSON data."""
        return {
            **self.method.config(),
            "layer": self.layer,
            "call": self.call,
            "why": self.why,
            "cost": dataclasses.asdict(self.cost),
            "evidence": list(self.evidence),
            "limits": list(self.limits),
        }


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A method that is not suggested, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The methods to take, best first, and every other method of the catalogue with the reason against it.

    `statement` says in a sentence what came out, also where nothing fits; `asked` is what was asked for.
    """

    statement: str
    suggestions: tuple[Suggestion, ...]
    refused: tuple[Refusal, ...]
    asked: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The names of the suggested methods, best first."""
        return [s.name for s in self.suggestions]

    def as_dict(self) -> dict[str, Any]:
        """The advice as plain JSON data."""
        found: dict[str, Any] = json.loads(self.as_json())
        return found

    def as_json(self) -> str:
        """The advice as JSON text, in ASCII: foreign characters are escaped."""
        told = {
            "statement": self.statement,
            "asked": self.asked,
            "suggestions": [s.as_dict() for s in self.suggestions],
            "refused": {r.name: r.reason for r in self.refused},
        }
        return json.dumps(told, indent=1, default=repr)

    def __str__(self) -> str:
        from pellucid.show.words import clean

        lines = [clean(self.statement, 600)]
        for number, s in enumerate(self.suggestions[:SHOWN], 1):
            lines += [f"{number}. {s.card.title} ({s.name}), {s.cost}", f"   {clean(s.call, 400)}"]
            lines.append(f"   why: {clean(s.why, 600)}")
            lines += [f"   evidence: {clean('; '.join(s.evidence), 600)}"] if s.evidence else []
            lines += [f"   can't tell: {clean('; '.join(s.limits), 600)}"] if s.limits else []
        if len(self.suggestions) > SHOWN:
            lines.append(f"Also fit: {', '.join(s.name for s in self.suggestions[SHOWN:])}.")
        if self.refused:
            lines.append(f"Not suggested: {len(self.refused)} methods, with reasons in `refused`.")
        return "\n".join(lines)

    def html(self, *, whole: bool = True) -> str:
        """The advice as a page, or with `whole=False` as a piece of one. Nothing is fetched, and all text is escaped."""
        from markupsafe import Markup

        from pellucid.show import pages
        from pellucid.show.words import clean

        def row(tag: str, *cells: str) -> Markup:
            each = Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(clean(c, 600)) for c in cells)
            return Markup("<tr>{}</tr>").format(each)

        found = [row("th", "method", "call", "cost", "why", "evidence", "can't tell")]
        found += [
            row("td", s.card.title, s.call, str(s.cost), s.why, "; ".join(s.evidence), "; ".join(s.limits))
            for s in self.suggestions
        ]
        against = [row("th", "not suggested", "reason"), *(row("td", r.name, r.reason) for r in self.refused)]
        body = Markup("<h1>Which explanation?</h1><p>{}</p>").format(clean(self.statement, 600))
        if self.suggestions:
            body += Markup("<table>{}</table>").format(Markup("").join(found))
        if self.refused:
            body += Markup("<table>{}</table>").format(Markup("").join(against))
        return pages.document("Which explanation?", body) if whole else str(body)


def seconds(value: float) -> str:
    """A time as people say it: 12 ms, 1.5 s."""
    if value < 0.9995:
        return f"{value * 1000:.2g} ms" if value * 1000 < 99.5 else f"{value * 1000:.0f} ms"
    return f"{value:.2g} s" if value < 99.5 else f"{value:.0f} s"
