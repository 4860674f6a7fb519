"""Which words make a document what it is for the network, and what is the document, summed up by them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.relevance import CLAIMS, LIMITS, not_negative
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, fill, score
from pellucid.engine.backward import share
from pellucid.engine.data import as_rows
from pellucid.engine.decomposition import wrap
from pellucid.engine.relevance import books
from pellucid.engine.rules.recurrent import documents

__all__ = ["DocumentRelevance", "explanatory_power"]

WEIGHTS = ("relevance", "elementwise", "uniform", "tf-idf")
GIVEN = ("labels", "vectors", "documents")
MOST_NEIGHBOURS = 25


@dataclass(frozen=True, kw_only=True)
class DocumentRelevance(Method):
    """Which words made the network put a document where it did, and which vector sums the document up by them?

    Sequences of word vectors (an input, or ``layer=`` the embedding) are shared out as in `TextCNNLRP`, ``R_t = Σ_d
    R_td``. Bags of words (rows, words in the vocabulary) give ``R_i = w_i x_i + b / D`` at their first layer, where D is
    the number of words present: in a linear model that is all, and absent words get nothing. Score units; positive
    words support the score. ``parts["document_vectors"]`` holds, for each row, with v the words' vectors:

    - weights="relevance": ``Σ_t R_t v_t``; "elementwise": ``Σ_t R_td v_td`` in each dimension d;
    - "uniform": the mean of the words' vectors; "tf-idf": ``Σ_t log(M / M_t) v_t``, with M documents, M_t with the word;
      for bags, whose values are taken for such weights, ``Σ_i x_i v_i``.

    ``data=`` a dict may hold "vectors" (vocabulary, dimensions) for the words of a bag, else each is its own dimension;
    "documents", the word numbers (M, words) that M counts, else the rows; and "labels" (N,). With labels
    ``source["explanatory_power"]`` has the `explanatory_power` of each kind of weights that applies.

    Args:
        weights: as above; the values are relevances with all of them.
        epsilon: moves denominators away from zero; linear models need none, and are exact with 0.
        bias_factor: δ, from 0 (biases keep their part, and it is told) to 1 (handed on in equal parts).
        padding: the word number that is no word: it takes no part in the document's vector, nor in deletion.
        deletions: so many of the words with most relevance are set to zero, one after the other;
            ``parts["deletion"]`` (N, deletions + 1) has the scores.

    Cost: about one forward and one backward pass, and one forward per deletion.
    Known failure: vectors weighted by relevance hold the network's answer as well as the words, so a network that is
    sure of a wrong answer moves documents to the wrong place.
    Source: Arras, Horn, Montavon, Müller & Samek 2017, "Interpretable text classification" and "Condensing semantic
    information".

    Example:
        >>> import torch, pellucid as px
        >>> svm = torch.nn.Linear(4, 2).double().eval()
        >>> method = px.attribution.DocumentRelevance(epsilon=0.0)
        >>> result = px.explain(svm, torch.tensor([[0.5, 0.0, 1.0, 0.0]]).double(), method, target=1)
        >>> bool(torch.isclose(result.values[0, 2], svm.weight[1, 2] + svm.bias[1] / 2)), float(result.values[0, 1])
        (True, 0.0)
    """

    weights: str = "relevance"
    epsilon: float = 1e-3
    bias_factor: float = 1.0
    padding: int | None = None
    deletions: int = 0

    card: ClassVar[Card] = Card(
        name="lrp-document-relevance",
        title="Relevance of words in documents",
        question="Which words made the network put a document where it did, and which vector sums it up by them?",
        form="attribution",
        scope="local",
        citation="arras2017what",
        needs=("gradient", "backward rules"),
        data_types=("table", "sequence", "tokens"),
        taxonomy={
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/relevance",
            "003": "passive/attribution/local",
            "004": "explain",
        },
        claims=CLAIMS,
        trial={"deletions": 1},
        cost="1 forward, 1 backward, and 1 forward per deletion",
        supports=("each word's share of the score", "documents compared by what mattered in them"),
        limits=LIMITS,
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        given = _given(ask)
        if ask.layer is None:
            _laid_out(ask.inputs.floats)
        table = ask.layer is None and ask.inputs.floats[0].dim() == 2
        self._fits(ask, table)
        shared = share(ask, lambda: documents(self.epsilon, self.bias_factor, table), self.card.title)
        found, place = shared.found.grads, shared.found.values
        _laid_out(place)
        bag = place[0].dim() == 2
        values = tuple(g if bag else g.sum(-1, keepdim=True) for g in found)
        words = _Words(ask, place[0], found[0], values[0].flatten(1), given, self.padding)
        parts = {"document_vectors": words.vectors(self.weights)}
        if self.deletions:
            parts["deletion"] = self._deletion(ask, words)
        source: dict[str, Any] = {"ledger": shared.ledger, "rules": shared.rules}
        if "labels" in given:
            kinds = [w for w in WEIGHTS if not words.refuses(w)]
            source["explanatory_power"] = {
                w: explanatory_power(words.vectors(w), given["labels"], seed=ask.seed) for w in kinds
            }
        return Attribution(values=wrap(ask, values), facts=books(shared), parts=parts, source=source)

    def _check(self) -> None:
        not_negative(epsilon=self.epsilon, bias_factor=self.bias_factor)
        if self.bias_factor > 1:
            raise MethodError("The 'bias_factor' must be between 0 and 1", got=repr(self.bias_factor))
        if self.weights not in WEIGHTS:
            raise MethodError(f"The 'weights' must be one of {WEIGHTS}", got=repr(self.weights))
        for name, value in (("deletions", self.deletions), ("padding", 0 if self.padding is None else self.padding)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise MethodError(f"The '{name}' must be a whole number of at least 0", got=repr(value))

    def _fits(self, ask: Ask, table: bool) -> None:
        """Refuse weights that these inputs have not, before the model runs."""
        if table and self.weights == "elementwise":
            raise MethodError(
                "The 'weights' of a bag of words must be of words", got="'elementwise'", hint="'relevance'"
            )
        if not table and self.weights == "tf-idf" and _numbers(ask) is None:
            raise MethodError("The 'weights' 'tf-idf' need word numbers as inputs", got="word vectors", hint="layer=")

    def _deletion(self, ask: Ask, words: _Words) -> Tensor:
        """The score as the most relevant words are set to zero, the most relevant first."""
        held = fill.explained(ask)
        relevance = words.relevance.masked_fill(~words.present, -torch.inf)
        rank = relevance.argsort(stable=True, dim=1, descending=True).argsort(1)
        rank = rank.reshape(rank.shape + (1,) * (held.floats[0].dim() - 2))
        zero = torch.zeros_like(held.floats[0])
        answers = torch.empty(held.rows, self.deletions + 1, dtype=held.floats[0].dtype)

        def points(rows: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
            gone = rank[rows.to(rank.device)] < steps.to(rank.device).reshape(-1, *[1] * (rank.dim() - 1))
            return (fill.put(held.floats[0], zero, rows, gone),)

        def fold(rows: Tensor, steps: Tensor, scores: Tensor) -> None:
            answers[rows, steps] = scores.to(answers)

        score.sweep(ask, self.deletions + 1, points, fold, label=self.card.title)
        return answers


class _Words:
    """The words of the explained documents: their vectors, relevances and which of them are there."""

    def __init__(
        self, ask: Ask, place: Tensor, grads: Tensor, relevance: Tensor, given: dict[str, Tensor], padding: int | None
    ) -> None:
        self.values, self.grads, self.relevance, self.given = place, grads, relevance, given
        self.bag, self.numbers = place.dim() == 2, _numbers(ask)
        self.present = place != 0 if self.bag else torch.ones_like(relevance, dtype=torch.bool)
        if padding is not None and not self.bag and self.numbers is not None:
            self.present = self.numbers != padding

    def refuses(self, weights: str) -> bool:
        """Have these documents no such weights?"""
        return self.bag if weights == "elementwise" else weights == "tf-idf" and not self.bag and self.numbers is None

    def vectors(self, weights: str) -> Tensor:
        """(N, dimensions): the words' vectors, weighted and summed."""
        if weights == "elementwise":
            return (self.grads * self.values * self.present[..., None]).sum(1)
        weight = (self._weight(weights) * self.present).to(self.values)
        if not self.bag:
            return torch.einsum("nt,ntd->nd", weight, self.values)
        vectors = self.given.get("vectors")
        return weight if vectors is None else weight @ vectors.to(self.values)

    def _weight(self, weights: str) -> Tensor:
        if weights == "relevance":
            return self.relevance
        if weights == "uniform":
            return self.present / self.present.sum(1, keepdim=True).clamp(min=1)
        return self.values if self.bag else self._rarity()

    def _rarity(self) -> Tensor:
        """log(M / M_t) for each word; zero for one that no document has."""
        assert self.numbers is not None
        known = self.given.get("documents", self.numbers).to(self.numbers)
        size = int(max(known.max(), self.numbers.max())) + 1
        within = torch.zeros(len(known), size, dtype=torch.bool, device=known.device)
        within.scatter_(1, known, True)
        count = within.sum(0).double()
        return torch.where(count > 0, (len(known) / count.clamp(min=1)).log(), 0.0)[self.numbers]


def _laid_out(values: tuple[Tensor, ...]) -> None:
    if len(values) != 1 or values[0].dim() not in (2, 3):
        raise InputError(
            "Documents need one tensor: word vectors (rows, words, dimensions), or bags (rows, vocabulary)",
            got=", ".join(f"shape {tuple(x.shape)}" for x in values) or "word numbers alone",
            hint="layer= the name of the embedding",
        )


def _numbers(ask: Ask) -> Tensor | None:
    """The word numbers, where the inputs begin with such."""
    first = ask.inputs.tensors[0]
    return first if first.dim() == 2 and not first.is_floating_point() and ask.layer is not None else None


def _given(ask: Ask) -> dict[str, Tensor]:
    """What `data` holds, checked."""
    data = ask.data
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not set(data) <= set(GIVEN):
        got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise InputError(f"The 'data' must be a dict with some of {GIVEN}", got=str(got), hint="data={'labels': y}")
    found = {name: torch.as_tensor(value) for name, value in data.items()}
    if "labels" in found and found["labels"].shape != (ask.inputs.rows,):
        got = f"shape {tuple(found['labels'].shape)}"
        raise InputError(f"The 'data' must hold one label per row, {ask.inputs.rows}", got=got)
    if "vectors" in found:
        bags = [x.shape[1] for x in ask.inputs.floats if x.dim() == 2]
        if not bags or found["vectors"].dim() != 2 or len(found["vectors"]) != bags[0]:
            got = f"shape {tuple(found['vectors'].shape)}"
            raise InputError(
                "The 'vectors' in 'data' must be one per word of the bags, (vocabulary, dimensions)", got=got
            )
    if "documents" in found:
        as_rows(found["documents"])
        if found["documents"].dim() != 2 or found["documents"].is_floating_point():
            raise InputError(
                "The 'documents' in 'data' must be word numbers, (documents, words)", got=str(found["documents"].dtype)
            )
    return found


def explanatory_power(
    vectors: Tensor, labels: Tensor, *, splits: int = 10, neighbours: tuple[int, ...] = (), seed: int = 0
) -> float:
    """How well do document vectors tell the documents' true labels? The explanatory power index (EPI), from 0 to 1.

    Vectors are scaled to length 1. In each of several random halvings one half is classified by the other's K nearest
    neighbours (Euclidean; equal votes, a draw goes to the smaller label); the index is the largest, over K, of the mean
    accuracies. Higher is better; chance is the share of the commonest label.

    Args:
        vectors: (N, dimensions), such as ``result.parts["document_vectors"]``.
        labels: (N,).
        splits: how many halvings.
        neighbours: the K to try; by default 1, 3, 5, ... up to 25 or the size of a half.
        seed: of the halvings.
    """
    x, y = torch.as_tensor(vectors).detach().double().cpu(), torch.as_tensor(labels).cpu()
    if x.dim() != 2 or y.shape != x.shape[:1] or len(x) < 2 or not bool(torch.isfinite(x).all()):
        got = f"shapes {tuple(x.shape)} and {tuple(y.shape)}"
        raise InputError("The 'vectors' must be at least two finite rows with one label each", got=got)
    half = len(x) // 2
    tried = neighbours or tuple(range(1, min(MOST_NEIGHBOURS, len(x) - half) + 1, 2))
    if min(tried) < 1 or max(tried) > len(x) - half or splits < 1:
        raise InputError(f"The 'neighbours' must be from 1 to {len(x) - half}, and 'splits' at least 1", got=str(tried))
    x = x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    kinds, y = torch.unique(y, return_inverse=True)
    draw, right = torch.Generator().manual_seed(seed), torch.zeros(len(tried), dtype=torch.float64)
    for _ in range(splits):
        order = torch.randperm(len(x), generator=draw)
        asked, known = order[:half], order[half:]
        near = torch.cdist(x[asked], x[known]).argsort(stable=True, dim=1)
        votes = torch.nn.functional.one_hot(y[known][near], len(kinds)).cumsum(1)
        for i, k in enumerate(tried):
            right[i] += (votes[:, k - 1].argmax(1) == y[asked]).double().mean()
    return float((right / splits).max())
