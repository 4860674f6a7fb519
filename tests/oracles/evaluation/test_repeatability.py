"""Repeated answers against counting pairs by hand."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import DOUBLE, NET, Told, drawn
from pellucid.attribution import Lime
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NumericalError
from pellucid.evaluation import Consistency, SamplingInstability

# Six features, four answers, by seed; and what is largest in magnitude.
ANSWERS = torch.tensor([[5, -4, 3, 2, 1, 0], [5, -4, 0, 2, 1, 3], [-5, 0, 4, 3, 2, 1], [1, 4, 0, 2, -5, 3]], **DOUBLE)
TOP = [{0, 1}, {0, 1}, {0, 2}, {4, 1}]


@dataclass(frozen=True, kw_only=True)
class Rolled(Method):
    """The answer that the seed picks, times a factor."""

    factor: float = 1.0
    turned: bool = False

    card: ClassVar[Card] = Card(
        name="test-rolled",
        title="Rolled",
        question="What was rolled?",
        form="attribution",
        scope="local",
        citation="none",
        claims=("rowwise", "seeded"),
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        values = (self.factor * ANSWERS[ask.seed % 4]).flip(0) if self.turned else self.factor * ANSWERS[ask.seed % 4]
        return Attribution(values=values.expand(ask.inputs.rows, 6).reshape(ask.inputs.floats[0].shape))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_agreement_is_that_of_the_pairs(rows, shape):
    found = px.explain(NET, drawn(rows, *shape), SamplingInstability(of=Rolled(), repeats=4, top=2), target=0)
    pairs = list(itertools.combinations(TOP, 2))
    want = sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)
    assert found.values.tolist() == pytest.approx([want] * rows)
    assert found.facts["changed"].tolist() == [0.5] * rows
    share = [sum(i in top for top in TOP) / 4 for i in range(6)]
    assert found.parts["selected"][-1].tolist() == share
    assert found.facts["least"].tolist() == [min(share[0], share[1])] * rows
    each = torch.tensor([[a[i] for a in ANSWERS.tolist()] for i in range(6)], **DOUBLE)
    spread = (each.var(1).mean() / each.mean(1).square().mean()).sqrt().item()
    assert found.facts["spread"].tolist() == pytest.approx([spread] * rows)
    assert found.source["warning"] == {"rows whose features change": rows, "of": rows}


def test_kappa_is_that_of_fleiss():
    found = px.explain(NET, drawn(1, 6), SamplingInstability(of=Rolled(), repeats=4, top=2), target=0)
    yes = [sum(i in top for top in TOP) for i in range(6)]  # 3, 3, 1, 0, 1, 0 of four raters
    agreed = sum((n * n + (4 - n) ** 2 - 4) / (4 * 3) for n in yes) / 6
    named = sum(yes) / (6 * 4)
    chance = named**2 + (1 - named) ** 2
    assert found.facts["kappa"].item() == pytest.approx((agreed - chance) / (1 - chance))


def test_settings_are_tried_one_by_one():
    vary = (("factor", (1.0, -3.0)), ("turned", (True,)))
    method = SamplingInstability(of=Rolled(), repeats=2, top=2, vary=vary)
    found = px.explain(NET, drawn(2, 6), method, target=0)
    assert found.parts["agreement of factor"].tolist() == [[1.0, 1.0]] * 2
    assert found.parts["agreement of turned"].tolist() == [[0.0]] * 2  # 5 and 4 then lie at the end


def test_enumeration_leaves_nothing_to_chance_and_draws_do_less_the_more_they_are():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double().eval()
    for number, p in enumerate(net.parameters()):
        p.data = drawn(*p.shape, seed=number)
    x = drawn(3, 4, seed=9)
    exact = px.explain(net, x, SamplingInstability(repeats=3))
    assert exact.parts["deviation"].max() < 1e-12
    assert exact.values.tolist() == exact.facts["kappa"].tolist() == [1.0] * 3
    assert "warning" not in exact.source

    def variance(samples):
        held = Lime(samples=samples, exact=False, features="element")
        found = px.explain(net, x, SamplingInstability(of=held, repeats=20))
        return found.parts["deviation"].square().mean().item()

    assert variance(200) / variance(800) == pytest.approx(4, rel=0.5)


class Cube(nn.Module):
    def forward(self, x):
        first = (x.flatten(1) ** 3).sum(1)
        return torch.stack([first, -first], 1)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_gradients_are_consistent(shape):
    found = px.explain(Cube().eval(), drawn(7, *shape, seed=3), Consistency(of="vanilla-gradient"))
    for name in ("seeds", "alone", "network"):
        assert found.facts[name].tolist() == pytest.approx([1.0] * 7)
    assert found.facts["network_gap"].max() < 1e-12


def test_draws_show_as_inconsistent_by_their_angle():
    found = px.explain(NET, drawn(2, 6), Consistency(of=Rolled(), repeats=3), target=0)
    first = ANSWERS[0]
    want = sum((first @ a / (first.norm() * a.norm())).item() for a in ANSWERS[1:]) / 3
    assert found.facts["seeds"].tolist() == pytest.approx([want] * 2)
    assert found.values.tolist() == pytest.approx([want] * 2)


class Batchwise(Told):
    """Takes the mean over the batch away, as a method must not."""

    card: ClassVar[Card] = Card(
        name="test-batchwise",
        title="Batchwise",
        question="What is wrong?",
        form="attribution",
        scope="local",
        citation="none",
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        x = ask.inputs.floats[0]
        return Attribution(values=x - x.mean(0, keepdim=True))


def test_rows_that_depend_on_each_other_are_caught():
    found = px.explain(NET, drawn(3, 6), Consistency(of=Batchwise()), target=0)
    assert found.facts["alone"].tolist() == [0.0] * 3
    assert found.facts["seeds"].tolist() == pytest.approx([1.0] * 3)


def test_networks_that_compute_the_same():
    one, split = nn.Linear(3, 2, **DOUBLE), nn.Sequential(nn.Linear(3, 4, **DOUBLE), nn.Linear(4, 2, **DOUBLE))
    split[0].weight.data, split[0].bias.data = drawn(4, 3, seed=5), drawn(4, seed=6)
    split[1].weight.data = torch.linalg.lstsq(split[0].weight.T, one.weight.T.detach()).solution.T.contiguous()
    split[1].bias.data = one.bias.detach() - split[1].weight.detach() @ split[0].bias.detach()
    x = drawn(4, 3, seed=7)
    for name in ("vanilla-gradient", "integrated-gradients"):
        found = px.explain(one.eval(), x, Consistency(of=name), data={"model": split.eval()})
        assert found.facts["network"].tolist() == pytest.approx([1.0] * 4)
    found = px.explain(
        one, x, Consistency(of="lrp-alpha-beta"), data={"model": split}
    )  # splits by sign, layer by layer
    assert found.facts["network"].min() < 0.999


def test_a_network_that_computes_something_else_is_refused():
    x = drawn(2, 3)
    with pytest.raises(NumericalError, match="same function"):
        px.explain(nn.Linear(3, 2, **DOUBLE).eval(), x, Consistency(), data={"model": nn.Linear(3, 2, **DOUBLE).eval()})
    with pytest.raises(InputError, match="same function"):
        px.explain(nn.Linear(3, 2, **DOUBLE).eval(), x, Consistency(), data={"model": nn.Linear(3, 1, **DOUBLE).eval()})


@pytest.mark.parametrize(
    "method",
    [
        SamplingInstability(repeats=1),
        SamplingInstability(top=0),
        SamplingInstability(vary=(("samples", 3),)),
        SamplingInstability(vary=(("colour", (3,)),)),
        Consistency(repeats=0),
    ],
)
def test_bad_settings_are_refused(method):
    with pytest.raises(MethodError):
        px.explain(NET, drawn(1, 6), method, target=0)
