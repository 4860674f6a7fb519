"""The plain gradient table is autograd, on every network; what makes it differ is a fault of labels or walk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.engine import rules


def score(output):
    return getattr(output, "logits", output).flatten(1)[:, 1]


def autograd(model, x):
    x = x.clone().requires_grad_()
    output = score(model(x))
    return torch.autograd.grad(output.sum(), x)[0], output.detach()


def close(got, want, tolerance=1e-12):
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


def picture(name):
    side = stock.SIDES.get(name, 16)
    return image(2, 3, side)


@pytest.mark.parametrize("spelling", stock.SPELLINGS)
@pytest.mark.parametrize("name", stock.SMALL)
def test_image_networks(name, spelling):
    model, x = stock.SMALL[name](spelling), picture(name)
    found = rules.backward(model, x, score, rules.gradient(), model=model)
    want, output = autograd(model, x)
    close(found.values[0], want)
    close(found.score, output)


@pytest.mark.parametrize("name", sequence.FLOAT)
def test_sequence_networks(name):
    model, x = sequence.FLOAT[name](), sequence.sentences()
    found = rules.backward(model, x, score, rules.gradient(), model=model)
    want, output = autograd(model, x)
    close(found.values[0], want)
    close(found.score, output)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling):
    model, x = Spelt(SPELLINGS[spelling]), image()
    close(rules.backward(model, x, score, rules.gradient(), model=model).values[0], autograd(model, x)[0])


def at_module(model, name, run):
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, given, out: seen.append(out))
    output = score(run())
    handle.remove()
    return torch.autograd.grad(output.sum(), seen[0])[0], output.detach()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_token_models_start_at_the_embedding(kind, attention):
    model = getattr(sequence, kind)(attention)
    name = {"bert": "bert.embeddings.word_embeddings", "gpt": "transformer.wte"}[kind]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    inputs = {"input_ids": sequence.token_ids(), "attention_mask": mask}
    found = rules.backward(None, inputs, score, rules.gradient(), at=name, model=model)
    want, output = at_module(model, name, lambda: model(**inputs))
    close(found.values[0], want)
    close(found.score, output)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_attention_spellings_agree_under_rules(kind):
    ids = sequence.token_ids()
    name = {"bert": "bert.embeddings.word_embeddings", "gpt": "transformer.wte"}[kind]
    for table in (rules.guided(), rules.epsilon_lrp(1e-9)):
        eager, fused = (
            rules.backward(None, {"input_ids": ids}, score, table, at=name, model=getattr(sequence, kind)(way)).values
            for way in ("eager", "sdpa")
        )
        close(eager[0], fused[0], 1e-5 if table.conserves else 1e-12)


def test_frozen_embedding_is_a_place_to_stop():
    model, ids = stock.settle(sequence.Tokens()), sequence.token_ids()
    want = rules.backward(model, ids, score, rules.gradient(), at="embedding", model=model).values[0]
    model.requires_grad_(False)
    got = rules.backward(model, ids, score, rules.gradient(), at="embedding", model=model)
    assert torch.allclose(got.values[0], want, rtol=1e-12, atol=1e-15)
    assert torch.equal(got.points[0], model.embedding(ids))
    assert model.embedding.weight.requires_grad is False


def test_several_inputs_masks_and_tokens():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.words, self.head = nn.Linear(4, 3), nn.Embedding(7, 3), nn.Linear(3, 2)

        def forward(self, x, ids, mask, scale=None):
            told = (self.words(ids) * mask[..., None]).sum(1)
            return self.head(torch.tanh(self.image(x)) * told + scale)

    model = stock.settle(Two())
    x, scale = image(2, 1, 2).flatten(1), torch.rand(2, 3, dtype=torch.float64)
    ids, mask = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[True, True], [True, False]])
    named = {"x": x, "ids": ids, "mask": mask, "scale": scale}
    found = rules.backward(model, named, score, rules.gradient(), model=model)
    leaves = [x.clone().requires_grad_(), scale.clone().requires_grad_()]
    want = torch.autograd.grad(score(model(leaves[0], ids, mask, leaves[1])).sum(), leaves)
    assert [v is None for v in found.values] == [False, True, True, False]
    close(found.values[0], want[0])
    close(found.values[3], want[1])
    positional = rules.backward(model, (x, ids, mask, scale), score, rules.gradient(), model=model)
    assert torch.equal(positional.values[0], found.values[0])


def test_broadcast_operands_are_summed():
    """A node called alone leaves the sum over broadcast dimensions to torch's engine."""

    class Broadcast(nn.Module):
        def forward(self, x):
            scale = (x.pow(2).mean(-1, keepdim=True) + 1e-3).rsqrt()
            shift = x.mean(1, keepdim=True)
            return (x * scale + shift * shift).sum(-1) / x.amax(-1)

    model, x = Broadcast(), image(2, 3, 3)[:, 0]
    close(rules.backward(model, x, score, rules.gradient(), model=model).values[0], autograd(model, x)[0])


def test_scores_are_recorded_like_the_model():
    model, x = stock.small_vgg(), picture("vgg")

    def margin(output):
        return output.log_softmax(1)[:, 0] - output[torch.arange(2), torch.tensor([1, 2])]

    found = rules.backward(model, x, margin, rules.gradient(), model=model)
    leaf = x.clone().requires_grad_()
    close(found.values[0], torch.autograd.grad(margin(model(leaf)).sum(), leaf)[0])


def test_mixed_types_are_cast_back():
    class Mixed(nn.Module):
        def forward(self, x):
            return (x.float() * torch.ones((), dtype=torch.float64) + x.double() ** 2).flatten(1)

    x = image()
    close(rules.backward(Mixed(), x, score, rules.gradient()).values[0], autograd(Mixed(), x)[0], 1e-6)


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn = getattr(nn, kind)(sequence.WIDTH, 4, bidirectional=True, batch_first=True)

        def forward(self, x):
            lengths = torch.tensor([5, 3, 2])
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1)

    for kind in ("LSTM", "GRU", "RNN"):
        model, x = stock.settle(Packed(kind)), sequence.sentences()
        close(rules.backward(model, x, score, rules.gradient(), model=model).values[0], autograd(model, x)[0])
