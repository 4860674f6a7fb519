"""Every form is drawn, without a screen, without warnings and without global state."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.contract import Attribution, Context, Rules
from pellucid.contract.errors import InputError
from pellucid.show import draw, tree
from show.samples import PAYLOADS, forms, images, stump

NAMES = list(forms())


def titles(figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in (axes._left_title, axes.title, *axes.texts)]
    return "\n".join(texts)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_drawn(name: str) -> None:
    before = "matplotlib.pyplot" in sys.modules
    content = draw.as_png(px.show.figure(forms()[name]), dots=40)
    assert content.startswith(b"\x89PNG")
    assert len(content) > 300
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_text_that_looks_like_formulas_or_has_no_glyph_is_drawn() -> None:
    for word in ("$\\frac{1$ 猫 🐈", PAYLOADS[10], PAYLOADS[11]):
        for name in ("images", "table", "tokens", "tree", "text"):
            draw.as_png(px.show.figure(forms(word)[name]), dots=30)


def test_titles_name_the_answer_and_what_is_explained() -> None:
    drawn = titles(px.show.figure(images("cat", rows=1)))
    assert "read as “cat” 95 %" in drawn
    assert "then “dog” 4.7 %" in drawn
    assert "raises / lowers “cat”" in drawn


def test_the_colour_bar_is_symmetric_with_a_unit() -> None:
    figure = px.show.figure(images(rows=1))
    bar = next(axes for axes in figure.axes if axes.get_ylabel())
    low, middle, high = (text.get_text() for text in bar.get_yticklabels())
    assert low == f"−{high}"
    assert middle == "0"
    assert bar.get_ylabel() == "share of the score"


def test_coarse_maps_are_drawn_at_the_size_of_the_input_and_results_keep_theirs() -> None:
    result = images(rows=1).replace(values=torch.ones(1, 3, 2, 2), source={"layer": "conv"})
    figure = px.show.figure(result)
    shapes = [np.asarray(axes.images[0].get_array()).shape[:2] for axes in figure.axes if axes.images]
    assert shapes[:2] == [(6, 6), (6, 6)]
    assert result.values.shape == (1, 3, 2, 2)


def test_pixels_have_the_colour_of_their_sign() -> None:
    values = torch.zeros(1, 1, 6, 6)
    values[0, 0, 1, 2], values[0, 0, 4, 3] = 2.0, -2.0
    figure = px.show.figure(images(rows=1).replace(values=values))
    drawn = np.asarray(figure.axes[1].images[0].get_array()).astype(int)
    assert drawn[1, 2, 0] > 150 > drawn[1, 2, 2]
    assert drawn[4, 3, 2] > 150 > drawn[4, 3, 0]


def test_a_loaded_result_without_inputs_is_drawn(tmp_path) -> None:
    loaded = px.load(images(rows=2).save(tmp_path / "result.safetensors"))
    assert loaded.context.inputs is None
    assert "“cat”" in titles(loaded.show())
    assert "raised “cat”" in loaded.describe()
    assert "<img" in loaded.html()


def test_a_map_of_zeros_is_drawn_and_told() -> None:
    result = Attribution(values=torch.zeros(1, 1, 5, 5), context=Context(inputs=torch.zeros(1, 1, 5, 5)))
    draw.as_png(result.show())
    assert "All values are zero" in result.describe()
    draw.as_png(Attribution(values=torch.zeros(2, 3)).show())
    draw.as_png(Attribution(values=torch.full((1, 3), float("nan"))).show())


def test_rows_beyond_eight_are_counted_not_drawn() -> None:
    figure = px.show.figure(images(rows=11))
    assert "3 more rows not drawn" in figure.get_suptitle()
    assert sum("read as" in text for text in titles(figure).splitlines()) == 8
    assert "9 more rows" in px.show.figure(images(rows=11), rows=2).get_suptitle()


def test_sizes_without_a_sign_are_not_drawn_as_signed() -> None:
    result = images(rows=1).replace(values=torch.rand(1, 1, 6, 6), source={"settings": {"absolute": True}})
    assert "size of effect on “cat”" in titles(px.show.figure(result))
    assert "raises / lowers" in titles(px.show.figure(result.replace(source={})))


@pytest.mark.parametrize(("row", "answer"), [(0, 1), (1, 2)])
def test_the_way_of_a_row_through_a_tree(row: int, answer: int) -> None:
    inputs = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert tree.path(stump(), inputs[row]) == {0, answer}
    result = Rules(
        structure=stump(), fidelity=0.9, context=Context(inputs=inputs, features=("age", "b"), classes=("no", "yes"))
    )
    drawn = titles(px.show.figure(result, row=row))
    assert "age ≤ 1.5?" in drawn
    assert "no (5 of 5)" in drawn
    assert "yes (4 of 5)" in drawn
    bold = [
        t.get_text()
        for axes in px.show.figure(result, row=row).axes
        for t in axes.texts
        if t.get_fontweight() == "bold"
    ]
    assert bold == [["no (5 of 5)", "yes (4 of 5)"][row]]


def test_large_trees_are_folded_but_the_marked_way_stays_open() -> None:
    from show.samples import Stump

    depth = 40
    feature = torch.tensor([0, -1] * depth + [-1])
    left, right = torch.arange(1, 2 * depth + 2), torch.arange(2, 2 * depth + 3)
    rows = torch.tensor([100 - i // 2 for i in range(2 * depth + 1)])
    chain = Stump(
        feature=feature,
        threshold=torch.arange(2 * depth + 1) / 2.0,
        left=left,
        right=right,
        value=torch.ones(2 * depth + 1, 2) / 2,
        rows=rows,
    )
    folded = tree.lay_out(chain, (), (), 5)
    assert sum(not branch.children for branch in folded.walk()) == 5
    marked = tree.lay_out(chain, (), (), 5, torch.tensor([20.5, 0.0]))
    end = [branch for branch in marked.walk() if branch.marked and not branch.children]
    assert len(end) == 1
    assert int(chain.feature[end[0].node]) == -1


@pytest.mark.parametrize("bad", [{"rows": 0}, {"rows": True}, {"clip": 0}, {"features": 1.5}])
def test_impossible_options_are_refused(bad: dict) -> None:
    with pytest.raises(InputError):
        px.show.figure(images(), **bad)
    with pytest.raises(InputError, match="result"):
        px.show.figure("no result")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "empty",
    [
        px.Attribution(values=torch.zeros(0, 3)),
        px.Attribution(values=torch.zeros(2, 0)),
        px.Examples(items=torch.zeros(0, 0, dtype=torch.long)),
        px.Measure(values=torch.zeros(0)),
    ],
)
def test_a_result_without_values_says_so(empty):
    assert "Nothing to draw" in empty.show()._suptitle.get_text()
    assert "<img" in empty.html() or "<svg" in empty.html()
    assert empty.describe()


def test_the_curve_behind_a_measure_is_drawn():
    share = torch.linspace(0, 1, 5)
    curve = torch.stack([1 - share, 1 - share**2])
    result = px.Measure(values=torch.tensor([0.5, 0.7]), unit="score", parts={"curve": curve, "share": share})
    beside = result.show().axes[1]
    drawn = [line.get_ydata().tolist() for line in beside.lines if len(line.get_ydata()) == 5]
    assert curve[1].tolist() in drawn
    assert curve.mean(0).tolist() in drawn
