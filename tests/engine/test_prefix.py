"""Changed rows run from their first changed token on: the same figures as whole passes, or whole passes."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import pellucid as px
from nets import sequence
from nets.stock import settle
from pellucid.attribution import FeatureAblation, Occlusion, RepresentationErasure, ShapleySampling
from pellucid.engine import prefix

transformers = pytest.importorskip("transformers")

LENGTH, WORDS = sequence.LENGTH, sequence.WORDS
TOKENS = FeatureAblation(features="token")


def last(output: Tensor) -> Tensor:
    """The logit of one token to come."""
    return output[:, -1, 7]


def both(model, inputs, method=TOKENS, *, output="logits", **question):
    """The result asked from the first changed token on, after comparing it with that of whole passes."""
    whole = px.explain(px.Subject(model, output=output, plan=False), inputs, method, **question)
    found = px.explain(px.Subject(model, output=output, plan=True), inputs, method, **question)
    assert whole.source["path"] == "plain"
    pairs = zip(tensors(found.values), tensors(whole.values), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in pairs)
    assert any(bool(each.any()) for each in tensors(whole.values))
    for name, fact in whole.facts.items():
        assert torch.allclose(found.facts[name].double(), fact.double(), atol=1e-10), name
    return found


def tensors(values) -> list[Tensor]:
    """The tensors of values in any structure."""
    if isinstance(values, Tensor):
        return [values]
    return list(values.values()) if isinstance(values, dict) else [v for v in values if v is not None]


def classifier(attention: str = "sdpa") -> nn.Module:
    """A GPT-2-like classifier, which reads the last token that is no padding, token 0."""
    config = sequence.gpt(attention).config
    config.pad_token_id, config.num_labels = 0, 3
    return settle(transformers.GPT2ForSequenceClassification(config))


def llama() -> nn.Module:
    """A language model with rotary positions and fewer keys than queries."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=16, max_position_embeddings=16, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return settle(transformers.LlamaForCausalLM(config))


class Wrapped(nn.Module):
    """A module of the user's own around a language model: embeddings in, next logits out."""

    def __init__(self, mix: float = 0.0) -> None:
        super().__init__()
        self.inner, self.mix = sequence.gpt("sdpa"), mix

    def forward(self, vectors: Tensor) -> Tensor:
        vectors = vectors + self.mix * vectors.mean(1, keepdim=True)
        return self.inner(inputs_embeds=vectors).logits[:, -1]


class Mixer(nn.Module):
    """Adds the mean of all tokens, later ones too."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.01 * x.mean(1, keepdim=True).expand_as(x)


class Counted(nn.LayerNorm):
    """Counts the tokens it is given."""

    seen: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[0] * x.shape[1])
        return super().forward(x)


# --- the same figures ---


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", [TOKENS, Occlusion(window=(2, 8)), RepresentationErasure()])
def test_equal_to_whole_passes_at_embeddings_of_several_rows(attention, method):
    found = both(sequence.gpt(attention), sequence.token_ids(3), method, target=last, layer="transformer.wte")
    assert found.source["path"] == "prefix"


def test_equal_to_a_loop_over_the_network_itself():
    net, ids = sequence.gpt("sdpa"), sequence.token_ids(2)
    found = both(net, ids, target=last, layer="transformer.wte").values
    vectors = net.transformer.wte(ids).detach()
    for token in range(LENGTH):
        hidden = vectors.clone()
        hidden[:, token] = 0
        drop = last(net(inputs_embeds=vectors).logits) - last(net(inputs_embeds=hidden).logits)
        assert torch.allclose(found[:, token, 0], drop.detach(), atol=1e-10)


def test_only_the_tokens_from_the_first_changed_one_on_are_run():
    net = sequence.gpt("sdpa")
    net.transformer.ln_f = counted = Counted(8).double().eval()
    counted.load_state_dict(sequence.gpt().transformer.ln_f.state_dict())
    spent = {}
    for plan in (False, True):
        subject = px.Subject(net, output="logits", plan=plan)
        for _ in range(2):  # the first call also measures what a job takes
            Counted.seen.clear()
            px.explain(subject, sequence.token_ids(1), TOKENS, target=last, layer="transformer.wte")
            spent[plan] = sum(Counted.seen)
    # The target, the values of the layer, every token hidden, and the row as it is.
    assert spent[False] == LENGTH * (2 + LENGTH + 1)
    # The same two; the values again, keys and values, and two places compared, each by a whole pass and one from there
    # on; then suffixes of every length, and the row as it is from its last token.
    suffixes = sum(range(1, LENGTH + 1)) + 1
    assert spent[True] == LENGTH * (2 + 2 + 2) + (LENGTH - 1) + 1 + suffixes


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(attention, side):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[1, :2] = mask[2, :3] = 0
    mask = mask if side == "left" else mask.flip(1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": sequence.token_ids(3) * mask, "attention_mask": mask}
    for given in (inputs, {**inputs, "position_ids": places}):
        found = both(sequence.gpt(attention), given, target=last, layer="transformer.wte")
        assert found.source["path"] == "prefix"  # for the first row at least, which has no padding
        aim = {"target": 1, "layer": "transformer.wte"}
        assert both(classifier(attention), given, **aim).source["path"] == "prefix"


@pytest.mark.parametrize(
    ("attention", "side", "reused"),
    [
        ("sdpa", "left", [True, True]),
        ("sdpa", "right", [True, True]),
        ("eager", "right", [True, True]),
        # Padding on the left that sees nothing: this way of computing gives it all tokens alike, later ones too.
        ("eager", "left", [True, False]),
    ],
)
def test_every_row_is_judged_alone(monkeypatch, attention, side, reused):
    ways, row = [], prefix.Reuse.row

    def watched(self, *job):
        found = row(self, *job)
        ways.append(found is not None)
        return found

    monkeypatch.setattr(prefix.Reuse, "row", watched)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :2] = 0
    mask = mask if side == "left" else mask.flip(1)
    inputs = {"input_ids": sequence.token_ids(2) * mask, "attention_mask": mask}
    both(sequence.gpt(attention), inputs, target=last, layer="transformer.wte")
    assert ways == reused


def test_embeddings_as_the_inputs_with_a_mask_beside_them():
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    inputs = {"inputs_embeds": torch.randn(2, LENGTH, 8, dtype=torch.float64), "attention_mask": mask}
    assert both(sequence.gpt(), inputs, target=lambda out: out[:, 4, 3]).source["path"] == "prefix"


def test_rotary_positions_and_shared_keys():
    aim = {"target": last, "layer": "model.embed_tokens"}
    assert both(llama(), sequence.token_ids(2), **aim).source["path"] == "prefix"


def test_a_layer_in_the_middle():
    aim = {"target": last, "layer": "transformer.h.0.mlp"}
    assert both(sequence.gpt("sdpa"), sequence.token_ids(2), **aim).source["path"] == "prefix"


@pytest.mark.parametrize("output", ["logits", 0, lambda out: out.logits, lambda out: out.logits[:, 2:]])
def test_any_way_to_pick_the_output(output):
    aim = {"target": last, "layer": "transformer.wte", "output": output}
    assert both(sequence.gpt("sdpa"), sequence.token_ids(1), **aim).source["path"] == "prefix"


def test_a_language_model_inside_a_module_of_ones_own():
    vectors = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    found = both(settle(Wrapped()), vectors, output=None, target=3)
    assert found.source["path"] == "prefix"


def test_what_comes_after_the_token_read_is_exactly_nothing():
    net, aim = sequence.gpt("sdpa"), {"target": lambda out: out[:, 2, 4], "layer": "transformer.wte"}
    values = both(net, sequence.token_ids(2), **aim).values
    assert not values[:, 3:].any()
    assert values[:, :3].any()


def test_chunks_do_not_matter():
    net, ids = sequence.gpt("sdpa"), sequence.token_ids(2)
    subject, aim = px.Subject(net, output="logits", plan=True), {"target": last, "layer": "transformer.wte"}
    large = px.explain(subject, ids, TOKENS, **aim)
    small = px.explain(subject, ids, TOKENS, memory=60_000, **aim)
    assert small.source["path"] == "prefix"
    assert torch.allclose(small.values, large.values, rtol=0, atol=1e-12)


def test_games_of_many_features():
    net, ids = sequence.gpt("sdpa"), sequence.token_ids(2)
    aim = {"target": last, "layer": "transformer.wte"}
    both(net, ids, "shapley-value", **aim)
    found = both(net, ids, ShapleySampling(features="token", walks=4), **aim)
    assert found.source["path"] == "prefix"


# --- whole passes where nothing else is right ---


def test_a_network_that_looks_both_ways_takes_whole_passes():
    aim = {"target": 1, "layer": "bert.embeddings.word_embeddings"}
    assert both(sequence.bert("sdpa"), sequence.token_ids(2), **aim).source["path"] == "plain"


def test_a_network_that_only_says_it_is_causal_is_found_out():
    net, ids = sequence.gpt("sdpa"), sequence.token_ids(2)
    net.transformer.h[0].mlp = Mixer().eval()
    assert both(net, ids, target=last, layer="transformer.wte").source["path"] == "plain"


def test_a_module_that_mixes_tokens_before_the_language_model_is_found_out():
    vectors = torch.randn(2, LENGTH, 8, dtype=torch.float64)
    assert both(settle(Wrapped(mix=0.1)), vectors, output=None, target=3).source["path"] != "prefix"


def test_the_users_own_hooks_see_whole_rows():
    net, seen = sequence.gpt("sdpa"), set()
    net.transformer.h[1].register_forward_hook(lambda module, args, out: seen.add(args[0].shape[1]))
    assert both(net, sequence.token_ids(2), target=last, layer="transformer.wte").source["path"] == "plain"
    assert seen == {LENGTH}


def test_a_hidden_unit_takes_whole_passes():
    aim = {"target": px.unit("transformer.h.1.mlp", (2, 3)), "layer": "transformer.wte"}
    assert both(sequence.gpt("sdpa"), sequence.token_ids(2), **aim).source["path"] == "plain"


# --- where it is predicted to pay, and no trace ---


def test_chosen_where_it_pays():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=64, n_embd=128, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    net = settle(transformers.GPT2LMHeadModel(config))
    ids = torch.randint(1, WORDS, (1, 64), generator=torch.Generator().manual_seed(0))
    aim = {"target": last, "layer": "transformer.wte"}
    subject = px.Subject(net, output="logits")
    assert px.explain(subject, ids, TOKENS, **aim).source["path"] == "prefix"
    # Coalitions of tokens drawn at random nearly always lack one of the first.
    games = px.explain(subject, ids, ShapleySampling(features="token", walks=2), **aim)
    assert games.source["path"] == "plain"
    # Networks whose calls take longer than their work gain nothing.
    tiny = px.Subject(sequence.gpt("sdpa"), output="logits")
    assert px.explain(tiny, sequence.token_ids(1), TOKENS, **aim).source["path"] == "plain"


def test_no_trace_is_left():
    net, ids = sequence.gpt("sdpa"), sequence.token_ids(2)
    net.config.use_cache = False
    before, state = net.config.to_dict(), {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    assert both(net, ids, target=last, layer="transformer.wte").source["path"] == "prefix"
    assert net.config.to_dict() == before
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert net(ids).past_key_values is None
