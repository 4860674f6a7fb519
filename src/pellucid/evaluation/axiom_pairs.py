"""Networks that compute the same function by other means: units split in two, batch norm folded, a longer way in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

from pellucid.engine import Ask, Subject, predict
from pellucid.engine.evaluation import replace_model

__all__: list[str] = []

SAME = 1e-4  # of the largest score: networks whose outputs differ by more do not compute the same function
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What treats each channel by itself and all alike, so that copies of a unit stay copies.
ALIKE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity, nn.Dropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
)


def equals(subject: Subject) -> dict[str, Subject]:
    """The subject in other spellings, by what was done; nothing of the caller's is changed."""
    found: dict[str, Subject] = {}
    if subject.call is None:
        found["longer way in"] = before(subject, apart)
    module = subject.module
    if module is not None:
        for name, change in (("units split and permuted", split), ("batch norm folded", fold)):
            try:
                other = copy.deepcopy(module)
            except (RuntimeError, TypeError):  # modules that can't be copied are left alone
                break
            with torch.no_grad():
                if change(other):
                    found[name] = replace_model(subject, other)
    return found


def agree(ask: Ask, other: Subject) -> float:
    """By which share of the largest score the outputs of both differ; infinity where their shapes do."""
    one, two = (predict(s, ask.inputs, ask.memory).double().cpu() for s in (ask.subject, other))
    if one.shape != two.shape:
        return float("inf")
    return float((one - two).abs().max()) / max(float(one.abs().max()), 1e-30)


def before(subject: Subject, change: Callable[[Tensor], Tensor], **settings: Any) -> Subject:
    """The same subject, with its floating inputs changed before anything else."""
    inner = subject.preprocess

    def preprocess(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = change(value) if value.is_floating_point() else value
        elif isinstance(value, Mapping):
            value = {k: change(x) if x.is_floating_point() else x for k, x in value.items()}
        else:
            value = tuple(change(x) if x.is_floating_point() else x for x in value)
        return value if inner is None else inner(value)

    kept = {k: getattr(subject, k) for k in Subject.__dataclass_fields__ if k not in ("model", "preprocess")}
    return Subject(subject.model, preprocess=preprocess, **{**kept, **settings})


def apart(x: Tensor) -> Tensor:
    """The identity, by way of two parts that cancel."""
    return 1.5 * x - 0.5 * x


def split(model: nn.Module) -> bool:
    """Each hidden unit between two linear layers (or convolutions) of a `Sequential` becomes two, in another order."""
    fold(model)  # batch norm between them would be in the way
    done = False
    for chain in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        parts: list[Any] = list(chain)
        for at, first in enumerate(parts):
            if not _plain(first):
                continue
            following = next((i for i in range(at + 1, len(parts)) if not isinstance(parts[i], ALIKE)), None)
            if following is None or type(parts[following]) is not type(first) or not _plain(parts[following]):
                continue
            order = torch.arange(2 * first.weight.shape[0]).roll(1)
            parts[at] = chain[at] = _wider(first, order)
            parts[following] = chain[following] = _reader(parts[following], order)
            done = True
    return done


def _plain(part: Any) -> bool:
    kind = type(part) is nn.Linear or (type(part) in CONVOLUTIONS and part.groups == 1)
    return kind and isinstance(part._parameters.get("weight"), nn.Parameter)  # else a hook makes the weight


def _wider(part: Any, order: Tensor) -> Any:
    """Twice the units, each pair alike."""
    found = copy.deepcopy(part)
    order = order.to(part.weight.device)
    found.weight = nn.Parameter(torch.cat([part.weight, part.weight])[order])
    if part.bias is not None:
        found.bias = nn.Parameter(torch.cat([part.bias, part.bias])[order])
    _tell(found, "out", len(order))
    return found


def _reader(part: Any, order: Tensor) -> Any:
    """Reads the pairs: one with half as much again, the other with minus a half."""
    found = copy.deepcopy(part)
    found.weight = nn.Parameter(torch.cat([1.5 * part.weight, -0.5 * part.weight], 1)[:, order.to(part.weight.device)])
    _tell(found, "in", len(order))
    return found


def _tell(part: Any, side: str, count: int) -> None:
    setattr(part, f"{side}_features" if isinstance(part, nn.Linear) else f"{side}_channels", count)


def fold(model: nn.Module) -> bool:
    """Batch norm that comes right after a convolution or linear layer in a `Sequential` becomes part of its weights."""
    done = False
    for chain in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for at in range(len(chain) - 1):
            first, norm = chain[at], chain[at + 1]
            if getattr(norm, "running_var", None) is None or norm.training or norm.weight is None:
                continue
            if type(first) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                chain[at] = fusion.fuse_conv_bn_eval(first, norm)
            elif type(first) is nn.Linear and type(norm) is nn.BatchNorm1d:
                chain[at] = fusion.fuse_linear_bn_eval(first, norm)
            else:
                continue
            chain[at + 1] = nn.Identity()
            done = True
    return done
