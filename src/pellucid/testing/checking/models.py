"""The same answer for the same numbers, however inputs are laid out in memory and however the model is wrapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pellucid.engine import Subject
from pellucid.testing.awkward import fixture
from pellucid.testing.case import Case, agree, change, demand, leaves, module_of, per_row
from pellucid.testing.checking.entry import check
from pellucid.testing.snapshot import Snapshot

ROWS = 3
MANY = 15  # calls after which whatever is kept to be faster is in use
ROUNDING = 1e-4  # what single precision may differ by on another path to the same result
CONVOLUTIONAL = "batch-norm-resnet"


def _transposed(x: Tensor) -> Tensor:
    """The same values with the first and last axis swapped in memory."""
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else _sliced(x)


def _sliced(x: Tensor) -> Tensor:
    """The same values as every second entry of a larger tensor."""
    return x.repeat_interleave(2, -1)[..., ::2]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "channels last": _channels_last,
    "sliced": _sliced,
}


@check("layouts")
def layouts(case: Case) -> None:
    """Transposed, sliced, channels-last and expanded inputs give what contiguous ones give, and stay as they are."""
    model, inputs = case.model(), case.inputs(ROWS)
    plain = per_row(case.explain(model, inputs))
    for name, lay in LAYOUTS.items():
        agree(plain, per_row(case.explain(model, change(inputs, lay))), 1e-5, f"{name} inputs")
    one = case.inputs(1)
    expanded = change(one, lambda x: x.expand(ROWS, *x.shape[1:]))
    copied = change(one, lambda x: x.repeat(ROWS, *[1] * (x.dim() - 1)))
    if all(x.shape[0] == ROWS for x in leaves(expanded)):
        agree(per_row(case.explain(model, copied)), per_row(case.explain(model, expanded)), 1e-5, "expanded inputs")


@check("gradients asked")
def gradients_asked(case: Case) -> None:
    """Inputs and parameters that ask for gradients, or don't, give the same result and get none."""
    model, inputs = case.model(), case.inputs(ROWS)
    plain = per_row(case.explain(model, inputs))
    asking = change(inputs, lambda x: x.clone().requires_grad_())
    agree(plain, per_row(case.explain(model, asking)), 1e-6, "inputs that ask for gradients")
    demand(all(x.grad is None for x in leaves(asking)), "the caller's inputs got gradients")
    module = model.model if isinstance(model, Subject) else model
    for x in module.parameters():
        x.requires_grad_(not x.requires_grad)
    agree(plain, per_row(case.explain(model, inputs)), 1e-6, "parameters switched over")
    demand(all(x.grad is None for x in module.parameters()), "the model's parameters got gradients")


@check("wrappers")
def wrappers(case: Case) -> None:
    """A data-parallel wrapper and a Subject around the model change nothing."""
    model, inputs = case.model(), case.inputs(ROWS)
    plain = per_row(case.explain(model, inputs))
    if not isinstance(model, nn.Module) or isinstance(model, nn.DataParallel):
        return
    agree(plain, per_row(case.explain(nn.DataParallel(model), inputs)), 1e-6, "a data-parallel wrapper")
    agree(plain, per_row(case.explain(Subject(model), inputs)), 1e-6, "a Subject")


@check("training mode")
def training_mode(case: Case) -> None:
    """A model in training mode is explained in evaluation mode only where the Subject allows it, and goes back to it."""
    model, inputs = case.model(), case.inputs(ROWS)
    if not isinstance(model, nn.Module):
        return
    plain = per_row(case.explain(model, inputs))
    model.train()
    allowed = per_row(case.explain(Subject(model, allow_train=True), inputs))
    demand(all(part.training for part in model.modules()), "the model's mode is not put back")
    agree(plain, allowed, 1e-6, "training mode, allowed")


@check("weights followed")
def weights_followed(case: Case) -> None:
    """After many calls the result is still that of the first, and a change of the weights is seen at once."""
    for name in dict.fromkeys((case.fixture.name, CONVOLUTIONAL)):
        here = case if name == case.fixture.name else dataclasses.replace(case, fixture=fixture(name))
        try:
            here.explain(here.model(), here.inputs(ROWS))
        except Exception as error:
            if name != case.fixture.name and isinstance(error, here.allowed()):
                continue
            raise
        _follow(here)


def _follow(case: Case) -> None:
    model, inputs = case.model(), case.inputs(ROWS)
    before = Snapshot.of(model, inputs)
    first = per_row(case.explain(model, inputs))
    for _ in range(MANY):
        last = per_row(case.explain(model, inputs))
    agree(first, last, ROUNDING, f"call 1 and call {MANY + 1} on {case.fixture.name}")
    changed = before.difference(Snapshot.of(model, inputs))
    demand(not changed, f"many calls left a trace:\n{changed}")
    for way, alter in {"in place": _scale, "by new data": _renew}.items():
        alter(module_of(model))
        fresh = case.model()
        module_of(fresh).load_state_dict(module_of(model).state_dict())
        new, expected = per_row(case.explain(model, inputs)), per_row(case.explain(fresh, inputs))
        agree(new, expected, ROUNDING, f"weights changed {way} on {case.fixture.name}")


def _scale(module: nn.Module) -> None:
    with torch.no_grad():
        for x in module.parameters():
            x.mul_(1.25)


def _renew(module: nn.Module) -> None:
    for x in module.parameters():
        x.data = x.data * 0.5
