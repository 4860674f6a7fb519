"""Quantus's measurements of faithfulness and ours, on the same network, explanation and settings."""

import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import Attribution, Card, Method
from pellucid.engine import impute
from pellucid.evaluation import HeatmapEntropy, InsertionDeletion, PointingGame, RegionPerturbation, SensitivityN


def load():
    """The package, or a skipped test; imported without zennit, which may want torchvision."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "zennit"}
    sys.modules["zennit"] = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("quantus", exc_type=ImportError)
    finally:
        sys.modules.pop("zennit")
        sys.modules.update(before)


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """Values drawn from a seed, the same for both libraries: sampled, so that no two are equal."""

    card: ClassVar[Card] = Card(
        name="test-given",
        title="Given",
        question="Which values?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        return Attribution(values=values(ask.inputs.floats[0]))


def values(x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x)


def case(rows=3, height=6, width=9):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * height * width, 3))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 5
    x = torch.randn(rows, 1, height, width, generator=generator)
    net.eval()
    return net, x, net(x).argmax(1)


def ask_quantus(metric, net, x, y, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=net,
            x_batch=x.numpy(),
            y_batch=y.numpy(),
            a_batch=values(x).numpy(),
            device="cpu",
            softmax=False,
            **settings,
        )


PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "display_progressbar": False}


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_region_perturbation(order):
    """Quantus gives the falls after each region; the paper's mean also counts the input as it is, whose fall is zero."""
    quantus = load()
    net, x, y = case()
    metric = quantus.RegionPerturbation(
        patch_size=3, regions_evaluation=6, order=order, perturb_baseline="black", **PLAIN
    )
    falls = np.array(ask_quantus(metric, net, x, y))
    ours = px.explain(net, x, RegionPerturbation(of=Given(), order=order, features=("patch", 3), fill="min"), target=y)
    curve = ours.parts["curve"]
    assert np.allclose(falls, (curve[:, :1] - curve[:, 1:]).numpy(), atol=1e-5)
    assert np.allclose(falls.sum(1) / 7, ours.values.numpy(), atol=1e-5)


def test_faithfulness_correlation():
    """Both over random subsets: the figures agree within the errors of two samples."""
    quantus = load()
    net, x, y = case(rows=2, height=2, width=4)
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=400, subset_size=4, perturb_baseline="black", return_aggregate=False, **PLAIN
    )
    theirs = ask_quantus(metric, net, x, y)
    method = SensitivityN(of=Given(), sizes=(4,), features="pixel", baseline="min")
    ours = px.explain(net, x, method, target=y)  # all 70 subsets
    for mine, other in zip(ours.values.tolist(), theirs, strict=True):
        assert abs(mine - other) < 5 * (1 - mine**2) / 400**0.5


def test_pixel_flipping():
    """Quantus gives the scores after each step; ours begin with the score as it is."""
    quantus = load()
    net, x, y = case()
    theirs = np.array(
        ask_quantus(quantus.PixelFlipping(features_in_step=6, perturb_baseline="black", **PLAIN), net, x, y)
    )
    method = InsertionDeletion(of=Given(), features="element", baseline="min", steps=9, references=0)
    ours = px.explain(net, x, method, target=y)
    assert np.allclose(theirs, ours.parts["curve"][:, 1:].numpy(), atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_noisy_linear_imputation(share):
    load()
    from quantus.functions.perturb_func import noisy_linear_imputation

    x = torch.randn(2, 3, 13, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    order = torch.randn(104, generator=torch.Generator().manual_seed(2)).argsort()[: int(share * 104)]
    gone = torch.zeros(104, dtype=torch.bool)
    gone[order] = True
    ours = impute.imputed(x, gone.reshape(1, 1, 13, 8).expand(2, -1, -1, -1))
    for row in range(2):
        theirs = noisy_linear_imputation(x[row].numpy(), order.numpy(), noise=0.0)
        assert np.allclose(theirs, ours[row].numpy(), atol=1e-10)


def test_road():
    """Quantus counts the pictures whose class stays the label; with two classes that is the sign of our margin."""
    quantus = load()
    net, x, _ = case(rows=6)
    net = nn.Sequential(net, nn.Linear(3, 2, bias=False)).eval()
    net[1].weight.data = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    y = torch.zeros(6, dtype=torch.long)
    metric = quantus.ROAD(percentages=[100 * k / 9 for k in range(1, 9)], noise=0.0, **PLAIN)
    theirs = ask_quantus(metric, net, x, y)
    method = InsertionDeletion(of=Given(), features="pixel", baseline="imputed", steps=9, references=0)
    ours = px.explain(net, x, method, target=px.margin(0, 1))
    found = (ours.parts["curve"][:, 1:-1] > 0).double().mean(0)
    # A picture whose margin is nearer to zero than our noise moves it may change sides.
    assert np.abs(np.array([*theirs.values()]) - found.numpy()).max() <= 1 / 6 + 1e-9
    assert np.abs(np.array([*theirs.values()]) - found.numpy()).mean() < 1 / 12


def test_sparseness_is_the_gini_index():
    """Quantus adds 1e-7 to every magnitude."""
    quantus = load()
    net, x, y = case()
    theirs = ask_quantus(quantus.Sparseness(**{**PLAIN, "abs": True}), net, x, y)
    ours = px.explain(net, x, HeatmapEntropy(of=Given(), figure="gini"), target=y)
    assert np.allclose(theirs, ours.values.numpy(), atol=1e-6)


@pytest.mark.parametrize("pooling", ["sum", "absolute"])
def test_pointing_game(pooling):
    """Masks that hold the third largest value, or the largest: both say which row points into its mask."""
    quantus = load()
    net, x, y = case(rows=6)
    figure = values(x) if pooling == "sum" else values(x).abs()
    order = figure.flatten(1).argsort(1, descending=True)
    place = torch.where(torch.arange(6) % 2 == 0, order[:, 0], order[:, 2])
    masks = torch.zeros(6, 54, dtype=torch.bool).scatter_(1, place[:, None], True).reshape(x.shape)
    settings = {**PLAIN, "abs": pooling == "absolute"}
    theirs = ask_quantus(quantus.PointingGame(**settings), net, x, y, s_batch=masks.numpy())
    method = PointingGame(of=Given(), pooling=pooling)
    ours = px.explain(net, x, method, target=y, data={"masks": masks[:, 0]})
    assert [bool(hit) for hit in theirs] == ours.values.bool().tolist() == [True, False] * 3
