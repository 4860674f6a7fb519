"""The gallery's figure of trust: which answers to rely on."""

from __future__ import annotations

from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish, legend
from matplotlib.figure import Figure

import pellucid as px
from pellucid.show import draw
from pellucid.show.palette import RED, hexadecimal

RISK = 0.02


def trust() -> Drawn:
    """The trust score of right and wrong answers about digits, and the risk as more of them are answered."""
    world, net = px.zoo.data("digits-cnn"), px.zoo.load("digits-cnn")
    data = {"train": world.train, "held_out": world.test}
    found = px.explain(net, world.test[0][:1], "trust-score", data=data)
    rule = px.report.limits(net, world.test[0][:1], train=world.train, held_out=world.test, risk=RISK).rule
    told, right = found.source["held_out"], found.parts["held_out_right"].bool()
    wrong, rows = int((~right).sum()), told["rows"]
    assert told["low"] > 0.7
    assert rule is not None
    assert rule.wrong < wrong
    assert rule.coverage > 0.9
    return Drawn(
        _panels(found, right, rule),
        f"Of {rows} digits that the network had not seen it misreads {wrong}. The trust score puts a right answer above a "
        f"wrong one in {100 * told['auroc']:.0f} % of pairs (95 % interval {100 * told['low']:.0f} to "
        f"{100 * told['high']:.0f} %), the lead of the highest output in {100 * told['by_confidence']['auroc']:.0f} %. "
        f"Answering only from the dashed line on leaves {100 * rule.answered / rows:.0f} % of the digits and {rule.wrong} "
        f"of the {wrong} errors, with 95 % confidence at most {100 * RISK:.0f} % wrong.",
        {
            "auroc": told["auroc"],
            "by lead": told["by_confidence"]["auroc"],
            "answered": rule.answered,
            "wrong": rule.wrong,
        },
    )


def _panels(found: Any, right: torch.Tensor, rule: Any) -> Figure:
    figure = draw.canvas(8.4, 3.2)
    one, other = figure.subplots(1, 2, width_ratios=(1, 1.1))
    score = found.parts["held_out_score"]
    high = float(score.max())
    edges = torch.linspace(0.5, high, 40).tolist()
    one.hist(score[right].tolist(), bins=edges, color="#9aa5bd", label=f"{int(right.sum())} right answers")
    one.plot(
        score[~right].sort().values.tolist(),
        [2.0 + 3.0 * (k % 2) for k in range(int((~right).sum()))],  # so that none hides another
        "v",
        color=hexadecimal(RED),
        markersize=7,
        markeredgecolor="white",
        label=f"{int((~right).sum())} wrong answers",
    )
    one.axvline(rule.threshold, color=draw.INK, linestyle="--", linewidth=1.2)
    finish(one, "y", 0, float(torch.histogram(score[right], torch.tensor(edges).double())[0].max()), "digits")
    draw.numbers(one.xaxis, 0.5, high)
    one.xaxis.label.set(text="trust score", fontsize=8, color=draw.FAINT)
    legend(one)
    share = found.parts["coverage"].tolist()
    lines = {"by trust score": "risk", "by the lead of the highest output": "risk_by_confidence"}
    for (name, part), (hue, dash) in zip(lines.items(), HUES, strict=False):
        other.plot(share, found.parts[part].tolist(), dash, color=hue, linewidth=2, label=name)
    other.axvline(rule.answered / len(score), color=draw.INK, linestyle="--", linewidth=1.2)
    worst = float(torch.stack([found.parts[p] for p in lines.values()]).max())
    finish(other, "y", 0.0, worst, "share wrong")
    draw.numbers(other.xaxis, 0.0, 1.0)
    other.xaxis.label.set(text="share of digits answered, the surest first", fontsize=8, color=draw.FAINT)
    legend(other)
    return figure


ENTRIES = (*entry("trust", "How far to trust an answer", "trust-score", trust),)
