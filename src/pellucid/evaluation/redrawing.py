"""A copy of a model whose layers' weights are drawn anew, one after the other; the caller's model is never touched."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.contract.errors import LayerError, NeedError
from pellucid.engine import Ask, Subject
from pellucid.engine import seed as seeds

__all__: list[str] = []

WAYS = ("initial", "permuted")


def duplicate(module: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the module; activations that the module keeps are copied without their graph."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise NeedError(
            "The model must be one that can be copied, since its copy's weights are drawn anew",
            got=f"{type(error).__name__}: {error}",
            hint="taking tensors with a graph, locks, files and generators out of the module's attributes",
        ) from error


class _Uses(TorchFunctionMode):
    """Notes parameters in the order in which operations first take them."""

    def __init__(self) -> None:
        super().__init__()
        self.order: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _note(self, value: Any) -> None:
        if isinstance(value, nn.Parameter):
            self.order.setdefault(id(value), len(self.order))
        elif isinstance(value, tuple | list):
            for part in value:
                self._note(part)
        elif isinstance(value, dict):
            self._note(tuple(value.values()))


def layers(module: nn.Module, named: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """The names of the parameters of each layer: of every module of PyTorch's own, and bare parameters one by one.

    With `named`, the parameters below each of these modules.
    """
    names = [name for name, _ in module.named_parameters()]
    if named is not None:
        found = {layer: [n for n in names if n == layer or n.startswith(f"{layer}.")] for layer in named}
        if empty := [layer for layer, inside in found.items() if not inside]:
            raise LayerError(
                "The 'layers' must name modules with weights of their own",
                got=", ".join(map(repr, empty)),
                hint=", ".join(map(repr, layers(module))),
            )
        return found
    found = {}
    for name in names:
        owner = name.rpartition(".")[0]
        own = type(module.get_submodule(owner)).__module__.startswith("torch.nn")
        found.setdefault(owner if own else name, []).append(name)
    return found


def from_the_top(subject: Subject, ask: Ask, twin: nn.Module) -> dict[str, list[str]]:
    """The copy's layers from the output to the input, by when a forward pass first takes their weights.

    Layers that the pass never takes are left out.
    """
    from pellucid.engine.evaluation import replace_model

    uses, first = _Uses(), ask.inputs.take(torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), uses:
        replace_model(subject, twin).raw(first)
    known = dict(twin.named_parameters())
    when = {
        layer: min(times)
        for layer, names in layers(twin).items()
        if (times := [uses.order[id(known[n])] for n in names if id(known[n]) in uses.order])
    }
    if not when:
        raise NeedError("The model must have weights that can be drawn anew", got="a forward pass that takes none")
    every = layers(twin)
    return {layer: every[layer] for layer in sorted(when, key=lambda layer: -when[layer])}


def redraw(twin: nn.Module, names: list[str], way: str, seed: int, draw: int) -> None:
    """New weights in the copy for these parameters, from the seed, the draw and the parameter's name alone."""
    known = dict(twin.named_parameters())
    with torch.no_grad():
        for name in names:
            weight, generator = known[name], seeds.generator(seed, name.encode(), draw)
            if way == "permuted":
                order = torch.from_numpy(generator.permutation(weight.numel())).to(weight.device)
                fresh = weight.flatten()[order].reshape(weight.shape)
            else:
                noise = torch.from_numpy(generator.random(weight.numel())).reshape(weight.shape)
                fresh = _initial(twin.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], weight, noise)
            weight.copy_(fresh)


def _initial(owner: nn.Module, name: str, weight: Tensor, noise: Tensor) -> Tensor:
    """How a layer starts: uniform within ±1/√fan-in, its biases too; scales of norms one, shifts zero; words normal."""
    matrices = [p for p in owner.parameters(recurse=False) if p.dim() > 1]
    if isinstance(owner, nn.Embedding):
        # The inverse of the normal distribution turns uniform noise into normal noise.
        fresh = torch.special.ndtri(noise.clamp(1e-12, 1 - 1e-12))
        if owner.padding_idx is not None:
            fresh[owner.padding_idx] = 0
        return fresh
    if not matrices:
        own = type(owner).__module__.startswith("torch.nn")
        return (
            torch.full_like(noise, 1.0 if own and name == "weight" else 0.0) if own else _spread(noise, noise.numel())
        )
    if isinstance(owner, nn.RNNBase):
        return _spread(noise, owner.hidden_size)
    fan = weight[0].numel() if weight.dim() > 1 else matrices[0][0].numel()
    return _spread(noise, fan)


def _spread(noise: Tensor, fan: int) -> Tensor:
    """Uniform noise from 0 to 1 as uniform noise within ±1/√fan."""
    return (2 * noise - 1) / math.sqrt(max(fan, 1))
