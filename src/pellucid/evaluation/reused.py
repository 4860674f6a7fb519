"""An explanation kept for other rows or another model: is it still as true as it was where it was made?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Measure, Rules
from pellucid.contract.errors import InputError
from pellucid.engine.ask import predict
from pellucid.engine.batch import DEFAULT_CPU
from pellucid.engine.data import as_rows
from pellucid.engine.evaluation import wilson
from pellucid.engine.guard import untouched
from pellucid.engine.subject import as_subject

__all__ = ["reuse"]


def reuse(rules: Rules, model: Any, inputs: Any) -> Measure:
    """Do rules that were made earlier, perhaps for other rows or another model, still say what this model says here?

    Fidelity is measured anew: the share of rows for which rules and model name the same class, with Wilson's 95 %
    interval, and set beside what it was when the rules were made, on rows held out then (`rules.fidelity`).

    Args:
        rules: rules for classes, as a method gave them or as `px.load` read them.
        model: the model they are to be used for, any callable that gives scores (rows, classes).
        inputs: rows (rows, columns) from where they are to be used.

    Returns:
        `values` (1,), the fidelity here. Facts: ``low`` and ``high``, its interval; ``stated``, the fidelity then;
        ``drop``, stated minus found, with ``drop_low`` and ``drop_high`` (Newcombe's interval for a difference of two
        shares); ``risk``, 1 where the whole interval of the drop lies above 0, so that the rules are not to be relied
        on here; ``same_model``, 1 where model and weights are those the rules were made for.

    Cost: one forward per row.
    Source: Newcombe 1998, method 10, for the interval of the drop.

    Example:
        >>> import torch, pellucid as px
        >>> net, x = torch.nn.Linear(2, 2).eval(), torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
        >>> rules = px.explain(net, x, "cart-c45-surrogate", data=x)
        >>> px.evaluation.reuse(rules, net, x).facts["same_model"].item()
        1.0
    """
    if not isinstance(rules, Rules):
        raise InputError("The 'rules' must be a result of the form rules", got=type(rules).__name__)
    subject, rows = as_subject(model), as_rows(inputs).inputs
    if len(rows.tensors) != 1 or rows.tensors[0].dim() != 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in rows.tensors)
        raise InputError("The 'inputs' must be one table (rows, columns)", got=shapes)
    table = rows.tensors[0]
    with untouched(subject.module), torch.no_grad():
        output = predict(subject, rows, DEFAULT_CPU).reshape(len(table), -1)
    if output.shape[1] < 2:
        raise InputError("The 'model' must give scores of two classes or more", got=f"{output.shape[1]} score a row")
    same = rules.predict(table).long().cpu() == output.argmax(1).cpu()
    count, before = len(table), int(rules.source.get("rows_held_out", 0))
    low, high = wilson(same.sum(), count)
    found, stated = float(same.double().mean()), float(rules.fidelity)
    drop = stated - found
    under, over = _difference(stated, before, found, float(low), float(high))
    figures = {
        "low": float(low),
        "high": float(high),
        "stated": stated,
        "drop": drop,
        "drop_low": under,
        "drop_high": over,
        "risk": float(under > 0),
        "same_model": float(rules.source.get("model_hash") == subject.state_hash()),
    }
    return Measure(
        values=torch.tensor([found], dtype=torch.float64),
        better="higher",
        unit="share of rows",
        facts={name: torch.tensor([figure], dtype=torch.float64) for name, figure in figures.items()},
        source={"of": rules.source.get("method", ""), "rows": count, "rows_then": before},
    )


def _difference(stated: float, before: int, found: float, low: float, high: float) -> tuple[float, float]:
    """Newcombe's interval of stated - found; without the number of rows behind what was stated, it is taken as exact."""
    then: tuple[Tensor | float, Tensor | float] = (stated, stated)
    if before:
        then = wilson(torch.tensor(stated * before), before)
    gap = stated - found
    return (
        gap - math.hypot(stated - float(then[0]), high - found),
        gap + math.hypot(float(then[1]) - stated, found - low),
    )
