"""STREAK against every subset, a loop that reads like the paper's algorithm, and sums worked out by hand."""

import itertools
import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import Streak
from pellucid.contract.errors import InputError, MethodError, NumericalError, PellucidError, TargetError

DOUBLE = {"dtype": torch.float64}
PLAYERS = 10


class Cover(nn.Module):
    """Weighted coverage, a submodular game: each column shows some of the items, and an item counts once."""

    def __init__(self, seed, classes=1):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.shows = nn.Parameter((torch.rand(PLAYERS, 14, generator=draw) < 0.3).double(), requires_grad=False)
        self.weight = nn.Parameter(torch.rand(14, generator=draw, **DOUBLE), requires_grad=False)

    def forward(self, x):
        return ((x @ self.shows > 0).double() @ self.weight)[:, None]

    def of(self, parts):
        shown = {i for p in parts for i in range(14) if self.shows[p, i] > 0}
        return sum(self.weight[i].item() for i in shown)


def exhaustive(game, size):
    return max(game.of(parts) for parts in itertools.combinations(range(PLAYERS), size))


def whole(rows=1):
    return torch.ones(rows, PLAYERS, **DOUBLE)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [2, 4])
def test_both_ways_are_within_their_bounds_of_the_best_subset(seed, size):
    game = Cover(seed).eval()
    best = exhaustive(game, size)
    greedy = px.explain(game, whole(), Streak(parts=size, way="greedy")).facts["kept_score"].item()
    assert greedy >= (1 - 1 / math.e) * best - 1e-12
    assert greedy <= best + 1e-12
    for epsilon in (0.1, 0.5):
        found = px.explain(game, whole(), Streak(parts=size, epsilon=epsilon), seed=seed)
        kept = found.facts["kept_score"].item()
        assert (1 - epsilon) / 2 * best - 1e-12 <= kept <= best + 1e-12
        chosen = [p for p in found.parts["order"][0].tolist() if p >= 0]
        assert kept == pytest.approx(game.of(chosen))
        assert found.values.sum().item() == pytest.approx(kept)
        assert len(chosen) <= size


@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_naive_loop(seed):
    game = Cover(seed).eval()
    result = px.explain(game, whole(2), Streak(parts=4, way="greedy"))
    taken: list[int] = []
    for _ in range(4):
        gains = [game.of([*taken, p]) - game.of(taken) if p not in taken else -1 for p in range(PLAYERS)]
        if max(gains) <= 1e-12:
            break
        taken.append(gains.index(max(gains)))
        assert result.values[1, taken[-1]].item() == pytest.approx(max(gains))
    assert [p for p in result.parts["order"][0].tolist() if p >= 0] == taken


def threshold_greedy(game, stream, tau, size):
    """Algorithm 1 of the paper: take what adds at least τ / k."""
    held: list[int] = []
    for part in stream:
        if len(held) < size and game.of([*held, part]) - game.of(held) >= tau / size:
            held.append(part)
    return held


@pytest.mark.parametrize("seed", range(4))
def test_streaming_equals_threshold_greedy_at_every_guess(seed):
    """Guesses that start late have missed only parts that they would have refused: the game is submodular."""
    game, x, size, epsilon = Cover(seed).eval(), whole(), 3, 0.2
    result = px.explain(game, x, Streak(parts=size, epsilon=epsilon), seed=seed)
    stream = result.parts["met"][0].tolist()
    assert sorted(stream) == list(range(PLAYERS))
    largest = max(game.of([p]) for p in stream)
    worths = [largest]
    for i in range(-60, 120):
        tau = (1 - epsilon) ** i
        if (1 - epsilon) * largest / (9 * math.e**3 * size) <= tau <= size * largest:
            worths.append(game.of(threshold_greedy(game, stream, tau, size)))
    assert result.facts["kept_score"].item() == pytest.approx(max(worths))


@pytest.mark.parametrize("way", ["streaming", "greedy"])
def test_every_call_is_counted_and_they_are_fewer_than_limes(way):
    game, calls = Cover(3).eval(), []

    def model(x):
        calls.append(len(x))
        return game(x)

    result = px.explain(model, whole(), Streak(parts=4, way=way))
    # one more is that of the whole input, and the first of each batch runs twice where the size of a job is measured
    assert sum(calls) - calls.count(1) <= result.facts["model_calls"].item() + 1 <= sum(calls)
    assert result.facts["model_calls"].item() < 200


def test_the_objective_is_the_log_probability_of_the_explained_class():
    net = nn.Linear(6, 3, **DOUBLE).eval()
    net.weight.data = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), **DOUBLE)
    x = torch.ones(2, 6, **DOUBLE)
    result = px.explain(net, x, Streak(parts=2, way="greedy"), target=1)

    def objective(parts):
        shown = torch.zeros(1, 6, **DOUBLE)
        shown[0, list(parts)] = 1.0
        return math.log(net(shown).softmax(1)[0, 1].item())

    first = max(range(6), key=lambda p: objective([p]))
    second = max((p for p in range(6) if p != first), key=lambda p: objective([first, p]))
    assert result.parts["order"][0].tolist() == [first, second]
    assert result.values[0, first].item() == pytest.approx(objective([first]) - objective([]))
    assert result.facts["kept_score"][1].item() == pytest.approx(objective([first, second]))
    assert result.facts["score"][0].item() == pytest.approx(objective(range(6)))
    shares = px.explain(lambda z: net(z).softmax(1), x, Streak(parts=2, way="greedy"), target=1)
    assert torch.allclose(shares.values, result.values, atol=1e-10)
    plain = px.explain(net, x, Streak(parts=2, way="greedy", objective="score"), target=1)
    assert set(plain.parts["order"][0].tolist()) == set(net.weight[1].topk(2).indices.tolist())


@pytest.mark.parametrize("way", ["streaming", "greedy"])
def test_nothing_is_chosen_where_nothing_adds(way):
    result = px.explain(lambda x: -x.sum(1, keepdim=True), whole(), Streak(way=way))
    assert result.values.abs().max() == 0
    assert result.facts["kept"].item() == 0
    assert bool((result.parts["order"] == -1).all())


def test_the_planted_object_is_found_among_superpixels():
    image = torch.zeros(1, 3, 24, 24, **DOUBLE)
    image[:, 0, :, 12:] = 1.0

    class Right(nn.Module):
        def forward(self, x):
            red = x[:, 0, 6:18, 12:].mean((1, 2))
            return torch.stack([8 * red - 4, 4 - 8 * red], 1)

    result = px.explain(Right().eval(), image, Streak(features=("superpixels", 8), parts=3), target=0)
    assert result.values[0, :, :, :12].abs().max() == 0
    assert result.facts["kept_score"].item() > result.facts["empty_score"].item() + 3


def test_answers_that_are_not_finite_are_never_taken():
    def model(x):
        return torch.where(x[:, :1] == 1, torch.nan, x.sum(1, keepdim=True)).where(x.sum(1, keepdim=True) < 9.5, 5.0)

    for way in ("streaming", "greedy"):
        result = px.explain(model, whole(), Streak(way=way, parts=3))
        assert result.values[0, 0] == 0
        assert result.facts["kept_score"].item() == pytest.approx(3)
        assert result.facts["unanswered"].item() > 0
    with pytest.raises(NumericalError, match="no part"):
        px.explain(lambda x: torch.log(x.sum(1, keepdim=True)), whole(), Streak(way="greedy"))


@pytest.mark.parametrize(
    "settings",
    [
        {"parts": 0},
        {"parts": True},
        {"way": "lazy"},
        {"epsilon": 0.0},
        {"epsilon": 1.0},
        {"objective": "loss"},
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(settings):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises((MethodError, InputError)) as caught:
        px.explain(model, torch.ones(1, 12), Streak(**settings))
    assert isinstance(caught.value, PellucidError)


def test_the_log_probability_of_a_single_score_is_refused():
    with pytest.raises(TargetError, match="log-probability"):
        px.explain(Cover(0).eval(), whole(), Streak(objective="log-probability"))
