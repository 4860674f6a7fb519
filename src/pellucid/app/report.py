"""`pellucid report`: a page about a model's answers for some inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pellucid.app import inputs, models, results, terminal
from pellucid.app.explain import Input, Model


@Parameter(name="*", group="Record", negative="")
@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What is kept of a decision, and what is not."""

    record: Annotated[bool, Parameter(help="Also write a decision record beside the page, for `pellucid replay`.")] = (
        False
    )
    keep_inputs: Annotated[bool, Parameter(help="Keep the inputs themselves in the record.")] = False
    responsible: Annotated[str, Parameter(help="Who answers for the decision.")] = ""
    contest: Annotated[str, Parameter(help="How to contest it.")] = ""
    private: Annotated[bool, Parameter(help="The data are private: show nobody's row of them.")] = False
    log: Annotated[Path | None, Parameter(help="A file that gets a line for each explanation.")] = None


BRIEFLY = Keeping()
_ROW = re.compile(r"(train|test):[0-9]+")


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
    audience: Annotated[
        Literal["layperson", "engineer", "auditor"], Parameter(help="For whom the page is.")
    ] = "layperson",
    title: Annotated[str, Parameter(help="The page's title.")] = "What the network answered, and why",
    seed: Annotated[int, Parameter(help="Random draws depend on it and on the row alone.")] = 0,
    keeping: Keeping = BRIEFLY,
    vocabulary: Annotated[
        Path | None, Parameter(help="A JSON file with your own words for features and classes.")
    ] = None,
    held_out: Annotated[
        str | None, Parameter(help="Rows the network has not seen: test, or a file; says which answers to rely on.")
    ] = None,
    force: Annotated[bool, Parameter(negative="", help="Overwrite an existing page.")] = False,
    loading: models.Wish = models.AS_IT_COMES,
) -> int:
    """Write a page about a model's answers for some inputs: what it answered, why, and how far to believe it."""
    from pellucid.report import Vocabulary, write

    results.free(out, force)
    if keeping.record:
        results.free(out.with_suffix(".json"), force)
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
        record=keeping.record,
        keep_inputs=keeping.keep_inputs,
        responsible=keeping.responsible,
        contest=keeping.contest,
        private=keeping.private,
        log=keeping.log,
        overwrite=force,
        progress=True,
        named={
            "model": loaded.name,
            "input": _named(rows.names),
            "data": _named_data(data),
        },
        names=rows.names,
        vocabulary=None if vocabulary is None else Vocabulary.read(vocabulary),
        held_out=None if held_out is None else inputs.data(held_out, loaded, learns=True),
    )
    terminal.say(f"Open this page: {terminal.clean(page.resolve())}")
    if keeping.record:
        terminal.say(f"Its record: {terminal.clean(page.with_suffix('.json').resolve())}")
    return 0


def _named_data(text: str | None) -> str:
    """`train` or `test`; files are not looked for by name."""
    return "train" if text is None else text if text in ("train", "test") else ""


def _named(names: tuple[str, ...]) -> str:
    """`test:3,5` for rows of a world, which are found again by that; nothing else is looked for by its name."""
    parts = {name.partition(":")[0] for name in names}
    if len(parts) != 1 or not all(_ROW.fullmatch(name) for name in names):
        return ""
    return f"{parts.pop()}:{','.join(name.partition(':')[2] for name in names)}"
