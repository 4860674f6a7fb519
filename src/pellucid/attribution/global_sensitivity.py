"""How steep is the score along each column, over a whole table, and how does one column bend what another does?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, batch, gradient
from pellucid.engine.ask import shape_key
from pellucid.engine.curvature import bend
from pellucid.engine.sample import Sample, put, sample

__all__ = ["GlobalSensitivity"]

UNITS = ("column", "deviation")


@dataclass(frozen=True, kw_only=True)
class GlobalSensitivity(Method):
    """Which columns is the score most sensitive to, over all of the data, and which pairs act together?

    ``values[j] = mean_i (dS/dx_j at row i)² / Σ_k mean_i (dS/dx_k at row i)²`` over the rows i of ``data``: shares from 0
    to 1 that sum to one, without a sign; all 0 where the score is flat. For a linear score they are w_j² / Σ w_k². All
    rows of one score share them. `error` is the standard error over the data's rows. ``parts``, with ``_error``:
    ``mean_square`` (rows, columns), the figure before it is a share, in squared score units per squared input unit;
    ``slope``, the mean derivative with its sign; ``pair`` (rows, columns, columns), the mean square of the second
    derivative: 0 for columns that merely add up; its diagonal tells how much a column's own effect bends.

    A column of few values, such as a flag, has no small changes: for ``categories`` the derivative is replaced by the
    change of the score from the row's value to each of the other values that the column has in the data; ``mean_square``
    is the mean over these, and ``slope`` 0, for their sign says nothing. Such a share is per change of category.

    Facts: ``score``; ``standard_error``, the largest.

    Args:
        per: the unit of a column: "column", as it comes, which suits columns of one scale; or "deviation", its standard
            deviation in the data.
        interactions: measure ``pair`` too; not with ``categories``, which have no second derivative.
        categories: columns that are few-valued, by number.

    Cost: a forward and a backward a data row; with interactions, one more backward pass of twice the size for each
    column; a forward a row for each value of a category.
    Known failure: slopes off the data, and changes larger than small ones, aren't looked at: a step that few rows lie on
    counts little, saturation hides what matters. Networks of rectifiers are flat pieces, of second derivative 0: ``pair``
    needs smooth activations.
    Source: Horel, Mison, Xiong, Giesecke & Mangu 2018; the standard errors, the signed slope and the unit "deviation" are
    ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(2, 1, bias=False).eval()
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -3.0]]))
        >>> table = torch.arange(8.0).reshape(4, 2)
        >>> px.explain(net, table[:1], "gradient-sensitivity-global", data=table).values[0].round(decimals=4).tolist()
        [0.10000000149011612, 0.8999999761581421]
    """

    per: str = "column"
    interactions: bool = True
    categories: tuple[int, ...] = ()

    card: ClassVar[Card] = Card(
        name="gradient-sensitivity-global",
        title="Global gradient sensitivity",
        question="Which columns is the score most sensitive to, over all of the data, and which pairs act together?",
        form="attribution",
        scope="global",
        citation="horel2018sensitivity",
        needs=("gradient", "table", "data"),
        data_types=("table",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/global",
        },
        claims=("rowwise", "deterministic", "dummy", "symmetric", "implementation invariant", "spelling invariant"),
        cost="1 forward, 1 backward a data row; with interactions, 2 × columns backwards more",
        supports=("how steep the score is along each column at the rows of the data, with the error of the sample",),
        limits=(
            "what a large change of a column does",
            "interactions of networks of rectifiers, whose second derivatives are 0",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple(c for c in self.card.claims if c != "symmetric" or (self.per == "column" and not self.categories))

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check(ask)
        about = sample(ask)
        scale = _deviation(about) if self.per == "deviation" else torch.ones(about.table.shape[1], dtype=torch.float64)
        kept: dict[str, list[Tensor]] = {}
        for number in range(about.kinds):
            slopes, curves = self._derivatives(about, number)
            slopes = slopes * scale
            figures = _shares(about, slopes**2 + self._changes(about, number))
            figures["slope"], figures["slope_error"] = _mean(about, slopes)
            if curves is not None:
                figures["pair"], figures["pair_error"] = _mean(about, (curves * scale * scale[:, None]) ** 2)
            for name, figure in figures.items():
                kept.setdefault(name, []).append(figure)
        parts = {name: torch.stack(figures)[about.kind] for name, figures in kept.items()}
        values, error = parts.pop("values"), parts.pop("error")
        facts = {"score": ask.score.detach().cpu(), "standard_error": error.amax(1)}
        return Attribution(values=values.to(about.table), error=error.to(about.table), parts=parts, facts=facts)

    def _check(self, ask: Ask) -> None:
        if self.per not in UNITS:
            raise InputError(f"The 'per' must be one of {UNITS}", got=repr(self.per))
        if not isinstance(self.interactions, bool):
            raise InputError("The 'interactions' must be True or False", got=repr(self.interactions))
        columns = ask.inputs.tensors[0].shape[1]
        good = isinstance(self.categories, tuple) and all(type(j) is int and 0 <= j < columns for j in self.categories)
        if not good or len(set(self.categories)) < len(self.categories):
            raise InputError(
                f"The 'categories' must be a tuple of different column numbers below {columns}",
                got=repr(self.categories),
            )
        if self.categories and self.interactions:
            raise MethodError(
                "The 'interactions' need second derivatives, which 'categories' have not",
                got=f"categories={self.categories}",
                hint="interactions=False",
            )

    def _derivatives(self, about: Sample, number: int) -> tuple[Tensor, Tensor | None]:
        """The first (rows, columns) and second (rows, columns, columns) derivatives of one of the scores."""
        asked = _about(about, number)
        smooth = [j for j in range(about.table.shape[1]) if j not in self.categories]
        if not self.interactions:
            found = gradient.once(asked, self.card.title).grads[0].detach().cpu().double()
            first = torch.zeros_like(found)
            first[:, smooth] = found[:, smooth]
            return first, None
        parts: list[tuple[Tensor, Tensor]] = []

        def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
            here = bend(asked, start, stop, lambda target, output: target.score(output))
            unit = torch.eye(here.grads.shape[1], dtype=here.grads.dtype, device=here.grads.device)
            second = [here.product(row.expand_as(here.grads).contiguous()) for row in unit]
            return here.grads.cpu().double(), torch.stack(second, 1).cpu().double()

        batch.run(
            asked.inputs.rows,
            work,
            lambda start, stop, found: parts.append(found),
            memory=asked.memory,
            cost=(asked.subject.module, ("curvatures", str(asked.unit_place), shape_key(asked.inputs))),
            device=asked.inputs.device,
            progress=asked.progress,
            label=self.card.title,
        )
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _changes(self, about: Sample, number: int) -> Tensor:
        """The mean squared change of the score when a category changes, (rows, columns); 0 for other columns."""
        found = torch.zeros(about.table.shape, dtype=torch.float64)
        for j in self.categories:
            levels = about.table[:, j].unique()
            if len(levels) < 2:
                continue

            def points(rows: Tensor, steps: Tensor, j: int = j, levels: Tensor = levels) -> Tensor:
                return put(about.table, rows, [torch.full_like(rows, j)], [levels[steps.to(levels.device)]])

            scores = about.scores(len(levels), points, self.card.title)[:, :, number]
            own = (about.table[:, j : j + 1] == levels).double().cpu()  # which level is the row's
            before = (scores * own).sum(1, keepdim=True)
            found[:, j] = ((scores - before) ** 2).sum(1) / (len(levels) - 1)
        return found


def _about(about: Sample, number: int) -> Ask:
    """The question about the data's rows with one of the scores, settled anew on their own output."""
    index = about.ask.target.index
    wanted = about.ask.wanted if index is None else index[number].expand(about.rows).clone()
    return replace(about.ask, wanted=wanted, output=None, _target=None)


def _deviation(about: Sample) -> Tensor:
    table, weights = about.table.detach().cpu().double(), about.weights[:, None]
    return (weights * (table - (weights * table).sum(0)) ** 2).sum(0).sqrt()


def _mean(about: Sample, x: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of (rows, ...) over the data, and its standard error."""
    lost = float((about.weights**2).sum())
    centre = torch.tensordot(about.weights, x, dims=1)
    return centre, (torch.tensordot(about.weights, (x - centre) ** 2, dims=1) * lost / (1 - lost)).sqrt()


def _shares(about: Sample, squares: Tensor) -> dict[str, Tensor]:
    """Each column's share of the mean squares of (rows, columns), with standard errors of both."""
    mean, error = _mean(about, squares)
    total = mean.sum()
    if not total > 0:
        zero = torch.zeros_like(mean)
        return {"values": zero, "error": zero, "mean_square": zero, "mean_square_error": zero}
    share = mean / total
    # To first order, a row moves the share by what its square exceeds the share of its row's total.
    _, spread = _mean(about, (squares - share * squares.sum(1, keepdim=True)) / total)
    return {"values": share, "error": spread, "mean_square": mean, "mean_square_error": error}
