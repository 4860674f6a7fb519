"""The user's own words: what features, classes, concepts and regions are called, by experts who stand by each word."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.contract.storage import write
from pellucid.engine import Subject, as_subject
from pellucid.report.sections import Section
from pellucid.show.words import clean, percent

__all__ = ["Term", "Vocabulary"]

KINDS = ("feature", "class", "concept", "region")
VERSION = 1
LARGEST = 4 << 20
LONGEST = {"id": 200, "word": 80, "meaning": 500, "evidence": 500}
NO_WORD = "no word yet"


@dataclass(frozen=True, kw_only=True)
class Term:
    """One word. `id` is "feature:…", "class:…", "concept:…" or "region:…" with the name that network or method uses.

    `word` is what users call it, `meaning` says it in a sentence; `evidence` is what the mapping rests on, such as a
    guideline or who checked it, and `confidence`, from 0 to 1, how sure they are that the two are the same.
    """

    id: str
    word: str
    meaning: str = ""
    evidence: str = ""
    confidence: float = 1.0

    def __post_init__(self) -> None:
        for name, longest in LONGEST.items():
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > longest or (name in ("id", "word") and not value.strip()):
                raise InputError(f"The '{name}' of a term must be text of 1 to {longest} signs", got=repr(value)[:80])
        if self.kind not in KINDS or not self.name:
            raise InputError(f"The 'id' of a term must begin with one of {KINDS} and a colon", got=repr(self.id)[:80])
        number = isinstance(self.confidence, int | float) and not isinstance(self.confidence, bool)
        if not number or not 0 <= self.confidence <= 1:
            raise InputError("The 'confidence' of a term must be a number from 0 to 1", got=repr(self.confidence)[:80])

    @property
    def kind(self) -> str:
        """What it names: "feature", "class", "concept" or "region"."""
        return self.id.partition(":")[0]

    @property
    def name(self) -> str:
        """The name that network or method uses."""
        return self.id.partition(":")[2]

    def sentence(self) -> str:
        """The word with its meaning, and how sure it is."""
        word, meaning = clean(self.word, 80), clean(self.meaning, 500).rstrip(".")
        told = f"“{word}” stands for {self.kind} “{clean(self.name, 80)}”" + (f": {meaning}." if meaning else ".")
        sure = "" if self.confidence >= 1 else f" That the two are the same is {percent(self.confidence)} sure."
        return told + sure + (f" Evidence: {clean(self.evidence, 500).rstrip('.')}." if self.evidence else "")


@dataclass(frozen=True, eq=True)
class Vocabulary:
    """Words by id, kept in a JSON file that experts can write and check.

    An id and a word belong to each other: neither stands twice among the words of a kind, so that a sentence can be read
    back. What has no word keeps its own name and is told, never guessed.

    Example:
        >>> import torch, pellucid as px
        >>> from pellucid.report import Term, Vocabulary
        >>> words = Vocabulary((Term(id="feature:x1", word="blood pressure"), Term(id="class:1", word="ill")))
        >>> subject = words.apply(px.Subject(torch.nn.Linear(2, 2).eval(), features=("x1", "x2"), classes=("0", "1")))
        >>> subject.features, words.unmapped(subject)
        (('blood pressure', 'x2'), ('feature:x2', 'class:0'))
    """

    terms: tuple[Term, ...]
    name: str = ""

    def __post_init__(self) -> None:
        for what, keys in (("id", [t.id for t in self.terms]), ("word", [(t.kind, t.word) for t in self.terms])):
            seen: set[Any] = set()
            for key in keys:
                if key in seen:
                    raise InputError(f"Each {what} must stand once among the terms of a kind", got=repr(key)[:80])
                seen.add(key)

    @cached_property
    def _by_id(self) -> dict[str, Term]:
        return {t.id: t for t in self.terms}

    def term(self, id: str) -> Term | None:
        """The term of an id, where there is one."""
        return self._by_id.get(id)

    def word(self, id: str) -> str:
        """The word of an id, or its own name, marked, where there is none."""
        found = self._by_id.get(id)
        return found.word if found is not None else f"{id.partition(':')[2] or id} ({NO_WORD})"

    def id(self, kind: str, word: str) -> str:
        """The id that a word of a kind stands for."""
        found = next((t.id for t in self.terms if t.kind == kind and t.word == word), None)
        if found is None:
            raise InputError(f"The 'word' must be that of a {kind} in the vocabulary", got=repr(word)[:80])
        return found

    def apply(self, model: Any) -> Subject:
        """The model with its features and classes under the user's words, so that every figure and sentence uses them."""
        subject = as_subject(model)
        settings = {k: getattr(subject, k) for k in Subject.__dataclass_fields__ if k != "model"}
        for field, kind in (("features", "feature"), ("classes", "class")):
            names = settings[field]
            words = tuple(t.word if (t := self.term(f"{kind}:{n}")) else n for n in names)
            if len(set(words)) < len(set(names)):
                twice = next(w for w in words if words.count(w) > 1)
                raise InputError(f"The words must keep the {field} apart", got=f"{twice!r} for two of them")
            settings[field] = words
        return Subject(subject.model, **settings)

    def unmapped(self, model: Any, others: Iterable[str] = ()) -> tuple[str, ...]:
        """The ids that have no word: of the model's features and classes that are no words already, and others."""
        subject = as_subject(model)
        words = {f"{t.kind}:{t.word}" for t in self.terms}
        wanted = [f"feature:{n}" for n in subject.features] + [f"class:{n}" for n in subject.classes]
        bare = [i for i in wanted if i not in words] + list(others)
        return tuple(dict.fromkeys(i for i in bare if i not in self._by_id))

    def section(self, unmapped: Iterable[str] = (), heading: str = "The words on this page") -> Section:
        """Every word with its meaning, and what has none, for `pellucid.report.page`."""
        lines = [t.sentence() for t in self.terms]
        lines += [f"There is {NO_WORD} for {clean(i.replace(':', ' “', 1), 200)}”." for i in unmapped]
        return Section(heading=heading, parts=lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"vocabulary": VERSION, "name": self.name, "terms": [asdict(t) for t in self.terms]}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the JSON file; an existing one is left alone unless `overwrite`."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        return write(path, text.encode("utf-8", "backslashreplace"), overwrite=overwrite)

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """The vocabulary of a JSON file, refused where it is anything else."""
        file = Path(path)
        if not file.is_file():
            raise InputError("The vocabulary must be a file", got=repr(str(path)))
        if file.stat().st_size > LARGEST:
            raise UnsafeFileError(
                f"{file.name} must be at most {LARGEST >> 20} MiB", got=f"{file.stat().st_size} bytes"
            )
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UnsafeFileError(f"{file.name} must be JSON in UTF-8", got=str(error)[:120]) from error
        return cls.of(told)

    @classmethod
    def of(cls, told: Any) -> Vocabulary:
        """The vocabulary of plain data, as in the file; or of ids with their words alone."""
        if isinstance(told, Vocabulary):
            return told
        if isinstance(told, Mapping) and "terms" not in told:
            return cls(tuple(Term(id=str(k), word=v) for k, v in told.items()))
        if not isinstance(told, Mapping) or told.get("vocabulary") != VERSION or not isinstance(told["terms"], list):
            raise InputError(
                f"The vocabulary must be an object with 'vocabulary': {VERSION} and 'terms'", got="another"
            )
        unknown = set(told) - {"vocabulary", "name", "terms"}
        fields = set(Term.__dataclass_fields__)
        terms = []
        for number, one in enumerate(told["terms"], 1):
            if not isinstance(one, dict) or not {"id", "word"} <= set(one) <= fields:
                raise InputError(
                    f"Term {number} must have 'id' and 'word', and else {sorted(fields)}", got=repr(one)[:120]
                )
            terms.append(Term(**one))
        if unknown or not isinstance(told.get("name", ""), str):
            raise InputError(
                "The vocabulary must have 'vocabulary', 'name' and 'terms' alone", got=str(sorted(unknown))[:80]
            )
        return cls(tuple(terms), told.get("name", ""))
