"""What a viewer can be told, for every form alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pellucid.contract.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is shown, and how.

    Args:
        rows: rows drawn at most; the figure says how many more there are.
        clip: percentile of the values' sizes that gets full colour.
        features: bars, units or neighbours drawn at most in a row.
        row: for rules, the row whose path is marked.
        headed: whether the figure names its method.
    """

    rows: int = 8
    clip: float = 99.0
    features: int = 12
    row: int | None = None
    headed: bool = True


def options(given: dict[str, Any]) -> Options:
    """The options, checked."""
    known = [f.name for f in dataclasses.fields(Options)]
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"The options of a viewer must be among {', '.join(known)}", got=", ".join(unknown))
    made = Options(**given)
    for name in ("rows", "features"):
        value = getattr(made, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"The '{name}' must be an int of at least 1", got=repr(value))
    if not isinstance(made.clip, int | float) or not 0 < made.clip <= 100:
        raise InputError("The 'clip' must be a percentile above 0 and at most 100", got=repr(made.clip))
    return made
