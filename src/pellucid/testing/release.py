"""May these methods be released? Every card is whole, and every property that it claims is tried and kept."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pellucid.contract import Method, registered
from pellucid.contract.card import CLAIMS, NEEDS
from pellucid.contract.method import FOLDERS, by_name
from pellucid.testing.checking.entry import checks
from pellucid.testing.kit import Trial

__all__ = ["Gate", "Sheet", "gate", "sheet"]

# Which checks try a claim; a claim of the same name as its check is not listed.
TRIED_BY = {"deterministic": ("reproducible",), "seeded": ("reproducible", "seed used")}
PIECES = ("title", "question", "citation", "needs", "data_types", "taxonomy", "claims", "cost", "supports", "limits")


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A method's card as others may hold it to account: plain data, with what every claim means and how it went.

    `missing` names what the card leaves empty; `claims` gives for each claim its meaning, the checks that try it, and the
    `outcome`: "not run", "pass", "exempt: <reason>", or "FAIL: <reason>".
    """

    name: str
    card: dict[str, Any]
    assumes: dict[str, str]
    missing: tuple[str, ...]
    claims: dict[str, dict[str, Any]]

    @property
    def problems(self) -> list[str]:
        """What stands in the way of a release."""
        found = [f"the card says nothing of {piece}" for piece in self.missing]
        told = ((claim, one["outcome"]) for claim, one in self.claims.items())
        return found + [f"it claims to be {c}: {o.removeprefix('FAIL: ')}" for c, o in told if o.startswith("FAIL")]

    def as_dict(self) -> dict[str, Any]:
        """The sheet as plain JSON data, which is YAML too."""
        return {**self.card, "assumes": self.assumes, "missing": list(self.missing), "claims": self.claims}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The sheets of several methods; `open` where nothing stands in the way. `cardless`: public methods without a card."""

    sheets: tuple[Sheet, ...]
    cardless: tuple[str, ...] = ()

    @property
    def problems(self) -> dict[str, list[str]]:
        """What stands in the way, by method."""
        found = {sheet.name: sheet.problems for sheet in self.sheets if sheet.problems}
        return found | {name: ["it has no card"] for name in self.cardless}

    @property
    def open(self) -> bool:
        """Whether all may be released."""
        return not self.problems

    def as_json(self) -> str:
        """Every sheet, and what stands in the way."""
        told = {"open": self.open, "problems": self.problems, "methods": [s.as_dict() for s in self.sheets]}
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)

    def text(self) -> str:
        """A line for each method, and one for each problem."""
        lines = []
        for one in self.sheets:
            tried = sum(c["outcome"] != "not run" for c in one.claims.values())
            state = "FAIL" if one.problems else "ok"
            lines += [f"{state:<5}{one.name}: {len(one.claims)} claims, {tried} tried"]
            lines += [f"     {problem}" for problem in one.problems]
        lines += [f"FAIL {name}: it has no card" for name in self.cardless]
        return "\n".join([*lines, "the gate is " + ("open" if self.open else "closed")])


def gate(methods: Iterable[Any] | None = None, *, run: bool = True) -> Gate:
    """May these methods be released?

    No card is missing or has an empty piece, every claim is one that a check tries, and each check passes on at least one
    awkward model and fails on none of those it was tried on. A claim that no model lets be tried closes the gate too.

    Args:
        methods: classes or names; None: every method in the catalogue.
        run: try the claims; without it cards alone are read, which takes no time.

    Cost: about a second for each method, or more for those that train; `check_method` runs all other checks as well.

    Example:
        >>> from pellucid.testing import gate
        >>> found = gate(["vanilla-gradient"], run=False)
        >>> found.open, found.sheets[0].claims["rowwise"]["outcome"]
        (True, 'not run')
    """
    own = sorted((m for m in registered().values() if not m.__module__.startswith("pellucid.testing")), key=_name)
    chosen = own if methods is None else list(methods)
    cardless = tuple(_cardless()) if methods is None else ()
    return Gate(sheets=tuple(sheet(m, run=run) for m in chosen), cardless=cardless)


def sheet(method: Any, *, run: bool = True) -> Sheet:
    """One method's sheet: its card, what it assumes in words, and how each claim went."""
    cls: type[Method] = by_name(method) if isinstance(method, str) else method
    card = cls.card
    missing = tuple(piece for piece in PIECES if not getattr(card, piece))
    claims = {}
    for claim in card.claims:
        tried = [checks()[name] for name in TRIED_BY.get(claim, (claim,)) if name in checks()]
        outcome = "FAIL: no check tries it" if not tried else "not run"
        if tried and run:
            outcome = _outcome(cls, claim, [c.name for c in tried])
        claims[claim] = {"means": CLAIMS[claim], "checks": {c.name: c.sentence for c in tried}, "outcome": outcome}
    return Sheet(
        name=card.name,
        card=card.as_dict(),
        assumes={need: NEEDS[need] for need in card.needs},
        missing=missing,
        claims=claims,
    )


def _outcome(cls: type[Method], claim: str, names: list[str]) -> str:
    """How a claim went: tried on a few models, and on all of them where none of the few lets it be tried."""
    if exempt := next((cls.card.exempt[n] for n in names if n in cls.card.exempt), ""):
        return f"exempt: {exempt}"
    for quick in (True, False):
        trial = Trial(cls, quick=quick)
        if claim not in trial.method.claims:
            return "FAIL: the settings of its trial take the claim away, so nothing tries it"
        report = trial.report(names)
        if report.failures:
            (check, model), reason = next(iter(report.failures.items()))
            return f"FAIL: {check} on {model}: {reason}"
        if "pass" in report.cells.values():
            return "pass"
    return "FAIL: no model lets it be tried"


def _cardless() -> list[str]:
    """Public method classes that are no base of others and bring no card of their own."""
    registered()  # imports the folders
    found = []
    for folder in FOLDERS:
        package = sys.modules.get(f"pellucid.{folder}")
        for name in getattr(package, "__all__", ()):
            cls = getattr(package, name)
            if (
                inspect.isclass(cls)
                and issubclass(cls, Method)
                and not inspect.isabstract(cls)
                and "card" not in vars(cls)
            ):
                found.append(f"{folder}.{name}")
    return found


def _name(method: type[Method]) -> str:
    return method.card.name
