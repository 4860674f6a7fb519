"""`python -m pellucid` and the `pellucid` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for a wrong call, 130 after Ctrl-C, and 1 for anything else."""
    from pellucid.app.command import run

    return run(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `python -m` puts the current folder first, and a torch.py in it would be run as torch
    sys.exit(main())
