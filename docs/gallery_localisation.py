"""The figure of localisation: do maps of planted shapes lie on the object, against what chance would give?"""

from __future__ import annotations

from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish
from matplotlib.figure import Figure

import pellucid as px
from pellucid.show import draw

PICTURES = 30
METHODS = {
    "gradient × input": ("gradient-x-input", None),
    "integrated gradients": ("integrated-gradients", None),
    "occlusion": (px.attribution.Occlusion(window=4, stride=2), None),
    "Grad-CAM": ("grad-cam", "block3"),
    "LRP": ("lrp-composites", None),
}
FIGURES = {"pointing": "largest value on the object", "mass": "positive values on the object", "roc": "ROC area"}


def localised() -> Drawn:
    """Five methods' maps of shapes, by three figures of the pointing game, with what chance gives."""
    world, model = px.zoo.data("shapes-cnn"), px.zoo.load("shapes-cnn")
    rows, labels = world.test
    with torch.no_grad():
        right = (model(rows[: 3 * PICTURES]).argmax(1) == labels[: 3 * PICTURES]).nonzero()[:PICTURES, 0]
    masks = world.truth["masks"]["main object"][world.test_rows][right]
    found: dict[str, dict[str, Any]] = {}
    for name, (method, layer) in METHODS.items():
        game = px.evaluation.PointingGame(of=method)
        result = px.explain(model, rows[right], game, layer=layer, data={"masks": masks}, seed=0)
        found[name] = {figure: result.facts[figure].double() for figure in FIGURES}
        chance = {"pointing": result.facts["chance"], "mass": result.facts["area"], "roc": torch.tensor(0.5)}
    floor = {figure: float(values.double().mean()) for figure, values in chance.items()}
    means = {name: {f: float(v.nanmean()) for f, v in by.items()} for name, by in found.items()}
    best = {f: max(means, key=lambda name, f=f: means[name][f]) for f in FIGURES}
    worst = {f: min(means, key=lambda name, f=f: means[name][f]) for f in FIGURES}
    below = [
        name
        for name, by in found.items()
        if means[name]["mass"] - 1.96 * float(by["mass"].std() / PICTURES**0.5) <= floor["mass"]
    ]
    assert len(below) < len(means)
    said = f"Not surely above chance: {', '.join(below)}" if below else "All are above chance"
    told = ", ".join(f"{name} {100 * by['mass']:.0f} %" for name, by in means.items())
    return Drawn(
        _dots(found, floor),
        f"On {PICTURES} shapes that the network reads rightly the object covers {100 * floor['mass']:.0f} % of the "
        f"picture; of the positive values, there lie on it: {told}. {said}. The largest value lies there most often with "
        f"{best['pointing']} ({100 * means[best['pointing']]['pointing']:.0f} %) and least with {worst['pointing']} "
        f"({100 * means[worst['pointing']]['pointing']:.0f} %); pixels of the object are put above others best by "
        f"{best['roc']} (ROC area {means[best['roc']]['roc']:.2f}). Lines are 95 % intervals, dotted is chance.",
        {name: {f: round(v, 4) for f, v in by.items()} for name, by in means.items()},
    )


def _dots(found: dict[str, dict[str, Any]], floor: dict[str, float]) -> Figure:
    figure = draw.canvas(8.4, 0.9 + 0.26 * len(found))
    places = list(range(len(found)))[::-1]
    for axes, (name, title) in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES.items(), strict=True):
        values = [by[name][by[name].isfinite()] for by in found.values()]
        spread = [1.96 * float(v.std() / len(v) ** 0.5) for v in values]
        dots = {"fmt": "o", "color": HUES[0][0], "markersize": 6, "elinewidth": 1.4, "capsize": 3}
        axes.errorbar([float(v.mean()) for v in values], places, xerr=spread, **dots)
        axes.axvline(floor[name], color=draw.INK, linestyle=":", linewidth=1.2)
        finish(
            axes,
            "x",
            0.0,
            1.0,
            "mean" if name == "roc" else "share of pictures" if name == "pointing" else "mean share",
        )
        axes.set_xlim(0, 1.04)
        axes.set_ylim(-0.5, len(found) - 0.5)
        draw.labels(axes.yaxis, places, list(found))
        draw.title(axes, title, size=8.5)
    return figure


ENTRIES = (*entry("localised", "Localisation", "pointing-game", localised),)
