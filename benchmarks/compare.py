"""Comparing methods against explaining with each and evaluating each explanation by itself: passes and seconds.

`other` is the sum of explaining once with every method and of one evaluation of each by every metric, without sharing.
The first tables count rows that pass forwards and backwards through the network, on its plain path; the columns called
seconds hold these counts there. A ratio above 1 / 1.3 keeps the promise that comparing costs less than 1.3 × that sum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import pellucid as px
from benchmarks.timing import Row, compare
from pellucid.engine import answer, as_subject
from pellucid.evaluation import comparing
from pellucid.evaluation.comparing_column import Run

METHODS = (
    *("vanilla-gradient", "gradient-x-input", "integrated-gradients", "smoothgrad", "guided-backprop"),
    *("grad-cam", "lrp-epsilon", "deeplift", "feature-ablation", "shapley-value"),
)
PROMISE = 1.3


class Counter:
    """Rows forwards and backwards through a module."""

    def __init__(self, module: nn.Module) -> None:
        self.forwards = self.backwards = 0
        module.register_forward_hook(self._forward)

    def _forward(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.forwards += len(output)
        if output.requires_grad:
            output.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def run() -> list[Row]:
    """Ten methods by the default metrics on eight digits, counted and timed."""
    rows = px.zoo.data("digits-cnn").test[0][:8]
    found = _counted(rows)
    model = px.zoo.load("digits-cnn")

    def together() -> Tensor:
        return px.compare(model, rows, METHODS, budget=None).parts["rows"]

    row = compare("ten methods, six metrics", together, lambda: _apart(model, rows), within=1e-5, repeats=5)
    assert row.ratio > 1 / PROMISE, row
    return [*found, row]


def _counted(rows: Tensor) -> list[Row]:
    """The same in rows that pass through the network."""
    passes, values = [], []
    for way in (lambda m: px.compare(m, rows, METHODS, budget=None).parts["rows"], lambda m: _apart(m, rows)):
        model = px.zoo.load("digits-cnn")
        counter = Counter(model)
        values.append(way(px.Subject(model, plan=False)))
        passes.append((counter.forwards, counter.backwards))
    difference = float((values[0] - values[1]).nan_to_num().norm() / values[1].nan_to_num().norm())
    found = []
    for kind, ours, other in zip(("forwards", "backwards"), *passes, strict=True):
        task, ratio = f"ten methods, six metrics: rows {kind}", other / ours
        assert ratio > 1 / PROMISE, (task, ratio)
        found.append(Row(task=task, ours=ours, other=other, ratio=ratio, difference=difference))
        print(task, ours, other, f"{ratio:.2f}", flush=True)
    return found


def _apart(model: Any, rows: Tensor) -> Tensor:
    """Every method explained once, and every metric of it computed by itself."""
    subject = as_subject(model)
    metrics = comparing._metrics("default")
    columns = []
    for method in comparing._methods(METHODS).values():
        ask = answer.question(subject, rows, None, None, None, None, 0, None, False)
        with answer.asking(subject, ask):
            ask.target  # noqa: B018
            alone = Run(subject, replace(ask), None, metrics, None, None, memo=None)
            columns.append(alone.column(method).figures)
    return torch.stack(columns)
