"""Any model, any caller, no trace left: modes, threads, in-place writes, branches, frozen parameters, errors."""

from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.contract.errors import UnsupportedOperation
from pellucid.engine import rules

TABLES = [rules.gradient(), rules.guided(), rules.epsilon_lrp()]


def score(output):
    return output.flatten(1)[:, 0]


def run(model, x, table, **options):
    return rules.backward(model, x, score, table, model=model, **options).values[0]


def autograd(model, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(score(model(leaf)).sum(), leaf)[0]


def snapshot(model, x):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [(p.requires_grad, None if p.grad is None else p.grad.clone(), p._version) for p in model.parameters()],
        [[list(getattr(m, h)) for h in hooks] + [m.training, sorted(vars(m))] for m in model.modules()],
        (x.clone(), x._version, x.requires_grad, x.grad),
        (torch.get_rng_state().clone(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), sys.getprofile()),
        (_get_current_function_mode_stack(), _get_current_dispatch_mode_stack(), sys.gettrace()),
    )


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class Fails(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.layer, self.error = nn.Linear(4, 4), error

    def forward(self, x):
        self.layer(x).relu_()
        raise self.error


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_no_trace_is_left(table):
    model, x = stock.small_resnet("inplace"), image(2, 3, 16)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = snapshot(model, x)
    for at in (None, "layer2"):
        run(model, x, table, at=at)
        assert equal(before, snapshot(model, x))
    assert rules.check(model, x, table)
    assert equal(before, snapshot(model, x))


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), UnsupportedOperation("no")])
@pytest.mark.parametrize("at", [None, "layer"])
def test_no_trace_is_left_after_an_error(error, at):
    model, x = stock.settle(Fails(error)), image(2, 1, 2).flatten(1)
    before = snapshot(model, x)
    with pytest.raises(type(error)):
        run(model, x, rules.guided(), at=at)
    assert equal(before, snapshot(model, x))


def test_refusal_leaves_nothing():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Softshrink()).double(), image(2, 1, 2).flatten(1)
    before = snapshot(model, x)
    with pytest.raises(UnsupportedOperation):
        run(model, x, rules.guided())
    assert equal(before, snapshot(model, x))


def test_the_model_may_write_to_its_input():
    class Writes(nn.Module):
        def forward(self, x):
            x.clamp_(min=0)
            x[:, 0] = 0.0
            x += 1
            return x * x

    x = image()
    before = x.clone()
    got = run(Writes(), x, rules.gradient())
    assert torch.equal(x, before)
    want = 2 * (before.clamp(min=0) + 1) * (before > 0)
    want[:, 0] = 0
    want.flatten(1)[:, 1:] = 0  # the score is the first element, which was overwritten
    assert torch.equal(got, want)


def test_frozen_parameters_no_grad_and_inference_mode():
    x = image()
    for table in TABLES:
        want = run(Spelt(nn.ReLU()), x, table)
        model = Spelt(nn.ReLU()).requires_grad_(False)
        assert torch.allclose(run(model, x, table), want, rtol=1e-12, atol=1e-15)
        with torch.no_grad():
            assert torch.allclose(run(model, x, table), want, rtol=1e-12, atol=1e-15)
        with torch.inference_mode():
            got = run(model, x + 0, table)
            assert torch.allclose(got, want, rtol=1e-12, atol=1e-15)
        assert all(not p.requires_grad and p.grad is None for p in model.parameters())


def test_inputs_that_require_grad_or_come_out_of_a_graph():
    model, x = Spelt(nn.ReLU()), image().requires_grad_()
    want = run(model, image(), rules.gradient())
    assert torch.equal(run(model, x, rules.gradient()), want)
    assert torch.equal(run(model, x * 1, rules.gradient()), want)
    assert x.grad is None


def test_layouts():
    model, x = Spelt(nn.ReLU()), image()
    for table in TABLES:
        want = run(model, x, table)
        for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
            assert torch.allclose(run(model, other, table), want, rtol=1e-10, atol=1e-14)
    row = image(1)
    together = run(model, row.expand(3, -1, -1, -1), rules.guided())
    assert torch.allclose(together, run(model, row, rules.guided()).expand(3, -1, -1, -1), rtol=1e-12, atol=1e-15)


def test_data_dependent_branches():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            for _ in range(1 + int(x.sum() > 0)):
                x = (self.one(x) if x.mean() > 0 else self.two(x)).relu() @ self.one.weight
            return x

    model, x = stock.settle(Branches()), image(4, 1, 2).flatten(1)
    for row in (x[:1], -x[:1], x[1:2], x[2:]):
        assert torch.allclose(run(model, row, rules.gradient()), autograd(model, row), rtol=1e-12, atol=0)
        run(model, row, rules.guided())


def test_detach_and_no_grad_inside_are_honoured():
    class Cuts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                scale = self.layer(x).relu().sum(1, keepdim=True)
            return self.layer(x).relu() * scale + self.layer(x.detach()) * x + x.data * x

    model, x = stock.settle(Cuts()), image(3, 1, 2).flatten(1)
    assert torch.allclose(run(model, x, rules.gradient()), autograd(model, x), rtol=1e-12, atol=0)
    ledger = rules.backward(model, x, score, rules.epsilon_lrp(), model=model).ledger
    assert abs(ledger.gap) <= 1e-9 * max(abs(e.amount) for e in ledger.absorbed)


def test_vmap_inside():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return torch.vmap(lambda row: torch.relu(self.layer(row)) * row)(x)

    model, x = stock.settle(Mapped()), image(3, 1, 2).flatten(1)
    assert torch.allclose(run(model, x, rules.gradient()), autograd(model, x), rtol=1e-12, atol=0)


def test_full_backward_hooks_of_the_user():
    model, x = Spelt(nn.ReLU()), image()
    want = {table.name: run(model, x, table) for table in TABLES}
    model.second.register_full_backward_hook(lambda module, given, out: None)
    for table in TABLES:
        assert torch.allclose(run(model, x, table), want[table.name], rtol=1e-12, atol=1e-15)


def test_threads_share_one_model():
    model = stock.small_resnet("mixed")
    jobs = [(image(1, 3, 16, seed), table, at) for seed in range(4) for table in TABLES for at in (None, "layer2")]
    want = [run(model, x, table, at=at) for x, table, at in jobs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda job: run(model, job[0], job[1], at=job[2]), jobs))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_memory_is_returned():
    model, x = stock.small_resnet(), image(1, 3, 16)
    gc.collect()
    gc.disable()
    try:
        trace = rules.Trace(model, x, score=score)
        rules.walk(trace, [((trace.score.grad_fn, 0), torch.ones_like(trace.score))], trace.edges, rules.epsilon_lrp())
        alive = weakref.ref(trace)
        values = weakref.ref(trace.ops[0].outs[0])
        del trace
        assert alive() is None  # no reference cycles: gone without the collector
        assert values() is None
    finally:
        gc.enable()


def test_memory_of_the_gradient_table_is_the_graphs_own():
    model, x = stock.small_vgg(), image(1, 3, 16)
    trace = rules.Trace(model, x, score=score, keep=rules.gradient().keeps)
    kept = {op.name for op in trace.ops if any(isinstance(v, torch.Tensor) for v in op.leaves)}
    assert kept <= {"convolution", "addmm"}


def test_subclasses_and_plain_callables():
    model, x = Spelt(nn.ReLU()), image()
    want = run(model, x, rules.guided())
    got = rules.backward(lambda z: {"logits": model(z)}, x, lambda o: score(o["logits"]), rules.guided(), model=model)
    assert torch.equal(got.values[0], want)
    bare = rules.backward(lambda z: model(z), x, score, rules.guided())
    assert torch.equal(bare.values[0], want)


def test_reused_relu_module_of_a_recurrent_net():
    model, x = sequence.FLOAT["rnn-relu"](), sequence.sentences()
    guided, plain = run(model, x, rules.guided()), run(model, x, rules.gradient())
    assert not torch.allclose(guided, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept(dtype):
    model, x = Spelt(SPELLINGS["clamp"]).to(dtype), image().to(dtype)
    found = rules.backward(model, x, score, rules.guided(), model=model)
    assert found.values[0].dtype == dtype
    want = run(Spelt(SPELLINGS["clamp"]).to(dtype).double(), x.double(), rules.guided())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    assert (found.values[0].double() - want).abs().max() <= tolerance * want.abs().max()


def test_autocast():
    model, x = Spelt(nn.ReLU()).float(), image().float()
    with torch.autocast("cpu", torch.bfloat16):
        got, want = run(model, x, rules.gradient()), autograd(model, x)
    assert torch.allclose(got, want, rtol=1e-2, atol=1e-2 * want.abs().max())
