"""Shares of a difference between each row and its references, for methods that walk two runs back side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import batch
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.gradient import needs_module
from pellucid.engine.place import visit
from pellucid.engine.rules.contrast import Comparison, Lost, MakeTable, compare, rescale

Floats = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Shares:
    """For each row, averaged over its references: shares at the explained place, the score and the references' score."""

    values: Floats
    score: Tensor
    reference_score: Tensor
    lost: tuple[Lost, ...]


def shares(
    ask: Ask,
    count: int,
    reference: Callable[[Tensor, Tensor], Floats],
    table: MakeTable = rescale,
    *,
    label: str = "",
) -> Shares:
    """`multiplier · (value - reference)` for each row, as a mean over `count` references.

    `reference(rows, steps)` gives the references' values at the explained place, one entry per job. Where a layer is
    explained, the reference run is the row's own with these values put in at the layer.
    Cost: two forward passes and one backward for each row and reference.
    """
    if not ask.inputs.explained and ask.layer is None:
        raise InputError(
            "The 'inputs' must have a floating tensor to compare with a reference",
            got=", ".join(str(x.dtype) for x in ask.inputs.tensors),
            hint="layer= the name of the embedding",
        )
    rows, outputs, lost = ask.inputs.rows, list[Tensor](), dict[tuple[str, ...], Lost]()
    sums: list[Tensor] = []
    score, other = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)

    def which(start: int, stop: int) -> tuple[Tensor, Tensor]:
        jobs = torch.arange(start, stop)
        return jobs // count, jobs % count

    def work(start: int, stop: int) -> tuple[Comparison, Floats, Tensor | None]:
        row, step = which(start, stop)
        base, seen = reference(row, step), list[Tensor]()

        def aim(output: Tensor) -> Tensor:
            if count > 1:
                return ask.target.score(output, row)
            seen.append(output)  # the first is the row's own: the class it predicts is explained in both runs
            return ask.settle_rows(seen[0].detach(), start, stop).score(output)

        found = _compare(ask, row, base, aim, table)
        return found, base, seen[0].detach() if seen else None

    def fold(start: int, stop: int, result: tuple[Comparison, Floats, Tensor | None]) -> None:
        (row, _), (found, base, output) = which(start, stop), result
        kept = [(p, m) for p, m in zip(found.points, found.multipliers, strict=True) if m is not None]
        if not sums:
            sums.extend(p.new_zeros(rows, *p.shape[1:]) for p, _ in kept)
        for total, (point, m), b in zip(sums, kept, base, strict=True):
            total.index_add_(0, row.to(total.device), m * (point - b))
        score.index_add_(0, row, found.score.double().cpu() / count)
        other.index_add_(0, row, found.reference_score.double().cpu() / count)
        for entry in found.lost:
            key = (entry.operation, entry.module, entry.line, entry.kind)
            lost[key] = replace(entry, amount=entry.amount / count + (lost[key].amount if key in lost else 0.0))
        if output is not None:
            outputs.append(output)

    batch.run(
        rows * count,
        work,
        fold,
        memory=ask.memory,
        cost=(needs_module(ask.subject, "backward rules"), _key(ask, table)),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    if outputs:
        ask.remember(torch.cat(outputs))
    return Shares(tuple(total / count for total in sums), score, other, tuple(lost.values()))


def _key(ask: Ask, table: MakeTable) -> tuple[Any, ...]:
    return ("difference", table.__name__, str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))


def _compare(ask: Ask, row: Tensor, base: Floats, aim: Callable[[Tensor], Tensor], table: MakeTable) -> Comparison:
    subject, inputs, place = ask.subject, ask.inputs.take(row), ask.layer
    module = needs_module(subject, "backward rules")
    at, start = (None if p is None else str(p) for p in (place, ask.unit_place))

    def plain(*tensors: Tensor) -> Any:
        return subject.scores(replace(inputs, tensors=tensors))

    if place is None:
        there = (plain, inputs.with_floats(base).tensors)
        return compare((plain, inputs.tensors), there, aim, table, model=module, start=start)
    with torch.inference_mode(False), torch.enable_grad():
        # Not a leaf, so that what follows may work in place; made before the run, so that it is no operation of it.
        value = base[0].detach().requires_grad_().clone()

    def put_in(*tensors: Tensor) -> Any:
        return visit(lambda: plain(*tensors), module, edit={place: lambda _: value}).output

    return compare(
        (plain, inputs.tensors), (put_in, inputs.tensors), aim, table, model=module, at=at, start=start
    )  # fmt: skip
