"""Does the network look where people look, when it is right and when it is wrong? Both sides are shown in equal numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Method
from pellucid.contract.errors import InputError
from pellucid.contract.method import as_method, from_config
from pellucid.engine import Subject, as_subject, explain, predict
from pellucid.engine import seed as seeds
from pellucid.engine.batch import budget
from pellucid.engine.evaluation import overall
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import Inputs, as_inputs
from pellucid.engine.settings import whole
from pellucid.report.plain import plain
from pellucid.report.sections import Section
from pellucid.show.answer import class_name
from pellucid.show.words import clean, counted, listed, percent

__all__ = ["Congruence", "Side", "congruence", "to_mark"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """How well maps agree with what people marked, over some rows.

    `overlap`: intersection over union of the marked places and as many of the map's strongest (equal ones taken evenly),
    mean with 95 % interval; `chance`: the overlap that a random map would have. `inside`: the share of what speaks for the
    answer that lies in the marked places, which make up `area` of all. `rank`: rank correlation of map and marks (2 × area
    under the ROC curve - 1). All are means.
    """

    rows: int
    overlap: float
    low: float
    high: float
    chance: float
    inside: float
    area: float
    rank: float

    @property
    def elsewhere(self) -> bool:
        """Whether the maps agree with the marks no better than random ones would, as far as these rows tell."""
        return self.low <= self.chance


@dataclass(frozen=True, kw_only=True)
class Congruence:
    """The agreement where the network is right and where it is wrong, and for each class it said.

    `chosen` are the numbers of the rows that were compared, `gap` the overlap of right rows minus that of wrong ones, with
    its 95 % interval; `None` where a side has fewer than two rows.
    """

    right: Side | None
    wrong: Side | None
    classes: dict[str, Side]
    gap: tuple[float, float, float] | None
    chosen: tuple[int, ...]
    available: tuple[int, int]
    method: str

    def sentences(self) -> list[str]:
        """The agreement in plain words."""
        found = []
        for name, side in (("right", self.right), ("wrong", self.wrong)):
            if side is None:
                found.append(f"There are too few cases in which the network was {name} to say anything of them.")
                continue
            told = "hardly where people look" if side.elsewhere else "where people look"
            found.append(
                f"In {counted(side.rows, 'case')} in which the network was {name}, its map points {told}: "
                f"{percent(side.inside)} of what speaks for its answer lies in the {percent(side.area)} that people marked."
            )
        if self.right is not None and self.right.elsewhere:
            found.append("So where it is right, that may be for other reasons than people's, and may not last.")
        if self.wrong is not None and not self.wrong.elsewhere:
            found.append("So where it is wrong, it looked at the right place and misread it.")
        if odd := [f"“{clean(name, 40)}”" for name, side in self.classes.items() if side.elsewhere]:
            found.append(f"It answers {listed(odd)} by looking elsewhere than people do.")
        return found

    def section(self, heading: str = "Does it look where people look?") -> Section:
        """The same for `pellucid.report.page`."""
        return Section(heading=heading, parts=self.sentences())

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; numbers that JSON has none for by their name."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def to_mark(model: Any, inputs: Any, labels: Any, *, rows: int = 40, seed: int = 0) -> Tensor:
    """Numbers of rows to show to people, right and wrong decisions in equal numbers, in an order that gives nothing away.

    Half of ``rows`` are rows that the network gets right and half rows it gets wrong, each taken from the true classes in
    turn; where one side has fewer, as many of both are taken. People who mark the places they would look at should see
    neither the answer nor the map.

    Example:
        >>> import torch, pellucid as px
        >>> px.report.to_mark(lambda x: x, torch.eye(2).repeat(4, 1), torch.tensor([0, 1, 0, 0, 0, 1, 0, 1]), rows=4).shape
        torch.Size([2])
    """
    whole(rows=(rows, 2))
    subject, given = as_subject(model), as_inputs(inputs)
    truth, said = _labels(labels, given.rows), _answers(subject, given)
    return _stratified(said == truth, truth, rows, seed)


def congruence(
    model: Any,
    inputs: Any,
    labels: Any,
    masks: Any,
    method: Method | str = "integrated-gradients",
    *,
    rows: int | Tensor | Sequence[int] = 40,
    data: Any = None,
    seed: int = 0,
) -> Congruence:
    """Does the network look where people look, when it is right and when it is wrong?

    The predicted class of the rows that `to_mark` chooses (or of those named in ``rows``) is explained, and each map
    compared with what people marked, separately for right and wrong decisions and for each class that was said.

    Args:
        model, inputs, data, seed: as for `explain`.
        labels: the true classes (N,).
        masks: (N, height, width), or (N, steps or columns), true where people would look: for every row of the inputs, only
            those of chosen rows are read.
        method: an attribution method or its name.
        rows: how many rows, or which.

    A map that is true to a network that reads something else is not congruent, and a pleasing one need not be true: read it
    beside the check by removal. Congruence is evidence for confidence in the decisions, not for their being right.

    Cost: that of the method for the chosen rows. Source: Xie et al., Field guide, §2 (confidence as a trait); Lipton 2018,
    for what a shared rationale does and does not show.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2, bias=False).eval()
        >>> net.weight.data = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, -9]])
        >>> x, marks = torch.tensor([[1.0, 1, 1, 0]]).repeat(6, 1), (torch.arange(4) < 1).repeat(6, 1)
        >>> found = px.report.congruence(net, x, torch.tensor([1, 1, 1, 0, 0, 0]), marks, "gradient-x-input")
        >>> found.right.overlap, found.wrong.overlap
        (1.0, 1.0)
    """
    subject, given = as_subject(model), as_inputs(inputs)
    truth, said = _labels(labels, given.rows), _answers(subject, given)
    right = said == truth
    if isinstance(rows, int) and not isinstance(rows, bool):
        whole(rows=(rows, 2))
        chosen = _stratified(right, truth, rows, seed)
    else:
        chosen = _rows(rows, given.rows)
    marked = torch.as_tensor(masks)
    if marked.shape[:1] != (given.rows,):
        raise InputError(f"The 'masks' must have one entry per row, {given.rows}", got=f"shape {tuple(marked.shape)}")
    if not len(chosen):
        side = "wrong" if bool(right.all()) else "right"
        raise InputError(f"The 'inputs' must hold rows the network gets {side}", got="none", hint="rows= their numbers")
    judged = as_method(method)
    asked = from_config({"method": "pointing-game", "of": judged, "figure": "overlap"})
    own = {"masks": marked[chosen], **({} if data is None else {"explanation": data})}
    found = explain(subject, given.take(chosen).wrap_all(), asked, target=said[chosen], data=own, seed=seed)
    figures, good = found.facts, right[chosen]
    by = {class_name(int(c), subject.classes): _side(figures, said[chosen] == c) for c in said[chosen].unique()}
    one, other = found.values[good], found.values[~good]
    return Congruence(
        right=_side(figures, good),
        wrong=_side(figures, ~good),
        classes={k: v for k, v in by.items() if v is not None},
        gap=welch(one, other),
        chosen=tuple(chosen.tolist()),
        available=(int(right.sum()), int((~right).sum())),
        method=judged.card.name,
    )


def _side(figures: dict[str, Tensor], rows: Tensor) -> Side | None:
    if int(rows.sum()) < 2:
        return None
    told = overall(figures["overlap"][rows])
    area, rank = figures["area"][rows], 2 * figures["roc"][rows] - 1
    chance = (area / (2 - area)).mean()
    return Side(
        rows=int(rows.sum()),
        overlap=told["mean"],
        low=told["low"],
        high=told["high"],
        chance=float(chance),
        inside=float(figures["mass"][rows].nanmean()),
        area=float(area.mean()),
        rank=float(rank.nanmean()),
    )


def welch(one: Tensor, other: Tensor) -> tuple[float, float, float] | None:
    """The difference of two means with Welch's 95 % interval; `None` where a side has fewer than two rows."""
    from scipy.stats import t

    if min(len(one), len(other)) < 2:
        return None
    gap = float(one.mean() - other.mean())
    a, b = float(one.var()) / len(one), float(other.var()) / len(other)
    if a + b == 0:
        return gap, gap, gap
    freedom = (a + b) ** 2 / (a * a / (len(one) - 1) + b * b / (len(other) - 1))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(a + b)
    return gap, gap - half, gap + half


def _stratified(right: Tensor, truth: Tensor, rows: int, seed: int) -> Tensor:
    """Equally many right and wrong rows, each side going through the classes in turn, shuffled together."""
    keys = torch.from_numpy(seeds.generator(seed, b"congruence", 0).random(len(right)))
    count = min(rows // 2, int(right.sum()), int((~right).sum()))
    taken = []
    for side in (right, ~right):
        members = side.nonzero()[:, 0]
        members = members[keys[members].argsort()]
        # A row's turn is how many rows of its class come before it: all first ones of a class, then all second ones.
        labels, turn = truth[members], torch.zeros_like(members)
        for label in labels.unique():
            turn[labels == label] = torch.arange(int((labels == label).sum()))
        taken.append(members[turn.argsort(stable=True)[:count]])
    both = torch.cat(taken)
    return both[torch.from_numpy(seeds.generator(seed, b"congruence", 1).permutation(len(both)))]


def _answers(subject: Subject, rows: Inputs) -> Tensor:
    with untouched(subject.module):
        output = predict(subject, rows, budget(None, rows.device))
    if output.dim() != 2 or output.shape[1] < 2:
        raise InputError("The 'model' must give scores (rows, classes)", got=f"shape {tuple(output.shape)}")
    return output.argmax(1).cpu()


def _labels(labels: Any, rows: int) -> Tensor:
    found = torch.as_tensor(labels).detach().cpu()
    if found.shape != (rows,) or found.is_floating_point():
        raise InputError(f"The 'labels' must be {rows} class numbers", got=f"{found.dtype}, shape {tuple(found.shape)}")
    return found.long()


def _rows(rows: Any, count: int) -> Tensor:
    found = torch.as_tensor(rows)
    if found.dim() != 1 or found.is_floating_point() or found.dtype == torch.bool or not len(found):
        raise InputError("The 'rows' must be a number, or the numbers of rows", got=repr(rows)[:80])
    if bool((found < 0).any()) or bool((found >= count).any()) or len(found.unique()) < len(found):
        raise InputError(f"The 'rows' must be different numbers from 0 to {count - 1}", got=str(found.tolist()[:8]))
    return found.long()
