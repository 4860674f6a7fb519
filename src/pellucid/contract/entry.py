"""What stands in the catalogue beside methods: tools, demos and requirements, each with the test that shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pellucid.contract.errors import MethodError

KINDS = ("tool", "demo", "requirement")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A feature of the library that is no method: what it does, how it is reached, and what shows that it is so.

    `use` is the public word or the command. `test` is the pytest node id that shows it: "tests/…/test_x.py::test_y".
    """

    name: str
    kind: str
    title: str
    does: str
    use: str
    test: str
    covers: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise where a field is empty or outside the vocabulary."""
        if self.kind not in KINDS:
            raise MethodError(f"The entry {self.name!r} must be of one kind of {KINDS}", got=repr(self.kind))
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise MethodError("The name of an entry must be in kebab-case", got=repr(self.name))
        if not re.fullmatch(r"tests/[\w/]+\.py::test_\w+", self.test):
            raise MethodError(f"The entry {self.name!r} must name the test that shows it", got=repr(self.test))
        if not (self.title and self.does and self.use):
            raise MethodError(f"The entry {self.name!r} must say what it does and how it is reached")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data, with the keys every object of the catalogue has."""
        return {
            "id": self.name,
            "kind": self.kind,
            "covers": list(self.covers),
            "title": self.title,
            "form": self.kind,
            "scope": "any",
            "needs": [],
            "does": self.does,
            "use": self.use,
            "test": self.test,
        }
