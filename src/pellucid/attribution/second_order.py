"""Which change would move the score most, if inputs may change together? Second-order saliency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError, TargetError
from pellucid.engine import Ask, Subject, batch
from pellucid.engine.ask import shape_key
from pellucid.engine.curvature import Bend, bend, extremes
from pellucid.engine.decomposition import wrap
from pellucid.engine.target import Target

__all__ = ["SecondOrderSaliency"]


@dataclass(frozen=True, kw_only=True)
class SecondOrderSaliency(Method):
    """Which small change of a few inputs together would move the score most?

    The values are the change D that solves, for gradient g and Hessian H of the score S at the row,
    ``max_D gᵀD + ½ DᵀHD - λ1 ‖D‖₁ - λ2 ‖D‖₂²``, by proximal gradient steps; positive means raising the input. D has the
    unit of the gradient as it comes: with the shrinkage chosen here and a network without curvature, D is the gradient,
    soft-thresholded. ``order=1`` leaves H out (CAFO), ``order=2`` keeps it (CASO).

    Facts: ``score`` (or the loss); ``predicted_change``, gᵀD + ½ DᵀHD; ``curvature``, a bound of the size of H's
    eigenvalues; ``optimality_gap``, the size of the last proximal step's remaining gradient against that of g;
    ``nonzero``, the share of inputs that change.

    Args:
        order: 2, with the Hessian, or 1.
        of: "score", the target; or "loss", the cross-entropy of the explained class, as in the paper: positive then
            means that raising the input speaks against the class. Networks of rectifiers have no curvature in a score
            that is a logit; in the loss they have.
        sparsity: λ1 as a share of the row's largest gradient entry, from 0 to below 1: the larger, the fewer inputs.
        shrinkage: λ2; it must exceed half of H's largest eigenvalue. None: ½ + the size of H's largest eigenvalue.
        tolerance: the optimality gap at which a row is done, or what the floating type can reach.
        steps: the most steps for a row.

    Cost: one forward and two backward passes, 16 Hessian products for the curvature, and one for each step (about 20):
    each product costs about two backward passes.
    Known failure: H matters little where the network is sure of its class (Singla et al. 2019); the
    quadratic is trusted only near the row.
    Source: Singla, Wallace, Feng & Feizi 2019 (arXiv 1902.00407), where S is the loss and λ1 absolute.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> result = px.explain(net, torch.ones(1, 3), "caso-cafo", target=0)
        >>> torch.allclose(result.values[0], net.weight[0], atol=1e-5)
        True
    """

    order: int = 2
    of: str = "score"
    sparsity: float = 0.0
    shrinkage: float | None = None
    tolerance: float = 1e-6
    steps: int = 500

    card: ClassVar[Card] = Card(
        name="caso-cafo",
        title="Second-order saliency",
        question="Which small change of a few inputs together would move the score most?",
        form="attribution",
        scope="local",
        citation="singla2019understanding",
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "dummy", "symmetric", "implementation invariant", "spelling invariant"),
        trial={"sparsity": 0.05, "tolerance": 1e-8},
        cost="1 forward, 2 backwards, about 40 Hessian products",
        supports=("in which direction a small change of the inputs together moves the score most",),
        limits=("how much an input contributed to the score", "what happens far from this row"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        parts: list[tuple[Bend, Tensor, dict[str, Tensor]]] = []

        def work(start: int, stop: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor], Tensor]:
            here = bend(ask, start, stop, self._score)
            change, facts = self._solve(here)
            return here.split(change), {"score": here.score, **facts}, here.output

        batch.run(
            ask.inputs.rows,
            work,
            lambda start, stop, found: parts.append(found),  # type: ignore[arg-type]
            memory=ask.memory,
            cost=(subject.module, ("curvature", str(ask.layer), str(ask.unit_place), shape_key(ask.inputs))),
            device=ask.inputs.device,
            progress=ask.progress,
            label=self.card.title,
        )
        changes, facts, outputs = zip(*parts, strict=True)
        ask.remember(torch.cat(outputs))
        values = tuple(map(torch.cat, zip(*changes, strict=True)))
        return Attribution(values=wrap(ask, values), facts={k: torch.cat([f[k] for f in facts]) for k in facts[0]})

    def _check(self) -> None:
        if self.order not in (1, 2):
            raise MethodError("'order' must be 1 or 2", got=repr(self.order))
        if self.of not in ("score", "loss"):
            raise MethodError("'of' must be 'score' or 'loss'", got=repr(self.of))
        if not 0 <= self.sparsity < 1:
            raise MethodError("'sparsity' must be from 0 to below 1", got=repr(self.sparsity))
        if self.shrinkage is not None and not self.shrinkage > 0:
            raise MethodError("'shrinkage' must be positive, or None", got=repr(self.shrinkage))

    def _score(self, target: Target, output: Tensor) -> Tensor:
        if self.of == "score":
            return target.score(output)
        if target.index is None or output.dim() != 2:
            raise TargetError("The loss needs a class as 'target'", got=target.name or "no class", hint="of='score'")
        return -target.score(torch.log_softmax(output, 1))

    def _solve(self, here: Bend) -> tuple[Tensor, dict[str, Tensor]]:
        """The change of each row, and what was measured."""
        slope = here.grads

        def product(vectors: Tensor) -> Tensor:
            return here.product(vectors) if self.order == 2 else torch.zeros_like(vectors)

        lowest, highest = extremes(product, slope) if self.order == 2 else (slope.new_zeros(len(slope)),) * 2
        size = torch.maximum(-lowest, highest)
        twice = 2 * size + 1 if self.shrinkage is None else torch.full_like(size, 2 * self.shrinkage)
        if bool((twice <= highest).any()):
            worst = int((highest - twice).argmax())
            raise MethodError(
                "'shrinkage' must exceed half the largest curvature, or the score would grow without end",
                got=f"{self.shrinkage} where the curvature is {float(highest[worst]):.3g}",
                hint="None, which measures it",
            )
        threshold = self.sparsity * slope.abs().amax(1, keepdim=True)
        change, gap = self._steps(slope, product, twice[:, None], threshold, (twice - lowest)[:, None])
        gain = (slope * change).sum(1) + (change * product(change)).sum(1) / 2
        moved = (change != 0).double().mean(1)
        return change, {"predicted_change": gain, "curvature": size, "optimality_gap": gap, "nonzero": moved}

    def _steps(
        self, slope: Tensor, product: Any, twice: Tensor, threshold: Tensor, steepest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Proximal gradient ascent; a row that is done stays as it is, whatever the others still need."""
        change = torch.zeros_like(slope)
        scale = torch.where((norm := slope.norm(dim=1)) == 0, 1.0, norm)
        gap = torch.full_like(scale, torch.inf)
        enough = max(self.tolerance, 16 * torch.finfo(slope.dtype).eps)
        for _ in range(self.steps):
            uphill = slope + product(change) - twice * change
            moved = change + uphill / steepest
            moved = moved.sign() * (moved.abs() - threshold / steepest).clamp(min=0)
            left = ((moved - change) * steepest).norm(dim=1) / scale
            going = gap > enough
            gap = torch.where(going, left, gap)
            change = torch.where(going[:, None], moved, change)
            if not bool((gap > enough).any()):
                break
        return change, gap
