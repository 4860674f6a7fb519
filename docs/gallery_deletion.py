"""Figures of words taken away: do answers turn when the words go that explanations call relevant?"""

from __future__ import annotations

from typing import Any

from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish, legend
from matplotlib.figure import Figure

import pellucid as px
from pellucid.show import draw

READER, SENTENCES, WORDS = "sentences-gru-spurious", 400, 8
ORDERS = {"LRP": "lrp-lstm", "gradient × input": "gradient-x-input"}


def deletion() -> Drawn:
    """Accuracy of a misled reader while sentences lose words, those it reads rightly and wrongly apart."""
    inputs, labels = (part[:SENTENCES] for part in px.zoo.data("sentences-gru").test)
    reader, found = px.zoo.load(READER), {}
    for name, method in ORDERS.items():
        measure = px.evaluation.WordDeletion(of=method, steps=WORDS)
        found[name] = px.explain(reader, inputs, measure, layer="embedding", data={"labels": labels}, seed=0)
    lrp = found["LRP"]
    right = lrp.facts["right"].bool()
    counts = {"right": int(right.sum()), "wrong": int((~right).sum())}
    turned = {name: {group: _turned(result, group) for group in counts} for name, result in found.items()}
    random = {group: abs(float(lrp.parts[f"{group}_random"][1] - lrp.parts[f"{group}_random"][0])) for group in counts}
    for group in counts:
        assert all(shares[group] > 4 * random[group] for shares in turned.values())
    gains = {name: float(result.facts["gain"].mean()) for name, result in found.items()}
    assert gains["LRP"] > gains["gradient × input"] > 0.3
    return Drawn(
        _panels(found, counts),
        f"A reader that was misled by a word reads {counts['wrong']} of {SENTENCES} sentences without that word wrongly. "
        f"Of those it reads rightly, {100 * turned['LRP']['right']:.0f} % turn when the one word goes that LRP finds most "
        f"relevant for the label ({100 * random['right']:.0f} % when any word goes); of those it reads wrongly, "
        f"{100 * turned['LRP']['wrong']:.0f} % are put right when the word goes that speaks most against the label "
        f"({100 * random['wrong']:.0f} %). Over the first {WORDS} words, answers turn more often than in random orders by "
        f"{100 * gains['LRP']:.0f} points along LRP and by {100 * gains['gradient × input']:.0f} along gradient × input. "
        "Shaded: 95 % intervals.",
        {"turned by one word": turned, "by any word": random, "gain": gains},
    )


def _turned(result: Any, group: str) -> float:
    """The share of answers that the first word turns."""
    curve = result.parts[group]
    return abs(float(curve[1] - curve[0]))


def _panels(found: dict[str, Any], counts: dict[str, int]) -> Figure:
    figure = draw.canvas(8.4, 3.4)
    heads = {
        "right": "read rightly: most relevant words go first",
        "wrong": "read wrongly: least relevant words go first",
    }
    for place, (axes, group) in enumerate(zip(figure.subplots(1, 2, sharey=True), heads, strict=True)):
        for (name, result), (hue, dash) in zip(found.items(), HUES, strict=False):
            parts = result.parts
            along = parts["along"].tolist()
            axes.plot(along, parts[group].tolist(), dash, color=hue, linewidth=2, label=name)
            band = parts[f"{group}_low"].tolist(), parts[f"{group}_high"].tolist()
            axes.fill_between(along, *band, color=hue, alpha=0.18, linewidth=0)
        hue, dash = HUES[2]
        axes.plot(along, parts[f"{group}_random"].tolist(), dash, color=hue, linewidth=1.6, label="random orders")
        axes.set_ylim(-0.02, 1.02)
        finish(axes, "y", 0.0, 1.0, "" if place else "share read as the label")
        draw.numbers(axes.xaxis, 0, along[-1])
        draw.plain(axes.xaxis.label)
        axes.xaxis.label.set(text="words deleted", fontsize=8, color=draw.FAINT)
        draw.title(axes, f"{counts[group]} {heads[group]}", size=8.5, longest=80)
        if not place:
            legend(axes)
    return figure


ENTRIES = (*entry("deletion", "Word deletion", "word-deletion-evaluation", deletion),)
