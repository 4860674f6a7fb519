"""`python -m benchmarks [group ...]`: run groups of timings, one after the other, and append their tables.

A group is a file of this folder with a function `run() -> list[Row]`.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.timing import machine, report, use_one_thread

_NOT_GROUPS = {"__init__", "__main__", "nets", "timing", "truth"}


def main() -> None:
    """Run the named groups, or all."""
    groups = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_GROUPS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=f"Groups: {', '.join(groups)}.")
    parser.add_argument("group", nargs="*", help="groups to run; all of them where none is named")
    parser.add_argument("--one-thread", action="store_true", help="one thread's own time: for machines others share")
    asked = parser.parse_args()
    chosen = asked.group or groups
    unknown = sorted(set(chosen) - set(groups))
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}. There are: {', '.join(groups)}.")
    if asked.one_thread:
        use_one_thread()
    print(machine())
    for group in chosen:
        print(f"\n{group}", flush=True)
        report(group, importlib.import_module(f"benchmarks.{group}").run())


if __name__ == "__main__":
    main()
