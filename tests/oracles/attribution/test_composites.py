"""Rules assigned by kind, depth and name; deep Taylor: never negative, conservative, at its roots."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pellucid as px
from nets import stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.attribution import CompositeLRP, DeepTaylor
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import rules
from pellucid.engine.rules.composites import assignment, composite, relevance_table


def rows(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small():
    layers = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return stock.settle(nn.Sequential(*layers))


def given(result):
    names = ("aten.convolution", "aten.addmm")
    return [(row["module"], row["rule"]) for row in result.source["rules"] if row["operation"] in names]


@pytest.mark.parametrize(
    ("name", "rules_given"),
    [
        ("epsilon-plus", ["z⁺", "z⁺", "epsilon"]),
        ("epsilon-plus-flat", ["flat", "z⁺", "epsilon"]),
        ("epsilon-alpha2-beta1", ["α2 β1", "α2 β1", "epsilon"]),
        ("epsilon-alpha2-beta1-flat", ["flat", "α2 β1", "epsilon"]),
        ("epsilon-gamma-box", ["z-box", "γ=0.25", "epsilon"]),
    ],
)
def test_the_table_of_each_composite(name, rules_given):
    method = CompositeLRP(composite=name, low=-9.0, high=9.0)
    result = px.explain(small(), image(2), method)
    assert given(result) == list(zip(["0", "2", "5"], rules_given, strict=True))
    assert all(row["rule"] and row["times"] == 1 for row in result.source["rules"])
    table = relevance_table(name, composite(name, 1e-6, 0.25, -9.0, 9.0))
    listed = rules.check(small(), image(2), table)
    assert [(row.module, row.rule) for row in listed if row.operation in ("aten.convolution", "aten.addmm")] == given(
        result
    )
    assert not [row for row in listed if row.problem]


def test_own_choices_go_first():
    assign = (("features.*", "flat"), ("kind:convolution depth:2-3", "gamma", 0.5), ("kind:dense", "epsilon", 0.1))
    result = px.explain(small(), image(2), CompositeLRP(assign=assign, composite="epsilon-alpha2-beta1"))
    assert given(result) == [("0", "α2 β1"), ("2", "γ=0.5"), ("5", "epsilon")]
    named = px.explain(small(), image(2), CompositeLRP(assign=(("[02]", "w-square"),)))
    assert given(named) == [("0", "w²"), ("2", "w²"), ("5", "epsilon")]
    assert px.contract.from_config(CompositeLRP(assign=assign).config()) == CompositeLRP(assign=assign)


def test_two_assigned_rules_are_one_rule_after_the_other():
    model, x = small(), image(1)
    whole = px.explain(model, x, CompositeLRP(composite="epsilon-alpha2-beta1", epsilon=1e-3), target=1)
    upper = px.explain(model, x, px.attribution.EpsilonLRP(epsilon=1e-3), target=1, layer="4").values
    inner = model[:5].eval()
    lower = px.explain(
        inner, x, px.attribution.AlphaBetaLRP(), target=lambda out: (out * (upper / out.detach()).nan_to_num()).sum(1)
    )
    # a sum over the hidden values hands each its own relevance, up to the stabiliser of the sum
    assert torch.allclose(lower.values, whole.values, rtol=1e-4, atol=1e-6)


SOME = ("F.relu", "relu_", "clamp", "maximum", "mask-product", "where-number", "slices-in-place")


@pytest.mark.parametrize("spelling", SOME)
@pytest.mark.parametrize("name", ["epsilon-plus-flat", "epsilon-gamma-box"])
def test_every_spelling_agrees(spelling, name):
    method = CompositeLRP(composite=name, low=-9.0, high=9.0)
    want = px.explain(Spelt(nn.ReLU()), image(), method, target=1).values
    got = px.explain(Spelt(SPELLINGS[spelling]), image(), method, target=1).values
    assert (got - want).abs().max() <= 1e-9 * want.abs().max()


def test_flat_spreads_evenly_over_each_window():
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False).double().eval()
    result = px.explain(conv, image(1), CompositeLRP(), target=lambda out: out[:, 1, 0, 1])
    want = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    want[:, :, 0:2, 1:4] = result.facts["score"] / 12  # a row of the window is padding
    assert torch.allclose(result.values, want, rtol=1e-6)


def test_z_box_of_one_layer_by_hand():
    # low -1, high 2, x (1, 0), w (2, -3): parts x w - low w⁺ - high w⁻ = (2+2, 0+6)
    layer = nn.Linear(2, 1, bias=False).double().eval()
    layer.weight.data = torch.tensor([[2.0, -3.0]]).double()
    x = torch.tensor([[1.0, 0.0]]).double()
    assign = (("depth:1", "z-box", -1.0, 2.0),)
    got = px.explain(layer, x, CompositeLRP(assign=assign)).values
    assert got[0].tolist() == pytest.approx([4 / 10 * 2, 6 / 10 * 2], rel=1e-6)


def test_bounds_by_channel():
    model, x = small(), image(2).clamp(-1, 1)
    same = px.explain(model, x, DeepTaylor(low=-1.0, high=1.0), target=1).values
    assert torch.equal(px.explain(model, x, DeepTaylor(low=(-1.0, -1.0), high=(1.0, 1.0)), target=1).values, same)
    other = px.explain(model, x, DeepTaylor(low=(-1.0, -2.0), high=(1.0, 1.0)), target=1).values
    assert not torch.allclose(other, same)
    with pytest.raises(InputError, match="between 'low' and 'high'"):
        px.explain(model, 2 * x, DeepTaylor(low=-1.0, high=1.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"composite": "epsilon"},
        {"assign": (("depth:x", "flat"),)},
        {"assign": (("kind:pooling", "flat"),)},
        {"assign": (("*", "zeta"),)},
        {"assign": (("*", "flat", 1.0, 2.0, 3.0),)},
        {"assign": ("flat",)},
        {"low": "dark"},
        {"epsilon": -1.0},
    ],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(MethodError):
        px.explain(small(), image(1), CompositeLRP(**settings))


def test_words_must_all_fit():
    fits, rule = assignment("kind:convolution depth:2 body.*", "flat")
    assert rule.name == "flat"

    class Fake:
        name, module, depth = "convolution", "body.3", 2

    assert fits(Fake())
    Fake.depth = 3
    assert not fits(Fake())


# --- deep Taylor ---


def humble(model):
    """Biases that are not positive."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.copy_(-p.abs())
    return model


@pytest.mark.parametrize("domain", ["real", "box", "positive"])
def test_never_negative_and_conservative_where_biases_are_not_positive(domain):
    model = humble(small())
    with torch.no_grad():
        model[5].weight.abs_()
    x = image(4).abs() if domain == "positive" else image(4).clamp(-3, 3)
    method = DeepTaylor(domain=domain, low=-3.0, high=3.0, stabiliser=0.0)
    result = px.explain(model, x, method, target=1)
    assert (result.facts["score"] > 0).any()
    assert (result.values >= 0).all()
    assert torch.allclose(result.values.flatten(1).sum(1), result.facts["score"], rtol=1e-9, atol=1e-12)
    assert result.facts["conserved"].all()


def test_residual_sums_and_averages_stay_positive():
    model, x = stock.small_resnet("functional"), image(3, 3, 16)
    result = px.explain(model, x, DeepTaylor(), target=lambda out: out[:, 1] + 50)
    assert (result.values >= 0).all()


def test_z_plus_is_the_expansion_at_the_root_along_the_positive_weights():
    # Montavon et al.: on {0 <= x}, the root of max(0, w·x + b) lies along x·1[w > 0]; the first-order term there is z⁺
    w, x, b = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([1.0, 0.5, 2.0]).double(), -0.3
    layer = nn.Linear(3, 1).double().eval()
    layer.weight.data, layer.bias.data = w[None], torch.tensor([b]).double()
    along = x * (w > 0)
    step = (w @ x + b) / (w @ along)
    root = x - step * along
    assert float(w @ root + b) == pytest.approx(0.0, abs=1e-12)
    got = px.explain(layer, x[None], DeepTaylor(domain="positive", stabiliser=0.0)).values[0]
    assert torch.allclose(got, w * (x - root))


def test_w_square_is_the_expansion_at_the_nearest_root():
    w, x = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([1.0, 0.5, 2.0]).double()
    layer = nn.Linear(3, 1, bias=False).double().eval()
    layer.weight.data = w[None]
    root = x - (w @ x) / (w @ w) * w
    got = px.explain(layer, x[None], DeepTaylor(domain="real", stabiliser=0.0)).values[0]
    assert torch.allclose(got, w * (x - root))


def test_a_score_that_is_not_positive_and_an_input_of_zeros_get_nothing():
    model = humble(small())
    x = image(6)
    result = px.explain(model, x, DeepTaylor(), target=0)
    raw = model(x)[:, 0].detach()
    assert (raw <= 0).any()
    assert torch.equal(result.facts["score"], raw.clamp(min=0))
    assert not result.values[raw <= 0].any()
    zero = px.explain(model, torch.zeros_like(x), DeepTaylor(domain="positive"), target=lambda out: out[:, 0] + 50)
    assert not zero.values.any()


def test_positive_biases_keep_their_part():
    layer = nn.Linear(2, 1).double().eval()
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([3.0]).double()
    result = px.explain(layer, torch.ones(1, 2).double(), DeepTaylor(domain="positive", stabiliser=0.0))
    assert result.values[0].tolist() == pytest.approx([1.0, 2.0])
    assert result.facts["absorbed_bias"].item() == pytest.approx(3.0)


def test_domains_that_cannot_be():
    for settings in ({"domain": "box"}, {"domain": "complex"}):
        with pytest.raises(MethodError):
            px.explain(small(), image(1), DeepTaylor(**settings))
    inner = px.explain(small(), image(2), DeepTaylor(), layer="1")
    assert [row["rule"] for row in inner.source["rules"] if row["operation"] == "aten.convolution"] == ["z⁺"]
