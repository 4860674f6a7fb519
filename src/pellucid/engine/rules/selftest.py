"""Do torch's private calls still mean what the labels rely on? A small network is labelled and compared, once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from pellucid.engine.rules.tables import gradient, guided
from pellucid.engine.rules.trace import Trace
from pellucid.engine.rules.walk import Table, own, walk

EXPECTED = ["convolution", "relu", "max_pool2d_with_indices", "mul", "mean", "add", "view", "addmm"]


@dataclass(frozen=True)
class Outcome:
    """Whether rule-based methods work on this torch, and if not, what broke."""

    works: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.works


class _Probe(nn.Module):
    """The shifts that labels must survive: in-place on a whole and on a view, a reused value, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.skip_init(nn.Conv2d, 1, 2, 3, dtype=torch.float64)
        self.last = nn.utils.skip_init(nn.Linear, 2, 2, dtype=torch.float64)
        for p in self.parameters():  # without touching the random generator
            p.data.copy_(torch.arange(p.numel()).view_as(p).cos())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        y = (y.mul_(y.detach() + 1) * y).mean((2, 3))
        y = y + 1
        y[:, 1].relu_()
        return self.last(y.view(-1, 2))


@cache
def available() -> Outcome:
    """The outcome of the self-test, run on first use."""
    try:
        return _examine()
    except Exception as broken:
        return Outcome(False, f"{type(broken).__name__}: {broken}")


def _examine() -> Outcome:
    with torch.inference_mode(False):
        model, x = _Probe(), torch.arange(128, dtype=torch.float64).view(2, 1, 8, 8).sin()
    given = x.clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        (want,) = torch.autograd.grad(model(given)[:, 0].sum(), given)
    closed = Table("closed", rules=dict.fromkeys(guided().rules, own))
    for table in (gradient(), closed):
        trace = Trace(model, x, score=lambda output: output[:, 0], keep=table.keeps)
        assert trace.score is not None
        seed = ((trace.score.grad_fn, 0), torch.ones_like(trace.score))
        (got,) = walk(trace, [seed], [e for e in trace.edges if e is not None], table).values
        if not torch.allclose(got, want, rtol=1e-12, atol=1e-14):
            return Outcome(False, f"the walk differs from autograd by {float((got - want).abs().max()):.1e}")
        names = {op.name for op in trace.ops if op.edges}
        if missing := [name for name in EXPECTED if name not in names]:
            return Outcome(False, f"operations without a label: {', '.join(missing)}")
        if places := {op.module for op in trace.ops if op.name in ("convolution", "addmm")} - {"first", "last"}:
            return Outcome(False, f"operations labelled with a wrong module: {sorted(places)}")
    return Outcome(True)
