"""A survey's own experiment, repeated: four saliency maps of five digits, and whether some are less noisy than others."""

from __future__ import annotations

from typing import Any

import torch
from gallery_entry import Drawn, entry
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px
from pellucid.engine.evaluation import overall
from pellucid.evaluation import HeatmapEntropy, InsertionDeletion
from pellucid.show import draw, palette

METHODS = {
    "raw gradient": "vanilla-gradient",
    "SmoothGrad": "smoothgrad",
    "integrated\ngradients": "integrated-gradients",
    "deep Taylor\n(zᴮ, z⁺)": px.attribution.DeepTaylor(domain="box", low=0.0, high=1.0),
}
METRICS = {
    "variation": HeatmapEntropy(figure="variation"),
    "sparseness": HeatmapEntropy(figure="gini"),
    "deletion": InsertionDeletion(way="deletion", features="element"),
    "insertion": InsertionDeletion(way="insertion", features="element"),
}
NOISE = {
    "variation": "total variation as a share of all magnitudes",
    "variation of the drawn map": "total variation as a share of the largest magnitude",
    "sparseness": "Gini index of the magnitudes",
}
RAW, IG, DTD = "raw gradient", "integrated gradients", "deep Taylor (zᴮ, z⁺)"


def lenet() -> Drawn:
    """A network like LeNet-5, and a claim: integrated gradients and deep Taylor are less noisy than the gradient."""
    model, world = px.zoo.load("digits-cnn"), px.zoo.data("digits-cnn")
    rows, labels = world.test
    found = px.compare(model, rows, METHODS, METRICS, budget=None)
    assert not found.source["comparison"]["refused"]
    names = [label.replace("\n", " ") for label in METHODS]
    figures = dict(zip(METRICS, found.parts["rows"].unbind(1), strict=True))
    maps = {name: px.explain(model, rows, method).values for name, method in zip(names, METHODS.values(), strict=True)}
    figures["variation of the drawn map"] = torch.stack([_drawn(m) for m in maps.values()])
    told = {name: {figure: _interval(values[k]) for figure, values in figures.items()} for k, name in enumerate(names)}
    less = {
        name: {figure: _interval(_noise(figure, figures[figure][k] - figures[figure][0])) for figure in NOISE}
        for k, name in enumerate(names)
        if name != RAW
    }
    verdicts = {name: {figure: _verdict(interval) for figure, interval in by.items()} for name, by in less.items()}
    with torch.no_grad():
        right = model(rows).argmax(1) == labels
    chosen = [int((right & (labels == digit)).nonzero()[0]) for digit in range(5)]
    order = {name: _interval(figures["deletion"][k] - figures["deletion"][0]) for k, name in enumerate(names)}
    # What the claim rests on: maps as they are drawn, each up to its largest value.
    assert verdicts[IG]["variation of the drawn map"] == verdicts[DTD]["variation of the drawn map"] == "less"
    assert order[IG]["high"] < 0  # faithfulness: deletion falls faster along integrated gradients
    return Drawn(
        _grid(rows[chosen], {name: m[chosen] for name, m in maps.items()}),
        _sentence(less, verdicts, len(rows), order),
        {
            "network": "digits-cnn: convolutions, pooling and dense layers as in LeNet-5, but digits at 8 × 8, one pooling "
            "layer, and rectifiers for tanh, as deep Taylor decomposition is derived for rectifiers",
            "rows": len(rows),
            "digits drawn": chosen,
            "statistics": told,
            "noise less that of the raw gradient": less,
            "verdicts": verdicts,
        },
    )


def _drawn(values: Tensor) -> Tensor:
    """Total variation where the largest magnitude has full colour, per pixel."""
    v = values.double().sum(1)
    varied = v.diff(dim=1).abs().flatten(1).sum(1) + v.diff(dim=2).abs().flatten(1).sum(1)
    return varied / v.abs().flatten(1).amax(1) / v[0].numel()


def _noise(figure: str, difference: Tensor) -> Tensor:
    """More noise is more variation, and less sparseness."""
    return -difference if figure == "sparseness" else difference


def _interval(values: Tensor) -> dict[str, float]:
    found = overall(values)
    return {k: round(float(found[k]), 4) for k in ("mean", "low", "high")}


def _verdict(interval: dict[str, float]) -> str:
    return "less" if interval["high"] < 0 else "more" if interval["low"] > 0 else "neither"


def _sentence(less: Any, verdicts: Any, rows: int, order: Any) -> str:
    def side(name: str, verdict: str) -> str:
        told = [
            f"{figure} {interval['mean']:+.2f} ({interval['low']:+.2f} to {interval['high']:+.2f})"
            for figure, interval in less[name].items()
            if verdicts[name][figure] == verdict
        ]
        return ", ".join(told)

    parts = []
    for name in (IG, DTD):
        each = [f"{verdict} noisy by {side(name, verdict)}" for verdict in ("less", "more") if side(name, verdict)]
        parts.append(f"{name} are {' and '.join(each)}" if name == IG else f"{name} is {' and '.join(each)}")
    every = all(set(verdicts[name].values()) == {"less"} for name in (IG, DTD))
    claim = "holds" if every else "holds for maps as they are drawn, not by every statistic"
    when = "later" if order[DTD]["low"] > 0 else "sooner"
    return (
        "A survey says under such a figure that integrated gradients and deep Taylor decomposition give less noisy maps "
        f"than the raw gradient. Over {rows} held-out digits, differences to it in noise (less sparse counts as noisier) "
        f"with 95 % intervals: {'; '.join(parts)}. The claim {claim}, and it is about looks: when pixels are deleted in "
        f"the maps' order, the score falls {when} for deep Taylor than for the raw gradient "
        f"({order[DTD]['mean']:+.1f} of the score on average) and sooner for integrated gradients "
        f"({order[IG]['mean']:+.1f})."
    )


def _grid(inputs: Tensor, maps: dict[str, Tensor]) -> Figure:
    """A line for each digit, a column for each method; each map over its own limits."""
    figure = draw.canvas(1.05 * (len(maps) + 1), 1.05 * len(inputs) + 0.7)
    axes = figure.subplots(len(inputs), len(maps) + 1)
    for line, image in zip(axes, inputs, strict=True):
        draw.photo(line[0], palette.picture(image))
    draw.title(axes[0, 0], "input", size=7.5)
    for column, (label, values) in enumerate(maps.items(), 1):
        for line, v in zip(axes, values, strict=True):
            shown = v.double().sum(0)
            draw.photo(line[column], palette.coloured(shown, palette.scale(shown, 100.0, signed=True)))
        draw.title(
            axes[0, column], *label.replace(" gradients", "\ngradients").replace(" (", "\n(").split("\n"), size=7.5
        )
    head = "Red raises the score of the predicted digit, blue lowers it; each map up to its largest value"
    draw.plain(figure.suptitle(head, fontsize=7.5, color=draw.INK, x=0.01, ha="left"))
    return figure


SHOWN = (
    *("vanilla-gradient", "gradient-x-input", "integrated-gradients", "deeplift", "deep-taylor-decomposition"),
    *("guided-backprop", "grad-cam", "feature-ablation", "lime", "kernel-shap"),
)


def comparison() -> Drawn:
    """Ten methods by six metrics on eight digits: whom each metric puts first, and who fails a test of sanity."""
    model, rows = px.zoo.load("digits-cnn"), px.zoo.data("digits-cnn").test[0][:8]
    found = px.compare(model, rows, SHOWN, budget=None)
    told, rank = found.source["comparison"], found.parts["rank"]
    assert not told["refused"]
    assert {"deep-taylor-decomposition", "guided-backprop"} <= set(told["failed"])
    names, metrics = told["methods"], told["metrics"]
    place = {m: int(rank[names.index("deep-taylor-decomposition"), metrics.index(m)]) for m in metrics}
    assert place["max-sensitivity"] <= 3 < place["deletion"]
    first = told["recommended"]
    assert first in ("kernel-shap", "lime")
    best = {m: names[int(rank[:, k].argmin())] for k, m in enumerate(metrics) if m in told["counted"]}
    others = " and ".join(sorted(set(told["failed"]) - {"deep-taylor-decomposition"}))
    firsts = ", ".join(f"{name} by {m}" for m, name in best.items())
    return Drawn(
        found.show(),
        f"First are {firsts}; recommended is {first}, by its median rank in these four. Metrics disagree, and are not "
        f"averaged away: deep Taylor decomposition is number {place['max-sensitivity']} of {len(names)} by stability and "
        f"number {place['deletion']} by deletion, and with {others} "
        "it fails the test of sanity, as its maps hardly change when the network's weights are drawn at random. Eight rows "
        "leave wide intervals: most neighbours in this order can't be told apart.",
        {
            "methods": names,
            "metrics": metrics,
            "means": found.values.round(decimals=3).tolist(),
            "failed": told["failed"],
        },
    )


ENTRIES = entry(
    "comparison-digits",
    "Methods compared",
    "functionally-grounded-evaluation insertion-deletion sensitivity-n max-sensitivity model-randomization-test "
    "heatmap-entropy",
    comparison,
) + entry(
    "lenet-saliency",
    "Four saliency methods side by side",
    "heatmap-entropy insertion-deletion vanilla-gradient smoothgrad integrated-gradients deep-taylor-decomposition",
    lenet,
)
