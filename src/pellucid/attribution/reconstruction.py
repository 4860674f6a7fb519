"""Which measurements made this pixel of an image or this displacement, and what of it was never measured?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, gradient
from pellucid.engine.decomposition import wrap

__all__ = ["ReconstructionExplanation"]

SHOWN = ("jacobian", "contribution")


@dataclass(frozen=True, kw_only=True)
class ReconstructionExplanation(Method):
    """Which measurements made this pixel or displacement, and how much of the output did the measurements settle?

    For networks whose output is an image or a field: reconstruction from measurements, registration of two images. The
    values are the row of the Jacobian that belongs to what ``target=`` picks, ``dS/dx_i``, in output units per input unit;
    or, with ``shown="contribution"``, ``x_i dS/dx_i``. `Region` picks a place: ``target=Region(label=1, point=(4, 7))`` is
    the second component of the displacement there.

    With ``data=`` the linear operator A of the measurements y = A x, as a matrix (measurements, pixels) or a function of
    images, the output x̂ is split into ``measured``, its projection onto what A can see, and ``null``, the rest, which
    would leave every measurement as it is: the network's prior, invented as far as this image goes. Both are in ``parts``.

    Facts: ``score``; ``noise_gain``, |dS/dx|, the standard deviation of the score per unit of independent noise in each
    input, to first order; ``linear_gap``, |S - Σ x_i dS/dx_i|; for several inputs, such as fixed and moving image,
    ``share_1``, ``share_2``, …, each one's part of Σ|x_i dS/dx_i|. With A: ``data_gap``, |A x̂ - y| / |y|; ``null_share``,
    |null|² / |x̂|²; ``score_measured`` and ``score_null``, the score's linear part in each; ``unsupported``, the share of
    |score_null| in the sum of both sizes; ``flagged``, 1 where that exceeds ``level``.

    Args:
        shown: "jacobian" or "contribution".
        level: share of the score from the null space above which a row is flagged.

    Cost: one forward and one backward pass; with A, its singular values once per call.
    Known failure: what lies in the null space is not seen, which makes it neither wrong nor right; the measured part can be
    wrong too, which ``data_gap`` shows. A must be the true operator. The slope says nothing about large changes.
    Source: the split into measured and null parts after Barrett & Myers 2004 and Bhadra et al. 2021; the flag is ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(2, 3, bias=False).eval()
        >>> result = px.explain(net, torch.ones(1, 2), "registration-reconstruction-explanation", target=1)
        >>> torch.equal(result.values[0], net.weight[1])
        True
    """

    shown: str = "jacobian"
    level: float = 0.5

    card: ClassVar[Card] = Card(
        name="registration-reconstruction-explanation",
        title="Explanation of reconstructions and registrations",
        question="Which measurements made this pixel or displacement, and what of it was never measured?",
        form="attribution",
        scope="local",
        citation="bhadra2021hallucinations",
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/local",
        },
        claims=(
            *("rowwise", "deterministic", "linear", "dummy", "symmetric"),
            *("implementation invariant", "spelling invariant", "score scale"),
        ),
        cost="1 forward, 1 backward",
        supports=(
            "how a place of the output changes for a small change of one measurement, and with noise in all of them",
            "which part of the output the measurements can't have settled, if the operator is right",
        ),
        limits=(
            "that what was not measured is wrong: the network may have learnt it from other images",
            "what happens for a large change of the measurements",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.shown not in SHOWN:
            raise MethodError(f"The 'shown' must be one of {SHOWN}", got=repr(self.shown))
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 <= self.level <= 1:
            raise MethodError("The 'level' must be a share from 0 to 1", got=repr(self.level))
        operator = ask.data
        if operator is not None:
            _check(ask, operator)
        found = gradient.once(ask, self.card.title)
        products = tuple(v * g for v, g in zip(found.values, found.grads, strict=True))
        sizes = torch.stack([p.abs().flatten(1).sum(1) for p in products])
        facts = {
            "score": found.score,
            "noise_gain": torch.stack([g.flatten(1).square().sum(1) for g in found.grads]).sum(0).sqrt(),
            "linear_gap": (found.score - torch.stack([p.flatten(1).sum(1) for p in products]).sum(0)).abs(),
        }
        if len(products) > 1:
            whole = sizes.sum(0)
            for k, size in enumerate(sizes, 1):
                facts[f"share_{k}"] = torch.where(whole > 0, size / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)
        parts: dict[str, Tensor] = {}
        if operator is not None:
            parts, more = self._split(ask, operator, found.output)
            facts |= more
        values = found.grads if self.shown == "jacobian" else products
        return Attribution(values=wrap(ask, values), facts=facts, parts=parts)

    def _split(self, ask: Ask, operator: Any, output: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The output's measured and null parts, and what they say about the score."""
        flat, (given,) = output.flatten(1).double(), ask.inputs.floats
        measurements = given.flatten(1).double()
        matrix = _matrix(operator, output, measurements)
        measured = flat @ _projector(matrix)
        null = flat - measured
        slope = _slope(ask, output).flatten(1).double()
        seen, unseen = (slope * measured).sum(1), (slope * null).sum(1)
        both = seen.abs() + unseen.abs()
        unsupported = torch.where(both > 0, unseen.abs() / both.clamp(min=1e-300), 0.0)
        facts = {
            "data_gap": _ratio((flat @ matrix.mT - measurements).norm(dim=1), measurements.norm(dim=1)),
            "null_share": _ratio(null.square().sum(1), flat.square().sum(1)),
            "score_measured": seen,
            "score_null": unseen,
            "unsupported": unsupported,
            "flagged": (unsupported > self.level).double(),
        }
        parts = {"measured": measured, "null": null}
        return {name: part.to(output).reshape(output.shape) for name, part in parts.items()}, facts


def _check(ask: Ask, operator: Any) -> None:
    """Refuse what can't be the operator of these measurements, before the model runs."""
    if len(ask.inputs.floats) != 1:
        raise InputError(
            "An operator as 'data' needs one input tensor, the measurements",
            got=f"{len(ask.inputs.floats)} tensors",
            hint="a Subject whose call= splits one tensor",
        )
    if not isinstance(operator, Tensor):
        if not callable(operator):
            raise InputError(
                "The 'data' must be the operator: a matrix (measurements, pixels), or a function of images",
                got=type(operator).__name__,
            )
        return
    count = ask.inputs.floats[0][0].numel()
    if operator.dim() != 2 or operator.shape[0] != count or not operator.is_floating_point():
        raise InputError(
            f"The operator given as 'data' must be a real matrix ({count}, pixels), a row for each measurement",
            got=f"{operator.dtype} of shape {tuple(operator.shape)}",
            hint="its transpose" if operator.dim() == 2 and operator.shape[1] == count else "",
        )
    if not bool(torch.isfinite(operator).all()):
        raise InputError("The operator given as 'data' must be finite", got="NaN or infinity")


def _matrix(operator: Tensor | Callable[[Tensor], Tensor], output: Tensor, measurements: Tensor) -> Tensor:
    """The operator as a matrix (measurements, pixels) in double precision; a function is asked about every pixel."""
    pixels = output[0].numel()
    if isinstance(operator, Tensor):
        if operator.shape[1] != pixels:
            raise InputError(
                f"The operator given as 'data' must have a column for each of the {pixels} numbers of the output",
                got=f"shape {tuple(operator.shape)}",
            )
        return operator.detach().to(measurements)
    with torch.no_grad():
        units = torch.eye(pixels, dtype=output.dtype, device=output.device).reshape(pixels, *output.shape[1:])
        matrix = operator(units).flatten(1).double().mT
        found = operator(output).flatten(1).double()
    if found.shape != measurements.shape:
        raise InputError(
            f"The operator given as 'data' must give measurements of the inputs' size, {measurements.shape[1]} a row",
            got=f"{found[0].numel()}",
        )
    flat = output.flatten(1).double()
    off = (flat @ matrix.mT - found).abs().max() / found.abs().max().clamp(min=1e-300)
    if float(off) > torch.finfo(output.dtype).eps ** 0.5:
        raise InputError(
            "The operator given as 'data' must be linear, without a constant",
            got=f"measurements that differ from its matrix by {float(off):.1e} of the largest",
            hint="the operator without noise, offset or logarithm",
        )
    return matrix


def _projector(matrix: Tensor) -> Tensor:
    """The projection onto what the operator sees, (pixels, pixels)."""
    _, values, axes = torch.linalg.svd(matrix, full_matrices=False)
    kept = axes[values > values.amax() * max(matrix.shape) * torch.finfo(values.dtype).eps]
    return kept.mT @ kept


def _slope(ask: Ask, output: Tensor) -> Tensor:
    """The derivative of each row's score by the output."""
    if ask.unit_place is not None:
        raise InputError(
            "With an operator, the 'target' must be a function of the output",
            got=f"the hidden unit {ask.unit_place}",
            hint="target=Region(label=0, point=...)",
        )
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(ask.target.score(leaf).sum(), leaf)
    return slope


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1e-300), 0.0)
