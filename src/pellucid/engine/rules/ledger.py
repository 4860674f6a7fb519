"""Where did relevance go? What arrived, and what stayed behind: in which operation, for what reason, of which row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.record import Edge

Where = tuple[str, str, str]  # operation, module, line
Sent = Sequence[tuple[Edge, Any]]
Said = Tensor | Sequence[tuple[Tensor, float]]  # amounts, elementwise; or terms of them, each with a factor
LEAST = "smallest denominator"  # what a rule may say beside the amounts that stay behind, elementwise


class Parts:
    """A cotangent in parts: one multiplier for each kind of contribution (positive and negative, for one).

    Linear operations map every part alike; a plain cotangent that meets one counts for all parts; a rule that does
    not take parts refuses them, as they cannot be merged without knowing the contributions.
    """

    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts

    def __add__(self, other: Parts | Tensor) -> Parts:
        more = other.parts if isinstance(other, Parts) else [other] * len(self.parts)
        return Parts(*(a + b for a, b in zip(self.parts, more, strict=True)))

    __radd__ = __add__


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Relevance that stayed in one operation: how much, what took it, and how much of each row (`rows`)."""

    operation: str
    module: str
    line: str
    amount: float
    kind: str
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Ledger:
    """Where relevance went: `seeded = arrived + sum of absorbed`, up to rounding (`gap`).

    `open_rows` is the same by row. `least` is the smallest denominator of each row, of the rules that tell theirs;
    infinite where none did. Where not `apart`, rows could not be told from each other on the way, and only sums hold.
    """

    seeded: float
    arrived: float
    absorbed: tuple[Absorbed, ...]
    open_rows: Tensor
    least: Tensor
    apart: bool = True

    @property
    def gap(self) -> float:
        """What is unaccounted for."""
        return self.seeded - self.arrived - sum(entry.amount for entry in self.absorbed)

    def by_kind(self) -> dict[str, float]:
        """Absorbed relevance summed by what took it, such as "bias", "stabiliser" or "gate"."""
        totals: dict[str, float] = {}
        for entry in self.absorbed:
            totals[entry.kind] = totals.get(entry.kind, 0.0) + entry.amount
        return totals


class Books:
    """The accounts of one walk, kept by row.

    A cotangent's rows lie next to each other inside blocks, of which `blocks[edge]` tells how many there are: one where
    rows come first, as many as steps where time comes first. Operations that only move values tell how the blocks
    change, as each row's sum must stay what it was.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.apart = rows, True
        self.blocks: dict[Edge, int] = {}
        self.due: dict[Edge, Tensor] = {}
        self.entries: list[tuple[Where, Tensor, str]] = []
        self.least = torch.full((rows,), torch.inf, dtype=torch.float64)

    def sums(self, value: Any, blocks: int = 1, least: bool = False) -> Tensor:
        """The sum (or least) of a cotangent for each row."""
        if isinstance(value, Parts):
            return sum((self.sums(part, blocks) for part in value.parts), torch.zeros(()))
        if value.numel() % (blocks * self.rows):
            self.apart = False
            return (value.min() if least else value.sum() / self.rows).expand(self.rows)
        value = value.reshape(blocks, self.rows, -1)
        return value.amin((0, 2)) if least else value.sum((0, 2))

    def send(self, edge: Edge, value: Any, blocks: int = 1) -> Tensor:
        """Remember how much of each row is on its way along an edge; what several send is added up."""
        share = self.sums(value, blocks)
        self.blocks[edge], self.due[edge] = blocks, self.due.get(edge, 0) + share
        return share

    def account(self, where: Where, kind: str, moves: bool, came: Sent, sent: Sent, said: dict[str, Said]) -> None:
        """Book what came to an operation less what it sent: as `kind`, but for what its rule said about itself."""
        blocks = self.blocks[came[0][0]]
        into = sum((self.due[edge] for edge, _ in came), torch.zeros(()))
        after = self._follow(into, blocks, came, sent) if moves and sent and self.rows > 1 else blocks
        left = into - sum((self.send(edge, value, after) for edge, value in sent), torch.zeros(()))
        for reason, amount in said.items():
            if reason == LEAST:
                least = self.sums(amount, blocks, least=True)
                self.least = torch.minimum(self.least, least.double().cpu())
                continue
            terms = [(amount, 1.0)] if isinstance(amount, Tensor) else amount
            share = sum((self.sums(term, blocks) * scale for term, scale in terms), torch.zeros(()))
            self.entries.append((where, share, reason))
            left = left - share
        self.entries.append((where, left, kind))

    def _follow(self, into: Tensor, blocks: int, came: Sent, sent: Sent) -> int:
        """How many blocks there are behind an operation that moves values: as before, or what keeps the rows' sums."""
        limit = torch.finfo(into.dtype).eps ** 0.5 * float(into.abs().max())

        def off(count: int) -> float:
            return float((into - sum(self.sums(value, count) for _, value in sent)).abs().max())

        shapes = [_shape(value) for _, value in (*sent[:1], *came[:1])]
        options = [blocks, 1, *(math.prod(shape[:k]) for shape in shapes for k in range(1, len(shape)))]
        options = [n for n in options if n and not any(_size(value) % (n * self.rows) for _, value in sent)]
        if not options:
            self.apart = False
            return blocks
        if options[0] == blocks and off(blocks) <= limit:
            return blocks
        best = min(options, key=off)
        lost = float(into.sum()) - sum(float(self.sums(value, best).sum()) for _, value in sent)
        self.apart = self.apart and (off(best) <= limit or abs(lost) > limit)
        return best

    def close(self, seeded: Sent, arrived: Sent) -> Ledger:
        """The ledger, with what is still open."""
        entries = tuple(
            Absorbed(*where, float(rows.sum()), kind, rows)
            for where, amount, kind in self.entries
            if bool((rows := amount.detach().double().cpu()).any())
        )
        into = sum((self.sums(value).double().cpu() for _, value in seeded), torch.zeros(self.rows))
        out = sum((self.due[edge].double().cpu() for edge, _ in arrived), torch.zeros(self.rows))
        left = into - out - sum(entry.rows for entry in entries)
        return Ledger(float(into.sum()), float(out.sum()), entries, left, self.least, self.apart)


def _shape(value: Any) -> torch.Size:
    return value.parts[0].shape if isinstance(value, Parts) else value.shape


def _size(value: Any) -> int:
    return math.prod(_shape(value))
