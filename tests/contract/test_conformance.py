"""Every method in the catalogue passes every check that its card claims, on every awkward model that it fits."""

from __future__ import annotations

import functools
import os

import pytest

from pellucid.contract import Method, registered
from pellucid.testing import ConformanceError, Trial, check_method, checks, fixtures
from pellucid.testing.liars import liars

METHODS = sorted(m.card.name for m in registered().values() if m.__module__.startswith("pellucid."))


# What a method that only asks for answers, or measures another, can get wrong does not depend on how a network is spelt:
# a dozen models show it. PELLUCID_EVERY_MODEL=1 tries all of them on all methods, which takes twice as long.
ASKS = {"predictions", "data", "labels", "image", "table", "masks"}
FEW = {
    *("mlp", "functional-mlp", "in-place-first", "batch-norm-resnet", "two-inputs", "tokens", "dropout-in-training"),
    *("lstm", "hoarder", "nan-output", "raising", "one-score", "double"),
}
EVERY = bool(os.environ.get("PELLUCID_EVERY_MODEL"))


@functools.cache
def tried(name: str) -> Trial:
    card = registered()[name].card
    if EVERY or not (card.form == "measure" or set(card.needs) <= ASKS):
        return Trial(name)
    few = FEW | ({"padded-transformer"} if "sequence" in card.data_types else set())  # some ask for attention
    return Trial(name, fixtures=[f for f in fixtures() if f.only in card.needs or (not f.only and f.name in few)])


@pytest.mark.parametrize("check", sorted(checks()))
@pytest.mark.parametrize("method", METHODS)
def test_method_conforms(method: str, check: str) -> None:
    report = tried(method).report([check])
    assert all(report.cells.values()), "no cell is empty"
    assert report.failures == {}


@pytest.mark.parametrize("method", METHODS)
def test_method_works_somewhere(method: str) -> None:
    """A method that refuses every fixture would pass every check."""
    trial = tried(method)
    assert trial.state(trial.home) == "pass"


@pytest.mark.parametrize("method", METHODS)
def test_exemptions_are_needed(method: str) -> None:
    """An exemption from a check that the method passes has outlived its reason."""
    trial = tried(method)
    for name in trial.method.card.exempt:
        unexcused = Trial(trial.method, excuses=False)
        assert unexcused.report([name]).failures, f"{method} passes {name!r}"


def test_report_has_every_cell() -> None:
    report = check_method("vanilla-gradient", quick=True)
    assert report.ok
    assert len(report.cells) == len({k[0] for k in report.cells}) * len({k[1] for k in report.cells})
    kinds = {cell.split(":")[0] for cell in report.cells.values()}
    assert kinds == {"pass", "refused", "not claimed", "once"}
    assert "rowwise" in report.table()


def test_failures_are_all_listed() -> None:
    liar = next(x for x in liars()["complete"] if "sign" in x.name)
    with pytest.raises(ConformanceError, match=r"complete on mlp: the gap is 19\d%") as caught:
        check_method(liar.method, fixtures=["mlp", "lstm"], checks=["complete", "rowwise"])
    assert set(caught.value.report.failures) == {("complete", "mlp"), ("complete", "lstm")}


def test_exemption_is_reported_with_its_reason() -> None:
    import dataclasses

    from pellucid.testing.twins import HonestPath

    class Excused(HonestPath):
        pass

    Excused.card = dataclasses.replace(HonestPath.card, name="excused", exempt={"precision": "half precision inside"})
    cells = check_method(Excused, fixtures=["mlp"], checks=["precision", "linear"]).cells
    assert cells == {("precision", "mlp"): "exempt: half precision inside", ("linear", "mlp"): "pass"}


def test_there_are_enough_fixtures() -> None:
    names = [f.name for f in fixtures()]
    assert len(names) == len(set(names)) >= 22
    for fixture in fixtures():
        module = fixture.model()
        module = getattr(module, "model", module)
        assert sum(x.numel() for x in module.parameters()) <= 50_000
        assert fixture.note


def test_nothing_of_the_kit_is_in_the_catalogue() -> None:
    liars()
    classes: list[type[Method]] = [m for m in registered().values() if m.__module__.startswith("pellucid.testing")]
    assert classes == []
