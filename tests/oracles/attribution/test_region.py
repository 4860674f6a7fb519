"""Regions of labelled images as targets: sums by hand, receptive fields, a planted rule of context, rings of distance."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import GradCAM, Occlusion, Region, by_distance
from pellucid.contract.errors import InputError, TargetError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def labeller(seed=3):
    """Labels each pixel from its 5 × 5 neighbourhood."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return net


MASK = torch.zeros(8, 6, dtype=torch.bool)
MASK[2:4, 1:3] = True


def test_scores_are_sums_over_the_region():
    output = rows(3, 4, 8, 6)
    point = Region(label=2, point=(5, 4))(output)
    whole = Region(label=2, mask=MASK)(output)
    between = Region(label=2, mask=MASK, against=0)(output)
    for n in range(3):
        assert point[n] == output[n, 2, 5, 4]
        inside = [(i, j) for i in (2, 3) for j in (1, 2)]
        assert math.isclose(whole[n], sum(output[n, 2, i, j] for i, j in inside), abs_tol=1e-12)
        assert math.isclose(between[n], sum(output[n, 2, i, j] - output[n, 0, i, j] for i, j in inside), abs_tol=1e-12)


def flood(labelled, start):
    """The component around a place, by walking to neighbours."""
    seen, edge = set(), [start]
    while edge:
        i, j = edge.pop()
        if (i, j) in seen or not (0 <= i < labelled.shape[0] and 0 <= j < labelled.shape[1]) or not labelled[i, j]:
            continue
        seen.add((i, j))
        edge += [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
    return seen


def test_component_and_label_are_read_from_each_row():
    output = rows(6, 2, 8, 6)
    output[:, 1, 4, 3] = 9
    joined = Region(label=1, point=(4, 3), component=True)
    sizes = set()
    for n in range(6):
        labelled = output[n, 1] > output[n, 0]
        expected = flood(labelled, (4, 3))
        assert {tuple(p) for p in joined.places(output)[n].nonzero().tolist()} == expected
        assert math.isclose(joined(output)[n], sum(output[n, 1, i, j] for i, j in expected), abs_tol=1e-12)
        assert torch.equal(Region(label=1).places(output)[n], labelled)
        sizes.add(len(expected))
    assert len(sizes) > 2


@pytest.mark.parametrize("method", ["vanilla-gradient", "gradient-x-input", Occlusion(window=1, stride=1)])
def test_attribution_stays_inside_the_receptive_field(method):
    values = px.explain(labeller(), rows(2, 2, 8, 9), method, target=Region(label=1, point=(4, 3))).values
    reach = torch.zeros(8, 9, dtype=torch.bool)
    reach[2:7, 1:6] = True
    assert values[..., ~reach].abs().max() == 0
    assert values[..., 2, :].abs().max() > 0


def test_region_is_the_sum_of_its_points():
    net, images = labeller(), rows(2, 2, 8, 6)
    whole = px.explain(net, images, GradCAM(relu=False), layer="1", target=Region(label=2, mask=MASK)).values
    single = [
        px.explain(net, images, GradCAM(relu=False), layer="1", target=Region(label=2, point=(i, j))).values
        for i in (2, 3)
        for j in (1, 2)
    ]
    torch.testing.assert_close(whole, sum(single), rtol=0, atol=1e-12)


class Marked(nn.Module):
    """Every pixel is class 1 by as much as the marker in the corner shines, whatever the pixel holds."""

    def forward(self, x):
        context = x[:, :1, :1, :1].expand(-1, 1, *x.shape[2:])
        return torch.cat([x[:, :1] * 0.1, 2 * context], 1)


@pytest.mark.parametrize("method", ["vanilla-gradient", Occlusion(window=1, stride=1)])
def test_planted_rule_of_context_is_revealed(method):
    images = rows(2, 1, 9, 9)
    images[:, 0, 0, 0] = 1  # the marker shines
    target = Region(label=1, point=(6, 5), against=0)
    got = px.explain(Marked().eval(), images, method, target=target).values.abs()
    marker = got[:, 0, 0, 0] / got.flatten(1).sum(1)
    places = target.places(torch.zeros(2, 2, 9, 9))
    shares = by_distance(got, places, [1, 3, 7])
    torch.testing.assert_close(shares[:, 3], marker, rtol=0, atol=1e-12)  # the corner is 7.8 pixels away
    torch.testing.assert_close(shares[:, 0], 1 - marker, rtol=0, atol=1e-12)
    assert shares[:, 1:3].abs().max() == 0
    own = images[:, 0, 6, 5].abs() if isinstance(method, Occlusion) else torch.ones(2, **DOUBLE)
    torch.testing.assert_close(marker, 2 / (2 + 0.1 * own), rtol=0, atol=1e-12)


def test_rings_by_a_loop():
    values, places = rows(3, 2, 7, 5), rows(3, 7, 5, seed=2) > 1.0
    edges = [1.0, 1.5, 3.0]
    got = by_distance(values, places, edges)
    for n in range(3):
        region = places[n].nonzero().tolist()
        expected = [0.0] * 4
        for i in range(7):
            for j in range(5):
                distance = min(math.dist((i, j), p) for p in region)
                expected[sum(distance >= edge for edge in edges)] += values[n, :, i, j].abs().sum().item()
        whole = values[n].abs().sum().item()
        torch.testing.assert_close(got[n], torch.tensor(expected, **DOUBLE) / whole, rtol=0, atol=1e-12)


def test_rings_of_nothing_are_zero():
    places = torch.zeros(2, 7, 5, dtype=torch.bool)
    assert by_distance(rows(2, 1, 7, 5), places, [1]).abs().max() == 0
    assert by_distance(torch.zeros(2, 1, 7, 5), ~places, [1]).abs().max() == 0


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(label=3), "label"),
        (Region(label=0, against=7), "against"),
        (Region(label=0, point=(8, 0)), "inside"),
        (Region(label=0, point=(1,)), "inside"),
        (Region(label=0, mask=MASK[1:]), "mask"),
        (Region(label=0, mask=MASK.double()), "mask"),
        (Region(label=0, mask=MASK, point=(0, 0)), "not both"),
        (Region(label=0, component=True), "point"),
    ],
)
def test_impossible_regions_are_refused(region, words):
    with pytest.raises(TargetError, match=words):
        px.explain(labeller(), rows(1, 2, 8, 6), "vanilla-gradient", target=region)


def test_a_component_needs_its_point_to_be_labelled_so():
    output = torch.zeros(2, 2, 8, 6)
    output[:, 0] = 1
    with pytest.raises(TargetError, match="labelled 1"):
        Region(label=1, point=(0, 0), component=True)(output)


def test_other_outputs_and_sizes_are_refused():
    with pytest.raises(TargetError, match="classes, height, width"):
        Region(label=1)(torch.zeros(2, 3))
    with pytest.raises(InputError, match="places"):
        by_distance(torch.zeros(1, 1, 4, 3), MASK, [1])
    with pytest.raises(InputError, match="edges"):
        by_distance(torch.zeros(1, 1, 8, 6), MASK, [2, 1])
