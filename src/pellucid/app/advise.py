"""`pellucid advise`: which explanation to ask for, with its cost on this model, and the reasons against the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pellucid.app import check, explain, inputs, models, results, terminal

NOTHING_FITS = 3


def command(
    model: explain.Model,
    input: Annotated[
        str | None, Parameter(help="Rows to explain; by default test:0, or noise of the model's size.")
    ] = None,
    /,
    *,
    question: Annotated[str | None, Parameter(help="Your question in your words.")] = None,
    audience: Annotated[Literal["layperson", "engineer", "auditor"] | None, Parameter(help="Who will read it.")] = None,
    deadline: Annotated[float | None, Parameter(help="Seconds in which all rows must be explained.")] = None,
    preset: Annotated[
        Literal["time-critical", "decision-critical", "science"] | None, Parameter(help="What is at stake.")
    ] = None,
    target: Annotated[str | None, Parameter(help="Class to explain. Without it, each row's predicted class.")] = None,
    layer: Annotated[str | None, Parameter(help="Explain a place inside the model.")] = None,
    data: Annotated[str | None, Parameter(help="What methods may learn from: train, test, or a file.")] = None,
    seed: Annotated[int, Parameter(help="Random draws depend on it and on the row alone.")] = 0,
    patience: Annotated[float, Parameter(help="Seconds that the advice itself may take.")] = 30.0,
    html: Annotated[Path | None, Parameter(help="Write the advice as a page.")] = None,
    json: Annotated[bool, Parameter(negative="", help="Print everything as JSON.")] = False,
    force: Annotated[bool, Parameter(negative="", help="Overwrite an existing page.")] = False,
    loading: models.Wish = models.AS_IT_COMES,
) -> int:
    """Say which explanation to ask for: what fits, best first, with its cost on this model, and why not the others.

    The exit status is 0 if a method fits, else 3.
    """
    from pellucid.advice import advise
    from pellucid.report import save

    if html is not None:
        results.free(html, force)
    loaded = models.load(model, loading)
    rows = check.usual_rows(input, None, loaded)
    found = advise(
        loaded.subject,
        rows,
        question,
        audience,
        deadline,
        inputs.data(data, loaded, learns=True),
        preset=preset,
        target=inputs.target(target, loaded),
        layer=layer or loaded.embedding(rows),
        seed=seed,
        patience=patience,
    )
    if html is not None:
        save(found.html(), html, overwrite=force)
    if json:
        terminal.say(found.as_json())
    else:
        terminal.say(terminal.paragraphs(found))
    return 0 if found.suggestions else NOTHING_FITS
