"""How much can a method explain: which rows, and which types of data? With the reason for each that it can not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Explanation, Measure, Rules, tensors
from pellucid.contract.errors import MethodError, PellucidError
from pellucid.engine import Ask, Subject, needs
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.evaluation.complexity_rules import side_by_side
from pellucid.evaluation.universality import FORMS, by_type, cell
from pellucid.zoo.architectures import ARCHITECTURES

__all__ = ["Coverage"]

ABSTAINS = -1  # the class that rules give where none of them speaks


@dataclass(frozen=True, kw_only=True)
class Coverage(Evaluation):
    """Which of these rows can the method explain, which types of data, and why not the others?

    ``values`` is 1 for rows with an explanation whose values are finite, 0 for rows without. Where the method refuses the
    rows together, each is asked about alone, so that one bad row does not take the others with it;
    ``source["reasons"]`` says why for each row that has none. For rules, a row counts where some rule speaks for it.

    With ``types``, ``source["types"]`` is a table by type of data (tables, pictures, sequences, words, graphs, two inputs)
    of the small models that the method can explain, of how many, and the reason for each that it can't: see
    `Universality`. Fact ``share``, the same for every row: the mean over the types of data.

    Args:
        of: the explanation that is measured: a method or its name, of any form that explains.
        types: also try the types of data.

    Cost: that of ``of``; where it refuses, once for each row; with ``types``, 28 explanations of small models.
    Known failure: a row that gets an explanation need not get a right one.
    Source: Fan, Xiong, Li & Wang 2021, §I-C (completeness: of instances and types of data).

    Example:
        >>> import torch, pellucid as px
        >>> model = lambda x: torch.stack([x[:, 0].log(), x[:, 1]], 1)  # -1 has no logarithm
        >>> method, x = px.evaluation.Coverage(of="feature-ablation"), torch.tensor([[1.0, 2.0], [-1.0, 2.0]])
        >>> found = px.explain(model, x, method, target=1)
        >>> found.values.tolist(), list(found.source["reasons"])
        ([1.0, 0.0], ['1'])
    """

    types: bool = False

    wants: ClassVar[tuple[str, ...]] = FORMS
    card: ClassVar[Card] = Card(
        name="completeness-quality",
        title="Completeness of a method",
        question="Which rows and types of data can the method explain, and why not the others?",
        form="measure",
        scope="local",
        citation="fan2021interpretability",
        needs=("predictions",),
        taxonomy={"002": "evaluation/completeness"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation"},
        cost="that of the explanation",
        supports=("that a row or a type of data has no explanation by this method, and why",),
        limits=("whether the explanations that there are, are right",),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return self.card.claims if self.held().card.form == "attribution" else ("seeded",)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        if not isinstance(self.types, bool):
            raise MethodError("The 'types' must be True or False", got=repr(self.types))
        method = self.held()
        _, given = self.split(ask.data)
        needs.check(method.card, subject, ask.inputs, given, ask.layer)
        asked, reasons = replace(ask, data=given), dict[str, str]()
        try:
            found = method.explain(subject, asked, method.prepare(subject, asked))
            ask.output, ask._target = asked.output, asked._target
            covered = self.spoken(found, asked, reasons)
        except PellucidError as error:
            covered = self.alone(subject, asked, reasons, error)
        told: dict[str, Any] = {"reasons": reasons, "rows": len(covered), "explained": int(covered.sum())}
        facts = {}
        if self.types:
            table, share = self.by_type()
            told["types"] = table
            facts["share"] = torch.full_like(covered, share)
        return Measure(values=covered, better="higher", unit="explained", facts=facts, source=told)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        """Of an explanation that is there."""
        reasons = dict[str, str]()
        covered = self.spoken(judged.result, judged.ask, reasons)
        return Measure(values=covered, better="higher", unit="explained", source={"reasons": reasons})

    def alone(self, subject: Subject, ask: Ask, reasons: dict[str, str], together: PellucidError) -> Tensor:
        """Each row by itself; where none has an explanation, that is what the method says of the call."""
        found = torch.zeros(ask.inputs.rows, dtype=torch.float64)
        for i in range(ask.inputs.rows):
            row = torch.tensor([i])
            wanted = ask.wanted[row] if isinstance(ask.wanted, Tensor) and ask.wanted.dim() else ask.wanted
            asked = replace(ask, inputs=ask.inputs.take(row), wanted=wanted, output=None, _target=None)
            own: dict[str, str] = {}
            try:
                said = self.held().explain(subject, asked, self.held().prepare(subject, asked))
                found[i] = self.spoken(said, asked, own)[0]
            except PellucidError as error:
                own["0"] = str(error).split("\n", 1)[0]
            if own:
                reasons[str(i)] = own["0"]
        if not found.any():
            raise together
        return found

    def spoken(self, found: Explanation, ask: Ask, reasons: dict[str, str]) -> Tensor:
        """1 for the rows that the explanation speaks of, with values that are numbers."""
        covered = torch.ones(ask.inputs.rows, dtype=torch.float64)
        if found.form == "attribution":
            for v in tensors(found.values):  # type: ignore[attr-defined]
                if len(v) == len(covered) and v.numel():
                    covered *= v.detach().cpu().isfinite().reshape(len(v), -1).all(1).double()
            why = "values that are not finite"
        elif isinstance(found, Rules):
            covered, why = ruled(found, side_by_side(ask.inputs.floats)), "no rule speaks for it"
        for i in (covered == 0).nonzero()[:, 0].tolist():
            reasons[str(i)] = why
        return covered

    def by_type(self) -> tuple[dict[str, Any], float]:
        """What the method can explain of each type of data."""
        method, kinds = self.held(), {a.name: a.kind for a in ARCHITECTURES}
        cells = {a.name: cell(method, a) for a in ARCHITECTURES}
        counts = by_type(cells, kinds)
        table = {
            kind: {
                "explained": int(works),
                "of": int(total),
                "reasons": {n: c for n, c in cells.items() if kinds[n] == kind and c != "works"},
            }
            for kind, (works, total) in counts.items()
        }
        return table, sum(works > 0 for works, _ in counts.values()) / len(counts)


def ruled(rules: Rules, columns: Tensor) -> Tensor:
    """1 for the rows that some rule speaks for: its answer is a class, or a number, and not an abstention."""
    said = rules.structure.predict(columns)
    return (said.isfinite() if said.is_floating_point() else said != ABSTAINS).double().cpu()
