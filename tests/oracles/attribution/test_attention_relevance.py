"""Relevance through attention: gradient × input of the detached network, closed forms, conservation, tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets import sequence, stock
from nets.spellings import image
from pellucid.attribution import AttentionLRP
from pellucid.contract.errors import MethodError

KINDS = ("bias", "stabiliser", "rule", "gate", "elsewhere")


def closes(result, within=1e-9):
    facts = result.facts
    kept = torch.stack([facts[f"absorbed_{kind}"] for kind in KINDS])
    size = torch.maximum(facts["score"].abs(), kept.abs().amax(0))
    assert ((facts["relevance_sum"] + kept.sum(0) - facts["score"]).abs() <= within * size).all()


def without_biases(model):
    constant = ("bias", "token", "places", "position", "wpe", "token_type")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if any(word in name for word in constant):
                p.zero_()
    return model


class Block(nn.Module):
    """Pre-norm attention by hand, rectified hidden layer, last norm; with attention weights and deviations detached."""

    def __init__(self, detached, width=6):
        super().__init__()
        self.one, self.two, self.qkv = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.out, self.up = nn.Linear(width, width, bias=False), nn.Linear(width, 9, bias=False)
        self.down, self.head, self.detached = nn.Linear(9, width, bias=False), nn.Linear(width, 3, bias=False), detached

    def normed(self, x, norm):
        if not self.detached:
            return norm(x)
        deviation = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias

    def forward(self, x):
        q, k, v = self.qkv(self.normed(x, self.one)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.out((weights.detach() if self.detached else weights) @ v)
        return self.head((x + self.down(functional.relu(self.up(self.normed(x, self.two))))).mean(1))


@pytest.mark.parametrize("biases", [False, True])
def test_it_is_gradient_times_input_of_the_detached_network(biases):
    models = [stock.settle(Block(detached)) for detached in (False, True)]
    if not biases:
        models = [without_biases(model) for model in models]
    x = sequence.sentences(3)[:, :, :6]
    result = px.explain(models[0], x, AttentionLRP(epsilon=0.0), target=1)
    want = px.explain(models[1], x, "gradient-x-input", target=1).values
    assert torch.allclose(result.values, want, rtol=1e-8, atol=1e-11)
    closes(result)
    assert bool(result.facts["conserved"].all()) is not biases


@pytest.mark.parametrize("name", ["vit", "vit-sdpa", "vit-hand", "swin", "swin-module"])
def test_conserved_on_image_transformers_without_biases(name):
    model, x = without_biases(stock.SMALL[name]("functional")), image(2, 3, stock.SIDES.get(name, 16))
    result = px.explain(model, x, AttentionLRP(epsilon=0.0), target=1)
    closes(result)
    if "swin" in name:  # the class token of the other takes its share, although it is zero, through the norms
        assert result.facts["conserved"].all()
    lost = {entry["operation"] for entry in result.source["ledger"]}
    assert lost <= {"aten.cat", "aten.add", "aten.native_layer_norm", "aten.expand"}


@pytest.mark.parametrize("variant", ["conservative", "attnlrp"])
@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("spelling", ["eager", "sdpa"])
def test_books_close_on_tokens(variant, kind, spelling):
    name = {"bert": "bert.embeddings.word_embeddings", "gpt": "transformer.wte"}[kind]
    model, ids = getattr(sequence, kind)(spelling), {"input_ids": sequence.token_ids(2)}
    aim = (lambda out: out[:, 1]) if kind == "bert" else (lambda out: out[:, -1, 1])
    subject = px.Subject(model, output="logits")
    result = px.explain(subject, ids, AttentionLRP(variant=variant), target=aim, layer=name)
    assert result.values.shape == (2, sequence.LENGTH, 8)
    closes(result)


def test_bert_without_biases_is_conserved():
    model = px.Subject(without_biases(sequence.bert("eager")), output="logits")
    ids = {"input_ids": sequence.token_ids(2)}
    name = "bert.embeddings.word_embeddings"
    result = px.explain(model, ids, AttentionLRP(epsilon=0.0), target=1, layer=name)
    assert result.facts["conserved"].all()
    assert torch.allclose(result.values.flatten(1).sum(1), result.facts["score"], rtol=1e-9)


@pytest.mark.parametrize("variant", ["conservative", "attnlrp"])
def test_every_spelling_of_attention_agrees(variant):
    results = [
        px.explain(stock.SMALL[name]("functional"), image(2, 3, 16), AttentionLRP(variant=variant), target=1).values
        for name in ("vit", "vit-sdpa", "vit-hand")
    ]
    for other in results[1:]:
        assert torch.allclose(other, results[0], rtol=1e-4, atol=1e-5 * float(results[0].abs().max()))


class Softmax(nn.Module):
    def forward(self, x):
        return x.softmax(1)


def test_softmax_by_its_taylor_expansion():
    # R_i = x_i (R_i - s_i Σ R), started with the first output alone
    x = torch.tensor([[0.3, -1.2, 0.8]]).double()
    s = x.softmax(1)[0]
    got = px.explain(Softmax().eval(), x, AttentionLRP(variant="attnlrp"), target=0)
    want = x[0] * (torch.tensor([s[0], 0, 0]) - s * s[0])
    assert torch.allclose(got.values[0], want)
    assert got.facts["absorbed_rule"].item() == pytest.approx(float(s[0] - want.sum()))
    held = px.explain(Softmax().eval(), x, AttentionLRP(), target=0)
    assert not held.values.any()
    assert held.facts["absorbed_gate"].item() == pytest.approx(float(s[0]))


class Linear(nn.Module):
    """Attention without softmax: a product of two signals."""

    def forward(self, x):
        return (x[:, 0] @ x[:, 1].mT @ x[:, 2]).flatten(1)


def test_linear_attention_shares_half_and_half():
    # y = (A Bᵀ) C of one number each: R_C = y / 2 and R_A = R_B = y / 4
    x = torch.tensor([[2.0, 3.0, 5.0]]).double().view(1, 3, 1, 1)
    got = px.explain(Linear().eval(), x, AttentionLRP(variant="attnlrp", epsilon=0.0))
    assert got.values.flatten().tolist() == pytest.approx([7.5, 7.5, 15.0])
    assert got.facts["conserved"].item() == 1


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6)])
def test_norms_with_a_constant_deviation(norm):
    norm = norm.double().eval()
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.linspace(0.5, 2, 6))
    x = sequence.sentences(1)[0, :, :6]
    leaf = x.clone().requires_grad_()
    if isinstance(norm, nn.GroupNorm):
        parts = leaf.view(-1, 2, 3)
        deviation = (parts.var(2, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        y = ((parts - parts.mean(2, keepdim=True)) / deviation).flatten(1)
    elif isinstance(norm, nn.RMSNorm):
        eps = torch.finfo(torch.float64).eps
        y = leaf / (leaf.square().mean(1, keepdim=True) + eps).sqrt().detach()
    else:
        y = (leaf - leaf.mean(1, keepdim=True)) / (leaf.var(1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
    y = y * norm.weight + (norm.bias if getattr(norm, "bias", None) is not None else 0)
    assert torch.allclose(y, norm(x), rtol=1e-9)
    (grad,) = torch.autograd.grad(y[:, 4].sum() - 2 * y[:, 0].sum(), leaf)
    result = px.explain(norm, x, AttentionLRP(epsilon=0.0), target=lambda out: out[:, 4] - 2 * out[:, 0])
    assert torch.allclose(result.values, x * grad, rtol=1e-7, atol=1e-10)


def test_a_variant_that_is_none():
    with pytest.raises(MethodError, match="variant"):
        px.explain(Softmax().eval(), torch.rand(1, 3), AttentionLRP(variant="rollout"))
