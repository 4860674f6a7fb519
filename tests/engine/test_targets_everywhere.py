"""Whatever a model returns can be explained: a written token, a mask, a number, a box, or one class against another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pellucid as px
from nets import sequence
from nets.stock import settle
from pellucid.attribution import AttentionLRP, EpsilonLRP, FeatureAblation, IntegratedGradients
from pellucid.contract.errors import InputError, OutputSelectionError, TargetError, UnsupportedOperation

BACKWARD = ("vanilla-gradient", "gradient-x-input", "smoothgrad", "guided-backprop", "lrp-epsilon", "deeplift")


def images(rows=3, seed=1):
    return torch.randn(rows, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(score, x):
    """The derivative of a score, by hand."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x)[0]


def holds(model, inputs, target, score, **where):
    """Gradient, integrated gradients and relevance of one target, each against what it must be; `score(inputs)` is it."""
    value = score(inputs).detach()
    slope = px.explain(model, inputs, "vanilla-gradient", target=target, **where)
    assert torch.allclose(slope.facts["score"], value.double())
    path = px.explain(model, inputs, IntegratedGradients(tolerance=1e-3), target=target, **where)
    assert (path.facts["relative_gap"] <= 1e-3).all()
    total = path.facts["score"] - path.facts["baseline_score"]
    assert torch.allclose(path.values.flatten(1).sum(1).double(), total, rtol=2e-3, atol=1e-6)
    shares = px.explain(model, inputs, EpsilonLRP(), target=target, **where)
    kept = sum(amount for name, amount in shares.facts.items() if name.startswith("absorbed_"))
    assert torch.allclose(shares.values.flatten(1).sum(1).double() + kept, value.double(), rtol=1e-6, atol=1e-9)
    assert torch.allclose(shares.facts["score"], value.double())
    return slope


# --- a written token ---


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("names", [(), tuple("abcdefghijk")])
def test_the_logit_of_one_token_that_a_language_model_writes(attention, names):
    pytest.importorskip("transformers")
    net, ids = sequence.gpt(attention), sequence.token_ids(2)
    subject = px.Subject(net, output="logits", classes=names)

    def target(logits: Tensor) -> Tensor:
        return logits[:, -1, 7]

    slope = holds(subject, ids, target, lambda x: target(net(x).logits), layer="transformer.wte")
    vectors = net.transformer.wte(ids).detach()
    by_hand = gradient(lambda e: target(net(inputs_embeds=e).logits), vectors)
    assert torch.allclose(slope.values, by_hand, atol=1e-12)
    relevance = px.explain(subject, ids, AttentionLRP(), target=target, layer="transformer.wte")
    assert relevance.values.shape == (2, sequence.LENGTH, 8)
    drops = px.explain(subject, ids, FeatureAblation(features="token"), target=target, layer="transformer.wte").values
    whole = target(net(inputs_embeds=vectors).logits).detach()
    for token in range(sequence.LENGTH):
        hidden = vectors.clone()
        hidden[:, token] = 0.0
        expected = whole - target(net(inputs_embeds=hidden).logits).detach()
        assert torch.allclose(drops[:, token, 0], expected, atol=1e-10)
    assert relevance.show() is not None
    assert relevance.describe()


def test_a_token_in_the_middle_does_not_depend_on_what_follows():
    pytest.importorskip("transformers")
    net, ids = sequence.gpt(), sequence.token_ids(2)
    for method in ("vanilla-gradient", "lrp-epsilon", "integrated-gradients"):
        values = px.explain(
            px.Subject(net, output="logits"), ids, method, target=lambda out: out[:, 2, 4], layer="transformer.wte"
        ).values
        assert not values[:, 3:].any()
        assert values[:, :3].any()


def test_without_a_target_a_sequence_is_refused_with_the_remedy():
    pytest.importorskip("transformers")
    subject, ids = px.Subject(sequence.gpt(), output="logits"), sequence.token_ids(2)
    for target in (None, 3):
        with pytest.raises(TargetError, match="function"):
            px.explain(subject, ids, "vanilla-gradient", target=target, layer="transformer.wte")
    with pytest.raises(InputError, match="11"):
        px.explain(px.Subject(sequence.gpt(), output="logits", classes=("a", "b")), ids, "vanilla-gradient",
                   target=lambda out: out[:, -1, 0], layer="transformer.wte")  # fmt: skip


# --- a mask ---


class Segmenter(nn.Module):
    """Two convolutions: a score of each of three classes at each pixel, seeing two pixels around."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


@pytest.mark.parametrize("named", [False, True])
def test_a_pixel_and_a_mask_of_a_segmentation(named):
    net, x = settle(Segmenter()), images()
    model = px.Subject(net, classes=("sky", "road", "car")) if named else net
    mask = torch.zeros(8, 8, dtype=torch.float64)
    mask[1:3, 2:5] = 1

    def pixel(out: Tensor) -> Tensor:
        return out[:, 1, 1, 2]

    def region(out: Tensor) -> Tensor:
        return (out[:, 2] * mask).sum((1, 2)) / mask.sum()

    for target, rows, columns in ((pixel, 4, 5), (region, 5, 7)):
        slope = holds(model, x, target, lambda x, target=target: target(net(x)))
        assert torch.allclose(slope.values, gradient(lambda x, target=target: target(net(x)), x))
        for method in (*BACKWARD, "occlusion"):
            settings = px.attribution.Occlusion(window=1) if method == "occlusion" else method
            values = px.explain(model, x, settings, target=target).values
            assert not values[:, :, rows:].any(), method
            assert not values[:, :, :, columns:].any(), method
            assert values[:, :, :rows, :columns].any(), method
    coarse = px.explain(model, x, "grad-cam", target=region, layer="first").values
    assert coarse.shape[-2:] == (8, 8)
    with pytest.raises(TargetError, match="mean of a region"):
        px.explain(model, x, "vanilla-gradient")


# --- numbers ---


@pytest.mark.parametrize("flat", [False, True])
def test_a_number_needs_no_target(flat):
    class Regressor(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)[:, 0] if flat else self.body(x)

    net, x = settle(Regressor()), torch.randn(3, 4, generator=torch.Generator().manual_seed(2)).double()
    slope = holds(net, x, None, lambda x: net(x).reshape(-1))
    assert torch.allclose(slope.values, gradient(net, x))
    assert slope.target is None
    for method in BACKWARD:
        assert px.explain(net, x, method).values.shape == x.shape
    several = settle(nn.Linear(4, 5))
    assert torch.allclose(px.explain(several, x, "vanilla-gradient", target=3).values, several.weight[3].expand(3, 4))


# --- boxes ---


class Detector(nn.Module):
    """Five boxes with a score each, as a dict of tensors, or as one dict per image with the best boxes alone."""

    def __init__(self, listed=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.boxes, self.scores, self.listed = nn.Linear(16, 20), nn.Linear(16, 5), listed

    def forward(self, x: Tensor):
        seen = self.body(x)
        boxes, scores = self.boxes(seen).unflatten(1, (5, 4)), self.scores(seen)
        if not self.listed:
            return {"boxes": boxes, "scores": scores}
        kept = [row > row.mean() for row in scores]  # of different number
        return [{"boxes": b[k], "scores": s[k]} for b, s, k in zip(boxes, scores, kept, strict=True)]


def test_scores_and_sides_of_boxes():
    net, x = settle(Detector()), images()
    with pytest.raises(OutputSelectionError, match="'boxes', 'scores'"):
        px.explain(net, x, "vanilla-gradient")
    scores = px.Subject(net, output="scores")
    slope = holds(scores, x, [4, 0, 2], lambda x: net(x)["scores"].gather(1, torch.tensor([[4], [0], [2]]))[:, 0])
    assert slope.target.tolist() == [4, 0, 2]
    best = px.explain(scores, x, "lrp-epsilon")
    assert best.target.tolist() == net(x)["scores"].argmax(1).tolist()

    def right(boxes: Tensor) -> Tensor:
        return boxes[:, 3, 2]

    slope = holds(px.Subject(net, output="boxes"), x, right, lambda x: right(net(x)["boxes"]))
    assert torch.allclose(slope.values, gradient(lambda x: net(x)["boxes"][:, 3, 2], x))


def test_lists_of_boxes_one_for_each_image():
    net, x = settle(Detector(listed=True)), images(4)

    def surest(found) -> Tensor:
        return torch.stack([image["scores"].max() for image in found])

    def widest(found) -> Tensor:
        return torch.stack([(image["boxes"][:, 2] - image["boxes"][:, 0]).max() for image in found])

    for output in (surest, widest):
        model = px.Subject(net, output=output)
        slope = px.explain(model, x, "vanilla-gradient")
        assert torch.allclose(slope.values, gradient(lambda x, output=output: output(net(x)), x))
        for method in BACKWARD:
            if method != "deeplift":
                assert px.explain(model, x, method).values.shape == x.shape
        drops = px.explain(model, x, px.attribution.Occlusion(window=4, stride=4)).values
        hidden = x.clone()
        hidden[:, :, :4, :4] = 0.0
        assert torch.allclose(drops[:, 0, 0, 0], (output(net(x)) - output(net(hidden))).detach())
    holds(px.Subject(net, output=surest), x, None, lambda x: surest(net(x)))
    # the other boxes come and go along the path, where the score jumps: the gap tells it
    jumps = px.explain(px.Subject(net, output=widest), x, IntegratedGradients(tolerance=1e-3))
    assert (jumps.facts["relative_gap"] > 1e-3).any()
    with pytest.raises(UnsupportedOperation, match="choose differently"):
        px.explain(px.Subject(net, output=widest), x, "deeplift")  # the reference keeps other boxes
    with pytest.raises(OutputSelectionError):
        px.explain(net, x, "vanilla-gradient")


# --- one class against another ---


def test_one_class_against_another():
    net = settle(nn.Sequential(nn.Flatten(), nn.Linear(128, 9), nn.ReLU(), nn.Linear(9, 4)))
    x = images()
    slope = holds(net, x, px.margin(2, 0), lambda x: net(x)[:, 2] - net(x)[:, 0])
    assert torch.allclose(slope.values, gradient(lambda x: net(x)[:, 2] - net(x)[:, 0], x))
    settings = ("vanilla-gradient", "gradient-x-input", IntegratedGradients(tolerance=1e-4), "feature-ablation")
    for method in settings:
        first, second, both = (px.explain(net, x, method, target=target).values for target in (2, 0, px.margin(2, 0)))
        within = 1e-9 if isinstance(method, str) else 1e-2 * float(both.abs().max())
        assert torch.allclose(both, first - second, rtol=0, atol=within), method
    for method in BACKWARD:
        assert px.explain(net, x, method, target=px.margin(2, 0)).values.shape == x.shape
    # with no stabiliser the ratios are the same for all targets, so that relevance is linear too
    whole = px.explain(net, x, EpsilonLRP(epsilon=0.0), target=px.margin(2, 0)).values
    parts = [px.explain(net, x, EpsilonLRP(epsilon=0.0), target=t).values for t in (2, 0)]
    assert torch.allclose(whole, parts[0] - parts[1], atol=1e-9)
