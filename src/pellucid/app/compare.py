"""`pellucid compare`: several methods on the same rows, measured side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import pellucid as px
from pellucid.app import explain, inputs, models, results, terminal
from pellucid.evaluation.comparing import BUDGET
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
    layer: Annotated[
        str | None, Parameter(help="Explain a place inside the model, such as conv2; tokens at their embedding.")
    ] = None,
    data: Annotated[str | None, Parameter(help="What methods learn from: train, test, or a file.")] = None,
    budget: Annotated[
        float, Parameter(help="Seconds that an explanation may take, and each metric of it; inf for no end.")
    ] = BUDGET,
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
    settings = {
        "target": inputs.target(target, loaded),
        "layer": layer,
        "data": inputs.data(data, loaded, learns=True),
        "seed": seed,
        "memory": memory,
        "budget": None if budget == math.inf else budget,
    }
    names, by = _names(methods, "all"), _names(metrics, "default")
    try:
        found = px.compare(loaded.subject, rows.inputs, names, by, progress=True, folder=folder, **settings)
    except KeyboardInterrupt:
        if folder is not None:
            terminal.complain(f"what is done is kept in {folder}: the same command goes on from there")
        raise
    writing.write(found, rows)
    if writing.json:
        terminal.say(results.as_json(found, rows.names))
        return 0
    terminal.say(_words(found))
    return 0


def _words(found: px.Measure) -> str:
    """The table of what was measured, what follows from it, and the rest with the reasons."""
    told = found.source["comparison"]
    headings, lines = comparison.table(found)
    measured, parts = [line[:-1] for line in lines if line[1] != "–"], []
    if measured:
        ways = "; ".join(f"{metric}: {comparison.ARROWS[way]}" for metric, way in told["better"].items())
        parts += [terminal.table(headings[:-1], measured), ""]
        parts += [terminal.paragraphs(f"Means over the rows ± half their 95 % intervals. {ways}")]
    if opposed := [f"{one} and {other} ({r:.2f})" for one, other, r in comparison.disagreeing(found)]:
        text = f"opposite orders of the methods, by rank correlation: {', '.join(opposed)}"
        parts += [terminal.paragraphs(text)]
    if told["failed"]:
        fails = "; ".join(f"{method}: {', '.join(tests)}" for method, tests in told["failed"].items())
        parts += [terminal.paragraphs(f"failed a test of sanity: {fails}")]
    first = f"recommended: {told['recommended']}; " if told["recommended"] else "none is recommended: "
    parts += [terminal.paragraphs(first + told["reason"])]
    if left := [(line[0], line[-1]) for line in lines if line[-1]]:
        parts += ["", terminal.table(("not measured", "why"), left, wrap=(1,))]
    return "\n".join(parts)


def _names(text: str, word: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return word if names == [word] else names
