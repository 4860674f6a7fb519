"""Does a plan give what the model gives? The comparison every plan has to pass before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.engine.plan.trace import Refused, tensors_in

# The largest allowed difference, as a share of the largest output; gradients by their norm, since a single ReLU within
# rounding of zero may decide either way.
_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}
_GRADIENTS_CLOSE = {torch.float32: 5e-2, torch.float64: 1e-6}


class RandomState:
    """The random generators, so that a model that draws from them is noticed and they are put back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._read()

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states

    def moved(self) -> bool:
        return any(not torch.equal(old, new) for old, new in zip(self.before, self._read(), strict=True))

    def restore(self) -> None:
        """Put back what was drawn. Nothing is written where nothing was: other threads may be drawing."""
        if self.moved():
            torch.set_rng_state(self.before[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self.before[1], self.device)


class Reference:
    """The model's own answers on one row and on two, near the examples."""

    def __init__(self, model: nn.Module, examples: tuple[Tensor, ...], *, gradients: bool) -> None:
        self.trials = [_rows(examples, count) for count in (1, 2)]
        # Gradients are compared on one row: backward passes are the larger part of the cost.
        self.gradients = [gradients, False]
        self.answers = [
            _answer(model, trial, wanted) for trial, wanted in zip(self.trials, self.gradients, strict=True)
        ]

    def compare(self, plan: Callable[..., Any]) -> None:
        """Raise `Refused` where the plan answers differently."""
        for trial, wanted, (outputs, gradients) in zip(self.trials, self.gradients, self.answers, strict=True):
            mine, slopes = _answer(plan, trial, wanted)
            if [(each.shape, each.dtype) for each in mine] != [(each.shape, each.dtype) for each in outputs]:
                raise Refused("its output's form depends on more than the inputs' shape")
            for got, expected in zip(mine, outputs, strict=True):
                if not _close(got, expected):
                    raise Refused("its recorded operations give another output than it does")
            for slope, right in zip(slopes, gradients, strict=True):
                if (slope is None) != (right is None) or (slope is not None and not _near(slope, right)):
                    raise Refused("its recorded operations give another gradient than it does")


def _rows(examples: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The first rows of the examples, repeated if there are too few, floating ones a little disturbed."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for example in examples:
        chosen = example[torch.arange(count, device=example.device) % len(example)]
        if example.dtype.is_floating_point:
            noise = torch.randn(chosen.shape, generator=generator, dtype=example.dtype).to(example.device)
            spread = chosen.std() if chosen.numel() > 1 else chosen.new_ones(())
            chosen = chosen + 0.05 * torch.where(spread > 0, spread, torch.ones_like(spread)) * noise
        rows.append(chosen)
    return tuple(rows)


def _answer(
    run: Callable[..., Any], inputs: tuple[Tensor, ...], gradients: bool
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The output's tensors and, where wanted, the gradients of a weighted sum of them to the inputs."""
    inputs = tuple(each.clone() for each in inputs)
    floating = [each.requires_grad_() for each in inputs if each.dtype.is_floating_point] if gradients else []
    with torch.enable_grad() if gradients else torch.no_grad():
        outputs = tensors_in(run(*inputs))
    if not outputs:
        raise Refused("its output holds no tensor")
    slopes: list[Tensor | None] = []
    ends = [each for each in outputs if each.requires_grad]
    if floating:
        slopes = [None] * len(floating)
        if ends:
            weights = [torch.linspace(1, 2, each.numel()).to(each).reshape(each.shape) for each in ends]
            slopes = list(torch.autograd.grad(ends, floating, weights, allow_unused=True))
    return [each.detach() for each in outputs], slopes


def _close(got: Tensor, expected: Tensor) -> bool:
    if got.numel() == 0:
        return True
    if not got.dtype.is_floating_point:
        return torch.equal(got, expected)
    largest = expected.abs().max()
    return bool((got - expected).abs().max() <= _CLOSE.get(got.dtype, 1e-10) * largest)


def _near(got: Tensor, expected: Tensor | None) -> bool:
    assert expected is not None
    return bool((got - expected).norm() <= _GRADIENTS_CLOSE.get(got.dtype, 1e-6) * expected.norm())
