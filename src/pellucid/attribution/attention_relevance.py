"""How is the score shared out through attention and normalisation?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.attribution.relevance import CLAIMS, LIMITS, TREES, not_negative
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.relevance import relevance
from pellucid.engine.rules.attention import attnlrp, conservative

__all__ = ["AttentionLRP"]

VARIANTS = {"conservative": conservative, "attnlrp": attnlrp}


@dataclass(frozen=True, kw_only=True)
class AttentionLRP(Method):
    """Which tokens or patches did a transformer's score come from?

    The ε rule at weights, with one of two ways through the rest. "conservative" takes attention weights and the
    deviation of norms as constants: without biases the values sum to the score, and with rectifiers they are gradient ×
    input of the network in which these are detached. "attnlrp" gives each factor of a product half, shares at softmax
    by its Taylor expansion, ``R_i = x_i (R_i - s_i Σ_j R_j)``, which does not conserve (``absorbed_rule``), and passes
    relevance unchanged through norms. Activations (GELU, SiLU) pass it unchanged in both. Score units; positive
    supports the score. Token models are explained at their embedding, ``layer="embedding"``; a token's relevance is the
    sum over its vector. Facts, ledger and rules as with `EpsilonLRP`; positional embeddings count as biases.

    Args:
        variant: "conservative" or "attnlrp".
        epsilon: moves denominators away from zero.

    Cost: one forward and one backward pass.
    Known failures: "conservative" is blind to why a token was attended to; "attnlrp" through many layers grows where
    attention scores are large.
    Source: Ali et al. 2022, §3.1-3.2, eqs. 5-8; Achtibat et al. 2024, propositions 3.1-3.4.

    Example:
        >>> import torch, pellucid as px
        >>> block = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
        >>> target = lambda out: out[:, 0, 1]
        >>> px.explain(block, torch.rand(1, 3, 4), "attention-relevance-propagation", target=target).values.shape
        torch.Size([1, 3, 4])
    """

    variant: str = "conservative"
    epsilon: float = 1e-6

    card: ClassVar[Card] = Card(
        name="attention-relevance-propagation",
        title="LRP through attention",
        question="Which tokens or patches did a transformer's score come from?",
        form="attribution",
        scope="semi-local",
        citation="ali2022xai",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=(*CLAIMS, "dummy"),
        cost="1 forward, 1 backward",
        supports=("each token's or patch's share of the score, less what biases kept",),
        limits=(*LIMITS, "why a token was attended to, with variant='conservative'"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(epsilon=self.epsilon)
        if self.variant not in VARIANTS:
            raise MethodError(f"The 'variant' must be one of {tuple(VARIANTS)}", got=repr(self.variant))
        table = VARIANTS[self.variant]
        return relevance(ask, lambda: table(self.epsilon), f"{self.card.title}, {self.variant}")
