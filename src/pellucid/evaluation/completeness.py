"""Do an explanation's values add up to what they claim to share out? The sum against the change of the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Explanation, Measure, Method, tensors
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, coalition, score
from pellucid.engine.decomposition import start
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall
from pellucid.engine.place import parse
from pellucid.engine.settings import whole

__all__ = ["Completeness"]

ROUNDING = 1e-6  # of the two scores: a change below it is rounding, of which no share can be had


@dataclass(frozen=True, kw_only=True)
class Completeness(Evaluation):
    """Do the values add up to the change of the score that they are said to share out?

    ``gap = |Σ_i A_i - (S(x) - S(x'))|`` in score units, and ``values = gap / |S(x) - S(x')|``: 0 where the values are
    complete. The sum and both scores are found anew, in double precision, whatever the method says of itself. x' is the
    method's own baseline; where it tells the mean score of a background alone, that fact is taken for S(x'); where it
    tells neither, as relevance methods, the whole score S(x) has to be shared out. ``source["compared"]`` says which.
    ``values`` is NaN where the score changes by no more than rounding, or a value is NaN; ``source["overall"]`` lists
    such rows and leaves them out.

    Facts: ``gap``; ``sum``, of the values; ``change``, S(x) - S(x'); ``passes``, 1 where the gap is at most ``tolerance``
    of the change, or rounding; where the method keeps books of what its rules and the network's biases absorbed,
    ``absorbed``, their sum, and ``books_gap``, |sum + absorbed - change|. `parts`: with ``layers``, ``layer_sum`` and
    ``layer_gap`` (rows, layers); with ``steps``, ``curve`` (rows, settings), the gap in score units by number of steps.

    Args:
        of: the explanation that is measured: a method or its name.
        baseline: x' instead of the method's: a number, or "zero", "mean", "blur", "min", "max"; "none" compares with S(x).
        features: what the method repeats one figure for, as its own setting ``features``: then each feature counts
            once, with the mean of its values. None: every value counts, or ``parts["players"]`` where the method has it.
        layers: places inside, at each of which the same is asked of the method.
        steps: numbers of ``steps`` to give to a method that has this setting.
        tolerance: which share of the change may be missing.

    Cost: that of ``of``, and one forward; one explanation more for each of ``layers`` and ``steps``.
    Known failure: values can add up and each be wrong: a sum is one number. Values in other units (gradients) have no
    reason to add up, and their gap says nothing against them.
    Source: Sundararajan, Taly & Yan 2017, proposition 1; Shrikumar, Greenside & Kundaje 2017, eq. 1; Bach et al. 2015,
    eq. 2.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).double().eval()
        >>> found = px.explain(net, torch.ones(1, 3).double(), "axiom-completeness")
        >>> bool(found.values < 1e-9), found.source["compared"]
        (True, "the method's baseline")
    """

    baseline: float | str | None = None
    features: str | tuple[Any, ...] | None = None
    layers: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    tolerance: float = 0.01

    card: ClassVar[Card] = Card(
        name="axiom-completeness",
        title="Completeness",
        question="Do the values add up to the change of the score that they are said to share out?",
        form="measure",
        scope="local",
        citation="sundararajan2017axiomatic",
        needs=("predictions",),
        taxonomy={
            "000": "behavioural/functional/evaluation",
            "001": "evaluation/completeness",
            "003": "passive/attribution/evaluation",
        },
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation"},
        cost="that of the explanation, and 1 forward",
        supports=("how much of the score's change the values leave out or make up",),
        limits=("whether each value is right: only their sum is looked at",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        value = self.tolerance
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise MethodError("The 'tolerance' must be a number of at least 0", got=repr(value))
        if isinstance(self.layers, str) or not isinstance(self.layers, tuple | list):
            raise MethodError("The 'layers' must be a tuple of names of places", got=repr(self.layers))
        if not isinstance(self.steps, tuple | list):
            raise MethodError("The 'steps' must be a tuple of ints", got=repr(self.steps))
        for count in self.steps:
            whole(steps=(count, 1))
        held = self.held()
        if self.steps and "steps" not in {f.name for f in fields(held)}:  # type: ignore[arg-type]
            raise MethodError(
                "The 'steps' need a method 'of' that has this setting", got=repr(held.card.name), hint="steps=()"
            )
        if self.layers and ask.subject.module is None:
            raise NeedError("The 'layers' need a torch module", got=type(ask.subject.model).__name__)
        for name in self.layers:
            parse(name, ask.subject.module)  # type: ignore[arg-type]
        if self.baseline not in (None, "none") and ask.inputs.explained and ask.layer is None:
            start(replace(ask, data=None), self.baseline)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        total, change, compared, floor = self.account(judged.ask, judged.result)
        gap = (total - change).abs()
        values = torch.where(change.abs() > floor, gap / change.abs(), float("nan"))
        facts = {
            "gap": gap,
            "sum": total,
            "change": change,
            "passes": (gap <= self.tolerance * change.abs() + floor).double(),
        }
        booked = [v.double() for k, v in judged.result.facts.items() if k.startswith("absorbed_")]
        if booked:
            facts["absorbed"] = torch.stack(booked).sum(0)
            facts["books_gap"] = (total + facts["absorbed"] - change).abs()
        told = {
            "compared": compared,
            "overall": overall(values),
            "by_class": by_class(values, judged.ask.explained_class),
        }
        parts = self.by_layer(subject, judged) | self.by_steps(subject, judged)
        return Measure(
            values=values, better="lower", unit="share of the score's change", facts=facts, parts=parts, source=told
        )

    def account(self, ask: Ask, result: Explanation) -> tuple[Tensor, Tensor, str, Tensor]:
        """By row the sum of the values, the change they should sum to, against what, and what rounding comes to."""
        assert isinstance(result, Attribution)
        here = ask.score.detach().double().cpu()
        there, compared = self.reference(ask, result)
        there = torch.zeros_like(here) if there is None else there.detach().double().cpu()
        floor = ROUNDING * (here.abs() + there.abs())
        return self.total(ask, result), here - there, compared, floor

    def reference(self, ask: Ask, result: Attribution) -> tuple[Tensor | None, str]:
        """The score that the explanation starts from, by row, and where it was found."""
        if self.baseline == "none":
            return None, "the whole score"
        if self.baseline is not None:
            return score.at(ask, start(replace(ask, data=None), self.baseline)), f"baseline {self.baseline!r}"
        if result.baseline is not None:
            held = tensors(result.baseline)
            points = tuple(b.expand(ask.inputs.rows, *b.shape[1:]) for b in held)
            return score.at(ask, points), "the method's baseline"
        if "baseline_score" in result.facts:
            return result.facts["baseline_score"], "the method's mean score of its background"
        return None, "the whole score"

    def total(self, ask: Ask, result: Attribution) -> Tensor:
        """The sum of each row's values; of each feature once where the method repeats its figure."""
        values = tensors(result.values)
        if self.features is not None:
            game = coalition.game(replace(ask, data=None), self.features)
            if [p.shape for p in values] != [x.shape for x in game.held.floats]:
                got = ", ".join(str(tuple(p.shape)) for p in values)
                raise InputError("The 'features' need values with the shape of the explained place", got=got)
            ones = tuple(torch.ones_like(v, dtype=torch.float64) for v in values)
            doubles = tuple(v.detach().double() for v in values)
            return (game.features.gather(doubles) / game.features.gather(ones)).sum(1).cpu()
        once = result.parts.get("players")
        if once is not None:
            return once.detach().double().sum(1).cpu()
        return torch.stack([v.detach().double().flatten(1).sum(1).cpu() for v in values]).sum(0)

    def by_layer(self, subject: Subject, judged: Judged) -> dict[str, Tensor]:
        """The same sum at each of the places inside, in their order."""
        sums, gaps = [], []
        for name in self.layers:
            assert subject.module is not None
            asked = replace(judged.ask, layer=parse(name, subject.module))
            total, change, *_ = self.account(asked, answer(subject, asked, judged.method))
            sums.append(total)
            gaps.append((total - change).abs())
        return {"layer_sum": torch.stack(sums, 1), "layer_gap": torch.stack(gaps, 1)} if sums else {}

    def by_steps(self, subject: Subject, judged: Judged) -> dict[str, Tensor]:
        """The gap by number of steps: it should fall towards 0."""
        gaps = []
        for count in self.steps:
            method = replace(judged.method, steps=count)  # type: ignore[type-var]
            total, change, *_ = self.account(judged.ask, answer(subject, judged.ask, method))
            gaps.append((total - change).abs())
        return {"curve": torch.stack(gaps, 1), "steps": torch.tensor(self.steps)} if gaps else {}


def answer(subject: Subject, ask: Ask, method: Method) -> Explanation:
    """What the method says to the same question, fitted anew."""
    found: Explanation = method.explain(subject, ask, method.prepare(subject, ask))
    return found
