"""Real data that comes with scikit-learn and scikit-image, so that nothing has to be downloaded."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pellucid.worlds.world import World, split_rows

_SPLIT_SEED = 0
_UCI_LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/ (UCI Machine Learning Repository)"


def sample_sets() -> ModuleType:
    """scikit-learn's ``datasets``, imported without a trace.

    Packages that it imports draw from Python's global generator while they load, which would change what a
    seeded program does next.
    """
    state = random.getstate()
    try:
        from sklearn import datasets
    finally:
        random.setstate(state)
    return datasets


def digits(*, seed: int = _SPLIT_SEED, test_fraction: float = 0.25) -> World:
    """1,797 handwritten digits of 8×8 pixels, ten classes.

    Shapes: inputs ``(1797, 1, 8, 8)`` in [0, 1]; original units are ink counts from 0 to 16. ``seed`` decides
    the stratified split alone. Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten
    Digits, UCI; the copy in scikit-learn. Licence: CC BY 4.0.

    >>> from pellucid import worlds
    >>> worlds.digits()
    World('digits', 1797×1×8×8, 1347 train + 450 test rows)
    """
    bunch = sample_sets().load_digits()
    train_rows, test_rows = split_rows(bunch.target, seed=seed, test_fraction=test_fraction, stratify=True)
    return World(
        name="digits",
        inputs=torch.from_numpy((bunch.images / 16.0).astype(np.float32))[:, None].contiguous(),
        labels=torch.from_numpy(bunch.target.astype(np.int64)),
        classes=tuple(map(str, range(10))),
        features=("ink",),
        train_rows=train_rows,
        test_rows=test_rows,
        mean=torch.zeros((1, 1, 1), dtype=torch.float64, device="cpu"),
        scale=torch.full((1, 1, 1), 16.0, dtype=torch.float64, device="cpu"),
        attribution="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998, doi:10.24432/C50P49.",
        licence=_UCI_LICENCE,
    )


def iris(*, seed: int = _SPLIT_SEED, test_fraction: float = 0.25) -> World:
    """150 iris flowers, four lengths in centimetres, three species.

    Shapes: inputs ``(150, 4)``, standardised; ``original`` gives centimetres. ``seed`` decides the stratified
    split alone. Source: R. A. Fisher (1936); the copy in scikit-learn. Licence: CC BY 4.0.

    >>> from pellucid import worlds
    >>> worlds.iris().classes
    ('setosa', 'versicolor', 'virginica')
    """
    source = "R. A. Fisher, Iris, 1936, doi:10.24432/C56C76."
    return _table("iris", sample_sets().load_iris(), seed, test_fraction, attribution=source)


def wine(*, seed: int = _SPLIT_SEED, test_fraction: float = 0.25) -> World:
    """178 Italian wines, thirteen chemical measurements, three growers.

    Shapes: inputs ``(178, 13)``, standardised; ``original`` gives the measured units. ``seed`` decides the
    stratified split alone. Source: S. Aeberhard and M. Forina (1991), UCI; the copy in scikit-learn.
    Licence: CC BY 4.0.

    >>> from pellucid import worlds
    >>> worlds.wine().features[:2]
    ('alcohol', 'malic acid')
    """
    source = "S. Aeberhard and M. Forina, Wine, 1991, doi:10.24432/C5PC7J."
    return _table("wine", sample_sets().load_wine(), seed, test_fraction, attribution=source)


def breast_cancer(*, seed: int = _SPLIT_SEED, test_fraction: float = 0.25) -> World:
    """569 breast tumours, thirty measurements of cell nuclei, malignant or benign.

    Shapes: inputs ``(569, 30)``, standardised; ``original`` gives the measured units. ``seed`` decides the
    stratified split alone. Source: W. Wolberg, O. Mangasarian, N. Street and W. Street (1993), Breast Cancer
    Wisconsin (Diagnostic), UCI; the copy in scikit-learn. Licence: CC BY 4.0.

    >>> from pellucid import worlds
    >>> worlds.breast_cancer().classes
    ('malignant', 'benign')
    """
    source = "W. Wolberg et al., Breast Cancer Wisconsin (Diagnostic), 1993, doi:10.24432/C5DW2B."
    return _table("breast-cancer", sample_sets().load_breast_cancer(), seed, test_fraction, attribution=source)


def diabetes(*, seed: int = _SPLIT_SEED, test_fraction: float = 0.25) -> World:
    """442 diabetes patients, ten measurements, and how far the disease had progressed a year later (regression).

    Shapes: inputs ``(442, 10)`` and labels ``(442,)``, both standardised; ``original`` and ``original_labels``
    give the measured units. ``seed`` decides the split alone. Source: B. Efron, T. Hastie, I. Johnstone and
    R. Tibshirani (2004), Least Angle Regression, Annals of Statistics 32; published by its authors for free use;
    the copy in scikit-learn.

    >>> from pellucid import worlds
    >>> world = worlds.diabetes()
    >>> world.original_labels(world.labels[:3]).round().tolist()
    [151.0, 75.0, 141.0]
    """
    bunch = sample_sets().load_diabetes(scaled=False)
    bunch.target_names = ("disease progression",)
    bunch.feature_names = _DIABETES_FEATURES
    source = "B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least Angle Regression, Ann. Statist. 32, 2004."
    licence = "No licence stated; published for free use by its authors and distributed with scikit-learn."
    return _table("diabetes", bunch, seed, test_fraction, attribution=source, licence=licence, regression=True)


# scikit-learn's own names for the last six are abbreviations ("s1" ...); these spell out what its description says.
_DIABETES_FEATURES = (
    "age (years)",
    "sex",
    "body mass index",
    "mean blood pressure",
    "total cholesterol",
    "low-density lipoproteins",
    "high-density lipoproteins",
    "cholesterol / HDL",
    "log triglycerides",
    "blood sugar",
)


def _table(
    name: str,
    bunch: Any,
    seed: int,
    test_fraction: float,
    *,
    attribution: str,
    licence: str = _UCI_LICENCE,
    regression: bool = False,
) -> World:
    raw, target = bunch.data.astype(np.float64), bunch.target
    train_rows, test_rows = split_rows(target, seed=seed, test_fraction=test_fraction, stratify=not regression)
    mean, scale = raw[train_rows.numpy()].mean(axis=0), raw[train_rows.numpy()].std(axis=0)
    label_mean, label_scale = 0.0, 1.0
    labels = torch.from_numpy(target.astype(np.int64))
    if regression:
        label_mean = float(target[train_rows.numpy()].mean())
        label_scale = float(target[train_rows.numpy()].std())
        labels = torch.from_numpy(((target - label_mean) / label_scale).astype(np.float32))
    return World(
        name=name,
        inputs=torch.from_numpy(((raw - mean) / scale).astype(np.float32)),
        labels=labels,
        classes=tuple(str(value) for value in bunch.target_names),
        features=tuple(str(value).replace("_", " ") for value in bunch.feature_names),
        train_rows=train_rows,
        test_rows=test_rows,
        task="regression" if regression else "classification",
        mean=torch.from_numpy(mean),
        scale=torch.from_numpy(scale),
        label_mean=label_mean,
        label_scale=label_scale,
        attribution=attribution,
        licence=licence,
    )
