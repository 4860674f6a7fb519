"""Which words or steps of a sequence was the score made of? Relevance in recurrent and in convolutional readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pellucid.attribution.relevance import CLAIMS, LIMITS, not_negative
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.relevance import relevance
from pellucid.engine.rules.recurrent import recurrent

__all__ = ["RecurrentLRP", "TextCNNLRP"]

TREES = {
    "001": "visualization/back-propagation",
    "002": "post-hoc/saliency/relevance",
    "003": "passive/attribution/local",
    "004": "explain",
}


def share(ask: Ask, epsilon: float, bias_factor: float, label: str, by_word: bool) -> Attribution:
    """Relevance with the bias factor; by word it is summed over the last axis, which is kept with length 1."""
    not_negative(epsilon=epsilon, bias_factor=bias_factor)
    if bias_factor > 1:
        raise MethodError("The 'bias_factor' must be between 0 and 1", got=repr(bias_factor))

    def form(values: Tensor) -> Tensor:
        if values.dim() < 3:
            raise InputError(
                "Relevance by word needs values laid out as rows, words, dimensions",
                got=f"shape {tuple(values.shape)}",
                hint="layer= the name of the embedding, or by_word=False",
            )
        return values.sum(-1, keepdim=True)

    return relevance(ask, lambda: recurrent(epsilon, bias_factor), label, form=form if by_word else None)


@dataclass(frozen=True, kw_only=True)
class RecurrentLRP(Method):
    """Which words of a sequence made an LSTM, GRU or RNN give this score?

    Linear parts share by the ε rule, with the bias factor δ handing on what bias and stabiliser would keep, in equal
    parts: ``R_i = Σ_j (x_i w_ij + δ (b_j + ε sign z_j) / D) / (z_j + ε sign z_j) R_j`` with D inputs. A gate times a
    signal gives all relevance to the signal and none to the gate (sigmoids are gates); sums share by their summands.
    With δ = 1 the values sum to the score. Score units; positive supports the score. Recurrent modules, cells in a loop
    and hand-written steps are alike.

    Torch keeps two biases a gate, and each goes to its own inputs (word or last state), where the source pools them;
    the stabiliser of a sum goes to its summands by their size.

    Args:
        epsilon: moves denominators away from zero.
        bias_factor: δ, from 0 (kept, and reported) to 1 (handed on).
        by_word: sum over each word's vector, (rows, words, 1).

    Cost: about one forward and one backward pass, with the recurrent kernel taken apart into its steps.
    Known failure: a word that acts through gates alone, such as a negation that shuts one, gets nothing.
    Source: Arras, Montavon, Müller & Samek 2017, §2.2, eqs. 2-3.

    Example:
        >>> import torch, pellucid as px
        >>> class Reader(torch.nn.LSTM):
        ...     forward = lambda self, x: super(Reader, self).forward(x)[0][:, -1]
        >>> result = px.explain(Reader(3, 2, batch_first=True).eval(), torch.rand(1, 4, 3), "lrp-lstm")
        >>> result.values.shape, bool(result.facts["conserved"])
        (torch.Size([1, 4, 3]), True)
    """

    epsilon: float = 1e-3
    bias_factor: float = 1.0
    by_word: bool = False

    card: ClassVar[Card] = Card(
        name="lrp-lstm",
        title="LRP for recurrent networks",
        question="Which words of a sequence made an LSTM, GRU or RNN give this score?",
        form="attribution",
        scope="local",
        citation="arras2017explaining",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=CLAIMS,
        cost="1 forward, 1 backward",
        supports=("each word's share of the score",),
        limits=(*LIMITS, "what a word did through gates alone"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return share(ask, self.epsilon, self.bias_factor, self.card.title, self.by_word)


@dataclass(frozen=True, kw_only=True)
class TextCNNLRP(Method):
    """Which words made a convolutional reader of word vectors give this score?

    ``R_t = Σ_d R_td``: relevance of each word, summed over its vector's dimensions d, (rows, words, 1), in score units;
    positive words support the score. Convolutions and dense layers share by the ε rule with bias factor δ (see
    `RecurrentLRP`), max-pooling over time gives all to the winning position. Models that take word numbers are
    explained at their embedding, ``layer="embedding"``; models that take word vectors, at their input.

    Args:
        epsilon: moves denominators away from zero.
        bias_factor: δ, from 0 (biases keep their part, and it is reported) to 1 (handed on in equal parts).
        by_word: sum over each word's vector; where false, the values of all dimensions.

    Cost: about one forward and one backward pass.
    Known failure: with δ = 1, words in a window share its bias evenly, meaning or not.
    Source: Arras, Horn, Montavon, Müller & Samek 2016, §3.1, eqs. 1-3.

    Example:
        >>> import torch, pellucid as px
        >>> class Reader(torch.nn.Conv1d):
        ...     forward = lambda self, x: super(Reader, self).forward(x.transpose(1, 2)).amax(2)
        >>> px.explain(Reader(3, 2, 2).eval(), torch.rand(1, 5, 3), "lrp-text-cnn").values.shape
        torch.Size([1, 5, 1])
    """

    epsilon: float = 1e-2
    bias_factor: float = 1.0
    by_word: bool = True

    card: ClassVar[Card] = Card(
        name="lrp-text-cnn",
        title="LRP by word",
        question="Which words made a convolutional reader of word vectors give this score?",
        form="attribution",
        scope="local",
        citation="arras2016explaining",
        needs=("gradient", "backward rules"),
        taxonomy=TREES,
        claims=CLAIMS,
        trial={"by_word": False},
        cost="1 forward, 1 backward",
        supports=("each word's share of the score",),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return share(ask, self.epsilon, self.bias_factor, self.card.title, self.by_word)
