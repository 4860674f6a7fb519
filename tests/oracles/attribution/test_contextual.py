"""Contextual decomposition against the papers' formulas in loops, closed forms and planted interactions; hierarchies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pellucid as px
from nets import negation, sequence, stock
from nets.spellings import SPELLINGS, Spelt, image
from pellucid import zoo
from pellucid.attribution import AgglomerativeDecomposition, ContextualDecomposition
from pellucid.contract.errors import InputError, MethodError, UnsupportedOperation
from pellucid.engine import rules
from pellucid.engine.rules.onward import onward
from pellucid.engine.rules.split import contextual

Tensor = torch.Tensor


class Convolutional(nn.Module):
    """Convolution, rectifier, pooling twice, two linear layers: the network of the paper's figures, smaller."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 4, 3, bias=bias), nn.Conv2d(4, 5, 2, bias=bias)
        self.three, self.four = nn.Linear(5, 6, bias=bias), nn.Linear(6, 3, bias=bias)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.one(x)), 2)
        x = F.max_pool2d(torch.relu(self.two(x)), 2).flatten(1)
        return self.four(torch.relu(self.three(x)))


def by_formula(net: Convolutional, x: Tensor, mask: Tensor, share_last: bool) -> tuple[Tensor, Tensor]:
    """Beta and gamma of the logits by the formulas of 2019, a layer at a time."""

    def linear(layer, beta, gamma, share=True):
        bias = layer(torch.zeros_like(beta))
        wb, wg = layer(beta) - bias, layer(gamma) - bias
        if not share:
            return wb, wg
        part = wb.abs() / (wb.abs() + wg.abs())
        return wb + part * bias, wg + (1 - part) * bias

    def relu(beta, gamma):
        return torch.relu(beta), torch.relu(beta + gamma) - torch.relu(beta)

    def pool(beta, gamma):
        _, at = F.max_pool2d(beta + gamma, 2, return_indices=True)
        return tuple(v.flatten(2).gather(2, at.flatten(2)).reshape(at.shape) for v in (beta, gamma))

    beta, gamma = x * mask, x * (1 - mask)
    for layer in (net.one, net.two):
        beta, gamma = pool(*relu(*linear(layer, beta, gamma)))
    beta, gamma = relu(*linear(net.three, beta.flatten(1), gamma.flatten(1)))
    return linear(net.four, beta, gamma, share_last)


def pictures(rows: int = 3) -> Tensor:
    return image(rows, 2, 8)


@pytest.mark.parametrize("output_bias", ["apart", "share"])
@torch.no_grad()
def test_convolutions_by_formula(output_bias: str) -> None:
    net, x = Convolutional(), pictures()
    groups = torch.zeros(8, 8, dtype=torch.long)
    groups[2:5, 1:6] = 1
    found = px.explain(
        net, x, ContextualDecomposition(output_bias=output_bias), data={"groups": groups.expand(2, 8, 8)}, target=1
    )
    for number in (0, 1):
        mask = (groups == number).to(x)
        beta, _ = by_formula(net, x, mask, output_bias == "share")
        assert torch.allclose(found.values[:, 0][:, groups == number], beta[:, 1, None].expand(-1, int(mask.sum())))
    constant = net.four.bias[1] if output_bias == "apart" else 0.0
    total = found.values[:, 0, 0, 0] + found.values[:, 0, 3, 3] + found.facts["interaction"] + constant
    assert torch.allclose(total, net(x)[:, 1])


def lstm_by_formula(net: sequence.Recurrent, x: Tensor, inside: list[bool]) -> tuple[Tensor, Tensor]:
    """Beta and gamma of the last state of one sentence, by the formulas of 2018, section 3.2."""
    w_ii, w_if, w_ig, w_io = net.rnn.weight_ih_l0.chunk(4)
    w_hi, w_hf, w_hg, w_ho = net.rnn.weight_hh_l0.chunk(4)
    b_i, b_f, b_g, b_o = (net.rnn.bias_ih_l0 + net.rnn.bias_hh_l0).chunk(4)

    def three(act, a, b, c):
        left = 0.5 * (act(a + c) - act(c) + act(a + b + c) - act(b + c))
        right = 0.5 * (act(b + c) - act(c) + act(a + b + c) - act(a + c))
        return left, right, act(c)

    zero = torch.zeros_like(b_i)
    beta_h, gamma_h, beta_c, gamma_c = zero, zero, zero, zero
    for word, here in zip(x, inside, strict=True):
        gates = {}
        for name, w, v, b in (("i", w_ii, w_hi, b_i), ("f", w_if, w_hf, b_f), ("g", w_ig, w_hg, b_g)):
            beta = v @ beta_h + (w @ word if here else 0)
            gamma = v @ gamma_h + (0 if here else w @ word)
            gates[name] = three(torch.tanh if name == "g" else torch.sigmoid, beta, gamma, b)
        (i_b, i_g, i_c), (f_b, f_g, f_c), (g_b, g_g, g_c) = gates["i"], gates["f"], gates["g"]
        new_beta = i_b * (g_b + g_c) + i_c * g_b + (f_b + f_c) * beta_c + (i_c * g_c if here else 0)
        new_gamma = i_g * (g_b + g_g + g_c) + (i_b + i_c) * g_g + (0 if here else i_c * g_c)
        new_gamma = new_gamma + (f_b + f_g + f_c) * gamma_c + f_g * beta_c
        o = torch.sigmoid(w_io @ word + w_ho @ (beta_h + gamma_h) + b_o)
        beta_c, gamma_c = new_beta, new_gamma
        both = torch.tanh(beta_c + gamma_c)
        beta_h = o * 0.5 * (torch.tanh(beta_c) + both - torch.tanh(gamma_c))
        gamma_h = o * 0.5 * (torch.tanh(gamma_c) + both - torch.tanh(beta_c))
    return beta_h, gamma_h


@pytest.mark.parametrize("name", ["lstm", "cells"])
@torch.no_grad()
def test_lstm_by_formula(name: str) -> None:
    net, x = sequence.FLOAT[name](), sequence.sentences(2)
    plain = sequence.FLOAT["lstm"]()
    groups = torch.tensor([0, 1, 1, 0, 2])
    mask = groups[:, None].expand(sequence.LENGTH, sequence.WIDTH)
    found = px.explain(net, x, "contextual-decomposition", data={"groups": mask}, target=2)
    for row in range(2):
        for number in range(3):
            beta, gamma = lstm_by_formula(plain, x[row], (groups == number).tolist())
            assert torch.allclose(beta + gamma, plain.rnn(x)[0][row, -1])
            score = plain.head.weight[2] @ beta
            assert torch.allclose(found.values[row][groups == number], score, atol=1e-12)


def test_beta_and_gamma_sum_to_every_value() -> None:
    """At every operation of every network that has the rules."""
    nets = [
        Convolutional(),
        Spelt(SPELLINGS["slices-in-place"]),
        *(sequence.FLOAT[n]() for n in ("lstm", "gru", "rnn")),
    ]
    for net in nets:
        x = sequence.sentences(2) if isinstance(net, sequence.Recurrent) else pictures(2)
        x = image(2) if isinstance(net, Spelt) else x
        trace = rules.Trace(net, x, score=lambda out: out[:, 1])
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double().round()
        edge, root = trace.edges[0], (trace.score.grad_fn, trace.score.output_nr)
        seen = []

        def see(op, outs, seen=seen):
            for value, parts in zip(op.outs, outs, strict=False):
                if parts is not None and op.region is None:
                    seen.append((value - sum(p for p in parts[:3] if p is not None)).abs().max())

        onward(trace, {edge: (x * mask, x * (1 - mask), None, mask)}, root, contextual(False, "apart"), see)
        assert len(seen) > 8
        assert float(torch.stack(seen).max().detach()) < 1e-12


@pytest.mark.parametrize("name", ["lstm", "gru-two-ways", "rnn-relu"])
def test_the_whole_sentence_is_the_logit_less_the_last_bias(name: str) -> None:
    net, x = sequence.FLOAT[name](), sequence.sentences()
    whole = {"groups": torch.zeros(1, 1, dtype=torch.long)}
    found = px.explain(net, x, "contextual-decomposition", data=whole, target=0)
    assert torch.allclose(found.values[:, 0, 0], (net(x)[:, 0] - net.head.bias[0]).detach())
    assert torch.allclose(found.facts["output_bias"], net.head.bias[0].detach().expand(3))
    assert float(found.facts["interaction"].abs().max()) < 1e-12


def test_the_whole_input_leaves_nothing_to_the_others_even_where_all_is_zero() -> None:
    net, x = Convolutional(), pictures()
    x[:, :, :5] = 0  # so that parts of value zero meet a bias
    whole = {"groups": torch.zeros(1, 1, 1, dtype=torch.long)}
    found = px.explain(net, x, ContextualDecomposition(output_bias="share"), data=whole, target=0)
    assert torch.allclose(found.values[:, 0, 0, 0], net(x)[:, 0].detach())


def test_a_group_of_zeros_gets_nothing_and_a_linear_model_is_additive() -> None:
    net, x = Convolutional(), pictures()
    x[:, :, 3:6] = 0
    found = px.explain(net, x, ContextualDecomposition(features="element"), target=0)
    assert float(found.values[:, :, 3:6].abs().max()) == 0
    straight = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False)).double().eval()
    x = torch.randn(3, 4).double()
    found = px.explain(straight, x, ContextualDecomposition(features=((0, 2), (1, 3))), target=1)
    weight = (straight[1].weight @ straight[0].weight)[1].detach()
    first = x[:, [0, 2]] @ weight[[0, 2]]
    assert torch.allclose(found.values[:, 0], first)
    assert torch.allclose(found.values[:, 2], first)
    assert torch.allclose(found.values[:, 1], x[:, [1, 3]] @ weight[[1, 3]])


def test_negation_turns_a_phrase_round() -> None:
    net = negation.trained()
    ids, labels = negation.sentences(200, 999)
    assert float((net(ids).argmax(1) == labels).double().mean()) > 0.97
    says = torch.tensor([[0, 1, 2, negation.NOT, negation.GOOD, 5], [0, 1, 2, negation.NOT, negation.BAD, 5],
                         [0, 1, 2, 3, negation.GOOD, 5], [0, 1, 2, 3, negation.BAD, 5]])  # fmt: skip
    phrase = torch.tensor([0, 0, 0, 1, 1, 0])[:, None]
    found = px.explain(net, says, "contextual-decomposition", layer="embedding", data={"groups": phrase},
                       target=px.margin(1, 0))  # fmt: skip
    together = found.values[:, 3, 0]
    assert (together > 0).tolist() == [False, True, True, False]
    word = torch.tensor([0, 0, 0, 0, 1, 0])[:, None]
    alone = px.explain(net, says, "contextual-decomposition", layer="embedding", data={"groups": word},
                       target=px.margin(1, 0)).values[:, 4, 0]  # fmt: skip
    assert (alone[2:] > 0).tolist() == [True, False]
    assert alone[0] > together[0]  # "not" takes from "good", and gives to "bad"
    assert alone[1] < together[1]


@pytest.mark.parametrize("name", [n for n in SPELLINGS if n != "module"])
def test_every_spelling_gives_the_same(name: str) -> None:
    settings = ContextualDecomposition(features=("grid", 2))
    plain, spelt = (px.explain(Spelt(SPELLINGS[n]), image(1), settings, target=0).values for n in ("module", name))
    assert torch.allclose(plain, spelt, atol=1e-14)


def test_residual_network_zoo_and_layer() -> None:
    net = stock.settle(stock.ResNet(depths=(1, 1, 1, 1), width=4, classes=3))
    found = px.explain(net, image(2, 3, 16), ContextualDecomposition(features=("grid", 2)))
    assert float(found.facts["decomposition_gap"].max()) < 1e-11
    digits, x = zoo.load("digits-cnn").double(), torch.as_tensor(zoo.data("digits-cnn").test[0][:2]).double()
    found = px.explain(digits, x, ContextualDecomposition(features="element"), layer="hidden", target=3)
    hidden = torch.relu(digits.hidden(torch.zeros(1, 512).double()))  # shape alone
    assert found.values.shape == (2, hidden.shape[1])
    assert float(found.facts["interaction"].abs().max()) < 1e-10


def test_refusals() -> None:
    with pytest.raises(UnsupportedOperation, match=r"aten._softmax in module 'attention'"):
        px.explain(sequence.FLOAT["attention"](), sequence.sentences(1), "contextual-decomposition")
    with pytest.raises(MethodError, match="'output_bias' must be one of"):
        px.explain(Convolutional(), pictures(1), ContextualDecomposition(output_bias="none"))
    with pytest.raises(InputError, match="'data' must be"):
        px.explain(Convolutional(), pictures(1), "contextual-decomposition", data=torch.ones(3))


# --- hierarchies ---


class Pairs(nn.Module):
    """relu(x1 - x3) + x0 - x2 + x4: columns 1 and 3 act together, the others alone."""

    def forward(self, x: Tensor) -> Tensor:
        pair = torch.relu(x @ torch.tensor([[0.0, 1, 0, -1, 0]]).to(x).T)
        return pair + x @ torch.tensor([[1.0, 0, -1, 0, 1]]).to(x).T


def test_a_planted_interaction_merges_first() -> None:
    x = torch.tensor([[1.0, 0.8, 2.0, 0.7, 3.0], [9.0, 0.5, 2.0, 0.9, -3.0]]).double()
    found = px.explain(Pairs().eval(), x, AgglomerativeDecomposition(percentile=100.0))
    for tree, (_, one, _, three, _) in zip(found.source["hierarchy"], x.tolist(), strict=True):
        assert tree[5]["features"] == [1, 3]
        assert tree[5]["children"] == [1, 3]
        assert tree[5]["score"] == pytest.approx(max(one - three, 0))
        assert tree[5]["interaction"] == pytest.approx(max(one - three, 0) - one)  # alone, 1 gives its value, 3 nothing
        assert all(abs(node["interaction"]) < 1e-9 for node in tree[6:])


@pytest.mark.parametrize("percentile", [50.0, 95.0])
def test_a_hierarchy_covers_everything_and_its_root_is_the_score(percentile: float) -> None:
    net, x = Convolutional(), pictures()
    method = AgglomerativeDecomposition(features=("grid", 4), percentile=percentile)
    found = px.explain(net, x, method, target=1)
    assert torch.allclose(found.facts["root_score"], net(x)[:, 1].detach())
    assert float(found.facts["root_gap"].max()) < 1e-12
    for tree in found.source["hierarchy"]:
        assert [n["features"] for n in tree[:16]] == [[i] for i in range(16)]
        assert tree[-1]["features"] == list(range(16))
        assert len(tree) == 31
        used = [c for n in tree for c in n["children"]]
        assert sorted(used) == list(range(30))
        for node in tree[16:]:
            a, b = (tree[c]["features"] for c in node["children"])
            assert sorted(a + b) == node["features"]
            assert any(abs(i // 4 - j // 4) + abs(i % 4 - j % 4) == 1 for i in a for j in b), "neighbours alone merge"


def test_scores_of_groups_are_those_of_contextual_decomposition_and_rows_do_not_mix() -> None:
    net, x = sequence.FLOAT["lstm"](), sequence.sentences(2)
    found = px.explain(net, x, AgglomerativeDecomposition(output_bias="apart"), target=0)
    for row in range(2):
        alone = px.explain(net, x[row : row + 1], AgglomerativeDecomposition(output_bias="apart"), target=0)
        for node, other in zip(found.source["hierarchy"][row], alone.source["hierarchy"][0], strict=True):
            assert node["features"] == other["features"]
            assert node["score"] == pytest.approx(other["score"], abs=1e-12)
        node = found.source["hierarchy"][row][5]
        groups = torch.full((sequence.LENGTH, 1), -1)
        groups[node["features"]] = 0
        score = px.explain(net, x[row : row + 1], "contextual-decomposition", data={"groups": groups}, target=0)
        assert node["score"] == pytest.approx(float(score.values.flatten(1).amax(1) + score.values.flatten(1).amin(1)))


def test_the_group_of_not_good_turns_round() -> None:
    says = torch.tensor([[0, 1, 2, negation.NOT, negation.GOOD, 5], [0, 1, 2, 3, negation.GOOD, 5]])
    found = px.explain(negation.trained(), says, "acd", layer="embedding", target=px.margin(1, 0))
    phrases = [next(n for n in tree[6:] if {3, 4} <= set(n["features"])) for tree in found.source["hierarchy"]]
    assert phrases[0]["score"] < 0 < phrases[1]["score"]


def test_settings_of_the_hierarchy_are_checked() -> None:
    for settings in ({"percentile": 101.0}, {"neighbours": "near"}):
        with pytest.raises(MethodError, match=f"'{next(iter(settings))}' must be"):
            px.explain(Pairs().eval(), torch.ones(1, 5), AgglomerativeDecomposition(**settings))
    with pytest.raises(InputError, match="at most 5000 pairs"):
        px.explain(nn.Linear(200, 1).eval(), torch.ones(1, 200), "acd")
