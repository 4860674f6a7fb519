"""Do like inputs get like explanations? How far an explanation moves for each step of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, tensors
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.data import rows_like
from pellucid.engine.evaluation import Evaluation, Judged, along, overall, players, ranking
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole

__all__ = ["ExplanationContinuity", "LocalLipschitz"]

SEARCHES = ("sampling", "data")
NEARBY = ("ball", "translation")


@dataclass(frozen=True, kw_only=True)
class LocalLipschitz(Evaluation):
    """How many units does the explanation move for one unit that the input moves, at worst nearby?

    ``max ‖e(x) - e(x')‖₂ / ‖x - x'‖₂`` over inputs x' other than x with ‖x - x'‖ ≤ ``radius``, whose explanations are of
    the same target as x's. What is found is a lower bound: the largest ratio among the points asked about.

    - search="sampling": x' drawn evenly from the ball, "l2", or "linf" (each value moves by at most the radius).
    - search="data": x' among ``data={"neighbours": rows}``, the nearest first; a row without one within the radius is NaN.

    Facts: ``mean``, the mean ratio; ``relative``, values / ‖e(x)‖ (0 where e(x) is 0); ``distance``, how far the worst x'
    is; ``asked``, how many x' there were. ``source["overall"]``: the mean over rows with its 95 % interval, and
    ``largest``.

    Args:
        of: the explanation that is measured: a method or its name.
        search: "sampling" or "data".
        radius: in units of the inputs; None, for "data" alone, is any distance.
        ball: "l2" or "linf".
        samples: points drawn, or neighbours asked about, at most.

    Cost: ``samples`` + 1 explanations.
    Known failure: where the score itself bends, a faithful explanation must move too; few samples in many dimensions miss
    the worst direction. Noise that a method draws by the row's content counts as movement.
    Source: Alvarez-Melis & Jaakkola 2018, equations 2 (continuous) and 3 (over the data's points); they maximise by
    Bayesian optimisation, this draws.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> px.explain(net, torch.ones(1, 4), px.evaluation.LocalLipschitz(of="vanilla-gradient")).values.item()
        0.0
    """

    search: str = "sampling"
    radius: float | None = 0.1
    ball: str = "l2"
    samples: int = 20

    own: ClassVar[tuple[str, ...]] = ("neighbours",)
    card: ClassVar[Card] = Card(
        name="local-lipschitz-estimate",
        title="Local Lipschitz estimate",
        question="How far does the explanation move for each unit that the input moves nearby?",
        form="measure",
        scope="local",
        citation="alvarezmelis2018robustness",
        needs=("predictions",),
        taxonomy={"002": "evaluation/consistency", "003": "evaluation/robustness"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 2},
        cost="21 explanations",
        supports=("that the explanation does move so fast between two inputs that were compared",),
        limits=("that it moves no faster elsewhere", "whether the network or the explanation is to blame"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        refuse_search(self.search, SEARCHES, self.ball)
        whole(samples=(self.samples, 1))
        if self.radius is not None or self.search == "sampling":
            positive(radius=self.radius)
        needs_floats(ask)
        if self.search == "data":
            if own.get("neighbours") is None:
                hint = 'data={"neighbours": rows, "explanation": the explanation\'s own data}'
                raise NeedError("The search 'data' needs rows to look for neighbours in", got="none", hint=hint)
            rows_like(own["neighbours"], ask.inputs)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        here, x = flat(judged.parts), flat(ask.inputs.floats)
        found: list[tuple[Tensor, Tensor]] = []
        for other in self.others(ask, x):
            far = (flat(other.floats) - x).norm(dim=1)
            moved = (flat(tensors(judged.again(other, torch.arange(len(x))).values)) - here).norm(dim=1)  # type: ignore[attr-defined]
            counts = far > 0 if self.search == "sampling" or self.radius is None else (far > 0) & (far <= self.radius)
            found.append((torch.where(counts, moved / far, float("nan")), far))
        ratios, distances = (torch.stack(part, 1) for part in zip(*found, strict=True))
        asked = (~ratios.isnan()).sum(1)
        most, which = ratios.nan_to_num(-1.0).max(1)
        most = torch.where(asked > 0, most, float("nan"))
        length = here.norm(dim=1)
        facts = {
            "mean": ratios.nanmean(1),
            "relative": torch.where(length > 0, most / length.clamp(min=1e-300), 0.0),
            "distance": distances.gather(1, which[:, None])[:, 0],
            "asked": asked.double(),
        }
        told = overall(most) | {"largest": float(most[~most.isnan()].max()) if bool(asked.any()) else None}
        return Measure(values=most, better="lower", unit="values per input", facts=facts, source={"overall": told})

    def others(self, ask: Ask, x: Tensor) -> list[Inputs]:
        """Other inputs, one for each row in each entry."""
        if self.search == "sampling":
            assert self.radius is not None
            return [drawn(ask, number, self.radius, self.ball) for number in range(self.samples)]
        rows = rows_like(self.split(ask.data)[0]["neighbours"], ask.inputs).inputs
        far = torch.cdist(x, flat(rows.floats), compute_mode="donot_use_mm_for_euclid_dist")
        far = torch.where(far > 0, far, float("inf"))  # a row is no neighbour of its own
        nearest = far.argsort(dim=1, stable=True)[:, : self.samples]
        return [ask.inputs.with_floats(rows.take(nearest[:, k]).floats) for k in range(nearest.shape[1])]


@dataclass(frozen=True, kw_only=True)
class ExplanationContinuity(Evaluation):
    """Does the explanation follow its input smoothly, and does the score follow the explanation?

    ``values`` is the largest ``‖R(x) - R(x')‖₁ / ‖x - x'‖₂`` over x' nearby, for the same target: drawn from a ball, or x
    shifted by whole pixels (steps), what leaves the edge coming back at the other. The distribution is in
    ``parts["ratio"]`` (rows, samples); facts ``mean``, ``median`` and ``high`` (95 %) sum it up.

    The second figure of the paper is the fact ``selectivity``: the area under the score, over the share of features set to
    ``baseline``, as these go in the order of their values, the largest first; smaller is better for positive scores.

    Args:
        of: the explanation that is measured: a method or its name.
        nearby: "ball" or "translation".
        radius: of the ball (ℓ₂), in units of the inputs; for "translation" the largest shift along the last axis, whole.
        samples: points drawn from the ball; a translation takes all shifts up to the radius, both ways.
        features: what is taken away at once for ``selectivity``; "auto" is a grid of 8 × 8 for images.
        baseline: what stands in its place.
        steps: points of that curve after the first.

    Cost: ``samples`` + 1 explanations, and ``steps`` + 1 forwards.
    Known failure: sampled, so a lower bound of the maximum, which grows with ``samples``; a shift also moves the evidence,
    so that a right explanation moves with it.
    Source: Montavon, Samek & Müller 2018, §7.1 (continuity) and §7.2 (selectivity).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> px.explain(net, torch.ones(1, 4), px.evaluation.ExplanationContinuity(of="vanilla-gradient")).values.item()
        0.0
    """

    nearby: str = "ball"
    radius: float = 0.1
    samples: int = 20
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0
    steps: int = 32

    card: ClassVar[Card] = Card(
        name="explanation-continuity",
        title="Continuity and selectivity",
        question="Does the explanation follow its input smoothly, and does the score follow the explanation?",
        form="measure",
        scope="local",
        citation="montavon2018methods",
        needs=("predictions",),
        taxonomy={"003": "evaluation/continuity"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 2, "steps": 4},
        cost="21 explanations and 33 forwards",
        supports=("a change of the explanation that a small change of the input does bring about",),
        limits=("that no larger change exists", "that the score is smooth itself"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        refuse_search(self.nearby, NEARBY, "l2", "nearby")
        whole(samples=(self.samples, 1), steps=(self.steps, 1))
        positive(radius=self.radius)
        needs_floats(ask)
        if self.nearby == "translation":
            shapes = [x.shape for x in ask.inputs.floats]
            pixels = self.radius == int(self.radius)
            if not pixels or any(len(s) < 3 or s[1 if len(s) == 3 else -1] <= self.radius for s in shapes):
                raise MethodError(
                    "The 'radius' of a translation must be a whole number of pixels, less than an image has",
                    got=f"{self.radius!r} for " + ", ".join(str(tuple(s)) for s in shapes),
                )

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        here, x = flat(judged.parts), flat(ask.inputs.floats)
        found = []
        for other in self.others(ask):
            far = (flat(other.floats) - x).norm(dim=1)
            moved = flat(tensors(judged.again(other, torch.arange(len(x))).values)) - here  # type: ignore[attr-defined]
            found.append(torch.where(far > 0, moved.abs().sum(1) / far, 0.0))
        ratios = torch.stack(found, 1)
        most = ratios.amax(1)
        facts = {
            "mean": ratios.mean(1),
            "median": ratios.quantile(0.5, dim=1),
            "high": ratios.quantile(0.95, dim=1),
            "selectivity": self.selectivity(judged),
        }
        parts, source = {"ratio": ratios}, {"overall": overall(most)}
        return Measure(values=most, better="lower", unit="values per input", facts=facts, parts=parts, source=source)

    def others(self, ask: Ask) -> list[Inputs]:
        """Other inputs, one for each row in each entry."""
        if self.nearby == "ball":
            return [drawn(ask, number, self.radius, "l2") for number in range(self.samples)]
        shifts = [s for k in range(1, int(self.radius) + 1) for s in (-k, k)]
        step = [
            2 if x.dim() == 3 else x.dim() for x in ask.inputs.floats
        ]  # the steps of sequences lie before their width
        return [
            ask.inputs.with_floats([x.roll(s, a - 1) for x, a in zip(ask.inputs.floats, step, strict=True)])
            for s in shifts
        ]

    def selectivity(self, judged: Judged) -> Tensor:
        """The area under the score as the features go, the most relevant first."""
        game, figures = players(judged, self.features, self.baseline)
        counts = torch.linspace(0, game.players, min(self.steps, game.players) + 1).round().long()
        curve = along(game, ranking(figures), counts, label=self.card.title)
        return torch.trapezoid(curve, counts.double() / game.players, dim=1)


def refuse_search(search: str, known: tuple[str, ...], ball: str, name: str = "search") -> None:
    """Raise where either is none of the known."""
    for word, value, allowed in ((name, search, known), ("ball", ball, ("l2", "linf"))):
        if value not in allowed:
            raise MethodError(f"The '{word}' must be one of {allowed}", got=repr(value))


def positive(**settings: Any) -> None:
    """Raise where a setting is no finite number above 0."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise MethodError(f"The '{name}' must be a finite number above 0", got=repr(value))


def needs_floats(ask: Ask) -> None:
    """Raise where there is nothing that can be moved a little."""
    if not ask.inputs.explained:
        got = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
        raise InputError("The 'inputs' must have a floating tensor, which can be moved a little", got=got)


def flat(parts: Any) -> Tensor:
    """All values of a row side by side, (rows, values) in float64."""
    return torch.cat([p.detach().double().flatten(1).cpu() for p in parts], 1)


def drawn(ask: Ask, number: int, radius: float, ball: str) -> Inputs:
    """For each row a point drawn evenly from the ball around it; draw `number` of the row's own."""
    like, inputs = torch.zeros((), dtype=torch.float64), ask.inputs
    width, rows = sum(x[0].numel() for x in inputs.floats), inputs.rows
    if ball == "linf":
        move = radius * (2 * seed.uniform(ask.seed, ask.keys, [2 * number] * rows, (width,), like) - 1)
    else:
        far = [seed.generator(ask.seed, key, 2 * number + 1).random() ** (1 / width) for key in ask.keys]
        normal = seed.normal(ask.seed, ask.keys, [2 * number] * rows, (width,), like)
        move = radius * torch.tensor(far).double()[:, None] * torch.nn.functional.normalize(normal, dim=1)
    sizes, moved = [x[0].numel() for x in inputs.floats], []
    for x, part in zip(inputs.floats, move.split(sizes, 1), strict=True):
        moved.append((x.double() + part.reshape(x.shape).to(x.device)).to(x.dtype))
    return inputs.with_floats(moved)
