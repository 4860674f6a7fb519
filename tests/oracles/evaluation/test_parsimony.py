"""Fidelity against size: planted sparse scores, whose knee is known, and the definition one row at a time."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, Six, drawn
from pellucid.contract.errors import MethodError
from pellucid.evaluation import FidelityParsimony


def sparse(count, width=9):
    """A score of the first columns alone, which weigh the same."""
    net = nn.Linear(width, 1, bias=False, **DOUBLE).eval()
    net.weight.data = torch.tensor([[1.0] * count + [0.0] * (width - count)], **DOUBLE)
    return net


@pytest.mark.parametrize("choose", ["elbow", "least"])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_knee_is_at_the_planted_number_of_features(count, choose):
    x = torch.ones(5, 9, **DOUBLE) + drawn(5, 1).abs()
    found = px.explain(sparse(count), x, FidelityParsimony(choose=choose))
    assert found.values.tolist() == [count]
    assert found.facts["fidelity"].item() == pytest.approx(1)
    assert found.facts["enough"].item() == 1
    # Equal shares: each feature kept is one of them, up to the last.
    want = [min(k, count) / count for k in range(10)]
    assert found.parts["along"].tolist() == [*range(10)]
    assert found.parts["fidelity"].tolist() == pytest.approx(want)


def test_fidelity_of_scores_is_that_of_the_definition():
    net, x = Six(), drawn(7, 6, seed=5)
    method = FidelityParsimony(fidelity="score", baseline=0.5)
    found = px.explain(net, x, method, target=1)
    values = px.explain(net, x, "gradient-x-input", target=1).values
    with torch.no_grad():
        full, empty = net(x)[:, 1], net(torch.full_like(x, 0.5))[:, 1]
        for k in range(7):
            shares = []
            for row in range(7):
                kept = sorted(range(6), key=lambda i: -abs(float(values[row, i])))[:k]
                mixed = torch.full((6,), 0.5, **DOUBLE)
                mixed[kept] = x[row, kept]
                gap = abs(float(net(mixed[None])[0, 1] - full[row])) / abs(float(full[row] - empty[row]))
                shares.append(max(0.0, 1 - gap))
            mean = sum(shares) / 7
            half = 2.4469 * math.sqrt(sum((s - mean) ** 2 for s in shares) / 6 / 7)  # t of six degrees of freedom
            assert found.parts["fidelity"][k].item() == pytest.approx(mean, abs=1e-9)
            assert found.parts["fidelity_high"][k].item() == pytest.approx(mean + half, abs=1e-4)
    frontier = found.parts["frontier"]
    assert bool((frontier[1:] >= frontier[:-1]).all())
    assert all(frontier[k] == found.parts["fidelity"][: k + 1].max() for k in range(7))


def test_fidelity_of_answers_counts_rows_that_keep_theirs():
    net, x = Six(), drawn(8, 6, seed=6)
    found = px.explain(net, x, FidelityParsimony(sizes=(0, 2, 6)))
    values = px.explain(net, x, "gradient-x-input").values
    with torch.no_grad():
        full = net(x).argmax(1)
        for point, k in enumerate((0, 2, 6)):
            kept = torch.zeros_like(x)
            for row in range(8):
                best = sorted(range(6), key=lambda i: -abs(float(values[row, i])))[:k]
                kept[row, best] = x[row, best]
            assert found.parts["fidelity"][point].item() == pytest.approx(
                float((net(kept).argmax(1) == full).double().mean())
            )
    assert found.parts["fidelity"][2].item() == 1


def boxes(x):
    """Class 1 inside a box of two columns, which takes four tests: a tree of depth four tells it exactly."""
    inside = ((x[:, 0] > 0.2) & (x[:, 0] < 0.7) & (x[:, 1] > 0.3) & (x[:, 1] < 0.8)).double()
    return torch.stack([0.5 - inside, inside - 0.5], 1)


def test_a_tree_is_deep_enough_where_the_planted_box_ends():
    x = torch.rand(900, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    method = FidelityParsimony(of="cart-c45-surrogate", sizes=(1, 2, 3, 4, 5, 6), choose="least", enough=0.97)
    found = px.explain(boxes, x[:300], method, data=x[300:])
    assert found.values.item() == 4
    fidelity = found.parts["fidelity"]
    tree = px.explain(boxes, x[:300], px.rules.CartSurrogate(max_depth=2), data=x[300:])
    agreed = (tree.predict(x[:300]) == boxes(x[:300]).argmax(1)).double().mean()
    assert fidelity[1].item() == pytest.approx(float(agreed))
    assert bool((found.parts["fidelity_low"] <= fidelity).all() and (fidelity <= found.parts["fidelity_high"]).all())
    assert found.source["along"] == "max depth"


def test_numbers_of_rules_are_told_by_how_much_they_explain():
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    found = px.explain(
        lambda v: (v[:, :1] > 0.5).double(),
        x[:80],
        FidelityParsimony(of="cart-c45-surrogate", sizes=(1, 2)),
        data=x[80:],
    )
    assert found.parts["fidelity"][0].item() > 0.9


def test_where_nothing_is_enough_the_best_is_taken_and_told():
    net, x = Six(), drawn(8, 6, seed=6)
    found = px.explain(net, x, FidelityParsimony(fidelity="score", sizes=(0, 1), choose="least"), target=0)
    assert found.facts["enough"].item() == 0
    assert found.facts["fidelity"].item() == found.parts["fidelity"].max()


def test_the_curve_is_drawn():
    figure = px.explain(Six(), drawn(8, 6), "fidelity-parsimony-tradeoff").show()
    shown = [line.get_label() for axes in figure.axes for line in axes.get_lines()]
    assert "fidelity" in shown
    assert "frontier" in shown


@pytest.mark.parametrize(
    "settings",
    [
        {"fidelity": "up"},
        {"choose": "up"},
        {"enough": 0},
        {"enough": True},
        {"sizes": (2, 1)},
        {"sizes": (1,)},
        {"sizes": (-1, 2)},
        {"sizes": (0, 1.5)},
        {"of": "cart-c45-surrogate", "setting": "size"},
        {"of": "insertion-deletion"},
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(MethodError):
        px.explain(never, drawn(1, 6), FidelityParsimony(**{"of": "feature-ablation", **settings}), data=drawn(9, 6))
