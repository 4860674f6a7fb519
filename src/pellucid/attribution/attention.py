"""Where did the network look? Attention maps, followed through the layers, and weighted by the score's gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, attention
from pellucid.engine.decomposition import wrap
from pellucid.engine.layout import Layout, lay

__all__ = ["AttentionRelevance", "AttentionRollout", "AttentionWeights"]

Tokens = Callable[[attention.Seen], list[Tensor]]
FINEST = 1 << 30  # capacities of flows are whole numbers of this fraction: the solver takes 32 bits
KINDS = ("weights", "norms", "signed")
TAXONOMY = {
    "000": "structural/attention",
    "001": "visualization/attention",
    "002": "post-hoc/saliency/attention",
    "003": "passive/attribution/local",
}
DATA = ("sequence", "tokens", "image")
NEEDS = ("gradient", "backward rules")
NOT_EXPLANATION = "a reason: other attention weights may give the same answer (Jain & Wallace 2019)"
UNTOLD = "a word's share of the score: a token in a late layer holds what it gathered from others"


@dataclass(frozen=True, kw_only=True)
class AttentionWeights(Method):
    """Which words or patches did the network look at?

    ``values[k]`` is the weight with which token k enters those tokens that the score reads (see below), between 0 and 1;
    over all tokens of a layer they sum to one. Attention is found in any spelling: modules, fused kernels, by hand,
    additive. Values lie over the explained place: (rows, tokens, 1) for sequences, each patch's figure over its pixels
    for images; tokens of the model's own, such as a class token, are left out, and the fact ``elsewhere`` tells their
    share. A token is read where the score has a derivative with respect to its attention; several count alike.

    Facts: ``score``; ``agreement_with_gradient``, Kendall's rank correlation (tau-b) over tokens between the values'
    sizes and the norm of the score's gradient; ``elsewhere``; ``tokens_read``. ``source["attention"]`` lists the layers.

    Args:
        block: which attention layer, counted from the first or, if negative, from the last; None: their mean.
        head: which head; None: their mean.
        of: "weights"; "norms", weight times the norm of the value vector that it weighs; "signed", weight times the
            score's derivative with respect to it, in score units: positive where the weighted value raises the score.
        query: "read", the tokens that the score reads; the number of a token; "all", the whole matrix (rows, queries,
            keys), tokens of the model's own included.

    Cost: one forward and one backward pass.
    Known failure: attention need not be explanation: very different weights can give the same answer (Jain & Wallace
    2019; Serrano & Smith 2019), and tokens of late layers are mixtures of all words.
    Source: Bahdanau, Cho & Bengio 2015, §3.1; Vaswani et al. 2017, eq. 1; norms: Kobayashi et al. 2020, §2.

    Example:
        >>> import torch, pellucid as px
        >>> body = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> net = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
        >>> px.explain(net, torch.randn(1, 3, 4), "attention-weight-heatmap").values.sum().round().item()
        1.0
    """

    block: int | None = -1
    head: int | None = None
    of: str = "weights"
    query: int | str = "read"

    card: ClassVar[Card] = Card(
        name="attention-weight-heatmap",
        title="Attention weights",
        question="Which words or patches did the network look at?",
        form="attribution",
        scope="local",
        citation="bahdanau2015neural",
        needs=NEEDS,
        data_types=DATA,
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic"),
        cost="1 forward, 1 backward",
        supports=("with which weights this layer mixed the tokens",),
        limits=(NOT_EXPLANATION, UNTOLD),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.of not in KINDS:
            raise MethodError(f"'of' must be one of {KINDS}", got=repr(self.of))
        if isinstance(self.query, str) and self.query not in ("read", "all"):
            raise MethodError("'query' must be 'read', 'all' or the number of a token", got=repr(self.query))
        return _explain(ask, self._tokens, self.card.title, self._matrix if self.query == "all" else None)

    def _tokens(self, seen: attention.Seen) -> list[Tensor]:
        chosen, weights = self._chosen(seen)
        if isinstance(self.query, str):
            return [_mean(weights, chosen[-1].asked())]
        if not -weights.shape[1] <= self.query < weights.shape[1]:
            raise InputError(f"The 'query' must be one of {weights.shape[1]} tokens", got=str(self.query))
        return [weights[:, self.query]]

    def _matrix(self, seen: attention.Seen) -> Tensor:
        return self._chosen(seen)[1]

    def _chosen(self, seen: attention.Seen) -> tuple[list[attention.Map], Tensor]:
        """The layers asked for, and their mean (N, queries, keys)."""
        maps = seen.maps
        if self.block is not None and not -len(maps) <= self.block < len(maps):
            raise InputError(f"The 'block' must be one of {len(maps)} attention layers", got=str(self.block))
        chosen = maps if self.block is None else [maps[self.block]]
        if len({m.weights.shape[2:] for m in chosen}) > 1:
            raise NeedError(
                "The mean over layers needs attention between the same tokens in every layer",
                got=_sizes(chosen),
                hint="block= one layer",
            )
        return chosen, torch.stack([self._form(m) for m in chosen]).mean(0)

    def _form(self, found: attention.Map) -> Tensor:
        heads = found.weights.shape[1]
        if self.head is not None and not -heads <= self.head < heads:
            raise InputError(f"The 'head' must be one of {heads}", got=str(self.head))
        weights = found.weights
        if self.of == "signed":
            weights = weights * found.grads
        if self.of == "norms":
            if found.values is None:
                raise NeedError("The values that attention weighs could not be told apart by head", got=found.module)
            weights = weights * found.values.norm(dim=3)[:, :, None]
        return weights.mean(1) if self.head is None else weights[:, self.head]


@dataclass(frozen=True, kw_only=True)
class AttentionRollout(Method):
    """Which words or patches reach the answer, following attention through all layers?

    Each layer's map, averaged over heads, is mixed with the residual path: ``A'_l = (1 - r) A_l + r I``, rows
    renormalised. Rollout multiplies the layers, the last on the left, ``R = A'_L … A'_1``; flow is the maximum flow
    from an output token to an input token through the layers, where ``A'_l`` are the capacities. Values are the row
    of the token that the score reads (several: their mean), between 0 and 1, laid over the place; rows of R, with the
    model's own tokens, sum to one. Layers between the explained place and the score are followed.
    Facts and ``source`` as for attention weights.

    Args:
        flow: maximum flow instead of rollout. Capacities are rounded down to multiples of 2^-30.
        residual: r, the share of the residual path.

    Cost: one forward and one backward pass (which finds the tokens that are read); for flow, one maximum flow for each
    input token and each token read.
    Known failures: the same map for every class; takes no notice of values, of the layers between, of the sign.
    Windowed and cross attention are refused.
    Source: Abnar & Zuidema 2020, §3.

    Example:
        >>> import torch, pellucid as px
        >>> body = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> net = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
        >>> px.explain(net, torch.randn(1, 3, 4), "attention-rollout").values.sum().round().item()
        1.0
    """

    flow: bool = False
    residual: float = 0.5

    card: ClassVar[Card] = Card(
        name="attention-rollout",
        title="Attention rollout",
        question="Which words or patches reach the answer, following attention through all layers?",
        form="attribution",
        scope="local",
        citation="abnar2020quantifying",
        needs=NEEDS,
        data_types=DATA,
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic"),
        cost="1 forward, 1 backward; flow: 1 maximum flow per token as well",
        supports=("how far attention lets each input token reach the tokens that the score reads",),
        limits=(NOT_EXPLANATION, "why this class rather than another: the map is the same for every class"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if not 0 <= self.residual <= 1:
            raise MethodError("'residual' must be a share from 0 to 1", got=repr(self.residual))
        return _explain(ask, self._tokens, self.card.title)

    def _tokens(self, seen: attention.Seen) -> list[Tensor]:
        if len({m.weights.shape[2:] for m in seen.maps}) > 1 or not all(m.own for m in seen.maps):
            raise NeedError(
                "Attention rollout needs self-attention over the same tokens in every layer",
                got=_sizes(seen.maps),
                hint="generic-attention-relevance, which follows two sequences",
            )
        layers = [mixed(m.weights.mean(1), self.residual) for m in seen.maps]
        asked = seen.maps[-1].asked()
        return [flows(layers, asked)] if self.flow else [_mean(rollout(layers), asked)]


@dataclass(frozen=True, kw_only=True)
class AttentionRelevance(Method):
    """Which words or patches speak for this score, following attention weighted by its gradient?

    R starts as the identity; layer by layer ``R ← R + Ā R`` with ``Ā = mean over heads of (∂S/∂A ⊙ A)⁺``. Values are the
    row of R - I of the token that the score reads (several: their mean), zero or positive, without a unit, laid over
    the place; the identity is taken off, so that a token gets what came through attention alone. Where queries attend
    to another sequence, of another length, the update for two sequences is used, and every input gets values:
    ``R_ab ← R_ab + R̄_aaᵀ Ā R̄_bb`` and ``R_aa ← R_aa + Ā R_ba``, where R̄ is I + (R - I) with rows of R - I normalised.
    Facts and ``source`` as for attention weights.

    Cost: one forward and one backward pass.
    Known failures: negative evidence is dropped; linear layers and norms between are not followed; windowed attention,
    and two sequences of the same length, are refused.
    Source: Chefer, Gur & Wolf 2021 (ICCV, arXiv 2103.15679), §3.

    Example:
        >>> import torch, pellucid as px
        >>> body = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> net = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
        >>> px.explain(net, torch.randn(1, 3, 4), "generic-attention-relevance").values.shape
        torch.Size([1, 3, 1])
    """

    card: ClassVar[Card] = Card(
        name="generic-attention-relevance",
        title="Gradient-weighted attention",
        question="Which words or patches speak for this score, following attention weighted by its gradient?",
        form="attribution",
        scope="local",
        citation="chefer2021generic",
        needs=NEEDS,
        data_types=DATA,
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic"),
        cost="1 forward, 1 backward",
        supports=("which tokens reach the score along attention that raises it",),
        limits=("what speaks against the score: negative evidence is dropped", UNTOLD),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        return _explain(ask, self._tokens, self.card.title)

    def _tokens(self, seen: attention.Seen) -> list[Tensor]:
        if any(not m.own and m.queries == m.keys for m in seen.maps):
            raise NeedError(
                "The two sequences must differ in length to be told apart", got=_sizes(seen.maps), hint="padding one"
            )
        found, end = relevance(seen.maps), seen.maps[-1]
        size = end.queries
        found[size, size] = found[size, size] - torch.eye(size).to(found[size, size])
        return [_mean(r, end.asked()) for (of, _), r in found.items() if of == size]


def mixed(weights: Tensor, residual: float) -> Tensor:
    """(1 - residual) A + residual I, with rows that sum to one."""
    both = (1 - residual) * weights + residual * torch.eye(weights.shape[-1]).to(weights)
    return both / both.sum(-1, keepdim=True)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """The product of the layers (N, tokens, tokens), first to last, with the last on the left."""
    found = layers[0]
    for layer in layers[1:]:
        found = layer @ found
    return found


def flows(layers: Sequence[Tensor], asked: Tensor) -> Tensor:
    """The mean over the tokens asked of the maximum flow from each to every input token, (N, tokens)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    rows, size, depth = len(asked), asked.shape[1], len(layers)
    found = np.zeros((rows, size))
    for row in range(rows):
        nodes = np.zeros(((depth + 1) * size,) * 2, dtype=np.int32)
        for number, layer in enumerate(layers):
            into, out = number * size, (number + 1) * size
            capacity = layer[row].detach().cpu().double().numpy() * FINEST
            nodes[out : out + size, into : into + size] = np.floor(capacity)
        graph = csr_array(nodes)
        for token, share in enumerate(asked[row].tolist()):
            if share:
                start = depth * size + token
                found[row] += [share * maximum_flow(graph, start, end).flow_value / FINEST for end in range(size)]
    return torch.from_numpy(found).to(layers[0])


def relevance(maps: Sequence[attention.Map]) -> dict[tuple[int, int], Tensor]:
    """R for every pair of sequences, each known by its length; of the first, what it took up of the second."""
    sizes = dict.fromkeys(n for m in maps for n in (m.queries, m.keys))
    like = maps[0].weights
    eye = {n: torch.eye(n).to(like).expand(len(like), n, n) for n in sizes}
    found = {(a, b): eye[a] if a == b else like.new_zeros(len(like), a, b) for a in sizes for b in sizes}
    for m in maps:
        weighted = (m.grads * m.weights).clamp(min=0).mean(1)
        before, a, b = dict(found), m.queries, m.keys
        if a == b:
            for other in sizes:
                found[a, other] = before[a, other] + weighted @ before[a, other]
        else:
            through = _normalised(before[a, a], eye[a]).mT @ weighted @ _normalised(before[b, b], eye[b])
            found[a, b] = before[a, b] + through
            found[a, a] = before[a, a] + weighted @ before[b, a]
    return found


def _normalised(matrix: Tensor, eye: Tensor) -> Tensor:
    """I + (R - I) with the rows of R - I divided by their sums."""
    rest = matrix - eye
    total = rest.sum(2, keepdim=True)
    return eye + torch.where(total == 0, 0.0, rest / torch.where(total == 0, 1.0, total))


def _explain(
    ask: Ask, tokens: Tokens, label: str, whole: Callable[[attention.Seen], Tensor] | None = None
) -> Attribution:
    """Figures of tokens laid over what is explained, with what was measured beside them."""

    def act(seen: attention.Seen) -> tuple[Tensor, ...]:
        found = tokens(seen)
        laid = [_laid(found, x, len(seen.values), seen.maps) for x in seen.values]
        own = torch.cat([figures[:, layout.extra :] for figures, layout in laid], 1)
        slopes = torch.cat([layout.sizes(g) for (_, layout), g in zip(laid, seen.grads, strict=True)], 1)
        total = torch.stack([figures.abs().sum(1) for figures, _ in laid]).sum(0)
        elsewhere = (total - own.abs().sum(1)) / torch.where(total == 0, 1.0, total)
        count = (seen.maps[-1].asked() > 0).sum(1).double()
        values = [layout.spread(figures) for figures, layout in laid] if whole is None else [whole(seen)]
        return agreement(own.abs(), slopes), elsewhere, count, *values

    found = attention.read(ask, act, label)
    agreed, elsewhere, count, *values = found.parts
    facts = {"score": found.score, "agreement_with_gradient": agreed, "elsewhere": elsewhere, "tokens_read": count}
    return Attribution(values=wrap(ask, tuple(values)), facts=facts, source={"attention": found.layers})


def _laid(found: list[Tensor], place: Tensor, places: int, maps: Sequence[attention.Map]) -> tuple[Tensor, Layout]:
    """The figures that belong to this place, and how they lie over it."""
    fitting = [(figures, layout) for figures in found if (layout := lay(figures.shape[1], place)) is not None]
    if len(found) == 1 and places > 1:
        raise InputError("This attention is over one of several 'inputs'", got=f"{places} inputs", hint="layer=")
    if not fitting:
        raise NeedError(
            f"The attention's tokens must lie over what is explained, of shape {tuple(place.shape[1:])} a row; "
            "attention in windows, or between other places, has no such tokens",
            got=_sizes(maps),
            hint="layer= the place where tokens enter the attention, such as the embedding; or a gradient method",
        )
    return min(fitting, key=lambda pair: pair[1].extra)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Kendall's tau-b of each row, from -1 to 1; 0 where all entries of either are equal."""
    signs = [torch.sign(x[:, :, None] - x[:, None]).double() for x in (first, second)]
    both = (signs[0] * signs[1]).sum((1, 2))
    size = (signs[0].abs().sum((1, 2)) * signs[1].abs().sum((1, 2))).sqrt()
    return torch.where(size == 0, 0.0, both / torch.where(size == 0, 1.0, size))


def _mean(matrix: Tensor, asked: Tensor) -> Tensor:
    """The mean of the rows asked for, (N, keys)."""
    return (asked[:, None] @ matrix)[:, 0]


def _sizes(maps: Sequence[attention.Map]) -> str:
    """The maps in words, for errors."""
    kinds = (f"{m.queries} × {m.keys}" + (f" in '{m.module}'" if m.module else "") for m in maps)
    return ", ".join(dict.fromkeys(kinds))
