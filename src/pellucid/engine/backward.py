"""Backward passes under a rule table, for the rows of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engine import batch, rules
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.gradient import Gradient, needs_module


def once(ask: Ask, table: Callable[[], rules.Table], label: str = "") -> Gradient:
    """What arrives at the explained place of each row when its score is sent back under a rule table.

    One forward and one backward pass, chunked to the memory budget. Operations without a rule are refused, all at once,
    each by name, module and line.
    """
    module, parts = needs_module(ask.subject, "backward rules"), list[Gradient]()
    unit_place = ask.unit_place
    at, start_at = (None if p is None else str(p) for p in (ask.layer, unit_place))

    def work(start: int, stop: int) -> Gradient:
        rows = ask.inputs.take(torch.arange(start, stop))
        outputs: list[Tensor] = []

        def forward(*tensors: Tensor, **named: Tensor) -> Any:
            return ask.subject.scores(replace(rows, tensors=tensors))

        def score(output: Tensor) -> Tensor:
            outputs.append(output.detach())
            return ask.settle_rows(output, start, stop).score(output)

        found = rules.backward(forward, rows.tensors, score, table(), at=at, model=module, start=start_at)
        kept = [(p, v) for p, v in zip(found.points, found.values, strict=True) if v is not None]
        return Gradient(found.score, tuple(p for p, _ in kept), tuple(v for _, v in kept), outputs[0])

    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, found: parts.append(found),
        memory=ask.memory,
        cost=(module, ("rules", table.__name__, str(ask.layer), start_at, shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    ask.remember(torch.cat([p.output for p in parts]))
    return Gradient(
        torch.cat([p.score for p in parts]),
        tuple(map(torch.cat, zip(*(p.values for p in parts), strict=True))),
        tuple(map(torch.cat, zip(*(p.grads for p in parts), strict=True))),
        torch.cat([p.output for p in parts]),
    )
