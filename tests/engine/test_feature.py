"""What counts as one feature: numbering, grids, superpixels, masks, and what is refused."""

import pytest
import torch

from pellucid.contract.errors import InputError
from pellucid.engine import feature
from pellucid.engine.inputs import as_inputs


def labels(spec, *shape):
    found = feature.features(spec, as_inputs(torch.zeros(*shape)))
    return found.labels[0].expand(found.labels[0].shape[0], *shape[1:]), found.count


def test_grid_divides_both_axes():
    got, count = labels(("grid", 2), 1, 3, 4, 6)
    expected = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2)
    assert count == 4
    assert all(torch.equal(got[0, c], expected) for c in range(3))


def test_patches_have_a_side_and_the_last_is_cut_off():
    got, count = labels(("patch", 2), 1, 1, 3, 5)
    assert got[0, 0].tolist() == [[0, 0, 1, 1, 2]] * 2 + [[3, 3, 4, 4, 5]]
    assert count == 6


@pytest.mark.parametrize(
    ("spec", "shape", "count"),
    [
        ("element", (2, 3, 4, 5), 60),
        ("pixel", (2, 3, 4, 5), 20),
        ("channel", (2, 3, 4, 5), 3),
        ("pixel", (2, 3, 7), 7),
        ("token", (2, 6, 5), 6),
        ("column", (2, 6), 6),
        ("auto", (2, 6), 6),
        ("auto", (2, 6, 5), 6),
        ("auto", (2, 3, 16, 9), 64),
        ("auto", (2, 3, 4, 9), 16),
        ("auto", (2,), 1),
    ],
)
def test_numbers_run_from_zero_without_gaps(spec, shape, count):
    got, found = labels(spec, *shape)
    assert found == count
    assert torch.unique(got).tolist() == list(range(count))


def test_features_are_numbered_over_all_inputs():
    found = feature.features("auto", as_inputs((torch.zeros(2, 3), torch.zeros(2, 2, 2), torch.ones(2).long())))
    assert found.count == 5
    assert found.labels[0].tolist() == [[0, 1, 2]]
    assert found.labels[1].tolist() == [[[3], [4]]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_superpixels_follow_colour_and_differ_from_row_to_row(channels):
    image = torch.zeros(2, channels, 30, 24)
    image[0, :, :, 11:] = 5
    image[1, :, 13:] = 5
    found = feature.superpixels(image, 12)
    assert found.shape == (2, 1, 30, 24)
    assert 6 <= len(found[0].unique()) <= 20
    for part, other in ((found[0, 0, :, :11], found[0, 0, :, 11:]), (found[1, 0, :13], found[1, 0, 13:])):
        assert not set(part.unique().tolist()) & set(other.unique().tolist())
    assert torch.equal(feature.superpixels(image[1:], 12), found[1:])


def test_superpixels_of_a_flat_image_are_still_numbered_from_zero():
    found = feature.superpixels(torch.ones(1, 2, 8, 8), 4).unique()
    assert found.tolist() == list(range(len(found)))


def test_inside_and_spread_agree_with_a_loop():
    inputs = as_inputs(torch.zeros(2, 2, 3))
    mask = torch.tensor([[[4, 4, -1]], [[9, 4, 2]]])
    found = feature.groups(mask, inputs)
    assert found.count == 3
    numbers = [2, 4, 9]
    rows, which = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 2, 1])
    (inside,) = found.inside(rows, which)
    for job in range(4):
        for step in range(3):
            assert inside[job, 0, step] == (mask[rows[job], 0, step] == numbers[which[job]])
    figures = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    (spread,) = found.spread(figures, inputs)
    assert spread.tolist() == [[[2.0, 2.0, 0.0]] * 2, [[6.0, 5.0, 4.0]] * 2]


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        ("word", (2, 3), "must be one of"),
        (("grid", 2), (2, 3), "channels and positions"),
        (("grid", 5), (2, 3, 4, 9), "outnumber"),
        (("grid", 0), (2, 3, 4, 9), "at least 1"),
        (("superpixels", 4), (2, 3, 4), "images"),
        ("column", (2, 3, 4), "table"),
        ("token", (2, 3), "sequences"),
        (((0, 3),), (2, 3), "from 0 to 2"),
        (((0, 1), (1,)), (2, 3), "share a column"),
        (((0, 1),), (2, 3, 4), "table"),
    ],
)
def test_what_does_not_fit_is_refused(spec, shape, words):
    with pytest.raises(InputError, match=words):
        feature.features(spec, as_inputs(torch.zeros(*shape)))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(2, 3), "integers"),
        (torch.zeros(2, 4).long(), "shape"),
        (torch.zeros(3, 3).long(), "shape"),
        (-torch.ones(3).long(), "not negative"),
        ((torch.zeros(3).long(), torch.zeros(3).long()), "1 masks"),
        ({"other": None}, "integers"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, words):
    with pytest.raises(InputError, match=words):
        feature.groups(mask, as_inputs(torch.zeros(2, 3)))
