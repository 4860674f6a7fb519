"""Learning to explain on the planted features of its paper, against plain sums, and on a choice that tells the answer."""

import math

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.attribution import LearningToExplain
from pellucid.attribution.selection import Pair, softly
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError

DOUBLE = {"dtype": torch.float64}
QUICK = {"steps": 200, "batch": 400, "hidden": 40, "rate": 3e-3}


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number), **DOUBLE)


def logits(odds):
    """Log-probabilities of two classes from log-odds of the first."""
    return torch.stack([nn.functional.logsigmoid(odds), nn.functional.logsigmoid(-odds)], 1)


def orange_skin(x):
    return x[:, :4].square().sum(1) - 4


def additive(x):
    return -100 * torch.sin(0.2 * x[:, 0]) + x[:, 1].abs() + x[:, 2] + torch.exp(-x[:, 3]) - 2.4


def switch(x):
    """The sign of the last column says which four others count."""
    return torch.where(x[:, 9] > 0, orange_skin(x), orange_skin(x[:, 4:8]))


def ranks(values):
    """1 for the largest value of a row; ties would be counted at their worst."""
    return (values[:, None, :] >= values[:, :, None]).sum(2)


def median_rank(values, planted):
    """Mean over rows of the median rank of each row's planted columns."""
    found = ranks(values)
    medians = [float(torch.quantile(found[i][planted[i]].double(), 0.5)) for i in range(len(values))]
    return sum(medians) / len(medians)


def first(count, rows):
    planted = torch.zeros(rows, 10, dtype=torch.bool)
    planted[:, :count] = True
    return planted


def test_ranks_of_a_worked_example():
    values = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
    assert ranks(values).tolist() == [[4, 1, 2, 3]]
    assert median_rank(values, torch.tensor([[True, True, False, False]])) == 2.5


@pytest.mark.parametrize(("odds", "count"), [(lambda x: x[:, 0] * x[:, 1], 2), (orange_skin, 4)], ids=["xor", "orange"])
def test_planted_features_get_the_first_ranks(odds, count):
    data, x = draw(20_000, 10, number=1), draw(400, 10, number=2)
    method = LearningToExplain(chosen=count, steps=200, batch=500, hidden=50, rate=2e-3)
    got = px.explain(lambda v: logits(odds(v)), x, method, data=data)
    assert median_rank(got.values, first(count, 400)) < (count + 1) / 2 + 0.15  # 5.5 by lot
    assert (got.parts["chosen"].sum(1) == count).all()
    assert (got.facts["held_out_agreement"] > 0.75).all()


@pytest.mark.slow
def test_weak_terms_beside_a_strong_one_are_found_in_many_rows():
    data, x = draw(100_000, 10, number=1), draw(400, 10, number=2)
    method = LearningToExplain(chosen=4, steps=300, rate=2e-3, decay=0.0)
    got = px.explain(lambda v: logits(additive(v)), x, method, data=data)
    assert median_rank(got.values, first(4, 400)) < 2.7


@pytest.mark.slow
def test_the_chosen_features_differ_from_row_to_row():
    rows = []
    for number, count in ((3, 60_000), (4, 400)):
        x = draw(count, 10, number=number)
        x[:, 9] += torch.where(torch.arange(count) % 2 == 0, 3.0, -3.0)
        rows.append(x)
    data, x = rows
    method = LearningToExplain(chosen=5, steps=1200, batch=500, rate=2e-3, decay=0.0)
    got = px.explain(lambda v: logits(switch(v)), x, method, data=data)
    planted = torch.zeros(400, 10, dtype=torch.bool)
    planted[:, 9] = True
    up = x[:, 9] > 0
    planted[up, :4] = True
    planted[~up, 4:8] = True
    assert median_rank(got.values, planted) < 3.5  # 3 at best, 5.5 by lot


def test_the_term_that_decides_is_found_in_a_sum():
    # The first term of the paper's sum is twenty times the others: the answer is nearly always its sign.
    data, x = draw(8000, 10, number=5), draw(200, 10, number=6)
    got = px.explain(lambda v: logits(additive(v)), x, LearningToExplain(chosen=1, **QUICK), data=data)
    assert (got.values.argmax(1) == 0).double().mean() > 0.98
    assert (got.facts["held_out_agreement"] > 0.95).all()


def test_a_model_that_says_nothing_has_no_important_features():
    data, x = draw(3000, 10, number=7), draw(300, 10, number=8)
    method = LearningToExplain(chosen=4, steps=60, batch=200, hidden=30)
    got = px.explain(lambda v: logits(0 * v[:, 0]), x, method, data=data)
    assert 3.5 < median_rank(got.values, first(4, 300)) < 7.5
    assert torch.allclose(got.facts["entropy"], torch.full((300,), math.log(2), **DOUBLE))
    assert (got.facts["information"] <= 1e-12).all()


def test_facts_are_sums_that_can_be_checked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double().eval()
    data, x = draw(400, 6, number=9) * 3 + 2, draw(20, 6, number=10) * 3 + 2
    method = LearningToExplain(chosen=3, steps=100, batch=100, hidden=20, held_out=0.25)
    got = px.explain(model, x, method, data=data)
    chances = model(x).softmax(1)
    entropy = -(chances * chances.log()).sum(1)
    assert torch.allclose(got.facts["entropy"], entropy.detach(), atol=1e-12)
    assert (got.facts["log_likelihood"] <= -got.facts["entropy"] + 1e-12).all()
    assert got.source["rows_trained_on"] == 300
    # The model itself, with other features at their mean (here over all rows, there over those trained on).
    order = torch.argsort(got.values, 1, descending=True)[:, :3]
    chosen = torch.zeros(20, 6, dtype=torch.bool).scatter(1, order, True)
    assert torch.equal(got.parts["chosen"], chosen.double())
    agrees = (model(torch.where(chosen, x, data.mean(0))).argmax(1) == chances.argmax(1)).double().mean()
    assert abs(float(agrees - got.facts["model_agrees"].mean())) <= 0.1
    # E log Q never exceeds -H(Y | X), so the bound is at most the information of all features.
    every = model(data).softmax(1).detach()
    mean = every.mean(0)
    whole = -(mean * mean.log()).sum() + (every * every.log()).sum(1).mean()
    assert (got.facts["information"] < whole + 0.1).all()


def test_chances_are_those_of_draws():
    weights = (torch.zeros(2, 3, **DOUBLE), torch.tensor([0.2, 0.5, 0.3], **DOUBLE).log())
    label = torch.tensor([0, 1])
    pair = Pair(weights, weights, torch.zeros(2, **DOUBLE), torch.ones(2, **DOUBLE), label, 3)
    x = torch.zeros(1, 2, **DOUBLE)
    assert torch.allclose(pair.chances(x, 2), torch.tensor([[1 - 0.8**2, 1 - 0.5**2, 1 - 0.7**2]], **DOUBLE))
    assert pair.choose(x, 2).tolist() == [[0.0, 1.0, 1.0]]
    # The hard limit of the soft draws, counted: the Gumbel draws have the chances of the softmax.
    uniform = torch.rand(40_000, 2, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    marks = softly(weights[1].expand(40_000, 3), uniform, 1e-4).round()
    assert torch.allclose(marks.mean(0), pair.chances(x, 2)[0], atol=5 * 0.5 / 200)
    # By hand: one draw, two features, uniform draws a and b: Gumbel noise -log(-log u), softmax at temperature τ.
    a, b, tau = 0.3, 0.9, 0.5
    left, right = (1.0 - math.log(-math.log(a))) / tau, (2.0 - math.log(-math.log(b))) / tau
    soft = softly(torch.tensor([[1.0, 2.0]], **DOUBLE), torch.tensor([[[a, b]]], **DOUBLE), tau)
    assert math.isclose(float(soft[0, 0]), math.exp(left) / (math.exp(left) + math.exp(right)), rel_tol=1e-12)


def test_features_beyond_the_chosen_are_hidden_from_the_decoder():
    method = LearningToExplain(chosen=1, features=((0, 1), (2,)), steps=200, batch=200, hidden=20)
    data = draw(2000, 4, number=11)
    got = px.explain(lambda v: logits(6 * v[:, 0] * v[:, 1].sign()), data[:50], method, data=data)
    assert (got.values[:, 0] == got.values[:, 1]).all()
    assert (got.values[:, 3] == 0).all()  # in no group: always seen, and no feature
    assert (got.values[:, 0] > got.values[:, 2]).double().mean() > 0.9


def test_a_class_against_the_others():
    data, x = draw(4000, 5, number=12), draw(60, 5, number=13)

    def model(v):  # class 0 is told by column 0; 1 from 2 by column 1
        p = torch.sigmoid(6 * v[:, 0])
        q = torch.sigmoid(6 * v[:, 1])
        return torch.stack([p, (1 - p) * q, (1 - p) * (1 - q)], 1)

    method = LearningToExplain(chosen=1, output="probabilities", **QUICK)
    got = px.explain(model, x, method, data=data, target=torch.arange(60) % 2)
    assert torch.equal(got.target, torch.arange(60) % 2)
    assert (got.values[::2].argmax(1) == 0).double().mean() > 0.95
    alone = px.explain(model, x[:1], method, data=data, target=0)
    assert torch.allclose(alone.values, got.values[:1], atol=1e-12)


def test_a_choice_that_tells_the_answer_is_seen_through():
    # Columns 1 and 2 mean nothing; whoever picks between them by the sign of column 0 can tell the answer.
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double().eval()
    model[0].weight.data[:] = torch.tensor([[4.0, 0, 0], [-4, 0, 0]])
    data = draw(200, 3, number=14)
    from pellucid.attribution.information_selection import _measure
    from pellucid.engine import Ask, Subject
    from pellucid.engine.inputs import as_inputs

    # A chooser that picks column 1 where column 0 is positive and column 2 elsewhere, a decoder that sees which it was.
    chooser = (torch.tensor([[0.0, 9, -9], [0, 0, 0], [0, 0, 0]], **DOUBLE), torch.zeros(3, **DOUBLE))
    one = torch.zeros(3, 4, **DOUBLE)
    one[1, 0], one[1, 1], one[2, 2], one[2, 3] = 1, -1, 1, -1  # |column 1| and |column 2|
    two = torch.tensor([[5.0, -5], [5, -5], [-5, 5], [-5, 5]], **DOUBLE)
    decoder = (one, torch.zeros(4, **DOUBLE), two, torch.zeros(2, **DOUBLE))
    pair = Pair(chooser, decoder, torch.zeros(3, **DOUBLE), torch.ones(3, **DOUBLE), torch.arange(3), 3)
    inputs = as_inputs(data)
    answers = model(data).softmax(1).detach()
    figures = _measure(Ask(subject=Subject(model), inputs=inputs), inputs, answers, None, pair, 1)
    assert figures["decoder_agrees"].mean() == 1
    assert figures["model_agrees"].mean() < 0.7


def test_layers_images_and_types():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).eval()
    data = draw(40, 1, 6, 6, number=15).float()
    method = LearningToExplain(chosen=2, features=("grid", 2), steps=3, batch=8, hidden=8)
    got = px.explain(model, data[:3], method, data=data)
    assert got.values.shape == (3, 1, 6, 6)
    assert got.values.dtype == torch.float32
    assert len(got.values[0].unique()) <= 4
    inner = px.explain(model, data[:3], method, data=data, layer="1")
    assert inner.values.shape == (3, 2, 4, 4)
    assert px.explain(model, data[:3], LearningToExplain(chosen=2, steps=3), data=data, layer="2").values.shape == (
        3,
        32,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"chosen": 0},
            {"chosen": 4},
            {"steps": 0},
            {"batch": -1},
            {"decay": -1.0},
            {"hidden": 1.5},
            {"temperature": 0.0},
        ),
        *({"rate": math.inf}, {"held_out": 1.0}, {"held_out": 0}, {"output": "labels"}),
    ],
)
def test_impossible_settings_are_refused(wrong):
    def model(x):
        raise AssertionError("the model ran")

    with pytest.raises(MethodError, match=next(iter(wrong))):
        px.explain(model, torch.ones(2, 3), LearningToExplain(**{"chosen": 2, **wrong}), data=torch.ones(9, 3))


def test_what_cannot_be_done_is_refused():
    model, x = nn.Sequential(nn.Linear(3, 2)).eval(), draw(9, 3).float()
    method = LearningToExplain(chosen=1, steps=2)
    for target in (lambda y: y[:, 0], px.margin(0, 1), px.unit("0", 0)):
        with pytest.raises(TargetError, match="whole answer"):
            px.explain(model, x, method, data=x, target=target)
    with pytest.raises(NeedError, match="two classes"):
        px.explain(nn.Linear(3, 1).eval(), x, method, data=x)
    with pytest.raises(InputError, match="3 rows"):
        px.explain(model, x, method, data=x[:2])
    with pytest.raises(NeedError, match="sum to 1"):
        px.explain(model, x, LearningToExplain(chosen=1, steps=2, output="probabilities"), data=x)
    images = draw(9, 3, 8, 8).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with pytest.raises(InputError, match="same in every row"):
        px.explain(net, images, LearningToExplain(features=("superpixels", 4)), data=images)


def test_a_measurement_can_ask_again_about_the_whole_answer():
    """The network that chooses is smooth, so hardly moved rows get hardly moved chances."""
    data, quick = draw(200, 10), LearningToExplain(**{**QUICK, "steps": 20})
    found = px.explain(lambda x: logits(additive(x)), data[:3], px.evaluation.MaxSensitivity(of=quick), data=data)
    assert found.values.isfinite().all()
    assert (found.facts["relative"] < 0.2).all()
