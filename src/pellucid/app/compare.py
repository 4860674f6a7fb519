"""`pellucid compare`: several methods on the same rows, measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import pellucid as px
from pellucid.app import explain, inputs, models, results, terminal
from pellucid.show import comparison

ROWS = "test:0-7"


def command(
    model: explain.Model,
    input: Annotated[str, Parameter(help="Rows, as for explain; by default the first eight held-out ones.")] = ROWS,
    /,
    *,
    methods: Annotated[str, Parameter(help="Names with commas between them, or all.")] = "all",
    metrics: Annotated[str, Parameter(help="Names with commas between them, or default.")] = "default",
    target: Annotated[str | None, Parameter(help="Class to explain, by number or name.")] = None,
    data: Annotated[str | None, Parameter(help="What methods learn from: train, test, or a file.")] = None,
    patience: Annotated[
        float,
        Parameter(help="Leave out metrics that ask a method many times more, where it took more seconds than this."),
    ] = 1.0,
    folder: Annotated[
        Path | None, Parameter(help="Keep figures there as they are done, and begin again from them.")
    ] = None,
    seed: Annotated[int, Parameter(help="Random draws depend on it and on the row alone.")] = 0,
    memory: Annotated[str | None, Parameter(help="Memory the call may use, such as 1GiB.")] = None,
    loading: models.Wish = models.AS_IT_COMES,
    writing: results.Writing = results.NOWHERE,
) -> int:
    """Measure several methods on the same rows: a table of figures, with what does not fit and why."""
    writing.check()
    loaded = models.load(model, loading)
    rows = inputs.read(input, loaded)
    found = px.compare(
        loaded.subject,
        rows.inputs,
        _names(methods, "all"),
        _names(metrics, "default"),
        target=inputs.target(target, loaded),
        data=inputs.data(data, loaded, learns=True),
        seed=seed,
        memory=memory,
        progress=True,
        patience=patience,
        folder=folder,
    )
    writing.write(found, rows)
    if writing.json:
        terminal.say(results.as_json(found, rows.names))
        return 0
    headings, lines = comparison.table(found)
    terminal.say(terminal.table(headings, lines, wrap=(len(headings) - 1,)))
    told = found.source["comparison"]
    ways = "; ".join(f"{metric}: {comparison.ARROWS[way]}" for metric, way in told["better"].items())
    terminal.say(f"\n{terminal.clean(ways)}")
    if told["recommended"]:
        terminal.say(f"best median rank: {terminal.clean(told['recommended'])}")
    return 0


def _names(text: str, word: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return word if names == [word] else names
