"""Relevance of one rule for all layers against loops written by hand, conservation, and what is kept and where."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.attribution import AlphaBetaLRP, EpsilonLRP, GammaLRP
from pellucid.contract.errors import MethodError, UnsupportedOperation

KINDS = ("bias", "stabiliser", "rule", "gate", "elsewhere")


def rows(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None).double().eval()
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


def closes(result, within=1e-9):
    facts = result.facts
    kept = sum(facts[f"absorbed_{kind}"] for kind in KINDS)
    size = torch.stack([facts["score"].abs(), *(facts[f"absorbed_{kind}"].abs() for kind in KINDS)]).amax(0)
    assert ((facts["relevance_sum"] + kept - facts["score"]).abs() <= within * size).all()
    total = {kind: sum(e["amount"] for e in result.source["ledger"] if e["kind"] == kind) for kind in KINDS[:4]}
    for kind, amount in total.items():
        assert amount == pytest.approx(float(facts[f"absorbed_{kind}"].sum()), abs=1e-9 * float(size.max()))


def without_biases(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.zero_()
        for m in model.modules():
            if getattr(m, "running_mean", None) is not None:
                m.running_mean.zero_()
    return model


# --- one layer, by hand ---


def test_epsilon_of_one_layer_by_hand():
    # z = 1·2 + 2·(-3) + 1 = -3, ε = 0.5: R_i = z_i / (z - 0.5) · z
    result = px.explain(dense([[2.0, -3.0]], [1.0]), torch.tensor([[1.0, 2.0]]).double(), EpsilonLRP(epsilon=0.5))
    assert result.values[0].tolist() == pytest.approx([2 / -3.5 * -3, -6 / -3.5 * -3])
    assert result.facts["absorbed_bias"].item() == pytest.approx(1 / -3.5 * -3)
    assert result.facts["absorbed_stabiliser"].item() == pytest.approx(-0.5 / -3.5 * -3)
    assert result.facts["conserved"].item() == 0


def test_smallest_denominator_is_told():
    model = nn.Sequential(dense([[1.0, 1.0], [1.0, -0.999]]), nn.ReLU(), dense([[1.0, 1.0]])).eval()
    x = torch.ones(1, 2).double()
    result = px.explain(model, x, EpsilonLRP(epsilon=0.0))
    assert result.facts["smallest_denominator"].item() == pytest.approx(0.001)
    assert result.facts["conserved"].item() == 1
    cancelled = px.explain(dense([[1.0, -1.0]]), x, EpsilonLRP(epsilon=0.0))
    assert cancelled.values.isfinite().all()


def test_alpha_beta_of_one_layer_by_hand():
    # parts (2, -6), bias 1: positive 3, negative -6; score -3
    result = px.explain(dense([[2.0, -3.0]], [1.0]), torch.tensor([[1.0, 2.0]]).double(), AlphaBetaLRP(stabiliser=0.0))
    assert result.values[0].tolist() == pytest.approx([2 * 2 / 3 * -3, -1 * 1 * -3])
    assert result.facts["absorbed_bias"].item() == pytest.approx(2 * 1 / 3 * -3)


def test_inputs_below_zero_excite_through_negative_weights():
    # parts (-1)(-4) = 4 and 2·1 = 2 excite with the bias 1, (-2)·3 = -6 inhibits; the score is 1
    moved = px.explain(
        dense([[-4.0, 1.0, 3.0]], [1.0]), torch.tensor([[-1.0, 2.0, -2.0]]).double(),
        AlphaBetaLRP(alpha=3.0, beta=2.0, stabiliser=0.0),
    )  # fmt: skip
    assert moved.values[0].tolist() == pytest.approx([3 * 4 / 7, 3 * 2 / 7, -2.0])


def test_a_missing_part_doubles_relevance_and_is_told():
    # Bach et al.: with parts (1, 2) alone there is nothing to inhibit, and α = 2 passes on 2 R
    result = px.explain(dense([[1.0, 2.0]]), torch.ones(1, 2).double(), AlphaBetaLRP(stabiliser=1e-12))
    assert result.values[0].tolist() == pytest.approx([2.0, 4.0])
    assert result.facts["conservation_gap"].item() == pytest.approx(3.0)
    assert result.facts["absorbed_rule"].item() == pytest.approx(-3.0)
    assert result.facts["conserved"].item() == 0
    (entry,) = result.source["ledger"]
    assert (entry["operation"], entry["kind"]) == ("aten.mm", "rule")
    assert entry["amount"] == pytest.approx(-3.0)


@pytest.mark.parametrize("method", [AlphaBetaLRP(), AlphaBetaLRP(alpha=1.0, beta=0.0), GammaLRP(gamma=0.3)])
def test_a_convolution_equals_the_matrix_it_is(method):
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1).double().eval()
    conv.weight.data, conv.bias.data = rows(3, 2, 3, 3), rows(3, seed=2)
    x = rows(2, 2, 5, 5, seed=3)
    basis = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    matrix = (conv(basis) - conv(torch.zeros(1, 2, 5, 5).double())).flatten(1).T.detach()
    twin = nn.Linear(50, matrix.shape[0]).double().eval()
    twin.weight.data, twin.bias.data = matrix, conv.bias.data.repeat_interleave(9)

    def target(out):
        return out.flatten(1)[:, 4] - 2 * out.flatten(1)[:, 13]

    got = px.explain(conv, x, method, target=target).values
    want = px.explain(twin, x.flatten(1), method, target=target).values
    assert torch.allclose(got.flatten(1), want, rtol=1e-9, atol=1e-12)


# --- two layers, loops ---


def loop(model, x, method):
    """Relevance of a dense rectifier network neuron by neuron, from the formulas."""
    first, second = model[0], model[2]
    maps = []
    for row in x:
        hidden = (first.weight @ row + first.bias).clamp(min=0)
        score = second.weight[1] @ hidden + second.bias[1]
        upper = method(hidden, second.weight[1], second.bias[1], score)
        maps.append(sum(method(row, first.weight[k], first.bias[k], upper[k]) for k in range(len(hidden))))
    return torch.stack(maps).detach()


def by_epsilon(x, w, b, relevance, epsilon=1e-6):
    z = (x * w).sum() + b
    return x * w / (z + (epsilon if z >= 0 else -epsilon)) * relevance


def by_alpha_beta(x, w, b, relevance, alpha=2.0, beta=1.0, epsilon=1e-6):
    above, below = (x * w).clamp(min=0), (x * w).clamp(max=0)
    up, down = above.sum() + b.clamp(min=0) + epsilon, below.sum() + b.clamp(max=0) - epsilon
    return (alpha * above / up - beta * below / down) * relevance


def by_gamma(x, w, b, relevance, gamma=0.25, epsilon=1e-6):
    z, bound = (x * w).sum() + b, (lambda v: v.clamp(min=0)) if (x * w).sum() + b > 0 else (lambda v: v.clamp(max=0))
    parts = x * w + gamma * bound(x * w)
    total = parts.sum() + b + gamma * bound(b)
    return parts / (total + (epsilon if z > 0 else -epsilon)) * relevance


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [(EpsilonLRP(), by_epsilon), (AlphaBetaLRP(), by_alpha_beta), (GammaLRP(), by_gamma)],
)
def test_two_layers_equal_the_loop(method, by_hand):
    model = stock.settle(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    x = rows(4, 5)
    result = px.explain(model, x, method, target=1)
    assert torch.allclose(result.values, loop(model, x, by_hand), rtol=1e-9, atol=1e-13)
    closes(result)


# --- laws ---


@pytest.mark.parametrize("name", ["resnet", "bottleneck", "vgg", "densenet"])
def test_without_epsilon_it_is_gradient_times_input_on_rectifier_networks(name):
    model, x = stock.SMALL[name]("mixed"), image(2, 3, 16)
    zero = px.explain(model, x, EpsilonLRP(epsilon=0.0), target=1).values
    want = px.explain(model, x, "gradient-x-input", target=1).values
    assert torch.allclose(zero, want, rtol=1e-7, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("name", stock.SMALL)
@pytest.mark.parametrize("method", [EpsilonLRP(), AlphaBetaLRP(), GammaLRP()])
def test_books_close_on_image_networks(name, method):
    result = px.explain(stock.SMALL[name]("functional"), image(2, 3, stock.SIDES.get(name, 16)), method, target=1)
    closes(result)
    assert {row["rule"] for row in result.source["rules"]}


@pytest.mark.parametrize("name", ["lstm", "gru", "cells", "encoder", "attention"])
def test_books_close_and_rows_are_apart_on_sequences(name):
    model, x = sequence.FLOAT[name](), sequence.sentences(3)
    result = px.explain(model, x, EpsilonLRP(), target=1)
    closes(result)
    for i in range(3):
        alone = px.explain(model, x[i : i + 1], EpsilonLRP(), target=1)
        for kind in KINDS:
            got, want = result.facts[f"absorbed_{kind}"][i], alone.facts[f"absorbed_{kind}"][0]
            assert got == pytest.approx(want.item(), rel=1e-6, abs=1e-9 * float(result.facts["score"].abs().max()))


def test_conserved_where_there_are_no_biases():
    model = without_biases(stock.small_resnet("functional"))
    result = px.explain(model, image(3, 3, 16), EpsilonLRP(epsilon=0.0))
    assert result.facts["conserved"].tolist() == [1.0, 1.0, 1.0]
    assert torch.allclose(result.values.flatten(1).sum(1), result.facts["score"], rtol=1e-7)
    assert result.source["ledger"] == []


def test_the_limits_of_gamma():
    model, x = stock.small_vgg("functional"), image(2, 3, 16).abs()

    def values(method):
        return px.explain(model, x, method, target=1).values

    low = values(EpsilonLRP())
    assert torch.allclose(values(GammaLRP(gamma=0.0)), low, rtol=1e-7, atol=1e-10 * float(low.abs().max()))
    # towards z⁺ where outputs are positive; the score's own sign decides at the last layer
    positive = stock.settle(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)))
    for p in positive.parameters():
        p.data[..., ::2] = p.data[..., ::2].abs()
    positive[2].bias.data += 5
    some = rows(3, 6).abs()
    large = px.explain(positive, some, GammaLRP(gamma=1e9, stabiliser=0.0)).values
    want = px.explain(positive, some, AlphaBetaLRP(alpha=1.0, beta=0.0, stabiliser=0.0)).values
    assert torch.allclose(large, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("method", [AlphaBetaLRP(), GammaLRP()])
def test_every_spelling_agrees(spelling, method):
    want = px.explain(Spelt(nn.ReLU()), image(), method, target=1).values
    got = px.explain(Spelt(SPELLINGS[spelling]), image(), method, target=1).values
    assert (got - want).abs().max() <= 1e-9 * want.abs().max()


def test_a_row_alone_is_the_row_in_a_batch_through_overlapping_pooling():
    model, x = stock.small_resnet("functional"), image(4, 3, 16)  # its pooling windows overlap
    for method in (EpsilonLRP(), AlphaBetaLRP(), GammaLRP()):
        together = px.explain(model, x, method, target=2)
        for i in range(4):
            alone = px.explain(model, x[i : i + 1], method, target=2)
            assert torch.allclose(together.values[i], alone.values[0], rtol=1e-7, atol=1e-10)
            assert together.facts["absorbed_bias"][i] == pytest.approx(alone.facts["absorbed_bias"][0].item(), rel=1e-6)


def test_a_bias_added_behind_a_product_is_a_bias():
    class Spread(nn.Module):
        def __init__(self, flat):
            super().__init__()
            self.linear, self.head, self.flat = nn.Linear(4, 5), nn.Linear(5, 2), flat

        def forward(self, x):
            y = x.transpose(1, 2) if not self.flat else x.transpose(1, 2).contiguous()
            return self.head(self.linear(y).relu().mean(1))

    models = [stock.settle(Spread(flat)) for flat in (True, False)]
    results = [px.explain(model, rows(2, 4, 3), AlphaBetaLRP(), target=0) for model in models]
    assert torch.allclose(results[0].values, results[1].values, rtol=1e-9, atol=1e-12)
    assert torch.allclose(results[0].facts["absorbed_bias"], results[1].facts["absorbed_bias"], rtol=1e-9)


@pytest.mark.parametrize("method", [EpsilonLRP(), AlphaBetaLRP()])
def test_batch_norm_is_folded_wherever_weights_stand(method):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.one = nn.Linear(4, 6), nn.BatchNorm1d(6, eps=0.1)
            self.up, self.two = nn.ConvTranspose1d(6, 3, 2), nn.BatchNorm1d(3, eps=0.1)

        def forward(self, x):
            return self.two(self.up(self.one(self.first(x)).relu()[:, :, None])).flatten(1)

    class Merged(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.first = nn.utils.fuse_linear_bn_eval(model.first, model.one)
            self.up = nn.utils.fuse_conv_bn_eval(model.up, model.two, transpose=True)

        def forward(self, x):
            return self.up(self.first(x).relu()[:, :, None]).flatten(1)

    model = stock.settle(Normed())
    got = px.explain(model, rows(3, 4), method, target=1)
    want = px.explain(Merged(model).eval(), rows(3, 4), method, target=1)
    assert torch.allclose(got.values, want.values, rtol=1e-8, atol=1e-11)


def test_at_a_layer_and_of_a_unit():
    model, x = stock.small_vgg("functional"), image(2, 3, 16)
    inner = px.explain(model, x, EpsilonLRP(), target=1, layer="classifier.0")
    assert inner.values.shape == (2, 8)
    closes(inner)
    unit = px.explain(model, x, AlphaBetaLRP(), target=px.unit("features.0", (2, 4, 4)))
    seen = unit.values.abs().sum((0, 1)).nonzero()
    assert seen.min() >= 3
    assert seen.max() <= 5
    assert torch.allclose(unit.facts["score"], model.features[0](x)[:, 2, 4, 4].detach())


def test_refusals():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.pinv(x.reshape(-1, 2, 2)).flatten(1)

    for method in ("lrp-epsilon", "lrp-alpha-beta", "lrp-gamma", "lrp-composites", "deep-taylor-decomposition"):
        with pytest.raises(UnsupportedOperation, match="no rule"):
            px.explain(Odd().eval(), torch.rand(2, 4), method)
    x = torch.rand(2, 3)
    for method in (EpsilonLRP(epsilon=-1.0), AlphaBetaLRP(alpha=2.0, beta=0.5), GammaLRP(gamma=float("nan"))):
        with pytest.raises(MethodError):
            px.explain(nn.Linear(3, 2).eval(), x, method)


def test_single_precision_is_close_to_double():
    model, x = stock.small_vgg("functional"), image(2, 3, 16)
    for method in (EpsilonLRP(epsilon=1e-2), AlphaBetaLRP(), GammaLRP()):
        want = px.explain(model.double(), x, method, target=1).values
        got = px.explain(model.float(), x.float(), method, target=1).values
        assert got.dtype == torch.float32
        assert (got - want).norm() <= 1e-4 * want.norm()


def test_softmax_scores_are_possible_where_a_rule_knows_them():
    model = stock.settle(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(UnsupportedOperation):
        px.explain(model, rows(2, 4), EpsilonLRP(), target=lambda out: functional.log_softmax(out, 1)[:, 0])


def test_classes_of_maps_of_one_pixel():
    model = stock.settle(nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1)))
    flat = nn.Sequential(model, nn.Flatten()).eval()
    got = px.explain(model, image(2), EpsilonLRP(), target=1)
    assert torch.equal(got.values, px.explain(flat, image(2), EpsilonLRP(), target=1).values)
