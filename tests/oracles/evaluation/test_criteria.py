"""Three criteria against planted truth and the definition, row by row."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, NET, Six, Told, drawn
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import ThreeCriteria


def first_three(x):
    """Two classes by the first three columns of six alone."""
    total = x[:, :3].sum(1)
    return torch.stack([-total, total], 1)


def test_what_matters_everywhere_is_found_and_holds_for_new_rows():
    x = drawn(300, 6)
    found = px.explain(first_three, x[:50], ThreeCriteria(of="feature-ablation"), data={"held_out": x[50:]})
    assert found.values.tolist() == [1]
    assert found.facts["generalizability"].item() == 1
    # Without these three both scores are zero, and the first class is the answer: rows of class 1 turn.
    assert found.facts["removed"].item() == pytest.approx(float((first_three(x[:50]).argmax(1) == 1).double().mean()))
    told = found.source["criteria"]
    assert told["fidelity"]["rows"] == 50
    assert told["generalizability"]["rows"] == 250
    assert told["generalizability"]["low"] < 1 == told["generalizability"]["high"]
    by = px.explain(
        first_three,
        x[:50],
        ThreeCriteria(of="feature-ablation", criterion="generalizability"),
        data={"held_out": x[50:]},
    )
    assert by.values.item() == 1


def test_misleading_values_fail_the_first_two():
    """The inputs themselves as values, the columns that do nothing far the largest."""
    x = drawn(200, 6)
    x[:, 3:] = x[:, 3:] * 0 + 9
    wrong = px.explain(first_three, x[:80], ThreeCriteria(of=Told()), data={"held_out": x[80:]})
    # Nothing of what decides is kept, so that the answer is always the first class.
    for name, rows in (("fidelity", x[:80]), ("generalizability", x[80:])):
        share = float((first_three(rows).argmax(1) == 0).double().mean())
        assert wrong.facts[name].item() == pytest.approx(share)
    assert wrong.facts["removed"].item() == 0


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_shares_are_those_of_the_definition(share):
    net, x = Six(), drawn(19, 6, seed=5)
    method = ThreeCriteria(of="gradient-x-input", share=share, baseline=0.5)
    found = px.explain(net, x[:9], method, data={"held_out": x[9:]})
    values = px.explain(net, x[:9], "gradient-x-input").values
    count, kept, turned, held = math.ceil(share * 6), 0, 0, 0

    def answer(row, columns):
        mixed = torch.full((6,), 0.5, **DOUBLE)
        mixed[columns] = row[columns]
        with torch.no_grad():
            return int(net(mixed[None]).argmax())

    for row, own in zip(x[:9], values, strict=True):
        first = sorted(range(6), key=lambda i: -abs(float(own[i])))[:count]
        whole = answer(row, list(range(6)))
        kept += answer(row, first) == whole
        turned += answer(row, [i for i in range(6) if i not in first]) != whole
    mean = values.abs().mean(0)
    learnt = sorted(range(6), key=lambda i: -float(mean[i]))[:count]
    for row in x[9:]:
        held += answer(row, learnt) == answer(row, list(range(6)))
    assert found.facts["fidelity"].item() == pytest.approx(kept / 9)
    assert found.facts["removed"].item() == pytest.approx(turned / 9)
    assert found.facts["generalizability"].item() == pytest.approx(held / 10)


def test_a_planted_mark_overlaps_wholly_and_half_of_one_by_a_third():
    """Values of one on four pixels: a mask of just these, and one of two of them and two others (2 of 6)."""
    x = torch.zeros(2, 1, 4, 5, **DOUBLE)
    x[:, 0, 1:3, 2:4] = 1 + drawn(2, 2, 2).abs()
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1:3, 2:4] = True
    masks[1, 1:3, 3:5] = True
    x[1, 0, 1, 2] = 9  # the largest value, outside the second mask
    found = px.explain(NET, x, ThreeCriteria(of=Told(), criterion="persuasibility"), data={"masks": masks})
    assert found.values.item() == pytest.approx((1 + 2 / 6) / 2)
    assert found.facts["pointing"].item() == 0.5
    only = px.explain(NET, x[:1], ThreeCriteria(of=Told(), criterion="persuasibility"), data={"masks": masks[:1]})
    assert only.values.item() == 1


def test_rows_without_a_mark_are_left_out_of_the_overlap():
    x, masks = drawn(3, 1, 4, 4).abs(), torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0] = True
    found = px.explain(NET, x, ThreeCriteria(of=Told(), criterion="persuasibility"), data={"masks": masks})
    assert found.values.item() == 1
    assert found.source["criteria"]["persuasibility"]["rows"] == 1
    with pytest.raises(InputError, match="mark"):
        px.explain(NET, x, ThreeCriteria(of=Told()), data={"masks": masks & False})


def test_ratings_of_people_are_their_mean():
    x = drawn(3, 6)
    ratings = [[1, 2, 3], [3, 4, 5]]
    found = px.explain(Six(), x, ThreeCriteria(criterion="persuasibility"), data={"ratings": ratings})
    assert found.values.item() == 3
    assert found.unit == "rating"
    assert found.source["criteria"]["rating"]["high"] == pytest.approx(3 + 4.3027 / 3**0.5, abs=1e-3)


def test_rules_are_judged_on_rows_they_have_not_seen():
    x = drawn(400, 6)
    labels = first_three(x).argmax(1) ^ (torch.arange(400) % 10 == 0)  # every tenth label is wrong
    data = {"explanation": x[:250], "held_out": (x[300:], labels[300:])}
    found = px.explain(first_three, x[250:300], ThreeCriteria(of="cart-c45-surrogate"), data=data)
    tree = px.explain(first_three, x[250:300], "cart-c45-surrogate", data=x[:250])
    said = tree.predict(x[300:])
    assert found.facts["generalizability"].item() == pytest.approx(
        float((said == first_three(x[300:]).argmax(1)).double().mean())
    )
    assert found.facts["accuracy"].item() == pytest.approx(float((said == labels[300:]).double().mean()))
    assert found.facts["fidelity"].item() == pytest.approx(
        float((tree.predict(x[250:300]) == first_three(x[250:300]).argmax(1)).double().mean())
    )


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"criterion": "beauty"}, None, MethodError),
        ({"share": 1}, None, MethodError),
        ({"share": True}, None, MethodError),
        ({"criterion": "generalizability"}, None, NeedError),
        ({"criterion": "persuasibility"}, None, NeedError),
        ({}, {"held_out": torch.ones(2, 5)}, InputError),
        ({}, {"masks": torch.ones(1, 5)}, InputError),
        ({}, {"ratings": [1.0, 2.0]}, InputError),
        ({}, {"ratings": [math.nan]}, InputError),
        ({}, {"held_out": torch.ones(2, 6), "other": 1}, InputError),
        ({"of": "cart-c45-surrogate"}, {"masks": torch.ones(1, 6)}, MethodError),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings, data, error):
    def never(x):
        raise AssertionError("called")

    with pytest.raises(error):
        px.explain(never, drawn(1, 6), ThreeCriteria(**{"of": "feature-ablation", **settings}), data=data)


def test_features_of_each_picture_of_its_own_teach_nothing_about_others():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, **DOUBLE)).eval(), drawn(4, 1, 8, 8)
    with pytest.raises(MethodError, match="same for all rows"):
        px.explain(net, x[:2], ThreeCriteria(features=("superpixels", 4)), data={"held_out": x[2:]})
