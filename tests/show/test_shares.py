"""Shares of a variance: what bars and pairs are drawn, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.contract import Attribution, Context
from pellucid.show import shares
from show.samples import variance


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def test_bars_are_totals_and_what_is_alone_in_order_of_size() -> None:
    drawn = panels(variance().show())
    assert [name for name in drawn if "variance of" in name] == ["variance of “yes”", "variance of “no”"]
    yes = drawn["variance of “yes”"]
    widths = [bar.get_width() for bar in yes.patches]
    assert widths == pytest.approx([0.7, 0.5, 0.1, 0.5, 0.2, 0.0])
    assert [text.get_text() for text in yes.get_yticklabels()] == ["b", "wide", "c"]
    ends = [(segment[0][0], segment[1][0]) for segment in yes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [(0.68, 0.72), (0.48, 0.52), (0.08, 0.12)], atol=1e-6)


def test_pairs_are_a_triangle_of_figures() -> None:
    place = panels(variance().show())["of it, by pairs acting together"]
    assert place is not None
    figure = variance().show(rows=1)
    place = panels(figure)["of it, by pairs acting together"]
    assert [text.get_text() for text in place.texts] == ["20 %"]
    assert place.texts[0].get_position() == (0, 1)
    pixels = np.asarray(place.images[0].get_array())
    assert (pixels[np.triu_indices(3)] == 255).all()
    assert pixels[1, 0].sum() < pixels[2, 0].sum()
    assert "1 more score not drawn" in figure._supxlabel.get_text()


def test_words_tell_shares_and_pairs_that_are_certain() -> None:
    told = variance().describe()
    assert "Of the variance of “yes” there go back to b 70 % (50 % alone), wide 50 % (20 % alone)" in told
    assert "c 10 % (nothing alone). Act together: wide with b (20 %)." in told
    assert "Of the variance of “no” there go back to b 100 % (100 % alone)." in told
    assert "correlate by 0.6" in told
    unsure = variance().replace(parts={**variance().parts, "pair_error": torch.full((3, 3, 3), 0.15)})
    assert "Of no pair is it certain" in unsure.describe()


def test_without_pairs_or_spread() -> None:
    flat = Attribution(
        values=torch.zeros(1, 2), parts={"first": torch.zeros(1, 2)}, context=Context(features=("a", "b"))
    )
    assert "nothing varies" in flat.describe()
    assert len(panels(flat.show())) == 1
    assert "what the column does alone" in flat.show()._supxlabel.get_text()
    assert not shares.has(Attribution(values=torch.ones(1, 2)))


def test_many_columns_are_counted() -> None:
    many = Attribution(values=torch.rand(1, 15), parts={"first": torch.zeros(1, 15)})
    assert "3 more columns not drawn" in many.show()._supxlabel.get_text()
