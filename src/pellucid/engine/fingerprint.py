"""Has a tensor changed? A quick fingerprint of all its bits, so that nothing remembered outlives an edit.

Version counters miss edits through `.data` and shared memory. These sums read every bit once, at about the speed of
memory: the bits, seen as integers, are added in blocks whose number and size are about equal. One edit anywhere changes
a block's sum; so does exchanging entries of different blocks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_SMALL = 4096
_IN_NUMPY = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


def of_tensor(x: Tensor) -> bytes:
    """Sixteen bytes that depend on every bit, the shape and the type."""
    digest = hashlib.blake2b(f"{tuple(x.shape)}{x.dtype}".encode(), digest_size=16)
    if x.numel() <= _SMALL and x.device.type == "cpu" and x.dtype in _IN_NUMPY:
        digest.update(x.detach().contiguous().numpy().tobytes())  # quicker than to add up so few
    else:
        for sums in _sums(x):
            digest.update(sums.cpu().numpy().tobytes())
    return digest.digest()


def of_module(module: nn.Module) -> bytes:
    """The same for all parameters and buffers, by name."""
    digest = hashlib.blake2b(digest_size=16)
    tensors: Iterable[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    for name, x in tensors:
        digest.update(name.encode() + of_tensor(x))
    return digest.digest()


def _sums(x: Tensor) -> list[Tensor]:
    with torch.no_grad(), torch.inference_mode(False):
        flat = x.detach().contiguous().flatten()
        raw = flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)
        words, rest = raw[: len(raw) // 8 * 8], raw[len(raw) // 8 * 8 :]
        words = words.view(torch.int64)
        side = max(1, math.isqrt(len(words)))
        square, tail = words[: len(words) // side * side], words[len(words) // side * side :]
        square = square.view(-1, side)
        return [square.sum(1), tail, rest]
