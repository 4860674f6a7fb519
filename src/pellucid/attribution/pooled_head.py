"""Heads that average a feature map over its places: built, turned into each other, and found or refused in any network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.attribution.grid import Grid, check_grid
from pellucid.attribution.spatial import guess, layout
from pellucid.contract import Card
from pellucid.contract.errors import InputError, NeedError
from pellucid.engine import Ask, Subject, as_subject, gradient, guard
from pellucid.engine.inputs import as_inputs
from pellucid.engine.place import Place, parse, visit

__all__ = ["PooledHead", "validate_head"]

FORMS = ("linear", "maps")


class PooledHead(nn.Module):
    """Which scores follow from the mean of a feature map, so that every score has an exact map of its own?

    Maps (N, channels, ...) to scores (N, classes). Form "linear" takes the mean over places and then one linear layer
    (Zhou et al.); form "maps" makes one map per class by a 1×1 convolution and takes its mean, without a linear layer
    (Lin et al., Network in Network). Both compute the same: each score is the mean over places of a linear combination
    of the maps, plus a bias, which `class_maps` gives without it.

    Args:
        channels: how many maps come in.
        classes: how many scores go out.
        form: "linear" or "maps".

    Source: Zhou et al. 2016, §2; Lin, Chen & Yan 2013, §3.2.

    Example:
        >>> import torch
        >>> head = PooledHead(4, 3, form="maps")
        >>> maps = torch.ones(2, 4, 5, 6)
        >>> torch.allclose(head(maps), head.converted("linear")(maps), atol=1e-6)
        True
    """

    card: ClassVar[Card] = Card(
        name="global-average-pooling",
        kind="model",
        title="Global average pooling head",
        question="Which scores follow from the mean of a feature map?",
        form="attribution",
        scope="local",
        citation="zhou2016learning",
        active=True,
        needs=("layers", "spatial layer"),
        data_types=("image",),
        cost="one mean and one linear layer",
        supports=("an exact map of each score over the places of the feature map",),
        limits=("which pixels made the feature map what it is",),
    )

    def __init__(self, channels: int, classes: int, form: str = "linear") -> None:
        super().__init__()
        if form not in FORMS:
            raise InputError(f"The 'form' must be one of {FORMS}", got=repr(form))
        self.form = form
        self.classify: nn.Linear | nn.Conv2d = (
            nn.Linear(channels, classes) if form == "linear" else nn.Conv2d(channels, classes, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Scores (N, classes) of maps (N, channels, height, width)."""
        return self.classify(maps.mean((2, 3))) if self.form == "linear" else self.classify(maps).mean((2, 3))

    def class_maps(self, maps: Tensor) -> Tensor:
        """One map per class, (N, classes, height, width), whose mean plus the bias is the score."""
        return torch.einsum("nc...,kc->nk...", maps, self.classify.weight.flatten(1))

    def converted(self, form: str) -> PooledHead:
        """A head of the other form with the same scores; its weights are copies."""
        bias, old = self.classify.bias, self.classify.weight.detach()
        head = PooledHead(old.shape[1], old.shape[0], form).to(old)
        with torch.no_grad():
            head.classify.weight.copy_(old.reshape(head.classify.weight.shape))
            if bias is not None and head.classify.bias is not None:
                head.classify.bias.copy_(bias)
        return head.train(self.training)


@dataclass(frozen=True, eq=False)
class Head:
    """A head that was found: score_k = bias_k + sum_c weight_kc · mean over places of map c."""

    form: str
    weight: Tensor
    bias: Tensor
    layer: str
    module: str


def validate_head(model: Any, inputs: Any, layer: str | None = None, grid: Grid = None) -> Head:
    """The head behind a layer, if its scores are linear in the layer's mean; otherwise refused with the reason.

    Found by trying, not by names: random values take the layer's place, and the head must make of them what such a head
    would. So any spelling of the pooling is recognised, and max-pooling, flattening, a second layer behind a nonlinearity
    and a softmax at the end are refused. With ``layer=None`` the last spatial feature map is taken.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> validate_head(net.eval(), torch.ones(1, 3, 8, 8)).module
        '4'
    """
    subject = as_subject(model)
    ask = Ask(subject=subject, inputs=as_inputs(inputs))
    module = gradient.needs_module(subject, "a spatial layer")
    with guard.untouched(module):
        return read_head(subject, ask, guess(subject, ask) if layer is None else parse(layer, module), grid)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a linear layer: what it was given and what it gave, one row each."""

    name: str
    part: nn.Linear | nn.Conv2d
    given: Tensor
    output: Tensor


def read_head(subject: Subject, ask: Ask, place: Place, grid: Grid) -> Head:
    """The head behind a place: one forward pass of the first row, with random values at the place."""
    check_grid(grid)
    module, row = gradient.needs_module(subject, "a spatial layer"), ask.inputs.take(torch.arange(1))
    probes: list[Tensor] = []

    def probe(values: Tensor) -> Tensor:
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noise = torch.empty_like(values).copy_(noise)  # laid out in memory as the model's own values
        probes.append(noise)
        return noise.clone()  # the model may go on in place

    with torch.no_grad(), _linear_calls(module) as calls:
        output = visit(lambda: subject.scores(row), module, edit={place: probe}).output.reshape(1, -1)
    maps = layout(subject, ask, place, tuple(probes[0].shape), grid).maps(probes[0])
    pooled = maps.flatten(2).mean(2)
    for call in reversed(calls):
        weight, bias = call.part.weight.flatten(1), call.part.bias
        if _same(call.given, pooled) and _same(call.output, output):
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            return Head("linear", weight.detach(), bias.detach(), str(place), call.name)
    if _same(pooled, output):
        unit = torch.eye(pooled.shape[1], dtype=pooled.dtype, device=pooled.device)
        return Head("maps", unit, unit.new_zeros(len(unit)), str(place), str(place))
    raise NeedError(
        f"Class activation maps need global average pooling and one linear layer behind {str(place)!r}",
        got=_reason(calls, maps, output),
        hint="'grad-cam' or 'hires-cam', which take any head, or layer= the map that is pooled",
    )


def _reason(calls: list[_Call], maps: Tensor, output: Tensor) -> str:
    """Why there is no such head."""
    flat = maps.flatten(2)
    every, places = flat.flatten().sort()[0], flat.shape[2]
    for call in calls:
        if _same(call.given, flat.mean(2)):
            later = [c.name for c in calls[calls.index(call) + 1 :]]
            follows = f"{later[0]!r}, with something nonlinear between" if later else "a nonlinear output"
            return f"the mean read by {call.name!r} and then {follows}"
        whole = call.part.weight[0].numel() == len(every)
        if places > 1 and whole and _same(call.given.flatten().sort()[0], every):
            return f"a flattened map: {call.name!r} reads each place by a weight of its own"
        if places > 1 and _same(call.given, flat.amax(2)):
            return f"max-pooling: {call.name!r} reads the largest value of each channel"
    if _same(flat.amax(2), output):
        return "max-pooling: the scores are the largest values of the maps"
    return "no linear layer that reads the mean over the places"


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, whatever axes of length 1 there are."""
    a, b = a.flatten(), b.flatten()
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= torch.finfo(a.dtype).eps ** 0.5 * b.abs().max().clamp(min=1e-30))


@contextmanager
def _linear_calls(module: nn.Module) -> Iterator[list[_Call]]:
    """Every call of a linear layer, or of a 1×1 convolution of a single place, in a forward pass."""
    calls: list[_Call] = []

    def watch(name: str) -> Any:
        def after(part: Any, given: Any, output: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(output, Tensor):
                calls.append(_Call(name, part, given[0].detach().clone(), output.detach().clone()))

        return after

    handles = []
    try:
        for name, part in module.named_modules():
            if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)):
                handles.append(part.register_forward_hook(watch(name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()
