"""Every scenario runs from its data to explanations that point to what decides, and says how well."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.contract.errors import InputError
from pellucid.report import scenario
from pellucid.worlds.scenarios import SCENARIOS

QUICK = ("hiring", "voice")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SCENARIOS])
def test_a_scenario_runs_end_to_end_and_finds_what_decides(name: str, tmp_path: Path) -> None:
    run = scenario(name, rows=20)
    assert run.accuracy >= 0.9
    assert set(run.scores) == set(run.explanations) == set(SCENARIOS[name].methods)
    for score in run.scores.values():
        assert score["low"] <= score["mean"] <= score["high"]
        assert score["mean"] > 0.75
    best = max(run.scores.values(), key=lambda s: s["mean"])
    assert best["low"] > max(0.8, best["untrained"])
    page = run.page(tmp_path / "page.html").read_text(encoding="utf-8")
    assert SCENARIOS[name].risks[0] in run.describe()
    assert all(method in page for method in run.scores)
    assert "http://" not in page.replace("http://www.w3.org", "")
    with pytest.raises(InputError, match="exist yet"):
        run.page(tmp_path / "page.html")


def test_the_planted_disadvantage_is_found() -> None:
    """The group decides in hiring, and its proxy, which goes along with it nine times in ten, does not."""
    shares = scenario("hiring", rows=20).explanations["shapley-sampling"].values.abs().mean(0)
    assert shares[3] > 3 * shares[4]
    assert shares[:4].min() > shares[4:].max()


@pytest.mark.slow
def test_the_bundle_is_among_what_is_advised() -> None:
    run = scenario("insurance", rows=10, advice=True)
    assert run.advice is not None
    assert set(run.scenario.methods) & set(run.advice.names)
    assert run.advice.statement in run.describe()


def test_a_run_of_no_rows_is_refused() -> None:
    with pytest.raises(InputError, match="rows"):
        scenario("voice", rows=1)
