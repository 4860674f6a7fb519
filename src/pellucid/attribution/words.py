"""Which words mattered? Slopes of their embeddings, and what happens when parts of a representation are erased."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, chance, feature, fill, gradient, score
from pellucid.engine.decomposition import wrap
from pellucid.engine.inputs import Inputs

__all__ = ["RepresentationErasure", "WordGradientSaliency"]

WORDS = ("none", "norm", "mean", "sum")
MEASURES = ("slope", "variance")
LONGER = "a sentence that is twice as long is a sentence too"
ERASED = ("auto", "word", "dimension", "unit")
TREES = {"000": "behavioural/functional/{}", "001": "visualization/{}", "002": "post-hoc/saliency/{}"}


def _trees(first: str, second: str) -> dict[str, str]:
    return {k: v.format(second if k == "001" else first) for k, v in TREES.items()} | {
        "003": "passive/attribution/local"
    }


@dataclass(frozen=True, kw_only=True)
class WordGradientSaliency(Method):
    """To which words, and which of their dimensions, is the score most sensitive?

    ``values[t, d] = |dS/de_td|`` for the embedding e of each word, in score units per unit of the embedding, never
    negative: name the embedding by ``layer=``, or give embeddings. The companion measure "variance" looks at the words
    alone, ``(e_td - mean over words of e_d)²``: a word that is unlike the rest of its sentence stands out.

    Args:
        measure: "slope" or "variance".
        words: one figure per word, the last axis kept with length 1: the "norm", "mean" or "sum" over dimensions (the
            sum of the variances is ``‖e_t - mean e‖²``); "none": word by dimension.

    Cost: one forward and one backward pass.
    Known failure: a slope says how a small change of the embedding would move the score, not what the word contributed;
    saturated gates have none. Padding counts as words in the variance.
    Source: Li, Chen, Hovy & Jurafsky 2016, §5 and §6 (arXiv 1506.01066).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2)).eval()
        >>> result = px.explain(net, torch.ones(1, 3, 2), "word-gradient-saliency", target=0)
        >>> torch.equal(result.values.flatten(), net[1].weight[0].abs())
        True
    """

    measure: str = "slope"
    words: str = "none"

    card: ClassVar[Card] = Card(
        name="word-gradient-saliency",
        title="First-derivative saliency of words",
        question="To which words is the score most sensitive?",
        form="attribution",
        scope="local",
        citation="li2016visualizing",
        needs=("gradient",),
        data_types=("sequence", "tokens"),
        taxonomy=_trees("gradients", "back-propagation"),
        claims=("rowwise", "deterministic", "score scale"),
        exempt={"bad shapes": LONGER},
        cost="1 forward, 1 backward",
        supports=("which words' embeddings move the score most when they change a little",),
        limits=(
            "how much a word contributed: a saturated network has no slope there",
            "the sign: sizes alone are told",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return self.card.claims if self.measure == "slope" else ("rowwise", "deterministic")

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.measure not in MEASURES:
            raise MethodError(f"'measure' must be one of {MEASURES}", got=repr(self.measure))
        if self.words not in WORDS:
            raise MethodError(f"'words' must be one of {WORDS}", got=repr(self.words))
        if ask.layer is None:
            _sequences(ask.inputs.floats)
        found = gradient.once(ask, self.card.title)
        _sequences(found.values)
        pairs = zip(found.values, found.grads, strict=True)
        values = tuple(self._form(g.abs() if self.measure == "slope" else _unlike(e)) for e, g in pairs)
        return Attribution(values=wrap(ask, values), facts={"score": found.score})

    def _form(self, value: Tensor) -> Tensor:
        if self.words == "none":
            return value
        if self.words == "norm":
            return value.norm(dim=2, keepdim=True)
        return value.sum(2, keepdim=True) if self.words == "sum" else value.mean(2, keepdim=True)


def _unlike(words: Tensor) -> Tensor:
    return (words - words.mean(1, keepdim=True)).square()


def _sequences(values: tuple[Tensor, ...]) -> None:
    if not values or any(x.dim() != 3 for x in values):
        raise InputError(
            "Words need embeddings, laid out as (rows, words, dimensions)",
            got=", ".join(f"shape {tuple(x.shape)}" for x in values) or "token ids alone",
            hint="layer= the name of the embedding",
        )


@dataclass(frozen=True, kw_only=True)
class RepresentationErasure(Method):
    """How much less likely does the answer become when a word, a dimension or a hidden unit is erased?

    With ``S = log p(class)`` and the part set to zero, ``values = (S - S_erased) / |S|``, a share; positive means that
    erasing it hurts, so that it spoke for the class. (The paper's formula divides by S itself, which is negative: taken
    literally, helpful parts would come out negative.) Every value of a part carries the part's figure. Where the network
    is sure, S is nearly zero and shares explode: ``relative=False`` gives ``S - S_erased``, in nats. The mean over rows,
    ``result.values.mean(0)``, is the importance of a dimension or unit for a corpus.

    Facts: ``score``, S; ``largest_drop``, the largest ``S - S_erased``.

    Args:
        erase: "word", a step of (rows, words, dimensions); "dimension", one coordinate of all words at once; "unit",
            each hidden unit, or channel of a map; "auto": words of sequences, else units.
        relative: divide by |S|, or by the floating type's rounding where that is larger.
        output: what the model returns: "logits" (log-probabilities will do) or "probabilities". A target that is no
            class, and a model with one score, are taken as S as they are.

    Cost: one forward per part, and one.
    Known failure: parts that can stand in for each other both get nothing; zero may be an unusual value to the network.
    Source: Li, Monroe & Jurafsky 2016 (arXiv 1612.08220), §3.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> px.explain(net, torch.ones(1, 3), "representation-erasure").values.shape
        torch.Size([1, 3])
    """

    erase: str = "auto"
    relative: bool = True
    output: str = "logits"

    card: ClassVar[Card] = Card(
        name="representation-erasure",
        title="Representation erasure",
        question="How much less likely does the answer become when this word or unit is erased?",
        form="attribution",
        scope="local",
        citation="li2016understanding",
        needs=("predictions",),
        taxonomy=_trees("perturbation", "perturbation"),
        claims=("rowwise", "deterministic", "dummy", "symmetric", "implementation invariant", "spelling invariant"),
        cost="1 forward per part, and 1",
        supports=("the log-likelihood really drops by this much when this one part is set to zero",),
        limits=(
            "parts that can stand in for each other: erasing one of them costs nothing",
            "shares where the network is sure: the log-likelihood they are divided by is nearly zero",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.erase not in ERASED:
            raise MethodError(f"'erase' must be one of {ERASED}", got=repr(self.erase))
        if self.output not in ("logits", "probabilities"):
            raise MethodError("'output' must be 'logits' or 'probabilities'", got=repr(self.output))
        if ask.layer is None:
            fill.explained(ask)  # refused before the model runs
        target = ask.target
        aim = chance.LogProbability(
            target.index, target.function, target.place, target.name, logits=self.output == "logits"
        )
        held = fill.explained(ask)
        parts = self._parts(held)
        answers = torch.empty(held.rows, parts.count + 1, dtype=torch.float64)
        zeros = tuple(torch.zeros_like(x) for x in held.floats)

        def points(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            inside = parts.inside(rows, which)
            return tuple(fill.put(x, z, rows, m) for x, z, m in zip(held.floats, zeros, inside, strict=True))

        def fold(rows: Tensor, which: Tensor, found: Tensor) -> None:
            answers[rows, which] = found.double().cpu()

        asked = replace(ask, _target=aim)
        score.sweep(asked, parts.count + 1, points, fold, label=self.card.title)
        ask.path = asked.path
        whole = answers[:, -1:]
        drop = whole - answers[:, :-1]
        share = drop / whole.abs().clamp(min=torch.finfo(held.dtype).eps) if self.relative else drop
        facts = {"score": whole[:, 0], "largest_drop": drop.amax(1)}
        return Attribution(values=held.wrap(parts.spread(share, held)), baseline=held.wrap(zeros), facts=facts)

    def _parts(self, held: Inputs) -> feature.Features:
        labels, count = [], 0
        for x in held.floats:
            axes = self._axes(x)
            shape = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
            size = math.prod(shape)
            labels.append(torch.arange(count, count + size, device=x.device).reshape(1, *shape[1:]))
            count += size
        return feature.Features(tuple(labels), count)

    def _axes(self, x: Tensor) -> tuple[int, ...]:
        """The axes along which parts are told apart."""
        if self.erase in ("word", "dimension") and x.dim() != 3:
            _sequences((x,))
        if self.erase == "dimension":
            return (2,)
        if self.erase == "word" or (self.erase == "auto" and x.dim() == 3):
            return (1,)
        return (1,) if x.dim() == 4 else tuple(range(1, x.dim()))
