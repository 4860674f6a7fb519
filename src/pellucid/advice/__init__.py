"""Which method should I take? By question, access, time, and evidence from the model."""

from pellucid.advice.answer import Advice, Cost, Refusal, Suggestion
from pellucid.advice.ask import PRESETS, advise
from pellucid.advice.direction import Direction, direction
from pellucid.advice.questions import KINDS
from pellucid.advice.table import Entry, lookup

__all__ = [
    "KINDS",
    "PRESETS",
    "Advice",
    "Cost",
    "Direction",
    "Entry",
    "Refusal",
    "Suggestion",
    "advise",
    "direction",
    "lookup",
]
