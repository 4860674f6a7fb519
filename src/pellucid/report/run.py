"""Several methods on the same rows; what can't be computed is listed with its reason instead of stopping the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid.contract import Explanation, Method, as_method, registered
from pellucid.contract.errors import PellucidError
from pellucid.engine import Subject, explain
from pellucid.report.trust_faithful import faithful
from pellucid.show.words import clean, placeless

Step = Callable[[int], Any]
PRIVATE = "it shows rows of the data, which are private"


@dataclass(eq=False)
class Found:
    """Results by method, in the order asked for, and the methods that gave none with the reason."""

    results: list[Explanation] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    def of(self, *forms: str) -> list[Any]:
        """The results of these forms."""
        return [r for r in self.results if r.form in forms]


def run(
    subject: Subject, inputs: Any, methods: Sequence[Any], step: Step, *, private: bool = False, **asked: Any
) -> Found:
    """Explain by each method; `asked` goes to `explain`, with `layers` from method names to the place each wants.

    With `private`, methods that show rows of the data are left out, with that as the reason.
    """
    found, layers, data = Found(), asked.pop("layers", {}), asked.pop("data", None)
    for given in methods:
        step(1)
        name = given.card.name if isinstance(given, Method) else str(given)
        if isinstance(given, str) and not _known(given):
            found.missing.append((clean(given), "not in the catalogue"))
            continue
        try:
            method = as_method(given)
            if private and method.card.form == "examples":
                found.missing.append((clean(name), PRIVATE))
                continue
            # To a method that doesn't learn from examples, data would be the starting point it compares with.
            learns = {"data", "labels"} & set(method.card.needs)
            place = layers.get(name)
            given = data if learns else None
            result = explain(subject, inputs, method, layer=place, data=given, **asked)
            if private and learns and getattr(result, "images", None) is not None:
                found.missing.append((clean(name), PRIVATE))
                continue
            found.results.append(faithful(subject, inputs, method, result, layer=place, data=given, **asked))
        except PellucidError as error:
            found.missing.append((clean(name), clean(placeless(error), 400)))
    return found


def _known(name: str) -> bool:
    return name in registered() or any(name in method.card.covers for method in registered().values())


def usual(inputs: Any, data: Any) -> list[str]:
    """Methods that suit most questions about these inputs, of those in the catalogue."""
    image = getattr(inputs, "dim", lambda: 0)() == 4
    names = ["integrated-gradients", "smoothgrad", "occlusion-sensitivity" if image else "feature-ablation"]
    names += ["grad-cam"] if image else []
    names += ["deep-nearest-neighbours", "cart-c45-surrogate"] if data is not None else []
    return [name for name in names if _known(name)]
