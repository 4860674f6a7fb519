"""`python benchmarks/truth.py`: every attribution method scored where the truth is known; writes docs/truth.md and .json.

Two processes share the work. `--only objects,words` runs some worlds and `--methods a,b` some methods, and puts
their figures in the places of those that are there; `--show` prints the page instead of writing it, `--page` writes it
anew from the figures alone. Ends with 1 where a failure that is known to happen does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROCESSES = 2

if sys.path[0] == str(Path(__file__).parent):
    sys.path[0] = str(ROOT)  # run as a file: this folder has modules named as the peers are


def main() -> int:
    """Run, write, and say whether the known failures were reproduced."""
    from benchmarks.planted import measure
    from benchmarks.planted.claims import CLAIMS, figures
    from benchmarks.planted.page import page

    parser = argparse.ArgumentParser(prog="python benchmarks/truth.py", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--only", help=f"worlds: {', '.join(measure.WORK)}")
    parser.add_argument("--methods", help="names in the catalogue")
    parser.add_argument("--page", action="store_true", help="write the page anew from the figures that are there")
    parser.add_argument("--show", action="store_true", help="print the page instead of writing it")
    asked = parser.parse_args()
    worlds = asked.only.split(",") if asked.only else list(measure.WORK)
    names = asked.methods.split(",") if asked.methods else measure.methods()
    if unknown := [w for w in worlds if w not in measure.WORK] + [n for n in names if n not in measure.methods()]:
        parser.error(f"not known: {', '.join(unknown)}")
    kept = DOCS / "truth.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if asked.page else run(worlds, names)
    if (asked.only or asked.methods) and not asked.show and not asked.page:
        found = merged(json.loads(kept.read_text(encoding="utf-8")), found)
    text = page(found)
    if asked.show:
        print(text)
    else:
        (DOCS / "truth.md").write_text(text, encoding="utf-8")
        (DOCS / "truth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = [
        claim.title
        for claim in CLAIMS
        if all("figures" in found["cells"].get(t, {}).get(n, {}) for t, n in claim.needs)
        and not claim.holds(figures(found["cells"]))
    ]
    for title in missed:
        print(f"not reproduced: {title}", file=sys.stderr)
    return 1 if missed else 0


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The figures that were there, with those that were made anew in their places."""
    cells = {**old["cells"]}
    for world, found in new["cells"].items():
        cells[world] = dict(sorted({**cells.get(world, {}), **found}.items()))
    busy = sum(cell.get("busy", 0.0) for found in cells.values() for cell in found.values())
    about = {**old["about"], "date": new["about"]["date"], "busy": round(busy, 1)}
    return {"about": about, "checks": {**old["checks"], **new["checks"]}, "cells": cells}


def run(worlds: Iterable[str], names: Iterable[str], processes: int = PROCESSES) -> dict[str, Any]:
    """All cells, as plain data."""
    import torch

    import pellucid
    from benchmarks.planted import measure

    started = time.perf_counter()
    jobs = [(world, name) for world in worlds for name in names]
    cells: dict[str, dict[str, Any]] = {world: {} for world in worlds}
    if processes == 1:
        done: Iterable[tuple[str, str, dict[str, Any]]] = map(_job, jobs)
        for world, name, cell in done:
            cells[world][name] = cell
    else:
        with multiprocessing.get_context("spawn").Pool(processes, _quietly) as pool:
            for number, (world, name, cell) in enumerate(pool.imap_unordered(_job, jobs), 1):
                cells[world][name] = cell
                if sys.stderr.isatty():
                    print(f"\r{number} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    return {
        "about": {
            "date": str(date.today()),
            "pellucid": pellucid.__version__,
            "torch": str(torch.__version__).split("+")[0],
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "seconds": round(time.perf_counter() - started, 1),
            "busy": round(sum(cell.get("busy", 0.0) for found in cells.values() for cell in found.values()), 1),
        },
        "checks": {world: dict(checks) for world in worlds if (checks := measure.checks(world))},
        "cells": {world: dict(sorted(cells[world].items())) for world in worlds},
    }


def _quietly() -> None:
    import torch

    torch.set_num_threads(1)


def _job(job: tuple[str, str]) -> tuple[str, str, dict[str, Any]]:
    from benchmarks.planted import measure

    return *job, measure.cell(*job)


if __name__ == "__main__":
    sys.exit(main())
