"""Words' parts of an LSTM's memory against loops over its equations, and the products of the paper."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import pellucid as px
from nets import negation, sequence
from pellucid.attribution import CellDecomposition
from pellucid.contract.errors import InputError, MethodError, UnsupportedOperation

Tensor = torch.Tensor


def states(rnn: nn.LSTM, x: Tensor, suffix: str = "l0") -> dict[str, list[Tensor]]:
    """Every gate and memory of one sentence, in a loop."""
    w, v = getattr(rnn, f"weight_ih_{suffix}"), getattr(rnn, f"weight_hh_{suffix}")
    b = getattr(rnn, f"bias_ih_{suffix}") + getattr(rnn, f"bias_hh_{suffix}")
    h = c = torch.zeros(v.shape[1], dtype=x.dtype)
    found: dict[str, list[Tensor]] = {name: [] for name in "ifgoch"}
    for word in x:
        i, f, g, o = (w @ word + v @ h + b).chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        for name, value in zip("ifgoch", (i, f, g, o, c, h), strict=True):
            found[name].append(value)
    return found


def parts(s: dict[str, list[Tensor]], weight: Tensor, variant: str) -> Tensor:
    """W·(o_T ⊙ change of tanh) for every word."""
    last, zero = len(s["c"]) - 1, torch.zeros_like(s["c"][0])
    if variant == "difference":
        levels = [zero, *s["c"]]
    else:
        levels = [zero]
        for k in range(last + 1):
            written = s["i"][k] * s["g"][k]
            for later in range(k + 1, last + 1):
                written = written * s["f"][later]
            levels.append(levels[-1] + written)
    changes = [b.tanh() - a.tanh() for a, b in itertools.pairwise(levels)]
    return torch.stack([weight @ (s["o"][last] * change) for change in changes])


@pytest.mark.parametrize("variant", ["difference", "additive"])
@pytest.mark.parametrize("name", ["lstm", "cells"])
@torch.no_grad()
def test_by_loop(name: str, variant: str) -> None:
    net, plain, x = sequence.FLOAT[name](), sequence.FLOAT["lstm"](), sequence.sentences()
    found = px.explain(net, x, CellDecomposition(variant=variant), target=1)
    assert found.values.shape == (3, sequence.LENGTH, 1)
    for row in range(3):
        expected = parts(states(plain.rnn, x[row]), plain.head.weight[1], variant)
        assert torch.allclose(found.values[row, :, 0], expected, atol=1e-13)


@pytest.mark.parametrize("variant", ["difference", "additive"])
def test_factors_multiply_to_the_exponent_of_the_logit_without_its_bias(variant: str) -> None:
    net, x = sequence.FLOAT["lstm"](), sequence.sentences()
    found = px.explain(net, x, CellDecomposition(variant=variant, scale="factor"), target=2)
    logit = (net(x)[:, 2] - net.head.bias[2]).detach()
    assert torch.allclose(found.values[:, :, 0].prod(1), logit.exp())
    assert torch.allclose(found.facts["output_bias"], net.head.bias[2].detach().expand(3))
    assert float(found.facts["telescoping_gap"].max()) < 1e-14


def test_open_forget_gates_make_both_variants_the_same() -> None:
    net, x = sequence.FLOAT["lstm"](), sequence.sentences()
    with torch.no_grad():
        net.rnn.bias_ih_l0[6:12] = 60.0  # sigmoid(60) is 1 in float64
    both = [px.explain(net, x, CellDecomposition(variant=v), target=0).values for v in ("difference", "additive")]
    assert torch.allclose(*both, atol=1e-13)
    with torch.no_grad():
        net.rnn.bias_ih_l0[6:12] = 0.0
    both = [px.explain(net, x, CellDecomposition(variant=v), target=0).values for v in ("difference", "additive")]
    assert not torch.allclose(*both, atol=1e-3)


class Mean(nn.Module):
    """The mean state, and both directions."""

    def __init__(self, two_ways: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(sequence.WIDTH, 4, batch_first=True, bidirectional=two_ways)
        self.head = nn.Linear(8 if two_ways else 4, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


@torch.no_grad()
def test_the_mean_of_states_is_decomposed_state_by_state() -> None:
    net, x = Mean(), sequence.sentences(1)
    found = px.explain(net, x, "murdoch-szlam-lstm-decomposition", target=1)
    s, expected = states(net.rnn, x[0]), torch.zeros(sequence.LENGTH).double()
    for last in range(sequence.LENGTH):
        cut = {name: values[: last + 1] for name, values in s.items()}
        expected[: last + 1] += parts(cut, net.head.weight[1], "difference") / sequence.LENGTH
    assert torch.allclose(found.values[0, :, 0], expected, atol=1e-13)


@torch.no_grad()
def test_a_direction_that_runs_backwards_counts_from_the_end() -> None:
    class Ends(Mean):
        def forward(self, x: Tensor) -> Tensor:
            out = self.rnn(x)[0]
            return self.head(torch.cat([out[:, -1, :4], out[:, 0, 4:]], 1))

    net, x = Ends(True), sequence.sentences(1)
    found = px.explain(net, x, "murdoch-szlam-lstm-decomposition", target=0)
    ahead = parts(states(net.rnn, x[0]), net.head.weight[0, :4], "difference")
    back = parts(states(net.rnn, x[0].flip(0), "l0_reverse"), net.head.weight[0, 4:], "difference").flip(0)
    assert torch.allclose(found.values[0, :, 0], ahead + back, atol=1e-13)


def test_token_ids_with_and_without_the_layer() -> None:
    net = negation.trained()
    says = torch.tensor([[0, 1, 2, 3, negation.GOOD, 5], [0, 1, 2, 3, negation.BAD, 5]])
    found = px.explain(net, says, "murdoch-szlam-lstm-decomposition", target=px.margin(1, 0))
    assert found.values.shape == says.shape
    at_layer = px.explain(net, says, "murdoch-szlam-lstm-decomposition", layer="embedding", target=px.margin(1, 0))
    assert torch.equal(at_layer.values[:, :, 0], found.values)
    assert found.values[0, 4] > found.values[1, 4]
    total = found.values.sum(1) + found.facts["output_bias"]
    assert torch.allclose(total, (net(says)[:, 1] - net(says)[:, 0]).detach())


def test_a_memory_that_does_not_start_at_zero_keeps_its_part() -> None:
    class Started(sequence.Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            start = x.new_full((1, len(x), 6), 0.5)
            return self.head(self.rnn(x, (start, start))[0][:, -1])

    net, x = sequence.settle(Started()), sequence.sentences()
    found = px.explain(net, x, "murdoch-szlam-lstm-decomposition", target=0)
    assert float(found.facts["initial"].abs().min()) > 1e-3
    total = found.values.flatten(1).sum(1) + found.facts["initial"] + net.head.bias[0]
    assert torch.allclose(total, net(x)[:, 0])


def test_refusals() -> None:
    x = sequence.sentences(1)
    with pytest.raises(UnsupportedOperation, match="must hold an LSTM"):
        px.explain(sequence.FLOAT["gru"](), x, "murdoch-szlam-lstm-decomposition")
    with pytest.raises(UnsupportedOperation, match="reads words"):
        px.explain(sequence.FLOAT["lstm-two-ways"](), x, "murdoch-szlam-lstm-decomposition")
    curved = nn.Sequential(sequence.FLOAT["lstm"](), nn.Softmax(1)).eval()
    with pytest.raises(UnsupportedOperation, match=r"affine.*aten._softmax in module '1'"):
        px.explain(curved, x, "murdoch-szlam-lstm-decomposition")
    with pytest.raises(MethodError, match="'variant' must be one of"):
        px.explain(sequence.FLOAT["lstm"](), x, CellDecomposition(variant="beta"))
    with pytest.raises(InputError, match="one sequence"):
        px.explain(sequence.FLOAT["lstm"](), (x, x), "murdoch-szlam-lstm-decomposition")
