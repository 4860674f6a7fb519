"""How large is a rule model, how often do its rules speak, and would another draw have given the same ones?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method, Rules
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.data import rows_like
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.engine.settings import whole

__all__ = ["RuleComplexity"]

COUNTS = ("conditions", "rules", "depth", "antecedents", "path_length")


@dataclass(frozen=True, kw_only=True)
class RuleComplexity(Evaluation):
    """How large are the rules, how many of them speak for a case, and do they hold what they promise?

    ``values`` (1,) is the size that ``figure`` names; facts, each (1,), are all of them:

    - ``rules``; ``depth``, tests on the longest way; ``conditions``, bounds in all rules together (an interval has two);
      ``antecedents``, conditions per rule; ``path_length``, the tests that a row of data passes on its way to the answer,
      on average: the mean depth of the leaves, weighted by the data that reach them.
    - ``coverage``, the share of the data that some rule speaks for; ``overlap``, how many rules do, on average over these.
    - ``fidelity``, agreement with the network, as the rules report it; ``accuracy``, with the labels, where the data have
      whole ones; ``consistency``, the share of rows on which rules from other seeds say the same, mean over ``repeats``
      (for numbers R², at least 0).

    Conditions, coverage and path length are counted anew from the rules, where these are intervals of columns (trees); of
    other structures only what they report about their own size is told.

    Args:
        of: the explanation that is measured: a method of the form rules, or its name.
        figure: "conditions", "rules", "depth", "antecedents" or "path_length".
        repeats: other seeds under which the rules are fitted again; 0 for none.

    Cost: that of ``of``, and ``repeats`` fits.
    Known failure: equal counts are not equally hard to read: long names, thresholds in strange units and unfamiliar columns
    are not counted.
    Source: Tickle, Andrews, Golea & Diederich 1998 (fidelity, accuracy, consistency, comprehensibility as numbers of
    rules and antecedents); path length: Wu et al. 2018.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
        >>> model = lambda v: torch.stack([0.5 - v[:, 0], v[:, 0] - 0.5], dim=1)
        >>> found = px.explain(model, x[:3], "rule-complexity-metrics", data=x)
        >>> found.values.item(), found.facts["path_length"].item(), found.facts["overlap"].item()
        (2.0, 1.0, 1.0)
    """

    of: str | Method = "cart-c45-surrogate"
    figure: str = "conditions"
    repeats: int = 3

    wants: ClassVar[tuple[str, ...]] = ("rules",)
    card: ClassVar[Card] = Card(
        name="rule-complexity-metrics",
        title="Complexity and quality of rules",
        question="How large are the rules, how many of them speak for a case, and do they hold what they promise?",
        form="measure",
        scope="global",
        citation="tickle1998truth",
        needs=("predictions", "data"),
        data_types=("table", "image"),
        taxonomy={"002": "evaluation/complexity", "003": "evaluation/rules"},
        claims=("seeded",),
        trial={"repeats": 1},
        cost="4 fits of the rules",
        supports=(
            "how much a person must read and check to use these rules",
            "whether they would come out the same again",
        ),
        limits=("whether a person understands them",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.figure not in COUNTS:
            raise MethodError(f"The 'figure' must be one of {COUNTS}", got=repr(self.figure))
        whole(repeats=(self.repeats, 0))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        assert isinstance(judged.result, Rules)
        structure, rows = judged.result.structure, rows_like(judged.ask.data, ask.inputs)
        columns = side_by_side(rows.inputs.floats)
        figures = {name: float(count) for name, count in structure.size().items()} | speaking(structure, columns)
        if self.figure not in figures:
            raise MethodError(
                f"The 'figure' must be one that the rules of {judged.method.card.name!r} have, {tuple(figures)}",
                got=repr(self.figure),
            )
        said = structure.predict(columns)
        figures["fidelity"] = float(judged.result.fidelity)
        labels = rows.labels
        if labels is not None and not labels.is_floating_point() and not said.is_floating_point():
            figures["accuracy"] = float((said == labels.to(said.device)).double().mean())
        if self.repeats:
            others = [self.refitted(subject, judged, ask.seed + k + 1) for k in range(self.repeats)]
            agreed = [alike(said, other.structure.predict(columns)) for other in others]
            figures["consistency"] = sum(agreed) / len(agreed)
        facts = {name: torch.tensor([value], dtype=torch.float64) for name, value in figures.items()}
        return Measure(
            values=facts[self.figure].clone(), better="lower", unit=self.figure.replace("_", " "), facts=facts
        )

    def refitted(self, subject: Subject, judged: Judged, seed: int) -> Rules:
        """The rules as they come out under another seed."""
        asked = replace(judged.ask, seed=seed)
        found = judged.method.explain(subject, asked, judged.method.prepare(subject, asked))
        assert isinstance(found, Rules)
        return found


def side_by_side(floats: tuple[Tensor, ...]) -> Tensor:
    """All floating inputs as columns, as rules read them."""
    return torch.cat([x.detach().flatten(1).cpu() for x in floats], 1)


def speaking(structure: Any, columns: Tensor) -> dict[str, float]:
    """Conditions, coverage, overlap and path length by going through the rules, where these are intervals of columns."""
    if not callable(getattr(structure, "rules", None)):
        return {}
    rules = structure.rules()
    if not all(isinstance(getattr(rule, "bounds", None), dict) for rule in rules):
        return {}
    x = columns.double()
    fires = torch.ones(len(x), len(rules), dtype=torch.bool)
    counts = []
    for number, rule in enumerate(rules):
        for column, (low, high) in rule.bounds.items():
            fires[:, number] &= (x[:, column] > low) & (x[:, column] <= high)
        counts.append(sum(abs(b) != float("inf") for bounds in rule.bounds.values() for b in bounds))
    spoken = fires.sum(1)
    found = {
        "conditions": float(sum(counts)),
        "antecedents": sum(counts) / max(1, len(rules)),
        "coverage": float((spoken > 0).double().mean()),
        "overlap": float(spoken[spoken > 0].double().mean()) if bool((spoken > 0).any()) else 0.0,
    }
    if callable(getattr(structure, "leaf", None)) and isinstance(getattr(structure, "depth", None), Tensor):
        found["path_length"] = float(structure.depth[structure.leaf(columns)].double().mean())
    return found


def alike(one: Tensor, other: Tensor) -> float:
    """The share of equal classes; for numbers R², at least 0 (1 where both are constant and equal)."""
    if not one.is_floating_point():
        return float((one == other).double().mean())
    spread, gap = (one - one.mean()).square().sum(), (one - other).square().sum()
    if float(spread) == 0:
        return float(float(gap) == 0)
    return max(0.0, float(1 - gap / spread))
