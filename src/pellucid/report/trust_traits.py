"""What is there to trust by? Which properties of a good rationale are present, and what evidence stands behind them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from pellucid.contract import Attribution, Examples, Explanation, Measure, Rules, Semantics
from pellucid.contract.errors import InputError
from pellucid.report.audience_logic import IfThen
from pellucid.report.audience_terms import Vocabulary
from pellucid.report.sections import Section, Table
from pellucid.show import viewer
from pellucid.show.facts import TRIED, title_of
from pellucid.show.options import Options
from pellucid.show.words import clean, counted, listed, number

if TYPE_CHECKING:
    from pellucid.report.dossier import Dossier

__all__ = ["Evidence", "Rationale", "Traits", "rationale", "traits"]

TRAITS = ("confidence", "trust", "safety", "ethics")
MODES = ("self-evident", "measured", "studied", "none")
PROPERTIES = {
    "interpretable": "a summary in plain language",
    "relatable": "names from the reader's own field",
    "contextual": "similar known cases, or how usual this one is",
    "reasoned": "the steps between input and answer",
}
JARGON = re.compile(r"logit|softmax|gradient|float\d|tensor|hyper-?parameter|epoch|\bReLU\b", re.IGNORECASE)
NUMBERED = re.compile(r"(x|f|v|feature|column|class|attr|unit)?[ _-]?\d+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What supports a trait, and of which kind; wrong combinations are refused.

    `mode`: "self-evident", a reader can see it on the page; "measured", by a figure, whose `value` is given; "studied",
    with `n` people; "none", nothing supports it here. `by` names what is shown, the figure or the study.
    """

    trait: str
    mode: str
    by: str = ""
    value: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        if self.trait not in TRAITS:
            raise InputError(f"The 'trait' must be one of {TRAITS}", got=repr(self.trait)[:80])
        if self.mode not in MODES:
            raise InputError(f"The 'mode' must be one of {MODES}", got=repr(self.mode)[:80])
        if not isinstance(self.by, str) or bool(self.by.strip()) is (self.mode == "none"):
            raise InputError(
                "'by' must say what is shown, measured or studied, and nothing where there is none",
                got=repr(self.by)[:80],
            )
        real = isinstance(self.value, int | float) and not isinstance(self.value, bool) and math.isfinite(self.value)
        if (self.mode == "measured" and not real) or (self.value is not None and not real):
            raise InputError("The 'value' of what is measured must be a finite number", got=repr(self.value)[:80])
        people = isinstance(self.n, int) and not isinstance(self.n, bool) and self.n >= 1
        if (self.mode == "studied") is not people or (self.n is not None and not people):
            raise InputError(
                "'n' must be how many people took part in a study, and of a study alone", got=repr(self.n)[:80]
            )

    def text(self) -> str:
        """The evidence in words."""
        by = clean(self.by, 200)
        if self.mode == "none":
            return "nothing on this page"
        if self.mode == "self-evident":
            return f"to be seen: {by}"
        figure = "" if self.value is None else f", {number(self.value)}"
        if self.mode == "measured":
            return f"measured: {by}{figure}"
        return f"studied with {counted(self.n or 0, 'person').replace('persons', 'people')}: {by}{figure}"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The evidence for every trait: at least one entry each, of mode "none" where nothing supports it."""

    evidence: tuple[Evidence, ...]

    def __post_init__(self) -> None:
        named = {e.trait for e in self.evidence}
        if lacking := [t for t in TRAITS if t not in named]:
            raise InputError(
                "Every trait must be told of, be it with mode 'none'", got=f"nothing of {', '.join(lacking)}"
            )
        if twice := [t for t in TRAITS if any(e.mode == "none" for e in self.of(t)) and len(self.of(t)) > 1]:
            raise InputError("A trait has evidence or none, not both", got=twice[0])

    def of(self, trait: str) -> list[Evidence]:
        """The evidence for one trait."""
        return [e for e in self.evidence if e.trait == trait]

    def section(self, heading: str = "What there is to trust by") -> Section:
        """A table for `pellucid.report.page`."""
        rows = [[trait, listed([e.text() for e in self.of(trait)])] for trait in TRAITS]
        table = Table(caption="What supports each trait", headings=["trait", "evidence"], rows=rows)
        return Section(heading=heading, parts=[table])

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"evidence": [{k: v for k, v in asdict(e).items() if v not in (None, "")} for e in self.evidence]}

    @classmethod
    def read(cls, told: Any) -> Traits:
        """Back from plain data, refused where it does not fit the schema."""
        if not isinstance(told, Mapping) or set(told) != {"evidence"} or not isinstance(told["evidence"], list):
            raise InputError("The traits must be an object with the list 'evidence'", got=type(told).__name__)
        fields = set(Evidence.__dataclass_fields__)
        for one in told["evidence"]:
            if not isinstance(one, Mapping) or not {"trait", "mode"} <= set(one) <= fields:
                raise InputError(
                    f"Each piece of evidence must have 'trait' and 'mode', and else {sorted(fields)}",
                    got=repr(one)[:80],
                )
        return cls(evidence=tuple(Evidence(**one) for one in told["evidence"]))


def traits(*results: Explanation, studies: Iterable[Evidence] = ()) -> Traits:
    """What supports confidence, trust, safety and ethics here, and is it seen, measured, or studied with people?

    Maps support confidence: seen, or measured where taking away what they point to was tried. Known cases support trust:
    seen, or measured where a trust score is there. Studies, or measurements of yours, are given as evidence. What nothing
    supports is said to have none: a page on how one answer came about shows nothing of safety or ethics.

    Source: Xie et al., Field guide, §2 (traits; evident in themselves, measurable, or by user studies).

    Example:
        >>> from pellucid.report import Evidence, traits
        >>> told = traits(studies=[Evidence(trait="trust", mode="studied", by="two weeks in a clinic", n=12)])
        >>> [e.mode for e in told.evidence]
        ['none', 'studied', 'none', 'none']
    """
    found: list[Evidence] = list(studies)
    for result in results:
        name = title_of(result)
        tried = result.facts.get(TRIED)
        if isinstance(result, Attribution) and tried is not None and bool(torch.isfinite(tried).any()):
            share = float(tried[tried.isfinite()].mean())
            by = f"{name}, share of random orders that it beats when what it points to is taken away first"
            found.append(Evidence(trait="confidence", mode="measured", by=by, value=share))
        elif isinstance(result, Attribution | Rules | Semantics):
            found.append(Evidence(trait="confidence", mode="self-evident", by=name))
        elif isinstance(result, Examples):
            found.append(Evidence(trait="trust", mode="self-evident", by=name))
        elif isinstance(result, Measure) and result.source.get("method") == "trust-score":
            told = result.source.get("held_out", {})
            if math.isfinite(told.get("auroc", math.nan)):
                by = "share of pairs in which the trust score tells right from wrong answers"
                found.append(Evidence(trait="trust", mode="measured", by=by, value=told["auroc"]))
    for trait in TRAITS:
        if not any(e.trait == trait for e in found):
            found.append(Evidence(trait=trait, mode="none"))
    return Traits(evidence=tuple(sorted(found, key=lambda e: TRAITS.index(e.trait))))


def sections(dossier: Dossier) -> Sequence[Section]:
    """What there is to trust by, on every page."""
    return [traits(*dossier.found.results).section()]


@dataclass(frozen=True, kw_only=True)
class Rationale:
    """Which of the four properties are present, each with what shows it, and which are missing."""

    present: dict[str, tuple[str, ...]]

    @property
    def missing(self) -> tuple[str, ...]:
        """The properties that nothing shows."""
        return tuple(name for name in PROPERTIES if not self.present[name])

    def sentences(self) -> list[str]:
        """One line for each property."""
        return [
            f"{PROPERTIES[name][0].upper()}{PROPERTIES[name][1:]}: " + (listed(shown) if shown else "missing") + "."
            for name, shown in ((n, [clean(s, 80) for s in self.present[n]]) for n in PROPERTIES)
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"present": {k: list(v) for k, v in self.present.items()}, "missing": list(self.missing)}


def rationale(*parts: Explanation | IfThen, vocabulary: Any = None) -> Rationale:
    """Does what is shown have what lets people trust it: plain words, their own names, context, and steps?

    - *interpretable*: a result that sums itself up without a word of the trade.
    - *relatable*: names of features and classes that are none, or mere numbers, count as missing, as do names without a
      word where a ``vocabulary`` is given.
    - *contextual*: similar known cases, or a figure of how usual the case is.
    - *reasoned*: the way through a tree, an if-then sentence, groups that join step by step, or a layer between.

    Source: Xie et al., Field guide, §1 (i-iv). That a property is present does not say that it is good.

    Example:
        >>> import torch, pellucid as px
        >>> net = px.Subject(torch.nn.Linear(2, 2).eval(), features=("age", "dose"), classes=("well", "ill"))
        >>> px.report.rationale(px.explain(net, torch.ones(1, 2), "gradient-x-input")).missing
        ('contextual', 'reasoned')
    """
    words = None if vocabulary is None else Vocabulary.of(vocabulary)
    present: dict[str, list[str]] = {name: [] for name in PROPERTIES}
    for part in parts:
        if isinstance(part, IfThen):
            present["interpretable"].append("a sentence with if and then")
            present["reasoned"].append("a sentence with if and then")
            continue
        if not isinstance(part, Explanation):
            raise InputError("A rationale is made of results or rules", got=type(part).__name__)
        title = title_of(part)
        told = [line for line in viewer(part).account(part, Options(rows=1)).mattered if line]
        if told and not any(JARGON.search(line) for line in told):
            present["interpretable"].append(title)
        if _named(part, words):
            present["relatable"].append(title)
        if isinstance(part, Examples) or {"novelty", "trusted_more_than"} & set(part.facts):
            present["contextual"].append(title)
        steps = isinstance(part, Rules) and hasattr(part.structure, "decision_path")
        if steps or part.source.get("hierarchy") or part.source.get("layer") or isinstance(part, Semantics):
            present["reasoned"].append(title)
    return Rationale(present={k: tuple(dict.fromkeys(v)) for k, v in present.items()})


def _named(part: Explanation, words: Vocabulary | None) -> bool:
    """Whether features and classes have names that mean something to the reader."""
    named = [("feature", n) for n in part.context.features] + [("class", n) for n in part.context.classes]
    if not named or not part.context.classes:
        return False
    if words is not None:
        known = {(t.kind, w) for t in words.terms for w in (t.name, t.word)}
        return all(one in known for one in named)
    return not any(NUMBERED.fullmatch(n.strip()) for _, n in named)
