"""One viewer for each result form: a figure, a piece of HTML, words."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from pellucid.contract import Explanation, tensors
from pellucid.contract.errors import InputError
from pellucid.show import attribution, draw, engineer, examples, measure, rules, semantics, text
from pellucid.show.options import Options, options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AUDIENCES", "Options", "describe", "figure", "html"]

AUDIENCES = ("layperson", "engineer")
_VIEWERS: dict[str, ModuleType] = {
    "attribution": attribution,
    "examples": examples,
    "measure": measure,
    "rules": rules,
    "semantics": semantics,
    "text": text,
}


def figure(result: Explanation, **given: Any) -> Figure:
    """The result as a Matplotlib figure with a canvas of its own; needs no screen.

    Args:
        result: any of the six forms.
        given: `rows` drawn at most (8), `clip` percentile of full colour (99), `features` drawn at most in a row (12),
            `row` whose way through a tree is marked.

    Example:
        >>> import torch, pellucid as px
        >>> px.show.figure(px.Attribution(values=torch.ones(1, 3))).axes[0].get_title(loc="left")
        'raises / lowers the score'
    """
    return viewer(result).figure(result, options(given))


def html(result: Explanation, *, audience: str = "layperson", whole: bool = False, **given: Any) -> str:
    """The result as HTML without outside requests: a piece for a page, or a `whole` document.

    Args:
        result: any of the six forms.
        audience: whose words stand open; the engineer's figures are always there, folded for a layperson.
        whole: a document of its own, with a content policy that lets nothing be fetched.
        given: as for `figure`.
    """
    from pellucid.show import pages

    heard(audience)
    return pages.html(result, viewer(result), audience, options(given), whole=whole)


def describe(result: Explanation, audience: str = "layperson", **given: Any) -> str:
    """The result in words.

    Args:
        result: any of the six forms.
        audience: "layperson" (what was asked, what the network answered, what mattered, how far to believe it, what it
            can't tell) or "engineer" (settings, hashes, and each row's figures).
        given: as for `figure`; `rows` is how many are told.

    Example:
        >>> import torch, pellucid as px
        >>> print(px.show.describe(px.Measure(values=torch.tensor([0.5]), unit="bits")))
        What was asked: What was measured?
        The measured value is 0.5 bits.
    """
    heard(audience)
    wanted = options(given)
    if audience == "engineer":
        return engineer.describe(result, viewer(result), wanted)
    told: str = viewer(result).account(result, wanted).text()
    return told


def viewer(result: Explanation) -> Any:
    """The module that shows this form."""
    if not isinstance(result, Explanation) or result.form not in _VIEWERS:
        raise InputError(
            f"The 'result' must be one of the forms {', '.join(_VIEWERS)}",
            got=type(result).__name__,
            hint="px.explain(...)",
        )
    known = _VIEWERS[result.form]
    return _Nothing(known) if _empty(result) else known


def _empty(result: Explanation) -> bool:
    """Whether the form's main tensors hold nothing at all."""
    main = [v for name in ("values", "items") if (v := getattr(result, name, None)) is not None]
    held = [x for value in main for x in tensors(value)]
    return bool(held) and not any(x.numel() for x in held)


class _Nothing:
    """A viewer of results without rows or values: its figure says so, its words are the form's own."""

    def __init__(self, of: ModuleType) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def figure(self, result: Explanation, wanted: Options) -> Figure:
        whole = draw.canvas(6.4, 0.9)
        draw.head(whole, True, f"Nothing to draw: this {result.form} has no values")
        return whole


def heard(audience: str) -> None:
    """Refuse an audience that there are no words for."""
    if audience not in AUDIENCES:
        raise InputError(f"The 'audience' must be one of {', '.join(map(repr, AUDIENCES))}", got=repr(audience))
