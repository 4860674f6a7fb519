"""Pixel flipping and noisy linear imputation: Quantus's programs, on the same values, orders, fills and steps."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import pellucid as px
from benchmarks.lime import small
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.contract import Attribution, Card, Method
from pellucid.engine import impute
from pellucid.evaluation import InsertionDeletion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sys.modules.setdefault("zennit", None)  # type: ignore[arg-type]  # which may want torchvision; Quantus goes without
    import quantus
    from quantus.functions.perturb_func import noisy_linear_imputation

CLASS = 3
PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "display_progressbar": False}


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """The same values for both, drawn from a seed."""

    card: ClassVar[Card] = Card(
        name="benchmark-given",
        title="Given",
        question="Which values?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject: Any, ask: Any, state: Any) -> Attribution:
        ask.score  # noqa: B018
        return Attribution(values=values(ask.inputs.floats[0]))


def values(x: Tensor) -> Tensor:
    """One figure per value of the pictures."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x)


def run() -> list[Row]:
    """Whole curves against the limit of batched plain forwards; then holes alone."""
    rows = [
        _curves("small CNN, 32 px, 4 images", small(), images(4, 32), 96),
        _curves("small CNN, 32 px, 16 images", small(), images(16, 32), 96),
        _curves("resnet18, 224 px, 2 images", network("resnet18"), images(2), 48),
    ]
    for side, share in ((32, 0.5), (32, 0.9), (64, 0.5), (64, 0.9), (224, 0.5), (224, 0.9)):
        rows.append(_holes(side, share))
    return rows


def _curves(name: str, net: nn.Module, x: Tensor, steps: int) -> Row:
    """Scores while a share of all values after the other is set to the picture's least."""
    rows, count = len(x), x[0].numel()
    method = InsertionDeletion(of=Given(), features="element", baseline="min", steps=steps, references=0)
    metric = quantus.PixelFlipping(features_in_step=count // steps, perturb_baseline="black", **PLAIN)
    given, target = values(x).numpy(), np.full(rows, CLASS)

    def ours() -> Tensor:
        return px.explain(net, x, method, target=CLASS).parts["curve"][:, 1:]

    def other() -> Tensor:
        found = metric(
            model=net, x_batch=x.numpy(), y_batch=target, a_batch=given, softmax=False, device="cpu", batch_size=64
        )
        return torch.tensor(found, dtype=torch.float64)

    def limit() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                net(x)

    return compare(f"{name}, {steps} steps", ours, other, within=1e-4, limit=limit, repeats=5)


def _holes(side: int, share: float) -> Row:
    """The same pixels of pictures missing, at random places, solved for without noise."""
    x = images(4, side).double()
    gone = torch.zeros(4, 1, side, side, dtype=torch.bool)
    order = torch.randn(4, side**2, generator=torch.Generator().manual_seed(2)).argsort(1)[:, : int(share * side**2)]
    gone.flatten(1).scatter_(1, order, True)

    def other() -> Tensor:
        pairs = zip(x.numpy(), order.numpy(), strict=True)
        return torch.from_numpy(np.stack([noisy_linear_imputation(one, which, noise=0.0) for one, which in pairs]))

    task = f"imputation, {side} px, {share:.0%} missing"
    return compare(task, partial(impute.imputed, x, gone), other, within=1e-4, repeats=5)
