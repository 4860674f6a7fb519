"""OpenBox against weights multiplied by hand, brute force inside and outside the region, and the shipped networks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pellucid as px
from nets.spellings import SPELLINGS, Spelt, image
from pellucid import zoo
from pellucid.attribution import OpenBox
from pellucid.contract.errors import MethodError, UnsupportedOperation


def mlp(seed: int = 0, slope: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    parts = [nn.Linear(3, 6), nn.LeakyReLU(slope), nn.Linear(6, 5), nn.LeakyReLU(slope), nn.Linear(5, 2)]
    return nn.Sequential(*parts).double().eval()


def rows(count: int = 4, width: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_hand(net: nn.Sequential, x: torch.Tensor, target: int, slope: float):
    """w, b and the inequalities of one row: the layers' weights multiplied, with closed units crossed out."""
    w, b, inequalities = torch.eye(len(x), dtype=x.dtype), torch.zeros_like(x), []
    for layer in net:
        if isinstance(layer, nn.Linear):
            w, b = layer.weight @ w, layer.weight @ b + layer.bias
        else:
            z = w @ x + b
            inequalities += [(float(s) * a, float(s) * c) for s, a, c in zip(torch.sign(z), w, b, strict=True)]
            gate = torch.where(z > 0, 1.0, slope)
            w, b = gate[:, None] * w, gate * b
    return w[target], b[target], inequalities


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_line_border_and_inequalities_are_those_of_the_weights(slope: float) -> None:
    net, x = mlp(slope=slope), rows()
    found = px.explain(net, x, OpenBox(polytope="all"), target=1)
    for row in range(len(x)):
        w, b, inequalities = by_hand(net, x[row], 1, slope)
        live = [(a, c) for a, c in inequalities if a.norm() > 0]
        assert torch.allclose(found.values[row], w)
        assert torch.allclose(found.facts["bias"][row], b)
        assert found.facts["constraints"][row] == len(live)
        nearest = min(float((a @ x[row] + c) / a.norm()) for a, c in live)
        assert found.facts["distance_to_border"][row] == pytest.approx(nearest)
        polytope = found.source["polytope"][row]
        assert torch.allclose(polytope["normals"], torch.stack([a for a, _ in live]))
        assert torch.allclose(polytope["offsets"], torch.stack([torch.as_tensor(c) for _, c in live]))


def test_sampled_points_inside_the_polytope_have_the_line_and_the_same_explanation() -> None:
    net, x = mlp(), rows(1)
    found = px.explain(net, x, OpenBox(polytope="all"), target=0)
    polytope, w, b = found.source["polytope"][0], found.values[0], found.facts["bias"][0]
    points = x + 2 * rows(4000, seed=5)
    inside = (points @ polytope["normals"].T + polytope["offsets"] > 0).all(1)
    assert 20 < int(inside.sum()) < 3900
    line = points @ w + b
    assert torch.allclose(net(points[inside])[:, 0], line[inside], atol=1e-12)
    assert float((net(points[~inside])[:, 0] - line[~inside]).abs().median().detach()) > 1e-3
    again = px.explain(net, points[inside][:5], "openbox-plnn", target=0)
    assert torch.allclose(again.values, w.expand(5, 3), atol=1e-12)


def test_no_point_of_the_ball_leaves_the_region_and_the_step_reaches_its_border() -> None:
    net, x = mlp(seed=3), rows()
    step = px.explain(net, x, OpenBox(shown="border"), target=0)
    distance = step.facts["distance_to_border"]
    assert torch.allclose(step.values.norm(dim=1), distance)

    def pattern(points: torch.Tensor) -> torch.Tensor:
        first = net[0](points) > 0
        return torch.cat([first, net[2](F.relu(net[0](points))) > 0], 1)

    directions = F.normalize(rows(500, seed=9), dim=1)
    for row in range(len(x)):
        assert (pattern(x[row] + 0.999 * distance[row] * directions) == pattern(x[row : row + 1])).all()
    assert (pattern(x + 1.001 * step.values) != pattern(x)).sum(1).tolist() == [1] * len(x)


def test_inequalities_that_follow_from_others_are_removed() -> None:
    """Units x1, 2·x1 and x1 + 1: at (1, 1) the border of the third lies behind that of the first two, which coincide."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    found = px.explain(net, torch.ones(1, 2).double(), OpenBox(polytope="needed"))
    assert found.facts["constraints"].tolist() == [4]
    assert found.facts["needed_constraints"].tolist() == [2]
    normals = F.normalize(found.source["polytope"][0]["normals"], dim=1)
    assert sorted(normals.tolist()) == [[0.0, 1.0], [1.0, 0.0]]
    assert found.source["polytope"][0]["offsets"].tolist() == [0.0, 0.0]


def test_the_reduced_polytope_is_the_same_set() -> None:
    net, x = mlp(seed=7), rows(2)
    whole, reduced = (px.explain(net, x, OpenBox(polytope=p), target=0).source["polytope"] for p in ("all", "needed"))
    points = x[0] + rows(3000, seed=2)
    for full, small in zip(whole, reduced, strict=True):
        assert len(small["offsets"]) < len(full["offsets"])
        a, b = ((points @ p["normals"].T + p["offsets"] >= 0).all(1) for p in (full, small))
        assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", [(2, 2, 0), (3, 2, 1)])
def test_max_pooling_has_a_border_for_every_value_that_lost(kernel: tuple[int, int, int]) -> None:
    """Each border by brute force: the windows spelt out as loops, on the pixels themselves."""
    size, stride, padding = kernel
    net = nn.Sequential(nn.MaxPool2d(size, stride, padding), nn.Flatten(), nn.LazyLinear(1)).double().eval()
    x = image(1, 1, 5)
    net(x)
    found = px.explain(net, x, OpenBox(shown="border"))
    side = F.max_pool2d(x, size, stride, padding).shape[-1]
    gaps = []
    for i, j in itertools.product(range(side), repeat=2):
        window = [
            float(x[0, 0, r, c])
            for r in range(i * stride - padding, i * stride - padding + size)
            for c in range(j * stride - padding, j * stride - padding + size)
            if 0 <= r < 5 and 0 <= c < 5
        ]
        top, *others = sorted(window, reverse=True)
        gaps += [top - other for other in others]
    assert found.facts["constraints"].tolist() == [len(gaps)]
    assert found.facts["distance_to_border"][0] == pytest.approx(min(gaps) / 2**0.5)


@pytest.mark.parametrize(
    ("act", "borders"),
    [
        (nn.ReLU6(), [0.0, 6.0]),
        (nn.Hardtanh(-0.5, 2.0), [-0.5, 2.0]),
        (lambda x: x.abs(), [0.0]),
        (lambda x: torch.where(x > 0, x, 0.2 * x), [0.0]),
        (lambda x: torch.minimum(x, 3 - x), [1.5]),
        (lambda x: x.amax(1, keepdim=True) + x, None),
    ],
)
def test_other_kinks(act, borders) -> None:
    class Net(nn.Module):
        def forward(self, x):
            return act(x).sum(1, keepdim=True)

    x = rows(3, 4)
    found = px.explain(Net().eval(), x, "openbox-plnn")
    if borders is None:
        top = x.sort(1, descending=True).values
        nearest = (top[:, 0] - top[:, 1]) / 2**0.5
    else:
        nearest = torch.stack([(x - b).abs() for b in borders]).amin((0, 2))
    assert torch.allclose(found.facts["distance_to_border"], nearest)
    assert float(found.facts["local_error"].max()) < 1e-12


@pytest.mark.parametrize("name", [n for n in SPELLINGS if n != "module"])
def test_every_spelling_gives_the_same_region(name: str) -> None:
    plain, spelt = (px.explain(Spelt(SPELLINGS[n]), image(1), "openbox-plnn", target=0) for n in ("module", name))
    assert torch.equal(plain.values, spelt.values)
    assert torch.equal(plain.facts["distance_to_border"], spelt.facts["distance_to_border"])
    if name != "slices-in-place":  # half of whose units are rectified twice
        assert torch.equal(plain.facts["constraints"], spelt.facts["constraints"])


@pytest.mark.parametrize(
    ("name", "where"), [(nn.Sigmoid(), "sigmoid"), (nn.Softmax(1), "softmax"), (nn.GELU(), "gelu")]
)
def test_curved_operations_are_refused_by_name(name: nn.Module, where: str) -> None:
    net = nn.Sequential(nn.Linear(3, 3), name).eval()
    with pytest.raises(UnsupportedOperation, match=f"aten._?{where} in module '1'"):
        px.explain(net, torch.ones(1, 3), "openbox-plnn")


def test_a_layer_and_a_unit() -> None:
    net, x = mlp(), rows(2)
    found = px.explain(net, x, "openbox-plnn", layer="1", target=0)
    z = net[1](net[0](x))
    alone = px.explain(net[2:].eval(), z, "openbox-plnn", target=0)
    assert torch.allclose(found.values, alone.values)
    assert torch.allclose(found.facts["distance_to_border"], alone.facts["distance_to_border"])
    unit = px.explain(net, x, "openbox-plnn", target=px.unit("0", 2))
    assert torch.allclose(unit.values, net[0].weight[2].expand(2, 3))
    assert unit.facts["constraints"].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["iris-mlp", "digits-cnn"])
def test_networks_of_the_zoo(name: str) -> None:
    net, data = zoo.load(name).double(), zoo.data(name)
    x = torch.as_tensor(data.test[0][:2]).double()
    found = px.explain(net, x, OpenBox(shown="contribution"))
    score = net(x).amax(1).detach()
    assert torch.allclose(found.values.flatten(1).sum(1) + found.facts["bias"], score)
    assert float(found.facts["local_error"].max()) < 1e-9 * float(score.abs().max())
    assert bool((found.facts["distance_to_border"] >= 0).all())


def test_settings_are_checked() -> None:
    with pytest.raises(MethodError, match="'shown' must be one of"):
        px.explain(mlp(), rows(1), OpenBox(shown="all"))
    with pytest.raises(MethodError, match="'polytope' must be one of"):
        px.explain(mlp(), rows(1), OpenBox(polytope="some"))
