"""What an auditor reads after the cases: checks and how they went, what speaks against, what rests on what, every card."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pellucid.contract import CLAIMS, NEEDS, Explanation
from pellucid.report.case import Case
from pellucid.report.dossier import Dossier
from pellucid.report.sections import Section, Table
from pellucid.show.answer import class_name
from pellucid.show.engineer import provenance
from pellucid.show.facts import card_of, title_of
from pellucid.show.words import counted, number, percent


def sections(dossier: Dossier) -> list[Section]:
    """The auditor's part of the page; none for others."""
    if dossier.question.audience != "auditor":
        return []
    return [_checks(dossier), _against(dossier), _agreement(dossier), _statements(dossier), *_cards(dossier)]


def _checks(dossier: Dossier) -> Section:
    told = [(f"Case {c.number}", check) for c in dossier.cases for check in c.more["checks"]["checks"]]
    held, failed, open_ = (sum(c["held"] is state for _, c in told) for state in (True, False, None))
    by_case, by_method = (
        [
            (name, *(str(sum(c["held"] is state for c in part)) for state in (True, False, None)))
            for name, part in groups
        ]
        for groups in (_grouped(told, lambda pair: pair[0]), _grouped(told, lambda pair: pair[1]["what"]))
    )
    counts = ("Held", "Did not hold", "Not measured")
    rows = [(name, c["what"], c["how"]) for name, c in told if c["held"] is False]
    parts: list[Any] = [
        f"{held} of {held + failed} checks held; {counted(open_, 'more check')} could not be measured. One that did not "
        "hold is a reason to doubt the explanation or the answer.",
        Table(caption="By case", headings=("Case", *counts), rows=by_case),
        Table(caption="By what was checked", headings=("What", *counts), rows=by_method),
    ]
    if rows:
        parts.append(Table(caption="Those that did not hold", headings=("Case", "Of", "What was measured"), rows=rows))
    return Section(heading="How many checks held", parts=parts, source="/computed/cases")


def _grouped(told: Sequence[Any], name: Callable[[Any], str]) -> list[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    for pair in told:
        found.setdefault(name(pair), []).append(pair[1])
    return list(found.items())


def _against(dossier: Dossier) -> Section:
    """Counter-evidence: what would have to be believed or changed for another answer."""
    headings = ("Case", "Second choice", "Changed until the answer does", "Noise that it stands", "Pointed at in vain")
    rows = [
        (
            f"Case {case.number}",
            case.second or "none",
            "; ".join(_changed(case, dossier, change) for change in case.more.get("changes", ())) or "nothing found",
            ", ".join(f"{percent(size)}: {percent(kept)}" for size, kept in case.more["checks"].get("noise", ())),
            "; ".join(f"{part['name']}: {percent(part['without'])}" for part in _in_vain(case)) or "nothing",
        )
        for case in dossier.cases
    ]
    parts: list[Any] = [Table(caption="What would give another answer", headings=headings, rows=rows)]
    parts.append(
        "Each change was made to the input, and the model asked again. Noise: its size, and in what share of random draws "
        "the answer stays. Pointed at in vain: what the map points to, and the answer’s share when it is erased."
    )
    if near := [(f"Case {c.number}", *_nearby(c.more["causes"])) for c in dossier.cases if "causes" in c.more]:
        headings = ("Case", "Known cases nearby", "With the network’s answer", "With the true label", "Labels in doubt")
        parts.append(Table(caption="Known cases near to mistakes", headings=headings, rows=near))
    return Section(heading="What speaks against", parts=parts, source="/computed/cases")


def _changed(case: Case, dossier: Dossier, change: Mapping[str, Any]) -> str:
    name = class_name(change["answer"], dossier.subject.classes)
    erased = change["by"] == "erasing" and case.reason is not None and case.reason.erasure is not None
    part = case.reason.erasure.part if erased and case.reason and case.reason.erasure else "column"
    kind = "erased" if erased else f"taken from {change['by']}"
    return f"{counted(change['count'], part)} {kind}: “{name}” {percent(change['share'])}"


def _in_vain(case: Case) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = case.more.get("evidence", {}).get("unsupported", ())
    return found


def _nearby(told: Mapping[str, Any]) -> tuple[str, str, str, str]:
    doubted = told["suspects"] if isinstance(told["suspects"], int) else len(told["suspects"])
    return str(told["near"]), str(told["as_answered"]), str(told["as_true"]), str(doubted)


def _agreement(dossier: Dossier) -> Section:
    names = [title_of(r) for r in dossier.found.results]
    pairs: dict[tuple[int, int], list[float]] = {}
    for case in dossier.cases:
        for a, b, value in case.more["checks"]["agreement"]:
            if math.isfinite(value):
                pairs.setdefault((int(a), int(b)), []).append(value)
    rows = [
        (f"{names[a]} and {names[b]}", number(sum(v) / len(v), 2), number(min(v), 2), number(max(v), 2))
        for (a, b), v in sorted(pairs.items(), key=lambda item: sum(item[1]) / len(item[1]))
    ]
    headings = ("Maps", "Mean over cases", "Lowest", "Highest")
    return Section(
        heading="Where the methods disagree",
        parts=(
            "Spearman’s rank correlation of two maps of the same row: 1 means the same order of all places, 0 none in "
            "common, −1 the reverse. Methods answer different questions, so low figures need not mean that one is wrong; "
            "but a reason that only one of them shows rests on that one alone.",
            Table(caption="Rank correlations, the lowest first", headings=headings, rows=rows),
        ),
        source="/computed/cases",
    )


def _statements(dossier: Dossier) -> Section:
    """Which kinds of statement are quantitative, what computes them, and what is claimed of it."""
    softmax = "the model’s output; softmax, unless it gives shares already"
    rows: list[Sequence[str]] = [
        ("What the network answered, and its confidence", "yes", softmax, "none: it is the network’s own figure"),
        (
            "Why one answer rather than another",
            "yes",
            "integrated-gradients of the margin",
            _claimed("integrated-gradients"),
        ),
        ("How many erased parts change the answer", "yes", "forward passes of the model", "exact for the order tried"),
        ("What the answer rests on", "yes", "forward passes with each region erased", "exact for zero as the fill"),
        ("Which known cases have doubtful labels", "yes", "distances between inputs", "nearness, not influence"),
        ("What a map can and can’t support", "no", "written by people, on the method’s card", "none"),
    ]
    for k, found in enumerate(dossier.found.results, 1):
        name = str(found.source.get("method"))
        facts = ", ".join(fact.replace("_", " ") for fact in found.facts) or "no error of its own"
        rows.append((f"Result {k}: {title_of(found)}", "yes", f"{name}; measured: {facts}", _claimed(name, found)))
    return Section(
        heading="Which statements are figures, and what they rest on",
        parts=(
            Table(
                caption="Statements by kind",
                headings=("Statement", "Quantitative", "Computed by", "Properties tested of it"),
                rows=rows,
            ),
        ),
        source="/computed/results",
    )


def _claimed(name: str, found: Explanation | None = None) -> str:
    from pellucid.contract import by_name
    from pellucid.contract.errors import MethodError

    card = card_of(found) if found is not None else None
    if card is None:
        try:
            card = by_name(name).card
        except MethodError:
            return "not known here"
    return "; ".join(card.claims) or "none"


def _cards(dossier: Dossier) -> list[Section]:
    """The card of every method on the page: what it needs and assumes, claims, and is known to get wrong."""
    made: list[Section] = []
    known: dict[str, list[Any]] = {}
    for found in dossier.found.results:
        known.setdefault(str(found.source.get("method")), []).append(found)
    parts: list[Any] = []
    for name, results in known.items():
        card = card_of(results[0])
        settings = dict(provenance(results[0])).get("settings", "none")
        rows = [("settings", settings)]
        if card is not None:
            rows = [
                ("question", card.question),
                ("needs", "; ".join(NEEDS[n] for n in card.needs) or "nothing"),
                ("claims, each tested", "; ".join(CLAIMS[c] for c in card.claims) or "none"),
                ("not tested, and why", "; ".join(f"{k}: {v}" for k, v in card.exempt.items()) or "nothing left out"),
                ("can tell you", "; ".join(card.supports) or "not said"),
                ("can’t tell you", "; ".join(card.limits) or "not said"),
                ("cost", card.cost or "not said"),
                ("source", card.citation),
                *rows,
            ]
        title = f"{card.title} ({name})" if card is not None else name
        parts.append(Table(caption=title, headings=("On its card", "What it says"), rows=rows))
    if parts:
        made.append(Section(heading="The methods’ cards", parts=parts, source="/computed/results"))
    return made
