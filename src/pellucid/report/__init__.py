"""Pages for people who must answer for a decision: what was decided, how surely, why, and how far to believe it.

`px.report(model, inputs, ...)` writes a page: the module itself can be called, as the same word names both.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pellucid.report.audience_logic import Condition, IfThen, explicitness, if_then
from pellucid.report.audience_profiles import PROFILES, Profile, Templates, View, view
from pellucid.report.audience_regions import Region, Verdicts, verdicts
from pellucid.report.audience_terms import Term, Vocabulary
from pellucid.report.digits import demo
from pellucid.report.literature import Growth, Trend, trend
from pellucid.report.record import override, read
from pellucid.report.replay import Replay, replay
from pellucid.report.scenario import Rehearsal, scenario
from pellucid.report.schema import schema
from pellucid.report.sections import Section, Table, page, save
from pellucid.report.story import write
from pellucid.report.trust_calibration import Calibration, calibration
from pellucid.report.trust_congruence import Congruence, Side, congruence, to_mark
from pellucid.report.trust_limits import Limits, limits
from pellucid.report.trust_necessity import Necessity, necessity
from pellucid.report.trust_traits import Evidence, Rationale, Traits, rationale, traits

__all__ = [
    "Rehearsal",
    "scenario",
    "Growth",
    "Trend",
    "trend",
    "Evidence",
    "Rationale",
    "Traits",
    "rationale",
    "traits",
    "PROFILES",
    "Profile",
    "Templates",
    "View",
    "view",
    "Region",
    "Verdicts",
    "verdicts",
    "Condition",
    "IfThen",
    "explicitness",
    "if_then",
    "Calibration",
    "calibration",
    "Congruence",
    "Limits",
    "Necessity",
    "Replay",
    "Section",
    "Side",
    "Table",
    "Term",
    "Vocabulary",
    "congruence",
    "demo",
    "limits",
    "necessity",
    "override",
    "page",
    "read",
    "replay",
    "save",
    "schema",
    "to_mark",
    "write",
]


class _Callable(ModuleType):
    def __call__(self, *given: Any, **named: Any) -> Path:
        return write(*given, **named)


_Callable.__call__.__doc__ = write.__doc__
sys.modules[__name__].__class__ = _Callable
