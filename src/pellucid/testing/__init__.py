"""Is this method what Pellucid promises of every method? The checks, for our methods and for other people's.

`check_method(MyMethod)` tries a method on a zoo of awkward models; `Snapshot` tells what a call left behind; `liars()`
gives, for every check, methods that break it on purpose. Nothing here needs a test framework.
"""

from pellucid.testing.awkward import Fixture, fixture, fixtures
from pellucid.testing.case import Case, CheckFailed, demand
from pellucid.testing.checking.entry import Check, check, checks
from pellucid.testing.kit import ConformanceError, Report, Trial, check_method
from pellucid.testing.release import Gate, Sheet, gate, sheet
from pellucid.testing.snapshot import Snapshot

__all__ = [
    "Case",
    "Check",
    "CheckFailed",
    "ConformanceError",
    "Fixture",
    "Gate",
    "Report",
    "Sheet",
    "Snapshot",
    "Trial",
    "check",
    "check_method",
    "checks",
    "demand",
    "fixture",
    "fixtures",
    "gate",
    "sheet",
]
