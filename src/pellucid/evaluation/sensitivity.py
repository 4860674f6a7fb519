"""How far does an explanation move when the input hardly does?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.evaluation import Evaluation, Judged, overall
from pellucid.engine.settings import whole

__all__ = ["MaxSensitivity"]

SEARCHES = ("sampling", "ascent")
BALLS = ("l2", "linf")
AT_ONCE = 1 << 22  # values of points that are asked about in one call


@dataclass(frozen=True, kw_only=True)
class MaxSensitivity(Evaluation):
    """How far can the explanation move while the input stays within a small radius?

    ``max ‖φ(x + δ) - φ(x)‖₂ over ‖δ‖ ≤ radius``, in the units of the values, or as a share of ‖φ(x)‖, by which methods
    of different units can be compared; the target of each row is kept. What is found is a lower bound, whatever the
    search: the largest change among the points that were asked about.

    - search="sampling": points drawn evenly from the ball, as in the paper.
    - search="ascent": from the sampled point with the largest change, δ follows the change of the explanation twice per
      step, and is stretched to the edge of the ball. Where φ is the gradient of a function that is nearly quadratic
      within the ball, this is the power method for the largest singular value of its Jacobian, and finds the maximum;
      elsewhere it is a heuristic. Points that do worse are kept out.

    Facts: ``relative``, the change as a share of ‖φ(x)‖; ``mean``, the mean change over the sampled points, and
    ``standard_error`` of this mean; ``gain``, by how much the ascent did better than sampling. ``source["overall"]``: the
    mean over rows with its 95 % interval.

    Args:
        of: the explanation that is measured: a method or its name.
        search: "sampling" or "ascent".
        radius: of the ball, in units of the inputs.
        ball: "l2" or "linf" (each value moves by at most the radius).
        samples: points that are drawn.
        steps: of the ascent.
        relative: give the share of ‖φ(x)‖ in ``values``; NaN where φ(x) is zero everywhere.

    Token ids can't be moved: where a layer is explained, its values are moved instead.

    Cost: ``samples`` + 1 explanations, and 2 ``steps`` + 1 more for the ascent.
    Known failure: where the score itself moves much within the radius a faithful explanation must move too. A method that
    draws noise by the row's content draws anew for each point, and its noise counts as change.
    Source: Yeh, Hsieh, Suggala, Inouye & Ravikumar 2019, definition 4.1; the ascent is ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> px.explain(net, torch.ones(1, 4), px.evaluation.MaxSensitivity(of="vanilla-gradient")).values
        tensor([0.], dtype=torch.float64)
    """

    search: str = "sampling"
    radius: float = 0.02
    ball: str = "l2"
    samples: int = 10
    steps: int = 10
    relative: bool = False

    card: ClassVar[Card] = Card(
        name="max-sensitivity",
        title="Maximum sensitivity",
        question="How far can the explanation move while the input hardly does?",
        form="measure",
        scope="local",
        citation="yeh2019infidelity",
        needs=("predictions",),
        taxonomy={"001": "evaluation/robustness", "002": "evaluation/consistency"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 2},
        cost="11 explanations",
        supports=("a change of the explanation that a small change of the input does bring about",),
        limits=("that no larger change exists", "whether the network or the explanation is to blame"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, value, known in (("search", self.search, SEARCHES), ("ball", self.ball, BALLS)):
            if value not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(value))
        whole(samples=(self.samples, 2), steps=(self.steps, 1))
        if isinstance(self.radius, bool) or not isinstance(self.radius, int | float) or not self.radius > 0:
            raise MethodError("The 'radius' must be a number above 0", got=repr(self.radius))
        if not isinstance(self.relative, bool):
            raise MethodError("The 'relative' must be True or False", got=repr(self.relative))
        if not ask.inputs.explained and ask.layer is None:
            got = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError("The 'inputs' must have a floating tensor, which can be moved a little", got=got)

    def asks(self, judged: Judged) -> tuple[int, int]:
        return self.samples + (2 * self.steps + 1 if self.search == "ascent" else 0), 0

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        if not ask.inputs.explained:
            judged = judged.inside()
            ask = judged.ask
        here, count = _flat(judged.parts), self.samples
        wide = sum(x[0].numel() for x in ask.inputs.floats)
        sizes = torch.empty(len(here), count, dtype=torch.float64)
        start = torch.empty(len(here), wide, dtype=torch.float64)
        step = max(1, AT_ONCE // (count * max(wide, here.shape[1])))
        for first in range(0, len(here), step):  # many points at once, as most methods take hardly longer for them
            rows = torch.arange(first, min(first + step, len(here)))
            moves = torch.stack([self._drawn(ask, row, number) for row in rows.tolist() for number in range(count)])
            change = self._moved(judged, rows.repeat_interleave(count), moves) - here[rows].repeat_interleave(count, 0)
            sizes[rows] = change.norm(dim=1).reshape(len(rows), count)
            start[rows] = moves.reshape(len(rows), count, wide)[torch.arange(len(rows)), sizes[rows].argmax(1)]
        most = sizes.amax(1)
        found = most if self.search == "sampling" else self._climb(judged, here, start, most)
        length = here.norm(dim=1)
        facts = {
            "relative": torch.where(length > 0, found / length.clamp(min=1e-300), 0.0),
            "mean": sizes.mean(1),
            "standard_error": sizes.std(1) / count**0.5,
            "gain": found - most,
        }
        share = torch.where(length > 0, facts["relative"], torch.nan)
        values, unit = (share, "share of the values") if self.relative else (found, "change of the values")
        return Measure(values=values, better="lower", unit=unit, facts=facts, source={"overall": overall(values)})

    def _climb(self, judged: Judged, here: Tensor, move: Tensor, most: Tensor) -> Tensor:
        """The largest change found from `move` on, per row."""
        if move.shape[1] != here.shape[1]:
            got = f"{here.shape[1]} values for {move.shape[1]} of the input"
            raise MethodError("The 'search' must be 'sampling' where the values are not those of the inputs", got=got)
        rows = torch.arange(len(here))
        change = self._moved(judged, rows, self._edge(move)) - here
        for _ in range(self.steps):
            back = self._moved(judged, rows, self._edge(change)) - here
            change = self._moved(judged, rows, self._edge(back)) - here
            most = torch.maximum(most, change.norm(dim=1))
        return most

    def _edge(self, direction: Tensor) -> Tensor:
        """To the edge of the ball; nothing where there is no direction."""
        if self.ball == "linf":
            return self.radius * direction.sign()
        return self.radius * torch.nn.functional.normalize(direction, dim=1)

    def _drawn(self, ask: Ask, row: int, number: int) -> Tensor:
        """A point of the ball, drawn by the row's content, (values,)."""
        like, key = torch.zeros((), dtype=torch.float64), [ask.keys[row]]
        width = sum(x[0].numel() for x in ask.inputs.floats)
        if self.ball == "linf":
            return self.radius * (2 * seed.uniform(ask.seed, key, [number], (width,), like)[0] - 1)
        far = seed.generator(ask.seed, key[0], self.samples + number).random() ** (1 / width)
        normal = seed.normal(ask.seed, key, [number], (width,), like)[0]
        return self.radius * far * torch.nn.functional.normalize(normal, dim=0)

    def _moved(self, judged: Judged, rows: Tensor, move: Tensor) -> Tensor:
        """The explanation of these rows after their moves, (moves, values)."""
        inputs, start, parts = judged.ask.inputs, 0, []
        for x in inputs.floats:
            own = move[:, start : start + x[0].numel()].reshape(-1, *x.shape[1:]).to(x.device)
            parts.append((x[rows.to(x.device)].double() + own).to(x.dtype))
            start += x[0].numel()
        found = judged.again(inputs.at(rows, parts), rows)
        return _flat(tensors(found.values))  # type: ignore[attr-defined]


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([p.detach().double().flatten(1).cpu() for p in parts], 1)
