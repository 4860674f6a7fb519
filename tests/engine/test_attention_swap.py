"""Given attention weights in the place of a model's own, against the same substitution written out by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nets import sequence, stock
from pellucid.contract.errors import NeedError, PellucidError
from pellucid.engine import attention, attention_swap
from pellucid.engine.ask import Ask
from pellucid.engine.inputs import as_inputs
from pellucid.engine.place import parse
from pellucid.engine.subject import as_subject
from pellucid.testing.snapshot import Snapshot

DOUBLE = {"dtype": torch.float64}
WAYS = ("module", "needs-weights", "sdpa", "hand")


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Spelt(stock.Attention):
    """One more way: the module asked for its weights."""

    def forward(self, x, mask=None):
        if self.way == "needs-weights":
            return self.whole(x, x, x, need_weights=True, attn_mask=mask)[0]
        return super().forward(x, mask)


class Layers(nn.Module):
    """Attention with a residual path, and a head that reads the first token."""

    def __init__(self, way, mask=None, depth=2):
        super().__init__()
        self.layers = nn.ModuleList(Spelt(6, 2, way) for _ in range(depth))
        self.head, self.mask = nn.Linear(6, 3), mask
        stock.settle(self, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, self.mask)
        return self.head(torch.tanh(x[:, 0]))


def by_hand(model, x, given):
    """The output with `given[block]` (N, heads, queries, keys) as the weights of a block: written out head by head."""
    for number, layer in enumerate(model.layers):
        q, k, v = (
            x @ w.T + b
            for w, b in zip(layer.whole.in_proj_weight.chunk(3), layer.whole.in_proj_bias.chunk(3), strict=True)
        )
        mixed = []
        for h in range(2):
            cut = slice(3 * h, 3 * h + 3)
            scores = q[..., cut] @ k[..., cut].transpose(1, 2) / math.sqrt(3)
            own = torch.softmax(scores if model.mask is None else scores + model.mask, 2)
            mixed.append((given[number][:, h] if number in given else own) @ v[..., cut])
        x = x + layer.whole.out_proj(torch.cat(mixed, 2))
    return model.head(torch.tanh(x[:, 0]))


def question(model, inputs, wanted=0, layer=None):
    subject = as_subject(model)
    place = None if layer is None else parse(layer, subject.module)
    rows = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    aim = torch.full((len(rows),), wanted) if isinstance(wanted, int) else wanted
    return Ask(subject=subject, inputs=as_inputs(inputs), wanted=aim, layer=place)


def read(ask):
    return attention.look(ask, 0, ask.inputs.rows, located=True)


X = drawn(3, 4, 6)
CAUSAL = torch.full((4, 4), -math.inf, **DOUBLE).triu(1)
EVERY = torch.arange(3)


@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["full", "causal"])
@pytest.mark.parametrize("way", WAYS)
def test_given_weights_of_each_block_equal_the_model_by_hand(way, mask):
    model = Layers(way, mask)
    ask = question(model, X)
    maps = read(ask).maps
    assert [m.call for m in maps] == [0, 1]
    other = [torch.softmax(drawn(3, 2, 4, 4, seed=s), 3) for s in (7, 8)]
    for chosen in ((0,), (1,), (0, 1)):
        got = attention_swap.output(ask, [maps[i] for i in chosen], EVERY, [other[i] for i in chosen])
        assert torch.allclose(got, by_hand(model, X, {i: other[i] for i in chosen}), atol=1e-12)
        assert not torch.allclose(got, model(X), atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_the_models_own_weights_change_nothing(way):
    for model in (Layers(way), Layers(way, CAUSAL)):
        ask = question(model, X)
        seen = read(ask)
        with torch.no_grad():
            got = attention_swap.output(ask, seen.maps, EVERY, [m.weights for m in seen.maps])
        assert torch.allclose(got, model(X), atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_with_respect_to_the_weights_is_that_by_hand(way):
    model = Layers(way)
    ask = question(model, X)
    maps = read(ask).maps
    one, two = (torch.softmax(drawn(3, 2, 4, 4, seed=4), 3).requires_grad_() for _ in range(2))
    (got,) = torch.autograd.grad(attention_swap.output(ask, maps[:1], EVERY, [one]).square().sum(), one)
    (want,) = torch.autograd.grad(by_hand(model, X, {0: two}).square().sum(), two)
    assert torch.allclose(got, want, atol=1e-12)
    assert want.abs().max() > 0.01


def test_rows_take_their_own_weights_whatever_stands_beside_them():
    model = Layers("module")
    ask = question(model, X)
    maps = read(ask).maps
    given = torch.softmax(drawn(3, 2, 4, 4, seed=4), 3)
    whole = attention_swap.output(ask, maps[1:], EVERY, [given])
    for row in range(3):
        alone = attention_swap.output(ask, maps[1:], torch.tensor([row]), [given[row : row + 1]])
        assert torch.allclose(alone, whole[row : row + 1], atol=1e-12)
    found = []
    attention_swap.sweep(
        ask, 2, maps[1:], lambda rows, steps: [given[rows] * (1 + steps[:, None, None, None])],
        lambda rows, steps, out: found.append(out),
    )  # fmt: skip
    jobs = torch.cat(found)
    assert torch.allclose(jobs[::2], whole, atol=1e-12)
    assert torch.allclose(jobs[1::2], by_hand(model, X, {1: 2 * given}), atol=1e-12)


class Additive(nn.Module):
    """Attention over the states of a recurrent network: softmax along the second axis."""

    def __init__(self, way):
        super().__init__()
        self.rnn, self.score, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1), nn.Linear(4, 2)
        self.way = way
        stock.settle(self, 2)

    def mixed(self, h, a):
        return self.head((a * h).sum(1) if self.way == "mul" else (a.transpose(1, 2) @ h)[:, 0])

    def forward(self, x):
        h, _ = self.rnn(x)
        return self.mixed(h, nn.Softmax(1)(self.score(torch.tanh(h))))


@pytest.mark.parametrize("way", ["mul", "bmm"])
def test_additive_attention_of_a_recurrent_network(way):
    model, x = Additive(way), drawn(3, 5, 3)
    ask = question(model, x)
    (found,) = read(ask).maps
    given = torch.softmax(drawn(3, 1, 1, 5, seed=3), 3)
    got = attention_swap.output(ask, [found], EVERY, [given])
    assert torch.allclose(got, model.mixed(model.rnn(x)[0], given[:, 0].transpose(1, 2)), atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_padded_encoder_is_kept_off_its_fast_path(norm_first):
    # In evaluation mode and without gradients, torch would run the whole encoder layer as one kernel.
    model = stock.settle(sequence.Encoder(norm_first))
    padded = torch.zeros(3, sequence.LENGTH)
    padded[1, 3:] = 1
    ask = question(model, {"x": sequence.sentences(), "padded": padded.long()})
    seen = read(ask)
    assert bool((seen.maps[0].weights[1, :, :, 3:] == 0).all())
    with torch.no_grad():
        same = attention_swap.output(ask, seen.maps, EVERY, [m.weights for m in seen.maps])
        even = attention_swap.output(ask, seen.maps, EVERY, [torch.full_like(m.weights, 0.2) for m in seen.maps])
    assert torch.allclose(same, ask.subject.scores(ask.inputs), atol=1e-12)
    assert not torch.allclose(even, same, atol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_transformers_eager_and_fused_give_the_same(kind):
    pytest.importorskip("transformers")
    layer, wanted = {
        "bert": ("bert.embeddings.word_embeddings", 1),
        "gpt": ("transformer.wte", lambda out: out[:, -1, 2]),
    }[kind]
    found, state = [], None
    for way in ("eager", "sdpa"):
        model = getattr(sequence, kind)(way)
        state = state or model.state_dict()
        model.load_state_dict(state)
        mask = torch.ones(3, sequence.LENGTH, dtype=torch.long)
        if kind == "bert":
            mask[0, 3:] = 0
        ask = question(model, {"input_ids": sequence.token_ids(), "attention_mask": mask}, wanted, layer)
        ask.subject = as_subject(type(ask.subject)(model, output="logits"))
        seen = read(ask)
        with torch.no_grad():
            same = attention_swap.output(ask, seen.maps, EVERY, [m.weights for m in seen.maps])
            assert torch.allclose(same, ask.subject.scores(ask.inputs), atol=1e-12)
            given = [torch.softmax(drawn(*seen.maps[1].weights.shape, seed=5), 3)]
            found.append(attention_swap.output(ask, seen.maps[1:], EVERY, given))
        doubled = attention_swap.output(ask, seen.maps[1:], EVERY, given, (2 * seen.values[0],))
        assert not torch.allclose(doubled, found[-1], atol=1e-3)
    assert torch.allclose(found[0], found[1], atol=1e-12)


def test_grouped_queries_and_scale():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.head = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 2)
            stock.settle(self)

        def forward(self, x):
            q, k, v = (f(x).unflatten(2, (-1, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
            return self.head(y.transpose(1, 2).flatten(2)[:, -1])

    model, x = Grouped(), drawn(3, 5, 4)
    ask = question(model, x)
    seen = read(ask)
    assert seen.maps[0].weights.shape == (3, 4, 5, 5)
    got = attention_swap.output(ask, seen.maps, EVERY, [seen.maps[0].weights])
    assert torch.allclose(got, model(x), atol=1e-12)


def test_nothing_is_left_on_the_model():
    model = Layers("module")
    model(X)
    before = Snapshot.of(model, X)
    ask = question(model, X)
    maps = read(ask).maps
    attention_swap.output(ask, maps, EVERY, [m.weights for m in maps]).sum()
    with pytest.raises(PellucidError):
        attention_swap.output(ask, maps[1:], EVERY, [torch.ones(3, 2, 4, 7, **DOUBLE)])
    assert before.difference(Snapshot.of(model, X)) == ""


class Hidden(nn.Module):
    """Attention whose softmax, or the whole of it, torch shows as something else."""

    def __init__(self, way):
        super().__init__()
        self.way, self.head = way, nn.Linear(4, 2)
        stock.settle(self)

    def forward(self, x):
        q = x[:, None]
        if self.way == "kernel":
            y = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0][:, 0]
        elif self.way == "softmin":
            y = functional.softmin(-(x @ x.mT), -1) @ x
        else:
            e = (x @ x.mT).exp()
            y = (e / e.sum(-1, keepdim=True)) @ x
        return self.head(y[:, 0])


def test_attention_that_cannot_be_reached_is_refused_by_name():
    ask = question(Hidden("softmin"), drawn(3, 5, 4))
    maps = read(ask).maps
    with pytest.raises(NeedError, match=r"must come from a softmax that can be replaced"):
        attention_swap.output(ask, maps, EVERY, [maps[0].weights])
    with pytest.raises(NeedError, match="no softmax whose result weighs values"):
        read(question(Hidden("spelt out"), drawn(3, 5, 4)))
    with pytest.raises(PellucidError, match="attention"):
        read(question(Hidden("kernel"), drawn(3, 5, 4)))


def test_a_forward_pass_that_skips_the_attention_is_refused():
    class Fickle(Layers):
        """Runs attention only where the first number is above zero."""

        def forward(self, x):
            return super().forward(x) if x[0, 0, 0] > 0 else self.head(x[:, 0])

    ask = question(Fickle("hand"), X.abs())
    maps = read(ask).maps
    with pytest.raises(NeedError, match="same attention whatever the rows"):
        attention_swap.output(ask, maps, EVERY, [m.weights for m in maps], (-X.abs(),))
