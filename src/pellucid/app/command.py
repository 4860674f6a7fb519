"""The root command: which commands there are, and what an error looks like."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError

import pellucid
from pellucid.app import terminal

COMMANDS = {
    "demo": "Write a page that shows explanations of a small network, and how far to believe them.",
    "explain": "Explain a model's answers for some inputs.",
    "methods": "List the methods: what each answers, gives and needs.",
    "check": "Say which methods apply to a model, and what stands in the way of the others.",
    "compare": "Measure several methods on the same rows: a table, with what does not fit and why.",
    "advise": "Say which explanation to ask for, with its cost on this model, and why not the others.",
    "report": "Write a page about a model's answers for some inputs.",
    "record": "Show a decision record, or set down that a person decided otherwise.",
    "replay": "Compute everything in a decision record again, and say what is as it was.",
}
HELP = """Understand a trained network, and know how far each explanation can be believed.

Every command takes --help, and --debug to show where an error comes from."""
WRONG_CALL, FAILED, INTERRUPTED = 2, 1, 130


def app(arguments: Sequence[str] = ()) -> App:
    """The command line, whose commands are imported when they are called.

    `explain` has the fields of a method as options, so it is made for the method that the arguments ask for.
    """
    root = App(
        name="pellucid",
        help=HELP,
        help_format="plaintext",
        version=f"pellucid {pellucid.__version__}",
        suppress_keyboard_interrupt=False,
    )
    for name, text in COMMANDS.items():
        command: Any = f"pellucid.app.{name}:command"
        if name == "explain" and arguments[:1] == ["explain"]:
            command = importlib.import_module("pellucid.app.explain").for_arguments(arguments)
        root.command(command, name=name, help=text)
    return root


def run(arguments: list[str]) -> int:
    """Run one command and turn whatever happens into an exit status and at most one line."""
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:ends]
    arguments = [a for i, a in enumerate(arguments) if a != "--debug" or i >= ends]
    try:
        root = app(arguments)
        status = root(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        terminal.complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explained(error)


def _explained(error: Exception) -> int:
    if isinstance(error, CycloptsError):
        terminal.complain(f"{' '.join(str(error).split())} `--help` lists the options.")
        return WRONG_CALL
    errors: Any = sys.modules.get("pellucid.contract.errors")  # loaded if one of them was raised
    if errors is not None and isinstance(error, errors.PellucidError):
        terminal.complain(str(error))
        return WRONG_CALL
    notes = "; ".join(getattr(error, "__notes__", ()))
    text = " ".join(str(error).split())[:500]
    terminal.complain(f"{type(error).__name__}: {text}{f' ({notes})' if notes else ''}. `--debug` shows where.")
    return FAILED
