"""Which places of a map does a step read, and which of its results change? Interval arithmetic along both axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Integers of shape (2, jobs): vertical and horizontal, one entry per job.
Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Reach:
    """Result i along an axis reads the places i * stride - padding + dilation * (0 ... kernel - 1)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def span(self) -> tuple[int, int]:
        """How many places lie between the first and the last that one result reads, both counted."""
        rows, columns = (gap * (size - 1) + 1 for gap, size in zip(self.dilation, self.kernel, strict=True))
        return rows, columns

    def affected(self, low: Places, high: Places, size: tuple[int, int]) -> tuple[Places, Places]:
        """The results, of `size` in all, that read any place in [low, high); the same kind of interval."""
        stride, padding, span, limit = (_column(each) for each in (self.stride, self.padding, self.span, size))
        first = np.clip(-((span - 1 - padding - low) // stride), 0, limit)
        last = np.clip((high - 1 + padding) // stride + 1, first, limit)
        empty = ((high <= low) | (last <= first)).any(0)
        return first, np.where(empty, first, last)

    def needed(self, first: Places, size: tuple[int, int]) -> tuple[Places, tuple[int, int]]:
        """Where the places that `size` results from `first` on read begin, and how many they are."""
        rows, columns = (
            (count - 1) * step + span for count, step, span in zip(size, self.stride, self.span, strict=True)
        )
        return first * _column(self.stride) - _column(self.padding), (rows, columns)

    def beyond(self, size: tuple[int, int], length: tuple[int, int]) -> tuple[int, int]:
        """How far `size` results read past the end of a map of this length."""
        over = [
            max(0, (count - 1) * step - pad + span - long)
            for count, step, pad, span, long in zip(size, self.stride, self.padding, self.span, length, strict=True)
        ]
        return over[0], over[1]


SAME = Reach()


def union(spans: list[tuple[Places, Places]]) -> tuple[Places, Places]:
    """The smallest intervals that hold these; empty ones count for nothing."""
    low, high = spans[0]
    for first, last in spans[1:]:
        none, other = (high <= low).any(0), (last <= first).any(0)
        low, high = (
            np.where(none, first, np.where(other, low, np.minimum(low, first))),
            np.where(none, last, np.where(other, high, np.maximum(high, last))),
        )
    return low, high


def _column(pair: tuple[int, int]) -> Places:
    return np.array(pair, dtype=np.int64)[:, None]
