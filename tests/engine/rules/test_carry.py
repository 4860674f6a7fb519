"""What later tables need from the engine: two runs side by side, cotangents in parts, products, labels under shifts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine import rules
from pellucid.engine.rules.operations import CURVED, LINEAR, ROUTING, rectified


def score(output):
    return output.flatten(1)[:, 0]


def rescale_table():
    """DeepLIFT's rescale rule for elementwise operations: change of output over change of input."""

    def apply(op, grads):
        (i,) = op.edges
        dx, dy = op.leaves[i] - op.twin.leaves[i], op.outs[0] - op.twin.outs[0]
        near = dx.abs() < 1e-10
        return {i: torch.where(near, op.vjp(grads, [i])[i], grads[0] * dy / dx.masked_fill(near, 1))}

    def halfway(op, grads):
        mean = [
            (x + y) / 2 if i in op.edges else x for i, (x, y) in enumerate(zip(op.leaves, op.twin.leaves, strict=True))
        ]
        return op.vjp(grads, list(op.edges), mean)

    rule, product = rules.Rule("rescale", apply), rules.Rule("product", halfway)
    table = dict.fromkeys(ROUTING | LINEAR, rules.own) | dict.fromkeys(CURVED, rule)
    table |= dict.fromkeys(("mul", "mm", "bmm", "addmm"), product) | {"native_batch_norm": rules.own}
    return rules.Table("rescale", table, choose=lambda op: rule if rectified(op) is not None else None)


def rescale(model, x, baseline):
    trace, other = (rules.Trace(model, z, score=score) for z in (x, baseline))
    rules.pair(trace, other)
    seed = ((trace.score.grad_fn, 0), torch.ones_like(trace.score))
    (values,) = rules.walk(trace, [seed], trace.edges, rescale_table()).values
    return (values * (x - baseline)).flatten(1).sum(1), (trace.score - other.score).detach()


class NoPool(nn.Module):
    """Max pooling chooses between inputs and needs a rule of its own; leave it out here."""

    def __init__(self, relu):
        super().__init__()
        self.body = Spelt(relu)
        self.body.pool = nn.AvgPool2d(2)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("spelling", ["module", "inplace-module", "clamp_", "mask-product", "where", "view-in-place"])
def test_two_runs_side_by_side_conserve_the_difference(spelling):
    attributed, change = rescale(NoPool(SPELLINGS[spelling]), image(3), image(3, seed=5))
    assert torch.allclose(attributed, change, rtol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "gru", "cells"])
def test_two_runs_of_recurrent_nets_conserve_the_difference(name):
    attributed, change = rescale(sequence.FLOAT[name](), sequence.sentences(), sequence.sentences(seed=9))
    assert torch.allclose(attributed, change, rtol=1e-8)


def test_runs_that_part_ways_are_refused():
    class Branch(nn.Module):
        def forward(self, x):
            return x.tanh() if x.sum() > 0 else x.sigmoid()

    x = image(1, 1, 2)
    one, other = rules.Trace(Branch(), x.abs(), score=score), rules.Trace(Branch(), -x.abs(), score=score)
    with pytest.raises(UnsupportedOperation, match=r"part ways.*aten\.tanh.*against.*aten\.sigmoid"):
        rules.pair(one, other)


def parts_table(split, merge):
    return rules.Table(
        "parts",
        {
            "relu": rules.Rule("split", split),
            "addmm": rules.Rule("merge", merge, parts=True),
            **dict.fromkeys(("view", "_unsafe_view", "add", "clone", "select"), rules.own),
        },
    )


def test_a_cotangent_in_parts_passes_linear_operations_and_is_merged_by_a_rule():
    """ReLU emits two multipliers; reshaping and a residual addition in between treat each part alike."""
    seen = []

    def split(op, grads):
        return {0: rules.Parts(grads[0] * (op.outs[0] > 0), 2 * grads[0])}

    def merge(op, grads):
        (g,) = grads
        if isinstance(g, rules.Parts):
            seen.append([part.shape for part in g.parts])
            g = g.parts[0] + g.parts[1]
        return op.vjp([g], [1])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.first(x).view(-1, 2, 2)
            return self.last(torch.relu(y).view(-1, 4) + y.view(-1, 4))

    model, x = stock.settle(Net()), image(3, 1, 2).flatten(1)
    got = rules.backward(model, x, score, parts_table(split, merge), model=model).values[0]
    y = model.first(x)
    g = model.last.weight[0].expand(3, -1)
    want = ((g * (y > 0) + g) + (2 * g + g)) @ model.first.weight
    assert torch.allclose(got, want, rtol=1e-12)
    assert seen == [[(3, 4), (3, 4)]]


def test_parts_that_meet_a_rule_without_parts_are_refused():
    table = rules.Table(
        "parts",
        {"relu": rules.Rule("split", lambda op, g: {0: rules.Parts(g[0], g[0])}),
         "tanh": rules.Rule("plain", lambda op, g: {0: g[0]}), "select": rules.own, "view": rules.own},
    )  # fmt: skip
    with pytest.raises(UnsupportedOperation, match="'plain' cannot take a cotangent in parts"):
        rules.backward(nn.Sequential(nn.Tanh(), nn.ReLU()), image(2, 1, 2).flatten(1), score, table)


def test_parts_that_arrive_unmerged_are_refused():
    table = rules.Table(
        "parts", {"relu": rules.Rule("split", lambda op, g: {0: rules.Parts(g[0], g[0])}), "select": rules.own}
    )
    with pytest.raises(UnsupportedOperation, match="unmerged"):
        rules.backward(nn.ReLU(), image(2, 1, 2).flatten(1), lambda o: o[:, 0], table)


# --- pitfalls ---


def labels(model, x):
    trace = rules.Trace(model, x, score=score)
    rules.walk(trace, [((trace.score.grad_fn, 0), torch.ones_like(trace.score))], trace.edges, rules.gradient())
    return [op.name for op in trace.ops if op.edges]


class Shifts(nn.Module):
    """In-place operations that keep their old input make the node first and a labelled clone after it."""

    def forward(self, x):
        y = x * 2
        y.mul_(y.detach() + 1)
        y.clamp_(min=-1.0)
        view = y[:, 0]
        view.mul_(3.0)
        view.clamp_(min=0.0)
        z = y + x
        z[:, 1].relu_()
        return z.exp()


def test_labels_survive_in_place_shifts():
    x = image(2, 2, 3)
    names = labels(Shifts(), x)
    assert [n for n in names if n in ("mul", "clamp", "add", "relu", "exp")] == [
        "mul", "mul", "clamp", "mul", "clamp", "add", "relu", "exp",
    ]  # fmt: skip
    leaf = x.clone().requires_grad_()
    want = torch.autograd.grad(score(Shifts()(leaf)).sum(), leaf)[0]
    got = rules.backward(Shifts(), x, score, rules.gradient()).values[0]
    assert torch.allclose(got, want, rtol=1e-13, atol=0)


def test_an_unlabelled_in_place_clamp_is_not_passed_in_guided_mode():
    class Clamped(nn.Module):
        def forward(self, x):
            y = x * torch.tensor([1.0, -1.0], dtype=x.dtype)
            y[:, 1].clamp_(min=0)
            return (y * torch.tensor([1.0, -2.0], dtype=x.dtype)).sum(1, keepdim=True)

    x = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert rules.backward(Clamped(), x, score, rules.gradient()).values[0].tolist() == [[1.0, 2.0]]
    assert rules.backward(Clamped(), x, score, rules.guided()).values[0].tolist() == [[1.0, 0.0]]


def test_operations_without_a_node_do_not_take_a_label():
    class Stale(nn.Module):
        def forward(self, x):
            y = x.tanh()
            y.detach().relu()
            _ = y > 0, y.argmax(1), y.round().detach(), torch.ones(2).relu()
            return y.relu()

    assert labels(Stale(), image(2, 1, 2)) == ["tanh", "relu", "view", "select"]


def test_recorded_values_are_kept_from_later_writes():
    class Overwrites(nn.Module):
        def forward(self, x):
            y = x * 2
            z = y + 1
            y.fill_(7.0)
            z.view(-1)[0] = 5.0
            return z * x

    trace = rules.Trace(Overwrites(), image(2, 1, 2), score=score)
    by_name = {}
    for op in trace.ops:
        by_name.setdefault(op.name, op)
    x = image(2, 1, 2)
    assert torch.equal(by_name["mul"].outs[0], x * 2)
    assert torch.equal(by_name["add"].leaves[0], x * 2)
    assert torch.equal(by_name["add"].outs[0], x * 2 + 1)


def test_infinite_masks_give_no_nan():
    class Masked(nn.Module):
        def forward(self, x):
            mask = torch.full_like(x, -torch.inf).triu(1)
            return ((x + mask).softmax(-1) @ x).flatten(1)

    x = image(2, 1, 3)
    for table in (rules.gradient(), rules.guided(), rules.epsilon_lrp()):
        assert rules.backward(Masked(), x, score, table).values[0].isfinite().all()


def test_half_of_the_sum_with_its_magnitude_is_no_rectifier():
    """(x + |x|) / 2 has no comparison to see: plain gradient, as documented."""
    x = image()
    model = Spelt(lambda z: (z + z.abs()) / 2)
    guided, plain = (
        rules.backward(model, x, score, t, model=model).values[0] for t in (rules.guided(), rules.gradient())
    )
    assert torch.equal(guided, plain)


def test_weight_gradients_are_not_computed():
    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                asked.append(args[-1])
            if func is torch.ops.aten.mm.default:
                products.append(args)
            return func(*args, **(kwargs or {}))

    asked, products = [], []
    with Spy():
        rules.backward(stock.small_vgg(), image(1, 3, 16), score, rules.gradient())
    assert asked == [[True, False, False]] * 4
    assert len(products) == 3  # one for each linear layer


def test_long_recurrences():
    model, x = sequence.FLOAT["rnn"](), image(1, 1, 1).expand(1, 1, 800, sequence.WIDTH)[0]
    got = rules.backward(model, x, score, rules.epsilon_lrp(), model=model)
    assert got.values[0].isfinite().all()
