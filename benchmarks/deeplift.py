"""DeepLIFT at the input: captum's against Pellucid, on networks where captum is right.

These have each activation as a module of its own and average pooling: captum refuses activations that are used again, as
residual networks have them, and loses shares in max-pooling after an activation or with overlapping windows.
"""

from __future__ import annotations

from functools import partial

import torch
from captum.attr import DeepLift
from torch import Tensor, nn

import pellucid as px
from benchmarks.timing import Row, compare

PLANS = {
    "8 convolutions, side 64": (64, (32, 32, "A", 64, 64, "A", 128, 128, "A", 128, 128, "A")),
    "VGG-11 of averages, side 224": (224, (64, "A", 128, "A", 256, 256, "A", 512, 512, "A", 512, 512, "A")),
}
CASES = (("8 convolutions, side 64", 1), ("8 convolutions, side 64", 8), ("VGG-11 of averages, side 224", 1))


def run() -> list[Row]:
    """One row per network and batch; the limit is one forward and backward pass of the rows and their references."""
    rows = []
    for name, batch in CASES:
        side, plan = PLANS[name]
        model = _network(side, plan)
        x = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))

        def ours(model: nn.Module = model, x: Tensor = x) -> Tensor:
            return px.explain(model, x, "deeplift", target=3).values

        def theirs(model: nn.Module = model, x: Tensor = x) -> Tensor:
            return DeepLift(model).attribute(x, torch.zeros_like(x), target=3).detach()

        rows.append(compare(f"{name}, batch {batch}", ours, theirs, within=1e-4, limit=partial(_twice, model, x)))
    return rows


def _network(side: int, plan: tuple[int | str, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in plan:
            if isinstance(step, int):
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
                channels = step
            else:
                layers.append(nn.AvgPool2d(2))
                side //= 2
        head = nn.Sequential(nn.Linear(channels * side**2, 256), nn.ReLU(), nn.Linear(256, 10))
        return nn.Sequential(*layers, nn.Flatten(), *head).eval()


def _twice(model: nn.Module, x: Tensor) -> Tensor:
    both = torch.cat([x, torch.zeros_like(x)]).requires_grad_()
    return torch.autograd.grad(model(both)[: len(x), 3].sum(), both)[0]
