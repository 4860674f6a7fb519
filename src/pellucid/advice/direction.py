"""In which direction of the field should I look at all? The decision rules of Zhang, Tiňo, Leonardis and Tang 2021, §VI."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid import catalogue, surveys
from pellucid.contract.errors import InputError

__all__ = ["Direction", "direction"]

# What explains single answers and the whole network at once, by drawing the ones together into the other.
FUSED = ("mame",)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """How explanations should be had and how far they should reach, why, and the methods of the catalogue that do so."""

    engagement: str
    scopes: tuple[str, ...]
    reasons: tuple[str, ...]
    names: tuple[str, ...]


def direction(
    *, single: bool = False, whole: bool = False, retraining: bool = False, priors: bool = False
) -> Direction:
    """Which kind of explanation suits a purpose, before any method is chosen; `pellucid.advise` then chooses one.

    Passive methods take any trained network as it is. Active ones change how it is built or trained, which has to be
    permitted and rests on something known before. A single decision with much at stake, as on a credit, asks for a local
    explanation; knowledge about a field, as in science, for a global one; both for several levels at once.

    Args:
        single: single decisions have to be answered for.
        whole: what the network does in general is to be known.
        retraining: the network may be built or trained anew.
        priors: something is known that an explanation should keep to, such as which inputs may matter.

    Example:
        >>> from pellucid.advice import direction
        >>> found = direction(single=True)
        >>> found.engagement, found.scopes, "lime" in found.names
        ('passive', ('local', 'semi-local'), True)
    """
    if not (single or whole):
        raise InputError("The purpose must be 'single' decisions, the 'whole' network, or both", got="neither")
    active = retraining and priors
    engagement = "active" if active else "passive"
    reasons = [
        "the network may be trained anew, and something is known to hold it to"
        if active
        else "a trained network is explained as it is"
        + ("" if retraining else "; it may not be trained anew")
        + ("" if priors or not retraining else "; nothing is known beforehand that would shape it"),
    ]
    if single:
        reasons.append("who is concerned by one decision asks about that one: local")
    if whole:
        reasons.append("what holds in general is asked for: global")
    scopes = (("local", "semi-local") if single else ()) + (("global",) if whole else ())
    names = [
        card.name
        for card in catalogue.find()
        if (place := surveys.dimensions(card)) and place[0] == engagement and place[2] in scopes
    ]
    if single and whole and not active:
        reasons.append("both are asked for: levels that are drawn together come first")
        names.sort(key=lambda name: name not in FUSED)
    return Direction(engagement=engagement, scopes=scopes, reasons=tuple(reasons), names=tuple(names))
