"""Which explanation of this model can be believed most? Several methods measured side by side, on the same rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Attribution, Measure, Method, as_method, registered, tensors
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.engine import Ask, Subject, answer, as_subject, needs
from pellucid.engine.comparison import Column, Kept, Table, key_of
from pellucid.engine.evaluation import OWN, Evaluation, Judged

__all__ = ["compare"]

# What a comparison measures unless it is told: faithfulness, stability, sanity, readability.
DEFAULT: dict[str, tuple[str, dict[str, Any]]] = {
    "deletion": ("insertion-deletion", {"way": "deletion"}),
    "insertion": ("insertion-deletion", {"way": "insertion"}),
    "sensitivity-n": ("sensitivity-n", {}),
    "max-sensitivity": ("max-sensitivity", {}),
    "randomisation": ("model-randomization-test", {"draws": 2}),
}


def compare(
    model: Any,
    inputs: Any,
    methods: Any = "all",
    metrics: Any = "default",
    *,
    target: Any = None,
    data: Any = None,
    seed: int = 0,
    memory: int | str | None = None,
    progress: Any = False,
    patience: float = 1.0,
    folder: str | Path | None = None,
) -> Measure:
    """Explain the same rows by several methods, and measure every explanation by several metrics.

    Each method explains once, and all metrics read that explanation. Maps of a hidden layer, as class activation maps are,
    are enlarged to the picture and spread over its channels before they are measured. What does not fit is listed with
    its reason, not dropped.

    Args:
        model, inputs, target, seed, memory: as for `px.explain`.
        methods: names, method values, or a dict from labels to them; "all": every attribution of rows in the catalogue.
        metrics: names or values of `pellucid.evaluation`, or a dict from labels to them; "default": a few of each kind.
        data: what methods that need examples learn from, the others get none; a dict in which "explanation" is that, and
            other names are the metrics' own.
        progress: `True` shows a bar in a terminal for what takes longer than two seconds.
        patience: metrics that ask a method many times more are left out, and listed, where explaining took longer than so
            many seconds.
        folder: keep every method's figures there as they are done; a call that is begun again takes them from there.

    Returns:
        A measure. `values` (methods, metrics) are means over the rows; `parts` hold ``rows`` (methods, metrics, rows),
        ``low`` and ``high`` (95 % intervals of the means, normal), ``rank`` (1 is best; NaN where nothing was measured)
        and ``agreement`` (methods, methods), the mean Spearman correlation of the maps' values over rows.
        ``source["comparison"]`` names methods, metrics, which way is better, what was refused and why, the rows without
        a figure, seconds per method, and the method whose median rank is best.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).double().eval()
        >>> found = px.compare(net, torch.ones(3, 4).double(), ["gradient-x-input", "feature-ablation"])
        >>> found.values.shape, round(float(found.parts["agreement"][0, 1]), 6)
        (torch.Size([2, 5]), 1.0)
    """
    subject = as_subject(model)
    chosen, measured = _methods(methods), _metrics(metrics)
    ask = answer.question(subject, inputs, None, target, None, data, seed, memory, progress)
    table = Table(list(chosen), measured, ask.inputs.rows)
    kept = None if folder is None else Kept(folder)
    with answer.asking(subject, ask), ask.progress.bar(len(chosen), "comparing") as tell:
        ask.target  # noqa: B018 - settled once for all methods
        for label, method in chosen.items():
            asked = replace(ask)
            table.add(label, _one(subject, asked, method, measured, kept, patience))
            tell(1)
    return table.measure(subject, ask)


def _one(
    subject: Subject, ask: Ask, method: Method, metrics: Mapping[str, Evaluation], kept: Kept | None, patience: float
) -> Column:
    """One method, explained once and measured by every metric."""
    key = "" if kept is None else key_of(subject, ask, method, metrics)
    if kept is not None and (known := kept.read(key)) is not None:
        return known
    started = time.perf_counter()
    figures = torch.full((len(metrics), ask.inputs.rows), torch.nan, dtype=torch.float64)
    refused: dict[str, str] = {}
    better: dict[str, str] = {}
    found: Tensor | None = None
    try:
        judged = _explained(subject, ask, method, metrics.values())
        found = torch.cat([v.flatten(1) for v in tensors(judged.values)], 1).double().cpu()
    except Exception as error:  # one method must not take the others down
        refused[""] = reason(error)
        column = Column(
            figures=figures, refused=refused, better=better, map=None, seconds=time.perf_counter() - started
        )
        return column if kept is None else kept.write(key, column)
    took = time.perf_counter() - started
    for number, (label, metric) in enumerate(metrics.items()):
        if metric.asks_again and took > patience:
            refused[label] = f"it asks the method many times more, which took {took:.1f} s: patience={took + 1:.0f}"
            continue
        try:
            own, _ = metric.split(ask.data)
            metric.check(ask, own)
            result = dataclasses.replace(metric, of=method).measure(subject, replace(ask), judged)
            better[label] = result.better
            values = result.values.detach().cpu().double()
            figures[number] = values if values.dim() == 1 else values.flatten(1).mean(1) if values.dim() else values
        except Exception as error:
            refused[label] = reason(error)
    figures[:, ~found.isfinite().all(1)] = torch.nan  # what an explanation without values is worth, nothing can say
    column = Column(figures=figures, refused=refused, better=better, map=found, seconds=time.perf_counter() - started)
    return column if kept is None else kept.write(key, column)


def _explained(subject: Subject, ask: Ask, method: Method, metrics: Iterable[Evaluation]) -> Judged:
    """The method's explanation at the inputs, ready to be measured."""
    given = ask.data
    names = {OWN} | {name for metric in metrics for name in metric.own}
    if isinstance(given, Mapping) and given and set(given) <= names:
        given = given.get(OWN)
    if not {"data", "labels"} & set(method.card.needs):
        given = None  # to methods that do not learn, data would be something else: a baseline, groups, an operator
    needs.check(method.card, subject, ask.inputs, given, None)
    asked = replace(ask, data=given)
    state = method.prepare(subject, asked)
    result = method.explain(subject, asked, state)
    if not isinstance(result, Attribution):
        raise MethodError("Only attributions can be compared", got=result.form)
    judged = Judged(method, subject, asked, result.replace(values=at_inputs(result.values, asked)))
    judged.state = state
    return judged


def at_inputs(values: Any, ask: Ask) -> Any:
    """The values in the inputs' shape: a map of a hidden layer is enlarged, and shared evenly among the channels."""
    found, held = tensors(values), ask.inputs.floats
    if [tuple(v.shape) for v in found] == [tuple(x.shape) for x in held]:
        return values
    if len(found) == len(held) == 1 and found[0].dim() == held[0].dim() == 4:
        heat = found[0].sum(1, keepdim=True)
        size = tuple(held[0].shape[2:])
        if tuple(heat.shape[2:]) != size:
            heat = functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)
        return (heat / held[0].shape[1]).expand(held[0].shape).contiguous()
    raise MethodError(
        "The explanation must be of the inputs, or a map over their places, to be compared",
        got=", ".join(str(tuple(v.shape)) for v in found),
    )


def reason(error: Exception) -> str:
    """Why something could not be done, in one line."""
    text = str(error).split("\n", 1)[0]
    return text if isinstance(error, PellucidError) else f"{type(error).__name__}: {text}"


def _methods(given: Any) -> dict[str, Method]:
    """The methods by label."""
    if isinstance(given, str) and given == "all":
        found = {
            name: cls()
            for name, cls in sorted(registered().items())
            if cls.__module__.startswith("pellucid.attribution") and cls.card.scope != "global"
        }
    else:
        found = _labelled(given, "methods")
    for label, method in found.items():
        if method.card.form != "attribution":
            raise MethodError("The 'methods' must give attributions", got=f"{label!r}, which gives {method.card.form}")
    return found


def _metrics(given: Any) -> dict[str, Evaluation]:
    """The metrics by label."""
    if isinstance(given, str) and given == "default":
        known = registered()
        found = {label: known[name](**settings) for label, (name, settings) in DEFAULT.items()}
    else:
        found = _labelled(given, "metrics")
    measured: dict[str, Evaluation] = {}
    for label, metric in found.items():
        if not isinstance(metric, Evaluation):
            raise MethodError(
                "The 'metrics' must be measurements of another method", got=repr(label), hint="those of px.evaluation"
            )
        if "attribution" not in metric.wants:
            raise MethodError(f"The metric {label!r} must measure attributions", got=" or ".join(metric.wants))
        measured[label] = metric
    return measured


def _labelled(given: Any, argument: str) -> dict[str, Method]:
    if isinstance(given, str | Method) or (isinstance(given, type) and issubclass(given, Method)):
        given = [given]
    if isinstance(given, Mapping) and "method" not in given:
        found = {str(label): as_method(value) for label, value in given.items()}
    elif isinstance(given, Sequence):
        found = {}
        for value in given:
            method = as_method(value)
            label, number = method.card.name, 2
            while label in found:
                label, number = f"{method.card.name} {number}", number + 1
            found[label] = method
    else:
        raise InputError(f"The '{argument}' must be names, methods or a dict of them", got=type(given).__name__)
    if not found:
        raise InputError(f"The '{argument}' must name at least one", got="none")
    return found
