"""Paint scenes: pictures, and for every pixel the record of which part of which object shows in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.worlds.scene import MOST_OBJECTS, PARTS, REACH_DOWN, REACH_RIGHT, REACH_UP, Integers, Scenes
from pellucid.worlds.world import generator

PALETTE = np.array([(214, 64, 69), (243, 146, 55), (245, 205, 71), (72, 160, 106), (58, 119, 190), (139, 92, 176)])
PART_COLOURS = {"stem": (104, 78, 56), "wheels": (48, 50, 58), "handle": (122, 132, 148), "hat": (32, 48, 92)}
TINTS = np.array([(247, 243, 235), (233, 241, 247), (238, 245, 234), (247, 238, 241)])
CUE_TAGS = np.array([(20, 20, 20), (230, 60, 200), (20, 190, 200), (130, 210, 40), (96, 64, 206)])
CUE_GROUNDS = np.array([(250, 226, 205), (206, 226, 250), (214, 242, 208), (244, 212, 236), (226, 222, 214)])

GROUND_BIT = MOST_OBJECTS * len(PARTS)
CUE_BIT = GROUND_BIT + 1
_CHUNK = 128  # pictures painted at once: keeps the temporaries in the processor's cache

Grid = NDArray[np.float32]


def paint(scenes: Scenes, *, anti_alias: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pictures ``(N, size, size, 3)`` in 0 to 255, and the owners of every pixel ``(N, size, size)`` as bits.

    Bit ``object * 5 + part`` is set where any of that part's paint shows in the pixel, bit 15 where any of the
    background does, bit 16 where the tag of a spurious cue does. Without ``anti_alias`` every pixel has exactly
    one owner; with it, an edge pixel has two or more.
    """
    pictures = np.empty((len(scenes), scenes.size, scenes.size, 3), dtype=np.uint8)
    owners = np.empty((len(scenes), scenes.size, scenes.size), dtype=np.int32)
    speckle = generator(scenes.seed, "speckle")
    for start in range(0, len(scenes), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(scenes)))
        grain = speckle.random((len(rows), scenes.size, scenes.size)).astype(np.float32)
        pictures[rows], owners[rows] = _Canvas(scenes, rows, grain, anti_alias).finish()
    return pictures, owners


class _Canvas:
    """A chunk of pictures under the brush, painted from back to front."""

    def __init__(self, scenes: Scenes, rows: Integers, grain: Grid, anti_alias: bool) -> None:
        self.scenes, self.rows, self.anti_alias = scenes, rows, anti_alias
        pixels = np.arange(scenes.size, dtype=np.float32) + 0.5
        self.across, self.down = pixels[None, None, :], pixels[None, :, None]
        self.colours = _ground(scenes, rows, grain, self.across, self.down)
        self.owners = np.full(self.colours.shape[:3], 1 << GROUND_BIT, dtype=np.int32)

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        for number in reversed(range(MOST_OBJECTS)):
            self._object(number)
        if self.scenes.cue_form == "tag":
            self._tag()
        return np.rint(self.colours).astype(np.uint8), self.owners

    def _object(self, number: int) -> None:
        """Stem, handle and hat behind the body; wheels in front of it."""
        for part in ("stem", "handle", "hat", "body", "wheels"):
            local = np.flatnonzero(self.scenes.parts[self.rows, number, PARTS.index(part)])
            if len(local) == 0:
                continue
            x, y, radius, kind = self._properties(local, number)
            bit = number * len(PARTS) + PARTS.index(part)
            if part != "body":
                distance = _part(part, x, y, kind) * radius
                self._brush(local, distance, np.array(PART_COLOURS[part], dtype=np.float32), bit)
                continue
            distance = np.empty(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
            for value in np.unique(kind):
                same = kind == value
                distance[same] = _BODIES[value](x[same], y[same])
            self._brush(local, distance * radius, self._fill(local, number, x, y, radius), bit)

    def _properties(self, local: Integers, number: int) -> tuple[Grid, Grid, Grid, Integers]:
        """Coordinates in radii from the object's centre, down positive; its radius in pixels; its kind."""
        rows, scenes = self.rows[local], self.scenes
        centre_x, centre_y, radius = (
            values[rows, number].astype(np.float32)[:, None, None] for values in (scenes.x, scenes.y, scenes.radius)
        )
        return (self.across - centre_x) / radius, (self.down - centre_y) / radius, radius, scenes.kind[rows, number]

    def _fill(self, local: Integers, number: int, x: Grid, y: Grid, radius: Grid) -> Grid:
        """The body's paint: its colour, with a paler second tone where the texture says so."""
        rows = self.rows[local]
        texture = self.scenes.texture[rows, number][:, None, None]
        period = np.maximum(0.62, 2.6 / radius)  # in radii, and never finer than the pixels can show
        stripes = np.mod((x + y) / period, 1.0) < 0.5
        dots = np.hypot(np.mod(x / period + 0.5, 1.0) - 0.5, np.mod(y / period + 0.5, 1.0) - 0.5) < 0.3
        checks = (np.floor(x / (0.71 * period)) + np.floor(y / (0.71 * period))) % 2 == 0
        pale = ((texture == 1) & stripes) | ((texture == 2) & dots) | ((texture == 3) & checks)
        base = PALETTE[self.scenes.colour[rows, number]].astype(np.float32)[:, None, None, :]
        return np.where(pale[..., None], 0.45 * base + 0.55 * 255, base).astype(np.float32)

    def _tag(self) -> None:
        """A square in the top left corner whose colour names a class."""
        unit = self.scenes.size / 32
        distance = np.maximum(np.abs(self.across - 3.5 * unit), np.abs(self.down - 3.5 * unit)) - 2.5 * unit
        local = np.flatnonzero(self.scenes.cue[self.rows] >= 0)
        paint = CUE_TAGS[self.scenes.cue[self.rows[local]]].astype(np.float32)[:, None, None, :]
        self._brush(local, np.broadcast_to(distance, (len(local), *distance.shape[1:])), paint, CUE_BIT)

    def _brush(self, local: Integers, distance: Grid, paint: Grid, bit: int) -> None:
        """Lay paint where the signed distance (pixels, negative inside) says so, and note whose it is.

        Coverage is a whole number of sixteenths, so that rounding cannot differ between platforms and no pixel
        counts as covered without a visible change.
        """
        sixteenths = np.rint(np.clip(8.0 - 16.0 * distance, 0, 16)) if self.anti_alias else 16.0 * (distance < 0)
        image, row, column = np.nonzero(sixteenths)
        cover = (sixteenths[image, row, column] / 16).astype(np.float32)
        where = (local[image], row, column)
        paint = np.broadcast_to(paint, (*distance.shape, 3))[image, row, column]
        self.colours[where] += cover[:, None] * (paint - self.colours[where])
        self.owners[where] = np.where(cover == 1, 0, self.owners[where]) | (1 << bit)


def _ground(scenes: Scenes, rows: Integers, grain: Grid, across: Grid, down: Grid) -> Grid:
    base = TINTS[scenes.tint[rows]]
    if scenes.cue_form == "background":
        base = np.where(scenes.cue[rows, None] >= 0, CUE_GROUNDS[scenes.cue[rows]], base)
    unit, ground = scenes.size / 32, scenes.ground[rows][:, None, None]
    hatched = (ground == 1) & (np.mod((across - down) / (4 * unit), 1.0) < 0.25)
    speckled = (ground == 2) & (grain > 0.86)
    shade = 1.0 - 0.075 * hatched - 0.11 * speckled
    return (base[:, None, None, :] * shade[..., None]).astype(np.float32)


def _box(x: Grid, y: Grid, half_width: float, half_height: float) -> Grid:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _circle(x: Grid, y: Grid) -> Grid:
    return np.hypot(x, y) - np.float32(1.0)


def _square(x: Grid, y: Grid) -> Grid:
    return _box(x, y, 0.88, 0.88)


def _triangle(x: Grid, y: Grid) -> Grid:
    slope = (0.866 * np.abs(x) - 0.5 * (y + 1.05)).astype(np.float32)
    return np.maximum(slope, y - 0.78)


def _cross(x: Grid, y: Grid) -> Grid:
    return np.minimum(_box(x, y, 1.0, 0.36), _box(x, y, 0.36, 1.0))


def _star(x: Grid, y: Grid) -> Grid:
    """Five points: distance to the nearest edge line of the sector between a point and a notch."""
    turn = 2 * np.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs(np.mod(angle + turn / 2, turn) - turn / 2)
    along, aside = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    tip, notch = np.array([1.12, 0.0]), 0.52 * np.array([np.cos(turn / 2), np.sin(turn / 2)])
    edge = (notch - tip) / np.linalg.norm(notch - tip)
    return ((along - tip[0]) * edge[1] - (aside - tip[1]) * edge[0]).astype(np.float32)


_BODIES = (_circle, _square, _triangle, _cross, _star)
_WHEEL_SPREAD = np.array([0.5, 0.52, 0.5, 0.36, 0.5])


def _part(part: str, x: Grid, y: Grid, kind: Integers) -> Grid:
    """Signed distance, in radii, to a part attached where the body of that kind ends."""
    up, down, right, spread = (
        shares[kind].astype(np.float32)[:, None, None] for shares in (REACH_UP, REACH_DOWN, REACH_RIGHT, _WHEEL_SPREAD)
    )
    if part == "stem":
        return _box(x, y - 0.75, 0.15, 0.8)
    if part == "wheels":
        return np.hypot(np.abs(x) - spread, y - down) - 0.3
    if part == "handle":
        return np.abs(np.hypot(x - right, y - 0.1) - 0.36) - 0.12
    brim = _box(x, y + up, 0.55, 0.1)
    return np.minimum(brim, _box(x, y + up + 0.28, 0.32, 0.3))
