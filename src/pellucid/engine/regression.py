"""Weighted least squares for many answers to the same questions: slopes, their standard errors, how well it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fit:
    """`intercept` (rows,), `slopes` (rows, columns) and their standard `error`; `r2` is weighted."""

    intercept: Tensor
    slopes: Tensor
    error: Tensor
    r2: Tensor


def weighted(design: Tensor, weights: Tensor, answers: Tensor, ridge: float = 0.0) -> Fit:
    """For each row of `answers` (rows, n) the minimiser of Σ w (y - b₀ - zb)² + ridge |b|², in float64.

    `design` is (n, columns) for all rows or (rows, n, columns), `weights` (n,) or (rows, n). The standard error is the
    sandwich's, which holds whatever the residuals' spread, with n / (n - p) for the p coefficients spent. Columns that
    the questions can't tell apart share their effect, and a column that never changes gets zero (least norm).
    """
    y, z = answers.double(), design.double()
    share = weights.double() / weights.double().sum(-1, keepdim=True)
    middle, mean = (share[..., None, :] @ z)[..., 0, :], (share * y).sum(-1)
    z = z - middle[..., None, :]
    heavy = share[..., None] * z
    gram = z.mT @ heavy
    # The penalty belongs to the sum over questions, and the weights were divided by theirs.
    penalty = ridge / weights.double().sum(-1)[..., None, None] * torch.eye(z.shape[-1], dtype=torch.float64)
    hat = torch.linalg.pinv(gram + penalty, hermitian=True) @ heavy.mT  # what each answer adds to each slope
    slopes = _times(hat, y)
    residual = y - mean[:, None] - _times(z, slopes)
    asked, spent = (share > 0).sum(-1), torch.linalg.matrix_rank(gram, hermitian=True) + 1
    correction = asked / (asked - spent).clamp(min=1)
    error = (_times(hat**2, residual**2) * correction.reshape(-1, 1)).sqrt()
    intercept = mean - (slopes * middle).sum(-1)
    return Fit(intercept, slopes, error, explained(y, mean, residual, share))


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """One matrix, or one for each row, times each row of `vectors`."""
    return (matrix @ vectors[..., None])[..., 0] if matrix.dim() == 3 else vectors @ matrix.mT


def explained(y: Tensor, mean: Tensor, residual: Tensor, share: Tensor) -> Tensor:
    """The weighted share of the spread that the fit explains; 1 where there is no spread and none is claimed."""
    left, spread = (share * residual**2).sum(-1), (share * (y - mean[:, None]) ** 2).sum(-1)
    rounding = 64 * torch.finfo(torch.float64).eps ** 2 * (share * y**2).sum(-1)
    flat = spread <= rounding
    return torch.where(flat, (left <= rounding).double(), 1 - left / spread.where(~flat, torch.ones_like(spread)))


def lasso_order(design: Tensor, weights: Tensor, answers: Tensor, count: int) -> Tensor:
    """The columns, at most `count`, that the weighted lasso keeps last on its path of one row's `answers` (n,)."""
    from sklearn.linear_model import lars_path

    share = weights.double() / weights.double().sum()
    z, y = design.double(), answers.double()
    root = share.sqrt()
    z, y = root[:, None] * (z - share @ z), root * (y - share @ y)
    _, _, path = lars_path(z.cpu().numpy(), y.cpu().numpy(), method="lasso")
    for step in reversed(range(path.shape[1])):
        kept = torch.from_numpy(path[:, step]).nonzero()[:, 0]
        if len(kept) <= count:
            return kept
    return torch.zeros(0, dtype=torch.long)
