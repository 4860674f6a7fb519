"""A snapshot sees each thing that a call could leave behind, and nothing where nothing was done."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as global_hooks

import pellucid as px
from pellucid.testing import Snapshot, fixtures


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def set_value(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6  # type: ignore[index]


def set_buffer(model: nn.Module, x: torch.Tensor) -> None:
    model[1].running_mean += 1e-6  # type: ignore[index]


def set_gradient(model: nn.Module, x: torch.Tensor) -> None:
    model[0].weight.grad = torch.zeros(4, 3)  # type: ignore[index]


def hook(model: nn.Module, kind: str) -> None:
    getattr(model[2], f"register_{kind}")(lambda *args: None)  # type: ignore[index]


def swap_parameter(model: nn.Module, x: torch.Tensor) -> None:
    model[3].bias = nn.Parameter(model[3].bias.detach().clone())  # type: ignore[index]


def write_and_undo(model: nn.Module, x: torch.Tensor) -> None:
    x += 0.0


CHANGES: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "0.weight: values": set_value,
    "1.running_mean: values": set_buffer,
    "0.weight: grad": set_gradient,
    "0.weight: requires_grad": lambda model, x: model[0].weight.requires_grad_(False),
    "0.weight: tensor hooks": lambda model, x: model[0].weight.register_hook(lambda g: g),
    "3.bias: identity": swap_parameter,
    "2: training": lambda model, x: model[2].train(),
    "2: attributes": lambda model, x: setattr(model[2], "kept", x),
    "2: inplace": lambda model, x: setattr(model[2], "inplace", True),
    "2: _forward_hooks": lambda model, x: hook(model, "forward_hook"),
    "2: _forward_pre_hooks": lambda model, x: hook(model, "forward_pre_hook"),
    "2: _backward_hooks": lambda model, x: hook(model, "full_backward_hook"),
    "2: _backward_pre_hooks": lambda model, x: hook(model, "full_backward_pre_hook"),
    "the input: values": lambda model, x: x.add_(1e-6),
    "the input: version": write_and_undo,
    "the input: requires_grad": lambda model, x: x.requires_grad_(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_of_model_or_input_is_seen(name: str) -> None:
    model, x = net(), torch.ones(2, 3)
    before = Snapshot.of(model, x)
    assert before == Snapshot.of(model, x)
    CHANGES[name](model, x)
    after = Snapshot.of(model, x)
    assert before != after
    assert name in [what for what, _, _ in before.changes(after)]
    assert name in before.difference(after)


PROCESS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "Python's generator": (random.random, lambda: None),
    "NumPy's generator": (np.random.rand, lambda: None),
    "PyTorch's generator": (lambda: torch.rand(1), lambda: None),
    "the default type": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
    "gradients enabled": (lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True)),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "cuDNN's switches": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: setattr(torch.backends.cudnn, "benchmark", False),
    ),
    "global global_forward_hooks": (
        lambda: global_hooks.register_module_forward_hook(lambda *args: None),
        lambda: global_hooks._global_forward_hooks.clear(),
    ),
}


@pytest.mark.parametrize("name", PROCESS)
def test_change_of_the_process_is_seen(name: str) -> None:
    change, undo = PROCESS[name]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before = Snapshot.of(None)
    try:
        change()
        found = [what for what, _, _ in before.changes(Snapshot.of(None))]
    finally:
        undo()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    assert found == [name]
    assert before == Snapshot.of(None)


def test_threads_are_seen() -> None:
    before, count = Snapshot.of(None), torch.get_num_threads()
    try:
        torch.set_num_threads(count + 1)
        assert [what for what, _, _ in before.changes(Snapshot.of(None))] == ["number of threads"]
    finally:
        torch.set_num_threads(count)


def test_structures_and_subjects_are_looked_into() -> None:
    model, parts = net(), {"a": torch.ones(1), "b": (torch.ones(2), None)}
    before = Snapshot.of(px.Subject(model), parts)
    parts["b"][0][1] = 2.0
    model.train()
    names = [what for what, _, _ in before.changes(Snapshot.of(px.Subject(model), parts))]
    assert "the model: training" in names
    assert "the input['b'][0]: values" in names


@pytest.mark.parametrize("fixture", fixtures(), ids=lambda f: f.name)
def test_making_a_fixture_leaves_the_generators_alone(fixture: Any) -> None:
    before = Snapshot.of(None)
    first, second = fixture.model(), fixture.model()
    assert before == Snapshot.of(None)
    weights = [list(getattr(m, "model", m).state_dict().values()) for m in (first, second)]
    assert all(map(torch.equal, *weights)), "the weights are the same each time"
    rows, again = fixture.inputs(3, torch.float32), fixture.inputs(5, torch.float32)
    for a, b in zip(px.contract.tensors(rows), px.contract.tensors(again), strict=True):
        assert torch.equal(a, b[:3]), "more rows begin with the same ones"
