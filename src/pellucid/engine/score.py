"""Scores without gradients, at many points per row: the engine of methods that ask the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pellucid.engine import batch, prefix
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.place import visit
from pellucid.engine.plan import Plan
from pellucid.engine.quick import plan_for

Points = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Fold = Callable[[Tensor, Tensor, Tensor], None]


def sweep(
    ask: Ask,
    count: int,
    points: Points,
    fold: Fold,
    *,
    label: str = "",
    rows: Sequence[int] | None = None,
    at_input: bool = False,
) -> None:
    """`count` scores per row at `points(rows, steps)`, as one list of jobs; `fold(rows, steps, scores)` takes them.

    Points are values of the explained place, or of the inputs where `at_input`. With `rows`, only these are visited.
    Where tokens are replaced late enough in causal transformers, what is before them is not computed again
    (`engine.prefix`, `ask.path` "prefix").
    """
    chosen = torch.arange(ask.inputs.rows) if rows is None else torch.as_tensor(rows)
    reuse = prefix.reuse_for(ask, count, at_input=at_input)
    if reuse is None:
        _whole(ask, count, points, fold, label, chosen, at_input)
        return
    ask.target  # noqa: B018 - settled, or refused, before rows are tried one by one
    waiting: list[int] = []
    reused = False
    for row in chosen.tolist():
        scores = reuse.row(row, count, points, label)
        if scores is None:
            waiting.append(row)
            continue
        reused = True
        if waiting:  # rows are folded in order
            _whole(ask, count, points, fold, label, torch.tensor(waiting), at_input)
            waiting = []
        for steps in torch.arange(count).split(batch.ENOUGH):  # what is done with a score may take memory too
            fold(torch.full_like(steps, row), steps, scores[steps.to(scores.device)])
    if waiting:
        _whole(ask, count, points, fold, label, torch.tensor(waiting), at_input)
    ask.path = "prefix" if reused else ask.path


def _whole(ask: Ask, count: int, points: Points, fold: Fold, label: str, chosen: Tensor, at_input: bool) -> None:
    """All points of these rows, each as a whole pass."""
    target = ask.target
    plan = plan_for(ask, count * len(chosen), "forward", at_input=at_input)

    def which(start: int, stop: int) -> tuple[Tensor, Tensor]:
        first = start // count
        if stop <= (first + 1) * count:  # all of one row, as usual: dividing every number costs more
            return chosen[first].expand(stop - start), torch.arange(start - first * count, stop - first * count)
        jobs = torch.arange(start, stop)
        return chosen[jobs // count], jobs % count

    def work(start: int, stop: int) -> Tensor:
        row, step = which(start, stop)
        with torch.no_grad():
            return target.score(_output(ask, row, points(row, step), at_input, plan), row)

    batch.run(
        count * len(chosen),
        work,
        lambda start, stop, score: fold(*which(start, stop), score),
        memory=ask.memory,
        cost=(ask.subject.module, ("score", ask.path, str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )


def at(ask: Ask, points: tuple[Tensor, ...]) -> Tensor:
    """The score of each row with the explained place at these values, (N,)."""
    found: list[Tensor] = []
    sweep(ask, 1, lambda rows, steps: tuple(p[rows] for p in points), lambda rows, steps, score: found.append(score))
    return torch.cat(found)


def at_input(ask: Ask, points: tuple[Tensor, ...]) -> Tensor:
    """The score of each row with the inputs at these values, whatever place is explained, (N,)."""
    found: list[Tensor] = []

    def values(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        return tuple(p[rows] for p in points)

    sweep(ask, 1, values, lambda rows, steps, score: found.append(score), at_input=True)
    return torch.cat(found)


def _output(ask: Ask, rows: Tensor, values: tuple[Tensor, ...], at_input: bool, plan: Plan | None) -> Tensor:
    subject, module = ask.subject, ask.subject.module
    read = [ask.unit_place] if ask.unit_place is not None else []
    if ask.layer is None or at_input:
        inputs = ask.inputs.at(rows, values)
        if plan is not None:
            return subject.select(plan(*inputs.tensors), inputs)
        if not read or module is None:
            return subject.scores(inputs)
        return visit(lambda: subject.scores(inputs), module, read, stop=True).seen[read[0]]
    assert module is not None
    inputs = ask.inputs.take(rows)
    if plan is not None:
        return subject.select(plan.above(values[0], *([] if plan.closed else inputs.tensors)), inputs)
    seen = visit(lambda: subject.scores(inputs), module, read, {ask.layer: lambda _: values[0]})
    return seen.seen[read[0]] if read else seen.output
