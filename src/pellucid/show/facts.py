"""Measured figures in words: what each fact says about how far an explanation can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Explanation, by_name
from pellucid.contract.card import Card
from pellucid.contract.errors import MethodError
from pellucid.show.words import clean, number, percent, pretty

REMOVAL = "checked by removal"
TRIED = "beats_random_orders"  # how a map stood the test of taking away what it points to
GOOD, FAIR, POOR, NEUTRAL = "good", "fair", "poor", "neutral"


@dataclass(frozen=True)
class Verdict:
    """A fact judged: `level` is good, fair, poor or neutral; `short` fits a label, `long` is a sentence."""

    level: str
    short: str
    long: str


def card_of(result: Explanation) -> Card | None:
    """The card of the method that made the result, where that method is known here."""
    name = result.source.get("method")
    if not isinstance(name, str):
        return None
    try:
        return by_name(name).card
    except MethodError:
        return None


def title_of(result: Explanation) -> str:
    """The method's title, or its name as the result records it."""
    card = card_of(result)
    return clean(card.title if card else result.source.get("method", result.form))


def verdicts(facts: Mapping[str, Tensor], row: int | None = None, *, largest: float = 0.0) -> list[Verdict]:
    """What the facts say of one row, or of the worst row where none is named; `largest` is the largest value shown."""
    found = []
    for name, (judge, worst) in _JUDGES.items():
        if name not in facts or (name == "completeness_gap" and "relative_gap" in facts):
            continue
        value = _pick(facts[name], row, worst)
        verdict = None if value is None else judge(value, largest)
        found += [verdict] if verdict is not None else []
    return found


def _pick(fact: Any, row: int | None, worst: Callable[[Tensor], Tensor]) -> float | None:
    values = torch.as_tensor(fact).detach().cpu().double().flatten()
    if not len(values):
        return None
    return float(worst(values) if row is None else values[min(row, len(values) - 1)])


def _gap(value: float, largest: float) -> Verdict:
    if not math.isfinite(value):
        return Verdict(POOR, "sum not measurable", "Whether the parts add up could not be measured.")
    share = percent(value)
    if value <= 0.01:
        return Verdict(
            GOOD,
            f"adds up: {share} missing",
            f"The parts add up to the score almost exactly: {share} is unaccounted for.",
        )
    if value <= 0.05:
        return Verdict(GOOD, f"adds up: {share} missing", f"The parts add up to the score to within {share}.")
    if value <= 0.2:
        return Verdict(
            FAIR,
            f"roughly adds up: {share} missing",
            f"The parts add up to the score only roughly: {share} is missing.",
        )
    long = f"The parts do not add up: there is a big gap of {share} of the score, so don't read them as amounts."
    return Verdict(POOR, f"does not add up: {share} missing", long)


def _plain_gap(value: float, largest: float) -> Verdict:
    if largest > 0 and math.isfinite(value):
        level = GOOD if value <= 0.05 * largest else FAIR if value <= 0.5 * largest else POOR
        size = {GOOD: "a small", FAIR: "a noticeable", POOR: "a big"}[level]
        return Verdict(
            level, f"gap {number(value)}", f"The parts miss the score by {number(value)}: {size} gap beside the values."
        )
    return Verdict(NEUTRAL, f"gap {number(value)}", f"The parts miss the score by {number(value)}.")


def _error(value: float, largest: float) -> Verdict:
    if not math.isfinite(value):
        return Verdict(POOR, "scatter not measurable", "The error of its random draws could not be measured.")
    share = value / largest if largest > 0 else math.nan
    if not math.isfinite(share):
        return Verdict(NEUTRAL, f"± {number(value)}", f"Its random draws leave an error of about ± {number(value)}.")
    level = GOOD if share <= 0.05 else FAIR if share <= 0.25 else POOR
    size = {GOOD: "a small error", FAIR: "a noticeable error", POOR: "a big error"}[level]
    long = f"It rests on random draws, which leave {size}: about ± {percent(share)} of the largest value."
    return Verdict(level, f"± {percent(share)} from random draws", long)


def _relative_error(value: float, largest: float) -> Verdict:
    if not math.isfinite(value):
        return _error(value, largest)
    level = GOOD if value <= 0.1 else FAIR if value <= 0.3 else POOR
    size = {GOOD: "a small error", FAIR: "a noticeable error", POOR: "a big error"}[level]
    long = f"It rests on random draws, which leave {size}: about {percent(value)} of the size of the values."
    return Verdict(level, f"± {percent(value)} from random draws", long)


def _fidelity(value: float, largest: float) -> Verdict:
    level = GOOD if value >= 0.95 else FAIR if value >= 0.8 else POOR
    size = {
        GOOD: "it follows the network closely",
        FAIR: "it follows the network in most cases only",
        POOR: "it often disagrees with the network, so don't take it for the network's own reasons",
    }[level]
    return Verdict(
        level, f"agrees in {percent(value)}", f"It agrees with the network in {percent(value)} of cases: {size}."
    )


def _local_fit(value: float, largest: float) -> Verdict:
    level = GOOD if value >= 0.9 else FAIR if value >= 0.6 else POOR
    size = {GOOD: "a good", FAIR: "a moderate", POOR: "a bad"}[level]
    share = percent(max(value, 0.0))
    long = f"The simple stand-in that was fitted reproduces {share} of what the network does nearby: {size} fit."
    return Verdict(level, f"fit {share}", long)


def _kept(value: float, largest: float) -> Verdict:
    level = GOOD if value <= 0.01 else FAIR if value <= 0.2 else POOR
    long = f"On its way back through the network {percent(value)} of the score was lost or added."
    return Verdict(level, f"{percent(value)} lost on the way", long)


def _agreement(value: float, largest: float) -> Verdict:
    level = GOOD if value >= 0.8 else FAIR if value >= 0.5 else POOR
    size = {GOOD: "they back it", FAIR: "they are divided", POOR: "they speak against it"}[level]
    return Verdict(
        level,
        f"{percent(value)} of the examples back the answer",
        f"{percent(value)} of its examples carry the label that the network answered: {size}.",
    )


def _novelty(value: float, largest: float) -> Verdict:
    level = GOOD if value <= 0.9 else FAIR if value <= 0.99 else POOR
    size = {
        GOOD: "an ordinary case",
        FAIR: "an unusual case",
        POOR: "like hardly anything in the data, so read the answer with caution",
    }[level]
    long = f"{percent(value)} of the known cases lie closer to their own nearest case than this one does: {size}."
    return Verdict(level, f"more unusual than {percent(value)} of the data", long)


def _coverage(value: float, largest: float) -> Verdict:
    level = GOOD if value >= 0.9 else FAIR if value >= 0.6 else POOR
    long = f"Together they show {percent(value)} of what the explanations of all rows name."
    return Verdict(level, f"{percent(value)} shown", long)


def _left_out(value: float, largest: float) -> Verdict:
    share = percent(value)
    long = f"It shows only what speaks for the answer: {share} of its weight spoke against and is left out."
    return Verdict(NEUTRAL, f"{share} left out", long)


def _sampled(value: float, largest: float) -> Verdict:
    share = value / largest if largest > 0 else 0.0
    level = GOOD if share <= 0.05 else FAIR if share <= 0.25 else POOR
    long = (
        f"Other data of the same kind and size would move the curves by about ± {percent(share)} of the largest value."
    )
    return Verdict(level, f"± {percent(share)} from the data's size", long)


def _additive(value: float, largest: float) -> Verdict:
    if value < 0:
        long = "Added up, the curves are further from the answers over the data than their mean is: don't add them."
        return Verdict(POOR, "curves do not add up", long)
    level = GOOD if value >= 0.95 else FAIR if value >= 0.7 else POOR
    rest = "the rest is columns acting together"
    long = f"Added up, the curves reproduce {percent(value)} of how the answers vary over the data; {rest}."
    return Verdict(level, f"curves alone: {percent(value)}", long if value < 1 else long.replace(f"; {rest}", ""))


def _held_out(value: float, largest: float) -> Verdict:
    level = GOOD if value >= 0.9 else FAIR if value >= 0.6 else POOR
    share = percent(max(value, 0.0))
    long = f"Fitted to all other rows, they predict {share} of how the answers vary."
    return Verdict(level, f"held out: {share}", long)


def _identified(value: float, largest: float) -> Verdict | None:
    if value >= 1:
        return None
    long = "The data do not tell all effects apart: some columns determine others, or there are too few rows."
    return Verdict(POOR, "effects not told apart", long)


def _extrapolated(value: float, largest: float) -> Verdict:
    level = GOOD if value <= 0.1 else FAIR if value <= 0.3 else POOR
    long = f"{percent(value)} of the made-up rows behind the curves are less like the data than real rows are."
    return Verdict(level, f"{percent(value)} made up off the data", long)


def _off_grid(value: float, largest: float) -> Verdict | None:
    if value <= 1e-6 * (1 + largest):
        return None
    level = NEUTRAL if largest <= 0 else GOOD if value <= 0.05 * largest else FAIR if value <= 0.5 * largest else POOR
    return Verdict(
        level, f"± {number(value)} between points", f"Between their points the curves are off by about {number(value)}."
    )


def _independent(value: float, largest: float) -> Verdict | None:
    level = GOOD if value <= 0.2 else FAIR if value <= 0.5 else POOR
    long = f"Columns are drawn as if they were independent; in the data, two of them correlate by {number(value, 2)}."
    return Verdict(level, f"correlation {number(value, 2)} ignored", long)


def _converged(value: float, largest: float) -> Verdict | None:
    if value >= 0.5:
        return None  # the measured error that was reached says more
    long = "It stopped before the accuracy asked for was reached: read it with caution."
    return Verdict(POOR, "accuracy not reached", long)


def _turned(value: float, largest: float) -> Verdict:
    if value >= 0.5:
        return Verdict(
            GOOD, "erasure checked", "It was tried: without exactly these parts the network answers otherwise."
        )
    long = "It found no parts whose erasure changes the answer; that does not say that there are none."
    return Verdict(POOR, "nothing found", long)


def _ordered(value: float, largest: float) -> Verdict:
    if not math.isfinite(value):
        return Verdict(POOR, "not checkable", "Whether the network depends on what it points to could not be checked.")
    level = GOOD if value >= 0.95 else FAIR if value >= 0.75 else POOR
    share = percent(value)
    short, long = REMOVAL, f"than in {share} of random orders"
    said = {
        GOOD: f"Taking away first what it points to lowers the score sooner {long}: the network does depend on it.",
        FAIR: f"Taking away first what it points to lowers the score sooner {long}, but not in all.",
        POOR: f"Taking away first what it points to lowers the score sooner {long} only: it may be no more than a story.",
    }[level]
    return Verdict(level, f"{short}: beats {share} of random orders", said)


_Judge = tuple[Callable[[float, float], Verdict | None], Callable[[Tensor], Tensor]]
_JUDGES: dict[str, _Judge] = {
    "relative_gap": (_gap, torch.max),
    "completeness_gap": (_plain_gap, torch.max),
    "standard_error": (_error, torch.max),
    "relative_standard_error": (_relative_error, torch.max),
    "converged": (_converged, torch.min),
    TRIED: (_ordered, torch.min),
    "negative_share": (_left_out, torch.max),
    "label_agreement": (_agreement, torch.min),
    "novelty": (_novelty, torch.max),
    "coverage": (_coverage, torch.min),
    "fidelity": (_fidelity, torch.min),
    "heldout_fidelity": (_fidelity, torch.min),
    "r_squared": (_local_fit, torch.min),
    "r2": (_local_fit, torch.min),
    "sampling_error": (_sampled, torch.max),
    "correlation": (_independent, torch.max),
    "additive_share": (_additive, torch.min),
    "heldout_share": (_held_out, torch.min),
    "identified": (_identified, torch.min),
    "extrapolated": (_extrapolated, torch.max),
    "turned": (_turned, torch.min),
    "grid_gap": (_off_grid, torch.max),
    "relative_conservation_loss": (_kept, torch.max),
    **dict.fromkeys(("identity_gap", "root_gap", "decomposition_gap", "telescoping_gap"), (_plain_gap, torch.max)),
}


def figures(facts: Mapping[str, Any], row: int) -> list[tuple[str, str]]:
    """Every fact of one row as name and figure, for engineers."""
    out = []
    for name, fact in facts.items():
        values = torch.as_tensor(fact).detach().cpu().flatten()
        if row < len(values) or len(values) == 1:
            out.append((pretty(name), number(float(values[min(row, len(values) - 1)]), 4)))
    return out


UNJUDGED = Verdict(
    NEUTRAL,
    "no error of its own",
    "It measures no error of its own, so nothing here says how close it is to what the network does.",
)


def judged(found: list[Verdict], rows: int = 1) -> tuple[str, ...]:
    """The sentences of verdicts, which of several rows are those of the worst."""
    said = tuple(v.long for v in found) or (UNJUDGED.long,)
    return said if rows == 1 or said == (UNJUDGED.long,) else (f"For the worst of the {rows} rows:", *said)
