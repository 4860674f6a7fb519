"""Defects that were planted: acting on a good explanation mends them, acting on a random one does not."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import IntegratedGradients
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError, PellucidError
from pellucid.engine import seed as seeds
from pellucid.evaluation import Reward


@dataclass(frozen=True, kw_only=True)
class Chance(Method):
    """Noise that knows nothing of the network."""

    card: ClassVar[Card] = Card(
        name="test-chance",
        title="Chance",
        question="What does chance say?",
        form="attribution",
        scope="local",
        citation="none",
        claims=("rowwise", "seeded"),
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        like = ask.inputs.floats[0]
        keys = [b"chance" + k for k in ask.keys]
        return Attribution(values=seeds.normal(ask.seed, keys, [0] * len(like), tuple(like.shape[1:]), like))


def fixed(*sizes):
    """A network with weights of its own."""
    parts = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    net, private = nn.Sequential(*parts[:-1]), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=private) * 0.5)
    return net.eval()


def trained(net, x, y, steps=150):
    step = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(steps):
        step.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        step.step()
    net.zero_grad(set_to_none=True)
    return net


def blobs(count, seed):
    private = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % 2
    return torch.randn(count, 2, generator=private) + 1.6 * (2 * truth[:, None] - 1), truth


def nearest(rows, labels, seed):
    """The label of the nearest row: what is wrong in the data is wrong in the answers."""
    return lambda z: nn.functional.one_hot(labels[torch.cdist(z, rows).argmin(1)], 2)


@pytest.fixture(scope="module")
def mislabelled():
    """Two clouds, a third of one's labels wrong, a network that learnt from all, and a recipe that believes each label."""
    x, truth = blobs(120, 0)
    said = truth.clone()
    said[torch.arange(120)[truth == 1][:20]] = 0
    tried, labels = blobs(200, 1)
    data = {"train": (x, said), "truth": truth, "labels": labels, "recipe": nearest}
    return trained(fixed(2, 8, 2), x, said, 60), data, tried


def asked(case, of, **settings):
    net, data, tried = case
    return px.explain(net, tried, Reward(of=of, **{"repeats": 4, "epochs": 40, **settings}), data=data)


def test_mending_labels_as_the_explanation_says_helps(mislabelled):
    found = asked(mislabelled, IntegratedGradients(steps=8), share=0.2)
    assert found.parts["found"][0] > 0.8
    assert found.parts["found"][1] < 0.4
    assert found.facts["before"].item() < 0.88
    assert found.parts["guided"].min() > 0.92
    assert found.facts["low"].item() > 0.03


def test_neighbours_with_other_labels_are_suspicious_too(mislabelled):
    net, data, tried = mislabelled
    own = {**data, "explanation": data["train"]}
    method = Reward(of=px.examples.DeepNearestNeighbours(neighbours=11), share=0.25)
    found = px.explain(net, tried, method, data=own)
    assert found.parts["found"][0] > 0.6 > found.parts["found"][1]
    assert found.facts["low"].item() > 0


def test_mending_as_noise_says_gains_nothing(mislabelled):
    found = asked(mislabelled, Chance(), share=0.2, repeats=8)
    assert found.facts["low"].item() < 0.02
    assert abs(found.values.item()) < 0.04
    assert found.parts["found"][0] < 0.45


def test_labels_are_mended_by_hand_in_the_same_way(mislabelled):
    net, data, tried = mislabelled
    x, said = data["train"]
    heard = []

    def recipe(rows, labels, seed):
        heard.append((labels.clone(), seed))
        return lambda z: torch.stack([-z[:, 0], z[:, 0]], 1)

    method = Reward(of="gradient-x-input", repeats=2, share=0.1)
    found = px.explain(net, tried, method, data={**data, "recipe": recipe})
    slopes = px.explain(net, x, "gradient-x-input", target=said).values.sum(1)
    worst = slopes.argsort(stable=True)[:12]
    want = said.clone()
    want[worst] = data["truth"][worst]
    assert torch.equal(heard[0][0], want)
    assert torch.equal(heard[2][0], said)
    assert [seed for _, seed in heard] == [0, 0, 0, 1, 1, 1]
    assert found.values.item() == 0.0  # the recipe does not listen
    right = ((tried[:, 0] > 0).long() == data["labels"]).double().mean().item()
    assert found.facts["before"].item() == pytest.approx(right)


def line(rows, labels, seed):
    """Least squares of the labels, as ±1."""
    found = torch.linalg.lstsq(torch.cat([rows, torch.ones(len(rows), 1)], 1), 2.0 * labels[:, None] - 1).solution[:, 0]
    return lambda z: torch.stack([0 * z[:, 0], z @ found[:-1] + found[-1]], 1)


@pytest.fixture(scope="module")
def shortcut():
    """The last of six columns gives the label away in training, and says nothing afterwards."""
    private = torch.Generator().manual_seed(0)

    def rows(count):
        x = torch.randn(count, 6, generator=private)
        return x, (x[:, 0] + 0.7 * x[:, 1] > 0).long()

    x, y = rows(150)
    x[:, 5] = 3.0 * (2 * y - 1) + 0.1 * x[:, 5]
    tried, labels = rows(200)
    tried[:, 5] = 3.0 * tried[:, 5].sign()
    return trained(fixed(6, 8, 2), x, y, 60), {"train": (x, y), "labels": labels, "recipe": line}, tried


def test_masking_the_shortcut_helps_and_masking_at_random_does_not(shortcut):
    settings = {"act": "mask", "share": 0.17, "features": "column", "repeats": 8}
    found = asked(shortcut, IntegratedGradients(steps=8), **settings)
    assert found.facts["before"].item() < 0.75  # the shortcut is what was learnt
    assert found.parts["guided"].min() > 0.9
    assert found.facts["low"].item() > 0.05
    chance = asked(shortcut, Chance(), **settings)
    assert chance.facts["low"].item() < 0.02
    assert chance.values.item() < 0.5 * found.values.item()


def test_pruning_what_does_little_keeps_the_accuracy():
    net = fixed(4, 8, 2)
    with torch.no_grad():
        net[2].weight[:, 4:] = 0.0  # the last four units are read by nobody
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(3))
    labels = net(x).argmax(1)
    ask = {"layer": "1", "data": {"labels": labels}}
    found = px.explain(net, x, Reward(of="gradient-x-input", act="prune", share=0.5, repeats=6), **ask)
    assert found.parts["guided"].tolist() == [1.0] * 6
    assert found.values.item() > 0.02
    for k in range(6):
        gone = torch.from_numpy(seeds.generator(0, b"reward", k).permutation(8))[:4]
        hidden = net[:2](x)
        hidden[:, gone] = 0
        right = (net[2](hidden).argmax(1) == labels).double().mean()
        assert found.parts["random"][k].item() == pytest.approx(right.item())
    chance = px.explain(net, x, Reward(of=Chance(), act="prune", share=0.5, repeats=6), **ask)
    assert chance.values.item() < found.values.item()


def test_the_interval_is_student_s(shortcut):
    found = asked(shortcut, "gradient-x-input", act="mask", share=0.17, features="column")
    each = found.parts["guided"] - found.parts["random"]
    half = 3.182446305284263 * each.std().item() / 2  # t of 3 degrees at 0.975, over the root of 4
    assert found.facts["low"].item() == pytest.approx(each.mean().item() - half)
    assert found.facts["high"].item() == pytest.approx(each.mean().item() + half)


def test_no_trace_is_left(shortcut):
    torch.manual_seed(4)
    before, weights = torch.random.get_rng_state(), [p.clone() for p in shortcut[0].parameters()]
    net, data, tried = shortcut
    own, method = (
        {"train": data["train"], "labels": data["labels"]},
        Reward(act="mask", share=0.17, repeats=2, epochs=1),
    )
    one, two = (px.explain(net, tried, method, data=own) for _ in range(2))
    assert one.parts["guided"].std() > 0  # seeds train other networks
    assert torch.equal(one.parts["guided"], two.parts["guided"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(weights, shortcut[0].parameters(), strict=True))


NET, ROWS = fixed(2, 4, 2), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
PAIR = (ROWS, torch.arange(8) % 2)


@pytest.mark.parametrize(
    ("settings", "data", "error", "word"),
    [
        ({"act": "pray"}, PAIR, MethodError, "act"),
        ({"share": 0}, PAIR, MethodError, "share"),
        ({"repeats": 1}, PAIR, MethodError, "repeats"),
        ({"act": "relabel"}, PAIR, NeedError, "truth"),
        ({"act": "mask"}, {"labels": PAIR[1]}, NeedError, "train"),
        ({"act": "prune"}, {"labels": PAIR[1]}, MethodError, "layer"),
        ({"act": "mask"}, {"train": PAIR, "labels": PAIR[1][:3]}, InputError, "labels"),
        ({"act": "relabel"}, {"train": PAIR, "truth": PAIR[1][:3]}, InputError, "truth"),
        ({"act": "mask", "of": "cart-c45-surrogate"}, PAIR, MethodError, "form"),
    ],
)
def test_what_can_not_be_done_is_refused(settings, data, error, word):
    with pytest.raises(PellucidError, match=word) as found:
        px.explain(NET, ROWS, Reward(**settings), data=data)
    assert isinstance(found.value, error)
