"""Scores and their gradients at the inputs or at a place, for the rows of a call or for many points per row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError, LayerError, NeedError
from pellucid.engine import batch
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, visit
from pellucid.engine.plan import Plan
from pellucid.engine.quick import plan_for
from pellucid.engine.subject import Subject

Floats = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Gradient:
    """For each row: its score, the values at the explained place, and the score's derivative there."""

    score: Tensor
    values: Floats
    grads: Floats
    output: Tensor


def gradient(
    subject: Subject,
    inputs: Inputs,
    aim: Callable[[Tensor], Tensor],
    *,
    at: Place | None = None,
    target_place: Place | None = None,
    leaf: Tensor | None = None,
    plan: Plan | None = None,
) -> Gradient:
    """One forward and one backward pass; the graph begins at `at` and ends at the score, and nothing else is kept.

    With `leaf`, the place's values are replaced by these; with `plan`, it computes in the model's stead.
    """
    module = needs_module(subject, "gradients")
    with torch.enable_grad(), torch.inference_mode(False), _recurrent(module, inputs):
        if at is None:
            values = tuple(x.detach().requires_grad_() for x in inputs.floats)
            if not values:
                raise InputError(
                    "The 'inputs' must have a floating tensor to take gradients at",
                    got=", ".join(str(x.dtype) for x in inputs.tensors),
                    hint="layer= the name of the embedding",
                )
            # A copy goes in, so that a model that works in place writes neither to the caller's rows nor to the leaf.
            inputs = inputs.with_floats([x.clone() for x in values])
        if plan is None:
            reads = [target_place] if target_place is not None else []
            stop = target_place is not None and at is None
            seen = visit(lambda: subject.scores(inputs), module, reads, cut=at, leaf=leaf, stop=stop)
            output = seen.seen[target_place] if target_place is not None else seen.output
            values = values if at is None else (seen.seen[at],)
        elif at is None:
            output = subject.select(plan(*inputs.tensors), inputs)
        else:
            start = plan.below(*inputs.tensors) if leaf is None else leaf
            values = (start.detach().requires_grad_(),)
            output = subject.select(plan.above(values[0], *([] if plan.closed else inputs.tensors)), inputs)
        if at is not None and values[0].shape[0] != inputs.rows:
            raise LayerError(
                f"The 'layer' {str(at)!r} must hold one entry per row along its first axis, {inputs.rows}",
                got=f"shape {tuple(values[0].shape)}",
                hint="a neighbouring module, or batch_first=True",
            )
        score = aim(output)
        if not score.requires_grad:
            raise NeedError(
                "The score must depend on the input through differentiable operations",
                got="a score without a gradient",
                hint="scores instead of labels, and no .detach(), .data or numpy inside the model",
            )
        grads = torch.autograd.grad(score.sum(), values, allow_unused=True)
    found = tuple(torch.zeros_like(v) if g is None else g for v, g in zip(values, grads, strict=True))
    return Gradient(score.detach(), tuple(v.detach() for v in values), found, output.detach())


def once(ask: Ask, label: str = "") -> Gradient:
    """Score and gradient of every row: one forward and one backward pass in all, chunked to the memory budget."""
    parts: list[Gradient] = []
    unit_place, plan = ask.unit_place, plan_for(ask, ask.inputs.rows, "gradient")

    def work(start: int, stop: int) -> Gradient:
        rows = ask.inputs.take(torch.arange(start, stop))

        def aim(output: Tensor) -> Tensor:
            return ask.settle_rows(output, start, stop).score(output)

        return gradient(ask.subject, rows, aim, at=ask.layer, target_place=unit_place, plan=plan)

    _run(ask, ask.inputs.rows, work, lambda start, stop, found: parts.append(found), "once", label)
    ask.remember(torch.cat([p.output for p in parts]))
    return Gradient(
        torch.cat([p.score for p in parts]),
        tuple(map(torch.cat, zip(*(p.values for p in parts), strict=True))),
        tuple(map(torch.cat, zip(*(p.grads for p in parts), strict=True))),
        torch.cat([p.output for p in parts]),
    )


Points = Callable[[Tensor, Tensor], Floats]
Fold = Callable[[Tensor, Tensor, Gradient], None]


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
    """`count` gradients per row, at `points(rows, steps)`, as one list of jobs over rows and steps.

    `points` gives values for the explained place (or, where `at_input`, for the inputs, with gradients still at the
    place), one entry per job; `fold(rows, steps, gradient)` takes the results in order. With `rows`, only these rows are
    visited.
    """
    target, chosen = ask.target, torch.arange(ask.inputs.rows) if rows is None else torch.as_tensor(rows)
    unit_place, plan = ask.unit_place, plan_for(ask, count * len(chosen), "gradient")

    def which(start: int, stop: int) -> tuple[Tensor, Tensor]:
        jobs = torch.arange(start, stop)
        return chosen[jobs // count], jobs % count

    def work(start: int, stop: int) -> Gradient:
        row, step = which(start, stop)
        values, leaf = points(row, step), None
        if ask.layer is None or at_input:
            inputs = ask.inputs.at(row, values)
        else:
            inputs, leaf = ask.inputs.take(row), values[0]
        return gradient(
            ask.subject,
            inputs,
            lambda out: target.score(out, row),
            at=ask.layer,
            target_place=unit_place,
            leaf=leaf,
            plan=plan,
        )

    def done(start: int, stop: int, result: Gradient) -> None:
        fold(*which(start, stop), result)

    _run(ask, count * len(chosen), work, done, "sweep", label)


def _run(ask: Ask, jobs: int, work: Callable, fold: Callable, kind: str, label: str) -> None:
    key = (kind, ask.path, str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))
    batch.run(
        jobs,
        work,
        fold,
        memory=ask.memory,
        cost=(ask.subject.module, key),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )


def needs_module(subject: Subject, what: str) -> nn.Module:
    """The module, or a clear refusal for plain callables."""
    if subject.module is None:
        raise NeedError(
            f"This method needs {what}, so the 'model' must be a torch module",
            got=type(subject.model).__name__,
            hint="a method that needs predictions alone: `pellucid methods --needs predictions`",
        )
    return subject.module


@contextlib.contextmanager
def _recurrent(module: nn.Module, inputs: Inputs) -> Iterator[None]:
    """cuDNN has no backward pass for recurrent layers in evaluation mode; torch's own kernels have."""
    if inputs.device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in module.modules()):
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield
