"""A page about a model's answers for some inputs: each answer with its margin, explanations with their measured errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import Tensor

import pellucid
from pellucid.contract import Explanation
from pellucid.engine import Subject, as_subject
from pellucid.engine.batch import Progress
from pellucid.report import auditor, trust_traits
from pellucid.report.audience import Additions
from pellucid.report.case import Case
from pellucid.report.computed import NAMED, asked, computed, environment
from pellucid.report.dossier import MOST, Dossier, compute, named_parts, question
from pellucid.report.privacy import log_lines, loggable
from pellucid.report.record import altered, digest, now, sealed, text_of
from pellucid.report.record import save as save_record
from pellucid.report.run import Found
from pellucid.report.sections import Section, drawn, free, save
from pellucid.report.statements import sources, statements
from pellucid.show import pages, viewer
from pellucid.show.engineer import provenance
from pellucid.show.facts import GOOD, REMOVAL
from pellucid.show.options import Options
from pellucid.show.words import counted

INTRO = (
    "What the network answered, how sure it was, what moved it, and how far each explanation can be believed. "
    "Explanations are measured, not promised: beside each stands its own error."
)
TITLE = "What the network answered, and why"

# What stands between the cases and the provenance: each function is given everything that was asked and computed, and
# returns its sections, for `dossier.question.audience` to read. A new part of the page is one more function here.
SECTIONS: list[Callable[[Dossier], Sequence[Section]]] = [auditor.sections, trust_traits.sections]


@dataclass(kw_only=True, eq=False)
class Story:
    """Everything on a page."""

    title: str
    intro: str
    cases: list[Case]
    whole: list[tuple[int, Markup]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Markup] = field(default_factory=list)
    anchors: dict[str, str] = field(default_factory=dict)
    headings: list[str] = field(default_factory=list)
    hero: Case | None = None
    chosen: str = ""
    accuracy: str = ""
    responsible: str = ""
    contest: str = ""
    seal: str = ""
    short: list[tuple[str, str]] = field(default_factory=list)

    def statements(self, dossier: Dossier) -> dict[str, list[str]]:
        """Every statement with a figure, by the place in the record behind it."""
        return statements(self.html(dossier.question.audience), {**sources(dossier), **self.anchors})

    def html(self, audience: str) -> str:
        """The page."""
        body = pages.render(
            "report.html",
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "anchors"},
            contents=[(heading, pages.slug(heading)) for heading in self.headings],
            open=audience != "layperson",
            choices=any(c.answer.second_share is not None for c in self.cases),
            checks=any(c.check for c in self.cases),
            truths=any(c.truth for c in self.cases),
            pictures=any(c.picture is not None for c in self.cases),
        )
        return pages.document(self.title, body)


def write(
    model: Any,
    inputs: Any,
    methods: Sequence[Any] | None = None,
    *,
    target: Any = None,
    data: Any = None,
    labels: Any = None,
    path: str | Path = "report.html",
    audience: str = "layperson",
    title: str = TITLE,
    seed: int = 0,
    record: bool | str | Path = False,
    keep_inputs: bool = False,
    responsible: str = "",
    contest: str = "",
    parts: Mapping[str, Tensor] | None = None,
    private: bool = False,
    log: str | Path | None = None,
    overwrite: bool = False,
    progress: Any = False,
    named: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
    vocabulary: Any = None,
    held_out: Any = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write one self-contained page that explains each row, and say where it is.

    Args:
        model, inputs, target, data, seed: as for `explain`; at most 24 rows.
        methods: method values or catalogue names; `None` takes a few that suit the inputs. Those that can't be computed
            are listed with the reason.
        labels: the true classes (N,), so that the page can say which answers are right.
        path: the file to write; never overwritten unless `overwrite`.
        audience: "layperson" (figures for engineers are folded), "engineer" (they stand open) or "auditor" (with the
            evidence, the methods' cards and what speaks against them).
        title: the page's title.
        record: also write a decision record, from which `report.replay` computes everything again: `True` puts it beside
            the page, as report.json beside report.html.
        keep_inputs: keep the inputs themselves in the record. Without, it holds their digest, and whoever replays it
            brings them. Maps of at most 4,096 numbers are always kept, and show something of the inputs.
        responsible: who answers for the decision, on the page and in the record.
        contest: how to contest it.
        parts: named regions of the inputs, such as objects that people marked: {name: masks (N, height, width)}. Then the
            page says by name on which of them an answer rests.
        private: the rows of `data` are private: methods that would show them are left out, and say so.
        log: a file that gets a line for each explanation: time, model hash, method, settings, output.
        progress: `True` shows a bar; a function gets (done, total, label).
        named: what the command line calls "model", "input" and "data", so that replaying finds them again.
        names: what each row is called.
        vocabulary: the user's own words for features and classes: a `Vocabulary`, or {"feature:x1": "blood pressure"}.
        held_out: (X, y) that the network has not seen: then the page says, with `data` as what it learnt from, which
            answers may be relied on and about which to ask a person, as `report.limits` does.
        sections: further sections, such as `report.necessity(...).section()`.

    The last three are no part of a record: whoever wants both words and a record gives ``vocabulary.apply(model)``.

    The page embeds pictures of the inputs.

    Example:
        >>> import torch, tempfile, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     px.report(net, torch.ones(1, 3), ["vanilla-gradient"], path=f"{folder}/page.html").name
        'page.html'
    """
    added = Additions.of(vocabulary, held_out, sections, data, record)
    masks = named_parts(parts, inputs)
    put = question(inputs, methods, labels, audience, data, target=target, seed=seed, private=private, parts=masks)
    path = free(path, overwrite)
    beside = _beside(path, record)
    if beside is not None:
        free(beside, overwrite)
    loggable(log)
    subject = as_subject(model) if added.words is None else added.words.apply(model)
    with Progress(progress).bar(len(put.methods) + 1, "report") as step:
        dossier = compute(subject, put, step)
    story = tell(dossier, title=title, responsible=responsible, contest=contest)
    story.sections += [drawn(part, audience) for part in added.made(subject, inputs, data)]
    log_lines(log, dossier)
    if beside is None:
        return save(story.html(audience), path, overwrite=overwrite)
    made = on_record(dossier, story, named or {}, names, keep_inputs=keep_inputs)
    story.seal = made["digests"]["record"]
    written = save(story.html(audience), path, overwrite=overwrite)
    save_record(made, beside, overwrite=overwrite)
    return written


def tell(dossier: Dossier, *, title: str = TITLE, intro: str = INTRO, **said: Any) -> Story:
    """The page's parts, for the audience that was asked for."""
    put, audience = dossier.question, dossier.question.audience
    parts = [part for found in SECTIONS for part in found(dossier)]
    hero = next((c for c in dossier.cases if c.right is False and c.why_words), None)
    if hero is not None and title == TITLE:
        title = f"Why did the network answer “{hero.answer.name}” when it is “{hero.truth}”?"
    return Story(
        title=title,
        short=[] if hero is None else in_short(hero, str(said.get("contest", ""))),
        intro=intro,
        cases=dossier.cases,
        whole=whole(dossier.found, audience),
        missing=dossier.found.missing,
        provenance=about(dossier.subject, dossier.found, put.seed),
        hero=hero,
        sections=[drawn(part, audience) for part in parts],
        headings=[part.heading for part in parts],
        anchors={pages.slug(part.heading): part.source for part in parts},
        **said,
    )


def in_short(case: Case, contest: str) -> list[tuple[str, str]]:
    """A mistake in a few lines, for whoever has a minute: why, on what it rests, whether data are to blame, what now."""
    tried = [v for p in case.panels for v in p.verdicts if v.short.startswith(REMOVAL)]
    stood = sum(v.level == GOOD for v in tried)
    told = [
        ("Why?", " ".join(case.why_words)),
        ("What it rests on", " ".join(case.evidence_words)),
        ("What would change it", " ".join(case.change_words)),
        ("Is the data to blame?", " ".join(case.cause_words)),
        (
            "Can it be believed?",
            f"{stood or 'None'} of the {counted(len(tried), 'map')} below stood the test: the answer fades sooner when "
            "what is marked is taken away than when parts go in random order."
            if tried
            else "No map below could be put to the test: read them with caution.",
        ),
        ("To contest it", contest),
    ]
    return [(name, text) for name, text in told if text]


def on_record(
    dossier: Dossier, story: Story, named: Mapping[str, str], names: Sequence[str] = (), *, keep_inputs: bool = False
) -> dict[str, Any]:
    """The record of what was computed and of what the page says of it."""
    told = story.statements(dossier)
    put = asked(dossier, {k: v for k, v in named.items() if k in NAMED}, names, keep_inputs=keep_inputs)
    found = computed(dossier, told)
    issued = {
        "when": now(),
        "title": text_of(story.title),
        "responsible": text_of(story.responsible) or None,
        "contest": text_of(story.contest) or None,
        "environment": environment(dossier.question.rows.device.type),
        "seconds": [float(r.source.get("seconds", 0.0)) for r in dossier.found.results],
    }
    issued["id"] = digest([put, found, issued])[:16]
    made = sealed(put, found, issued)
    assert not altered(made)
    return made


def _beside(page: Path, record: bool | str | Path) -> Path | None:
    """Where the record goes."""
    if record is False or record is None:
        return None
    return page.with_suffix(".json") if record is True else Path(record)


def whole(found: Found, audience: str) -> list[tuple[int, Markup]]:
    """The results that tell of the network rather than of a row, with their numbers."""
    told = [(k, r) for k, r in enumerate(found.results) if r.form in ("rules", "semantics", "measure", "text")]
    heard = "layperson" if audience == "layperson" else "engineer"
    return [(k, pages.piece(r, viewer(r), heard, Options(rows=MOST))) for k, r in told]


def about(subject: Subject, found: Found, seed: int) -> list[tuple[str, str]]:
    """What made the page, without a word on where or by whom."""
    first: Explanation | None = found.results[0] if found.results else None
    keep = ("model", "model hash", "input hash", "rows", "dtype", "versions", "device")
    told = [(k, v) for k, v in provenance(first) if k in keep] if first is not None else []
    if not told:
        told = [
            ("model", type(subject.module or subject.model).__name__),
            ("versions", f"pellucid {pellucid.__version__}"),
        ]
    names = ", ".join(str(r.source.get("method")) for r in found.results)
    return [*told, ("seed", str(seed)), ("methods", names or "none")]
