"""Figures of parts shown alone: few pixels that keep the network's answer, or that tell it."""

from __future__ import annotations

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish
from matplotlib.figure import Figure
from torch import Tensor

import pellucid as px
from pellucid.show import draw, palette

DIGITS, PIXELS, SHOWN = 60, (2, 4, 8, 12), 8
GREEDY, STREAM, BRIGHT, CHANCE = "greedy", "streaming (STREAK)", "brightest", "drawn at random"


def alone() -> Drawn:
    """Digits of which only a few pixels are left: which keep the network's answer?"""
    world, model = px.zoo.data("digits-cnn"), px.zoo.load("digits-cnn")
    rows = world.test[0][:DIGITS]
    with torch.no_grad():
        answers = model(rows).argmax(1)
    # Pixels in the order in which greedy takes them: the first few are what it would take of few.
    longest = px.attribution.Streak(features="element", parts=max(PIXELS), way="greedy")
    order = px.explain(model, rows, longest, seed=0).parts["order"]
    masks = {name: {} for name in (GREEDY, STREAM, BRIGHT, CHANCE)}
    chance = torch.Generator().manual_seed(0)
    drawn = torch.rand(DIGITS, rows[0].numel(), generator=chance).argsort(1)
    calls = {}
    for count in PIXELS:
        stream = px.explain(model, rows, px.attribution.Streak(features="element", parts=count), seed=0)
        calls[count] = float(stream.facts["model_calls"].mean())
        masks[GREEDY][count] = _mask(order[:, :count], rows)
        masks[STREAM][count] = _mask(stream.parts["order"], rows)
        masks[BRIGHT][count] = _mask(rows.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count], rows)
        masks[CHANCE][count] = _mask(drawn[:, :count], rows)
    with torch.no_grad():
        kept = {
            name: [float((model(rows * mask).argmax(1) == answers).double().mean()) for mask in by.values()]
            for name, by in masks.items()
        }
    at = dict(zip(kept, (share[PIXELS.index(SHOWN)] for share in kept.values()), strict=True))
    assert at[GREEDY] > at[STREAM] > at[BRIGHT] + 0.1 > at[CHANCE] + 0.2
    return Drawn(
        _panels(rows, {name: masks[name][SHOWN] for name in (GREEDY, STREAM, BRIGHT)}, kept),
        f"Of {DIGITS} digits with all but {SHOWN} of 64 pixels black, {100 * at[GREEDY]:.0f} % keep the network's "
        f"answer where the pixels are taken greedily, {100 * at[STREAM]:.0f} % where STREAK chooses them from a "
        f"single pass in random order ({calls[SHOWN]:.0f} questions a digit), {100 * at[BRIGHT]:.0f} % with the "
        f"brightest pixels and {100 * at[CHANCE]:.0f} % with drawn ones. "
        "Hidden pixels are drawn in blue-grey.",
        {"pixels": list(PIXELS), "kept": {name: [round(v, 4) for v in share] for name, share in kept.items()}},
    )


def _mask(chosen: Tensor, rows: Tensor) -> Tensor:
    """Ones at the numbered pixels of each row; -1 numbers none."""
    mask = torch.zeros(len(rows), rows[0].numel() + 1)
    mask.scatter_(1, chosen.where(chosen >= 0, rows[0].numel()), 1.0)
    return mask[:, :-1].reshape(rows.shape)


def _panels(rows: Tensor, masks: dict[str, Tensor], kept: dict[str, list[float]]) -> Figure:
    """Three digits, whole and by their pixels; and the share of answers kept."""
    figure = draw.canvas(8.4, 3.5)
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    axes = left.subplots(3, len(masks) + 1)
    for line in range(3):
        draw.photo(axes[line, 0], palette.picture(rows[line]))
        for place, mask in zip(axes[line, 1:], masks.values(), strict=True):
            pixels = palette.picture(rows[line] * mask[line]).copy()
            # What is hidden is blue-grey, so that black pixels that are shown are seen to be.
            pixels[mask[line, 0] == 0] = (196, 205, 222)
            draw.photo(place, pixels)
    for place, name in zip(axes[0], ["whole", *masks], strict=True):
        draw.title(place, *name.replace(" (", "\n(").split("\n"), size=7.5)
    curve = right.subplots()
    marks = "os^D"
    for k, (name, share) in enumerate(kept.items()):
        hue, dash = (*HUES, (draw.FAINT, "--"))[k]
        curve.plot(PIXELS, share, dash, marker=marks[k], markersize=5, color=hue, linewidth=1.8, label=name)
    curve.set_ylim(0, 1.03)
    finish(curve, "y", 0.0, 1.0, "share of answers kept")
    draw.labels(curve.xaxis, PIXELS, [str(k) for k in PIXELS], color=draw.FAINT)
    draw.plain(curve.xaxis.label).set(text="pixels shown, of 64", fontsize=8, color=draw.FAINT)
    above = curve.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    for text in above.get_texts():
        draw.plain(text)
    return figure


CHOSEN, EACH = 8, 8


def telling() -> Drawn:
    """Which pixels a trained chooser picks so that another network can tell what this one says."""
    world, model = px.zoo.data("digits-cnn"), px.zoo.load("digits-cnn")
    rows, labels = world.test
    method = px.attribution.LearningToExplain(chosen=CHOSEN, features="element", steps=500, batch=256)
    found = px.explain(model, rows, method, data=world.train[0], seed=0)
    agrees, itself = (float(found.facts[fact][0]) for fact in ("held_out_agreement", "held_out_model_agreement"))
    with torch.no_grad():
        answers = model(rows).argmax(1)
        chance = torch.Generator().manual_seed(0)
        drawn = torch.rand(len(rows), rows[0].numel(), generator=chance).argsort(1)[:, :CHOSEN]
        # What is not chosen stands at its mean, as for the method.
        hidden = torch.lerp(world.train[0].mean(0).expand_as(rows), rows, _mask(drawn, rows))
        by_chance = float((model(hidden).argmax(1) == answers).double().mean())
    assert agrees > 0.85
    assert agrees > itself + 0.1
    assert itself > by_chance + 0.15
    first = [int((labels == digit).nonzero()[0]) for digit in range(EACH)]
    return Drawn(
        _telling(rows[first], found.values[first]),
        f"Of 64 pixels the chooser picks {CHOSEN} for each digit. From these alone, the network trained beside it "
        f"gives the model's answer for {100 * agrees:.0f} % of digits kept from training; the model itself, with all "
        f"others at their mean, for {100 * itself:.0f} % ({100 * by_chance:.0f} % where {CHOSEN} pixels are drawn). "
        "So the pixels tell the answer to one who learnt to read them; they are not all that the model goes by.",
        {"agreement": round(agrees, 4), "of the model": round(itself, 4), "of the model, drawn": round(by_chance, 4)},
    )


def _telling(inputs: Tensor, values: Tensor) -> Figure:
    """Digits, and under each the chance of every pixel to be among those chosen; the chosen ones framed."""
    figure = draw.canvas(8.4, 2.25)
    axes = figure.subplots(2, len(inputs))
    by = palette.scale(torch.tensor([0.0, 1.0]), 100, signed=False)
    for column, (image, chances) in enumerate(zip(inputs, values, strict=True)):
        draw.photo(axes[0, column], palette.picture(image))
        plane = chances.double().sum(0)
        draw.photo(axes[1, column], palette.coloured(plane, by))
    draw.bar(figure, list(axes.flatten()), by, "chance to be chosen")
    return figure


ENTRIES = (
    *entry("alone", "Parts shown alone", "streak", alone),
    *entry("telling", "Pixels that tell the answer", "l2x", telling),
)
