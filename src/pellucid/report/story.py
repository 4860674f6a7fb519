"""A page about a model's answers for some inputs: each answer with its margin, explanations with their measured errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

import pellucid
from pellucid.contract import Context, Explanation
from pellucid.contract.errors import InputError
from pellucid.engine import Subject, as_subject, predict
from pellucid.engine.batch import DEFAULT_CPU, Progress
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import as_inputs
from pellucid.report.case import Case, add_near, add_why, case, panel
from pellucid.report.run import Found, run, usual
from pellucid.report.sections import free, save
from pellucid.report.why import why
from pellucid.show import heard, pages, viewer
from pellucid.show.answer import answers
from pellucid.show.engineer import provenance
from pellucid.show.options import Options

MOST = 24
INTRO = (
    "What the network answered, how sure it was, what moved it, and how far each explanation can be believed. "
    "Explanations are measured, not promised: beside each stands its own error."
)


@dataclass(kw_only=True, eq=False)
class Story:
    """Everything on a page."""

    title: str
    intro: str
    cases: list[Case]
    whole: list[Markup] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    hero: Case | None = None
    chosen: str = ""
    accuracy: str = ""

    def html(self, audience: str) -> str:
        """The page."""
        body = pages.render(
            "report.html",
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            open=audience == "engineer",
            choices=any(c.answer.second_share is not None for c in self.cases),
            checks=any(c.check for c in self.cases),
            truths=any(c.truth for c in self.cases),
            pictures=any(c.picture is not None for c in self.cases),
        )
        return pages.document(self.title, body)


def write(
    model: Any,
    inputs: Any,
    methods: Sequence[Any] | None = None,
    *,
    target: Any = None,
    data: Any = None,
    labels: Any = None,
    path: str | Path = "report.html",
    audience: str = "layperson",
    title: str = "What the network answered, and why",
    seed: int = 0,
    overwrite: bool = False,
    progress: Any = False,
) -> Path:
    """Write one self-contained page that explains each row, and say where it is.

    Args:
        model, inputs, target, data, seed: as for `explain`; at most 24 rows.
        methods: method values or catalogue names; `None` takes a few that suit the inputs. Those that can't be computed
            are listed with the reason.
        labels: the true classes (N,), so that the page can say which answers are right.
        path: the file to write; never overwritten unless `overwrite`.
        audience: "layperson" (figures for engineers are folded) or "engineer".
        title: the page's title.
        progress: `True` shows a bar; a function gets (done, total, label).

    The page embeds pictures of the inputs.

    Example:
        >>> import torch, tempfile, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     px.report(net, torch.ones(1, 3), ["vanilla-gradient"], path=f"{folder}/page.html").name
        'page.html'
    """
    heard(audience)
    path, subject, rows = free(path, overwrite), as_subject(model), as_inputs(inputs)
    if rows.rows > MOST:
        raise InputError(
            f"The 'inputs' of a report must be at most {MOST} rows", got=f"{rows.rows} rows", hint="inputs[:24]"
        )
    truths = _truths(labels, rows.rows)
    methods = usual(inputs, data) if methods is None else list(methods)
    with Progress(progress).bar(len(methods) + 1, "report") as step:
        found = run(subject, inputs, methods, step, target=target, data=data, seed=seed)
        cases = build(subject, inputs, found, truths, seed, explain_why=target is None)
        step(1)
    story = Story(
        title=title,
        intro=INTRO,
        cases=cases,
        whole=whole(found, audience),
        missing=found.missing,
        provenance=about(subject, found, seed),
    )
    return save(story.html(audience), path, overwrite=overwrite)


def build(
    subject: Subject,
    inputs: Any,
    found: Found,
    truths: Sequence[int | None],
    seed: int,
    *,
    explain_why: bool,
    ink: bool = False,
) -> list[Case]:
    """A case for each row, with the results that tell of rows."""
    rows = as_inputs(inputs)
    with untouched(subject.module):
        output = predict(subject, rows, DEFAULT_CPU)
    said = answers(Context(output=output, classes=subject.classes), rows.rows)
    cases = []
    for i in range(rows.rows):
        row = inputs[i : i + 1] if isinstance(inputs, Tensor) else None
        made = case(i + 1, row, said[i], truths[i], subject.classes, ink=ink)
        if explain_why and isinstance(row, Tensor) and row.dim() in (2, 4) and row.is_floating_point():
            against = truths[i] if made.right is False else said[i].second
            add_why(made, why(subject, row, said[i], against, seed), row, subject.classes, ink=ink)
        made.panels = [panel(r, i) for r in found.of("attribution") if per_row(r, rows.rows)]
        for result in found.of("examples"):
            add_near(made, result, i, ink=ink)
        made.path = way(found, row, subject)
        cases.append(made)
    return cases


def per_row(result: Any, rows: int) -> bool:
    """Whether an attribution has values for each row, not for the network as a whole."""
    from pellucid.show.parts import parts

    return all(p.kind != "overall" and p.rows == rows for p in parts(result))


def way(found: Found, row: Any, subject: Subject) -> str:
    """The tests that a row passes in an extracted tree, as a sentence."""
    for result in found.of("rules"):
        told = getattr(result.structure, "decision_path", None)
        if told is not None and isinstance(row, Tensor):
            return str(told(row[0], subject.features, subject.classes))
    return ""


def whole(found: Found, audience: str) -> list[Markup]:
    """The results that tell of the network rather than of a row."""
    told = found.of("rules", "semantics", "measure", "text")
    return [pages.piece(r, viewer(r), audience, Options(rows=MOST)) for r in told]


def about(subject: Subject, found: Found, seed: int) -> list[tuple[str, str]]:
    """What made the page, without a word on where or by whom."""
    first: Explanation | None = found.results[0] if found.results else None
    keep = ("model", "model hash", "input hash", "rows", "dtype", "versions", "device")
    told = [(k, v) for k, v in provenance(first) if k in keep] if first is not None else []
    if not told:
        told = [
            ("model", type(subject.module or subject.model).__name__),
            ("versions", f"pellucid {pellucid.__version__}"),
        ]
    names = ", ".join(str(r.source.get("method")) for r in found.results)
    return [*told, ("seed", str(seed)), ("methods", names or "none")]


def _truths(labels: Any, rows: int) -> list[int | None]:
    if labels is None:
        return [None] * rows
    given = torch.as_tensor(labels)
    if given.shape != (rows,) or given.is_floating_point():
        raise InputError(f"The 'labels' must be {rows} class numbers", got=f"{given.dtype}, shape {tuple(given.shape)}")
    return [int(v) for v in given]
