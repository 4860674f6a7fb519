"""The nearest of known vectors, exactly: for cases that are alike, and for how far an input is from the data."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.engine.inputs import Inputs

METRICS = ("euclidean", "cosine")
SPARE = 8  # candidates beyond those asked for, so that rounding in the search costs none of the true ones
PROBES = 2000  # rows of the data whose own nearest neighbours say what distance is usual


def embed(values: Tensor, metric: str) -> NDArray[np.float64]:
    """Vectors whose Euclidean distance d gives the metric: for "cosine", unit vectors, as 1 - cos = d² / 2.

    A vector of zeros has no direction: it is put at a right angle to all others.
    """
    flat = values.detach().flatten(1).double().cpu()
    if metric == "euclidean":
        return flat.numpy()
    size = flat.norm(dim=1, keepdim=True)
    return torch.cat([flat / size.where(size > 0, 1.0), (size == 0).double()], dim=1).numpy()


def nearest(
    known: NDArray[np.float64], asked: NDArray[np.float64], count: int, metric: str, memory: int
) -> tuple[Tensor, Tensor]:
    """Numbers of and distances to the nearest rows of `known`, (N, count), ties to the lower number.

    The search expands |a - b|² into products, which rounds. So some more are fetched, and measured exactly; where even
    the farthest of them may tie with the last one wanted, every row is measured.
    """
    import sklearn
    from sklearn.neighbors import NearestNeighbors

    centre, fetched = known.mean(0), min(len(known), count + SPARE)
    items, squares = np.empty((len(asked), count), dtype=np.int64), np.empty((len(asked), count))
    rounding = 1e-12 * (((known - centre) ** 2).sum(1).max() + ((asked - centre) ** 2).sum(1))
    search = NearestNeighbors(n_neighbors=fetched, algorithm="brute").fit(known - centre)
    chunk = max(1, memory // (32 * fetched * max(1, known.shape[1])))
    with sklearn.config_context(working_memory=max(1, memory >> 20)):
        for start in range(0, len(asked), chunk):
            rows = slice(start, start + chunk)
            found = np.sort(search.kneighbors(asked[rows] - centre, return_distance=False), axis=1)
            exact = ((known[found] - asked[rows, None]) ** 2).sum(axis=2)
            items[rows], squares[rows] = _first(found, exact, count)
            if fetched < len(known):
                for row in start + np.flatnonzero(squares[rows, -1] + rounding[rows] >= exact.max(axis=1)):
                    every = ((known - asked[row]) ** 2).sum(axis=1)[None]
                    items[row], squares[row] = (x[0] for x in _first(np.arange(len(known))[None], every, count))
    return torch.from_numpy(items), torch.from_numpy(np.sqrt(squares) if metric == "euclidean" else squares / 2)


def _first(
    found: NDArray[np.int64], exact: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    best = np.argsort(exact, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(found, best, axis=1), np.take_along_axis(exact, best, axis=1)


def own_distances(known: NDArray[np.float64], metric: str, memory: int) -> Tensor:
    """How far rows of the data lie from the nearest other row, (probes,); empty for a single row."""
    if len(known) < 2:
        return torch.zeros(0, dtype=torch.float64)
    probes = np.unique(np.linspace(0, len(known) - 1, min(len(known), PROBES)).round().astype(np.int64))
    # A row is at 0 from itself, so the second distance is that of the nearest other.
    return nearest(known, known[probes], 2, metric, memory)[1][:, 1]


def as_known(values: Tensor, asked: Inputs, known: Inputs, known_values: Tensor) -> Tensor:
    """The values, with those of rows that are known as they are there: batches of other sizes round differently."""
    where: dict[bytes, int] = {}
    for i, key in enumerate(known.keys()):
        where.setdefault(key, i)
    values = values.clone()
    for row, key in enumerate(asked.keys()):
        pairs = zip(known.tensors, asked.tensors, strict=True)
        if key in where and all(torch.equal(old[where[key]], new[row]) for old, new in pairs):
            values[row] = known_values[where[key]]
    return values
