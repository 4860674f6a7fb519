"""The one verb: check everything that can be checked, guard the model, compute, check the result, stamp its source."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import pellucid
from pellucid.contract.card import Card
from pellucid.contract.errors import InputError, ModelCallError, NeedError, PellucidError
from pellucid.contract.explanation import Attribution, Context, Explanation, tensors
from pellucid.contract.method import Method, as_method
from pellucid.engine import batch, guard, needs
from pellucid.engine.ask import Ask
from pellucid.engine.inputs import Inputs, as_inputs
from pellucid.engine.place import parse
from pellucid.engine.subject import Subject, as_subject
from pellucid.engine.target import as_target, unit

COMPLAINTS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)


def explain(
    model: Any,
    inputs: Any,
    method: Method | str = "integrated-gradients",
    *,
    target: Any = None,
    layer: str | None = None,
    data: Any = None,
    seed: int = 0,
    memory: int | str | None = None,
    progress: Any = False,
) -> Any:
    """Explain a model's answers for some inputs, in whichever form the method gives.

    Args:
        model: an `nn.Module` in evaluation mode, a `Subject`, or, for methods that need predictions alone, any callable
            from inputs to scores (N, classes).
        inputs: (N, ...) tensor, or a tuple or dict of them. Floating tensors are explained, others go along.
        method: a method value such as `IntegratedGradients(tolerance=0.01)`, or its catalogue name.
        target: what is explained. `None`: each row's predicted class; an int; (N,) ints; a function from the output to
            (N,) scores; or `px.unit(place, index)` for a hidden unit.
        layer: explain a place inside the model instead of the input: "layer4", "layer4:in", "relu#2".
        data: what the method learns from: background rows, (X, y), a Dataset or DataLoader.
        seed: random draws depend on (seed, row) alone, never on batch or chunk.
        memory: bytes the call may use, or text such as "1GiB".
        progress: `True` shows a bar in a terminal for what takes longer than two seconds; a function gets
            (done, total, label).

    Returns:
        One of the six forms, with measured `facts` per row and its `source`.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2, bias=False).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "gradient-x-input", target=1)
        >>> torch.allclose(result.values.sum(), net(torch.ones(1, 3))[0, 1])
        True
    """
    method = as_method(method)
    subject = as_subject(model)
    ask = question(subject, inputs, method.card, target, layer, data, seed, memory, progress)
    with asking(subject, ask):
        return answer(subject, ask, method, layer)


@contextlib.contextmanager
def asking(subject: Subject, ask: Ask) -> Iterator[None]:
    """The model as it has to be while it is asked, and as it was afterwards."""
    with guard.untouched(subject.module), torch.inference_mode(False):
        module, ask.model_hash = subject.module, subject.state_hash()
        if module is not None and module.training | any(m.training for m in module.modules()):
            module.eval()
        yield


def answer(subject: Subject, ask: Ask, method: Method, layer: str | None) -> Any:
    """One method's answer, checked and stamped; inside `asking`."""
    started = time.perf_counter()
    try:
        state = method.prepare(subject, ask)
        result = method.explain(subject, ask, state)
    except PellucidError:
        raise
    except Exception as error:
        _blame_inputs(error, subject, ask)
        error.add_note(f"while explaining {type(subject.module or subject.model).__name__} by {method.card.name}")
        raise
    return stamp(result, subject, ask, method, layer, time.perf_counter() - started)


def _blame_inputs(error: Exception, subject: Subject, ask: Ask) -> None:
    """Say so where the model can't take the inputs at all; errors of the model's own kinds come through as they are."""
    if type(error) not in COMPLAINTS or batch.out_of_memory(error):
        return
    try:
        with torch.no_grad():
            subject.raw(ask.inputs.take(torch.zeros(1, dtype=torch.long)))
    except Exception as again:
        if type(again) in COMPLAINTS:  # a fused path may complain in another way
            raise ModelCallError(
                f"The 'inputs' must be what the model takes, and it raised {type(error).__name__}: {error}",
                got=_shape(ask.inputs),
                hint="inputs on which model(inputs) works; Subject(model, call=...) where it is called in another way",
            ) from error


def question(
    subject: Subject,
    inputs: Any,
    card: Card | None,
    target: Any,
    layer: str | None,
    data: Any,
    seed: int,
    memory: Any,
    progress: Any,
) -> Ask:
    """Everything the caller said, checked before the model runs."""
    rows = as_inputs(inputs)
    if card is not None:
        needs.check(card, subject, rows, data, layer)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError("The 'seed' must be an int", got=repr(seed))
    _same_kind(subject, rows)
    _names_fit(subject, rows)
    place = None if layer is None else parse(layer, _module(subject, "layer"))
    wanted = as_target(target, rows.rows, len(subject.classes) or None)
    if isinstance(wanted, unit):
        parse(wanted.place, _module(subject, "target"))
    return Ask(
        subject=subject,
        inputs=rows,
        wanted=wanted,
        layer=place,
        data=data,
        seed=seed,
        memory=batch.budget(memory, rows.device),
        progress=batch.Progress(progress),
    )


def _module(subject: Subject, argument: str) -> torch.nn.Module:
    if subject.module is None:
        raise NeedError(f"The '{argument}' names a place, so the 'model' must be a torch module", got="a callable")
    return subject.module


def _same_kind(subject: Subject, rows: Inputs) -> None:
    """Inputs and model must share device and floating type."""
    first = next(iter(subject.module.parameters()), None) if subject.module is not None else None
    if first is None or subject.preprocess is not None or subject.call is not None:
        return
    if first.device != rows.device:
        raise InputError(f"The 'inputs' must be on {first.device}, like the model", got=str(rows.device), hint="x.to()")
    kinds = {p.dtype for p in subject.module.parameters() if p.is_floating_point()}  # type: ignore[union-attr]
    wrong = [x.dtype for x in rows.floats if x.dtype not in kinds]
    if wrong and kinds and not torch.is_autocast_enabled(rows.device.type):
        kind = str(next(iter(kinds)))
        raise InputError(f"The 'inputs' must be {kind}, like the model", got=str(wrong[0]), hint=f"x.to({kind})")


def _names_fit(subject: Subject, rows: Inputs) -> None:
    """Names of features must be those of the columns (or of another axis), or they would be dropped or misplaced."""
    names, shape = subject.features, tuple(rows.tensors[0].shape[1:])
    if names and rows.single and rows.explained and shape and len(names) not in shape:
        raise InputError(
            f"The 'features' of the Subject must name the input's {shape[0]} columns", got=f"{len(names)} names"
        )


def stamp(result: Any, subject: Subject, ask: Ask, method: Method, layer: str | None, seconds: float) -> Any:
    """The result with its source and context, after its form was checked."""
    card = method.card
    if not isinstance(result, Explanation) or result.form != card.form:
        raise TypeError(f"{card.name} must return the form {card.form!r}, and returned {type(result).__name__}")
    for name, fact in result.facts.items():
        if not isinstance(fact, Tensor) or fact.dim() != 1:
            raise TypeError(f"fact {name!r} of {card.name} must be one figure per row, a tensor (N,)")
    changes: dict[str, Any] = {}
    lost: list[int] = []
    if isinstance(result, Attribution):
        if any(v.requires_grad for v in tensors(result.values)):
            raise TypeError(f"{card.name} returned values that are still in a graph")
        lost = sorted({row for v in tensors(result.values) for row in _lost(v)})
        if result.target is None and ask.explained_class is not None:
            changes["target"] = ask.explained_class.clone()
    context = (
        result.context
        if result.context.inputs is not None
        else Context(
            inputs=ask.inputs.wrap_all(), output=ask.output, classes=subject.classes, features=subject.features
        )
    )
    return result.replace(
        facts={k: v.detach().cpu() for k, v in result.facts.items()},
        source={
            **source(subject, ask, method.config(), layer, seconds),
            **result.source,
            **({"rows_without_values": lost} if lost else {}),
        },
        context=context,
        **changes,
    )


def _lost(values: Tensor) -> list[int]:
    """The rows that have values which are not finite, as where the model gave no finite answer to some question."""
    return (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[:, 0].tolist() if values.numel() else []


def source(subject: Subject, ask: Ask, config: Mapping[str, Any], layer: str | None, seconds: float) -> dict[str, Any]:
    """Where a result comes from: method and settings (`config`), question, versions, hashes, time."""
    module = subject.module
    wanted = ask.wanted.tolist() if isinstance(ask.wanted, Tensor) else ask.wanted
    return {
        "method": config["method"],
        "settings": {k: v if not callable(v) else repr(v) for k, v in config.items() if k != "method"},
        "target": wanted if isinstance(wanted, list) or wanted is None else repr(wanted),
        "layer": layer,
        "seed": ask.seed,
        "memory": ask.memory,
        "model": type(module or subject.model).__name__,
        "model_hash": ask.model_hash,
        "input_hash": ask.inputs.fingerprint(),
        "path": ask.path,
        "rows": ask.inputs.rows,
        "dtype": str(ask.inputs.dtype).removeprefix("torch."),
        "device": ask.inputs.device.type,
        "versions": {
            "pellucid": pellucid.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "seconds": seconds,
    }


def _shape(rows: Inputs) -> str:
    return ", ".join(f"shape {tuple(x.shape)}" for x in rows.tensors)
