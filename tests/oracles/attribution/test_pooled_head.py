"""Class activation maps: exact sums, both kinds of head in any spelling, and heads that have no such maps."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import ClassActivationMap, GradCAM, PooledHead, validate_head
from pellucid.contract.errors import InputError, NeedError, TargetError

DOUBLE = {"dtype": torch.float64}
IMAGES = torch.randn(4, 2, 7, 5, generator=torch.Generator().manual_seed(1), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


class Net(nn.Module):
    """Two convolutions, and a head given as a function of the maps and of two linear layers."""

    def __init__(self, head, reads=5, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Tanh())
        self.first, self.second = nn.Linear(reads, classes), nn.Linear(classes, classes)
        self.pool, self.head = nn.AvgPool2d((4, 2)), head

    def forward(self, x):
        return self.head(self, self.body(x))


MEANS = {
    "method": lambda net, maps: net.first(maps.mean((2, 3))),
    "adaptive": lambda net, maps: net.first(functional.adaptive_avg_pool2d(maps, 1).flatten(1)),
    "window": lambda net, maps: net.first(net.pool(maps)[:, :, 0, 0]),
    "sum": lambda net, maps: net.first(maps.sum((2, 3)) / 8),
    "twice": lambda net, maps: net.first(maps.mean(3).mean(2)),
}


def places(maps):
    return [(i, j) for i in range(maps.shape[2]) for j in range(maps.shape[3])]


@pytest.mark.parametrize("target", [0, 2])
@pytest.mark.parametrize("spelling", MEANS)
def test_map_of_a_class_by_a_loop_over_channels(spelling, target):
    model = filled(Net(MEANS[spelling]))
    got = px.explain(model, IMAGES, "cam", target=target, layer="body")
    maps = model.body(IMAGES).detach()
    assert maps.shape[2:] == (4, 2)
    expected = torch.zeros(4, 4, 2, **DOUBLE)
    for k in range(5):
        expected += model.first.weight.detach()[target, k] * maps[:, k]
    torch.testing.assert_close(got.values[:, 0], expected, rtol=0, atol=1e-12)
    assert got.source["head"] == "mean over places, then 'first'"


def test_mean_of_the_map_and_bias_are_the_score():
    model = filled(Net(MEANS["method"]))
    got = px.explain(model, IMAGES, "cam", target=1)
    logits = model(IMAGES)[:, 1].detach()
    mean = torch.stack([sum(row[0, i, j] for i, j in places(got.values)) / 8 for row in got.values])
    torch.testing.assert_close(mean + model.first.bias.detach()[1], logits, rtol=0, atol=1e-12)
    assert got.facts["identity_gap"].max() < 1e-12
    assert torch.equal(got.facts["bias"], model.first.bias.detach()[1].expand(4))
    torch.testing.assert_close(got.facts["score"], logits)


def test_equals_signed_grad_cam_times_the_number_of_places():
    model = filled(Net(MEANS["adaptive"]))
    theirs = px.explain(model, IMAGES, GradCAM(relu=False), target=2, layer="body").values
    got = px.explain(model, IMAGES, "cam", target=2, layer="body").values
    torch.testing.assert_close(got, theirs * 8, rtol=0, atol=1e-12)
    rectified = px.explain(model, IMAGES, "grad-cam", target=2, layer="body").values
    torch.testing.assert_close(got.clamp(min=0), rectified * 8, rtol=0, atol=1e-12)


def test_margin_is_the_difference_of_two_maps_and_a_probability_has_a_gap():
    model = filled(Net(MEANS["method"]))
    one, other = (px.explain(model, IMAGES, "cam", target=t).values for t in (0, 2))
    got = px.explain(model, IMAGES, "cam", target=px.margin(0, 2))
    torch.testing.assert_close(got.values, one - other, rtol=0, atol=1e-12)
    assert got.facts["identity_gap"].max() < 1e-12
    bent = px.explain(model, IMAGES, "cam", target=lambda out: out.softmax(1)[:, 0])
    assert bent.facts["identity_gap"].min() > 1e-3


def test_each_row_gets_the_map_of_its_own_class():
    model = filled(Net(MEANS["method"]))
    target = torch.tensor([2, 0, 1, 2])
    got = px.explain(model, IMAGES, "cam", target=target).values
    for n in range(4):
        alone = px.explain(model, IMAGES[n : n + 1], "cam", target=int(target[n])).values
        torch.testing.assert_close(got[n : n + 1], alone, rtol=0, atol=1e-12)


def test_network_in_network_has_its_last_maps_as_class_maps():
    model = filled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AvgPool2d((5, 3)), nn.Flatten()))
    got = px.explain(model, IMAGES, "cam", target=1)
    maps = model[:3](IMAGES).detach()
    torch.testing.assert_close(got.values[:, 0], maps[:, 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(maps[:, 1].mean((1, 2)), model(IMAGES)[:, 1].detach(), rtol=0, atol=1e-12)
    assert (got.source["layer_used"], got.source["head"]) == ("2", "mean of one map per class")


REFUSED = {
    "no linear layer that reads": (lambda net, maps: net.first(maps.movedim(1, 3)).square().mean((1, 2)), 5),
    "max-pooling": (lambda net, maps: net.first(maps.amax((2, 3))), 5),
    "flattened map: 'first'": (lambda net, maps: net.first(maps.flatten(1)), 40),
    "'first' and then 'second'": (lambda net, maps: net.second(net.first(maps.mean((2, 3))).relu()), 5),
    "'first' and then a nonlinear output": (lambda net, maps: net.first(maps.mean((2, 3))).softmax(1), 5),
    "nonlinear output": (lambda net, maps: net.first(maps.mean((2, 3))).relu_(), 5),
    "no linear layer that reads the mean": (lambda net, maps: net.first(maps.relu_().mean((2, 3))), 5),
    "no linear layer that": (lambda net, maps: net.first(maps.square().mean((2, 3))), 5),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_other_heads_are_refused_with_the_reason(reason):
    head, reads = REFUSED[reason]
    model = filled(Net(head, reads))
    for call in (
        lambda: px.explain(model, IMAGES, "cam", layer="body"),
        lambda: validate_head(model, IMAGES, layer="body"),
    ):
        with pytest.raises(NeedError, match=reason):
            call()


def test_a_head_is_refused_also_where_the_given_row_would_not_tell():
    """On a constant map the largest value and the mean are the same; the head is tried on other values."""
    model = filled(Net(lambda net, maps: net.first(maps.amax((2, 3)))))
    for part in (model.body[0], model.body[2]):
        part.weight.data.zero_()
    with pytest.raises(NeedError, match="max-pooling"):
        px.explain(model, IMAGES, "cam", layer="body")


def test_a_layer_that_is_not_the_one_pooled_is_refused():
    with pytest.raises(NeedError, match=r"behind 'body\.1'"):
        px.explain(filled(Net(MEANS["method"])), IMAGES, "cam", layer="body.1")


def test_hidden_unit_is_refused():
    with pytest.raises(TargetError, match="grad-cam"):
        px.explain(filled(Net(MEANS["method"])), IMAGES, "cam", target=px.unit("body", 1))


def test_validated_head_holds_the_weights_and_leaves_no_hook():
    model = filled(Net(MEANS["method"]))
    found = validate_head(model, IMAGES)
    assert (found.form, found.layer, found.module) == ("linear", "body", "first")
    assert torch.equal(found.weight, model.first.weight)
    assert torch.equal(found.bias, model.first.bias)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_tokens_averaged_over_a_grid():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.block = nn.Conv2d(2, 4, 2, stride=2), nn.Sequential(nn.Linear(4, 4), nn.GELU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.block(self.cut(x).flatten(2).mT).mean(1))

    model, images = filled(Tokens()), torch.randn(2, 2, 6, 8, **DOUBLE)
    got = px.explain(model, images, ClassActivationMap(grid=(3, 4)), target=1, layer="block")
    tokens = model.block(model.cut(images).flatten(2).mT).detach()
    for place in range(12):
        expected = tokens[:, place] @ model.head.weight[1].detach()
        torch.testing.assert_close(got.values[:, 0, place // 4, place % 4], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["linear", "maps"])
def test_built_head_is_the_mean_of_its_class_maps_and_found_by_the_validator(form):
    head = filled(PooledHead(5, 3, form))
    maps = torch.randn(4, 5, 4, 2, **DOUBLE)
    mean = head.class_maps(maps).mean((2, 3)) + head.classify.bias
    torch.testing.assert_close(head(maps), mean, rtol=0, atol=1e-12)
    for k in range(3):
        one = sum(head.classify.weight[k, c].squeeze() * maps[:, c] for c in range(5))
        torch.testing.assert_close(head.class_maps(maps)[:, k], one, rtol=0, atol=1e-12)
    body = filled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Tanh()))
    model = nn.Sequential(body, head).eval()
    got = px.explain(model, IMAGES, "cam", target=1)
    logits = model(IMAGES)[:, 1].detach()
    torch.testing.assert_close(got.values.mean((1, 2, 3)) + got.facts["bias"], logits, rtol=0, atol=1e-12)
    assert validate_head(model, IMAGES).form == form


@pytest.mark.parametrize(("one", "other"), [("linear", "maps"), ("maps", "linear"), ("maps", "maps")])
def test_converted_head_gives_the_same_scores_from_copied_weights(one, other):
    head = filled(PooledHead(5, 3, one))
    maps = torch.randn(4, 5, 4, 2, **DOUBLE)
    turned = head.converted(other)
    assert turned.form == other
    assert not turned.training
    torch.testing.assert_close(turned(maps), head(maps), rtol=0, atol=1e-12)
    before = head(maps)
    turned.classify.weight.data.zero_()
    assert torch.equal(head(maps), before)


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="form"):
        PooledHead(5, 3, "max")
