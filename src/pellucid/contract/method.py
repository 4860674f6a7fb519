"""What a method is: a frozen, keyword-only dataclass with a card. Defining the class registers it."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from pellucid.contract.card import Card
from pellucid.contract.errors import MethodError

FOLDERS = (
    *("attribution", "semantics", "rules", "examples", "text", "intrinsic"),
    *("training", "theory", "debugging", "robustness", "fairness", "evaluation"),
)
_REGISTERED: dict[str, type[Method]] = {}


class Method(abc.ABC):
    """One way to explain. Its fields are its whole configuration; data comes with the call."""

    card: ClassVar[Card]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "card" in cls.__dict__:
            register(cls)

    def prepare(self, subject: Any, ask: Any) -> Any:
        """Fit what has to be fitted before any row is explained; the result can be cached and saved."""
        return None

    @abc.abstractmethod
    def explain(self, subject: Any, ask: Any, state: Any) -> Any:
        """Compute the explanation of the rows in `ask.inputs`."""

    @property
    def claims(self) -> tuple[str, ...]:
        """What this method claims with these settings; the card's claims, unless a setting takes one away."""
        return self.card.claims

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON data; a held method becomes {"method": name, ...}."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"method": self.card.name, **{k: _plain(v) for k, v in fields.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return value.config()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def register(cls: type[Method]) -> None:
    """Enter a method class in the catalogue; the same name twice is an error unless it is the same class reloaded."""
    cls.card.check()
    old = _REGISTERED.get(cls.card.name)
    if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
        raise MethodError(f"Two methods are called {cls.card.name!r}", got=f"{old.__qualname__} and {cls.__qualname__}")
    _REGISTERED[cls.card.name] = cls


def gather(package: str, path: list[str], into: dict[str, Any]) -> list[str]:
    """Import every module of a folder and lift its public methods, so that a new file needs no list to be edited."""
    names = []
    for module_info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{module_info.name}")
        for name in getattr(module, "__all__", ()):
            into[name] = getattr(module, name)
            names.append(name)
    return sorted(names)


def registered() -> Mapping[str, type[Method]]:
    """Every method of Pellucid, of installed plug-ins and of the caller, by name. Imports all folders."""
    for folder in FOLDERS:
        if importlib.util.find_spec(f"pellucid.{folder}") is not None:
            importlib.import_module(f"pellucid.{folder}")
    _plug_in()
    return _REGISTERED


@functools.cache
def _plug_in() -> None:
    """Import what installed packages announce under the entry point group "pellucid.methods"; one that fails is named."""
    for point in importlib.metadata.entry_points(group="pellucid.methods"):
        try:
            point.load()
        except Exception as error:  # another's package must not take the catalogue down
            said = f"The plug-in {point.name!r} ({point.value}) was left out: {type(error).__name__}: {error}"
            warnings.warn(said, RuntimeWarning, stacklevel=3)


def by_name(name: str) -> type[Method]:
    """The method class of a catalogue name; an unknown one lists the nearest."""
    known = _REGISTERED if name in _REGISTERED else registered()
    if name not in known:
        covered = {c: n for n, m in known.items() for c in m.card.covers}
        if name in covered:
            return known[covered[name]]
        near = difflib.get_close_matches(str(name), [*known, *covered], 3, 0.4)
        hint = f"one of {', '.join(map(repr, near))}" if near else "`pellucid methods` for the list"
        raise MethodError("The 'method' must be the name of a method in the catalogue", got=repr(name), hint=hint)
    return known[name]


def as_method(value: Any) -> Method:
    """A method value from a value, a catalogue name, a class or a configuration."""
    if isinstance(value, Method):
        return value
    if isinstance(value, type) and issubclass(value, Method):
        return value()
    if isinstance(value, str):
        return by_name(value)()
    if isinstance(value, Mapping) and isinstance(value.get("method"), str):
        return from_config(value)
    raise MethodError(
        "The 'method' must be a method value or a catalogue name",
        got=type(value).__name__,
        hint="'integrated-gradients' or IntegratedGradients(tolerance=0.01)",
    )


def from_config(config: Mapping[str, Any]) -> Method:
    """The method that `config()` described; an unknown setting is an error."""
    cls = by_name(config["method"])
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    settings = {k: v for k, v in config.items() if k != "method"}
    if unknown := sorted(set(settings) - known):
        raise MethodError(f"The settings of {config['method']!r} must be among {sorted(known)}", got=str(unknown))
    return cls(**{k: _value(v) for k, v in settings.items()})


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and "method" in value:
        return from_config(value)
    return tuple(_value(v) for v in value) if isinstance(value, list) else value
