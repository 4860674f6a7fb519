"""How much faster is one way than another, at the same result? Interleaved runs, medians of ratios, one table.

Absolute times mean little on a shared machine; ratios of neighbouring runs do. Where other work takes turns on the
cores, threads wait for each other and even ratios mislead: `use_one_thread` then measures the time that one thread
spends on a core, which other work hardly moves.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_clock: Callable[[], float] = time.perf_counter

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: `ratio` is how many times longer the other way took, `limit` what no way can beat."""

    task: str
    ours: float
    other: float
    ratio: float
    difference: float
    limit: float | None = None
    memory: float | None = None


def use_one_thread() -> None:
    """Run torch on one thread and count only the seconds it has a core."""
    global _clock
    torch.set_num_threads(1)
    _clock = time.thread_time


def compare(
    task: str,
    ours: Callable[[], Tensor],
    other: Callable[[], Tensor],
    *,
    within: float,
    limit: Callable[[], Any] | None = None,
    memory: Callable[[], Any] | None = None,
    repeats: int = 7,
) -> Row:
    """Time both ways in turn and check that they give the same result, to `within` of the largest value.

    `limit`: the least that any way has to do, timed in the same turns. `memory`: run in a process of its own for the
    peak of its resident memory; it must be a function that can be pickled.
    """
    mine, theirs = ours(), other()
    difference = float((mine - theirs).norm() / theirs.norm())
    if not difference <= within:
        raise AssertionError(f"{task}: results differ by {difference:.1e}, more than {within:.1e}")
    ways: list[Callable[[], Any]] = [ours, other, *([limit] if limit else [])]
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    for _ in range(max(repeats, 5)):
        for way, seconds in zip(ways, times, strict=True):
            start = _clock()
            way()
            seconds.append(_clock() - start)
    row = Row(
        task=task,
        ours=statistics.median(times[0]),
        other=statistics.median(times[1]),
        ratio=_median_ratio(times[1], times[0]),
        difference=difference,
        limit=_median_ratio(times[0], times[2]) if limit else None,
        memory=peak_memory(memory) if memory else None,
    )
    print(_line(row), flush=True)
    return row


def _median_ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_memory(task: Callable[[], Any]) -> float:
    """The high-water mark of resident memory, in MiB, of a new process that runs the task."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(_measured, (task,)))


def _measured(task: Callable[[], Any]) -> float:
    task()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(group: str, rows: list[Row]) -> None:
    """Append the table to the results file."""
    lines = [f"\n## {group}, {date.today()}, {machine()}\n", _HEADER, _RULE, *map(_line, rows)]
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def machine() -> str:
    """The machine, generically."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = "one thread's own time, " if _clock is time.thread_time else ""
    return f"{threads}{cores} CPU cores{gpu}, {platform.system()}, torch {torch.__version__.split('+')[0]}"


_HEADER = "| task | ours, s | other, s | other / ours | ours / limit | difference | peak, MiB |"
_RULE = "|---|---|---|---|---|---|---|"


def _line(row: Row) -> str:
    limit = "" if row.limit is None else f"{row.limit:.2f}"
    memory = "" if row.memory is None else f"{row.memory:.0f}"
    times = f"{row.ours:.4f} | {row.other:.4f} | {row.ratio:.2f}"
    return f"| {row.task} | {times} | {limit} | {row.difference:.0e} | {memory} |"
