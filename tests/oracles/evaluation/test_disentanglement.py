"""Measures of disentanglement on codes whose relation to their factors is known, and informations from counts."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.evaluation import DisentanglementMetrics
from pellucid.evaluation.disentanglement import concentration, mutual_information, predictions

DOUBLE = {"dtype": torch.float64}
ALL = ("mig", "sap", "dci", "beta-vae", "factor-vae")
FACTORS = torch.cartesian_prod(*[torch.arange(4)] * 4)  # 256 rows: four independent factors, every combination once


class Linear(nn.Module):
    """Codes that are a fixed linear mix of the factors, centred."""

    def __init__(self, mix):
        super().__init__()
        self.mix = nn.Parameter(torch.as_tensor(mix, **DOUBLE))
        self.eval()

    def forward(self, x):
        return (x - 1.5) @ self.mix.T


def measured(mix, factors=FACTORS, method=None, seed=0):
    x = factors.double()
    found = px.explain(Linear(mix), x[:1], method or DisentanglementMetrics(), data=(x, factors), seed=seed)
    return {name: found.facts[name].item() for name in found.facts}, found


PERMUTED = torch.eye(4)[[2, 0, 3, 1]]
TURN = 0.5**0.5
PAIRS = torch.tensor([[TURN, TURN, 0, 0], [TURN, -TURN, 0, 0], [0, 0, TURN, TURN], [0, 0, TURN, -TURN]])
HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def rotation(seed):
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


@pytest.mark.parametrize("kind", ["ordered", "named"])
def test_permuted_codes_of_independent_factors_have_every_score_at_its_most(kind):
    scores, found = measured(PERMUTED, method=DisentanglementMetrics(factors=kind))
    for name in (*ALL, "dci_completeness", "dci_informativeness"):
        assert scores[name] == pytest.approx(1, abs=1e-9), name
    for name in ("information", "importance", "prediction"):
        assert torch.allclose(found.parts[name], PERMUTED.double(), atol=1e-9), name


def test_codes_with_signs_scales_and_spare_dimensions_are_as_good():
    mix = torch.cat([PERMUTED * torch.tensor([[-3.0], [0.1], [7.0], [1.0]]), torch.zeros(2, 4)])
    scores, found = measured(mix)
    assert all(scores[name] == pytest.approx(1, abs=1e-9) for name in ALL)
    assert found.parts["information"][4:].abs().max() == 0
    twice, _ = measured(torch.cat([PERMUTED, PERMUTED]))  # each factor in two codes: the gaps close
    assert twice["mig"] == pytest.approx(0, abs=1e-9)
    assert twice["sap"] == pytest.approx(0, abs=1e-9)
    assert twice["dci"] == pytest.approx(1, abs=1e-9)
    assert twice["dci_completeness"] < 1


@pytest.mark.parametrize("degrees", [25, 35])
def test_a_slight_turn_of_pairs_is_not_seen_by_the_classifiers(degrees):
    c, t = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.block_diag(*[torch.tensor([[c, t], [-t, c]])] * 2)
    scores, _ = measured(turn)
    assert scores["beta-vae"] > 0.99  # the known weakness
    assert scores["factor-vae"] > 0.99
    assert scores["sap"] == pytest.approx(math.cos(math.radians(2 * degrees)))  # c² - t²
    assert scores["mig"] == pytest.approx(0, abs=1e-9)  # each code's 16 values name both factors of its pair
    assert scores["dci"] < 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_rotation_lowers_gaps_and_importances(seed):
    scores, _ = measured(rotation(seed))
    assert max(scores[name] for name in ("mig", "sap", "dci")) < 0.75
    assert scores["beta-vae"] > 0.9


def test_turning_pairs_by_45_degrees_leaves_the_classifiers_one_of_two():
    scores, _ = measured(PAIRS, method=DisentanglementMetrics(votes=800))
    assert scores["beta-vae"] == pytest.approx(0.5, abs=0.06)
    assert scores["factor-vae"] == pytest.approx(0.5, abs=0.06)
    assert scores["mig"] == pytest.approx(0, abs=1e-9)  # two codes know the same of each factor
    assert scores["sap"] == pytest.approx(0, abs=1e-9)


def test_a_hadamard_mix_leaves_them_at_chance():
    scores, _ = measured(HADAMARD, method=DisentanglementMetrics(votes=800))
    assert scores["beta-vae"] == pytest.approx(0.25, abs=0.06)
    assert scores["factor-vae"] == pytest.approx(0.25, abs=0.06)
    assert max(scores[name] for name in ("mig", "sap", "dci")) < 0.1


def test_codes_that_know_nothing():
    # Every combination of two factors with every combination of two codes, once: independent by count.
    both = torch.cartesian_prod(*[torch.arange(4)] * 4)
    codes = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]])
    x, method = both.double(), DisentanglementMetrics(votes=800)
    found = px.explain(Linear(codes), x[:1], method, data=(x, both[:, :2]))
    for name in ("mig", "sap"):
        assert found.facts[name].item() == pytest.approx(0, abs=1e-9)
    assert found.facts["dci"].item() < 0.05
    for name in ("beta-vae", "factor-vae"):
        assert found.facts[name].item() == pytest.approx(0.5, abs=0.06)
    assert found.facts["dci_informativeness"].item() < 0.45  # a quarter by chance


def test_information_is_that_of_the_counts():
    generator = np.random.default_rng(0)
    factors = generator.integers(0, 3, (60, 2))
    codes = np.stack([(factors[:, 0] + generator.integers(0, 2, 60)) % 3, generator.integers(0, 5, 60) / 7], 1)
    got = mutual_information(codes, factors, 20)
    for j in range(2):
        for k in range(2):
            joint, own, other = (
                Counter(z) for z in (list(zip(codes[:, j], factors[:, k], strict=True)), codes[:, j], factors[:, k])
            )
            information = sum(
                n / 60 * math.log((n / 60) / (own[c] / 60 * other[f] / 60)) for (c, f), n in joint.items()
            )
            entropy = -sum(n / 60 * math.log(n / 60) for n in other.values())
            assert got[j, k] == pytest.approx(information / entropy, abs=1e-12)


def test_continuous_codes_are_cut_into_equal_intervals():
    code = np.linspace(0, 1, 101)[:, None]
    halves = (code >= 0.5).astype(int)
    assert mutual_information(code, halves, 2)[0, 0] == pytest.approx(1)
    assert mutual_information(code, np.arange(101)[:, None] % 2, 2)[0, 0] < 0.01


def test_predictions_and_concentration_by_figures():
    code, factor = np.array([[0.0], [1.0], [1.0], [4.0]]), np.array([[0], [1], [0], [1]])
    want = np.corrcoef(code[:, 0], factor[:, 0])[0, 1] ** 2
    assert predictions(code, factor, "ordered")[0, 0] == pytest.approx(want)
    assert predictions(code, factor, "named")[0, 0] == pytest.approx(0.5)  # three of four right, chance two
    shares, weight = concentration(np.array([[0.5, 0.5], [0.0, 3.0], [0.0, 0.0]]))
    assert shares.tolist() == pytest.approx([0, 1, 0])
    assert weight.tolist() == pytest.approx([0.25, 0.75, 0])


def test_named_factors_need_no_order():
    # The code names the value 2 lowest: a line can't follow it, thresholds can.
    factors = torch.arange(3).repeat(20)[:, None]
    codes = torch.tensor([1.0, 2.0, 0.0])[factors]
    line, tree = (
        px.explain(nn.Identity().eval(), codes[:1], DisentanglementMetrics(factors=kind), data=(codes, factors))
        for kind in ("ordered", "named")
    )
    assert line.facts["sap"].item() == pytest.approx(0.25)
    assert tree.facts["sap"].item() == pytest.approx(1)


def test_a_layer_a_score_and_the_seed():
    net = nn.Sequential(Linear(rotation(3).T), Linear(rotation(3))).eval()
    x, few = FACTORS.double(), DisentanglementMetrics(score="factor-vae", votes=50)
    # The second turn undoes the first but for the centring.
    inside = px.explain(net, x[:1], few, data=(x, FACTORS), layer="0")
    outside = px.explain(net, x[:1], few, data=(x, FACTORS))
    assert outside.facts["mig"].item() > 0.9 > inside.facts["mig"].item()
    assert torch.equal(inside.values, inside.facts["factor-vae"])
    again = px.explain(net, x[:1], few, data=(x, FACTORS), layer="0")
    other = px.explain(net, x[:1], few, data=(x, FACTORS), layer="0", seed=1)
    assert torch.equal(again.facts["factor-vae"], inside.facts["factor-vae"])
    assert any(not torch.equal(other.facts[k], inside.facts[k]) for k in ("factor-vae", "beta-vae", "dci"))


def test_wrong_questions_are_refused():
    x = FACTORS.double()
    for settings in ({"score": "dci2"}, {"factors": "continuous"}, {"bins": 1}, {"votes": 0}, {"batch": 1}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            measured(PERMUTED, method=DisentanglementMetrics(**settings))
    net = Linear(PERMUTED)
    for factors in (FACTORS / 3, FACTORS[:5], torch.zeros(256, 1).long(), torch.arange(256)):
        with pytest.raises(InputError, match="factor"):
            px.explain(net, x[:1], "disentanglement-metrics", data=(x, factors))
    with pytest.raises(NeedError, match="labels"):
        px.explain(net, x[:1], "disentanglement-metrics", data=x)
