"""Discarded information against the closed form of a linear network, a plain loop, and words that nothing reads."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import DiscardedInformation
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import seed
from pellucid.engine.inputs import as_inputs

DOUBLE = {"dtype": torch.float64}
NAME = "information-based-measure-nlp"


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number), **DOUBLE)


class Words(nn.Module):
    """A state that is a sum over four words of three dimensions, each with its own matrix; the last is never read."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw(4, 3, 5, number=3) * torch.tensor([1.0, 0.3, 3.0, 0.0])[:, None, None])
        self.state, self.head = nn.Identity(), nn.Linear(5, 2).double()

    def forward(self, x):
        return self.head(self.state(torch.einsum("nwd,wds->ns", x, self.weight)))


@pytest.mark.parametrize("budget", [0.01, 0.2])
def test_a_linear_state_has_its_closed_form(budget):
    # D = sum_i σ_i² |W_i|² / (M S); with the price λ K of log σ_i: σ_i² = λ K M S / (2 |W_i|²), λ = 2 budget / (words K).
    model, data, x = Words().eval(), draw(300, 4, 3, number=1), draw(3, 4, 3, number=2)
    states = torch.einsum("nwd,wds->ns", data, model.weight).detach()
    scale = float(states.var(0).mean())
    method = DiscardedInformation(hidden="state", budget=budget, steps=150, samples=32, largest=20.0)
    got = px.explain(model, x, method, data=data)
    price = 2 * budget / (4 * 3)
    for word in range(3):
        sigma = math.sqrt(price * 3 * 5 * scale / (2 * float(model.weight[word].detach().square().sum())))
        assert torch.allclose(got.parts["sigma"][:, word], torch.full((3, 3), sigma, **DOUBLE), rtol=0.08)
    # The word that is never read bears the largest noise, exactly; it spends nothing of the budget.
    largest = 20 * float(data.std(correction=0))
    assert torch.allclose(got.parts["sigma"][:, 3], torch.full((3, 3), largest, **DOUBLE), rtol=3e-3)
    assert (got.values[:, 3] == 0).all()
    assert torch.allclose(got.facts["distortion"], torch.full((3,), 0.75 * budget, **DOUBLE), rtol=0.5)
    assert abs(float(got.facts["distortion"].mean()) / (0.75 * budget) - 1) < 0.25
    # Bits and the paper's entropy are two readings of σ.
    assert torch.allclose(got.values, torch.log2(got.parts["sigma"][:, 3:, :1] / got.parts["sigma"]), atol=1e-9)
    entropy = got.parts["sigma"].log() + 0.5 * math.log(2 * math.pi * math.e)
    assert torch.allclose(got.parts["entropy"], entropy, atol=1e-9)
    assert torch.allclose(got.facts["entropy"], entropy.flatten(1).sum(1), atol=1e-9)
    assert got.facts["at_largest"].tolist() == [0.25] * 3


def test_twice_the_budget_is_half_a_bit_less():
    model, data, x = Words().eval(), draw(100, 4, 3, number=1), draw(2, 4, 3, number=2)
    found = [
        px.explain(model, x, DiscardedInformation(hidden="state", budget=b), data=data).values for b in (0.02, 0.04)
    ]
    assert torch.allclose(found[0][:, :3] - found[1][:, :3], torch.tensor(0.5, **DOUBLE), atol=0.1)


def test_a_plain_loop_gets_the_same_noise():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    data, x = draw(40, 4, number=4) * torch.tensor([1.0, 5.0, 0.2, 1.0]), draw(2, 4, number=5)
    steps, samples = 6, 3
    method = DiscardedInformation(steps=steps, samples=samples, repeats=2, budget=0.1, rate=0.3, largest=4.0)
    got = px.explain(model, x, method, data=data, seed=9)
    top = 4 * data.std(0)
    scale = model(data).detach().var(0).mean()
    keys = as_inputs(x).keys()
    for row in range(2):
        found, distortions = [], []
        for repeat in range(2):
            logs = torch.full((4,), math.log(0.1), **DOUBLE, requires_grad=True)
            late = []
            for step in range(steps + 1):
                draws = [(step * 2 + repeat) * samples + k for k in range(samples)]
                noise = seed.normal(9, [keys[row]] * samples, draws, (4,), x)
                if step == steps:
                    logs = torch.stack(late).mean(0)
                moved = model(x[row] + logs.exp() * top * noise) - model(x[row])
                distortion = moved.square().mean(1).mean() / scale
                if step == steps:
                    distortions.append(float(distortion.detach()))
                    break
                (slope,) = torch.autograd.grad(distortion, logs)
                size = slope.abs() if step == 0 else size  # noqa: F821
                price = torch.full((4,), 2 * 0.1 / 4, **DOUBLE)
                stride = 0.3 * 0.1 ** (step / steps) * ((price - slope) / torch.maximum(size, price)).clamp(-3, 3)
                logs = (logs.detach() + stride).clamp(max=0).requires_grad_()
                size = 0.8 * size + 0.2 * slope.abs()
                if step >= steps // 2:
                    late.append(logs.detach().clone())
            found.append(logs)
        logs = torch.stack(found)
        assert torch.allclose(got.values[row], -logs.mean(0) / math.log(2), rtol=1e-9, atol=1e-12)
        assert torch.allclose(got.error[row], logs.std(0) / math.log(2) / 2**0.5, rtol=1e-7, atol=1e-12)
        assert math.isclose(float(got.facts["distortion"][row]), sum(distortions) / 2, rel_tol=1e-9)


def test_a_score_is_a_state_of_one_value():
    model, data, x = nn.Linear(3, 2, bias=False).double().eval(), draw(200, 3, number=6), draw(2, 3, number=7)
    model.weight.data[:] = torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 3.0]])
    method = DiscardedInformation(samples=16, largest=50.0)
    got = px.explain(model, x, method, data=data, target=torch.tensor([0, 1]))
    for row, (weight, unread) in enumerate(((model.weight[0], 2), (model.weight[1], 0))):
        scale = float((data @ weight.detach()).var())
        for column in set(range(3)) - {unread}:
            sigma = math.sqrt(2 * 0.05 / 3 * scale / 2) / abs(float(weight[column].detach()))
            assert math.isclose(float(got.parts["sigma"][row, column]), sigma, rel_tol=0.1)
        assert float(got.values[row, unread]) == 0
    same = px.explain(model, x, method, data=data, target=lambda y: y[:, 0])
    assert torch.allclose(same.values[0], got.values[0], atol=1e-9)


def test_a_deeper_state_keeps_less():
    # The second state sees the first through a sum of two of its four columns.
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False)
    model = nn.Sequential(first, second).double().eval()
    first.weight.data[:], second.weight.data[:] = torch.eye(4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    data, x = draw(200, 4, number=8), draw(3, 4, number=9)
    low, high = (px.explain(model, x, DiscardedInformation(hidden=h), data=data).values for h in ("0", "1"))
    assert (low > 3).all()
    assert (high[:, 2:] == 0).all()
    assert (high[:, :2] > 3).all()


def test_token_ids_at_their_embedding_and_padding():
    torch.manual_seed(1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids, mask):
            return self.head((self.embedding(ids) * mask[..., None]).sum(1))

    net = Net().double().eval()
    ids = torch.randint(9, (30, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(30, 5).long()
    mask[0, 3:] = 0
    data = {"ids": ids, "mask": mask}
    got = px.explain(net, {"ids": ids[:2], "mask": mask[:2]}, NAME, layer="embedding", data=data)
    assert got.values.shape == (2, 5, 4)
    assert (got.values[0, 3:] == 0).all()
    assert (got.values[0, :3] > 0).all()
    assert (got.values[1] > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [{"budget": 0.0}, {"largest": -1.0}, {"rate": math.inf}, {"steps": 0}, {"samples": 2.5}, {"repeats": True}],
)
def test_impossible_settings_are_refused(wrong):
    def model(x):
        raise AssertionError("the model ran")

    net = nn.Linear(3, 2).eval()
    net.forward = model
    with pytest.raises(MethodError, match=next(iter(wrong))):
        px.explain(net, torch.ones(2, 3), DiscardedInformation(**wrong), data=torch.ones(3, 3))


def test_what_cannot_be_done_is_refused():
    net, x = nn.Sequential(nn.Linear(3, 2)).eval(), torch.eye(3)
    with pytest.raises(LayerError, match="module of the model"):
        px.explain(net, x, DiscardedInformation(hidden="nowhere"), data=x)
    with pytest.raises(TargetError, match="hidden"):
        px.explain(net, x, DiscardedInformation(hidden="0"), data=x, target=1)
    with pytest.raises(InputError, match="at least 2"):
        px.explain(net, x, NAME, data=x[:1])
    with pytest.raises(InputError, match="differ"):
        px.explain(net, x, NAME, data=x[:1].expand(4, 3))
    with pytest.raises(NeedError):
        px.explain(lambda v: v, x, NAME, data=x)
    nn.init.zeros_(net[0].weight)
    with pytest.raises(InputError, match="vary"):
        px.explain(net, x, NAME, data=x)
