"""Which inputs does the bias belong to? The constant of the local straight line, shared out down to the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError, NeedError, UnsupportedOperation
from pellucid.engine import Ask, Subject, recording, rules
from pellucid.engine.decomposition import wrap
from pellucid.engine.rules.operations import AVERAGING, BATCH_NORM, PRODUCTS, ROUTING, words
from pellucid.engine.rules.piecewise import WEIGHTS, kind, weighted
from pellucid.engine.rules.record import unflatten

__all__ = ["BiasBackpropagation"]

SHARES = ("proportional", "equal", "softmax")
SUMS = words("add sub rsub")
BOUNDED = words("hardtanh clamp clamp_min clamp_max threshold")
Share = Callable[[rules.Op, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class BiasBackpropagation(Method):
    """Which inputs does the network's bias belong to?

    A network of affine operations, rectifiers and maxima is locally ``S(x) = w·x + b``. The gradient tells w; this
    method shares out b. From the score down, each operation's own bias, weighted by the gradient there, is added to the
    bias that arrived from above, and the whole is split among the operation's inputs: ``value_j += α_ij bias_i`` with
    ``Σ_j α_ij = 1``. Values are in score units, positive raises the score, and they sum to b exactly; with
    ``add_gradient=True`` they are ``w·x`` plus that, per input, and sum to the score.

    ``α_ij`` is ``|w_ij x_j| / Σ|w_ij x_j|`` ("proportional"), the same for every input that is not zero and has a weight
    ("equal"), or ``exp(|w_ij x_j| / T)`` over its sum among those ("softmax"). Where all inputs are zero, each one with a
    weight gets the same share: this alone lets bias through a rectifier that is closed. A closed rectifier's own bias has
    no gradient and counts for nothing.

    A model without any bias is refused, unless the gradient is added.

    Facts: ``score``; ``bias``, the b of the local line, as S(x) - w·x; ``completeness_gap``, |sum of values - b| (or - S).

    Args:
        share: "proportional", "equal" or "softmax".
        temperature: T of the softmax.
        add_gradient: add gradient × input to each value.

    Cost: one forward and two backward passes; "softmax" works through one output at a time.
    Known failure: another α gives another split of the same b, and nothing in the network tells which is right.
    Source: Wang, Zhou & Bilmes 2019, algorithm 1, which leaves α open and tries several; the shares among
    inputs that are not zero, and the way through closed rectifiers, are this library's reading.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "bias-backpropagation", target=0)
        >>> torch.allclose(result.values.sum(), net.bias[0])
        True
    """

    share: str = "proportional"
    temperature: float = 1.0
    add_gradient: bool = False

    card: ClassVar[Card] = Card(
        name="bias-backpropagation",
        title="Bias back-propagation",
        question="Which inputs does the network's bias belong to?",
        form="attribution",
        scope="local",
        citation="wang2019bias",
        needs=("gradient", "backward rules"),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "dummy", "symmetric", "spelling invariant", "score scale"),
        cost="1 forward, 2 backwards",
        supports=("where the part of the score that no gradient explains can be put",),
        limits=("that the bias was caused by these inputs: another way to share gives another map",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.share not in SHARES:
            raise MethodError(f"The 'share' must be one of {SHARES}", got=repr(self.share))
        if isinstance(self.temperature, bool) or not self.temperature > 0:
            raise MethodError(
                "The 'temperature' must be above zero", got=repr(self.temperature), hint="temperature=1.0"
            )
        share = {
            "proportional": _proportional,
            "equal": _equal,
            "softmax": lambda op, amount: _softmax(op, amount, self.temperature),
        }[self.share]
        key = ("bias", self.share, self.temperature)
        parts = recording.in_chunks(
            ask, lambda start, stop: _chunk(ask, share, start, stop, self.add_gradient), key, self.card.title
        )
        found = torch.cat([p.score for p in parts])
        shared, products = (
            tuple(map(torch.cat, zip(*(getattr(p, name) for p in parts), strict=True)))
            for name in ("shared", "products")
        )
        bias = found - sum((p.flatten(1).sum(1) for p in products), torch.zeros(()))
        values = tuple(s + p for s, p in zip(shared, products, strict=True)) if self.add_gradient else shared
        total = sum((v.flatten(1).sum(1) for v in values), torch.zeros(()))
        gap = (total - (found if self.add_gradient else bias)).abs()
        facts = {"score": found.double(), "bias": bias.double(), "completeness_gap": gap.double()}
        return Attribution(values=wrap(ask, values), facts=facts)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some rows: scores, the bias that arrived at the explained place, and gradient × value there."""

    score: Tensor
    output: Tensor
    shared: tuple[Tensor, ...]
    products: tuple[Tensor, ...]


def _chunk(ask: Ask, share: Share, start: int, stop: int, add_gradient: bool) -> _Chunk:
    seen = recording.record(ask, start, stop)
    trace, targets, values = seen.trace, seen.targets, seen.values
    root, ones = seen.root, torch.ones_like(seen.score)
    slopes: dict[rules.Op, list[Any]] = {}
    weights = rules.walk(trace, [(root, ones)], targets, _noting(slopes)).values
    if not add_gradient:
        _refuse_none(list(slopes))
    shared = rules.walk(trace, [(root, torch.zeros_like(ones))], targets, _sharing(slopes, share)).values
    return _Chunk(
        seen.score.detach(),
        seen.output,
        tuple(torch.zeros_like(v) if s is None else s for v, s in zip(values, shared, strict=True)),
        tuple(torch.zeros_like(v) if w is None else w * v for v, w in zip(values, weights, strict=True)),
    )


def _noting(slopes: dict[rules.Op, list[Any]]) -> rules.Table:
    """Plain gradient that remembers the derivative of the score at every operation's output."""

    def apply(op: rules.Op, grads: list[Any]) -> dict[Any, Any]:
        slopes[op] = grads
        return rules.own.apply(op, grads)

    rule = rules.Rule("bias", apply)
    return rules.Table("bias back-propagation", choose=lambda op: rule if kind(op) else None)


def _sharing(slopes: dict[rules.Op, list[Any]], share: Share) -> rules.Table:
    """The bias that arrived, plus the operation's own, to the operation's inputs."""

    def apply(op: rules.Op, grads: list[Any]) -> dict[Any, Any]:
        own = _own_bias(op)
        if own is not None and slopes[op][0] is not None:
            grads = [slopes[op][0] * own + (0 if grads[0] is None else grads[0]), *grads[1:]]
        return _hand_on(op, grads, share)

    rule = rules.Rule("bias", apply)
    return rules.Table("bias back-propagation", choose=lambda op: rule if kind(op) else None)


def _refuse_none(ops: list[rules.Op]) -> None:
    """Refuse a network in which no operation adds anything, whatever the row: it has no bias to be shared out."""
    for op in ops:
        found = kind(op)
        own = _own_bias(op) if found == "affine" else None
        bounds = [x for x in op.leaves[1:] if op.name in BOUNDED and x is not None]
        if own is not None and bool(own.any()):
            return
        if any(isinstance(x, Tensor) or x != 0 for x in bounds) or (found == "pair" and len(op.edges) == 1):
            return
    bare = [repr(op) for op in ops if weighted(op)]
    raise NeedError(
        "The model must have a bias, to be shared out among the inputs",
        got="none, or zero, in " + "; ".join(bare[:4]) + (" …" if len(bare) > 4 else ""),
        hint="'gradient-x-input', whose values sum to the score of such a model",
    )


def _own_bias(op: rules.Op) -> Tensor | None:
    """What the operation adds to the linear map that it is here."""
    found = kind(op)
    if found in ("pool", "along"):
        return None
    if found == "affine":
        constants = [x for i, x in enumerate(op.leaves) if i not in op.edges and isinstance(x, Tensor)]
        if op.name in ROUTING and not constants and op.name != "constant_pad_nd":
            return None
        leaves = [torch.zeros_like(x) if i in op.edges else x for i, x in enumerate(op.leaves)]
        return op.call(leaves)[0]
    bent = op.vjp([torch.ones_like(op.outs[0])], list(op.edges))
    if found == "pair":  # each entry is one of its operands, and a constant one is bias
        return op.outs[0] - sum((_put(op, i, g) for i, g in bent.items()), torch.zeros_like(op.outs[0]))
    return op.outs[0] - sum((g * op.leaves[i] for i, g in bent.items()), torch.zeros_like(op.outs[0]))


def _put(op: rules.Op, leaf: int, slope: Tensor) -> Tensor:
    """What an operand of a maximum of two contributes, where it may have been broadcast."""
    a, b = torch.broadcast_tensors(op.leaves[0], op.leaves[1])
    wins = (
        (a >= b if op.name in ("maximum", "fmax") else a <= b)
        if leaf == 0
        else (b > a if op.name in ("maximum", "fmax") else b < a)
    )
    return torch.where(wins, a if leaf == 0 else b, 0.0)


def _hand_on(op: rules.Op, grads: list[Any], share: Share) -> dict[Any, Any]:
    found, amount = kind(op), grads[0]
    alone = found == "pair" and len(op.edges) == 1
    if found == "kinked" or alone or op.name in PRODUCTS or op.name == "neg" or op.name in BATCH_NORM:
        edges = [i for i in op.edges if i == op.gated] or list(op.edges)[:1]
        return {edges[0]: amount.sum_to_size(op.leaves[edges[0]].shape)}
    if weighted(op):
        return {WEIGHTS[op.name][0]: share(op, amount)}
    if op.name in SUMS and len(op.edges) > 1:
        sizes = {i: op.leaves[i].abs().expand(amount.shape) for i in op.edges}
        if len(op.leaves) > 2 and op.name == "add":
            sizes[1] = sizes[1] * abs(op.leaves[2])
        total = sum(sizes.values(), torch.zeros_like(amount))
        return {
            i: (amount * torch.where(total == 0, 1 / len(sizes), size / total)).sum_to_size(op.leaves[i].shape)
            for i, size in sizes.items()
        }
    if op.name in SUMS:
        i = next(iter(op.edges))
        return {i: amount.sum_to_size(op.leaves[i].shape)}
    if op.name in AVERAGING:
        return _averaged(op, amount)
    return op.vjp(grads, list(op.edges))


def _averaged(op: rules.Op, amount: Tensor) -> dict[Any, Any]:
    """An average's inputs in proportion to their sizes; to all alike where none has any."""
    sizes = [x.abs() if i in op.edges else x for i, x in enumerate(op.leaves)]
    alike = [torch.ones_like(x) if i in op.edges else x for i, x in enumerate(op.leaves)]
    found: dict[Any, Any] = {}
    for leaves, chosen in ((sizes, None), (alike, op.call(sizes)[0] == 0)):
        total = op.call(leaves)[0]
        factor = torch.where(total == 0, 0.0, amount / total)
        factor = factor if chosen is None else factor * chosen
        for i, g in op.vjp([factor], list(op.edges), leaves).items():
            found[i] = found.get(i, 0) + leaves[i] * g
    return found


def _split(op: rules.Op, amount: Tensor, size: Any, weight: Any) -> Tensor:
    """Shares by `size(input) weight(weight)`; where these are all zero, alike to every input that has a weight."""
    i, there = WEIGHTS[op.name][0], lambda w: (w != 0).to(w)
    leaves = _modified(op, size, weight)
    total = op.call(leaves)[0]
    found = leaves[i] * op.vjp([torch.where(total == 0, 0.0, amount / total)], [i], leaves)[i]
    if bool((total == 0).any()):
        leaves = _modified(op, torch.ones_like, there)
        count = op.call(leaves)[0]
        found = found + op.vjp([torch.where((total == 0) & (count > 0), amount / count, 0.0)], [i], leaves)[i]
    return found


def _modified(op: rules.Op, size: Any, weight: Any) -> list[Any]:
    """The operation's arguments with its input and weight changed, and no bias."""
    leaves = list(op.leaves)
    for leaf, change in zip(WEIGHTS[op.name], (size, weight, torch.zeros_like), strict=True):
        if leaf is not None and leaves[leaf] is not None:
            leaves[leaf] = change(leaves[leaf].detach())
    return leaves


def _proportional(op: rules.Op, amount: Tensor) -> Tensor:
    return _split(op, amount, torch.abs, torch.abs)


def _equal(op: rules.Op, amount: Tensor) -> Tensor:
    return _split(op, amount, lambda x: (x != 0).to(x), lambda w: (w != 0).to(w))


def _softmax(op: rules.Op, amount: Tensor, temperature: float) -> Tensor:
    """Each output's bias by the exponent of |w x| / T among the inputs that are not zero, one output at a time."""
    i, (arguments, _) = WEIGHTS[op.name][0], unflatten(op.leaves, op.spec)
    x = op.leaves[i].detach()
    if op.name == "convolution":
        weight, stride, padding, dilation, transposed, groups = *arguments[1:2], *arguments[3:7], arguments[8]
        if transposed or groups != 1 or x.dim() not in (3, 4):
            raise UnsupportedOperation(
                "The softmax share needs a plain convolution", got=repr(op), hint="share='equal'"
            )
        settings = {"dilation": dilation, "padding": padding, "stride": stride}
        flat = x.dim() == 3
        if flat:
            x, weight = x.unsqueeze(2), weight.unsqueeze(2)
            settings = {k: [0 if k == "padding" else 1, *v] for k, v in settings.items()}
        size = tuple(weight.shape[2:])
        columns, inside = (functional.unfold(v, size, **settings) for v in (x, torch.ones_like(x[:1])))
        spread = _by_output(columns, weight.flatten(1), amount.flatten(2), temperature, inside > 0)
        folded = functional.fold(spread, tuple(x.shape[2:]), size, **settings)
        return folded.squeeze(2) if flat else folded
    if x.dim() != 2:
        raise UnsupportedOperation("The softmax share needs a plain matrix product", got=repr(op), hint="share='equal'")
    weight = op.leaves[WEIGHTS[op.name][1]].mT
    inside = torch.ones_like(x[:1, :, None], dtype=torch.bool)
    return _by_output(x[:, :, None], weight, amount[:, :, None], temperature, inside)[:, :, 0]


def _by_output(x: Tensor, weight: Tensor, amount: Tensor, temperature: float, inside: Tensor) -> Tensor:
    """(rows, inputs, positions) out of amounts (rows, outputs, positions) and weights (outputs, inputs).

    `inside` says which of the inputs are no padding.
    """
    found = torch.zeros_like(x)
    for row, part in zip(weight, amount.unbind(1), strict=True):
        size = (x * row[:, None]).abs() / temperature
        live = size > 0
        live |= ~live.any(1, keepdim=True) & (row != 0)[:, None] & inside
        found += torch.softmax(size.masked_fill(~live, -torch.inf), 1).nan_to_num() * part[:, None]
    return found
