"""How much does the answer move when a feature is disturbed? One engine for disturbances, features and distances."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, feature, fill, reference, score, seed
from pellucid.engine.feature import Features
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.target import Target

__all__ = ["SensitivityAnalysis"]

DISTURBANCES = ("noise", "resample", "shuffle", "shift", "occlude")
DISTANCES = ("drop", "size", "square", "kl", "flip")
DRAWN = ("noise", "resample", "shuffle")


@dataclass(frozen=True, kw_only=True)
class SensitivityAnalysis(Method):
    """How much does the network's answer move when this feature is disturbed?

    Each feature by itself is disturbed ``samples`` times, and ``values`` hold the mean distance between the answers
    before and after at every value of the feature; `error` is the standard error of that mean.

    ==============  =========================================================================  ==========
    disturbance     the feature's values become                                                draws
    ==============  =========================================================================  ==========
    "noise"         x + size × range × n, n ~ N(0, 1) for each value                           ``samples``
    "resample"      those of a random row of ``data=``                                         ``samples``
    "shuffle"       its own values in a random order over its places                           ``samples``
    "shift"         x + size × range, and x - size × range                                     2
    "occlude"       the fill that ``baseline`` names                                           1
    ==============  =========================================================================  ==========

    range is max - min of the row. The distances, from the score S or the class probabilities p:

    ==========  ================================================  =================================
    distance    figure                                            says
    ==========  ================================================  =================================
    "drop"      S(x) - S(x')                                      which way; positive: x' lowers it
    "size"      |S(x) - S(x')|                                    how much, whichever way
    "square"    (S(x) - S(x'))²                                   with large moves counting more
    "kl"        Σ p(x) log₂ p(x) / p(x') of the softmax, in bits  how much all classes move
    "flip"      1 where the predicted class changes               how often the decision changes
    ==========  ================================================  =================================

    Facts: ``score``; ``all_at_once``, the mean distance when every feature is disturbed together;
    ``standard_error``, the root mean square of `error`.

    Args:
        disturbance: what is done to a feature, see the table.
        distance: how the answers are compared, see the table.
        features: what is disturbed at once; "auto" as for feature ablation; ``data={"groups": masks, "rows": data}``.
        size: of noise and shift, as a share of the row's range.
        samples: draws per feature.
        baseline: the fill of "occlude": a number, or "zero", "mean", "blur", "min", "max".

    Cost: one forward per feature and draw, the draws once more for all features together, and one.
    Known failures: features are disturbed one at a time, so that those that can stand in for each other seem not to
    matter; noise and shuffled values make inputs that never occur.
    Source: Horel, Mison, Xiong, Giesecke & Mangu 2018, §2 (local sensitivity, to which "shift" tends for a small size);
    Breiman 2001, §10 (values of other rows).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).double().eval()
        >>> method = px.attribution.SensitivityAnalysis(disturbance="shift", distance="size", size=0.1)
        >>> found = px.explain(net, torch.tensor([[0.0, 1.0, 2.0]]).double(), method)
        >>> torch.allclose(found.values, 0.2 * net.weight.abs())
        True
    """

    disturbance: str = "noise"
    distance: str = "size"
    features: str | tuple[Any, ...] = "auto"
    size: float = 0.15
    samples: int = 16
    baseline: float | str = 0.0

    card: ClassVar[Card] = Card(
        name="sensitivity-analysis",
        title="Sensitivity analysis",
        question="How much does the network's answer move when this feature is disturbed?",
        form="attribution",
        scope="local",
        citation="horel2018sensitivity",
        needs=("predictions",),
        data_types=("any",),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant"),
        trial={"features": "element", "samples": 3},
        cost="16 forwards per feature, 16 more, and 1",
        supports=("how much the answer moves under disturbances of this kind and size, one feature at a time",),
        limits=(
            "which way the answer moves, except for the distance 'drop'",
            "features that can stand in for each other",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        """Disturbances without draws are deterministic, and a drop is linear in the model."""
        kept = tuple(c if c != "seeded" or self.draws > 2 else "deterministic" for c in self.card.claims)
        more = {"drop": ("linear", "score scale"), "size": ("score scale",)}.get(self.distance, ())
        return (*kept, *more, *(("dummy",) if self.distance not in ("kl", "flip") else ()))

    @property
    def draws(self) -> int:
        """How often each feature is disturbed."""
        return self.samples if self.disturbance in DRAWN else 2 if self.disturbance == "shift" else 1

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check(ask)
        groups, data = _parts(ask.data)
        held = fill.explained(ask)
        found = feature.features(self.features, held) if groups is None else feature.groups(groups, held)
        disturbed = _Disturbed(self, ask, held, found, data)
        draws, jobs = self.draws, (found.count + 1) * self.draws
        # The row as it is comes last, so that rounding is the same on both sides of a difference.
        answers = torch.empty(held.rows, jobs + 1, dtype=torch.float64)
        asked = self._asked(ask)

        def fold(rows: Tensor, job: Tensor, figures: Tensor) -> None:
            answers[rows, job] = figures.detach().cpu().double()

        score.sweep(asked, jobs + 1, disturbed.points, fold, label=self.card.title)
        ask.path = asked.path
        each = answers[:, :-1]
        if self.distance not in ("kl", "flip"):
            drop = answers[:, -1:] - each
            each = {"drop": drop, "size": drop.abs(), "square": drop**2}[self.distance]
        each = each.reshape(held.rows, found.count + 1, draws)
        mean, error = each.mean(2), torch.zeros(held.rows, found.count + 1, dtype=torch.float64)
        if self.disturbance in DRAWN:
            error = each.std(2) / math.sqrt(draws)
        facts = {"score": ask.score, "all_at_once": mean[:, -1], "standard_error": (error[:, :-1] ** 2).mean(1).sqrt()}
        values, doubt = (held.wrap(found.spread(figures[:, :-1], held)) for figures in (mean, error))
        return Attribution(values=values, error=doubt if self.disturbance in DRAWN else None, facts=facts)

    def _asked(self, ask: Ask) -> Ask:
        """The question whose answers are scores, or distances of outputs where they need all classes."""
        target, output = ask.target, ask.output
        if self.distance not in ("kl", "flip"):
            return ask
        if output is None or output.dim() != 2 or output.shape[1] < 2 or target.place is not None:
            shape = "a hidden unit" if target.place is not None else f"shape {tuple(ask.score.shape)}"
            raise InputError(f"The distance {self.distance!r} needs an output with classes", got=shape)
        return replace(ask, _target=_Distance(flip=self.distance == "flip", output=output))

    def _check(self, ask: Ask) -> None:
        if self.disturbance not in DISTURBANCES:
            raise MethodError(f"The 'disturbance' must be one of {DISTURBANCES}", got=repr(self.disturbance))
        if self.distance not in DISTANCES:
            raise MethodError(f"The 'distance' must be one of {DISTANCES}", got=repr(self.distance))
        whole(samples=(self.samples, 2))
        if not self.size > 0:
            raise MethodError("The 'size' must be positive, a share of the row's range", got=repr(self.size))
        groups, data = _parts(ask.data)
        if groups is not None and self.features != "auto":
            raise InputError("The 'features' must be left out where 'data' holds groups", got=repr(self.features))
        if self.disturbance == "resample" and data is None:
            raise NeedError("Resampling needs rows to take values from", got="data=None", hint="data=X_train")


def _parts(data: Any) -> tuple[Any, Any]:
    if isinstance(data, dict) and data and set(data) <= {"groups", "rows"}:
        return data.get("groups"), data.get("rows")
    return None, data


@dataclass(frozen=True, eq=False)
class _Distance(Target):
    """How far all classes' answers are from those before, for each row."""

    flip: bool = False
    output: Tensor | None = None

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        assert self.output is not None
        assert rows is not None
        before = self.output[rows.to(output.device)]
        if self.flip:
            return (output.argmax(1) != before.argmax(1)).double()
        old = before.double().log_softmax(1)
        return (old.exp() * (old - output.double().log_softmax(1))).sum(1) / math.log(2)


class _Disturbed:
    """Disturbed rows, one job after the other: each feature `draws` times, then all of them together."""

    def __init__(self, method: SensitivityAnalysis, ask: Ask, held: Inputs, found: Features, data: Any) -> None:
        self.method, self.ask, self.held, self.features = method, ask, held, found
        self.rows = fill.values_of(data, ask).floats if method.disturbance == "resample" else None
        self.fill = reference.baseline(method.baseline, held) if method.disturbance == "occlude" else ()

    def points(self, rows: Tensor, jobs: Tensor) -> tuple[Tensor, ...]:
        which = jobs // self.method.draws  # beyond the features' numbers: all of them, and at last none
        inside = self.features.inside(rows, which)
        whole = which == self.features.count
        last = (self.features.count + 1) * self.method.draws
        made = []
        for part, (x, mask, labels) in enumerate(zip(self.held.floats, inside, self.features.labels, strict=True)):
            every = (labels != feature.NOWHERE).expand(x.shape[0], *labels.shape[1:])[rows.to(x.device)]
            chosen = torch.where(whole.reshape(-1, *[1] * (x.dim() - 1)).to(x.device), every, mask)
            here = x[rows.to(x.device)]
            pairs = zip(rows.tolist(), jobs.tolist(), strict=True)
            new = torch.stack(
                [x[r] if j == last else self._new(part, r, j, chosen[i]) for i, (r, j) in enumerate(pairs)]
            )
            made.append(torch.where(chosen, new, here))
        return tuple(made)

    def _new(self, part: int, row: int, job: int, chosen: Tensor) -> Tensor:
        """The disturbed values of one tensor in one job; what is not chosen does not matter."""
        x, method = self.held.floats[part][row], self.method
        step = method.size * (x.max() - x.min())
        if method.disturbance == "occlude":
            return self.fill[part][row]
        if method.disturbance == "shift":
            return x + (1 - 2 * (job % 2)) * step
        draw = seed.generator(
            self.ask.seed, self.ask.keys[row], (job << 8) + (part if method.disturbance != "resample" else 0)
        )
        if method.disturbance == "noise":
            noise = torch.from_numpy(draw.standard_normal(tuple(x.shape), dtype=np.float32))
            return torch.addcmul(x, noise.to(x), step)
        if method.disturbance == "resample":
            assert self.rows is not None
            return self.rows[part][int(draw.integers(len(self.rows[part])))]
        places = chosen.expand(x.shape)
        held = x[places]
        new = x.clone()
        new[places] = held[torch.from_numpy(draw.permutation(len(held))).to(x.device)]
        return new
