"""A case's evidence, what would have changed it and what may have caused a mistake, as figures, words and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pellucid.report.case import Case, Picture, outlined, picture_of, uri
from pellucid.report.decision import Causes, borrowed, causes, erased
from pellucid.report.evidence import TOLD, evidence
from pellucid.show.answer import class_name
from pellucid.show.words import percent

if TYPE_CHECKING:
    from pellucid.report.dossier import Dossier

CASES = 5


def decide(dossier: Dossier, case: Case, place: int, row: Tensor) -> None:
    """Add to a case what its decision rests on, what would have changed it, and, where it is wrong, what may be behind."""
    index = case.answer.index
    if index is None:
        return
    _evidence(dossier, case, place, row, index)
    _changes(dossier, case, row, index)
    truth = dossier.question.truths[place]
    if case.right is False and truth is not None and dossier.known is not None:
        _causes(dossier, case, place, row, index, truth)


def _evidence(dossier: Dossier, case: Case, place: int, row: Tensor, index: int) -> None:
    values = _map(dossier, case, place, row)
    if values is None:
        return
    parts = {name: masks[place] for name, masks in dossier.question.parts.items()}
    found = evidence(dossier.subject, row, values, index, parts)
    if found is None:
        return
    classes = dossier.subject.classes
    case.evidence_words = found.sentences(classes)
    case.more["evidence"] = found.plain()
    if row.dim() == 4:
        name = class_name(index, classes)
        for text, region in found.fragments(classes)[:TOLD]:
            without = row.detach().cpu()[0] * ~region.mask
            case.evidence.append(
                Picture(
                    image=uri(outlined(picture_of(without, dossier.question.ink), region.mask)),
                    alt=f"The input without {text}.",
                    caption=f"without {region.name}",
                    note=f"“{name}” {percent(region.without)}",
                )
            )


def _map(dossier: Dossier, case: Case, place: int, row: Tensor) -> Tensor | None:
    """The map behind the evidence: that of "why", or else the first one of the inputs themselves."""
    if case.reason is not None:
        values: Tensor = case.reason.result.values
        return values
    for found in dossier.found.of("attribution"):
        if (
            isinstance(found.values, Tensor)
            and found.values.shape[1:] == row.shape[1:]
            and found.source["layer"] is None
        ):
            return found.values[place : place + 1]
    return None


def _changes(dossier: Dossier, case: Case, row: Tensor, index: int) -> None:
    check = case.reason.erasure if case.reason is not None else None
    found = [erased(dossier.subject, check, index)]
    if dossier.known is not None and not dossier.question.private:
        found.append(borrowed(dossier.subject, row, index, dossier.known))
        case.change_words = [c.sentence(dossier.subject) for c in found[1:] if c is not None and c.valid]
    told = [c.plain() for c in found if c is not None]
    if told:
        case.more["changes"] = told


def _causes(dossier: Dossier, case: Case, place: int, row: Tensor, index: int, truth: int) -> None:
    known, put = dossier.known, dossier.question
    if known is None:
        return
    also = [
        int(i)
        for r in dossier.found.of("examples")
        if r.items.dim() == 2 and not r.items.is_floating_point() and r.items.shape[0] == put.rows.rows
        for i in r.items[place].tolist()
        if 0 <= i < known.inputs.rows
    ]
    found = causes(row, index, truth, known, also, private=put.private)
    case.cause_words = found.sentences(index, truth, dossier.subject.classes)
    case.more["causes"] = found.plain()
    if row.dim() == 4 and not put.private:
        case.causes = _pictures(dossier, found)


def _pictures(dossier: Dossier, found: Causes) -> list[Picture]:
    """The known cases with doubtful labels, then the nearest others."""
    assert dossier.known is not None
    doubted = [s.item for s in found.suspects]
    labels = dict(zip(found.items, found.labels, strict=True)) | {s.item: s.label for s in found.suspects}
    pictures = []
    for item in [*doubted, *(i for i in found.items if i not in doubted)][:CASES]:
        name = class_name(labels[item], dossier.subject.classes)
        image = dossier.known.inputs.floats[0][item].detach().cpu()
        pictures.append(
            Picture(
                image=uri(picture_of(image, dossier.question.ink)),
                alt=f"Known case no. {item}, labelled {name}.",
                caption=f"no. {item}: “{name}”",
                note="its label is in doubt" if item in doubted else "",
            )
        )
    return pictures
