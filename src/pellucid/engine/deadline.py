"""Work under a clock that can stop it: where the model is called next, or where progress is told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pellucid.engine.inputs import Inputs
from pellucid.engine.subject import Subject

# What a bar foretells is believed after this share of the allowance, where it is so many times the allowance.
SOON, SURE = 0.1, 1.3


class Expired(BaseException):
    """The time allowed is over. Not an Exception, so that no method and no model catches it.

    `foretold` are the seconds that the whole would take, where its progress said so.
    """

    def __init__(self, foretold: float | None = None) -> None:
        super().__init__(foretold)
        self.foretold = foretold


@dataclass
class Watch:
    """A clock with an allowance of seconds, and the rows that the model has run on meanwhile."""

    clock: Callable[[], float]
    allowance: float
    forwards: int = 0
    inside: bool = False
    started: float = 0.0
    bars: dict[Any, tuple[float, int, int]] = field(default_factory=dict)  # when first told, how far then, and now

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.started

    def check(self) -> None:
        """Stop the work when its time is over."""
        if self.spent > self.allowance:
            raise Expired

    def tell(self, done: int, total: int, label: str) -> None:
        """Progress of one bar; stops the work also where the bar shows that its time will not do."""
        now, foretold = self.clock(), None
        since, first, before = self.bars.get((label, total), (now, done, 0))
        if done <= before:  # another bar of the same name
            since, first = now, done
        self.bars[label, total] = since, first, done
        if done > first:  # the first part also loads and measures, and is left out of the pace
            foretold = since - self.started + (now - since) * (total - first) / (done - first)
        if self.spent > self.allowance:
            raise Expired(foretold if foretold is not None and foretold > self.spent else None)
        if foretold is not None and now - since > SOON * self.allowance and foretold > SURE * self.allowance:
            raise Expired(foretold)


_WATCH: ContextVar[Watch | None] = ContextVar("pellucid_watch", default=None)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Every `Watched` subject is counted and stopped by this watch."""
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def within(seconds: float | None) -> Watch:
    """A watch that begins now; without seconds it never stops anything."""
    return Watch(time.perf_counter, float("inf") if seconds is None else seconds)


def check() -> None:
    """Stop here if the work is watched and its time is over."""
    if (watch := _WATCH.get()) is not None:
        watch.check()


class Watched(Subject):
    """A subject whose every call is counted, and the last place where work can be stopped."""

    @classmethod
    def of(cls, subject: Subject) -> Watched:
        """The same model, called the same way."""
        return cls(subject.model, **{k: getattr(subject, k) for k in Subject.__dataclass_fields__ if k != "model"})

    def raw(self, inputs: Inputs) -> Any:
        """The model's own output; a call made within another one counts once."""
        watch = _WATCH.get()
        if watch is None or watch.inside:
            return super().raw(inputs)
        watch.check()
        watch.forwards, watch.inside = watch.forwards + inputs.rows, True
        try:
            return super().raw(inputs)
        finally:
            watch.inside = False
