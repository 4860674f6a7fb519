"""Probabilities instead of scores, and what a change from one probability to another means in bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.contract.errors import MethodError, NumericalError, TargetError
from pellucid.engine.ask import Ask
from pellucid.engine.target import Target

KINDS = ("weight of evidence", "information", "probability", "score")
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Probability(Target):
    """The explained class's probability as the score, from logits or from what the model returns."""

    logits: bool = True

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        flat = output.reshape(output.shape[0], -1)
        if self.logits:
            flat = flat.double().softmax(1) if flat.shape[1] > 1 else flat.double().sigmoid()
        elif bool(((flat < -1e-6) | (flat > 1 + 1e-6)).any()):
            raise NumericalError(
                "The model's output must be probabilities, from 0 to 1", got="values outside", hint="output='logits'"
            )
        return super().score(flat, rows)


@dataclass(frozen=True, eq=False)
class LogProbability(Target):
    """The log-probability of the explained class in nats, times `sign`; what is no class stays as it is.

    From logits, or from probabilities, where zero counts as the smallest number.
    """

    logits: bool = True
    sign: float = 1.0

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.index is None:
            return super().score(output, rows)
        flat = output.flatten(1)
        flat = flat.log_softmax(1) if self.logits else flat.clamp(min=torch.finfo(flat.dtype).tiny).log()
        return self.sign * super().score(flat, rows)


def check(kind: str, output: str) -> None:
    """Refuse settings that are none of the known."""
    if kind not in KINDS:
        raise MethodError(f"The 'kind' must be one of {KINDS}", got=repr(kind))
    if output not in OUTPUTS:
        raise MethodError(f"The 'output' must be one of {OUTPUTS}", got=repr(output))


def asked(ask: Ask, kind: str, output: str) -> Ask:
    """The question about the class's probability; about the score itself for the kind "score"."""
    target = ask.target
    if kind == "score":
        return ask
    if target.function is not None or (target.index is None and ask.output is not None and ask.output.dim() > 2):
        raise TargetError(
            f"The 'target' must be a class for the kind {kind!r}, which needs its probability",
            got=target.name or "a function",
            hint="kind='score' for any number",
        )
    return replace(ask, _target=Probability(index=target.index, logits=output == "logits"))


def change(kind: str, before: Tensor, after: Tensor, *, rows: int, classes: int) -> Tensor:
    """How much less there is after: in bits, in probability or in score; `rows` of data for the Laplace correction.

    Information is log₂ p, weight of evidence log₂ p / (1 - p), both with p corrected to (p rows + 1) / (rows + classes),
    so that neither is infinite; `rows` = 0 corrects nothing.
    """
    if kind in ("probability", "score"):
        return before - after
    return bits(kind, corrected(before, rows, classes)) - bits(kind, corrected(after, rows, classes))


def corrected(p: Tensor, rows: int, classes: int) -> Tensor:
    """Laplace's correction of a probability learnt from so many rows."""
    return (p * rows + 1) / (rows + classes) if rows else p


def bits(kind: str, p: Tensor) -> Tensor:
    """Information or odds of a probability, in bits."""
    return p.log2() if kind == "information" else p.log2() - (1 - p).log2()


def slope(kind: str, p: Tensor, *, rows: int, classes: int) -> Tensor:
    """By how much the figure of `change` moves with the probability after, for the error of its estimate."""
    if kind in ("probability", "score"):
        return torch.ones_like(p)
    q, scale = corrected(p, rows, classes), rows / (rows + classes) if rows else 1.0
    return scale / math.log(2) / (q if kind == "information" else q * (1 - q))
