"""Everything that a page and its record are made from: what was asked of which model, and all that was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution, Context, Examples
from pellucid.contract.errors import InputError
from pellucid.engine import Subject, predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.data import Rows
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import Inputs, as_inputs
from pellucid.report.audit import audit
from pellucid.report.case import Case, add_near, add_why, case, panel
from pellucid.report.deciding import decide
from pellucid.report.decision import known_rows
from pellucid.report.run import Found, Step, run, usual
from pellucid.report.why import why
from pellucid.show.answer import Answer, answers

AUDIENCES = ("layperson", "engineer", "auditor")
MOST = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked: which rows, by which methods, for whom. `private` says that nobody's row of `data` may be shown."""

    inputs: Any
    methods: Sequence[Any]
    truths: Sequence[int | None]
    target: Any = None
    data: Any = None
    seed: int = 0
    audience: str = "layperson"
    private: bool = False
    ink: bool = False
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> Inputs:
        """The inputs as rows."""
        return as_inputs(self.inputs)


@dataclass(kw_only=True, eq=False)
class Dossier:
    """What was asked of which model, and everything that was computed to answer it."""

    subject: Subject
    question: Question
    output: Tensor
    said: Sequence[Answer]
    found: Found
    known: Rows | None = None
    cases: list[Case] = field(default_factory=list)


def question(
    inputs: Any, methods: Sequence[Any] | None, labels: Any, audience: str, data: Any, **asked: Any
) -> Question:
    """The question, checked before any work."""
    if audience not in AUDIENCES:
        raise InputError(f"The 'audience' must be one of {', '.join(map(repr, AUDIENCES))}", got=repr(audience))
    rows = as_inputs(inputs)
    if rows.rows > MOST:
        raise InputError(
            f"The 'inputs' of a report must be at most {MOST} rows", got=f"{rows.rows} rows", hint="inputs[:24]"
        )
    return Question(
        inputs=inputs,
        methods=usual(inputs, data) if methods is None else list(methods),
        truths=_truths(labels, rows.rows),
        audience=audience,
        data=data,
        **asked,
    )


def named_parts(parts: Mapping[str, Tensor] | None, inputs: Any) -> dict[str, Tensor]:
    """Named regions as masks, one for each row, checked against the inputs."""
    if not parts:
        return {}
    if not isinstance(inputs, Tensor) or inputs.dim() not in (2, 4):
        raise InputError("The 'parts' need inputs that are pictures or a table", got=type(inputs).__name__)
    shape = (inputs.shape[0], *inputs.shape[inputs.dim() // 2 :])
    found = {str(name): torch.as_tensor(mask) for name, mask in parts.items()}
    for name, mask in found.items():
        if tuple(mask.shape) != shape:
            raise InputError(f"The 'parts' must be masks of shape {shape}", got=f"{name!r}: {tuple(mask.shape)}")
    return {name: mask.cpu() != 0 for name, mask in found.items()}


def compute(subject: Subject, asked: Question, step: Step) -> Dossier:
    """Explain every row by every method, and tell each row's case."""
    found = run(
        subject,
        asked.inputs,
        asked.methods,
        step,
        target=asked.target,
        data=asked.data,
        seed=asked.seed,
        private=asked.private,
    )
    made = build(subject, asked, found)
    if asked.audience == "auditor":
        audit(made)
    step(1)
    return made


def build(subject: Subject, asked: Question, found: Found) -> Dossier:
    """A case for each row, with the results that tell of rows."""
    rows, inputs = asked.rows, asked.inputs
    with untouched(subject.module):
        output = predict(subject, rows, DEFAULT_CPU).detach()
    said = answers(Context(output=output, classes=subject.classes), rows.rows)
    known = known_rows(asked.data, rows)
    made = Dossier(subject=subject, question=asked, output=output, said=said, found=found, known=known)
    for i in range(rows.rows):
        row = inputs[i : i + 1] if isinstance(inputs, Tensor) else None
        one = case(i + 1, row, said[i], asked.truths[i], subject.classes, ink=asked.ink)
        if asked.target is None and isinstance(row, Tensor) and row.dim() in (2, 4) and row.is_floating_point():
            against = asked.truths[i] if one.right is False else said[i].second
            add_why(one, why(subject, row, said[i], against, asked.seed), row, subject.classes, ink=asked.ink)
        maps = [(k, r) for k, r in enumerate(found.results) if isinstance(r, Attribution) and per_row(r, rows.rows)]
        one.panels = [panel(r, i, number_of=k) for k, r in maps]
        for k, result in enumerate(found.results):
            if isinstance(result, Examples):
                add_near(one, result, i, ink=asked.ink, number_of=k)
        one.path, one.path_number = way(found, row, subject)
        if isinstance(row, Tensor) and row.is_floating_point() and said[i].index is not None:
            decide(made, one, i, row)
        made.cases.append(one)
    return made


def per_row(result: Any, rows: int) -> bool:
    """Whether an attribution has values for each row, not for the network as a whole."""
    from pellucid.show.parts import parts

    return all(p.kind != "overall" and p.rows == rows for p in parts(result))


def way(found: Found, row: Any, subject: Subject) -> tuple[str, int]:
    """The tests that a row passes in an extracted tree, as a sentence, and the number of that tree's result."""
    for number, result in enumerate(found.results):
        told = getattr(getattr(result, "structure", None), "decision_path", None)
        if told is not None and isinstance(row, Tensor):
            return str(told(row[0], subject.features, subject.classes)), number
    return "", 0


def _truths(labels: Any, rows: int) -> list[int | None]:
    if labels is None:
        return [None] * rows
    given = torch.as_tensor(labels)
    if given.shape != (rows,) or given.is_floating_point():
        raise InputError(f"The 'labels' must be {rows} class numbers", got=f"{given.dtype}, shape {tuple(given.shape)}")
    return [int(v) for v in given]
