"""Words: slopes against weights and differences, erasure against closed forms and captum, omission against averages."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets import sequence
from pellucid.attribution import RepresentationErasure, WordGradientSaliency
from pellucid.contract.errors import InputError, MethodError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Bag(nn.Module):
    """The sum of the words' embeddings, then a linear head: a bag of words; ids from `unused` on play no part."""

    def __init__(self, words=7, width=4, classes=3, unused=6):
        super().__init__()
        self.embedding, self.head = nn.Embedding(words, width), nn.Linear(width, classes)
        self.unused = unused
        self.double().eval()
        for k, p in enumerate(self.parameters()):
            p.data = rows(*p.shape, seed=10 + k)

    def forward(self, ids):
        used = (ids < self.unused)[..., None]
        return self.head((self.embedding(ids) * used).sum(1))


IDS = torch.tensor([[1, 2, 1, 6], [5, 0, 3, 2]])
BAG = Bag()

# --- slopes ---


def test_the_slope_of_a_bag_of_words_is_the_weight_and_zero_for_unused_words():
    got = px.explain(BAG, IDS, "word-gradient-saliency", target=2, layer="embedding").values
    want = BAG.head.weight[2].abs().detach().expand(2, 4, 4) * (IDS < 6)[..., None]
    assert torch.allclose(got, want, atol=1e-15)
    for name, figure in (("norm", want.norm(dim=2)), ("mean", want.mean(2)), ("sum", want.sum(2))):
        words = px.explain(BAG, IDS, WordGradientSaliency(words=name), target=2, layer="embedding").values
        assert torch.allclose(words, figure[..., None], atol=1e-15)


@pytest.mark.parametrize("name", ["lstm", "encoder"])
def test_slopes_agree_with_central_differences(name):
    model, x, step = sequence.FLOAT[name](), sequence.sentences(), 1e-6
    got = px.explain(model, x, "word-gradient-saliency", target=1).values
    for index in [(0, 0, 0), (1, 4, 3), (2, 2, 7)]:
        up, down = x.clone(), x.clone()
        up[index] += step
        down[index] -= step
        slope = (model(up) - model(down))[index[0], 1] / (2 * step)
        assert abs(slope.abs() - got[index]) < 1e-8


def test_variance_is_the_distance_from_the_mean_word():
    x = rows(2, 5, 8)
    got = px.explain(sequence.FLOAT["lstm"](), x, WordGradientSaliency(measure="variance", words="sum"), target=0)
    for i in range(2):
        for t in range(5):
            want = (x[i, t] - sum(x[i, j] for j in range(5)) / 5).square().sum()
            assert abs(got.values[i, t, 0] - want) < 1e-13


def test_what_has_no_words_is_refused():
    for inputs, layer in ((IDS, None), (IDS, "head")):
        with pytest.raises(InputError, match="embedding"):
            px.explain(BAG, inputs, "word-gradient-saliency", layer=layer)
    for settings in ({"measure": "size"}, {"words": "all"}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(BAG, IDS, WordGradientSaliency(**settings), layer="embedding")


# --- erasure ---

LINEAR = nn.Linear(5, 3).double().eval()
LINEAR.weight.data, LINEAR.bias.data = rows(3, 5, seed=4), rows(3, seed=5)
LINEAR.weight.data[:, 4] = 0
TABLE = rows(3, 5)


def log_chance(x, k):
    z = LINEAR.weight @ x + LINEAR.bias
    return float((z[k] - torch.log(torch.exp(z).sum())).detach())


@pytest.mark.parametrize("relative", [True, False])
def test_erasure_of_a_linear_model_in_closed_form(relative):
    got = px.explain(LINEAR, TABLE, RepresentationErasure(relative=relative), target=1)
    for i in range(3):
        whole = log_chance(TABLE[i], 1)
        for j in range(5):
            erased = TABLE[i].clone()
            erased[j] = 0
            want = (whole - log_chance(erased, 1)) / (abs(whole) if relative else 1)
            assert abs(got.values[i, j] - want) < 1e-12
        assert abs(got.facts["score"][i] - whole) < 1e-12
    assert not got.values[:, 4].any()  # a unit without weight


def test_what_supports_is_positive_and_what_opposes_is_negative():
    model = nn.Linear(2, 2, bias=False).double().eval()
    model.weight.data = torch.tensor([[2.0, -1.0], [0.0, 0.0]], **DOUBLE)
    got = px.explain(model, torch.ones(1, 2, **DOUBLE), "representation-erasure", target=0).values
    assert got[0, 0] > 0 > got[0, 1]


def test_difference_equals_captum():
    captum = pytest.importorskip("captum.attr")
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    method = RepresentationErasure(relative=False)

    def likelihood(x):
        return torch.log_softmax(model(x), 1)

    want = captum.FeatureAblation(likelihood).attribute(TABLE, target=2)
    assert torch.allclose(px.explain(model, TABLE, method, target=2).values, want, atol=1e-12)
    hidden = captum.FeatureAblation(lambda h: torch.log_softmax(model[2](h), 1))
    want = hidden.attribute(model[:2](TABLE).detach(), target=2)
    assert torch.allclose(px.explain(model, TABLE, method, target=2, layer="1").values, want, atol=1e-12)


def test_erasing_a_word_of_a_bag_changes_the_logit_by_its_weight():
    method = RepresentationErasure(relative=False)
    got = px.explain(BAG, IDS, method, target=lambda out: out[:, 1], layer="embedding").values
    weight = (BAG.embedding(IDS) @ BAG.head.weight[1]).detach() * (IDS < 6)
    assert torch.allclose(got, weight[..., None].expand(2, 4, 4), atol=1e-13)


def test_erasing_a_dimension_takes_it_from_every_word():
    method = RepresentationErasure(erase="dimension", relative=False)
    got = px.explain(BAG, IDS, method, target=0, layer="embedding").values
    for d in range(4):
        erased = BAG.embedding(IDS).detach().clone()
        erased[..., d] = 0
        logits = BAG.head((erased * (IDS < 6)[..., None]).sum(1))
        want = (torch.log_softmax(BAG(IDS), 1) - torch.log_softmax(logits, 1))[:, 0]
        assert torch.allclose(got[:, :, d], want[:, None].expand(2, 4).detach(), atol=1e-13)


def test_probabilities_and_logits_give_the_same():
    chances = nn.Sequential(LINEAR, nn.Softmax(1)).eval()
    want = px.explain(LINEAR, TABLE, "representation-erasure").values
    got = px.explain(chances, TABLE, RepresentationErasure(output="probabilities")).values
    assert torch.allclose(got, want, atol=1e-12)
    logs = nn.Sequential(LINEAR, nn.LogSoftmax(1)).eval()
    assert torch.allclose(px.explain(logs, TABLE, "representation-erasure").values, want, atol=1e-12)


def test_channels_of_a_map_are_units():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model, x = model.double().eval(), rows(2, 1, 6, 6)
    got = px.explain(model, x, RepresentationErasure(relative=False), target=0, layer="1").values
    for c in range(3):
        hidden = model[:2](x).detach().clone()
        hidden[:, c] = 0
        want = functional.log_softmax(model(x), 1)[:, 0] - functional.log_softmax(model[2:](hidden), 1)[:, 0]
        assert torch.allclose(got[:, c], want[:, None, None].expand(2, 4, 4).detach(), atol=1e-13)
    for settings in ({"erase": "letter"}, {"output": "classes"}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(LINEAR, TABLE, RepresentationErasure(**settings))


def test_an_impossible_class_is_told():
    sure = nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)).double().eval()
    sure[0].weight.data, sure[0].bias.data = torch.tensor([[900.0, 0.0], [-900.0, 0.0]], **DOUBLE), rows(2) * 0
    got = px.explain(sure, torch.ones(1, 2, **DOUBLE), RepresentationErasure(output="probabilities"), target=1)
    assert bool(torch.isfinite(got.values).all())
