"""The games world: closed forms against brute force over all orders and coalitions, and against published values."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest
import torch

from pellucid.contract.errors import InputError
from pellucid.worlds import games

EXAMPLES = games.examples()
PINNED = [0.726326, 0.040554, -0.001323]
BY_TITLE = [f"{game.title}-{game.players}" for game in EXAMPLES]
every = pytest.mark.parametrize("game", EXAMPLES, ids=BY_TITLE)


def over_permutations(game: games.Game) -> torch.Tensor:
    """The definition: the mean of what each player adds on arrival, over all orders of arrival."""
    shares = torch.zeros(game.players, dtype=torch.float64)
    orders = list(itertools.permutations(range(game.players)))
    for order in orders:
        for place, player in enumerate(order):
            shares[player] += game.worth(order[: place + 1]) - game.worth(order[:place])
    return shares / len(orders)


def coalitions(players: list[int]) -> list[tuple[int, ...]]:
    return [found for size in range(len(players) + 1) for found in itertools.combinations(players, size)]


@every
def test_shapley_values_are_means_over_permutations(game: games.Game) -> None:
    torch.testing.assert_close(game.shapley, over_permutations(game), rtol=0, atol=1e-12)


@every
def test_banzhaf_values_are_means_over_coalitions(game: games.Game) -> None:
    for i in range(game.players):
        others = coalitions([j for j in range(game.players) if j != i])
        gains = [game.worth((*group, i)) - game.worth(group) for group in others]
        assert game.banzhaf[i].item() == pytest.approx(sum(gains) / len(gains), abs=1e-12)


@every
def test_interactions_are_means_over_orders_of_the_pair_as_one(game: games.Game) -> None:
    n = game.players
    for i, j in itertools.combinations(range(n), 2):
        total = 0.0
        for group in coalitions([k for k in range(n) if k not in (i, j)]):
            weight = math.factorial(len(group)) * math.factorial(n - len(group) - 2) / math.factorial(n - 1)
            both, one, other = game.worth((*group, i, j)), game.worth((*group, i)), game.worth((*group, j))
            total += weight * (both - one - other + game.worth(group))
        assert game.interactions[i, j].item() == pytest.approx(total, abs=1e-12)
        assert game.interactions[i, j] == game.interactions[j, i]
    assert (game.interactions.diagonal() == 0).all()


@every
def test_shares_sum_to_the_worth_of_all(game: games.Game) -> None:
    assert game.shapley.sum().item() == pytest.approx(game.worth(range(game.players)) - game.worth(()), abs=1e-12)


@every
def test_fractions_give_the_expected_worth(game: games.Game) -> None:
    chances = torch.linspace(0.1, 0.8, game.players, dtype=torch.float64)
    expected = 0.0
    for group in coalitions(list(range(game.players))):
        here = torch.zeros(game.players).scatter(0, torch.tensor(group, dtype=torch.long), 1.0).bool()
        expected += game.worth(group) * float(torch.where(here, chances, 1 - chances).prod())
    assert game(chances[None]).item() == pytest.approx(expected, abs=1e-12)


@every
def test_gradients_along_the_diagonal_average_to_shapley_values(game: games.Game) -> None:
    """Owen 1972: the integral of the multilinear extension's gradient from nobody to everybody; a polynomial."""
    points, weights = torch.tensor([[-1, 0, 1]]).double() * math.sqrt(0.6), torch.tensor([5, 8, 5]).double() / 18
    points = (points + 1) / 2
    halves = torch.cat([(points[0] + k) / 4 for k in range(4)])  # four panels of three nodes: exact up to degree 5
    presence = halves[:, None].repeat(1, game.players).requires_grad_()
    (slopes,) = torch.autograd.grad(game(presence).sum(), presence)
    torch.testing.assert_close((weights.repeat(4) / 4) @ slopes, game.shapley, rtol=0, atol=1e-9)


def test_worths_are_those_of_the_stories() -> None:
    assert games.additive([1.0, -2.0, 0.5]).worth([0, 2]) == 1.5
    assert [games.unanimity(4, [1, 3], 2.0).worth(group) for group in ([1], [1, 3], [0, 2, 3])] == [0.0, 2.0, 0.0]
    assert [games.airport([1.0, 4.0, 9.0]).worth(group) for group in ([], [0, 1], [2, 0])] == [0.0, 4.0, 9.0]
    assert [games.glove(2, 3).worth(group) for group in ([0, 1], [0, 2], [0, 1, 2, 3, 4])] == [0.0, 1.0, 2.0]
    assert [games.majority([4, 3, 2, 1], 6).worth(group) for group in ([0, 3], [0, 2], [1, 2, 3])] == [0.0, 1.0, 1.0]
    assert games.symmetric([0.5, 0.0, 3.0]).worth([1]) == 0.0
    council = games.security_council()
    assert council.worth([0, 1, 2, 3, 4, 5, 6, 7, 8]) == 1.0
    assert council.worth([0, 1, 2, 3, 4, 5, 6, 7]) == 0.0
    assert council.worth([0, 1, 2, 3, *range(5, 15)]) == 0.0


def test_published_values() -> None:
    council = games.security_council()
    torch.testing.assert_close(council.shapley, torch.tensor([421.0] * 5 + [4.0] * 10).double() / 2145)
    assert council.interactions[0, 1] > 0  # permanent members need each other
    thirds = games.glove(left=1, right=2).shapley
    torch.testing.assert_close(thirds, torch.tensor([4.0, 1.0, 1.0]).double() / 6)
    runway = games.airport([1.0, 2.0, 3.0]).shapley  # the first third by all, the next by two, the last by one
    torch.testing.assert_close(runway, torch.tensor([1 / 3, 5 / 6, 11 / 6]).double())
    torch.testing.assert_close(
        games.majority([4, 3, 2, 1], 6).shapley, torch.tensor([5.0, 3.0, 3.0, 1.0]).double() / 12
    )


def test_players_that_bring_nothing_or_the_same() -> None:
    assert games.airport([1.0, 4.0, 0.0]).shapley[2] == 0
    assert games.unanimity(5, [0, 2]).shapley[[1, 3, 4]].tolist() == [0.0, 0.0, 0.0]
    assert games.majority([2, 2, 1], 3).shapley.tolist() == pytest.approx([1 / 3] * 3)
    assert games.synergies(6, order=1).interactions.abs().max() == 0


def test_synergies_follow_the_seed() -> None:
    one, same, other = games.synergies(6, seed=3), games.synergies(6, seed=3), games.synergies(6, seed=4)
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(one.weights, other.weights)
    assert len(games.synergies(6, order=2).weights) == 6 + 15
    assert one.weights.abs().max() <= 1
    assert [round(x, 6) for x in one.weights[:3].tolist()] == PINNED


def test_features_play_the_game() -> None:
    game = games.airport([1.0, 4.0, 9.0])
    network = game.between(absent=[5.0, -1.0, 2.0], present=[0.0, 1.0, 3.0])
    rows = torch.tensor([[5.0, -1, 2], [0, 1, 2], [0, 1, 3], [5, 0, 2]])
    assert network(rows)[:, 0].tolist() == [0.0, 4.0, 9.0, 2.0]


def test_a_game_is_a_model() -> None:
    game = games.glove(2, 2).eval()
    single = game(torch.ones(3, 4))
    assert single.dtype == torch.float32
    assert single.shape == (3, 1)
    assert "glove" in repr(game)
    assert torch.equal(pickle.loads(pickle.dumps(game)).shapley, game.shapley)
    with pytest.raises(InputError, match=r"\(N, 4\).*\(3, 5\)"):
        game(torch.ones(3, 5))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: games.additive([]), "Got 0"),
        (lambda: games.unanimity(3, [3]), r"0 to 2.*\[3\]"),
        (lambda: games.unanimity(3, []), "at least one"),
        (lambda: games.airport([1.0, -1.0]), "-1.0"),
        (lambda: games.glove(0, 2), "left=0"),
        (lambda: games.majority([1, 1], 3), "quota=3"),
        (lambda: games.majority([2**k for k in range(20)], 3), "20 kinds"),
        (lambda: games.symmetric([1.0]), r"\[1.0\]"),
        (lambda: games.synergies(15), "players=15"),
        (lambda: games.synergies(4, order=5), "order=5"),
        (lambda: games.synergies(4, seed=-1), "-1"),
        (lambda: games.glove(1, 1).between([0, 0], [1, 0]), "1 equal"),
    ],
)
def test_impossible_games_are_refused(make: object, got: str) -> None:
    with pytest.raises(InputError, match=got):
        make()  # type: ignore[operator]
