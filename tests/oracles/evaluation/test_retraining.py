"""Training on permuted labels: recipes whose networks are known, and digits learnt by heart."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import pellucid as px
from pellucid import zoo
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import seed as seeds
from pellucid.evaluation import DataRandomisationTest

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


X, Y = drawn(10, 12, seed=5), torch.arange(10) % 2


def solved(inputs, labels, seed=0):
    """The linear network that answers these labels exactly: fewer rows than columns, so least squares has no error."""
    net = nn.Linear(12, 2, bias=False, **DOUBLE)
    wanted = nn.functional.one_hot(labels, 2).double()
    net.weight.data = torch.linalg.lstsq(inputs, wanted).solution.T.contiguous()
    return net.eval()


def test_values_compare_with_networks_solved_for_permuted_labels():
    net, asked = solved(X, Y), []

    def recipe(inputs, labels, seed):
        asked.append((labels, seed))
        return solved(inputs, labels)

    method = DataRandomisationTest(of="vanilla-gradient", draws=3)
    found = px.explain(net, X[:4], method, data={"rows": (X, Y), "recipe": recipe}, seed=7, target=1)
    assert len(asked) == 4
    each = []
    for draw, (labels, seed) in enumerate(asked[:3]):
        order = torch.from_numpy(seeds.generator(7, b"labels", draw).permutation(10))
        assert torch.equal(labels, Y[order])
        assert seed == 7
        each.append(stats.spearmanr(net.weight[1].detach(), solved(X, Y[order]).weight[1].detach())[0])
    assert torch.equal(asked[3][0], Y)
    assert found.values.tolist() == pytest.approx([sum(each) / 3] * 4, abs=1e-9)
    spread = torch.tensor(each).double().std().item() / math.sqrt(3)
    assert found.facts["error"].tolist() == pytest.approx([spread] * 4, abs=1e-6)
    assert found.facts["retrained"].tolist() == pytest.approx([1] * 4)  # the same labels give the same network
    assert found.parts["accuracy"].tolist() == [1] * 4


def test_the_same_network_gives_one():
    net = solved(X, Y)
    found = px.explain(
        net,
        X[:2],
        DataRandomisationTest(of="vanilla-gradient", least=0),
        data={"rows": (X, Y), "recipe": lambda *_: net},
    )
    assert found.values.tolist() == pytest.approx([1, 1])
    assert found.facts["fails"].tolist() == [1, 1]


def test_without_the_labels_by_heart_the_test_is_void():
    net = solved(X, Y)
    with pytest.raises(NeedError, match="void"):
        px.explain(net, X[:2], DataRandomisationTest(), data={"rows": (X, Y), "recipe": lambda *_: net})
    small = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2)).double().eval()
    rows = drawn(40, 2, seed=3)
    with pytest.raises(NeedError, match="void"):
        px.explain(small, rows[:2], DataRandomisationTest(epochs=3), data=(rows, torch.arange(40) % 2))


def test_digits_learnt_by_heart():
    """The source's result on 100 digits: gradients forget what the labels said, and edges do not depend on them."""
    net, (x, y) = zoo.load("digits-cnn"), zoo.data("digits-cnn").train
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, y, state = x[:100], y[:100], torch.get_rng_state()
    found = px.explain(net, x[:8], DataRandomisationTest(of="vanilla-gradient"), data=(x, y))
    assert bool((found.parts["accuracy"] > 0.95).all())
    assert found.values.abs().mean() < 0.2
    assert found.facts["fails"].sum() == 0
    assert found.facts["retrained"].mean() > found.values.mean() + 0.1
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    edges = px.explain(net, x[:2], DataRandomisationTest(of="edge-detector", least=0, epochs=1), data=(x, y))
    assert edges.values.tolist() == pytest.approx([1, 1])


def test_one_score_is_learnt_as_two_classes():
    net = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0)).double().eval()
    found = px.explain(net, X[:2], DataRandomisationTest(of="vanilla-gradient"), data=(X, Y))
    assert bool((found.parts["accuracy"] > 0.95).all())


@pytest.mark.parametrize("settings", [{"draws": 0}, {"epochs": 0}, {"least": 1.5}, {"limit": "high"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(MethodError):
        px.explain(solved(X, Y), X[:1], DataRandomisationTest(**settings), data=(X, Y))


def test_bad_data_are_refused():
    net = solved(X, Y)
    for data in ((X, Y.double()), (X, torch.zeros(10).long()), {"rows": (X, Y), "recipe": 3}, {"recipe": solved}):
        with pytest.raises(InputError):
            px.explain(net, X[:1], "data-randomization-test", data=data)
    with pytest.raises(NeedError, match="labels"):
        px.explain(net, X[:1], "data-randomization-test", data=X)
    with pytest.raises(InputError, match="classes"):
        px.explain(net, X[:1], "data-randomization-test", data=(X, torch.arange(10)))
