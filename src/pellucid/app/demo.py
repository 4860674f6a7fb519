"""`pellucid demo`: one page that shows what there is, made in seconds from a network that is trained here."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pellucid.app import terminal


def command(
    *,
    out: Annotated[Path, Parameter(help="The page to write.")] = Path("demo.html"),
    open: Annotated[bool, Parameter(negative="", help="Open it in the browser.")] = False,
    force: Annotated[bool, Parameter(negative="", help="Overwrite an existing page.")] = False,
) -> int:
    """Write a page that shows explanations of a small network, and how far to believe them."""
    from pellucid import report

    out.parent.mkdir(parents=True, exist_ok=True)
    page = report.demo(out, overwrite=force)
    terminal.say(f"Open this page: {terminal.clean(page.resolve())}")
    if open:
        webbrowser.open(page.resolve().as_uri())
    return 0
