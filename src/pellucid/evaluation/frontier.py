"""Does a black box buy accuracy on these data, or would a model that people can read do as well?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.contract import Measure
from pellucid.contract.errors import InputError, PellucidError
from pellucid.engine import seed as seeds
from pellucid.engine.data import as_rows
from pellucid.engine.families import FAMILIES, Family, Fitted, tree
from pellucid.engine.settings import whole

__all__ = ["tradeoff"]

Array = NDArray[Any]
PROXY_LEAVES = 16
LEAST_ROWS = 20


def tradeoff(
    data: Any,
    models: Sequence[str] | None = None,
    *,
    own: Mapping[str, Callable[[Tensor], Any]] | None = None,
    splits: int = 10,
    held_out: float = 0.25,
    margin: float = 0.01,
    seed: int = 0,
) -> Measure:
    """Does a black box buy accuracy on these data, or would a model that people can read do as well?

    Models of several families are trained on the same rows and tried on rows held out, ``splits`` times over. In each
    split a fifth of the training rows is kept back, on which the best readable model and the best black box are chosen;
    ``gap`` is the black box's held-out accuracy minus the readable one's. So neither is chosen on the rows that judge it.
    Of a network, a tree that imitates it is tried too: a proxy, readable after the fact.

    Args:
        data: (X, y), a dataset or a world; X (rows, columns), y whole numbers for classes, or floats, of which R² is told.
        models: names of some families: "constant", "linear", "additive", "tree of 8 leaves" (4, 8, 16, 32), "boosted
            trees", "network", "proxy of the network". None: all.
        own: the caller's trained models, by name: functions from rows to scores (rows, classes), or to values. They are
            black boxes, tried as they are on the same held-out rows, which must not be among those they learnt from.
        splits: how often the rows are divided anew, at least 2.
        held_out: the share of the rows held out.
        margin: a gap that is too small to matter.
        seed: of divisions and training.

    Returns:
        A measure. ``values`` (models,) are mean held-out accuracies; `parts`: ``low`` and ``high``, 95 % intervals;
        ``rows`` (models, splits); ``numbers``, how many numbers a model is made of, mean over splits; ``fidelity``, how
        often it says what the first of ``own``, or else the network, says (R² for values); ``frontier``, 1 for models
        that no other beats in accuracy without more numbers; ``gaps`` (splits,). Facts (1,): ``gap``, ``gap_low``,
        ``gap_high``. ``source["tradeoff"]`` has the models' names, which can be read, which were chosen, and the
        ``verdict``: "a black box buys accuracy", "a readable model does as well" (the gap's upper end is at most
        ``margin``), or "not settled by these rows".

    Intervals are by Student's t with Nadeau and Bengio's correction, since splits share rows: the variance of the mean is
    s² (1 / splits + held-out rows / training rows).

    Cost: ``splits`` trainings of each family; ten seconds for a thousand rows on one core.
    Known failure: "readable" is a matter of size, too: a linear model of a thousand columns is not. A gap of zero says
    that these black boxes found no more here, not that there is no more to find.
    Source: Fan, Xiong, Li & Wang 2021, §II-A; Rudin 2019; Nadeau & Bengio 2003, eq. 7, for the intervals.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
        >>> found = px.evaluation.tradeoff((x, (x[:, 0] > 0).long()), ["constant", "tree of 4 leaves"], splits=3)
        >>> bool(found.values[1] > found.values[0])
        True
    """
    x, y, classes = _table(data)
    whole(splits=(splits, 2))
    for name, value, top in (("held_out", held_out, 0.9), ("margin", margin, math.inf)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
            raise InputError(f"The '{name}' must be a number from 0 to {top}", got=repr(value))
    families = [*_chosen(models), *_own(own or {}, classes)]
    pieces = [_divide(y if classes else np.zeros(len(y)), held_out, seed, k) for k in range(splits)]
    rows, numbers, fidelity, gaps, picked = [], [], [], [], []
    for number, (fit, judge, test) in enumerate(pieces):
        made = _fitted(families, x[fit], y[fit], classes, seed + number)
        said = {k: f.predict(x[test]) for k, f in made.items()}
        reference = next(iter(own)) if own else "network" if "network" in said else None
        rows.append([_right(p, y[test], classes) for p in said.values()])
        numbers.append([f.numbers for f in made.values()])
        fidelity.append([math.nan if reference is None else _right(p, said[reference], classes) for p in said.values()])
        inner = {k: _right(f.predict(x[judge]), y[judge], classes) for k, f in made.items()}
        best = {r: [f.name for f in families if f.readable is r] for r in (True, False)}
        if all(best.values()):
            chosen = [max(best[r], key=lambda k: inner[k]) for r in (True, False)]
            picked.append(chosen)
            gaps.append(rows[-1][list(made).index(chosen[1])] - rows[-1][list(made).index(chosen[0])])
    sizes = (len(pieces[0][0]), len(pieces[0][2]))
    return _told(families, (rows, numbers, fidelity, gaps), picked, sizes, classes, x.shape, margin, seed)


def frontier(values: Tensor, numbers: Tensor) -> Tensor:
    """1 for those that no other equals or betters in both, and betters in one: more accuracy, fewer numbers."""
    more, fewer = values[None] >= values[:, None], numbers[None] <= numbers[:, None]
    better = (values[None] > values[:, None]) | (numbers[None] < numbers[:, None])
    return (~(more & fewer & better).any(1)).double()


def interval(each: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, low and high over the last axis, of splits whose test rows are this share of their training rows."""
    from scipy.stats import t

    count = each.shape[-1]
    mean = each.mean(-1)
    half = float(t.ppf(0.975, count - 1)) * each.std(-1) * math.sqrt(1 / count + share)
    return mean, mean - half, mean + half


def _told(
    families: list[Family],
    lists: tuple[list[Any], ...],
    picked: list[list[str]],
    sizes: tuple[int, int],
    classes: bool,
    shape: tuple[int, ...],
    margin: float,
    seed: int,
) -> Measure:
    rows, numbers, fidelity, gaps = (torch.tensor(v, dtype=torch.float64) for v in lists)
    share = sizes[1] / sizes[0]
    mean, low, high = interval(rows.T, share)
    count = numbers.mean(0)
    low, high = (low.clamp(min=0.0) if classes else low), high.clamp(max=1.0)
    parts = {"rows": rows.T.contiguous(), "low": low, "high": high, "numbers": count}
    parts |= {"fidelity": fidelity.mean(0), "frontier": frontier(mean, count)}
    told: dict[str, Any] = {
        "models": [f.name for f in families],
        "readable": [f.name for f in families if f.readable],
        "proxies": [f.name for f in families if f.proxy],
        "chosen": picked,
        "rows": shape[0],
        "columns": shape[1],
        "verdict": "",
    }
    facts = {}
    if len(gaps):
        each = interval(gaps, share)
        facts = dict(zip(("gap", "gap_low", "gap_high"), (v[None] for v in each), strict=True))
        parts["gaps"] = gaps
        told["verdict"] = (
            "a black box buys accuracy"
            if float(each[1]) > 0
            else "a readable model does as well"
            if float(each[2]) <= margin
            else "not settled by these rows"
        )
    source = {"method": "posthoc-adhoc-tradeoff", "settings": {"splits": len(rows), "margin": margin}, "seed": seed}
    unit = "accuracy" if classes else "R²"
    return Measure(
        values=mean, better="higher", unit=unit, facts=facts, parts=parts, source={**source, "tradeoff": told}
    )


def _table(data: Any) -> tuple[Array, Array, bool]:
    """X in float64, y, and whether y are classes."""
    rows = as_rows(data, labels=True)
    given = rows.inputs.tensors
    if len(given) != 1 or given[0].dim() != 2:
        raise InputError("The 'data' must be a table (rows, columns)", got=f"shape {tuple(given[0].shape)}")
    x, y = given[0].detach().cpu().double().numpy(), torch.as_tensor(rows.labels).detach().cpu()
    classes = not y.is_floating_point()
    answers = y.long().numpy() if classes else y.double().numpy()
    if len(x) < LEAST_ROWS:
        raise InputError(f"The 'data' must have at least {LEAST_ROWS} rows", got=str(len(x)))
    bad = ~(np.isfinite(x).all(1) & np.isfinite(answers))
    if bad.any():
        places = ", ".join(map(str, np.flatnonzero(bad)[:5]))
        raise InputError(
            "The 'data' must be finite", got=f"NaN or infinity in row {places}", hint="filling or dropping"
        )
    kinds, counts = np.unique(answers, return_counts=True)
    if len(kinds) < 2:
        raise InputError("The labels in 'data' must differ", got=f"{kinds[0]} alone")
    if classes and counts.min() < 4:
        rare = kinds[counts.argmin()]
        got = f"class {rare} {counts.min()} times"
        raise InputError("The labels in 'data' must hold each class 4 times or more", got=got)
    return x, answers, classes


def _proxy(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """Replaced by a tree that imitates the network, once this is there."""
    raise NotImplementedError


PROXY = Family(name="proxy of the network", readable=True, fit=_proxy, proxy=True)


def _chosen(models: Sequence[str] | None) -> list[Family]:
    known = {f.name: f for f in (*FAMILIES, PROXY)}
    if models is None:
        return list(known.values())
    wanted = [models] if isinstance(models, str) else list(models)
    if unknown := [m for m in wanted if m not in known]:
        raise InputError(f"The 'models' must be among {', '.join(map(repr, known))}", got=repr(unknown[0]))
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError("The 'models' must name each family once", got=repr(wanted))
    if PROXY.name in wanted and "network" not in wanted:
        raise InputError("The 'models' must hold the network that the proxy imitates", got=repr(wanted))
    return [known[m] for m in wanted if m != PROXY.name] + [PROXY] * (PROXY.name in wanted)


def _own(models: Mapping[str, Callable[[Tensor], Any]], classes: bool) -> list[Family]:
    """The caller's models, which are fitted already."""
    found = []
    for name, model in models.items():
        if not callable(model):
            raise InputError("The 'own' must be functions from rows to scores, by name", got=f"{name!r}: {type(model)}")
        if name in {f.name for f in (*FAMILIES, PROXY)}:
            raise InputError("The 'own' must have names of their own", got=repr(name))
        found.append(Family(name=str(name), readable=False, fit=_as_it_is(model, classes)))
    return found


def _as_it_is(model: Callable[[Tensor], Any], classes: bool) -> Callable[[Array, Array, bool, int], Fitted]:
    weights = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    kind = weights[0].dtype if weights else torch.float32

    def predict(rows: Array) -> Array:
        with torch.no_grad():
            try:
                said = torch.as_tensor(model(torch.from_numpy(rows).to(kind))).detach().cpu().double()
            except PellucidError:
                raise
            except Exception as error:
                raise InputError(f"The 'own' model must take the rows of 'data', and raised: {error}") from error
        flat = said.reshape(len(rows), -1)
        if classes and flat.shape[1] == 1:
            raise InputError("The 'own' models must give scores (rows, classes)", got="one score per row")
        return flat.argmax(1).numpy() if classes else flat[:, 0].numpy()

    return lambda x, y, c, s: Fitted(predict, sum(p.numel() for p in weights))


def _fitted(families: list[Family], x: Array, y: Array, classes: bool, seed: int) -> dict[str, Fitted]:
    found: dict[str, Fitted] = {}
    for family in families:
        if not family.proxy:
            found[family.name] = family.fit(x, y, classes, seed)
            continue
        said = found["network"].predict(x)
        imitate = replace(family, fit=tree(PROXY_LEAVES)) if len(np.unique(said)) > 1 else FAMILIES[0]
        found[family.name] = imitate.fit(x, said, classes, seed)
    return found


def _divide(labels: Array, held_out: float, seed: int, number: int) -> tuple[Array, Array, Array]:
    """Rows to fit, to choose by and to judge by; every class keeps its share in each."""
    keys = seeds.generator(seed, b"split", number).random(len(labels))
    parts: tuple[list[Array], ...] = ([], [], [])
    for kind in np.unique(labels):
        rows = np.flatnonzero(labels == kind)
        rows = rows[keys[rows].argsort()]
        judged = max(1, round(held_out * len(rows)))
        chosen = max(1, round(0.2 * (len(rows) - judged)))
        for into, some in zip(parts, np.split(rows, [len(rows) - judged - chosen, len(rows) - judged]), strict=True):
            into.append(some)
    fit, choose, judge = (np.sort(np.concatenate(p)) for p in parts)
    return fit, choose, judge


def _right(said: Array, truth: Array, classes: bool) -> float:
    """The share of equal classes; R² of values."""
    if classes:
        return float((said == truth).mean())
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - said) ** 2).sum()) / spread if spread else float(np.array_equal(said, truth))
