"""The tabular world: labels follow the rules, relevance is what brute force finds, bias and noise are recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid import worlds
from pellucid.contract.errors import InputError
from pellucid.worlds.tabular import CAR, CAUSES, DISTRICT, FEATURES, GROUP, INCOME, INCOME_COPY, LATE

PINNED = "f8ae8d8c1dd1b96a"


@pytest.fixture(scope="module")
def world() -> worlds.World:
    return worlds.tabular(2000, seed=3)


def decide_plainly(row: dict[str, float]) -> int:
    """The rule text, row by row, written again."""
    if row["late payments"] >= 4:
        return 0
    if row["debt (k€)"] > 0.6 * row["income (k€)"] + 1e-6 and row["has guarantor"] == 0:
        return 0
    return int(row["savings (k€)"] >= 10 or row["years employed"] >= 3)


def test_values_are_pinned(world: worlds.World) -> None:
    decimals = (world.original(world.inputs[:200]) * 10).round().to(torch.int64)
    import hashlib

    assert hashlib.sha256(decimals.numpy().astype("<i8").tobytes()).hexdigest()[:16] == PINNED


def test_labels_follow_the_rules(world: worlds.World) -> None:
    rows = world.original(world.inputs).round(decimals=1).tolist()
    plain = [decide_plainly(dict(zip(FEATURES, row, strict=True))) for row in rows]
    assert world.labels.tolist() == plain
    assert torch.equal(world.truth["rule"](world.original(world.inputs)), world.labels)
    assert 0.3 < world.labels.double().mean() < 0.7


def test_rows_depend_on_seed_and_row_alone(world: worlds.World) -> None:
    few = worlds.tabular(50, seed=3)
    torch.testing.assert_close(few.original(few.inputs), world.original(world.inputs[:50]), rtol=0, atol=1e-4)
    assert torch.equal(few.labels, world.labels[:50])


def test_relevant_columns_alone_decide(world: worlds.World) -> None:
    """Whatever the columns that are not relevant are changed to, the decision stands."""
    raw, relevant = world.original(world.inputs), world.truth["relevant"]
    for shift in (1, 7, 501):
        other = torch.where(relevant, raw, raw.roll(shift, dims=0))
        assert torch.equal(world.truth["rule"](other), world.labels)


def test_pivotal_columns_are_what_brute_force_finds(world: worlds.World) -> None:
    raw, pivotal = world.original(world.inputs[:60]), world.truth["pivotal"][:60]
    everything = world.original(world.inputs)
    for column in range(len(FEATURES)):
        found = torch.zeros(60, dtype=torch.bool)
        for value in everything[:, column].unique():
            changed = raw.clone()
            changed[:, column] = value
            found |= world.truth["rule"](changed) != world.labels[:60]
        assert torch.equal(found, pivotal[:, column])
    assert not (world.truth["pivotal"] & ~world.truth["relevant"]).logical_and(world.labels[:, None] == 1).any()


def test_every_cause_matters_somewhere_and_nothing_else_does(world: worlds.World) -> None:
    used = world.truth["pivotal"].any(dim=0)
    assert {column for column in range(len(FEATURES)) if used[column]} == set(CAUSES)
    assert world.truth["relevant"][:, LATE].all()


def test_debt_and_income_interact(world: worlds.World) -> None:
    """The effect of debt depends on income: with all else safe, more debt hurts at low income alone."""
    row = torch.tensor([[60.0, 10, 10, 0, 0, 20, 60, 24, 0, 0, 1]]).double().repeat(4, 1)
    row[:, 0] = torch.tensor([60.0, 60, 20, 20])
    row[:, 1] = torch.tensor([5.0, 30, 5, 30])
    assert world.truth["rule"](row).tolist() == [1, 1, 1, 0]


def test_duplicate_effect_and_proxy_are_what_they_are_called(world: worlds.World) -> None:
    raw = world.original(world.inputs)
    assert torch.equal(world.inputs[:, INCOME], world.inputs[:, INCOME_COPY])
    assert np.corrcoef(raw[:, INCOME].numpy(), raw[:, CAR].numpy())[0, 1] > 0.6
    assert (raw[:, GROUP].round() == raw[:, DISTRICT].round()).double().mean() == pytest.approx(0.9, abs=0.035)
    rates = [world.labels[raw[:, GROUP].round() == group].double().mean().item() for group in (0, 1)]
    assert abs(rates[0] - rates[1]) < 0.08


def test_bias_and_noise_are_recorded_exactly() -> None:
    world = worlds.tabular(2000, seed=3, bias=0.5, label_noise=0.1)
    truth, group = world.truth, world.original(world.inputs)[:, GROUP].round()
    right = truth["true_labels"].bool()
    assert torch.equal(world.labels.bool(), (right & ~truth["biased"]) ^ truth["flipped"])
    assert not truth["biased"][(group == 0) | ~right].any()
    assert truth["biased"][(group == 1) & right].double().mean() == pytest.approx(0.5, abs=0.1)
    assert not truth["flipped"][world.test_rows].any()
    assert truth["flipped"][world.train_rows].double().mean() == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("settings", [{"n": 0}, {"bias": 2.0}, {"label_noise": -1.0}, {"seed": -1}])
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=str(next(iter(settings.values())))):
        worlds.tabular(**{"n": 4, **settings})  # type: ignore[arg-type]
