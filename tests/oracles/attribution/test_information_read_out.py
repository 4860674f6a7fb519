"""The read-out bottleneck against a plain training loop, planted places that nothing reads, and masks fitted to rows."""

import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution import InformationBottleneck, ReadOutBottleneck, information_read_out
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import seed
from pellucid.engine.inputs import as_inputs

DOUBLE = {"dtype": torch.float64}
NAME = "read-out-bottleneck"


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number), **DOUBLE)


def network():
    """Two convolutions of other sizes, and a linear head."""
    torch.manual_seed(3)
    body = [nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 3 * 2, 3)]
    return nn.Sequential(*body).double().eval()


def blurred(maps, width):
    """A Gaussian blur by a loop over the shifts of a map whose border is repeated."""
    reach = max(1, round(2 * width))
    wide = nn.functional.pad(maps, (reach,) * 4, mode="replicate")
    total, weight = torch.zeros_like(maps), 0.0
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            w = math.exp(-((i - reach) ** 2 + (j - reach) ** 2) / (2 * width**2))
            total = total + w * wide[:, :, i : i + maps.shape[2], j : j + maps.shape[3]]
            weight += w
    return total / weight


def start_of(number, repeat, width, hidden, channels):
    """Three 1 × 1 convolutions with the weights that the seed gives; the last one says 1 whatever it reads."""
    layers = [nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, channels, 1)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double()
    for i, layer in enumerate(layers):
        shape = layer.weight.shape[:2]
        key = [f"read-out {repeat} 0.{i}".encode()]
        normal = seed.normal(number, key, [0], shape, torch.empty(0, **DOUBLE))[0] * math.sqrt(2 / shape[1])
        layer.weight.data = (normal if i < 2 else 0 * normal)[:, :, None, None]
        layer.bias.data = torch.full_like(layer.bias, 1.0 if i == 2 else 0.0)
    return net


@pytest.mark.parametrize("target", [None, 1])
def test_a_plain_training_loop_gets_the_same_bits(target):
    model, data, x = network(), draw(9, 1, 7, 6, number=1), draw(3, 1, 7, 6, number=2)
    settings = {"steps": 6, "minibatch": 4, "samples": 2, "beta": 3.0, "rate": 0.3, "smooth": 0.8, "hidden": 5}
    method = ReadOutBottleneck(read=("3",), repeats=2, draws=3, **settings)
    got = px.explain(model, x, method, layer="1", data=data, target=target, seed=7)

    body, deep, head = model[:2], model[2:4], model[2:]
    known = body(data).detach()
    mean, deviation = known.mean(0), known.std(0)
    deviation = deviation.clamp(min=0.01 * deviation.square().mean().sqrt())

    def reads(inputs):
        own = body(inputs).detach()
        return own, deep(own).detach(), model(inputs).detach()[:, :, None, None]

    usual = [(r.mean((0, 2, 3), keepdim=True), r) for r in reads(data)]
    # The variance of a place over the rows is unbiased; that of the places' means is plain.
    scale = [
        (r.var(0).mean((1, 2)) + r.mean(0).var((1, 2), correction=0)).sqrt()[None, :, None, None] for _, r in usual
    ]

    def seen(inputs):
        normed = [(r - m) / s for r, (m, _), s in zip(reads(inputs), usual, scale, strict=True)]
        size = {"size": (5, 4), "mode": "bilinear", "align_corners": False}
        own = (body(inputs).detach() - mean) / deviation
        return torch.cat(
            [own, normed[0], nn.functional.interpolate(normed[1], **size), normed[2].expand(-1, -1, 5, 4)], 1
        )

    def loss_of(net, inputs, classes, keys, draws, beta=3.0):
        values, total, bits = body(inputs).detach(), [], []
        kept = blurred(net(seen(inputs)).sigmoid(), 0.8)
        for i, r in enumerate(values):
            noise = mean + deviation * seed.normal(7, [keys[i]] * len(draws), draws, r.shape, r)
            z = kept[i] * r + (1 - kept[i]) * noise
            crossed = nn.functional.cross_entropy(head(z), classes[i].expand(len(draws)))
            law = Normal(kept[i] * r + (1 - kept[i]) * mean, (1 - kept[i]) * deviation)
            nats = kl_divergence(law, Normal(mean, deviation))
            total.append((crossed, crossed + beta * nats.mean()))
            bits.append(nats.detach().sum(0) / math.log(2))
        return total, torch.stack(bits)

    said = model(data).argmax(1) if target is None else torch.full((9,), target)
    wanted = model(x).argmax(1) if target is None else torch.full((3,), target)
    keys, maps, crossed, ends = as_inputs(data).keys(), [], [], []
    for repeat in range(2):
        net = start_of(7, repeat, 3 + 3 + 2 + 3, 5, 3)
        adam = torch.optim.Adam(net.parameters(), lr=0.3)
        for step in range(6):
            rows = seed.generator(7, f"read-out rows {repeat}".encode(), step).permutation(9)[:4].tolist()
            for group in adam.param_groups:
                group["lr"] = 0.3 * (1 + math.cos(math.pi * step / 6)) / 2
            numbers = [(repeat * 6 + step) * 2 + k for k in range(2)]
            found, _ = loss_of(net, data[rows], said[rows], [keys[r] for r in rows], numbers)
            loss = sum(both for _, both in found) / 4
            adam.zero_grad()
            loss.backward()
            adam.step()
        ends.append(float(loss.detach()))
        found, bits = loss_of(net, x, wanted, as_inputs(x).keys(), [2 * 6 * 2 + repeat * 3 + k for k in range(3)])
        maps.append(bits)
        crossed.append(torch.stack([alone.detach() for alone, _ in found]))
    bits = torch.stack(maps)
    assert bits.std(0).max() > 1e-3  # the repeats differ, and training has moved the mask
    assert torch.allclose(got.values[:, 0], bits.mean(0), rtol=1e-7, atol=1e-10)
    assert torch.allclose(got.error[:, 0], bits.std(0) / 2**0.5, rtol=1e-5, atol=1e-9)
    assert torch.allclose(got.facts["cross_entropy"], torch.stack(crossed).mean(0), rtol=1e-7)
    assert torch.allclose(got.facts["bits"], bits.mean(0).flatten(1).sum(1), rtol=1e-7)
    assert math.isclose(got.source["read_out"]["last_loss"], sum(ends) / 2, rel_tol=1e-8)
    clean = nn.functional.cross_entropy(model(x), wanted, reduction="none").detach()
    assert torch.allclose(got.facts["model_cross_entropy"], clean, rtol=1e-9)


class Where(nn.Module):
    """Two channels of values, and one that says how far to the left a place is, a little noisy so that it varies."""

    def forward(self, x):
        place = torch.linspace(1, -1, x.shape[3], dtype=x.dtype).expand_as(x)
        return torch.cat([x, x.tanh(), place + 0.05 * x], 1)


def test_places_that_nothing_reads_have_no_bits():
    torch.manual_seed(0)
    model = nn.Sequential(Where(), nn.Flatten(), nn.Linear(3 * 4 * 6, 2)).double().eval()
    weight = model[2].weight.data.view(2, 3, 4, 6)
    weight *= 12
    weight[..., 3:] = 0
    data, x = draw(80, 1, 4, 6, number=4), draw(8, 1, 4, 6, number=5)
    method = ReadOutBottleneck(smooth=0.0, beta=1.0, repeats=1, draws=2, steps=300, rate=0.03)
    got = px.explain(model, x, method, layer="0", data=data)
    left, right = got.values[..., :3].flatten(1).sum(1), got.values[..., 3:].flatten(1).sum(1)
    assert (got.values >= 0).all()
    assert (right < left).all()
    assert float(right.sum()) < 0.1 * float(left.sum())
    assert got.source["read_out"]["last_loss"] < 0.7 * got.source["read_out"]["first_loss"]


def ranks(values):
    return values.double().flatten(1).argsort(1).argsort(1).double()


def test_held_out_rows_of_a_linear_model_get_the_mask_that_is_fitted_to_them():
    # Six columns of falling weight: what a column's information is worth falls with its weight.
    model = nn.Linear(6, 2, bias=False).double().eval()
    size = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25, 0.0], **DOUBLE)
    model.weight.data = torch.stack([size, -size]) / 2
    data, x = draw(200, 6, number=6), draw(12, 6, number=7)
    beta = 0.5
    fitted = px.explain(model, x, InformationBottleneck(beta=beta, steps=40, rate=0.3, repeats=1), data=data)
    method = ReadOutBottleneck(beta=beta, steps=200, rate=0.03, repeats=1, samples=2)
    told = px.explain(model, x, method, data=data)
    assert told.values.shape == (12, 6)
    agreement = torch.corrcoef(torch.stack([ranks(told.values).flatten(), ranks(fitted.values).flatten()]))[0, 1]
    assert agreement > 0.7
    # A rule that was learnt from other rows can't do better than masks fitted to these, and must not do much worse.
    both = [float((f["cross_entropy"] + beta * f["bits"] * math.log(2) / 6).mean()) for f in (told.facts, fitted.facts)]
    assert both[0] < both[1] + 0.15
    assert float(told.values[:, 5].max()) < 0.05  # a weight of zero


def test_dearer_bits_are_fewer_down_to_none_and_open_bottlenecks_are_the_model():
    model, data, x = network(), draw(30, 1, 7, 6, number=1), draw(4, 1, 7, 6, number=2)
    model[5].weight.data *= 10
    cheap = {"steps": 60, "rate": 0.03, "repeats": 1, "draws": 4}
    found = [
        px.explain(model, x, ReadOutBottleneck(beta=beta, **cheap), layer="1", data=data).facts["bits"]
        for beta in (0.0, 1.0, 1e6)
    ]
    assert (torch.stack(found).diff(dim=0) < 0).all()
    assert found[2].max() < 0.02
    still = {"rate": 1e-12, "steps": 1, "repeats": 1, "smooth": 0.0}
    wide = px.explain(model, x, ReadOutBottleneck(start=30.0, **still), layer="1", data=data).facts
    assert torch.allclose(wide["cross_entropy"], wide["model_cross_entropy"], atol=1e-9)
    assert torch.allclose(wide["noisy_score"], wide["score"].double(), atol=1e-9)
    closed = px.explain(model, x, ReadOutBottleneck(start=-30.0, **still), layer="1", data=data)
    assert closed.values.abs().max() < 1e-12
    assert closed.error is None


def test_a_row_is_read_by_itself_and_the_read_out_is_kept():
    model, data, x = network(), draw(12, 1, 7, 6, number=1), draw(5, 1, 7, 6, number=2)
    method = ReadOutBottleneck(steps=6, rate=0.03, beta=1.0, draws=2)
    calls = []
    model[5].register_forward_hook(lambda *a: calls.append(1))
    together = px.explain(model, x, method, layer="1", data=data)
    trained = len(calls)
    for row in range(5):
        calls.clear()
        alone = px.explain(model, x[row : row + 1], method, layer="1", data=data)
        assert len(calls) < trained / 2
        assert torch.allclose(alone.values[0], together.values[row], rtol=1e-12, atol=1e-14)
    calls.clear()
    px.explain(model, x, method, layer="1", data=data + 1)
    assert len(calls) > trained / 2  # other data, another read-out
    before = together.values
    with torch.no_grad():
        model[5].weight.mul_(3)
    assert not torch.allclose(px.explain(model, x, method, layer="1", data=data).values, before)


def test_what_was_learnt_is_tensors_that_can_be_saved():
    model, x = network(), draw(6, 1, 7, 6, number=2)
    got = px.explain(model, x, ReadOutBottleneck(steps=3, repeats=1, draws=1), layer="1", data=x)
    _, states = information_read_out._KEPT[model]
    again = pickle.loads(pickle.dumps(states[None]))
    own, output = model[:2](x).detach(), model(x).detach()
    assert all(isinstance(w, torch.Tensor) and not w.requires_grad for w in again.weights[0].values())
    (kept, _), *_ = again.masks(0, (own, output), (own,), 1.0)
    (same, _), *_ = states[None].masks(0, (own, output), (own,), 1.0)
    assert torch.equal(kept, same)
    bits = again.bits([(kept[:, None], 1 - kept[:, None])], (own,))[0][:, 0]
    assert torch.allclose(bits, got.values, rtol=1e-6)


def test_a_class_that_is_asked_for_gets_its_own_read_out():
    model, data, x = network(), draw(12, 1, 7, 6, number=1), draw(4, 1, 7, 6, number=2)
    model[5].weight.data *= 10
    method = ReadOutBottleneck(steps=8, rate=0.03, beta=1.0, draws=0)
    mixed = px.explain(model, x, method, layer="1", data=data, target=[0, 2, 0, 2])
    assert mixed.target.tolist() == [0, 2, 0, 2]
    assert set(mixed.facts) == {"score", "model_cross_entropy", "bits"}
    for one in (0, 2):
        rows = [i for i, c in enumerate([0, 2, 0, 2]) if c == one]
        alone = px.explain(model, x, method, layer="1", data=data, target=one)
        assert torch.allclose(alone.values[rows], mixed.values[rows], rtol=1e-10)
    assert not torch.allclose(px.explain(model, x, method, layer="1", data=data, target=0).values[1], mixed.values[1])


def test_sequences_tables_tokens_volumes_and_units_that_never_woke():
    cheap = ReadOutBottleneck(steps=4, rate=0.2, draws=2, minibatch=4)
    table = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x = draw(20, 4, number=7)
    assert px.explain(table, x[:3], cheap, layer="1", data=x).values.shape == (3, 5)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Flatten(), nn.Linear(9, 2)).double().eval()
    ids = torch.randint(9, (30, 3), generator=torch.Generator().manual_seed(0))
    method = ReadOutBottleneck(steps=4, rate=0.2, draws=2, minibatch=4, read=("1", "2"))
    got = px.explain(words, ids[:4], method, layer="0", data=ids)
    assert got.values.shape == (4, 3, 1)
    assert got.values.dtype == torch.float64
    scans = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(2 * 2 * 3 * 4, 2)).double().eval()
    assert px.explain(scans, draw(3, 1, 3, 4, 5), cheap, layer="0", data=draw(6, 1, 3, 4, 5)).values.shape == (
        3,
        1,
        2,
        3,
        4,
    )
    dead = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    dead[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], **DOUBLE)
    dead[0].bias.data = torch.tensor([0.0, 0.0, -50.0], **DOUBLE)
    rare = torch.tensor([[0.5, 1.0], [60.0, 0.3]], **DOUBLE)  # the second row has what the data never had
    got = px.explain(dead, rare, cheap, layer="1", data=draw(20, 2, number=6))
    assert float(got.values[0, 2]) == 0.0
    assert float(got.values[1, 2]) > 0.0
    assert got.values.isfinite().all()


def test_probabilities_are_taken_as_such():
    model, x = network(), draw(5, 1, 7, 6, number=2)
    chances = nn.Sequential(*model, nn.Softmax(1)).eval()
    settings = {"steps": 4, "rate": 0.2, "draws": 2}
    got = px.explain(chances, x, ReadOutBottleneck(output="probabilities", **settings), layer="1", data=x).facts
    expected = -chances(x).detach().amax(1).log()
    assert torch.allclose(got["model_cross_entropy"], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"beta": -1.0}, {"beta": math.nan}, {"steps": 0}, {"samples": 1.5}, {"rate": 0.0}, {"start": math.inf}),
        *({"smooth": -1.0}, {"floor": 0.0}, {"repeats": True}, {"output": "labels"}, {"hidden": 0}, {"draws": -1}),
        *({"minibatch": 0}, {"read": "0"}, {"read": (1,)}),
    ],
)
def test_impossible_settings_are_refused(wrong):
    def model(x):
        raise AssertionError("the model ran")

    net = nn.Linear(3, 2).eval()
    net.forward = model
    with pytest.raises(MethodError, match=next(iter(wrong))):
        px.explain(net, torch.ones(2, 3), ReadOutBottleneck(**wrong), data=torch.ones(3, 3))


def test_what_cannot_be_done_is_refused():
    net, x = nn.Sequential(nn.Linear(3, 2)).eval(), torch.eye(3)
    for target in (lambda y: y[:, 0], px.margin(0, 1), px.unit("0", 0)):
        with pytest.raises(TargetError, match="class"):
            px.explain(net, x, NAME, data=x, target=target)
    with pytest.raises(NeedError, match="two classes"):
        px.explain(nn.Linear(3, 1).eval(), x, NAME, data=x)
    with pytest.raises(InputError, match="at least 2"):
        px.explain(net, x, NAME, data=x[:1])
    with pytest.raises(InputError, match="differ"):
        px.explain(net, x, NAME, data=x[:1].expand(4, 3))
    with pytest.raises(InputError, match="rows like"):
        px.explain(net, x, NAME, data=torch.ones(4, 5))
    with pytest.raises(LayerError, match="module"):
        px.explain(net, x, ReadOutBottleneck(read=("nowhere",)), data=x)
    with pytest.raises(InputError, match="layer="):
        px.explain(nn.Embedding(4, 2).eval(), torch.ones(2, 3).long(), NAME, data=torch.ones(2, 3).long())


@pytest.mark.slow
def test_on_a_trained_network_held_out_pictures_get_masks_like_those_fitted_to_them():
    """More bits for each place inside the object than outside, and the fitted masks' order of places."""
    model, world = zoo.load("shapes-cnn"), worlds.shapes(24, seed=1234)
    masks = world.truth["masks"]["main object"].double().reshape(24, 1, 32, 32)
    asked = {"layer": "block2", "data": worlds.shapes(100, seed=5).inputs}
    method = ReadOutBottleneck(read=("block3",), steps=150, rate=0.02, repeats=1)
    got = px.explain(model, world.inputs, method, **asked)
    fitted = px.explain(model, world.inputs, InformationBottleneck(repeats=1), **asked)
    side = 32 // got.values.shape[2]
    share = nn.functional.avg_pool2d(masks, side)
    bits = got.values.double()
    inside = (bits * share).flatten(1).sum(1) / share.flatten(1).sum(1)
    outside = (bits * (1 - share)).flatten(1).sum(1) / (1 - share).flatten(1).sum(1)
    assert (inside > outside).double().mean() > 0.8
    assert got.facts["cross_entropy"].mean() < 0.2 * 2.6  # nats of a closed bottleneck, whatever the picture
    pairs = zip(ranks(got.values), ranks(fitted.values), strict=True)
    assert sum(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) / 24 > 0.5
