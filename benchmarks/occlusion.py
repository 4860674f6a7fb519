"""Occlusion by a sliding window: captum's at the best of several batch sizes against Pellucid."""

from __future__ import annotations

import time
from functools import partial

import torch
from captum.attr import Occlusion as Peer
from torch import Tensor, nn

import pellucid as px
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import Occlusion

CASES = (("resnet18", 32, 16), ("resnet50", 32, 32), ("vgg16", 32, 32))
SIZES = (1, 4, 8, 16)
CHUNK = 8


def run() -> list[Row]:
    """One row per network; the limit is a plain forward pass per window, in batches of eight."""
    rows = []
    for name, window, stride in CASES:
        model, x = network(name), images(1)
        method, peer = Occlusion(window=window, stride=stride), Peer(model)

        def ours(model: nn.Module = model, x: Tensor = x, method: Occlusion = method) -> Tensor:
            return px.explain(model, x, method, target=3).values

        def theirs(size: int, peer: Peer = peer, x: Tensor = x, window: int = window, stride: int = stride) -> Tensor:
            shape, step = (3, window, window), (3, stride, stride)
            return peer.attribute(x, shape, step, target=3, perturbations_per_eval=size)

        best = min(SIZES, key=partial(_seconds, theirs))
        count = (-(-(224 - window) // stride) + 1) ** 2
        limit = partial(_forwards, model, x.expand(CHUNK, -1, -1, -1), -(-count // CHUNK))
        task = f"{name}, {count} windows, captum {best} at once"
        rows.append(compare(task, ours, partial(theirs, best), within=1e-4, limit=limit, repeats=5))
    return rows


def _seconds(way: object, size: int) -> float:
    assert callable(way)
    start = time.perf_counter()
    way(size)
    return time.perf_counter() - start


def _forwards(model: nn.Module, x: Tensor, times: int) -> None:
    with torch.inference_mode():
        for _ in range(times):
            model(x)
