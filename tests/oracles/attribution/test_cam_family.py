"""Grad-CAM's kin against their formulas in loops, their sums, and planted places; tokens and channels last as maps."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from pellucid.attribution import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pellucid.contract.errors import InputError, LayerError

DOUBLE = {"dtype": torch.float64}


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def filled(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, **DOUBLE) / 2
    return module.eval()


class Deep(nn.Module):
    """A head that is not linear in the map, behind a layer whose values have both signs or are rectified."""

    def __init__(self, rectify):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU() if rectify else nn.Tanh())
        self.head = nn.Linear(3 * 5 * 3, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(functional.relu(self.head(self.body(x).flatten(1))))


IMAGES = rows(3, 2, 7, 5)


def parts(model, target):
    """Activations and gradients of each row alone, and its score."""
    found = []
    for row in IMAGES.split(1):
        maps = model.body(row).detach().requires_grad_()
        score = model.last(functional.relu(model.head(maps.flatten(1))))[0, target]
        (grad,) = torch.autograd.grad(score, maps)
        found.append((maps.detach()[0], grad[0], score.item()))
    return found


def by_loop(kind, a, g):
    """One signed map, place by place, as each paper's formula says."""
    channels, height, width = a.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    out = torch.zeros(height, width, **DOUBLE)
    for k in range(channels):
        total = sum(a[k, i, j] for i, j in places)
        if kind == "grad-cam-plus-plus":
            weight = 0.0
            for i, j in places:
                if g[k, i, j] != 0:
                    alpha = g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + total * g[k, i, j] ** 3)
                    weight += alpha * max(g[k, i, j], 0)
        elif kind == "xgrad-cam":
            weight = sum(a[k, i, j] / total * g[k, i, j] for i, j in places) if total != 0 else 0.0
        for i, j in places:
            if kind == "hires-cam":
                weight = g[k, i, j]
            elif kind == "layer-cam":
                weight = max(g[k, i, j], 0)
            out[i, j] += weight * a[k, i, j]
    return out


KINDS = {
    "grad-cam-plus-plus": GradCAMPlusPlus,
    "xgrad-cam": XGradCAM,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
}


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_formula_in_a_loop(kind, rectify):
    model = filled(Deep(rectify))
    signed = px.explain(model, IMAGES, KINDS[kind](relu=False), target=2, layer="body").values
    kept = px.explain(model, IMAGES, KINDS[kind](relu=True), target=2, layer="body").values
    for n, (a, g, _) in enumerate(parts(model, 2)):
        expected = by_loop(kind, a, g)
        torch.testing.assert_close(signed[n, 0], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(kept[n, 0], expected.clamp(min=0), rtol=1e-9, atol=1e-12)


def test_derivatives_of_the_exponential_give_the_weights_of_grad_cam_plus_plus():
    """The paper's ratio of second and third derivatives, taken by automatic differentiation of exp(score)."""
    model = filled(Deep(True))
    a, _, score = parts(model, 1)[0]
    got = px.explain(model, IMAGES[:1], GradCAMPlusPlus(relu=False), target=1, layer="body").values[0, 0]
    expected = torch.zeros(5, 3, **DOUBLE)
    for k in range(3):
        weight = torch.zeros((), **DOUBLE)
        for place in range(15):
            index = k * 15 + place

            def power(t, index=index):
                maps = a.flatten().index_add(0, torch.tensor([index]), t[None])
                return model.last(functional.relu(model.head(maps[None])))[0, 1].exp()

            t = torch.zeros((), **DOUBLE).requires_grad_()
            (first,) = torch.autograd.grad(power(t), t, create_graph=True)
            (second,) = torch.autograd.grad(first, t, create_graph=True)
            (third,) = torch.autograd.grad(second, t)
            if second != 0:
                alpha = second.item() / (2 * second.item() + a[k].sum() * third.item())
                weight += alpha * max(first.item(), 0)
        expected += weight * a[k]
    torch.testing.assert_close(got * torch.tensor(score, **DOUBLE).exp(), expected.detach(), rtol=1e-8, atol=1e-12)


def test_grad_cam_plus_plus_denominator_is_two_or_more_behind_a_rectifier():
    behind = px.explain(filled(Deep(True)), IMAGES, "grad-cam-plus-plus", target=0, layer="body")
    assert (behind.facts["smallest_denominator"] >= 2).all()
    model = filled(Deep(False))
    mixed = px.explain(model, IMAGES, "grad-cam-plus-plus", target=0, layer="body").facts["smallest_denominator"]
    for n, (a, g, _) in enumerate(parts(model, 0)):
        bottoms = [abs(2 + v * a[k].sum()).item() for k in range(3) for v in g[k].flatten() if v > 0]
        assert abs(mixed[n].item() - min([2.0, *bottoms])) < 1e-12
    assert mixed.min() < 2


@pytest.mark.parametrize("rectify", [True, False])
def test_xgrad_cam_sums_to_activation_times_gradient(rectify):
    model = filled(Deep(rectify))
    got = px.explain(model, IMAGES, XGradCAM(relu=False), target=3, layer="body")
    for n, (a, g, score) in enumerate(parts(model, 3)):
        first_order = sum((x * y).item() for x, y in zip(a.flatten(), g.flatten(), strict=True))
        assert abs(got.values[n].sum().item() - first_order) < 1e-10
        assert abs(got.facts["unexplained"][n].item() - (score - first_order)) < 1e-10
    assert got.facts["sum_gap"].max() < 1e-10


def test_xgrad_cam_says_what_a_cancelling_channel_loses():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False)).double().eval()
    model[0].weight.data[:], model[2].weight.data[:] = 1.0, torch.tensor([[1.0, -1.0]])
    image = torch.tensor([[[[3.0, -3.0]]]], **DOUBLE)
    got = px.explain(model, image, XGradCAM(relu=False), layer="0")
    assert got.values.abs().max() == 0
    assert got.facts["sum_gap"].item() == 6


def test_hires_cam_divides_up_the_score_of_a_linear_head_on_the_flattened_layer():
    model = filled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(45, 4)))
    got = px.explain(model, IMAGES, "hires-cam", target=2, layer="1")
    with torch.no_grad():
        maps, score = model[:2](IMAGES), model(IMAGES)[:, 2]
        weight = model[3].weight[2].reshape(3, 5, 3)
    torch.testing.assert_close(got.values[:, 0], (maps * weight).sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.values.sum((1, 2, 3)) + model[3].bias[2].detach(), score, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        got.facts["unexplained"], model[3].bias[2].detach().expand(3), rtol=0, atol=1e-12, check_dtype=False
    )


def test_all_signed_maps_of_a_pooled_linear_head_agree_up_to_their_cut():
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = filled(nn.Sequential(*layers))
    maps = {k: px.explain(model, IMAGES, m(relu=False), target=1, layer="1").values for k, m in KINDS.items()}
    plain = px.explain(model, IMAGES, GradCAM(relu=False), target=1, layer="1").values
    for kind in ("xgrad-cam", "hires-cam"):
        torch.testing.assert_close(maps[kind], plain, rtol=0, atol=1e-12)
    with torch.no_grad():
        kept = torch.einsum("nkij,k->nij", model[:2](IMAGES), model[4].weight[1].clamp(min=0)) / 15
    torch.testing.assert_close(maps["layer-cam"][:, 0], kept, rtol=0, atol=1e-12)


def test_hires_cam_finds_what_mean_gradients_lose():
    """The score reads the left half for and the right half against; only the left half is lit."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1, bias=False))
    model = model.double().eval()
    model[0].weight.data[:], model[3].weight.data[:] = 1.0, torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    image = torch.tensor([[[[3.0, 3.0, 0.0, 0.0]]]], **DOUBLE)
    assert px.explain(model, image, GradCAM(relu=False)).values.abs().max() == 0
    for kind in ("hires-cam", "layer-cam"):
        got = px.explain(model, image, kind, layer="1").values.flatten()
        assert torch.equal(got, torch.tensor([3.0, 3.0, 0.0, 0.0], **DOUBLE))


def likeness_after_randomising(kind):
    """How alike the signed maps are before and after the layers behind the explained one are drawn anew."""
    model = filled(Deep(True))
    before = px.explain(model, IMAGES, kind, target=0, layer="body").values
    model.last = filled(nn.Linear(6, 4), seed=77)
    model.head = filled(nn.Linear(45, 6), seed=78)
    after = px.explain(model, IMAGES, kind, target=0, layer="body").values
    return functional.cosine_similarity(before.flatten(1), after.flatten(1))


@pytest.mark.parametrize("kind", ["grad-cam", "xgrad-cam", "hires-cam", "layer-cam"])
def test_maps_change_when_the_layers_behind_are_randomised(kind):
    assert likeness_after_randomising(kind).max() < 0.9


def test_documented_failure_grad_cam_plus_plus_hardly_notices_randomised_layers():
    assert likeness_after_randomising("grad-cam-plus-plus").min() > 0.9


class Tokens(nn.Module):
    """Patches as tokens, a block that mixes them, and a head on the class token or on the mean."""

    def __init__(self, extra, channels=4):
        super().__init__()
        self.extra = extra
        self.cut = nn.Conv2d(2, channels, 2, stride=2)
        self.special = nn.Parameter(torch.zeros(1, extra, channels))
        self.mix, self.block = nn.Linear(1, 1), nn.Sequential(nn.Linear(channels, channels), nn.Tanh())
        self.after = nn.Linear(channels, 3)

    def forward(self, x):
        tokens = self.cut(x).flatten(2).mT
        tokens = self.block(torch.cat([self.special.expand(len(x), -1, -1), tokens], 1))
        mixed = tokens[:, :1] * tokens + tokens.mean(1, keepdim=True)
        return self.after(mixed.square().mean(1))


class Maps(nn.Module):
    """The same network on maps with channels first; special tokens stand beside them."""

    def __init__(self, other):
        super().__init__()
        self.other = other
        self.maps, self.rest = nn.Identity(), nn.Identity()

    def forward(self, x):
        other = self.other
        maps = other.cut(x)
        size = maps.shape[2:]
        tokens = torch.cat([other.special.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        tokens = other.block(tokens)
        rest = self.rest(tokens[:, : other.extra])
        maps = self.maps(tokens[:, other.extra :].mT.unflatten(2, size))
        tokens = torch.cat([rest, maps.flatten(2).mT], 1)
        mixed = tokens[:, :1] * tokens + tokens.mean(1, keepdim=True)
        return other.after(mixed.square().mean(1))


@pytest.mark.parametrize("kind", ["grad-cam", *KINDS])
@pytest.mark.parametrize(("extra", "size", "grid"), [(0, (6, 6), None), (1, (6, 6), None), (1, (8, 6), (4, 3))])
def test_tokens_are_maps_in_rows(kind, extra, size, grid):
    images, model = rows(3, 2, *size), filled(Tokens(extra))
    cls = GradCAM if kind == "grad-cam" else KINDS[kind]
    got = px.explain(model, images, cls(grid=grid), target=1, layer="block")
    want = px.explain(Maps(model).eval(), images, cls(), target=1, layer="maps")
    assert got.values.shape == (3, 1, size[0] // 2, size[1] // 2)
    torch.testing.assert_close(got.values, want.values, rtol=1e-9, atol=1e-12)
    assert ("outside_grid" in got.facts) == (extra > 0)


def test_share_outside_the_grid_is_that_of_the_class_token():
    images, model = rows(3, 2, 6, 6), filled(Tokens(1))
    got = px.explain(model, images, "grad-cam", target=1, layer="block").facts["outside_grid"]
    seen = []
    handle = model.block.register_forward_hook(lambda part, given, out: seen.append(out.detach()))
    model(images)
    handle.remove()
    grads = px.explain(model, images, "vanilla-gradient", target=1, layer="block").values
    product = (seen[0] * grads).abs().sum(2)
    torch.testing.assert_close(got, product[:, 0] / product.sum(1), rtol=0, atol=1e-12)
    assert 0.01 < got.min() < 0.99


class ClassToken(Tokens):
    def forward(self, x):
        tokens = torch.cat([self.special.expand(len(x), -1, -1), self.cut(x).flatten(2).mT], 1)
        tokens = tokens + tokens.mean(1, keepdim=True)
        return self.after(self.block(tokens)[:, 0])


def test_a_layer_after_the_last_attention_is_told_by_the_share_outside():
    """Only the class token goes on from there, so every place of the map is zero."""
    got = px.explain(filled(ClassToken(1)), rows(2, 2, 6, 6), "grad-cam", layer="block")
    assert got.values.abs().max() == 0
    assert (got.facts["outside_grid"] == 1).all()


class ChannelsLast(nn.Module):
    """Maps (rows, height, width, channels) between linear layers."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(2, 5, 2, stride=2)
        self.block, self.plain = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 5), nn.GELU()), nn.Identity()
        self.turned, self.after = nn.Identity(), nn.Linear(5, 3)

    def forward(self, x):
        maps = self.plain(self.block(self.cut(x).permute(0, 2, 3, 1)))
        return self.after(self.turned(maps.permute(0, 3, 1, 2)).square().mean((2, 3)))


@pytest.mark.parametrize("size", [(6, 6), (8, 6), (10, 10)])
@pytest.mark.parametrize("kind", ["grad-cam", *KINDS])
def test_channels_last_are_maps_too(kind, size):
    images, model = rows(3, 2, *size), filled(ChannelsLast())
    want = px.explain(model, images, kind, target=1, layer="turned").values
    got = px.explain(model, images, kind, target=1, layer="block").values
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_maps_that_may_lie_either_way_are_refused_until_the_grid_is_given():
    images, model = rows(3, 2, 6, 6), filled(ChannelsLast())
    with pytest.raises(LayerError, match=r"'plain'.*grid=\(3, 3\) for channels last"):
        px.explain(model, images, "grad-cam", layer="plain")
    want = px.explain(model, images, "grad-cam", layer="turned").values
    assert torch.equal(px.explain(model, images, GradCAM(grid=(3, 3)), layer="plain").values, want)


@pytest.mark.parametrize(
    ("size", "grid", "words"),
    [
        ((8, 6), None, r"'block'.*grid=\(rows, columns\)"),
        ((6, 6), (3, 4), "10 tokens for 3 × 4 places"),
        ((12, 12), (2, 2), "37 tokens for 2 × 2 places"),
    ],
)
def test_tokens_that_are_no_grid_are_refused(size, grid, words):
    with pytest.raises(LayerError, match=words):
        px.explain(filled(Tokens(1)), rows(2, 2, *size), GradCAM(grid=grid), layer="block")


@pytest.mark.parametrize("grid", [(0, 3), (3,), 3, (2.0, 3), (True, 3)])
def test_a_grid_is_a_pair_of_whole_numbers(grid):
    with pytest.raises(InputError, match="grid"):
        px.explain(filled(Tokens(1)), rows(2, 2, 6, 6), LayerCAM(grid=grid), layer="block")


def test_guided_grad_cam_is_the_product_of_its_two_factors():
    images, model = rows(3, 2, 9, 7), filled(nn.Sequential(*Deep(True).body, nn.Conv2d(3, 4, 3), nn.ReLU()))
    model = nn.Sequential(*model, nn.Flatten(), filled(nn.Linear(60, 3), seed=8)).eval()
    got = px.explain(model, images, "guided-grad-cam", target=1, layer="3")
    small = px.explain(model, images, "grad-cam", target=1, layer="3").values
    assert small.shape == (3, 1, 5, 3)
    large = functional.interpolate(small, size=(9, 7), mode="bilinear", align_corners=False)
    detail = px.explain(model, images, "guided-backprop", target=1).values
    torch.testing.assert_close(got.values, large * detail, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["map"], large, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.parts["detail"], detail, rtol=0, atol=1e-12)
    dark = (large == 0).expand(-1, 2, -1, -1)
    assert dark.any()
    assert got.values[dark].abs().max() == 0
    for n in range(3):
        mass = detail[n].abs()
        share = sum(mass[:, i, j].sum() for i in range(9) for j in range(7) if large[n, 0, i, j] > 0) / mass.sum()
        assert abs(got.facts["map_share"][n].item() - share.item()) < 1e-12


def test_guided_grad_cam_keeps_its_factors_in_a_file(tmp_path):
    result = px.explain(filled(Deep(True)), IMAGES, "guided-grad-cam", layer="body")
    again = px.load(result.save(tmp_path / "guided.safetensors"))
    assert set(again.parts) == {"map", "detail"}
    assert torch.equal(again.parts["map"] * again.parts["detail"], result.values)


def test_guided_grad_cam_is_for_images():
    model = filled(nn.Sequential(nn.Unflatten(1, (2, 7, 5)), Deep(True)))
    with pytest.raises(InputError, match="image"):
        px.explain(model, IMAGES.flatten(1), "guided-grad-cam", layer="1.body")
