"""The phantoms world: two scans of a made-up lung, a year apart, in which a nodule has grown, stayed, or never was."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.contract.errors import InputError
from pellucid.worlds.world import World, generator, split_rows

Volume = NDArray[np.float64]
TISSUE, VESSEL, NODULE = 0.15, 0.55, 0.9
DRAWS = 16  # numbers drawn for each case


def phantoms(rows: int = 60, *, size: int = 16, noise: float = 0.02, seed: int = 0) -> World:
    """Volumes (rows, 2, size, size, size), from 0 (air) to about 1: the current scan and the prior one.

    Tissue fills a ball, two straight vessels run through it, and two of three cases have a nodule: a ball brighter than
    all else. Label 1, "high risk": it has grown, from a radius of about 1 voxel to 2. Label 0: none, or the same in both.

    ``truth``: ``nodule`` (rows, size, size, size), true where the current scan has it; ``prior`` the same of the prior;
    ``vessels``; ``kind`` (rows,): 0 none, 1 stable, 2 grown.

    >>> from pellucid import worlds
    >>> tuple(worlds.phantoms(6).inputs.shape)
    (6, 2, 16, 16, 16)
    """
    for name, value, least in (("rows", rows, 3), ("size", size, 12)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"The '{name}' must be a whole number of at least {least}", got=repr(value))
    if not 0 <= noise <= 0.1:
        raise InputError("The 'noise' must lie between 0 and 0.1", got=repr(noise))
    grid = np.stack(np.meshgrid(*[np.arange(size, dtype=float)] * 3, indexing="ij"))
    drawn = generator(seed, "phantoms").random((rows, DRAWS))
    grain = generator(seed, "phantom noise").random((rows, 2, size, size, size))
    kind = np.arange(rows) % 3
    scans, masks = np.empty((rows, 2, size, size, size)), np.zeros((rows, 3, size, size, size), dtype=bool)
    middle = (size - 1) / 2
    for row, u in enumerate(drawn):
        body = ((grid - middle) ** 2).sum(0) < (0.48 * size) ** 2
        vessels = _tube(grid, middle + (u[0:3] - 0.5) * size / 3, u[3:6]) | _tube(
            grid, middle + (u[6:9] - 0.5) * size / 3, u[9:12]
        )
        centre = middle + (u[12:15] - 0.5) * size / 3
        away = np.sqrt(((grid - np.round(centre)[:, None, None, None]) ** 2).sum(0))
        radii = {0: (0.0, 0.0), 1: (2.3, 2.3), 2: (2.3, 1.1)}[int(kind[row])]
        for scan, radius in enumerate(radii):
            own = (away < radius) & body
            masks[row, scan] = own
            scans[row, scan] = np.where(own, NODULE, np.where(vessels & body, VESSEL, np.where(body, TISSUE, 0.0)))
        masks[row, 2] = vessels & body & ~masks[row, 0]
    scans += noise * (2 * grain - 1)
    labels = (kind == 2).astype(np.int64)
    train, test = split_rows(labels, seed=seed, test_fraction=0.25, stratify=True)
    found = torch.from_numpy(masks)
    return World(
        name="phantoms",
        inputs=torch.from_numpy(scans).float(),
        labels=torch.from_numpy(labels),
        classes=("low risk", "high risk"),
        features=("current scan", "prior scan"),
        train_rows=train,
        test_rows=test,
        truth={"nodule": found[:, 0], "prior": found[:, 1], "vessels": found[:, 2], "kind": torch.from_numpy(kind)},
        attribution="made by Pellucid; no patient's data",
        licence="as Pellucid's",
    )


def _tube(grid: Volume, through: Volume, towards: Volume) -> NDArray[np.bool_]:
    """The voxels at most 0.8 away from a line."""
    direction = towards - 0.5 + 1e-6
    direction = direction / np.linalg.norm(direction)
    away = grid - through[:, None, None, None]
    along = (away * direction[:, None, None, None]).sum(0)
    found: NDArray[np.bool_] = ((away**2).sum(0) - along**2) < 0.8**2
    return found
