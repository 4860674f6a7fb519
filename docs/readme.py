"""Write the table of methods into README.md: `make readme`; with `--check`, only say whether it is current."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pellucid as px

README = Path(__file__).parents[1] / "README.md"


def current(text: str) -> str:
    """The README with the table that the catalogue gives now."""
    marks = r"(<!-- methods: .*? -->).*?(<!-- end of methods -->)"
    return re.sub(marks, lambda m: f"{m[1]}\n\n{px.catalogue.table()}\n\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if current(text) == text else "the table of methods in README.md is old: run `make readme`")
    README.write_text(current(text), encoding="utf-8")
