"""Where should an answer not be relied on? Distance to what was learnt, the trust score, and when to ask a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pellucid.contract import Measure
from pellucid.contract.errors import InputError
from pellucid.contract.method import from_config
from pellucid.engine import as_subject, explain, selective
from pellucid.engine.selective import Rule
from pellucid.report.plain import plain
from pellucid.report.sections import Section
from pellucid.show.answer import class_name
from pellucid.show.words import clean, counted, number, percent

__all__ = ["Limit", "Limits", "limits"]

HARDLY = 1.05


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What is known of one row's answer: `rely` says whether the rule lets it through, `reasons` why it does not.

    `trust` is the trust score, `trusted_more_than` the share of held-out rows with a lower one; `nearest` the distance to
    the nearest row that the network learnt from, `novelty` the share of held-out rows that lie nearer to those; `other` the
    class whose cases are the nearest of those that were not said.
    """

    said: str
    other: str
    trust: float
    trusted_more_than: float
    nearest: float
    novelty: float
    rely: bool
    reasons: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """The row in plain words."""
        said, other = clean(self.said, 40), clean(self.other, 40)
        if math.isinf(self.trust):
            likeness = f"A case exactly like it was known to be “{said}”."
        elif 1 < self.trust < HARDLY:
            likeness = f"The most similar known cases of “{said}” are hardly nearer than those of “{other}”."
        elif self.trust > 1:
            likeness = (
                f"The most similar known cases support “{said}”: the nearest of any other kind, “{other}”, is "
                f"{number(self.trust, 2)} times as far away."
            )
        elif self.trust == 1:
            likeness = f"The most similar known cases of “{said}” and of “{other}” are equally far away."
        else:
            likeness = f"The most similar known cases speak against “{said}”: a “{other}” is nearer."
        usual = (
            f"Of the cases kept apart for checking, {percent(self.novelty)} lie nearer to what the network learnt from."
        )
        advice = "It may be relied on." if self.rely else f"Ask a person: {'; '.join(self.reasons)}."
        return [likeness, usual, advice]


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """The rows, the rule that lets answers through, and what was measured on rows kept apart.

    `rule` is `None` where nothing can be promised. `farthest` is the distance beyond which an input counts as unlike what
    the network learnt from. `result` is the measured trust score with its curves.
    """

    rows: tuple[Limit, ...]
    rule: Rule | None
    farthest: float
    far: float
    risk: float
    confidence: float
    result: Measure

    @property
    def held_out(self) -> dict[str, Any]:
        """What was measured on the rows kept apart."""
        told: dict[str, Any] = self.result.source["held_out"]
        return told

    def sentences(self) -> list[str]:
        """The rule in plain words."""
        told = self.held_out
        wrong = told["rows"] - told["right"]
        found = [f"On {counted(told['rows'], 'case')} kept apart for checking, the network was {_wrong(wrong)}."]
        if told["in_train"]:
            found.append(
                f"The network also learnt from {number(told['in_train'])} of them, so what follows looks better than it is."
            )
        if math.isfinite(told["auroc"]):
            found.append(
                f"The trust score tells right from wrong answers in {percent(told['auroc'])} of pairs (between "
                f"{percent(told['low'])} and {percent(told['high'])}; a coin would in 50 %)."
            )
        rule = self.rule
        if rule is None:
            found.append(
                f"That is too little to promise that at most {percent(self.risk)} of any group of answers is wrong, so "
                "every answer should be checked by a person."
            )
            return found
        found.append(
            f"Answers are let through where the trust score is at least {number(rule.threshold)} and the input is no "
            f"farther from what the network learnt from than {percent(self.far)} of the cases kept apart. That was so in "
            f"{percent(rule.answered / told['rows'])} of these, and the answer was {_wrong(rule.wrong)} there."
        )
        found.append(
            f"With {percent(rule.confidence)} confidence, at most {percent(rule.risk)} of the answers let through are "
            "wrong, as long as new cases come as these did."
        )
        return found

    def section(self, heading: str = "When to rely on it, and when to ask a person") -> Section:
        """The rule and the rows for `pellucid.report.page`."""
        lines = [f"Case {i + 1}, “{clean(r.said, 40)}”. {' '.join(r.sentences())}" for i, r in enumerate(self.rows)]
        return Section(heading=heading, parts=[*self.sentences(), *lines])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; numbers that JSON has none for by their name."""
        told: dict[str, Any] = {
            "rows": [asdict(row) for row in self.rows],
            "rule": None if self.rule is None else {**asdict(self.rule), "coverage": self.rule.coverage},
            "farthest": self.farthest,
            "far": self.far,
            "risk": self.risk,
            "confidence": self.confidence,
            "held_out": self.held_out,
        }
        found: dict[str, Any] = plain(told)
        return found


def limits(
    model: Any,
    inputs: Any,
    *,
    train: Any,
    held_out: Any,
    risk: float = 0.05,
    confidence: float = 0.95,
    far: float = 0.99,
    layer: str | None = None,
    alpha: float = 0.0,
    neighbours: int = 10,
    memory: int | str | None = None,
) -> Limits:
    """Which of these answers may be relied on, and about which should a person be asked?

    Each answer gets its trust score (is the input nearer to known cases of the class that was said than to any other's?)
    and its distance to what the network learnt from, beside those of rows kept apart. On these the least trust score is
    found from which on at most ``risk`` of the answers are wrong, with this ``confidence``: the answers that reach it, of
    inputs no farther away than the share ``far`` of rows kept apart, may be relied on.

    Args:
        model, inputs, layer, memory: as for `explain`.
        train: (X, y), the rows that the network learnt from.
        held_out: (X, y), rows that it has not seen, drawn as the cases that are to come; a hundred at least for a promise
            of 5 %, and the more the more answers are let through.
        risk: the share of wrong answers that may be let through.
        confidence: how sure the promise is to hold.
        far: the share of rows kept apart from whose distance on an input is too unlike what was learnt.
        alpha, neighbours: of the trust score.

    The promise is about cases drawn as those kept apart, over both draws; it says nothing of cases of another kind, which
    the distance can show but does not have to.

    Source: Jiang, Kim, Guan & Gupta 2018 (trust score); Geifman & El-Yaniv 2017 (a bound on the risk of what is answered);
    Angelopoulos, Bates, Candès, Jordan & Lei 2021, §2.2 (tests in a fixed order from several starts).

    Example:
        >>> import torch, pellucid as px
        >>> X = torch.linspace(-3, 3, 400)[:, None]
        >>> y, net = (X[:, 0] > 0).long(), lambda x: torch.cat([-x, x], 1)
        >>> found = px.report.limits(net, torch.tensor([[2.0], [9.0]]), train=(X[::2], y[::2]), held_out=(X[1::2], y[1::2]))
        >>> [row.rely for row in found.rows]
        [True, False]
    """
    for name, value in (("risk", risk), ("confidence", confidence), ("far", far)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 + (name == "far"):
            raise InputError(f"The '{name}' must be a share between 0 and 1", got=repr(value))
    if float(far) > 1:
        raise InputError("The 'far' must be a share between 0 and 1", got=repr(far))
    subject = as_subject(model)
    method = from_config({"method": "trust-score", "alpha": alpha, "neighbours": neighbours})
    data = {"train": train, "held_out": held_out}
    result = explain(subject, inputs, method, layer=layer, data=data, memory=memory)
    score, away, right = (result.parts[f"held_out_{k}"] for k in ("score", "nearest", "right"))
    farthest = float(torch.quantile(away, far, interpolation="higher"))
    usual = away <= farthest
    rule = selective.rule(score[usual], ~right[usual], risk, confidence)
    rows = tuple(_row(result, i, rule, farthest, far, subject.classes) for i in range(len(result.values)))
    return Limits(rows=rows, rule=rule, farthest=farthest, far=far, risk=risk, confidence=confidence, result=result)


def _row(result: Measure, i: int, rule: Rule | None, farthest: float, far: float, classes: Sequence[str]) -> Limit:
    said = class_name(int(torch.as_tensor(result.context.output)[i].argmax()), classes)
    facts = {k: float(v[i]) for k, v in result.facts.items()}
    trust, other = float(result.values[i]), class_name(int(facts["other_class"]), classes)
    reasons = []
    if facts["nearest"] > farthest:
        reasons.append(f"this is less like what the network learnt from than {percent(far)} of the cases kept apart")
    if rule is None:
        reasons.append("too few cases were checked to promise anything about answers like this one")
    elif trust < rule.threshold:
        against = f"known cases speak for “{clean(other, 40)}”" if trust < 1 else "known cases support it too little"
        reasons.append(f"{against} (trust score {number(trust)}, needed is {number(rule.threshold)})")
    return Limit(
        said=said,
        other=other,
        trust=trust,
        trusted_more_than=facts["trusted_more_than"],
        nearest=facts["nearest"],
        novelty=facts["novelty"],
        rely=not reasons,
        reasons=tuple(reasons),
    )


def _wrong(count: int) -> str:
    times = {1: "once", 2: "twice"}.get(count, f"{count:,} times")
    return f"wrong {times}" if count else "never wrong"
