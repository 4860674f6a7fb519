"""Columns that act through others: tables worked out by hand, planted proxies, closed forms of linear scores."""

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.attribution import IndirectInfluence, OrthogonalProjection
from pellucid.attribution.indirect_influence import grouped, obscured, projected, repaired, told
from pellucid.contract.errors import PellucidError

DOUBLE = {"dtype": torch.float64}


def planted(rows=400, seed=0):
    """A protected group, a district that gives it away nine times in ten, and noise."""
    made = torch.Generator().manual_seed(seed)
    group = (torch.rand(rows, generator=made) < 0.5).double()
    same = torch.rand(rows, generator=made) < 0.9
    district = torch.where(same, group, 1 - group)
    noise = torch.randn(rows, generator=made, **DOUBLE)
    return torch.stack([group, district, noise], 1)


def reads_district(x):
    """A model that never looks at the group: yes where the district is 1 and the noise not very low."""
    return torch.stack([torch.zeros(len(x), **DOUBLE), x[:, 1] - 0.5 + 0.1 * x[:, 2]], 1)


def test_two_groups_by_hand():
    x = torch.tensor([1.0, 11.0, 3.0, 12.0, 2.0, 16.0], **DOUBLE)
    group = torch.tensor([0, 1, 0, 1, 0, 1])
    # Both groups' smallest become (1 + 11) / 2, their middle ones (2 + 12) / 2, their largest (3 + 16) / 2.
    assert repaired(x, group, False, torch.zeros(6)).tolist() == [6, 6, 9.5, 7, 7, 9.5]
    table = torch.stack([group.double() * 3, x], 1)
    half = obscured(table, 0, group, 10, 0.5, torch.zeros(6))
    assert half[:, 0].tolist() == [0, 1.5, 0, 1.5, 0, 1.5]  # half way to 0, the lower middle one of 0 and 3


def test_three_groups_take_the_middle_one():
    x = torch.tensor([1.0, 2.0, 50.0, 60.0, 7.0, 8.0], **DOUBLE)
    assert repaired(x, torch.tensor([0, 0, 1, 1, 2, 2]), False, torch.zeros(6)).tolist() == [7, 8, 7, 8, 7, 8]


def test_flags_become_equally_frequent_and_stay_flags():
    # 80 % of one group and 20 % of the other are 1; afterwards half of each.
    x = torch.tensor([1.0] * 8 + [0.0] * 2 + [1.0] * 2 + [0.0] * 8, **DOUBLE)
    group = torch.tensor([0] * 10 + [1] * 10)
    found = repaired(x, group, True, torch.rand(20, generator=torch.Generator().manual_seed(0)))
    assert set(found.tolist()) == {0.0, 1.0}
    assert found[:10].sum() == found[10:].sum() == 5


def test_repaired_groups_have_the_same_distribution_whatever_it_was():
    made = torch.Generator().manual_seed(1)
    table = torch.randn(90, 3, generator=made, **DOUBLE).exp()
    group = torch.arange(90) % 3
    table[:, 1] += 5 * group
    table[:, 2] *= 1 + group
    found = obscured(table, 0, group, 5, 1.0, torch.zeros(90))
    for k in (1, 2):
        ordered = [found[group == g, k].sort().values for g in range(3)]
        assert torch.equal(ordered[0], ordered[1])
        assert torch.equal(ordered[0], ordered[2])
        own = [torch.equal(table[group == g, k].argsort(), found[group == g, k].argsort()) for g in range(3)]
        assert all(own)  # the order within a group stays


def test_groups_of_a_column():
    assert grouped(torch.tensor([5.0, 1.0, 5.0, 9.0]), 4).tolist() == [1, 0, 1, 2]
    many = grouped(torch.arange(40.0).flip(0), 4)
    assert many.bincount().tolist() == [10, 10, 10, 10]
    assert many[0] == 3
    tied = torch.tensor([0.0] * 30 + list(range(1, 11)))
    assert len(grouped(tied, 4)[:30].unique()) == 1


@pytest.mark.parametrize("measure", ["accuracy", "consistency"])
def test_a_proxy_tells_what_leaving_the_column_out_misses(measure):
    table = planted()
    labels = (reads_district(table)[:, 1] > 0).long()
    got = px.explain(reads_district, table[:2], IndirectInfluence(measure=measure), data=(table, labels))
    group, district, noise = got.values[0].tolist()
    assert got.parts["direct"][0, 0] == 0
    assert group > 0.3
    assert district > 0.3
    assert noise < 0.1
    # After repair nothing tells the group: its error rate is that of guessing. Before, the district did.
    assert got.parts["ber_before"][0, 0] < 0.2
    assert abs(float(got.parts["ber"][0, 0]) - 0.5) < 0.1
    assert got.parts["chance"][0].tolist() == pytest.approx([0.5, 0.5, 0.9])
    assert torch.equal(got.values[0], got.values[1])


def test_figures_by_counting():
    table = planted(60, seed=3)
    method = IndirectInfluence(groups=4)
    got = px.explain(reads_district, table[:1], method, data=table, seed=7)
    from pellucid.engine import seed

    for j in range(3):
        ties = torch.from_numpy(seed.generator(0, b"ties", j).random(60))
        hidden = obscured(table, j, grouped(table[:, j], 4), 4, 1.0, ties)
        before, after = reads_district(table).argmax(1), reads_district(hidden).argmax(1)
        changed = [int(a) != int(b) for a, b in zip(before, after, strict=True)]
        share = sum(changed) / 60
        assert got.values[0, j] == pytest.approx(share, abs=1e-12)
        assert got.error[0, j] == pytest.approx((share * (1 - share) / 59) ** 0.5, abs=1e-12)


def test_accuracy_can_rise():
    table = planted(200)
    labels = (reads_district(table)[:, 1] <= 0).long()  # always the opposite
    got = px.explain(reads_district, table[:1], IndirectInfluence(measure="accuracy"), data=(table, labels))
    assert got.values[0, 1] < -0.3


def test_no_repair_changes_nothing_and_a_column_alone_in_its_table():
    table = planted(100)
    got = px.explain(reads_district, table[:1], IndirectInfluence(repair=0.0), data=table)
    assert not got.values.any()
    one = px.explain(lambda x: torch.cat([-x, x], 1), table[:1, 2:], IndirectInfluence(), data=table[:, 2:])
    assert torch.equal(one.values, one.parts["direct"].to(one.values))


def test_scores_of_several_classes_move_each_by_itself():
    table = planted(100)
    model = lambda x: torch.stack([3 * x[:, 1], x[:, 2]], 1)  # noqa: E731
    got = px.explain(model, table[:2], IndirectInfluence(measure="score"), target=[0, 1], data=table)
    ties = torch.zeros(100)
    hidden = obscured(table, 2, grouped(table[:, 2], 10), 10, 1.0, ties)
    for row in (0, 1):
        moved = (model(table) - model(hidden))[:, row].square().mean().sqrt()
        if row == 1:
            assert got.values[row, 2] == pytest.approx(float(moved))
    assert got.parts["direct"][0].tolist()[0::2] == [0, 0]


def test_a_constant_column_owes_nothing():
    table = torch.cat([planted(50), torch.full((50, 1), 4.0, **DOUBLE)], 1)
    got = px.explain(reads_district, table[:1], IndirectInfluence(), data=table)
    assert got.values[0, 3] == 0
    assert got.parts["chance"][0, 3] == 0
    line = px.explain(reads_district, table[:1], OrthogonalProjection(), data=table)
    assert line.values[0, 3] == 0


def test_the_tree_is_at_chance_on_noise_and_right_on_a_copy():
    group = torch.arange(200) % 2
    noise = torch.rand(200, 1, generator=torch.Generator().manual_seed(2), **DOUBLE)
    assert told(torch.cat([group[:, None].double(), group[:, None].double()], 1), 0, group) == 0
    assert abs(told(torch.cat([group[:, None].double(), noise], 1), 0, group) - 0.5) < 0.12


# --- orthogonal projection --------------------------------------------------------------------------------------------


def correlated_table(rows=80, seed=4):
    made = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, 4, generator=made, **DOUBLE)
    return torch.randn(rows, 4, generator=made, **DOUBLE) @ mix + torch.arange(4.0, **DOUBLE)


def test_linear_scores_in_closed_form():
    table = correlated_table()
    weight = torch.tensor([2.0, 0.0, -1.0, 0.5], **DOUBLE)
    got = px.explain(lambda x: (x @ weight + 3)[:, None], table[:2], OrthogonalProjection(), data=table)
    covariance = np.cov(table.T.numpy(), bias=True)
    for j in range(4):
        whole = sum(float(weight[k]) * covariance[k, j] / covariance[j, j] for k in range(4))
        spread = covariance[j, j] ** 0.5
        assert got.parts["slope"][0, j] == pytest.approx(whole, abs=1e-10)
        assert got.values[0, j] == pytest.approx(abs(whole) * spread, abs=1e-10)
        assert got.parts["direct"][0, j] == pytest.approx(abs(float(weight[j])) * spread, abs=1e-10)
    assert got.facts["left_over"].max() < 1e-12


def test_no_correlation_is_left():
    table = correlated_table()
    for degree in (1, 3):
        rest = projected(table, 1, degree, torch.full((80,), 1 / 80, **DOUBLE))
        for k in (0, 2, 3):
            for power in range(1, degree + 1):
                r = np.corrcoef(rest[:, k], (table[:, 1] - table[:, 1].mean()) ** power)[0, 1]
                assert abs(r) < 1e-9
        np.testing.assert_allclose(rest.mean(0), table.mean(0), atol=1e-12)
        assert (rest[:, 1] == rest[0, 1]).all()


def test_a_parabola_is_seen_at_degree_two_alone():
    x = torch.linspace(-1, 1, 41, **DOUBLE)
    table = torch.stack([x, x**2], 1)
    model = lambda t: t[:, 1:]  # noqa: E731
    first, second = (px.explain(model, table[:1], OrthogonalProjection(degree=d), data=table) for d in (1, 2))
    assert first.values[0, 0] < 1e-12
    assert second.values[0, 0] == pytest.approx(float((x**2).std(correction=0)), abs=1e-12)


def test_weights_are_repeated_rows():
    table = correlated_table(20)
    model = lambda x: torch.tanh(x[:, :1] - x[:, 1:2])  # noqa: E731
    times = torch.arange(20) % 3 + 1
    weighted = px.explain(model, table[:1], OrthogonalProjection(), data={"rows": table, "weights": times})
    repeated = px.explain(model, table[:1], OrthogonalProjection(), data=table.repeat_interleave(times, 0))
    torch.testing.assert_close(weighted.values, repeated.values, rtol=0, atol=1e-10)
    torch.testing.assert_close(weighted.parts["slope"], repeated.parts["slope"], rtol=0, atol=1e-10)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Counting:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return x[:, :2]


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (IndirectInfluence(measure="auc"), "'measure'"),
        (IndirectInfluence(measure="accuracy"), "labels"),
        (IndirectInfluence(groups=1), "'groups'"),
        (IndirectInfluence(repair=1.5), "'repair'"),
        (OrthogonalProjection(degree=0), "'degree'"),
        (OrthogonalProjection(degree=2.0), "'degree'"),
    ],
)
def test_refused_before_the_model_runs(method, word):
    model, table = Counting(), planted(20)
    with pytest.raises(PellucidError, match=word):
        px.explain(model, table[:2], method, data=table)
    assert model.calls == 0


def test_classes_need_more_than_one_score():
    table = planted(20)
    with pytest.raises(PellucidError, match="measure='score'"):
        px.explain(lambda x: x[:, :1], table[:2], IndirectInfluence(), data=table)
