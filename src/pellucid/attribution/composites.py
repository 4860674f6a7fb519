"""Which rule for which layer? Relevance with rules assigned by kind, depth and name of operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.relevance import LIMITS, TREES, not_negative
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.relevance import relevance
from pellucid.engine.rules.composites import assignment, composite, relevance_table
from pellucid.engine.rules.deep_taylor import deep_taylor
from pellucid.engine.rules.relevance import w_square, z_box, z_plus

__all__ = ["CompositeLRP", "DeepTaylor"]

Bound = float | tuple[float, ...]
DOMAINS = ("auto", "positive", "real", "box")


def bound(value: Bound, name: str) -> float | Tensor:
    """A number, or one per channel, in the shape of an image's channels."""
    if isinstance(value, tuple | list):
        return torch.tensor(value, dtype=torch.float64).view(-1, 1, 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MethodError(f"The '{name}' must be a number, or a tuple of one per channel", got=repr(value))
    return float(value)


@dataclass(frozen=True, kw_only=True)
class CompositeLRP(Method):
    """Which share of the score came from each input, with the rule that suits each layer?

    Operations with weights get rules by what they are and where they stand; all others as in `EpsilonLRP`, and the same
    facts. The published composites: ε for dense layers and, for convolutions, z⁺ ("epsilon-plus"), α=2 β=1
    ("epsilon-alpha2-beta1") or γ with the z-box rule at the first one ("epsilon-gamma-box"); "-flat" spreads evenly at
    the first layer. ``source["rules"]`` lists which operation of this model got which rule. Score units; positive
    supports the score.

    Args:
        composite: "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat" or
            "epsilon-gamma-box".
        assign: own choices that go first, each ``(where, rule, *numbers)``, the first that fits wins. `where` holds
            words that must all fit: "kind:convolution" or "kind:dense", "depth:1" or "depth:2-5", a pattern of module
            names such as "features.*". `rule` is "epsilon", "z-plus", "alpha-beta", "gamma", "flat", "w-square" or
            "z-box".
        epsilon: of the ε rule.
        gamma: of the γ rule.
        low: least value an input can take, for the z-box rule; a tuple for one per channel.
        high: largest value an input can take.

    Cost: about two forward and two backward passes.
    Known failure: "-flat" shows where evidence came from by the first layer's windows, not by its pixels.
    Source: Montavon et al. 2019, §10.3; Kohlbrenner et al. 2020; the names are those of Anders et al. 2021.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
        >>> method = px.attribution.CompositeLRP(assign=(("kind:convolution depth:1", "gamma", 0.5),))
        >>> result = px.explain(net, torch.ones(1, 1, 4, 4), method, target=0)
        >>> [row["rule"] for row in result.source["rules"] if row["operation"] == "aten.convolution"]
        ['γ=0.5']
    """

    composite: str = "epsilon-plus-flat"
    assign: tuple[tuple[Any, ...], ...] = ()
    epsilon: float = 1e-6
    gamma: float = 0.25
    low: Bound = 0.0
    high: Bound = 1.0

    card: ClassVar[Card] = Card(
        name="lrp-composites",
        title="LRP composite",
        question="Which share of the score came from each input, with the rule that suits each layer?",
        form="attribution",
        scope="semi-local",
        citation="kohlbrenner2020towards",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=("rowwise", "deterministic", "symmetric", "spelling invariant"),
        cost="2 forwards, 2 backwards",
        supports=("each input's share of the score, less noisy than with one rule for all layers",),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(epsilon=self.epsilon, gamma=self.gamma)
        low, high = bound(self.low, "low"), bound(self.high, "high")
        for choice in self.assign:
            if (
                not isinstance(choice, tuple | list)
                or len(choice) < 2
                or not all(isinstance(w, str) for w in choice[:2])
            ):
                raise MethodError(
                    "The 'assign' must be tuples of where, rule and numbers", got=repr(choice),
                    hint="(('features.0', 'z-box', -2.1, 2.6),)",
                )  # fmt: skip
        choices = [assignment(*choice) for choice in self.assign]
        choices += composite(self.composite, self.epsilon, self.gamma, low, high)
        return relevance(ask, lambda: relevance_table(self.composite, choices), self.card.title)


@dataclass(frozen=True, kw_only=True)
class DeepTaylor(Method):
    """Which inputs does a rectifier network's positive score rest on, if no share may be negative?

    The score max(S, 0) is expanded neuron by neuron at the nearest root in the domain its inputs can have: z⁺ at hidden
    layers (``R_i = Σ_j x_i w_ij⁺ / (Σ_i x_i w_ij⁺ + b_j⁺) R_j``), and at the input z-box where `low` and `high` bound
    it, w² where it is any real number. Values are never negative, in score units; they sum to max(S, 0) where no bias
    is positive, and ``absorbed_bias`` says what positive ones kept. Networks other than of weights, rectifiers, pooling
    and sums are refused by name.

    Args:
        domain: "auto" (at an input "box" where `low` and `high` are given, else "real"; at a layer "positive"), "box",
            "real" or "positive".
        low: least value an input can take; a tuple for one per channel.
        high: largest value an input can take.
        stabiliser: moves denominators away from zero.

    Cost: two forward and two backward passes.
    Known failures: hardly depends on the class or on the upper layers (Sixt, Granz & Landgraf 2020); all zero where the
    score is not positive.
    Source: Montavon, Lapuschkin, Binder, Samek & Müller 2017, table 1.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> bool((px.explain(net, torch.ones(2, 3), "deep-taylor-decomposition").values >= 0).all())
        True
    """

    domain: str = "auto"
    low: Bound | None = None
    high: Bound | None = None
    stabiliser: float = 1e-6

    card: ClassVar[Card] = Card(
        name="deep-taylor-decomposition",
        title="Deep Taylor decomposition",
        question="Which inputs does a rectifier network's positive score rest on, if no share may be negative?",
        form="attribution",
        scope="local",
        citation="montavon2017explaining",
        needs=("gradient", "backward rules"),
        taxonomy={**TREES, "003": "passive/attribution/local"},
        claims=("rowwise", "deterministic", "symmetric", "spelling invariant"),
        cost="2 forwards, 2 backwards",
        supports=("where the evidence for a positive score lies",),
        limits=("what speaks against the score: no value is negative", *LIMITS),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(stabiliser=self.stabiliser)
        domain = self._domain(ask)
        if domain == "box":
            assert self.low is not None
            assert self.high is not None
            first = z_box(bound(self.low, "low"), bound(self.high, "high"), self.stabiliser)
        else:
            first = (
                z_plus(self.stabiliser, positive=True)
                if domain == "positive"
                else w_square(self.stabiliser, biases=False)
            )
        return relevance(
            ask, lambda: deep_taylor(first, self.stabiliser), self.card.title, score=lambda s: s.clamp(min=0)
        )

    def _domain(self, ask: Ask) -> str:
        bounded = self.low is not None and self.high is not None
        if self.domain not in DOMAINS or (self.domain == "box" and not bounded):
            raise MethodError(
                f"The 'domain' must be one of {DOMAINS}, and 'box' needs 'low' and 'high'", got=repr(self.domain)
            )
        if self.domain != "auto":
            return self.domain
        return "positive" if ask.layer is not None else "box" if bounded else "real"
