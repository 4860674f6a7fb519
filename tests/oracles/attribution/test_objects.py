"""Objects in small grid worlds whose value is known, and correlation against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.feature import match_template
from torch import nn

import pellucid as px
from pellucid.attribution import ObjectSaliency
from pellucid.attribution.objects import correlation
from pellucid.contract.errors import InputError, MethodError, NeedError

DOUBLE = {"dtype": torch.float64}
GOAL = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]], **DOUBLE)
ENEMY = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]], **DOUBLE)
STONE = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.5]]], **DOUBLE)
TEMPLATES = {"goal": GOAL, "enemy": ENEMY, "stone": STONE}


def frame(*objects, size=16):
    """A grid of zeros with the objects (template, top, left) in it."""
    made = torch.zeros(1, size, size, **DOUBLE)
    for template, top, left in objects:
        made[:, top : top + template.shape[1], left : left + template.shape[2]] = template
    return made


class Value(nn.Module):
    """5 × the goal's pixels in the left half, -8 × the enemy's in the right, for action 0; nothing for action 1.

    The stone lies in the lower rows, which the network does not read.
    """

    def forward(self, x):
        q = 5 * x[:, 0, :10, :8].sum((1, 2)) - 8 * x[:, 0, :10, 8:].sum((1, 2))
        return torch.stack([q, torch.zeros_like(q)], 1)


def test_what_each_object_is_worth():
    x = torch.stack([frame((GOAL, 1, 2), (ENEMY, 4, 10), (STONE, 13, 5)), frame((GOAL, 5, 3))])
    found = px.explain(Value().eval(), x, "o-drl-object-saliency", target=0, data=TEMPLATES)
    told = [{o["template"]: (o["top"], o["left"], o["figure"]) for o in row} for row in found.source["objects"]]
    assert told[0] == {"goal": (1, 2, 25.0), "enemy": (4, 10, -40.0), "stone": (13, 5, 0.0)}
    assert told[1] == {"goal": (5, 3, 25.0)}
    want = torch.zeros(2, 1, 16, 16, **DOUBLE)
    want[0, 0, 1:4, 2:5], want[0, 0, 4:7, 10:13], want[1, 0, 5:8, 3:6] = 25.0, -40.0, 25.0
    assert torch.equal(found.values, want)
    assert found.facts["objects"].tolist() == [3.0, 1.0]
    assert found.facts["largest"].tolist() == [-40.0, 25.0]
    assert found.facts["score"].tolist() == [25.0 - 40.0, 25.0]


def test_an_objects_own_channel_is_cleared_too():
    class Channel(nn.Module):
        def forward(self, x):
            return (3 * x[:, 1].sum((1, 2)) + x[:, 0].sum((1, 2)))[:, None]

    x = torch.cat([frame((GOAL, 1, 2)), torch.ones(1, 16, 16, **DOUBLE)])[None]
    x[0, 1, 1:4, 2:5] = 2
    data = {"templates": {"goal": GOAL}, "channels": {"goal": 1}}
    found = px.explain(Channel().eval(), x, "o-drl-object-saliency", data=data)
    assert found.source["objects"][0][0]["figure"] == 3 * 9 * 2 + 5
    without = px.explain(Channel().eval(), x, "o-drl-object-saliency", data={"goal": GOAL})
    assert without.source["objects"][0][0]["figure"] == 3 * 9 * 1 + 5  # as a colour, it becomes the commonest


def test_the_background_is_the_commonest_colour():
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum((1, 2, 3))[:, None]

    x = (0.25 + frame((STONE, 3, 3)) * 0.75)[None]  # stone pixels 1, .25 and .625 on a ground of .25
    found = px.explain(Sum().eval(), x, ObjectSaliency(), data={"stone": STONE})
    assert found.source["objects"][0][0]["figure"] == pytest.approx(7 * 0.75 + 0.375)
    filled = px.explain(Sum().eval(), x, ObjectSaliency(background=0.0), data={"stone": STONE})
    assert filled.source["objects"][0][0]["figure"] == pytest.approx(7 + 0.25 + 0.625)


@pytest.mark.parametrize("channels", [1, 3])
def test_correlation_equals_scikit_images(channels):
    draw = torch.Generator().manual_seed(0)
    picture, template = (torch.rand(channels, *s, generator=draw, **DOUBLE) for s in ((9, 7), (3, 2)))
    peer = match_template(picture.movedim(0, -1).numpy(), template.movedim(0, -1).numpy())
    assert np.allclose(correlation(picture, template).numpy(), peer.reshape(7, 6), atol=1e-10)
    assert correlation(torch.ones(channels, 9, 7, **DOUBLE), template).abs().max() == 0


def test_no_object_no_figure():
    found = px.explain(Value().eval(), frame()[None], "o-drl-object-saliency", target=0, data=TEMPLATES)
    assert found.values.abs().max() == 0
    assert found.source["objects"] == [[]]


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"threshold": 0.0}, TEMPLATES, MethodError),
        ({"background": "blur"}, TEMPLATES, MethodError),
        ({}, None, NeedError),
        ({}, [1, 2], NeedError),
        ({}, {"flat": torch.ones(1, 2, 2)}, InputError),
        ({}, {"wide": torch.rand(1, 2, 20)}, InputError),
        ({}, {"deep": torch.rand(2, 2, 2)}, InputError),
        ({}, {"templates": TEMPLATES, "channels": {"ghost": 0}}, InputError),
    ],
)
def test_what_is_refused_before_the_model_runs(settings, data, error):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(error):
        px.explain(model, frame()[None], ObjectSaliency(**settings), data=data)
