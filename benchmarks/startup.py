"""How long until there is something on the screen? Import beyond torch, and `pellucid --help`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.timing import Row

REPEATS = 7


def run() -> list[Row]:
    """Seconds, medians: `ours` measured, `other` the goal."""
    torch = _median("import torch")
    return [
        _row("import pellucid and its verb, beyond torch", _median("import pellucid; pellucid.explain") - torch, 0.3),
        _row("import every method, beyond torch", _median("import pellucid as px; px.catalogue.names()") - torch, 0.3),
        _row("pellucid --help", _command("--help"), 1.0),
    ]


def _row(task: str, seconds: float, goal: float) -> Row:
    row = Row(task=task, ours=seconds, other=goal, ratio=goal / max(seconds, 1e-9), difference=0.0)
    print(row, flush=True)
    return row


def _median(code: str) -> float:
    return _timed([sys.executable, "-c", code])


def _command(*words: str) -> float:
    return _timed([sys.executable, "-m", "pellucid", *words])


def _timed(command: list[str]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
