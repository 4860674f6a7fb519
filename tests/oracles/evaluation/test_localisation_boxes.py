"""Boxes and ratios against drawing them by hand."""

import pytest
import torch

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import CamLocalisation, ObjectRelevanceRatio


def boxed(x, data, **settings):
    return px.explain(NET, x, CamLocalisation(of=Told(), **settings), target=0, data=data)


def blob(*places, height=6, width=8):
    x = torch.zeros(1, 1, height, width, **DOUBLE)
    for row, column, value in places:
        x[0, 0, row, column] = value
    return x


def test_the_box_goes_around_the_largest_region():
    x = blob((1, 2, 1.0), (1, 3, 0.5), (2, 4, 0.3), (5, 7, 0.9), (4, 0, 0.1))  # touching at a corner; alone; too dim
    found = boxed(x, {"boxes": torch.tensor([[0, 2, 3, 5]])})
    assert [found.facts[f"box_{n}"].item() for n in ("top", "left", "bottom", "right")] == [1, 2, 3, 5]
    assert found.facts["regions"].item() == 2
    assert found.values.item() == pytest.approx(6 / 9)
    assert found.facts["found"].item() == 1
    strict = boxed(x, {"boxes": torch.tensor([[0, 2, 3, 5]])}, level=0.4, enough=0.7)
    assert [strict.facts[f"box_{n}"].item() for n in ("top", "left", "bottom", "right")] == [1, 2, 2, 4]
    assert strict.values.item() == pytest.approx(2 / 9)
    assert strict.facts["found"].item() == 0


def test_of_equal_regions_the_brighter_counts_and_of_several_boxes_the_best():
    x = blob((0, 0, 0.5), (5, 7, 1.0))
    data = {"boxes": torch.tensor([[[0, 0, 1, 1], [5, 6, 6, 8], [0, 0, 6, 8]]])}
    assert boxed(x, data).values.item() == 0.5


def test_a_mask_stands_for_its_box_and_rows_keep_theirs():
    x = torch.cat([blob((1, 1, 1.0), (1, 2, 1.0)), blob((3, 3, 2.0)), blob()])
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1, 1] = masks[1, 3, 3] = masks[2, 0, 0] = True
    found = boxed(x, {"masks": masks})
    assert found.values.tolist() == [0.5, 1.0, 0.0]
    assert found.source["overall"]["mean"] == pytest.approx(2 / 3)
    alone = [boxed(x[i : i + 1], {"masks": masks[i : i + 1]}).values.item() for i in range(3)]
    assert alone == found.values.tolist()


def test_a_planted_object_is_boxed():
    world = px.worlds.shapes(4, seed=3)
    masks = world.truth["masks"]["main object"]
    found = boxed(masks[:, None].expand(-1, 3, -1, -1).double(), {"masks": masks})
    assert found.values.tolist() == [1.0] * 4


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (2, 5, 7)])
def test_the_ratio_is_that_of_the_definition(rows, shape):
    x, places = drawn(rows, *shape, seed=5), shape if len(shape) == 1 else shape[1:]
    masks = drawn(rows, *places, seed=6) > 0
    masks.flatten(1)[:, :3] = True
    masks.flatten(1)[:, 3] = False
    x.flatten(1)[:, 0] = 5.0
    found = px.explain(NET, x, ObjectRelevanceRatio(of=Told()), target=0, data={"masks": masks})
    for row in range(rows):
        v = x[row] if len(shape) == 1 else x[row].sum(0)
        cells = list(zip(v.flatten().tolist(), masks[row].flatten().tolist(), strict=True))
        out = [max(a, 0) for a, m in cells if not m]
        own = [max(a, 0) for a, m in cells if m]
        assert found.values[row].item() == pytest.approx(sum(out) / len(out) / (sum(own) / len(own)))


def test_all_inside_is_nothing_outside_and_no_positive_inside_is_no_ratio():
    box = {"boxes": torch.tensor([[1, 2, 3, 5]])}
    x = torch.cat([blob((1, 2, 1.0)), blob((0, 0, 1.0)), torch.ones(1, 1, 6, 8, **DOUBLE)])
    found = px.explain(NET, x, ObjectRelevanceRatio(of=Told()), target=torch.tensor([0, 0, 1]), data=box)
    assert found.values[0].item() == 0.0
    assert bool(found.values[1].isnan())
    assert found.values[2].item() == 1.0
    assert found.facts["area"].tolist() == [6 / 48] * 3
    assert found.source["overall"]["excluded"] == [1]
    assert found.source["by_class"]["1"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"boxes": torch.tensor([[0, 0, 7, 8]])}, InputError),
        ({"boxes": torch.tensor([[3, 0, 1, 8]])}, InputError),
        ({"boxes": torch.zeros(2, 4)}, InputError),
        ({"boxes": torch.zeros(1, 5)}, InputError),
        ({"masks": torch.zeros(1, 8, 6)}, InputError),
        ({"explanation": None}, NeedError),
    ],
)
def test_bad_boxes_are_refused(data, error):
    with pytest.raises(error, match=r"boxes|masks"):
        boxed(blob(), data)


def test_bad_settings_are_refused():
    for settings in ({"level": 1}, {"enough": -0.1}, {"pooling": "mean"}):
        with pytest.raises(MethodError):
            boxed(blob(), {"boxes": torch.tensor([[0, 0, 1, 1]])}, **settings)
    with pytest.raises(InputError, match="images"):
        boxed(drawn(1, 6), {"boxes": torch.tensor([[0, 0, 1, 1]])})
