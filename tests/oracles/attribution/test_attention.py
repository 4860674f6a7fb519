"""Attention maps against softmax(QKᵀ/√d) by hand, hand-multiplied layers, a linear program and loops in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import kendalltau
from torch import nn

import pellucid as px
from nets import sequence, stock
from pellucid.attribution import AttentionRelevance, AttentionRollout, AttentionWeights
from pellucid.attribution.attention import agreement, flows, mixed, relevance, rollout
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine.attention import Map

DOUBLE = {"dtype": torch.float64}
WAYS = ("module", "sdpa", "hand")


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Plain(nn.Module):
    """Layers of attention with a residual path, spelt in some way, and a head that reads some tokens."""

    def __init__(self, way="hand", depth=2, width=6, heads=2, read=(0,), seed=5, mask=None):
        super().__init__()
        self.layers = nn.ModuleList(stock.Attention(width, heads, way) for _ in range(depth))
        self.head, self.read, self.mask = nn.Linear(width, 3), list(read), mask
        self.double().eval()
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, self.mask)
        return self.head(torch.tanh(x[:, self.read]).mean(1))


def by_hand(model, x):
    """Attention maps as leaves of a graph, and the output: everything written out, head by head."""
    maps = []
    for layer in model.layers:
        weight, bias = layer.whole.in_proj_weight, layer.whole.in_proj_bias
        q, k, v = (x @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
        size = q.shape[2] // layer.heads
        parts = []
        for h in range(layer.heads):
            cut = slice(h * size, (h + 1) * size)
            scores = q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(size)
            parts.append(torch.softmax(scores if model.mask is None else scores + model.mask, 2))
        stacked = torch.stack(parts, 1)
        stacked.retain_grad()
        maps.append(stacked)
        heads = [stacked[:, h] @ v[..., h * size : (h + 1) * size] for h in range(layer.heads)]
        x = x + layer.whole.out_proj(torch.cat(heads, 2))
    return maps, model.head(torch.tanh(x[:, model.read]).mean(1))


X = rows(3, 4, 6)
CAUSAL = torch.full((4, 4), -math.inf, **DOUBLE).triu(1)


@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["full", "causal"])
@pytest.mark.parametrize("way", WAYS)
def test_weights_equal_softmax_by_hand(way, mask):
    model = Plain(way, mask=mask)
    maps, _ = by_hand(model, X)
    for block in (0, 1):
        for head in (0, 1):
            method = AttentionWeights(block=block, head=head, query="all")
            got = px.explain(model, X, method, target=1).values
            assert torch.allclose(got, maps[block][:, head].detach(), atol=1e-13)
            assert torch.allclose(got.sum(2), torch.ones(3, 4, **DOUBLE))
    mean = px.explain(model, X, AttentionWeights(block=None, query=2), target=1).values
    assert torch.allclose(mean[..., 0], torch.stack(maps).mean((0, 2))[:, 2].detach(), atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_norms_and_signed_values(way):
    model = Plain(way, depth=1)
    maps, output = by_hand(model, X)
    output[:, 2].sum().backward()
    signed = px.explain(model, X, AttentionWeights(of="signed", query="all", head=1), target=2).values
    assert torch.allclose(signed, (maps[0] * maps[0].grad)[:, 1].detach(), atol=1e-13)
    value = X @ model.layers[0].whole.in_proj_weight[12:].T + model.layers[0].whole.in_proj_bias[12:]
    norms = px.explain(model, X, AttentionWeights(of="norms", query=3, head=1), target=2).values
    assert torch.allclose(norms[..., 0], (maps[0][:, 1, 3] * value[..., 3:].norm(dim=2)).detach(), atol=1e-13)


def test_the_tokens_that_the_score_reads_are_shown():
    for read in ((0,), (3,), (1, 2)):
        model = Plain(read=read)
        got = px.explain(model, X, AttentionWeights(), target=0)
        want = by_hand(model, X)[0][1].mean(1)[:, list(read)].mean(1).detach()
        assert torch.allclose(got.values[..., 0], want, atol=1e-13)
        assert got.facts["tokens_read"].tolist() == [len(read)] * 3


def test_a_copy_task_gives_the_diagonal():
    # Positions as one-hot codes, large query and key weights: every token looks at itself alone.
    model = Plain(depth=1, heads=1, width=6, read=(2,))
    with torch.no_grad():
        model.layers[0].whole.in_proj_weight.copy_(torch.cat([60 * torch.eye(6), torch.eye(6), torch.eye(6)]))
        model.layers[0].whole.in_proj_bias.zero_()
    x = torch.eye(6, **DOUBLE)[None, :4]
    got = px.explain(model, x, AttentionWeights(query="all"), target=0).values
    assert torch.allclose(got[0], torch.eye(4, **DOUBLE), atol=1e-9)


class Additive(nn.Module):
    """Bahdanau's attention over the states of a recurrent network, weighed by a product or elementwise."""

    def __init__(self, way):
        super().__init__()
        self.rnn, self.score, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1), nn.Linear(4, 2)
        self.way = way
        self.double().eval()
        generator = torch.Generator().manual_seed(2)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, **DOUBLE)

    def weights(self, h):
        return torch.softmax(self.score(torch.tanh(h)), 1)

    def forward(self, x):
        h, _ = self.rnn(x)
        a = self.weights(h)
        return self.head((a * h).sum(1) if self.way == "mul" else (a.transpose(1, 2) @ h)[:, 0])


@pytest.mark.parametrize("way", ["mul", "bmm"])
def test_additive_attention_of_a_recurrent_network(way):
    model, x = Additive(way), rows(3, 5, 3)
    got = px.explain(model, x, "attention-weight-heatmap", target=0)
    assert torch.allclose(got.values, model.weights(model.rnn(x)[0]).detach(), atol=1e-13)


# --- rollout and flow ---


def test_one_layer_is_half_the_map_and_half_the_identity():
    model = Plain(depth=1, read=(1,))
    attention = by_hand(model, X)[0][0].mean(1).detach()
    half = px.explain(model, X, AttentionRollout(), target=0).values[..., 0]
    assert torch.allclose(half, (0.5 * attention + 0.5 * torch.eye(4, **DOUBLE))[:, 1], atol=1e-13)
    bare = px.explain(model, X, AttentionRollout(residual=0), target=0).values[..., 0]
    assert torch.allclose(bare, attention[:, 1], atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_two_layers_multiply_with_the_last_on_the_left(way):
    model = Plain(way, read=(2,))
    first, second = (0.5 * a.mean(1).detach() + 0.5 * torch.eye(4, **DOUBLE) for a in by_hand(model, X)[0])
    got = px.explain(model, X, AttentionRollout(), target=0).values[..., 0]
    assert torch.allclose(got, (second @ first)[:, 2], atol=1e-13)
    assert not torch.allclose(got, (first @ second)[:, 2], atol=1e-3)
    assert torch.allclose(got.sum(1), torch.ones(3, **DOUBLE))


def test_two_layers_by_figures():
    first = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]], **DOUBLE)
    second = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]], **DOUBLE)
    a, b = mixed(first, 0.5), mixed(second, 0.5)  # [[.6 .4] [.3 .7]] and [[.95 .05] [.25 .75]]
    want = torch.tensor([[[0.585, 0.415], [0.375, 0.625]]], **DOUBLE)
    assert torch.allclose(rollout([a, b]), want, atol=1e-15)


def test_identity_attention_gives_the_identity():
    eye = torch.eye(3, **DOUBLE)[None]
    assert torch.equal(rollout([mixed(eye, 0.5)] * 3), eye)
    for token in range(3):
        assert torch.equal(flows([mixed(eye, 0.5)] * 3, eye[:, token]), eye[:, token])


def flow_by_program(layers, start, end):
    """Maximum flow as a linear program: conserve at every inner token, maximise what reaches `end`."""
    size, depth = layers[0].shape[0], len(layers)
    edges = [(at, i, j) for at in range(depth) for i in range(size) for j in range(size)]
    keep = []
    for at in range(depth + 1):
        for node in range(size):
            if (at, node) in ((depth, start), (0, end)):
                continue
            keep.append([(e[0] + 1 == at and e[1] == node) * 1.0 - (e[0] == at and e[2] == node) for e in edges])
    aim = [-1.0 * (e[0] == 0 and e[2] == end) for e in edges]
    found = linprog(
        aim, A_eq=keep, b_eq=np.zeros(len(keep)), bounds=[(0, float(layers[e[0]][e[1], e[2]])) for e in edges]
    )
    return -found.fun


def test_flow_equals_a_linear_program():
    layers = [mixed(torch.softmax(2 * rows(1, 3, 3, seed=s), 2), 0.5) for s in (1, 2, 3)]
    for start in range(3):
        got = flows(layers, torch.eye(3, **DOUBLE)[None, start])
        want = [flow_by_program([x[0] for x in layers], start, end) for end in range(3)]
        assert torch.allclose(got[0], torch.tensor(want, **DOUBLE), atol=1e-7)
    several = flows(layers, torch.tensor([[0.5, 0.0, 0.5]], **DOUBLE))
    alone = [flows(layers, torch.eye(3, **DOUBLE)[None, k]) for k in (0, 2)]
    assert torch.allclose(several, (alone[0] + alone[1]) / 2)


def test_flow_of_a_model_is_that_of_its_maps():
    model = Plain(read=(1,))
    layers = [mixed(a.mean(1).detach(), 0.5) for a in by_hand(model, X)[0]]
    got = px.explain(model, X, AttentionRollout(flow=True), target=0).values[..., 0]
    assert torch.allclose(got[2, 3], torch.tensor(flow_by_program([x[2] for x in layers], 1, 3), **DOUBLE), atol=1e-7)


# --- gradient-weighted attention ---


def recursion(maps, read):
    """R ← R + Ā R in numpy, one row and one head at a time."""
    found = []
    for row in range(len(maps[0])):
        size = maps[0].shape[2]
        total = np.eye(size)
        for a in maps:
            mean = np.zeros((size, size))
            for head in range(a.shape[1]):
                product = (a[row, head].detach() * a.grad[row, head]).numpy()
                mean += np.where(product > 0, product, 0) / a.shape[1]
            total = total + mean @ total
        found.append((total - np.eye(size))[list(read)].mean(0))
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_relevance_equals_the_recursion_in_numpy(way, depth):
    model = Plain(way, depth=depth, read=(0, 3))
    maps, output = by_hand(model, X)
    output[:, 1].sum().backward()
    got = px.explain(model, X, AttentionRelevance(), target=1).values[..., 0]
    assert torch.allclose(got, recursion(maps, (0, 3)), atol=1e-12)


def test_a_head_without_gradient_contributes_nothing():
    model = Plain(depth=1)
    with torch.no_grad():
        model.layers[0].whole.out_proj.weight[:, 3:] = 0  # the second head's values go nowhere
    maps, output = by_hand(model, X)
    output[:, 0].sum().backward()
    first = (maps[0] * maps[0].grad)[:, 0, 0].clamp(min=0).detach() / 2
    got = px.explain(model, X, AttentionRelevance(), target=0).values[..., 0]
    assert torch.allclose(got, first, atol=1e-13)


def test_relevance_depends_on_the_class_and_rollout_does_not():
    model = Plain()
    for method, same in ((AttentionRelevance(), False), (AttentionRollout(), True)):
        a, b = (px.explain(model, X, method, target=k).values for k in (0, 1))
        assert torch.allclose(a, b, atol=1e-6) == same


def one_map(queries, keys, own, seed):
    weights, grads = torch.softmax(rows(1, 1, queries, keys, seed=seed), 3), rows(1, 1, queries, keys, seed=seed + 50)
    return Map("", weights, grads, None, own)


def test_two_sequences_follow_the_papers_update():
    # Sequence b (3 tokens) attends to itself, then a (2 tokens) attends to b, then a to itself.
    maps = [one_map(3, 3, True, 1), one_map(2, 3, False, 2), one_map(2, 2, True, 3)]
    first, cross, last = ((m.grads * m.weights).clamp(min=0)[0, 0].numpy() for m in maps)
    bar = first / first.sum(1, keepdims=True) + np.eye(3)  # R_bb - I is Ā, its rows normalised
    mixed_in = np.eye(2) @ cross @ bar  # R_aa is the identity still
    want_ab = mixed_in + last @ mixed_in
    want_aa = np.eye(2) + cross @ np.zeros((3, 2))
    want_aa = want_aa + last @ want_aa
    got = relevance(maps)
    assert np.allclose(got[2, 3][0], want_ab, atol=1e-14)
    assert np.allclose(got[2, 2][0], want_aa, atol=1e-14)
    assert np.allclose(got[3, 3][0], np.eye(3) + first, atol=1e-14)


class Translator(nn.Module):
    """An encoder and a decoder whose last token is read."""

    def __init__(self):
        super().__init__()
        self.body = nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, source, written):
        return self.head(self.body(source, written)[:, -1])


def test_encoder_and_decoder_both_get_values():
    model = stock.settle(Translator())
    source, written = rows(2, 3, 4), rows(2, 5, 4, seed=7)
    got = px.explain(model, (source, written), "generic-attention-relevance", target=0)
    assert [v.shape for v in got.values] == [(2, 3, 1), (2, 5, 1)]
    assert all(bool((v.amax((1, 2)) > 0).all()) for v in got.values)
    assert [entry["self"] for entry in got.source["attention"]] == [True, True, False]
    with pytest.raises(NeedError, match="differ in length"):
        px.explain(model, (source, written[:, :3]), "generic-attention-relevance", target=0)
    with pytest.raises(NeedError, match="self-attention over the same tokens"):
        px.explain(model, (source, written), "attention-rollout", target=0)


# --- any spelling, any model ---

ALL = ("attention-weight-heatmap", "attention-rollout", "generic-attention-relevance")


@pytest.mark.parametrize("method", ALL)
def test_vision_transformer_in_three_spellings(method):
    images = rows(2, 3, 16, 16)
    found = []
    for name in ("vit", "vit-sdpa", "vit-hand"):
        model = stock.SMALL[name]("functional")
        model.load_state_dict(stock.SMALL["vit"]("functional").state_dict())
        found.append(px.explain(model, images, method, target=1))
    assert found[0].values.shape == (2, 1, 16, 16)
    for other in found[1:]:
        assert torch.allclose(other.values, found[0].values, atol=1e-12)
    patches = found[0].values[:, 0, ::4, ::4]
    assert torch.equal(patches.repeat_interleave(4, 1).repeat_interleave(4, 2), found[0].values[:, 0])
    assert bool((found[0].facts["elsewhere"] > 0).all())  # the class token's own share


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_eager_and_fused_transformers_agree(kind, method):
    pytest.importorskip("transformers")
    place, target = {
        "bert": ("bert.embeddings.word_embeddings", 1),
        "gpt": ("transformer.wte", lambda out: out[:, -1, 2]),
    }[kind]
    found = []
    for attention in ("eager", "sdpa"):
        model = getattr(sequence, kind)(attention)
        if not found:
            state = model.state_dict()
        model.load_state_dict(state)
        subject = px.Subject(model, output="logits")
        found.append(px.explain(subject, sequence.token_ids(), method, target=target, layer=place).values)
    assert found[0].shape == (3, 5, 1)
    assert torch.allclose(*found, atol=1e-12)


def test_a_transformers_own_maps_are_the_ones_found():
    pytest.importorskip("transformers")
    model, ids = sequence.gpt("eager"), sequence.token_ids()
    want = model(ids, output_attentions=True).attentions
    for block in (0, 1):
        got = px.explain(
            px.Subject(model, output="logits"), ids, AttentionWeights(block=block, head=1, query="all"),
            target=lambda out: out[:, -1, 0], layer="transformer.wte",
        )  # fmt: skip
        assert torch.allclose(got.values, want[block][:, 1].detach(), atol=1e-13)


def test_padded_words_get_nothing():
    model = sequence.FLOAT["encoder"]()
    x, padded = sequence.sentences(), torch.tensor([[0, 0, 0, 0, 1]] * 3)
    for method in ALL:
        got = px.explain(model, (x, padded), method, target=0).values[0]
        assert not got[:, 4].any()
        assert got[:, :4].any()


# --- facts and refusals ---


def test_agreement_is_kendalls_rank_correlation():
    a, b = rows(3, 7), rows(3, 7, seed=2)
    a[0, 1] = a[0, 2]
    a[2] = 1.0
    got = agreement(a, b)
    assert torch.allclose(got[:2], torch.tensor([kendalltau(a[i], b[i]).statistic for i in (0, 1)], **DOUBLE))
    assert got[2] == 0
    assert torch.allclose(agreement(b, b.exp()), torch.ones(3, **DOUBLE))
    model = Plain()
    result = px.explain(model, X, AttentionWeights(), target=0)
    slope = px.explain(model, X, "vanilla-gradient", target=0).values.norm(dim=2)
    want = [kendalltau(result.values[i, :, 0], slope[i]).statistic for i in range(3)]
    assert torch.allclose(result.facts["agreement_with_gradient"], torch.tensor(want, **DOUBLE))


@pytest.mark.parametrize("method", ALL)
def test_what_has_no_such_attention_is_refused_with_the_reason(method):
    with pytest.raises(NeedError, match="must have attention"):
        px.explain(sequence.FLOAT["lstm"](), sequence.sentences(), method)
    for name in ("swin", "swin-module"):
        with pytest.raises(NeedError, match="windows"):
            px.explain(stock.SMALL[name]("functional"), rows(2, 3, 8, 8), method)
    gated = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).double().eval()  # a softmax at the end weighs nothing
    with pytest.raises(NeedError, match="must have attention"):
        px.explain(gated, rows(2, 4), method)


def test_settings_are_checked():
    model = Plain()
    for settings, error in (
        ({"of": "value"}, MethodError), ({"query": "mine"}, MethodError), ({"query": 9}, InputError),
        ({"block": 5}, InputError), ({"head": 2}, InputError),
    ):  # fmt: skip
        with pytest.raises(error, match=next(iter(settings))):
            px.explain(model, X, AttentionWeights(**settings), target=0)
    with pytest.raises(MethodError, match="residual"):
        px.explain(model, X, AttentionRollout(residual=1.5), target=0)


def test_a_place_behind_the_first_layer_follows_the_rest():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = Plain()
            self.first = nn.Identity()

        def forward(self, x):
            x = self.first(x + self.whole.layers[0](x))
            x = x + self.whole.layers[1](x)
            return self.whole.head(torch.tanh(x[:, 0]))

    model = Cut().eval()
    got = px.explain(model, X, AttentionRollout(residual=0), target=0, layer="first")
    assert len(got.source["attention"]) == 1
    want = by_hand(model.whole, X)[0][1].mean(1)[:, 0].detach()
    assert torch.allclose(got.values[..., 0], want, atol=1e-13)
