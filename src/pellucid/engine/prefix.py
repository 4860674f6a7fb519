"""Need everything before the first changed token be computed again? Not where the network looks backwards alone.

In a causal transformer the values at a token depend on the tokens up to it. So the keys and values of a row's unchanged
beginning are computed once, and each changed row runs from its first changed token on (`ask.path` "prefix"). Points are
grouped by where they begin to differ. Exact up to rounding, and for networks of `transformers` that take
`past_key_values` and say that all their attention is causal. On every row the two ways are compared on
disturbed values before one is trusted; whatever does not fit goes the plain way.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.engine import batch
from pellucid.engine.ask import Ask, predict, shape_key
from pellucid.engine.place import visit
from pellucid.engine.plan.watch import obstacle

Points = Callable[[Tensor, Tensor], tuple[Tensor, ...]]

# Predicted below this, whole passes are as good.
WORTH = 1.25
# Points of a group may begin to differ this part of the row apart: more groups save tokens, and cost calls.
_GROUPS = 8
# The row's values, its keys and values, and both ways at two places to compare: passes of the row, at most.
_EXTRA_PASSES = 6
# What calling one module costs beside its work, in operations on weights.
_CALL = 2e5
# The two ways must agree to this part of the largest output.
_AGREE = {torch.float64: 1e-10, torch.float32: 1e-4}
# What a call may bring along: the first are cut where the keys and values end, the second stay whole.
_BY_TOKEN, _WHOLE = ("input_ids", "inputs_embeds", "token_type_ids", "position_ids"), ("attention_mask",)
_BY_THE_WAY = ("use_cache", "return_dict")


class _Unfit(Exception):
    """The network can't be run from the middle of this row; never leaves this file."""


@dataclass(frozen=True, eq=False)
class _Clean:
    """One pass of the unchanged row: what the causal part was called with, what it gave, its keys and values."""

    module: nn.Module
    given: dict[str, Tensor]
    found: dict[str, Tensor]
    cache: Any


class Reuse:
    """The scores of one row after the other at many points, each from its first changed token on."""

    def __init__(self, ask: Ask, found: list[nn.Module], at_input: bool) -> None:
        self.ask, self.found = ask, found
        self.place = None if at_input else ask.layer
        if self.place is None:
            self.values = ask.inputs.floats
        else:
            self.values = (predict(ask.subject, ask.inputs, ask.memory, self.place),)
        self.tokens = self.values[0].shape[1] if self.values and self.values[0].dim() > 1 else 0
        weights = sum(p.numel() for m in found[0].modules() if not isinstance(m, nn.Embedding) for p in _own(m))
        self.call_tokens = _CALL * sum(1 for _ in found[0].modules()) / max(1, weights)

    def row(self, row: int, count: int, points: Points, label: str = "") -> Tensor | None:
        """The scores of all points of a row, (count, ...); None where whole passes are as good, or the only way."""
        if self.tokens < 2 or not self._worth(self._sampled(row, count, points), count):
            return None
        starts = torch.cat([self._starts(row, values) for _, values in self._blocks(row, count, points)])
        if not self._worth(self._groups(starts), count):
            return None
        try:
            with self.ask.progress.bar(count, label) as tell:
                return self._scores(row, starts, points, tell)
        except Exception:  # what can't be done this way may be done in whole passes, or is told there
            return None

    def _worth(self, groups: list[tuple[int, int]], count: int) -> bool:
        """Whether groups, each its start and size out of as many points in all, save enough of `count` points."""
        sizes = sum(size for _, size in groups)
        share = sum(size * (self.tokens - start) for start, size in groups) / (sizes * self.tokens)
        if self.ask.subject.plan is True:
            return share < 1
        calls = (len(groups) + _EXTRA_PASSES) * self.call_tokens / self.tokens
        return count >= WORTH * (count * share + _EXTRA_PASSES + calls)

    def _sampled(self, row: int, count: int, points: Points) -> list[tuple[int, int]]:
        """Groups of a few of the points, evenly spread."""
        steps = torch.linspace(0, count - 1, min(count, 2 * _GROUPS)).long().unique()
        # One by one: a caller may count on steps that lie side by side.
        found = [self._starts(row, points(torch.tensor([row]), step[None])) for step in steps]
        return self._groups(torch.cat(found))

    def _blocks(self, row: int, count: int, points: Points) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """All points of a row, as many at once as take a small part of the memory."""
        bytes_each = sum(x[row].numel() * x.element_size() for x in self.values)
        size = max(1, min(256, self.ask.memory // (32 * max(1, bytes_each))))
        for start in range(0, count, size):
            steps = torch.arange(start, min(count, start + size))
            yield start, points(torch.full_like(steps, row), steps)

    def _starts(self, row: int, values: tuple[Tensor, ...]) -> Tensor:
        """The first token at which each point differs from the row; the last one where it does not differ at all."""
        last = self.tokens - 1
        first = torch.full((len(values[0]),), last)
        for point, clean in zip(values, self.values, strict=True):
            moved = point != clean[row]
            if clean.dim() < 2 or clean.shape[1] != self.tokens:  # no tokens: what changes may matter anywhere
                here = torch.where(moved.flatten(1).any(1), 0, last)
            else:
                by_token = moved.reshape(*moved.shape[:2], -1).any(2)
                here = torch.where(by_token.any(1), by_token.int().argmax(1), last)
            first = torch.minimum(first, here.cpu())
        return first

    def _groups(self, starts: Tensor) -> list[tuple[int, int]]:
        """Start and size of each group, in the order of starts."""
        step = max(1, self.tokens // _GROUPS)
        groups: list[tuple[int, int]] = []
        for start in starts.sort().values.tolist():
            if groups and start - groups[-1][0] < step:
                groups[-1] = groups[-1][0], groups[-1][1] + 1
            else:
                groups.append((start, 1))
        return groups

    def _scores(self, row: int, starts: Tensor, points: Points, tell: Callable[[int], Any]) -> Tensor:
        """Every group's points in chunks, in the order of the points."""
        clean, groups, order = self._clean(row), self._groups(starts), starts.argsort(stable=True)
        self._compare(clean, row, {start for start, _ in groups if start} | {self.tokens - 1})
        found: Tensor | None = None
        key = (str(self.place), groups[0][0] * _GROUPS // self.tokens, shape_key(self.ask.inputs))
        for (start, _), part in zip(groups, order.split([size for _, size in groups]), strict=True):
            steps = part.sort().values

            def work(a: int, b: int, start: int = start, steps: Tensor = steps) -> Tensor:
                values = _side_by_side(points, row, steps[a:b])
                output = self._run(row, values, start, clean)
                return self.ask.target.score(output, torch.full((b - a,), row))

            scores: list[Tensor] = []

            def keep(a: int, b: int, score: Tensor, scores: list[Tensor] = scores) -> None:
                scores.append(score)
                tell(b - a)

            cost, device = (self.ask.subject.module, ("prefix", *key)), self.ask.inputs.device
            batch.run(len(steps), work, keep, memory=self.ask.memory, cost=cost, device=device)
            together = torch.cat(scores)
            found = together.new_empty(len(starts), *together.shape[1:]) if found is None else found
            found[steps.to(found.device)] = together
        assert found is not None
        return found

    def _run(self, row: int, values: tuple[Tensor, ...], start: int, clean: _Clean | None) -> Tensor:
        """The output with these values, from token `start` on if there are keys and values of what is before."""
        subject, place, rows = self.ask.subject, self.place, torch.full((len(values[0]),), row)

        def put(held: Tensor) -> Tensor:
            if held.shape[1:2] == values[0].shape[1:2]:
                return values[0]
            if held.shape[1:2] != (self.tokens - start,):
                raise _Unfit("the layer has another axis where its tokens should be")
            return values[0][:, start:]

        cut = contextlib.nullcontext() if clean is None or not start else _cut(clean, start, self.tokens)
        with torch.no_grad(), cut:
            if place is None:
                return subject.scores(self.ask.inputs.at(rows, values))
            inputs = self.ask.inputs.take(rows)
            assert subject.module is not None
            return visit(lambda: subject.scores(inputs), subject.module, edit={place: put}).output

    def _clean(self, row: int) -> _Clean:
        """The unchanged row, with its keys and values, and the outermost module that can be run from the middle."""
        calls: dict[nn.Module, list[tuple[dict[str, Any], Any]]] = {m: [] for m in self.found}

        def before(module: nn.Module, args: Any, named: Any) -> Any:
            return (), {**_bound(module, args, named), "use_cache": True}

        def after(module: nn.Module, args: Any, named: Any, output: Any) -> None:
            calls[module].append((named, output))

        with contextlib.ExitStack() as stack:
            for module in self.found:
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
            self._run(row, tuple(x[row : row + 1] for x in self.values), 0, None)
        for module, seen in calls.items():
            if len(seen) == 1 and (clean := _readable(module, *seen[0], self.tokens)) is not None:
                return clean
        raise _Unfit("no module gives keys and values of its tokens")

    def _compare(self, clean: _Clean, row: int, starts: set[int]) -> None:
        """Run disturbed values in both ways, at the first and last place, and refuse what differs."""
        generator = torch.Generator().manual_seed(0)
        for start in sorted({min(starts), max(starts)}):
            points = []
            for x in self.values:
                point = x[row : row + 1].clone()
                if point.shape[1:2] == (self.tokens,):
                    part = point[:, start:]
                    noise = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part)
                    point[:, start:] = part + noise * (float(x[row].std()) or 1.0)
                points.append(point)
            whole = self._run(row, tuple(points), 0, None)
            reused = self._run(row, tuple(points), start, clean)
            near = _AGREE[whole.dtype] * whole.abs().max()
            if whole.shape != reused.shape or not bool((whole - reused).abs().max() <= near):
                raise _Unfit("later tokens change what is before them")


def reuse_for(ask: Ask, count: int, *, at_input: bool = False) -> Reuse | None:
    """The way to score so many points of each row from the first changed token on; None where there is none."""
    subject, module = ask.subject, ask.subject.module
    if module is None or "transformers" not in sys.modules or subject.plan is False or ask.unit_place is not None:
        return None
    if subject.call is not None or subject.preprocess is not None or count < 2:
        return None
    if subject.plan is None and count < WORTH * _EXTRA_PASSES:
        return None
    found = [m for m in module.modules() if _takes_cache(m)]
    if not found or ask.inputs.dtype not in _AGREE or obstacle(module) is not None:
        return None
    said = [bool(m.is_causal) for m in module.modules() if hasattr(m, "is_causal")]
    return Reuse(ask, found, at_input) if said and all(said) else None


def _takes_cache(module: nn.Module) -> bool:
    """Whether a module is a decoder of `transformers` that can be given keys and values."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if not type(module).__module__.startswith("transformers.") or "PreTrainedModel" not in kinds:
        return False
    named, config = inspect.signature(module.forward).parameters, module.config
    return "past_key_values" in named and "use_cache" in named and getattr(config, "is_encoder_decoder", True) is False


def _own(module: nn.Module) -> list[Tensor]:
    return list(module.parameters(recurse=False))


def _bound(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, all by name."""
    signature = inspect.signature(module.forward)
    found = dict(signature.bind(*args, **named).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update(found.pop(name, {}))
    return found


def _readable(module: nn.Module, named: dict[str, Any], output: Any, tokens: int) -> _Clean | None:
    """What a call of this module brings, where it can be run from the middle; None where it can't."""
    asked = {k: v for k, v in named.items() if k not in _BY_THE_WAY and v is not None and v is not False}
    given = {k: v for k, v in asked.items() if isinstance(v, Tensor)}
    asked.pop("logits_to_keep", None) if asked.get("logits_to_keep") == 0 else None
    if set(asked) != set(given) or not set(given) <= {*_BY_TOKEN, *_WHOLE} or not hasattr(output, "keys"):
        return None
    if any(x.shape[1:2] != (tokens,) for x in given.values()):
        return None
    if "attention_mask" in given and given["attention_mask"].dim() != 2:
        return None
    found = {k: v for k, v in output.items() if k != "past_key_values"}
    cache = output.get("past_key_values")
    if not found or any(not isinstance(v, Tensor) or v.dim() < 3 or v.shape[1] != tokens for v in found.values()):
        return None
    layers = getattr(cache, "layers", None)
    if type(cache).__name__ != "DynamicCache" or not layers or any(type(x).__name__ != "DynamicLayer" for x in layers):
        return None
    return _Clean(module, given, found, cache) if all(x.keys.shape[-2] == tokens for x in layers) else None


@contextlib.contextmanager
def _cut(clean: _Clean, start: int, tokens: int) -> Iterator[None]:
    """While this lasts, the module runs from token `start` on, and gives what it gave for the unchanged row before."""

    def before(module: nn.Module, args: Any, named: Any) -> Any:
        given = {k: v for k, v in _bound(module, args, named).items() if v is not None}
        for name, x in given.items():
            if isinstance(x, Tensor) and not _same(x, clean.given.get(name), start, tokens):
                raise _Unfit(f"{name} is not as in the unchanged row")
        first = given["input_ids"] if "input_ids" in given else given["inputs_embeds"]
        cut = {k: v[:, start:] for k, v in given.items() if k in _BY_TOKEN}
        return (), {**given, **cut, "past_key_values": _cache(clean.cache, start, len(first)), "use_cache": True}

    def after(module: nn.Module, args: Any, named: Any, output: Any) -> Any:
        found = {}
        for name, x in clean.found.items():
            later = output[name]
            earlier = x[:, :start].expand(len(later), *x[:, :start].shape[1:])
            found[name] = torch.cat([earlier, later], 1)
        return type(output)(**found)

    handles = [
        clean.module.register_forward_pre_hook(before, with_kwargs=True),
        clean.module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same(x: Tensor, clean: Tensor | None, start: int, tokens: int) -> bool:
    """Whether what a call brings is as in the unchanged row up to `start`, but for rounding."""
    if clean is None or x.shape[1:] != clean.shape[1:] or x.shape[1] != tokens:
        return False
    before, expected = x[:, :start], clean[:, :start]
    if not x.is_floating_point():
        return bool((before == expected).all())
    return bool(((before - expected).abs().max() <= 16 * torch.finfo(x.dtype).eps * expected.abs().max()).all())


def _cache(cache: Any, start: int, rows: int) -> Any:
    """The keys and values before `start` for so many equal rows, without copies: layers put new tensors in their place."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in made.layers:
        layer.keys = layer.keys[..., :start, :].expand(rows, -1, -1, -1)
        layer.values = layer.values[..., :start, :].expand(rows, -1, -1, -1)
    return made


def _side_by_side(points: Points, row: int, steps: Tensor) -> tuple[Tensor, ...]:
    """Points at these steps, in order, asked for in runs of neighbours: a caller may count on such."""
    ends = (steps.diff() != 1).nonzero()[:, 0] + 1
    runs = steps.tensor_split(ends.tolist())
    parts = [points(torch.full_like(run, row), run) for run in runs]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(each) for each in zip(*parts, strict=True))
