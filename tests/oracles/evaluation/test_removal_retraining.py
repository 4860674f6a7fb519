"""Remove and retrain: a linear-Gaussian world in closed form, and a run that is killed and started again."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import pellucid as px
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError
from pellucid.evaluation import RemoveAndRetrain

DOUBLE = {"dtype": torch.float64}
WEIGHTS = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0], **DOUBLE)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """The same values for every row."""

    numbers: tuple[float, ...] = tuple(WEIGHTS.tolist())

    card: ClassVar[Card] = Card(
        name="test-fixed-order", title="Fixed", question="Which?", form="attribution", scope="local", citation="none"
    )

    def explain(self, subject, ask, state):
        ask.score  # noqa: B018
        x = ask.inputs.floats[0]
        return Attribution(values=torch.tensor(self.numbers, **DOUBLE).expand(x.shape).clone())


def least_squares(x, y, seed):
    """An intercept and weights; the seed changes nothing."""
    wide = torch.cat([x, torch.ones(len(x), 1, **DOUBLE)], 1)
    found = torch.linalg.pinv(wide) @ y
    return lambda rows: (rows @ found[:-1] + found[-1])[:, None]


def world(rows, seed):
    x = drawn(rows, 8, seed=seed)
    return x, x @ WEIGHTS + drawn(rows, seed=seed + 1)


def run(method, rows=3000, **more):
    net = nn.Linear(8, 1, bias=False, **DOUBLE).eval()
    net.weight.data = WEIGHTS[None]
    (x, y), (test, labels) = world(rows, 3), world(rows, 5)
    data = {"train": (x, y), "labels": labels, "recipe": least_squares, **more}
    return px.explain(net, test, method, data=data)


def test_linear_gaussian_in_closed_form():
    """Var y = 31. Without the first features 1 - (1 + Σ wⱼ²) / 31 is left; each gone with probability t: (1 - t) 30/31."""
    shares = (0.125, 0.25, 0.5)
    found = run(RemoveAndRetrain(of=Fixed(), shares=shares, repeats=2))
    want = [1 - 1 / 31, 1 - (1 + 16) / 31, 1 - (1 + 16 + 9) / 31, 1 - 31 / 31]
    assert found.parts["curve"][0].tolist() == pytest.approx(want, abs=0.05)
    random = [30 / 31, *[(1 - t) * 30 / 31 for t in shares]]
    assert found.parts["random"][0].tolist() == pytest.approx(random, abs=0.05)
    assert found.values.item() == pytest.approx(
        sum(r - w for r, w in zip(random[1:], want[1:], strict=True)) / 3, abs=0.05
    )
    assert found.better == "higher"


def test_keeping_in_closed_form():
    found = run(RemoveAndRetrain(of=Fixed(), way="keep", shares=(0.25, 0.5), repeats=2))
    assert found.parts["curve"][0].tolist() == pytest.approx([30 / 31, 25 / 31, 30 / 31], abs=0.05)
    assert found.parts["random"][0].tolist() == pytest.approx([30 / 31, 0.25 * 30 / 31, 0.5 * 30 / 31], abs=0.05)
    assert found.values.item() > 0.3


def test_the_wrong_order_is_worse_than_chance():
    found = run(RemoveAndRetrain(of=Fixed(numbers=tuple((-WEIGHTS).tolist())), shares=(0.5,), repeats=2))
    assert found.values.item() == pytest.approx(-0.5 * 30 / 31, abs=0.05)


class Killed(Exception):
    pass


def test_killed_and_started_again_ends_with_the_same_bytes(tmp_path):
    """At every training in turn the run is killed; what was done is not done again, and the result is that of one run."""
    method = RemoveAndRetrain(of=Fixed(), shares=(0.25, 0.5), repeats=2)
    whole, trained = run(method, 100), []

    def fragile(x, y, seed):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        trained.append(seed)
        return least_squares(x, y, seed)

    for _ in range(10):
        left = [1]
        with pytest.raises(Killed):
            run(method, 100, recipe=fragile, store=tmp_path)
        if len(trained) == 9:
            break
    left = [1]
    last = run(method, 100, recipe=fragile, store=tmp_path)
    assert len(trained) == 10
    for name in ("curve", "random", "accuracy", "random_accuracy"):
        assert last.parts[name].numpy().tobytes() == whole.parts[name].numpy().tobytes()
    assert last.values.numpy().tobytes() == whole.values.numpy().tobytes()
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".json"}  # nothing half written
    (cell, *_) = sorted(tmp_path.rglob("*.json"))
    cell.write_text('{"accur', encoding="utf-8")  # torn, as by a full disk
    left = [1]
    assert torch.equal(run(method, 100, recipe=fragile, store=tmp_path).values, whole.values)
    assert left == [0]


def test_without_a_recipe_the_module_itself_is_trained():
    """Four of sixteen columns tell the class: their removal costs accuracy, that of as many random ones less."""
    x = drawn(300, 16, seed=1).float()
    y = (x[:, :4].sum(1) > 0).long()
    net = nn.Linear(16, 2).eval()
    net.weight.data = torch.cat([torch.tensor([[-1.0], [1.0]]).expand(2, 4), torch.zeros(2, 12)], 1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    values = Fixed(numbers=(1.0,) * 4 + (0.0,) * 12)
    method = RemoveAndRetrain(of=values, shares=(0.25,), repeats=2, epochs=15)
    found = px.explain(net, x[200:], method, data={"train": (x[:200], y[:200]), "labels": y[200:]})
    assert found.parts["curve"][0, 0] > 0.9
    assert found.parts["curve"][0, 1] < 0.65
    assert found.parts["random"][0, 1] > 0.75
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize(
    ("settings", "data", "error"),
    [
        ({"way": "x"}, {}, MethodError),
        ({"shares": (1.0,)}, {}, MethodError),
        ({"shares": ()}, {}, MethodError),
        ({"repeats": 1}, {}, MethodError),
        ({"epochs": 0}, {}, MethodError),
        ({}, {"recipe": 3}, InputError),
        ({}, {"train": torch.zeros(3, 8, **DOUBLE)}, NeedError),
        ({}, {"recipe": None, "labels": torch.zeros(2)}, InputError),
    ],
)
def test_bad_settings_are_refused(settings, data, error):
    given = {"train": (drawn(5, 8), torch.zeros(5)), **data}
    if given.get("recipe", 1) is None:
        given.pop("recipe")
    with pytest.raises(error):
        px.explain(nn.Linear(8, 1, **DOUBLE).eval(), drawn(3, 8), RemoveAndRetrain(of=Fixed(), **settings), data=given)


def test_what_cannot_be_trained_is_refused():
    x = drawn(3, 8)
    with pytest.raises(NeedError, match="recipe"):
        px.explain(lambda x: x, x, RemoveAndRetrain(of=Fixed()), data=(x, torch.zeros(3)))
    with pytest.raises(NeedError):
        px.explain(lambda x: x, x, RemoveAndRetrain(of=Fixed()))
    net = nn.Sequential(nn.Linear(8, 2, **DOUBLE)).eval()
    with pytest.raises(LayerError):
        px.explain(net, x, RemoveAndRetrain(of=Fixed()), data=(x, torch.zeros(3)), layer="0")
