"""Say it in words: the sentences, each with the evidence it rests on."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from pellucid.contract import Text
from pellucid.show import draw
from pellucid.show.facts import card_of, title_of, verdicts
from pellucid.show.options import Options
from pellucid.show.words import Account, clean, counted

WIDTH = 86
LONGEST = 600


def figure(result: Text, wanted: Options) -> Figure:
    """The sentences as set text."""
    most = wanted.rows * 4
    lines: list[tuple[str, bool]] = []
    for number, sentence in enumerate(result.sentences[:most]):
        lines += [(line, False) for line in textwrap.wrap(clean(sentence, LONGEST), WIDTH)]
        if why := evidence(result, number):
            lines += [(line, True) for line in textwrap.wrap(f"rests on: {why}", WIDTH)]
    lines = lines or [("There is no sentence.", False)]
    whole = draw.canvas(7.2, 0.7 + 0.22 * len(lines))
    axes = whole.subplots()
    axes.axis("off")
    axes.set_ylim(len(lines), 0)
    for position, (line, faint) in enumerate(lines):
        settings = {"color": draw.FAINT, "fontsize": 7.5} if faint else {"fontsize": 9}
        draw.note(axes, 0, position + 0.5, line, va="center", longest=WIDTH + 4, **settings)
    more = len(result.sentences) - most
    draw.head(
        whole, wanted.headed, title_of(result) + (f"; {counted(more, 'more sentence')} not drawn" if more > 0 else "")
    )
    return whole


def evidence(result: Text, position: int) -> str:
    """What a sentence rests on, as text."""
    return clean(result.evidence[position]) if position < len(result.evidence) else ""


def account(result: Text, wanted: Options) -> Account:
    """The sentences, and how far they can be believed."""
    card = card_of(result)
    told = result.sentences[: wanted.rows * 4]
    return Account(
        asked=card.question if card else "How can it be said in words?",
        mattered=tuple(clean(s, LONGEST) for s in told) or ("There is no sentence.",),
        numbered=False,
        believed=tuple(v.long for v in verdicts(result.facts)),
        supports=card.supports if card else (),
        cannot=card.limits if card else (),
        more=""
        if len(told) == len(result.sentences)
        else f"{counted(len(result.sentences) - len(told), 'more sentence')}.",
    )


def alt(result: Text, wanted: Options) -> str:
    """What the figure shows, for those who can't see it."""
    return f"{title_of(result)}. {' '.join(account(result, wanted).mattered)}"


def sums(result: Text) -> list[dict[str, str]]:
    """Each sentence's evidence, for engineers."""
    return [{"sentence": clean(s, LONGEST), "evidence": evidence(result, i)} for i, s in enumerate(result.sentences)]
