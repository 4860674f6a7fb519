"""What did each word write into the memory that the score was read from? Decompositions of an LSTM's cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, UnsupportedOperation
from pellucid.engine import Ask, Subject, recording, rules
from pellucid.engine.rules.operations import ROUTING
from pellucid.engine.rules.piecewise import kind

__all__ = ["CellDecomposition"]

VARIANTS = ("difference", "additive")
SCALES = ("log", "factor")


@dataclass(frozen=True, kw_only=True)
class CellDecomposition(Method):
    """What did each word write into the LSTM's memory that the score was read from?

    With memory ``c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t``, state ``h_t = o_t ⊙ tanh(c_t)`` and score ``W·h_T + b``, word j gets
    ``W·(o_T ⊙ (tanh(c_j) - tanh(c_{j-1})))``, the change that its step made, as the last step would read it. The sum over
    words telescopes to ``W·h_T``, the score less b. The additive variant follows what was written through the later
    forget gates, ``e_k = (Π_{l>k} f_l) ⊙ i_k ⊙ g_k``, and gives word j the change of ``tanh(e_1 + … + e_j)``. Values are
    in score units, positive raises the score; as factors, their exponents multiply to ``exp(W·h_T)``, as in the source.
    They have the length of the sequence, with width 1 where words are vectors.

    The cells are found by their operations, so that nn.LSTM, nn.LSTMCell and LSTMs written out are the same. Where the
    score reads several states, such as their mean, each is decomposed and the parts are added up.

    Facts: ``score``; ``output_bias``, b; ``telescoping_gap``, |sum of the words' parts - W·h| (rounding); ``initial``, the
    part of a memory that does not start at zero.

    Args:
        variant: "difference" (β of the source) or "additive" (γ of the source).
        scale: "log" for parts that add, "factor" for their exponents, which multiply.

    Cost: one recorded forward pass, and a backward pass down to the memory.
    Known failure: a word's part holds what the gates, which read all words before, let through: it is no effect of the
    word alone. Only what lies between the memory and the score is explained, and that must be affine.
    Source: Murdoch & Szlam 2017, §3.

    Example:
        >>> import torch, pellucid as px
        >>> class Reader(torch.nn.LSTM):
        ...     forward = lambda self, x: torch.nn.LSTM.forward(self, x)[0][:, -1]
        >>> px.explain(Reader(3, 2, batch_first=True).eval(), torch.ones(1, 4, 3), "murdoch-szlam-lstm-decomposition").values.shape
        torch.Size([1, 4, 1])
    """  # noqa: E501

    variant: str = "difference"
    scale: str = "log"

    card: ClassVar[Card] = Card(
        name="murdoch-szlam-lstm-decomposition",
        title="LSTM cell decomposition",
        question="What did each word write into the LSTM's memory that the score was read from?",
        form="attribution",
        scope="local",
        citation="murdoch2017automatic",
        needs=("gradient", "backward rules"),
        data_types=("text", "sequence"),
        taxonomy={
            "000": "structural/decomposition",
            "001": "model-specific/rules-from-lstm",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "score scale"),
        exempt={"bad shapes": "a sequence that is twice as long is no wrong shape to an LSTM"},
        cost="1 forward, 1 partial backward",
        supports=("which steps changed the part of the memory that the score reads",),
        limits=("the effect of a word by itself: its step's gates depend on all words before it",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        for name, word, known in (("variant", self.variant, VARIANTS), ("scale", self.scale, SCALES)):
            if word not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(word))
        _one_sequence(ask)
        parts = recording.in_chunks(
            ask, lambda start, stop: _chunk(ask, self.variant, start, stop), ("cell", self.variant), self.card.title
        )
        words, score, read, initial = (
            torch.cat([getattr(p, name) for p in parts]) for name in ("words", "score", "read", "initial")
        )
        facts = {
            "score": score.double(),
            "output_bias": (score - read).double(),
            "telescoping_gap": (words.sum(1) + initial - read).abs().double(),
            "initial": initial.double(),
        }
        values = words if self.scale == "log" else words.exp()
        values = values.reshape(*values.shape, *[1] * (parts[0].dims - 2))
        single = ask.layer is not None or (len(ask.inputs.tensors) == 1 and not ask.inputs.names)
        return Attribution(
            values=values if single or not ask.inputs.explained else ask.inputs.wrap([values]), facts=facts
        )


def _one_sequence(ask: Ask) -> None:
    if ask.layer is None and len(ask.inputs.floats or ask.inputs.tensors) != 1:
        raise InputError(
            "The 'inputs' must hold one sequence", got=f"{len(ask.inputs.tensors)} tensors", hint="layer= the embedding"
        )


@dataclass(eq=False)
class _Step:
    """One step of a cell: what it did, and the derivative of the score at its state through the head alone."""

    output: rules.Op
    tanh: rules.Op
    memory: rules.Op
    gate: rules.Op
    forget: rules.Op | None = None
    written: rules.Op | None = None
    before: rules.Op | None = None
    start: Tensor | None = None
    weight: Tensor | None = field(default=None)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some rows: parts of each word (rows, words), the score, W·h, and the part of the first memory."""

    words: Tensor
    score: Tensor
    read: Tensor
    initial: Tensor
    output: Tensor
    dims: int


def _chunk(ask: Ask, variant: str, start: int, stop: int) -> _Chunk:
    seen = recording.record(ask, start, stop, tokens=True)
    trace, rows, at = seen.trace, seen.rows, None if ask.layer is None else str(ask.layer)
    chains = _chains(trace)
    _weigh(trace, [step for chain in chains for step in chain])
    chains = [chain for chain in chains if any(step.weight is not None for step in chain)]
    place, edge = _place(trace, ask, at)
    length = place.shape[1] if place.dim() > 1 else 0
    words = seen.score.new_zeros(rows.rows, length).detach()
    read, initial = torch.zeros_like(words[:, 0]), torch.zeros_like(words[:, 0])
    for chain in chains:
        if len(chain) != length:
            raise UnsupportedOperation(
                "The LSTM must take one step per entry of the sequence",
                got=f"{len(chain)} steps for shape {tuple(place.shape)}",
                hint="layer= the place whose second axis the LSTM reads",
            )
        found, first, total = _decompose(chain, rows.rows, variant)
        backwards = len(chain) > 1 and _backwards(chain[0], edge, length, len(chains) > 1)
        words = words + (found.flip(1) if backwards else found)
        read, initial = read + total, initial + first
    return _Chunk(words, seen.score.detach(), read, initial, seen.output, place.dim())


def _place(trace: rules.Trace, ask: Ask, at: str | None) -> tuple[Tensor, Any]:
    if at is not None:
        return trace.places[at].value, trace.places[at].edge
    i = (ask.inputs.explained or (0,))[0]
    return trace.values[i], trace.edges[i]


# --- finding the cells ---


def _behind(trace: rules.Trace, op: rules.Op, leaf: int) -> rules.Op | None:
    """The operation that made a leaf, past those that only move values."""
    while leaf in op.links:
        before = trace.record.of(op.links[leaf][0])
        if before is None or before.name not in ROUTING or len(before.links) != 1:
            return before
        op, leaf = before, next(iter(before.links))
    return None


def _factors(trace: rules.Trace, op: rules.Op) -> dict[str, tuple[int, rules.Op]]:
    """The sigmoid and the tanh that a product multiplies, by name."""
    sources = ((i, _behind(trace, op, i)) for i in op.links)
    return {s.name: (i, s) for i, s in sources if s is not None}


def _chains(trace: rules.Trace) -> list[list[_Step]]:
    """Every LSTM direction of every layer, each a list of steps in the order they ran."""
    steps = {step.memory: step for op in trace.ops if op.name == "mul" if (step := _step(trace, op)) is not None}
    later = {step.before: step for step in steps.values() if step.before is not None}
    chains = []
    for step in steps.values():
        if step.before is None or step.before not in steps:
            chain = [step]
            while chain[-1].memory in later:
                chain.append(later[chain[-1].memory])
            chains.append(chain)
    if not chains:
        raise UnsupportedOperation(
            "The model must hold an LSTM: a sigmoid times the tanh of a memory, which is a sum of two products",
            got="no such operations",
            hint="'contextual-decomposition' for other networks",
        )
    return chains


def _step(trace: rules.Trace, op: rules.Op) -> _Step | None:
    factors = _factors(trace, op)
    if set(factors) != {"sigmoid", "tanh"}:
        return None
    tanh, gate = factors["tanh"][1], factors["sigmoid"][1]
    memory = _behind(trace, tanh, 0)
    if memory is None or memory.name != "add":
        return None
    terms = [_behind(trace, memory, i) for i in memory.links]
    if len(terms) != 2 or any(t is None or t.name != "mul" for t in terms):
        return None
    step = _Step(op, tanh, memory, gate)
    for term in terms:
        assert term is not None
        inner = _factors(trace, term)
        if set(inner) == {"sigmoid", "tanh"}:
            step.written = term
        elif "sigmoid" in inner:
            i, step.forget = inner["sigmoid"]
            other = 1 - i
            step.before = _behind(trace, term, other)
            step.start = term.leaves[other].detach()
    return step if step.written is not None and step.forget is not None else None


def _weigh(trace: rules.Trace, steps: Sequence[_Step]) -> None:
    """The derivative of the score at each state, not counting what the state does to later steps."""
    assert trace.score is not None
    outputs = {step.output: step for step in steps}
    curved: list[str] = []

    def stop(op: rules.Op, grads: list[Any]) -> dict[Any, Any]:
        outputs[op].weight = grads[0]
        return {}

    def refuse(op: rules.Op, grads: list[Any]) -> dict[Any, Any]:
        curved.append(repr(op))
        return {}

    state, other = rules.Rule("state", stop), rules.Rule("curved", refuse)

    def choose(op: rules.Op) -> rules.Rule:
        return state if op in outputs else rules.own if kind(op) == "affine" else other

    root = (trace.score.grad_fn, trace.score.output_nr)
    targets = [step.tanh.links[0] for step in steps]
    rules.walk(trace, [(root, torch.ones_like(trace.score))], targets, rules.Table("head", choose=choose))
    if curved:
        raise UnsupportedOperation(
            "What lies between the LSTM's states and the score must be affine",
            got="; ".join(dict.fromkeys(curved)),
            hint="the logits as the output, or 'contextual-decomposition'",
        )


def _backwards(first: _Step, edge: Any, length: int, several: bool) -> bool:
    """Does this direction begin at the end of the sequence?"""
    if edge is None:
        if several:
            raise InputError("The directions of the LSTM must be seen from its input", got="token ids", hint="layer=")
        return False
    value = first.memory.outs[0]
    (slope,) = torch.autograd.grad(
        [GradientEdge(*first.tanh.links[0])], [GradientEdge(*edge)], [torch.ones_like(value)],
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    reads = set() if slope is None else set(slope.transpose(0, 1).flatten(1).abs().sum(1).nonzero()[:, 0].tolist())
    if reads not in ({0}, {length - 1}):
        raise UnsupportedOperation(
            "The first step of each direction must read the first or the last word alone",
            got=f"a step that reads words {sorted(reads)[:5]}",
            hint="layer= the place that the last LSTM reads",
        )
    return reads == {length - 1}


# --- the decompositions ---


def _decompose(chain: list[_Step], rows: int, variant: str) -> tuple[Tensor, Tensor, Tensor]:
    """The words' parts (rows, steps) in the order of the steps, the first memory's part, and W·h."""

    def flat(value: Tensor) -> Tensor:
        if value.numel() % rows or value.dim() < 2 or value.shape[-2] != rows:
            raise UnsupportedOperation(
                "The LSTM must run on whole sequences", got=f"a step of shape {tuple(value.shape)}", hint="padded ones"
            )
        return value.detach().reshape(rows, -1)

    assert chain[0].start is not None
    memories = [flat(step.memory.outs[0]) for step in chain]
    first = chain[0].start
    first = flat(first) if first.numel() == memories[0].numel() else first.expand(memories[0].shape)
    found = torch.zeros(rows, len(chain), dtype=memories[0].dtype, device=memories[0].device)
    initial, read = torch.zeros_like(found[:, 0]), torch.zeros_like(found[:, 0])
    for t, step in enumerate(chain):
        if step.weight is None:
            continue
        reader = flat(step.weight) * flat(step.gate.outs[0].reshape(step.tanh.outs[0].shape))
        levels = [first, *memories[: t + 1]] if variant == "difference" else _sums(chain[: t + 1], first, flat)
        bent = torch.stack([level.tanh() for level in levels], 1)
        found[:, : t + 1] += ((bent[:, 1:] - bent[:, :-1]) * reader[:, None]).sum(2)
        initial += (bent[:, 0] * reader).sum(1)
        read += (flat(step.weight) * flat(step.output.outs[0])).sum(1)
    return found, initial, read


def _sums(chain: list[_Step], first: Tensor, flat: Any) -> list[Tensor]:
    """What the first k steps wrote, as much of it as the later forget gates kept: for k from 0."""
    kept = torch.ones_like(first)
    written = []
    for step in reversed(chain):
        assert step.written is not None
        assert step.forget is not None
        value = flat(step.written.outs[0])
        written.append(kept * value)
        kept = kept * flat(step.forget.outs[0].reshape(step.tanh.outs[0].shape))
    levels = [kept * first]
    for part in reversed(written):
        levels.append(levels[-1] + part)
    return levels
