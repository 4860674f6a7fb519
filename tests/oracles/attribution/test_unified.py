"""One modified gradient against the methods it stands for, each by its own code or by hand."""

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid.attribution import EpsilonLRP, IntegratedGradients, ModifiedGradient
from pellucid.contract.errors import MethodError, UnsupportedOperation

DOUBLE = {"dtype": torch.float64}
ROWS = ("gradient", "gradient-x-input", "epsilon-lrp", "deeplift", "integrated-gradients")


def mlp(act, bias=True):
    return stock.settle(nn.Sequential(nn.Linear(4, 6, bias), act, nn.Linear(6, 5, bias), act, nn.Linear(5, 2, bias)))


def table_row(model, x, of, **settings):
    return px.explain(model, x, ModifiedGradient(of=of, **settings), target=1)


MODELS = {
    "mlp-relu": lambda: (mlp(nn.ReLU()), image(3, 1, 2).flatten(1)),
    "mlp-tanh": lambda: (mlp(nn.Tanh()), image(3, 1, 2).flatten(1)),
    "mlp-softplus": lambda: (mlp(nn.Softplus()), image(3, 1, 2).flatten(1)),
    "cnn": lambda: (Spelt(nn.ReLU()), image()),
    "resnet": lambda: (stock.small_resnet("mixed"), image(2, 3, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_rows_are_the_dedicated_methods(name):
    model, x = MODELS[name]()
    baseline = 0.3
    dedicated = {
        "gradient": px.explain(model, x, "vanilla-gradient", target=1),
        "gradient-x-input": px.explain(model, x, px.attribution.GradientXInput(baseline=baseline), target=1),
        "deeplift": px.explain(model, x, px.attribution.DeepLIFT(baseline=baseline), target=1),
        "integrated-gradients": px.explain(model, x, IntegratedGradients(baseline=baseline, steps=12), target=1),
    }
    for of, want in dedicated.items():
        got = table_row(model, x, of, baseline=baseline, steps=12)
        assert torch.allclose(got.values, want.values, rtol=1e-9, atol=1e-13), of
        for fact in want.facts.keys() & {"score", "baseline_score", "completeness_gap"}:
            assert torch.allclose(got.facts[fact], want.facts[fact].double(), rtol=1e-6, atol=1e-12), (of, fact)


@pytest.mark.parametrize("name", MODELS)
def test_epsilon_lrp_is_a_modified_gradient(name):
    """Proposition 1, against relevance that is shared out layer by layer."""
    model, x = MODELS[name]()
    got = table_row(model, x, "epsilon-lrp", stabiliser=1e-12)
    want = px.explain(model, x, EpsilonLRP(epsilon=1e-12), target=1).values
    assert (got.values - want).abs().max() <= 1e-8 * want.abs().max()


def test_every_slope_by_hand():
    """One hidden layer, so that the chain rule is one product: value = Σ_j w_j g_j v_ji (x_i - x'_i)."""
    x, base = image(1, 1, 2).flatten(1), torch.full((1, 4), 0.3, **DOUBLE)
    model = stock.settle(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)))
    v, c, w = model[0].weight, model[0].bias, model[2].weight[1]
    z, z0 = x @ v.T + c, base @ v.T + c
    at = (torch.arange(100_000, **DOUBLE)[:, None] + 0.5) / 100_000
    line = 1 - torch.tanh(z0 + at * (z - z0)) ** 2
    slopes = {
        "gradient": (1 - z.tanh() ** 2, torch.ones_like(x)),
        "gradient-x-input": (1 - z.tanh() ** 2, x - base),
        "epsilon-lrp": (z.tanh() / z, x),
        "deeplift": ((z.tanh() - z0.tanh()) / (z - z0), x - base),
        "integrated-gradients": (line.mean(0, keepdim=True), x - base),
    }
    for of, (g, times) in slopes.items():
        want = ((w * g) @ v) * times
        assert torch.allclose(table_row(model, x, of, baseline=0.3).values, want, rtol=1e-8), of


@pytest.mark.parametrize("spelling", ["module", "clamp_", "mask-product", "where"])
def test_without_biases_the_rows_agree_on_rectifiers(spelling):
    """Proposition 2 and its neighbours: for ReLU, σ(z)/z is σ'(z), and so is the slope from zero."""
    model, x = Spelt(SPELLINGS[spelling], bias=False), image()
    with torch.no_grad():  # batch norm has a bias of its own
        model.norm.running_mean.zero_()
        model.norm.bias.zero_()
    want = table_row(model, x, "gradient-x-input").values
    for of in ROWS[2:]:
        got = table_row(model, x, of, stabiliser=1e-13).values
        assert (got - want).abs().max() <= 1e-8 * want.abs().max(), of


def test_with_tanh_the_rows_differ():
    model, x = MODELS["mlp-tanh"]()
    found = [table_row(model, x, of).values for of in ROWS]
    for i, a in enumerate(found):
        assert all((a - b).abs().max() > 1e-3 for b in found[i + 1 :])


@pytest.mark.parametrize("of", ROWS)
def test_at_a_layer(of):
    model, x = MODELS["mlp-tanh"]()
    upper = nn.Sequential(*model[2:]).eval()
    with torch.no_grad():
        hidden, base = model[:2](x), model[:2](torch.zeros(1, 4, **DOUBLE))
    got = px.explain(model, x, ModifiedGradient(of=of), target=1, layer="1#1").values
    want = px.explain(upper, hidden, ModifiedGradient(of=of), target=1, data=base).values
    assert torch.allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("name", ["encoder", "gru"])
def test_proportions_are_refused_where_they_have_no_meaning(name):
    with pytest.raises(UnsupportedOperation, match=r"no rule in the table 'proportional'.*in module '.*' at .*:\d+"):
        table_row(sequence.FLOAT[name](), sequence.sentences(), "epsilon-lrp")


def test_settings_are_checked():
    model, x = MODELS["mlp-relu"]()
    for settings in ({"of": "lrp"}, {"steps": 0}, {"steps": True}, {"stabiliser": 0.0}):
        with pytest.raises(MethodError, match=f"'{next(iter(settings))}' must be"):
            px.explain(model, x, ModifiedGradient(**settings))
