"""Which methods say the same on this network, because theory says that they must?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Measure, Method, tensors
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.contract.method import by_name
from pellucid.engine import Ask, Subject, needs
from pellucid.engine.settings import whole
from pellucid.evaluation.completeness import Completeness
from pellucid.evaluation.relation_conditions import CONDITIONS, Question, tell
from pellucid.evaluation.relation_list import CHANGE, RELATIONS, SCORE, Relation

__all__ = ["MethodRelations"]

STATES = ("holds", "broken", "coincides", "differs", "not tried")


@dataclass(frozen=True, kw_only=True)
class MethodRelations(Method):
    """Which methods say the same on this network, because theory says that they must?

    A list of equalities between methods, each with its preconditions: that the score is additive, that units are bent at
    zero alone, that the head pools, and so on. Each precondition is tried on the network itself (its scores at other
    points, or the operations on the way from the inputs to the score), row by row, and both sides are computed. The gap of
    a row is the largest difference between both sides' values, as a share of the largest value. ``values``
    counts a row's relations that have all preconditions and whose gap is above ``tolerance`` (and what their methods stop
    at): 0 where theory holds.

    Facts: ``met``, how many relations have their preconditions and could be tried; ``held``, how many of these hold.
    `parts`: ``gaps`` and ``meets`` (rows, relations), columns as ``source["relations"]``, NaN where it could not be told.
    ``source["relations"]`` is the theory as data: by relation its two sides with their settings, what it says, where it
    is proved, its preconditions with ``met`` and ``why``, the largest ``gap``, and its ``state``: "holds"; "broken",
    which would be an error of a method or of the theory; "coincides", equal although a precondition is missing;
    "differs", as it may then; "not tried", with the reason. `show` draws the relations as a graph.

    ``layer=`` is the layer of class activation maps, ``data=`` a background for the methods that compare with one.

    Args:
        relations: names of some relations; () for all.
        tolerance: up to which gap two explanations count as equal.
        tries: points at which each property of the score is tried.

    Cost: about 25 explanations, and 40 ``tries`` forwards.
    Known failure: a property that holds at the points tried may fail elsewhere; then its relations are said to be broken
    where they only may be. Rows of ten inputs or fewer have all their coalitions asked; others leave these relations out.
    Source: Díez, Khalifa & Leuridan 2013, Arrieta et al. 2020, §5, on what a theory of explanation would need; each
    relation names its own source.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).double().eval()
        >>> found = px.explain(net, torch.ones(1, 3).double(), "systematic-theory-of-explanation")
        >>> found.values.item(), [r["state"] for r in found.source["relations"] if r["name"] == "ablation of a line"]
        (0.0, ['holds'])
    """

    relations: tuple[str, ...] = ()
    tolerance: float = 1e-3
    tries: int = 6

    card: ClassVar[Card] = Card(
        name="systematic-theory-of-explanation",
        title="Relations between methods",
        question="Which methods say the same on this network, because theory says that they must?",
        form="measure",
        scope="local",
        citation="diez2013general",
        needs=("predictions",),
        taxonomy={"001": "theory"},
        claims=("rowwise", "seeded"),
        exempt={"seed used": "the seed picks the points at which properties are tried, which should change no verdict"},
        trial={"relations": ("ablation of a line",), "tries": 1},
        cost="about 25 explanations",
        supports=("that two methods can't be told apart on these rows, and under which property of the network",),
        limits=("that methods which agree are right: they may share an error",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        chosen = self.check(ask)
        ask.score  # noqa: B018 - settles the target before any side is computed
        question, sides = Question(subject, ask, self.tries), dict[Any, Any]()
        conditions = {k: tell(CONDITIONS[k], question) for k in dict.fromkeys(n for r in chosen for n in r.needs)}
        gaps, meets, told = [], [], []
        for relation in chosen:
            met = self.met(relation, conditions, ask.inputs.rows)
            try:
                gap = self.gap(relation, question, sides)
                reason = ""
            except PellucidError as error:
                gap, reason = torch.full_like(met, torch.nan), str(error).split("\n", 1)[0]
            gaps.append(gap)
            meets.append(met)
            told.append(self.told(relation, conditions, met, gap, reason))
        return self.result(torch.stack(gaps, 1), torch.stack(meets, 1), chosen, told)

    def check(self, ask: Ask) -> list[Relation]:
        """The relations that are asked for; refuses wrong settings and inputs."""
        whole(tries=(self.tries, 1))
        value = self.tolerance
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise MethodError("The 'tolerance' must be a number above 0", got=repr(value))
        known = {r.name: r for r in RELATIONS}
        if isinstance(self.relations, str) or (unknown := [n for n in self.relations if n not in known]):
            got = repr(self.relations) if isinstance(self.relations, str) else repr(unknown[0])
            raise MethodError(f"The 'relations' must be a tuple of names among {tuple(known)}", got=got)
        if not ask.inputs.explained:
            kinds = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError("The 'inputs' must have a floating tensor", got=kinds)
        return [known[n] for n in self.relations] or list(RELATIONS)

    def met(self, relation: Relation, conditions: Mapping[str, tuple[Tensor | None, str]], rows: int) -> Tensor:
        """1 for rows that have all preconditions, 0 for those that lack one, NaN where one can't be told."""
        found = torch.ones(rows, dtype=torch.float64)
        for name in relation.needs:
            here = conditions[name][0]
            found = torch.minimum(found, torch.full_like(found, torch.nan) if here is None else here.double())
        return found

    def gap(self, relation: Relation, question: Question, sides: dict[Any, Any]) -> Tensor:
        """By how much the two sides differ, by row."""
        left = self.side(relation.left, relation.left_settings, relation, question, sides)
        values = flat(left)
        if relation.right in (CHANGE, SCORE):
            total, change = values.sum(1), question.ask.score.detach().double().cpu()
            if relation.right == CHANGE:
                total, change, *_ = Completeness().account(replace(question.ask, layer=None), left)
            size = torch.maximum(change.abs(), values.abs().amax(1))
            return (total - change).abs() / torch.where(size > 0, size, 1.0)
        right = self.side(relation.right, relation.right_settings, relation, question, sides)
        other = flat(right)
        if values.shape != other.shape:
            raise MethodError("Both sides must have values of one shape", got=f"{values.shape} and {other.shape}")
        other = other * values.shape[1] if relation.places else other
        size = torch.maximum(values.abs().amax(1), other.abs().amax(1))
        return (values - other).abs().amax(1) / torch.where(size > 0, size, 1.0)

    def side(
        self, name: str, settings: Mapping[str, Any], relation: Relation, question: Question, sides: dict[Any, Any]
    ) -> Attribution:
        """What the method of one side says; the same question is asked once."""
        key = (name, tuple(sorted(settings.items())), relation.data)
        if key not in sides:
            method: Method = by_name(name)(**settings)
            ask, subject = question.ask, question.subject
            layer = ask.layer if "spatial layer" in method.card.needs else None
            given = ask.data if relation.data else None
            needs.check(method.card, subject, ask.inputs, given, layer)
            asked = replace(ask, data=given, layer=layer)
            try:
                sides[key] = method.explain(subject, asked, method.prepare(subject, asked))
            except PellucidError as error:
                sides[key] = error
        found = sides[key]
        if isinstance(found, PellucidError):
            raise found
        assert isinstance(found, Attribution)
        return found

    def told(
        self,
        relation: Relation,
        conditions: Mapping[str, tuple[Tensor | None, str]],
        met: Tensor,
        gap: Tensor,
        reason: str,
    ) -> dict[str, Any]:
        """A relation with what came of it, as plain data."""
        needed = []
        for name in relation.needs:
            here, why = conditions[name]
            holds = None if here is None else bool(here.all())
            needed.append({"name": name, "says": CONDITIONS[name].says, "met": holds, "why": why})
        every, close = bool((met == 1).all()), gap <= self.tolerance + relation.limit
        counted = gap[met == 1] if every else gap
        fine = bool(close[met == 1].all()) if every else bool(close.all())
        state = ("holds" if fine else "broken") if every else ("coincides" if fine else "differs")
        finite = counted[counted.isfinite()]
        return {
            "name": relation.name,
            "left": relation.left,
            "left settings": dict(relation.left_settings),
            "right": relation.right,
            "right settings": dict(relation.right_settings),
            "times": "number of places" if relation.places else "1",
            "says": relation.says,
            "source": relation.source,
            "needs": needed,
            "state": "not tried" if reason or not len(finite) else state,
            "reason": reason,
            "gap": float(finite.max()) if len(finite) else None,
        }

    def result(self, gaps: Tensor, meets: Tensor, chosen: list[Relation], told: list[dict[str, Any]]) -> Measure:
        limits = torch.tensor([self.tolerance + r.limit for r in chosen], dtype=torch.float64)
        counts = (meets == 1) & gaps.isfinite()
        held = (counts & (gaps <= limits)).sum(1).double()
        return Measure(
            values=counts.sum(1).double() - held,
            better="lower",
            unit="broken relations",
            facts={"met": counts.sum(1).double(), "held": held},
            parts={"gaps": gaps, "meets": meets},
            source={"relations": told},
        )


def flat(result: Attribution) -> Tensor:
    """An attribution's values side by side; of maps, the one map."""
    return torch.cat([v.detach().double().cpu().flatten(1) for v in tensors(result.values)], 1)
