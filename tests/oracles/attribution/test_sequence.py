"""Relevance in recurrent and convolutional readers: a three-step LSTM by hand, conservation, planted keywords."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence, stock
from pellucid.attribution import RecurrentLRP, TextCNNLRP
from pellucid.contract.errors import InputError, MethodError

EPSILON = 1e-3


def sign(z):
    return torch.where(z >= 0, 1.0, -1.0).double()


def linear(x, weight, bias, out, relevance, factor, epsilon=EPSILON):
    """Σ_j (x_i w_ij + δ (b_j + ε sign z_j) / D) / (z_j + ε sign z_j) R_j, message by message."""
    found = torch.zeros_like(x)
    for j in range(len(out)):
        for i in range(len(x)):
            share = x[i] * weight[j, i] + factor * (bias[j] + epsilon * sign(out[j])) / len(x)
            found[i] += share / (out[j] + epsilon * sign(out[j])) * relevance[j]
    return found


def two(parts, relevance, factor, epsilon=EPSILON):
    """A sum of two: each its part, and of the stabiliser what its size earns; a constant (None) keeps nothing for δ = 1."""
    signal, other = parts
    z = signal + other
    return tuple(
        (p + factor * epsilon * sign(z) * p.abs() / (signal.abs() + other.abs())) / (z + epsilon * sign(z)) * relevance
        for p in parts
    )


def by_hand(model, words, target, factor):
    """One row through an LSTM of three steps and a linear head, and its relevance back, step by step."""
    cell, head, size = model.rnn, model.head, model.rnn.hidden_size
    h, c, seen = torch.zeros(size).double(), torch.zeros(size).double(), []
    for x in words:
        into, back = cell.weight_ih_l0 @ x + cell.bias_ih_l0, cell.weight_hh_l0 @ h + cell.bias_hh_l0
        i, f, g, o = (into + back).chunk(4)
        new = f.sigmoid() * c + i.sigmoid() * g.tanh()
        seen.append((x, h, c, into, back, new))
        h, c = o.sigmoid() * new.tanh(), new
    out = head.weight @ h + head.bias
    relevance = torch.zeros_like(out)
    relevance[target] = out[target]
    to_h = linear(h, head.weight, head.bias, out, relevance, factor)
    to_c, maps = torch.zeros(size).double(), []
    for step in reversed(range(len(seen))):
        x, before, c, into, back, new = seen[step]
        i, f, g, _ = (into + back).chunk(4)
        to_c = to_c + to_h  # the output gate passes all to the signal
        kept, gain = two((f.sigmoid() * c, i.sigmoid() * g.tanh()), to_c, factor)
        rows = slice(2 * size, 3 * size)  # of the signal g; gates get nothing
        if step:
            of_word, of_state = two((into[rows], back[rows]), gain, factor)
            to_h = linear(before, cell.weight_hh_l0[rows], cell.bias_hh_l0[rows], back[rows], of_state, factor)
        else:  # the state before the first word is constant: its bias is handed on with δ
            z = g + EPSILON * sign(g)
            of_word = (into[rows] + factor * (back[rows] + EPSILON * sign(g))) / z * gain
        maps.append(linear(x, cell.weight_ih_l0[rows], cell.bias_ih_l0[rows], into[rows], of_word, factor))
        to_c = kept
    return torch.stack(maps[::-1]).detach(), out[target].detach()


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0])
def test_three_steps_of_an_lstm_equal_the_loop(factor):
    model, x = sequence.FLOAT["lstm"](), sequence.sentences(2)[:, :3]
    result = px.explain(model, x, RecurrentLRP(bias_factor=factor), target=1)
    for row in range(2):
        want, score = by_hand(model, x[row], 1, factor)
        assert result.facts["score"][row] == pytest.approx(float(score))
        assert torch.allclose(result.values[row], want, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "lstm-two-ways", "gru", "gru-two-ways", "rnn", "rnn-relu", "cells"])
def test_conserved_with_bias_factor_one(name):
    result = px.explain(sequence.FLOAT[name](), sequence.sentences(3), RecurrentLRP(), target=1)
    assert result.facts["conserved"].all(), result.source["ledger"]
    kept = px.explain(sequence.FLOAT[name](), sequence.sentences(3), RecurrentLRP(bias_factor=0.0), target=1)
    assert not kept.facts["conserved"].any()
    total = kept.facts["relevance_sum"] + sum(v for k, v in kept.facts.items() if k.startswith("absorbed_"))
    assert torch.allclose(total, kept.facts["score"], rtol=1e-7)


def test_a_cell_in_a_loop_is_the_recurrent_module():
    cells, x = sequence.FLOAT["cells"](), sequence.sentences(3)
    whole = sequence.FLOAT["lstm"]()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(whole.rnn, f"{name}_l0").data = getattr(cells.cell, name).data
    whole.head = cells.head
    want = px.explain(whole, x, RecurrentLRP(), target=2).values
    assert torch.allclose(px.explain(cells, x, RecurrentLRP(), target=2).values, want, rtol=1e-8, atol=1e-11)


def test_a_gate_gets_nothing_and_the_signal_all():
    class Gated(nn.Module):
        def forward(self, x):
            return x[:, :1].sigmoid() * x[:, 1:]

    got = px.explain(Gated().eval(), torch.tensor([[0.7, -2.0]]).double(), RecurrentLRP())
    assert got.values[0].tolist() == pytest.approx([0.0, float(torch.tensor(0.7).double().sigmoid()) * -2.0])


def test_by_word_and_refusals():
    model, x = sequence.FLOAT["lstm"](), sequence.sentences(2)
    whole = px.explain(model, x, RecurrentLRP(), target=1).values
    words = px.explain(model, x, RecurrentLRP(by_word=True), target=1).values
    assert torch.equal(words, whole.sum(-1, keepdim=True))
    with pytest.raises(MethodError, match="bias_factor"):
        px.explain(model, x, RecurrentLRP(bias_factor=1.5))
    with pytest.raises(InputError, match="rows, words, dimensions"):
        px.explain(nn.Linear(3, 2).eval(), torch.rand(2, 3), TextCNNLRP())


# --- convolutional readers ---


class Reader(nn.Module):
    """Embedding, convolutions of two widths over time, max over time, linear head."""

    def __init__(self, words=12, width=6):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, 4, n) for n in (1, 2))
        self.head = nn.Linear(8, 2)

    def forward(self, ids):
        x = self.embedding(ids).transpose(1, 2)
        return self.head(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_a_reader_equals_the_loop(factor):
    model = stock.settle(Reader())
    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])  # one word twice, which is a draw
    result = px.explain(model, ids, TextCNNLRP(epsilon=EPSILON, bias_factor=factor), target=1, layer="embedding")
    assert result.values.shape == (2, 5, 1)
    for row in range(2):
        x = model.embedding(ids[row]).detach()
        want, hidden = torch.zeros_like(x), []
        for width, conv in zip((1, 2), model.convs, strict=True):
            windows = torch.stack([x[t : t + width].T.flatten() for t in range(5 - width + 1)])
            z = windows @ conv.weight.flatten(1).T + conv.bias
            hidden.append((windows, z, z.relu().amax(0)))
        h = torch.cat([top for *_, top in hidden])
        out = model.head.weight @ h + model.head.bias
        back = linear(h, model.head.weight[1:], model.head.bias[1:], out[1:], out[1:], factor).split(4)
        for width, conv, (windows, z, top), relevance in zip((1, 2), model.convs, hidden, back, strict=True):
            for j in range(4):
                won = (z[:, j].relu() == top[j]).nonzero()[:, 0]  # a rectifier that never fired is a draw of all
                for t in won:
                    w, mine = conv.weight[j].flatten()[None], relevance[j : j + 1] / len(won)
                    share = linear(windows[t], w, conv.bias[j : j + 1], z[t, j : j + 1], mine, factor)
                    want[t : t + width] += share.view(-1, width).T
        assert torch.allclose(result.values[row, :, 0], want.sum(1).detach(), rtol=1e-8, atol=1e-11)


def test_planted_keywords_win_and_words_conserve():
    model = stock.settle(Reader())
    with torch.no_grad():
        for conv in model.convs:
            conv.weight.mul_(0.05)
            conv.bias.zero_()
        model.embedding.weight[7] = 0.0
        model.embedding.weight[7, 0] = 3.0
        model.convs[0].weight[0, 0, 0] = 2.0
        model.head.weight[1, 0] = 2.0
    ids = torch.tensor([[3, 7, 4, 1, 5], [9, 2, 6, 7, 3]])
    result = px.explain(model, ids, "lrp-text-cnn", target=1, layer="embedding")
    assert result.values[:, :, 0].argmax(1).tolist() == [1, 3]
    assert result.facts["conserved"].all()
    # without the word it marks, the score falls furthest
    for row in range(2):
        drops = []
        for t in range(5):
            changed = ids[row : row + 1].clone()
            changed[0, t] = 0
            drops.append(float(result.facts["score"][row] - model(changed).detach()[0, 1]))
        assert max(range(5), key=drops.__getitem__) == int(result.values[row, :, 0].argmax())


@pytest.mark.parametrize("name", ["lstm", "lstm-two-ways", "gru", "rnn", "encoder"])
@pytest.mark.parametrize("method", [RecurrentLRP(), "lrp-alpha-beta"])
def test_frozen_weights_change_nothing(name, method):
    """Torch multiplies by frozen weights in another way, with the bias apart; it is the bias of the same layer."""
    model, x = sequence.FLOAT[name](), sequence.sentences(3)
    want = px.explain(model, x, method, target=1)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    got = px.explain(model, x, method, target=1)
    assert torch.allclose(got.values, want.values, rtol=1e-8, atol=1e-11)
    assert torch.allclose(got.facts["absorbed_bias"], want.facts["absorbed_bias"], rtol=1e-8, atol=1e-11)
