"""Lassos that are drawn together until one is left: convex clustering of the slopes of many lines, solved by ADMM.

All lines share one weighted design with second moments ``gram`` G (columns, columns); ``cross`` c (rows, columns) are its
products with each row's answers. A row's loss is then θGθ - 2cθ, up to the spread of its answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__: list[str] = []

CHECK = 20  # iterations between two looks at the gap
SAME = 1e-6  # forces, per row of unit spread, that rounding may make
LEAST = 1e-3  # the first β above zero, as a share of the one at which all rows are together
MET = 1e-4  # rows closer than this share of the lines' range are at one place
FINEST = 1.02  # two β closer than this are not told apart


@dataclass(frozen=True, eq=False)
class Graph:
    """Which rows draw each other, `first` and `second` (edges,), and how strongly (`pull`)."""

    rows: int
    first: Tensor
    second: Tensor
    pull: Tensor

    def differences(self, theta: Tensor) -> Tensor:
        """θ_i - θ_j of every edge."""
        return theta[self.first] - theta[self.second]

    def gathered(self, flow: Tensor) -> Tensor:
        """What flows out of each row over its edges: the transpose of `differences`."""
        out = torch.zeros(self.rows, flow.shape[1], dtype=flow.dtype)
        return out.index_add_(0, self.first, flow).index_add_(0, self.second, -flow)

    def laplacian(self, pull: Tensor) -> Tensor:
        """The graph's Laplacian with these weights."""
        out = torch.zeros(self.rows, self.rows, dtype=torch.float64)
        for here, there, sign in (
            (self.first, self.first, 1),
            (self.second, self.second, 1),
            (self.first, self.second, -1),
            (self.second, self.first, -1),
        ):
            out.index_put_((here, there), sign * pull, accumulate=True)
        return out


def nearest(points: Tensor, count: int | None) -> Graph:
    """Edges of weight 1 from each row to its `count` nearest (all where None), and those that join the parts."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    rows = len(points)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    joined = torch.ones(rows, rows, dtype=torch.bool)
    if count is not None and count < rows - 1:
        ranked = distance.clone().fill_diagonal_(-1.0).argsort(dim=1, stable=True)[:, 1 : count + 1]
        joined = torch.zeros(rows, rows, dtype=torch.bool).scatter_(1, ranked, True)
        # Rows at the same place are no edge to the tree's program: a constant more changes no spanning tree.
        tree = minimum_spanning_tree((distance + 1.0).fill_diagonal_(0.0).numpy()).toarray()
        joined |= torch.from_numpy(tree > 0)
    return weighted((joined | joined.T).double())


def weighted(similar: Tensor) -> Graph:
    """The graph of a symmetric matrix of weights."""
    first, second = similar.triu(1).nonzero().T
    return Graph(len(similar), first, second, similar[first, second])


def lasso(gram: Tensor, cross: Tensor, alpha: float) -> Tensor:
    """The minimisers of θGθ - 2cθ + α|θ|₁, one for each row of `cross`: by columns in turn, until nothing moves."""
    if alpha == 0:
        return torch.linalg.solve(gram, cross.T).T
    theta, size = torch.zeros_like(cross), float(cross.abs().max())
    for _ in range(10_000):
        before = theta.clone()
        for j in range(len(gram)):
            free = cross[:, j] - theta @ gram[:, j] + theta[:, j] * gram[j, j]
            theta[:, j] = free.sign() * (free.abs() - alpha / 2).clamp(min=0) / gram[j, j]
        if float((theta - before).abs().max()) <= 1e-13 * size:
            break
    return theta


class Fusion:
    """ADMM for Σ_i (θ_i G θ_i - 2 c_i θ_i + α|θ_i|₁) + β Σ w_ij |θ_i - θ_j|₂, continued as β grows.

    Two copies are held equal to what they copy by multipliers: `sparse` to θ and `apart` to the differences. The step of θ
    is one linear system for all rows, solved by the eigenvectors of G and of the graph's Laplacian.
    """

    def __init__(self, gram: Tensor, cross: Tensor, alpha: float, graph: Graph) -> None:
        self.gram, self.cross, self.alpha, self.graph = gram, cross, alpha, graph
        self.stiff, self.inward = torch.linalg.eigh(gram)
        self.links, self.across = torch.linalg.eigh(graph.laplacian(torch.ones_like(graph.pull)))
        self.theta = lasso(gram, cross, alpha)
        self.sparse, self.apart = self.theta, graph.differences(self.theta)
        self.range = float((self.theta - self.theta.mean(0)).norm(dim=1).max())
        # Multipliers as forces, not divided by the step: a new step leaves them as they are.
        self.shrink, self.flow = torch.zeros_like(self.sparse), torch.zeros_like(self.apart)
        self.step = 1.0

    def solve(self, beta: float, tolerance: float, iterations: int) -> float:
        """Move to the minimiser for this β; returns the duality gap, in units of a row's spread."""
        gap = torch.inf
        for number in range(1, iterations + 1):
            before = self.sparse, self.apart
            self._iterate(beta)
            if number % CHECK == 0 or number == iterations:
                gap = self.gap(beta)
                if gap <= tolerance:
                    break
                self._balance(*before)
        return gap

    def _iterate(self, beta: float) -> None:
        step, graph = self.step, self.graph
        known = 2 * self.cross + step * self.sparse - self.shrink + graph.gathered(step * self.apart - self.flow)
        inner = self.across.T @ known @ self.inward
        inner = inner / (2 * self.stiff + step * (1 + self.links)[:, None])
        self.theta = self.across @ inner @ self.inward.T
        pulled = step * self.theta + self.shrink
        self.shrink = pulled.clamp(-self.alpha, self.alpha)
        self.sparse = (pulled - self.shrink) / step
        pulled = step * graph.differences(self.theta) + self.flow
        size = pulled.norm(dim=1, keepdim=True)
        most = beta * graph.pull[:, None]
        together = size <= most
        self.flow = torch.where(together, pulled, pulled * (most / size.clamp(min=1e-300)))
        self.apart = torch.where(together, 0.0, (pulled - self.flow) / step)

    def _balance(self, sparse: Tensor, apart: Tensor) -> None:
        """A stiffer step where the copies differ too much, a softer one where they move too much."""
        primal = ((self.theta - self.sparse).norm() ** 2 + self._split().norm() ** 2) ** 0.5
        moved = self.sparse - sparse + self.graph.gathered(self.apart - apart)
        dual = self.step * moved.norm()
        if primal > 5 * dual:
            self.step *= 2
        elif dual > 5 * primal:
            self.step /= 2

    def _split(self) -> Tensor:
        return self.graph.differences(self.theta) - self.apart

    def gap(self, beta: float) -> float:
        """How far θ's loss may be above the least one: the multipliers are feasible, so their dual value bounds it."""
        theta, graph = self.theta, self.graph
        primal = (theta @ self.gram * theta).sum() - 2 * (self.cross * theta).sum() + self.alpha * theta.abs().sum()
        primal = primal + beta * (graph.pull * graph.differences(theta).norm(dim=1)).sum()
        force = 2 * self.cross - self.shrink - graph.gathered(self.flow)
        dual = -(torch.linalg.solve(self.gram, force.T).T * force).sum() / 4
        return float(primal - dual) / graph.rows

    @property
    def together(self) -> Tensor:
        """Which edges hold two rows at one place, as far as rounding and the solver let them."""
        return self.apart.norm(dim=1) <= MET * self.range


@dataclass(frozen=True, eq=False)
class Tree:
    """`groups` (levels, rows) numbers each row's group by its first row; `theta` (levels, rows, columns) is the group's.

    `beta`, `gap`, `counts` and `explained` (levels,): the weight of fusion, what ADMM left of it, how many groups there
    are, and the share of the answers' spread that the groups' lines explain.
    """

    groups: Tensor
    theta: Tensor
    beta: Tensor
    gap: Tensor
    counts: Tensor
    explained: Tensor
    alpha: float


def all_together(cross: Tensor, graph: Graph) -> float:
    """A β that is surely enough for one group: the forces c_i - mean c flow through the graph as through resistors."""
    force = 2 * (cross - cross.mean(0))
    level = torch.linalg.pinv(graph.laplacian(graph.pull), hermitian=True) @ force
    return float(graph.differences(level).norm(dim=1).max()) if len(graph.pull) else 0.0


def grow(
    gram: Tensor, cross: Tensor, sparsity: float, graph: Graph, levels: int, tolerance: float, iterations: int
) -> Tree:
    """The groups from one per row (β = 0) to one for all; rows that came together once stay so.

    `cross` belongs to answers whose spread is 1 on average over the rows.
    """
    alpha = sparsity * 2 * float(cross.abs().max())
    rows, last = len(cross), all_together(cross, graph)
    path = [(0.0, torch.arange(rows), 0.0), (last, torch.zeros(rows, dtype=torch.long), 0.0)]
    if last > SAME:
        fusion = Fusion(gram, cross, alpha, graph)
        while len(path) < levels and (beta := _next(path)):
            gap = fusion.solve(beta, tolerance, iterations)
            path.append((beta, _joined(graph, fusion.together), gap))
            path.sort(key=lambda level: level[0])
    path += path[-1:] * (levels - len(path))
    groups = torch.stack([own for _, own, _ in path])
    for number in range(1, levels):
        groups[number] = _both(groups[number - 1], groups[number])
    theta, explained = torch.zeros(levels, *cross.shape, dtype=torch.float64), torch.zeros(levels, dtype=torch.float64)
    for number, own in enumerate(groups):
        names, which, sizes = own.unique(return_inverse=True, return_counts=True)
        middle = torch.zeros(len(names), cross.shape[1], dtype=torch.float64).index_add_(0, which, cross)
        theta[number] = lasso(gram, middle / sizes[:, None], alpha)[which]
        explained[number] = ((2 * cross - theta[number] @ gram) * theta[number]).sum() / rows
    counts = torch.tensor([len(own.unique()) for own in groups], dtype=torch.float64)
    betas, gaps = (torch.tensor([level[i] for level in path], dtype=torch.float64) for i in (0, 2))
    return Tree(groups, theta, betas, gaps.clamp(min=0), counts, explained, alpha)


def _next(path: list[tuple[float, Tensor, float]]) -> float:
    """The next β to try: between the two at which most groups meet; 0 where no more are worth telling apart."""
    last = path[-1][0]
    if len(path) == 2:
        return LEAST * last
    counts = [len(own.unique()) for _, own, _ in path]
    best, where = 0.0, 0
    for number in range(1, len(path) - 1):
        fewer = counts[number] / counts[number + 1]
        wide = path[number + 1][0] > FINEST * path[number][0]
        if wide and counts[number] - counts[number + 1] > 1 and fewer > best:
            best, where = fewer, number
    return math.sqrt(path[where][0] * path[where + 1][0]) if where else 0.0


def _joined(graph: Graph, together: Tensor) -> Tensor:
    """Rows that edges hold together, each group named by its first row."""
    return _components(graph.rows, [graph.first[together]], [graph.second[together]])


def _both(one: Tensor, other: Tensor) -> Tensor:
    """The groups of rows that either has together."""
    rows = torch.arange(len(one))
    return _components(len(one), [rows, rows], [one, other])


def _components(rows: int, here: list[Tensor], there: list[Tensor]) -> Tensor:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = torch.cat(here).numpy(), torch.cat(there).numpy()
    _, label = connected_components(coo_matrix((np.ones(len(ends[0])), ends), shape=(rows, rows)), directed=False)
    names = torch.from_numpy(label).long()
    return torch.full((rows,), rows).scatter_reduce_(0, names, torch.arange(rows), "amin")[names]
