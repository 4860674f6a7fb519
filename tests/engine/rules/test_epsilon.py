"""Relevance: conserved without biases, accounted for with them, and batch norm folded exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.engine import rules
from pellucid.engine.rules.operations import stabilised


def score(output):
    return getattr(output, "logits", output).flatten(1)[:, 1]


def run(model, x, table=None, **options):
    return rules.backward(None, x, score, table or rules.epsilon_lrp(), model=model, **options)


def closes(ledger):
    scale = max(abs(ledger.seeded), *(abs(entry.amount) for entry in ledger.absorbed), 1e-300)
    assert abs(ledger.gap) <= 1e-9 * scale


@pytest.mark.parametrize("name", stock.SMALL)
def test_the_ledger_closes_on_images(name):
    found = run(stock.SMALL[name]("mixed"), image(2, 3, stock.SIDES.get(name, 16)))
    closes(found.ledger)
    assert found.ledger.seeded == pytest.approx(float(found.score.sum()), rel=1e-12)


@pytest.mark.parametrize("name", sequence.FLOAT)
def test_the_ledger_closes_on_sequences(name):
    found = run(sequence.FLOAT[name](), sequence.sentences())
    closes(found.ledger)
    assert any(entry.operation in ("aten.addmm", "aten.add") for entry in found.ledger.absorbed)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_the_ledger_closes_on_tokens(kind):
    name = {"bert": "bert.embeddings.word_embeddings", "gpt": "transformer.wte"}[kind]
    closes(run(getattr(sequence, kind)("sdpa"), {"input_ids": sequence.token_ids()}, at=name).ledger)


def without_biases(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.zero_()
        for m in model.modules():
            if getattr(m, "running_mean", None) is not None:
                m.running_mean.zero_()
    return model


@pytest.mark.parametrize("name", ["resnet", "bottleneck", "vgg", "densenet"])
def test_conserved_without_biases(name):
    found = run(without_biases(stock.SMALL[name]("mixed")), image(2, 3, 16), rules.epsilon_lrp(1e-12))
    per_row = found.values[0].flatten(1).sum(1)
    assert torch.allclose(per_row, found.score, rtol=1e-6)
    assert all(abs(entry.amount) <= 1e-6 for entry in found.ledger.absorbed)


@pytest.mark.parametrize("name", ["lstm", "gru", "cells", "encoder", "attention"])
def test_conserved_without_biases_on_sequences(name):
    """Gates and softmax count as constant, so nothing but rounding and the stabiliser is lost."""
    found = run(without_biases(sequence.FLOAT[name]()), sequence.sentences(), rules.epsilon_lrp(1e-12))
    assert torch.allclose(found.values[0].flatten(1).sum(1), found.score, rtol=1e-6)


def test_residual_sum_made_in_forward_conserves():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.head(torch.stack([x, self.inner(x).relu()]).sum(0) + x)

    found = run(stock.settle(Residual()), image(3, 1, 2).flatten(1), rules.epsilon_lrp(1e-13))
    assert torch.allclose(found.values[0].sum(1), found.score, rtol=1e-9)


def test_by_hand():
    model = stock.settle(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    x, eps = image(3, 1, 2).flatten(1), 1e-3
    a = x @ model[0].weight.T + model[0].bias
    b = a.clamp(min=0) @ model[2].weight.T + model[2].bias
    want = torch.zeros_like(x)
    with torch.no_grad():
        for n in range(3):
            share = b[n, 1] / (b[n, 1] + eps * (1 if b[n, 1] >= 0 else -1)) * a[n].clamp(min=0) * model[2].weight[1]
            for k in range(6):
                z = a[n, k]
                want[n] += x[n] * model[0].weight[k] * share[k] / (z + eps * (1 if z >= 0 else -1))
    assert torch.allclose(run(model, x, rules.epsilon_lrp(eps)).values[0], want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_agrees(spelling):
    want = run(Spelt(nn.ReLU()), image()).values[0]
    got = run(Spelt(SPELLINGS[spelling]), image()).values[0]
    assert (got - want).abs().max() <= 1e-9 * want.abs().max()


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_folded_exactly(affine):
    norm = nn.BatchNorm2d(4, eps=0.1, affine=affine)
    model = stock.settle(nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain = nn.BatchNorm2d(4, eps=0.1).double()
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    if affine:
        plain.weight, plain.bias = norm.weight, norm.bias
    fused = nn.Sequential(nn.utils.fuse_conv_bn_eval(model[0], plain.eval()), *model[2:])
    want = run(fused, image()).values[0]
    for _ in range(2):  # what is written on the record is undone
        assert (run(model, image()).values[0] - want).abs().max() <= 1e-9 * want.abs().max()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_folding_is_undone_between_tables_on_one_trace():
    model, x = Spelt(nn.ReLU()), image()
    trace = rules.Trace(model, x, score=score)
    edge, seed = (trace.score.grad_fn, 0), torch.ones_like(trace.score)
    first = rules.walk(trace, [(edge, seed)], trace.edges, rules.epsilon_lrp()).values[0]
    plain = rules.walk(trace, [(edge, seed)], trace.edges, rules.gradient()).values[0]
    again = rules.walk(trace, [(edge, seed)], trace.edges, rules.epsilon_lrp()).values[0]
    leaf = x.clone().requires_grad_()
    assert torch.equal(first, again)
    assert torch.allclose(plain, torch.autograd.grad(score(model(leaf)).sum(), leaf)[0], rtol=1e-12, atol=0)


def test_batch_norm_with_two_readers_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).flatten(1)

    model = stock.settle(Shared())
    names = [row.rule for row in rules.check(model, image(), rules.epsilon_lrp())]
    assert not any("folded" in name for name in names)
    closes(run(model, image()).ledger)


def test_the_ledger_names_who_absorbed():
    model = stock.settle(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    found = run(model, image(2, 1, 2).flatten(1), rules.epsilon_lrp(1e-12))
    absorbed = {entry.module: entry for entry in found.ledger.absorbed if entry.kind == "bias"}
    z = found.score
    bias = model[2].bias[1] * z / stabilised(z, 1e-12)
    assert absorbed["2"].amount == pytest.approx(bias.sum().item(), rel=1e-9)
    assert torch.allclose(absorbed["2"].rows, bias, rtol=1e-9)
    assert absorbed["2"].operation == "aten.addmm"
    kinds = found.ledger.by_kind()
    assert set(kinds) <= {"bias", "stabiliser", "elsewhere"}
    assert 0 < abs(kinds["stabiliser"]) < 1e-9
    assert abs(found.ledger.open_rows).max() < 1e-12


def test_relevance_that_a_gate_keeps_is_booked():
    found = run(nn.Softmax(1), image(2, 1, 2).flatten(1))
    assert torch.equal(found.values[0], torch.zeros(2, 4, dtype=torch.float64))
    assert found.ledger.by_kind() == {"gate": pytest.approx(found.score.sum().item())}


def test_rules_by_place():
    model = stock.settle(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    silent = rules.Rule("silent", lambda op, grads: {})
    table = rules.epsilon_lrp().choosing(rules.by_place({"[01]": silent, "9.*": rules.own}))
    rows = rules.check(model, image(2, 1, 2).flatten(1), table)
    assert [(row.module, row.rule) for row in rows] == [("0", "silent"), ("1", "pass"), ("2", "product"), ("", "own")][
        :3
    ]


def test_depth_tells_the_first_layer():
    model, x = stock.small_resnet(), image(1, 3, 16)
    trace = rules.Trace(model, x, score=score)
    rules.walk(trace, [((trace.score.grad_fn, 0), trace.score.detach())], trace.edges, rules.epsilon_lrp())
    first = [op.module for op in trace.ops if op.depth == 1 and op.name == "convolution"]
    assert first == ["conv1"]
