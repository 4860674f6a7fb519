"""Why this answer rather than that one? A map of the difference of two scores, checked by erasing what it points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.method import from_config
from pellucid.engine import Subject, explain
from pellucid.engine.target import margin
from pellucid.report.erase import Erasure, erasure
from pellucid.show.answer import Answer, class_name
from pellucid.show.words import counted, number, percent, plural


@dataclass(frozen=True, kw_only=True, eq=False)
class Why:
    """Why `towards` rather than `against`: the map of the difference of their scores, and its check by erasing."""

    towards: int
    against: int
    result: Attribution
    erasure: Erasure | None

    def sentences(self, classes: Sequence[str]) -> list[str]:
        """The check in words."""
        check = self.erasure
        if check is None:
            return []
        part = check.part
        name = class_name(self.towards, classes)
        if check.count is None:
            return [
                f"Erasing all {counted(check.candidates, part)} that speak for “{name}” does not change the answer, so the "
                "map alone does not account for this decision."
            ]
        new = class_name(check.answer, classes)
        which = f"{part} that speaks" if check.count == 1 else f"{counted(check.count, part)} that speak"
        said = f"Erase only the {which} most for “{name}”, and the network answers “{new}” ({percent(check.share)})."
        if check.never < 1:
            least = "at least " if check.never > 0 else ""
            said += f" Erased in random order, it takes {least}{number(check.by_chance, 2)} {plural(part)} on average."
        else:
            said += f" Erased in random order, none of {check.orders} orders changes the answer before all is erased."
        return [said]


def why(subject: Subject, row: Tensor, answer: Answer, against: int | None, seed: int) -> Why | None:
    """The map and its check for one row (1, ...); `None` where the network gives no derivatives or no classes."""
    if subject.module is None or answer.index is None or against is None or against == answer.index:
        return None
    method = from_config({"method": "integrated-gradients", "tolerance": 0.01})
    result = explain(subject, row, method, target=margin(answer.index, against), seed=seed)
    classes = torch.tensor([answer.index])
    return Why(
        towards=answer.index,
        against=against,
        result=result.replace(target=classes),
        erasure=erasure(subject, row, result.values, answer.index, seed),
    )
