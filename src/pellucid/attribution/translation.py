"""Which source and target words was each word of a translation made of? Relevance in encoder-decoders with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.relevance import LIMITS, not_negative
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, predict
from pellucid.engine.backward import Shared, share
from pellucid.engine.decomposition import wrap
from pellucid.engine.gradient import needs_module
from pellucid.engine.place import embeddings
from pellucid.engine.relevance import books
from pellucid.engine.rules.translation import translation
from pellucid.engine.target import settle

__all__ = ["TranslationLRP"]

GATES = ("constant", "half", "values")
BIASES = ("shared", "kept")


@dataclass(frozen=True, kw_only=True)
class TranslationLRP(Method):
    """Which words of the source, and which words written before, was each written word made of?

    ``values[n, s, t]``: the relevance of word s to written word t, one tensor for the source and one for what the
    decoder read; score units, positive supports the word. Relevance of vectors is the sum over their neurons,
    ``R(u ← v) = Σ_u Σ_v r(u ← v)``; neurons share by weight ratios, ``r(v) = Σ_z w(v→z) r(z)`` with ``w(v→z) = W_vz v /
    Σ_v' W_v'z v'`` at linear sums, in which weights of attention count as weights; maxima (maxout) go to the winner, bent
    functions pass all on. The values of a word t, of both languages, and what was absorbed sum to its logit; with
    ``biases="shared"`` and ``epsilon=0`` the values alone do.

    The model gives scores (rows, written words, vocabulary), or (rows, classes), which is one word. Without a target the
    words it writes are explained; with classes, these words at every step. ``target=px.unit(place, (), "sum")``
    explains a hidden state, and ``layer=`` gives the relevance of hidden states instead of words. Token numbers are
    explained at the embeddings they enter. ``source["explained_words"]`` has each row's words.

    Facts: the books of `EpsilonLRP`, summed over the words t; ``conservation_gap`` of the worst one.

    Args:
        epsilon: moves denominators away from zero, and keeps that part.
        gates: what a gate times a signal does: "constant", all to the signal; "half" each; "values", by the ratio
            ``u / (u + u')`` of their values, which is noise where they cancel. The latter two depend on how the cell is
            written: torch's GRU computes ``n + z (h - n)``.
        biases: "kept" and told (they are part of z in the ratio), or "shared" in proportion to the other parts of a sum,
            as the source's formula has it, which is large where these cancel.

    Cost: one forward pass, and one forward and one backward per written word.
    Known failures: with constant gates, why a word was attended to is not seen; parts that cancel give large
    relevance of both signs.
    Source: Ding, Liu, Luan & Sun 2017, §4 (ratios by values; its authors' toolkit has halves).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.GRU(3, 4, batch_first=True, bidirectional=True).eval()
        >>> result = px.explain(px.Subject(net, output=0), torch.rand(1, 5, 3), "lrp-nmt")
        >>> result.values.shape, result.source["explained_words"] == net(result.context.inputs)[0].argmax(2).tolist()
        (torch.Size([1, 5, 5]), True)
    """

    epsilon: float = 1e-3
    gates: str = "constant"
    biases: str = "kept"

    card: ClassVar[Card] = Card(
        name="lrp-nmt",
        title="LRP for translation",
        question="Which words of the source, and which words written before, was each written word made of?",
        form="attribution",
        scope="local",
        citation="ding2017visualizing",
        needs=("gradient", "backward rules"),
        data_types=("sequence", "tokens"),
        taxonomy={
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/relevance",
            "003": "passive/attribution/local",
            "004": "explain",
        },
        claims=("rowwise", "deterministic"),
        exempt={"bad shapes": "a sentence that is twice as long is a sentence too"},
        cost="1 forward, and 1 forward and 1 backward per written word",
        supports=("each context word's share of the written word's logit",),
        limits=(*LIMITS, "why a word was attended to, with gates='constant'"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        not_negative(epsilon=self.epsilon)
        for name, allowed in (("gates", GATES), ("biases", BIASES)):
            if getattr(self, name) not in allowed:
                raise MethodError(f"The '{name}' must be one of {allowed}", got=repr(getattr(self, name)))
        needs_module(subject, "backward rules")
        if ask.layer is None and any(x.dim() != 3 for x in ask.inputs.floats):
            raise _no_words(", ".join(f"shape {tuple(x.shape)}" for x in ask.inputs.floats))
        places = None if ask.layer is not None or ask.inputs.explained else self._embeddings(subject, ask)
        asked, words = _by_word(subject, ask)
        found = share(
            asked,
            lambda: translation(self.epsilon, self.gates, self.biases),
            self.card.title,
            places=None if places is None else [p for p in places if p],
        )
        ask.path = asked.path
        values = tuple(_matrix(g, ask.inputs.rows) for g in found.found.grads)
        source: dict[str, Any] = {"ledger": found.ledger, "rules": found.rules}
        if words is not None:
            source["explained_words"] = words.tolist()
        return Attribution(values=_wrap(ask, values, places), facts=_books(found, ask.inputs.rows), source=source)

    def _embeddings(self, subject: Subject, ask: Ask) -> list[str]:
        """The place where each input is embedded, or nothing for an input that is no sentence, such as a mask."""
        rows = ask.inputs.take(torch.arange(1))
        module = needs_module(subject, "embeddings")
        with torch.no_grad():
            entered = embeddings(lambda: subject.raw(rows), module, rows.tensors)
        if not any(entered):
            raise InputError(
                "The 'inputs' must enter embeddings of the model as they are, where they are token numbers",
                got=f"none of {len(entered)} does",
                hint="layer= the name of an embedding, or inputs that are word vectors",
            )
        return entered


def _no_words(got: str) -> InputError:
    return InputError(
        "Words need vectors, laid out as (rows, words, dimensions)", got=got, hint="layer= the name of the embedding"
    )


def _by_word(subject: Subject, ask: Ask) -> tuple[Ask, Tensor | None]:
    """A question for each row and written word, and the words (rows, written words), where words are explained.

    The scores of all steps stand in one line there, so that a word at a step is one class.
    """
    if ask.unit_place is not None or (callable(ask.wanted) and not isinstance(ask.wanted, Tensor)):
        return ask, None
    output = predict(subject, ask.inputs, ask.memory)
    ask.check_finite(output, 0)
    if output.dim() != 3:
        ask.remember(output)
        return ask, None
    ask.record(output)
    rows, steps, size = output.shape
    words = output.argmax(2)
    if ask.wanted is not None:
        asked = settle(ask.wanted, output[:, 0]).index
        words = torch.zeros_like(words) if asked is None else asked[:, None].expand(rows, steps)
    line = torch.arange(steps, device=words.device) * size + words
    flat = replace(subject, output=lambda raw: subject.pick(raw).flatten(1), classes=())
    jobs = torch.arange(rows).repeat_interleave(steps)
    return replace(ask, subject=flat, inputs=ask.inputs.take(jobs), wanted=line.flatten(), output=None), words


def _matrix(relevance: Tensor, rows: int) -> Tensor:
    """Relevance of vectors, the sum over their neurons, with the written words along the last axis."""
    return relevance.sum(-1).unflatten(0, (rows, -1)).movedim(1, -1)


def _wrap(ask: Ask, values: tuple[Tensor, ...], places: list[str] | None) -> Any:
    """Values in the structure of the inputs, or the one tensor of a layer."""
    if places is None:
        return wrap(ask, values)
    left = iter(values)
    each = [next(left) if place else None for place in places]
    if ask.inputs.single:
        return each[0]
    if ask.inputs.names:
        return {name: value for name, value in zip(ask.inputs.names, each, strict=True) if value is not None}
    return tuple(each)


def _books(found: Shared, rows: int) -> dict[str, Tensor]:
    """Facts of each row: sums over its written words, and for how well they add up the worst word."""
    worst = {"conservation_gap": Tensor.amax, "ledger_gap": Tensor.amax, "conserved": Tensor.amin}
    return {name: worst.get(name, Tensor.sum)(x.view(rows, -1), 1) for name, x in books(found).items()}
