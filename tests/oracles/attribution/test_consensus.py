"""Votes counted by hand, groups of slopes that are known exactly, and planted columns found by networks trained apart."""

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import DeepConsensus
from pellucid.attribution.consensus import agreed, consensus, grouped
from pellucid.contract.errors import PellucidError

DOUBLE = {"dtype": torch.float64}


class Formula(nn.Module):
    """A module that gives the scores 0 and a formula."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = self.formula(x)
        return torch.stack([torch.zeros_like(y), y], 1)


def net(formula):
    return Formula(formula).eval()


def table(rows=40, columns=4, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def two_lines(below, above, offset=100.0):
    """Slope `below` where column 0 is negative, else `above`; always the second class."""
    low, high = torch.tensor(below, **DOUBLE), torch.tensor(above, **DOUBLE)
    return net(lambda x: torch.where(x[:, 0] < 0, x @ low, x @ high) + offset)


def test_votes_by_hand():
    votes = torch.tensor([[0, 1, 2, 1, 0], [0, 1, 1, 1, 1], [0, 2, 0, 1, 2]])
    for least, expected in ((2, [0, 1, -1, 1, -1]), (3, [0, -1, -1, 1, -1])):
        winner, most = consensus(votes, least)
        assert winner.tolist() == expected
        assert most.tolist() == [3, 2, 1, 3, 1]


def test_rows_are_accepted_where_enough_networks_agree():
    nets = [net(lambda x, t=t: x[:, 0] - t) for t in (0.0, 1.0, 2.0)]  # class 1 above 0, above 1, above 2
    x = torch.tensor([[-1.0, 0], [0.5, 0], [1.5, 0], [3.0, 0]], **DOUBLE)
    data = {"rows": x, "networks": nets[1:]}
    got = px.explain(nets[0], x, DeepConsensus(), data=data, target=1)
    assert got.facts["accepted"].tolist() == [1, 0, 0, 1]
    assert got.facts["consensus"].tolist() == [0, -1, -1, 1]
    assert got.facts["votes"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1])
    assert got.facts["rejected"].tolist() == [0.5] * 4
    assert got.facts["networks"].tolist() == [3] * 4
    got = px.explain(nets[0], x, DeepConsensus(agree=2), data=data, target=1)
    assert got.facts["consensus"].tolist() == [0, 0, 1, 1]
    labels = torch.tensor([0, 0, 0, 1])
    got = px.explain(nets[0], x[:1], DeepConsensus(), data={"rows": (x, labels), "networks": nets[1:]}, target=1)
    assert got.facts["accuracy"].tolist() == [0.5]
    assert got.facts["accuracy_accepted"].tolist() == [1.0]


def test_groups_that_are_known():
    slopes = torch.tensor([[3.0, 0.0]] * 3 + [[0.0, -1.0]] * 5, **DOUBLE)
    length = (sum([9.0] * 3 + [1.0] * 5) / 8) ** 0.5
    means, size = grouped(slopes, 3)  # no more groups than there are different slopes
    torch.testing.assert_close(means, torch.tensor([[0.0, -1.0], [3.0, 0.0]], **DOUBLE) / length, rtol=0, atol=1e-6)
    assert size.tolist() == [5 / 8, 3 / 8]
    one, size = grouped(slopes[:3] + 1e-12 * torch.rand(3, 2, **DOUBLE), 3)
    assert (len(one), size.tolist()) == (1, [1.0])
    assert not grouped(0 * slopes, 3)[0].any()


def test_what_networks_have_in_common_by_hand():
    x = table()
    nets = [
        two_lines([0, 3, 0, 0], [0, 0, 2, 0]),
        two_lines([0, 6, 0, 0], [0, 0, 4, 0]),  # the same at twice the scale
        two_lines([0, 0, 0, 5], [0, 0, 5, 0]),  # goes another way where column 0 is negative
    ]
    data, below = {"rows": x, "networks": nets[1:]}, float((x[:, 0] < 0).double().mean())
    got = px.explain(nets[0], x[:2], DeepConsensus(), data=data, target=1)
    assert torch.allclose(got.values, torch.tensor([0.0, 0, 1, 0], **DOUBLE))  # all three agree on column 2 alone
    assert got.facts["agreed"][0] == pytest.approx(1 - below)
    got = px.explain(nets[0], x[:2], DeepConsensus(agree=2), data=data, target=1)
    scale = (9 * below + 4 * (1 - below)) ** 0.5  # of the first two networks' gradients
    one, two = below * 3 / scale, (1 - below) * (2 * 2 / scale + 1) / 3
    expected = torch.tensor([0, one, two, 0], **DOUBLE) / (one + two)
    torch.testing.assert_close(got.values[0], expected, rtol=0, atol=1e-5)
    each = torch.tensor([0, one, (1 - below) * 2 / scale, 0], **DOUBLE)
    each = torch.stack([each / each.sum(), each / each.sum(), torch.tensor([0.0, 0, 1, 0], **DOUBLE)])
    torch.testing.assert_close(got.parts["networks"][0], each, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.error[0], each.std(0) / 3**0.5, rtol=0, atol=1e-5)
    assert got.facts["agreed"][0] == 1
    order = [below, 1 - below] if below > 0.5 else [1 - below, below]
    assert got.parts["size"][0].tolist() == pytest.approx([*order, 0])


def test_opposite_slopes_do_not_agree():
    means = torch.tensor([[1.0, 0.0]], **DOUBLE)
    found = agreed([(means, torch.ones(1, **DOUBLE)), (-means, torch.ones(1, **DOUBLE))], 2, 0.0, 1)
    assert found["partner"].tolist() == [[1.0, -1.0]]
    assert not found["values"].any()
    assert found["agreed"] == 0


def test_a_model_by_itself_and_deviations():
    x = table() * torch.tensor([1.0, 10.0, 1.0, 0.0], **DOUBLE)
    model = net(lambda t: t[:, 0] - t[:, 1] + 5 * t[:, 3])
    got = px.explain(model, x[:1], DeepConsensus(), data=x, target=1)
    torch.testing.assert_close(got.values[0], torch.tensor([1, 1, 0, 5.0], **DOUBLE) / 7, rtol=0, atol=1e-5)
    assert got.error is None
    assert got.parts["mean"][0, 0, 1] < 0
    got = px.explain(model, x[:1], DeepConsensus(per="deviation"), data=x, target=1)
    spread = x.std(0, correction=0) * torch.tensor([1.0, 1.0, 0.0, 5.0], **DOUBLE)
    torch.testing.assert_close(got.values[0], spread / spread.sum(), rtol=0, atol=1e-5)


def test_each_class_that_is_asked_about_by_itself():
    x = table()
    model = nn.Linear(4, 3).double().eval()
    got = px.explain(model, x[:3], DeepConsensus(), data=x, target=[2, 0, 2])
    for row, label in enumerate([2, 0, 2]):
        w = model.weight[label].detach().abs()
        torch.testing.assert_close(got.values[row], w / w.sum(), rtol=0, atol=1e-5)


def trained(x, y, number):
    with torch.random.fork_rng():
        torch.manual_seed(number)
        model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.Tanh(), nn.Linear(16, 2)).double()
    # Plain descent: Adam would move the weights of columns that hardly vary as much as any, the same way in all networks.
    step = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(100):
        step.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step.step()
    return model.eval()


def test_planted_columns_and_noise():
    # Columns 0 and 1 decide, and no row is near the boundary; the others vary little, so that training leaves the
    # networks' slopes along them as they were drawn. Noise is so large in these others that it alone decides: networks
    # drawn apart then vote like coins, five of which fall alike once in 16 times.
    def rows(seed):
        x = table(200, 30, seed)
        x[:, 2:] *= 0.05
        return x[(x[:, 0] + x[:, 1]).abs() > 0.5]

    train, test, noise = rows(0), rows(1), rows(2)
    noise[:, 2:] *= 10_000
    labels = (train[:, 0] + train[:, 1] > 0).long()
    for start in (10, 20):
        nets = [trained(train, labels, start + k) for k in range(5)]
        data = {"rows": train, "networks": nets[1:]}
        method = DeepConsensus(clusters=2)
        got, far = (px.explain(nets[0], x, method, data=data, target=1) for x in (test, noise))
        assert got.facts["accepted"].mean() > 0.95
        assert far.facts["accepted"].mean() < 0.2
        assert set(got.values[0].topk(2).indices.tolist()) == {0, 1}
        assert got.facts["agreed"][0] == 1


@pytest.mark.parametrize(
    ("method", "extra", "word"),
    [
        (DeepConsensus(clusters=0), {}, "'clusters'"),
        (DeepConsensus(correlation=2), {}, "'correlation'"),
        (DeepConsensus(per="row"), {}, "'per'"),
        (DeepConsensus(agree=1), {}, "'agree'"),
        (DeepConsensus(agree=4), {}, "'agree'"),
        (DeepConsensus(), {"networks": []}, "'networks'"),
        (DeepConsensus(), {"networks": [lambda x: x]}, "'networks'"),
        (DeepConsensus(), {"more": 1}, "'rows' and 'networks'"),
        (DeepConsensus(), {"networks": [nn.Linear(4, 2)]}, "evaluation mode"),
    ],
)
def test_refused_before_the_model_runs(method, extra, word):
    model, others = net(lambda x: x[:, 0]), [net(lambda x: x[:, 1]) for _ in range(2)]
    with pytest.raises(PellucidError, match=word):
        px.explain(model, table()[:2], method, data={"rows": table(), "networks": others, **extra})
    assert model.calls == 0


def test_networks_must_have_the_same_classes_and_agree_somewhere():
    x, model = table(), net(lambda t: 1 + 0 * t[:, 0])
    other = nn.Linear(4, 3).double().eval()
    with pytest.raises(PellucidError, match="2 classes"):
        px.explain(model, x[:1], DeepConsensus(), data={"rows": x, "networks": [other]})
    with pytest.raises(PellucidError, match="agree on some rows"):
        px.explain(model, x[:1], DeepConsensus(), data={"rows": x, "networks": [net(lambda t: -1 + 0 * t[:, 0])]})
    with pytest.raises(PellucidError, match="several classes"):
        px.explain(nn.Linear(4, 1).double().eval(), x[:1], DeepConsensus(), data=x)
