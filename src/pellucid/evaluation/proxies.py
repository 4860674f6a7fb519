"""What can be measured of an explanation without asking people: which way is better, what it costs, what it assumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pellucid.contract import Card, Measure, Method, Rules, registered
from pellucid.contract.errors import MethodError, PellucidError
from pellucid.engine import Ask, Subject, needs
from pellucid.engine.evaluation import Evaluation, Judged, overall

__all__ = ["PROXIES", "FunctionallyGrounded", "Proxy"]


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One figure that stands for a quality which only people could judge in the end.

    `metric` names the method of `pellucid.evaluation` that computes it, with its `settings`; `fact` says which of that
    method's facts it is, where it is not its values. Seconds, of any form, are taken while the explanation is made.
    """

    name: str
    quality: str
    form: str
    better: str
    cost: str
    assumption: str
    metric: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fact: str = ""

    def build(self) -> Evaluation:
        """The measurement with its settings."""
        found = registered()[self.metric](**self.settings)
        assert isinstance(found, Evaluation)
        return found

    def as_dict(self) -> dict[str, str]:
        """What is kept beside a figure."""
        return {k: getattr(self, k) for k in ("quality", "better", "cost", "assumption", "metric")}


def _maps(name: str, quality: str, better: str, cost: str, assumption: str, metric: str, **settings: Any) -> Proxy:
    told: dict[str, Any] = {"better": better, "cost": cost, "assumption": assumption}
    told |= {"metric": metric, "settings": settings}
    return Proxy(name=name, quality=quality, form="attribution", **told)


def _rules(name: str, quality: str, better: str, cost: str, assumption: str, fact: str = "") -> Proxy:
    told: dict[str, Any] = {"better": better, "cost": cost, "assumption": assumption, "settings": {"figure": "rules"}}
    return Proxy(name=name, quality=quality, form="rules", metric="rule-complexity-metrics", fact=fact or name, **told)


PROXIES: dict[str, Proxy] = {
    p.name: p
    for p in (
        _maps(
            "deletion",
            "faithfulness",
            "lower",
            "165 forwards, 132 of which are shared by all methods",
            "zeros stand for absence, and the network is at home among inputs with zeros in them",
            "insertion-deletion",
            way="deletion",
        ),
        _maps(
            "insertion",
            "faithfulness",
            "higher",
            "165 forwards, 132 of which are shared by all methods",
            "zeros stand for absence, and the network is at home among inputs with zeros in them",
            "insertion-deletion",
            way="insertion",
        ),
        _maps(
            "sensitivity-n",
            "faithfulness",
            "higher",
            "808 forwards, all shared by all methods",
            "the values are contributions that add up, as slopes and heat maps need not be",
            "sensitivity-n",
        ),
        _maps(
            "max-sensitivity",
            "stability",
            "lower",
            "10 explanations",
            "the score itself hardly moves within the radius, so that the explanation should not either",
            "max-sensitivity",
            relative=True,
        ),
        _maps(
            "randomisation",
            "sanity",
            "lower",
            "2 explanations for each layer, and 1",
            "what an explanation tells of weights that were learnt can't also hold of random ones",
            "model-randomization-test",
            draws=2,
        ),
        _maps(
            "sparsity",
            "simplicity",
            "higher",
            "no forwards",
            "a map that points to few places is easier to take in, right or wrong",
            "heatmap-entropy",
            figure="gini",
        ),
        _rules("rules", "simplicity", "lower", "no forwards", "fewer rules are easier to take in, right or wrong"),
        _rules("depth", "simplicity", "lower", "no forwards", "people follow short chains of tests"),
        _rules("conditions", "simplicity", "lower", "no forwards", "every condition is equally hard to read"),
        _rules(
            "fidelity",
            "faithfulness",
            "higher",
            "1 forward per row of data",
            "the data are the cases that will be asked",
        ),
        _rules(
            "consistency",
            "stability",
            "higher",
            "3 fits of the rules",
            "rules that another seed would change say little of the network",
        ),
        Proxy(
            name="runtime",
            quality="runtime",
            form="any",
            better="lower",
            cost="no forwards",
            assumption="another machine, batch or first call takes as many times longer for every method",
            metric="",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class FunctionallyGrounded(Evaluation):
    """How does an explanation fare by everything that can be measured without asking people?

    Every proxy of `PROXIES` for the explanation's form: of maps deletion, insertion, sensitivity-n, maximum sensitivity,
    weight randomisation and sparsity (Gini index); of rules their number, depth, conditions, fidelity and consistency; of
    both the seconds they took, which stand in ``source`` alone.
    They are proxies: a figure stands for a quality under an assumption, which is told beside it, and no figure is made of
    them all.

    ``values`` is the proxy that ``figure`` names, `facts` are all that could be measured, per row for maps, (1,) for rules.
    ``source["proxies"]`` has for each its quality, which way is better, cost, assumption, mean with 95 % interval over the
    rows, or why it was ``refused``.

    Args:
        of: the explanation that is measured: a method or its name, of the form attribution or rules.
        only: the proxies to measure, by name; all of the form where it is empty.
        figure: the proxy that is the result's ``values``; the first that can be measured where it is empty.

    Cost: that of the proxies, see `PROXIES`; for maps 13 explanations and more.
    Known failure: proxies can disagree, and can be met by an explanation that helps nobody.
    Source: Doshi-Velez & Kim 2017, §2.3 (functionally-grounded evaluation: no humans, proxy tasks).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).double().eval()
        >>> found = px.explain(net, torch.ones(2, 4).double(), px.evaluation.FunctionallyGrounded(of="feature-ablation"))
        >>> found.source["proxies"]["sensitivity-n"]["better"], sorted(found.facts)[:2]
        ('higher', ['deletion', 'insertion'])
    """

    only: tuple[str, ...] = ()
    figure: str = ""

    wants: ClassVar[tuple[str, ...]] = ("attribution", "rules")
    card: ClassVar[Card] = Card(
        name="functionally-grounded-evaluation",
        title="Functionally-grounded evaluation",
        question="How does an explanation fare by everything that can be measured without asking people?",
        form="measure",
        scope="local",
        citation="doshivelez2017towards",
        needs=("predictions",),
        taxonomy={"001": "evaluation/functionally grounded", "002": "evaluation/proxies", "003": "evaluation"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "only": ("max-sensitivity", "sparsity")},
        cost="for maps some 1100 forwards and 13 or more explanations; for rules 4 fits",
        supports=("which proxies an explanation meets on these rows, each with its assumption",),
        limits=("whether the explanation helps anybody", "a quality whose assumption does not hold here"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        known = tuple(p.name for p in PROXIES.values() if p.form == self.held().card.form)
        if not isinstance(self.only, tuple) or not set(self.only) <= set(known):
            raise MethodError(f"The 'only' must be a tuple of names among {known}", got=repr(self.only))
        if self.figure and self.figure not in (self.only or known):
            raise MethodError(f"The 'figure' must be one of {self.only or known}", got=repr(self.figure))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        wanted = self.only or tuple(PROXIES)
        chosen = [p for p in PROXIES.values() if p.form == judged.result.form and p.name in wanted]
        rows = 1 if isinstance(judged.result, Rules) else ask.inputs.rows
        told: dict[str, dict[str, Any]] = {}
        facts: dict[str, Tensor] = {}
        done: dict[str, Measure | PellucidError] = {}
        for proxy in chosen:
            key = f"{proxy.metric} {dict(proxy.settings)}"
            if key not in done:
                done[key] = measured(proxy.build(), subject, ask, judged)
            found = done[key]
            about: dict[str, Any] = dict(proxy.as_dict())
            if isinstance(found, PellucidError):
                about["refused"] = reason(found)
            else:
                values = found.facts[proxy.fact] if proxy.fact else found.values
                facts[proxy.name] = values.detach().cpu().double().reshape(rows, -1).mean(1)
                about |= overall(facts[proxy.name])
            told[proxy.name] = about
        told["runtime"] = PROXIES["runtime"].as_dict() | {"mean": judged.seconds}
        first = self.figure or next(iter(facts), chosen[0].name)
        if first not in facts:
            raise MethodError(f"The proxy {first!r} must fit", got=told[first]["refused"], hint="another 'figure'")
        return Measure(
            values=facts[first].clone(), better=PROXIES[first].better, unit=first, facts=facts, source={"proxies": told}
        )


def measured(metric: Evaluation, subject: Subject, ask: Ask, judged: Judged) -> Measure | PellucidError:
    """The metric's figure of this explanation, or the refusal where it does not fit."""
    try:
        needs.check(metric.card, subject, ask.inputs, ask.data, ask.layer)
        metric.check(ask, {})
        return dataclasses.replace(metric, of=judged.method).measure(subject, dataclasses.replace(ask), judged)
    except PellucidError as error:
        return error


def reason(error: Exception) -> str:
    """Why something could not be done, in one line."""
    text = str(error).split("\n", 1)[0]
    return text if type(error).__module__.startswith("pellucid") else f"{type(error).__name__}: {text}"


def default() -> dict[str, Method]:
    """The measurements of maps, by the names of their proxies."""
    return {p.name: p.build() for p in PROXIES.values() if p.form == "attribution"}
