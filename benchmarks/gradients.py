"""Integrated gradients and SmoothGrad: captum at its best batch against Pellucid, and the passes to a given gap."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor, nn

import pellucid as px
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import IntegratedGradients, SmoothGrad
from pellucid.engine import seed
from pellucid.engine.inputs import as_inputs

STEPS = 48
BATCHES = (4, 8, 16)


def run() -> list[Row]:
    """Equal steps and equal samples; the limit is as many plain forward and backward passes."""
    model, x = network("resnet18"), images(1)
    peer = CaptumIntegratedGradients(model)
    method, smooth = IntegratedGradients(steps=STEPS), SmoothGrad(samples=STEPS)

    def theirs(batch: int) -> Tensor:
        return peer.attribute(x, target=3, n_steps=STEPS, internal_batch_size=batch).detach()

    def smoothed(batch: int) -> Tensor:
        return NoiseTunnel(_Fixed(model, x)).attribute(x, nt_samples=STEPS, nt_samples_batch_size=batch, target=3)

    limit = partial(_passes, model, x)
    return [
        compare(
            f"integrated gradients, resnet18, {STEPS} steps",
            lambda: px.explain(model, x, method, target=3).values,
            partial(theirs, _best(theirs)),
            within=1e-2,  # rectifiers within rounding of zero decide either way: float32 itself differs by about as much
            limit=limit,
        ),
        compare(
            f"SmoothGrad, resnet18, {STEPS} samples",
            lambda: px.explain(model, x, smooth, target=3).values,
            partial(smoothed, _best(smoothed)),
            within=1e-2,
            limit=limit,
        ),
        _to_a_gap(),
    ]


class _Fixed(Saliency):
    """Captum's gradient at the same noisy copies as ours, handed out in turn, so that the results can be compared."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__(model)
        noise = seed.normal(0, as_inputs(x).keys() * STEPS, [k << 8 for k in range(STEPS)], tuple(x.shape[1:]), x)
        self.points, self.at = x + 0.15 * (x.max() - x.min()) * noise, 0

    def attribute(self, inputs: Tensor, target: int) -> Tensor:  # type: ignore[override]
        points = self.points[self.at : self.at + len(inputs)]
        self.at += len(inputs)
        found: Tensor = super().attribute(points, target=target, abs=False)
        return found

    attribute.__wrapped__ = attribute  # type: ignore[attr-defined]  # captum calls what its logger wraps


def _best(way: Callable[[int], Tensor]) -> int:
    """The batch at which the peer is fastest here."""
    times = {}
    for batch in BATCHES:
        way(batch)
        start = time.perf_counter()
        way(batch)
        times[batch] = time.perf_counter() - start
    return min(times, key=lambda batch: times[batch])


def _passes(model: nn.Module, x: Tensor) -> None:
    for _ in range(STEPS // 8):
        leaf = x.expand(8, -1, -1, -1).clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)


def _to_a_gap(tolerance: float = 0.01) -> Row:
    """Passes until the measured gap is within one percent: ours stop by themselves, captum's steps are tried in turn."""
    model, world = px.zoo.load("shapes-cnn"), px.zoo.data("shapes-cnn")
    x = world.test[0][:12]
    got = px.explain(model, x, IntegratedGradients(tolerance=tolerance))
    peer, ratios = CaptumIntegratedGradients(model), []
    for i, steps in enumerate(got.facts["steps"].tolist()):
        row, target = x[i : i + 1], int(got.target[i])
        change = (model(row) - model(torch.zeros_like(row)))[0, target].abs()
        for theirs in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048):
            gap = peer.attribute(row, target=target, n_steps=theirs, return_convergence_delta=True)[1].abs()
            if gap <= tolerance * change:
                break
        ratios.append(theirs / steps)
    ratio, passes = statistics.median(ratios), got.facts["steps"].double().median().item()
    return Row(
        task="integrated gradients to 1 %, shapes-cnn (passes, not seconds)",
        ours=passes,
        other=passes * ratio,
        ratio=ratio,
        difference=float(got.facts["relative_gap"].max()),
    )
