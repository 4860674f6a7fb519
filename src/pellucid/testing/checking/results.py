"""What a result must be, whatever the method: of the right form, finite, the same for a row alone, the same again."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution, Explanation, Method, from_config
from pellucid.contract.errors import MemoryBudgetError, PellucidError
from pellucid.contract.storage import load
from pellucid.engine import Subject
from pellucid.testing.case import (
    DOUBLE,
    SINGLE,
    Case,
    CheckFailed,
    Refused,
    agree,
    change,
    contents,
    counted,
    demand,
    gap,
    identical,
    leaves,
    module_of,
    per_row,
    take,
)
from pellucid.testing.checking.entry import check, needs_module
from pellucid.testing.enlist import enlisted
from pellucid.testing.snapshot import Snapshot

ROWS = 4
SOURCE = ("method", "settings", "seed", "versions", "model_hash", "input_hash", "seconds", "target", "layer", "dtype")


@check("answers", everywhere=True)
def answers(case: Case) -> None:
    """A call gives a result of the card's form, or refuses by a typed error before work, and only where it may."""
    model, inputs = case.model(), case.inputs(ROWS)
    with counted(model) as watch:
        before = Snapshot.of(model, inputs)
        try:
            result = case.explain(model, inputs)
        except Exception as error:
            refusal = _cause(error, case.allowed())
            if refusal is None:
                raise CheckFailed(f"raised {type(error).__name__}: {error}") from error
            most = case.passes(ROWS)
            demand(watch.rows <= most, f"refused after {watch.rows} rows went through the model (at most {most})")
            changed = before.difference(Snapshot.of(model, inputs))
            demand(not changed, f"the refusal left a trace:\n{changed}")
            raise Refused(refusal) from error
    demand(case.fixture.expect == "works", f"must be refused by {getattr(case.fixture.expect, '__name__', '')}")
    demand(isinstance(result, Explanation) and result.form == case.card.form, f"gave {type(result).__name__}")


def _cause(error: BaseException | None, allowed: tuple[type[Exception], ...]) -> Any:
    """The expected error, itself or what it was raised from."""
    while error is not None:
        if allowed and isinstance(error, allowed):
            return error
        error = error.__cause__
    return None


@check("well formed", everywhere=True)
def well_formed(case: Case) -> None:
    """Values are finite, detached, of the type of the input and the shape of the explained place."""
    model, inputs = case.model(), case.inputs(ROWS)
    result = case.explain(model, inputs)
    for name, x in contents(result).items():
        if isinstance(x, Tensor):
            demand(not x.requires_grad, f"{name} is still in a graph")
            demand(not x.is_inference(), f"{name} is an inference tensor, which can't be used in a graph")
            demand(not x.is_floating_point() or torch.isfinite(x).all(), f"{name} is not finite")
    if not isinstance(result, Attribution):
        for name, x in per_row(result).items():
            demand(x.shape[:1] in ((ROWS,), (1,)) or case.card.scope == "global", f"{name} has shape {tuple(x.shape)}")
        return
    expected = _places(case, model, inputs)
    found = _parts(result.values)
    demand(len(found) == len(expected), f"{len(found)} tensors of values for {len(expected)} explained ones")
    for value, (shape, dtype) in zip(found, expected, strict=True):
        demand(value.dtype == dtype, f"values are {value.dtype} for inputs of {dtype}")
        demand(_fits(tuple(value.shape), shape, inputs), f"values have shape {tuple(value.shape)} for {shape}")
    if result.target is not None:
        demand(result.target.shape == (ROWS,), f"target has shape {tuple(result.target.shape)}")


def _parts(values: Any) -> list[Tensor]:
    return leaves(values)


def _places(case: Case, model: Any, inputs: Any) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of what is explained: the floating inputs, or the layer as a hook sees it."""
    if case.layer is None:
        return [(tuple(x.shape), x.dtype) for x in leaves(inputs) if x.is_floating_point()]
    seen: list[Tensor] = []
    module = module_of(model)
    handle = module.get_submodule(case.layer).register_forward_hook(lambda part, args, out: seen.append(out))
    try:
        answer(model, inputs)
    finally:
        handle.remove()
    return [(tuple(seen[0].shape), seen[0].dtype)]


def answer(model: Any, inputs: Any) -> Any:
    """What the model returns for inputs in any structure."""
    inner = model.model if isinstance(model, Subject) else model
    if isinstance(model, Subject) and model.preprocess is not None:
        inputs = model.preprocess(inputs)
    with torch.no_grad():
        if isinstance(inputs, dict):
            return inner(**inputs)
        return inner(*inputs) if isinstance(inputs, tuple) else inner(inputs)


def _fits(shape: tuple[int, ...], place: tuple[int, ...], inputs: Any) -> bool:
    """Whether values have the place's shape, or the place's with one channel, or the image's, also with one."""
    if len(shape) == len(place) and all(a in (b, 1) for a, b in zip(shape[1:], place[1:], strict=True)):
        return shape[0] == place[0]
    images = [tuple(x.shape) for x in leaves(inputs) if x.dim() == 4]
    return any(shape in (image, (image[0], 1, *image[2:])) for image in images)


@check("facts", everywhere=True)
def facts(case: Case) -> None:
    """Every fact is one finite figure per row."""
    result = case.explain(case.model(), case.inputs(ROWS))
    for name, x in result.facts.items():
        allowed = ((ROWS,), (1,)) if case.card.scope == "global" else ((ROWS,),)
        demand(isinstance(x, Tensor) and tuple(x.shape) in allowed, f"fact {name!r} is not one figure per row")
        demand(torch.isfinite(x.double()).all(), f"fact {name!r} is not finite: {x.tolist()}")


@check("source")
def source(case: Case) -> None:
    """The source tells method, settings, seed, versions, hashes of model and input, and the seconds taken."""
    model, inputs = case.model(), case.inputs(ROWS)
    first = case.explain(model, inputs, seed=3).source
    for key in SOURCE:
        demand(key in first, f"the source has no {key!r}")
    demand(first["method"] == case.card.name and first["seed"] == 3, "the source names another method or seed")
    demand(first["seconds"] >= 0 and first["versions"].get("torch"), "the source has no seconds or versions")
    with torch.no_grad():
        for x in module_of(model).parameters():
            x.mul_(1.001)
    second = case.explain(model, case.inputs(ROWS - 1), seed=3).source
    demand(first["model_hash"] != second["model_hash"], "the model's hash does not follow its weights")
    demand(first["input_hash"] != second["input_hash"], "the input's hash does not follow the rows")


@check("rowwise", claim="rowwise", everywhere=True)
def rowwise(case: Case) -> None:
    """A row's result is the same alone, in a batch and in another order."""
    model, inputs = case.model(DOUBLE), case.inputs(ROWS, DOUBLE)

    def ask(rows: Any, **changes: Any) -> dict[str, Tensor]:
        return per_row(case.explain(model, rows, dtype=DOUBLE, **changes))

    whole = ask(inputs)
    for i in range(ROWS):
        alone = ask(take(inputs, slice(i, i + 1)))
        agree({k: v[i : i + 1] for k, v in whole.items()}, alone, 1e-10, f"row {i} in a batch and alone")
    agree({k: v.flip(0) for k, v in whole.items()}, ask(take(inputs, [3, 2, 1, 0])), 1e-10, "the batch reversed")


@check("chunks", claim="rowwise", everywhere=True)
def chunks(case: Case) -> None:
    """The result is the same in chunks of any size: under the smallest memory budget that works, and under more."""
    model, inputs = case.model(DOUBLE), case.inputs(2, DOUBLE)
    whole = per_row(case.explain(model, inputs, dtype=DOUBLE))
    for memory in _small_budgets(case, model, inputs):
        found = per_row(case.explain(model, inputs, dtype=DOUBLE, memory=memory))
        agree(whole, found, 1e-10, f"memory={memory}")


def _small_budgets(case: Case, model: Any, inputs: Any) -> list[int]:
    """The smallest budget under which the call works, by doubling, and one four times as large."""
    size = 1 << 10
    while size < 1 << 30:
        try:
            case.explain(model, inputs, dtype=DOUBLE, memory=size)
            return [size, 4 * size]
        except MemoryBudgetError:
            size *= 2
    return []


@check("reproducible", everywhere=True)
def reproducible(case: Case) -> None:
    """The same seed gives the same bits; another seed gives other values, or the same where the card claims no draws."""
    model, inputs = case.model(), case.inputs(ROWS)
    torch.manual_seed(1)
    first = case.explain(model, inputs, seed=5)
    torch.manual_seed(2)
    demand(identical(first, case.explain(case.model(), inputs, seed=5)), "the same seed gives another result")
    demand(
        identical(first, case.explain(model, inputs, seed=5)), "the same seed gives another result at the second call"
    )
    other = case.explain(model, inputs, seed=6)
    if "deterministic" in case.card.claims:
        demand(identical(first, other), "the result depends on the seed, and the card claims no random draws")
    elif "seeded" in case.card.claims and case.card.form == "attribution":
        demand(not identical(first, other), "seeds 5 and 6 give the same result, and the card claims random draws")


@check("seed used", claim="seeded")
def seed_used(case: Case) -> None:
    """Among a few seeds at least one gives another result."""
    model, inputs = case.model(), case.inputs(ROWS)
    first = case.explain(model, inputs, seed=0)
    others = (case.explain(model, inputs, seed=seed) for seed in (1, 2, 3, -1, 2**40))
    demand(any(not identical(first, other) for other in others), "every seed gives the same result")


@check("precision", everywhere=True)
def precision(case: Case) -> None:
    """Single precision agrees with double precision, as well as plain differentiation of the model does."""
    inputs = case.inputs(ROWS, SINGLE)
    if SINGLE not in [x.dtype for x in leaves(inputs)]:
        return
    single = case.explain(case.model(SINGLE), inputs, dtype=SINGLE)
    double = case.explain(case.model(DOUBLE), change(inputs, lambda x: x.double()), dtype=DOUBLE)
    if not isinstance(single, Attribution):
        return
    allowed = 20 * _plain_error(case, inputs) + 2e-5
    for a, b in zip(_parts(single.values), _parts(double.values), strict=True):
        demand(b.dtype == DOUBLE, f"values are {b.dtype} for inputs of torch.float64")
        demand(gap(a, b) <= allowed, f"single precision is off by {gap(a, b):.1e} (at most {allowed:.1e})")


def _plain_error(case: Case, inputs: Any) -> float:
    """The error of the model's plain gradient in single precision."""
    found = []
    for dtype in (SINGLE, DOUBLE):
        xs = [x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in leaves(inputs)]
        model = case.model(dtype)
        subject = model if isinstance(model, Subject) else Subject(model)
        subject.module.requires_grad_(False)  # type: ignore[union-attr]
        given = [x.clone() for x in xs]  # the model may write to them
        out = subject.model(*given) if subject.preprocess is None else subject.model(subject.preprocess(given[0]))
        score = (out if isinstance(out, Tensor) else leaves(vars(out) if hasattr(out, "__dict__") else out)[0]).sum()
        found.append(torch.autograd.grad(score, [x for x in xs if x.is_floating_point()]))
    return max(gap(a, b) for a, b in zip(*found, strict=True))


@check("persistent")
def persistent(case: Case) -> None:
    """The method pickles and survives JSON, and its result can be saved and loaded, all without a change."""
    method = case.method
    pickle.dumps(method)  # raises where the class can't be found again by its name
    demand(copy.deepcopy(method) == method, "the method changes when it is taken apart and put together")
    with enlisted(type(method)):
        again = from_config(json.loads(json.dumps(method.config(), allow_nan=False)))
    demand(isinstance(again, Method) and again == method, "the method changes on its way through JSON")
    result = case.explain(case.model(), case.inputs(ROWS))
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(result.save(Path(folder) / "result.safetensors", inputs=True))
    demand(type(loaded) is type(result), f"loading gives {type(loaded).__name__}")
    agree(contents(result), contents(loaded), 0.0, "saved and loaded")
    demand(json.dumps(result.source) == json.dumps(loaded.source), "the source changes when it is saved")


@check("predictions alone")
def predictions_alone(case: Case) -> None:
    """A plain callable, also one that returns an array, is accepted where predictions suffice and refused where not."""
    model, inputs = case.model(), case.inputs(ROWS)
    scores = [lambda *xs: answer(model, xs if len(xs) > 1 else xs[0]), lambda *xs: answer(model, xs[0]).numpy()]
    for form, score in zip(("tensor", "array"), scores, strict=True):
        try:
            result = case.explain(score, inputs, **({"layer": None} if case.layer is not None else {}))
        except PellucidError as error:
            demand(needs_module(case.card), f"a callable returning a {form} is refused: {error}")
            demand(type(error).__name__ == "NeedError", f"a callable must be refused by NeedError, not {error!r}")
            continue
        demand(not needs_module(case.card), "a plain callable must be refused: there are no gradients or layers in it")
        direct = case.explain(model, inputs)
        agree(per_row(direct), per_row(result), 1e-5, f"a callable returning a {form}, and the module")
