"""Groups of alike vectors: a graph of nearest neighbours, its Laplacian's eigenvectors, and a layout in the plane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__: list[str] = []

EQUAL = 1e-9  # gaps between eigenvalues that differ by less are taken as equal
STEPS = 50  # of the alternation between centres and members


@dataclass(frozen=True, eq=False)
class Groups:
    """Points in groups, the largest first.

    `group` (points,) is each point's; `size` and `conductance` (groups,) are how many points a group has and which share
    of its edges leads out of it; `eigenvalues` are the Laplacian's smallest, `gap` the one after the last group's.
    """

    group: Tensor
    size: Tensor
    conductance: Tensor
    eigenvalues: Tensor
    gap: float
    place: Tensor


def groups(points: Tensor, *, neighbours: int, most: int, count: int | None, layout: str) -> Groups:
    """Points (points, numbers) in `count` groups, or in as many, up to `most`, as the widest gap of the spectrum says."""
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    edges = affinity(apart, neighbours)
    values, vectors = spectrum(edges)
    # A group of fewer points than a point has neighbours is not seen as one by the graph.
    fit = max(1, min(most, len(points) // (neighbours + 1)))
    found, gap = count_and_gap(values, fit, count)
    group = by_size(assign(vectors[:, :found]))
    size = torch.bincount(group)
    out = torch.stack([conductance(edges, group == g) for g in range(len(size))])
    place = tsne(points) if layout == "tsne" and points.shape[1] > 1 else upright(vectors[:, 1:3])
    return Groups(group, size, out, values[: most + 1], gap, place)


def affinity(apart: Tensor, neighbours: int) -> Tensor:
    """1 between points of which one is among the other's nearest, (points, points), from their distances."""
    own = torch.eye(len(apart), dtype=torch.bool)
    nearest = apart.masked_fill(own, torch.inf).argsort(dim=1, stable=True)[:, : min(neighbours, len(apart) - 1)]
    edges = torch.zeros_like(apart).scatter_(1, nearest, 1.0)
    return torch.maximum(edges, edges.T)


def spectrum(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, smallest first, and eigenvectors of the normalised Laplacian 1 - D^(-1/2) A D^(-1/2)."""
    root = edges.sum(1).rsqrt()
    laplacian = torch.eye(len(edges), dtype=edges.dtype) - root[:, None] * edges * root
    values, vectors = torch.linalg.eigh(laplacian)
    return values.clamp(min=0), vectors


def count_and_gap(values: Tensor, most: int, count: int | None) -> tuple[int, float]:
    """How many groups: up to the widest gap between eigenvalues, the first of equal ones; and how wide that is."""
    gaps = values[1 : most + 1] - values[:most]
    if count is None:
        count = int((gaps >= gaps.max() - EQUAL).nonzero()[0]) + 1
    return count, float(values[count] - values[count - 1])


def assign(vectors: Tensor) -> Tensor:
    """Groups of the rows of eigenvectors (points, groups), scaled to length 1, by k-means.

    It starts at the points that a pivoted QR decomposition picks as the most independent, so that nothing is drawn.
    """
    from scipy.linalg import qr
    from sklearn.cluster import KMeans

    rows = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
    if vectors.shape[1] == 1:
        return torch.zeros(len(rows), dtype=torch.long)
    first = torch.from_numpy(qr(rows.T.numpy(), mode="r", pivoting=True)[1][: rows.shape[1]]).long()
    means = KMeans(len(first), init=rows[first].numpy(), n_init=1, max_iter=STEPS)
    return torch.from_numpy(means.fit(rows.numpy()).labels_).long()


def by_size(group: Tensor) -> Tensor:
    """The groups numbered anew: the largest is 0, and of equal ones that which comes first."""
    found, size = group.unique(return_counts=True)
    first = torch.stack([(group == g).nonzero()[0, 0] for g in found])
    order = sorted(range(len(found)), key=lambda g: (-int(size[g]), int(first[g])))
    rank = torch.empty(int(found.max()) + 1, dtype=torch.long)
    rank[found[order]] = torch.arange(len(found))
    return rank[group]


def conductance(edges: Tensor, inside: Tensor) -> Tensor:
    """The edges that leave a group, as a share of the edge ends in it or outside it, whichever are fewer; 0 for all."""
    degree = edges.sum(1)
    least = torch.minimum(degree[inside].sum(), degree[~inside].sum())
    return torch.where(least > 0, edges[inside][:, ~inside].sum() / least.clamp(min=1), torch.zeros_like(least))


def upright(vectors: Tensor) -> Tensor:
    """Two columns, each with the sign that makes its largest entry positive; a missing one is zero."""
    if vectors.shape[1] < 2:
        vectors = torch.cat([vectors, torch.zeros(len(vectors), 2 - vectors.shape[1], dtype=vectors.dtype)], 1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)


def tsne(points: Tensor) -> Tensor:
    """Places in the plane by t-SNE, which starts at the two principal components, so that nothing is drawn."""
    from sklearn.manifold import TSNE

    centred = points - points.mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    start = upright((left * sizes)[:, :2])
    start = 1e-4 * start / start[:, 0].std().clamp(min=1e-300)
    few = len(points) < 500
    plane = TSNE(
        perplexity=min(30.0, (len(points) - 1) / 3),
        init=start.numpy(),
        learning_rate="auto",
        method="exact" if few else "barnes_hut",
        random_state=0,
    )
    return torch.from_numpy(plane.fit_transform(centred.numpy())).double()
