"""Could a person work this model's answer out by hand? Operations, one prediction at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method, Rules, as_method
from pellucid.contract.errors import MethodError, NeedError
from pellucid.engine import Ask, Subject, needs
from pellucid.engine.operations import KINDS, Counts, counted
from pellucid.evaluation.complexity_rules import side_by_side

__all__ = ["Simulatability"]


@dataclass(frozen=True, kw_only=True)
class Simulatability(Method):
    """How many steps would a person take to work this answer out by hand?

    ``values`` (N,) is the number of operations for each row: products (divisions too), additions (subtractions too),
    comparisons, and values looked up in a table (exp, tanh, roots, the vector of a word). With ``of=None`` they are those
    of the network itself, counted while it runs on the row: weights are taken as they are, a batch norm is one product
    and one addition a value, and choosing among C scores takes C - 1 comparisons. With rules, ``of="cart-c45-surrogate"``
    for example, they are the tests that the row passes: in a tree those on its path, in a list of rules all that are read
    until one speaks.

    Facts: ``multiplications``, ``additions``, ``comparisons``, ``lookups``. ``source["size"]``: the numbers that the whole
    model is made of (``parameters``), or the size of the rules. So a model can be readable piece by piece and still be out
    of reach as a whole: a linear model of a thousand columns takes more steps than a small network.

    Args:
        of: the rules that are worked through, a method of the form rules; None: the network itself.

    Cost: one forward per row; with rules, that of fitting them.
    Known failure: operations are not equally hard, and a person may see a shortcut that counting does not. What people
    really manage is told by a study: `simulation_tasks` writes its questions.
    Source: Lipton 2018, §3.1 (simulatability); the counts are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).eval()
        >>> px.explain(net, torch.ones(1, 3), "simulatability").values.item()  # three products, two sums and the bias
        6.0
    """

    of: str | Method | None = None

    card: ClassVar[Card] = Card(
        name="simulatability",
        title="Simulatability",
        question="How many steps would a person take to work this answer out by hand?",
        form="measure",
        scope="local",
        citation="lipton2018mythos",
        needs=("predictions",),
        data_types=("any",),
        taxonomy={"001": "transparency/simulatability", "002": "evaluation/complexity"},
        claims=("rowwise", "deterministic"),
        cost="one forward per row",
        supports=("which of two models of the same rows takes fewer steps to work through",),
        limits=("whether a person would manage, or understand what was worked out",),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        if self.of is None:
            return self.card.claims
        return ("rowwise", *({"seeded", "deterministic"} & {*as_method(self.of).claims}))

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        counts, size = self.of_network(subject, ask) if self.of is None else self.of_rules(subject, ask)
        facts = {kind: torch.tensor([float(c[kind]) for c in counts], dtype=torch.float64) for kind in KINDS}
        total = torch.stack([*facts.values()]).sum(0)
        return Measure(values=total, better="lower", unit="operations", facts=facts, source={"size": size})

    def of_network(self, subject: Subject, ask: Ask) -> tuple[list[Counts], dict[str, int]]:
        """The operations of each row's forward pass and of choosing among its scores."""
        found = []
        for row in range(ask.inputs.rows):
            one = ask.inputs.take(torch.tensor([row]))
            counts, output = counted(lambda one=one: subject.scores(one))  # type: ignore[misc]
            if not any(counts.values()):
                raise NeedError(
                    "The model must compute with torch, so that its operations can be counted",
                    got=f"{type(subject.model).__name__}, which did nothing that is seen",
                )
            scores = output[0].numel()
            found.append(counts | {"comparisons": counts["comparisons"] + (scores - 1 if ask.wanted is None else 0)})
        ask.target  # noqa: B018 - a target that is none is refused, though it plays no part
        module = subject.module
        numbers = 0 if module is None else sum(p.numel() for p in module.parameters())
        return found, {"parameters": numbers}

    def of_rules(self, subject: Subject, ask: Ask) -> tuple[list[Counts], dict[str, int]]:
        """The tests that each row passes on its way to what the rules say."""
        assert self.of is not None
        held = as_method(self.of)
        if held.card.form != "rules":
            raise MethodError("The 'of' must be a method of the form rules, or None", got=f"{held.card.name!r}")
        needs.check(held.card, subject, ask.inputs, ask.data, ask.layer)
        asked = replace(ask)
        result = held.explain(subject, asked, held.prepare(subject, asked))
        assert isinstance(result, Rules)
        for name in ("output", "_target", "path"):
            setattr(ask, name, getattr(asked, name))
        tests = passed_by(result.structure, side_by_side(ask.inputs.floats))
        none = dict.fromkeys(KINDS, 0)
        return [none | {"comparisons": count} for count in tests], {k: int(v) for k, v in result.size.items()}


def passed_by(structure: Any, columns: Tensor) -> list[int]:
    """How many tests each row passes: those of a tree's path, or of the rules of a list until one speaks."""
    if callable(getattr(structure, "leaf", None)) and isinstance(getattr(structure, "depth", None), Tensor):
        return [int(d) for d in structure.depth[structure.leaf(columns)]]
    rules = structure.rules() if callable(getattr(structure, "rules", None)) else ()
    if not rules or not all(isinstance(getattr(rule, "bounds", None), dict) for rule in rules):
        raise MethodError(
            "The rules must be a tree, or a list of intervals of columns, for their tests to be counted",
            got=type(structure).__name__,
        )
    return [_read(rules, row) for row in columns.double().tolist()]


def _read(rules: Any, row: list[float]) -> int:
    """Tests until a rule speaks for the row; within a rule, reading ends at the first test that fails."""
    read = 0
    for rule in rules:
        holds = True
        for column, (low, high) in rule.bounds.items():
            for bound, passed in ((low, row[column] > low), (high, row[column] <= high)):
                if abs(bound) != float("inf") and holds:
                    read, holds = read + 1, passed
        if holds:
            break
    return read
