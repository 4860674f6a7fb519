"""Operations against counts by hand on small models."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pellucid as px
from nets.told import DOUBLE, drawn
from pellucid.contract.errors import InputError, MethodError, NeedError, UnsupportedOperation
from pellucid.evaluation import Simulatability, score_simulation, simulation_tasks


def counts(net, x, method="simulatability", **settings):
    found = px.explain(net, x, method, **settings)
    kinds = ("multiplications", "additions", "comparisons", "lookups")
    assert torch.equal(found.values, sum(found.facts[k] for k in kinds))
    return [[int(found.facts[k][row]) for k in kinds] for row in range(len(found.values))]


def test_linear_models_and_networks_as_by_hand():
    """Four columns, three classes: 12 products, 9 sums of them and 3 biases, 2 comparisons of scores."""
    x = torch.ones(2, 4)
    assert counts(nn.Linear(4, 3).eval(), x) == [[12, 12, 2, 0]] * 2
    assert counts(nn.Linear(4, 3, bias=False).eval(), x) == [[12, 9, 2, 0]] * 2
    assert counts(nn.Linear(4, 3).eval(), x, target=1) == [[12, 12, 0, 0]] * 2  # nothing is chosen
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(1)).eval()
    # 20 + 15 products and 3 divisions; 20 + 15 sums and 2 of the exponentials; 5 + 2 comparisons; 3 exponentials.
    assert counts(net, x) == [[38, 37, 7, 3]] * 2
    assert px.explain(net, x, "simulatability").source["size"] == {"parameters": 43}


def test_convolutions_pools_and_norms_as_by_hand():
    """A 3 × 3 kernel on two channels of 4 × 4 makes 2 × 2 places in each of 3 channels, 18 products a place."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2)).eval()
    products = 12 * 18 + 12 + 6
    sums = 12 * (17 + 1) + 12 + 2 * (2 + 1)
    assert counts(net, torch.ones(1, 2, 4, 4)) == [[products, sums, 3 * 3 + 1, 0]]
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten()).eval()
    assert counts(net, torch.ones(1, 1, 4, 4)) == [[4, 12, 3, 0]]


def test_one_network_costs_the_same_in_every_spelling():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x):
            return self.one(functional.relu(self.one(x)))

    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)).eval()
    assert counts(Reused().eval(), torch.ones(1, 4)) == counts(plain, torch.ones(1, 4))


def test_recurrent_layers_cost_what_their_cells_do_step_by_step():
    """A layer that torch runs as one operation, against its cell in a loop; a state of zeros is multiplied all the same."""

    class Loop(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            h = c = torch.zeros(len(x), 4)
            for step in range(x.shape[1]):
                h, c = self.cell(x[:, step], (h, c))
            return h

    layer = nn.LSTM(3, 4, batch_first=True).eval()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)[0][:, -1]

    x = torch.ones(1, 5, 3)
    assert counts(Whole().eval(), x) == counts(Loop(nn.LSTMCell(3, 4)).eval(), x)


def diagonal(x):
    """Class 1 above a slanted line: one weighted sum, or a staircase of tests."""
    return torch.stack([1 - x.sum(1), x.sum(1) - 1], 1)


def test_a_linear_model_is_smaller_than_a_tree_and_a_tree_than_a_network_on_a_slanted_line():
    """As a whole: numbers of the line, tests of the tree, numbers of the network. A single path is short."""
    x = torch.rand(600, 2, generator=torch.Generator().manual_seed(0))
    linear, network = nn.Linear(2, 1).eval(), nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    tree = px.rules.CartSurrogate(max_depth=None, min_rows=1)
    assert px.explain(diagonal, x[:100], tree, data=x[100:]).fidelity > 0.93  # the line itself is told exactly
    by_tree = px.explain(diagonal, x[:100], Simulatability(of=tree), data=x[100:])
    by_line, by_network = (px.explain(net, x[:100], "simulatability") for net in (linear, network))
    assert by_line.values.unique().tolist() == [4]  # two products, a sum, the bias; the sign is read off
    assert by_tree.values.max() < by_network.values.min()
    sizes = [by_line.source["size"]["parameters"], by_tree.source["size"]["conditions"]]
    assert 3 == sizes[0] < sizes[1] < by_network.source["size"]["parameters"]


def test_tests_of_a_tree_are_those_of_each_rows_path():
    x = torch.rand(400, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    tree = px.rules.CartSurrogate(max_depth=4)
    rules = px.explain(diagonal, x[:20], tree, data=x)
    found = px.explain(diagonal, x[:20], Simulatability(of=tree), data=x)
    s = rules.structure
    for row in range(20):
        node, passed = 0, 0
        while s.feature[node] >= 0:
            goes_left = x[row, s.feature[node]] <= s.threshold[node]
            node, passed = int((s.left if goes_left else s.right)[node]), passed + 1
        assert found.facts["comparisons"][row] == passed == found.values[row]
    assert found.source["size"]["depth"] == rules.size["depth"]


def test_lists_of_rules_are_read_until_one_speaks():
    from pellucid.evaluation.simulatability import passed_by

    class Rule:
        def __init__(self, bounds):
            self.bounds = bounds

    class List:
        def rules(self):
            inf = float("inf")
            return [Rule({0: (0.5, inf), 1: (-inf, 0.2)}), Rule({1: (0.4, 0.6)}), Rule({})]

    # One fails, then two hold; two hold; one holds and one fails, then one fails and the last rule asks nothing.
    rows = torch.tensor([[0.1, 0.5], [0.9, 0.1], [0.9, 0.3]])
    assert passed_by(List(), rows) == [3, 2, 3]


def test_what_can_not_be_counted_is_refused_by_name():
    class Strange(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    with pytest.raises(UnsupportedOperation, match="fft"):
        px.explain(Strange().eval(), torch.ones(1, 4), "simulatability")
    with pytest.raises(NeedError, match="torch"):
        px.explain(lambda x: x.numpy() * 2, torch.ones(1, 4), "simulatability")
    with pytest.raises(MethodError, match="rules"):
        px.explain(nn.Linear(4, 2).eval(), torch.ones(1, 4), Simulatability(of="vanilla-gradient"))


def test_tasks_hold_the_models_answers_and_no_answer_prevails():
    x = drawn(60, 2)
    x[:50], x[50:] = x[:50].abs(), -x[50:].abs()  # most are of class 1
    net = px.Subject(lambda v: v.sum(1, keepdim=True), classes=("no", "yes"), features=("dose", "age"))
    tasks = simulation_tasks(net, x, count=8)
    assert sorted(t.answer for t in tasks) == ["no"] * 4 + ["yes"] * 4
    assert len({t.row for t in tasks}) == 8
    for task in tasks:
        assert task.answer == ("yes" if float(x[task.row].sum()) > 0 else "no")
        assert task.lines == (f"dose: {float(x[task.row, 0]):.4g}", f"age: {float(x[task.row, 1]):.4g}")
        assert "What does the model answer?" in task.text()
        assert "(1) no" in task.text()
    assert tasks == simulation_tasks(net, x, count=8)
    assert tasks != simulation_tasks(net, x, count=8, seed=1)
    assert len(simulation_tasks(net, x[:3], count=8)) == 3


def test_tasks_may_show_rules():
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    rules = px.explain(diagonal, x[:5], px.rules.CartSurrogate(max_depth=1), data=x)
    (task,) = simulation_tasks(diagonal, x, explanation=rules, count=1, classes=("low", "high"))
    assert len(task.help) == 2
    assert task.text().startswith("If ")
    assert "the network says" in task.help[0]


def test_answers_of_people_are_scored():
    x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
    tasks = simulation_tasks(lambda v: v, x, count=4)
    given = [t.answer for t in tasks]
    assert score_simulation(tasks, given)["accuracy"] == 1
    found = score_simulation(tasks, [given[0], given[1], None, "class 0" if given[3] == "class 1" else "class 1"])
    assert found["accuracy"] == 0.5
    assert found["answered"] == 0.75
    assert found["chance"] == 0.5
    # Wilson's interval for 2 of 4, from a table.
    assert (round(found["low"], 3), round(found["high"], 3)) == (0.150, 0.850)
    with pytest.raises(InputError, match="one of"):
        score_simulation(tasks, ["perhaps", *given[1:]])
    with pytest.raises(InputError, match="4 tasks"):
        score_simulation(tasks, given[1:])


@pytest.mark.parametrize(
    ("inputs", "settings", "error"),
    [
        (torch.ones(2), {}, InputError),
        (torch.ones(0, 2), {}, InputError),
        (torch.ones(2, 2), {"features": ("one",)}, InputError),
        (torch.ones(2, 2), {"classes": ("one", "two", "three")}, InputError),
        (torch.ones(2, 2), {"count": 0}, MethodError),
    ],
)
def test_bad_tasks_are_refused(inputs, settings, error):
    with pytest.raises(error):
        simulation_tasks(lambda v: v, inputs, **settings)
