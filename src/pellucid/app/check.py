"""`pellucid check`: which methods apply to a model, and which operations stand in the way of the others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

from pellucid.app import explain, inputs, models, terminal
from pellucid.contract.errors import InputError, PellucidError
from pellucid.contract.explanation import tensors
from pellucid.engine import as_subject, predict, rules
from pellucid.engine.batch import budget
from pellucid.engine.guard import untouched
from pellucid.engine.inputs import Inputs, as_inputs

TABLES = {
    "guided": rules.guided,
    "epsilon": rules.epsilon_lrp,
    "gradient": rules.gradient,
    "deconvnet": rules.deconvnet,
}


@dataclass(frozen=True)
class Finding:
    """One question about a model, answered: yes or no, and why."""

    question: str
    holds: bool
    why: str


def command(
    model: explain.Model,
    input: Annotated[
        str | None, Parameter(help="Rows to try; by default test:0, or noise of the model's size.")
    ] = None,
    /,
    *,
    rules: Annotated[Literal["guided", "epsilon", "gradient", "deconvnet"], Parameter(help="Rule table.")] = "epsilon",
    layer: Annotated[str | None, Parameter(help="Check down to a place, such as an embedding.")] = None,
    shape: Annotated[
        tuple[int, ...] | None,
        Parameter(consume_multiple=True, negative="", help="Shape of one row, where no rows are known: 3 224 224."),
    ] = None,
    loading: models.Wish = models.AS_IT_COMES,
) -> int:
    """Say which methods apply to a model, and what stands in the way of the others.

    The exit status is 0 if every operation has a rule, else 3.
    """
    loaded = models.load(model, dataclasses.replace(loading, blank=loading.weights is None))
    rows = as_inputs(usual_rows(input, shape, loaded))
    place = layer or loaded.embedding(rows.wrap_all())
    found = findings(loaded, rows, place)
    terminal.say(f"{terminal.clean(loaded.name)}\n")
    terminal.say(
        terminal.table(
            ("access", "", "why"), [(f.question, "yes" if f.holds else "no", f.why) for f in found], wrap=(2,)
        )
    )
    return 0 if loaded.subject.module is None else _operations(loaded, rows, rules, place)


def usual_rows(text: str | None, shape: tuple[int, ...] | None, loaded: models.Loaded) -> Any:
    """The rows that were asked for, or a row that the model surely takes."""
    if text is not None:
        return inputs.read(text, loaded).inputs
    if loaded.world is not None:
        return inputs.read("test:0", loaded).inputs
    if loaded.tokenizer is not None:
        return inputs.read("text:a few words to try", loaded).inputs
    size = shape or loaded.picture
    if size is None:
        raise InputError("The rows of this model are not known", got="no INPUT", hint="an INPUT, or --shape 3 224 224")
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


def findings(loaded: models.Loaded, rows: Inputs, place: str | None) -> list[Finding]:
    """Which kinds of access the model gives, each tried on the rows."""
    return [_try_predictions(loaded, rows), _try_gradients(loaded, rows, place), *_layers(loaded, rows)]


def _try_predictions(loaded: models.Loaded, rows: Inputs) -> Finding:
    try:
        with untouched(loaded.subject.module):
            output = predict(as_subject(loaded.subject), rows, budget(None, rows.device))
    except PellucidError as error:
        return Finding("predictions", False, str(error))
    return Finding("predictions", True, f"an output of shape {tuple(output.shape)}")


def _try_gradients(loaded: models.Loaded, rows: Inputs, place: str | None) -> Finding:
    import pellucid as px

    try:
        found = px.explain(loaded.subject, rows.wrap_all(), "vanilla-gradient", layer=place)
    except (PellucidError, RuntimeError) as error:
        return Finding("gradients", False, " ".join(str(error).split())[:200])
    zero = all(not bool(v.any()) for v in tensors(found.values))
    at = f"at {place!r}" if place else "at the inputs"
    return Finding("gradients", not zero, f"{at}{', but all are zero' if zero else ''}")


def _layers(loaded: models.Loaded, rows: Inputs) -> list[Finding]:
    """Whether hidden places can be read, and which of them suits class activation maps: the last with rows and columns."""
    module = loaded.subject.module
    if module is None:
        why = "the model is a plain function"
        return [Finding("layers", False, why), Finding("activation maps", False, why)]
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(part: Any, args: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor):
                seen[name] = tuple(out.shape)

        return hook

    with untouched(module), torch.no_grad():
        handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
        try:
            loaded.subject.raw(rows)
        finally:
            for handle in handles:
                handle.remove()
    spatial = [name for name, shape in seen.items() if len(shape) == 4 and shape[2] > 1 and shape[3] > 1]
    return [
        Finding(
            "layers",
            bool(seen),
            f"{len(seen)} places, such as {list(seen)[-1]!r}" if seen else "no submodule is called",
        ),
        Finding(
            "activation maps",
            bool(spatial),
            f"--layer {spatial[-1]}, of shape {seen[spatial[-1]][1:]}" if spatial else "no place has rows and columns",
        ),
    ]


def _operations(loaded: models.Loaded, rows: Inputs, name: str, place: str | None) -> int:
    """Print each operation with the rule it gets; 3 if one has none."""
    works = rules.available()
    if not works:
        terminal.say(f"\nBackward rules do not work with torch {torch.__version__}: {terminal.clean(works.reason)}")
        return 3
    subject, module = loaded.subject, loaded.subject.module
    given: Any = {**dict(zip(rows.names, rows.tensors, strict=True))} if rows.names else rows.tensors

    def forward(*parts: Any, **named: Any) -> torch.Tensor:
        now = Inputs(tuple(parts) or tuple(named.values()), rows.names, rows.single)
        return subject.select(subject.raw(now), now)

    assert module is not None
    with untouched(module), torch.enable_grad():
        found = rules.check(module, given, TABLES[name](), at=place, forward=forward)
    lines = [(r.operation, r.module, _short(r.line), r.rule or "none", r.problem) for r in found]
    terminal.say(f"\nOperations under the rules of {name!r}:")
    terminal.say(terminal.table(("operation", "module", "line", "rule", "problem"), lines, wrap=(4,)))
    problems = sum(bool(r.problem) for r in found)
    terminal.say(f"\n{len(found)} operation{'s' * (len(found) != 1)}, {problems or 'none'} without a rule")
    return 3 if problems else 0


def _short(line: str) -> str:
    """`…/zoo/vision.py:27` for a line of code: the last folder tells files apart well enough."""
    return "/".join(Path(line).parts[-2:])
