"""What did people answer? Their files, read as what they are: foreign; and answers of pretended people, to rehearse."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.contract.storage import as_path
from pellucid.engine import seed as seeds
from pellucid.evaluation.human import Question, Stimulus, Study
from pellucid.inert import cell, clean

__all__ = ["Answer", "Answers"]

FORMAT, VERSION = "pellucid-answers", 1
LARGEST = 1 << 20  # bytes of one person's file
LONGEST = 300  # characters of a remark
SLOWEST = 86400.0
FIELDS = {"format", "version", "study", "participant", "answers"}
ANSWER = {"stimulus", "position", "seconds", "given"}
# What may tell who somebody is: addresses, long numbers, dates.
TELLING = re.compile(r"\S+@\S+|\bhttps?:\S+|\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|[+(]?\d[\d \-/()]{4,}\d")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One screen's answers: of choices the option's number from 0, of scales from 1, of sides the side's from 0, 2 for
    neither. `seconds` are those for which the screen was seen until its first question was last answered: other questions
    do not count."""

    participant: int
    position: int
    stimulus: int
    seconds: float
    given: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All answers to a study, by participant and position. `simulated` if nobody was asked."""

    study: str
    answers: tuple[Answer, ...]
    simulated: bool = False

    @property
    def participants(self) -> tuple[int, ...]:
        """Who answered anything."""
        return tuple(sorted({a.participant for a in self.answers}))

    def where(self, study: Study, **about: Any) -> Answers:
        """Only the answers to stimuli of which this is known: ``where(study, advice=1)``."""
        kept = [a for a in self.answers if all(study.stimuli[a.stimulus].about.get(k) == v for k, v in about.items())]
        return Answers(study=self.study, answers=tuple(kept), simulated=self.simulated)

    def csv(self, study: Study) -> str:
        """The answers as a table, one line for each answer to a question, with what was sealed; no cell is a formula."""
        heads = ("participant", "position", "case", "condition", "question", "answer", "meaning", "right", "seconds")
        lines = [",".join(heads)]
        for a in self.answers:
            s = study.stimuli[a.stimulus]
            for q in s.questions:
                if q.name not in a.given:
                    continue
                given, right = a.given[q.name], s.right.get(q.name)
                hit = "" if right is None or not isinstance(given, int) else int(given == right)
                row = (a.participant, a.position, s.case, s.condition, q.name, given, meaning(s, q, given), hit)
                lines.append(",".join(map(cell, (*row, f"{a.seconds:.3f}"))))
        return "".join(line + "\r\n" for line in lines)


def meaning(stimulus: Stimulus, question: Question, given: Any) -> str:
    """An answer in words."""
    if question.kind == "remark":
        return ""
    if question.kind == "several":
        return "; ".join(question.options[i] for i in given)
    if question.kind == "side":
        return (*stimulus.names, "neither")[given]
    return question.options[given - (question.kind == "scale")]


def read(study: Study, files: Any, *, remarks: bool = False) -> Answers:
    """The answers in the files people sent, each checked against the study's own description.

    A file that is too large, no JSON, of another study, or that holds anything the questionnaire does not write (a field
    too many, an answer out of range, another order than planned) is refused by name. Whoever answers can write what they
    like into a file; nothing of it but numbers is kept, and, with ``remarks=True``, remarks: control characters made
    visible, cut, and without addresses, dates and long numbers. Files may be incomplete. Two of one participant are
    refused.
    """
    public, found = study.public(), []
    codes = {code: i for i, code in enumerate(study.codes())}
    taken: dict[int, str] = {}
    for path in _paths(files):
        try:
            person = _person(study, public, codes, path)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UnsafeFileError(
                f"The answers in {clean(path.name)[:60]!r} must be as the questionnaire writes them",
                got=clean(error)[:160],
                hint="leaving this file out",
            ) from error
        number = person[0].participant if person else None
        if number in taken:
            raise InputError(
                f"The 'files' must be of different participants; {number} is in {taken[number]!r}",
                got=clean(path.name)[:60],
            )
        if number is not None:
            taken[number] = clean(path.name)[:60]
        found += person
    if not found:
        raise InputError("The 'files' must hold answers", got="none")
    kept = tuple(sorted((_remarked(study, a, remarks) for a in found), key=lambda a: (a.participant, a.position)))
    return Answers(study=public["study"], answers=kept)


def _paths(files: Any) -> list[Path]:
    if isinstance(files, list | tuple):
        return [as_path(f) for f in files]
    path = as_path(files)
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def _person(study: Study, public: dict[str, Any], codes: dict[str, int], path: Path) -> list[Answer]:
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise ValueError(f"no ordinary file of at most {LARGEST} bytes")
    body = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    _exactly(body, FIELDS)
    if (body["format"], body["version"]) != (FORMAT, VERSION):
        raise ValueError("another format or version")
    if body["study"] != public["study"]:
        raise ValueError("answers to another study")
    number = _whole(body["participant"], 1, study.participants)
    planned, found = public["plan"][number - 1], []
    if not isinstance(body["answers"], list) or len(body["answers"]) > len(planned):
        raise ValueError("more answers than screens")
    for one in body["answers"]:
        _exactly(one, ANSWER)
        position = _whole(one["position"], 0, len(planned) - 1)
        code, flipped = planned[position]
        if one["stimulus"] != code:
            raise ValueError(f"another screen at position {position} than planned")
        seconds = one["seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= SLOWEST:
            raise ValueError(f"seconds at position {position} that can't be")
        given = _given(study.stimuli[codes[code]], one["given"], bool(flipped))
        found.append(
            Answer(participant=number, position=position, stimulus=codes[code], seconds=float(seconds), given=given)
        )
    if len({a.position for a in found}) < len(found):
        raise ValueError("two answers at one position")
    return found


def _given(stimulus: Stimulus, given: Any, flipped: bool) -> dict[str, Any]:
    """The answers to one screen's questions, with sides as they are and not as they were shown."""
    asked = {q.name: q for q in stimulus.questions}
    needed = {k for k, q in asked.items() if q.kind != "remark"}
    if not isinstance(given, dict) or not needed <= set(given) <= set(asked):
        raise ValueError("answers to other questions than were asked")
    found: dict[str, Any] = {}
    for name, value in given.items():
        q = asked[name]
        if q.kind == "remark":
            if not isinstance(value, str) or len(value) > 4 * LONGEST:
                raise ValueError("a remark that is none or too long")
            found[name] = value
        elif q.kind == "several":
            if not isinstance(value, list) or len(value) != len(set(map(repr, value))):
                raise ValueError("several options that are no list of different ones")
            found[name] = tuple(sorted(_whole(v, 0, len(q.options) - 1) for v in value))
        elif q.kind == "side":
            side = _whole(value, 0, 1 + len(q.options))
            found[name] = 1 - side if flipped and side < 2 else side
        else:
            first = int(q.kind == "scale")
            found[name] = _whole(value, first, len(q.options) - 1 + first)
    return found


def _remarked(study: Study, answer: Answer, remarks: bool) -> Answer:
    kinds = {q.name: q.kind for q in study.stimuli[answer.stimulus].questions}
    given = {k: v for k, v in answer.given.items() if kinds[k] != "remark"}
    if remarks:
        given |= {k: anonymous(v) for k, v in answer.given.items() if kinds[k] == "remark" and v.strip()}
    return Answer(**{**vars(answer), "given": given})


def anonymous(text: str) -> str:
    """A remark without what may tell who somebody is, on one line, cut to a length."""
    return clean(TELLING.sub("[…]", " ".join(text.split())))[:LONGEST]


def _exactly(value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"fields other than {', '.join(sorted(names))}")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a field twice")
    return made


def _no_number(name: str) -> float:
    raise ValueError(f"{name}, which is no number")


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a figure that is no whole number from {low} to {high}")
    return value


def rehearse(
    study: Study, person: Callable[..., Any], *, participants: Iterable[int] | None = None, seed: int = 0
) -> Answers:
    """Answers of pretended people, who see what participants would.

    Args:
        study: the study.
        person: a function of (participant, stimulus, generator) that returns a dict of answers by question, with the sides
            as in `Stimulus.sides`, and the seconds taken.
        participants: who answers, from 1; None: everyone.
        seed: of each one's generator.

    Raises where an answer is none that the questionnaire could write.
    """
    plans, found = study.plan(), []
    for number in range(1, len(plans) + 1) if participants is None else participants:
        draw = seeds.generator(seed, b"study rehearsal", number)
        for position, showing in enumerate(plans[number - 1]):
            stimulus = study.stimuli[showing.stimulus]
            given, seconds = person(number, stimulus, draw)
            given = {
                k: list(v) if isinstance(v, tuple) else v if isinstance(v, str) else _plain(v) for k, v in given.items()
            }
            try:
                checked = _given(stimulus, given, False)
            except (ValueError, TypeError) as error:
                raise InputError("The 'person' must give answers to each question", got=clean(error)[:160]) from error
            if not 0 < float(seconds) < math.inf:
                raise InputError("The 'person' must take some seconds", got=repr(seconds))
            found.append(
                Answer(
                    participant=number,
                    position=position,
                    stimulus=showing.stimulus,
                    seconds=float(seconds),
                    given=checked,
                )
            )
    return Answers(study=study.mark, answers=tuple(found), simulated=True)


def _plain(value: Any) -> Any:
    """A NumPy integer as Python's."""
    return value.item() if hasattr(value, "item") else value
