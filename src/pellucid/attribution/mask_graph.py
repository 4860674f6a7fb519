"""Which edges and features of a graph carry the prediction? Masks over both, optimised for each graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.mask import number
from pellucid.attribution.mask_network import DECAY, SECOND, TINY
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, chance, gradient, score, seed
from pellucid.engine.gradient import needs_module
from pellucid.engine.settings import whole

__all__ = ["GNNExplainer"]

FILLS = ("marginal", "zero")
DRAWS = 8  # of marginal features over which the masked score is averaged
PRICES = ("size", "entropy", "feature_size", "feature_entropy")


@dataclass(frozen=True, kw_only=True)
class GNNExplainer(Method):
    """Which few edges and node features of this graph are enough for the network's prediction?

    The inputs are features X (N, nodes, features) and an adjacency A (N, nodes, nodes), as a tuple or a dict; other
    inputs of whole numbers go along. For each graph by itself, Adam finds a mask of edges m = σ(M) and one of feature
    columns f = σ(F) that minimise

    ``-log P(class | A ⊙ m, Z + (X - Z) ⊙ f) + size Σ m + entropy mean H(m)``
    ``+ feature_size mean f + feature_entropy mean H(f)``

    over the edges there are, each counted once; H is the binary entropy, and Z stands for features that are not told.
    Values are m over the edges, (N, nodes, nodes), and f, (N, 1, features), in the structure of the inputs: between 0 and
    1, without sign. **An edge on which the prediction never depended at any step, such as one beyond the network's
    reach, gets exactly 0**, as do pairs without an edge and self-loops, which are left as they are.

    Output of a class per node or edge: choose which one by ``px.Subject(model, output=lambda out: out[:, node])``.

    Facts of each row: ``score``, the class's probability; ``masked_score``, that under both masks, a mean over 8 draws of
    Z where it is drawn; ``subgraph_score``, with the edges of m ≥ 0.5 alone and all features; ``without_subgraph``, with
    these edges taken away; ``edges``, ``subgraph_edges`` and ``reached_edges``, counts; ``undecided``, mean H(m) in nats:
    0 where the mask says in or out, 0.69 where it says nothing.

    Args:
        adjacency: which input it is: a position, or a name where inputs are a dict.
        fill: what stands for a feature that is not told: "marginal" draws it from the nodes of the same graph at every
            step, "zero" is 0; where one column is all there is, use it with ``feature_size=0``.
        directed: let the two directions of an edge have masks of their own; otherwise A must be symmetric in its edges.
        size: price of an edge.
        entropy: price of being undecided about edges.
        feature_size: price of all features together.
        feature_entropy: price of being undecided about features.
        steps: of Adam.
        rate: Adam's step, on the scale of M and F.

    Cost: one forward and backward per step, and up to 12 forwards.
    Known failure: the masks start at random and the objective is not convex, so seeds differ; where two subgraphs are each
    enough, one or both may be kept; sums of weak edges can carry a class that no subgraph shows.
    Source: Ying et al. 2019, §4 (arXiv 1903.03894); prices and start as in the authors' program. Departs from it: nothing
    is masked that is no edge, an undirected edge is priced once, and the reach of the network is found by its gradients.

    Example:
        >>> import torch, pellucid as px
        >>> class Sums(torch.nn.Module):
        ...     forward = lambda self, x, a: (a @ x).sum(1)
        >>> edges = torch.tensor([[[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]])
        >>> px.explain(Sums().eval(), (torch.rand(1, 3, 2), edges), "gnnexplainer").values[1].shape
        torch.Size([1, 3, 3])
    """

    adjacency: int | str = 1
    fill: str = "marginal"
    directed: bool = False
    size: float = 0.005
    entropy: float = 1.0
    feature_size: float = 1.0
    feature_entropy: float = 0.1
    steps: int = 100
    rate: float = 0.1

    card: ClassVar[Card] = Card(
        name="gnnexplainer",
        title="GNNExplainer",
        question="Which few edges and node features of this graph are enough for the prediction?",
        form="attribution",
        scope="local",
        citation="ying2019gnnexplainer",
        needs=("gradient", "graph"),
        data_types=("graph",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "002": "post-hoc/saliency/masks",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded"),
        trial={"steps": 3},
        cost="1 forward and backward per step (100), and up to 12 forwards",
        supports=("these edges alone leave the class this probability: `subgraph_score` against `score`",),
        limits=(
            "that no other subgraph would do: the optimum is a local one and depends on the seed",
            "the sign of an edge's influence: a mask says kept or not",
            "single features of single nodes: a column is masked for all nodes at once",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        needs_module(subject, "gradients")
        graph = _Graph(self, ask)
        if ask.target.index is None:
            raise NeedError(
                "The model must give scores of two classes or more, (rows, classes)",
                got=f"shape {tuple(ask.output.shape) if ask.output is not None else ()}",
                hint="px.Subject(model, output=lambda out: out[:, node]) for a class of one node",
            )
        graph.aim()
        logits, features, reached = _descend(graph)
        edges = graph.spread(logits.sigmoid()) * reached
        facts = _measure(graph, edges, features.sigmoid())
        facts["reached_edges"] = graph.count(reached)
        ask.path = graph.ask.path
        kind = graph.x.dtype
        values = graph.pair(features.sigmoid()[:, None].to(kind), edges.to(kind))
        return Attribution(values=ask.inputs.wrap(values), facts=facts)

    def _check(self) -> None:
        for name in PRICES:
            number(name, getattr(self, name), 0.0)
        if number("rate", self.rate, 0.0) == 0:
            raise MethodError("The 'rate' must be positive", got=repr(self.rate))
        whole(steps=(self.steps, 1))
        if self.fill not in FILLS:
            raise MethodError(f"The 'fill' must be one of {FILLS}", got=repr(self.fill))
        if not isinstance(self.directed, bool):
            raise MethodError("The 'directed' must be True or False", got=repr(self.directed))


class _Graph:
    """Graphs with their edges, checked; masks are kept in double precision."""

    def __init__(self, method: GNNExplainer, ask: Ask) -> None:
        self.method, self.ask = method, ask
        self.place = _which(method.adjacency, ask)
        self.x, self.a = ask.inputs.floats[1 - self.place], ask.inputs.floats[self.place]
        if ask.layer is not None:
            raise LayerError("The 'layer' must be left out: edges are masked at the input", got=repr(str(ask.layer)))
        if ask.wanted is not None and not isinstance(ask.wanted, Tensor):
            raise TargetError("The 'target' must be a class, whose probability is kept", got=repr(ask.wanted))
        nodes = self.a.shape[1]
        if self.x.dim() != 3 or self.a.dim() != 3 or self.x.shape[1] != nodes or self.a.shape[2] != nodes:
            raise _misfit(ask)
        off = ~torch.eye(nodes, dtype=torch.bool, device=self.a.device)
        self.edge = (self.a != 0) & off
        if not method.directed and not torch.equal(self.edge, self.edge.mT):
            raise InputError(
                "The adjacency in 'inputs' must have each edge in both directions",
                got="a directed graph",
                hint="directed=True",
            )
        # An undirected edge is one parameter, held above the diagonal.
        self.own = self.edge if method.directed else self.edge & torch.ones_like(off).triu(1)
        self.loops = (self.a * ~off).double()
        real = (self.x != 0).any(2) | (self.a != 0).any(1) | (self.a != 0).any(2)
        self.order = real.long().argsort(dim=1, descending=True, stable=True)  # nodes that are no padding come first
        self.real = real.sum(1)

    def aim(self) -> None:
        """Ask for log-probabilities from here on."""
        wanted = self.ask.target
        self.ask = replace(
            self.ask, _target=chance.LogProbability(index=wanted.index), passes=self.ask.inputs.rows * self.method.steps
        )

    def pair(self, features: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """The two in the order of the inputs."""
        return (features, edges) if self.place == 1 else (edges, features)

    def spread(self, own: Tensor) -> Tensor:
        """A figure per parameter over the edges it stands for, zero elsewhere."""
        found = torch.where(self.own, own, 0)
        return found if self.method.directed else found + found.mT

    def gather(self, slopes: Tensor) -> Tensor:
        """Slopes by edges, summed per parameter."""
        return torch.where(self.own, slopes if self.method.directed else slopes + slopes.mT, 0)

    def count(self, kept: Tensor) -> Tensor:
        """How many edges of each row are kept, each counted once."""
        return ((kept != 0) & self.own).sum((1, 2)).double().cpu()

    def fills(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Z for these rows: zeros, or each column's values drawn from the row's own nodes."""
        if self.method.fill == "zero":
            return torch.zeros_like(self.x[rows.to(self.x.device)])
        keys = [self.ask.keys[i] + b" fill" for i in rows.tolist()]
        chance = seed.uniform(self.ask.seed, keys, draws.tolist(), tuple(self.x.shape[1:]), self.x.double())
        rows = rows.to(self.x.device)
        which = (chance * self.real[rows, None, None]).long().clamp(max=self.x.shape[1] - 1)
        nodes = self.order[rows][:, :, None].expand_as(which).gather(1, which)
        return self.x[rows].gather(1, nodes)

    def point(self, rows: Tensor, fill: Tensor, edges: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs under masks (rows, nodes, nodes) and (rows, features)."""
        rows = rows.to(self.x.device)
        x, kind = self.x[rows], self.x.dtype
        told = fill + (x - fill) * features[:, None].to(kind)
        masked = self.a[rows].double() * edges + self.loops[rows]
        return self.pair(told, torch.where(self.edge[rows], masked, self.a[rows].double()).to(kind))


def _which(adjacency: Any, ask: Ask) -> int:
    """0 or 1: which of the two floating inputs is the adjacency."""
    inputs = ask.inputs
    if len(inputs.explained) != 2:
        raise _misfit(ask)
    if isinstance(adjacency, str):
        names = [inputs.names[i] for i in inputs.explained] if inputs.names else []
        if adjacency not in names:
            raise MethodError("The 'adjacency' must name an input", got=repr(adjacency), hint=f"one of {names}")
        return names.index(adjacency)
    if isinstance(adjacency, bool) or not isinstance(adjacency, int) or adjacency not in inputs.explained:
        raise MethodError(f"The 'adjacency' must be one of the positions {inputs.explained}", got=repr(adjacency))
    return inputs.explained.index(adjacency)


def _misfit(ask: Ask) -> InputError:
    shapes = ", ".join(str(tuple(x.shape)) for x in ask.inputs.tensors)
    return InputError(
        "The 'inputs' must be graphs: features (rows, nodes, features) and adjacency (rows, nodes, nodes)",
        got=f"shapes {shapes}",
        hint="(features, adjacency), with adjacency= where it is not the second",
    )


def _entropy(mask: Tensor) -> Tensor:
    """Binary entropy in nats."""
    return -(torch.xlogy(mask, mask) + torch.xlogy(1 - mask, 1 - mask))


def _descend(graph: _Graph) -> tuple[Tensor, Tensor, Tensor]:
    """M (N, nodes, nodes), F (N, features), and the edges that the prediction ever depended on."""
    method, ask, (rows, nodes, _) = graph.method, graph.ask, graph.a.shape
    wide = math.sqrt(2) * math.sqrt(2 / (2 * nodes))
    like, keys = graph.a.double(), [k + b" start" for k in ask.keys]
    logits = 1 + wide * seed.normal(ask.seed, keys, [0] * rows, (nodes, nodes), like)
    features = 0.1 * seed.normal(ask.seed, keys, [1] * rows, (graph.x.shape[2],), like)
    reached, parameters = torch.zeros_like(graph.edge), (logits, features)
    mean, square = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(method.steps):
        slopes, touched = _slopes(graph, logits, features, step)
        reached |= touched
        for i, (parameter, slope) in enumerate(zip(parameters, slopes, strict=True)):
            mean[i].lerp_(slope, 1 - DECAY)
            square[i].lerp_(slope.square(), 1 - SECOND)
            size = (square[i] / (1 - SECOND ** (step + 1))).sqrt() + TINY
            parameter -= method.rate * mean[i] / (1 - DECAY ** (step + 1)) / size
    return logits, features, reached


def _slopes(graph: _Graph, logits: Tensor, features: Tensor, step: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The objective's derivatives by M and F, and the edges on which the prediction depends here."""
    method, edges, told = graph.method, graph.spread(logits.sigmoid()), features.sigmoid()
    by_edge, by_feature = torch.zeros_like(edges), torch.zeros_like(told)
    touched = torch.zeros_like(graph.edge)

    def points(rows: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        fill = graph.fills(rows, torch.full_like(rows, step))
        return graph.point(rows, fill, edges[rows.to(edges.device)], told[rows.to(edges.device)])

    def fold(rows: Tensor, _: Tensor, found: gradient.Gradient) -> None:
        at, grads = rows.to(edges.device), found.grads
        fill = graph.fills(rows, torch.full_like(rows, step))
        by_edge[at] = -grads[graph.place].double() * graph.a[at].double()
        by_feature[at] = -(grads[1 - graph.place].double() * (graph.x[at] - fill).double()).sum(1)
        touched[at] = (by_edge[at] != 0) & graph.edge[at]

    gradient.sweep(graph.ask, 1, points, fold, label=method.card.title)
    mask, share = logits.sigmoid(), method.entropy / graph.own.double().sum((1, 2)).clamp(min=1)[:, None, None]
    # The derivative of the entropy by the mask is -logit.
    slope = graph.gather(by_edge) + torch.where(graph.own, method.size - share * logits, 0)
    columns = told.shape[1]
    level = by_feature + method.feature_size / columns - method.feature_entropy / columns * features
    touched = touched if method.directed else touched | touched.mT
    return (slope * mask * (1 - mask), level * told * (1 - told)), touched


def _measure(graph: _Graph, edges: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Probabilities under the masks, and how many edges they keep."""
    kept = ((edges >= 0.5) & graph.edge).double()
    every, ones = graph.edge.double(), torch.ones_like(features)
    plans = [(every, ones), (kept, ones), (every - kept, ones)]
    draws = DRAWS if graph.method.fill == "marginal" else 1
    plans += [(edges, features)] * draws
    found = torch.zeros(len(edges), len(plans), dtype=torch.float64)
    masks, columns = torch.stack([p[0] for p in plans], 1), torch.stack([p[1] for p in plans], 1)

    def points(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
        fill = graph.fills(rows, graph.method.steps + which)
        at, of = rows.to(masks.device), which.to(masks.device)
        return graph.point(rows, fill, masks[at, of], columns[at, of])

    def fold(rows: Tensor, which: Tensor, logs: Tensor) -> None:
        found[rows, which] = logs.cpu().double().exp()

    score.sweep(graph.ask, len(plans), points, fold)
    count = graph.own.sum((1, 2)).clamp(min=1)
    return {
        "score": found[:, 0],
        "masked_score": found[:, 3:].mean(1),
        "subgraph_score": found[:, 1],
        "without_subgraph": found[:, 2],
        "edges": graph.count(graph.edge),
        "subgraph_edges": graph.count(kept),
        "undecided": (torch.where(graph.own, _entropy(edges), 0).sum((1, 2)) / count).cpu(),
    }
