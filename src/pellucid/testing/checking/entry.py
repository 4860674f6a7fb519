"""What a check is: a name, a sentence, when it applies, and a function that raises where the method is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pellucid.contract import Card
from pellucid.testing.case import Case

_CHECKS: dict[str, Check] = {}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold.

    Args:
        name: how exemptions and reports call it.
        sentence: what must hold, as a sentence.
        run: raises `CheckFailed` where it doesn't.
        applies: says of a card why the check is left out, or nothing.
        everywhere: run on every fixture that the method works on; else once, on the first that fits it.
        heavy: left out of a quick run.
    """

    name: str
    sentence: str
    run: Callable[[Case], None]
    applies: Callable[[Card], str]
    everywhere: bool = False
    heavy: bool = False


def check(
    name: str,
    *,
    claim: str | tuple[str, ...] = (),
    form: tuple[str, ...] = (),
    when: Callable[[Card], str] | None = None,
    everywhere: bool = False,
    heavy: bool = False,
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function as a check; the first line of its docstring is the sentence.

    `claim`: it applies where the card makes one of these claims; `form`: where the result has one of these forms.
    """
    claims = (claim,) if isinstance(claim, str) else claim

    def applies(card: Card) -> str:
        if claims and not set(claims) & set(card.claims):
            return f"not claimed: {' or '.join(claims)}"
        if form and card.form not in form:
            return f"not claimed: for {', '.join(form)} alone"
        return when(card) if when is not None else ""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        sentence = (function.__doc__ or "").strip().splitlines()[0]
        _CHECKS[name] = Check(
            name=name, sentence=sentence, run=function, applies=applies, everywhere=everywhere, heavy=heavy
        )
        return function

    return enter


def checks() -> Mapping[str, Check]:
    """All checks by name."""
    import pellucid.testing.checking as package  # noqa: F401 - importing the folder enters them

    return _CHECKS


def needs_module(card: Card) -> bool:
    """Whether the method needs more of the model than its answers."""
    return bool({"gradient", "layers", "backward rules", "spatial layer", "Fisher vectors"} & set(card.needs))
