"""Exact surrogates, rules that speak for a part, and a front that no explanation is beaten on."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from nets.told import Told, drawn
from pellucid.contract import Card, Method, Rules, RuleStructure
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.engine import seed as seeds
from pellucid.evaluation import ThreeC, three_c
from pellucid.evaluation.three_c import pareto

DOUBLE = {"dtype": torch.float64}
NET = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
for k, p in enumerate(NET.parameters()):
    p.data.copy_(drawn(*p.shape, seed=k))
LINE = nn.Linear(5, 2).double().eval()
with torch.no_grad():
    LINE.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0], [0.0] * 5]))


@dataclass(frozen=True, eq=False)
class Partial(RuleStructure):
    """Class 1 above a threshold of the first column, class 0 below its negative, and nothing in between."""

    kind: ClassVar[str] = "test-partial-3c"
    threshold: float = 0.5

    def predict(self, inputs):
        x = inputs[:, 0]
        return torch.where(x > self.threshold, 1, torch.where(x < -self.threshold, 0, -1))

    def size(self):
        return {"rules": 2}

    def text(self, features=(), classes=()):
        return ["above: 1", "below: 0"]


@dataclass(frozen=True, kw_only=True)
class Ruled(Method):
    """These rules, whatever the network."""

    card: ClassVar[Card] = Card(
        name="test-ruled", title="R", question="Which rules?", form="rules", scope="global", citation="none"
    )

    def explain(self, subject, ask, state):
        return Rules(structure=Partial(), fidelity=1.0)


@pytest.mark.parametrize("of", ["feature-ablation", "shapley-value", "gradient-x-input", "integrated-gradients"])
def test_an_exact_surrogate_is_right_and_covers_all(of):
    found = px.explain(LINE, drawn(4, 5), ThreeC(of=of), target=0)
    assert found.facts["correctness"].tolist() == pytest.approx([1.0] * 4)
    assert found.facts["coverage"].tolist() == [1.0] * 4
    assert found.facts["complexity"].tolist() == [4.0] * 4  # the fourth column has no weight


def test_rules_are_judged_where_they_speak():
    x = drawn(40, 3).float()
    model = lambda z: torch.stack([0.8 - z[:, 0], z[:, 0] - 0.8], 1)  # noqa: E731
    found = px.explain(model, x, ThreeC(of=Ruled()))
    spoken = [v for v in x[:, 0].tolist() if abs(v) > 0.5]
    right = [(v > 0.8) == (v > 0.5) for v in spoken]
    assert found.facts["coverage"].item() == pytest.approx(len(spoken) / 40)
    assert found.facts["correctness"].item() == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right) < 40
    assert found.facts["complexity"].item() == 2


def test_a_tree_of_one_test_is_right_everywhere():
    x = drawn(60, 2).float()
    model = lambda z: torch.stack([-z[:, 0], z[:, 0]], 1)  # noqa: E731
    found = px.explain(model, x, ThreeC(of="cart-c45-surrogate"), data=x)
    assert (found.values.item(), found.facts["coverage"].item(), found.facts["complexity"].item()) == (1.0, 1.0, 2.0)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_the_figures_are_those_of_a_loop(rows, shape):
    x, features = drawn(rows, *shape), "element"
    x.reshape(rows, 6)[:, 2] = 0  # no term
    method = ThreeC(of=Told(), features=features, probes=9, tolerance=0.2)
    found = px.explain(NET, x, method, target=0)
    asked = x.reshape(rows, 6)  # what it says
    from pellucid.engine.inputs import as_inputs

    drawn_probes = seeds.uniform(0, as_inputs(x).keys(), [0] * rows, (9, 7), torch.zeros(1, **DOUBLE))
    for i in range(rows):
        truth, said = [], []
        empty = NET(torch.zeros_like(x[:1]))[0, 0].item()
        kept = [[bool(v < line[6]) for v in line[:6]] for line in drawn_probes[i]] + [[True] * 6]
        for present in kept:
            point = x[i : i + 1].clone().reshape(1, 6)
            point[0, [j for j in range(6) if not present[j]]] = 0
            truth.append(NET(point.reshape(1, *shape))[0, 0].item())
            said.append(empty + sum(asked[i, j].item() for j in range(6) if present[j]))
        mean = sum(truth) / len(truth)
        missed = sum((a - b) ** 2 for a, b in zip(truth, said, strict=True))
        spread = sum((a - mean) ** 2 for a in truth)
        close = [abs(a - b) <= 0.2 * (max(truth) - min(truth)) for a, b in zip(truth, said, strict=True)]
        assert found.values[i].item() == pytest.approx(1 - missed / spread, rel=1e-6)
        assert found.facts["coverage"][i].item() == pytest.approx(sum(close) / len(close))
        assert found.facts["complexity"][i].item() == 5  # one figure is zero


def test_a_score_that_never_moves_is_met_by_nothing_alone():
    still = nn.Sequential(nn.Linear(3, 2)).double().eval()
    with torch.no_grad():
        still[0].weight.zero_()
    found = px.explain(still, drawn(2, 3), ThreeC(of="gradient-x-input"), target=0)
    assert found.values.tolist() == [1.0] * 2
    assert found.facts["complexity"].tolist() == [0.0] * 2


def test_the_front_is_that_of_a_loop():
    values = torch.rand(30, 3, generator=torch.Generator().manual_seed(0), **DOUBLE).mul(5).round()
    values[4, 1] = math.nan
    found, signs = pareto(values, ("higher", "higher", "lower")), (1, 1, -1)
    for i, a in enumerate(values.tolist()):
        others = [b for j, b in enumerate(values.tolist()) if j not in (i, 4)]
        beaten = any(all(s * y >= s * x for s, x, y in zip(signs, a, b, strict=True)) and b != a for b in others)
        assert found[i].item() == float(not beaten and i != 4)


def test_several_explanations_are_set_side_by_side():
    x = drawn(5, 5)
    found = three_c(LINE, x, {"exact": "gradient-x-input", "slopes": "vanilla-gradient", "other": "sp-lime"}, target=0)
    told = found.source["panels"]
    assert told["methods"] == ["exact", "slopes", "other"]
    assert found.values[0].tolist() == pytest.approx([1, 1, 4])
    assert found.values[2].isnan().all()
    assert "form" in told["reasons"]["other"][""]
    assert found.parts["pareto"].tolist() == [1.0, 0.0, 0.0]
    one = px.explain(LINE, x, ThreeC(of="vanilla-gradient"), target=0)
    assert found.values[1, 0].item() == pytest.approx(one.values.mean().item())
    assert found.parts["low"][1, 0] < found.values[1, 0] < found.parts["high"][1, 0]
    assert len(found.show().axes) == 3
    assert "slopes: correctness" in found.describe()


def test_foreign_names_stay_inert():
    found = three_c(LINE, drawn(2, 5), {"<img src=x onerror=alert(1)>": "gradient-x-input"}, target=0)
    assert "<img src=x" not in found.html()
    assert "\x1b" not in three_c(LINE, drawn(2, 5), {"\x1b[31mred": "gradient-x-input"}, target=0).describe()


@pytest.mark.parametrize(
    ("ask", "error", "word"),
    [
        (lambda: px.explain(LINE, drawn(2, 5), ThreeC(probes=1)), MethodError, "probes"),
        (lambda: px.explain(LINE, drawn(2, 5), ThreeC(tolerance=-1)), MethodError, "tolerance"),
        (lambda: px.explain(LINE, drawn(2, 5), ThreeC(of="sp-lime")), MethodError, "form"),
        (lambda: three_c(LINE, drawn(2, 5), []), InputError, "at least one"),
    ],
)
def test_what_can_not_be_asked_is_refused(ask, error, word):
    with pytest.raises(PellucidError, match=word) as found:
        ask()
    assert isinstance(found.value, error)
