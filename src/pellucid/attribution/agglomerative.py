"""Which features act together, and in which order do they combine? A hierarchy of groups, built from the bottom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.contextual import check, grouped
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, contextual, fill
from pellucid.engine.decomposition import wrap
from pellucid.engine.feature import NOWHERE, Features
from pellucid.engine.inputs import Inputs

__all__ = ["AgglomerativeDecomposition"]

NEIGHBOURS = ("auto", "adjacent", "all")
MOST_PAIRS = 5000
Group = frozenset[int]


@dataclass(frozen=True, kw_only=True)
class AgglomerativeDecomposition(Method):
    """Which features act together, and which groups of them?

    Every feature starts as a group of its own. In each round all pairs of neighbouring groups are scored by their
    interaction, ``β(A ∪ B) - β(A) - β(B)`` with β from contextual decomposition, and those of the largest absolute
    interaction are merged, best first, each group once, until one group is left. What merges early acts together; the
    score of a group says what it adds to the score, in score units, positive raises it.

    The values are the β of each feature alone, the leaves of the hierarchy. ``source["hierarchy"]`` holds for each row
    the list of groups in the order they came to be: ``features``, ``children`` (positions in the list), ``score``,
    ``interaction`` and ``round``; leaves first, the root last.

    Facts: ``score``; ``root_score``, β of all features, and ``root_gap``, its distance from the score (less the output
    bias, where that is kept apart); ``largest_interaction``, its absolute value; ``first_merge_interaction``.

    Args:
        features: what counts as one feature, as for contextual decomposition; ``data={"groups": mask}`` for others.
        neighbours: "adjacent" merges features that touch, "all" any two, "auto" any two for tables.
        percentile: in each round, pairs are merged whose absolute interaction reaches this percentile.
        output_bias: "share" gives the last bias a place in the groups, so that the root is the score; or "apart".

    Cost: contextual decomposition of each feature and of each pair of neighbours that comes up: for n words about 3n, for
    a table about n² groups.
    Known failure: as contextual decomposition; features that matter little by their interaction merge in chance order.
    Source: Singh, Murdoch & Yu 2019, §3, algorithm 1. There the priority of a candidate is the change of the growing
    group's score; here the other group's own score is taken off as well, so that a strong neighbour is no interaction.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "acd", target=0)
        >>> [group["features"] for group in result.source["hierarchy"][0]][-1]
        [0, 1, 2]
    """

    features: str | tuple[Any, ...] = "auto"
    neighbours: str = "auto"
    percentile: float = 95.0
    output_bias: str = "share"

    card: ClassVar[Card] = Card(
        name="acd",
        title="Agglomerative contextual decomposition",
        question="Which features act together, and which groups of them?",
        form="attribution",
        scope="local",
        citation="singh2019hierarchical",
        needs=("gradient", "backward rules"),
        taxonomy={
            "000": "structural/decomposition",
            "002": "post-hoc/saliency/decomposition",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "spelling invariant", "score scale"),
        trial={"features": "auto"},
        cost="about 4 forwards per group: some 3 groups per word",
        supports=("which phrases or regions the network reads as one", "where a phrase turns the meaning of its words"),
        limits=("what happens if a group is removed", "interactions between groups that are not neighbours"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check(self.output_bias)
        if self.neighbours not in NEIGHBOURS:
            raise MethodError(f"The 'neighbours' must be one of {NEIGHBOURS}", got=repr(self.neighbours))
        if isinstance(self.percentile, bool) or not 0 <= self.percentile <= 100:
            raise MethodError("The 'percentile' must be from 0 to 100", got=repr(self.percentile), hint="percentile=95")
        held = fill.explained(ask)
        found = grouped(self.features, ask.data, held)
        everywhere = self.neighbours == "all" or (self.neighbours == "auto" and all(x.dim() == 2 for x in held.floats))
        trees = [_Tree(*_graph(found, row, everywhere)) for row in range(held.rows)]
        scorer = _Scorer(ask, found, self.output_bias, self.card.title)
        round_number = 0
        scorer.fill({row: [frozenset([i]) for i in tree.leaves] for row, tree in enumerate(trees)})
        while open_rows := {row: tree.candidates() for row, tree in enumerate(trees) if len(tree.groups) > 1}:
            round_number += 1
            scorer.fill(open_rows)
            for row in open_rows:
                trees[row].merge(scorer.known[row], self.percentile, round_number)
        return _result(ask, held, found, trees, scorer)


class _Scorer:
    """β of groups, each asked for once per row."""

    def __init__(self, ask: Ask, features: Features, output_bias: str, label: str) -> None:
        self.ask, self.features, self.output_bias, self.label = ask, features, output_bias, label
        self.known: list[dict[Group, float]] = [{} for _ in range(ask.inputs.rows)]
        self.score = torch.zeros(ask.inputs.rows, dtype=torch.float64)
        self.constant = torch.zeros(ask.inputs.rows, dtype=torch.float64)

    def fill(self, wanted: Mapping[int, list[Group]]) -> None:
        """Score what is not known yet, all rows together."""
        jobs = [(row, g) for row, groups in wanted.items() for g in groups if g not in self.known[row]]
        if not jobs:
            return
        rows = torch.tensor([row for row, _ in jobs])

        def masks(chunk: Tensor) -> tuple[Tensor, ...]:
            chosen = torch.zeros(len(chunk), self.features.count + 1, dtype=torch.bool)
            for k, job in enumerate(chunk.tolist()):
                chosen[k, list(jobs[job][1])] = True
            return tuple(_inside(labels, chosen, rows[chunk]) for labels in self.features.labels)

        found = contextual.split(self.ask, rows, masks, output_bias=self.output_bias, label=self.label)
        for k, (row, group) in enumerate(jobs):
            self.known[row][group] = float(found.group[k])
        self.score[rows] = found.score.double().cpu()
        self.constant[rows] = found.constant.double().cpu()


def _inside(labels: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
    """Where the chosen features lie, for each job: the last column of `chosen` stands for no feature."""
    own = labels.expand(len(rows), *labels.shape[1:]) if labels.shape[0] == 1 else labels[rows.to(labels.device)]
    number = torch.where(own == NOWHERE, chosen.shape[1] - 1, own)
    return chosen.to(labels.device).gather(1, number.flatten(1)).reshape(own.shape)


class _Tree:
    """The groups of one row so far: which are still separate, which of them are neighbours, and the list of all."""

    def __init__(self, leaves: list[int], pairs: set[frozenset[int]]) -> None:
        self.leaves, self.pairs = leaves, pairs
        self.groups: list[Group] = [frozenset([i]) for i in leaves]
        self.made: list[dict[str, Any]] = []
        self.place: dict[Group, int] = {}

    def touching(self) -> list[tuple[Group, Group]]:
        """Pairs of separate groups that are neighbours; any two where nothing else can be merged."""
        owner = {i: g for g in self.groups for i in g}
        found = {frozenset((owner[i], owner[j])) for i, j in map(sorted, self.pairs) if owner[i] != owner[j]}
        ordered = sorted(
            (tuple(sorted(pair, key=sorted)) for pair in found), key=lambda p: (sorted(p[0]), sorted(p[1]))
        )
        return [(a, b) for a, b in ordered] or list(combinations(sorted(self.groups, key=sorted), 2))

    def candidates(self) -> list[Group]:
        """The groups that could be made next."""
        return [a | b for a, b in self.touching()]

    def merge(self, score: Mapping[Group, float], percentile: float, number: int) -> None:
        """Merge the pairs that interact most, best first, each group once."""
        pairs = self.touching()
        strength = {pair: score[pair[0] | pair[1]] - score[pair[0]] - score[pair[1]] for pair in pairs}
        sizes = torch.tensor([abs(strength[p]) for p in pairs], dtype=torch.float64)
        least = float(torch.quantile(sizes, percentile / 100, interpolation="lower"))
        used: set[Group] = set()
        # Equal to rounding counts as equal, so that ties are broken by position and not by the last bit.
        for pair in sorted(pairs, key=lambda p: float(f"{-abs(strength[p]):.9g}")):
            a, b = pair
            if abs(strength[pair]) < least or a in used or b in used:
                continue
            used |= {a, b}
            self.groups = [g for g in self.groups if g not in (a, b)] + [a | b]
            self.made.append({"group": a | b, "children": (a, b), "interaction": strength[pair], "round": number})

    def hierarchy(self, score: Mapping[Group, float]) -> list[dict[str, Any]]:
        """All groups as plain data, leaves first."""
        nodes: list[dict[str, Any]] = []
        place: dict[Group, int] = {}
        leaves = [{"group": frozenset([i]), "children": (), "interaction": 0.0, "round": 0} for i in self.leaves]
        for made in [*leaves, *self.made]:
            group = made["group"]
            place[group] = len(nodes)
            children = [place[c] for c in made["children"]]
            nodes.append({"features": sorted(group), "children": children, "score": score[group],
                          "interaction": made["interaction"], "round": made["round"]})  # fmt: skip
        return nodes


def _graph(found: Features, row: int, everywhere: bool) -> tuple[list[int], set[frozenset[int]]]:
    """The features that a row has, and which of them are neighbours."""
    owns = [labels[0 if labels.shape[0] == 1 else row] for labels in found.labels]
    leaves = sorted({int(i) for own in owns for i in own.unique().tolist() if i != NOWHERE})
    if everywhere:
        pairs = {frozenset(pair) for pair in combinations(leaves, 2)}
    else:
        pairs = {frozenset(p) for own in owns for axis in range(own.dim()) for p in _beside(own, axis)}
    if len(pairs) > MOST_PAIRS:
        raise InputError(
            f"The 'features' must have at most {MOST_PAIRS} pairs of neighbours",
            got=f"{len(leaves)} features with {len(pairs)} pairs",
            hint="fewer features, such as ('grid', 8), or neighbours='adjacent'",
        )
    return leaves, pairs


def _beside(own: Tensor, axis: int) -> list[tuple[int, int]]:
    a, b = own.narrow(axis, 0, own.shape[axis] - 1), own.narrow(axis, 1, own.shape[axis] - 1)
    apart = (a != b) & (a != NOWHERE) & (b != NOWHERE)
    return [(i, j) for i, j in torch.stack([a[apart], b[apart]], 1).unique(dim=0).tolist()]


def _result(ask: Ask, held: Inputs, found: Features, trees: list[_Tree], scorer: _Scorer) -> Attribution:
    figures = torch.zeros(held.rows, found.count, dtype=held.floats[0].dtype, device=held.device)
    roots, largest, first = (torch.zeros(held.rows, dtype=torch.float64) for _ in range(3))
    hierarchies = []
    for row, tree in enumerate(trees):
        known = scorer.known[row]
        for i in tree.leaves:
            figures[row, i] = known[frozenset([i])]
        hierarchies.append(tree.hierarchy(known))
        roots[row] = known[tree.groups[0]]
        if tree.made:
            largest[row] = max(abs(m["interaction"]) for m in tree.made)
            first[row] = tree.made[0]["interaction"]
    facts = {
        "score": scorer.score,
        "root_score": roots,
        "root_gap": (roots + scorer.constant - scorer.score).abs(),
        "largest_interaction": largest,
        "first_merge_interaction": first,
    }
    return Attribution(values=wrap(ask, found.spread(figures, held)), facts=facts, source={"hierarchy": hierarchies})
