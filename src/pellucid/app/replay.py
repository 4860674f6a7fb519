"""`pellucid replay`: is a decision record true?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pellucid.app import inputs, models, terminal
from pellucid.contract.errors import InputError
from pellucid.report.replay import VERIFIED, kept, replay

ROWS = re.compile(r"(train|test):[0-9]{1,9}(,[0-9]{1,9})*")
MARKS = {"verified": "✓ verified", "differs": "✗ differs", "cannot": "– cannot"}


def command(
    record: Annotated[Path, Parameter(help="The record that `pellucid report --record` wrote.")],
    /,
    *,
    model: Annotated[str | None, Parameter(help="The model. Not needed for those of the zoo.")] = None,
    input: Annotated[
        str | None, Parameter(help="The rows. Not needed where the record keeps or, for the zoo, names them.")
    ] = None,
    data: Annotated[str | None, Parameter(help="What the methods learnt from: train, test, or a file.")] = None,
    digest: Annotated[str | None, Parameter(help="The record's digest, as the page shows it.")] = None,
    tolerance: Annotated[
        float | None, Parameter(help="Accept this difference, as a share of the largest value, instead of none.")
    ] = None,
    loading: models.Wish = models.AS_IT_COMES,
) -> int:
    """Compute everything in a decision record again, and say what is as it was.

    Nothing in the file is run: methods are those of the catalogue, and of models only those of the zoo are taken by the
    name in the file. The exit status is 0 if everything is verified, else 1.
    """
    from pellucid.report.record import read

    told = read(record)["asked"]
    loaded = models.load(_model(model, told["model"]["name"]), loading)
    rows = _rows(input, told["inputs"], loaded)
    found = replay(
        record, loaded.subject, rows, data=_data(data, told["data"], loaded), tolerance=tolerance, seal=digest
    )
    terminal.say(
        terminal.table(
            ("", "what the record says", "how"),
            [(MARKS[f.verdict], f.what, f.how) for f in found.findings],
            wrap=(1, 2),
        )
    )
    count = sum(f.verdict == VERIFIED for f in found.findings)
    terminal.say(f"\n{count} of {len(found.findings)} verified")
    return 0 if found.verified else 1


def _model(given: str | None, named: str | None) -> str:
    """The model to load: the one asked for, or, of the zoo alone, the one that the record names."""
    if given is not None:
        return given
    if named is not None and re.fullmatch(r"zoo:[a-z0-9-]{1,60}", named):
        return named
    raise InputError(
        "Of models only those of the zoo are taken by the name in a record",
        got=repr(named),
        hint="--model with the model that it was made of",
    )


def _rows(given: str | None, told: Any, loaded: models.Loaded) -> Any:
    if given is not None:
        return inputs.read(given, loaded).inputs
    own = kept(told)
    if own is None and told["name"] and ROWS.fullmatch(told["name"]) and loaded.world is not None:
        return inputs.read(told["name"], loaded).inputs
    return own


def _data(given: str | None, told: Any, loaded: models.Loaded) -> Any:
    """The data that were asked for, or the part of the zoo's own that the record names."""
    if given is not None:
        return inputs.data(given, loaded, learns=True)
    if told is None or loaded.world is None or told.get("name") not in ("train", "test"):
        return None
    return inputs.data(told["name"], loaded, learns=True)
