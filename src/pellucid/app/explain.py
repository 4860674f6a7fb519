"""`pellucid explain`: one method on some inputs; the options are the arguments of `px.explain` and the method's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

import pellucid as px
from pellucid.app import fields, inputs, models, results, terminal
from pellucid.contract import Method
from pellucid.contract.errors import TargetError
from pellucid.contract.method import by_name

DEFAULT = "integrated-gradients"
Model = Annotated[str, Parameter(help="zoo:…, torchvision:…, timm:…, hf:…, onnx:FILE, or package.module:factory.")]
Input = Annotated[
    str, Parameter(help="test:12, test:0-7, test:wrong, a picture, .npy, .npz, .safetensors, .csv, text:…")
]
_LOADING: dict[str, tuple[Any, Any, str]] = {
    "weights": (Path | None, None, "File of weights: .safetensors, or a .pt that holds tensors alone."),
    "trust_pickle": (str | None, None, "SHA-256 of a .pt whose code may run. Anything in it can then run as you."),
    "allow_code": (bool, False, "Import package.module:factory, which runs its code."),
    "path": (Path | None, None, "Folder in which to look for that module."),
    "download": (bool, False, "Fetch published weights that are not in the cache."),
}
_ASKING: dict[str, tuple[Any, Any, str]] = {
    "target": (str | None, None, "Class to explain, by number or name. Without it, each row's predicted class."),
    "layer": (str | None, None, "Explain a place inside the model, such as conv2."),
    "data": (str | None, None, "What the method learns from: train, test, or a file. `train` for models of the zoo."),
    "seed": (int, 0, "Random draws depend on it and on the row alone."),
    "memory": (str | None, None, "Memory the call may use, such as 1GiB."),
}
_WRITING: dict[str, tuple[Any, Any, str]] = {
    "save": (Path | None, None, "Write the result as .safetensors, for px.load."),
    "html": (Path | None, None, "Write a page."),
    "png": (Path | None, None, "Write a figure."),
    "csv": (Path | None, None, "Write the values as a table: one line per row."),
    "json": (bool, False, "Print facts and settings as JSON."),
    "force": (bool, False, "Overwrite existing files."),
}


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


def _command(method: type[Method]) -> Callable[..., int]:
    own = {_option(o.name): o for o in fields.options(method)}

    def command(model: str, input: str, **words: Any) -> int:
        settings = {own[k].name: v for k, v in words.items() if k in own}
        asked = {k: words.get(k, how[1]) for k, how in {**_LOADING, **_ASKING, **_WRITING}.items()}
        return _run(model, input, fields.build(method, settings), asked)

    kind = inspect.Parameter
    parameters = [
        kind("model", kind.POSITIONAL_ONLY, annotation=Model),
        kind("input", kind.POSITIONAL_ONLY, annotation=Input),
        _keyword("method", str, DEFAULT, "Name of a method; `pellucid methods` lists them.", "Question"),
    ]
    for group, words in (("Question", _ASKING), ("Model", _LOADING), ("Results", _WRITING)):
        parameters += [_keyword(name, *how, group) for name, how in words.items()]
    title = f"Settings of {method.card.name}"
    parameters += [_keyword(name, o.kind, o.default, o.help, title) for name, o in own.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = (
        f"{method.card.title}: {method.card.question}\n\nAnswers a question about a model and some inputs."
    )
    return command


def loading(**words: Any) -> models.Wish:
    """How to load a model, from the options that all commands share."""
    file = words.get("weights")
    return models.Wish(
        file=None if file is None else str(file),
        trust=words.get("trust_pickle"),
        allow_code=words.get("allow_code", False),
        path=None if words.get("path") is None else str(words["path"]),
        download=words.get("download", False),
    )


def _option(name: str) -> str:
    """A field that has the name of an argument of the command is asked for as --method-name."""
    return f"method_{name}" if name in {*_LOADING, *_ASKING, *_WRITING, "method", "model", "input"} else name


def _keyword(name: str, kind: Any, default: Any, text: str, group: str) -> inspect.Parameter:
    how = Parameter(help=text.replace("``", "`"), group=group, negative="", consume_multiple=True)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, how])


def _run(name: str, text: str, method: Method, words: dict[str, Any]) -> int:
    outputs = [words[k] for k in ("save", "html", "png", "csv") if words[k] is not None]
    for path in outputs:
        results.free(path, words["force"])
    model = models.load(name, loading(**words))
    rows = inputs.read(text, model)
    data = words["data"] or ("train" if model.world is not None and {"data", "labels"} & {*method.card.needs} else None)
    result = px.explain(
        model.subject,
        rows.inputs,
        method,
        target=_target(words["target"], model.subject.classes),
        layer=words["layer"] or model.embedding(rows.inputs),
        data=None if data is None else inputs.data(data, model),
        seed=words["seed"],
        memory=words["memory"],
        progress=True,
    )
    results.write(result, rows, words)
    if words["json"]:
        terminal.say(results.as_json(result, rows.names))
    else:
        results.show(result, model, rows)
    return 0


def _target(text: str | None, classes: Sequence[str]) -> int | None:
    if text is None:
        return None
    if text in classes:
        return list(classes).index(text)
    try:
        return int(text)
    except ValueError:
        known = ", ".join(classes[:8]) or "the number of a class"
        raise TargetError("The --target must be a class of the model", got=repr(text), hint=known) from None


command = _command(by_name(DEFAULT))
