"""`pellucid report`: a page about a model's answers for some inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pellucid.app import inputs, models, results, terminal
from pellucid.app.explain import Input, Model


def command(
    model: Model,
    input: Input,
    /,
    *,
    out: Annotated[Path, Parameter(help="The page to write.")] = Path("report.html"),
    methods: Annotated[
        tuple[str, ...] | None,
        Parameter(
            consume_multiple=True, negative="", help="Names of methods. Without them, a few that suit the inputs."
        ),
    ] = None,
    target: Annotated[str | None, Parameter(help="Class to explain. Without it, each row's predicted class.")] = None,
    data: Annotated[str | None, Parameter(help="What methods learn from: train, test, or a file.")] = None,
    audience: Annotated[Literal["layperson", "engineer"], Parameter(help="For whom the page is.")] = "layperson",
    title: Annotated[str, Parameter(help="The page's title.")] = "What the network answered, and why",
    seed: Annotated[int, Parameter(help="Random draws depend on it and on the row alone.")] = 0,
    force: Annotated[bool, Parameter(negative="", help="Overwrite an existing page.")] = False,
    loading: models.Wish = models.AS_IT_COMES,
) -> int:
    """Write a page about a model's answers for some inputs: what it answered, why, and how far to believe it."""
    from pellucid.report import write

    results.free(out, force)
    loaded = models.load(model, loading)
    rows = inputs.read(input, loaded)
    page = write(
        loaded.subject,
        rows.inputs,
        methods,
        target=inputs.target(target, loaded),
        data=inputs.data(data, loaded, learns=True),
        labels=None if rows.labels is None or rows.labels.is_floating_point() else rows.labels,
        path=out,
        audience=audience,
        title=title,
        seed=seed,
        overwrite=force,
        progress=True,
    )
    terminal.say(f"Open this page: {terminal.clean(page.resolve())}")
    return 0
