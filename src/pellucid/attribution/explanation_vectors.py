"""Which way leads out of the predicted class? Gradients of a kernel estimate fitted to the classes a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, predict
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs

__all__ = ["ExplanationVectors"]

STEPS = 17  # bandwidths tried
PROBES = 1000  # rows of the data on which bandwidths are compared


@dataclass(frozen=True, kw_only=True)
class ExplanationVectors(Method):
    """Which change of the inputs would soonest make the model say something else, judged by its predicted classes alone?

    The model is mimicked by a Parzen-window estimate: with c_i the class that it predicts for row x_i of ``data=`` (whose
    labels are not read), and Gaussian weights ``w_i(x) ∝ exp(-|x - x_i|² / 2σ²)`` that sum to 1,
    ``P(Y ≠ c | x) = sum_i w_i(x) [c_i ≠ c]``. The value is its derivative at the explained row x0, for c the predicted
    class (or ``target=``):

    ``values = dP(Y ≠ c | x)/dx = (1/σ²) sum_i w_i ([c_i ≠ c] - P) (x_i - x0)``,

    in probability per input unit. **The sign is the paper's, opposite to a gradient of the score: positive means that
    raising the input leads out of class c.** Computed in closed form in float64, whatever the model's type.

    Facts of each row: `mimic_agrees` (1 where the mimic's likeliest class is the model's); `other_probability`,
    P(Y ≠ c | x0); `bandwidth`, σ; `effective_rows`, 1 / sum w_i²: near 1 one row decides all, and the vector says
    nothing. ``source`` holds `leave_one_out_fidelity`: the share of data rows whose class the others predict.

    Args:
        bandwidth: σ in input units; ``None`` takes the one that best predicts each row's class from the other rows, of 17
            evenly spaced on a logarithmic scale, from a quarter of the median distance to the nearest row to the median
            distance to any row; on a tie the largest, which gives the smoothest field. Of large data 1,000 rows, evenly
            spaced, are asked.

    Cost: one prediction per row of data, and rows × data × columns steps. No gradient of the model: any callable will do.
    Known failure: distances mix all inputs, so columns of other units or of no use blur the estimate; in many dimensions
    few rows share the weight and vectors shrink to zero or point at single rows.
    Source: Baehrens et al. 2010, §2, definitions 1 and 2. Departs from it: the bandwidth is chosen by
    leaving one row out instead of by a test set.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.linspace(-1, 1, 41)[:, None]
        >>> model = lambda v: torch.cat([-v, v], 1)  # class 1 above zero
        >>> bool(px.explain(model, torch.tensor([[0.1]]), "explanation-vectors", data=x).values < 0)
        True
    """

    bandwidth: float | None = None

    card: ClassVar[Card] = Card(
        name="explanation-vectors",
        title="Local explanation vectors",
        question="Which change of the inputs would soonest make the model say something else?",
        form="attribution",
        scope="local",
        citation="baehrens2010explain",
        needs=("predictions", "data"),
        data_types=("table", "image", "any"),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "distillation/local approximation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic"),
        trial={"bandwidth": 1.0},
        cost="1 forward per row of data and of the inputs",
        supports=("the direction out of the predicted class, as the classes of the data around the row show it",),
        limits=(
            "how the model's own score changes: only predicted classes are seen",
            "which inputs the model reads: an input it ignores gets a value where the data's classes differ along it",
            "rows far from the data, where `effective_rows` is near 1",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> _Mimic:
        """The data with the model's classes, and the bandwidth."""
        width = self.bandwidth
        if width is not None and (
            isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < 1e300
        ):
            raise MethodError("The 'bandwidth' must be a positive number, or None", got=repr(width))
        if ask.wanted is not None and not isinstance(ask.wanted, Tensor):
            raise TargetError(
                "The 'target' must be a class: predicted classes are all that is mimicked", got=repr(ask.wanted)
            )
        if ask.layer is None and not ask.inputs.explained:
            raise InputError(
                "The 'inputs' must hold a floating tensor", got="integers alone", hint="layer= an embedding"
            )
        rows = rows_like(ask.data, ask.inputs).inputs
        if rows.rows < 2:
            raise InputError("The 'data' must hold at least 2 rows", got=str(rows.rows))
        points = _side_by_side(_places(subject, ask, rows))
        classes = _classes(subject, ask, rows)
        found = choose(points, classes, ask.memory) if width is None else float(width)
        share = left_out(points, classes, [found], ask.memory)[0]
        return _Mimic(points=points, classes=classes, bandwidth=found, fidelity=share)

    def explain(self, subject: Subject, ask: Ask, state: _Mimic) -> Attribution:
        """The vector of each row, from its weights over the data."""
        said, shapes = _classes(subject, ask, ask.inputs), _places(subject, ask, ask.inputs)
        asked, wanted = _side_by_side(shapes), ask.target.index
        assert wanted is not None
        parts = []
        for rows in _chunks(len(asked), len(state.points), ask.memory):
            weights = window(_squares(asked[rows], state.points), state.bandwidth)
            vector, other = field(weights, state.points, state.classes != wanted[rows, None], state.bandwidth)
            mimic = _masses(weights, state.classes).argmax(1)
            parts.append((vector, other, (mimic == said[rows]).double(), 1 / weights.square().sum(1)))
        vectors, other, agrees, effective = (torch.cat(found) for found in zip(*parts, strict=True))
        pieces = vectors.split([x[0].numel() for x in shapes], dim=1)
        values = tuple(v.reshape(x.shape).to(x.dtype) for v, x in zip(pieces, shapes, strict=True))
        return Attribution(
            values=values[0] if ask.layer is not None else ask.inputs.wrap(values),
            facts={
                "mimic_agrees": agrees,
                "other_probability": other,
                "effective_rows": effective,
                "bandwidth": torch.full_like(other, state.bandwidth),
            },
            source={"bandwidth": state.bandwidth, "leave_one_out_fidelity": state.fidelity},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mimic:
    """The data's points (M, columns) in float64, the model's classes (M,), the bandwidth and its fidelity."""

    points: Tensor
    classes: Tensor
    bandwidth: float
    fidelity: float


def window(squares: Tensor, bandwidth: float) -> Tensor:
    """The weight of each point for each row asked about, (N, M), from squared distances; a row's weights sum to 1."""
    return (squares / (-2 * bandwidth**2)).softmax(1)


def field(weights: Tensor, points: Tensor, other: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """dP/dx (N, columns) and P (N,), the weight of the points marked as `other` (N, M)."""
    outside, inside = (weights * other).sum(1, keepdim=True), (weights * ~other).sum(1, keepdim=True)
    # [other] - P is 1 - P = inside for the others: written so, nothing is lost where P is close to 1.
    pull = weights * torch.where(other, inside, -outside)
    # The pulls sum to zero, so the origin is free; the middle of the points keeps the products small.
    return pull @ (points - points.mean(0)) / bandwidth**2, outside[:, 0]


def left_out(points: Tensor, classes: Tensor, widths: list[float], memory: int) -> list[float]:
    """For each bandwidth, how often a row's class is predicted by the other rows."""
    probes, hits = _probes(points), [0] * len(widths)
    for rows in _chunks(len(probes), len(points), memory):
        squares = _squares(points[probes[rows]], points)
        squares[torch.arange(len(squares)), probes[rows]] = torch.inf
        for i, width in enumerate(widths):
            said = _masses(window(squares, width), classes).argmax(1)
            hits[i] += int((said == classes[probes[rows]]).sum())
    return [hit / len(probes) for hit in hits]


def choose(points: Tensor, classes: Tensor, memory: int) -> float:
    """The bandwidth whose estimate best predicts left-out rows; the largest of equally good ones."""
    widths = candidates(points, memory)
    shares = left_out(points, classes, widths, memory)
    return max(width for width, share in zip(widths, shares, strict=True) if share == max(shares))


def candidates(points: Tensor, memory: int) -> list[float]:
    """The bandwidths to try, rising."""
    probes, nearest, middle = _probes(points), [], []
    for rows in _chunks(len(probes), len(points), memory):
        squares = _squares(points[probes[rows]], points)
        squares[squares == 0] = torch.inf  # itself, and its copies
        nearest.append(squares.amin(1).sqrt())
        middle.append(squares.median(1).values.sqrt())
    low, high = (x[torch.isfinite(x)] for x in (torch.cat(nearest), torch.cat(middle)))
    if not len(low) or not len(high):
        raise InputError("The 'data' must hold different rows", got="mostly copies of one row", hint="bandwidth=")
    first, last = float(low.median()) / 4, float(high.median())
    return [first * (last / first) ** (i / (STEPS - 1)) for i in range(STEPS)]


def _probes(points: Tensor) -> Tensor:
    count = min(len(points), PROBES)
    return torch.linspace(0, len(points) - 1, count, device=points.device, dtype=torch.float64).round().long()


def _squares(asked: Tensor, points: Tensor) -> Tensor:
    """Squared distances (N, M), summed and not expanded into products, so that a row is at 0 from itself."""
    return torch.cdist(asked, points, compute_mode="donot_use_mm_for_euclid_dist").square()


def _masses(weights: Tensor, classes: Tensor) -> Tensor:
    """The weight of each class, (N, classes)."""
    masses = weights.new_zeros(len(weights), int(classes.max()) + 1)
    return masses.index_add_(1, classes, weights)


def _chunks(rows: int, points: int, memory: int) -> list[slice]:
    step = max(1, memory // (8 * 6 * points))  # six matrices of rows × points in float64 at once
    return [slice(i, min(rows, i + step)) for i in range(0, rows, step)]


def _places(subject: Subject, ask: Ask, inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.floats if ask.layer is None else (predict(subject, inputs, ask.memory, ask.layer),)


def _side_by_side(values: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([x.flatten(1).double() for x in values], dim=1)


def _classes(subject: Subject, ask: Ask, inputs: Inputs) -> Tensor:
    """The class that the model predicts for each row."""
    output = predict(subject, inputs, ask.memory)
    ask.check_finite(output, 0)
    if output.dim() != 2 or output.shape[1] < 2:
        raise NeedError(
            "The model must give scores of two classes or more, (rows, classes)", got=f"shape {tuple(output.shape)}"
        )
    if inputs is ask.inputs:
        ask.remember(output)
    return output.argmax(1)
