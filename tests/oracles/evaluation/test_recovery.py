"""Image recovery against the theory of random networks, and each figure against the maps themselves."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import Attribution
from pellucid.contract.errors import InputError, LayerError, MethodError
from pellucid.evaluation import ImageRecovery, redrawing
from pellucid.evaluation.recovery import away, cosine, distance

DOUBLE = {"dtype": torch.float64}
QUICK = {"draws": 2, "others": 1, "attack": 0}
MAPS = ("guided-backprop", "deconvnet", "vanilla-gradient")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def gaussian(net, seed):
    """Every weight standard normal, every bias zero: the random network of the theory."""
    for number, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=1000 * seed + number) if p.dim() > 1 else torch.zeros(p.shape, **DOUBLE)
    return net.double().eval()


def one_layer(width, seed=0, pixels=64):
    body = [nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, 3)]
    return gaussian(nn.Sequential(*body), seed)


PICTURES = drawn(12, 1, 8, 8, seed=5).abs()


def measured(net, of, x=PICTURES, **settings):
    return px.explain(net, x, ImageRecovery(of=of, **{**QUICK, **settings}))


def test_guided_backprop_of_a_wide_random_layer_is_the_picture_up_to_one_over_the_root_of_its_width():
    widths = (500, 2000, 8000)
    rest = []
    for width in widths:
        both = [measured(one_layer(width, seed), "guided-backprop").facts for seed in (1, 2)]
        rest.append(np.mean([(facts["away"] / facts["cosine"]).mean().item() for facts in both]))  # the tangent
    slope = np.polyfit(np.log(widths), np.log(rest), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.06)
    # A quarter of the units fire and have a positive weight above them. Along the picture each adds |g| v, whose mean is
    # 2/π; across it, in each of the other 63 directions, noise of variance E[v²] = 1.
    for width, tangent in zip(widths, rest, strict=True):
        assert tangent == pytest.approx(math.sqrt(63) * (math.pi / 2) / math.sqrt(width / 4), rel=0.1)
    assert measured(one_layer(8000), "guided-backprop").values.min() > 0.85


def test_the_gradient_of_the_same_layer_is_noise_however_wide():
    for width in (500, 8000):
        found = measured(one_layer(width), "vanilla-gradient")
        assert found.values.abs().mean() < 0.2  # about 1/√64 in size for noise
        assert found.facts["away"].min() > 0.85
        assert found.facts["class_distance"].mean() == pytest.approx(math.sqrt(2), abs=0.12)


def test_guided_backprop_does_not_tell_classes_apart_and_the_gradient_does():
    net = one_layer(8000)
    guided, plain = (measured(net, of, others=2).facts for of in ("guided-backprop", "vanilla-gradient"))
    assert guided["class_distance"].max() < 0.5 < 1 < plain["class_distance"].min()
    # The same of twins drawn anew, whose layers are uniform instead of normal.
    assert guided["untrained"].min() > 0.9
    assert guided["untrained_class_distance"].max() < 0.5 < 1 < plain["untrained_class_distance"].min()


def test_a_deconvnet_recovers_the_picture_by_max_pooling_alone():
    def convolutions(pool):
        body = [nn.Conv2d(1, 600, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []), nn.Flatten()]
        return gaussian(nn.Sequential(*body, nn.Linear(600 * (16 if pool else 64), 2)), 3)

    x = PICTURES[:4]
    with_pool, without = (measured(convolutions(pool), "deconvnet", x) for pool in (True, False))
    assert with_pool.values.min() > 0.4
    assert without.values.abs().max() < 0.35
    noise = measured(convolutions(True), "vanilla-gradient", x)
    assert noise.values.abs().max() < with_pool.values.min()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 4))
        gaussian(self, 7)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("of", MAPS)
def test_each_figure_is_that_of_the_maps(of, rows):
    net, x = Small(), drawn(rows, 2, 4, 5, seed=9)
    target = torch.arange(rows) % 4
    found = px.explain(net, x, ImageRecovery(of=of, draws=2, others=2, attack=0), target=target, seed=3)
    maps = [px.explain(net, x, of, target=k).values for k in range(4)]
    twins = []
    for draw in range(2):
        twin = redrawing.duplicate(net)
        for names in redrawing.layers(twin).values():
            redrawing.redraw(twin, names, "initial", 3, draw)
        twins.append(px.explain(twin, x, of, target=target).values)
    scores = net(x).detach()
    for row in range(rows):
        own, picture = maps[target[row]][row].flatten().numpy(), x[row].flatten().numpy()
        others = [k for k in scores[row].argsort(descending=True).tolist() if k != target[row]][:2]
        unit = [m[row].flatten() / m[row].norm() for m in maps]
        apart = np.mean([(unit[target[row]] - unit[k]).norm().item() for k in others])
        angle = math.acos(own @ picture / np.linalg.norm(own) / np.linalg.norm(picture))
        chance = [np.corrcoef(t[row].flatten().numpy(), picture)[0, 1] for t in twins]
        for got, want in (
            (found.values, np.corrcoef(own, picture)[0, 1]),
            (found.facts["cosine"], math.cos(angle)),
            (found.facts["away"], math.sin(angle)),
            (found.facts["class_distance"], apart),
            (found.facts["untrained"], np.mean(chance)),
            (found.facts["untrained_error"], np.std(chance, ddof=1) / math.sqrt(2)),
        ):
            assert got[row].item() == pytest.approx(want, abs=1e-9)
    assert found.better == "lower"


def test_the_nearest_other_class_of_a_linear_network_is_at_the_distance_of_the_boundary():
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).double().eval()
    x = drawn(6, 1, 4, 5, seed=2)
    found = px.explain(net, x, ImageRecovery(of="vanilla-gradient", draws=2, attack=5))
    scores, weight = net(x).detach(), net[1].weight.detach()
    for row in range(6):
        order = scores[row].argsort(descending=True)
        # To the runner-up first: where a third is nearer, the attack needs not find it.
        gap, slope = scores[row, order[0]] - scores[row, order[1]], weight[order[0]] - weight[order[1]]
        want = 1.02 * gap / slope.norm() / x[row].norm()
        assert found.facts["attack_size"][row].item() == pytest.approx(want.item(), rel=1e-9)
        new = net(x[row : row + 1] - 1.02 * gap / slope.square().sum() * slope.reshape(1, 1, 4, 5)).argmax()
        maps = [weight[order[0]] / weight[order[0]].norm(), weight[new] / weight[new].norm()]
        assert found.facts["attack_distance"][row].item() == pytest.approx((maps[0] - maps[1]).norm().item(), rel=1e-9)


def test_an_attack_moves_the_gradient_more_than_guided_backprop():
    net = one_layer(2000)
    plain, guided = (measured(net, of, attack=20).facts for of in ("vanilla-gradient", "guided-backprop"))
    assert guided["attack_found"].tolist() == [1.0] * 12
    assert guided["attack_distance"].max() < plain["attack_distance"].min()
    assert torch.equal(guided["attack_size"], plain["attack_size"])
    assert guided["attack_size"].max() < 0.6


def test_what_has_no_other_class_has_no_class_figures():
    found = px.explain(Small(), drawn(2, 2, 4, 5), ImageRecovery(**QUICK), target=lambda out: out[:, 0])
    assert found.facts["class_distance"].isnan().all()
    assert found.values.isfinite().all()
    none = px.explain(Small(), torch.zeros(1, 2, 4, 5, **DOUBLE), ImageRecovery(**QUICK))
    assert none.values.isnan().all()  # a picture without contrast is like nothing


def test_figures_by_hand():
    one, two = torch.tensor([[3.0, 4.0]], **DOUBLE), torch.tensor([[2.0, 0.0]], **DOUBLE)
    assert cosine(one, two).item() == pytest.approx(0.6)
    assert away(one, two).item() == pytest.approx(0.8)
    assert distance(one, two).item() == pytest.approx(math.hypot(0.4, 0.8))
    assert distance(one, -3 * one).item() == pytest.approx(2)


def test_wrong_questions_are_refused():
    net, x = Small(), drawn(2, 2, 4, 5)
    for settings in ({"draws": 1}, {"others": 0}, {"attack": -1}):
        with pytest.raises(MethodError, match=next(iter(settings))):
            px.explain(net, x, ImageRecovery(**settings))
    with pytest.raises(LayerError, match="picture"):
        px.explain(net, x, ImageRecovery(**QUICK), layer="body.0")
    with pytest.raises(InputError, match="images"):
        px.explain(nn.Linear(3, 2).eval(), torch.ones(1, 3), ImageRecovery(**QUICK))
    with pytest.raises(MethodError, match="pixels"):
        ImageRecovery().flat(Attribution(values=torch.ones(2, 1, 2, 2)), x)
