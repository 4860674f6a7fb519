"""DeepLIFT on whole networks: the sum kept, however they are spelt, row by row and from every layer."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.attribution import DeepLIFT, RevealCancel

RULES = (DeepLIFT(), RevealCancel())


def values(model, x, method="deeplift", **how):
    how.setdefault("target", 0)
    return px.explain(model, x, method, **how).values


# --- conservation ---


def closed(model, x, method, limit=1e-9, **how):
    found = px.explain(model, x, method, target=lambda out: getattr(out, "logits", out).flatten(1)[:, 1], **how)
    assert found.facts["relative_gap"].max() <= limit
    assert found.source["ledger"] == []
    total = found.values.flatten(1).sum(1)
    assert torch.allclose(total, found.facts["score"] - found.facts["baseline_score"], rtol=1e-8)
    return found


@pytest.mark.parametrize("name", stock.SMALL)
@pytest.mark.parametrize("method", RULES)
def test_conserved_on_images(name, method):
    side = stock.SIDES.get(name, 16)
    closed(stock.SMALL[name]("mixed"), image(2, 3, side), method, data=image(2, 3, side, seed=5))
    closed(stock.SMALL[name]("mixed"), image(2, 3, side), method)


@pytest.mark.parametrize("name", sequence.FLOAT)
@pytest.mark.parametrize("method", RULES)
def test_conserved_on_sequences(name, method):
    closed(sequence.FLOAT[name](), sequence.sentences(), method, data=sequence.sentences(seed=9))
    closed(sequence.FLOAT[name](), sequence.sentences(), method)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "place"), [("bert", "bert.embeddings.word_embeddings"), ("gpt", "transformer.wte")])
@pytest.mark.parametrize("method", RULES)
def test_conserved_on_tokens(kind, place, attention, method):
    model = px.Subject(getattr(sequence, kind)(attention), output="logits")
    ids = {"input_ids": sequence.token_ids()}
    closed(model, ids, method, layer=place, data={"input_ids": sequence.token_ids(seed=5)})
    closed(model, ids, method, layer=place)


# --- spelling ---


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_agrees(spelling):
    want, got = (values(Spelt(relu), image(), data=image(seed=7)) for relu in (nn.ReLU(), SPELLINGS[spelling]))
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


IN_PARTS = {"slices-in-place", "view-in-place"}  # written in place into a part of a tensor: the Rescale rule there


@pytest.mark.parametrize("spelling", sorted(SPELLINGS.keys() - IN_PARTS))
def test_every_spelling_agrees_on_what_cancels(spelling):
    args = {"method": RevealCancel(), "data": image(seed=7)}
    want, got = (values(Spelt(relu), image(), **args) for relu in (nn.ReLU(), SPELLINGS[spelling]))
    assert (got - want).abs().max() <= 1e-10 * want.abs().max()


def test_contributions_pass_batch_norm_reshaping_and_bias():
    """Batch norm folded into the layer before it, with negative scales, gives the same as apart."""
    linear, norm, head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
    apart = stock.settle(nn.Sequential(linear, nn.Unflatten(1, (6, 1)), nn.Flatten(), norm, nn.ReLU(), head))
    with torch.no_grad():
        norm.weight[::2] *= -1
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), head).double().eval()
    with torch.no_grad():
        folded[0].weight.copy_(scale[:, None] * linear.weight)
        folded[0].bias.copy_(scale * (linear.bias - norm.running_mean) + norm.bias)
    x = image(3, 1, 2).flatten(1)
    assert torch.allclose(values(apart, x, RevealCancel()), values(folded, x, RevealCancel()), rtol=1e-10)


def test_two_weights_that_add_up_are_one_layer():
    """W [x, h] as one product or as two that are added: contributions to the sum are the same."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(2, 5), nn.Linear(2, 5, bias=False), nn.Linear(5, 2)

        def forward(self, x):
            return self.head((self.a(x[:, :2]) + self.b(x[:, 2:])).relu())

    two = stock.settle(Two())
    one = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), two.head).double().eval()
    with torch.no_grad():
        one[0].weight.copy_(torch.cat([two.a.weight, two.b.weight], 1))
        one[0].bias.copy_(two.a.bias)
    x = image(3, 1, 2).flatten(1)
    assert torch.allclose(values(two, x, RevealCancel()), values(one, x, RevealCancel()), rtol=1e-10)


# --- rows, places, references ---


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("name", ["resnet", "vit", "swin"])
def test_rows_do_not_see_each_other(name, method):
    model, side = stock.SMALL[name]("module"), stock.SIDES.get(name, 16)
    x = image(3, 3, side)
    together = values(model, x, method)
    alone = torch.cat([values(model, x[n : n + 1], method) for n in range(3)])
    assert (together - alone).abs().max() <= 1e-11 * together.abs().max()


@pytest.mark.parametrize("method", RULES)
def test_at_a_layer_only_what_passes_it_changes(method):
    """The reference run is the row's own with the reference put in at the layer; the branch beside it stays."""

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.head = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.act(self.first(x)) * x)

    model, x = stock.settle(Beside()), image(3, 1, 2).flatten(1)
    hidden, base = model.act(model.first(x)), model.act(model.first(torch.zeros_like(x)))
    got = px.explain(model, x, method, layer="act", target=1)
    assert torch.allclose(got.values, model.head.weight[1] * x * (hidden - base), rtol=1e-10)
    assert got.facts["relative_gap"].max() <= 1e-9


PLACES = ("conv1", "bn1", "relu", "maxpool", "layer1.0.relu#2", "layer2.0.conv2", "layer2.0.downsample.0", "avgpool")


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("place", PLACES)
def test_conserved_from_every_layer(place, method):
    """What follows a place may work in place on its value; a residual branch beside it stays as it is."""
    closed(stock.small_resnet("inplace"), image(2, 3, 16), method, layer=place)
