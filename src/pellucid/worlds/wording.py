"""Say what is in a scene: captions, questions with their answers, and the reasons for the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pellucid.worlds.scene import COLOURS, GROUNDS, KINDS, MOST_OBJECTS, PARTS, TEXTURES, Scenes

_OUTLINE = {
    "circle": "its outline is round and has no corner",
    "square": "its outline has four right corners and four equal sides",
    "triangle": "its outline narrows from a flat base to one point",
    "cross": "four equal arms meet in its middle",
    "star": "five points stand out from its middle",
}
_COUNT = ("no", "one", "two", "three")


@dataclass(frozen=True)
class Question:
    """A question about one picture, its answer, and the concept whose mask shows the evidence."""

    question: str
    answer: str
    evidence: str


def captions(scenes: Scenes) -> tuple[str, ...]:
    """One sentence a picture, naming every object, its texture, colour and parts, and the background."""
    return tuple(_caption(scenes, row) for row in range(len(scenes)))


def reasons(scenes: Scenes) -> tuple[str, ...]:
    """One sentence a picture: why the label is what it is, and what does not count."""
    return tuple(_reason(scenes, row) for row in range(len(scenes)))


def questions(scenes: Scenes) -> tuple[tuple[Question, ...], ...]:
    """Six questions a picture: kind, colour, texture, parts, count and place."""
    return tuple(_questions(scenes, row) for row in range(len(scenes)))


def _parts(scenes: Scenes, row: int, number: int) -> list[str]:
    return [part for part, here in zip(PARTS, scenes.parts[row, number], strict=True) if here and part != "body"]


def _object(scenes: Scenes, row: int, number: int) -> str:
    words = (
        TEXTURES[scenes.texture[row, number]],
        COLOURS[scenes.colour[row, number]],
        KINDS[scenes.kind[row, number]],
    )
    parts = [part if part == "wheels" else f"a {part}" for part in _parts(scenes, row, number)]
    size = "large" if number == 0 else "small"
    return f"a {size} {' '.join(words)}" + (f" with {_list(parts)}" if parts else "")


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _caption(scenes: Scenes, row: int) -> str:
    objects = [_object(scenes, row, number) for number in range(MOST_OBJECTS) if scenes.present[row, number]]
    sentence = f"{'; '.join(objects)}; on a {GROUNDS[scenes.ground[row]]} background."
    return sentence[0].upper() + sentence[1:]


def _reason(scenes: Scenes, row: int) -> str:
    kind = KINDS[scenes.kind[row, 0]]
    idle = [f"its {word}" for word in ("colour", "texture", *_parts(scenes, row, 0))]
    return f"It is a {kind} because {_OUTLINE[kind]}; {_list(idle)} do not matter."


def _questions(scenes: Scenes, row: int) -> tuple[Question, ...]:
    kind = KINDS[scenes.kind[row, 0]]
    part = PARTS[1 + row % (len(PARTS) - 1)]
    has = bool(scenes.parts[row, 0, PARTS.index(part)])
    side = "left" if scenes.x[row, 0] < scenes.size / 2 else "right"
    count = int(np.count_nonzero(scenes.present[row]))
    article = "" if part == "wheels" else "a "
    return (
        Question("What is the largest object?", kind, "main body"),
        Question(f"What colour is the {kind}?", COLOURS[scenes.colour[row, 0]], "main body"),
        Question(f"What texture has the {kind}?", TEXTURES[scenes.texture[row, 0]], "main body"),
        Question(f"Has the {kind} {article}{part}?", "yes" if has else "no", f"main {part}" if has else "main object"),
        Question("How many objects are there?", _COUNT[count], "object"),
        Question(f"In which half of the picture is the middle of the {kind}?", side, "main body"),
    )
