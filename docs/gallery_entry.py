"""What every page of the gallery shares: a figure with the sentence under it, and how methods are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gallery_panels import Case, case_of, plane, positive_share
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px

Found = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A figure, the sentence under it, and the numbers that are kept beside it."""

    figure: Figure
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One figure: the methods it shows, and how it is drawn. The name begins with its family."""

    name: str
    title: str
    methods: tuple[str, ...]
    make: Callable[[], Drawn]

    @property
    def family(self) -> str:
        """What `python docs/gallery.py` is told to draw this figure alone."""
        return self.name.partition("-")[0]


def entry(name: str, title: str, methods: str, make: Callable[[], Drawn]) -> tuple[Entry, ...]:
    """A family of one figure."""
    return (Entry(name, title, tuple(methods.split()), make),)


def of_cases(
    name: str, title: str, methods: str, make: Callable[[Case], Drawn], cases: str = "digits shapes"
) -> tuple[Entry, ...]:
    """A family of one figure for each case, which is made when its first figure is."""
    kept = tuple(methods.split())
    return tuple(Entry(f"{name}-{c}", title, kept, lambda c=c: make(case_of(c))) for c in cases.split())


def explain(case: Case, method: Any, **settings: Any) -> Any:
    """One method's result on the case, from the same seed each time."""
    return px.explain(case.model, case.input, method, seed=0, **settings)


def values(found: Found) -> dict[str, Tensor]:
    """The maps of several results."""
    return {label: result.values for label, result in found.items()}


def planes(found: Found) -> dict[str, Tensor]:
    """The maps of several results whose channels all carry the figure of their place."""
    return {label: plane(result.values) for label, result in found.items()}


def shares(case: Case, found: Found, all_above: bool = True) -> str:
    """How much of each map's positive values lies on the planted object, against the share of the picture it covers."""
    area = float(case.mask.double().mean())
    part = {label: positive_share(result.values, case.mask) for label, result in found.items()}
    told = ", ".join(f"{label} {100 * share:.0f} %".replace("\n", " ") for label, share in part.items())
    below = [label.replace("\n", " ") for label, share in part.items() if share <= area]
    assert not (below and all_above), below
    said = "Every map is above that." if not below else f"Not above that: {', '.join(below)}."
    return (
        f"The outlined object covers {100 * area:.0f} % of the picture; of the positive values, there lie on it: "
        f"{told}. {said}"
    )
