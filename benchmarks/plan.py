"""Plans against the model itself: forward alone, and forward with the gradient to the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.engine import plan

NETWORKS = ("resnet18", "resnet50", "vgg16")
BATCHES = (1, 4, 8)
# Two float32 gradients differ where a ReLU within rounding of zero decides differently; outputs do not.
_OUTPUTS, _GRADIENTS = 1e-4, 5e-2


def run() -> list[Row]:
    """Each network at each batch, 224 pixels."""
    rows = []
    for name in NETWORKS:
        model = network(name)
        for batch in BATCHES:
            x = images(batch)
            forward, gradient = plan.get(model, (x,), "forward"), plan.get(model, (x,), "gradient")
            assert forward is not None, plan.explain_none(model, (x,), "forward")
            assert gradient is not None, plan.explain_none(model, (x,), "gradient")
            task = f"{name} x{batch}"
            rows.append(compare(f"{task}, forward", lambda x=x, p=forward: p(x), _inference(model, x), within=_OUTPUTS))
            mine, eager = _slope(gradient, x), _slope(model, x)
            # The least a gradient costs: a forward for the values and as much again for the way back.
            least = _twice(forward, x)
            rows.append(compare(f"{task}, gradient", mine, eager, within=_GRADIENTS, limit=least))
    return rows


def _inference(model: Callable[..., Any], x: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return forward


def _slope(run: Callable[..., Any], x: Tensor) -> Callable[[], Tensor]:
    def gradient() -> Tensor:
        point = x.clone().requires_grad_()
        return torch.autograd.grad(run(point)[:, 3].sum(), point)[0]

    return gradient


def _twice(run: Callable[..., Any], x: Tensor) -> Callable[[], None]:
    def forwards() -> None:
        run(x)
        run(x)

    return forwards
