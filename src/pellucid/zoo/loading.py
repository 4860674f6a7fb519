"""Ask for a zoo model by name: trained on the first call, read from the cache on later ones."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.worlds import World
from pellucid.worlds.world import Task
from pellucid.zoo import cache as store
from pellucid.zoo.recipe import Recipe, find
from pellucid.zoo.training import own_surroundings, train


def load(
    name: str, *, cache: str | os.PathLike[str] | None = None, progress: bool = False, retrain: bool = False
) -> nn.Module:
    """A small trained model, on the processor, in eval mode and float32.

    The first call trains it (seconds to a minute, seeded by its recipe) and keeps the weights in ``cache``, by
    default ``$PELLUCID_CACHE/zoo`` or ``~/.cache/pellucid/zoo``; later calls read them. A damaged file is
    trained again, and so is every model with ``retrain``. ``progress`` draws a bar on a terminal. Random
    generators and the caller's torch settings are left as they were.

    >>> from pellucid import zoo
    >>> model = zoo.load("iris-mlp")
    >>> model(zoo.data("iris-mlp").test[0]).shape[1]
    3
    """
    weights, _ = _obtain(find(name), cache, progress, retrain)
    return _build(find(name), weights)


def data(name: str) -> World:
    """The world a zoo model was trained on, with the same split; a new copy on every call.

    >>> from pellucid import zoo
    >>> zoo.data("digits-cnn").name
    'digits'
    """
    return find(name).world()


def record(name: str, *, cache: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """How a zoo model came out: ``score`` (held-out accuracy, or R² for regression), recipe, hash and version.

    Trains the model where the cache does not have it.

    >>> from pellucid import zoo
    >>> zoo.record("iris-mlp")["score"] >= 0.9
    True
    """
    return _obtain(find(name), cache, False, False)[1]


@dataclass(frozen=True, kw_only=True)
class SubjectFacts:
    """What a person has to know to call a zoo model: the names of its outputs and inputs, and a good layer."""

    classes: tuple[str, ...]
    features: tuple[str, ...]
    layer: str | None
    task: Task
    input_shape: tuple[int, ...]


@functools.cache
def subject_facts(name: str) -> SubjectFacts:
    """Class and feature names, task, shape of one row, and the layer that suits class activation maps.

    >>> from pellucid import zoo
    >>> zoo.subject_facts("digits-cnn").layer
    'conv2'
    """
    recipe = find(name)
    world = recipe.probe()
    return SubjectFacts(
        classes=world.classes,
        features=world.features,
        layer=recipe.layer,
        task=world.task,
        input_shape=tuple(world.inputs.shape[1:]),
    )


def _obtain(
    recipe: Recipe, cache: str | os.PathLike[str] | None, progress: bool, retrain: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    key = recipe.hash()
    path = store.folder(cache) / f"{recipe.name}-{key}.safetensors"
    kept = None if retrain else store.read(path)
    if kept is not None and kept[1].get("hash") == key:
        return kept
    model, score = train(recipe, recipe.world(), progress=progress)
    facts = {"name": recipe.name, "hash": key, "score": score, "torch": torch.__version__, "recipe": _plain(recipe)}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    _keep(path, weights, facts)
    return weights, facts


def _keep(path: Path, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    try:
        store.write(path, weights, facts)
    except OSError as error:
        # The model is good even if it cannot be kept; only the next call pays for it.
        reason = f"{type(error).__name__}: {error.strerror or error}"
        warnings.warn(
            f"The trained model could not be cached ({reason}). Try PELLUCID_CACHE=<a writable folder>.", stacklevel=4
        )


def _build(recipe: Recipe, weights: dict[str, Tensor]) -> nn.Module:
    with own_surroundings(recipe.seed):
        model = recipe.architecture()
        model.load_state_dict(weights)
    return model.eval()


def _plain(recipe: Recipe) -> dict[str, Any]:
    settings = {key: value for key, value in vars(recipe).items() if key != "architecture"}
    return settings | {"data_settings": dict(recipe.data_settings)}
