"""Work under a clock: stopped where the model is called, or where its progress shows that the time will not do."""

from __future__ import annotations

import pytest
import torch

from pellucid.engine import deadline
from pellucid.engine.deadline import Expired, Watch, Watched, watching
from pellucid.engine.inputs import as_inputs


class Clock:
    """Time that the test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_that_will_take_too_long_stops_the_work_with_what_it_foretells() -> None:
    clock = Clock()
    watch = Watch(clock, 10.0)
    clock.now = 0.5  # loading and measuring, which is no part of the pace
    watch.tell(1, 100, "bar")
    clock.now = 0.9
    watch.tell(2, 100, "bar")  # foretells 40 s, but too little has been seen to believe it
    clock.now = 1.7
    with pytest.raises(Expired) as stopped:
        watch.tell(4, 100, "bar")
    assert stopped.value.foretold == pytest.approx(0.5 + 1.2 * 99 / 3)


def test_many_short_bars_of_one_name_are_not_taken_for_one() -> None:
    clock = Clock()
    watch = Watch(clock, 10.0)
    for _ in range(9):
        for done in (1, 2, 3, 4):
            clock.now += 0.25
            watch.tell(done, 4, "bar")
    clock.now += 2.0
    with pytest.raises(Expired) as stopped:
        watch.tell(1, 4, "bar")
    assert stopped.value.foretold is None  # the time is over, and of the whole nothing is known


def test_a_call_of_the_model_is_counted_and_is_where_work_ends() -> None:
    clock, calls = Clock(), []

    def model(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x

    subject = Watched(model)
    rows = as_inputs(torch.ones(3, 2))
    with watching(Watch(clock, 1.0)) as watch:
        subject.raw(rows)
        clock.now = 2.0
        with pytest.raises(Expired):
            subject.raw(rows)
        with pytest.raises(Expired):
            deadline.check()
    assert watch.forwards == 3
    assert calls == [3]
    deadline.check()  # nobody watches any more
    subject.raw(rows)
    assert calls == [3, 3]


def test_nothing_catches_the_end_by_accident() -> None:
    assert not issubclass(Expired, Exception)
