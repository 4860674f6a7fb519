"""Method classes that are in the catalogue for the time of a test alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pellucid.contract import Method
from pellucid.contract import method as catalogue


@contextlib.contextmanager
def enlisted(cls: type[Method]) -> Iterator[None]:
    """Enter a class that was made without registration, and take it out again."""
    held = catalogue._REGISTERED
    if held.get(cls.card.name) is cls:
        yield
        return
    old = held.get(cls.card.name)
    held[cls.card.name] = cls
    try:
        yield
    finally:
        if old is None:
            held.pop(cls.card.name, None)
        else:
            held[cls.card.name] = old
