"""What would the pixels be that excite this? Backward passes that keep positive signals alone at every rectifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.contract import Attribution, Card, Method
from pellucid.engine import Ask, Subject, backward, rules
from pellucid.engine.decomposition import wrap

__all__ = ["Deconvnet", "GuidedBackprop"]

_TREES = {
    "000": "structural/cnn/intermediate-layers",
    "001": "visualization/back-propagation",
    "002": "post-hoc/feature-analysis/deconvolution",
    "003": "passive/attribution/local",
    "004": "visualise",
}
_LIMITS = (
    "why this class rather than another: the map is much the same for every class",
    "whether the network's upper layers were trained: the map hardly changes when they are randomised",
)


@dataclass(frozen=True, kw_only=True)
class GuidedBackprop(Method):
    """Which fine details excite this score, following positive signals alone?

    The backward pass of the score, except that at every rectifier, in whichever spelling, the signal R that comes back
    goes on as ``R · 1[R > 0] · 1[activation > 0]``. Units are those of a gradient, though the map is none; positive marks
    details that excite the score along paths of positive influence only. Other activations pass their own derivative; an
    operation without a rule is refused by name.

    Cost: one forward and one backward pass.
    Known failures: nearly the same map for every class, and nearly unchanged when the upper layers are randomised (Nie,
    Zhang & Patel 2018; Adebayo et al. 2018): it recovers edges of the input more than reasons of the network.
    Source: Springenberg, Dosovitskiy, Brox & Riedmiller 2015, §3.4, figure 1.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> px.explain(net, torch.ones(1, 3), "guided-backprop").values.shape
        torch.Size([1, 3])
    """

    card: ClassVar[Card] = Card(
        name="guided-backprop",
        title="Guided backpropagation",
        question="Which fine details excite this score, following positive signals alone?",
        form="attribution",
        scope="local",
        citation="springenberg2015striving",
        needs=("gradient", "backward rules"),
        taxonomy=_TREES,
        claims=("rowwise", "deterministic", "dummy", "symmetric", "spelling invariant", "score scale"),
        cost="1 forward, 1 backward",
        supports=("which fine details of the input are visible to the units that fire",),
        limits=_LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return _explain(ask, rules.guided, self.card.title)


@dataclass(frozen=True, kw_only=True)
class Deconvnet(Method):
    """Which pattern in the input would a deconvolution of this score draw?

    The backward pass of the score, except that at every rectifier, in whichever spelling, the signal R that comes back
    goes on as ``max(R, 0)`` whether the unit fired or not; max-pooling sends it to the winner (where windows overlap,
    signals add up). Biases play no part. Positive marks pixels of the pattern; the map of a hidden unit
    (``target=px.unit(place, index)``) is that unit's pattern.

    Cost: one forward and one backward pass.
    Known failures: insensitive to the class and to randomised upper layers, as guided backpropagation; without
    max-pooling the pattern does not depend on the input at all.
    Source: Zeiler & Fergus 2014, §2.1; the form as a rule at rectifiers: Springenberg et al. 2015, §3.4.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
        >>> px.explain(net, torch.ones(1, 1, 5, 5), "deconvnet").values.shape
        torch.Size([1, 1, 5, 5])
    """

    card: ClassVar[Card] = Card(
        name="deconvnet",
        title="Deconvnet",
        question="Which pattern in the input would a deconvolution of this score draw?",
        form="attribution",
        scope="local",
        citation="zeiler2014visualizing",
        needs=("gradient", "backward rules"),
        taxonomy=_TREES,
        claims=("rowwise", "deterministic", "dummy", "symmetric", "spelling invariant", "score scale"),
        cost="1 forward, 1 backward",
        supports=("what a hidden unit's pattern looks like, given which pixels won the pooling",),
        limits=_LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return _explain(ask, rules.deconvnet, self.card.title)


def _explain(ask: Ask, table: Callable[[], rules.Table], label: str) -> Attribution:
    found = backward.once(ask, table, label)
    return Attribution(values=wrap(ask, found.grads), facts={"score": found.score})
