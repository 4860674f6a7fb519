"""How does the answer change with one column, over a whole table? Partial dependence, and one curve per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.effect_curve import (
    TAXONOMY,
    Curves,
    Running,
    attribution,
    check_pairs,
    check_points,
    density,
    each,
    extrapolated,
    off_grid,
    standard,
)
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError
from pellucid.engine import Ask, Subject
from pellucid.engine.sample import Grid, Sample, grid, put, sample

__all__ = ["IndividualConditionalExpectation", "PartialDependence"]

VIEWS = ("plain", "centred", "derivative")
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class PartialDependence(Method):
    """How does the average answer change when one column is set to one value after another?

    ``PD_j(v) = mean over the data of S(row with column j set to v)``. ``parts["curve"]`` (rows, columns, points) is
    ``PD_j`` minus its own mean over the data, along ``parts["grid"]``: row n holds the curves of the score explained for
    row n. ``values[n, j]`` is the curve of column j read at the row's own value, in score units: positive means that
    this value raises the average answer above what the data's other values give. ``error`` and ``parts["curve_error"]``
    are standard errors over the data; ``parts["density"]`` is the share of the data that each grid point stands for.
    With ``pairs``, ``parts["surface"]`` (rows, pairs, points, points) holds what two columns do together beyond the sum
    of their curves, and ``parts["pairs"]`` their numbers.

    Facts: ``score``; ``baseline_score``, the mean over the data; ``additive_gap``, by how much mean and curves, added up,
    miss this row's score; ``additive_share``, the share of the scores' variance over the data that they reproduce;
    ``extrapolated``, the share of the rows asked that lie farther from the data than data lie from each other, also by
    column in ``parts``; ``grid_gap``, the error of reading between grid points; ``outside``, columns whose value lies
    beyond the data; ``sampling_error``. ``parts["interaction"]`` is the spread of the single rows' curves about the mean.

    Args:
        points: how many values of a column are tried at most; a column with fewer is tried at all of them.
        spacing: "quantile" takes them from the data by rank, "uniform" equally far apart.
        pairs: columns whose joint effect is drawn, as ((0, 1), (2, 5)).

    ``data`` is the sample, rows alone or ``{"rows": X, "weights": w}``. Cost: columns × points + 1 forwards per row of
    data, and points² for each pair.
    Known failure: where columns move together, rows are asked about that never occur; ``extrapolated`` says how many.
    Source: Friedman 2001, §8.2 (his equation 53).

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
        >>> result = px.explain(lambda x: 2 * x[:, :1] + x[:, 1:], data, "pdp", data=data)
        >>> result.values[:, 0].tolist()
        [-2.0, 0.0, 2.0]
    """

    points: int = 20
    spacing: str = "quantile"
    pairs: Pairs = ()

    card: ClassVar[Card] = Card(
        name="pdp",
        title="Partial dependence",
        question="How does the average answer change when this column is set to one value after another?",
        form="attribution",
        scope="global",
        citation="friedman2001greedy",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic", "linear", "implementation invariant", "spelling invariant", "score scale"),
        trial={"points": 5, "pairs": ((0, 2),)},
        cost="columns × points forwards per row of data",
        supports=("the average answer over the data really changes like this when this column alone is set",),
        limits=(
            "columns that move together: rows that never occur are asked about, and the answers there count",
            "single rows: the average hides that a column may raise some answers and lower others",
            "what would happen in the world if the column were changed: only the network is asked",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_points(self.points, self.spacing)
        check_pairs(self.pairs, ask)
        about = sample(ask)
        marks = grid(about.table, self.points, self.spacing)
        found = partial_dependence(about, marks, self.card.title)
        if self.pairs:
            found.parts["surface"] = _surfaces(about, marks, self.pairs, self.card.title)
            numbers = torch.tensor(self.pairs)
            found.parts["pairs"] = numbers.expand(about.kinds, *numbers.shape)
        return attribution(ask, about, found)


def partial_dependence(about: Sample, marks: Grid, label: str) -> Curves:
    """The centred mean curves of a sample, with their standard errors and the spread of the rows' own curves."""
    share, moved, misses, plain = density(about, marks), Running(), Running(), []

    def visit(rows: Tensor, curves: Tensor, scores: Tensor) -> None:
        weights = about.weights[rows]
        moved.add(weights, curves - torch.einsum("dg,bdgk->bdk", share, curves)[:, :, None])
        misses.add(weights, off_grid(about, marks, rows, curves, scores) ** 2)
        plain.append(scores)

    each(about, marks, visit, label)
    scores = torch.cat(plain)
    kinds_first = lambda x: x.movedim(-1, 0)  # noqa: E731
    interaction = torch.einsum("dg,dgk->kd", share, moved.variance).sqrt()
    beyond = extrapolated(about, marks).expand(about.kinds, -1)
    return Curves(
        grid=marks,
        curve=kinds_first(moved.mean),
        base=about.weights @ scores,
        plain=scores,
        error=kinds_first(standard(moved.variance, about.weights)),
        parts={"interaction": interaction, "extrapolated": beyond},
        facts={"extrapolated": beyond.mean(1), "grid_gap": misses.mean.sqrt().amax(0)},
    )


def _surfaces(about: Sample, marks: Grid, pairs: Pairs, label: str) -> Tensor:
    """What each pair does beyond the sum of its two curves, centred, (kinds, pairs, points, points)."""
    points, share = marks.points, density(about, marks)
    total, first = torch.zeros(len(pairs) * points**2, about.kinds, dtype=torch.float64), torch.tensor(pairs)

    def at(rows: Tensor, steps: Tensor) -> Tensor:
        pair, place = steps // points**2, steps % points**2
        one, other = first[pair, 0], first[pair, 1]
        values = [marks.values[one, place // points], marks.values[other, place % points]]
        return put(about.table, rows, [one, other], values)

    for rows, found in about.blocks(len(total), at, label):
        total += torch.tensordot(about.weights[rows], found, dims=1)
    flat = total.T.reshape(about.kinds, len(pairs), points, points)
    out = torch.empty_like(flat)
    for number, (one, other) in enumerate(pairs):
        here, a, b = flat[:, number], share[one], share[other]
        along_one, along_other = here @ b, torch.einsum("a,kab->kb", a, here)
        out[:, number] = here - along_one[:, :, None] - along_other[:, None] + (along_one @ a)[:, None, None]
    return out


@dataclass(frozen=True, kw_only=True)
class IndividualConditionalExpectation(Method):
    """How would the answer for this row change if one of its columns took other values?

    ``curve[n, j, g] = S(row n with column j set to grid value g)``, in ``parts["curve"]`` (rows, columns, points) along
    ``parts["grid"]``. ``values[n, j]``, in score units: the row's score minus the mean of its curve over the data's
    values of the column, positive where the row's own value raises the answer. ``parts["mean"]`` and
    ``parts["spread"]`` are mean and standard deviation of the data's curves: their mean is the partial dependence.

    ``view="centred"`` (c-ICE) subtracts each curve's value at the smallest grid value, and ``values`` are the score minus
    the score there. ``view="derivative"`` (d-ICE) gives slopes, by differences between grid points, in score units per
    unit of the column, and ``values`` are the slopes at the row's own value.

    Facts: ``score``; ``grid_gap``, by how much the row's curves, read at its own values, miss its score; ``outside``,
    columns whose value lies beyond the data. ``parts["interaction"]`` (rows, columns) says how far from parallel the
    data's curves are: the standard deviation of the centred ones about their mean, zero where the column acts alone.

    Args:
        view: "plain", "centred" or "derivative".
        points: how many values of a column are tried at most; a column with fewer is tried at all of them.
        spacing: "quantile" takes them from the data by rank, "uniform" equally far apart.

    Cost: columns × points + 1 forwards per row explained and per row of data.
    Known failure: as for partial dependence, a row with one column moved may be like nothing in the data.
    Source: Goldstein, Kapelner, Bleich & Pitkin 2015, §3 (ICE, §3.2 c-ICE, §3.3 d-ICE; they smooth before they take
    slopes, and anchor at the smallest or largest value).

    Example:
        >>> import torch, pellucid as px
        >>> data = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
        >>> result = px.explain(lambda x: x[:, :1] * x[:, 1:], data, "ice", data=data)
        >>> result.parts["curve"][1, 0].tolist()
        [0.0, 3.0, 6.0]
    """

    view: str = "plain"
    points: int = 20
    spacing: str = "quantile"

    card: ClassVar[Card] = Card(
        name="ice",
        title="Individual conditional expectation",
        question="How would the answer for this row change if one of its columns took other values?",
        form="attribution",
        scope="local",
        citation="goldstein2015peeking",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy={**TAXONOMY, "003": "passive/attribution/local"},
        claims=("rowwise", "deterministic", "linear", "implementation invariant", "spelling invariant", "score scale"),
        trial={"points": 5},
        cost="columns × points forwards per row explained and per row of data",
        supports=("the network's answer really follows this curve when this one column of the row is changed",),
        limits=(
            "columns that move together: a row with one of them changed may be like nothing in the data",
            "what would happen in the world if the column were changed: only the network is asked",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_points(self.points, self.spacing)
        if self.view not in VIEWS:
            raise InputError(f"The 'view' must be one of {VIEWS}", got=repr(self.view))
        about = sample(ask)
        marks = grid(about.table, self.points, self.spacing)
        share, seen, moved = density(about, marks), Running(), Running()

        def visit(rows: Tensor, curves: Tensor, scores: Tensor) -> None:
            weights = about.weights[rows]
            seen.add(weights, _viewed(curves, marks, self.view))
            moved.add(weights, curves - torch.einsum("dg,bdgk->bdk", share, curves)[:, :, None])

        each(about, marks, visit, self.card.title)
        own, own_scores, gaps = self._own(about.about(ask.inputs.tensors[0]), marks)
        kind, x = about.kind, ask.inputs.tensors[0]
        viewed = _viewed(own[..., None], marks, self.view)[..., 0]
        values = torch.einsum("dg,ndg->nd", share, own) if self.view == "plain" else own[:, :, 0]
        values = own_scores[:, None] - values
        if self.view == "derivative":
            read = [(marks.hats(j, x[:, j]) * viewed[:, j]).sum(1) for j in range(x.shape[1])]
            values = torch.stack(read, 1)
        spread = lambda part: part.expand(len(kind), *part.shape)  # noqa: E731
        parts = {
            "grid": spread(marks.values),
            "curve": viewed,
            "density": spread(share),
            "mean": seen.mean.movedim(-1, 0)[kind],
            "spread": seen.variance.sqrt().movedim(-1, 0)[kind],
            "interaction": torch.einsum("dg,dgk->kd", share, moved.variance).sqrt()[kind],
        }
        facts = {"score": own_scores, "grid_gap": gaps, "outside": marks.outside(x).double()}
        ask.path = about.ask.path
        return Attribution(values=values.to(x), parts=parts, facts=facts)

    def _own(self, rows: Sample, marks: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """The curves (rows, columns, points) of the rows that are explained, their scores, and how far both are apart."""
        curves, scores, gaps = [], [], []

        def visit(which: Tensor, found: Tensor, plain: Tensor) -> None:
            each_row, kind = torch.arange(len(which)), rows.kind[which]
            curves.append(found[each_row, :, :, kind])
            scores.append(plain[each_row, kind])
            gaps.append(off_grid(rows, marks, which, found, plain)[each_row, :, kind].abs().amax(1))

        each(rows, marks, visit, self.card.title)
        return torch.cat(curves), torch.cat(scores), torch.cat(gaps)


def _viewed(curves: Tensor, marks: Grid, view: str) -> Tensor:
    """Curves (rows, columns, points, kinds) as they are, from their first value on, or as slopes."""
    if view == "plain":
        return curves
    if view == "centred":
        return curves - curves[:, :, :1]
    out = torch.zeros_like(curves)
    for j, count in enumerate(marks.count.tolist()):
        if count > 1:
            slope = torch.gradient(curves[:, j, :count], spacing=(marks.values[j, :count],), dim=1)[0]
            out[:, j, :count], out[:, j, count:] = slope, slope[:, -1:]
    return out
