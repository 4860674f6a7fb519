"""What a call must not leave behind, whether it ends well, by an error or by Ctrl-C, alone or beside other calls."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import torch

from pellucid.testing.case import Case, CheckFailed, agree, counted, demand, identical, per_row, take
from pellucid.testing.checking.entry import check
from pellucid.testing.networks import Planted
from pellucid.testing.snapshot import Snapshot

ROWS = 3
CALLS = 5


@check("no trace", everywhere=True)
def no_trace(case: Case) -> None:
    """Model, inputs, data, random generators and switches are as before, and the user's own hook fired and is there."""
    model, inputs = case.model(), case.inputs(ROWS)
    arguments = case.arguments()
    with counted(model) as watch:
        before = Snapshot.of(model, inputs, arguments.get("data"))
        case.explain(model, inputs, **arguments)
        changed = before.difference(Snapshot.of(model, inputs, arguments.get("data")))
    demand(not changed, f"a call left a trace:\n{changed}")
    demand(watch.calls > 0, "the user's hook never fired: the method goes round the model's forward pass")


@check("no trace after an error")
def no_trace_after_error(case: Case) -> None:
    """When the model raises in its forward pass 1 to 5, the error comes through and nothing is left behind."""
    _interrupted(case, Planted, Exception)


@check("no trace after an interrupt")
def no_trace_after_interrupt(case: Case) -> None:
    """When Ctrl-C is pressed in forward pass 1 to 5, it comes through and nothing is left behind."""
    _interrupted(case, KeyboardInterrupt, KeyboardInterrupt)


def _interrupted(case: Case, planted: type[BaseException], caught: type[BaseException]) -> None:
    model, inputs = case.model(), case.inputs(ROWS)
    case.explain(model, inputs)  # what is measured once per model is measured
    for number in range(1, CALLS + 1):

        def act(call: int, number: int = number) -> None:
            if call >= number:
                raise planted(f"planted in pass {number}")

        with counted(model, act) as watch:
            before = Snapshot.of(model, inputs)
            try:
                case.explain(model, inputs)
            except caught as error:
                demand(_comes_from(error, planted), f"pass {number} raised {planted.__name__}, and {error!r} came out")
            else:
                demand(watch.calls < number, f"{planted.__name__} in pass {number} was swallowed")
            changed = before.difference(Snapshot.of(model, inputs))
        demand(not changed, f"{planted.__name__} in pass {number} left a trace:\n{changed}")


def _comes_from(error: BaseException | None, planted: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, planted):
            return True
        error = error.__cause__
    return False


@check("threads", heavy=True)
def threads(case: Case) -> None:
    """Four threads with ten calls each on one model get what they get one after the other."""
    model, workers, times = case.model(), 4, 10
    inputs = case.inputs(2 * workers)
    parts = [take(inputs, slice(2 * i, 2 * i + 2)) for i in range(workers)]
    serial = [case.explain(model, x) for x in parts]
    before, failures = Snapshot.of(model), list[str]()

    def work(i: int) -> None:
        try:
            for _ in range(times):
                if not identical(serial[i], case.explain(model, parts[i])):
                    failures.append(f"thread {i} got another result")
        except Exception as error:
            failures.append(f"thread {i} raised {type(error).__name__}: {error}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    demand(not failures, "; ".join(failures[:3]))
    changed = before.difference(Snapshot.of(model))
    demand(not changed, f"threads left a trace:\n{changed}")


@check("memory", heavy=True)
def memory(case: Case) -> None:
    """Fifty calls leave no tensor behind, and with its last name the model is freed, and all that was kept for it."""
    inputs, arguments = case.inputs(2), case.arguments()

    def life(calls: int) -> Any:
        model = case.model()
        for _ in range(calls):
            case.explain(model, inputs, **arguments)
        return model

    model = life(50)  # what is kept to be faster, such as a plan of the network, is there by now
    before = _alive()
    for _ in range(50):
        case.explain(model, inputs, **arguments)
    grown = _alive() - before
    demand(grown <= 0, f"{grown} more tensors are alive after 50 calls")
    gone = weakref.ref(model)
    del model
    left = _alive()
    demand(gone() is None, "something holds the model after the last call")
    life(2)
    demand(_alive() <= left, f"{_alive() - left} tensors outlive their model")


def _alive() -> int:
    gc.collect()
    return sum(1 for x in gc.get_objects() if issubclass(type(x), torch.Tensor))


@check("caller's modes")
def callers_modes(case: Case) -> None:
    """Inside no_grad, inference_mode and enable_grad of the caller the result is the same."""
    model, inputs = case.model(), case.inputs(ROWS)
    plain = per_row(case.explain(model, inputs))
    modes: dict[str, Any] = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
        "enable_grad": torch.enable_grad(),
    }
    for name, mode in modes.items():
        with mode:
            enabled = torch.is_grad_enabled()
            try:
                found = per_row(case.explain(model, case.inputs(ROWS)))
            except Exception as error:
                raise CheckFailed(f"inside {name}: raised {type(error).__name__}: {error}") from error
            demand(torch.is_grad_enabled() == enabled, f"gradients are switched over inside {name}")
        agree(plain, found, 1e-6, f"inside {name}")
