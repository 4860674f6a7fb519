"""Counter-based noise: what a row draws depends on the seed, the row's content and the draw's number alone.

The key of a row is a hash of (seed, content); the draw's number is the counter of a Philox generator. So results do not
depend on batch, order, chunk or worker, and no global generator is touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, key: bytes, draw: int) -> np.random.Generator:
    """The generator of one draw of one row."""
    digest = hashlib.blake2b(key + int(seed).to_bytes(16, "little", signed=True), digest_size=16).digest()
    counter = np.array([0, 0, draw, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64), counter=counter))


def normal(seed: int, keys: Sequence[bytes], draws: Sequence[int], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise (len(keys), *shape): drawn in float32 so that every dtype sees the same noise."""
    out = np.empty((len(keys), *shape), dtype=np.float32)
    for i, (key, draw) in enumerate(zip(keys, draws, strict=True)):
        generator(seed, key, draw).standard_normal(out=out[i], dtype=np.float32)
    return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)


def uniform(seed: int, keys: Sequence[bytes], draws: Sequence[int], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform noise in [0, 1) of shape (len(keys), *shape)."""
    out = np.empty((len(keys), *shape), dtype=np.float32)
    for i, (key, draw) in enumerate(zip(keys, draws, strict=True)):
        generator(seed, key, draw).random(out=out[i], dtype=np.float32)
    return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)


def integers(seed: int, keys: Sequence[bytes], draws: Sequence[int], high: int) -> Tensor:
    """One integer in [0, high) per (key, draw)."""
    pairs = zip(keys, draws, strict=True)
    return torch.tensor([int(generator(seed, key, draw).integers(high)) for key, draw in pairs], dtype=torch.long)
