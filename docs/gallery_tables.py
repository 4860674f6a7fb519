"""Figures about tables: rows of columns with names and units."""

from __future__ import annotations

from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import bars, swarm
from torch import Tensor

import pellucid as px
from pellucid.show.words import number

READING = ("worst concave points", "mean concave points", "worst perimeter")
# Which way a column should move the progression of diabetes, by what medicine holds; of sex it holds nothing here.
EXPECTED = {
    "age (years)": 1,
    "body mass index": 1,
    "mean blood pressure": 1,
    "total cholesterol": 1,
    "low-density lipoproteins": 1,
    "high-density lipoproteins": -1,
    "cholesterol / HDL": 1,
    "log triglycerides": 1,
    "blood sugar": 1,
}


def _benign(output: Tensor) -> Tensor:
    """The logarithm of the odds of benign."""
    return output[:, 1] - output[:, 0]


def lime() -> Drawn:
    """A tumour's columns, and whether a published reading of such a figure holds for this network."""
    world, model = px.zoo.data("breast-cancer-mlp"), px.zoo.load("breast-cancer-mlp")
    known, (inputs, labels) = world.train[0], world.test
    columns = [world.features.index(name) for name in READING]
    quarters = _quarters(known, inputs)
    with torch.no_grad():
        benign = ((labels == 1) & (_benign(model(inputs)) > 0)).nonzero().flatten()
    # The sample that suits the reading: few concave points, and a large perimeter for a benign tumour.
    suits = (quarters[benign][:, columns] == torch.tensor([0, 0, 2])).all(1)
    row = int(benign[suits][0])

    def ask(rows: Tensor, seed: int, samples: int) -> px.Attribution:
        method = px.attribution.Lime(samples=samples)
        return px.explain(model, rows, method, target=_benign, data=known, seed=seed)

    runs = [ask(inputs[row : row + 1], seed, 8000) for seed in range(10)]
    every = ask(inputs[benign], 0, 2000)
    values, error = runs[0].values[0].double(), runs[0].error[0].double()
    top = [set(run.values[0].abs().topk(3).indices.tolist()) for run in runs]
    assert all(found == top[0] for found in top)
    assert all((run.values[0, columns[:2]] > 4 * run.error[0, columns[:2]]).all() for run in runs)
    against = sum(bool(run.values[0, columns[2]] < -2 * run.error[0, columns[2]]) for run in runs)
    among = int((every.values[:, columns[2]] < -2 * every.error[:, columns[2]]).sum())
    sure = (values.abs() > 4 * error).nonzero().flatten().tolist()
    agree = sum(float(values[j]) * _redrawn(model, known, inputs[row], j) > 0 for j in sure)
    assert agree >= 0.9 * len(sure)
    assert against == 0
    assert among <= 0.05 * len(benign)
    shown = values.abs().argsort(descending=True)[:9].tolist()
    shown += [] if columns[2] in shown else [columns[2]]
    names = [_condition(world, quarters[row], j) for j in shown]
    fidelity = float(runs[0].facts["r_squared"])
    figure = bars(
        names,
        values[shown],
        2 * error[shown],
        f"A benign tumour, log-odds of benign {float(runs[0].facts['score']):.1f}. R² of the line: {fidelity:.2f}",
        "red: for benign, blue: for malignant (log-odds, ± 2 standard errors)",
    )
    told = [f"{values[j]:.2f} ± {error[j]:.2f}" for j in columns]
    return Drawn(
        figure,
        "A survey's figure of another network reads: few concave points speak for benign, the worst perimeter for "
        f"malignant. Here the first half holds in 10 of 10 seeds (worst {told[0]}, mean {told[1]}, standard errors), the "
        f"second in {against} ({told[2]}); of all {len(benign)} benign tumours held out, the perimeter speaks for "
        f"malignant by more than two standard errors in {among}. The three longest bars are the same for every seed; "
        f"{agree} of the {len(sure)} bars longer than four standard errors have the sign of what redrawing their column "
        f"alone changes. The line explains {100 * fidelity:.0f} % of the variance of the answers: a hint, not the network.",
        {
            "seed": 0,
            "score": "log-odds of benign",
            "bars": dict(zip(world.features, _round(values), strict=True)),
            "standard errors": dict(zip(world.features, _round(error), strict=True)),
            "worst perimeter against, of 10 seeds": against,
            "worst perimeter against, of all benign": [among, len(benign)],
        },
    )


def _quarters(known: Tensor, rows: Tensor) -> Tensor:
    """Which quarter of the training rows each value falls into, from 0."""
    edges = torch.quantile(known, torch.tensor([0.25, 0.5, 0.75]), dim=0)
    return (rows[:, None] > edges).sum(1)


def _redrawn(model: Any, known: Tensor, row: Tensor, column: int) -> float:
    """The score less its mean where this column alone is drawn from the other quarters of the data."""
    other = _quarters(known, known)[:, column] != _quarters(known, row[None])[0, column]
    changed = row.repeat(int(other.sum()), 1)
    changed[:, column] = known[other, column]
    with torch.no_grad():
        return float(_benign(model(row[None])) - _benign(model(changed)).mean())


def _condition(world: Any, quarters: Tensor, column: int) -> str:
    """The column's quarter in the units of the data."""
    edges = torch.quantile(world.original(world.train[0])[:, column], torch.tensor([0.25, 0.5, 0.75]).double())
    low, high = quarters[column] - 1, quarters[column]
    name = world.features[column]
    if low < 0:
        return f"{name} ≤ {number(float(edges[0]), 3)}"
    if high > 2:
        return f"{name} > {number(float(edges[2]), 3)}"
    return f"{number(float(edges[low]), 3)} < {name} ≤ {number(float(edges[high]), 3)}"


def _round(values: Tensor) -> list[float]:
    return [round(v, 4) for v in values.tolist()]


def shapley() -> Drawn:
    """Exact values of every held-out patient; which columns work against what medicine holds."""
    world, model = px.zoo.data("diabetes-mlp"), px.zoo.load("diabetes-mlp")
    rows, background = world.test[0], world.train[0][:32]

    def progression(output: Tensor) -> Tensor:
        return output[:, 0] * world.label_scale

    result = px.explain(model, rows, "shapley-value", target=progression, data=background, seed=0)
    values = result.values.double()
    with torch.no_grad():
        difference = progression(model(rows)) - progression(model(background)).mean()
    assert torch.allclose(values.sum(1), difference.double(), atol=1e-2)
    direction = {name: _rank_correlation(rows[:, j], values[:, j]) for j, name in enumerate(world.features)}
    against = [name for name, sign in EXPECTED.items() if sign * direction[name] < -0.5]
    size = values.abs().mean(0)
    order = size.argsort(descending=True).tolist()
    names = [f"{world.features[j]}{' (!)' if world.features[j] in against else ''}" for j in order]
    figure = swarm(
        names,
        values[:, order],
        rows[:, order],
        "Shapley value: change of the predicted progression, which runs from 25 to 346",
    )
    assert against == ["total cholesterol", "low-density lipoproteins"]
    raw, labels = world.train
    pair = [world.features.index(name) for name in against]
    alone = [_rank_correlation(raw[:, j], labels) for j in pair]
    together = _rank_correlation(raw[:, pair[0]], raw[:, pair[1]])
    assert min(alone) > 0.1
    assert together > 0.8
    told = " and ".join(f"{name} ({direction[name]:.2f})" for name in against)
    return Drawn(
        figure,
        "Each patient's ten values sum to the prediction less the background's, exactly. Of "
        f"{len(EXPECTED)} columns whose direction medicine holds to be known, the network uses two, marked (!), the other "
        f"way, by the rank correlation of column and value: {told}. In the data both rise with the disease "
        f"({alone[0]:.2f} and {alone[1]:.2f}) and with each other ({together:.2f}): the network splits what they share "
        "with other columns, so the sign is no finding about medicine. The survey read such a contradiction, the age of a "
        "house, off a network of a table that is not here.",
        {
            "seed": 0,
            "rank correlation of column and value": {n: round(v, 3) for n, v in direction.items()},
            "mean size": dict(zip(world.features, _round(size), strict=True)),
            "against": against,
        },
    )


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def tree() -> Drawn:
    """The iris network imitated by thresholds."""
    world, model = px.zoo.data("iris-mlp"), px.zoo.load("iris-mlp")
    # The network reads standardised columns; the tree is to speak of centimetres.
    subject = px.Subject(lambda rows: model(world.standardised(rows)), classes=world.classes, features=world.features)
    flowers, known = (world.original(rows).float() for rows in (world.test[0], world.train[0]))
    result = px.explain(subject, flowers, px.rules.CartSurrogate(max_depth=3), data=known)
    agrees = float(result.facts["agrees"].double().mean())
    assert agrees >= 0.85
    return Drawn(
        result.show(),
        f"On the {len(world.test[0])} held-out flowers, which it has not seen, the tree gives the network's answer for "
        f"{100 * agrees:.0f} %; the figure in the title is measured on a share of the training flowers kept from the tree.",
    )


ENTRIES = (
    *entry("lime-breast-cancer", "LIME on a table", "lime", lime),
    *entry("shapley-diabetes", "Shapley values of a table", "shapley-value", shapley),
    *entry("tree", "Rules", "cart-c45-surrogate", tree),
)
