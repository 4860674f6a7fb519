"""Captum's infidelity and ours, on the same network, explanation and changes."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.evaluation import Infidelity

metrics = pytest.importorskip("captum.metrics")


@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity_over_every_square(scaled):
    """The 2 × 2 squares of a 4 × 5 image go to 0.25; slopes, so that Captum's I · φ is ours."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator).double() / 3
    x = torch.randn(1, 1, 4, 5, generator=generator).double()
    slopes = px.explain(net, x, "vanilla-gradient", target=1).values
    masks = torch.zeros(12, 1, 4, 5, dtype=torch.bool)
    for number in range(12):
        top, left = divmod(number, 4)
        masks[number, :, top : top + 2, left : left + 2] = True

    def squares(inputs):
        return (inputs - 0.25) * masks, torch.where(masks, 0.25, inputs)

    theirs = metrics.infidelity(
        net, squares, x, slopes, target=1, n_perturb_samples=12, max_examples_per_batch=12, normalize=scaled
    )
    method = Infidelity(of="vanilla-gradient", reading="slope", change="square", side=2, baseline=0.25, scaled=scaled)
    ours = px.explain(net, x, method, target=1)
    assert torch.allclose(ours.values, theirs, atol=1e-12)
