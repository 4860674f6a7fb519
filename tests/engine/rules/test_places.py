"""Layers: stop at a hidden place, start at one, stop the forward pass there."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from nets import sequence, stock
from nets.spellings import image
from pellucid.contract.errors import InputError, LayerError, NeedError
from pellucid.engine import rules


def score(output):
    return output[:, 1]


def hooked(model, name, run):
    """Value and gradient at a module's output or input by autograd and hooks."""
    seen = []
    module = model.get_submodule(name.removesuffix(":in"))
    if name.endswith(":in"):
        handle = module.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    else:
        handle = module.register_forward_hook(lambda m, given, out: seen.append(out))
    output = score(run()).sum()
    handle.remove()
    return seen[0].detach(), torch.autograd.grad(output, seen[0])[0]


@pytest.mark.parametrize(
    "name", ["layer4.0.conv2", "layer4.0.conv2:in", "maxpool", "layer2", "layer3.0.bn1", "fc:in", "fc"]
)
def test_stop_at_a_place(name):
    model, x = stock.small_resnet(), image(2, 3, 16)
    found = rules.backward(model, x, score, rules.gradient(), at=name, model=model)
    value, want = hooked(model, name, lambda: model(x))
    assert torch.equal(found.points[0], value)
    assert (found.values[0] - want).abs().max() <= 1e-12 * want.abs().max()


def test_several_places_at_once_and_the_input_behind_them():
    model, x = stock.small_resnet("inplace"), image(2, 3, 16)
    names = ["layer1", "layer3", "bn1"]
    found = rules.backward(model, x, score, rules.gradient(), at=names, model=model)
    for name, got in zip(names, found.values, strict=True):
        alone = rules.backward(model, x, score, rules.gradient(), at=name, model=model).values[0]
        assert torch.allclose(got, alone, rtol=1e-13, atol=0)


def test_value_before_an_in_place_write_survives():
    model = stock.settle(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2)))
    x = image()
    found = rules.backward(model, x, score, rules.gradient(), at="0", model=model)
    assert torch.equal(found.points[0], model[0](x))
    assert found.points[0].min() < 0


def test_calls_of_a_reused_module():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.relu = nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU()

        def forward(self, x):
            return self.last(self.relu(self.first(self.relu(self.first(x)))))

    model, x = stock.settle(Reused()), image(3, 1, 2).flatten(1)
    found = rules.backward(model, x, score, rules.gradient(), at=["relu#1", "relu#2", "relu#2:in"], model=model)
    a = model.relu(model.first(x))
    b = model.relu(model.first(a))
    grad_b = model.last.weight[1].expand(3, -1)
    assert torch.equal(found.points[0], a)
    assert torch.equal(found.points[1], b)
    assert torch.allclose(found.values[1], grad_b)
    assert torch.allclose(found.values[2], grad_b * (b > 0))
    assert torch.allclose(found.values[0], (grad_b * (b > 0)) @ model.first.weight)
    with pytest.raises(LayerError, match=r"more than once.*'relu#1' to 'relu#2'"):
        rules.backward(model, x, score, rules.gradient(), at="relu", model=model)
    with pytest.raises(LayerError, match="never reached"):
        rules.backward(model, x, score, rules.gradient(), at="relu#3", model=model)


def test_start_at_a_place():
    model, x = stock.small_resnet(), image(2, 3, 16)
    unit = lambda value: value[:, 2].mean((1, 2))  # noqa: E731
    found = rules.backward(model, x, unit, rules.gradient(), start="layer2", model=model)
    leaf = x.clone().requires_grad_()
    part = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(leaf))))))
    want = torch.autograd.grad(unit(part).sum(), leaf)[0]
    assert (found.values[0] - want).abs().max() <= 1e-12 * want.abs().max()
    between = rules.backward(model, x, unit, rules.gradient(), at="layer1", start="layer2", model=model).values[0]
    assert between.abs().max() > 0
    relevance = rules.backward(model, x, unit, rules.epsilon_lrp(), at="layer1", start="layer2", model=model)
    assert abs(relevance.ledger.gap) <= 1e-9 * abs(relevance.ledger.seeded)


def test_a_place_behind_the_start_gets_nothing():
    model, x = stock.small_resnet(), image(1, 3, 16)
    with pytest.raises(NeedError, match="Nothing arrives"):
        rules.backward(
            model, x, lambda v: v.mean((1, 2, 3)), rules.gradient(), at="layer3", start="layer2", model=model
        )


def test_the_forward_stops_after_the_last_place():
    model, x = stock.small_resnet(), image(1, 3, 16)
    calls = []
    handle = model.layer4.register_forward_hook(lambda *_: calls.append(1))
    trace = rules.Trace(model, x, places=["layer1", "layer2:in"], stop=True)
    handle.remove()
    assert trace.output is None
    assert not calls
    assert torch.equal(trace.places["layer1"].value, trace.places["layer2:in"].value)


@pytest.mark.parametrize("name", ["rnn", "attention"])
def test_a_tuple_stands_for_its_first_tensor(name):
    model = sequence.FLOAT[{"rnn": "lstm", "attention": "attention"}[name]]()
    x = sequence.sentences()
    found = rules.backward(model, x, score, rules.gradient(), at=name, model=model)
    out = getattr(model, name)(*((x,) if name == "rnn" else (x, x, x)))[0]
    assert torch.allclose(found.points[0], out, rtol=1e-12)


def test_parts_of_a_tuple_are_counted():
    model, x = sequence.FLOAT["lstm"](), sequence.sentences()
    out, (hidden, cell) = model.rnn(x)
    for k, want in enumerate((out, hidden, cell)):
        trace = rules.Trace(model, x, places=[f"rnn:out[{k}]"])
        assert torch.allclose(trace.places[f"rnn:out[{k}]"].value, want, rtol=1e-12)
    with pytest.raises(LayerError, match="never reached"):
        rules.Trace(model, x, places=["rnn:out[3]"])


def test_unknown_places_list_the_nearest():
    model, x = stock.small_resnet(), image(1, 3, 16)
    with pytest.raises(LayerError, match=r"no module named 'layer4.0.conv9'.*layer4.0.conv"):
        rules.backward(model, x, score, rules.gradient(), at="layer4.0.conv9", model=model)
    with pytest.raises(LayerError, match="A place is a module's name"):
        rules.backward(model, x, score, rules.gradient(), at="relu#x", model=model)
    with pytest.raises(InputError, match="Places need the model"):
        rules.backward(model, x, score, rules.gradient(), at="relu")


def test_the_callers_profile_function_comes_back():
    def mine(*_):
        return None

    model, x = stock.small_resnet(), image(1, 3, 16)
    before = sys.getprofile()
    sys.setprofile(mine)
    try:
        rules.backward(model, x, score, rules.gradient(), at="layer1", model=model)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(before)


def test_inputs_without_gradient_say_where_to_stop():
    model = stock.settle(sequence.Tokens())
    with pytest.raises(NeedError, match=r"layer='embedding'.*at='embedding'"):
        rules.backward(model, sequence.token_ids(), score, rules.gradient(), model=model)


def test_a_place_that_is_one_of_several_outputs_of_its_operation():
    class Second(nn.Module):
        def forward(self, x):
            return x.chunk(2, 1)[1]

    model, x = nn.Sequential(nn.Tanh(), Second(), nn.Sigmoid()), image(2, 1, 2).flatten(1)
    found = rules.backward(model, x, score, rules.gradient(), at="1", model=model)
    y = found.points[0].sigmoid()
    want = y * (1 - y) * torch.tensor([0.0, 1.0])
    assert torch.allclose(found.values[0], want, rtol=1e-12)
