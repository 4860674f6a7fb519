"""LIME and Kernel SHAP on one image: lime's own program and captum's, each at the best of several batch sizes.

lime gets our masks, and must find our coefficients. captum draws masks of its own, which can't be set: it asks the network
as often as we do, and the difference shown is what is left to chance between the two draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import pellucid as px
from benchmarks import timing
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import KernelShap, Lime
from pellucid.engine.neighbourhood import Switched

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum._utils.models.linear_model import SkLearnLinearRegression
    from captum.attr import KernelShap as PeerShap
    from captum.attr import Lime as PeerLime

    from lime import lime_image

lime_image.tqdm = lambda steps: steps  # its bar is no part of the work

CLASS = 3


def run() -> list[Row]:
    """For each network: against lime, captum's LIME and captum's Kernel SHAP; the limit is batched plain forwards."""
    rows = []
    cases = (
        ("small CNN, 32 px", small(), 32, 8, 1000, (10, 64, 250)),
        ("resnet18, 224 px", network("resnet18"), 224, 4, 48, (4, 8)),
    )
    for name, model, side, cells, count, sizes in cases:
        rows += _against(name, model, images(1, side), cells, count, sizes)
    return rows


def small() -> nn.Module:
    """Two strided convolutions and a linear layer."""
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.1, generator=generator)
    return net


def _against(name: str, model: nn.Module, x: Tensor, cells: int, count: int, sizes: tuple[int, ...]) -> list[Row]:
    net = nn.Sequential(model, nn.Softmax(1)).eval()
    place = torch.arange(x.shape[-1]) * cells // x.shape[-1]
    number = place[:, None] * cells + place
    line = Lime(features=("grid", cells), samples=count, exact=False, ridge=1.0)
    shap = KernelShap(features=("grid", cells), samples=count - 2 * cells**2 - 2)

    def ours(method: Lime | KernelShap) -> Tensor:
        return px.explain(net, x, method, target=CLASS).values

    def captum(kind: Callable[[nn.Module], Any], size: int) -> Tensor:
        settings = {"n_samples": count, "perturbations_per_eval": size}
        return kind(net).attribute(x, target=CLASS, baselines=0, feature_mask=number[None, None], **settings)

    limit = partial(_forwards, net, x.expand(sizes[-1], -1, -1, -1).contiguous(), -(-count // sizes[-1]))
    linear = lambda net: PeerLime(net, interpretable_model=SkLearnLinearRegression())  # noqa: E731
    rows = []
    for label, mine, other, within in (
        ("LIME, lime", line, partial(_lime, net, x, number, _masks(cells**2, count)), 1e-3),
        ("LIME, captum", line, partial(captum, linear), math.inf),
        ("Kernel SHAP, captum", shap, partial(captum, PeerShap), math.inf),
    ):
        best = min(sizes, key=partial(_seconds, other))
        task = f"{name}, {count} masks, {label} {best} at once"
        rows.append(compare(task, partial(ours, mine), partial(other, best), within=within, limit=limit, repeats=5))
    return rows


def _masks(players: int, count: int) -> np.ndarray[Any, Any]:
    """The masks that are drawn for the seed 0."""

    class Game:
        class ask:
            seed = 0

    Game.players = players  # type: ignore[attr-defined]
    return Switched(Game, 0).present(count, torch.arange(1)).int().numpy()  # type: ignore[arg-type]


class _Drawn:
    """Stands for lime's random generator: the whole image, which lime always asks about, and then these masks."""

    def __init__(self, masks: np.ndarray[Any, Any]) -> None:
        self.masks = np.concatenate([np.ones_like(masks[:1]), masks])

    def randint(self, low: int, high: int, size: int = 0) -> Any:
        return self.masks.ravel().copy() if size else 0


class _Ridge(Ridge):
    """lime's regression without the whole image, which we leave out."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(X[1:], y[1:], sample_weight=sample_weight[1:])


def _lime(net: nn.Module, x: Tensor, number: Tensor, masks: np.ndarray[Any, Any], size: int) -> Tensor:
    """lime's coefficients at every pixel, for our masks."""

    def scores(batch: Any) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2)).numpy()

    program = lime_image.LimeImageExplainer(feature_selection="none")
    program.random_state = _Drawn(masks)
    found = program.explain_instance(
        x[0].permute(1, 2, 0).numpy(),
        scores,
        labels=(CLASS,),
        top_labels=None,
        hide_color=0,
        num_samples=len(masks) + 1,
        batch_size=size,
        segmentation_fn=lambda image: number.numpy(),
        model_regressor=_Ridge(alpha=1.0),
    )
    slopes = torch.zeros(int(number.max()) + 1)
    for cell, slope in found.local_exp[CLASS]:
        slopes[cell] = slope
    return slopes[number].expand_as(x)


def _seconds(way: Callable[[int], Any], size: int) -> float:
    start = timing._clock()
    way(size)
    return timing._clock() - start


def _forwards(model: nn.Module, x: Tensor, times: int) -> None:
    with torch.inference_mode():
        for _ in range(times):
            model(x)
