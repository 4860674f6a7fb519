"""Scores of coalitions of features against one forward after the other."""

import itertools

import pytest
import torch
from torch import nn

from pellucid.contract.errors import InputError
from pellucid.engine.ask import Ask
from pellucid.engine.coalition import every, game
from pellucid.engine.inputs import as_inputs
from pellucid.engine.place import parse
from pellucid.engine.subject import as_subject

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5, **DOUBLE), nn.Linear(5, 3, **DOUBLE)
        for number, p in enumerate(self.parameters()):
            p.data = drawn(*p.shape, seed=number)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


NET, X, BACK = Net().eval(), drawn(3, 4, seed=9), drawn(5, 4, seed=10)


def ask(inputs=X, data=None, layer=None, model=NET):
    subject = as_subject(model)
    place = None if layer is None else parse(layer, subject.module)
    return Ask(
        subject=subject, inputs=as_inputs(inputs), wanted=torch.tensor([0, 1, 2])[: len(inputs)], layer=place, data=data
    )


def loop(row, target, groups, present, fills):
    """The mean over fills of the score, written out."""
    total = 0.0
    for fill in fills:
        mixed = fill.clone()
        for number, columns in enumerate(groups):
            for column in columns:
                if present[number]:
                    mixed[column] = row[column]
        with torch.no_grad():
            total += NET(mixed[None])[0, target].item()
    return total / len(fills)


COLUMNS = ((0,), (1,), (2,), (3,))


def test_every_coalition_once():
    assert {tuple(c) for c in every(3).tolist()} == set(itertools.product([False, True], repeat=3))
    assert every(3)[5].tolist() == [True, False, True]


@pytest.mark.parametrize("fills", [None, BACK])
def test_worth_is_the_mean_score_over_the_background(fills):
    found = game(ask(data=fills), "column").worth(every(4))
    used = [torch.zeros(4, **DOUBLE)] if fills is None else list(fills)
    for row, (number, present) in itertools.product(range(3), enumerate(every(4))):
        assert found[row, number].item() == pytest.approx(loop(X[row], row, COLUMNS, present, used), abs=1e-12)


def test_coalitions_of_its_own_for_each_row_and_only_some_rows():
    g = game(ask(data=BACK), "column")
    present = torch.stack([every(4)[[3, 7]], every(4)[[12, 1]]])
    found = g.worth(present, rows=torch.tensor([2, 0]))
    for place, row in enumerate([2, 0]):
        for job in range(2):
            want = loop(X[row], row, COLUMNS, present[place, job], list(BACK))
            assert found[place, job].item() == pytest.approx(want, abs=1e-12)


def test_one_fill_per_job():
    g = game(ask(data=BACK), "column")
    found = g.each(every(4)[[3, 8]], torch.tensor([4, 1]))
    for row in range(3):
        assert found[row, 0].item() == pytest.approx(loop(X[row], row, COLUMNS, every(4)[3], [BACK[4]]), abs=1e-12)
        assert found[row, 1].item() == pytest.approx(loop(X[row], row, COLUMNS, every(4)[8], [BACK[1]]), abs=1e-12)


def test_groups_and_columns_that_stay():
    groups = torch.tensor([1, 1, -1, 0])
    g = game(ask(data={"groups": groups, "background": BACK[:2]}), "auto")
    assert g.players == 2
    found = g.worth(every(2))
    for row, (number, present) in itertools.product(range(3), enumerate(every(2))):
        fills = [b.clone() for b in BACK[:2]]
        for fill in fills:
            fill[2] = X[row, 2]
        want = loop(X[row], row, ((3,), (0, 1)), present, fills)
        assert found[row, number].item() == pytest.approx(want, abs=1e-12)


def test_a_layers_values_as_players():
    found = game(ask(layer="first"), "element").worth(every(5))
    with torch.no_grad():
        hidden = NET.first(X)
        for row, (number, present) in itertools.product(range(3), enumerate(every(5))):
            want = NET.last(torch.tanh(hidden[row] * present))[row]
            assert found[row, number].item() == pytest.approx(want.item(), abs=1e-12)


def test_superpixels_of_its_own_for_each_image():
    class Sum(nn.Module):
        def forward(self, x):
            return (x * torch.arange(1.0, 17.0, **DOUBLE).reshape(4, 4)).sum((1, 2, 3))[:, None].repeat(1, 3)

    images = drawn(2, 1, 4, 4)
    labels = torch.stack([torch.arange(16).reshape(1, 4, 4) % 3, torch.arange(16).reshape(1, 4, 4) // 6])
    g = game(ask(images, {"groups": labels}, model=Sum().eval()), "auto")
    found = g.worth(every(3))
    weight = torch.arange(1.0, 17.0, **DOUBLE).reshape(1, 4, 4)
    for row, (number, present) in itertools.product(range(2), enumerate(every(3))):
        assert found[row, number].item() == pytest.approx((images[row] * weight * present[labels[row]]).sum().item())


def test_the_blocks_do_not_matter(monkeypatch):
    whole = game(ask(data=BACK), "column").worth(every(4))
    for block in (1, 7, 30):
        monkeypatch.setattr("pellucid.engine.coalition.BLOCK", block)
        assert torch.allclose(game(ask(data=BACK), "column").worth(every(4)), whole, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("data", "features", "words"),
    [
        (torch.zeros(2, 5, **DOUBLE), "column", "background"),
        ((torch.zeros(2, 4, **DOUBLE), torch.zeros(2, 4, **DOUBLE)), "column", "background"),
        (torch.full((2, 4), float("nan"), **DOUBLE), "column", "finite"),
        ({"groups": torch.tensor([0, 0, 1, 1])}, "column", "features"),
    ],
)
def test_refused_before_the_model_runs(data, features, words):
    def model(x):
        raise AssertionError("asked")

    with pytest.raises(InputError, match=words):
        game(ask(data=data, model=model), features)
