"""One recorded forward pass of some of a call's rows, for methods that read the operations themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from pellucid.contract.errors import NeedError, UnsupportedOperation
from pellucid.engine import batch, rules
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.gradient import needs_module
from pellucid.engine.inputs import Inputs
from pellucid.engine.rules.check import target_edges
from pellucid.engine.rules.record import Edge

Floats = tuple[Tensor, ...]


@runtime_checkable
class HasOutput(Protocol):
    """What a chunk gives must hold the model's output for its rows."""

    @property
    def output(self) -> Tensor: ...


Chunk = TypeVar("Chunk", bound=HasOutput)


@dataclass(frozen=True, eq=False)
class Recorded:
    """The trace of some rows, what is explained in it, and where: `root` makes the score, `targets` are the place's."""

    rows: Inputs
    trace: rules.Trace
    score: Tensor
    output: Tensor
    root: Edge
    targets: list[Edge]
    values: Floats


def record(
    ask: Ask,
    start: int,
    stop: int,
    *,
    keep: Callable[[str], bool] = lambda name: True,
    tokens: bool = False,
    within: AbstractContextManager[Any] | None = None,
) -> Recorded:
    """Run rows `start` to `stop` once, with every operation on record; `keep` names those whose values are kept.

    Token ids without a layer are refused, as no gradient goes there, except with `tokens`: then there are no targets.
    The model's own pass runs in the context `within`.
    """
    rows, outputs = ask.inputs.take(torch.arange(start, stop)), list[Tensor]()

    def forward(*tensors: Tensor) -> Any:
        with within or contextlib.nullcontext():
            return ask.subject.scores(replace(rows, tensors=tensors))

    def aim(output: Tensor) -> Tensor:
        outputs.append(output.detach())
        return ask.settle_rows(output, start, stop).score(output)

    at, begin = (None if p is None else str(p) for p in (ask.layer, ask.unit_place))
    module, places = needs_module(ask.subject, "operations on record"), [] if at is None else [at]
    trace = rules.Trace(module, rows.tensors, forward, places=places, score=aim, start=begin, keep=keep)
    targets = [] if tokens and at is None and not rows.explained else target_edges(trace, at)
    assert trace.score is not None
    if trace.score.grad_fn is None:
        raise NeedError("The score carries no gradient", got="a constant", hint="a forward without no_grad or detach")
    values = rows.floats if at is None else (trace.places[at].value.detach(),)
    root = (trace.score.grad_fn, trace.score.output_nr)
    return Recorded(rows, trace, trace.score, outputs[0], root, targets, values)


def in_chunks(ask: Ask, work: Callable[[int, int], Chunk], key: tuple[Any, ...], label: str) -> list[Chunk]:
    """Do all rows in chunks that fit the memory budget, and remember the model's output."""
    module, found = needs_module(ask.subject, "operations on record"), list[Chunk]()
    if not (outcome := rules.available()):
        raise UnsupportedOperation("Operations can't be recorded with this torch", got=outcome.reason)
    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, chunk: found.append(chunk),
        memory=ask.memory,
        cost=(module, (*key, str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    ask.remember(torch.cat([chunk.output for chunk in found]))
    return found
