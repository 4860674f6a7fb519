"""Which cases that the network learnt from does it see as most like this one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.contract import Card, Examples, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, predict
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.gradient import needs_module
from pellucid.engine.inputs import Inputs
from pellucid.engine.nearest import METRICS, as_known, embed, nearest, own_distances
from pellucid.engine.place import Place
from pellucid.engine.settings import whole

__all__ = ["DeepNearestNeighbours"]


@dataclass(frozen=True, kw_only=True)
class DeepNearestNeighbours(Method):
    """Which cases in the data does the network represent most like this one?

    Every row of ``data=`` and of the inputs is turned into the vector h of values at ``layer=``, and the nearest are
    returned, nearest first: ``|h - h'|``, or ``1 - cos(h, h')``. Without a layer, h is what enters the last linear layer
    that makes the output; ``source["layer_used"]`` names it. With ``weighted``, each difference is multiplied by the
    weight with which that unit enters the explained class's score, so a distance is in score units.

    ``items`` (N, k) number rows of the data (of a world: its training rows); ``weights`` (N, k) are the distances, 0 for
    the same vector; ``labels`` (N, k) where the data has labels; ``rows`` the neighbours themselves, unless they take
    more than half of ``memory``. Facts of each row:

    - `label_agreement`: the share of neighbours labelled with the predicted class; `input_agreement`: the same share
      among the neighbours in the space of the inputs, for comparison. Given integer labels and an output of two or more
      classes.
    - `novelty`: the share of data rows that lie nearer to their own nearest other row than this row does to its first
      neighbour; 1 means that no row is as far from the others. Of large data 2,000 rows, evenly spaced, are asked.

    Args:
        neighbours: how many, k.
        metric: "euclidean" or "cosine".
        weighted: weigh units by the explained class's output weights; h must be what enters a linear output layer.

    Cost: one prediction per row of data and input; the search compares every input with every row of data.
    Known failure: near in h is not the cause of the answer, and neighbours may owe their nearness to another class's
    evidence; in many dimensions distances grow alike.
    Source: Caruana et al. 1999 (distances between hidden activations); Krizhevsky et al. 2012, §6.1 (last hidden layer).
    The weighting by output weights is this library's reading of relevance: no formula is taken over.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.tensor([[0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])
        >>> result = px.explain(net, x[1:2], DeepNearestNeighbours(neighbours=2), data=x)
        >>> int(result.items[0, 0]), float(result.weights[0, 0]), result.source["layer_used"]
        (1, 0.0, '2#1:in')
    """

    neighbours: int = 5
    metric: str = "euclidean"
    weighted: bool = False

    card: ClassVar[Card] = Card(
        name="deep-nearest-neighbours",
        title="Nearest neighbours in a hidden layer",
        question="Which cases in the data does the network represent most like this one?",
        form="examples",
        scope="local",
        citation="caruana1999case",
        needs=("layers", "data"),
        taxonomy={
            "000": "structural/CNN/last layer/nearest neighbours",
            "002": "post-hoc/explaining-by-case/neighbours",
            "003": "passive/example/local",
        },
        claims=("rowwise", "deterministic"),
        trial={"neighbours": 2},
        cost="1 forward per row of data and of the inputs",
        supports=(
            "which cases the layer can hardly tell from this one, and whether their labels back the answer",
            "whether any case in the data is as near as cases usually are to each other",
        ),
        limits=(
            "what caused the answer: removing a neighbour from training need not change it",
            "which features make the cases alike",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> _Cases:
        """The data's vectors, and how far its rows lie from each other."""
        self._check()
        module = needs_module(subject, "values at a layer")
        rows = rows_like(ask.data, ask.inputs, shapes=False)
        if self.neighbours > rows.inputs.rows:
            raise InputError(f"The 'data' must hold at least {self.neighbours} rows", got=str(rows.inputs.rows))
        place = ask.layer or output_place(subject, module, ask.inputs)
        weights = _output_weights(module, place) if self.weighted else None
        values = predict(subject, rows.inputs, ask.memory, place)
        if values.shape[0] != rows.inputs.rows:
            raise LayerError(
                f"The 'layer' {str(place)!r} must hold one entry per row along its first axis, {rows.inputs.rows}",
                got=f"shape {tuple(values.shape)}",
            )
        usual = None if self.weighted else own_distances(embed(values, self.metric), self.metric, ask.memory)
        return _Cases(place=place, rows=rows, values=values, weights=weights, usual=usual)

    def explain(self, subject: Subject, ask: Ask, state: _Cases) -> Examples:
        """The nearest rows of the data, with what their labels and distances say."""
        values = predict(subject, ask.inputs, ask.memory, state.place)
        if values.shape[1:] != state.values.shape[1:]:
            raise InputError(
                f"The 'inputs' and the 'data' must excite {str(state.place)!r} in the same shape",
                got=f"{tuple(values.shape[1:])} and {tuple(state.values.shape[1:])}",
                hint="rows of equal length, or a layer that has pooled over it",
            )
        values = as_known(values, ask.inputs, state.rows.inputs, state.values)
        output = ask.output if ask.output is not None and ask.unit_place is None else _output(subject, ask)
        shape = (ask.inputs.rows, self.neighbours)
        items, distances = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.float64)
        novelty = torch.ones(shape[0], dtype=torch.float64)
        for members, scale in self._groups(ask, state):
            known = embed(state.values if scale is None else state.values * scale, self.metric)
            asked = embed(values[members] if scale is None else values[members] * scale, self.metric)
            items[members], distances[members] = nearest(known, asked, self.neighbours, self.metric, ask.memory)
            usual = own_distances(known, self.metric, ask.memory) if state.usual is None else state.usual
            if len(usual):
                novelty[members] = (usual < distances[members, :1]).double().mean(1)
        facts = {"novelty": novelty}
        labels = None if state.rows.labels is None else state.rows.labels.cpu()[items]
        if labels is not None and not labels.is_floating_point() and output.dim() == 2 and output.shape[1] > 1:
            said = output.argmax(1).cpu()[:, None]
            facts["label_agreement"] = (labels == said).double().mean(1)
            if (near := self._input_neighbours(ask, state)) is not None:
                facts["input_agreement"] = (state.rows.labels.cpu()[near] == said).double().mean(1)  # type: ignore[union-attr]
        return Examples(
            items=items,
            weights=distances,
            labels=labels,
            rows=_rows(state.rows.inputs, items, ask.memory),
            facts=facts,
            source={"layer_used": str(state.place), "rows_of_data": state.rows.inputs.rows},
        )

    def _check(self) -> None:
        whole(neighbours=(self.neighbours, 1))
        if self.metric not in METRICS:
            raise MethodError(f"The 'metric' must be one of {METRICS}", got=repr(self.metric))

    def _groups(self, ask: Ask, state: _Cases) -> list[tuple[Tensor, Tensor | None]]:
        """Which rows of the inputs are searched for with which scale of the units: one group per explained class."""
        if state.weights is None:
            return [(torch.arange(ask.inputs.rows), None)]
        index = ask.target.index
        if index is None and (ask.target.function is not None or state.weights.shape[0] > 1):
            raise TargetError("With weighted=True the 'target' must be a class", got=ask.target.name or "a score")
        classes = torch.zeros(ask.inputs.rows, dtype=torch.long) if index is None else index.cpu()
        return [((classes == c).nonzero()[:, 0], state.weights[int(c)]) for c in classes.unique()]

    def _input_neighbours(self, ask: Ask, state: _Cases) -> Tensor | None:
        known, asked = state.rows.inputs.floats, ask.inputs.floats
        if not asked or any(k.shape[1:] != a.shape[1:] for k, a in zip(known, asked, strict=True)):
            return None
        near, here = (embed(torch.cat([x.flatten(1) for x in floats], 1), self.metric) for floats in (known, asked))
        return nearest(near, here, self.neighbours, self.metric, ask.memory)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cases:
    """The data, its values at the place, and how far its rows usually are from each other.

    With `weighted`, the output layer's weights (classes, units) instead of the last, which differs from class to class.
    """

    place: Place
    rows: Rows
    values: Tensor
    weights: Tensor | None
    usual: Tensor | None


def output_place(subject: Subject, module: nn.Module, inputs: Inputs) -> Place:
    """What enters the last linear layer that makes the output: no other linear layer stands between it and the output.

    One row is run with every linear layer's output cut from what came before; those that the output then depends on
    make it, and the last one called is taken.
    """
    calls: list[tuple[Place, Tensor]] = []
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(part: nn.Module, args: Any, out: Tensor) -> Tensor:
            counts[name] = counts.get(name, 0) + 1
            leaf = out.detach().requires_grad_()
            calls.append((Place(name, counts[name], "in"), leaf))
            return leaf.clone()

        return hook

    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear) and name]
    handles = [part.register_forward_hook(watch(name)) for name, part in linear]
    try:
        with torch.enable_grad():
            output = subject.scores(inputs.take(torch.arange(1)))
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise NeedError(
            "Without a 'layer', the model must end in a linear layer (torch.nn.Linear)",
            got=f"{type(module).__name__} without one" + (" inside" if not linear else " that is called"),
            hint="layer= the name of a late layer",
        )
    if not output.requires_grad:
        return calls[-1][0]
    grads = torch.autograd.grad(output.sum(), [leaf for _, leaf in calls], allow_unused=True)
    makers = [place for (place, _), grad in zip(calls, grads, strict=True) if grad is not None]
    return makers[-1] if makers else calls[-1][0]


def _output_weights(module: nn.Module, place: Place) -> Tensor:
    """The weights (classes, units) of the linear layer that reads the place."""
    part = module.get_submodule(place.module)
    if not isinstance(part, nn.Linear) or place.side != "in":
        raise LayerError(
            "With weighted=True the 'layer' must be what enters the linear output layer",
            got=repr(str(place)),
            hint="layer=None, or the output layer's name with ':in'",
        )
    return part.weight.detach()


def _output(subject: Subject, ask: Ask) -> Tensor:
    output = predict(subject, ask.inputs, ask.memory)
    ask.check_finite(output, 0)
    if ask.unit_place is None:
        ask.remember(output)
    return output


def _rows(data: Inputs, items: Tensor, memory: int) -> Any:
    """The neighbours' inputs, (N, k, ...), in the structure of the inputs; none where they would take too much."""
    size = sum(x[0].numel() * x.element_size() for x in data.tensors) * items.numel()
    if size > memory // 2:
        return None
    taken = data.take(items.flatten())
    parts = tuple(x.unflatten(0, tuple(items.shape)) for x in taken.tensors)
    if data.single:
        return parts[0]
    return dict(zip(data.names, parts, strict=True)) if data.names else parts
