"""What a world is: rows, labels, a fixed split, and everything that is known to be true about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.contract.errors import InputError

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False, kw_only=True)
class World(Dataset[tuple[Tensor, Tensor]]):
    """Data with known answers, usable wherever a map-style torch dataset or a pair ``(X, y)`` is.

    Shapes: ``inputs`` is ``(N, features)`` or ``(N, channels, height, width)`` in float32; ``labels`` is ``(N,)``,
    int64 class numbers or float32 regression targets; ``train_rows`` and ``test_rows`` are disjoint, sorted int64
    row numbers that together cover every row.

    Units: ``inputs`` are what models see; ``original(inputs)`` gives the units the data was collected in, as
    ``inputs * scale + mean``. ``mean`` and ``scale`` are float64 and come from the training rows alone.

    ``features`` names the columns of a table or the channels of images, ``classes`` the outputs.

    ``truth`` holds what the world knows beyond labels (masks, rules, flipped rows); the function that made the
    world documents its keys. ``attribution`` and ``licence`` say where the data comes from and how it may be used.

    >>> from pellucid import worlds
    >>> inputs, labels = worlds.digits().test
    >>> tuple(inputs.shape[1:])
    (1, 8, 8)
    """

    name: str
    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    features: tuple[str, ...]
    train_rows: Tensor
    test_rows: Tensor
    truth: Mapping[str, Any] = field(default_factory=dict, repr=False)
    task: Task = "classification"
    mean: Tensor | None = field(default=None, repr=False)
    scale: Tensor | None = field(default=None, repr=False)
    label_mean: float = 0.0
    label_scale: float = 1.0
    attribution: str = field(default="", repr=False)
    licence: str = field(default="", repr=False)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.inputs.shape))
        return f"World({self.name!r}, {shape}, {len(self.train_rows)} train + {len(self.test_rows)} test rows)"

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.inputs[row], self.labels[row]

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """The rows to learn from, as a new pair ``(X, y)``."""
        return self.inputs[self.train_rows], self.labels[self.train_rows]

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """The held-out rows, as a new pair ``(X, y)``."""
        return self.inputs[self.test_rows], self.labels[self.test_rows]

    def original(self, inputs: Tensor) -> Tensor:
        """Rows in the units the data was collected in, float64, shaped like ``inputs``.

        >>> from pellucid import worlds
        >>> iris = worlds.iris()
        >>> iris.original(iris.inputs[0]).round(decimals=1).tolist()
        [5.1, 3.5, 1.4, 0.2]
        """
        mean, scale = self._standard()
        return inputs.double() * scale.to(inputs.device) + mean.to(inputs.device)

    def standardised(self, original: Tensor) -> Tensor:
        """Rows given in original units as the models see them, float32: the inverse of ``original``."""
        mean, scale = self._standard()
        return ((original.double() - mean.to(original.device)) / scale.to(original.device)).float()

    def original_labels(self, labels: Tensor) -> Tensor:
        """Regression targets (or predictions of them) in the units they were collected in, float64."""
        return labels.double() * self.label_scale + self.label_mean

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the inputs, labels and split: equal worlds have equal fingerprints."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.labels, self.train_rows, self.test_rows):
            array = np.ascontiguousarray(tensor.cpu().numpy())
            digest.update(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()

    def _standard(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.scale is None:
            return torch.zeros((), dtype=torch.float64, device="cpu"), torch.ones((), dtype=torch.float64, device="cpu")
        return self.mean, self.scale


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose of one seed, independent of every other purpose's.

    Draw with ``Generator.random`` alone: its stream is the same on every platform and numpy version, and rows
    of ``random((n, k))`` do not depend on ``n``.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError("The 'seed' of a world must be a whole number of at least 0", got=repr(seed))
    return np.random.Generator(np.random.PCG64([seed, *purpose.encode()]))


def split_rows(labels: np.ndarray, *, seed: int, test_fraction: float, stratify: bool) -> tuple[Tensor, Tensor]:
    """Disjoint, sorted training and test rows; with ``stratify`` every class keeps its share in both."""
    if not 0.0 < test_fraction < 1.0:
        raise InputError("The 'test_fraction' must lie between 0 and 1", got=repr(test_fraction))
    keys = generator(seed, "split").random(len(labels))
    groups = [np.flatnonzero(labels == value) for value in np.unique(labels)] if stratify else [np.arange(len(labels))]
    test = np.concatenate([rows[np.argsort(keys[rows])][: round(test_fraction * len(rows))] for rows in groups])
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[test] = True
    return torch.from_numpy(np.flatnonzero(~is_test)), torch.from_numpy(np.flatnonzero(is_test))
