"""The shapes world: pictures of which everything is known, down to the pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract.errors import InputError, MethodError
from pellucid.worlds import wording
from pellucid.worlds.painting import CUE_BIT, GROUND_BIT, paint
from pellucid.worlds.scene import COLOURS, GROUNDS, KINDS, MOST_OBJECTS, PARTS, TEXTURES, Scenes, draw_scenes
from pellucid.worlds.world import World, generator, split_rows

CONCEPTS: Mapping[str, tuple[str, ...]] = {
    "kind": KINDS,
    "part": PARTS,
    "colour": COLOURS,
    "texture": TEXTURES,
    "ground": GROUNDS,
    "main": tuple(f"main {part}" for part in PARTS),
    "role": ("object", "main object", "bystanders", "background", "cue"),
}


class Masks(Mapping[str, Tensor]):
    """Pixel masks by concept: ``masks["striped"]`` is ``(N, height, width)``, true where the concept shows.

    Kinds, colours and textures are seen in an object's body alone; a part's mask covers it on every object, and
    "main stem" on the main object alone. A pixel on a smooth edge belongs to both of its neighbours. Masks are
    made when asked for, from one number a pixel.
    """

    def __init__(self, scenes: Scenes, owners: NDArray[np.int32]) -> None:
        self._scenes, self._owners = scenes, owners

    def __getitem__(self, concept: str) -> Tensor:
        return torch.from_numpy((self._owners & self._bits(concept)[:, None, None]) != 0)

    def __iter__(self) -> Iterator[str]:
        return (name for group in CONCEPTS.values() for name in group)

    def __len__(self) -> int:
        return sum(map(len, CONCEPTS.values()))

    def present(self, concept: str) -> Tensor:
        """Whether any pixel of each picture shows the concept, ``(N,)``."""
        return self[concept].flatten(1).any(dim=1)

    def _bits(self, concept: str) -> NDArray[np.int32]:
        """The owners, as bits and one number a picture, that show the concept."""
        scenes = self._scenes
        whole = (1 << len(PARTS)) - 1
        everywhere = np.ones((len(scenes), 1), dtype=np.int64)
        if concept in PARTS:
            chosen = everywhere * (1 << PARTS.index(concept))
        elif concept in KINDS + COLOURS + TEXTURES:
            names, numbers = next(
                (names, numbers)
                for names, numbers in ((KINDS, scenes.kind), (COLOURS, scenes.colour), (TEXTURES, scenes.texture))
                if concept in names
            )
            chosen = (numbers == names.index(concept)) * (1 << PARTS.index("body"))
        elif concept in CONCEPTS["main"]:
            chosen = everywhere * np.array([1 << CONCEPTS["main"].index(concept), 0, 0])
        elif concept in ("object", "main object", "bystanders"):
            chosen = everywhere * whole * np.array([concept != "bystanders", *[concept != "main object"] * 2])
        elif concept in GROUNDS:
            return np.where(scenes.ground == GROUNDS.index(concept), 1 << GROUND_BIT, 0).astype(np.int32)
        elif concept == "background":
            return np.full(len(scenes), 1 << GROUND_BIT, dtype=np.int32)
        elif concept == "cue":
            bit = CUE_BIT if scenes.cue_form == "tag" else GROUND_BIT
            return np.where(scenes.cue >= 0, 1 << bit, 0).astype(np.int32)
        else:
            raise MethodError("The shapes world has no such concept", got=repr(concept), hint=", ".join(self))
        shifts = len(PARTS) * np.arange(MOST_OBJECTS)
        return np.asarray((np.broadcast_to(chosen, (len(scenes), MOST_OBJECTS)) << shifts).sum(axis=1), dtype=np.int32)


def shapes(
    n: int = 1000,
    seed: int = 0,
    *,
    size: int = 32,
    spurious: Literal["tag", "background"] | None = None,
    spurious_probability: float = 0.95,
    label_noise: float = 0.0,
    anti_alias: bool = True,
    test_fraction: float = 0.25,
) -> World:
    """Pictures of one to three objects; the label is the kind of the largest, and its outline the only evidence.

    Shapes: inputs ``(n, 3, size, size)`` in [0, 1], original units 0 to 255; labels ``(n,)``. Picture *i* depends
    on (seed, *i*) alone, and the settings change nothing that they do not name. ``spurious`` adds a cue that
    points to the true class with ``spurious_probability`` and to another otherwise: a coloured "tag" in the
    corner, or the colour of the "background". ``label_noise`` is the probability that a training label is
    replaced by another class; held-out labels are always right.

    ``truth``: ``masks`` (see ``Masks``), ``scenes`` (every property of every object), ``captions``, ``questions``,
    ``reasons``, ``true_labels`` ``(n,)``, ``flipped`` ``(n,)`` bool, and ``cue`` ``(n,)``, the class that the cue
    points to or -1. Generated here; free of rights.

    >>> from pellucid import worlds
    >>> world = worlds.shapes(8, seed=1)
    >>> world.truth["captions"][2][:26]
    'A large plain blue square '
    >>> world.truth["masks"]["wheels"].shape
    torch.Size([8, 32, 32])
    """
    refuse_impossible(n, size, spurious, spurious_probability, label_noise)
    scenes = draw_scenes(n, seed, size=size, cue_form=spurious, cue_probability=spurious_probability)
    pictures, owners = paint(scenes, anti_alias=anti_alias)
    true_labels = scenes.kind[:, 0]
    train_rows, test_rows = split_rows(true_labels, seed=seed, test_fraction=test_fraction, stratify=True)
    labels = _mislabel(true_labels, train_rows.numpy(), seed, label_noise)
    return World(
        name="shapes",
        inputs=torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 255,
        labels=torch.from_numpy(labels),
        classes=KINDS,
        features=("red", "green", "blue"),
        train_rows=train_rows,
        test_rows=test_rows,
        truth={
            "masks": Masks(scenes, owners),
            "scenes": scenes,
            "captions": wording.captions(scenes),
            "questions": wording.questions(scenes),
            "reasons": wording.reasons(scenes),
            "true_labels": torch.from_numpy(true_labels.copy()),
            "flipped": torch.from_numpy(labels != true_labels),
            "cue": torch.from_numpy(scenes.cue.copy()),
        },
        mean=torch.zeros((3, 1, 1), dtype=torch.float64, device="cpu"),
        scale=torch.full((3, 1, 1), 255.0, dtype=torch.float64, device="cpu"),
        attribution="Generated by Pellucid.",
        licence="CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/",
    )


def _mislabel(
    true_labels: NDArray[np.int64], train_rows: NDArray[np.int64], seed: int, noise: float
) -> NDArray[np.int64]:
    """A copy in which each training label is, with the given probability, another class drawn evenly."""
    draws = generator(seed, "mislabel").random((len(true_labels), 2))
    others = (true_labels + 1 + (draws[:, 1] * (len(KINDS) - 1)).astype(np.int64)) % len(KINDS)
    in_training = np.zeros(len(true_labels), dtype=bool)
    in_training[train_rows] = True
    return np.where(in_training & (draws[:, 0] < noise), others, true_labels)


def refuse_impossible(n: int, size: int, spurious: str | None, spurious_probability: float, label_noise: float) -> None:
    """Raise, naming the setting, where a world with these settings cannot be made."""
    if n < 1:
        raise InputError("The shapes world must have at least one picture", got=f"n={n}")
    if not 24 <= size <= 512:
        raise InputError("The 'size' of shapes must be between 24 and 512 pixels", got=repr(size), hint="size=32")
    if spurious not in (None, "tag", "background"):
        raise InputError("The 'spurious' cue of shapes must be None, 'tag' or 'background'", got=repr(spurious))
    for name, value in (("spurious_probability", spurious_probability), ("label_noise", label_noise)):
        if not 0 <= value <= 1:
            raise InputError(f"The {name!r} of shapes must lie between 0 and 1", got=repr(value))
