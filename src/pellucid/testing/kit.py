"""`check_method`: is this method what Pellucid promises of every method? Also for methods that are not ours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pellucid.contract import Method, as_method
from pellucid.engine import explain
from pellucid.testing import awkward
from pellucid.testing.awkward import Fixture
from pellucid.testing.case import Case, CheckFailed, Refused, Verb
from pellucid.testing.checking import entry
from pellucid.testing.checking.entry import Check

FIRST = "answers"
QUICK = ("mlp", "functional-mlp", "in-place-first", "batch-norm-resnet", "two-inputs", "dropout-in-training", "hoarder")


class ConformanceError(AssertionError):
    """A method fails checks; the message lists each with its fixture and the reason, `report` holds the whole table."""

    def __init__(self, report: Report) -> None:
        self.report = report
        failed = report.failures
        silent = {name for check, name in failed if check == FIRST}
        told = [(k, v) for k, v in failed.items() if k[0] == FIRST or k[1] not in silent]
        lines = [f"  {check} on {name}: {reason}" for (check, name), reason in told]
        super().__init__(f"{report.method} fails {len(failed)} of {len(report.cells)} checks:\n" + "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of every check on every fixture.

    A cell is "pass", "refused: <error>", "exempt: <reason>", "not claimed: <what>", "once: on <fixture>" for a check
    that needs one fixture alone, or "FAIL: <reason>". No cell is empty.
    """

    method: str
    cells: Mapping[tuple[str, str], str]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """The failed cells with their reasons."""
        return {k: v.removeprefix("FAIL: ") for k, v in self.cells.items() if v.startswith("FAIL")}

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def table(self) -> str:
        """One line per check: how it went on each fixture, by a letter, with the legend below."""
        names = list(dict.fromkeys(k[0] for k in self.cells))
        columns = list(dict.fromkeys(k[1] for k in self.cells))
        width = max(map(len, names), default=0)
        lines = [f"{name:<{width}}  " + "".join(_letter(self.cells[name, c]) for c in columns) for name in names]
        legend = "P pass, r refused, e exempt, - not claimed, . once on another fixture, F fail"
        return "\n".join([f"{self.method}: {legend}", *lines, "fixtures: " + ", ".join(columns)])

    def __str__(self) -> str:
        return self.table()


def _letter(cell: str) -> str:
    letters = {"pass": "P", "refused": "r", "exempt": "e", "not claimed": "-", "once": ".", "FAIL": "F"}
    return letters[cell.split(":")[0]]


def check_method(
    method: Any,
    *,
    fixtures: Iterable[Fixture | str] | None = None,
    checks: Iterable[str] | None = None,
    quick: bool = False,
    verb: Verb = explain,
) -> Report:
    """Run every check that the method's card claims, on every awkward model that it fits.

    Args:
        method: a method class (its card's trial settings are used), a method value, or a catalogue name.
        fixtures: other fixtures, or names of some of them.
        checks: names of some checks.
        quick: a few fixtures, and no heavy checks.
        verb: what is called instead of `pellucid.explain`.

    Raises:
        ConformanceError: where a check fails; it lists all failures.

    Example:
        >>> from pellucid.testing import check_method
        >>> check_method("vanilla-gradient", fixtures=["mlp"], checks=["rowwise"]).cells["rowwise", "mlp"]
        'pass'
    """
    attempt = Trial(method, fixtures=fixtures, quick=quick, verb=verb)
    report = attempt.report(checks, quick=quick)
    if not report.ok:
        raise ConformanceError(report)
    return report


def trial(method: Any) -> Method:
    """The value that is tried: a class or a name gets the cheap settings of its card."""
    if isinstance(method, Method):
        return method
    cls: type[Method] = method if isinstance(method, type) else type(as_method(method))
    return cls(**dict(cls.card.trial))


class Trial:
    """A method tried on fixtures; what it does on each is found out when it is first needed.

    With `excuses=False`, checks from which the card is exempt are run too.
    """

    def __init__(
        self,
        method: Any,
        *,
        fixtures: Iterable[Fixture | str] | None = None,
        quick: bool = False,
        verb: Verb = explain,
        excuses: bool = True,
    ) -> None:
        self.excuses = excuses
        self.method = trial(method)
        chosen: Iterable[Fixture | str] = awkward.fixtures() if fixtures is None else fixtures
        found = [awkward.fixture(f) if isinstance(f, str) else f for f in chosen]
        needs = self.method.card.needs
        kept = [
            f
            for f in found
            if fixtures is not None or ((not f.only or f.only in needs) and (not quick or f.only or f.name in QUICK))
        ]
        self.cases = {f.name: Case(method=self.method, fixture=f, verb=verb) for f in kept}
        self.states: dict[str, str] = {}

    def report(self, checks: Iterable[str] | None = None, *, quick: bool = False) -> Report:
        """The whole table, failures included."""
        every = entry.checks()
        rows = [c for c in every.values() if not quick or not c.heavy] if checks is None else [every[k] for k in checks]
        cells: dict[tuple[str, str], str] = {}
        seconds: dict[str, float] = {}
        for check in rows:
            started = time.perf_counter()
            cells |= {(check.name, name): self.cell(check, name) for name in self.cases}
            seconds[check.name] = time.perf_counter() - started
        return Report(method=self.method.card.name, cells=cells, seconds=seconds)

    def state(self, name: str) -> str:
        """Whether the method answers on this fixture."""
        if name not in self.states:
            self.states[name] = _cell(entry.checks()[FIRST], self.cases[name])
        return self.states[name]

    @cached_property
    def home(self) -> str:
        """The fixture for checks that need one alone: the first that fits the method and on which it works.

        Where none does, one on which the method works though it need not.
        """
        fitting = [name for name, case in self.cases.items() if not case.misfit()]
        for name in (*fitting, *self.cases):
            if self.state(name) == "pass":
                return name
        return next(iter(self.cases))

    def cell(self, check: Check, name: str) -> str:
        """One cell of the table."""
        case = self.cases[name]
        if self.excuses and (reason := case.card.exempt.get(check.name)):
            return f"exempt: {reason}"
        if check.name == FIRST:
            return self.state(name)
        if reason := check.applies(case.card):
            return reason
        if not check.everywhere and name != self.home:
            return f"once: on {self.home}"
        if self.state(name) == "pass":
            return _cell(check, case)
        return self.state(name) if self.state(name).startswith("refused") else "FAIL: the method gives no answer here"


def _cell(check: Check, case: Case) -> str:
    try:
        check.run(case)
    except Refused as refusal:
        return f"refused: {type(refusal.error).__name__}: {refusal.error}"
    except CheckFailed as failure:
        return f"FAIL: {failure}"
    except Exception as error:
        return f"FAIL: {type(error).__name__}: {error}"
    return "pass"
