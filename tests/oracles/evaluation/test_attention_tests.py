"""The tests of attention against closed forms, scipy and a grid over all attentions of three tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

import pellucid as px
from nets import sequence, stock
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.evaluation import AttentionIsNotExplanation
from pellucid.evaluation.attention_search import divergence, permuted

DOUBLE = {"dtype": torch.float64}
QUICK = {"permutations": 3, "starts": 1, "steps": 2}


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Averaged(nn.Module):
    """Attention over embeddings, no recurrence: softmax of x·q weighs x, and v reads the mean."""

    def __init__(self, q, v):
        super().__init__()
        self.q, self.v = nn.Parameter(q), nn.Parameter(v)
        self.double().eval()

    def attention(self, x):
        return torch.softmax(x @ self.q, 1)

    def read(self, x, a):
        return (a[:, None] @ x)[:, 0] @ self.v

    def forward(self, x):
        return self.read(x, self.attention(x))


AVERAGED = Averaged(drawn(4, seed=2), drawn(4, 1, seed=3))
X = drawn(7, 6, 4)


def test_the_gradient_at_a_token_is_its_weight_times_the_readers_norm():
    found = px.explain(AVERAGED, X, AttentionIsNotExplanation(**QUICK))
    assert torch.allclose(
        found.parts["gradient"], AVERAGED.attention(X).detach() * AVERAGED.v.norm().item(), atol=1e-12
    )
    assert found.facts["tau_gradient"].tolist() == pytest.approx([1.0] * 7)
    product = px.explain(AVERAGED, X, AttentionIsNotExplanation(gradient="product", **QUICK))
    want = (AVERAGED.attention(X) * (X @ AVERAGED.v)[..., 0]).abs().detach()
    assert torch.allclose(product.parts["gradient"], want, atol=1e-12)


def test_tau_with_leave_one_out_of_random_values_is_not_one():
    x = drawn(200, 6, 4, seed=8)
    found = px.explain(AVERAGED, x, AttentionIsNotExplanation(hold=True, **QUICK))
    assert 0.2 < found.facts["tau_leave_one_out"].mean() < 0.8
    for row in range(0, 200, 40):
        base, a = torch.sigmoid(AVERAGED(x[row : row + 1])), AVERAGED.attention(x[row : row + 1])
        falls = []
        for i in range(6):
            less = x[row : row + 1].clone()
            less[:, i] = 0
            falls.append((torch.sigmoid(AVERAGED.read(less, a)) - base).abs().item())
        want = kendalltau(a[0].detach().numpy(), falls)
        assert found.parts["leave_one_out"][row].tolist() == pytest.approx(falls, abs=1e-12)
        assert found.facts["tau_leave_one_out"][row].item() == pytest.approx(want.statistic, abs=1e-12)
        assert found.facts["tau_leave_one_out_p"][row].item() == pytest.approx(want.pvalue, abs=1e-12)


def test_equal_values_zeroed_without_renormalising_fall_by_the_weight():
    # The first column makes the weights, the second is the value that is read: 0.3 at every token.
    net = Averaged(torch.tensor([1.0, 0.0]), torch.tensor([[0.0], [2.0]]))
    x = torch.stack([drawn(3, 5), torch.full((3, 5), 0.3, **DOUBLE)], 2)
    found = px.explain(net, x, AttentionIsNotExplanation(hold=True, **QUICK))
    whole = torch.tensor(0.6, **DOUBLE)
    want = torch.sigmoid(whole) - torch.sigmoid(whole * (1 - net.attention(x)))
    assert torch.allclose(found.parts["leave_one_out"], want.detach(), atol=1e-12)
    assert found.facts["tau_leave_one_out"].tolist() == pytest.approx([1.0] * 3)
    # And the model attends anew where the attention is not held: the zeroed token's own logit is 0 too.
    anew = px.explain(net, x, AttentionIsNotExplanation(**QUICK))
    less = x.clone()
    less[:, 2] = 0
    want = (torch.sigmoid(net(less)) - torch.sigmoid(whole)).abs()[:, 0]
    assert torch.allclose(anew.parts["leave_one_out"][:, 2], want.detach(), atol=1e-12)


def test_uniform_attention_does_not_change_when_permuted():
    found = px.explain(
        Averaged(torch.zeros(4), drawn(4, 1)), X, AttentionIsNotExplanation(permutations=20, starts=1, steps=2)
    )
    assert found.facts["permutation_change"].max() < 1e-12
    assert found.facts["tau_gradient"].isnan().all()  # nothing to rank
    assert found.source["distributions"]["tau_gradient"]["all"]["excluded"] == list(range(7))


def test_every_permutation_is_one_of_the_six_and_the_median_is_theirs():
    net, x = Averaged(drawn(4, seed=2), drawn(4, 3, seed=5)), drawn(4, 3, 4, seed=6)
    found = px.explain(net, x, AttentionIsNotExplanation(permutations=200, starts=1, steps=1))
    for row in range(4):
        one, a = x[row : row + 1], net.attention(x[row : row + 1])
        base = net(one).softmax(1)
        changes = [
            (net.read(one, a[:, list(order)]).softmax(1) - base).abs().sum().item() / 2
            for order in itertools.permutations(range(3))
        ]
        got = found.parts["permuted"][row]
        nearest = (got[:, None] - torch.tensor(changes, **DOUBLE)).abs().min(1)
        assert nearest.values.max() < 1e-12
        counts = torch.bincount(nearest.indices, minlength=6)
        assert counts.min() > 10  # 33 expected of each
        assert found.facts["permutation_change"][row].item() == pytest.approx(np.median(got.numpy()), abs=1e-12)


def test_permuted_weights_stay_among_what_may_be_looked_at():
    real = torch.tensor([[[[0.1, 0.0, 0.6, 0.3, 0.0]]]], **DOUBLE)
    seen = set()
    for seed in range(60):
        got = permuted(real, torch.rand(1, 1, 1, 5, generator=torch.Generator().manual_seed(seed), **DOUBLE))
        assert got[..., [1, 4]].abs().sum() == 0
        assert sorted(got.flatten().tolist()) == sorted(real.flatten().tolist())
        seen.add(tuple(got.flatten().tolist()))
    assert len(seen) == 6


def jensen_shannon(p, q):
    """By the definition, with sums over what is not zero."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def against(x):
        return sum(a * math.log(a / c) for a, c in zip(x, m, strict=True) if a > 0)

    return (against(p) + against(q)) / 2


def test_divergence_is_the_definition():
    p, q = torch.softmax(drawn(2, 2, 1, 5), 3), torch.softmax(drawn(2, 2, 1, 5, seed=9), 3)
    p[0, 0, 0] = torch.tensor([0, 0, 1, 0, 0])
    share = torch.tensor([0.25, 0.75], **DOUBLE).reshape(1, 2, 1).expand(2, 2, 1)
    for row in range(2):
        want = sum(s * jensen_shannon(p[row, h, 0].tolist(), q[row, h, 0].tolist()) for h, s in ((0, 0.25), (1, 0.75)))
        assert divergence(p, q, share)[row].item() == pytest.approx(want, abs=1e-14)


def test_where_nothing_depends_on_attention_all_weight_goes_to_the_least():
    x = drawn(3, 1, 4).expand(3, 5, 4) + 0
    net = Averaged(torch.zeros(4), drawn(4, 2))
    bias = drawn(5, seed=4)  # weights by position, values all equal: the output never changes
    net.attention = lambda x: torch.softmax(x @ net.q + bias, 1)
    found = px.explain(net, x, AttentionIsNotExplanation(permutations=1, starts=6, steps=100, epsilon=0.0001, rate=2.0))
    a = net.attention(x)[0].tolist()
    least = [1.0 * (i == a.index(min(a))) for i in range(5)]
    best = jensen_shannon(least, a)
    assert bool((found.values <= best + 1e-12).all())
    assert found.values.min() > 0.99 * best
    assert found.values.max() <= math.log(2)


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_the_search_finds_what_a_grid_over_all_attentions_finds_and_keeps_the_bound(epsilon):
    net, x = Averaged(drawn(4, seed=2), drawn(4, 3, seed=5)), drawn(6, 3, 4, seed=6)
    found = px.explain(net, x, AttentionIsNotExplanation(permutations=1, epsilon=epsilon, starts=8, steps=80))
    steps = 150
    grid = torch.tensor(
        [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)], **DOUBLE
    ) / steps  # fmt: skip
    for row in range(6):
        a, base = net.attention(x[row : row + 1])[0].tolist(), net(x[row : row + 1]).softmax(1)
        moved = (net.read(x[row : row + 1].expand(len(grid), -1, -1), grid).softmax(1) - base).abs().sum(1) / 2
        inside = grid[moved <= epsilon].tolist()
        best = max([jensen_shannon(p, a) for p in inside], default=0.0)
        assert found.values[row].item() > 0.95 * best
        other = found.parts["adversarial"][row]
        change = (net.read(x[row : row + 1], other[None]).softmax(1) - base).abs().sum() / 2
        assert change.item() == pytest.approx(found.facts["adversarial_change"][row].item(), abs=1e-12)
        assert change <= epsilon
        assert other.sum().item() == pytest.approx(1)
        assert jensen_shannon(other.tolist(), a) == pytest.approx(found.values[row].item(), abs=1e-12)
        assert 0 <= found.values[row] <= math.log(2)
        starts = found.parts["by_start"][row].tolist()
        assert found.values[row].item() == max(starts)
        near = sum(reached >= 0.95 * max(starts) for reached in starts) / 8
        assert found.facts["search_agreement"][row].item() == pytest.approx(near)


def test_two_tokens_of_different_values_have_no_other_attention():
    net, x = Averaged(drawn(4, seed=2), drawn(4, 2, seed=5)), drawn(3, 2, 4, seed=6)
    found = px.explain(net, x, AttentionIsNotExplanation(permutations=1, epsilon=0.0, starts=2, steps=5))
    assert found.values.max() < 1e-9
    assert found.facts["adversarial_change"].max() == 0


class Heads(nn.Module):
    """Two layers of multi-head attention with a residual path; the first token is read."""

    def __init__(self, way):
        super().__init__()
        self.layers = nn.ModuleList(stock.Attention(6, 2, way) for _ in range(2))
        self.head = nn.Linear(6, 3)
        stock.settle(self, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.head(torch.tanh(x[:, 0]))


def test_spellings_chunks_and_batches_agree():
    x, method = drawn(5, 4, 6), AttentionIsNotExplanation(permutations=5, starts=2, steps=4)
    first = px.explain(Heads("hand"), x, method, target=1)
    for other in (
        px.explain(Heads("module"), x, method, target=1),
        px.explain(Heads("sdpa"), x, method, target=1, memory=2**17),
        *[px.explain(Heads("hand"), x[i : i + 1], method, target=1) for i in (0, 4)],
    ):
        rows = slice(None) if len(other.values) == 5 else [0] if torch.equal(other.context.inputs, x[:1]) else [4]
        assert torch.allclose(other.values, first.values[rows], atol=1e-9)
        for name, fact in first.facts.items():
            assert torch.allclose(other.facts[name], fact[rows], atol=1e-9), name
    assert not torch.allclose(
        px.explain(Heads("hand"), x, method, target=1, seed=1).parts["permuted"], first.parts["permuted"]
    )
    assert first.parts["attention"].sum(1).tolist() == pytest.approx([1.0] * 5)


def test_words_with_padding_are_never_given_weight():
    net = stock.settle(sequence.Tokens())
    mask = torch.ones(3, sequence.LENGTH, dtype=torch.long)
    mask[0, 3:] = 0
    given = {"ids": sequence.token_ids(), "mask": mask}
    method = AttentionIsNotExplanation(permutations=10, starts=2, steps=10, epsilon=0.1)
    found = px.explain(net, given, method, layer="embedding")
    assert found.facts["tokens"].tolist() == [3, 5, 5]
    for name in ("attention", "adversarial"):
        assert found.parts[name][0, 3:].abs().max() == 0
    alone = px.explain(net, {"ids": given["ids"][:1, :3], "mask": mask[:1, :3]}, method, layer="embedding")
    for name in ("tau_gradient", "tau_leave_one_out", "largest_weight"):
        assert alone.facts[name].item() == pytest.approx(found.facts[name][0].item(), abs=1e-9)


def test_the_result_says_what_it_does_not_show():
    found = px.explain(AVERAGED, X, AttentionIsNotExplanation(**QUICK))
    assert "not that they are useless" in found.source["caveat"]
    two = px.explain(Averaged(drawn(4, seed=2), drawn(4, 2, seed=5)), X, AttentionIsNotExplanation(**QUICK))
    spread = two.source["distributions"]["divergence"]
    assert spread["all"]["mean"] == pytest.approx(two.values.mean().item())
    assert sum(v["rows"] for k, v in spread.items() if k != "all") == 7


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"epsilon": -0.1}, MethodError, "epsilon"),
        ({"epsilon": True}, MethodError, "epsilon"),
        ({"steps": 0}, MethodError, "steps"),
        ({"permutations": 0}, MethodError, "permutations"),
        ({"scores": "odds"}, MethodError, "scores"),
        ({"gradient": "sum"}, MethodError, "gradient"),
        ({"block": 0.5}, MethodError, "block"),
        ({"block": 3}, InputError, "block"),
    ],
)
def test_settings_are_checked(settings, error, word):
    with pytest.raises(error, match=word):
        px.explain(AVERAGED, X, AttentionIsNotExplanation(**{**QUICK, **settings}))


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(NeedError, match="must have attention"):
        px.explain(sequence.FLOAT["lstm"](), sequence.sentences(), AttentionIsNotExplanation(**QUICK))
    with pytest.raises(TargetError, match="unit"):
        px.explain(Heads("hand"), drawn(1, 4, 6), AttentionIsNotExplanation(**QUICK), target=px.unit("head", 1))

    class Steps(Heads):
        def forward(self, x):
            return self.head(self.layers[0](x))

    with pytest.raises(InputError, match="one row of scores"):
        px.explain(Steps("hand"), drawn(1, 4, 6), AttentionIsNotExplanation(**QUICK), target=lambda out: out[:, 0, 0])
