"""A verdict on a map without anybody looking: right on planted regions, and by chance as often as it says."""

import json

import pytest
import torch

import pellucid as px
from pellucid.contract import Attribution
from pellucid.contract.errors import InputError
from pellucid.report import page, verdicts


def told(maps):
    return Attribution(values=maps[:, None])


def blobs(count, seed, size=16, side=4):
    """A map of one square of noise for each row, somewhere."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, size, size)
    for i in range(count):
        top, left = torch.randint(0, size - side, (2,), generator=generator).tolist()
        found[i, top : top + side, left : left + side] = torch.rand(side, side, generator=generator) + 0.1
    return found


def test_planted_regions_get_the_right_verdict_on_shapes():
    """Maps that lie on the main object, or on the cue, of real scenes; no person is asked."""
    world = px.worlds.shapes(40, seed=2, spurious="tag")
    masks = world.truth["masks"]
    regions = {name: masks[name] for name in ("main object", "cue")}
    noise = torch.rand(40, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    on_object = verdicts(told(masks["main object"] * noise), regions, "main object")
    on_cue = verdicts(told(masks["cue"] * noise), regions, "main object")
    assert on_object.counts()["as expected"] >= 38  # an object that fills the picture can't be told from chance
    assert on_object.counts()["elsewhere"] == 0
    assert on_cue.counts() == {"as expected": 0, "elsewhere": 40, "unclear": 0}
    assert {row.main for row in on_cue.rows} == {"cue"}
    assert on_cue.human_steps == on_object.human_steps == 0


def test_shares_areas_and_chances_are_those_counted_by_hand():
    maps, mask = blobs(3, seed=4, size=8, side=2), torch.zeros(1, 8, 8)
    mask[0, 2:6, 1:5] = 1
    found = verdicts(told(maps), {"there": mask}, "there").rows
    for row, m in zip(found, maps.double(), strict=True):
        (region,) = row.regions
        inside = float((m * mask[0]).sum())
        assert region.share == pytest.approx(inside / float(m.sum()))
        assert region.area == pytest.approx(16 / 64)
        laid = [float((m.roll((i, j), (0, 1)) * mask[0]).sum()) for i in range(8) for j in range(8)]
        assert region.chance == pytest.approx(sum(v >= inside - 1e-9 for v in laid) / 64)


def test_maps_that_know_nothing_are_as_expected_once_in_twenty():
    mask = torch.zeros(1, 16, 16)
    mask[0, 3:9, 4:10] = 1
    maps, generator = blobs(600, seed=1), torch.Generator().manual_seed(2)
    laid = [m.roll(tuple(torch.randint(0, 16, (2,), generator=generator).tolist()), (0, 1)) for m in maps]
    counts = verdicts(told(torch.stack(laid)), {"there": mask}, "there").counts()
    assert counts["as expected"] / 600 <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
    assert counts["elsewhere"] > 300


def test_expectations_may_differ_by_row_and_words_are_the_users():
    maps = torch.zeros(2, 8, 8)
    maps[:, 0, 0] = 1.0
    one, other = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    one[0, 0, 0], other[0, 4, 4] = 1, 1
    words = {"region:a": "the <i>left</i> lung"}
    found = verdicts(told(maps), {"a": one, "b": other}, ["a", "b"], vocabulary=words)
    assert [row.verdict for row in found.rows] == ["as expected", "elsewhere"]
    assert found.rows[1].main == "the <i>left</i> lung"
    assert "b (no word yet)" in found.rows[1].sentence()
    assert "<i>left" not in page(found.section())
    assert json.loads(json.dumps(found.as_dict()))["counts"]["elsewhere"] == 1


def test_an_empty_map_is_unclear_and_coarse_maps_fit():
    mask = torch.zeros(1, 8, 8)
    mask[0, :4] = 1
    assert verdicts(told(torch.zeros(1, 8, 8)), {"top": mask}, "top").rows[0].verdict == "unclear"
    coarse = torch.zeros(1, 4, 4)
    coarse[0, :2] = 1.0
    (row,) = verdicts(told(coarse), {"top": mask}, "top").rows
    assert row.regions[0].share == 1.0
    assert row.regions[0].area == 0.5


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ({}, "a"),
        ({"a": torch.ones(1, 8, 8)}, "b"),
        ({"a": torch.ones(1, 8, 8)}, ["a", "a", "a"]),
        ({"a": torch.full((1, 8, 8), 0.5)}, "a"),
        ({"a": torch.ones(3, 8, 8)}, "a"),
    ],
)
def test_what_does_not_fit_is_refused(regions, expected):
    with pytest.raises(InputError, match="Got"):
        verdicts(told(torch.ones(2, 8, 8)), regions, expected)
