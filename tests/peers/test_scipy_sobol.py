"""Sobol' indices against scipy's, on the same function and box."""

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import SobolIndices


def test_first_and_total_agree_within_both_errors():
    stats = pytest.importorskip("scipy.stats")
    low, high = -np.pi, np.pi

    def ishigami(x):
        return np.sin(x[0]) + 7 * np.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * np.sin(x[0])

    theirs = stats.sobol_indices(
        func=ishigami,
        n=4096,
        dists=[stats.uniform(loc=low, scale=high - low)] * 3,
        rng=np.random.default_rng(0),
    )
    box = torch.tensor([[low] * 3, [high] * 3], dtype=torch.float64)
    method = SobolIndices(distribution="uniform", points=8192)
    got = px.explain(lambda x: ishigami(x.numpy().T)[:, None], box, method, data=box)
    np.testing.assert_allclose(got.parts["first"][0].numpy(), theirs.first_order, atol=0.03)
    np.testing.assert_allclose(got.values[0].numpy(), theirs.total_order, atol=0.03)
