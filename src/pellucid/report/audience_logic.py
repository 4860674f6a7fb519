"""From a map to a sentence with if and then, and how often the network keeps to it. Which forms say more outright?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract import Attribution, Explanation, Rules
from pellucid.contract.errors import InputError, NeedError
from pellucid.engine import Subject, as_subject, predict
from pellucid.engine import seed as seeds
from pellucid.engine.batch import budget
from pellucid.engine.data import as_rows
from pellucid.engine.guard import untouched
from pellucid.engine.settings import whole
from pellucid.report.sections import Section
from pellucid.report.trust_calibration import wilson
from pellucid.show.answer import class_name
from pellucid.show.words import clean, counted, listed, number, percent

__all__ = ["Condition", "IfThen", "explicitness", "if_then"]

# From the least to the most explicit: what is left for the reader to infer, in the order of Zhang et al. 2021.
ORDER = ("examples", "attribution", "semantics", "rules")
QUARTERS = (0.25, 0.75)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A column lies from `low` to `high`, both included; `how` says it in a word."""

    column: int
    name: str
    low: float
    high: float
    how: str = ""

    def holds(self, rows: Tensor) -> Tensor:
        """For which rows (N, columns) it holds, (N,)."""
        values = rows[:, self.column].double()
        return (values >= self.low) & (values <= self.high)

    def text(self) -> str:
        """The condition in words."""
        name, low, high = clean(self.name, 80), number(self.low, 4), number(self.high, 4)
        if self.low == self.high:
            bounds = f"exactly {low}"
        elif math.isinf(self.high):
            bounds = f"at least {low}"
        elif math.isinf(self.low):
            bounds = f"at most {high}"
        else:
            bounds = f"from {low} to {high}"
        return f"{name} is {self.how} ({bounds})" if self.how else f"{name} is {bounds}"


@dataclass(frozen=True, kw_only=True)
class IfThen:
    """A rule made from an explanation of one row, measured on the network.

    `precision` is the share of data rows that fit the conditions and get this answer, with a 95 % interval; `covered` of
    `rows` fit. The rows were not used to choose the conditions. Without a row that fits, it is NaN.
    """

    conditions: tuple[Condition, ...]
    answer: int
    answer_name: str
    although: tuple[str, ...]
    precision: float
    low: float
    high: float
    covered: int
    rows: int
    method: str

    def holds(self, rows: Tensor) -> Tensor:
        """Which rows (N, columns) fit all conditions, (N,)."""
        found = torch.ones(len(rows), dtype=torch.bool)
        for condition in self.conditions:
            found &= condition.holds(rows).cpu()
        return found

    def sentence(self) -> str:
        """The rule, and how often the network keeps to it."""
        tests = listed([c.text() for c in self.conditions])
        name = clean(self.answer_name, 80)
        told = f"If {tests}, the network says “{name}”." if tests else f"In every case, the network says “{name}”."
        if self.although:
            told += f" In this case it does although {listed([clean(n, 80) for n in self.although])} spoke against it."
        if not self.covered:
            return told + " No other known case fits, so whether it holds could not be checked."
        share = "of known cases" if not tests else "of the known cases that fit"
        return (
            f"{told} That was so in {percent(self.precision)} {share}, {counted(self.covered, 'case')} of "
            f"{self.rows:,} (between {percent(self.low)} and {percent(self.high)} of all such cases)."
        )

    def section(self, heading: str = "As a rule") -> Section:
        """The rule for `pellucid.report.page`."""
        return Section(heading=heading, parts=[self.sentence()])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; bounds that are open are left out."""
        bounds = [{k: v for k, v in (("low", c.low), ("high", c.high)) if math.isfinite(v)} for c in self.conditions]
        tests = [{"column": c.column, "name": c.name, **b} for c, b in zip(self.conditions, bounds, strict=True)]
        told = {k: getattr(self, k) for k in ("answer", "answer_name", "low", "high", "covered", "rows", "method")}
        precision = None if math.isnan(self.precision) else self.precision
        return {
            "if": tests,
            "then": told.pop("answer"),
            "although": list(self.although),
            "precision": precision,
            **told,
        }


def explicitness(result: Explanation | str) -> int:
    """How explicit a form of explanation is: 1 examples, 2 attribution, 3 hidden semantics, 4 rules; 0 for the others.

    An example leaves it to the reader to find what it shares with the case; a map says what mattered, not how; the meaning
    of hidden parts says what is computed; a rule says it outright. Source: Zhang, Tiňo, Leonardis & Tang 2021, §II.

    Example:
        >>> from pellucid.report import explicitness
        >>> explicitness("examples") < explicitness("attribution") < explicitness("semantics") < explicitness("rules")
        True
    """
    form = result if isinstance(result, str) else result.form
    return ORDER.index(form) + 1 if form in ORDER else 0


def if_then(
    model: Any, result: Explanation, data: Any, *, row: int = 0, most: int = 3, precision: float = 0.95, seed: int = 0
) -> IfThen:
    """A sentence with if and then, made from an explanation of one row, with its precision on the network.

    Of a map of a table's columns, those that speak most for the answer become conditions, one after the other: is the value
    among the highest or lowest quarter of the data, or between? As many as it takes (``most`` at most) until on one half of
    the data at least ``precision`` of the rows that fit get the same answer. The other half, which chose nothing, measures
    the rule. Of rules, those that the row itself meets are taken.

    Args:
        model: what was explained.
        result: an attribution of a table, or rules that are a tree.
        data: rows of the network's table; no labels are needed, since the network's own answers are asked for.
        row: which row of the result.
        most: conditions at most.
        precision: enough, so that no more conditions are added.
        seed: of the halves.

    Cost: one forward per row of data. Known failure: columns that matter by acting together may need more conditions; where
    few rows fit, the interval says so.
    Source: Pedreschi et al. 2019 (explanations as logic); Zhang et al. 2021 for the order of explicitness.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(2, 2).eval()
        >>> net.weight.data, net.bias.data = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2)
        >>> X = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([[1.0, -1.0]])
        >>> found = px.explain(net, X[-1:], "gradient-x-input")
        >>> px.report.if_then(net, found, X).sentence()[:30]
        'If column 1 is high (at least '
    """
    whole(row=(row, 0), most=(most, 1))
    if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 < precision <= 1:
        raise InputError("The 'precision' must be a share above 0, at most 1", got=repr(precision))
    subject, known = as_subject(model), as_rows(data).inputs
    x = known.tensors[0]
    if not known.single or x.dim() != 2 or not x.is_floating_point():
        raise InputError("The 'data' must be a table (rows, columns)", got=f"shape {tuple(x.shape)}")
    with untouched(subject.module):
        output = predict(subject, known, budget(None, known.device))
    if output.dim() != 2 or output.shape[1] < 2:
        raise InputError("The 'model' must give scores (rows, classes)", got=f"shape {tuple(output.shape)}")
    said, table = output.argmax(1).cpu(), x.detach().cpu()
    order = torch.from_numpy(seeds.generator(seed, b"if then", 0).permutation(len(table)))
    choose, judge = order[: len(order) // 2], order[len(order) // 2 :]
    if isinstance(result, Attribution):
        answer, wanted, against = _from_map(subject, result, row, table[choose], most)
    elif isinstance(result, Rules):
        answer, wanted, against = _from_rules(subject, result, row)
        precision = math.inf  # a rule is taken as a whole
    else:
        raise NeedError(
            "Only maps and rules can be written with if and then", got=result.form, hint="an attribution or rules"
        )
    return _measured(subject, result, answer, wanted, against, (table, said, choose, judge), precision)


def _measured(
    subject: Subject,
    result: Explanation,
    answer: int,
    wanted: list[Condition],
    against: tuple[str, ...],
    known: tuple[Tensor, Tensor, Tensor, Tensor],
    enough: float,
) -> IfThen:
    table, said, choose, judge = known
    kept: list[Condition] = []
    fits = torch.ones(len(table), dtype=torch.bool)
    for condition in wanted:
        inside = fits[choose]
        if enough <= 1 and bool(inside.any()) and float((said[choose] == answer)[inside].double().mean()) >= enough:
            break
        kept.append(condition)
        fits &= condition.holds(table)
    here = fits[judge]
    covered, hits = int(here.sum()), int((said[judge][here] == answer).sum())
    share = hits / covered if covered else math.nan
    low, high = wilson(share, covered) if covered else (0.0, 1.0)
    return IfThen(
        conditions=tuple(kept),
        answer=answer,
        answer_name=class_name(answer, subject.classes),
        although=against,
        precision=share,
        low=low,
        high=high,
        covered=covered,
        rows=len(judge),
        method=str(result.source.get("method", "")),
    )


def _from_map(
    subject: Subject, result: Attribution, row: int, table: Tensor, most: int
) -> tuple[int, list[Condition], tuple[str, ...]]:
    """The answer, the conditions by how much their columns speak for it, and the columns that speak most against it."""
    values, inputs = result.values, result.context.inputs
    if not isinstance(values, Tensor) or values.dim() != 2 or not isinstance(inputs, Tensor) or inputs.dim() != 2:
        raise InputError(
            "The attribution must be of a table's columns", got="another", hint="rules for pictures and texts"
        )
    if values.shape[1] != table.shape[1] or result.target is None or row >= len(values):
        got = f"row {row} of {tuple(values.shape)}, {table.shape[1]} columns in the data"
        raise InputError("The 'result' must explain a class of this row, of a table like the data", got=got)
    figures, own = values[row].double(), inputs[row].detach().cpu().double()
    order = figures.argsort(descending=True, stable=True).tolist()
    chosen = [c for c in order if figures[c] > 0][:most]
    if not chosen:
        raise InputError("No column of the map speaks for the answer, so there is nothing to write", got=f"row {row}")
    wanted = [_condition(c, _name(subject, c), float(own[c]), table[:, c].double().numpy()) for c in chosen]
    largest = float(figures.max())
    against = [c for c in reversed(order) if figures[c] < -0.5 * abs(largest)][:2]
    return int(result.target[row]), wanted, tuple(_name(subject, c) for c in against)


def _condition(column: int, name: str, value: float, known: NDArray[np.float64]) -> Condition:
    """Where the row's value stands among the data's: lowest or highest quarter, or between; equal values stay together."""
    low, high = (float(v) for v in np.quantile(known, QUARTERS, method="inverted_cdf"))
    if value >= high > low or value > high:
        return Condition(
            column=column, name=name, low=min(high, value) if high > low else value, high=math.inf, how="high"
        )
    if value <= low < high or value < low:
        return Condition(
            column=column, name=name, low=-math.inf, high=max(low, value) if high > low else value, how="low"
        )
    return Condition(column=column, name=name, low=low, high=high, how="usual")


def _from_rules(subject: Subject, result: Rules, row: int) -> tuple[int, list[Condition], tuple[str, ...]]:
    inputs, rules = result.context.inputs, getattr(result.structure, "rules", None)
    if rules is None or getattr(result.structure, "regression", True) or not isinstance(inputs, Tensor):
        raise NeedError("The rules must be a tree that gives classes", got=type(result.structure).__name__)
    if inputs.dim() != 2 or row >= len(inputs):
        raise InputError("The 'row' must be one of a table's", got=f"row {row} of shape {tuple(inputs.shape)}")
    own = inputs[row : row + 1].detach().cpu()
    for rule in rules():
        # A tree's lower bounds are excluded: the next number above stands for them.
        tests = [
            Condition(column=c, name=_name(subject, c), low=float(np.nextafter(low, math.inf)), high=high)
            for c, (low, high) in rule.bounds.items()
        ]
        if all(bool(t.holds(own).all()) for t in tests):
            return int(result.predict(own)[0]), tests, ()
    raise InputError("No rule of the tree fits the row", got=f"row {row}")


def _name(subject: Subject, column: int) -> str:
    return subject.features[column] if column < len(subject.features) else f"column {column + 1}"
