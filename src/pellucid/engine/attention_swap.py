"""What would the network answer with other attention? One forward pass with given weights in the place of its own.

While a pass runs, every softmax is seen and counted (`engine/softmaxes.py`), and gives other weights where a map is to be
replaced. So replacing needs no hooks, leaves nothing on the model, and is differentiable with respect to the weights
given. `attention.read(..., located=True)` tells each map's place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pellucid.contract.errors import NeedError
from pellucid.engine import batch
from pellucid.engine.ask import Ask, shape_key
from pellucid.engine.attention import Map
from pellucid.engine.place import visit
from pellucid.engine.softmaxes import Softmaxes

Weights = Sequence[Tensor]
Points = Callable[[Tensor, Tensor], Weights]
Places = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class _Given(Softmaxes):
    """Puts weights in the place of maps."""

    def __init__(self, maps: Sequence[Map], weights: Weights) -> None:
        super().__init__()
        self.maps = {m.call: (m, w) for m, w in zip(maps, weights, strict=True) if m.call is not None}

    def meet(self, call: int, weights: Tensor) -> Tensor:
        """The weights given, laid out as the model's own."""
        if call not in self.maps:
            return weights
        found, given = self.maps[call]
        moved = weights.movedim(found.axis, -1).shape
        if moved[-1] != given.shape[-1] or moved.numel() != given.numel():
            raise NeedError(
                "The attention must have the same shape whatever the rows are, to be replaced",
                got=f"{tuple(moved)} for given weights {tuple(given.shape)} in '{found.module}'",
            )
        return given.to(weights).reshape(moved).movedim(-1, found.axis)


@contextlib.contextmanager
def swapped(maps: Sequence[Map], weights: Weights) -> Iterator[None]:
    """While this is open, one forward pass takes these `weights`, each (N, heads, queries, keys), in the maps' stead.

    Maps whose softmax cannot be reached are refused by name: one inside a function or kernel that torch shows as a whole.
    """
    if hidden := [m for m in maps if m.call is None]:
        raise NeedError(
            "The attention must come from a softmax that can be replaced: torch.softmax, an attention module or "
            "scaled_dot_product_attention",
            got=f"one inside another function, in module '{hidden[0].module}'",
            hint="spelling it by torch.softmax",
        )
    mode = _Given(maps, weights)
    with mode:
        yield
    if mode.count <= max(mode.maps, default=-1):
        raise NeedError(
            "The forward pass must run the same attention whatever the rows are, to be replaced",
            got=f"{mode.count} softmaxes, and not that in module '{maps[-1].module}'",
        )


def output(
    ask: Ask, maps: Sequence[Map], rows: Tensor, weights: Weights, values: tuple[Tensor, ...] | None = None
) -> Tensor:
    """The model's output for each job, whose row is `rows[job]`, with these weights; differentiable in them.

    `values`, where given, replaces the values of the explained place, and is differentiated through too.
    """
    subject, module = ask.subject, ask.subject.module
    if ask.layer is None or values is None or module is None:
        inputs = ask.inputs.take(rows) if values is None else ask.inputs.at(rows, [v.clone() for v in values])
        with swapped(maps, weights):
            return subject.scores(inputs)
    inputs, place = ask.inputs.take(rows), values[0]
    with swapped(maps, weights):
        found = visit(lambda: subject.scores(inputs), module, edit={ask.layer: lambda _: place}).output
    assert isinstance(found, Tensor)
    return found


def sweep(
    ask: Ask,
    count: int,
    maps: Sequence[Map],
    points: Points,
    fold: Callable[[Tensor, Tensor, Tensor], None],
    *,
    places: Places | None = None,
    label: str = "",
) -> None:
    """`count` outputs per row, with the weights `points(rows, steps)`, one entry per job, in the maps' places.

    `places(rows, steps)` gives values for the explained place; `fold(rows, steps, output)` takes the results in order.
    """

    def which(start: int, stop: int) -> tuple[Tensor, Tensor]:
        jobs = torch.arange(start, stop)
        return jobs // count, jobs % count

    def work(start: int, stop: int) -> Tensor:
        row, step = which(start, stop)
        with torch.no_grad():
            return output(ask, maps, row, points(row, step), None if places is None else places(row, step))

    kind = ("swap", len(maps), places is None, str(ask.layer), shape_key(ask.inputs))
    batch.run(
        count * ask.inputs.rows,
        work,
        lambda start, stop, out: fold(*which(start, stop), out),
        memory=ask.memory,
        cost=(ask.subject.module, kind),
        device=ask.inputs.device,
        progress=ask.progress,
        label=label,
    )
