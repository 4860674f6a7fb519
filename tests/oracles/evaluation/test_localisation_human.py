"""Agreement with people against sums by hand."""

import pytest
import torch

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.contract.errors import InputError, MethodError
from pellucid.evaluation import HumanAttention, LesionOverlap


def agreed(x, masks, **settings):
    return px.explain(NET, x, HumanAttention(of=Told(), **settings), target=0, data={"masks": masks})


def covered(x, data, **settings):
    return px.explain(NET, x, LesionOverlap(of=Told(), **settings), target=0, data=data)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 5, 7)])
def test_every_figure_is_that_of_the_definition(rows, shape):
    x, places = drawn(rows, *shape, seed=1), shape if len(shape) == 1 else shape[1:]
    x.flatten(1)[:, 0] = 1.5  # a row without positive values has no map
    people = (drawn(rows, 3, *places, seed=2) > 0).long()
    found = agreed(x, people, false_positive=2.0, false_negative=0.5)
    for row in range(rows):
        positive = [max(a, 0.0) for a in x[row].flatten().tolist()]
        s = [a / max(positive) for a in positive]
        m = [sum(votes) / 3 for votes in zip(*(p.flatten().tolist() for p in people[row]), strict=True)]
        pairs = list(zip(s, m, strict=True))
        over = sum(max(a - b, 0) for a, b in pairs) / len(pairs)
        under = sum(max(b - a, 0) for a, b in pairs) / len(pairs)
        both = sum(map(min, pairs))
        want = {
            "mae": sum(abs(a - b) for a, b in pairs) / len(pairs),
            "too_much": over,
            "too_little": under,
            "precision": both / sum(s),
            "recall": both / sum(m),
            "soft_iou": both / sum(map(max, pairs)),
            "empty": 0.5 * sum(m) / len(m),
        }
        assert {k: v[row].item() for k, v in found.facts.items()} == pytest.approx(want, abs=1e-12)
        assert found.values[row].item() == pytest.approx(2 * over + under / 2)
        two = [a for a, b in pairs if b > 0.6]  # marked by two of three, at least
        assert found.parts["precision"][row, 5].item() == pytest.approx(sum(two) / sum(s))
        assert found.parts["recall"][row, 5].item() == pytest.approx(sum(two) / max(1, len(two)))


def test_a_map_equal_to_the_mask_is_perfect_and_an_even_one_is_its_area():
    masks = torch.tensor([[[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]])
    same = agreed(3.0 * masks[:, None].double(), masks).facts
    for name, want in (("mae", 0.0), ("precision", 1.0), ("recall", 1.0), ("soft_iou", 1.0)):
        assert same[name].item() == want
    even = agreed(torch.ones(1, 1, 2, 5, **DOUBLE), masks).facts
    assert even["precision"].item() == even["soft_iou"].item() == pytest.approx(0.3)
    assert even["mae"].item() == pytest.approx(0.7)
    nothing = agreed(torch.zeros(1, 1, 2, 5, **DOUBLE), masks)
    assert nothing.values.item() == nothing.facts["empty"].item() == pytest.approx(0.3)
    assert nothing.facts["precision"].item() == 0.0


def test_rationales_of_sentences_are_masks_of_words():
    world = px.worlds.sentences(5, seed=1)
    masks = world.truth["rationale"]
    told = masks[..., None].double().expand(-1, -1, 4) * torch.tensor([1.0, 0, 0, 0], **DOUBLE)
    found = agreed(told, masks)
    assert found.values.tolist() == [0.0] * 5
    assert bool((agreed(1 - told, masks).values > 0.5).all())


def test_points_are_covered_or_not():
    x = torch.tensor([[[[4.0, 1.9, 0.0], [2.0, -5.0, 0.0]]]], **DOUBLE)  # 4 and 2 reach half of 4
    points = torch.tensor([[[0, 0], [1, 0], [0, 1], [-1, -1]]])
    found = covered(x, {"points": points, "subtypes": torch.tensor([[7, 8, 8, 9]])})
    assert found.values.item() == pytest.approx(2 / 3)
    assert found.facts["points"].item() == 3
    assert found.facts["area"].item() == pytest.approx(2 / 6)
    assert found.facts["false_area"].item() == 0.0
    assert found.source["by_subtype"] == {"7": {"points": 1, "share": 1.0}, "8": {"points": 2, "share": 0.5}}
    assert covered(x, {"points": points}, level=0.4).values.item() == 1.0


def test_masks_are_all_their_points():
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[:, 1:3, 2:5] = True
    same = covered(masks[:, None].double(), {"masks": masks})
    assert same.values.tolist() == [1.0] * 4
    assert same.facts["false_area"].max() == 0.0
    assert covered(torch.zeros(4, 1, 5, 7, **DOUBLE), {"masks": masks}).values.tolist() == [0.0] * 4
    noise = (drawn(400, 1, 5, 7, seed=9) > 0.5).double()
    share = covered(noise, {"masks": masks[:1]})
    area = noise.mean().item()  # in expectation a random map covers as much of the mask as of everything
    assert share.values.mean().item() == pytest.approx(area, abs=4 * (area * (1 - area) / 2400) ** 0.5)


def test_a_row_without_points_is_left_out():
    found = covered(torch.ones(2, 4, **DOUBLE), {"points": torch.tensor([[[1]], [[-1]]])})
    assert found.values[0].item() == 1.0
    assert bool(found.values[1].isnan())
    assert found.source["overall"]["excluded"] == [1]


@pytest.mark.parametrize(
    "data",
    [
        {"points": torch.tensor([[[4]]])},
        {"points": torch.tensor([[1]])},
        {"points": torch.tensor([[[1.0]]])},
        {"points": torch.tensor([[[1]]]), "subtypes": torch.tensor([[1, 2]])},
        {"masks": torch.ones(1, 4), "subtypes": torch.tensor([[1]])},
        {"masks": torch.full((1, 4), 0.5)},
    ],
)
def test_bad_marks_are_refused(data):
    with pytest.raises(InputError, match=r"points|subtypes|masks"):
        covered(torch.ones(1, 4, **DOUBLE), data)


def test_bad_settings_are_refused():
    x, masks = torch.ones(1, 4, **DOUBLE), torch.ones(1, 4)
    with pytest.raises(MethodError, match="level"):
        covered(x, {"masks": masks}, level=1.5)
    with pytest.raises(MethodError, match="false_positive"):
        agreed(x, masks, false_positive=-1.0)
    with pytest.raises(InputError, match="masks"):
        agreed(x, 2 * masks)
