"""Attention tested by training: tasks of which it is known where to look, and the trained networks by hand."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract.errors import InputError, MethodError, NeedError, PellucidError
from pellucid.evaluation import AttentionIsNotNotExplanation
from pellucid.evaluation.attention_networks import uniform
from pellucid.testing.snapshot import Snapshot

STEPS, PLANTED = 6, 2


class Places(nn.Module):
    """Attention by place alone over tokens that do not know theirs, and a readout of what it mixes."""

    def __init__(self, places=None, steps=STEPS):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(steps) if places is None else torch.tensor(places))
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        # A zero that the tokens take part in, so that the weights depend on what is explained, as they do in a network.
        weights = torch.softmax(self.places + 0 * x.sum(2), 1)
        return self.head((weights[:, None] @ x)[:, 0])


def knowing(places):
    """A network that reads the first number of the tokens at these places."""
    net = Places(places)
    net.head.weight.data = torch.tensor([[-8.0, 0.0], [8.0, 0.0]])
    net.head.bias.data.zero_()
    return net.eval()


def fresh(seed):
    generator = torch.Generator().manual_seed(seed)
    net = Places()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 3
    return net


def tokens(rows, seed):
    return torch.randn(rows, STEPS, 2, generator=torch.Generator().manual_seed(seed))


def planted(rows, seed):
    """The label is the sign of the first number at one place."""
    x = tokens(rows, seed)
    return x, (x[:, PLANTED, 0] > 0).long()


def everywhere(rows, seed):
    """The label is the sign of the mean of the first numbers: uniform attention is right."""
    x = tokens(rows, seed)
    return x, (x[..., 0].mean(1) > 0).long()


POINTED = [0.0] * STEPS
POINTED[PLANTED] = 6.0
METHOD = AttentionIsNotNotExplanation(seeds=2, epochs=12, rate=0.05, strengths=(0.0,), width=8)


def measured(net, task, method=METHOD, factory=fresh, rows=(256, 200), **more):
    x, y = task(rows[1], 1)
    data = {"train": task(rows[0], 0), "labels": y, "factory": factory, **more}
    return px.explain(net, x, method, data=data)


def test_where_one_place_decides_the_networks_attention_guides_and_uniform_attention_does_not():
    found = measured(knowing(POINTED), planted)
    facts = {name: fact.item() for name, fact in found.facts.items()}
    assert facts["accuracy"] > 0.95
    assert facts["guided"] > 0.93
    assert facts["guided_uniform"] < 0.75  # of six tokens, one decides
    assert found.values.item() == pytest.approx(facts["guided"] - facts["guided_uniform"])
    assert found.values.item() > 0.2 > 5 * facts["standard_error"]
    assert facts["learned"] > 0.93
    assert facts["attention_gain"] > 0.2
    assert facts["seed_divergence"] < 0.1  # the task says where to look, whatever the first weights are
    # Nothing in the tokens says where they are, so that weights learnt from them alone can't help.
    assert facts["guided_learned"] < 0.8
    assert found.parts["uniform_divergence"].min() > 0.3


def test_where_no_place_decides_uniform_attention_is_as_good():
    found = measured(knowing([0.0] * STEPS), everywhere)
    facts = {name: fact.item() for name, fact in found.facts.items()}
    assert facts["uniform"] > 0.95
    assert -0.1 < facts["attention_gain"] < 0.02  # learnt weights are a little worse than the right ones
    assert abs(found.values.item()) < 0.01  # the network's attention is uniform itself
    assert found.parts["uniform_divergence"].abs().max() < 1e-6


def test_attention_of_a_network_that_looks_elsewhere_guides_worse():
    wrong = [0.0] * STEPS
    wrong[4] = 6.0
    found = measured(knowing(wrong), planted)
    assert found.facts["guided"].item() < 0.65
    assert found.values.item() < 0
    assert found.facts["seed_divergence"].item() > 0.5  # networks that learn look at the right place


def twins(rows, seed):
    """Two places always hold the same."""
    x, y = planted(rows, seed)
    x[:, 4] = x[:, PLANTED]
    return x, y


def test_an_adversary_looks_at_the_twin_place_where_there_is_one():
    method = AttentionIsNotNotExplanation(seeds=2, epochs=15, rate=0.1, strengths=(0.0, 0.02), width=4)
    found, alone = (measured(knowing(POINTED), task, method).parts for task in (twins, planted))
    apart, moved = found["adversary_divergence"], found["adversary_change"]
    assert apart[0] < 0.4 < 0.6 < apart[1] <= math.log(2)
    assert moved.max() < 0.1
    assert found["adversary_accuracy"].min() > 0.9
    assert found["adversary_guided"].min() > 0.9  # the twin tells as much
    # Without a twin, nobody can look elsewhere and answer the same.
    assert alone["adversary_divergence"][0] < 0.05
    assert alone["adversary_change"][1] > 0.3
    assert alone["adversary_guided"][1] < 0.65


def test_figures_are_those_of_the_networks_that_were_trained():
    kept = []

    def factory(seed):
        kept.append(fresh(seed))
        return kept[-1]

    net, (x, y) = knowing(POINTED), planted(30, 1)
    found = measured(net, planted, factory=factory, rows=(64, 30))
    learned, even, second, _, _ = kept  # per seed one free and one uniform, then an adversary
    by_hand = [(m(x).argmax(1) == y).double().mean().item() for m in (learned, second)]
    assert found.parts["learned_by_seed"].tolist() == pytest.approx(by_hand)
    mean = even.head(x.mean(1)).argmax(1)
    assert found.parts["uniform_by_seed"][0].item() == pytest.approx((mean == y).double().mean().item())
    a, b = (torch.softmax(m.places, 0).double() for m in (net, learned))
    half = (a + b) / 2
    js = ((a * (a / half).log()).sum() + (b * (b / half).log()).sum()) / 2
    assert found.parts["divergence_by_row"][0].tolist() == pytest.approx([js.item()] * 30, abs=1e-6)
    tv = [(net(x).softmax(1) - m(x).softmax(1)).abs().sum(1).mean().item() / 2 for m in (learned, second)]
    assert found.facts["seed_change"].item() == pytest.approx(sum(tv) / 2, abs=1e-6)
    assert found.facts["accuracy"].item() == pytest.approx((net(x).argmax(1) == y).double().mean().item())


def test_killed_and_started_again_ends_with_the_same_bytes(tmp_path):
    method = AttentionIsNotNotExplanation(seeds=2, epochs=2, strengths=(0.1,), width=3)
    whole = measured(knowing(POINTED), planted, method, rows=(40, 10))
    made = []

    def fragile(seed):
        if len(made) == limit[0]:
            raise KeyboardInterrupt
        made.append(seed)
        return fresh(seed)

    limit = [0]
    for limit[0] in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            measured(knowing(POINTED), planted, method, fragile, (40, 10), store=tmp_path)
    limit[0] = 99
    last = measured(knowing(POINTED), planted, method, fragile, (40, 10), store=tmp_path)
    assert len(made) == 5
    for name, part in whole.parts.items():
        assert last.parts[name].numpy().tobytes() == part.numpy().tobytes()
    again = measured(knowing(POINTED), planted, method, fragile, (40, 10), store=tmp_path)
    assert len(made) == 5
    assert torch.equal(again.values, whole.values)


def test_without_a_factory_copies_learn_and_nothing_is_left_behind():
    net, x = knowing(POINTED), planted(20, 1)[0]
    before, state = Snapshot.of(net, x), torch.get_rng_state()
    found = px.explain(net, x, AttentionIsNotNotExplanation(seeds=2, epochs=2, strengths=(0.1,)), data=planted(40, 0))
    assert before.difference(Snapshot.of(net, x)) == ""
    assert torch.equal(state, torch.get_rng_state())
    assert found.facts["accuracy"].item() == 1  # without labels, the model's own answers count as right


def test_uniform_weights_are_over_what_may_be_looked_at():
    given = torch.tensor([[0.2, 0.0, 0.8], [0.1, 0.3, 0.6]])
    assert torch.equal(uniform(given), torch.tensor([[0.5, 0.0, 0.5], [1 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"seeds": 1}, "seeds"), ({"epochs": 0}, "epochs"), ({"strengths": ()}, "strengths"),
     ({"strengths": (-1.0,)}, "strengths"), ({"rate": 0}, "rate"), ({"scores": "odds"}, "scores"), ({"width": 0}, "width")],
)  # fmt: skip
def test_settings_are_checked(settings, word):
    with pytest.raises(MethodError, match=word):
        measured(knowing(POINTED), planted, AttentionIsNotNotExplanation(**settings))


def test_what_cannot_be_tested_is_refused():
    net, (x, y) = knowing(POINTED), planted(10, 1)

    class Other(Places):
        def forward(self, x):
            return self.head(x.mean(1))

    cases = [
        ({"train": (x, y), "labels": y[:3]}, InputError, "labels"),
        ({"train": (x, y), "recipe": fresh}, InputError, "recipe"),
        ({"train": (x, y), "factory": 3}, InputError, "factory"),
        ({"train": (x, y), "factory": lambda seed: 3}, InputError, "factory"),
        ({"train": (x, y.float())}, InputError, "whole numbers"),
        ({"train": (x, 5 + y)}, InputError, "classes of the model"),
        ({"train": x}, NeedError, "labels"),
        ({"train": (x, y), "factory": lambda seed: Other()}, NeedError, "attention"),
    ]
    for data, error, word in cases:
        with pytest.raises(error, match=word):
            px.explain(net, x, METHOD, data=data)
    with pytest.raises(PellucidError, match="attention"):
        px.explain(Other().eval(), x, METHOD, data=(x, y))
