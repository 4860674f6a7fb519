"""Each test sees the catalogue as it is for users, and the methods of its own module: not those that other tests define."""

from __future__ import annotations

import pytest

from pellucid.contract import method


@pytest.fixture(autouse=True)
def _no_methods_of_other_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    own = getattr(request.module, "__name__", "")
    for name, cls in list(method._REGISTERED.items()):
        if cls.__module__.split(".")[0] not in ("pellucid", "nets") and cls.__module__ != own:
            monkeypatch.delitem(method._REGISTERED, name)
