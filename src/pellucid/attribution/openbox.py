"""Which straight line is the network here, and where does it end? The linear region around an input, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, recording, rules, score
from pellucid.engine.decomposition import wrap
from pellucid.engine.rules.piecewise import Borders, borders, piecewise

__all__ = ["OpenBox"]

SHOWN = ("decision", "contribution", "border")
POLYTOPES = ("none", "all", "needed")
AT_ONCE = 256
MOST_FOR_PROGRAMS = 600


@dataclass(frozen=True, kw_only=True)
class OpenBox(Method):
    """Which linear classifier is the network here, and how far does it hold?

    A network of affine operations, rectifiers and maxima is linear, ``S(x') = w·x' + b``, on the polytope of all x' with
    the same activation pattern as x. The values are the decision features w, exact, in score units per input unit;
    positive means that raising the input raises the score, by that rate, anywhere in the polytope. With
    ``shown="contribution"`` they are ``w·x`` per input, which sum to the score less the fact ``bias``; with
    ``shown="border"`` they are the boundary features: the weights a of the nearest border, scaled so that the values are
    the shortest step that reaches it.

    Each hidden unit that can switch gives an inequality ``a·x' + c >= 0`` in closed form, a rectifier one for each bend,
    a maximum one for each value that lost. Units whose argument does not depend on the input inside the region give none.

    Facts: ``score``; ``bias``, b; ``constraints``, the number of inequalities; ``distance_to_border``, the Euclidean
    distance to the nearest, exact (inside it, every point has the same w and b); ``local_error``, the largest
    |S(x') - (w·x' + b)| at the points of that ball closest to and farthest from the border; with
    ``polytope="needed"``, ``needed_constraints``.

    Args:
        shown: "decision", "contribution" or "border".
        polytope: "all" puts the inequalities into ``source["polytope"]``, per row ``normals`` (k, inputs) and
            ``offsets`` (k,); "needed" first removes, by one linear program each, those that follow from the others.

    Cost: one forward, and one backward pass through the lower part of the network for each inequality.
    Known failure: regions are tiny in large networks, so that the line says little about what happens further away. A
    curved operation, such as a sigmoid or a softmax at the end, is refused by name.
    Source: Chu, Hu, Hu, Wang & Pei 2018, §4; the closed form for one class, before the softmax.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> px.explain(net, torch.ones(1, 3), "openbox-plnn").facts["constraints"]
        tensor([4.], dtype=torch.float64)
    """

    shown: str = "decision"
    polytope: str = "none"

    card: ClassVar[Card] = Card(
        name="openbox-plnn",
        title="OpenBox",
        question="Which linear classifier is the network here, and how far does it hold?",
        form="attribution",
        scope="local",
        citation="chu2018exact",
        needs=("gradient", "backward rules"),
        taxonomy={
            "000": "structural/decomposition",
            "002": "post-hoc/model-renovation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "linear", "dummy", "symmetric", "spelling invariant", "score scale"),
        cost="1 forward, 1 partial backward per hidden unit",
        supports=(
            "the score of every input in the same region, exactly",
            "how far the input can move in any direction before the explanation changes",
        ),
        limits=("what the network does beyond the nearest border", "which input the network was given a reason by"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        for name, word, known in (("shown", self.shown, SHOWN), ("polytope", self.polytope, POLYTOPES)):
            if word not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(word))
        regions = _regions(ask, self.polytope != "none", self.card.title)
        weights = tuple(torch.cat(w) for w in zip(*(r.weights for r in regions), strict=True))
        values = tuple(torch.cat(v) for v in zip(*(r.values for r in regions), strict=True))
        steps = _split(torch.stack([r.step for r in regions]), values)
        found = torch.cat([r.score for r in regions])
        bias = found - sum(((w * v).flatten(1).sum(1) for w, v in zip(weights, values, strict=True)), torch.zeros(()))
        facts = {
            "score": found.double(),
            "bias": bias.double(),
            "constraints": torch.tensor([float(r.count) for r in regions], dtype=torch.float64),
            "distance_to_border": torch.tensor([r.distance for r in regions], dtype=torch.float64),
            "local_error": _error(ask, values, weights, bias, steps),
        }
        source: dict[str, Any] = {}
        if self.polytope != "none":
            if self.polytope == "needed":
                regions = [_needed(r) for r in regions]
                facts["needed_constraints"] = torch.tensor([float(len(r.offsets)) for r in regions])
            source["polytope"] = [{"normals": r.normals, "offsets": r.offsets} for r in regions]
        shown = {"decision": weights, "border": steps}.get(self.shown)
        if shown is None:
            shown = tuple(w * v for w, v in zip(weights, values, strict=True))
        return Attribution(values=wrap(ask, shown), facts=facts, source=source)


@dataclass(frozen=True, eq=False)
class _Region:
    """One row: its score, values and weights at the explained place, its borders, and the step to the nearest."""

    score: Tensor
    output: Tensor
    values: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    count: int
    distance: float
    step: Tensor
    normals: Tensor
    offsets: Tensor


@dataclass(frozen=True, eq=False)
class _Regions:
    """Some rows' regions, and the model's output for them."""

    regions: list[_Region]
    output: Tensor


def _regions(ask: Ask, keep: bool, label: str) -> list[_Region]:
    """Every row's region, one at a time, so that nothing on record belongs to another row."""

    def work(start: int, stop: int) -> _Regions:
        found = [_region(ask, row, keep) for row in range(start, stop)]
        return _Regions(found, torch.cat([r.output for r in found]))

    return [r for chunk in recording.in_chunks(ask, work, ("openbox", keep), label) for r in chunk.regions]


def _region(ask: Ask, row: int, keep: bool) -> _Region:
    seen = recording.record(ask, row, row + 1)
    trace, targets, values, root = seen.trace, seen.targets, seen.values, seen.root
    found = rules.walk(trace, [(root, torch.ones_like(seen.score))], targets, piecewise())
    weights = tuple(torch.zeros_like(v) if w is None else w for v, w in zip(values, found.values, strict=True))
    width = sum(v.numel() for v in values)
    count, distance, step = 0, float("inf"), torch.zeros(width, dtype=values[0].dtype, device=values[0].device)
    normals, offsets = [], []
    point = torch.cat([v.flatten() for v in values])
    for normal, value in _inequalities(trace, targets, width):
        length = normal.norm(dim=1)
        live = length > 0
        normal, value, length = normal[live], value[live], length[live]
        count += len(value)
        if not len(value):
            continue
        away = value.abs() / length
        if float(away.min()) < distance:
            nearest = int(away.argmin())
            distance = float(away[nearest])
            step = -value[nearest] / length[nearest] ** 2 * normal[nearest]
        if keep:
            side = torch.where(value >= 0, 1.0, -1.0).to(value)
            normals.append(side[:, None] * normal)
            offsets.append(side * (value - normal @ point))
    empty = point.new_zeros(0, width), point.new_zeros(0)
    return _Region(
        seen.score.detach(), seen.output, values, weights, count, distance, step,
        torch.cat(normals) if normals else empty[0], torch.cat(offsets) if offsets else empty[1],
    )  # fmt: skip


def _inequalities(trace: rules.Trace, targets: list[Any], width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of borders: the derivative of each with respect to the explained place (k, width), and its value (k,)."""
    for op in trace.ops:
        for border in borders(op) if op.edges else []:
            for start in range(0, len(border.value), AT_ONCE):
                chunk = slice(start, start + AT_ONCE)
                part = Borders(border.leaf, border.at[chunk], border.sign, border.value[chunk])
                yield _derivative(op, part, targets, width), part.value


def _derivative(op: rules.Op, border: Borders, targets: list[Any], width: int) -> Tensor:
    count = len(border.value)
    seeds: dict[int, Tensor] = {}
    for term, (leaf, sign) in enumerate(zip(border.leaf, border.sign, strict=True)):
        if leaf in op.edges:
            seed = seeds.setdefault(leaf, border.value.new_zeros(count, op.leaves[leaf].numel()))
            seed[torch.arange(count), border.at[:, term]] += sign
    shapes = {leaf: edge[0]._input_metadata[edge[1]].shape for leaf, edge in op.edges.items()}
    if op.region is not None and 0 in seeds:
        seeds[0] = _into_base(op, seeds[0])
    ends = [GradientEdge(*edge) for edge in targets]
    got = torch.autograd.grad(
        [GradientEdge(*op.edges[leaf]) for leaf in seeds],
        ends,
        [seed.reshape(count, *shapes[leaf]) for leaf, seed in seeds.items()],
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=True,
    )
    sizes = [math.prod(edge[0]._input_metadata[edge[1]].shape) for edge in targets]
    flat = [
        border.value.new_zeros(count, n) if g is None else g.reshape(count, n) for g, n in zip(got, sizes, strict=True)
    ]
    return torch.cat(flat, 1)


def _into_base(op: rules.Op, seed: Tensor) -> Tensor:
    """Cotangents of the part of a tensor that was overwritten in place, as cotangents of the whole."""
    assert op.region is not None
    size, stride, view_size, view_stride, offset = op.region
    place = torch.arange(math.prod(size), device=seed.device).reshape(size)
    place = torch.empty_strided(size, stride, dtype=torch.long, device=seed.device).copy_(place)
    base = seed.new_zeros(len(seed), math.prod(size))
    base[:, place.as_strided(view_size, view_stride, offset).flatten()] = seed
    return base


def _split(flat: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    parts = flat.split([v[0].numel() for v in like], 1)
    return tuple(p.reshape(v.shape) for p, v in zip(parts, like, strict=True))


def _error(ask: Ask, values: Any, weights: Any, bias: Tensor, steps: Any) -> Tensor:
    """How far the network is from the line at two points of the ball that touches the nearest border."""
    worst = torch.zeros(len(bias), dtype=torch.float64)
    for share in (0.99, -0.99):
        points = tuple(v + share * s for v, s in zip(values, steps, strict=True))
        line = sum(((w * p).flatten(1).sum(1) for w, p in zip(weights, points, strict=True)), torch.zeros(())) + bias
        worst = torch.maximum(worst, (score.at(ask, points) - line).abs().double().cpu())
    return worst


def _needed(region: _Region) -> _Region:
    """Only the inequalities that do not follow from the others: each is asked for its smallest value without itself."""
    from scipy.optimize import linprog

    normals, offsets = region.normals.double().cpu(), region.offsets.double().cpu()
    if len(offsets) > MOST_FOR_PROGRAMS:
        raise MethodError(
            f"'polytope' can be 'needed' for at most {MOST_FOR_PROGRAMS} inequalities",
            got=f"{len(offsets)}",
            hint="polytope='all'",
        )
    length = normals.norm(dim=1, keepdim=True)
    left, right = (-normals / length).numpy(), (offsets / length[:, 0]).numpy()
    keep = list(range(len(right)))
    for k in range(len(right)):
        others = [j for j in keep if j != k]
        # a·x' may fall by at most 1 below the border, so that the program is bounded
        bound = [*right[others], right[k] + 1.0]
        found = linprog(-left[k], left[[*others, k]], bound, bounds=(None, None), method="highs")
        if found.status == 0 and found.fun + right[k] >= -1e-9:
            keep = others
    chosen = torch.tensor(keep, dtype=torch.long, device=region.normals.device)
    return replace(region, normals=region.normals[chosen], offsets=region.offsets[chosen])
