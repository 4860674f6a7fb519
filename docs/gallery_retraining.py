"""Figures of models trained anew: without what is called important, and without a black box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import HUES, finish
from matplotlib.figure import Figure
from torch import Tensor, nn

import pellucid as px
from pellucid.show import draw

SHARES, STEPS = (0.1, 0.3, 0.5, 0.7, 0.9), 80
HEADS = {"remove": "removed (ROAR)", "keep": "kept (KAR)"}


def retrained() -> Drawn:
    """Digits without the pixels called most important, or with these alone: what do networks trained on them learn?"""
    world, model = px.zoo.data("digits-cnn"), px.zoo.load("digits-cnn")
    rows, labels = world.test
    data = {"train": world.train, "labels": labels, "recipe": _recipe}
    found = {}
    for way in HEADS:
        method = px.evaluation.RemoveAndRetrain(
            of="integrated-gradients", way=way, features="element", shares=SHARES, repeats=2
        )
        found[way] = px.explain(model, rows, method, data=data, seed=0)
    curve = {way: r.parts["curve"][0] for way, r in found.items()}
    random = {way: r.parts["random"][0] for way, r in found.items()}
    at = 1 + SHARES.index(0.9)
    gain = {way: float(r.values) for way, r in found.items()}
    error = {way: float(r.facts["standard_error"]) for way, r in found.items()}
    assert gain["keep"] > 4 * error["keep"]
    assert gain["remove"] < -4 * error["remove"]
    first = 1 + SHARES.index(0.1)
    traces = _by_traces(model, world)
    assert traces > 0.5
    return Drawn(
        _curves(found),
        f"Networks trained anew on the {100 * SHARES[0]:.0f} % of pixels that integrated gradients call most "
        f"important are right on {100 * float(curve['keep'][first]):.0f} % of digits, on as many drawn ones on "
        f"{100 * float(random['keep'][first]):.0f} %. Yet without the first {100 * SHARES[-1]:.0f} % they are still "
        f"right on {100 * float(curve['remove'][at]):.0f} % (drawn: {100 * float(random['remove'][at]):.0f} %), as "
        f"gaps leave a trace: a network that is told only which pixels are gone is right on {100 * traces:.0f} %. So "
        "removing alone would call these explanations worse than chance.",
        {
            "told by gaps": round(traces, 4),
            "better than random": {w: round(v, 4) for w, v in gain.items()},
            "standard error": {w: round(v, 4) for w, v in error.items()},
        },
    )


def _recipe(rows: Tensor, labels: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """A small network, trained on all rows at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 31))
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    steps = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(STEPS):
        steps.zero_grad()
        nn.functional.cross_entropy(net(rows.float()), labels).backward()
        steps.step()
    net.requires_grad_(False)
    return lambda asked: net(asked.float())


def _by_traces(model: nn.Module, world: Any) -> float:
    """The accuracy of a network that sees which pixels are removed, but no pixel."""
    seen = []
    for rows, _ in (world.train, world.test):
        values = px.explain(model, rows, "integrated-gradients", seed=0).values.flatten(1)
        first = values.argsort(dim=1, descending=True)[:, : round(SHARES[-1] * values.shape[1])]
        seen.append(torch.zeros_like(values).scatter(1, first, 1.0))
    guess = _recipe(seen[0], world.train[1], 0)(seen[1]).argmax(1)
    return float((guess == world.test[1]).double().mean())


def _curves(found: dict[str, Any]) -> Figure:
    figure = draw.canvas(8.0, 3.1)
    for place, (axes, (way, result)) in enumerate(zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True)):
        # Keeping everything is where that curve ends; removing nothing, where this one begins.
        share = [0.0, *SHARES] if way == "remove" else [*SHARES, 1.0]
        for (name, part), (hue, dash), marker in zip(
            (("by integrated gradients", "curve"), ("drawn at random", "random")), HUES, "os", strict=False
        ):
            accuracy = result.parts[part][0].tolist()
            accuracy = accuracy if way == "remove" else [*accuracy[1:], accuracy[0]]
            axes.plot(
                share, accuracy, "--" if marker == "s" else dash, marker=marker, markersize=5, color=hue, label=name
            )
        axes.axhline(0.1, color=draw.FAINT, linewidth=0.8, linestyle=":")
        axes.set_ylim(0, 1.03)
        finish(axes, "y", 0.0, 1.0, "" if place else "accuracy of networks trained anew")
        draw.numbers(axes.xaxis, 0.0, 1.0)
        draw.plain(axes.xaxis.label).set(text=f"share of pixels {HEADS[way]}", fontsize=8, color=draw.FAINT)
        if place:
            draw.note(axes, 0.98, 0.115, "guessing", ha="right", fontsize=7, color=draw.FAINT)
            for text in axes.legend(fontsize=8, frameon=False, loc="center right").get_texts():
                draw.plain(text)
    return figure


ENTRIES = (*entry("retrained", "Trained anew without what is important", "roar", retrained),)
