"""What do people make of explanations? Studies as frozen descriptions: exported as one page, read back, and analysed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid.contract import Explanation, Measure
from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.contract.storage import as_path, write
from pellucid.engine import seed as seeds
from pellucid.engine.settings import whole
from pellucid.evaluation.human_plan import DESIGNS, Showing, balance, plan
from pellucid.inert import clean

__all__ = ["Panel", "Question", "Stimulus", "Study", "scale", "shown"]

KINDS = ("choice", "scale", "side", "several", "remark")
VERSION = 1
LARGEST_KEY = 256 << 20
PAGE, KEY = "questionnaire.html", "sealed-key.json"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that is asked about a stimulus.

    `kind`: "choice" of one of the `options`; "scale", options in an order, counted from 1; "side", which of the stimulus's
    two sides, with a third option for neither if one is given; "several" of the options; "remark", a few words, which may
    be left out.
    """

    name: str
    text: str
    options: tuple[str, ...] = ()
    kind: str = "choice"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One thing that is shown: a heading, lines of text, a PNG picture as a data address, and what it shows in words."""

    heading: str = ""
    lines: tuple[str, ...] = ()
    image: str = ""
    alt: str = ""


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """One screen: what is shown of a `case` under a `condition`, and what is asked.

    Shown are `panels`, and `sides`, two of which one may be chosen. Sealed stay the condition, the `names` of the sides,
    and `right` and `about`. `right` holds right answers by question:
    the number of an option, from 0, or of a side. `about` is what else is known of it and stays sealed, such as whether the
    network's advice is right: `Answers.where` picks by it.
    """

    case: str
    condition: str
    panels: tuple[Panel, ...] = ()
    questions: tuple[Question, ...] = ()
    right: Mapping[str, int] = field(default_factory=dict)
    sides: tuple[Panel, ...] = ()
    names: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """How do people fare with explanations, and which do they choose? An experiment, fixed before anyone answers.

    ``export`` writes the questionnaire, one page that works without server or network and saves each person's answers as
    a file, and the sealed key, which says what stands behind its neutral names. ``read`` checks the files that come back,
    ``analyse`` measures each condition, ``rehearse`` lets pretended people answer, so that the analysis is tried, and its
    power seen, before anybody is asked.

    Args:
        title, intro: what people read first. Say what is kept: numbers of answers and seconds, nothing about the person.
        conditions: what is compared, the control first; their names stand in the key alone.
        stimuli: one for each case and condition ("between", "within", "crossed": all combinations).
        participants: how many people; see `participants_needed`.
        design: "within", each person meets each case once, and all conditions equally often; "crossed", each case under
            each condition; "between", one condition only. Cases × conditions and positions × conditions are balanced
            exactly within blocks of participants, by Williams' squares; the sides of choices are balanced too.
        seed: of order and allotment.
        warnings: sentences that stand with the study's title, for those who take part and on its analysis.

    Ask an ethics board before people take part. Source: Doshi-Velez & Kim 2017, §3; Williams 1949, for the squares.

    Example:
        >>> ask = (Question(name="answer", text="What will it say?", options=("cat", "dog")),)
        >>> cells = [(case, way) for case in "ab" for way in ("without", "with")]
        >>> made = [Stimulus(case=c, condition=w, questions=ask, right={"answer": 0}) for c, w in cells]
        >>> study = Study(title="Pets", conditions=("without", "with"), stimuli=tuple(made), participants=4)
        >>> [len(person) for person in study.plan()]
        [2, 2, 2, 2]
    """

    title: str
    conditions: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]
    participants: int
    intro: tuple[str, ...] = ()
    design: str = "within"
    seed: int = 0
    warnings: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise where the description is not whole."""
        whole(participants=(self.participants, 1))
        if self.design not in DESIGNS:
            raise InputError(f"The 'design' must be one of {DESIGNS}", got=repr(self.design))
        if len(set(self.conditions)) != len(self.conditions) or not self.conditions:
            raise InputError("The 'conditions' must be different names, at least one", got=repr(self.conditions)[:80])
        met = [(s.case, s.condition) for s in self.stimuli]
        cases = list(dict.fromkeys(case for case, _ in met))
        if sorted(met) != sorted((c, w) for c in cases for w in self.conditions) or not met:
            raise InputError(
                "The 'stimuli' must be one for each case and condition",
                got=f"{len(met)} for {len(cases)} cases and {len(self.conditions)} conditions",
            )
        for stimulus in self.stimuli:
            _check(stimulus)

    def plan(self) -> tuple[tuple[Showing, ...], ...]:
        """What each participant is shown, in order."""
        self.check()
        return plan(
            [(s.case, s.condition, bool(s.sides)) for s in self.stimuli],
            self.conditions,
            self.participants,
            self.design,
            self.seed,
        )

    def balance(self, answers: Any = None) -> dict[str, Any]:
        """Whether conditions meet cases and positions evenly: χ² tests of the plan, or of the answers that came."""
        if answers is None:
            seen = [(self.stimuli[s.stimulus], i / len(own)) for own in self.plan() for i, s in enumerate(own)]
        else:
            length = [len(own) for own in self.plan()]
            seen = [(self.stimuli[a.stimulus], a.position / length[a.participant - 1]) for a in answers.answers]
        return balance([(s.case, s.condition, share) for s, share in seen], self.conditions)

    def codes(self) -> tuple[str, ...]:
        """The neutral name of each stimulus, in an order that tells nothing."""
        order = seeds.generator(self.seed, b"study codes", 0).permutation(len(self.stimuli))
        return tuple(f"s{int(i) + 1:04d}" for i in order)

    def public(self) -> dict[str, Any]:
        """What the page holds: everything that is shown and asked, without conditions, names or right answers."""
        images: dict[str, str] = {}
        codes, shown = self.codes(), {}
        for code, s in zip(codes, self.stimuli, strict=True):
            asked = [{"name": q.name, "text": q.text, "kind": q.kind, "options": list(q.options)} for q in s.questions]
            shown[code] = {
                "panels": [_panel(p, images) for p in s.panels],
                "sides": [_panel(p, images) for p in s.sides],
                "questions": asked,
            }
        order = [[[codes[s.stimulus], int(s.flipped)] for s in own] for own in self.plan()]
        body = {
            "title": self.title,
            "intro": list(self.intro),
            "warnings": list(self.warnings),
            "stimuli": dict(sorted(shown.items())),
            "images": images,
            "plan": order,
        }
        mark = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
        return {"format": "pellucid-study", "version": VERSION, "study": mark, **body}

    @property
    def mark(self) -> str:
        """A hash of all that people see: answers belong to the study with the same one."""
        found: str = self.public()["study"]
        return found

    def export(self, folder: str | Path, *, overwrite: bool = False, language: str = "en") -> Path:
        """Write the questionnaire's page and its sealed key into a folder; returns the page.

        Send the page alone. The page shows a hash of the key, so that nobody can change what is behind the names, or
        which answers are right, after people answered. `language` is that of your own texts, for screen readers; the
        page's own few words are English. Answers live in the page until they are saved, of which the browser reminds.
        """
        public, place = self.public(), as_path(folder)
        place.mkdir(exist_ok=True)
        body = {"format": "pellucid-key", "version": VERSION, "study": public["study"], "salt": secrets.token_hex(16)}
        key = json.dumps({**body, "description": dataclasses.asdict(self)}, indent=1, allow_nan=False).encode()
        seal = hashlib.sha256(key).hexdigest()
        viewer = importlib.import_module("pellucid.show.questionnaire")
        page = viewer.page({**public, "seal": seal}, language).encode()
        write(place / KEY, key, overwrite=overwrite)
        return write(place / PAGE, page, overwrite=overwrite)

    @classmethod
    def load(cls, key: str | Path, page: str | Path | None = None) -> Study:
        """The study of a sealed key; with the page, it is checked that this key is the one that was sealed."""
        path = as_path(key)
        if not path.is_file() or path.stat().st_size > LARGEST_KEY:
            raise UnsafeFileError("The 'key' must be a study's sealed key", got=clean(repr(str(path))))
        raw = path.read_bytes()
        if page is not None and hashlib.sha256(raw).hexdigest().encode() not in as_path(page).read_bytes():
            raise UnsafeFileError("The 'key' must be the one whose hash is on the page", got="another one")
        try:
            body = json.loads(raw)
            made = _study(body["description"])
            made.check()
            if body["format"] != "pellucid-key" or body["study"] != made.mark:
                raise ValueError("its mark is not that of its description")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UnsafeFileError("The 'key' must be a whole sealed key", got=clean(error)[:120]) from error
        return made

    def read(self, files: Any, *, remarks: bool = False) -> Any:
        """The answers in files that people sent: a path, several, or a folder of .json files. See `human_answers.read`."""
        from pellucid.evaluation.human_answers import read

        return read(self, files, remarks=remarks)

    def rehearse(self, person: Callable[..., Any], *, participants: Iterable[int] | None = None, seed: int = 0) -> Any:
        """Answers of pretended people. See `human_answers.rehearse`."""
        from pellucid.evaluation.human_answers import rehearse

        return rehearse(self, person, participants=participants, seed=seed)

    def analyse(self, answers: Any, question: str | None = None) -> Measure:
        """A figure for each condition with its interval, time, agreement and effects. See `human_analysis.analyse`."""
        from pellucid.evaluation.human_analysis import analyse

        return analyse(self, answers, question)

    def question(self, name: str | None = None) -> Question:
        """A question by name, or the first that is no remark."""
        asked = {q.name: q for s in self.stimuli for q in s.questions}
        found = name if name is not None else next((k for k, q in asked.items() if q.kind != "remark"), None)
        if found not in asked:
            raise InputError(f"The 'question' must be one of {sorted(asked)}", got=repr(name))
        return asked[found]


def scale(name: str, text: str, low: str, high: str, *, points: int = 7) -> Question:
    """A question whose answer is a number from 1 to `points`, with words at both ends."""
    whole(points=(points, 2))
    options = [str(i) for i in range(1, points + 1)]
    options[0], options[-1] = f"1 – {low}", f"{points} – {high}"
    return Question(name=name, text=text, options=tuple(options), kind="scale")


def shown(result: Explanation, row: int = 0, *, heading: str = "", alt: str = "", answer: bool = False) -> Panel:
    """One row of a result as a panel that names neither the method nor, unless `answer`, what the network answered.

    Say in `alt` what can be seen, in words that give nothing away, if people who can't see it take part.
    """
    whole(row=(row, 0))
    viewer = importlib.import_module("pellucid.show.questionnaire")
    return Panel(heading=heading, image=viewer.picture(result, row, answer=answer), alt=alt)


def _panel(panel: Panel, images: dict[str, str]) -> dict[str, Any]:
    name = ""
    if panel.image:
        name = "i" + hashlib.sha256(panel.image.encode()).hexdigest()[:16]
        images[name] = panel.image
    return {"heading": panel.heading, "lines": list(panel.lines), "image": name, "alt": panel.alt}


def _check(stimulus: Stimulus) -> None:
    where = f"The stimulus of case {clean(stimulus.case)[:40]!r}"
    asked = [q.name for q in stimulus.questions]
    if not asked or len(set(asked)) != len(asked):
        raise InputError(f"{where} must ask questions of different names", got=repr(asked)[:80])
    if len(stimulus.sides) != len(stimulus.names) or len(stimulus.sides) not in (0, 2):
        raise InputError(f"{where} must have no sides or two, each with a name", got=f"{len(stimulus.sides)} sides")
    for q in stimulus.questions:
        if not re.fullmatch(r"[a-z][a-z0-9 -]{0,39}", q.name):
            raise InputError(f"{where} must name questions by small letters and digits", got=clean(repr(q.name))[:80])
        least = {"side": 0, "remark": 0, "several": 1}.get(q.kind, 2)
        if q.kind not in KINDS or len(q.options) < least or (q.kind == "side" and len(q.options) > 1):
            raise InputError(
                f"{where} must ask with one of {KINDS} and enough options", got=f"{q.kind!r}, {q.options!r}"[:90]
            )
        if (q.kind == "side") > bool(stimulus.sides):
            raise InputError(f"{where} must have sides to choose from", got="none")
        count = 2 if q.kind == "side" else len(q.options)
        if q.name in stimulus.right and not 0 <= stimulus.right[q.name] < count:
            raise InputError(f"{where} must have right answers among the options", got=repr(stimulus.right[q.name]))
    if unknown := set(stimulus.right) - set(asked):
        raise InputError(f"{where} must have right answers to its questions", got=repr(sorted(unknown))[:80])
    for panel in (*stimulus.panels, *stimulus.sides):
        if panel.image and not panel.image.startswith("data:image/png;base64,"):
            raise InputError(f"{where} must have pictures as PNG data addresses", got=clean(panel.image[:40]))


def _study(given: dict[str, Any]) -> Study:
    """A study from plain data."""
    stimuli = []
    for s in given.pop("stimuli"):
        panels = {k: tuple(Panel(**{**p, "lines": tuple(p["lines"])}) for p in s[k]) for k in ("panels", "sides")}
        asked = tuple(Question(**{**q, "options": tuple(q["options"])}) for q in s["questions"])
        stimuli.append(Stimulus(**{**s, **panels, "questions": asked, "names": tuple(s["names"])}))
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Study(**plain, stimuli=tuple(stimuli))
