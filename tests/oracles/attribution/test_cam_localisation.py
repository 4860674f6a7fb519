"""Boxes from class activation maps overlap planted objects: on a detector written by hand, and on a trained network."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution.spatial import upsample


def box_of(heat):
    """Top, left, bottom, right of the largest component above a fifth of the maximum."""
    numbers, count = ndimage.label(heat > 0.2 * heat.max(), structure=np.ones((3, 3)))
    sizes = [(numbers == k).sum() for k in range(1, count + 1)]
    rows, columns = np.nonzero(numbers == 1 + int(np.argmax(sizes)))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def overlap(one, other):
    """Intersection over union of two boxes."""
    height = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    width = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    both = height * width
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return both / (sum(areas) - both)


def test_the_overlap_of_boxes():
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (0, 1, 2, 3)) == 1 / 3
    assert overlap((0, 0, 2, 2), (2, 2, 4, 4)) == 0


def detector():
    """Class 0 is red and class 1 green: means over 4 × 4 patches, their difference rectified, and a mean over places."""
    layers = [nn.AvgPool2d(4), nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)]
    net = nn.Sequential(*layers).double().eval()
    net[1].weight.data[:] = torch.tensor([[1.0, -1, 0], [-1, 1, 0]]).double()[:, :, None, None]
    net[1].bias.data.zero_()
    net[5].weight.data[:], net[5].bias.data[:] = torch.tensor([[1.0, -1], [-1, 1]]).double(), 0.3
    return net


@pytest.mark.parametrize("method", ["cam", "grad-cam", "xgrad-cam", "hires-cam", "layer-cam"])
@pytest.mark.parametrize("label", [0, 1])
def test_box_of_each_object_by_its_class(method, label):
    image = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.1
    boxes = [(4, 8, 16, 20), (28, 12, 44, 32)]
    for colour, (top, left, bottom, right) in enumerate(boxes):
        image[0, colour, top:bottom, left:right] = 1
    heat = px.explain(detector(), image, method, target=label, layer="2").values.clamp(min=0)
    box = box_of(upsample(heat, (48, 40))[0, 0].numpy())
    assert overlap(box, boxes[label]) > 0.5
    assert overlap(box, boxes[1 - label]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cam", "grad-cam", "hires-cam"])
def test_trained_network_looks_at_the_main_object(method):
    """Pointing at the object beats pointing at the same place of another picture's object."""
    model, world = zoo.load("shapes-cnn"), worlds.shapes(40, seed=1234)
    masks = world.truth["masks"]["main object"]
    maps = px.explain(model, world.inputs, method, target=world.labels, layer="block3").values
    peaks = upsample(maps, (32, 32)).flatten(1).argmax(1)
    rows = torch.arange(40)
    right = masks.flatten(1)[rows, peaks].double().mean()
    chance = masks.flatten(1)[rows.roll(1), peaks].double().mean()
    assert right > 0.8
    assert right > chance + 0.3
