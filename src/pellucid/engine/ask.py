"""One question to a method: inputs, target, layer, data, seed and limits, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, LayerError, NumericalError
from pellucid.engine import batch, target
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, parse, visit
from pellucid.engine.subject import Subject


@dataclass(eq=False)
class Ask:
    """What the caller wants explained. `wanted` is the target as checked; `target` is settled on the model's output."""

    subject: Subject
    inputs: Inputs
    wanted: Any = None
    layer: Place | None = None
    data: Any = None
    seed: int = 0
    memory: int = batch.DEFAULT_CPU
    progress: batch.Progress = field(default_factory=batch.Progress)
    output: Tensor | None = None
    path: str = "plain"
    model_hash: str = ""
    passes: int = 0
    memo: dict[bytes, Tensor] | None = None  # scores of this very question that several measurements need
    _target: target.Target | None = None

    @cached_property
    def keys(self) -> list[bytes]:
        """A fingerprint per row, for noise that belongs to the row."""
        return self.inputs.keys()

    @property
    def unit_place(self) -> Place | None:
        """Where the score is read, when it is a hidden unit."""
        if not isinstance(self.wanted, target.unit) or self.subject.module is None:
            return None
        return parse(self.wanted.place, self.subject.module)

    @property
    def target(self) -> target.Target:
        """What is explained, one score per row; runs the model once where its output is not known yet."""
        if self._target is None:
            place = self.unit_place
            self.record(predict(self.subject, self.inputs, self.memory, place))
            assert self.output is not None
            self._target = target.settle(self.wanted, self.output)
        return self._target

    def settle_rows(self, output: Tensor, start: int, stop: int) -> target.Target:
        """The target of a chunk of rows, from the chunk's own output: for methods that run the model only once."""
        self.check_finite(output, start)
        wanted = self.wanted[start:stop] if isinstance(self.wanted, Tensor) else self.wanted
        return target.settle(wanted, output)

    def remember(self, output: Tensor) -> None:
        """Keep the output that a method which runs the model once has seen, and settle the target on it."""
        self.output = output
        self._names(output)
        if self._target is None:
            self._target = target.settle(self.wanted, output)

    def record(self, output: Tensor) -> None:
        """Keep the model's output for these inputs, and refuse to explain what is not finite."""
        self.check_finite(output, 0)
        self._names(output)
        self.output = output.detach()

    def _names(self, output: Tensor) -> None:
        """Refuse names that can't be those of the classes, before anything is labelled with them."""
        names, shape = self.subject.classes, output.shape
        axes = {shape[1], shape[-1]} if len(shape) > 1 else set()  # sequences have their classes along the last axis
        if names and self.unit_place is None and axes and shape[1] > 1 and len(names) not in axes:
            counts = " or ".join(map(str, sorted(axes)))
            raise InputError(
                f"The 'classes' of the Subject must name the model's {counts} outputs", got=f"{len(names)} names"
            )

    def check_finite(self, output: Tensor, start: int) -> None:
        """Refuse to explain scores that are not finite, naming the rows."""
        flat = output.detach().flatten(1) if output.dim() > 1 else output.detach()[:, None]
        bad = (~torch.isfinite(flat)).any(1).nonzero()[:, 0] + start
        if len(bad):
            rows = ", ".join(map(str, bad[:5].tolist())) + (" …" if len(bad) > 5 else "")
            raise NumericalError(
                "The model's output must be finite", got=f"NaN or infinity in row {rows}", hint="explaining other rows"
            )

    def derived(self, inputs: Inputs, rows: Tensor, passes: int = 0) -> Ask:
        """The same question about other inputs, one for each entry of `rows`; each keeps its row's target.

        `passes` says how many rows the whole call will ask about, of which these are some.
        """
        settled, wanted = self.target, self.wanted
        if settled.index is not None:
            wanted = settled.index[rows.to(settled.index.device)]
        return replace(
            self,
            inputs=inputs,
            wanted=wanted,
            output=None,
            memo=None,
            _target=None,
            progress=batch.Progress(),
            passes=passes,
        )

    def inside(self) -> Ask:
        """The same question with the layer's values as the input: for methods that change inputs, on token ids.

        The model runs as before on the same inputs, and the layer's values are replaced on the way.
        """
        subject, place, original = self.subject, self.layer, self.inputs
        assert place is not None
        values = predict(subject, original, self.memory, place)

        def call(model: Any, tensors: tuple[Tensor, ...]) -> Any:
            rows = replace(original, tensors=tuple(tensors[1:]))
            return visit(lambda: subject.raw(rows), model, edit={place: lambda _: tensors[0]}).output

        moved = replace(subject, call=call, preprocess=None)
        inputs = Inputs((values, *original.tensors))
        return replace(self, subject=moved, inputs=inputs, layer=None, output=None, memo=None, _target=None)

    @property
    def score(self) -> Tensor:
        """The explained score of each row, (N,)."""
        aim = self.target
        assert self.output is not None
        return aim.score(self.output)

    @property
    def explained_class(self) -> Tensor | None:
        """The class explained for each row, where classes were asked for."""
        return None if self._target is None else self._target.index


def predict(subject: Subject, inputs: Inputs, memory: int, place: Place | None = None) -> Tensor:
    """The output (or the values at a place) for all rows, without gradients, in chunks."""
    parts: list[Tensor] = []

    def work(start: int, stop: int) -> Tensor:
        rows = inputs.take(torch.arange(start, stop))
        with torch.no_grad():
            if place is None or subject.module is None:
                return subject.scores(rows)
            seen = visit(lambda: subject.scores(rows), subject.module, [place], stop=True).seen[place]
        if seen.shape[:1] != (rows.rows,):
            raise LayerError(
                f"The 'layer' {str(place)!r} must hold one entry per row along its first axis, {rows.rows}",
                got=f"shape {tuple(seen.shape)}",
                hint="a neighbouring module, or batch_first=True",
            )
        return seen

    batch.run(
        inputs.rows,
        work,
        lambda start, stop, out: parts.append(out.detach()),
        memory=memory,
        cost=(subject.module, ("predict", str(place), shape_key(inputs))),
        device=inputs.device,
    )
    return torch.cat(parts)


def shape_key(inputs: Inputs) -> tuple[Any, ...]:
    """What the cost of a row depends on: shapes without the row axis, types, device."""
    return tuple((tuple(x.shape[1:]), x.dtype, str(x.device)) for x in inputs.tensors)
