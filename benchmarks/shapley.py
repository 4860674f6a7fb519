"""Shapley values of a table: shap's ways against Pellucid, at as many forwards.

Sampled values can't agree to rounding, so each way is held against the exact values, and both errors are told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pellucid as px
from benchmarks.timing import Row, compare
from pellucid.attribution import KernelShap, ShapleySampling, ShapleyValue

COLUMNS, BACKGROUND, ROWS = 12, 100, 4
EVALUATIONS = (250, 1009)


def run() -> list[Row]:
    """A small network on twelve columns with a hundred background rows; the limit is its plain forwards."""
    import shap

    model, rows, background = _problem()

    def scores(table: Any) -> Any:
        with torch.inference_mode():
            return model(torch.as_tensor(np.asarray(table), dtype=torch.float32))[:, 0].numpy()

    def ours(method: Any) -> Callable[[], Tensor]:
        return lambda: px.explain(model, rows, method, data=background).values

    masker = shap.maskers.Independent(background.numpy(), max_samples=BACKGROUND)
    exact = shap.explainers.Exact(scores, masker)
    walks, kernel = shap.explainers.Permutation(scores, masker), shap.KernelExplainer(scores, background.numpy())

    def all_of_them() -> Tensor:
        return torch.as_tensor(exact(rows.numpy(), silent=True).values).float()

    limit = _forwards(model, 2**COLUMNS * BACKGROUND * ROWS)
    found = [compare("exact, shap", ours(ShapleyValue()), all_of_them, within=1e-4, limit=limit, repeats=5)]
    truth = ours(ShapleyValue())()
    for count in EVALUATIONS:
        limit = _forwards(model, count * BACKGROUND * ROWS)

        def permuted(count: int = count) -> Tensor:
            return torch.as_tensor(walks(rows.numpy(), max_evals=count, silent=True).values).float()

        def fitted(count: int = count) -> Tensor:
            values = kernel.shap_values(rows.numpy(), nsamples=count, silent=True, l1_reg=False)
            return torch.as_tensor(values).float().reshape(ROWS, COLUMNS)

        for name, method, other in (
            ("walks", ShapleySampling(walks=count * BACKGROUND // (COLUMNS - 1)), permuted),
            ("kernel", KernelShap(samples=count - 2 * COLUMNS), fitted),
        ):
            share = _error(ours(method)(), truth) / _error(other(), truth)
            task = f"{name}, {count} coalitions, error {share:.2f} of shap's"
            found.append(compare(task, ours(method), other, within=0.5, limit=limit, repeats=5))
    return found


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    layers = (nn.Linear(COLUMNS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)  # far from linear
    return model, torch.randn(ROWS, COLUMNS), torch.randn(BACKGROUND, COLUMNS)


def _forwards(model: nn.Module, count: int) -> Callable[[], None]:
    x = torch.randn(4096, COLUMNS)

    def limit() -> None:
        with torch.inference_mode():
            for _ in range(-(-count // 4096)):
                model(x)

    return limit


def _error(values: Tensor, truth: Tensor) -> float:
    return float((values - truth).square().mean().sqrt())
