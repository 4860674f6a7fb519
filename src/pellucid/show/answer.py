"""What the network answered, how sure it was and what came second, read from its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.contract import Context
from pellucid.show.words import clean, number, percent


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One row's answer. `shares` are all classes' shares of the network's confidence; `margin` is first minus second."""

    index: int | None = None
    name: str = ""
    share: float | None = None
    second: int | None = None
    second_name: str = ""
    second_share: float | None = None
    margin: float | None = None
    shares: tuple[float, ...] = ()
    value: float | None = None

    def sentence(self) -> str:
        """The answer in words."""
        if self.value is not None:
            return f"The network answered {number(self.value)}."
        if self.index is None or self.share is None:
            return ""
        start = f"The network answered “{self.name}” with {percent(self.share)} confidence"
        if self.second_share is None:
            return f"{start}."
        return f"{start}, {self.closeness()} “{self.second_name}” at {percent(self.second_share)}."

    def closeness(self) -> str:
        """How far ahead of the second class the first is, from the difference of their shares."""
        lead = (self.share or 0) - (self.second_share or 0)
        if lead < 0.1:
            return "almost level with"
        if lead < 0.4:
            return "only narrowly ahead of"
        return "clearly ahead of" if lead < 0.9 else "far ahead of"

    def title(self) -> tuple[str, str]:
        """Two short lines for the head of a picture: the answer, and what came second."""
        if self.value is not None:
            return f"answer {number(self.value)}", ""
        if self.index is None or self.share is None or self.second_share is None:
            return "", ""
        return f"read as “{self.name}” {percent(self.share)}", f"then “{self.second_name}” {percent(self.second_share)}"


def answers(context: Context, rows: int) -> list[Answer]:
    """The answer of each of the first `rows` rows; empty ones where the output is not known or is no list of scores."""
    output = context.output
    if not isinstance(output, Tensor) or output.dim() not in (1, 2) or output.shape[0] < rows:
        return [Answer()] * rows
    output = output.detach().cpu().double().reshape(output.shape[0], -1)
    if output.shape[1] == 1:
        return [Answer(value=float(v)) for v in output[:rows, 0]]
    told = zip(output[:rows], confidence(output)[:rows], strict=True)
    return [_answer(scores, shares, context.classes) for scores, shares in told]


def _answer(scores: Tensor, shares: Tensor, classes: Sequence[str]) -> Answer:
    first, second = torch.topk(scores, 2).indices.tolist()
    return Answer(
        index=first,
        name=class_name(first, classes),
        share=float(shares[first]),
        second=second,
        second_name=class_name(second, classes),
        second_share=float(shares[second]),
        margin=float(scores[first] - scores[second]),
        shares=tuple(shares.tolist()),
    )


def confidence(scores: Tensor) -> Tensor:
    """Scores (..., classes) as shares of one: as they are where every row holds shares already, otherwise by softmax.

    All rows are judged together: among logits, one row or another sums to one by chance.
    """
    already = bool((scores >= 0).all()) and bool(((scores.sum(-1) - 1).abs() < 1e-3).all())
    return scores if already else torch.softmax(scores, -1)


def class_name(index: int, classes: Sequence[str]) -> str:
    """The class's name, or its number where it has none."""
    return clean(classes[index]) if 0 <= index < len(classes) else f"class {index}"
