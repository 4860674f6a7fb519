"""The information bottleneck against integrals, a plain loop, planted places that nothing reads, and a trained network."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pellucid as px
from pellucid import worlds, zoo
from pellucid.attribution import InformationBottleneck
from pellucid.attribution.bottleneck import capacity, mask
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.engine import seed
from pellucid.engine.inputs import as_inputs

DOUBLE = {"dtype": torch.float64}
NAME = "information-bottleneck-attribution"


def law(mean, deviation):
    """A normal law in double precision."""
    return Normal(torch.as_tensor(mean, **DOUBLE), torch.as_tensor(deviation, **DOUBLE))


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number), **DOUBLE)


def network():
    """Maps of three channels, none of whose values is ever constant, and a linear head."""
    torch.manual_seed(3)
    body = [nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 4 * 3, 3)]
    return nn.Sequential(*body).double().eval()


@pytest.mark.parametrize(("value", "kept"), [(0.0, 0.5), (2.0, 0.3), (-1.5, 0.9), (1.0, 1e-3)])
def test_the_bits_are_the_divergence_of_two_normal_laws(value, kept):
    mean, deviation = 0.7, 2.5  # of the noise; the value is 0.7 + value · 2.5
    seen = law(kept * (mean + value * deviation) + (1 - kept) * mean, (1 - kept) * deviation)
    told = capacity(torch.tensor(value, **DOUBLE), torch.tensor(kept, **DOUBLE), torch.tensor(1 - kept, **DOUBLE))
    assert math.isclose(float(told), float(kl_divergence(seen, law(mean, deviation))), rel_tol=1e-9)
    z = torch.linspace(-60, 60, 2_000_001, **DOUBLE)
    first, second = seen.log_prob(z), law(mean, deviation).log_prob(z)
    assert math.isclose(float(told), float(torch.trapezoid(first.exp() * (first - second), z)), abs_tol=1e-6)


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
def test_the_mean_of_the_bits_bounds_the_information(kept):
    # R normal: Z is normal with variance v, I(R; Z) = log(v / lost²) / 2, and the bound is too large by KL[Z ‖ noise].
    lost = 1 - kept
    v = kept**2 + lost**2
    r = torch.linspace(-12, 12, 200_001, **DOUBLE)
    told = capacity(r, torch.tensor(kept, **DOUBLE), torch.tensor(lost, **DOUBLE))
    mean = float(torch.trapezoid(told * law(0.0, 1.0).log_prob(r).exp(), r))
    information = math.log(v / lost**2) / 2
    assert math.isclose(mean, information + (v - 1 - math.log(v)) / 2, rel_tol=1e-5)
    assert mean >= information
    # R = ±1 with equal chances: the information, by integration, is below the bound too, and below one bit.
    z = torch.linspace(-12, 12, 200_001, **DOUBLE)
    ends = [law(sign * kept, lost).log_prob(z) for sign in (1.0, -1.0)]
    both = torch.logaddexp(*ends) - math.log(2)
    information = float(sum(torch.trapezoid(e.exp() * (e - both), z) for e in ends)) / 2
    bound = float(capacity(torch.tensor(1.0, **DOUBLE), torch.tensor(kept, **DOUBLE), torch.tensor(lost, **DOUBLE)))
    assert 0 < information <= min(bound, math.log(2)) + 1e-9


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


@pytest.mark.parametrize("target", [None, 1])
def test_a_plain_loop_gets_the_same_bits(target):
    model, data, x = network(), draw(9, 1, 6, 5, number=1), draw(3, 1, 6, 5, number=2)
    body, head = model[:2], model[2:]
    method = InformationBottleneck(steps=4, samples=3, repeats=2, beta=5.0, rate=0.7, smooth=0.8)
    got = px.explain(model, x, method, layer="1", data=data, target=target, seed=7)
    values, known = body(x).detach(), body(data).detach()
    mean, deviation = known.mean(0), known.std(0)
    deviation = deviation.clamp(min=0.01 * deviation.square().mean().sqrt())
    keys = as_inputs(x).keys()
    for row in range(3):
        wanted = model(x)[row].argmax() if target is None else target
        maps, losses = [], []
        for repeat in range(2):
            alpha = torch.full((1, *values.shape[1:]), 5.0, **DOUBLE, requires_grad=True)
            adam = torch.optim.Adam([alpha], lr=0.7)
            for step in range(5):
                draws = [step * 6 + repeat * 3 + k for k in range(3)]
                noise = mean + deviation * seed.normal(7, [keys[row]] * 3, draws, values.shape[1:], values)
                kept = blurred(alpha.sigmoid(), 0.8)
                z = kept * values[row] + (1 - kept) * noise
                loss = nn.functional.cross_entropy(head(z), torch.full((3,), int(wanted)))
                seen = Normal(kept[0] * values[row] + (1 - kept[0]) * mean, (1 - kept[0]) * deviation)
                nats = kl_divergence(seen, Normal(mean, deviation))
                if step == 4:
                    maps.append(nats.detach().sum(0) / math.log(2))
                    losses.append(float(loss.detach()))
                    break
                adam.zero_grad()
                (loss + 5.0 * nats.mean()).backward()
                adam.step()
        bits = torch.stack(maps)
        assert torch.allclose(got.values[row, 0], bits.mean(0), rtol=1e-8, atol=1e-12)
        assert torch.allclose(got.error[row, 0], bits.std(0) / 2**0.5, rtol=1e-6, atol=1e-10)
        assert math.isclose(float(got.facts["cross_entropy"][row]), sum(losses) / 2, rel_tol=1e-8)
        assert math.isclose(float(got.facts["bits"][row]), float(bits.mean(0).sum()), rel_tol=1e-8)
        clean = nn.functional.cross_entropy(model(x)[row], torch.tensor(int(wanted))).detach()
        assert math.isclose(float(got.facts["model_cross_entropy"][row]), float(clean), rel_tol=1e-9)


def test_an_open_bottleneck_is_the_model_and_a_closed_one_passes_nothing():
    model, data, x = network(), draw(9, 1, 6, 5, number=1), draw(3, 1, 6, 5, number=2)
    still = {"rate": 1e-12, "steps": 1, "samples": 500, "smooth": 0.0, "repeats": 1}
    wide = px.explain(model, x, InformationBottleneck(start=30.0, **still), layer="1", data=data)
    assert torch.allclose(wide.facts["cross_entropy"], wide.facts["model_cross_entropy"], atol=1e-9)
    assert torch.allclose(wide.facts["noisy_score"], wide.facts["score"].double(), atol=1e-9)
    closed = px.explain(model, x, InformationBottleneck(start=-30.0, **still), layer="1", data=data)
    assert closed.values.abs().max() < 1e-12
    assert closed.error is None
    # What is left is the model's answer to noise alone, whatever the row.
    known = model[:2](data).detach()
    noise = known.mean(0) + known.std(0) * draw(20_000, *known.shape[1:], number=3)
    loss = -model[2:](noise).log_softmax(1).detach()
    for row in range(3):
        expected = loss[:, int(closed.target[row])]
        apart = float(closed.facts["cross_entropy"][row] - expected.mean())
        assert (
            abs(apart) < 5 * float(closed.facts["cross_entropy_error"][row]) + 5 * float(expected.std()) / 20_000**0.5
        )


def test_places_that_nothing_reads_have_no_bits():
    # The head reads the left half of the maps alone; the right half is as loud as the left.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 6 * 8, 2)).double().eval()
    weight = model[2].weight.data.view(2, 2, 6, 8)
    weight *= 12
    weight[..., 4:] = 0
    data, x = draw(60, 1, 6, 8, number=4), draw(8, 1, 6, 8, number=5)
    method = InformationBottleneck(smooth=0.0, beta=1.0, steps=20, repeats=1)
    got = px.explain(model, x, method, layer="0", data=data)
    assert got.values[..., 4:].max() < 1e-3
    assert (got.values[..., :4].flatten(1).sum(1) > 100 * got.values[..., 4:].flatten(1).sum(1)).all()
    assert (got.values >= 0).all()


def test_dearer_bits_are_fewer_and_cost_cross_entropy():
    model, data, x = network(), draw(30, 1, 6, 5, number=1), draw(4, 1, 6, 5, number=2)
    found = [
        px.explain(model, x, InformationBottleneck(beta=beta, steps=20), layer="1", data=data).facts
        for beta in (0.0, 1.0, 1000.0)
    ]
    bits = torch.stack([f["bits"] for f in found])
    assert (bits.diff(dim=0) < 0).all()
    assert found[0]["cross_entropy"].mean() < found[2]["cross_entropy"].mean()
    assert bits[2].max() < 0.05


def test_values_that_never_vary_are_left_alone():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.cat([x, torch.full_like(x[:, :1], 3.0), (x[:, :1] > 5).to(x) * x[:, :1]], 1)

    model = nn.Sequential(Dead(), nn.Linear(4, 2)).double().eval()
    data = draw(20, 2, number=6)
    x = torch.tensor([[0.5, -1.0], [6.0, 0.3]], **DOUBLE)  # the second row has what the data never had
    got = px.explain(model, x, NAME, layer="0", data=data)
    assert got.values[:, 2].tolist() == [0.0, 0.0]
    assert float(got.values[0, 3]) == 0.0
    assert float(got.values[1, 3]) > 0.0


def test_sequences_tables_tokens_and_inputs():
    torch.manual_seed(1)
    table = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x = draw(20, 4, number=7)
    assert px.explain(table, x[:3], NAME, layer="1", data=x).values.shape == (3, 5)
    assert px.explain(table, x[:3], NAME, data=x).values.shape == (3, 4)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).double().eval()
    ids = torch.randint(9, (30, 3), generator=torch.Generator().manual_seed(0))
    got = px.explain(words, ids[:4], NAME, layer="0", data=ids)
    assert got.values.shape == (4, 3, 1)
    assert got.values.dtype == torch.float64


def test_many_rows_of_data_are_one_estimate():
    model, data, x = nn.Linear(3, 2).double().eval(), draw(700, 3, number=8) * 5 + 100, draw(2, 3, number=9) + 100
    method = InformationBottleneck(start=0.0, rate=1e-12, steps=1, samples=1, repeats=1)
    got = px.explain(model, x, method, data=data).values
    seen = Normal((x + data.mean(0)) / 2, data.std(0) / 2)
    assert torch.allclose(got, kl_divergence(seen, Normal(data.mean(0), data.std(0))) / math.log(2), rtol=1e-7)


def test_probabilities_are_taken_as_such():
    model, x = network(), draw(3, 1, 6, 5, number=2)
    logits = px.explain(model, x, NAME, layer="1", data=x)
    chances = nn.Sequential(*model, nn.Softmax(1)).eval()
    same = px.explain(chances, x, InformationBottleneck(output="probabilities"), layer="1", data=x)
    assert torch.allclose(logits.values, same.values, rtol=1e-6, atol=1e-10)


def test_the_mask_of_one_row_of_places():
    kept, lost = mask(torch.tensor([[[[-800.0, 800.0]]]], **DOUBLE), 1.0)
    assert torch.allclose(kept + lost, torch.ones(1, **DOUBLE))
    assert kept.shape == (1, 1, 1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"beta": -1.0}, {"beta": math.nan}, {"steps": 0}, {"samples": 1.5}, {"rate": 0.0}, {"start": math.inf}),
        *({"smooth": -1.0}, {"floor": 0.0}, {"repeats": True}, {"output": "labels"}),
    ],
)
def test_impossible_settings_are_refused(wrong):
    def model(x):
        raise AssertionError("the model ran")

    net = nn.Linear(3, 2).eval()
    net.forward = model
    with pytest.raises(MethodError, match=next(iter(wrong))):
        px.explain(net, torch.ones(2, 3), InformationBottleneck(**wrong), data=torch.ones(3, 3))


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
    with pytest.raises(InputError, match="layer="):
        px.explain(nn.Embedding(4, 2).eval(), torch.ones(2, 3).long(), NAME, data=torch.ones(2, 3).long())


@pytest.mark.slow
def test_trained_network_needs_the_main_object():
    """More bits for each place inside the object than outside, on most pictures."""
    model, world = zoo.load("shapes-cnn"), worlds.shapes(24, seed=1234)
    masks = world.truth["masks"]["main object"].double().reshape(24, 1, 32, 32)
    got = px.explain(model, world.inputs, NAME, layer="block2", data=worlds.shapes(100, seed=5).inputs)
    side = 32 // got.values.shape[2]
    share = nn.functional.avg_pool2d(masks, side)
    bits = got.values.double()
    inside = (bits * share).flatten(1).sum(1) / share.flatten(1).sum(1)
    outside = (bits * (1 - share)).flatten(1).sum(1) / (1 - share).flatten(1).sum(1)
    assert (inside > outside).double().mean() > 0.8
    assert inside.mean() > 2 * outside.mean()
