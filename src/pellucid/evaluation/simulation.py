"""What would the model answer? Questions for people, with the right answers, and how to tell what theirs are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Rules
from pellucid.contract.errors import InputError
from pellucid.engine import Subject
from pellucid.engine import seed as seeds
from pellucid.engine.ask import predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.evaluation import wilson
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.subject import as_subject

__all__ = ["SimulationTask", "score_simulation", "simulation_tasks"]

FIGURES = 4


@dataclass(frozen=True, kw_only=True)
class SimulationTask:
    """One question: the lines that a person reads, the answers to choose from, and which of them the model gives.

    `row` is the row of the inputs it is about; `help` is the explanation that may be read along, none for the control
    group. All of it is plain text out of the caller's names: whoever shows it has to escape it.
    """

    row: int
    lines: tuple[str, ...]
    question: str
    choices: tuple[str, ...]
    answer: str
    help: tuple[str, ...] = ()

    def text(self) -> str:
        """The task as it is read, without its answer."""
        told = [*self.help, *([""] if self.help else []), *self.lines, "", self.question]
        return "\n".join([*told, *(f"({i}) {choice}" for i, choice in enumerate(self.choices, 1))])


def simulation_tasks(
    model: Any,
    inputs: Tensor,
    *,
    features: Sequence[str] = (),
    classes: Sequence[str] = (),
    explanation: Rules | None = None,
    count: int = 12,
    seed: int = 0,
) -> tuple[SimulationTask, ...]:
    """Forward-simulation tasks: a row of a table, and the question what the model answers.

    Rows are drawn from the seed, so that the model's answers are as equally frequent as the rows allow, and no row is
    asked twice; guessing the commonest answer is then worth no more than chance. With ``explanation``, rules, every task
    shows their sentences: give the tasks once with and once without them to different people to see what they help.

    Args:
        model: gives scores (N, classes), or one score, of which the sign is asked; a `Subject` may have names.
        inputs: the rows to draw from, (N, columns).
        features: names of the columns.
        classes: names of the answers.
        explanation: rules whose sentences are shown.
        count: how many tasks; fewer where there are fewer rows.
        seed: which rows, and in which order.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.tensor([[0.2], [0.9], [0.4]])
        >>> tasks = px.evaluation.simulation_tasks(lambda v: v - 0.5, x, features=("dose",), count=2)
        >>> sorted(task.answer for task in tasks)
        ['class 0', 'class 1']
    """
    whole(count=(count, 1))
    if not isinstance(inputs, Tensor) or inputs.dim() != 2 or not len(inputs):
        raise InputError(
            "The 'inputs' must be a table with at least one row: (rows, columns)",
            got=f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__,
        )
    subject = as_subject(model)
    names = tuple(map(str, features)) or subject.features or tuple(f"column {i}" for i in range(inputs.shape[1]))
    if len(names) != inputs.shape[1]:
        raise InputError(f"The 'features' must name the {inputs.shape[1]} columns", got=f"{len(names)} names")
    answers, scores = _answers(subject, inputs)
    words = tuple(map(str, classes)) or subject.classes or tuple(f"class {i}" for i in range(scores))
    if len(words) != scores:
        raise InputError(f"The 'classes' must name the {scores} answers", got=f"{len(words)} names")
    shown = tuple(explanation.structure.text(names, words)) if explanation is not None else ()
    tasks = []
    for row in _balanced(answers, count, seed):
        values = (f"{name}: {float(value):.{FIGURES}g}" for name, value in zip(names, inputs[row], strict=True))
        tasks.append(
            SimulationTask(
                row=row,
                lines=tuple(values),
                question="What does the model answer?",
                choices=words,
                answer=words[int(answers[row])],
                help=shown,
            )
        )
    return tuple(tasks)


def score_simulation(tasks: Sequence[SimulationTask], given: Sequence[str | None]) -> dict[str, float]:
    """What people's answers are worth: ``accuracy`` with Wilson's 95 % interval, ``chance``, ``answered``.

    ``given`` has one answer per task, in their order, as one of its choices; None where there is none, which counts as
    wrong. Times are the study's to keep.
    """
    if len(given) != len(tasks) or not tasks:
        raise InputError(f"The answers must be one for each of the {len(tasks)} tasks", got=str(len(given)))
    for task, answer in zip(tasks, given, strict=True):
        if answer is not None and answer not in task.choices:
            raise InputError(f"The answer to row {task.row} must be one of {task.choices}", got=repr(answer)[:80])
    hits = sum(task.answer == answer for task, answer in zip(tasks, given, strict=True))
    low, high = wilson(torch.tensor(float(hits)), len(tasks))
    return {
        "accuracy": hits / len(tasks),
        "low": float(low),
        "high": float(high),
        "chance": sum(1 / len(task.choices) for task in tasks) / len(tasks),
        "answered": sum(answer is not None for answer in given) / len(tasks),
    }


def _answers(model: Subject, inputs: Tensor) -> tuple[Tensor, int]:
    """The model's answer to each row, and how many it has to choose from."""
    output = predict(model, Inputs((inputs,), single=True), DEFAULT_CPU)
    flat = output.reshape(len(inputs), -1)
    if not bool(torch.isfinite(flat).all()):
        raise InputError("The model's scores must be finite", got="NaN or infinity")
    return ((flat[:, 0] > 0).long(), 2) if flat.shape[1] == 1 else (flat.argmax(1), flat.shape[1])


def _balanced(answers: Tensor, count: int, seed: int) -> list[int]:
    """Rows in an order of the seed's, the answers in turn as long as each has rows left."""
    draw = seeds.generator(seed, b"simulation tasks", 0)
    order = torch.from_numpy(draw.permutation(len(answers)))
    left = [order[answers[order] == c].tolist() for c in draw.permutation(int(answers.max()) + 1).tolist()]
    found: list[int] = []
    while len(found) < min(count, len(answers)):
        for rows in left:
            if rows and len(found) < count:
                found.append(rows.pop())
    return [found[i] for i in draw.permutation(len(found)).tolist()]
