"""Backward passes under a rule table, for the rows of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.engine import batch, rules
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.gradient import Gradient, needs_module

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Shared:
    """For each row: what arrived (`found.grads`), and what stayed behind, `absorbed[kind]`, each (N,) in float64.

    `ledger` lists operation, module, kind and amount over all rows, `rules` operation, module, rule and how often: both
    as plain data. `leaks` says of each row how far the ledger is from closing, `least` the smallest denominator on the
    way.
    """

    found: Gradient
    absorbed: dict[str, Tensor]
    leaks: Tensor
    least: Tensor
    ledger: list[dict[str, Any]]
    rules: list[dict[str, Any]]


def once(ask: Ask, table: Callable[[], rules.Table], label: str = "") -> Gradient:
    """What arrives at the explained place of each row when its score is sent back under a rule table?

    One forward and one backward pass, chunked to the memory budget. Operations without a rule are refused, all at once,
    each by name, module and line.
    """
    return _run(ask, table, label, None)[0]


def share(
    ask: Ask,
    table: Callable[[], rules.Table],
    label: str = "",
    score: Score | None = None,
    places: Sequence[str] | None = None,
) -> Shared:
    """The same for a table that shares the score out, with its books. `score` changes what is shared, elementwise.

    `places` are explained together instead of the inputs or the layer, such as the embeddings of two languages.
    """
    found, parts = _run(ask, table, label, score, places)
    kinds = dict.fromkeys(entry.kind for ledger, _ in parts for entry in ledger.absorbed)
    rows = [len(ledger.open_rows) for ledger, _ in parts]
    absorbed = {kind: torch.cat([_of_kind(p[0], kind, n) for p, n in zip(parts, rows, strict=True)]) for kind in kinds}
    return Shared(
        found,
        absorbed,
        torch.cat([ledger.open_rows for ledger, _ in parts]),
        torch.cat([ledger.least for ledger, _ in parts]),
        _entries([ledger for ledger, _ in parts], found.score),
        _assigned(parts[0][1]),
    )


Books = tuple[rules.Ledger, list[rules.Row]]


def _run(
    ask: Ask,
    table: Callable[[], rules.Table],
    label: str,
    change: Score | None,
    places: Sequence[str] | None = None,
) -> tuple[Gradient, list[Books]]:
    module, parts = needs_module(ask.subject, "backward rules"), list[tuple[Gradient, list[Books]]]()
    unit_place = ask.unit_place
    start_at = None if unit_place is None else str(unit_place)
    at = list(places) if places else None if ask.layer is None else str(ask.layer)

    def work(start: int, stop: int) -> tuple[Gradient, list[Books]]:
        rows = ask.inputs.take(torch.arange(start, stop))
        outputs: list[Tensor] = []

        def forward(*tensors: Tensor, **named: Tensor) -> Any:
            return ask.subject.scores(replace(rows, tensors=tensors))

        def score(output: Tensor) -> Tensor:
            outputs.append(output.detach())
            found = ask.settle_rows(output, start, stop).score(output)
            return found if change is None else change(found)

        found = rules.backward(forward, rows.tensors, score, table(), at=at, model=module, start=start_at)
        kept = [(p, v) for p, v in zip(found.points, found.values, strict=True) if v is not None]
        gradient = Gradient(found.score, tuple(p for p, _ in kept), tuple(v for _, v in kept), outputs[0])
        if found.ledger is None:
            return gradient, []
        if stop - start > 1 and not found.ledger.apart:
            return gradient, [book for row in range(start, stop) for book in work(row, row + 1)[1]]
        return gradient, [(found.ledger, found.rules)]

    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, found: parts.append(found),
        memory=ask.memory,
        cost=(
            module,
            ("rules", getattr(table, "__name__", ""), label, str(at), start_at, shape_key(ask.inputs)),
        ),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    gradients = [gradient for gradient, _ in parts]
    ask.remember(torch.cat([g.output for g in gradients]))
    joined = Gradient(
        torch.cat([g.score for g in gradients]),
        tuple(map(torch.cat, zip(*(g.values for g in gradients), strict=True))),
        tuple(map(torch.cat, zip(*(g.grads for g in gradients), strict=True))),
        torch.cat([g.output for g in gradients]),
    )
    return joined, [book for _, books in parts for book in books]


def _of_kind(ledger: rules.Ledger, kind: str, rows: int) -> Tensor:
    found = torch.zeros(rows, dtype=torch.float64)
    for entry in ledger.absorbed:
        if entry.kind == kind:
            found = found + entry.rows
    return found


def _entries(ledgers: Sequence[rules.Ledger], score: Tensor) -> list[dict[str, Any]]:
    """Entries of the same operation, module and kind as one, over all rows; without what is rounding."""
    totals: dict[tuple[str, str, str], float] = {}
    for entry in (entry for ledger in ledgers for entry in ledger.absorbed):
        key = (entry.operation, entry.module, entry.kind)
        totals[key] = totals.get(key, 0.0) + entry.amount
    least = 8 * torch.finfo(score.dtype).eps * max([float(score.abs().sum()), *map(abs, totals.values())])
    names = ("operation", "module", "kind", "amount")
    return [dict(zip(names, (*key, total), strict=True)) for key, total in totals.items() if abs(total) > least]


def _assigned(rows: Sequence[rules.Row]) -> list[dict[str, Any]]:
    """Which rule each operation got; repetitions, as in a recurrent network, are counted."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row.operation, row.module, row.rule)
        counts[key] = counts.get(key, 0) + 1
    names = ("operation", "module", "rule", "times")
    return [dict(zip(names, (*key, count), strict=True)) for key, count in counts.items()]
