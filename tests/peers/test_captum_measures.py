"""Captum's infidelity and ours, on the same network, explanation and changes."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.evaluation import Infidelity, MaxSensitivity

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


def test_max_sensitivity_at_the_same_points():
    """Captum gives the change as a share of the values' norm; it is asked about the points that ours drew."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    x = torch.randn(1, 6, generator=generator).double()
    seen = []

    def call(model, value):
        seen.append(value.detach().clone())
        return model(value)

    method = MaxSensitivity(of="vanilla-gradient", relative=True, radius=0.3, samples=7)
    ours = px.explain(px.Subject(net, call=call), x, method, target=1)
    drawn = next(v for v in seen if len(v) == 7)
    assert ((drawn - x).norm(dim=1) <= 0.3).all()

    def gradient(inputs):
        with torch.enable_grad():
            value = inputs[0].detach().requires_grad_()
            return (torch.autograd.grad(net(value)[:, 1].sum(), value)[0],)

    theirs = metrics.sensitivity_max(gradient, x, perturb_func=lambda inputs: (drawn,), n_perturb_samples=7)
    assert torch.allclose(ours.values, theirs, atol=1e-12)
