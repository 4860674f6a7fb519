"""One decision of the network as a page shows it: the answer with its margin, the reason, the maps, the nearest cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from pellucid.contract import Attribution, Examples, Explanation
from pellucid.report.why import Why
from pellucid.show import attribution, engineer, examples, pages, palette, parts, viewer
from pellucid.show.answer import Answer, class_name
from pellucid.show.facts import Verdict, card_of, title_of
from pellucid.show.options import Options
from pellucid.show.select import only
from pellucid.show.words import counted, number, percent

SMALLEST = 192  # pixels; small pictures are enlarged in whole steps so that browsers don't blur them
FRAME = (196, 108, 0)
FADED = 0.3  # how much of a one-channel picture stays under the hues


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One class's share of the confidence. `role` is "said", "true" or empty."""

    name: str
    share: str
    width: str
    role: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with the words for those who can't see it, and a caption."""

    image: Markup
    alt: str
    caption: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One method's picture of one row, with what was measured of it and what it can and can't support.

    `number` is that of the result on the page.
    """

    title: str
    question: str
    picture: Picture
    scale: str
    told: str
    verdicts: Sequence[Verdict]
    supports: Sequence[str]
    limits: Sequence[str]
    figures: Sequence[tuple[str, str]]
    wide: bool = False
    number: int = 0


@dataclass(kw_only=True, eq=False)
class Case:
    """Everything a page says of one row. `more` holds further computed figures by name, as they go on record."""

    number: int
    answer: Answer
    truth: str = ""
    right: bool | None = None
    bars: list[Bar] = field(default_factory=list)
    picture: Picture | None = None
    reason: Why | None = None
    why: list[Picture] = field(default_factory=list)
    why_title: str = ""
    why_words: list[str] = field(default_factory=list)
    why_verdicts: Sequence[Verdict] = ()
    check: str = ""
    panels: list[Panel] = field(default_factory=list)
    evidence_words: list[str] = field(default_factory=list)
    evidence: list[Picture] = field(default_factory=list)
    change_words: list[str] = field(default_factory=list)
    cause_words: list[str] = field(default_factory=list)
    causes: list[Picture] = field(default_factory=list)
    near: list[Picture] = field(default_factory=list)
    near_title: str = ""
    near_words: str = ""
    near_verdicts: Sequence[Verdict] = ()
    near_limits: Sequence[str] = ()
    near_number: int = 0
    path: str = ""
    path_number: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """Where links lead."""
        return f"case-{self.number}"

    @property
    def heading(self) -> str:
        """What happened, in a line."""
        if self.answer.value is not None:
            return f"Case {self.number}: the network answered {number(self.answer.value)}"
        if not self.answer.name:
            return f"Case {self.number}"
        said = f"Case {self.number}: read as “{self.answer.name}”"
        if self.right is None:
            return said
        return f"{said}, and it is" if self.right else f"{said}, but it is “{self.truth}”"

    @property
    def second(self) -> str:
        """What came second."""
        share = self.answer.second_share
        return "" if share is None else f"“{self.answer.second_name}” {percent(share)}"

    @property
    def margin(self) -> str:
        """How far ahead the answer is of the second."""
        if self.answer.share is None or self.answer.second_share is None:
            return ""
        return f"{percent(self.answer.share - self.answer.second_share)}"


def picture_of(image: Tensor, ink: bool) -> Any:
    """An input (channels, height, width) as bytes; with `ink`, one channel is drawn dark on white."""
    return palette.picture(1 - image if ink and image.shape[0] == 1 else image)


def outlined(pixels: Any, mask: Tensor) -> Any:
    """The picture enlarged in whole steps, with what the mask holds framed."""
    from scipy.ndimage import binary_erosion

    step = max(1, -(-SMALLEST // min(pixels.shape[:2])))
    big = pixels.repeat(step, 0).repeat(step, 1)
    held = mask.numpy().repeat(step, 0).repeat(step, 1)
    inside = binary_erosion(held, iterations=max(2, min(big.shape[:2]) // 64), border_value=1)
    big[held & ~inside] = FRAME
    return big


def uri(pixels: Any) -> Markup:
    """Bytes as a data address, which holds no character with a meaning in HTML."""
    return Markup(palette.data_uri(palette.png(pixels, smallest=SMALLEST)))


def case(index: int, row: Any, answer: Answer, truth: int | None, classes: Sequence[str], *, ink: bool = False) -> Case:
    """The row, its answer, and how the confidence is spread."""
    right = None if truth is None or answer.index is None else truth == answer.index
    name = "" if truth is None else class_name(truth, classes)
    made = Case(number=index, answer=answer, truth=name, right=right, bars=bars(answer, truth, classes))
    if isinstance(row, Tensor) and row.dim() == 4:
        made.picture = Picture(
            image=uri(picture_of(row[0], ink)), alt=f"The input of case {index}.", caption="What it saw"
        )
    return made


def bars(answer: Answer, truth: int | None, classes: Sequence[str], most: int = 3) -> list[Bar]:
    """The classes with the largest shares, and the true one."""
    order = sorted(range(len(answer.shares)), key=lambda i: -answer.shares[i])[:most]
    if truth is not None and truth not in order and truth < len(answer.shares):
        order[-1:] = [truth]
    return [
        Bar(
            name=class_name(i, classes),
            share=percent(answer.shares[i]),
            width=f"{100 * answer.shares[i]:.1f}",
            role="said" if i == answer.index else "true" if i == truth else "",
        )
        for i in order
    ]


def add_why(made: Case, found: Why | None, row: Tensor, classes: Sequence[str], *, ink: bool = False) -> None:
    """The map of the difference to the other class, and the input with the erased parts."""
    if found is None:
        return
    made.reason = found
    one, other = class_name(found.towards, classes), class_name(found.against, classes)
    made.why_title = f"Why “{one}” rather than “{other}”?"
    made.why_verdicts = attribution.row_verdicts(found.result, 0)
    made.why_words = found.sentences(classes)
    check = found.erasure
    if check is not None and check.count is not None:
        new = class_name(check.answer, classes)
        made.check = f"{counted(check.count, check.part)} erased: “{new}”"
    elif check is not None:
        made.check = "erasing changes nothing"
    if row.dim() != 4:
        made.why = [_drawn(found.result, f"What spoke for “{one}” and for “{other}”")]
        return
    heat = found.result.values[0].sum(0)
    photo = picture_of(row[0], ink)
    strength = FADED if row.shape[1] == 1 else 0.55
    told = attribution.mattered(found.result, 0)
    made.why = [
        Picture(
            image=uri(palette.over(photo, heat, palette.scale(heat), strength)),
            alt=f"Map of what speaks for {one} in red and for {other} in blue. {told}",
            caption=f"Red: speaks for “{one}”. Blue: for “{other}”",
        )
    ]
    if check is not None and check.count is not None:
        new = class_name(check.answer, classes)
        made.why.append(
            Picture(
                image=uri(outlined(picture_of(check.erased[0], ink), check.mask)),
                alt=f"The same input with {counted(check.count, check.part)} erased, which the network reads as {new}.",
                caption=f"{counted(check.count, check.part)} erased: now read as “{new}” ({percent(check.share)})",
            )
        )


def panel(result: Attribution, row: int, *, number_of: int = 0) -> Panel:
    """One method's map of one row."""
    single = only(result, row)
    card, found = card_of(result), parts.parts(single)
    pixels = len(found) == 1 and found[0].kind == "image"
    name = attribution.explained(single, 0)
    if pixels:
        heat = found[0].heat(0)
        by = palette.scale(heat, signed=found[0].signed)
        given = found[0].inputs
        if given is not None and tuple(heat.shape) != tuple(given.shape[-2:]):
            heat = palette.upsample(heat, int(given.shape[-2]), int(given.shape[-1]))
        shown = palette.coloured(heat, by)
        if given is not None and given.shape[1] == 3 and min(given.shape[-2:]) >= attribution.PHOTOGRAPH:
            shown = palette.over(palette.picture(given[0]), heat, by)
        picture = Picture(image=uri(shown), alt=f"{title_of(result)} for {name}. {attribution.mattered(single, 0)}")
        scale = f"{number(by.low, 2)} to {number(by.limit, 2)}, {parts.unit(result)}; {by.note}"
    else:
        picture, scale = _drawn(single, ""), parts.unit(result)
    return Panel(
        title=title_of(result),
        question=card.question if card else "",
        picture=picture,
        scale=scale,
        told=attribution.mattered(single, 0),
        verdicts=attribution.row_verdicts(single, 0),
        supports=card.supports if card else (),
        limits=card.limits if card else (),
        figures=_figures(single),
        wide=not pixels,
        number=number_of,
    )


def _drawn(result: Explanation, caption: str) -> Picture:
    module, wanted = viewer(result), Options(headed=False)
    return Picture(image=pages.image(result, module, wanted), alt=module.alt(result, wanted), caption=caption)


def _figures(result: Explanation) -> list[tuple[str, str]]:
    rows, _ = engineer.table(result, viewer(result), Options())
    return [*(rows[0].items() if rows else ()), *engineer.provenance(result)]


def add_near(made: Case, result: Examples, row: int, *, ink: bool = False, number_of: int = 0) -> None:
    """The nearest cases, as pictures where they are images and as a drawn table otherwise."""
    single, card = only(result, row), card_of(result)
    made.near_number = number_of
    made.near_title = card.question if card else "Which cases explain it?"
    made.near_words = examples.neighbours(single, 0)
    from pellucid.show.facts import verdicts

    made.near_verdicts = verdicts(single.facts, 0)
    made.near_limits = card.limits if card else ()
    _, shown = examples.shape(single)
    first = examples.case(single, 0, 0) if shown else None
    if first is None or first.dim() != 3:
        made.near = [_drawn(single, "")]
        return
    for place in range(min(shown, examples.MOST)):
        found = examples.case(single, 0, place)
        label, weight = examples.caption(single, 0, place)
        if isinstance(found, torch.Tensor):
            alt = f"A {single.role} example, {label}."
            made.near.append(Picture(image=uri(picture_of(found, ink)), alt=alt, caption=label, note=weight))
