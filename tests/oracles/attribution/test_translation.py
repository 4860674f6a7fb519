"""Relevance in a translator: gradient × input of a twin whose weights are frozen, planted alignments, conservation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pellucid as px
from nets import translation as nets
from nets.stock import settle
from pellucid.attribution import TranslationLRP
from pellucid.contract.errors import InputError, MethodError, TargetError

MIRROR = torch.arange(nets.LENGTH).flip(0)


@pytest.fixture(scope="module")
def reader():
    return nets.trained()


def sentences(rows, seed=10_000):
    return nets.sentences(rows, seed)


# --- a twin: the same values, but every ratio and gate is a constant, so that relevance is gradient × input ---


def ratio(part, whole):
    """The value of `whole`, as a constant times `part`: all of whole's relevance goes to `part`."""
    return part * torch.where(part == 0, 0.0, whole / part).detach()


class Twin:
    def __init__(self, net, gates, biases):
        self.net, self.gates, self.biases = net, gates, biases

    def linear(self, x, weight, bias):
        part = x @ weight.T
        return ratio(part, part + bias) if self.biases == "shared" and x.requires_grad else part + bias

    def plus(self, a, b):
        """A sum; where biases are shared, a summand that does not depend on any word keeps nothing."""
        if self.biases == "shared" and not (a.requires_grad and b.requires_grad):
            return ratio(a if a.requires_grad else b, a + b)
        return a + b

    def gate(self, z, h):
        """z ∘ h."""
        if self.gates == "half":
            return (z * h.detach() + z.detach() * h) / 2
        return ratio(z + h, z * h) if self.gates == "values" else z.detach() * h

    def bent(self, x, function):
        return ratio(x, function(x))

    def cell(self, x, h, w_x, w_h, b_x, b_h):
        into, back = self.linear(x, w_x, b_x).chunk(3, -1), self.linear(h, w_h, b_h).chunk(3, -1)
        r, z = (self.bent(self.plus(back[k], into[k]), torch.sigmoid) for k in range(2))
        n = self.bent(self.plus(into[2], self.gate(r, back[2])), torch.tanh)
        return self.gate(z, h - n) + n

    def layer(self, module, x):
        return self.linear(x, module.weight, module.bias)

    def encode(self, words):
        e, ways = self.net.encoder, []
        for way in ("", "_reverse"):
            weights = [
                getattr(e, f"{name}_l0{way}").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            h, seen = torch.zeros(16).double(), []
            for x in words if not way else words.flip(0):
                h = self.cell(x, h, *weights)
                seen.append(h)
            ways.append(torch.stack(seen if not way else seen[::-1]))
        return torch.cat(ways, 1)

    def logits(self, words, before):
        """(steps, vocabulary) of one sentence, from word vectors."""
        net, states = self.net, self.encode(words)
        cell = [getattr(net.cell, name).detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        state, found = self.bent(self.layer(net.begin, states[0, 16:]), torch.tanh), []
        for word in before:
            scores = net.energy((net.key(states) + net.query(state)).tanh())
            seen = (scores.softmax(0).detach() * states).sum(0)
            state = self.cell(torch.cat([word, seen]), state, *cell)
            hidden = self.layer(net.readout, torch.cat([state, word, seen])).view(-1, 2).amax(1)
            found.append(self.layer(net.out, hidden))
        return torch.stack(found)


def by_hand(net, source, prefix, gates, biases):
    """(S, T) and (T, T) relevances of one sentence, and the logits that are explained."""
    words, before = (emb(ids).detach().requires_grad_() for emb, ids in ((net.source, source), (net.target, prefix)))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    logits = Twin(net, gates, biases).logits(words, before)
    best = logits.amax(1)
    columns = [torch.autograd.grad(score, (words, before), retain_graph=True) for score in best]
    first, second = zip(*columns, strict=True)
    return (
        torch.stack([(words * g).sum(1) for g in first], 1).detach(),
        torch.stack([(before * g).sum(1) for g in second], 1).detach(),
        best.detach(),
    )


@pytest.mark.parametrize("biases", ["kept", "shared"])
@pytest.mark.parametrize("gates", ["constant", "half", "values"])
def test_gradient_times_input_of_the_frozen_twin(gates, biases):
    net, (source, prefix, _) = settle(nets.Translator()), sentences(2)
    result = px.explain(net, (source, prefix), TranslationLRP(epsilon=0.0, gates=gates, biases=biases))
    for row in range(2):
        of_source, of_target, best = by_hand(net, source[row], prefix[row], gates, biases)
        scale = of_source.abs().max()
        assert torch.allclose(net(source[row : row + 1], prefix[row : row + 1])[0].amax(1), best)
        assert torch.allclose(result.values[0][row], of_source, rtol=1e-6, atol=float(1e-9 * scale))
        assert torch.allclose(result.values[1][row], of_target, rtol=1e-6, atol=float(1e-9 * scale))
        assert result.facts["score"][row] == pytest.approx(float(best.sum()))


def test_a_ratio_with_its_stabiliser():
    net = nn.Linear(2, 2)
    net.weight.data, net.bias.data = torch.tensor([[2.0, -3.0], [1.0, 1.0]]), torch.tensor([5.0, 5.0])
    words = torch.tensor([[[1.0, 2.0]]]).double()
    for biases, z in (("shared", -4.0), ("kept", 1.0)):
        method = TranslationLRP(epsilon=0.5, biases=biases)
        got = px.explain(net.double().eval(), words, method, target=0)
        stabilised = z + (0.5 if z > 0 else -0.5)
        assert got.values.tolist() == [[[pytest.approx((2.0 - 6.0) / stabilised * 1.0)]]]  # times the logit, 1
        assert got.facts["absorbed_stabiliser"].tolist() == [pytest.approx((stabilised - z) / stabilised)]
        assert got.facts["absorbed_bias"].tolist() == [pytest.approx(0.0 if biases == "shared" else 5 / 1.5)]


# --- planted alignments ---


def test_hand_set_weights_give_the_planted_matrix_exactly():
    net, (source, prefix, translated) = nets.planted(), sentences(4)
    logits = net(source, prefix)
    assert torch.equal(logits.argmax(2), translated)
    result = px.explain(net, (source, prefix), TranslationLRP(epsilon=0.0))
    planted = torch.zeros(4, nets.LENGTH, nets.LENGTH).double()
    planted[:, MIRROR, torch.arange(nets.LENGTH)] = logits.amax(2).detach()
    assert torch.allclose(result.values[0], planted, atol=1e-12)
    assert torch.equal(result.values[1], torch.zeros(4, nets.LENGTH, nets.LENGTH).double())
    assert result.facts["conserved"].all()


def test_a_trained_reverser_shows_its_alignment(reader):
    source, prefix, translated = sentences(40)
    result = px.explain(reader, (source, prefix), "lrp-nmt")
    words = torch.tensor(result.source["explained_words"])
    assert (words == translated).double().mean() > 0.98
    assert (result.values[0].argmax(1) == MIRROR).double().mean() > 0.98
    # the word it points at is the one whose replacement costs most
    logits = reader(source, prefix)
    drops = torch.zeros(40, nets.LENGTH, nets.LENGTH).double()
    for place in range(nets.LENGTH):
        for word in range(1, nets.WORDS):
            changed = source.clone()
            changed[:, place] = word
            drops[:, place] += (logits - reader(changed, prefix)).gather(2, words[..., None])[..., 0].detach()
    assert (drops.argmax(1) == result.values[0].argmax(1)).double().mean() > 0.98


def test_ratios_by_value_are_noise_where_they_cancel(reader):
    source, prefix, _ = sentences(10)
    sizes = {}
    for gates in ("constant", "values"):
        found = px.explain(reader, (source, prefix), TranslationLRP(gates=gates))
        sizes[gates] = (found.values[0].abs().sum((1, 2)) / found.facts["score"]).median()
    assert sizes["constant"] < 10 < 100 < sizes["values"]


# --- what sums to what ---


def test_values_sum_to_each_words_logit(reader):
    source, prefix, _ = sentences(6)
    logits = reader(source, prefix).amax(2).detach()
    whole = px.explain(reader, (source, prefix), TranslationLRP(epsilon=0.0, biases="shared"))
    assert torch.allclose(whole.values[0].sum(1) + whole.values[1].sum(1), logits, rtol=1e-6)
    assert whole.facts["conserved"].all()
    kept = px.explain(reader, (source, prefix), "lrp-nmt")
    absorbed = sum(v for k, v in kept.facts.items() if k.startswith("absorbed_"))
    assert torch.allclose(kept.facts["relevance_sum"] + absorbed, logits.sum(1), rtol=1e-9)
    assert torch.allclose(kept.facts["score"], logits.sum(1))
    gap = (kept.values[0].sum(1) + kept.values[1].sum(1) - logits).abs().amax(1)
    assert torch.allclose(kept.facts["conservation_gap"], gap, rtol=1e-6)


def test_words_not_yet_written_have_no_relevance(reader):
    source, prefix, _ = sentences(3)
    values = px.explain(reader, (source, prefix), "lrp-nmt").values[1]
    steps = torch.arange(nets.LENGTH)
    assert not values[:, steps[:, None] > steps].any()
    assert values[:, steps, steps].all()  # the word just read counts


def test_chosen_words_vectors_and_batches(reader):
    source, prefix, _ = sentences(4)
    chosen = px.explain(reader, (source, prefix), "lrp-nmt", target=[3, -1, 5, 2])
    assert chosen.source["explained_words"] == [[w] * nets.LENGTH for w in (3, 8, 5, 2)]
    logits = reader(source, prefix).detach()
    assert chosen.facts["score"].tolist() == pytest.approx(
        [float(logits[i, :, w].sum()) for i, w in enumerate((3, 8, 5, 2))]
    )
    whole = px.explain(reader, (source, prefix), "lrp-nmt")
    small = px.explain(reader, (source, prefix), "lrp-nmt", memory=200_000)
    one = px.explain(reader, (source[2:3], prefix[2:3]), "lrp-nmt")
    for k in range(2):
        assert torch.allclose(whole.values[k][2:3], one.values[k], atol=1e-10)
        assert torch.allclose(whole.values[k], small.values[k], atol=1e-10)

    class FromVectors(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = reader

        def forward(self, words, before):
            return self.net.decode(words, before)

    vectors = (reader.source(source).detach(), reader.target(prefix).detach())
    again = px.explain(FromVectors().eval(), vectors, "lrp-nmt")
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(again.values, whole.values, strict=True))
    single = px.explain(reader, (source, prefix), "lrp-nmt", target=lambda out: out[:, 2].amax(1))
    assert torch.allclose(single.values[0][:, :, 0], whole.values[0][:, :, 2], atol=1e-10)


def test_hidden_states_are_explained_and_explain(reader):
    source, prefix, _ = sentences(3)
    method = TranslationLRP(epsilon=0.0, biases="shared")
    state = px.explain(reader, (source, prefix), method, target=px.unit("cell#3", (), "sum"))
    assert state.values[0].shape == (3, nets.LENGTH, 1)
    assert torch.allclose(state.values[0].sum((1, 2)) + state.values[1].sum((1, 2)), state.facts["score"], rtol=1e-6)
    assert not state.values[1][:, 3:].any()
    of_states = px.explain(reader, (source, prefix), method, layer="encoder").values
    words = px.explain(reader, (source, prefix), method).values
    assert of_states.shape == (3, nets.LENGTH, nets.LENGTH)
    assert torch.allclose(of_states.sum(1), words[0].sum(1), rtol=1e-6, atol=1e-6)  # all of the source passes them
    cell = px.explain(reader, (source, prefix), method, layer="cell#2").values
    assert cell.shape == (3, nets.LENGTH)
    assert not cell[:, 0].any()


def test_a_library_encoder_decoder():
    transformers = pytest.importorskip("transformers")
    config = transformers.BartConfig(
        vocab_size=11, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    net = settle(transformers.BartForConditionalGeneration(config))
    ids, before = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[2, 7, 8]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": before}
    result = px.explain(px.Subject(net, output="logits"), inputs, "lrp-nmt")
    assert {k: tuple(v.shape) for k, v in result.values.items()} == {
        "input_ids": (1, 4, 3),
        "decoder_input_ids": (1, 3, 3),
    }
    total = sum(v.sum() for v in result.values.values())
    absorbed = sum(v for k, v in result.facts.items() if k.startswith("absorbed_"))
    assert float(total + absorbed) == pytest.approx(float(result.facts["score"]), rel=1e-6)
    steps = torch.arange(3)
    assert not result.values["decoder_input_ids"][0][steps[:, None] > steps].any()


# --- refusals ---


def test_refusals():
    net, (source, prefix, _) = nets.planted(), sentences(1)
    for settings in ({"gates": "open"}, {"biases": "none"}, {"epsilon": -1.0}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(net, (source, prefix), TranslationLRP(**settings))
    with pytest.raises(TargetError, match="from 0 to 8"):
        px.explain(net, (source, prefix), "lrp-nmt", target=9)
    with pytest.raises(InputError, match="rows, words, dimensions"):
        px.explain(nn.Linear(3, 2).eval(), torch.rand(2, 3), "lrp-nmt")

    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, ids):
            return self.embedding(ids + 1)

    with pytest.raises(InputError, match="enter embeddings"):
        px.explain(Copies().eval(), source[:, :3].clamp(max=7), "lrp-nmt")
