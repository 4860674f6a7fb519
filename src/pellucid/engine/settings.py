"""Refusing settings that are no numbers of the kind they must be, by name."""

from __future__ import annotations

from typing import Any

from pellucid.contract.errors import MethodError


def whole(**settings: tuple[Any, int]) -> None:
    """Refuse settings that are no ints of at least so much: `whole(steps=(self.steps, 1))`."""
    for name, (value, least) in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise MethodError(f"The '{name}' must be an int of at least {least}", got=repr(value))


def whole_or_none(**settings: tuple[Any, int]) -> None:
    """The same for settings that may be left out."""
    whole(**{name: (value, least) for name, (value, least) in settings.items() if value is not None})
