"""What a zoo model is made from: an architecture, data, a few settings and the score it has to reach."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from pellucid import worlds
from pellucid.contract.errors import MethodError
from pellucid.worlds import World

Architecture = TypeVar("Architecture", bound=Callable[[], nn.Module])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a zoo model's weights; equal recipes train to the same model.

    ``data`` names a function of ``pellucid.worlds`` and ``data_settings`` its arguments. ``target`` is the
    held-out accuracy (R² for regression) that training has to reach. ``layer`` is the place whose activations
    suit class activation maps, ``None`` where the input has no spatial axes. Raise ``version`` after a change
    of the architecture that parameter names and shapes do not show.
    """

    name: str
    architecture: Callable[[], nn.Module]
    data: str
    data_settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0
    target: float
    layer: str | None = None
    version: int = 1

    def world(self) -> World:
        """The data the model is trained and tested on."""
        return self._make_world(dict(self.data_settings))

    def probe(self) -> World:
        """A small part of the data that changes whenever the data does.

        Rows of planted worlds depend on the seed and the row alone, so sixteen rows stand for all of them;
        that spares a cache hit from drawing thousands of images.
        """
        settings = dict(self.data_settings)
        return self._make_world(settings | {"n": 16} if "n" in settings else settings)

    def hash(self) -> str:
        """Sixteen hexadecimal digits over the settings, the data, the parameters' shapes and torch's version."""
        settings = {key: value for key, value in vars(self).items() if key not in ("architecture", "data_settings")}
        settings["data_settings"] = dict(self.data_settings)
        settings["data_hash"] = self.probe().fingerprint()
        settings["torch"] = ".".join(torch.__version__.split(".")[:2])
        with torch.device("meta"):  # shapes only: draws no random number and fills no memory
            settings["shapes"] = {key: list(value.shape) for key, value in self.architecture().state_dict().items()}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def _make_world(self, settings: Mapping[str, Any]) -> World:
        world: World = getattr(worlds, self.data)(**settings)
        return world


_RECIPES: dict[str, Recipe] = {}


def recipe(name: str, **settings: Any) -> Callable[[Architecture], Architecture]:
    """Register the decorated class or factory under ``name``; the settings are the fields of ``Recipe``.

    One architecture may carry several recipes. A name that is taken is refused.
    """

    def register(architecture: Architecture) -> Architecture:
        if name in _RECIPES:
            raise MethodError(f"The zoo already has a model named {name!r}", hint="another name")
        _RECIPES[name] = Recipe(name=name, architecture=architecture, **settings)
        return architecture

    return register


def names() -> tuple[str, ...]:
    """The names ``load`` knows, in alphabetical order.

    >>> from pellucid import zoo
    >>> "digits-cnn" in zoo.names()
    True
    """
    return tuple(sorted(_RECIPES))


def find(name: str) -> Recipe:
    """The recipe registered under ``name``; an unknown name lists the nearest."""
    if name in _RECIPES:
        return _RECIPES[name]
    near = difflib.get_close_matches(str(name), _RECIPES, n=3, cutoff=0.4) or names()
    raise MethodError("No such model in the zoo", got=repr(name), hint=" or ".join(repr(one) for one in near))
