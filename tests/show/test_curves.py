"""Curves over columns: what is drawn, in which panel, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.contract import Attribution, Context
from pellucid.show import curves, draw, select
from show.samples import PAYLOADS, effects


def lines(axes) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in axes.lines]


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def test_a_panel_shows_the_numbers_of_its_column_without_the_repeated_end() -> None:
    drawn = panels(effects().show())
    assert list(drawn)[:2] == ["steep", "gentle"], "the curve that spans most comes first"
    (steep,), (gentle,) = (lines(drawn[name]) for name in ("steep", "gentle"))
    np.testing.assert_allclose(steep, [[0, -2], [1, 0], [4, 3]])
    np.testing.assert_allclose(gentle, [[5, 0.5], [7, -0.5]])


def test_rows_of_one_class_share_a_line_and_classes_have_their_own() -> None:
    shared = effects()
    assert len(panels(shared.show())["steep"].lines) == 1
    parts = {k: torch.cat([v, v * (-1 if k == "curve" else 1)]) for k, v in shared.parts.items()}
    both = shared.replace(
        values=shared.values.repeat(2, 1), target=torch.tensor([0, 0, 1, 1]), parts=parts, context=Context(classes="ab")
    )
    figure = both.show()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    assert "the curve of “a” rises from −2 at 0 to +3 at 4" in both.describe()


def test_the_band_is_two_standard_errors_and_the_rug_the_density() -> None:
    steep = panels(effects().show())["steep"]
    band, rug = steep.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((-2 - 2 * 0.1, 3 + 2 * 0.4))
    heights = [segment[1][1] for segment in rug.get_segments()]
    np.testing.assert_allclose(heights, np.array([0.25, 0.5, 0.25]) / 0.5 * curves.RUG)


def test_own_values_are_dots_where_each_row_has_its_own_curve() -> None:
    one = select.only(effects(), 1)
    assert one.parts["curve"].shape[0] == 1
    dots = [line for line in lines(panels(one.show())["steep"]) if len(line) == 1]
    np.testing.assert_allclose(dots, [[[2.5, 1.5]]])


def test_a_surface_has_a_panel_that_names_its_columns() -> None:
    surface = torch.zeros(2, 1, 3, 3)
    surface[:, 0, 2, 1] = 4.0
    pairs = torch.tensor([[0, 1]]).expand(2, 1, 2)
    result = effects().replace(parts={**effects().parts, "surface": surface, "pairs": pairs})
    place = next(axes for name, axes in panels(result.show()).items() if "across" in name)
    shown = np.asarray(place.collections[0].get_array()).reshape(2, 3)
    np.testing.assert_allclose(shown, [[0, 0, 0], [0, 0, 4]])


def test_words_tell_how_a_curve_runs() -> None:
    said = curves.lines(effects())
    assert said[0] == "steep: the curve rises from −2 at 0 to +3 at 4."
    assert said[1] == "gentle: the curve falls from +0.5 at 5 to −0.5 at 7."
    bent = effects()
    bent.parts["curve"][:, 0] = torch.tensor([0.0, -1, 2])
    assert "goes from 0 at 0 to +2 at 4; it is lowest, −1, at 1 and highest, +2, at 4." in curves.lines(bent)[0]
    bent.parts["curve"][:] = 0.0
    assert set(curves.lines(bent)) == {"steep: the curve is flat.", "gentle: the curve is flat."}


def test_slopes_are_not_told_as_what_raised_the_score() -> None:
    result = effects().replace(source={"method": "ice", "settings": {"view": "derivative"}})
    told = result.describe()
    assert "steepest along steep (+1.5 per unit)" in told
    assert "raised" not in told


def test_many_rows_and_columns_are_counted_not_drawn_and_foreign_names_break_nothing() -> None:
    noise = torch.randn(11, 14, 4, generator=torch.Generator().manual_seed(0))
    grid = torch.arange(4.0).expand(11, 14, 4)
    names = Context(features=(PAYLOADS[10], PAYLOADS[11], *"abcdefghijkl"), inputs=torch.ones(11, 14))
    result = Attribution(values=noise[..., 0], parts={"grid": grid, "curve": noise, "mean": noise}, context=names)
    figure = result.show()
    assert "3 more curves not drawn; 2 more columns not drawn" in figure._supxlabel.get_text()
    assert len(panels(figure)) == 12
    draw.as_png(figure, dots=20)
    assert "<script" not in result.html()
    assert "<img" in result.html()


def test_other_parts_are_no_curves() -> None:
    assert not curves.has(Attribution(values=torch.ones(1, 2)))
    assert not curves.has(
        Attribution(values=torch.ones(1, 2), parts={"grid": torch.ones(1, 2), "curve": torch.ones(2)})
    )
