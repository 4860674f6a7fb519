"""What would the other columns be if some were set by hand? A chain graph over columns, with linear laws from data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import seed

__all__: list[str] = []

NOISES = ("gaussian", "data")
NOISE = b"noise of columns"
# Directions in which columns vary less than this share of the widest say nothing of other columns.
RANK = 1e-10


@dataclass(frozen=True, eq=False)
class Chain:
    """Components of columns in causal order; `parents`: the columns that act on each; `confounded`: what ties it inside."""

    components: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...]
    confounded: tuple[bool, ...]


def chain(graph: Any, edges: Any, confounded: Any, columns: int) -> Chain:
    """The chain graph that the settings describe, refused where it is none over these columns."""
    if not isinstance(graph, tuple | list) or not all(isinstance(part, tuple | list) for part in graph):
        raise MethodError(
            "The 'graph' must be a tuple of components in causal order, each a tuple of columns",
            got=repr(graph),
            hint="graph=((0, 1), (2,))",
        )
    components = tuple(tuple(part) for part in graph) or (tuple(range(columns)),)
    named = [column for part in components for column in part]
    whole = all(isinstance(c, int) and not isinstance(c, bool) for c in named) and all(components)
    if not whole or sorted(named) != list(range(columns)):
        raise InputError(
            f"The 'graph' must have each column from 0 to {columns - 1} once, and no empty component",
            got=repr(graph),
            hint="graph=() where no order is known",
        )
    count = len(components)
    pairs = [(i, j) for j in range(count) for i in range(j)] if edges is None else _edges(edges, count)
    parents = tuple(tuple(c for i, j in pairs if j == k for c in components[i]) for k in range(count))
    return Chain(components, parents, _confounded(confounded, count))


def _edges(edges: Any, count: int) -> list[tuple[int, int]]:
    listed = isinstance(edges, tuple | list) and all(isinstance(e, tuple | list) and len(e) == 2 for e in edges)
    numbers = listed and all(isinstance(n, int) and not isinstance(n, bool) for e in edges for n in e)
    if not numbers or not all(0 <= i < j < count for i, j in edges):
        raise MethodError(
            f"The 'edges' must be pairs (from, to) of components numbered 0 to {count - 1}, from an earlier to a later one",
            got=repr(edges),
            hint="edges=((0, 1),), or None for an edge from each to all later ones",
        )
    return sorted({(int(i), int(j)) for i, j in edges})


def _confounded(value: Any, count: int) -> tuple[bool, ...]:
    found = (value,) * count if isinstance(value, bool) else value
    if not isinstance(found, tuple | list) or len(found) != count or not all(isinstance(v, bool) for v in found):
        raise MethodError(
            f"The 'confounded' must be True, False, or one of them for each of the {count} components",
            got=repr(value),
            hint="confounded=True",
        )
    return tuple(found)


@dataclass(frozen=True, eq=False)
class World:
    """The columns' mean and covariance with the chain graph: what follows from setting some of them."""

    chain: Chain
    table: Tensor
    noise: str

    @property
    def mean(self) -> Tensor:
        """Of each column."""
        return self.table.mean(0)

    @property
    def covariance(self) -> Tensor:
        """Of the columns, with the number of rows below: it is that of draws from the rows."""
        centred = self.table - self.mean
        return centred.T @ centred / len(self.table)

    @property
    def mirrors(self) -> int:
        """How many draws a unit of noise has: a Gaussian one comes with its mirror image, so that means are exact."""
        return 2 if self.noise == "gaussian" else 1

    def drawn(self, number: int, first: int, count: int) -> Tensor:
        """Rows of the world as it is, one for each component and mirror of `count` units: (count, mirrors, parts, columns).

        A component's own row has its columns and those of its parents together; rows of components are independent.
        """
        parts, (rows, columns) = len(self.chain.components), self.table.shape
        generator = seed.generator(number, NOISE, first)
        if self.noise == "data":  # through all rows, again and again, in another order for each component
            rounds = -(-count // rows)
            order = torch.from_numpy(generator.random((rounds, parts, rows)).argsort(2))
            return self.table[order.transpose(1, 2).flatten(0, 1)[:count]][:, None]
        values, axes = torch.linalg.eigh(self.covariance)
        root = (axes * values.clamp(min=0).sqrt()) @ axes.T
        noise = torch.from_numpy(generator.standard_normal((count, 1, parts, columns))) @ root
        return self.mean + torch.cat([noise, -noise], 1)

    def settled(self, present: Tensor, star: Tensor) -> tuple[Tensor, Tensor]:
        """All columns when those of `present` (sets, columns) are set to x: ``pull @ x + push``.

        `star` (sets or 1, draws, parts, columns) are rows of the world; `pull` (sets, columns, columns), `push` (sets,
        draws, columns). A component answers to its causes by ``a = a* + K (causes - causes*)`` with the regression
        K of its free columns on them: given Gaussian rows *, that is a draw of the conditional distribution.
        """
        sets, columns = present.shape
        pull = torch.zeros(sets, columns, columns, dtype=torch.float64)
        push = torch.zeros(sets, star.shape[1], columns, dtype=torch.float64)
        covariance = self.covariance
        for number, part in enumerate(self.chain.components):
            patterns, which = present[:, list(part)].unique(dim=0, return_inverse=True)
            for k, pattern in enumerate(patterns.tolist()):
                here = (which == k).nonzero()[:, 0]
                held = [c for c, is_set in zip(part, pattern, strict=True) if is_set]
                free = [c for c, is_set in zip(part, pattern, strict=True) if not is_set]
                for c in held:
                    pull[here, c, c] = 1.0
                # Where hidden causes tie the component together, setting one of its columns tells nothing of the others.
                causes = [*self.chain.parents[number], *([] if self.chain.confounded[number] else held)]
                slope = _slope(covariance, free, causes)
                row = (star if len(star) == 1 else star[here])[:, :, number]
                pull[here[:, None], torch.tensor(free, dtype=torch.long)] = slope @ pull[here][:, causes]
                moved = row[..., free] + (push[here][..., causes] - row[..., causes]) @ slope.T
                push[here[:, None], :, torch.tensor(free, dtype=torch.long)] = moved.transpose(1, 2)
        return pull, push


def _slope(covariance: Tensor, free: list[int], causes: list[int]) -> Tensor:
    """The regression of the free columns on their causes, (free, causes)."""
    if not causes or not free:
        return covariance.new_zeros(len(free), len(causes))
    size = covariance.diagonal()[causes].sqrt()
    unit = torch.where(size > 0, 1 / size, 0.0)  # what never varies says nothing
    inverse = torch.linalg.pinv(unit[:, None] * covariance[causes][:, causes] * unit, hermitian=True, rtol=RANK)
    return covariance[free][:, causes] @ (unit[:, None] * inverse * unit)
