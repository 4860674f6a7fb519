"""Do people trust the network as much as it deserves? What they say, case by case, beside how often it is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.contract.errors import InputError
from pellucid.engine.settings import whole
from pellucid.report.plain import plain
from pellucid.report.sections import Section
from pellucid.report.trust_congruence import welch
from pellucid.report.trust_necessity import interval
from pellucid.show.words import clean, counted, number, percent

__all__ = ["Bin", "Calibration", "Group", "calibration"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Cases with about the same figure: its mean, and how often the network is right there, with a 95 % interval."""

    figure: float
    right: float
    low: float
    high: float
    answers: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """People who were shown the same: how their trust lies beside what the network deserves.

    `gap`, mean trust minus how often the network is right, with its 95 % interval over people and cases: above 0 is too
    much trust. `overtrust` and `undertrust`, the mean of what trust is too high and too low by, case by case, beside how
    often the network is right on such cases. `tells`, mean trust in right answers minus that in wrong ones: 0 where trust
    does not tell them apart. `overreliance`, the share of wrong answers trusted by more than a half, `underreliance`, the
    share of right ones trusted by less. `each` has every person's mean trust and `tells`.
    """

    name: str
    people: int
    trust: float
    gap: float
    low: float
    high: float
    overtrust: float
    undertrust: float
    tells: float
    overreliance: float
    underreliance: float
    bins: tuple[Bin, ...]
    each: tuple[tuple[float, float], ...]

    @property
    def verdict(self) -> str:
        """ "over", "under" or "level", as far as these people and cases tell."""
        return "over" if self.low > 0 else "under" if self.high < 0 else "level"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Every group, the network's own confidence as if it were a person, and what each showing did beside the first."""

    accuracy: float
    cases: int
    groups: tuple[Group, ...]
    network: tuple[Bin, ...]

    def effect(self, name: str) -> dict[str, Any]:
        """What a group's showing did beside the first group's: to trust, and to telling right answers from wrong.

        Differences over people, with Welch's 95 % intervals. `kind`: "for trust", where people tell right from wrong
        better; "for confidence", where they are merely surer: what they were shown made them comfortable and taught them
        nothing; "not settled", where both intervals hold 0.
        """
        first, found = self.groups[0], next((g for g in self.groups if g.name == name), None)
        if found is None:
            raise InputError("The 'name' must be that of a group", got=repr(name))
        surer, better = (_difference(found, first, k) for k in (0, 1))
        kind = "for trust" if better[1] > 0 else "for confidence" if surer[1] > 0 else "not settled"
        return {"trust": surer, "tells": better, "kind": kind}

    def sentences(self) -> list[str]:
        """All of it in plain words."""
        found = [f"On these {counted(self.cases, 'case')} the network is right in {percent(self.accuracy)}."]
        for i, group in enumerate(self.groups):
            who = f"{counted(group.people, 'person').replace('persons', 'people')} ({clean(group.name, 60)})"
            size = f"{100 * abs(group.gap):.0f} points"
            told = {
                "over": f"trust it too much, by {size}",
                "under": f"trust it too little, by {size}",
                "level": "trust it about as much as it deserves, as far as so few answers tell",
            }[group.verdict]
            many = "" if group.people == 1 else "s"
            told = told if many else told.replace("trust it", "trusts it", 1)
            found.append(
                f"{who} {told}: on average by {percent(group.trust)}. Of its wrong answers {percent(group.overreliance)} "
                f"are trusted, of its right ones {percent(group.underreliance)} are not."
            )
            if not group.tells > 0:
                found.append("Their trust does not tell its right answers from its wrong ones.")
            if i:
                kind = self.effect(group.name)["kind"]
                found.append(
                    {
                        "for trust": "What they were shown helps them to tell right answers from wrong ones.",
                        "for confidence": "What they were shown makes them surer, not better at telling right from wrong.",
                        "not settled": "Whether what they were shown changes anything is not settled by so few answers.",
                    }[kind]
                )
        return found

    def section(self, heading: str = "Is it trusted as much as it deserves?") -> Section:
        """The same for `pellucid.report.page`."""
        return Section(heading=heading, parts=self.sentences())

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; numbers that JSON has none for by their name."""
        effects = {g.name: self.effect(g.name) for g in self.groups[1:]}
        found: dict[str, Any] = plain({**asdict(self), "effects": effects})
        return found


def calibration(stated: Any, right: Any, *, confidence: Any = None, bins: int = 5) -> Calibration:
    """Do people trust the network as much as it deserves?

    Args:
        stated: (people, cases), how sure each person is that the network's answer is right, from 0 to 1; NaN where a person
            did not see the case. Or a dict of such tables by what the people were shown; the first is what the others are
            compared with, such as "the answer alone".
        right: (cases,), whether the network's answer is right.
        confidence: (cases,), the network's own confidence or trust score: how often it is right on cases alike in this is
            what it deserves to be trusted there. Without it, how often it is right over all cases.
        bins: into how many parts, of equally many answers, trust and confidence are cut.

    An explanation can be meant for confidence, so that people feel comfortable, or for trust, so that they know when to
    rely on the network; `Calibration.effect` says which it was. Shares of trust are points: 0.1 is ten.

    Known failure: over few cases, how often the network is right is itself uncertain; the interval of the gap allows for
    that, the bins' for their own answers as if each were of another case. What people say need not be what they do.
    Source: Lee & See 2004 (overtrust, distrust, calibration, resolution); Pieters 2011 (explaining for confidence and for
    trust). The two indices and the interval over people and cases are ours.

    Example:
        >>> import torch, pellucid as px
        >>> right = torch.arange(10) < 7
        >>> told = px.report.calibration(torch.full((4, 10), 0.9), right)
        >>> round(told.groups[0].gap, 3), told.groups[0].tells
        (0.2, 0.0)
    """
    whole(bins=(bins, 1))
    truth = _truth(right)
    given = {"people": stated} if not isinstance(stated, Mapping) else stated
    if not given:
        raise InputError("The 'stated' must have at least one group", got="none")
    tables = {str(name): _table(table, len(truth), str(name)) for name, table in given.items()}
    sure = None if confidence is None else _numbers(confidence, len(truth))
    deserved = np.full(len(truth), truth.mean())
    network: tuple[Bin, ...] = ()
    if sure is not None:
        parts = _cut(sure, bins)
        deserved = np.array([truth[parts == parts[i]].mean() for i in range(len(truth))])
        network = _bins(sure, truth, parts)
    return Calibration(
        accuracy=float(truth.mean()),
        cases=len(truth),
        groups=tuple(_group(name, table, truth, deserved, bins) for name, table in tables.items()),
        network=network,
    )


def _group(name: str, table: Array, truth: Array, deserved: Array, bins: int) -> Group:
    seen = np.isfinite(table)
    gap, low, high = interval(table - truth[None])
    away = (table - deserved[None])[seen]
    good = np.broadcast_to(truth[None] > 0, table.shape)[seen]
    said, sides = table[seen], np.broadcast_to(truth[None], table.shape)[seen]
    return Group(
        name=name,
        people=len(table),
        trust=float(said.mean()),
        gap=gap,
        low=low,
        high=high,
        overtrust=float(np.maximum(away, 0).mean()),
        undertrust=float(np.maximum(-away, 0).mean()),
        tells=_mean(said[good]) - _mean(said[~good]),
        overreliance=_mean(said[~good] > 0.5),
        underreliance=_mean(said[good] < 0.5),
        bins=_bins(said, sides, _cut(said, bins)),
        each=tuple(_person(row, truth) for row in table),
    )


def _person(row: Array, truth: Array) -> tuple[float, float]:
    """A person's mean trust, and by how much it is higher in right answers than in wrong ones."""
    seen = np.isfinite(row)
    return float(row[seen].mean()), _mean(row[seen & (truth > 0)]) - _mean(row[seen & (truth == 0)])


def _difference(one: Group, other: Group, which: int) -> tuple[float, float, float]:
    """The difference of two groups' people in one figure, with its interval; all of −1 … 1 where they are too few."""
    first, second = (torch.tensor([e[which] for e in g.each if math.isfinite(e[which])]) for g in (one, other))
    found = welch(first.double(), second.double())
    if found is not None:
        return found
    return (one.trust - other.trust) if which == 0 else (one.tells - other.tells), -1.0, 1.0


def _cut(figures: Array, bins: int) -> Array:
    """Which part each figure falls into, by quantiles: equal figures stay together."""
    edges = np.unique(np.quantile(figures, np.arange(1, bins) / bins))
    found: Array = np.searchsorted(edges, figures, side="left")
    return found


def _bins(figures: Array, truth: Array, parts: Array) -> tuple[Bin, ...]:
    found = []
    for part in np.unique(parts):
        here = parts == part
        share, count = float(truth[here].mean()), int(here.sum())
        low, high = wilson(share, count)
        found.append(Bin(figure=float(figures[here].mean()), right=share, low=low, high=high, answers=count))
    return tuple(found)


def wilson(share: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _truth(right: Any) -> Array:
    found: Array = torch.as_tensor(right).detach().cpu().double().numpy()
    if found.ndim != 1 or len(found) < 2 or not np.isin(found, (0.0, 1.0)).all():
        raise InputError("The 'right' must be two or more truth values, one for each case", got=f"shape {found.shape}")
    return found


def _numbers(confidence: Any, cases: int) -> Array:
    found: Array = torch.as_tensor(confidence).detach().cpu().double().numpy()
    if found.shape != (cases,) or np.isnan(found).any():
        raise InputError(f"The 'confidence' must be {cases} numbers", got=f"shape {found.shape}")
    return found


def _table(table: Any, cases: int, name: str) -> Array:
    found: Array = torch.as_tensor(table).detach().cpu().double().numpy()
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != cases:
        raise InputError(f"The 'stated' of {clean(name, 40)!r} must be (people, {cases})", got=f"shape {found.shape}")
    seen = np.isfinite(found)
    if np.isinf(found).any() or ((found[seen] < 0) | (found[seen] > 1)).any():
        raise InputError("The 'stated' trust must lie between 0 and 1", got=number(float(np.nanmax(np.abs(found)))))
    if not seen.any(1).all() or not seen.any(0).all():
        raise InputError(
            "The 'stated' must hold an answer of each person and to each case", got="an empty row or column"
        )
    return found
