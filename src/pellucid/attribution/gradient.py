"""Which way would the score move? Gradients of the score at the input or at a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, gradient
from pellucid.engine.decomposition import completeness, start, wrap

__all__ = ["GradientXInput", "VanillaGradient"]

REDUCTIONS = ("none", "max", "sum", "norm", "mean")


@dataclass(frozen=True, kw_only=True)
class VanillaGradient(Method):
    """Which inputs would change the score most, if each were changed a little?

    The value of input i is the derivative of the score, ``values[i] = dS/dx_i``, in score units per input unit; positive
    means that raising the input raises the score. ``absolute`` gives its size, and ``channels`` reduces the channel axis
    of images to one: "max" with ``absolute`` is the saliency map of Simonyan et al. A hidden unit is explained by
    ``target=px.unit(place, index)``, hidden values by ``layer=``; so with every method.

    Args:
        absolute: give |dS/dx|.
        squared: give (dS/dx)².
        channels: "none", or reduce axis 1 by "max", "sum", "mean" or "norm"; the axis is kept with length 1.

    Cost: one forward and one backward pass.
    Known failure: zero where the network is saturated, although the input matters (``min(1, x1 + x2)`` at (2, 2)).
    Source: Simonyan, Vedaldi & Zisserman 2013, §3; Baehrens et al. 2010.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> grad = px.explain(net, torch.zeros(1, 3), "vanilla-gradient", target=0).values
        >>> torch.equal(grad[0], net.weight[0])
        True
    """

    absolute: bool = False
    squared: bool = False
    channels: str = "none"

    card: ClassVar[Card] = Card(
        name="vanilla-gradient",
        title="Gradient",
        question="Which inputs would change the score most if each were changed a little?",
        form="attribution",
        scope="local",
        citation="simonyan2013deep",
        covers=("neuron-attribution",),
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=(
            "rowwise",
            "deterministic",
            "linear",
            "dummy",
            "symmetric",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        cost="1 forward, 1 backward",
        supports=("how the score changes for a small change of one input",),
        limits=(
            "how much an input contributed: a saturated input has no gradient and may still matter",
            "what happens for a large change",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        bent = self.absolute or self.squared or self.channels in ("max", "norm")
        lost = {"linear", "score scale"} if self.squared else {"linear"} if bent else set()
        return tuple(c for c in self.card.claims if c not in lost)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = gradient.once(ask, self.card.title)
        values = tuple(self._form(g) for g in found.grads)
        return Attribution(values=wrap(ask, values), facts={"score": found.score})

    def _form(self, grad: Tensor) -> Tensor:
        value = grad.square() if self.squared else grad.abs() if self.absolute else grad
        if self.channels == "none":
            return value
        if self.channels not in REDUCTIONS or value.dim() < 3:
            raise MethodError(f"'channels' must be one of {REDUCTIONS}, for inputs with channels", got=self.channels)
        return {
            "max": lambda: value.amax(1, keepdim=True),
            "sum": lambda: value.sum(1, keepdim=True),
            "mean": lambda: value.mean(1, keepdim=True),
            "norm": lambda: value.norm(dim=1, keepdim=True),
        }[self.channels]()


@dataclass(frozen=True, kw_only=True)
class GradientXInput(Method):
    """How much does each input contribute, if the network were the straight line that touches it here?

    ``values[i] = (x_i - x'_i) dS/dx_i`` with baseline x', by default zero: the first-order Taylor term, in score units;
    positive raises the score. For a network of rectifiers without biases the values sum to the score; the fact
    ``completeness_gap`` is the absolute difference between the sum and score minus baseline score.

    Args:
        baseline: a number, or "zero", "mean", "blur", "min", "max"; ``data=`` gives the baseline itself.

    Cost: two forward and one backward pass.
    Known failure: the straight line leaves the network quickly, which the gap shows; zero where the network saturates.
    Source: Shrikumar et al. 2016 (arXiv 1605.01713); Ancona et al. 2018.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "gradient-x-input", target=0)
        >>> bool(result.facts["completeness_gap"] < 1e-6)
        True
    """

    baseline: float | str = 0.0

    card: ClassVar[Card] = Card(
        name="gradient-x-input",
        title="Gradient × input",
        question="How much does each input contribute, if the network were a straight line around this point?",
        form="attribution",
        scope="local",
        citation="shrikumar2016not",
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=(
            "rowwise",
            "deterministic",
            "linear",
            "dummy",
            "symmetric",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        cost="2 forwards, 1 backward",
        supports=("each input's share of the score, where the gap is small",),
        limits=("shares of the score where the gap is large: the straight line has left the network",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        found = gradient.once(ask, self.card.title)
        base = start(ask, self.baseline)
        values = tuple((v - b) * g for v, b, g in zip(found.values, base, found.grads, strict=True))
        return Attribution(
            values=wrap(ask, values), baseline=wrap(ask, base), facts=completeness(ask, values, base, found.score)
        )
