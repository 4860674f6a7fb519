"""What is in a picture of the shapes world: objects with parts, colours, textures, places; drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.worlds.world import generator

KINDS = ("circle", "square", "triangle", "cross", "star")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
TEXTURES = ("plain", "striped", "dotted", "checked")
GROUNDS = ("smooth", "hatched", "speckled")
PARTS = ("body", "stem", "wheels", "handle", "hat")
MOST_OBJECTS = 3

# How far a body reaches from its centre, as shares of its radius: up, down, and right where a handle joins.
REACH_UP = np.array([0.95, 0.90, 0.95, 1.0, 1.02])
REACH_DOWN = np.array([0.95, 0.90, 0.75, 1.0, 0.85])
REACH_RIGHT = np.array([0.95, 0.90, 0.60, 1.0, 0.80])

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scenes:
    """The full description of ``N`` pictures; changing a field with ``dataclasses.replace`` and painting again
    gives the counterfactual picture.

    Arrays over objects are ``(N, 3)``; object 0 is the main one, and largest. ``kind``, ``colour``, ``texture``
    and ``ground`` number the tuples of this module. ``x``, ``y`` and ``radius`` are in pixels from the top left.
    ``parts`` is ``(N, 3, 5)`` and false everywhere for an absent object. ``tint`` ``(N,)`` numbers four pale
    background colours. ``cue`` is the class that the spurious cue points to, -1 where there is no cue;
    ``cue_form`` is its form.
    """

    size: int
    seed: int
    kind: Integers
    colour: Integers
    texture: Integers
    x: Floats
    y: Floats
    radius: Floats
    parts: Booleans
    ground: Integers
    tint: Integers
    cue: Integers
    cue_form: str | None

    def __len__(self) -> int:
        return len(self.ground)

    @property
    def present(self) -> Booleans:
        """Which of the three objects a picture has, ``(N, 3)``."""
        return self.parts[:, :, 0]


def draw_scenes(n: int, seed: int, *, size: int, cue_form: str | None, cue_probability: float) -> Scenes:
    """``n`` scenes; row *i* depends on (seed, *i*) alone, and nothing but ``cue`` depends on the cue's settings."""
    uniforms = iter(generator(seed, "scenes").random((n, 64)).T)

    def choose(count: int) -> Integers:
        return (next(uniforms) * count).astype(np.int64)

    def columns(count: int) -> Integers:
        return np.stack([choose(count) for _ in range(MOST_OBJECTS)], axis=1)

    kind, colour, texture = columns(len(KINDS)), columns(len(COLOURS)), columns(len(TEXTURES))
    # A bystander never repeats the main object's kind: otherwise two objects could vote for the label.
    others = (kind[:, :1] + 1 + kind[:, 1:] % (len(KINDS) - 1)) % len(KINDS)
    kind = np.concatenate([kind[:, :1], others], axis=1)
    count = 1 + choose(MOST_OBJECTS)
    below, hat, handle = columns(3), columns(3), columns(3)
    present = np.arange(MOST_OBJECTS) < count[:, None]
    parts = np.stack([present, below == 1, below == 2, handle == 1, hat == 1], axis=2) & present[:, :, None]
    radius, x, y = _places(size, uniforms)
    ground, tint = choose(len(GROUNDS)), choose(4)
    loyal, other = next(uniforms) < cue_probability, (kind[:, 0] + 1 + choose(len(KINDS) - 1)) % len(KINDS)
    cue = np.where(loyal, kind[:, 0], other) if cue_form else np.full(n, -1)
    return Scenes(
        size=size,
        seed=seed,
        kind=kind,
        colour=colour,
        texture=texture,
        x=x,
        y=y,
        radius=radius,
        parts=parts,
        ground=ground,
        tint=tint,
        cue=cue,
        cue_form=cue_form,
    )


def _places(size: int, uniforms: Iterator[Floats]) -> tuple[Floats, Floats, Floats]:
    """Radii and centres: the main object anywhere it fits, each bystander at the roomiest of eight places."""
    unit = size / 32

    def draw() -> Floats:
        return next(uniforms)

    radius = np.stack([6.6 + 1.4 * draw(), 2.9 + 0.8 * draw(), 2.9 + 0.8 * draw()], axis=1) * unit
    main = radius[:, 0]
    x = [1.15 * main + draw() * (size - 2.6 * main)]
    y = [1.55 * main + draw() * (size - 3.1 * main)]
    for number in (1, 2):
        small = radius[:, number]
        xs = np.stack([1.2 * small + draw() * (size - 2.7 * small) for _ in range(8)])
        ys = np.stack([1.6 * small + draw() * (size - 3.2 * small) for _ in range(8)])
        # Parts stick out by half a radius above and below, so vertical distance counts for less.
        room = np.stack(
            [np.hypot(xs - x[other], (ys - y[other]) / 1.3) - radius[:, other] - small for other in range(number)]
        ).min(axis=0)
        best = room.argmax(axis=0)
        x.append(np.take_along_axis(xs, best[None], axis=0)[0])
        y.append(np.take_along_axis(ys, best[None], axis=0)[0])
    return radius, np.stack(x, axis=1), np.stack(y, axis=1)
