"""One method's column of a comparison: explained once within its time, and measured by every metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Attribution, Explanation, Method, tensors
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, fill, needs
from pellucid.engine.batch import Progress
from pellucid.engine.comparison import Column, Kept, key_of
from pellucid.engine.deadline import Expired, Watch, watching, within
from pellucid.engine.evaluation import OWN, Evaluation, Judged
from pellucid.evaluation.proxies import reason

__all__: list[str] = []

# A second run may take longer than the first; the budget that is named has so much to spare.
SPARE = 1.5


@dataclass(eq=False)
class Run:
    """All that is the same for every method of a comparison."""

    subject: Subject
    ask: Ask
    layer: str | None
    metrics: Mapping[str, Evaluation]
    kept: Kept | None
    budget: float | None
    memo: dict[bytes, Tensor] | None = field(default_factory=dict)

    def column(self, method: Method) -> Column:
        """One method, explained once and measured by every metric; from the folder where it is there."""
        if self.kept is None:
            return self._column(method)
        key = key_of(self.subject, self.ask, method, self.metrics)
        known = self.kept.read(key, self.budget)
        return self.kept.write(key, self._column(method), self.budget) if known is None else known

    def _column(self, method: Method) -> Column:
        column = Column(figures=torch.full((len(self.metrics), self.ask.inputs.rows), torch.nan, dtype=torch.float64))
        with watching(watch := within(self.budget)):
            try:
                judged = self._explained(method, watch, column)
                column.map = torch.cat([v.flatten(1) for v in tensors(judged.values)], 1).double().cpu()
            except Expired as late:
                column.refuse("", self._late(late.foretold), late=True)
            except Exception as error:  # one method must not take the others down
                column.refuse("", reason(error))
        column.explaining = watch.spent
        if column.map is None:
            return column
        for number, label in enumerate(self.metrics):
            self._measure(judged, number, label, column)
        bad = ~column.map.isfinite().all(1)
        column.figures[:, bad] = torch.nan  # what an explanation without values is worth, nothing can say
        return column

    def _explained(self, method: Method, watch: Watch, column: Column) -> Judged:
        """The method's explanation at the inputs, ready to be measured."""
        given = self.ask.data
        names = {OWN} | {name for metric in self.metrics.values() for name in metric.own}
        if isinstance(given, Mapping) and given and set(given) <= names:
            given = given.get(OWN)
        if not {"data", "labels"} & set(method.card.needs):
            given = None  # to methods that do not learn, data would be something else: a baseline, groups, an operator
        needs.check(method.card, self.subject, self.ask.inputs, given, self.layer)
        asked = replace(self.ask, data=given, progress=Progress(watch.tell))
        state = method.prepare(self.subject, asked)
        column.fitting = watch.spent
        result = fit(method.explain(self.subject, asked, state), asked)
        quiet = replace(asked, progress=Progress(), memo=self.memo)
        judged = Judged(method, self.subject, quiet, result, fit)
        judged.state, judged.seconds = state, watch.spent
        return judged

    def _measure(self, judged: Judged, number: int, label: str, column: Column) -> None:
        """One metric of the explanation, within its time."""
        metric = self.metrics[label]
        with watching(watch := within(self.budget)):
            try:
                own, _ = metric.split(self.ask.data)
                needs.check(metric.card, self.subject, self.ask.inputs, self.ask.data, self.layer)
                metric.check(self.ask, own)
                need = foretold(metric, judged, column)
                if self.budget is not None and need > self.budget:
                    raise Expired(need)
                asked = replace(self.ask, progress=Progress(watch.tell))
                result = dataclasses.replace(metric, of=judged.method).measure(self.subject, asked, judged)
                column.better[label] = result.better
                values = result.values.detach().cpu().double()
                column.figures[number] = (
                    values if values.dim() == 1 else values.flatten(1).mean(1) if values.dim() else values
                )
            except Expired as late:
                column.refuse(label, self._late(late.foretold), late=True)
            except Exception as error:
                column.refuse(label, reason(error))
        column.measuring[label] = watch.spent

    def _late(self, foretold: float | None) -> str:
        """Why something that takes long was left out, and the budget that includes it."""
        if foretold is None:
            return f"it takes more than {self.budget:g} s: a larger budget includes it"
        return f"it would take about {foretold:.2g} s: budget={rounded(SPARE * foretold):g} includes it"


def rounded(seconds: float) -> float:
    """Seconds, up to the next number of two digits."""
    unit = 10.0 ** (len(str(int(max(1.0, seconds)))) - 2)
    return round(math.ceil(round(seconds / unit, 6)) * unit, 6)


def foretold(metric: Evaluation, judged: Judged, column: Column) -> float:
    """Seconds that a metric takes at least, from how often it asks the method again and what that took."""
    again, fitted = metric.asks(judged)
    return again * (column.explaining - column.fitting) + fitted * column.fitting


def fit(found: Explanation, ask: Ask) -> Attribution:
    """The attribution with values shaped like what is explained, as every metric reads them."""
    if not isinstance(found, Attribution):
        raise MethodError("Only attributions can be compared", got=found.form)
    return found.replace(values=at_inputs(found.values, ask))


def at_inputs(values: Any, ask: Ask) -> Any:
    """The values in the inputs' shape: a map of a hidden layer is enlarged, and shared evenly among the channels."""
    found = tensors(values)
    held = ask.inputs.floats if ask.layer is None else fill.explained(ask).floats
    if [tuple(v.shape) for v in found] == [tuple(x.shape) for x in held]:
        return values
    if len(found) == len(held) == 1 and found[0].dim() == held[0].dim() == 4:
        heat = found[0].sum(1, keepdim=True)
        size = tuple(held[0].shape[2:])
        if tuple(heat.shape[2:]) != size:
            heat = functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)
        return (heat / held[0].shape[1]).expand(held[0].shape).contiguous()
    raise MethodError(
        "The explanation must be of what is explained, or a map over its places, to be compared",
        got=", ".join(str(tuple(v.shape)) for v in found),
    )
