"""Freely licensed photographs that come with scikit-learn and scikit-image."""

from __future__ import annotations

import numpy as np
import torch

from pellucid.contract.errors import InputError
from pellucid.worlds.bundled import sample_sets
from pellucid.worlds.world import World

# Only photographs whose licence is stated by the package that carries them.
CREDITS = {
    "china": "'china' by Daniel Buechele, flickr.com/photos/danielbuechele/6061409035, CC BY 2.0 (cropped, resized)",
    "flower": "'flower' by vultilion, flickr.com/photos/vultilion/6056698931, CC BY 2.0 (cropped, resized)",
    "astronaut": "'astronaut': Eileen Collins, NASA, public domain",
    "chelsea": "'chelsea' by Stefan van der Walt, CC0 1.0",
    "coffee": "'coffee' by Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0 1.0",
    "rocket": "'rocket': launch of DSCOVR on Falcon 9, SpaceX, public domain",
}


def photographs(*, size: int = 224) -> World:
    """Six photographs: a temple, a flower, an astronaut, a cat, a cup of coffee and a rocket.

    Shapes: inputs ``(6, 3, size, size)`` in [0, 1], the central square resized with smoothing; original units 0
    to 255. Labels number the photographs; all are training rows. ``truth["credits"]`` holds the line that must
    accompany each photograph where it is shown. Sources: scikit-learn (china, flower) and scikit-image (others).
    Licences: CC BY 2.0 for china and flower; the others are CC0 or in the public domain.

    >>> from pellucid import worlds
    >>> worlds.photographs(size=64).classes
    ('china', 'flower', 'astronaut', 'chelsea', 'coffee', 'rocket')
    """
    from skimage import data
    from skimage.transform import resize

    if not 8 <= size <= 1024:
        raise InputError("The 'size' of photographs must be between 8 and 1024 pixels", got=repr(size))
    squares = []
    for name in CREDITS:
        picture = (
            sample_sets().load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
        )
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = picture[top : top + side, left : left + side, :3].astype(np.float64) / 255
        squares.append(np.clip(resize(square, (size, size), anti_aliasing=True), 0, 1).astype(np.float32))
    inputs = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
    return World(
        name="photographs",
        inputs=inputs,
        labels=torch.arange(len(CREDITS), device="cpu"),
        classes=tuple(CREDITS),
        features=("red", "green", "blue"),
        train_rows=torch.arange(len(CREDITS), device="cpu"),
        test_rows=torch.arange(0, device="cpu"),
        truth={"credits": tuple(CREDITS.values())},
        mean=torch.zeros((3, 1, 1), dtype=torch.float64, device="cpu"),
        scale=torch.full((3, 1, 1), 255.0, dtype=torch.float64, device="cpu"),
        attribution="; ".join(CREDITS.values()) + ".",
        licence="CC BY 2.0, https://creativecommons.org/licenses/by/2.0/ (china, flower); CC0 or public domain (others)",
    )
