"""Congruence with what people mark: a planted shortcut is found, sides are balanced, intervals and refusals are right."""

import json

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError
from pellucid.report import congruence, page, to_mark
from pellucid.report.trust_congruence import welch


class Tagged(nn.Module):
    """Says "tagged" where the corner is lit, without a look at the object; otherwise it weighs the object."""

    def forward(self, x):
        corner = x[:, 0, 0, 0]
        return torch.stack([9 * corner, 0.5 * (x.flatten(1).sum(1) - corner)], 1)


def pictures(count=60, seed=0):
    """An object of 2 × 2 in the lower part of each; every other picture is of class 0, and of these most have a tag."""
    generator = torch.Generator().manual_seed(seed)
    x, masks = torch.zeros(count, 1, 8, 8), torch.zeros(count, 8, 8, dtype=torch.bool)
    y = torch.arange(count) % 2
    for i in range(count):
        top, left = (2 + torch.randint(0, 5, (2,), generator=generator)).tolist()
        masks[i, top : top + 2, left : left + 2] = True
        x[i, 0][masks[i]] = 1.0
        tag = torch.rand(1, generator=generator) < 0.8
        x[i, 0, 0, 0] = float(tag if y[i] == 0 else not tag and i % 3 == 0)
    return x, y, masks


SUBJECT = px.Subject(Tagged().eval(), classes=("<b>tagged", "plain"))


def test_a_shortcut_shows_as_low_congruence_on_its_class():
    x, y, masks = pictures()
    found = congruence(SUBJECT, x, y, masks, "gradient-x-input", rows=torch.arange(60))
    assert found.classes["<b>tagged"].inside == 0.0
    assert found.classes["<b>tagged"].overlap <= found.classes["<b>tagged"].chance
    assert found.classes["<b>tagged"].elsewhere
    assert found.classes["plain"].overlap == 1.0
    assert not found.classes["plain"].elsewhere
    assert found.classes["plain"].rank == 1.0
    assert "by looking elsewhere than people do" in " ".join(found.sentences())
    assert "<b>tagged" not in page(found.section())
    assert json.loads(json.dumps(found.as_dict()))["method"] == "gradient-x-input"


def test_on_shapes_a_reader_of_the_tag_is_right_for_other_reasons():
    """A linear network of the corner's colours reads the tag: nearly always right, and never looking at the object."""
    world = px.worlds.shapes(300, seed=0, spurious="tag", spurious_probability=0.9)
    cue, thing = world.truth["masks"]["cue"], world.truth["masks"]["main object"]
    seen = (cue.float().mean(0) > 0.95).float()  # where the tag always is
    inside = (world.inputs * seen).flatten(1)
    means = torch.stack([inside[world.truth["cue"] == c].mean(0) for c in range(len(world.classes))])

    class Reader(nn.Module):
        def forward(self, x):
            return 2 * (x * seen).flatten(1) @ means.T - (means**2).sum(1)

    subject = px.Subject(Reader().eval(), classes=world.classes)
    labels = torch.as_tensor(world.truth["true_labels"])
    found = congruence(subject, world.inputs, labels, thing, "gradient-x-input", rows=40)
    assert found.right.inside < 0.02
    assert found.right.elsewhere
    assert found.wrong.elsewhere
    assert "may be for other reasons" in " ".join(found.sentences())
    at_tag = congruence(subject, world.inputs, labels, cue, "gradient-x-input", rows=40)
    assert not at_tag.right.elsewhere
    assert at_tag.right.inside > 0.98


def test_the_sample_is_balanced_over_sides_and_classes():
    truth = torch.arange(90) % 3
    said = torch.where(torch.arange(90) < 24, (truth + 1) % 3, truth)
    scores = nn.functional.one_hot(said, 3).float()
    chosen = to_mark(lambda x: x, scores, truth, rows=30, seed=1)
    right = (said == truth)[chosen]
    assert (int(right.sum()), int((~right).sum())) == (15, 15)
    for side in (right, ~right):
        assert truth[chosen][side].bincount().tolist() == [5, 5, 5]
    assert len(set(chosen.tolist())) == 30
    assert 3 < int(right[:15].sum()) < 12  # the order gives nothing away
    assert torch.equal(chosen, to_mark(lambda x: x, scores, truth, rows=30, seed=1))
    assert not torch.equal(chosen, to_mark(lambda x: x, scores, truth, rows=30, seed=2))
    assert len(to_mark(lambda x: x, scores, truth, rows=80)) == 48  # 24 are wrong, so 24 of either side


def test_interval_of_the_gap_is_welchs():
    from scipy.stats import ttest_ind

    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(9, generator=generator).double(), torch.rand(14, generator=generator).double() * 0.3
    want = ttest_ind(one.numpy(), other.numpy(), equal_var=False).confidence_interval(0.95)
    gap, low, high = welch(one, other)
    assert gap == pytest.approx(float(one.mean() - other.mean()))
    assert (low, high) == (pytest.approx(want.low), pytest.approx(want.high))
    assert welch(one[:1], other) is None


def test_a_network_that_is_never_wrong_has_no_wrong_side():
    x, _, masks = pictures(20)
    said = SUBJECT.model(x).argmax(1)
    with pytest.raises(InputError, match="gets wrong"):
        congruence(SUBJECT, x, said, masks, "gradient-x-input")
    found = congruence(SUBJECT, x, said, masks, "gradient-x-input", rows=range(20))
    assert found.wrong is None
    assert found.gap is None
    assert "too few cases" in " ".join(found.sentences())


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1},
        {"rows": [0, 0]},
        {"rows": [99]},
        {"rows": [0.5]},
        {"labels": torch.rand(60)},
        {"masks": torch.ones(3, 8, 8)},
    ],
)
def test_what_can_not_be_is_refused(changes):
    x, y, masks = pictures()
    settings = {"labels": y, "masks": masks, "rows": 10, **changes}
    with pytest.raises((InputError, MethodError), match="Got"):
        congruence(SUBJECT, x, method="gradient-x-input", **settings)
