"""Do you need a black box? A network beside models that people can read, on the same rows kept apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract.errors import InputError
from pellucid.engine import Subject, as_subject, predict
from pellucid.engine import seed as seeds
from pellucid.engine.batch import budget
from pellucid.engine.data import Rows, as_rows
from pellucid.engine.families import FAMILIES, Family
from pellucid.engine.guard import untouched
from pellucid.engine.settings import whole
from pellucid.report.sections import Section
from pellucid.show.words import counted, percent

__all__ = ["Necessity", "necessity"]

Array = NDArray[Any]
READABLE = tuple(f for f in FAMILIES if f.readable and f.name != "constant")
VERDICTS = {
    "readable": "a model that people can read does as well",
    "network": "the network is more often right than any model here that people can read",
    "open": "these rows do not settle it",
}


@dataclass(frozen=True, kw_only=True)
class Necessity:
    """The network's accuracy on rows kept apart beside that of readable models, and what follows.

    `gap` is by how much the network is more often right than the readable model chosen, with its 95 % interval; `verdict`
    is "readable", "network" or "open". `accuracies` has each family's mean, `chosen` how often each was chosen.
    """

    network: float
    accuracies: dict[str, float]
    chosen: dict[str, int]
    gap: float
    low: float
    high: float
    margin: float
    rows: int
    verdict: str
    seed: int

    def sentences(self) -> list[str]:
        """The comparison in plain words."""
        best = max(self.chosen, key=lambda name: self.chosen[name])
        found = [
            f"On {counted(self.rows, 'case')} kept apart, the network is right in {percent(self.network)}; a model that "
            f"people can read ({best}, trained on the same cases) in {percent(self.accuracies[best])}.",
            f"The network is ahead by {_points(self.gap)} (between {_points(self.low)} and {_points(self.high)}).",
        ]
        if self.verdict == "readable":
            found.append(
                f"So you may not need a black box: any difference is at most {_points(self.high)}. A model that can be "
                "read needs no explanation afterwards, which may or may not tell how the network works."
            )
        elif self.verdict == "network":
            found.append("So the network does find something that these simpler models do not.")
        else:
            found.append(f"Whether they differ by more than {_points(self.margin)} is not settled by so few cases.")
        return found

    def section(self, heading: str = "Do you need a black box?") -> Section:
        """The same for `pellucid.report.page`."""
        return Section(heading=heading, parts=self.sentences())

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


def necessity(
    model: Any,
    *,
    train: Any,
    held_out: Any,
    margin: float = 0.02,
    splits: int = 10,
    seed: int = 0,
    memory: int | str | None = None,
) -> Necessity:
    """Do you need this network, or would a model that people can read be right as often?

    A linear model, an additive one (a bent line per column) and trees of 4 to 32 leaves are trained ``splits`` times on
    four fifths of the rows that the network learnt from, drawn anew each time; the fifth left over chooses among them. The
    network, as it is, and the chosen models answer the rows kept apart. The interval of the gap allows for both draws: of
    these rows, and of what the models were trained on.

    Args:
        model: a module, a `Subject` or any callable giving scores (rows, classes).
        train: (X, y) that the network learnt from; X one floating tensor, flattened for the simple models; y classes.
        held_out: (X, y) that it has not seen.
        margin: the difference in accuracy that is too small to matter.
        splits: how often the simple models are trained, at least 2.
        seed: of the draws.

    The verdict is "readable" where the gap's upper end is at most ``margin``, "network" where its lower end is above 0, and
    otherwise "open". To train the network anew too, with other black boxes, see `pellucid.evaluation.tradeoff`.

    Cost: one forward per row, and ``splits`` trainings of six small models. Known failure: the network's own training is
    not drawn anew, so that luck in it counts as merit; simple models on raw pixels can be read only with effort.
    Source: Rudin 2019; LeCun's remark at NIPS 2017 that a tested machine needs no story.

    Example:
        >>> import torch, pellucid as px
        >>> X = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
        >>> y, net = (X.sum(1) > 0).long(), lambda x: torch.stack([-x.sum(1), x.sum(1)], 1)
        >>> px.report.necessity(net, train=(X[:400], y[:400]), held_out=(X[400:], y[400:]), margin=0.05, splits=3).verdict
        'readable'
    """
    whole(splits=(splits, 2))
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < 1:
        raise InputError("The 'margin' must be a share from 0 to 1", got=repr(margin))
    subject = as_subject(model)
    learnt, judged = _rows(train, "train"), _rows(held_out, "held_out")
    x, y = _flat(learnt)
    held, truth = _flat(judged)
    if x.shape[1] != held.shape[1]:
        raise InputError(
            "The 'held_out' rows must be like those of 'train'", got=f"{x.shape[1]} and {held.shape[1]} columns"
        )
    right = _network(subject, judged, memory) == truth
    shares, gaps, chosen = [], [], dict.fromkeys((f.name for f in READABLE), 0)
    for number in range(splits):
        hits, best = _repeat(READABLE, x, y, held, truth, seed, number)
        chosen[READABLE[best].name] += 1
        shares.append(hits.mean(1))
        gaps.append(right.astype(float) - hits[best])
    gap, low, high = interval(np.stack(gaps))
    verdict = "readable" if high <= margin else "network" if low > 0 else "open"
    mean = dict(zip(chosen, np.stack(shares).mean(0).tolist(), strict=True))
    return Necessity(
        network=float(right.mean()),
        accuracies=mean,
        chosen={k: v for k, v in chosen.items() if v},
        gap=gap,
        low=low,
        high=high,
        margin=float(margin),
        rows=len(truth),
        verdict=verdict,
        seed=seed,
    )


def interval(gaps: Array) -> tuple[float, float, float]:
    """Mean of gaps (splits, rows) and its 95 % interval: both the rows and the trainings are a draw, and add up.

    The same rows in every split, so the rows' share of the variance is that of their means over splits, and the splits'
    share that of the splits' means, with Satterthwaite's degrees of freedom. NaN marks what was not asked.
    """
    from scipy.stats import t

    spread, doubt = 0.0, 0.0
    for means in (np.nanmean(gaps, 0), np.nanmean(gaps, 1)):
        share = means.var(ddof=1) / len(means) if len(means) > 1 else 0.0
        spread, doubt = spread + share, doubt + share**2 / max(1, len(means) - 1)
    half = float(t.ppf(0.975, spread**2 / doubt)) * math.sqrt(spread) if doubt > 0 else 0.0
    mean = float(np.nanmean(gaps))
    return mean, mean - half, mean + half


def _repeat(
    families: tuple[Family, ...], x: Array, y: Array, held: Array, truth: Array, seed: int, number: int
) -> tuple[Array, int]:
    """Whether each family is right on each row kept apart, (families, rows), and which one the fifth chooses."""
    keys = seeds.generator(seed, b"necessity", number).random(len(y))
    first: Array = np.zeros(len(y), dtype=bool)
    for kind in np.unique(y):  # four fifths of every class
        members = np.flatnonzero(y == kind)
        first[members[keys[members].argsort()][: max(1, round(0.8 * len(members)))]] = True
    fits = [f.fit(x[first], y[first], True, seed + number) for f in families]
    inner = [float((f.predict(x[~first]) == y[~first]).mean()) if (~first).any() else 0.0 for f in fits]
    return np.stack([(f.predict(held) == truth).astype(float) for f in fits]), int(np.argmax(inner))


def _network(subject: Subject, rows: Rows, memory: int | str | None) -> Array:
    with untouched(subject.module):
        output: Tensor = predict(subject, rows.inputs, budget(memory, rows.inputs.device))
    if output.dim() != 2 or output.shape[1] < 2:
        raise InputError("The 'model' must give scores (rows, classes)", got=f"shape {tuple(output.shape)}")
    found: Array = output.argmax(1).cpu().numpy()
    return found


def _rows(data: Any, name: str) -> Rows:
    rows = as_rows(data, labels=True)
    labels = torch.as_tensor(rows.labels)
    if not rows.inputs.single or not rows.inputs.explained:
        raise InputError(f"The '{name}' must be (X, y) with X one floating tensor", got="something else")
    if labels.is_floating_point() or len(labels.unique()) < 2:
        raise InputError(f"The labels in '{name}' must be class numbers that differ", got=str(labels.dtype))
    return rows


def _flat(rows: Rows) -> tuple[Array, Array]:
    return (
        rows.inputs.tensors[0].detach().cpu().double().flatten(1).numpy(),
        torch.as_tensor(rows.labels).detach().cpu().long().numpy(),
    )


def _points(share: float) -> str:
    points = 100 * share
    return f"{points:.1f} percentage points".replace("-", "−")
