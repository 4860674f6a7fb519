"""What does a method cost on this model? Tried on the caller's own rows, under a clock that can stop it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.contract import Attribution, Explanation, Method
from pellucid.contract.errors import LayerError
from pellucid.engine import Subject, explain
from pellucid.engine.ask import predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.deadline import Expired, Watch, Watched, watching
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import Inputs

__all__ = ["Expired", "Tried", "Trying", "Watched", "cheaper", "forward", "has_error", "own_errors"]

# Settings that buy exactness with time, in methods that measure the error they are left with.
KNOBS = ("samples", "max_samples", "walks", "draws", "max_steps")
SHARES = (4, 16, 64)
LEAST = 4
# Rows, and about the seconds, of the batch on which a row among many is timed.
MANY, LONG = 64, 0.2
_ERROR = re.compile(r"completeness_gap|conservation|standard_error|half_width|fidelity|precision")


def clock() -> float:
    """Seconds; the only clock that advice reads."""
    return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one trial found: settings, place, seconds for so many rows, the rows the model ran on, and the result.

    `forwards` is `None` where a faster path ran parts of the network, which are no whole passes.
    """

    method: Method
    layer: str | None
    rows: int
    seconds: float
    forwards: int | None
    result: Explanation

    def all_rows(self, count: int) -> float:
        """Seconds for so many rows: a method that looks at the whole model takes as long for all as for one."""
        whole = self.method.card.scope == "global"
        return self.seconds if whole else self.seconds * count / self.rows


@dataclass(frozen=True, kw_only=True)
class Trying:
    """Everything about the call that is the same for every method."""

    subject: Subject
    rows: Inputs
    target: Any
    layer: str | None
    data: Any
    seed: int

    def run(self, method: Method, rows: int, allowance: float, layer: str | None) -> Tried:
        """Explain the first `rows` rows; raises `Expired`, or whatever the method refuses with."""
        inputs = self.rows.take(torch.arange(rows)).wrap_all()
        wanted = self.target[:rows] if isinstance(self.target, torch.Tensor) and self.target.dim() else self.target
        learns = {"data", "labels", "masks"} & {*method.card.needs}
        with watching(Watch(lambda: clock(), allowance)) as watch:
            result = explain(
                self.subject,
                inputs,
                method,
                target=wanted,
                layer=layer,
                data=self.data if learns else None,
                seed=self.seed,
                progress=lambda done, total, label: watch.check(),
            )
        whole = result.source.get("path") == "plain"
        return Tried(
            method=method,
            layer=layer,
            rows=rows,
            seconds=watch.spent,
            forwards=watch.forwards if whole else None,
            result=result,
        )

    def first(self, method: Method, allowance: float) -> Tried:
        """Explain one row, at the given place, or at the input where the method reads inputs alone."""
        try:
            return self.run(method, 1, allowance, self.layer)
        except LayerError:
            if self.layer is None:
                raise
        return self.run(method, 1, allowance, None)

    def warm(self, cold: Tried, allowance: float, times: int = 1) -> Tried:
        """The time of all rows, once everything is loaded and planned, the longest of some; else the first run's."""
        count, found = self.rows.rows, []
        if cold.seconds * count > allowance:
            return cold
        try:
            for _ in range(times):
                found.append(self.run(cold.method, count, allowance, cold.layer))
        except Expired:
            return cold
        return max(found, key=lambda t: t.seconds)


def forward(subject: Subject, rows: Inputs) -> tuple[torch.Tensor, float, float]:
    """The output; the seconds of one forward pass of all rows; and of one row among many.

    Both are timed at the second pass, as the first one loads and measures.
    """
    module = subject.module
    with untouched(module):
        if module is not None and any(part.training for part in module.modules()):
            module.eval()
        predict(subject, rows, DEFAULT_CPU)
        started = clock()
        output = predict(subject, rows, DEFAULT_CPU)
        whole = clock() - started
        many = rows.take(torch.arange(min(MANY, rows.rows * max(1, int(LONG / max(whole, 1e-6))))) % rows.rows)
        started = clock()
        predict(subject, many, DEFAULT_CPU)
        return output, whole, (clock() - started) / many.rows


def cheaper(method: Method) -> Iterator[Method]:
    """The same method with less of what buys exactness: a quarter, a sixteenth, a sixty-fourth."""
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    knobs = {k: v for k in KNOBS if isinstance(v := fields.get(k), int) and not isinstance(v, bool) and v > LEAST}
    change: Callable[..., Method] = dataclasses.replace
    for share in SHARES if knobs else ():
        yield change(method, **{k: max(LEAST, v // share) for k, v in knobs.items()})


def own_errors(result: Explanation) -> dict[str, float]:
    """The errors that a result states about itself, the largest over rows and values."""
    found = {}
    for name, fact in result.facts.items():
        if _ERROR.search(name) and fact.numel() and fact.is_floating_point():
            good = fact[torch.isfinite(fact)]
            if good.numel():
                worst = good.min() if re.search("fidelity|precision", name) else good.abs().max()
                found[name] = float(worst)
    return found


def has_error(result: Explanation) -> bool:
    """Whether a result says how far it is off."""
    return bool(own_errors(result)) or (isinstance(result, Attribution) and result.error is not None)
