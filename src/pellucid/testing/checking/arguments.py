"""Wrong arguments: refused by our own error that names the argument and a remedy, before the model runs if it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pellucid.contract.errors import InputError, LayerError, PellucidError, TargetError
from pellucid.testing.case import DOUBLE, SINGLE, Case, CheckFailed, change, counted, demand, leaves, take
from pellucid.testing.checking.entry import check
from pellucid.testing.networks import CLASSES

ROWS = 4


def refuses(
    case: Case,
    what: str,
    kind: type[PellucidError],
    words: tuple[str, ...],
    rows: int = 0,
    inputs: Any = None,
    **changes: Any,
) -> None:
    """Fail unless this call raises `kind`, with all `words`, after at most `rows` rows went through the model."""
    model = case.model()
    inputs = case.inputs(ROWS) if inputs is None else inputs
    with counted(model) as watch:
        try:
            case.explain(model, inputs, **changes)
        except PellucidError as error:
            text = str(error)
            demand(isinstance(error, kind), f"{what}: {type(error).__name__} instead of {kind.__name__}: {text}")
            for word in words:
                demand(word in text, f"{what}: the message lacks {word!r}: {text}")
            demand(
                "Got " in text or "Try " in text, f"{what}: the message says neither what it got nor a remedy: {text}"
            )
        except Exception as error:
            raise CheckFailed(f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}") from error
        else:
            raise CheckFailed(f"{what}: accepted")
    demand(watch.rows <= rows, f"{what}: refused after {watch.rows} rows went through the model (at most {rows})")


@check("bad targets")
def bad_targets(case: Case) -> None:
    """A target that is out of range, too long, a fraction, a word or not one number per row is refused."""
    too_long = torch.zeros(ROWS + 1, dtype=torch.long)
    for what, target in (
        ("a fraction", 1.5),
        ("a word", "cat"),
        ("too many", too_long),
        ("floating numbers", torch.zeros(ROWS)),
        ("two per row", torch.zeros(ROWS, 2, dtype=torch.long)),
    ):
        refuses(case, f"target: {what}", TargetError, ("'target'", "Got"), target=target)
    for what, index in (("beyond the last class", CLASSES), ("before the first", -CLASSES - 1)):
        refuses(case, f"target: {what}", TargetError, ("'target'", str(index)), rows=case.passes(ROWS), target=index)
    whole: Callable[[torch.Tensor], torch.Tensor] = lambda output: output  # noqa: E731
    refuses(case, "target: not one number per row", TargetError, ("'target'",), rows=case.passes(ROWS), target=whole)


@check("bad layers")
def bad_layers(case: Case) -> None:
    """An unknown layer is refused before the model runs, and the nearest names are listed."""
    known = next(name for name, _ in _named(case) if name)
    refuses(case, "layer: misspelt", LayerError, ("'layer'", "Try", repr(known)), layer=known + "x")
    refuses(case, "layer: no such thing", LayerError, ("'layer'", "Try"), layer="no.such.place")


def _named(case: Case) -> Any:
    from pellucid.testing.case import module_of

    return module_of(case.model()).named_modules()


@check("bad inputs")
def bad_inputs(case: Case) -> None:
    """No rows, NaN, infinity, another type, another device or no tensor at all are refused before the model runs."""
    good = case.inputs(ROWS)
    other = DOUBLE if case.dtype == SINGLE else SINGLE
    refuses(case, "inputs: no rows", InputError, ("'inputs", "Got"), inputs=take(good, slice(0, 0)))
    refuses(case, "inputs: no tensor", InputError, ("'inputs'", "Got"), inputs="an image")
    for what, value in (("NaN", float("nan")), ("infinity", float("inf"))):
        bad = change(good, lambda x, value=value: _planted(x, value))  # type: ignore[misc]
        refuses(case, f"inputs: {what}", InputError, ("'inputs", "finite"), inputs=bad)
    refuses(case, "inputs: another type", InputError, ("'inputs'", "Try"), inputs=change(good, lambda x: x.to(other)))
    refuses(
        case, "inputs: another device", InputError, ("'inputs", "meta"), inputs=change(good, lambda x: x.to("meta"))
    )


def _planted(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[(0,) * x.dim()] = value
    return x


@check("bad shapes")
def bad_shapes(case: Case) -> None:
    """Inputs of a shape that the model, or the data, don't fit are refused by our error, which tells the shape."""
    wider = change(case.inputs(ROWS), lambda x: torch.cat([x, x], 1))
    if "data" in case.arguments():
        refuses(case, "inputs: too wide for the data", PellucidError, ("Got",), case.passes(ROWS), wider)
    else:
        words = ("'inputs'", str(tuple(leaves(wider)[0].shape)), "Try")
        refuses(case, "inputs: too wide", InputError, words, ROWS, wider)


@check("bad settings")
def bad_settings(case: Case) -> None:
    """A seed that is no whole number, or a memory budget that is no number of bytes, is refused before the model runs."""
    refuses(case, "seed: a fraction", InputError, ("'seed'", "Got"), seed=0.5)
    refuses(case, "seed: a word", InputError, ("'seed'", "Got"), seed="lucky")
    refuses(case, "memory: negative", InputError, ("'memory'", "Try"), memory=-1)
    refuses(case, "memory: a word", InputError, ("'memory'", "Try"), memory="lots")


def _lacks_data(card: Any) -> str:
    return "" if {"data", "labels", "masks"} & set(card.needs) else "not claimed: the method learns from no data"


@check("missing data", when=_lacks_data)
def missing_data(case: Case) -> None:
    """A method that learns from examples says so when none are given, before the model runs."""
    refuses(case, "data: none", PellucidError, ("data=",), data=None)
    if "labels" in case.card.needs:
        rows, _ = case.fixture.data(6, case.dtype)
        refuses(case, "data: no labels", PellucidError, ("labels",), data=rows)
