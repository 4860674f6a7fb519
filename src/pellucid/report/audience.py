"""What a page is given for its readers beside the explanations: their own words, limits of use, further sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.contract.errors import InputError
from pellucid.engine import Subject
from pellucid.report.audience_terms import Vocabulary
from pellucid.report.sections import Section
from pellucid.report.trust_limits import limits

__all__ = ["Additions"]


@dataclass(frozen=True, kw_only=True)
class Additions:
    """What is added to a page, checked before any work."""

    words: Vocabulary | None = None
    held_out: Any = None
    sections: tuple[Section, ...] = ()

    @classmethod
    def of(cls, vocabulary: Any, held_out: Any, sections: Sequence[Section], data: Any, record: Any) -> Additions:
        """The additions, refused where a record could not hold them or something is missing."""
        named = {"vocabulary": vocabulary, "held_out": held_out, "sections": sections or None}
        given = [name for name, value in named.items() if value is not None]
        if given and record is not False and record is not None:
            hint = "vocabulary.apply(model) as the model" if given == ["vocabulary"] else "a page without record="
            raise InputError("A record holds nothing that is added to a page", got=", ".join(given), hint=hint)
        if held_out is not None and data is None:
            raise InputError(
                "The 'held_out' rows need the rows that the network learnt from", got="data=None", hint="data="
            )
        if wrong := [s for s in sections if not isinstance(s, Section)]:
            raise InputError("The 'sections' must be sections", got=type(wrong[0]).__name__, hint="report.Section(...)")
        words = None if vocabulary is None else Vocabulary.of(vocabulary)
        return cls(words=words, held_out=held_out, sections=tuple(sections))

    def made(self, subject: Subject, inputs: Any, data: Any) -> list[Section]:
        """The sections, computed."""
        found = list(self.sections)
        if self.held_out is not None:
            found.insert(0, limits(subject, inputs, train=data, held_out=self.held_out).section())
        if self.words is not None:
            found.append(self.words.section(self.words.unmapped(subject)))
        return found
