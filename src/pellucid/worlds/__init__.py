"""Data with known answers: real data that needs no download, and planted worlds generated from a seed."""

from pellucid.worlds import games, scenarios
from pellucid.worlds.bundled import breast_cancer, diabetes, digits, iris, wine
from pellucid.worlds.phantoms import phantoms
from pellucid.worlds.photographs import photographs
from pellucid.worlds.sentences import sentences
from pellucid.worlds.shapes import shapes
from pellucid.worlds.tabular import tabular
from pellucid.worlds.world import World

__all__ = [
    "World",
    "breast_cancer",
    "diabetes",
    "digits",
    "games",
    "iris",
    "phantoms",
    "scenarios",
    "photographs",
    "sentences",
    "shapes",
    "tabular",
    "wine",
]
