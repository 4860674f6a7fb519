"""One cache folder for the whole run, so that every zoo model is trained at most once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def zoo_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that ``PELLUCID_CACHE`` names, or a fresh one for this run."""
    chosen = os.environ.get("PELLUCID_CACHE")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("pellucid-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PELLUCID_CACHE", str(folder))
        yield folder / "zoo"
