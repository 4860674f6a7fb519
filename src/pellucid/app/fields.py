"""Options out of a method's fields, so that a method says once what can be set."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.contract import Method, as_method

_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Option:
    """One setting of a method: the field, its type as far as a word can express it, its default, what it does."""

    name: str
    kind: Any
    default: Any
    help: str


def options(method: type[Method]) -> list[Option]:
    """The fields that words on a command line can set."""
    helps, kinds = _helps(method), typing.get_type_hints(method)
    found = []
    for field in dataclasses.fields(method):  # type: ignore[arg-type]
        kind = _speakable(kinds[field.name])
        if kind is not None:
            default = field.default
            if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            shown = default.card.name if isinstance(default, Method) else default
            found.append(Option(field.name, kind, shown, helps.get(field.name, "")))
    return found


def build(method: type[Method], settings: Mapping[str, Any]) -> Method:
    """The method with these settings; where a field holds a method alone, its name is enough.

    The name of a field's default method means that default, with its settings.
    """
    kinds = typing.get_type_hints(method)
    usual = {f.name: f.default for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    values = {}
    for name, value in settings.items():
        held = usual.get(name)
        if isinstance(held, Method) and value == held.card.name:
            values[name] = held
            continue
        named = isinstance(value, str) and _holds_method(kinds[name]) and str not in _members(kinds[name])
        values[name] = as_method(value) if named else value
    return method(**values)


def _helps(method: type[Method]) -> dict[str, str]:
    """What the docstring's `Args:` says of each field."""
    text = inspect.cleandoc(method.__doc__ or "")
    part = re.search(r"^Args:\n((?:    .*\n?|\n(?=    ))+)", text, flags=re.MULTILINE)
    found = re.findall(r"^    (\w+): ((?:.*\n?)(?:     +.*\n?)*)", part[1] if part else "", flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _holds_method(kind: Any) -> bool:
    return any(isinstance(k, type) and issubclass(k, Method) for k in _members(kind))


def _speakable(kind: Any) -> Any:
    """The part of a type that words can express: numbers, switches, text, names of methods, and tuples of them."""
    kept = []
    for k in _members(kind):
        plain = k in _PLAIN or k is type(None) or typing.get_origin(k) is typing.Literal
        sequence = typing.get_origin(k) is tuple and all(a in (*_PLAIN, Ellipsis) for a in typing.get_args(k))
        if plain or sequence:
            kept.append(k)
        elif isinstance(k, type) and issubclass(k, Method):
            kept.append(str)
    if not set(kept) - {type(None)}:
        return None
    kept.sort(key=lambda k: k is str)  # any word is text, so text is tried last
    return typing.Union[tuple(dict.fromkeys(kept))]  # noqa: UP007 - the members are known only now
