"""Can people tell what a dimension is about? A word that does not belong among its strongest ones is to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.contract import Measure
from pellucid.contract.errors import InputError
from pellucid.engine import seed as seeds
from pellucid.engine.evaluation import wilson
from pellucid.engine.settings import whole
from pellucid.evaluation.human import Question, Stimulus, Study

__all__ = ["Intrusion", "find_intruders", "word_intrusions", "word_intrusion_study"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Intrusion:
    """One trial: a dimension, the numbers of the words shown, in order, and the place of the one that does not belong."""

    dimension: int
    shown: tuple[int, ...]
    intruder: int


def word_intrusions(
    weights: Any,
    *,
    top: int = 5,
    low: float = 0.5,
    high: float = 0.1,
    dimensions: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Intrusion, ...]:
    """Which words would show whether a dimension is about one thing? Its `top` words, and an intruder among them.

    The intruder is drawn from the words that are in the lower ``low`` share of this dimension and in the upper ``high``
    share of another one, and not among the `top`; words that are high elsewhere, so that it is not found by being rare.

    Args:
        weights: (words, dimensions): how strongly each word belongs to each dimension; of SPINE or topics, as they are.
        top: how many of its strongest words are shown; equal ones in the order of their numbers.
        low, high: see above.
        dimensions: which are tried; None: all. A dimension whose top words are not above all others' middle, such as one
            that is the same everywhere, says nothing and is refused.
        seed: of the intruder and of the order.

    Source: Chang, Boyd-Graber, Gerrish, Wang & Blei 2009, §3.1; Murphy, Talukdar & Mitchell 2012, §4, for the shares.

    Example:
        >>> import torch
        >>> word_intrusions(torch.eye(3).repeat_interleave(4, 0), top=3)[0].dimension
        0
    """
    table = _table(weights)
    words, count = table.shape
    whole(top=(top, 2))
    for name, share in (("low", low), ("high", high)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise InputError(f"The '{name}' must be a share between 0 and 1", got=repr(share))
    if words <= top + 1 or count < 2:
        raise InputError("The 'weights' must be of more words than are shown and of 2 dimensions", got=f"{table.shape}")
    order = np.argsort(-table, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(words)[:, None].repeat(count, 1), 0)
    found = []
    for dimension in range(count) if dimensions is None else dimensions:
        if not 0 <= dimension < count:
            raise InputError(f"The 'dimensions' must be numbers from 0 to {count - 1}", got=repr(dimension))
        own = table[:, dimension]
        best = order[:top, dimension]
        if own[best].min() <= np.median(own):
            raise InputError(
                f"Dimension {dimension} must have {top} words above its middle one",
                got="values that do not tell words apart",
                hint="dimensions= others, or fewer top words",
            )
        elsewhere = (np.delete(rank, dimension, 1) < max(1, round(high * words))).any(1)
        below = (rank[:, dimension] >= words - round(low * words)) & (own < own[best].min())
        may = np.flatnonzero(elsewhere & below)
        if not len(may):
            raise InputError(
                f"Dimension {dimension} must leave words that are low in it and high in another",
                got="none",
                hint="high=0.3",
            )
        draw = seeds.generator(seed, b"word intrusion", dimension)
        intruder = int(may[draw.integers(len(may))])
        shown = np.append(best, intruder)[draw.permutation(top + 1)]
        found.append(
            Intrusion(
                dimension=int(dimension),
                shown=tuple(map(int, shown)),
                intruder=int(np.flatnonzero(shown == intruder)[0]),
            )
        )
    return tuple(found)


def find_intruders(trials: Sequence[Intrusion], similarity: Any) -> Measure:
    """How often is the intruder found without people: as the word that is on average least like the others?

    Args:
        trials: from `word_intrusions`.
        similarity: (words, words), how alike two words are, or (words, numbers), of which the cosine is taken. Take it from
            another source than the weights that are judged (counts of a corpus, other embeddings): with the weights
            themselves, the top words of a dimension are alike because they were chosen so.

    Returns:
        A measure: ``values`` (trials,), 1 where it is found and, where words are equally unlike, the intruder's share of
        them. Facts: ``ratio``, the mean distance of the intruder to the others by the mean distance among these, with
        distance 1 - similarity (Park et al. 2017): 1 where nothing tells it apart. ``source["found"]``: share, its 95 %
        interval (Wilson) and chance.

    Source: Lau, Newman & Baldwin 2014, for the automatic task.

    Example:
        >>> import torch
        >>> topics = torch.eye(3).repeat_interleave(4, 0)
        >>> find_intruders(word_intrusions(topics, top=3), topics).values.tolist()
        [1.0, 1.0, 1.0]
    """
    table = _table(similarity)
    words = 1 + max(max(t.shown) for t in trials) if trials else 0
    if not trials or table.shape[0] < words:
        raise InputError(
            f"The 'similarity' must be of all {words} words of at least one trial", got=f"shape {table.shape}"
        )
    square = table.shape[0] == table.shape[1] and np.allclose(table, table.T)
    if not square:
        norm = np.linalg.norm(table, axis=1, keepdims=True)
        table = table / np.where(norm > 0, norm, 1)
    values, ratios = [], []
    for trial in trials:
        at = list(trial.shown)
        like = table[np.ix_(at, at)] if square else table[at] @ table[at].T
        np.fill_diagonal(like := like.copy(), 0)
        mean = like.sum(1) / (len(at) - 1)
        least = mean <= mean.min() + 1e-9
        values.append(float(least[trial.intruder]) / float(least.sum()))
        others = [i for i in range(len(at)) if i != trial.intruder]
        among = 1 - like[np.ix_(others, others)].sum() / (len(others) * (len(others) - 1))
        away = 1 - like[trial.intruder, others].mean()
        ratios.append(away / among if among > 1e-12 else (np.inf if away > 1e-12 else 1.0))
    found = torch.tensor(values, dtype=torch.float64)
    low, high = wilson(found.sum(), len(found))
    told = {
        "share": float(found.mean()),
        "low": float(low),
        "high": float(high),
        "chance": float(np.mean([1 / len(t.shown) for t in trials])),
    }
    return Measure(
        values=found,
        better="higher",
        unit="intruder found",
        facts={"ratio": torch.tensor(ratios, dtype=torch.float64)},
        source={"found": told, "dimensions": [t.dimension for t in trials]},
    )


def word_intrusion_study(
    weights: Mapping[str, Any],
    words: Sequence[str],
    *,
    participants: int,
    dimensions: int = 10,
    top: int = 5,
    title: str = "Which word does not belong?",
    design: str = "within",
    seed: int = 0,
    **shares: float,
) -> Study:
    """Of which embedding or topic model can people tell what its dimensions are about?

    ``study.analyse(answers)`` gives, for each model, the share of trials in which people found the intruder, with its
    interval; 1 / (top + 1) is chance.

    Args:
        weights: model → (words, dimensions), all of the same words.
        words: the words themselves.
        participants, title, design, seed: as of `Study`.
        dimensions: how many of each model are tried, drawn by chance.
        top: how many of a dimension's words are shown beside the intruder.
        shares: `low` and `high` of `word_intrusions`.

    Source: Chang et al. 2009, §3.1.

    Example:
        >>> import torch
        >>> topics = torch.eye(3).repeat_interleave(4, 0)
        >>> made = word_intrusion_study({"topics": topics}, list("abcdefghijkl"), participants=2, dimensions=2, top=3)
        >>> len(made.stimuli), len(made.stimuli[0].questions[0].options)
        (2, 4)
    """
    whole(dimensions=(dimensions, 1))
    stimuli = []
    for name, table in weights.items():
        values = _table(table)
        if values.shape[0] != len(words) or values.shape[1] < dimensions:
            raise InputError(
                f"The 'weights' must be of {len(words)} words and at least {dimensions} dimensions",
                got=f"{values.shape}",
            )
        chosen = seeds.generator(seed, b"word dimensions " + name.encode(), 0).permutation(values.shape[1])[:dimensions]
        trials = word_intrusions(values, top=top, dimensions=chosen.tolist(), seed=seed, **shares)
        for number, trial in enumerate(trials):
            options = tuple(words[i] for i in trial.shown)
            stimuli.append(
                Stimulus(
                    case=f"trial {number + 1}",
                    condition=name,
                    questions=(
                        Question(name="intruder", text="Which word does not belong with the others?", options=options),
                    ),
                    right={"intruder": trial.intruder},
                    about={"dimension": trial.dimension},
                )
            )
    made = Study(
        title=title,
        intro=("On each screen, all words but one have something in common. Choose the one that does not belong.",),
        conditions=tuple(weights),
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
    )
    made.check()
    return made


def _table(values: Any) -> Array:
    found = torch.as_tensor(values).detach().cpu().double().numpy()
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError("The table must be of two dimensions and finite", got=f"shape {found.shape}")
    return found
