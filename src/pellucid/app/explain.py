"""`pellucid explain`: one method on some inputs; the options are the arguments of `px.explain` and the method's fields."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

import pellucid as px
from pellucid.app import fields, inputs, models, results, terminal
from pellucid.contract import Method
from pellucid.contract.method import by_name

DEFAULT = "integrated-gradients"
Model = Annotated[str, Parameter(help="zoo:…, torchvision:…, timm:…, hf:…, onnx:FILE, or package.module:factory.")]
Input = Annotated[
    str, Parameter(help="test:12, test:0-7, test:wrong, a picture, .npy, .npz, .safetensors, .csv, text:…")
]


@Parameter(name="*", group="Question", negative="")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `px.explain` that words can say."""

    target: Annotated[
        str | None, Parameter(help="Class to explain, by number or name. Without it, each row's predicted class.")
    ] = None
    layer: Annotated[str | None, Parameter(help="Explain a place inside the model, such as conv2.")] = None
    data: Annotated[
        str | None,
        Parameter(help="What the method learns from: train, test, or a file. `train` for models of the zoo."),
    ] = None
    seed: Annotated[int, Parameter(help="Random draws depend on it and on the row alone.")] = 0
    memory: Annotated[str | None, Parameter(help="Memory the call may use, such as 1GiB.")] = None


_PLAINLY = Asked()
_TAKEN = {f.name for kind in (Asked, results.Writing, models.Wish) for f in dataclasses.fields(kind)}
_TAKEN |= {"method", "model", "input", "asked", "writing", "loading"}


def for_arguments(arguments: Sequence[str]) -> Callable[..., int]:
    """The command for the method that the arguments ask for, so that --help shows what can be set."""
    name = DEFAULT
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--":
            break
        if word == "--method":
            name = following
        elif word.startswith("--method="):
            name = word.partition("=")[2]
    return _command(by_name(name))


def _command(chosen: type[Method]) -> Callable[..., int]:
    own = {_option(o.name): o for o in fields.options(chosen)}

    def command(
        model: str,
        input: str,
        *,
        method: str = DEFAULT,
        asked: Asked = _PLAINLY,
        loading: models.Wish = models.AS_IT_COMES,
        writing: results.Writing = results.NOWHERE,
        **words: Any,
    ) -> int:
        value = fields.build(chosen, {own[name].name: word for name, word in words.items()})
        return _run(model, input, value, asked, loading, writing)

    kind = inspect.Parameter
    parameters = [
        kind("model", kind.POSITIONAL_ONLY, annotation=Model),
        kind("input", kind.POSITIONAL_ONLY, annotation=Input),
        _keyword("method", str, DEFAULT, "Name of a method; `pellucid methods` lists them.", "Question"),
        kind("asked", kind.KEYWORD_ONLY, default=_PLAINLY, annotation=Asked),
        kind("loading", kind.KEYWORD_ONLY, default=models.AS_IT_COMES, annotation=models.Wish),
        kind("writing", kind.KEYWORD_ONLY, default=results.NOWHERE, annotation=results.Writing),
    ]
    title = f"Settings of {chosen.card.name}"
    parameters += [_keyword(name, o.kind, o.default, o.help, title) for name, o in own.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _option(name: str) -> str:
    """A field that has the name of an argument of the command is asked for as --method-name."""
    return f"method_{name}" if name in _TAKEN else name


def _keyword(name: str, kind: Any, default: Any, text: str, group: str) -> inspect.Parameter:
    how = Parameter(help=text.replace("``", "`"), group=group, negative="", consume_multiple=True)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, how])


def _run(name: str, text: str, method: Method, asked: Asked, loading: models.Wish, writing: results.Writing) -> int:
    writing.check()
    model = models.load(name, loading)
    rows = inputs.read(text, model)
    result = px.explain(
        model.subject,
        rows.inputs,
        method,
        target=inputs.target(asked.target, model),
        layer=asked.layer or model.embedding(rows.inputs),
        data=inputs.data(asked.data, model, learns=bool({"data", "labels"} & {*method.card.needs})),
        seed=asked.seed,
        memory=asked.memory,
        progress=True,
    )
    writing.write(result, rows)
    terminal.say(results.as_json(result, rows.names) if writing.json else results.summary(result, model, rows))
    return 0


command = _command(by_name(DEFAULT))
