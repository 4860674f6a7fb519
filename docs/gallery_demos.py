"""Demonstrations whose answer is planted: what is found is held against it while the figure is made."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from gallery_entry import Drawn, entry
from gallery_plots import finish
from matplotlib.figure import Figure

from pellucid.report import Growth, Rehearsal, scenario, trend
from pellucid.show import draw
from pellucid.show.curves import COLOURS
from pellucid.worlds.scenarios import SCENARIOS

DOUBLING, STARTED, YEARS = 2.0, 3.0, range(2006, 2019)


def literature() -> Drawn:
    """An export of simulated publications: one subject that doubles every two years, and one that stays as it is."""
    chance = torch.Generator().manual_seed(0)
    counts = {
        "saliency maps": torch.poisson(
            torch.tensor([STARTED * 2 ** ((year - 2006) / DOUBLING) for year in YEARS]), generator=chance
        ),
        "decision trees": torch.poisson(torch.full((len(YEARS),), 20.0), generator=chance),
    }
    records = [
        f"@article{{{subject[0]}{year}{k}, title = {{On {subject}}}, year = {year}}}"
        for subject, by_year in counts.items()
        for year, count in zip(YEARS, by_year.tolist(), strict=True)
        for k in range(int(count))
    ]
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder, "export.bib")
        export.write_text("\n".join(records), encoding="utf-8")
        found = trend(export, {"saliency": '"saliency map*"', "decision trees": '"decision trees"'})
    assert list(found.counts["saliency"]) == counts["saliency maps"].int().tolist()
    assert list(found.counts["decision trees"]) == counts["decision trees"].int().tolist()
    grown, flat = found.fits["saliency"], found.fits["decision trees"]
    assert isinstance(grown, Growth)
    assert isinstance(flat, Growth)
    assert grown.low <= math.log(2) / DOUBLING <= grown.high
    assert flat.low <= 0 <= flat.high
    low, high = grown.doubling_interval or (0.0, 0.0)
    sentence = (
        f"A simulated export of {found.records} publications, counted without a miss. One subject was planted to double "
        f"every {DOUBLING:.0f} years: found are {grown.doubling:.2f}, with {low:.2f} to {high:.2f} at 95 %. Of the other, "
        "planted without growth, none is claimed."
    )
    return Drawn(found.show(), sentence, {"doubling": grown.doubling, "low": low, "high": high})


def scenarios() -> Drawn:
    """Every scenario of the catalogue, trained here, and how well its explanations point to what decides."""
    runs = {name: scenario(name) for name in SCENARIOS}
    scores = {(name, method): score for name, run in runs.items() for method, score in run.scores.items()}
    assert all(run.accuracy >= 0.9 for run in runs.values())
    assert all(score["mean"] > max(0.75, score["untrained"]) for score in scores.values())
    worst = min(scores, key=lambda key: scores[key]["mean"])
    bright = max(scores, key=lambda key: scores[key]["untrained"])
    sentence = (
        f"Nine kinds of decision on simulated data, where it is known what decides. All {len(scores)} explanations point "
        f"to it (area under the ROC curve; 0.5 is chance), the least of them {worst[1]} in {worst[0]}, with "
        f"{scores[worst]['mean']:.2f}; and more than on the same network before training (rings), where {bright[1]} in "
        f"{bright[0]} reaches {scores[bright]['untrained']:.2f} already, as what decides is bright."
    )
    told = {
        name: {m: {k: s[k] for k in ("mean", "untrained")} for m, s in run.scores.items()} for name, run in runs.items()
    }
    return Drawn(_scores(runs), sentence, {"scores": told})


def _scores(runs: dict[str, Rehearsal]) -> Figure:
    """A line per scenario: a dot with its interval for each method, and a ring for the network before training."""
    figure = draw.canvas(7.0, 0.9 + 0.36 * len(runs))
    axes = figure.subplots()
    methods = list(dict.fromkeys(method for run in runs.values() for method in run.scores))
    for line, run in enumerate(runs.values()):
        for k, (method, score) in enumerate(run.scores.items()):
            place, hue = len(runs) - 1 - line + 0.22 * (1 - k), COLOURS[methods.index(method)]
            spread = [[score["mean"] - score["low"]], [score["high"] - score["mean"]]]
            axes.errorbar([score["mean"]], [place], xerr=spread, fmt="o", color=hue, markersize=4, elinewidth=1.2)
            axes.plot([score["untrained"]], [place], "o", markerfacecolor="none", color=hue, markersize=4.5)
    for method in methods:
        axes.plot([], [], "o", color=COLOURS[methods.index(method)], markersize=4, label=method)
    axes.plot([], [], "o", markerfacecolor="none", color=draw.FAINT, markersize=4.5, label="before training")
    axes.axvline(0.5, color=draw.FAINT, linewidth=0.8, linestyle=":")
    draw.labels(axes.yaxis, list(range(len(runs)))[::-1], list(runs))
    axes.set_xlim(0.38, 1.02)
    finish(axes, "x", 0.4, 1.0, "how often what decides has the larger share (0.5 is chance)")
    key = axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.45, 1.18), ncols=3,
                      columnspacing=1.0, handletextpad=0.2)  # fmt: skip
    for text in key.get_texts():
        draw.plain(text)
    return figure


ENTRIES = (
    *entry("scenarios", "Decisions about people", "pointing-game", scenarios),
    *entry("literature", "Growth of a literature", "", literature),
)
