"""What would have changed a decision, and what in the data may have caused a wrong one.

Both are searched for, measured on the model and told with their limits: a change of the input is one that the model was
asked about; a known case with a doubtful label lies near, which does not prove that it caused anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.contract.errors import PellucidError
from pellucid.engine import Subject
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.inputs import Inputs
from pellucid.examples.similar import nearest
from pellucid.report.erase import Erasure, shares_of
from pellucid.show.answer import class_name
from pellucid.show.words import clean, counted, listed, number, percent

NEAR, DOUBT, MOST_SWAPS = 10, 0.6, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """The input with some parts changed, and what the model answers to it. `changes`: column, value before, after."""

    by: str
    row: Tensor
    answer: int
    share: float
    valid: bool
    count: int
    changes: tuple[tuple[int, float, float], ...] = ()

    def sentence(self, subject: Subject) -> str:
        """What would have had to be otherwise, in words."""
        named = subject.features if len(subject.features) == self.row.shape[1] else ()
        told = [
            f"{clean(named[i]) if named else f'input {i}'} = {number(after)} instead of {number(before)}"
            for i, before, after in self.changes
        ]
        name = class_name(self.answer, subject.classes)
        return f"With {listed(told)}, and all else as it is, the network answers “{name}” ({percent(self.share)})."

    def plain(self) -> dict[str, Any]:
        """The same as figures."""
        return {
            "by": self.by,
            "answer": self.answer,
            "share": self.share,
            "valid": self.valid,
            "count": self.count,
            "changes": [list(c) for c in self.changes],
        }


def erased(subject: Subject, check: Erasure | None, index: int) -> Change | None:
    """The input with parts erased until the answer changes, asked again on its own."""
    if check is None or check.count is None:
        return None
    shares = shares_of(subject, check.erased)[0]
    answer = int(shares.argmax())
    return Change(
        by="erasing",
        row=check.erased,
        answer=answer,
        share=float(shares[answer]),
        valid=answer != index,
        count=check.count,
    )


def borrowed(subject: Subject, row: Tensor, index: int, known: Rows) -> Change | None:
    """The fewest columns found that, taken from the nearest known case with another answer, change this one's.

    Columns are taken over one by one, each time the one that takes most from the answer, until it changes; then each is
    put back where the answer stays changed without it. So none of those left can be spared, though another set may be
    smaller. `None` for pictures, or where every known case gets the same answer.

    Cost: one forward per known case, and one of at most 64 rows for each column taken over.
    """
    table = known.inputs.floats[0].detach().cpu()
    row = row.detach().cpu()
    if row.dim() != 2 or table.shape[1:] != row.shape[1:] or row.shape[1] > MOST_SWAPS:
        return None
    others = table[shares_of(subject, table).argmax(1) != index]
    if not len(others):
        return None
    spread = table.double().std(0, unbiased=False)
    distance = (((others - row).double() / torch.where(spread > 0, spread, 1.0)) ** 2).sum(1)
    other = others[int(distance.argmin())]
    taken: list[int] = []
    left = (row[0] != other).nonzero()[:, 0].tolist()
    while left:
        shares = shares_of(subject, _with(row, other, [[*taken, i] for i in left]))
        taken.append(left.pop(int(shares[:, index].argmin())))
        if int(shares_of(subject, _with(row, other, [taken]))[0].argmax()) != index:
            break
    for i in list(taken):
        fewer = [k for k in taken if k != i]
        if fewer and int(shares_of(subject, _with(row, other, [fewer]))[0].argmax()) != index:
            taken = fewer
    changed = _with(row, other, [taken])
    final = shares_of(subject, changed)[0]
    answer = int(final.argmax())
    return Change(
        by="a known case",
        row=changed,
        answer=answer,
        share=float(final[answer]),
        valid=answer != index,
        count=len(taken),
        changes=tuple((i, float(row[0, i]), float(other[i])) for i in sorted(taken)),
    )


def _with(row: Tensor, other: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
    """The row with each set of columns taken from the other."""
    made = row.repeat(len(sets), 1)
    for k, columns in enumerate(sets):
        made[k, list(columns)] = other[list(columns)]
    return made


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A known case near the input whose label its own neighbours contradict: `against` of `NEAR` carry `usual`."""

    item: int
    label: int
    usual: int
    against: int
    blamed: bool


@dataclass(frozen=True, kw_only=True)
class Causes:
    """The labels of the known cases nearest to a wrongly judged input, and those among them that are in doubt."""

    items: tuple[int, ...]
    labels: tuple[int, ...]
    as_answered: int
    as_true: int
    suspects: tuple[Suspect, ...]
    private: bool = False

    def sentences(self, answer: int, truth: int, classes: Sequence[str]) -> list[str]:
        """What the known cases nearby say about the mistake."""
        said, true = class_name(answer, classes), class_name(truth, classes)
        count = len(self.items)
        as_answered, as_true = ({0: "none", count: "all"}.get(n, n) for n in (self.as_answered, self.as_true))
        told = [
            f"Of the {count} known cases nearest to it, {as_answered} carry the label that the network "
            f"answered, “{said}”, and {as_true} the true one, “{true}”."
        ]
        if not self.suspects:
            return [*told, "No case nearby has a label that its own neighbours contradict: no wrong label was found."]
        if self.private:
            doubted = counted(len(self.suspects), "label")
            return [*told, f"{doubted} nearby may be wrong; the cases are not shown, as the data are private."]
        for s in self.suspects:
            told.append(
                f"No. {s.item} is labelled “{class_name(s.label, classes)}”, but {s.against} of the {NEAR} cases nearest "
                f"to it are labelled “{class_name(s.usual, classes)}”: its label may be wrong"
                + (", and it is the answer that the network gave." if s.blamed else ".")
            )
        return [*told, "To lie near is not to be the cause: correct the label and train again to know."]

    def plain(self) -> dict[str, Any]:
        """The same as figures; of private data, counts alone."""
        told = {"near": len(self.items), "as_answered": self.as_answered, "as_true": self.as_true}
        if self.private:
            return {**told, "suspects": len(self.suspects)}
        return {
            **told,
            "items": list(self.items),
            "labels": list(self.labels),
            "suspects": [vars(s) for s in self.suspects],
        }


def known_rows(data: Any, inputs: Inputs) -> Rows | None:
    """The data as rows like the inputs with class labels; `None` where they are not."""
    if data is None:
        return None
    try:
        rows = rows_like(data, inputs, labels=True)
    except (PellucidError, TypeError, ValueError):
        return None
    fits = len(rows.inputs.tensors) == 1 and len(rows.inputs.floats) == 1 and rows.inputs.rows > NEAR
    return rows if fits and rows.labels is not None and not rows.labels.is_floating_point() else None


def causes(
    row: Tensor, answer: int, truth: int, known: Rows, also: Sequence[int] = (), *, private: bool = False
) -> Causes:
    """Known cases near a wrongly judged input whose labels their own neighbours contradict: a wrong label may be one.

    Near is measured in the inputs, columns of tables in units of their spread; `also` are cases that are near in another
    way, as in what the network makes of them. A label is in doubt where at least 6 of the 10 cases nearest to its case
    carry one same other label. Those with the label that the network answered come first.
    """
    table = known.inputs.floats[0].detach().cpu().double().flatten(1).numpy()
    labels = [] if known.labels is None else [int(v) for v in known.labels.cpu().tolist()]
    scale = table.std(0) if row.dim() == 2 else np.ones(table.shape[1])
    table = table / np.where(scale > 0, scale, 1.0)
    here = row.detach().cpu().double().flatten(1).numpy() / np.where(scale > 0, scale, 1.0)
    near = [int(i) for i in nearest(table, here, NEAR, "euclidean", DEFAULT_CPU)[0][0]]
    asked = list(dict.fromkeys([*near, *(int(i) for i in also)]))
    around = nearest(table, table[asked], NEAR + 1, "euclidean", DEFAULT_CPU)[0].tolist()
    suspects = []
    for item, others in zip(asked, around, strict=True):
        carried = [labels[i] for i in others if i != item][:NEAR]
        usual = max(sorted(set(carried)), key=carried.count)
        if usual != labels[item] and carried.count(usual) >= DOUBT * NEAR:
            suspects.append(
                Suspect(
                    item=item,
                    label=labels[item],
                    usual=usual,
                    against=carried.count(usual),
                    blamed=labels[item] == answer,
                )
            )
    return Causes(
        items=tuple(near),
        labels=tuple(labels[i] for i in near),
        as_answered=sum(labels[i] == answer for i in near),
        as_true=sum(labels[i] == truth for i in near),
        suspects=tuple(sorted(suspects, key=lambda s: not s.blamed)),
        private=private,
    )
