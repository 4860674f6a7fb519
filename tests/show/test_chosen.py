"""Cases that stand for all rows are drawn and told without a query."""

import torch

import pellucid as px
from pellucid.attribution import SubmodularPick
from show.test_figure import titles


def chosen(rows, **settings):
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(rows[0].numel(), 2, bias=False)).eval()
    flat[1].weight.data.fill_(1.0)
    return px.explain(flat, rows, SubmodularPick(of="feature-ablation", **settings), target=0)


def test_columns_of_the_chosen_rows_stand_without_a_query():
    figure = px.show.figure(chosen(torch.eye(4), budget=2))
    drawn = titles(figure)
    assert "asked" not in drawn
    assert "no. 0" in drawn
    assert "coverage added" in drawn


def test_pictures_of_the_chosen_rows_stand_without_a_query():
    images = torch.zeros(9, 1, 16, 16)
    for row in range(8):
        images[row, 0, 2 * row, 2 * row] = 1.0
    figure = px.show.figure(chosen(images, budget=8))
    assert sum(bool(axes.images) for axes in figure.axes) == 6
    assert "asked" not in titles(figure)
    assert "2 more not drawn" in "".join(text.get_text() for text in figure.texts)


def test_the_words_count_what_was_chosen():
    result = chosen(torch.eye(4), budget=2)
    told = result.describe()
    assert "2 representative cases of 4 were chosen." in told
    assert "The network answered" not in told
    assert "50 % of what the explanations" in told
