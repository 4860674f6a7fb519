"""Similarities against scipy and scikit-image, the test against one written step by step, and the source's known result."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn

import pellucid as px
from pellucid import zoo
from pellucid.contract.errors import LayerError, MethodError, NeedError
from pellucid.engine import ranks
from pellucid.evaluation import ModelRandomisationTest, redrawing, similarity

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def small(seed=0):
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for k, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=seed + k)
    return net.eval()


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    a, b = drawn(4, 12), drawn(4, 12, seed=1)
    a, b = (a.round(), b.round()) if ties else (a, b)
    found = ranks.rank_correlation(a, b)
    for row in range(4):
        assert found[row].item() == pytest.approx(stats.spearmanr(a[row], b[row])[0], abs=1e-12)
    assert ranks.ranks(a)[0].tolist() == stats.rankdata(a[0]).tolist()
    assert ranks.rank_correlation(torch.ones(1, 5), drawn(1, 5)).isnan().all()


def test_pictures_are_compared_by_size_and_from_zero_to_one():
    a, b = drawn(2, 3, 9, 8), drawn(2, 3, 9, 8, seed=1)
    found = similarity.compare(a, b)
    for row in range(2):
        flat, sized = ([m[row].sum(0).numpy(), m[row].abs().sum(0).numpy()] for m in (a, b))
        assert found["rank_signed"][row].item() == pytest.approx(stats.spearmanr(flat[0], sized[0], axis=None)[0])
        one, two = ((p - p.min()) / np.ptp(p) for p in (flat[1], sized[1]))
        assert found["rank_absolute"][row].item() == pytest.approx(stats.spearmanr(one, two, axis=None)[0])
        expected = structural_similarity(one, two, win_size=7, data_range=1.0)
        assert found["ssim"][row].item() == pytest.approx(expected, abs=1e-6)
    same = similarity.compare(a, a)
    assert set(same) == {"rank_signed", "rank_absolute", "ssim", "hog"}
    assert all(torch.allclose(v, torch.ones(2, **DOUBLE)) for v in same.values())
    turned = similarity.compare(a, -a)
    assert torch.allclose(turned["rank_signed"], -torch.ones(2, **DOUBLE))
    assert torch.allclose(turned["rank_absolute"], torch.ones(2, **DOUBLE))


def test_noise_of_the_number_type_does_not_make_ranks():
    flat = torch.full((1, 50), 0.1, **DOUBLE)
    flat[0, :25] += 1e-16 * torch.arange(25)
    assert similarity.compare(flat, drawn(1, 50))["rank_signed"].isnan().all()


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_curve_is_that_of_networks_drawn_by_hand(rows, order):
    """The definition: copies of the weights are replaced from the last layer on, and gradients compared by scipy."""
    net, x = small(), drawn(rows, 6, seed=9)
    method = ModelRandomisationTest(of="vanilla-gradient", order=order, draws=2, draw="permuted")
    found = px.explain(net, x, method, seed=3)
    target = net(x).argmax(1)

    def gradient(model):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0]

    first = gradient(net)
    for row in range(rows):
        curve = np.ones((2, 4))
        for draw in range(2):
            model = copy.deepcopy(net)
            for step, layer in enumerate((4, 2, 0), 1):
                model = copy.deepcopy(net) if order == "independent" else model
                redrawing.redraw(model, [f"{layer}.weight", f"{layer}.bias"], "permuted", 3, draw)
                curve[draw, step] = stats.spearmanr(first[row], gradient(model)[row])[0]
        assert found.parts["curve"][row].tolist() == pytest.approx(curve.mean(0).tolist(), abs=1e-9)
        assert found.values[row].item() == pytest.approx(curve[:, 1:].mean(), abs=1e-9)
        spread = curve[:, 1:].mean(1).std(ddof=1) / math.sqrt(2)
        assert found.facts["error"][row].item() == pytest.approx(spread, abs=1e-9)
    assert found.source["layers"] == ["4", "2", "0"]
    assert found.better == "lower"


def test_redrawn_weights_have_the_distribution_of_a_new_layer():
    net = nn.Sequential(nn.Linear(64, 500), nn.BatchNorm1d(500), nn.Embedding(40, 50, padding_idx=0), nn.LSTM(3, 100))
    for p in net.parameters():
        p.data.fill_(7.0)
    net[1].running_mean.fill_(3.0)
    for names in redrawing.layers(net).values():
        redrawing.redraw(net, names, "initial", 0, 0)
    for p in (net[0].weight, net[0].bias):
        assert p.abs().max() <= 1 / 8
        assert p.var().item() == pytest.approx((2 / 8) ** 2 / 12, rel=0.15)  # of a uniform distribution
    assert torch.equal(net[1].weight, torch.ones(500))
    assert torch.equal(net[1].bias, torch.zeros(500))
    assert torch.equal(net[1].running_mean, torch.full((500,), 3.0))
    assert torch.equal(net[2].weight[0], torch.zeros(50))
    assert net[2].weight[1:].std().item() == pytest.approx(1, rel=0.1)
    assert all(0.09 < p.abs().max() <= 0.1 for p in net[3].parameters())


def test_permuted_weights_keep_their_values():
    net = nn.Linear(5, 4)
    before = net.weight.detach().clone()
    redrawing.redraw(net, ["weight"], "permuted", 0, 0)
    assert not torch.equal(net.weight, before)
    assert torch.equal(net.weight.flatten().sort().values, before.flatten().sort().values)


def test_layers_come_from_the_output_to_the_input_however_they_were_registered():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused, self.bare = nn.Linear(4, 2), nn.Linear(4, 4), nn.Parameter(drawn(5, 4))
            self.first = nn.Linear(6, 5)
            self.kept = None

        def forward(self, x):
            self.kept = torch.relu(self.first(x))
            return self.last(torch.relu(self.kept @ self.bare))

    net = Backwards().double().eval()
    net(drawn(1, 6))  # now it keeps an activation that can't be copied as it is
    before = copy.deepcopy({k: v.detach().clone() for k, v in net.named_parameters()})
    kept = net.kept
    found = px.explain(net, drawn(2, 6), ModelRandomisationTest(of="vanilla-gradient", draws=2))
    assert found.source["layers"] == ["last", "bare", "first"]
    assert all(torch.equal(v, before[k]) for k, v in net.named_parameters())
    assert net.kept is kept


def test_weights_in_one_place_are_drawn_in_all():
    """A layer that is used twice counts once, and both uses see the new weights."""
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 2)).double().eval()
    found = px.explain(net, drawn(2, 6), ModelRandomisationTest(of="vanilla-gradient", draws=2))
    assert found.source["layers"] == ["4", "0"]


def test_chosen_blocks():
    net = nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), nn.Linear(4, 2)).double().eval()
    method = ModelRandomisationTest(of="vanilla-gradient", layers=("1", "0"), draws=2)
    assert px.explain(net, drawn(2, 6), method).parts["curve"].shape == (2, 3)


def test_known_result_of_the_source():
    """On a trained network gradients pass and guided backpropagation fails (Adebayo et al. 2018, figures 2 to 4)."""
    net, x = zoo.load("digits-cnn"), zoo.data("digits-cnn").test[0][:5]
    passing, failing = (
        px.explain(net, x, ModelRandomisationTest(of=name)) for name in ("vanilla-gradient", "guided-backprop")
    )
    assert passing.source["layers"] == ["output", "hidden", "conv2", "conv1"]
    assert bool((passing.facts["fails"] == 0).all())
    assert passing.values.abs().mean() < 0.15
    assert passing.facts["rank_absolute"].mean() < 0.35
    assert bool((failing.facts["fails"] == 1).all())
    assert failing.values.mean() > 0.65
    for name in ("rank_absolute", "ssim", "hog"):
        assert bool((failing.facts[name] > passing.facts[name]).all()), name
    assert failing.parts["curve"][:, 0].tolist() == pytest.approx([1] * 5)  # the untouched copy


def test_maps_times_a_sparse_input_look_alike_by_size_alone():
    """The docstring's warning: where the input is zero, so is gradient times input, whatever the network."""
    net, x = zoo.load("digits-cnn"), zoo.data("digits-cnn").test[0][:6]
    found = px.explain(net, x, ModelRandomisationTest(of="gradient-x-input", draws=2))
    assert found.facts["rank_absolute"].mean() > 0.85
    assert found.values.abs().mean() < 0.2


def test_a_map_without_contrast_is_left_out():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    net[0].bias.data.fill_(-100)  # no unit ever fires
    found = px.explain(net, drawn(2, 6), ModelRandomisationTest(of="vanilla-gradient", draws=2))
    assert found.values.isnan().all()
    assert found.facts["undefined"].tolist() == [1, 1]
    assert found.facts["fails"].isnan().all()


@pytest.mark.parametrize(
    "settings", [{"order": "up"}, {"draw": "none"}, {"draws": 1}, {"layers": "0"}, {"of": "cart-c45-surrogate"}]
)
def test_bad_settings_are_refused(settings):
    calls = []
    net = small()
    net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(MethodError):
        px.explain(net, drawn(1, 6), ModelRandomisationTest(**settings))
    assert not calls


def test_what_cannot_be_randomised_is_refused():
    with pytest.raises(LayerError, match="'layers'"):
        px.explain(small(), drawn(1, 6), ModelRandomisationTest(layers=("9",)))
    with pytest.raises(NeedError, match="module"):
        px.explain(lambda x: x, drawn(1, 6), ModelRandomisationTest(of="feature-ablation"))
    with pytest.raises(NeedError, match="weights"):
        px.explain(nn.Sequential(nn.Tanh()).eval(), drawn(1, 6), ModelRandomisationTest(of="vanilla-gradient"))
