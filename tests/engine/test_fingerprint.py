"""Every edit of a tensor shows in its fingerprint, also those that torch's version counters miss."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.engine import fingerprint


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (64, 33), (4, 3, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_any_single_edit_shows(shape, dtype):
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    first = fingerprint.of_tensor(x)
    assert fingerprint.of_tensor(x.clone()) == first
    for i in range(min(x.numel(), 40)):
        y = x.clone()
        y.view(-1)[i] = ~y.view(-1)[i] if dtype == torch.bool else y.view(-1)[i] + 1
        assert fingerprint.of_tensor(y) != first


def test_exchanges_show():
    x = torch.arange(400.0).view(20, 20)
    first = fingerprint.of_tensor(x)
    for y in (x[torch.randperm(20)], x[:, torch.randperm(20)], x.T, x.reshape(10, 40), x.flatten()):
        assert fingerprint.of_tensor(y) != first


def test_edits_behind_the_version_counter_change_the_models_hash():
    model = nn.Linear(300, 50).eval()
    subject = px.Subject(model)
    first, version = subject.state_hash(), model.weight._version
    model.weight.data[17, 203] += 1e-3
    assert model.weight._version == version
    assert subject.state_hash() != first
