"""Which methods work on which kinds of model: every pair is run, and the table of what came of it is written.

`make universality` writes docs/universality.json and docs/universality.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pellucid as px

ROOT = Path(__file__).parent
MARKS = {"works": "●", "refused": "·", "fails": "✗"}


def write(root: Path = ROOT) -> None:
    """Run every pair and write both files."""
    found = px.evaluation.universality(progress=True)
    told = found.source["universality"]
    stored = json.dumps(told, indent=0, ensure_ascii=False) + "\n"
    (root / "universality.json").write_text(stored, encoding="utf-8")
    (root / "universality.md").write_text(page(told), encoding="utf-8")


def page(told: Mapping[str, Any]) -> str:
    """The table, and the reasons under it."""
    names, kinds = told["architectures"], told["kinds"]
    heads = [f"{n} ({k})" for n, k in zip(names, kinds, strict=True)]
    lines = [
        "# Which methods work on which kinds of model",
        "Every cell was run by `make universality`, on one small model of each kind: ● works, · is refused by name, "
        "✗ fails. A method works where its values are finite and, if it claims so, a row alone gets what it gets among "
        'others. For your own model, `pellucid.evaluation.universality(architectures={"mine": (model, inputs)})`.',
        "| method | " + " | ".join(heads) + " | share |\n|---|" + "---|" * len(names) + "---|",
    ]
    rows, reasons = [], []
    for method, row in told["cells"].items():
        marks = [MARKS[row[n].split(":")[0]] for n in names]
        rows.append(f"| `{method}` | " + " | ".join(marks) + f" | {marks.count('●') / len(marks):.2f} |")
        said = dict.fromkeys(row[n].partition(": ")[2] for n in names if row[n] != "works")
        if said:
            reasons.append(f"- `{method}`: " + " ".join(_plain(s) for s in said))
    lines[-1] += "\n" + "\n".join(rows)
    return "\n\n".join([*lines, "## Why not", "\n".join(reasons)]) + "\n"


def _plain(text: str) -> str:
    """Text of an error, which is no markup."""
    kept = text if text.endswith((".", "…")) else f"{text}."
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in kept)


if __name__ == "__main__":
    write()
