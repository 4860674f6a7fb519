"""What is left of an explanation when its input trembles? Means over noisy copies, with their standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method, as_method, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.inputs import Inputs

__all__ = ["SmoothGrad"]

KINDS = ("mean", "squared", "variance")


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(Method):
    """What is left of an explanation when the input trembles a little?

    With M the explanation ``of`` and noise n_k ~ N(0, σ²), ``values = 1/N Σ M(x + n_k)`` ("mean"), ``1/N Σ M(x + n_k)²``
    ("squared") or the variance of M(x + n_k) ("variance", VarGrad); units are those of M, or their square. σ is ``noise``
    times the range max - min of the row's input, as in the paper; token ids get their noise at the embedding that
    ``layer=`` names. `error` is the standard error of each value, ``relative_standard_error`` its size over the values'
    size in the row. With ``tolerance``, draws are doubled for each row by itself until that is small enough.

    Args:
        of: the explanation that is smoothed: a method or its name.
        samples: noisy copies per row.
        noise: σ as a share of the row's range.
        kind: "mean", "squared" or "variance".
        tolerance: largest relative standard error to accept.
        max_samples: most noisy copies per row.

    Cost: ``samples`` times the cost of ``of``, and one forward.
    Known failures: smooth is not the same as right, the map explains a blurred network; "squared" and "variance" have no
    sign; a row whose values are all equal has no range and gets no noise.
    Source: Smilkov, Thorat, Kim, Viégas & Wattenberg 2017, §3; squared and variance: Hooker et al. 2019; Adebayo et al.
    2018.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.tensor([[1.0, 2.0, 3.0]]), "smoothgrad", target=0)
        >>> torch.allclose(result.values[0], net.weight[0])
        True
    """

    of: str | Method = "vanilla-gradient"
    samples: int = 32
    noise: float = 0.15
    kind: str = "mean"
    tolerance: float | None = None
    max_samples: int = 1024

    card: ClassVar[Card] = Card(
        name="smoothgrad",
        title="SmoothGrad",
        question="What is left of an explanation when the input trembles a little?",
        form="attribution",
        scope="local",
        citation="smilkov2017smoothgrad",
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=(
            "rowwise",
            "seeded",
            "linear",
            "dummy",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"samples": 4},
        cost="32 forwards and backwards, 1 forward",
        supports=("which inputs matter in the neighbourhood of this input",),
        limits=("exact shares of the score: it averages over inputs that were never seen",),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        held = as_method(self.of).claims
        kept = tuple(c for c in self.card.claims if c in held or c == "seeded")
        bent = {"linear"} if self.kind != "mean" or self.tolerance is not None else set()
        bent |= {"score scale"} if self.kind != "mean" else set()
        return tuple(c for c in kept if c not in bent)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        held = self._check()
        if not ask.inputs.explained:
            if ask.layer is None:
                raise InputError(
                    "SmoothGrad needs floating 'inputs' to add noise to",
                    got=", ".join(str(x.dtype) for x in ask.inputs.tensors),
                    hint="layer= the name of the embedding: the noise is then added to its values",
                )
            inside = self.explain(subject, ask.inside(), state)
            return inside.replace(values=inside.values[0], error=inside.error[0])
        subject, inner = ask.subject, held.prepare(ask.subject, ask)
        sums = _Sums(self.kind)
        used = torch.zeros(ask.inputs.rows, dtype=torch.long)
        todo, draws = list(range(ask.inputs.rows)), self.samples
        with ask.progress.bar(draws * len(todo), self.card.title) as tell:
            while todo:
                for rows, steps in _blocks(ask, todo, int(used[todo[0]]), draws):
                    noisy = ask.derived(self._tremble(ask, rows, steps), rows, passes=draws * len(todo))
                    sums.add(held.explain(subject, noisy, inner).values, rows, ask.inputs.rows)
                    ask.path = noisy.path
                    tell(len(rows))
                used[todo] += draws
                values, error = sums.result(used)
                ratio = _norm(error) / _norm(values).clamp(min=1e-30)
                draws = int(used[todo[0]])
                if self.tolerance is None or 2 * draws > self.max_samples:
                    break
                todo = [i for i in todo if not ratio[i] <= self.tolerance]
        facts = {"score": ask.score, "samples": used, "relative_standard_error": ratio}
        if self.tolerance is not None:
            facts["converged"] = (ratio <= self.tolerance).double()
        dtype = ask.inputs.dtype
        return Attribution(
            values=sums.rebuild([v.to(dtype) for v in values]),
            error=sums.rebuild([e.to(dtype) for e in error]),
            facts=facts,
        )

    def _check(self) -> Method:
        if self.kind not in KINDS:
            raise MethodError(f"The 'kind' must be one of {KINDS}", got=repr(self.kind))
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 2:
            raise MethodError(
                "The 'samples' must be an int of at least 2, for a standard error", got=repr(self.samples)
            )
        if not self.noise >= 0:
            raise MethodError("The 'noise' must be at least 0, as a share of the input's range", got=repr(self.noise))
        held = as_method(self.of)
        if held.card.form != "attribution":
            raise MethodError("The method that is smoothed must give an attribution", got=held.card.form)
        return held

    def _tremble(self, ask: Ask, rows: Tensor, steps: Tensor) -> Inputs:
        keys = [ask.keys[r] for r in rows.tolist()]
        floats = []
        for part, x in enumerate(ask.inputs.floats):
            spread = _range(x, ask.inputs.lengths())[rows].reshape(-1, *[1] * (x.dim() - 1))
            draws = [(step << 8) + part for step in steps.tolist()]
            noise = seed.normal(ask.seed, keys, draws, tuple(x.shape[1:]), x)
            floats.append(torch.addcmul(x[rows], noise, self.noise * spread))
        return ask.inputs.take(rows).with_floats(floats)


def _range(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Max - min of each row; steps that are padding do not count, as the noise must not depend on them."""
    low = high = x.flatten(1) if x.dim() > 1 else x[:, None]
    if lengths is not None and x.dim() == 3:
        padding = (torch.arange(x.shape[1], device=x.device) >= lengths.clamp(min=1)[:, None].to(x.device))[..., None]
        low, high = (x.masked_fill(padding, end).flatten(1) for end in (torch.inf, -torch.inf))
    return high.amax(1) - low.amin(1)


def _blocks(ask: Ask, rows: list[int], first: int, draws: int) -> Any:
    """(rows, steps) in blocks whose noisy copies and results stay well inside the memory budget."""
    one = sum(x[0].numel() * 8 for x in ask.inputs.floats) * 8
    size = int(max(1, min(1024, ask.memory // 4 // max(1, one))))
    jobs = len(rows) * draws
    chosen = torch.tensor(rows)
    for start in range(0, jobs, size):
        job = torch.arange(start, min(jobs, start + size))
        yield chosen[job // draws], first + job % draws


class _Sums:
    """Power sums of each value's distance from its first draw: two give a mean with its standard error, four a variance.

    The distance keeps small spreads exact, however large the values are.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.count = kind, 4 if kind == "variance" else 2
        self.first: list[Tensor] = []
        self.powers: list[list[Tensor]] = []
        self.shape: Any = None

    def add(self, values: Any, rows: Tensor, count: int) -> None:
        parts = [p**2 if self.kind == "squared" else p for p in tensors(values)]
        if not self.powers:
            self.shape = values
            self.first = [torch.full((count, *p.shape[1:]), torch.nan, dtype=p.dtype, device=p.device) for p in parts]
            self.powers = [[torch.zeros_like(f, dtype=torch.float64) for _ in range(self.count)] for f in self.first]
        found, sizes = torch.unique_consecutive(rows, return_counts=True)
        for part, first, powers in zip(parts, self.first, self.powers, strict=True):
            for row, draws in zip(found.tolist(), part.split(sizes.tolist()), strict=True):
                if first[row].isnan().all():
                    first[row] = draws[0]
                distance = raised = draws - first[row]
                for power in powers:
                    power[row] += raised.sum(0, dtype=torch.float64)
                    raised = raised * distance

    def result(self, used: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        values, error = [], []
        for first, powers in zip(self.first, self.powers, strict=True):
            n = used.to(first.device).reshape(-1, *[1] * (first.dim() - 1)).double()
            one, two, *higher = (p / n for p in powers)
            variance = (two - one**2).clamp(min=0) * n / (n - 1)
            value, spread = first.double() + one, variance
            if self.kind == "variance":
                fourth = higher[1] - 4 * one * higher[0] + 6 * one**2 * two - 3 * one**4
                value, spread = variance, (fourth - variance**2).clamp(min=0)
            values.append(value)
            error.append((spread / n).sqrt())
        return values, error

    def rebuild(self, parts: list[Tensor]) -> Any:
        """The parts in the structure in which the smoothed method gave its values."""
        found = iter(parts)
        if isinstance(self.shape, Tensor):
            return next(found)
        if isinstance(self.shape, dict):
            return {k: next(found) for k in self.shape}
        return tuple(next(found) if isinstance(v, Tensor) else None for v in self.shape)


def _norm(parts: list[Tensor]) -> Tensor:
    return torch.cat([p.flatten(1).cpu() if p.dim() > 1 else p[:, None].cpu() for p in parts], 1).norm(dim=1)
