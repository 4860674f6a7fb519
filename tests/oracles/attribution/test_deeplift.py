"""DeepLIFT by hand: the paper's small networks, loops over weights, exact shares of products, pooling and softmax."""

import itertools

import pytest
import torch
from torch import nn

import pellucid as px
from nets import sequence, stock
from nets.spellings import Spelt, image
from pellucid.attribution import DeepLIFT, DeepSHAP, RevealCancel
from pellucid.contract.errors import InputError, MethodError, UnsupportedOperation

RULES = (DeepLIFT(), RevealCancel())
DOUBLE = {"dtype": torch.float64}


def values(model, x, method="deeplift", **how):
    how.setdefault("target", 0)
    return px.explain(model, x, method, **how).values


def rows(*numbers):
    return torch.tensor(numbers, **DOUBLE)


def of(function):
    """A network that is a formula."""

    class Formula(nn.Module):
        def forward(self, x):
            return function(x)[:, None]

    return Formula().eval()


SMALLER = of(lambda x: x[:, 0] - torch.relu(x[:, 0] - x[:, 1]))  # min(a, b), as in the paper's figure 3
SATURATED = of(lambda x: 1 - torch.relu(1 - x[:, 0] - x[:, 1]))  # min(1, a + b), as in its figure 1


# --- the paper's networks ---


@pytest.mark.parametrize(("a", "b"), [(2.0, 1.0), (1.0, 3.0), (0.5, 0.25)])
def test_the_smaller_of_two(a, b):
    """Rescale credits the smaller input alone, RevealCancel both alike (§3.5.3)."""
    least = min(a, b)
    assert torch.allclose(values(SMALLER, rows([a, b])), rows([a, 0.0] if a < b else [0.0, b]))
    assert torch.allclose(values(SMALLER, rows([a, b]), RevealCancel()), rows([least / 2, least / 2]))


@pytest.mark.parametrize("method", RULES)
def test_saturation_leaves_credit(method):
    """At (1, 1) the gradient is zero; both inputs made the score rise from 0 to 1."""
    x = rows([1.0, 1.0])
    assert not px.explain(SATURATED, x, "vanilla-gradient").values.any()
    assert torch.allclose(values(SATURATED, x, method), rows([0.5, 0.5]))


def test_a_step_of_the_bias_is_no_contribution():
    """relu(x - 10) at 10 + δ: gradient × input would jump to 10 (§2.2); DeepLIFT rises from zero."""
    threshold = of(lambda x: torch.relu(x[:, 0] - 10))
    assert torch.allclose(values(threshold, rows([10.001])), rows([0.001]), rtol=1e-9)


def test_a_reference_that_is_not_zero():
    got = values(SMALLER, rows([2.0, 1.0]), RevealCancel(baseline=1.0))
    # a - relu(a - b) from (1, 1): Δ⁺ = 1 (of a), Δ⁻ = 0; the rectifier's whole rise of 1 is a's, and takes a's own away.
    assert torch.allclose(got, rows([0.0, 0.0]))


# --- linear networks ---


@pytest.mark.parametrize("method", RULES)
def test_linear(method):
    model, x = stock.settle(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))), image(3, 1, 2).flatten(1)
    weight = model[1].weight @ model[0].weight
    base = image(3, 1, 2, seed=8).flatten(1)
    got = values(model, x, method, target=torch.tensor([0, 1, 2]), data=base)
    assert torch.allclose(got, weight * (x - base), rtol=1e-12)


# --- loops ---


def mlp(act):
    return stock.settle(nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 5), act, nn.Linear(5, 2)))


def forward_by_hand(model, x):
    """Values before and after each linear layer, as lists of numbers."""
    steps, h = [], x.tolist()
    for layer in model:
        before = h
        if isinstance(layer, nn.Linear):
            h = [sum(w * v for w, v in zip(r, h, strict=True)) + b
                 for r, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]  # fmt: skip
        else:
            h = [float(layer(torch.tensor(v, **DOUBLE))) for v in h]
        steps.append((before, h))
    return steps


def slope(act, value):
    at = torch.tensor(value, requires_grad=True, **DOUBLE)
    return float(torch.autograd.grad(act(at), at)[0])


def rescale_by_hand(model, x, base, target):
    here, there = forward_by_hand(model, x), forward_by_hand(model, base)
    m = [1.0 if k == target else 0.0 for k in range(2)]
    for layer, (a, y), (a0, y0) in reversed(list(zip(model, here, there, strict=True))):
        if isinstance(layer, nn.Linear):
            w = layer.weight.tolist()
            m = [sum(m[j] * w[j][i] for j in range(len(w))) for i in range(len(a))]
        else:
            m = [m[i] * (y[i] - y0[i]) / (a[i] - a0[i]) for i in range(len(a))]
    return [m[i] * (float(x[i]) - float(base[i])) for i in range(len(m))]


def reveal_by_hand(model, x, base, target):
    """§3.5.1 and §3.5.3, one number at a time: (multiplier of positive, of negative contributions) per unit."""
    here, there = forward_by_hand(model, x), forward_by_hand(model, base)
    layers = list(zip(model, here, there, strict=True))
    m = [(1.0, 1.0) if k == target else (0.0, 0.0) for k in range(2)]
    for k, (layer, (a, _), (a0, _)) in reversed(list(enumerate(layers))):
        change = [p - q for p, q in zip(a, a0, strict=True)]
        if isinstance(layer, nn.Linear):
            w, new = layer.weight.tolist(), []
            for i in range(len(a)):
                total = 0.0
                for j in range(len(w)):
                    part = w[j][i] * change[i]
                    total += w[j][i] * (m[j][0] if part > 0 else m[j][1] if part < 0 else sum(m[j]) / 2)
                new.append((total, total))
            m = new
        else:
            previous, (_, _), (_, _) = layers[k - 1]
            into = [p - q for p, q in zip(layers[k - 1][1][0], layers[k - 1][2][0], strict=True)]
            f, new = lambda v, act=layer: float(act(torch.tensor(v, **DOUBLE))), []
            for j in range(len(a)):
                parts = [w * c for w, c in zip(previous.weight[j].tolist(), into, strict=True)]
                plus, minus = sum(p for p in parts if p > 0), sum(p for p in parts if p < 0)
                start, end = a0[j], a0[j] + plus + minus
                up = (f(start + plus) - f(start) + f(end) - f(start + minus)) / 2
                down = (f(start + minus) - f(start) + f(end) - f(start + plus)) / 2
                limit = (slope(layer, start) + slope(layer, end)) / 2  # of Δy⁺/Δ⁺ for Δ⁺ → 0
                new.append((m[j][0] * (up / plus if plus else limit), m[j][1] * (down / minus if minus else limit)))
            m = new
    return [m[i][0] * (float(x[i]) - float(base[i])) for i in range(len(m))]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh(), nn.Softplus()])
@pytest.mark.parametrize(("method", "by_hand"), [(DeepLIFT(), rescale_by_hand), (RevealCancel(), reveal_by_hand)])
def test_every_number_of_a_network(method, by_hand, act):
    model, x, base = mlp(act), image(3, 1, 2).flatten(1), image(3, 1, 2, seed=4).flatten(1)
    want = rows(*(by_hand(model, x[n], base[n], 1) for n in range(3)))
    assert torch.allclose(values(model, x, method, target=1, data=base), want, rtol=1e-9, atol=1e-12)


def test_the_rule_by_name():
    model, x = mlp(nn.ReLU()), image(2, 1, 2).flatten(1)
    assert torch.equal(values(model, x, DeepLIFT(rule="revealcancel")), values(model, x, RevealCancel()))
    assert not torch.allclose(values(model, x), values(model, x, RevealCancel()))


# --- what the paper leaves open ---


@torch.no_grad()
def shapley(function, x, base):
    """Exact Shapley values of a function of few inputs, by all orders."""
    found = torch.zeros_like(x)
    orders = list(itertools.permutations(range(len(x))))
    for order in orders:
        point = base.clone()
        for i in order:
            before = float(function(point[None])[0])
            point[i] = x[i]
            found[i] += (float(function(point[None])[0]) - before) / len(orders)
    return found


FORMULAS = {
    "product": lambda x: x[:, 0] * x[:, 1],
    "square": lambda x: x[:, 0] * x[:, 0] + x[:, 1] ** 2,
    "quotient": lambda x: x[:, 0] / (x[:, 1] + 5),
    "reciprocal": lambda x: 2 / (x[:, 1] + 5) + x[:, 0],
    "inner product": lambda x: (x[:, None, :2] @ x[:, 2:, None])[:, 0, 0],
    "swish by hand": lambda x: x[:, 0] * torch.sigmoid(x[:, 0]) - x[:, 1],
    "lerp": lambda x: torch.lerp(torch.zeros_like(x[:, 0]), x[:, 0], x[:, 1]),
    "addcmul": lambda x: torch.addcmul(x[:, 2], x[:, 0], x[:, 1], value=2.0),
    "greater with a constant": lambda x: torch.maximum(x[:, 0], torch.full_like(x[:, 0], 0.3)),
    "leaky, by a mask": lambda x: torch.where(x[:, 0] > 0, x[:, 0], 0.1 * x[:, 0]) + x[:, 1],
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("method", RULES)
def test_shares_of_two_factors_are_shapley_values(name, method):
    x, base = rows([0.7, -1.1, 0.4, 2.0]), rows([-0.5, 0.6, 1.5, -0.3])
    want = shapley(FORMULAS[name], x[0], base[0])
    assert torch.allclose(values(of(FORMULAS[name]), x, method, data=base)[0], want, rtol=1e-10, atol=1e-14)


def pooled_by_hand(x, base, weight, size, stride):
    """Each window by itself: what rose to this input's winner, what fell to the reference's."""
    found = torch.zeros_like(x)
    for window, (r, c) in enumerate(
        itertools.product(range(0, x.shape[0] - size + 1, stride), range(0, x.shape[1] - size + 1, stride))
    ):
        here, there = x[r : r + size, c : c + size], base[r : r + size, c : c + size]
        top, top0 = here.max(), there.max()
        i, j = (divmod(int(part.argmax()), size) for part in (here, there))
        found[r + i[0], c + i[1]] += weight[window] * (torch.maximum(top, top0) - top0)
        found[r + j[0], c + j[1]] += weight[window] * (top - torch.maximum(top, top0))
    return found


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_max_pooling_with_and_without_overlap(size, stride):
    windows = ((7 - size) // stride + 1) ** 2
    model = stock.settle(nn.Sequential(nn.MaxPool2d(size, stride), nn.Flatten(), nn.Linear(windows, 2)))
    x, base = image(3, 1, 7), image(3, 1, 7, seed=6)
    weight = model[2].weight[1]
    got = values(model, x, target=1, data=base)
    for n in range(3):
        assert torch.allclose(got[n, 0], pooled_by_hand(x[n, 0], base[n, 0], weight, size, stride), rtol=1e-10)


def test_the_smallest_is_the_largest_upside_down():
    x, base = image(3, 1, 3).flatten(1), image(3, 1, 3, seed=6).flatten(1)
    least, largest = of(lambda z: z.amin(1)), of(lambda z: -(-z).amax(1))
    assert torch.allclose(values(least, x, data=base), values(largest, x, data=base), rtol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [nn.Softmax(1), nn.LogSoftmax(1), nn.LayerNorm(4, **DOUBLE), nn.GroupNorm(2, 4, **DOUBLE), nn.GLU(1)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("span", [1.0, 30.0])
def test_smooth_operations_are_integrated_along_the_line(layer, span):
    """Against many small steps of the midpoint rule, which knows nothing of panels."""
    x, base = span * image(2, 1, 2).flatten(1), span * image(2, 1, 2, seed=4).flatten(1)
    want, steps = torch.zeros_like(x), 400_000
    for n in range(2):
        at = (torch.arange(steps, **DOUBLE) + 0.5) / steps
        points = (base[n] + at[:, None] * (x[n] - base[n])).requires_grad_()
        (grad,) = torch.autograd.grad(layer(points)[:, 1].sum(), points)
        want[n] = grad.mean(0) * (x[n] - base[n])
    assert torch.allclose(values(layer.eval(), x, target=1, data=base), want, rtol=1e-5, atol=1e-6)


def test_a_norm_whose_reference_does_not_vary():
    """Layer norm of a constant: the derivative there is 1/√ε, in a corner of the line that even steps would miss."""
    model = nn.Sequential(nn.LayerNorm(6, eps=1e-12, **DOUBLE), nn.Linear(6, 2, **DOUBLE)).eval()
    found = px.explain(model, torch.randn(3, 6, generator=torch.Generator().manual_seed(0), **DOUBLE), "deeplift")
    assert found.facts["relative_gap"].max() <= 1e-9


def test_near_equal_inputs_take_the_derivative():
    """The secant of a difference that rounding has eaten is noise; the slope is not."""
    model, x = of(lambda z: torch.tanh(z).sum(1)), torch.linspace(0.2, 2, 50, **DOUBLE)[None]
    base = x + 1e-13 * torch.sin(torch.arange(50, **DOUBLE))
    slopes = values(model, x, data=base) / (x - base)
    kept = x != base
    assert torch.allclose(slopes[kept], 1 - torch.tanh(x[kept]) ** 2, rtol=1e-7)


# --- references ---


def test_a_detached_value_is_booked():
    """x · detach(x): half of the change is the detached factor's, and nobody's."""
    model = of(lambda x: (x * x.detach()).sum(1))
    found = px.explain(model, rows([3.0, 1.0], [1.0, 2.0]), DeepLIFT(baseline=1.0))
    assert torch.allclose(found.values, rows([4.0, 0.0], [0.0, 1.5]))
    assert torch.allclose(found.facts["completeness_gap"], rows(4.0, 1.5))
    (entry,) = found.source["ledger"]
    assert entry["operation"] == "aten.mul"
    assert entry["kind"] == "a constant that changes"
    assert entry["amount"] == pytest.approx(5.5)


def test_a_hidden_unit():
    model, x = mlp(nn.ReLU()), image(2, 1, 2).flatten(1)
    want = model[0].weight[3] * x
    assert torch.allclose(values(model, x, target=px.unit("0", 3)), want, rtol=1e-12)


def test_several_references_are_averaged():
    model, x = mlp(nn.Tanh()), image(2, 1, 2).flatten(1)
    got = px.explain(model, x, DeepLIFT(baseline=(0.0, "mean", 1.0)), target=0)
    want = sum(values(model, x, DeepLIFT(baseline=b)) for b in (0.0, "mean", 1.0)) / 3
    assert torch.allclose(got.values, want, rtol=1e-12)
    assert got.facts["relative_gap"].max() <= 1e-9


def test_the_predicted_class_is_explained_in_both_runs():
    model, x = mlp(nn.ReLU()), image(4, 1, 2).flatten(1)
    classes = model(x).argmax(1)
    got = px.explain(model, x, "deeplift")
    assert torch.equal(got.target, classes)
    assert torch.equal(got.values, values(model, x, target=classes))


# --- Deep SHAP ---


def test_deep_shap_of_a_linear_network_is_shapley():
    model, x, background = (
        stock.settle(nn.Linear(3, 2)),
        image(2, 1, 2).flatten(1)[:, :3],
        image(5, 1, 2).flatten(1)[:, :3],
    )
    got = values(model, x, DeepSHAP(), data=background)
    assert torch.allclose(got, model.weight[0] * (x - background.mean(0)), rtol=1e-12)
    coalitions = sum(shapley(lambda z: model(z)[:, 0], x[1], b) for b in background) / 5
    assert torch.allclose(got[1], coalitions, rtol=1e-9)


def test_deep_shap_is_the_mean_of_deeplift_over_the_background():
    model, x, background = Spelt(nn.ReLU()), image(2), image(4, seed=9)
    got = px.explain(model, x, "deep-shap", target=1, data=background)
    want = sum(values(model, x, target=1, data=background[k : k + 1]) for k in range(4)) / 4
    assert torch.allclose(got.values, want, rtol=1e-10, atol=1e-15)
    assert torch.allclose(got.facts["baseline_score"], model(background)[:, 1].mean().expand(2), rtol=1e-12)
    assert got.facts["relative_gap"].max() <= 1e-9
    one = values(model, x, DeepSHAP(), target=1, data=background[:1])
    assert torch.allclose(one, values(model, x, target=1, data=background[:1]), rtol=1e-12)


def test_deep_shap_at_an_embedding():
    model, ids = sequence.bert(), {"input_ids": sequence.token_ids()}
    found = px.explain(
        px.Subject(model, output="logits"), ids, "deep-shap", data={"input_ids": sequence.token_ids(4, seed=5)},
        layer="bert.embeddings.word_embeddings", target=0,
    )  # fmt: skip
    with torch.no_grad():
        mean = model(input_ids=sequence.token_ids(4, seed=5)).logits[:, 0].mean()
    assert torch.allclose(found.facts["baseline_score"], mean.expand(3), rtol=1e-12)
    assert found.facts["relative_gap"].max() <= 1e-9


# --- refusals ---


def test_other_ways_are_refused_by_name():
    def branch(x):
        return x.tanh().sum(1) if x.sum() > 0 else x.sigmoid().sum(1)

    with pytest.raises(UnsupportedOperation, match=r"part ways.*aten\.tanh.*against.*aten\.sigmoid"):
        values(of(branch), rows([1.0, 2.0]), DeepLIFT(baseline=-1.0))


CHOICES = {
    "index": lambda x: x.gather(1, x.argmax(1, keepdim=True))[:, 0],
    "where": lambda x: torch.where(x[:, 0] > x[:, 1], x[:, 0], x[:, 1]),
    "masked_fill": lambda x: x.masked_fill(x.abs() < 1, 0.0).sum(1),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_that_differ_are_refused_by_name(name):
    line = CHOICES[name].__code__.co_firstlineno
    with pytest.raises(UnsupportedOperation, match=rf"choose differently.*test_deeplift\.py:{line}"):
        values(of(CHOICES[name]), rows([0.5, 2.0]), data=rows([2.0, 1.5]))
    agreed = values(of(CHOICES[name]), rows([0.5, 3.0]), data=rows([0.2, 1.5]))
    assert torch.allclose(agreed, rows([0.0, 1.5]))


def test_sorting_is_refused_where_the_order_changes():
    first = of(lambda x: x.sort(1).values[:, 0])
    assert torch.allclose(values(first, rows([1.0, 3.0]), data=rows([0.5, 0.6])), rows([0.5, 0.0]))
    with pytest.raises(UnsupportedOperation, match=r"aten\.sort"):
        values(first, rows([3.0, 1.0]), data=rows([0.5, 0.6]))


def test_settings_are_checked():
    x = rows([1.0, 2.0])
    with pytest.raises(MethodError, match="'rule' must be one of"):
        values(SMALLER, x, DeepLIFT(rule="rescaled"))
    with pytest.raises(MethodError, match="at least one reference"):
        values(SMALLER, x, DeepLIFT(baseline=()))
    with pytest.raises(MethodError, match=r"deep-shap"):
        values(SMALLER, x, DeepLIFT(baseline=(0.0, 1.0)), data=x)
    with pytest.raises(InputError, match="floating tensor"):
        px.explain(sequence.Tokens().double().eval(), sequence.token_ids(), "deeplift", target=0)
