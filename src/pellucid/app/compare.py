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
    asked = {"methods": _names(methods, "all"), "metrics": _names(metrics, "default")}
    found = px.compare(
        loaded.subject,
        rows.inputs,
        **asked,
        target=inputs.target(target, loaded),
        layer=layer,
        data=inputs.data(data, loaded, learns=True),
        seed=seed,
        memory=memory,
        progress=True,
        budget=None if budget == math.inf else budget,
        folder=folder,
    )
    writing.write(found, rows)
    if writing.json:
        terminal.say(results.as_json(found, rows.names))
        return 0
    headings, lines = comparison.table(found)
    done = [line for line in lines if line[1] != "–"]
    terminal.say(terminal.table(headings[:-1], [line[:-1] for line in done]))
    told = found.source["comparison"]
    ways = "; ".join(f"{metric}: {comparison.ARROWS[way]}" for metric, way in told["better"].items())
    terminal.say(f"\n{terminal.paragraphs(f'Means over the rows ± half their 95 % intervals. {ways}')}")
    if opposed := [f"{one} and {other} ({r:.2f})" for one, other, r in comparison.disagreeing(found)]:
        told_so = f"opposite orders of the methods, by rank correlation: {', '.join(opposed)}"
        terminal.say(terminal.paragraphs(told_so))
    if told["failed"]:
        fails = "; ".join(f"{method}: {', '.join(tests)}" for method, tests in told["failed"].items())
        terminal.say(terminal.paragraphs(f"failed a test of sanity: {fails}"))
    first = f"recommended: {told['recommended']}; " if told["recommended"] else "none is recommended: "
    terminal.say(terminal.paragraphs(first + told["reason"]))
    if left := [(line[0], line[-1]) for line in lines if line[-1]]:
        terminal.say("\n" + terminal.table(("not measured", "why"), left, wrap=(1,)))
    return 0


def _names(text: str, word: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return word if names == [word] else names
