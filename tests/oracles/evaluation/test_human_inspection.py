"""Plausibility: what pretended people accept comes out, and whoever reads it is told that plausible is not faithful."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pellucid as px
from pellucid.contract.errors import InputError
from pellucid.evaluation import Panel, Stimulus, analyse_plausibility, plausibility_study

MAPS = {
    name: [Panel(lines=(f"{name[0]}{i}",)) for i in range(10)]
    for name in ("sound-method", "edge-method", "other-method")
}
SHARE = {"sound-method": 0.5, "edge-method": 0.9, "other-method": 0.2}


def person(_: int, s: Stimulus, draw: np.random.Generator) -> tuple[dict[str, Any], float]:
    yes = draw.random() < SHARE[s.condition]
    return {"verdict": int(not yes), "reasons": (0,) if yes else (1, 3)}, 5.0


def warned(found: Any) -> list[str]:
    return [w for w in found.source["study"]["warnings"] if w.startswith("Plausible is not faithful")]


def test_what_raters_accept_is_recovered() -> None:
    study = plausibility_study(MAPS, participants=12, sanity=dict.fromkeys(MAPS, False))
    found = analyse_plausibility(study, study.rehearse(person))
    assert found.values.tolist() == pytest.approx(list(SHARE.values()), abs=0.1)
    truth = torch.tensor(list(SHARE.values()))
    assert bool(((found.facts["low"] < truth) & (truth < found.facts["high"])).all())
    assert found.parts["reasons"][:, 0].tolist() == pytest.approx(found.values.tolist())
    assert found.parts["reasons"][:, 3].tolist() == pytest.approx((1 - found.values).tolist())
    assert found.facts["failed"].tolist() == [0, 0, 0]
    assert not warned(found)


@pytest.mark.parametrize(
    ("sanity", "said"),
    [
        ({"edge-method": True, "sound-method": False, "other-method": False}, ["edge-method"]),
        ({"edge-method": True, "sound-method": True, "other-method": False}, ["sound-method", "edge-method"]),
        ({"edge-method": False, "sound-method": False}, ["other-method"]),  # not checked
        (None, ["sound-method", "edge-method", "other-method"]),
        (dict.fromkeys(MAPS, False), []),
    ],
)
def test_the_warning_is_shown_whenever_the_check_failed(sanity: Any, said: list[str], tmp_path: Path) -> None:
    study = plausibility_study(MAPS, participants=2, sanity=sanity)
    failed = any((sanity or {}).values())
    page = study.export(tmp_path / "out").read_text(encoding="utf-8")
    assert ("Plausible is not faithful" in page.replace("\u00a0", " ")) == failed
    assert not any(name in page for name in MAPS)  # nobody who judges is told which
    lines = [w for w in warned(analyse_plausibility(study, study.rehearse(person))) if "(" in w]
    assert [next(name for name in MAPS if name in line) for line in lines] == said


def test_a_failed_check_of_a_real_network_is_taken_over() -> None:
    """A map of the picture alone does not depend on the network; the gradient does."""
    net = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 3)).eval()
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    sound = px.explain(net, x, "model-randomization-test")
    broken = sound.replace(facts={**sound.facts, "fails": torch.tensor([1.0, 1, 1, 1, torch.nan, 0])})
    study = plausibility_study(
        {"a": [Panel(lines=("a",))], "b": [Panel(lines=("b",))]}, participants=2, sanity={"a": sound, "b": broken}
    )
    found = analyse_plausibility(study, study.rehearse(lambda *_: ({"verdict": 0, "reasons": ()}, 1.0)))
    assert found.facts["failed"].tolist() == [float(sound.facts["fails"].mean() >= 0.5), 1.0]


def test_what_is_no_check_is_refused() -> None:
    with pytest.raises(InputError, match="fails"):
        plausibility_study(MAPS, participants=2, sanity={"edge-method": 1.0})
    with pytest.raises(InputError, match="among the maps"):
        plausibility_study(MAPS, participants=2, sanity={"unheard-of": True})
    with pytest.raises(InputError, match="each case"):
        plausibility_study({**MAPS, "short": []}, participants=2)
