"""Ranks and what is made of them: rank correlation, and who stands where."""

from __future__ import annotations

import torch
from torch import Tensor

__all__: list[str] = []


def ranks(x: Tensor) -> Tensor:
    """The rank of each entry in its row, from 1; equal entries share the mean of theirs."""
    ordered = x.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, x.contiguous(), side="left")
    upto = torch.searchsorted(ordered, x.contiguous(), side="right")
    return (below + upto + 1).double() / 2


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """The correlation of the rows of (rows, n) tensors; NaN where all entries of either are equal."""
    a, b = unit(first), unit(second)
    return (a * b).sum(1).clamp(-1, 1)


def unit(x: Tensor) -> Tensor:
    """Each row centred and of length 1, so that products of rows are correlations; NaN where all entries are equal."""
    centred = x - x.mean(1, keepdim=True)
    size = centred.square().sum(1, keepdim=True).sqrt()
    return torch.where(size > 0, centred / size, torch.nan)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's: the correlation of ranks."""
    return pearson(ranks(first), ranks(second))


def placed(values: Tensor, better: str) -> Tensor:
    """1 for the best of (n,) values, ties sharing their mean rank; NaN where there is no figure or no better side."""
    found = torch.full(values.shape, torch.nan, dtype=torch.float64)
    known = values.isfinite()
    if better in ("higher", "lower") and bool(known.any()):
        signed = values if better == "lower" else -values
        found[known] = ranks(signed[known][None])[0]
    return found


def spearman_matrix(columns: Tensor) -> Tensor:
    """Spearman's correlation of every two columns of (n, columns), over the entries that both have; NaN under three."""
    count = columns.shape[1]
    found = torch.full((count, count), torch.nan, dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1):
            both = columns[:, i].isfinite() & columns[:, j].isfinite()
            if int(both.sum()) > 2:
                found[i, j] = found[j, i] = rank_correlation(columns[both, i][None], columns[both, j][None])[0]
    return found
