"""Bundled data: shapes, splits, original units, attribution."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pellucid import worlds
from pellucid.contract.errors import InputError

TABLES = {
    "iris": ("load_iris", {}),
    "wine": ("load_wine", {}),
    "breast_cancer": ("load_breast_cancer", {}),
    "diabetes": ("load_diabetes", {"scaled": False}),
}
ALL = ("digits", *TABLES)


@pytest.mark.parametrize("name", ALL)
def test_split_is_disjoint_complete_and_seeded(name: str) -> None:
    world = getattr(worlds, name)()
    rows = torch.cat([world.train_rows, world.test_rows])
    assert torch.equal(rows.sort().values, torch.arange(len(world)))
    assert torch.equal(world.test_rows, getattr(worlds, name)().test_rows)
    assert not torch.equal(world.test_rows, getattr(worlds, name)(seed=1).test_rows)
    assert len(world.test_rows) == pytest.approx(0.25 * len(world), abs=len(world.classes))


@pytest.mark.parametrize("name", ALL)
def test_every_class_is_in_both_halves_in_its_share(name: str) -> None:
    world = getattr(worlds, name)()
    if world.task == "regression":
        pytest.skip("no classes")
    whole, held = world.labels.bincount(), world.test[1].bincount()
    assert (held - 0.25 * whole).abs().max() <= 0.5


@pytest.mark.parametrize("name", TABLES)
def test_original_units_are_recovered_but_for_the_rounding_of_float32(name: str) -> None:
    from sklearn import datasets

    loader, settings = TABLES[name]
    raw = getattr(datasets, loader)(**settings).data
    world = getattr(worlds, name)()
    assert world.scale is not None
    error = (world.original(world.inputs) - torch.from_numpy(raw)).abs() / world.scale
    assert (error <= 2.0**-24 * world.inputs.abs() + 1e-12).all()
    # Standardising the recovered rows must give the very same numbers back.
    torch.testing.assert_close(world.standardised(world.original(world.inputs)), world.inputs, rtol=0, atol=1e-6)
    train = world.train[0].double()
    torch.testing.assert_close(train.mean(dim=0), torch.zeros(train.shape[1]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(train.std(dim=0, correction=0), torch.ones(train.shape[1]).double(), rtol=0, atol=1e-6)


def test_digits_are_ink_counts_exactly() -> None:
    from sklearn.datasets import load_digits

    world = worlds.digits()
    assert np.array_equal(world.original(world.inputs)[:, 0].numpy(), load_digits().images)
    assert torch.equal(world.standardised(world.original(world.inputs)), world.inputs)


def test_regression_targets_are_recovered() -> None:
    from sklearn.datasets import load_diabetes

    world = worlds.diabetes()
    assert np.array_equal(world.original_labels(world.labels).numpy().round(), load_diabetes().target)
    assert world.labels.dtype == torch.float32


def test_a_world_is_a_dataset_and_pickles() -> None:
    world = worlds.iris()
    inputs, labels = next(iter(torch.utils.data.DataLoader(world, batch_size=7)))
    assert torch.equal(inputs, world.inputs[:7])
    assert torch.equal(labels, world.labels[:7])
    assert pickle.loads(pickle.dumps(world)).fingerprint() == world.fingerprint()


def test_fingerprint_sees_one_changed_label() -> None:
    world, other = worlds.iris(), worlds.iris()
    other.labels[3] = 2
    assert world.fingerprint() != other.fingerprint()
    assert worlds.iris().fingerprint() == world.fingerprint()


def test_photographs_carry_their_credits() -> None:
    world = worlds.photographs(size=32)
    assert world.inputs.shape == (6, 3, 32, 32)
    assert 0 <= world.inputs.min() < 0.1 < 0.9 < world.inputs.max() <= 1
    assert len(world.truth["credits"]) == len(world.classes)
    assert all(name in credit for name, credit in zip(world.classes, world.truth["credits"], strict=True))
    assert "CC BY 2.0" in world.attribution
    with pytest.raises(InputError, match="Got 3"):
        worlds.photographs(size=3)


def test_bad_fraction_is_named() -> None:
    with pytest.raises(InputError, match=r"test_fraction.*Got 1\.5"):
        worlds.iris(test_fraction=1.5)


@pytest.mark.parametrize("name", [*ALL, "photographs", "shapes", "tabular"])
def test_worlds_stay_on_the_processor_whatever_the_default_device(name: str) -> None:
    settings = {"n": 8} if name in ("shapes", "tabular") else {}
    with torch.device("meta"):
        world = getattr(worlds, name)(**settings)
        original = world.original(world.inputs[:2])
    assert {tensor.device.type for tensor in vars(world).values() if isinstance(tensor, torch.Tensor)} == {"cpu"}
    assert original.device.type == "cpu"
