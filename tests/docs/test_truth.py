"""The truth benchmark: its truths by hand, its known failures in a fast part of it, its page as the run wrote it."""

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from pellucid.contract import registered

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def planted():
    """The benchmark's modules, which are no part of the package."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.planted import circuit, claims, measure, page, settings, tasks
    finally:
        sys.path.remove(str(ROOT))
    yield {m.__name__.rpartition(".")[2]: m for m in (circuit, claims, measure, page, settings, tasks)}
    for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def written():
    return json.loads((ROOT / "docs" / "truth.json").read_text(encoding="utf-8"))


def test_the_circuits_shares_are_those_of_all_orders(planted):
    circuit = planted["circuit"]
    net, row, base = circuit.Circuit(), circuit.draw(1, seed=3)[0], circuit.draw(1, seed=4)[0]
    row[circuit.SATURATES], base[circuit.SATURATES] = 2.0, 0.0
    # Columns that are not read change nothing wherever they come, so that the orders of the others are enough.
    found = torch.zeros(8, dtype=torch.float64)
    for order in itertools.permutations(circuit.READ):
        here = base.clone()
        for column in order:
            before = net(here[None])[0, 1].item()
            here[column] = row[column]
            found[column] += net(here[None])[0, 1].item() - before
    found /= 720
    want = circuit.shapley(row[None], base[None])[0]
    assert torch.allclose(found, want, atol=1e-4)
    assert want[[circuit.COPY, circuit.NOISE]].tolist() == [0.0, 0.0]
    x = row[None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x)[0, 1], x)
    assert slope[0, circuit.SATURATES] == 0
    assert want[circuit.SATURATES] == 4.0


@pytest.mark.slow
def test_networks_go_by_what_is_called_true(planted):
    tasks = planted["tasks"]
    cues, words = tasks.cues(3), tasks.words(4)
    assert cues.checks["names the other class where the tag does, all else equal"] > 0.9
    assert words.checks["says the opposite with the deciding opinion turned round"] > 0.9
    assert words.checks["says the same with all other opinions turned round"] > 0.9
    assert 0 < float(words.truth.double().mean()) < 0.3


def test_networks_set_by_hand_are_what_is_called_true(planted):
    tasks = planted["tasks"]
    assert all(value < 1e-9 for game in tasks.games() for value in game.checks.values())
    assert all(value < 1e-5 for value in tasks.columns(4).checks.values())
    assert all(value < 0.02 for value in tasks.attention(4).checks.values())
    # The words that the reader with attention is said to read, by leaving every other one out.
    task = tasks.attention(2)
    for row, truth in zip(task.rows, task.truth, strict=True):
        with torch.no_grad():
            assert torch.allclose(task.model(row[truth][None]), task.model(row[None]), atol=0.02)


def test_known_failures_are_seen_again(planted):
    measure, claims = planted["measure"], planted["claims"]
    wanted = {pair for claim in claims.CLAIMS[:3] for pair in claim.needs}
    cells = {}
    for task, name in sorted(wanted):
        cells.setdefault(task, {})[name] = measure.cell(task, name)
    look = claims.figures(cells)
    assert all(claim.holds(look) for claim in claims.CLAIMS[:3]), [claim.told(look) for claim in claims.CLAIMS[:3]]


def test_a_claim_that_does_not_hold_is_told(planted, written):
    page, cells = planted["page"], json.loads(json.dumps(written["cells"]))
    assert "Not reproduced" not in "".join(page._claims(cells))
    cells["weights"]["guided-backprop"]["figures"]["similarity"] |= {"mean": 0.0, "low": -0.1, "high": 0.1}
    assert "Not reproduced" in "".join(page._claims(cells))


def test_chance_is_called_chance_and_rounding_no_evidence(planted):
    summed = planted["measure"]._summed
    values = torch.tensor([0.4, 0.6, 0.5, 0.55, 0.45])
    assert summed(values, 0.5)["against chance"] == "chance"
    assert summed(values + 0.4, 0.5)["against chance"] == "above"
    assert summed(values - 0.4, 0.5)["against chance"] == "below"
    assert summed(torch.full((5,), 0.1 + 0.2, dtype=torch.float64), 0.3)["against chance"] == "chance"
    assert summed(torch.tensor([torch.nan, 1.0, 1.0]), 0.5)["excluded"] == [0]


def test_every_method_has_a_cell_in_every_world_or_a_reason(planted, written):
    methods = {
        name
        for name, cls in registered().items()
        if cls.card.form == "attribution" and cls.__module__.startswith("pellucid.")
    }
    assert {*written["cells"]} == {*planted["measure"].WORK}
    for world, cells in written["cells"].items():
        assert len({*cells} & methods) >= 80, world
        for name, cell in cells.items():
            assert cell.get("refused") or cell["figures"], (world, name)
    assert {*planted["settings"].OTHERS} <= methods


def test_a_run_of_a_part_leaves_the_other_figures(planted, written):
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.truth import merged
    finally:
        sys.path.remove(str(ROOT))
    new = {"about": {"date": "later"}, "checks": {}, "cells": {"games": {"lime": {"refused": "tried anew"}}}}
    both = merged(written, new)
    assert both["cells"]["games"]["lime"] == {"refused": "tried anew"}
    assert both["cells"]["games"]["kernel-shap"] == written["cells"]["games"]["kernel-shap"]
    assert both["cells"]["words"] == written["cells"]["words"]
    assert both["about"]["date"] == "later"


def test_the_page_is_what_the_figures_give(planted, written):
    assert (ROOT / "docs" / "truth.md").read_text(encoding="utf-8") == planted["page"].page(written)
