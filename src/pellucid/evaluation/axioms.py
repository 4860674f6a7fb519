"""Does an explanation keep the promises that its kind is held to? Axioms tried on the caller's own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Measure, Method, as_method, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, needs
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.evaluation import similarity

__all__ = ["InputInvarianceTest"]


@dataclass(frozen=True, kw_only=True)
class InputInvarianceTest(Evaluation):
    """Does the explanation stay the same when inputs are moved by a constant that the network takes away again?

    With m the shift and s the scale, ``x' = s x + m`` is explained on the network ``f'(x') = f((x' - m) / s)``. Both
    networks give the same answers and have the same weights behind their first step, so the explanations should agree.
    ``values`` is the largest difference of two values of a row, divided by the largest size of its first values (by 1
    where these are all 0): 0 where the explanation is invariant.

    Facts: ``largest``, the same difference in the values' own unit; ``rank_signed``, Spearman's rank correlation of both
    (NaN where one is constant), 1 also where the values change by a factor alone; ``passes``, 1 where ``values`` are at
    most ``tolerance``; ``score_gap``, by how much the scores of both networks differ, which should be rounding alone.
    Random draws of the held method are the same for both. `parts`: ``first`` and ``second``, the values (rows, …), where
    there is one tensor of them.

    Args:
        of: the explanation that is measured: a method or its name.
        shift: m, added to every floating input.
        scale: s > 0, by which it is multiplied before. Gradients are per input unit and change by 1/s then, as they
            should; values in score units should not change.
        moved: the method for the moved inputs; None: ``of`` itself. With a baseline b in ``of``, s b + m in ``moved``
            asks whether the method is invariant once its reference moves along.
        tolerance: up to which share of the largest value a difference counts as rounding.

    Cost: that of ``of`` twice, and 2 forwards.
    Known failure: a method with a reference that is a fixed number is bound to fail, which may be a fault of the reference
    alone: see ``moved``.
    Source: Kindermans, Hooker, Adebayo, Alber, Schütt, Dähne, Erhan & Kim 2019, §2.1, §3. The shift is undone before the
    first layer, not by its bias: b' = b - w m is the same function, except at borders padded with zeros, where only the
    former is exact. The scale is ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> [px.explain(net, torch.ones(1, 3), px.evaluation.InputInvarianceTest(of=of)).facts["passes"].item()
        ...  for of in ("vanilla-gradient", "gradient-x-input")]
        [1.0, 0.0]
    """

    shift: float = 1.0
    scale: float = 1.0
    moved: str | Method | None = None
    tolerance: float = 1e-4

    card: ClassVar[Card] = Card(
        name="input-invariance-test",
        title="Input invariance test",
        question="Does the explanation stay the same when inputs are moved by a constant that the network takes away?",
        form="measure",
        scope="local",
        citation="kindermans2019unreliability",
        needs=("predictions",),
        taxonomy={"001": "evaluation/sensitivity", "003": "passive/attribution/evaluation"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation"},
        cost="that of the explanation, twice",
        supports=("whether this explanation depends on where the inputs' zero lies",),
        limits=("which of two different explanations is the right one",),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        held = set().union(*({*as_method(m).claims} for m in (self.of, self.moved) if m is not None))
        drawn = {"deterministic": "seeded"} if "seeded" in held else {}
        return tuple(drawn.get(claim, claim) for claim in self.card.claims)

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name in ("shift", "scale", "tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
                raise MethodError(f"The '{name}' must be a number", got=repr(value))
        if self.scale <= 0 or self.tolerance < 0:
            raise MethodError(
                "The 'scale' must be above 0 and the 'tolerance' at least 0", got=f"{self.scale}, {self.tolerance}"
            )
        if self.shift == 0 and self.scale == 1:
            raise MethodError("The 'shift' or the 'scale' must move the inputs", got="shift=0, scale=1")
        if not ask.inputs.explained:
            kinds = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError("The 'inputs' must have a floating tensor that can be moved", got=kinds)
        if self.moved is not None:
            other = as_method(self.moved)
            if other.card.form not in self.wants:
                raise MethodError("The 'moved' must be a method that gives an attribution", got=other.card.form)
            needs.check(other.card, ask.subject, ask.inputs, ask.data, ask.layer)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        asked = self.elsewhere(judged.ask)
        other = judged.method if self.moved is None else as_method(self.moved)
        again = other.explain(asked.subject, asked, other.prepare(asked.subject, asked))
        assert isinstance(again, Attribution)
        pairs = list(zip(tensors(judged.values), tensors(again.values), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            raise MethodError("The methods 'of' and 'moved' must give values of one shape", got=_shapes(pairs))
        gaps = torch.stack([_largest(b.double() - a.double()) for a, b in pairs]).amax(0)
        sizes = torch.stack([_largest(a.double()) for a, _ in pairs]).amax(0)
        values = gaps / torch.where(sizes > 0, sizes, 1.0)
        facts = {
            "largest": gaps,
            "rank_signed": similarity.compare(judged.values, again.values)["rank_signed"],
            "passes": (values <= self.tolerance).double(),
            "score_gap": (asked.score - judged.ask.score).double().abs(),
        }
        parts = {"first": pairs[0][0], "second": pairs[0][1]} if len(pairs) == 1 else {}
        return Measure(values=values, better="lower", unit="share of the largest value", facts=facts, parts=parts)

    def elsewhere(self, ask: Ask) -> Ask:
        """The same question about the moved inputs, on the network that moves them back."""
        before, settings = ask.subject.preprocess, Subject.__dataclass_fields__
        kept = {k: getattr(ask.subject, k) for k in settings if k not in ("model", "preprocess")}
        subject = Subject(ask.subject.model, preprocess=_undo(self.shift, self.scale, before), **kept)
        inputs = ask.inputs.with_floats([self.scale * x + self.shift for x in ask.inputs.floats])
        index = ask.target.index
        wanted = ask.wanted if index is None else index
        asked = replace(ask, subject=subject, inputs=inputs, wanted=wanted, output=None, _target=None, model_hash="")
        asked.__dict__["keys"] = ask.keys  # noise that belongs to the row, wherever its zero lies
        return asked


def _undo(shift: float, scale: float, before: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Takes shift and scale from every floating tensor, in whichever structure, before what comes next."""

    def back(value: Any) -> Any:
        if isinstance(value, Tensor):
            return (value - shift) / scale if value.is_floating_point() else value
        if isinstance(value, Mapping):
            return {k: back(v) for k, v in value.items()}
        return type(value)(map(back, value))

    return back if before is None else lambda value: before(back(value))


def _largest(x: Tensor) -> Tensor:
    """The largest size in each row."""
    return x.detach().cpu().abs().flatten(1).amax(1)


def _shapes(pairs: list[tuple[Tensor, Tensor]]) -> str:
    return ", ".join(f"{tuple(a.shape)} and {tuple(b.shape)}" for a, b in pairs)
