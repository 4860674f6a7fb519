"""How is the score shared out, layer by layer, until the input holds it? One rule for every operation with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, rules
from pellucid.engine.relevance import relevance
from pellucid.engine.rules.composites import relevance_table
from pellucid.engine.rules.relevance import alpha_beta, gamma

__all__ = ["AlphaBetaLRP", "EpsilonLRP", "GammaLRP"]

TREES = {
    "000": "behavioural/functional/layer-wise-relevance",
    "001": "visualization/back-propagation",
    "002": "post-hoc/saliency/relevance",
    "003": "passive/attribution/semi-local",
}
CLAIMS = ("rowwise", "deterministic", "symmetric", "spelling invariant")
LIMITS = (
    "shares of the score where 'conservation_gap' is large: the facts say what biases and rules kept, the ledger where",
    "what happens when an input changes: shares are no derivatives",
)


def not_negative(**values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise MethodError(f"The '{name}' must be a number of at least 0", got=repr(value))


@dataclass(frozen=True, kw_only=True)
class EpsilonLRP(Method):
    """Which share of the score came from each input, if every layer hands back what it got in proportion to the parts?

    ``R_i = Σ_j z_ij / (z_j + ε sign(z_j)) R_j`` with ``z_ij = x_i w_ij`` and ``z_j = Σ_i z_ij + b_j``, from the score
    down; score units, positive supports the score. Every operation counts, whatever spells it: evaluation batch norm is
    folded into what it follows, sums and averages share by their parts, activations and norms pass relevance on,
    pooling gives it to the winner, gates to the signal. Biases and ε keep their part, so that ``score = relevance_sum +
    absorbed_bias + absorbed_stabiliser + absorbed_rule + absorbed_gate + absorbed_elsewhere`` in every row;
    ``conserved`` is 1 where nothing was kept. ``source["ledger"]`` says which operation kept what, ``source["rules"]``
    which rule each got.

    Args:
        epsilon: moves denominators away from zero. With 0, LRP-0: on rectifier networks it equals gradient × input, and
            grows without bound as a denominator nears zero; the fact ``smallest_denominator`` says how near.

    Cost: one forward and one backward pass.
    Known failures: noisy where positive and negative parts cancel; negative denominators turn signs over.
    Source: Bach et al. 2015, eqs. 50 and 58.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2, bias=False).eval()
        >>> result = px.explain(net, torch.ones(1, 3), px.attribution.EpsilonLRP(epsilon=0.0), target=0)
        >>> torch.allclose(result.values[0], net.weight[0])
        True
    """

    epsilon: float = 1e-6

    card: ClassVar[Card] = Card(
        name="lrp-epsilon",
        title="LRP-ε",
        question="Which share of the score came from each input, if every layer shares in proportion to the parts?",
        form="attribution",
        scope="semi-local",
        citation="bach2015pixel",
        covers=("lrp-0",),
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=(*CLAIMS, "dummy"),
        cost="1 forward, 1 backward",
        supports=("each input's share of the score, less what biases kept", "which layers' biases made the score"),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(epsilon=self.epsilon)
        return relevance(ask, lambda: rules.epsilon_lrp(self.epsilon, least=True), self.card.title, denominators=True)


@dataclass(frozen=True, kw_only=True)
class AlphaBetaLRP(Method):
    """Which inputs excite the score and which inhibit it, if each layer shares the two apart?

    ``R_i = Σ_j (α z_ij⁺ / Σz⁺ - β z_ij⁻ / Σz⁻) R_j`` at operations with weights, where z_ij⁺ are the positive and z_ij⁻
    the negative parts, each sum with the bias of its sign; α - β = 1. Score units; positive supports the score. Other
    operations as in `EpsilonLRP`, and the same facts. Where one of the two sums is empty, its term is missing: an
    output that nothing inhibits passes on α times its relevance. ``absorbed_rule`` tells how much that comes to (below
    zero where relevance was made).

    Args:
        alpha: weight of what excites, at least 1.
        beta: weight of what inhibits, alpha - 1. Where a source writes α + β = 1, its β is the negative of this one.
        stabiliser: moves denominators away from zero.

    Cost: two forward and two backward passes.
    Known failures: with β = 0 the map hardly depends on the class (Sixt, Granz & Landgraf 2020); with β > 0 relevance
    is made where nothing inhibits.
    Source: Bach et al. 2015, eq. 60.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1, bias=False).eval()
        >>> net.weight.data = torch.tensor([[1.0, 2.0, -1.0]])
        >>> [round(v, 3) for v in px.explain(net, torch.ones(1, 3), "lrp-alpha-beta").values[0].tolist()]
        [1.333, 2.667, -2.0]
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabiliser: float = 1e-6

    card: ClassVar[Card] = Card(
        name="lrp-alpha-beta",
        title="LRP-αβ",
        question="Which inputs excite the score and which inhibit it, if each layer shares the two apart?",
        form="attribution",
        scope="semi-local",
        citation="bach2015pixel",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=(*CLAIMS, "dummy"),
        cost="2 forwards, 2 backwards",
        supports=("inputs that excite and inhibit the score, apart", "smooth maps of deep networks"),
        limits=(*LIMITS, "classes apart from each other, with beta=0: the map is much the same for all"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(stabiliser=self.stabiliser)
        rule = alpha_beta(self.alpha, self.beta, self.stabiliser)
        return relevance(ask, one_rule("alpha-beta", rule, self.stabiliser), self.card.title)


@dataclass(frozen=True, kw_only=True)
class GammaLRP(Method):
    """Which inputs support the score, if each layer favours what supports its output?

    ``R_i = Σ_j x_i (w_ij + γ w_ij⁺) / (b_j + γ b_j⁺ + Σ_i x_i (w_ij + γ w_ij⁺)) R_j`` at operations with weights; for
    inputs of both signs, and outputs below zero, the parts that push the output where it went are favoured alike. γ = 0
    is LRP-0, large γ the z⁺ rule. Score units; positive supports the score. Other operations and facts as in
    `EpsilonLRP`.

    Args:
        gamma: how much more the favoured parts count.
        stabiliser: moves denominators away from zero.

    Cost: two forward and two backward passes, three where outputs below zero carry relevance.
    Known failure: one γ for all layers is a compromise: low layers want a large one, high layers a small one.
    Source: Montavon et al. 2019, §10.2.1; for inputs of both signs Andéol et al. 2021, appendix A.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1, bias=False).eval()
        >>> net.weight.data = torch.tensor([[1.0, 2.0, -1.0]])
        >>> [round(v, 2) for v in px.explain(net, torch.ones(1, 3), "lrp-gamma").values[0].tolist()]
        [0.91, 1.82, -0.73]
    """

    gamma: float = 0.25
    stabiliser: float = 1e-6

    card: ClassVar[Card] = Card(
        name="lrp-gamma",
        title="LRP-γ",
        question="Which inputs support the score, if each layer favours what supports its output?",
        form="attribution",
        scope="semi-local",
        citation="montavon2019layer",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=(*CLAIMS, "dummy"),
        cost="2 forwards, 2 backwards",
        supports=("inputs that support the score, with less noise than LRP-ε",),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(gamma=self.gamma, stabiliser=self.stabiliser)
        return relevance(ask, one_rule("gamma", gamma(self.gamma, self.stabiliser), self.stabiliser), self.card.title)


def one_rule(name: str, rule: rules.Rule, stabiliser: float) -> Callable[[], rules.Table]:
    """The same rule for all operations with weights."""
    return lambda: relevance_table(name, [(lambda op: True, rule)], stabiliser)
