"""How much of the score is due to a group of features, beside what it does together with others?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import NeedError, UnsupportedOperation
from pellucid.engine import batch, rules
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.gradient import needs_module
from pellucid.engine.rules.check import target_edges
from pellucid.engine.rules.onward import onward
from pellucid.engine.rules.split import contextual

Masks = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """The score of each job in parts: due to the group, to the rest of the input, to constants kept apart."""

    group: Tensor
    others: Tensor
    constant: Tensor
    score: Tensor

    @property
    def gap(self) -> Tensor:
        """How far the parts are from summing to the score: rounding alone, where every rule is right."""
        return (self.group + self.others + self.constant - self.score).abs()


def split(
    ask: Ask, rows: Tensor, masks: Callable[[Tensor], Masks], *, output_bias: str = "apart", label: str = ""
) -> Split:
    """Contextual decomposition of the score, for jobs on the rows `rows`.

    `masks(jobs)` says for these jobs which values of the explained place are in the group, one boolean mask per floating
    tensor. Cost: one recorded forward pass per job, and the parts' own.
    """
    module, parts, aim = needs_module(ask.subject, "backward rules"), list[Split](), ask.target
    if not (outcome := rules.available()):
        raise UnsupportedOperation("Backward rules do not work with this torch", got=outcome.reason)

    def work(start: int, stop: int) -> Split:
        jobs = torch.arange(start, stop)
        inside = masks(jobs)
        full = torch.stack([m.flatten(1).all(1).cpu() for m in inside]).all(0)
        found = [ask.score.new_zeros(stop - start) for _ in range(4)]
        for whole in (False, True):  # a group that is the whole input gets constants that nothing else explains
            chosen = (full == whole).nonzero()[:, 0]
            if len(chosen):
                held = tuple(m[chosen.to(m.device)] for m in inside)
                answer = _split(ask, rows[jobs[chosen]], held, whole, output_bias, aim)
                for into, value in zip(found, answer, strict=True):
                    into[chosen.to(into.device)] = value
        return Split(*found)

    batch.run(
        len(rows),
        work,
        lambda start, stop, found: parts.append(found),
        memory=ask.memory,
        cost=(module, ("contextual", str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
    return Split(*(torch.cat([getattr(p, n) for p in parts]) for n in ("group", "others", "constant", "score")))


def _split(ask: Ask, rows: Tensor, inside: Masks, whole: bool, output_bias: str, aim: Any) -> tuple[Tensor, ...]:
    taken = ask.inputs.take(rows)

    def forward(*tensors: Tensor) -> Any:
        return ask.subject.scores(replace(taken, tensors=tensors))

    at, begin = (None if p is None else str(p) for p in (ask.layer, ask.unit_place))
    trace = rules.Trace(
        ask.subject.module,
        taken.tensors,
        forward,
        places=[] if at is None else [at],
        score=lambda output: aim.score(output, rows),
        start=begin,
    )
    edges = target_edges(trace, at)
    values = taken.floats if at is None else (trace.places[at].value.detach(),)
    assert trace.score is not None
    if trace.score.grad_fn is None:
        raise NeedError("The score must depend on the input through operations on record", got="a constant")
    seeds = {}
    for edge, x, mask in zip(edges, values, inside, strict=True):
        m = mask.to(x).expand(x.shape)
        seeds[edge] = (x * m, x * (1 - m), None, m)
    root = (trace.score.grad_fn, trace.score.output_nr)
    group, others, constant, _ = onward(trace, seeds, root, contextual(whole, output_bias))
    return group, others, torch.zeros_like(group) if constant is None else constant, trace.score.detach()
