"""Peak memory at 10 and at 10,000 steps, against the budget that was declared."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import torch
from torch import nn

import pellucid as px
from benchmarks.timing import Row
from pellucid.attribution import IntegratedGradients, SmoothGrad
from pellucid.contract import Method

BUDGET = 64  # MiB


def run() -> list[Row]:
    """`ours` is the growth in MiB, `other` the budget; the ratio must stay above 0.9."""
    rows = []
    for steps in (10, 10_000):
        for name in ("integrated-gradients", "smoothgrad"):
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                grown, seconds = pool.apply(_growth, (name, steps))
            task = f"{name}, {steps} steps, budget {BUDGET} MiB (MiB, not seconds; took {seconds:.0f} s)"
            rows.append(Row(task=task, ours=grown, other=BUDGET, ratio=BUDGET / max(grown, 1e-9), difference=0.0))
            print(rows[-1], flush=True)
    return rows


def _growth(name: str, steps: int) -> tuple[float, float]:
    torch.manual_seed(0)
    model = _network()
    x = torch.randn(1, 3, 64, 64)
    # Another network first, so that what is imported on first use is not counted, and with it the way to a plan.
    px.explain(_network(), torch.randn(1, 3, 16, 16), IntegratedGradients(steps=100), memory=8 << 20)
    before = _resident()
    _forget_peak()
    start = time.perf_counter()
    px.explain(model, x, _method(name, steps), memory=BUDGET << 20)
    return _peak() - before, time.perf_counter() - start


def _method(name: str, steps: int) -> Method:
    return IntegratedGradients(steps=steps) if name == "integrated-gradients" else SmoothGrad(samples=steps)


def _network() -> nn.Module:
    body = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _resident() -> float:
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
