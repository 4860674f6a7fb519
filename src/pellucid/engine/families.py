"""Families of models for tables, from one constant to networks: each fitted, with how many numbers it is made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
KNOTS = (0.2, 0.4, 0.6, 0.8)  # quantiles at which a column's line in an additive model may bend
HIDDEN, EPOCHS, BATCH = 32, 60, 64


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model that was fitted: classes or values of rows (N, columns), and how many numbers it consists of."""

    predict: Callable[[Array], Array]
    numbers: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model. `readable`: a person can follow how it answers; `fit` takes X, y, whether y are classes, a seed."""

    name: str
    readable: bool
    fit: Callable[[Array, Array, bool, int], Fitted]
    proxy: bool = False


def constant(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """Always the most frequent class, or the mean."""
    if classes:
        kinds, counts = np.unique(y, return_counts=True)
        said = kinds[counts.argmax()]
    else:
        said = y.mean()
    return Fitted(lambda rows: np.full(len(rows), said), 1)


def linear(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """A weighted sum of the columns, with a little ridge."""
    return _weighted(x, y, classes, lambda rows: rows)


def additive(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """A sum of one bent line per column, which bends at the column's quantiles."""
    columns = []
    for values in x.T:
        knots = np.unique(np.quantile(values, KNOTS))
        columns.append(knots[(knots > values.min()) & (knots < values.max())])

    def bent(rows: Array) -> Array:
        hinges = [np.maximum(rows[:, [i]] - k[None], 0.0) for i, k in enumerate(columns) if len(k)]
        return np.concatenate([rows, *hinges], 1)

    return _weighted(x, y, classes, bent)


def tree(leaves: int) -> Callable[[Array, Array, bool, int], Fitted]:
    """A tree of at most so many leaves."""

    def fit(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        kind = DecisionTreeClassifier if classes else DecisionTreeRegressor
        found = kind(max_leaf_nodes=leaves, min_samples_leaf=2, random_state=seed).fit(x, y)
        ends = int(found.get_n_leaves())
        return Fitted(found.predict, 2 * (found.tree_.node_count - ends) + ends)

    return fit


def boosted(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """Sixty small trees, each of which mends what the ones before it leave."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if classes else GradientBoostingRegressor
    found = kind(n_estimators=60, max_depth=3, random_state=seed).fit(x, y)
    trees = [t.tree_ for t in np.asarray(found.estimators_).ravel()]
    leaves = sum(int(t.n_leaves) for t in trees)
    return Fitted(found.predict, 2 * (sum(int(t.node_count) for t in trees) - leaves) + leaves)


def network(x: Array, y: Array, classes: bool, seed: int) -> Fitted:
    """Two hidden layers of rectified units; the caller's random state stays as it is."""
    middle, width = _standard(x)
    kinds = np.unique(y) if classes else y[:1]
    low, high = (0.0, 1.0) if classes else (float(y.mean()), float(y.std()) or 1.0)
    private = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.random.default_generator.manual_seed(seed)
        layers = [nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(HIDDEN, len(kinds))).float()
        rows = torch.from_numpy((x - middle) / width).float()
        goal = torch.from_numpy(np.searchsorted(kinds, y) if classes else (y - low) / high)
        _descend(model, rows, goal if classes else goal.float(), private)

    def predict(rows: Array) -> Array:
        with torch.no_grad():
            said = model(torch.from_numpy((rows - middle) / width).float())
        return kinds[said.argmax(1).numpy()] if classes else said[:, 0].double().numpy() * high + low

    return Fitted(predict, sum(p.numel() for p in model.parameters()))


FAMILIES: tuple[Family, ...] = (
    Family(name="constant", readable=True, fit=constant),
    Family(name="linear", readable=True, fit=linear),
    Family(name="additive", readable=True, fit=additive),
    *(Family(name=f"tree of {k} leaves", readable=True, fit=tree(k)) for k in (4, 8, 16, 32)),
    Family(name="boosted trees", readable=False, fit=boosted),
    Family(name="network", readable=False, fit=network),
)


def _descend(model: nn.Module, rows: Tensor, goal: Tensor, private: torch.Generator) -> None:
    steps = EPOCHS * -(-len(rows) // BATCH)
    step = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    pace = torch.optim.lr_scheduler.OneCycleLR(step, 1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows), generator=private).split(BATCH):
            said = model(rows[chosen])
            whole = goal.is_floating_point()
            loss = (
                functional.mse_loss(said[:, 0], goal[chosen]) if whole else functional.cross_entropy(said, goal[chosen])
            )
            step.zero_grad(set_to_none=True)
            loss.backward()
            step.step()
            pace.step()
    model.requires_grad_(False).eval()


def _weighted(x: Array, y: Array, classes: bool, spread: Callable[[Array], Array]) -> Fitted:
    """A weighted sum of standardised terms."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    middle, width = _standard(spread(x))
    made = LogisticRegression(max_iter=1000) if classes else Ridge(alpha=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made.fit((spread(x) - middle) / width, y)
    count = int(np.count_nonzero(made.coef_)) + int(np.size(made.intercept_))
    return Fitted(lambda rows: made.predict((spread(rows) - middle) / width), count)


def _standard(x: Array) -> tuple[Array, Array]:
    width = x.std(0)
    return x.mean(0), np.where(width > 0, width, 1.0)
