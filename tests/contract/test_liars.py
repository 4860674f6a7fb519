"""Every check catches the methods that break it on purpose, and lets their honest twins pass."""

from __future__ import annotations

import sys

import pytest

from pellucid.testing import Trial, checks
from pellucid.testing.liars import Liar, liars

ALL = [liar for group in liars().values() for liar in group]


def test_every_check_has_a_liar() -> None:
    assert set(liars()) == set(checks())


@pytest.mark.parametrize("liar", ALL, ids=lambda liar: liar.name)
def test_liar_is_caught(liar: Liar) -> None:
    trial = Trial(liar.method, fixtures=[liar.fixture], verb=liar.verb)
    assert trial.cell(checks()[liar.check], liar.fixture).startswith("FAIL")


@pytest.mark.parametrize(
    ("check", "twin", "fixture"),
    sorted({(x.check, x.twin, x.fixture) for x in ALL}, key=str),
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_honest_twin_passes(check: str, twin: type, fixture: str) -> None:
    cell = Trial(twin, fixtures=[fixture]).cell(checks()[check], fixture)
    assert cell == "pass" or (check == "answers" and cell.startswith("refused"))


def test_the_kit_needs_no_test_framework() -> None:
    import subprocess

    code = "import pellucid.testing, pellucid.testing.liars as a, sys; a.liars(); sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
