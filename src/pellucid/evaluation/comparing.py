"""Which explanation of this model can be believed most? Several methods measured side by side, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.contract import Measure, Method, as_method, registered
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import answer, as_subject
from pellucid.engine.comparison import Kept, Table
from pellucid.engine.deadline import Watched
from pellucid.engine.evaluation import Evaluation
from pellucid.engine.inputs import as_inputs
from pellucid.engine.place import embedding
from pellucid.evaluation import proxies
from pellucid.evaluation.comparing_column import Run

__all__ = ["compare"]

BUDGET = 10.0


def compare(
    model: Any,
    inputs: Any,
    methods: Any = "all",
    metrics: Any = "default",
    *,
    target: Any = None,
    layer: str | None = None,
    data: Any = None,
    seed: int = 0,
    memory: int | str | None = None,
    progress: Any = False,
    budget: float | None = BUDGET,
    folder: str | Path | None = None,
) -> Measure:
    """Explain the same rows by several methods, and measure every explanation by several metrics.

    Each method is fitted and asked once, and all metrics read that explanation; what they ask the model alike for every
    method, such as random subsets of the features, is asked once for all. Maps of a hidden layer, as class activation
    maps are, are enlarged to the picture and spread over its channels before they are measured. What does not fit, or
    would take too long, is listed with its reason, not dropped.

    Args:
        model, inputs, target, seed, memory: as for `px.explain`.
        methods: names, method values, or a dict from labels to them; "all": every attribution of rows in the catalogue.
        metrics: names or values of `pellucid.evaluation`, or a dict from labels to them; "default": the proxies of maps,
            `px.evaluation.PROXIES`: faithfulness, stability, sanity, simplicity.
        layer: explain and measure a place inside the model. Rows of tokens are explained at the embedding without it.
        data: what methods that need examples learn from, the others get none; a dict in which "explanation" is that, and
            other names are the metrics' own.
        progress: `True` shows a bar in a terminal for what takes longer than two seconds.
        budget: seconds that one method's explanation may take, and as many for each metric of it. What its progress shows
            to take longer is stopped soon, and listed with the budget that includes it. `None`: everything, however long.
        folder: keep every method's figures there as they are done; a call that is begun again, after Ctrl-C or with a
            larger budget, takes them from there.

    Returns:
        A measure. `values` (methods, metrics) are means over the rows; `parts` hold ``rows`` (methods, metrics, rows),
        ``low`` and ``high`` (95 % intervals of the means over rows, by Student's t), ``rank`` (1 is best; NaN where
        nothing was measured; all that pass a test of sanity share one), ``agreement`` (methods, methods), the mean
        Spearman correlation of the maps' values over rows, and ``metric_agreement`` (metrics, metrics), that of the
        methods' ranks: metrics that disagree are shown, and no figure is made of them all. ``source["comparison"]`` names
        methods, metrics, which way is better, what each metric costs and assumes, what was refused and why, the rows
        without a figure, seconds per method for explaining and measuring, and which method is ``recommended`` with the
        ``reason``: the best median rank by faithfulness and stability (``counted``) among those that have all these
        figures and whose figures of sanity, if any, are below the test's limit (``failed`` names the others). Simplicity
        has no say: a simple map may be wrong.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).double().eval()
        >>> found = px.compare(net, torch.ones(3, 4).double(), ["gradient-x-input", "feature-ablation"])
        >>> found.values.shape, round(float(found.parts["agreement"][0, 1]), 6)
        (torch.Size([2, 6]), 1.0)
    """
    given = budget
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | float) or not given > 0):
        raise InputError("The 'budget' must be a number of seconds above 0, or None", got=repr(given))
    subject, rows = Watched.of(as_subject(model)), as_inputs(inputs)
    chosen, measured = _methods(methods), _metrics(metrics)
    layer = layer if layer is not None or rows.explained else embedding(subject.module)
    ask = answer.question(subject, inputs, None, target, layer, data, seed, memory, progress)
    table = Table(list(chosen), measured, {k: _about(m) for k, m in measured.items()})
    run = Run(subject, ask, layer, measured, None if folder is None else Kept(folder), budget)
    with answer.asking(subject, ask), ask.progress.bar(len(chosen), "comparing") as tell:
        ask.target  # noqa: B018 - settled once for all methods
        for label, method in chosen.items():
            table.add(label, run.column(method))
            tell(1)
    return table.measure(subject, ask, layer)


def _about(metric: Evaluation) -> dict[str, str]:
    """What a metric costs and assumes: as its proxy says, else as its card does."""
    for proxy in proxies.PROXIES.values():
        if proxy.metric == metric.card.name and all(getattr(metric, k) == v for k, v in proxy.settings.items()):
            return proxy.as_dict()
    limits = "; ".join(metric.card.limits)
    return {
        "quality": metric.quality,
        "cost": metric.card.cost,
        "assumption": f"can't tell: {limits}",
        "metric": metric.card.name,
    }


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
        found = proxies.default()
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
