"""Groups of rows whose explanations are alike: what is drawn, and what is said of them."""

from __future__ import annotations

import numpy as np
import torch

from pellucid.contract import Attribution, Context
from pellucid.show import draw, strategies


def grouped(word: str = "cat", image: bool = True, rows: int = 2) -> Attribution:
    """Two groups of five data rows; the second, of one, looks at the first corner and stands apart."""
    maps = torch.zeros(2, 3, 3)
    maps[0, 1, 1], maps[1, 0, 0] = 0.8, -0.9
    parts = {
        "map": maps if image else maps.flatten(1),
        "share": torch.tensor([0.8, 0.2]),
        "candidate": torch.tensor([0.0, 1.0]),
        "group": torch.tensor([0, 0, 1, 0, 0, -1]),
        "place": torch.tensor([[0.0, 0], [1, 0], [9, 9], [0, 1], [1, 1], [0, 0]]),
        "eigenvalue": torch.tensor([0.0, 0.0, 0.7]),
    }
    inputs = torch.rand(rows, 1, 6, 6) if image else torch.rand(rows, 9)
    return Attribution(
        values=torch.ones(rows, 1, 6, 6) if image else torch.ones(rows, 9),
        target=torch.zeros(rows, dtype=torch.long),
        facts={"group": torch.arange(rows).double().clamp(max=1), "score": torch.arange(rows).double()},
        parts={k: v.expand(rows, *v.shape).clone() for k, v in parts.items()},
        source={"method": "spray", "settings": {}},
        context=Context(inputs=inputs, classes=(word, "dog"), features=() if image else tuple("abcdefghi")),
    )


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def test_rows_spectrum_and_maps_are_drawn() -> None:
    result = grouped()
    drawn = panels(result.show())
    assert "“cat”: 5 rows" in drawn
    assert "least eigenvalues: gap after 2" in drawn
    assert [len(dots.get_offsets()) for dots in drawn["“cat”: 5 rows"].collections] == [4, 1]
    assert "B, set apart\n1 of 5 rows" in drawn
    # The example of group B is the row that belongs to it, and its map is blue in the first corner.
    example = np.asarray(drawn["B, set apart\n1 of 5 rows"].images[0].get_array())
    assert abs(int(example[0, 0, 0]) - round(255 * float(result.context.inputs[1, 0, 0, 0]))) <= 1
    shaded = [np.asarray(axes.images[0].get_array()) for axes in result.show().axes if axes.images]
    corner = [pixels[0, 0].astype(int) for pixels in shaded if pixels.shape[:2] == (3, 3)]
    assert corner[1][2] > 150 > corner[1][0]
    draw.as_png(result.show())


def test_words_tell_groups_places_and_the_rows_own() -> None:
    told = grouped().describe()
    assert "Explanations of “cat” for 5 rows fall into 2 groups: A (80 %), mostly on the middle; B (20 %)" in told
    assert "mostly on the upper left. Set apart from the others: B; look at these rows." in told
    assert "This row is like those of B." in told
    one = grouped(rows=1)
    one.parts["share"][:], one.parts["group"][:] = torch.tensor([1.0, 0.0]), 0
    assert "do not fall into groups: they rest mostly on the middle" in one.describe()
    draw.as_png(one.show())


def test_tables_have_bars_with_names() -> None:
    result = grouped(image=False)
    drawn = panels(result.show())
    assert next(t.get_text() for t in drawn["A\n4 of 5 rows"].get_yticklabels()) == "e"
    assert "mostly on e; B (20 %), mostly on a." in result.describe()
    assert "<img" in result.html()


def test_foreign_results_are_not_taken_for_groups() -> None:
    assert not strategies.has(Attribution(values=torch.ones(1, 2)))
    assert not strategies.has(Attribution(values=torch.ones(1, 2), parts={"group": torch.ones(1, 2)}))
