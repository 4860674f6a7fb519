"""The five qualities side by side: each figure that of its own measurement, and an order that can be relied on."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import drawn
from pellucid.attribution import FeatureAblation, GradientXInput, ShapleySampling
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.evaluation import Consistency, Exactness, Reward, scorecard
from pellucid.evaluation.scorecard import QUALITIES, apart, figure

FEW = ("perceptron", "decision tree")
NET = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()
for k, p in enumerate(NET.parameters()):
    p.data.copy_(drawn(*p.shape, seed=k))
ROWS = drawn(8, 10, seed=9)
METHODS = {
    "exact": "shapley-value",
    "many draws": ShapleySampling(walks=32, design="plain"),
    "few draws": ShapleySampling(walks=2, design="plain"),
    "ablation": FeatureAblation(),
}


def card(methods=METHODS, **settings):
    return scorecard(NET, ROWS, methods, target=0, architectures=FEW, **settings)


@pytest.fixture(scope="module")
def found():
    return card()


def test_every_figure_is_that_of_its_own_measurement(found):
    assert found.source["panels"]["figures"] == list(QUALITIES)
    for i, method in enumerate(METHODS.values()):
        for j, metric in enumerate((Exactness(of=method), Consistency(of=method))):
            each = [px.explain(NET, ROWS, metric, target=0, seed=s).values.mean().item() for s in (0, 1)]
            assert found.values[i, j].item() == pytest.approx(sum(each) / 2, abs=1e-12)
            assert found.parts["low"][i, j] <= min(each) + 1e-12
            assert found.parts["high"][i, j] >= max(each) - 1e-12
    assert found.values[:, 2].tolist() == [1.0] * 4
    assert found.values[:, 3].tolist() == [1.0] * 4  # they ask, and need nothing else


def test_what_is_not_measured_has_its_reason(found):
    assert found.values[:, 4].isnan().all()
    reasons = found.source["panels"]["reasons"]
    assert all("no experiment" in reasons[m]["reward"] for m in METHODS)
    assert reasons["exact"]["exactness"] == "measured against exact"
    assert reasons["ablation"]["exactness"] == "measured against infidelity"
    other = card({"cam": "cam", "gradient": "vanilla-gradient"}, seeds=1)
    assert other.values[0].isnan().tolist() == [True, True, True, False, True]
    assert other.values[0, 3].item() == 0.0
    assert "maps" in other.source["panels"]["reasons"]["cam"]["exactness"]
    assert other.values[1, 3].item() == 0.5
    assert "decision tree: refused" in other.source["panels"]["reasons"]["gradient"]["universality"]


def test_the_order_is_the_same_under_other_seeds_where_intervals_are_apart(found):
    again = card(seed=50)
    sure = 0
    for j in range(len(QUALITIES)):
        for a in range(4):
            for b in range(4):
                if found.parts["apart"][j, a, b] == 1:
                    first = found.parts["order"][a, j] < found.parts["order"][b, j]
                    second = again.parts["order"][a, j] < again.parts["order"][b, j]
                    assert first == second, (QUALITIES[j], a, b)
                    sure += 1
    assert sure >= 10
    within = (again.values >= found.parts["low"] - 0.05) & (again.values <= found.parts["high"] + 0.05)
    assert within[:, :4].all()  # and figures stay about where they were
    assert found.parts["order"][:3, 0].tolist() == [1.0, 2.0, 3.0]  # more draws, less error
    assert not torch.equal(found.values, again.values)


def test_an_interval_holds_every_seed():
    rows = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.9, 0.8, 1.0])]
    mean, low, high = figure([px.Measure(values=r) for r in rows]).tolist()
    each = [0.5, 0.5, 0.65]
    middle = sum(each) / 3
    half = 4.302652729911275 * math.sqrt(sum((v - middle) ** 2 for v in each) / 2 / 3)  # t of 2 degrees
    assert mean == pytest.approx(middle)
    assert low == pytest.approx(min(middle - half, 0.2))
    assert high == pytest.approx(max(middle + half, 0.9))


def test_intervals_are_apart_where_they_do_not_meet():
    low, high = torch.tensor([0.0, 1.0, 1.5]), torch.tensor([0.5, 2.0, 3.0])
    assert apart(low, high).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_an_experiment_adds_the_reward():
    labels = NET(ROWS).argmax(1)
    line = lambda rows, said, seed: lambda z: torch.stack([-z[:, 0], z[:, 0]], 1)  # noqa: E731
    own = {"train": (ROWS, labels), "labels": labels, "recipe": line}
    found = card(["gradient-x-input"], reward=Reward(act="mask", repeats=2), reward_data=own, seeds=1)
    assert found.values[0, 4].isfinite()
    assert "reward" not in found.source["panels"]["reasons"]["gradient-x-input"]


def test_equal_explanations_beat_each_other_in_nothing():
    found = card({"one": GradientXInput(), "two": GradientXInput()}, seeds=1)
    assert found.parts["pareto"].tolist() == [1.0, 1.0]
    assert found.parts["order"][:, :4].tolist() == [[1.5] * 4] * 2


def test_it_is_drawn_told_and_saved(found, tmp_path):
    assert len(found.show().axes) == 4  # one panel for each quality that was measured
    assert "few draws: exactness" in found.describe()
    again = px.load(found.save(tmp_path / "card.safetensors"))
    assert again.source["panels"] == found.source["panels"]
    assert torch.equal(again.values[:, :4], found.values[:, :4])


@pytest.mark.parametrize(
    ("ask", "error", "word"),
    [
        (lambda: card([]), InputError, "at least one"),
        (lambda: card(seeds=0), MethodError, "seeds"),
        (lambda: card(reward="prune"), InputError, "experiment"),
        (lambda: card(["steam"]), MethodError, "method"),
    ],
)
def test_what_can_not_be_asked_is_refused(ask, error, word):
    with pytest.raises(error, match=word):
        ask()
    assert issubclass(error, PellucidError)
