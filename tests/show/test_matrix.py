"""Values for several words of a row are drawn as a table of colours with the words at its sides, and told in words."""

from __future__ import annotations

import torch

import pellucid as px
from pellucid.contract import Attribution, Context
from pellucid.show import draw
from show.samples import PAYLOADS

READ = torch.tensor([[4, 5, 6, 7], [7, 6, 5, 4]])


def translation(rows: int = 1, classes: tuple[str, ...] = (), **changes: object) -> Attribution:
    """Word t of three was made of word 3 - t; the second tensor holds what the decoder read."""
    first, second = torch.zeros(2, 4, 3), torch.zeros(2, 3, 3)
    first[:, [3, 2, 1], [0, 1, 2]] = torch.tensor([2.0, 3.0, 4.0])
    second[:, 0, 1] = -1.0
    source = {"method": "lrp-nmt", "explained_words": [[2, 1, 0], [0, 1, 2]][:rows]}
    context = Context(inputs=(READ[:rows], torch.tensor([[0, 2, 1], [0, 0, 1]])[:rows]), classes=classes)
    return Attribution(values=(first[:rows], second[:rows]), source=source, context=context).replace(**changes)


def test_the_words_stand_at_the_sides() -> None:
    figure = px.show.figure(translation(classes=("a", "b", "c")))
    tables = [axes for axes in figure.axes if axes.images]
    assert [[label.get_text() for label in axes.get_xticklabels()] for axes in tables] == [
        ["#4", "#5", "#6", "#7"],
        ["#0", "#2", "#1"],
    ]
    assert [label.get_text() for label in tables[0].get_yticklabels()] == ["c", "b", "a"]
    shaded = tables[0].images[0].get_array()
    assert shaded.shape[:2] == (3, 4)
    darkest = shaded.astype(int)[..., :3].sum(2).argmin(1)
    assert darkest.tolist() == [3, 2, 1]


def test_names_of_what_was_read_are_used_where_they_fit() -> None:
    named = translation(context=Context(inputs=(READ[:1], READ[:1, :3]), features=("der", "Hund", "schläft", ".")))
    tables = [axes for axes in px.show.figure(named).axes if axes.images]
    assert [label.get_text() for label in tables[0].get_xticklabels()] == ["der", "Hund", "schläft", "."]
    assert [label.get_text() for label in tables[1].get_xticklabels()] == ["#4", "#5", "#6"]


def test_it_is_told_in_words_and_each_row_has_its_own() -> None:
    told = px.show.describe(translation(2, ("a", "b", "c")))
    assert "“c” from “#7” (+2)" in told
    assert "“a” from “#4” (+2)" in told
    assert "No word of input 2 raised any of them." in told


def test_pages_and_odd_sources_are_drawn() -> None:
    assert "<figure" in translation(2).html() or "<img" in translation(2).html()
    for payload in PAYLOADS:
        page = translation(classes=(payload, "b", "c")).html()
        assert payload not in page or "<" not in payload
    for words in (None, 3, [[1, 2]], [["a", "b", "c"]], [[1, 2, 3], [1, 2, 3]], [[True, 1, 2]]):
        odd = translation(source={"method": "lrp-nmt", "explained_words": words})
        assert draw.as_png(px.show.figure(odd), dots=30).startswith(b"\x89PNG")
