"""Which share-out rule does each operation of a model get? Tables by kind, depth and name of operation.

Weights that act on one signal are of the kind "convolution" or "dense"; all other operations are as in the epsilon
table: sums and averages share by the parts, activations and norms pass relevance on, pooling gives it to the winner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from pellucid.contract.errors import MethodError
from pellucid.engine.rules import relevance
from pellucid.engine.rules.operations import epsilon
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.relevance import Bounds, weighted
from pellucid.engine.rules.tables import epsilon_lrp
from pellucid.engine.rules.walk import Rule, Table

Choice = tuple[Callable[[Op], bool], Rule]

RULES: Mapping[str, Callable[..., Rule]] = {
    "epsilon": epsilon,
    "z-plus": relevance.z_plus,
    "alpha-beta": relevance.alpha_beta,
    "gamma": relevance.gamma,
    "flat": relevance.flat,
    "w-square": relevance.w_square,
    "z-box": relevance.z_box,
}
KINDS = ("convolution", "dense")
COMPOSITES = (
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box",
)


def kind(op: Op) -> str:
    """ "convolution" or "dense"."""
    return "convolution" if op.name == "convolution" else "dense"


def relevance_table(name: str, choices: Sequence[Choice], stabiliser: float = 1e-6) -> Table:
    """The epsilon table, except that weighted operations get the rule of the first choice that fits them."""

    def choose(op: Op) -> Rule | None:
        return next((rule for fits, rule in choices if fits(op)), None) if weighted(op) else None

    return replace(epsilon_lrp(stabiliser).choosing(choose), name=name)


def composite(name: str, epsilon_value: float, gamma: float, low: Bounds, high: Bounds) -> list[Choice]:
    """The choices of a published composite."""
    if name not in COMPOSITES:
        raise MethodError(f"The 'composite' must be one of {COMPOSITES}", got=repr(name))
    convolution: dict[str, Rule] = {
        "plus": relevance.z_plus(),
        "alpha2": relevance.alpha_beta(2.0, 1.0),
        "gamma": relevance.gamma(gamma),
    }
    parts = name.split("-")
    found: list[Choice] = []
    if parts[-1] == "flat":
        found.append((lambda op: op.depth == 1, relevance.flat()))
    if parts[-1] == "box":
        found.append((lambda op: op.depth == 1 and kind(op) == "convolution", relevance.z_box(low, high)))
    found.append((lambda op: kind(op) == "convolution", convolution[parts[1]]))
    found.append((lambda op: True, epsilon(epsilon_value)))
    return found


def assignment(where: str, rule: str, *settings: float) -> Choice:
    """A choice from plain data: all words of `where` must fit, and the rule is named with its numbers.

    Words are "kind:convolution", "depth:1" or "depth:2-5" (how many weighted operations lie between it and the input,
    itself included), and a pattern for the module's name, such as "features.*".
    """
    if rule not in RULES:
        raise MethodError(f"The rule of an assignment must be one of {tuple(RULES)}", got=repr(rule))
    tests = [_test(word) for word in where.split()]
    try:
        return (lambda op: all(test(op) for test in tests)), RULES[rule](*settings)
    except TypeError as wrong:
        raise MethodError(f"The settings of the rule '{rule}' do not fit", got=f"{settings}", hint=str(wrong)) from None


def _test(word: str) -> Callable[[Op], bool]:
    key, colon, value = word.partition(":")
    if not colon:
        return lambda op: fnmatchcase(op.module, word)
    if key == "kind" and value in KINDS:
        return lambda op: kind(op) == value
    first, _, last = value.partition("-")
    if key == "depth" and first.isdigit() and (last or first).isdigit():
        return lambda op: int(first) <= op.depth <= int(last or first)
    raise MethodError(
        f"The words of an assignment must be 'kind:' and one of {KINDS}, 'depth:' and a span, or a name's pattern",
        got=repr(word),
        hint="'kind:dense depth:2-5 classifier.*'",
    )
