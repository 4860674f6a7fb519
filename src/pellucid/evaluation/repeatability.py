"""Does the same question get the same explanation? Asked again with other draws, settings, or an equal network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Explanation, Measure, Method, tensors
from pellucid.contract.errors import InputError, MethodError, NumericalError, UnsupportedOperation
from pellucid.engine import Ask, Subject, predict
from pellucid.engine.evaluation import Evaluation, Judged, by_class, overall, replace_model
from pellucid.engine.settings import whole
from pellucid.engine.subject import as_subject

__all__ = ["Consistency", "SamplingInstability"]

SAME = 1e-4  # of the largest score: two networks whose outputs differ by more do not compute the same function


@dataclass(frozen=True, kw_only=True)
class SamplingInstability(Evaluation):
    """Would another draw of random numbers have named other features?

    The question is asked again with ``repeats`` seeds (the caller's, and those after it); of each answer the ``top``
    features with the largest magnitude are noted. ``values`` is the mean Jaccard index ``|S ∩ T| / |S ∪ T|`` over the
    pairs of answers: 1 where all name the same features. Equal magnitudes come in the order of their numbers.

    Facts: ``kappa``, Fleiss' kappa of the answers as raters who call each feature important or not (0 is chance; 1 where
    ``top`` takes all features); ``changed``, the share of answers whose features are not the first one's; ``spread``, the
    standard deviation over the answers, root mean square over the features, as a share of the mean answer's; ``least``, the
    smallest share of answers that any of the first answer's features is named in. `parts`: ``selected`` (rows, features),
    in which share of the answers each feature is named; ``deviation``, its standard deviation.

    With ``vary``, pairs of a setting of ``of`` and a tuple of values, each is tried by itself with the caller's seed:
    ``parts["agreement of <setting>"]`` (rows, settings) is the Jaccard index with the first answer.
    ``source["overall"]`` sums up over the rows, the third source of doubt; ``source["warning"]`` says how many rows change.

    Args:
        of: the explanation that is measured: a method that draws, or its name.
        repeats: how often it is asked.
        top: how many features are compared; all, where there are no more.
        vary: such as ``(("width", (0.2, 0.5)), ("samples", (200,)))``.

    Cost: ``repeats`` explanations, and one for each value in ``vary``.
    Known failure: agreement among draws is not truth: a method can be wrong each time in the same way. Features are the
    attribution's values one by one, so that a superpixel counts once for each of its pixels.
    Source: Zhang, Song, Sun, Tan & Udell 2019, §3: sampling, parameters, and data points.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 4), "lime-instability")
        >>> result.values.item(), result.facts["changed"].item()
        (1.0, 0.0)
    """

    of: str | Method = "lime"
    repeats: int = 10
    top: int = 5
    vary: tuple[Any, ...] = ()

    card: ClassVar[Card] = Card(
        name="lime-instability",
        title="Instability of sampled explanations",
        question="Would another draw of random numbers have named other features?",
        form="measure",
        scope="local",
        citation="zhang2019why",
        needs=("predictions",),
        taxonomy={"002": "post-hoc/proxy/stability"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "repeats": 2, "top": 2},
        cost="10 explanations",
        supports=("how far chance alone, or a setting nobody had reasons for, decides which features are named",),
        limits=("whether the features that are always named are the right ones",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(repeats=(self.repeats, 2), top=(self.top, 1))
        self.variants()

    def variants(self) -> list[tuple[str, Method]]:
        """The method under each other setting."""
        held, found = self.held(), []
        known = {f.name for f in fields(held)}  # type: ignore[arg-type]
        for pair in self.vary:
            fits = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], tuple | list)
            if not fits or pair[0] not in known or not pair[1]:
                raise MethodError(
                    f"The 'vary' must be pairs of a setting of {held.card.name!r} and a tuple of values",
                    got=repr(pair),
                    hint=f"settings {', '.join(sorted(known))}",
                )
            found += [(str(pair[0]), replace(held, **{pair[0]: value})) for value in pair[1]]  # type: ignore[type-var]
        return found

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        rows = torch.arange(ask.inputs.rows)
        seeds = range(ask.seed + 1, ask.seed + self.repeats)
        answers = [flat(judged.result), *(flat(judged.again(ask.inputs, rows, seed=s)) for s in seeds)]
        values = torch.stack(answers, 1)
        top = min(self.top, values.shape[2])
        named = among(values, top)
        share = named.double().mean(1)
        agreement = torch.where(values.isnan().flatten(1).any(1), float("nan"), pairwise(named))
        deviation = values.std(1)
        size = values.mean(1).square().mean(1).sqrt()
        facts = {
            "kappa": kappa(named),
            "changed": (named != named[:, :1]).any(2).double().mean(1),
            "spread": deviation.square().mean(1).sqrt() / torch.where(size > 0, size, 1.0),
            "least": torch.where(named[:, 0], share, 1.0).amin(1),
        }
        parts = {"selected": share, "deviation": deviation} | self.settings(subject, judged, named[:, 0], top)
        told = {"overall": overall(agreement), "by_class": by_class(agreement, ask.explained_class)}
        moved = int((facts["changed"] > 0).sum())
        if moved:
            told["warning"] = {"rows whose features change": moved, "of": len(rows)}
        return Measure(values=agreement, better="higher", unit="Jaccard index", facts=facts, parts=parts, source=told)

    def settings(self, subject: Subject, judged: Judged, first: Tensor, top: int) -> dict[str, Tensor]:
        """By setting, the agreement of the answer under each value with the first answer."""
        found: dict[str, list[Tensor]] = {}
        for name, method in self.variants():
            asked = replace(judged.ask)
            other = flat(method.explain(subject, asked, method.prepare(subject, asked)))
            pair = torch.stack([first, among(other[:, None], top)[:, 0]], 1)
            found.setdefault(f"agreement of {name}", []).append(pairwise(pair))
        return {name: torch.stack(columns, 1) for name, columns in found.items()}


@dataclass(frozen=True, kw_only=True)
class Consistency(Evaluation):
    """Does the explanation stay the same where nothing that matters has changed?

    Each fact is the cosine between the explanation and another that should equal it, 1 where it does:

    - ``seeds``: with another seed, the mean over ``repeats``;
    - ``network``: of a network that computes the same function: ``data={"model": other}``, or the same one behind a layer
      that takes each value apart as 1.5 x - 0.5 x;
    - ``alone``: asked about the row alone instead of among the others.

    ``values`` is the smallest. ``network_gap`` is how far the two networks' scores are apart. Where the method reports a
    ``fidelity`` of its own, that fact comes along: an explanation may be steady and yet not that of the model. How like the
    explanations of like rows are is `LocalLipschitz`, `MaxSensitivity` and `ExplanationContinuity`.

    Args:
        of: the explanation that is measured: a method or its name.
        repeats: other seeds that are tried.

    Cost: ``repeats`` + 3 explanations.
    Known failure: a method that always says the same, whatever the model, is perfectly consistent. Methods with rules for
    single operations (relevance propagation) may rightly differ for networks that compute the same in other ways: read
    ``network`` as a property of theirs. Where they have no rule for the rewritten network, ``network`` is left out.
    Source: Fan, Xiong, Li & Wang 2021, §I-C (consistency: no contradiction, and conformity to the model); the three
    comparisons are ours, after Sundararajan et al. 2017 (implementation invariance).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).eval()
        >>> px.explain(net, torch.ones(1, 4), "consistency-quality").values.round(decimals=5).item()
        1.0
    """

    repeats: int = 3

    own: ClassVar[tuple[str, ...]] = ("model",)
    card: ClassVar[Card] = Card(
        name="consistency-quality",
        title="Consistency of an explanation",
        question="Does the explanation stay the same where nothing that matters has changed?",
        form="measure",
        scope="local",
        citation="fan2021interpretability",
        needs=("predictions",),
        taxonomy={"002": "evaluation/consistency"},
        claims=("rowwise", "deterministic", "spelling invariant"),
        trial={"of": "feature-ablation", "repeats": 1},
        cost="6 explanations",
        supports=("that the explanation depends on seed, batch or spelling, where a figure is below 1",),
        limits=("that a consistent explanation is a true one",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(repeats=(self.repeats, 1))
        if own.get("model") is not None:
            as_subject(own["model"])
            if ask.layer is not None or ask.unit_place is not None:
                raise MethodError(
                    "The other 'model' in 'data' must be left out where a place inside is explained", got=str(ask.layer)
                )

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        here, rows = flat(judged.result), torch.arange(ask.inputs.rows)
        seeds = [flat(judged.again(ask.inputs, rows, seed=ask.seed + k + 1)) for k in range(self.repeats)]
        single = [flat(judged.again(ask.inputs.take(row[None]), row[None])) for row in rows]
        facts = {
            "seeds": torch.stack([cosine(here, other) for other in seeds]).mean(0),
            "alone": cosine(here, torch.cat(single)),
        }
        facts |= self.network(subject, ask, judged, here)
        found = torch.stack([v for k, v in facts.items() if k != "network_gap"]).amin(0)
        if "fidelity" in judged.result.facts:
            facts["fidelity"] = judged.result.facts["fidelity"].double()
        return Measure(values=found, better="higher", unit="cosine", facts=facts, source={"overall": overall(found)})

    def network(self, subject: Subject, ask: Ask, judged: Judged, here: Tensor) -> dict[str, Tensor]:
        """Agreement with the explanation of a network that computes the same, and how far their scores are apart."""
        given = self.split(ask.data)[0].get("model")
        other = rewritten(subject) if given is None else other_model(subject, given)
        if other is None:
            return {}
        scores = (predict(s, ask.inputs, ask.memory).double().cpu() for s in (subject, other))
        one, two = (output.reshape(len(here), -1) for output in scores)
        if one.shape != two.shape:
            got = f"scores of shape {tuple(two.shape)} for {tuple(one.shape)}"
            raise InputError("The other 'model' must compute the same function", got=got)
        gap = (one - two).abs().amax(1)
        if bool((gap > SAME * one.abs().amax()).any()):
            raise NumericalError(
                "The other 'model' must compute the same function", got=f"scores up to {float(gap.max()):.3g} apart"
            )
        try:
            return {"network": cosine(here, flat(judged.elsewhere(other))), "network_gap": gap}
        except UnsupportedOperation:
            return {}


def other_model(subject: Subject, model: Any) -> Subject:
    """The model that the caller says computes the same, called as the first one is unless it comes as a `Subject`."""
    return model if isinstance(model, Subject) else replace_model(subject, model)


def rewritten(subject: Subject) -> Subject | None:
    """The same function behind a layer that is the identity; None where the caller says how the model is called."""
    if subject.call is not None:
        return None
    before = subject.preprocess

    def apart(x: Any) -> Any:
        return 1.5 * x - 0.5 * x if isinstance(x, Tensor) and x.is_floating_point() else x

    def preprocess(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = apart(value)
        elif isinstance(value, Mapping):
            value = {k: apart(x) for k, x in value.items()}
        else:
            value = tuple(apart(x) for x in value)
        return value if before is None else before(value)

    names = [name for name in Subject.__dataclass_fields__ if name not in ("model", "preprocess")]
    return Subject(subject.model, preprocess=preprocess, **{name: getattr(subject, name) for name in names})


def flat(result: Explanation) -> Tensor:
    """An attribution's values side by side, (rows, values) in float64."""
    return torch.cat([v.detach().double().flatten(1).cpu() for v in tensors(result.values)], 1)  # type: ignore[attr-defined]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Of the angle between rows; 1 where both are zero, 0 where one is."""
    product = one.norm(dim=1) * other.norm(dim=1)
    same = (one == other).all(1)
    found = torch.where(product > 0, (one * other).sum(1) / product.clamp(min=1e-300), 0.0)
    return torch.where(same, 1.0, found.clamp(-1, 1))


def among(values: Tensor, top: int) -> Tensor:
    """Whether each value is among its answer's `top` largest in magnitude: (rows, answers, values)."""
    order = values.abs().argsort(dim=2, descending=True, stable=True)[:, :, :top]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(2, order, True)


def pairwise(named: Tensor) -> Tensor:
    """The mean Jaccard index over the pairs of answers (rows, answers, values)."""
    count, total = named.shape[1], torch.zeros(len(named), dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1, count):
            both, either = named[:, i] & named[:, j], named[:, i] | named[:, j]
            total += both.sum(1).double() / either.sum(1)
    return total / (count * (count - 1) / 2)


def kappa(named: Tensor) -> Tensor:
    """Fleiss' kappa (1971) of answers as raters, values as subjects, and two categories: named or not."""
    raters = named.shape[1]
    yes = named.double().sum(1)
    agreed = (yes * (yes - 1) + (raters - yes) * (raters - yes - 1)) / (raters * (raters - 1))
    share = yes.mean(1) / raters
    chance = share**2 + (1 - share) ** 2
    return torch.where(chance < 1, (agreed.mean(1) - chance) / (1 - chance).clamp(min=1e-300), 1.0)
