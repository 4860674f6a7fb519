"""Scans in three dimensions: integrated gradients of a network that looks for grown nodules, and readers who rate them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pellucid as px
from pellucid import worlds
from pellucid.attribution import IntegratedGradients
from pellucid.contract.errors import InputError
from pellucid.evaluation import (
    Stimulus,
    analyse_readers,
    sham,
    volume_focus,
    volume_reader_study,
    volume_slices,
)


def network() -> nn.Module:
    """A ball detector on each scan, current minus prior: a risk model whose weights are written down, not learnt."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(-3.0, 4)] * 3, indexing="ij"))
    away = (grid**2).sum(0).sqrt()
    ball, shell = (away < 2.3).float(), ((away >= 2.3) & (away < 3.6)).float()
    kernel = ball / ball.sum() - shell / shell.sum()
    first, last = nn.Conv3d(2, 2, 7, padding=3), nn.Linear(2, 2)
    first.weight.data.zero_()
    first.weight.data[0, 0] = first.weight.data[1, 1] = kernel
    first.bias.data.fill_(-0.2)
    last.weight.data = torch.tensor([[0.0, 0.0], [1700.0, -1700.0]])
    last.bias.data = torch.tensor([0.0, -1.0])
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), last).eval()


@pytest.fixture(scope="module")
def world() -> Any:
    return worlds.phantoms(18, size=12, seed=2)


@pytest.fixture(scope="module")
def volumes(world: Any) -> torch.Tensor:
    """The cases whose nodule has grown."""
    return world.inputs[world.labels == 1]


@pytest.fixture(scope="module")
def nodules(world: Any) -> torch.Tensor:
    return world.truth["nodule"][world.labels == 1]


@pytest.fixture(scope="module")
def maps(volumes: torch.Tensor) -> Any:
    return px.explain(network(), volumes, IntegratedGradients(tolerance=0.01), target=1)


def test_the_network_sees_what_has_grown(world: Any) -> None:
    assert network()(world.inputs).argmax(1).tolist() == world.labels.tolist()


def test_integrated_gradients_are_complete_and_lie_in_the_nodule(volumes: Any, nodules: Any, maps: Any) -> None:
    net = network()
    change = (net(volumes) - net(torch.zeros_like(volumes)))[:, 1]
    assert maps.values.flatten(1).sum(1).tolist() == pytest.approx(change.tolist(), rel=0.02)
    found = volume_focus(maps, nodules)
    assert bool((found.facts["relative_gap"] <= 0.01).all())
    assert bool((found.values > 0.9).all())
    assert bool((found.facts["peak"] == 1).all())
    assert bool((found.facts["volume"] < 0.04).all())
    elsewhere = volume_focus(sham(maps), nodules)
    assert bool((elsewhere.values < 0.5).all())


def test_where_there_is_no_nodule_nothing_is_told() -> None:
    made = px.Attribution(values=torch.ones(2, 1, 2, 2, 2))
    masks = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    masks[1, 0, 0, 0] = True
    found = volume_focus(made, masks)
    assert found.values.isnan().tolist() == [True, False]
    assert float(found.values[1]) == pytest.approx(1 / 8)


def test_the_share_is_that_of_two_loops(volumes: Any, nodules: Any, maps: Any) -> None:
    row = 2
    inside = total = 0.0
    for value, mask in zip(maps.values[row, 0].flatten().tolist(), nodules[row].flatten().tolist(), strict=True):
        total += max(value, 0)
        inside += max(value, 0) * mask
    assert float(volume_focus(maps, nodules).values[row]) == pytest.approx(inside / total)


def test_the_mean_volume_may_be_the_baseline(volumes: Any, nodules: Any) -> None:
    mean = volumes.mean(0, keepdim=True)
    found = px.explain(network(), volumes[2:3], IntegratedGradients(tolerance=0.01), target=1, data=mean)
    told = volume_focus(found, nodules[2:3])  # the mean volume has some nodule everywhere: less is in this one
    assert float(told.values) > 0.5 > 10 * float(told.facts["volume"])
    assert float(told.facts["relative_gap"]) <= 0.01


def test_slices_go_through_the_strongest_place_and_box_the_candidate(volumes: Any, nodules: Any, maps: Any) -> None:
    panels = volume_slices(maps, volumes, nodules, 2)
    peak = np.unravel_index(int(maps.values[2].amax(0).argmax()), (12, 12, 12))
    assert [p.heading for p in panels] == [
        f"{n} slice {i + 1}" for n, i in zip(("Axial", "Coronal", "Sagittal"), peak, strict=True)
    ]
    assert all("in the box" in p.lines[0] and p.image.startswith("data:image/png") for p in panels)
    nothing = torch.zeros_like(nodules)
    bare = volume_slices(maps, volumes, nothing, 2)
    assert all("not in this slice" in p.lines[0] for p in bare)
    assert all(a.image != b.image for a, b in zip(panels, bare, strict=True))


def test_readers_agreement_is_scikit_learns_and_the_sham_is_seen(
    volumes: Any, nodules: Any, maps: Any, tmp_path: Any
) -> None:
    from sklearn.metrics import cohen_kappa_score

    rows = range(6)
    study = volume_reader_study({"ig": maps, "sham": sham(maps)}, volumes, nodules, participants=8, rows=rows)
    page = study.export(tmp_path / "out").read_text(encoding="utf-8")
    assert "sham" not in page

    def reader(number: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, int], float]:
        level = (4.0 if s.condition == "ig" else 2.0) + np.cos(2 * s.about["row"]) + 0.3 * np.sin(number)
        return {"focus": int(np.clip(np.rint(level + 0.5 * draw.normal()), 1, 5)), "elsewhere": 0}, 15.0

    answers = study.rehearse(reader)
    found = analyse_readers(study, answers)
    given = {
        (study.stimuli[a.stimulus].condition, study.stimuli[a.stimulus].about["row"], a.participant): a.given["focus"]
        for a in answers.answers
    }
    for way, name in enumerate(study.conditions):
        table = np.array([[given[name, int(r), p] for p in range(1, 9)] for r in rows])
        assert float(found.values[way]) == pytest.approx((table >= 4).mean())
        assert float(found.facts["cases"][way]) == pytest.approx(((table >= 4).mean(1) > 0.5).mean())
        for i, j in ((0, 1), (1, 3), (2, 0)):
            expected = cohen_kappa_score(table[:, i], table[:, j], weights="quadratic")
            assert float(found.parts["kappa"][way, i, j]) == pytest.approx(expected)
    assert float(found.facts["low"][0]) > float(found.facts["high"][1])


def test_what_are_no_volumes_is_refused(volumes: Any, nodules: Any, maps: Any) -> None:
    flat = px.Attribution(values=torch.ones(2, 1, 4, 4))
    with pytest.raises(InputError, match="depth"):
        volume_focus(flat, torch.ones(2, 4, 4))
    with pytest.raises(InputError, match="nodules"):
        volume_focus(maps, torch.ones(2, 4, 4))
    with pytest.raises(InputError, match="candidates"):
        volume_slices(maps, volumes, nodules, 99)
    with pytest.raises(InputError, match="rows"):
        worlds.phantoms(1)
    with pytest.raises(InputError, match="noise"):
        worlds.phantoms(noise=1.0)


def test_phantoms_are_what_they_say() -> None:
    world = worlds.phantoms(9, seed=1)
    assert world.fingerprint() == worlds.phantoms(9, seed=1).fingerprint() != worlds.phantoms(9, seed=3).fingerprint()
    nodule, prior, kind = world.truth["nodule"], world.truth["prior"], world.truth["kind"]
    sizes, before = nodule.flatten(1).sum(1), prior.flatten(1).sum(1)
    assert bool((sizes[kind == 0] == 0).all() and (sizes[kind == 1] == before[kind == 1]).all())
    assert bool((sizes[kind == 2] > before[kind == 2]).all() and (before[kind == 2] > 0).all())
    assert bool((world.inputs[:, 0][nodule] > 0.8).all() and (world.inputs[:, 0][~nodule] < 0.7).all())
    assert world.labels.tolist() == (kind == 2).long().tolist()
