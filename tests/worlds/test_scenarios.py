"""What a scenario says decides is what decides: by changing it, and everything else, and looking at the label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid import worlds
from pellucid.contract.errors import InputError
from pellucid.worlds.scenario_pictures import PICTURES, SIZE
from pellucid.worlds.scenarios import HIRING, INSURANCE, SCENARIOS

TABLES = {"hiring": HIRING, "insurance": INSURANCE}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_two_classes_differ_where_the_truth_says_and_nowhere_else(name: str) -> None:
    chance = np.random.default_rng(3)
    for _ in range(100):
        drawn = chance.random(11).tolist()
        first, second = np.zeros((2, SIZE, SIZE))
        masks = PICTURES[name].paint(first, 0, drawn), PICTURES[name].paint(second, 1, drawn)
        differ = first != second
        assert differ.any()
        assert not (differ & ~(masks[0] | masks[1])).any()


@pytest.mark.parametrize("name", TABLES)
def test_columns_decide_as_the_truth_says(name: str) -> None:
    """The rule written out again over the original units; columns it does not read are those not marked."""
    world = SCENARIOS[name].world(400, seed=2)
    columns, raw = TABLES[name], world.original(world.inputs).round()
    if name == "hiring":
        rule = 3 * raw[:, 0] / 100 + 2 * raw[:, 1] / 20 + 2 * (raw[:, 2] - 1) / 9 - raw[:, 3] > 3.0
    else:
        by = (-2 * (raw[:, 0] - 18) / 62, 2 * (raw[:, 1] - 40) / 160, 2.5 * (raw[:, 2] - 1) / 39, 2.5 * raw[:, 3] / 4)
        rule = sum(by) > 2.5
    assert (rule.long() == world.labels).double().mean() > 0.99  # ties fall where rounding puts them
    assert (
        world.truth["important"][0].tolist() == [c.weight != 0 for c in columns] == [k < 4 for k in range(len(columns))]
    )


def test_the_group_is_given_away_by_its_proxy_and_decides_as_planted() -> None:
    world = SCENARIOS["hiring"].world(2000)
    raw = world.original(world.inputs).round()
    assert (raw[:, 3] == raw[:, 4]).double().mean() == pytest.approx(0.95, abs=0.02)  # half of the rest agree by chance
    share = [float(world.labels[raw[:, 3] == group].double().mean()) for group in (0, 1)]
    assert share[0] - share[1] > 0.2


@pytest.mark.parametrize("name", SCENARIOS)
def test_data_depend_on_the_seed_alone_and_the_schema_fits_them(name: str) -> None:
    told = SCENARIOS[name]
    world, again, other = told.world(60, 1), told.world(60, 1), told.world(60, 2)
    assert world.fingerprint() == again.fingerprint() != other.fingerprint()
    if name != "credit":  # it is standardised by its training rows
        assert torch.equal(told.world(30, 1).inputs, world.inputs[:30])
    assert world.truth["important"].shape == (60, *world.inputs.shape[1:][-2:])
    assert world.truth["important"][world.truth["scored"]].flatten(1).any(1).all()
    assert 0.2 < world.labels.double().mean() < 0.8
    if world.inputs.dim() == 2:
        assert tuple(part.name for part in told.schema) == world.features
        decides = torch.tensor([part.decides for part in told.schema])
        assert not (world.truth["important"] & ~decides).any()
    else:
        assert [part.decides for part in told.schema] == [True] + [False] * (len(told.schema) - 1)


def test_every_scenario_is_told_whole() -> None:
    assert set(SCENARIOS) >= {"driving", "medical", "credit", "hiring", "insurance", "surveillance", "military", "face"}
    for told in SCENARIOS.values():
        assert told.users
        assert told.decision
        assert len(told.risks) >= 2
        assert len(told.methods) >= 3
        assert told.impact in ("time-critical", "decision-critical")


def test_what_is_no_scenario_is_refused() -> None:
    with pytest.raises(InputError, match="credit"):
        worlds.scenarios.get("credits")
    with pytest.raises(InputError, match="at least 8"):
        SCENARIOS["voice"].world(2)
    with pytest.raises(InputError, match="seed"):
        SCENARIOS["voice"].world(8, seed=-1)
