"""Captum's convergence delta and our gap, of the same integrated gradients."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import IntegratedGradients
from pellucid.evaluation import Completeness

attr = pytest.importorskip("captum.attr")


@pytest.mark.parametrize("steps", [3, 10])
def test_gap_is_the_size_of_the_convergence_delta(steps):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    x = torch.randn(5, 1, 2, 3, generator=generator).double()
    theirs, delta = attr.IntegratedGradients(net).attribute(
        x, torch.full_like(x, 0.5), target=1, n_steps=steps, method="riemann_left", return_convergence_delta=True
    )
    of = IntegratedGradients(baseline=0.5, rule="left", steps=steps)
    assert torch.allclose(px.explain(net, x, of, target=1).values, theirs, atol=1e-10)
    ours = px.explain(net, x, Completeness(of=of, steps=(steps,)), target=1)
    assert delta.abs().min() > 1e-6
    assert torch.allclose(ours.facts["gap"], delta.abs(), atol=1e-10)
    assert torch.allclose(ours.parts["curve"][:, 0], delta.abs(), atol=1e-10)
